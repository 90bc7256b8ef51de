//! The ICMP errors that a tunnel answers its inner senders with (RFC 792, RFC 4443): nobody is
//! there, or the packet is too long.
//!
//! An error is never sent about an error, a fragment that is not the first one, or a packet that
//! was for many or from nobody (RFC 1122 §3.2.2, RFC 4443 §2.4 e): else errors would breed errors.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{self, Sum};
use super::ip::Ip;

/// Room for the longest error, in bytes: the least that every IPv6 link carries, of which an error
/// may use all (RFC 4443 §2.4 c).
pub const MAX_ERROR_LEN: usize = 1280;

/// The longest IPv4 error, in bytes: what every host takes (RFC 1812 §4.3.2.3).
const MAX_V4_ERROR_LEN: usize = 576;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes of an ICMP error before the packet that it quotes.
const ICMP_HEADER: usize = 8;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const HOP_LIMIT: u8 = 64;

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is no way to its destination: ICMP host unreachable, ICMPv6 address unreachable, as
    /// the kernel's WireGuard says of a packet without a peer or whose peer has no endpoint.
    Unreachable,
    /// It is longer than may be: fragmentation needed, packet too big.
    TooBig {
        /// The longest packet that may be sent, in bytes.
        mtu: u16,
    },
}

/// Writes the error about `packet` into `buffer`; returns its length. `None` where no error may
/// be sent: about what is no IP packet, is an error itself, is part of one, or whose addresses are
/// not those of one host each.
///
/// The error's source is the packet's destination: the one address that the sender's routes lead
/// to this tunnel, so that it passes reverse-path filters on its way back.
#[must_use]
pub fn error(packet: &[u8], problem: Problem, buffer: &mut [u8; MAX_ERROR_LEN]) -> Option<usize> {
    let ip = Ip::parse(packet).ok()?;
    let packet = packet.get(..ip.total_len())?;
    match (ip, ip.source(), ip.destination()) {
        (Ip::V4(header), IpAddr::V4(from), IpAddr::V4(to)) => {
            let first = header.fragment.get() & 0x1fff == 0;
            let transport = packet.get(usize::from(header.version_ihl & 0xf) * 4..)?;
            let breeds = header.protocol == ICMP && is_v4_error(transport);
            if !first || breeds || !is_v4_host(from) || !is_v4_host(to) {
                return None;
            }
            Some(v4(packet, problem, to, from, buffer))
        }
        (Ip::V6(header), IpAddr::V6(from), IpAddr::V6(to)) => {
            // What is too big for a group is said in spite of that (RFC 4443 §2.4 e.3).
            let group = to.is_multicast() && !matches!(problem, Problem::TooBig { .. });
            let from_one = !from.is_unspecified() && !from.is_multicast() && !from.is_loopback();
            let breeds = is_v6_error(header.next_header, packet.get(V6_HEADER..)?)?;
            if group || breeds || !from_one || to.is_unspecified() {
                return None;
            }
            // A group cannot be a source.
            let source = if to.is_multicast() { from } else { to };
            v6(packet, problem, source, from, buffer)
        }
        _ => None,
    }
}

fn v4(
    packet: &[u8],
    problem: Problem,
    from: Ipv4Addr,
    to: Ipv4Addr,
    buffer: &mut [u8; MAX_ERROR_LEN],
) -> usize {
    let (kind, code, mtu) = match problem {
        Problem::Unreachable => (3, 1, 0),
        Problem::TooBig { mtu } => (3, 4, mtu),
    };
    let quoted = packet.len().min(MAX_V4_ERROR_LEN - V4_HEADER - ICMP_HEADER);
    let quote = packet.get(..quoted).unwrap_or_default();
    let [high, low] = mtu.to_be_bytes();
    let mut icmp = [kind, code, 0, 0, 0, 0, high, low];
    let sum = Sum::new().with(&icmp).with(quote).finish();
    put_checksum(&mut icmp, 2, sum);

    let len = V4_HEADER + ICMP_HEADER + quoted;
    let [len_high, len_low] = (len as u16).to_be_bytes();
    let mut header = [0; V4_HEADER];
    // The precedence of network control, as for all errors (RFC 1812 §4.3.2.5).
    let fixed = [0x45, 0xc0, len_high, len_low, 0, 0, 0, 0, HOP_LIMIT, ICMP];
    fill(
        &mut header,
        &[&fixed, &[0, 0], &from.octets(), &to.octets()],
    );
    let sum = checksum::checksum(&header);
    put_checksum(&mut header, 10, sum);
    fill(buffer, &[&header, &icmp, quote]);
    len
}

