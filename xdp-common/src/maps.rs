//! The maps that the XDP program reads and its loader writes: names, sizes, layouts.
//!
//! | map | kind | key | value |
//! | --- | --- | --- | --- |
//! | [`PORTS`] | array | [`port_word`] | `u64`, one bit a port: [`port_bit`] |
//! | [`ADDRESSES`] | hash | [`address_key`] | `u8`, unused |
//! | [`SETTINGS`] | array | [`SETTING_ANY_ADDRESS`], [`SETTING_MULTI_BUFFER`], [`SETTING_MAC`] | `u32` |
//! | [`SOCKETS`] | XSKMAP | receive queue | AF_XDP socket |
//! | [`COUNTERS`] | per-CPU array | [`Verdict::index`](crate::Verdict::index) | `u64` |

use core::net::IpAddr;

/// The program's name: of the function in the object, and, cut to 15 bytes, in the kernel.
pub const PROGRAM: &str = "ringspan_steer";

/// The program of an inner interface, likewise. It reads the same maps, of a copy of its own.
pub const INNER_PROGRAM: &str = "ringspan_inner";

/// The UDP destination ports that are ours: a set of 65536 bits in an array map, which the JIT
/// reads without a helper call.
pub const PORTS: &str = "RS_PORTS";

/// The destination addresses that are ours, unless [`SETTING_ANY_ADDRESS`] is set.
pub const ADDRESSES: &str = "RS_ADDRESSES";

/// Switches; zero until the loader sets them.
pub const SETTINGS: &str = "RS_SETTINGS";

/// The AF_XDP sockets, one a receive queue.
pub const SOCKETS: &str = "RS_SOCKETS";

/// Frames by verdict, one counter a CPU.
pub const COUNTERS: &str = "RS_COUNTERS";

/// Number of words in [`PORTS`].
pub const PORT_WORDS: u32 = 65536 / u64::BITS;

/// The most local addresses the program can tell apart from others.
pub const MAX_ADDRESSES: u32 = 4096;

/// The most receive queues of one interface.
pub const MAX_QUEUES: u32 = 1024;

/// Key in [`SETTINGS`]: 1 if a datagram to any address is ours, 0 if [`ADDRESSES`] decides.
pub const SETTING_ANY_ADDRESS: u32 = 0;

/// Key in [`SETTINGS`]: 1 if the sockets take frames of several buffers, 0 if the kernel has them.
pub const SETTING_MULTI_BUFFER: u32 = 1;

/// Keys in [`SETTINGS`]: the hardware address of an inner interface, its first two bytes and its
/// last four, big-endian.
pub const SETTING_MAC: [u32; 2] = [2, 3];

/// Number of entries in [`SETTINGS`].
pub const SETTING_COUNT: u32 = 4;

/// A hardware address as the values of [`SETTING_MAC`].
#[must_use]
#[inline(always)]
pub const fn mac_settings([a, b, c, d, e, f]: [u8; 6]) -> [u32; 2] {
    [
        u32::from_be_bytes([0, 0, a, b]),
        u32::from_be_bytes([c, d, e, f]),
    ]
}

/// The hardware address that [`mac_settings`] made the values of.
#[must_use]
#[inline(always)]
pub const fn settings_mac([high, low]: [u32; 2]) -> [u8; 6] {
    let [_, _, a, b] = high.to_be_bytes();
    let [c, d, e, f] = low.to_be_bytes();
    [a, b, c, d, e, f]
}

/// The index in [`PORTS`] of the word that holds `port`'s bit.
#[must_use]
#[inline(always)]
pub const fn port_word(port: u16) -> u32 {
    port as u32 / u64::BITS
}

/// The bit of `port` in its word.
#[must_use]
#[inline(always)]
pub const fn port_bit(port: u16) -> u64 {
    1 << (port as u32 % u64::BITS)
}

/// An IPv4 address as a key of [`ADDRESSES`]: the IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
#[must_use]
#[inline(always)]
pub const fn ipv4_key([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// `address` as a key of [`ADDRESSES`].
#[must_use]
pub const fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => ipv4_key(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut words = std::vec![0u64; PORT_WORDS as usize];
        for port in 0..=u16::MAX {
            let word = &mut words[port_word(port) as usize];
            assert_eq!(*word & port_bit(port), 0, "port {port} shares its bit");
            *word |= port_bit(port);
        }
        assert!(words.iter().all(|&word| word == u64::MAX));
    }

    #[test]
    fn a_hardware_address_survives_the_settings() {
        let mac = [2, 0xff, 3, 0x80, 5, 6];
        assert_eq!(settings_mac(mac_settings(mac)), mac);
    }

    #[test]
    fn ipv4_keys_are_the_mapped_addresses() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(address_key(v4), address_key(mapped));
    }
}
