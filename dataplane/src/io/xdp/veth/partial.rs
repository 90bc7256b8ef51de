//! Checksums that are not there yet.
//!
//! A kernel that sends over a veth leaves the checksums of TCP and UDP to a card that is never
//! reached: the field holds the pseudo header's sum. XDP does not tell which frames are like
//! that. So whatever has that sum in its field gets the checksum computed; a packet whose right
//! checksum happens to be that number gets the same one again.

use crate::io::tun::transport::{Layout, Protocol};
use crate::wire::Ip;

/// IPv4: more fragments, or not the first.
const FRAGMENT: u16 = 0x3fff;

/// IPv6 extension headers that end users' packets bear before TCP or UDP: hop-by-hop options,
/// destination options (RFC 8200 §4). A packet with a routing header has another pseudo header,
/// and a fragment has its checksum already.
const OPTIONS: [u8; 2] = [0, 60];

/// Extension headers that are looked behind.
const MOST_OPTIONS: usize = 4;

/// Completes the checksum of `packet`, which is exactly as long as its IP header says, if only a
/// part of it is there; whether it was.
pub(super) fn complete(packet: &mut [u8]) -> bool {
    let Some(layout) = transport(packet) else {
        return false;
    };
    layout.has_partial_checksum(packet) && layout.set_checksum(packet).is_some()
}

fn transport(packet: &[u8]) -> Option<Layout> {
    let (protocol, at) = match Ip::parse(packet).ok()? {
        Ip::V4(header) => {
            if header.fragment.get() & FRAGMENT != 0 {
                return None;
            }
            (header.protocol, usize::from(header.version_ihl & 0xf) * 4)
        }
        Ip::V6(header) => {
            let (mut next, mut at) = (header.next_header, size_of_val(header));
            for _ in 0..MOST_OPTIONS {
                if !OPTIONS.contains(&next) {
                    break;
                }
                let [following, length] = *packet.get(at..)?.first_chunk()?;
                next = following;
                at += (usize::from(length) + 1) * 8;
            }
            (next, at)
        }
    };
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Layout::at(packet, protocol, at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::io::tun::transport::samples::Sample;

    /// `packet` as a kernel leaves it that has a card compute checksums.
    fn left_to_a_card(packet: &[u8]) -> Vec<u8> {
        let mut partial = packet.to_vec();
        let layout = transport(packet).unwrap();
        layout
            .set_partial_checksum(&mut partial, packet.len())
            .unwrap();
        partial
    }

    proptest! {
        #[test]
        fn what_is_missing_is_completed_and_nothing_else(
            v6: bool,
            tcp: bool,
            payload in prop::collection::vec(any::<u8>(), 0..1400),
        ) {
            let sample = if tcp { Sample::tcp(v6) } else { Sample::udp(v6) };
            let right = sample.build(&payload);
            let mut packet = left_to_a_card(&right);
            prop_assert!(complete(&mut packet));
            prop_assert_eq!(&packet, &right);
            // Once complete it stays as it is.
            complete(&mut packet);
            prop_assert_eq!(&packet, &right);
        }

        #[test]
        fn damage_is_not_mended(v6: bool, tcp: bool, at in 0usize..100) {
            let sample = if tcp { Sample::tcp(v6) } else { Sample::udp(v6) };
            let mut packet = sample.build(&[7; 100]);
            let last = packet.len() - 1;
            packet[last - at] ^= 0x55;
            let damaged = packet.clone();
            complete(&mut packet);
            prop_assert_eq!(packet, damaged);
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..200), first: u8) {
            if let Some(place) = bytes.first_mut() {
                *place = if first & 1 == 0 { 0x45 } else { 0x60 };
            }
            complete(&mut bytes);
        }
    }

    #[test]
    fn options_are_looked_behind() {
        let plain = Sample::udp(true).build(b"payload");
        let mut packet = plain.clone();
        // Destination options of 8 bytes, padding only.
        packet[5] += 8;
        packet[6] = 60;
        packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
        let right = packet.clone();
        let partial = left_to_a_card(&plain);
        packet[48 + 6..48 + 8].copy_from_slice(&partial[46..48]);
        assert!(complete(&mut packet));
        assert_eq!(packet, right);
    }

    #[test]
    fn fragments_are_left_alone() {
        let mut packet = left_to_a_card(&Sample::udp(false).build(b"payload"));
        packet[6] = 0x20;
        assert!(!complete(&mut packet));
    }
}