fn v6(
    packet: &[u8],
    problem: Problem,
    from: Ipv6Addr,
    to: Ipv6Addr,
    buffer: &mut [u8; MAX_ERROR_LEN],
) -> Option<usize> {
    let (kind, code, mtu) = match problem {
        Problem::Unreachable => (1, 3, 0),
        Problem::TooBig { mtu } => (2, 0, mtu),
    };
    let quoted = packet.len().min(MAX_ERROR_LEN - V6_HEADER - ICMP_HEADER);
    let quote = packet.get(..quoted)?;
    let [high, low] = mtu.to_be_bytes();
    let mut icmp = [kind, code, 0, 0, 0, 0, high, low];
    let payload = ICMP_HEADER + quoted;
    let sum = Sum::pseudo_v6(from, to, ICMPV6, payload as u32);
    let sum = sum.with(&icmp).with(quote).finish();
    put_checksum(&mut icmp, 2, sum);

    let [len_high, len_low] = (payload as u16).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, len_high, len_low, ICMPV6, HOP_LIMIT];
    let (from, to) = (from.octets(), to.octets());
    fill(buffer, &[&fixed, &from, &to, &icmp, quote]);
    Some(V6_HEADER + payload)
}

/// Writes `parts` one after the other, as far as there is room.
fn fill(buffer: &mut [u8], parts: &[&[u8]]) {
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (place, byte) in buffer.iter_mut().zip(bytes) {
        *place = *byte;
    }
}

