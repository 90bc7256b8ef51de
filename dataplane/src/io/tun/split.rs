//! Cutting what was read into packets (TSO, USO), and completing checksums.

use super::transport::{Layout, Protocol, be16, be32, put};
use super::vnet::VnetHeader;
use crate::wire::checksum::checksum;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packets in one read, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    work: Work,
    /// The length of what was read.
    len: usize,
    /// How much payload has been given out.
    taken: usize,
    /// How many packets.
    count: usize,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    /// One packet; its checksum's start and field, if it is to be completed.
    Whole { checksum: Option<(usize, usize)> },
    /// Segments with so much payload each.
    Segments { layout: Layout, size: usize },
}

impl Split {
    /// For `packet`, read behind `header`; `None` when they contradict one another.
    pub(super) fn new(packet: &[u8], header: &VnetHeader) -> Option<Self> {
        let checksum = header
            .checksum
            .map(|(start, offset)| (usize::from(start), usize::from(offset)));
        let work = match header.segments {
            None => Work::Whole { checksum },
            Some(segments) => {
                let (transport, _) = checksum?;
                let layout = Layout::at(packet, segments.protocol, transport)?;
                if segments.v6.is_some_and(|v6| v6 != layout.v6) || layout.payload == packet.len() {
                    return None;
                }
                Work::Segments {
                    layout,
                    size: usize::from(segments.size),
                }
            }
        };
        Some(Self {
            work,
            len: packet.len(),
            taken: 0,
            count: 0,
        })
    }

    /// The next packet's length; `None` when there are no more.
    pub(super) fn next_len(&self) -> Option<usize> {
        match self.work {
            Work::Whole { .. } => (self.count == 0 && self.len > 0).then_some(self.len),
            Work::Segments { layout, size } => {
                let rest = self.len - layout.payload - self.taken;
                (rest > 0).then(|| layout.payload + rest.min(size))
            }
        }
    }

    /// Writes the next packet into `out`, which is as long as [`next_len`](Self::next_len) says.
    /// `None` when its headers cannot be made; it is to be left out then.
    pub(super) fn write_next(&mut self, packet: &[u8], out: &mut [u8]) -> Option<()> {
        let index = self.count;
        self.count += 1;
        match self.work {
            Work::Whole { checksum } => {
                out.copy_from_slice(packet.get(..out.len())?);
                checksum.map_or(Some(()), |(start, offset)| complete(out, start, offset))
            }
            Work::Segments { layout, .. } => {
                let taken = self.taken;
                let (headers, payload) = out.split_at_mut_checked(layout.payload)?;
                self.taken += payload.len();
                let last = layout.payload + self.taken == self.len;
                let start = layout.payload + taken;
                payload.copy_from_slice(packet.get(start..start + payload.len())?);
                headers.copy_from_slice(packet.get(..layout.payload)?);
                if !layout.v6 {
                    let id = be16(headers, 4)?.wrapping_add(index as u16);
                    put(headers, 4, &id.to_be_bytes())?;
                }
                if layout.protocol == Protocol::Tcp {
                    advance(headers, layout.transport, taken, index == 0, last)?;
                }
                let len = headers.len() + payload.len();
                layout.set_lengths(headers, len)?;
                layout.set_checksum(out)
            }
        }
    }
}

/// Makes a copy of the first TCP header that of the segment whose payload begins at `taken`.
fn advance(headers: &mut [u8], tcp: usize, taken: usize, first: bool, last: bool) -> Option<()> {
    let seq = be32(headers, tcp + 4)?.wrapping_add(taken as u32);
    put(headers, tcp + 4, &seq.to_be_bytes())?;
    let flags = headers.get_mut(tcp + 13)?;
    if !last {
        *flags &= !(FIN | PSH);
    }
    if !first {
        *flags &= !CWR;
    }
    Some(())
}

