//! Which frames of an inner interface carry a packet for the tunnel.
//!
//! The interface has a kernel end too, which must go on answering ARP and neighbour discovery and
//! having addresses of its own. So only unicast IP packets to other than link-local addresses,
//! in frames to the interface's own hardware address, are taken; whether the address is the
//! machine's own, the caller must look up.

use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame};
use crate::maps::ipv4_key;
use crate::verdict::Verdict;

/// Bytes of an Ethernet header without VLAN tags.
pub const ETHERNET_HEADER: usize = 14;

const ICMPV6: u8 = 58;
/// Router and neighbour solicitations and advertisements, and redirects (RFC 4861 §4).
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// The destination address of the packet in `frame`, as a key of the map of local addresses, when
/// the frame is to the interface with hardware address `mac`.
///
/// # Errors
/// Why the frame is the kernel's.
#[inline(always)]
pub fn destination<F: Frame + ?Sized>(frame: &F, mac: [u8; 6]) -> Result<[u8; 16], Verdict> {
    let to: [u8; 6] = read(frame, 0)?;
    if to != mac {
        return Err(Verdict::OtherAddress);
    }
    match u16::from_be_bytes(read(frame, 12)?) {
        ETHERTYPE_IPV4 => ipv4(frame),
        ETHERTYPE_IPV6 => ipv6(frame),
        _ => Err(Verdict::OtherProtocol),
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F) -> Result<[u8; 16], Verdict> {
    let [version_ihl] = read(frame, ETHERNET_HEADER)?;
    let address: [u8; 4] = read(frame, ETHERNET_HEADER + 16)?;
    if version_ihl >> 4 != 4 {
        return Err(Verdict::Malformed);
    }
    // Multicast, reserved and broadcast; link-local; this network.
    let [first, second, _, _] = address;
    if first >= 224 || first == 0 || (first == 169 && second == 254) {
        return Err(Verdict::OtherAddress);
    }
    Ok(ipv4_key(address))
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F) -> Result<[u8; 16], Verdict> {
    let [version_class] = read(frame, ETHERNET_HEADER)?;
    let [next_header] = read(frame, ETHERNET_HEADER + 6)?;
    let address: [u8; 16] = read(frame, ETHERNET_HEADER + 24)?;
    if version_class >> 4 != 6 {
        return Err(Verdict::Malformed);
    }
    let [first, second, ..] = address;
    if first == 0xff || (first == 0xfe && second & 0xc0 == 0x80) {
        return Err(Verdict::OtherAddress);
    }
    if next_header == ICMPV6 {
        let [kind] = read(frame, ETHERNET_HEADER + 40)?;
        if NEIGHBOUR_DISCOVERY.contains(&kind) {
            return Err(Verdict::OtherProtocol);
        }
    }
    Ok(address)
}

#[inline(always)]
fn read<const N: usize, F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<[u8; N], Verdict> {
    frame.read(offset).ok_or(Verdict::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn frame(to: [u8; 6], ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.extend([2, 0, 0, 0, 0, 8]);
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn v4(to: [u8; 4]) -> [u8; 20] {
        let mut packet = [0; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&to);
        packet
    }

    fn v6(to: &str, next_header: u8, kind: u8) -> [u8; 41] {
        let mut packet = [0; 41];
        packet[0] = 0x60;
        packet[6] = next_header;
        packet[24..40].copy_from_slice(&to.parse::<core::net::Ipv6Addr>().unwrap().octets());
        packet[40] = kind;
        packet
    }

    fn of(frame: &[u8]) -> Result<[u8; 16], Verdict> {
        destination(frame, MAC)
    }

    #[test]
    fn unicast_packets_to_us_are_the_tunnels() {
        let key = of(&frame(MAC, ETHERTYPE_IPV4, &v4([10, 0, 0, 7])));
        assert_eq!(key, Ok(ipv4_key([10, 0, 0, 7])));
        for (next_header, kind) in [(6, 133), (17, 0), (58, 128), (58, 129), (58, 1), (44, 0)] {
            let packet = v6("fd00::7", next_header, kind);
            let key = of(&frame(MAC, ETHERTYPE_IPV6, &packet));
            assert_eq!(
                key.map(core::net::Ipv6Addr::from),
                Ok("fd00::7".parse().unwrap())
            );
        }
    }

    #[test]
    fn what_links_live_on_is_the_kernels() {
        let other = [2, 0, 0, 0, 0, 7];
        for to in [other, [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let packet = v4([10, 0, 0, 7]);
            assert_eq!(
                of(&frame(to, ETHERTYPE_IPV4, &packet)),
                Err(Verdict::OtherAddress)
            );
        }
        for to in [[224, 0, 0, 1], [255; 4], [169, 254, 1, 1], [0; 4]] {
            let frame = frame(MAC, ETHERTYPE_IPV4, &v4(to));
            assert_eq!(of(&frame), Err(Verdict::OtherAddress));
        }
        for to in ["ff02::1", "fe80::1", "febf::1"] {
            let frame = frame(MAC, ETHERTYPE_IPV6, &v6(to, 17, 0));
            assert_eq!(of(&frame), Err(Verdict::OtherAddress));
        }
        for kind in NEIGHBOUR_DISCOVERY {
            let frame = frame(MAC, ETHERTYPE_IPV6, &v6("fd00::7", ICMPV6, kind));
            assert_eq!(of(&frame), Err(Verdict::OtherProtocol));
        }
        for ether_type in [0x0806, 0x8100, 0x88cc] {
            let frame = frame(MAC, ether_type, &v4([10, 0, 0, 7]));
            assert_eq!(of(&frame), Err(Verdict::OtherProtocol));
        }
    }

    #[test]
    fn frames_cut_short_are_malformed() {
        for whole in [
            frame(MAC, ETHERTYPE_IPV4, &v4([10, 0, 0, 7])),
            frame(MAC, ETHERTYPE_IPV6, &v6("fd00::7", ICMPV6, 128)),
        ] {
            for length in 0..whole.len() {
                assert_eq!(of(&whole[..length]), Err(Verdict::Malformed), "{length}");
            }
            let mut wrong = whole.clone();
            wrong[14] ^= 0x10;
            assert_eq!(of(&wrong), Err(Verdict::Malformed));
        }
    }
}