fn put_checksum(header: &mut [u8], at: usize, sum: u16) {
    if let Some(place) = header.get_mut(at..at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Whether an ICMP message is an error, or too short to tell.
fn is_v4_error(message: &[u8]) -> bool {
    // Unreachable, source quench, redirect, time exceeded, parameter problem.
    !matches!(message.first(), Some(kind) if !matches!(kind, 3 | 4 | 5 | 11 | 12))
}

/// Whether an IPv6 packet is an ICMPv6 error or redirect; `None` where that cannot be seen: its
/// headers are cut, or it is a later fragment.
fn is_v6_error(first: u8, after: &[u8]) -> Option<bool> {
    let (mut next, mut rest) = (first, after);
    // As many extension headers as sensible packets have.
    for _ in 0..8 {
        let length = match next {
            ICMPV6 => {
                // Errors have the high bit clear; a redirect is no error but counts as one.
                return rest.first().map(|&kind| kind < 128 || kind == 137);
            }
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => 8 + usize::from(*rest.get(1)?) * 8,
            44 => {
                let offset = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) >> 3;
                if offset != 0 {
                    return None;
                }
                8
            }
            _ => return Some(false),
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
    None
}

/// Whether an address is that of one host.
fn is_v4_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // 0.0.0.0/8 is nobody, 127.0.0.0/8 never leaves its host, 224.0.0.0/3 is groups and what is
    // reserved, broadcast among it.
    first != 0 && first != 127 && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4_packet(protocol: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0xab; len];
        let fixed = [
            0x45,
            0,
            (len >> 8) as u8,
            len as u8,
            0,
            7,
            0x40,
            0,
            64,
            protocol,
            0,
            0,
        ];
        packet[..12].copy_from_slice(&fixed);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet
    }

    fn v6_packet(next: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0xab; len];
        let payload = (len - 40) as u16;
        packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet[6..8].copy_from_slice(&[next, 64]);
        let (from, to): (Ipv6Addr, Ipv6Addr) =
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        packet[8..24].copy_from_slice(&from.octets());
        packet[24..40].copy_from_slice(&to.octets());
        packet
    }

    fn answer(packet: &[u8], problem: Problem) -> Option<Vec<u8>> {
        let mut buffer = [0x5a; MAX_ERROR_LEN];
        error(packet, problem, &mut buffer).map(|len| buffer[..len].to_vec())
    }

    #[test]
    fn unreachable_quotes_the_packet_and_comes_from_its_destination() {
        let packet = v4_packet(17, 60);
        let reply = answer(&packet, Problem::Unreachable).unwrap();
        assert_eq!(reply.len(), 20 + 8 + 60);
        assert_eq!(checksum::checksum(&reply[..20]), 0);
        assert_eq!(checksum::checksum(&reply[20..]), 0);
        assert_eq!(reply[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!((reply[9], reply[20], reply[21]), (1, 3, 1));
        assert_eq!(reply[28..], packet);
        assert_eq!(Ip::parse(&reply).unwrap().total_len(), reply.len());

        let packet = v6_packet(17, 100);
        let reply = answer(&packet, Problem::Unreachable).unwrap();
        assert_eq!((reply[6], reply[40], reply[41]), (58, 1, 3));
        assert_eq!(reply[8..24], packet[24..40]);
        assert_eq!(reply[24..40], packet[8..24]);
        assert_eq!(reply[48..], packet);
        let ip = Ip::parse(&reply).unwrap();
        let sum = Sum::pseudo(ip.source(), ip.destination(), 58, reply.len() - 40).unwrap();
        assert_eq!(sum.with(&reply[40..]).finish(), 0);
    }

    #[test]
    fn too_big_names_the_mtu_and_is_short_itself() {
        let reply = answer(&v4_packet(6, 9000), Problem::TooBig { mtu: 1420 }).unwrap();
        assert_eq!(reply.len(), 576);
        assert_eq!(reply[20..22], [3, 4]);
        assert_eq!(reply[24..28], [0, 0, 0x05, 0x8c]);
        let reply = answer(&v6_packet(6, 9000), Problem::TooBig { mtu: 1420 }).unwrap();
        assert_eq!(reply.len(), 1280);
        assert_eq!(reply[40..42], [2, 0]);
        assert_eq!(reply[44..48], [0, 0, 0x05, 0x8c]);
    }

    #[test]
    fn errors_are_never_answered_but_pings_are() {
        let mut packet = v4_packet(1, 60);
        for (kind, answered) in [(8, true), (0, true), (3, false), (5, false), (11, false)] {
            packet[20] = kind;
            assert_eq!(
                answer(&packet, Problem::Unreachable).is_some(),
                answered,
                "{kind}"
            );
        }
        let mut packet = v6_packet(58, 100);
        for (kind, answered) in [
            (128, true),
            (129, true),
            (1, false),
            (2, false),
            (137, false),
        ] {
            packet[40] = kind;
            assert_eq!(
                answer(&packet, Problem::Unreachable).is_some(),
                answered,
                "{kind}"
            );
        }
        // Behind destination options, and behind headers that lead out of the packet.
        let mut packet = v6_packet(60, 100);
        packet[40..42].copy_from_slice(&[58, 0]);
        packet[48] = 1;
        assert!(answer(&packet, Problem::Unreachable).is_none());
        packet[48] = 128;
        assert!(answer(&packet, Problem::Unreachable).is_some());
        packet[41] = 200;
        assert!(answer(&packet, Problem::Unreachable).is_none());
        assert!(answer(&v4_packet(1, 20), Problem::Unreachable).is_none());
    }

    #[test]
    fn neither_groups_nor_nobody_nor_later_fragments_are_answered() {
        let silent = |change: fn(&mut Vec<u8>), mut packet: Vec<u8>| {
            assert!(answer(&packet, Problem::Unreachable).is_some());
            change(&mut packet);
            assert_eq!(answer(&packet, Problem::Unreachable), None);
        };
        silent(|p| p[16] = 224, v4_packet(17, 60));
        silent(|p| p[16..20].fill(255), v4_packet(17, 60));
        silent(|p| p[12..16].fill(0), v4_packet(17, 60));
        silent(|p| p[12] = 127, v4_packet(17, 60));
        silent(|p| p[7] = 1, v4_packet(17, 60));
        silent(|p| p[24] = 0xff, v6_packet(17, 60));
        silent(|p| p[8..24].fill(0), v6_packet(17, 60));
        silent(|p| p[8] = 0xff, v6_packet(17, 60));
        let fragment = |offset: u8| {
            let mut packet = v6_packet(44, 60);
            packet[40..44].copy_from_slice(&[17, 0, 0, offset]);
            packet
        };
        assert!(
            answer(&fragment(1), Problem::Unreachable).is_some(),
            "more to come"
        );
        assert!(answer(&fragment(8), Problem::Unreachable).is_none());
        let mut group = v6_packet(17, 1500);
        group[24] = 0xff;
        assert!(answer(&group, Problem::TooBig { mtu: 1280 }).is_some());
    }

    proptest! {
        /// Whatever is answered is answered by a whole packet, which is never answered in turn.
        #[test]
        fn an_answer_ends_it(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6: bool, len: bool, big: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if len && bytes.len() >= 40 {
                let (at, value) = if v6 { (4, bytes.len() - 40) } else { (2, bytes.len()) };
                bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
            }
            let problem = if big { Problem::TooBig { mtu: 1280 } } else { Problem::Unreachable };
            if let Some(reply) = answer(&bytes, problem) {
                let parsed = Ip::parse(&reply).unwrap();
                prop_assert_eq!(parsed.total_len(), reply.len());
                prop_assert_eq!(parsed.destination(), Ip::parse(&bytes).unwrap().source());
                prop_assert_eq!(answer(&reply, problem), None);
            }
        }
    }
}