/// Adds the rest to a checksum field that holds the pseudo header's sum.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let sum = checksum(packet.get(start..)?);
    // UDP's zero means "none"; TCP takes either form of zero.
    let sum = if sum == 0 { 0xffff } else { sum };
    put(packet, start.checked_add(offset)?, &sum.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::transport::samples::{ACK, FIN, PSH, Sample};
    use super::*;
    use proptest::prelude::*;

    pub(super) fn split(packet: &[u8], header: &VnetHeader) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut split = Split::new(packet, header).unwrap();
        while let Some(len) = split.next_len() {
            let mut out = vec![0; len];
            split.write_next(packet, &mut out).unwrap();
            packets.push(out);
        }
        packets
    }

    fn super_header(packet: &[u8], size: u16) -> VnetHeader {
        VnetHeader::super_packet(&Layout::plain(packet).unwrap(), size).unwrap()
    }

    #[test]
    fn tcp_segments_are_what_the_sender_would_have_sent() {
        for v6 in [false, true] {
            let sample = Sample {
                flags: ACK | PSH | FIN | CWR,
                ..Sample::tcp(v6)
            };
            let payload: Vec<u8> = (0..=255).cycle().take(3000).collect();
            let packet = sample.build(&payload);
            let parts = split(&packet, &super_header(&packet, 1348));
            assert_eq!(parts.len(), 3);
            let mut taken = 0;
            for (index, (part, chunk)) in parts.iter().zip(payload.chunks(1348)).enumerate() {
                let flags = [ACK | CWR, ACK, ACK | PSH | FIN][index];
                let expected = Sample {
                    flags,
                    id: sample.id + index as u16,
                    seq: sample.seq.wrapping_add(taken),
                    ..sample
                };
                assert_eq!(*part, expected.build(chunk));
                taken += chunk.len() as u32;
            }
        }
    }

    #[test]
    fn udp_segments_have_lengths_and_checksums_of_their_own() {
        for v6 in [false, true] {
            let sample = Sample::udp(v6);
            let packet = sample.build(&[9; 250]);
            let parts = split(&packet, &super_header(&packet, 100));
            let expected: Vec<_> = [(0, 100), (1, 100), (2, 50)]
                .map(|(index, len)| {
                    let id = sample.id + index;
                    Sample { id, ..sample }.build(&vec![9; len])
                })
                .into();
            assert_eq!(parts, expected);
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for sample in [Sample::tcp(false), Sample::udp(true)] {
            let packet = sample.build(b"payload!!");
            let layout = Layout::plain(&packet).unwrap();
            let mut partial = packet.clone();
            layout
                .set_partial_checksum(&mut partial, packet.len())
                .unwrap();
            assert!(!layout.verifies(&partial));
            let header = VnetHeader {
                segments: None,
                ..super_header(&packet, 1)
            };
            assert_eq!(split(&partial, &header), [packet]);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let packet = Sample::tcp(false).build(&[1; 100]);
        let good = super_header(&packet, 50);
        assert!(Split::new(&packet, &good).is_some());
        let other_family = super_header(&Sample::tcp(true).build(&[1; 100]), 50);
        assert!(Split::new(&packet, &other_family).is_none());
        assert!(Split::new(&packet[..30], &good).is_none(), "cut headers");
        let empty = Sample::tcp(false).build(&[]);
        assert!(Split::new(&empty, &good).is_none(), "no payload");
        let unsummed = VnetHeader {
            checksum: None,
            ..good
        };
        assert!(Split::new(&packet, &unsummed).is_none());
    }

    proptest! {
        /// Whatever is read: no panic, an end, and no more bytes than can be.
        #[test]
        fn any_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            header in any::<[u8; 10]>(),
            first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        ) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Some(mut split) = VnetHeader::decode(header).and_then(|header| Split::new(&bytes, &header)) {
                let mut packets = 0;
                while let Some(len) = split.next_len() {
                    prop_assert!(len <= bytes.len());
                    let _ = split.write_next(&bytes, &mut vec![0; len]);
                    packets += 1;
                }
                prop_assert!(packets <= bytes.len());
            }
        }
    }
}
