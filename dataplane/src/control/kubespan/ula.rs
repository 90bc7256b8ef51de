//! Addresses of a cluster's own: the unique local /64 of a cluster id, and a node's address in it.

use core::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::ClusterId;
use crate::crypto::hash::sha256;

/// What a unique local prefix of Talos is for: its eighth byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Purpose {
    /// None that is known.
    Unknown = 0,
    /// Bootstrapping.
    Bootstrap = 1,
    /// KubeSpan.
    KubeSpan = 2,
    /// SideroLink.
    SideroLink = 3,
    /// SideroLink of a virtual machine.
    VirtualSideroLink = 4,
}

/// Why there is no modified EUI-64 address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Eui64Error {
    /// The prefix reaches into the interface identifier.
    #[error("{0} has bits set below /64: give the first address of a /64")]
    Prefix(Ipv6Addr),
    /// No hardware address.
    #[error("a hardware address has 6 or 8 bytes, this one {0}: choose an Ethernet interface")]
    Hardware(usize),
}

/// The /64 of the cluster with this id (RFC 4193 with the hash of the id in place of the random
/// global id). The id is hashed as the text that it is; its base64 is never decoded.
#[must_use]
pub fn prefix(cluster: &ClusterId, purpose: Purpose) -> Ipv6Net {
    let hash = sha256(cluster.as_str().as_bytes());
    let mut bytes = [0; 16];
    // The second half of the hash, of which the first eight bytes stay.
    for (byte, hash) in bytes.iter_mut().zip(hash.iter().skip(16)).take(8) {
        *byte = *hash;
    }
    bytes[0] = 0xfd;
    bytes[7] = purpose as u8;
    Ipv6Net::new_assert(bytes.into(), 64)
}

/// Whether `address` looks like one of [`prefix`]: the hash part is not looked at.
#[must_use]
pub fn is_ula(address: IpAddr, purpose: Purpose) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => {
            let bytes = address.octets();
            bytes[0] == 0xfd && bytes[7] == purpose as u8
        }
    }
}

/// The address in `prefix` with the modified EUI-64 interface identifier of a hardware address
/// (RFC 4291, appendix A).
///
/// # Errors
/// [`Eui64Error`] names the refused input.
pub fn eui64(prefix: Ipv6Addr, hardware: &[u8]) -> Result<Ipv6Addr, Eui64Error> {
    let high = prefix.to_bits();
    if high & u128::from(u64::MAX) != 0 {
        return Err(Eui64Error::Prefix(prefix));
    }
    let identifier = match *hardware {
        [a, b, c, d, e, f] => [a, b, c, 0xff, 0xfe, d, e, f],
        [a, b, c, d, e, f, g, h] => [a, b, c, d, e, f, g, h],
        _ => return Err(Eui64Error::Hardware(hardware.len())),
    };
    // The universal/local bit is turned over, not set.
    let identifier = u64::from_be_bytes(identifier) ^ (0x02 << 56);
    Ok((high | u128::from(identifier)).into())
}
