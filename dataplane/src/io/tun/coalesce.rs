//! Putting packets of one flow together again, so that one write carries up to 64 KiB.
//!
//! What is put together is exactly what the kernel would cut apart into the same packets: anything
//! that would not come out as it went in stays single.

use std::io::IoSlice;

use arrayvec::ArrayVec;

use super::transport::{Layout, Protocol, be16, be32, put};
use super::vnet::VnetHeader;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// The most packets put together: what the kernel allows for UDP (`UDP_MAX_SEGMENTS`, before it
/// became 128).
pub(super) const MAX_SEGMENTS: usize = 64;

/// The longest IP packet.
const MAX_PACKET: usize = 65_535;

/// IPv6 header and the longest TCP header.
const MAX_HEADERS: usize = 40 + 60;

/// Vectors for one write: vnet header, packet headers, payloads.
pub(super) type Vectors<'a> = ArrayVec<IoSlice<'a>, { MAX_SEGMENTS + 2 }>;

/// Which protocols may be put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kinds {
    pub(super) tcp: bool,
    pub(super) udp: bool,
}

impl Kinds {
    pub(super) const ALL: Self = Self {
        tcp: true,
        udp: true,
    };
    pub(super) const TCP: Self = Self {
        tcp: true,
        udp: false,
    };
    pub(super) const NONE: Self = Self {
        tcp: false,
        udp: false,
    };

    /// In words, for statuses.
    pub(super) const fn mode(self) -> &'static str {
        match (self.tcp, self.udp) {
            (true, true) => "tso, uso",
            (true, false) => "tso",
            (false, true) => "uso",
            (false, false) => "single packets",
        }
    }
}

/// Consecutive packets that go as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'p> {
    pub(super) packets: &'p [&'p [u8]],
    /// `Some` when there are several.
    layout: Option<Layout>,
}

/// Divides a batch into runs, in order.
#[derive(Debug)]
pub(super) struct Runs<'p> {
    rest: &'p [&'p [u8]],
    kinds: Kinds,
    /// What is known of the first of `rest`, when it ended the run before.
    peeked: Option<Option<Layout>>,
}

impl<'p> Runs<'p> {
    pub(super) const fn new(packets: &'p [&'p [u8]], kinds: Kinds) -> Self {
        Self {
            rest: packets,
            kinds,
            peeked: None,
        }
    }
}

impl<'p> Iterator for Runs<'p> {
    type Item = Run<'p>;

    fn next(&mut self) -> Option<Run<'p>> {
        let (first, followers) = self.rest.split_first()?;
        let layout = self
            .peeked
            .take()
            .unwrap_or_else(|| candidate(first, self.kinds));
        let mut count = 1;
        if let Some(layout) = layout {
            let mut growing = Growing::new(first, layout);
            for next in followers {
                if growing.closed {
                    break;
                }
                let next_layout = candidate(next, self.kinds);
                if next_layout != Some(layout) || growing.take(next).is_none() {
                    self.peeked = Some(next_layout);
                    break;
                }
                count += 1;
            }
        }
        let (packets, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(Run {
            packets,
            layout: layout.filter(|_| count > 1),
        })
    }
}

/// The layout of a packet that may be put together with others.
fn candidate(packet: &[u8], kinds: Kinds) -> Option<Layout> {
    let layout = Layout::plain(packet)?;
    let allowed = match layout.protocol {
        Protocol::Udp => kinds.udp,
        // Anything but plain data (SYN, FIN, RST, URG, ECE, CWR) is for the receiver to see alone.
        Protocol::Tcp => {
            let flags = *packet.get(layout.transport + 13)?;
            kinds.tcp && flags & !PSH == ACK
        }
    };
    // The kernel takes our word for the checksum of what is put together: so it must be true.
    (allowed && layout.payload < packet.len() && layout.verifies(packet)).then_some(layout)
}

/// A run while it grows.
struct Growing<'p> {
    first: &'p [u8],
    layout: Layout,
    size: usize,
    len: usize,
    count: usize,
    /// A short segment or a push ends a run.
    closed: bool,
}

impl<'p> Growing<'p> {
    fn new(first: &'p [u8], layout: Layout) -> Self {
        Self {
            first,
            layout,
            size: first.len() - layout.payload,
            len: first.len(),
            count: 1,
            closed: pushes(first, &layout),
        }
    }

    /// Takes `next` in, which has the same layout; `None` when it does not follow.
    fn take(&mut self, next: &[u8]) -> Option<()> {
        let payload = next.len() - self.layout.payload;
        let follows = payload <= self.size
            && self.count < MAX_SEGMENTS
            && self.len + payload <= MAX_PACKET
            && self.same_headers(next)?;
        if !follows {
            return None;
        }
        self.len += payload;
        self.count += 1;
        self.closed = payload < self.size || pushes(next, &self.layout);
        Some(())
    }

    /// Whether `next`'s headers differ from the first's only as those of the next segment do.
    fn same_headers(&self, next: &[u8]) -> Option<bool> {
        let first = self.first;
        let same = |from: usize, to: usize| first.get(from..to) == next.get(from..to);
        let tp = self.layout.transport;
        let ip = if self.layout.v6 {
            same(0, 4) && same(6, 40)
        } else {
            let id = be16(first, 4)?.wrapping_add(self.count as u16);
            same(0, 2) && same(6, 10) && same(12, 20) && be16(next, 4)? == id
        };
        let transport = match self.layout.protocol {
            Protocol::Udp => same(tp, tp + 4),
            Protocol::Tcp => {
                let taken = (self.count * self.size) as u32;
                // Ports, acknowledgement and header length; window, urgent pointer and options.
                same(tp, tp + 4)
                    && same(tp + 8, tp + 13)
                    && same(tp + 14, tp + 16)
                    && same(tp + 18, self.layout.payload)
                    && be32(next, tp + 4)? == be32(first, tp + 4)?.wrapping_add(taken)
            }
        };
        Some(ip && transport)
    }
}

/// Whether a TCP segment has PSH set.
fn pushes(packet: &[u8], layout: &Layout) -> bool {
    layout.protocol == Protocol::Tcp
        && packet
            .get(layout.transport + 13)
            .is_some_and(|flags| flags & PSH != 0)
}

/// The headers of a run's super-packet.
#[derive(Debug)]
pub(super) struct SuperHeader {
    pub(super) vnet: VnetHeader,
    headers: ArrayVec<u8, MAX_HEADERS>,
    layout: Layout,
}

impl SuperHeader {
    /// For a run of several packets; `None` for a single one.
    pub(super) fn new(run: &Run<'_>) -> Option<Self> {
        let layout = run.layout?;
        let (first, last) = (run.packets.first()?, run.packets.last()?);
        let payload = |packet: &&[u8]| packet.len() - layout.payload;
        let len = layout.payload + run.packets.iter().map(payload).sum::<usize>();
        let mut headers = ArrayVec::new();
        headers
            .try_extend_from_slice(first.get(..layout.payload)?)
            .ok()?;
        if pushes(last, &layout) {
            let at = layout.transport + 13;
            let flags = *headers.get(at)? | PSH;
            put(&mut headers, at, &[flags])?;
        }
        layout.set_lengths(&mut headers, len)?;
        layout.set_partial_checksum(&mut headers, len)?;
        let size = u16::try_from(payload(first)).ok()?;
        Some(Self {
            vnet: VnetHeader::super_packet(&layout, size)?,
            headers,
            layout,
        })
    }

    /// Which protocol it is.
    pub(super) const fn protocol(&self) -> Protocol {
        self.layout.protocol
    }

    /// All of the super-packet, behind `vnet`: headers and payloads, uncopied.
    pub(super) fn vectors<'a>(&'a self, vnet: &'a [u8], run: &Run<'a>) -> Vectors<'a> {
        let payloads = run
            .packets
            .iter()
            .filter_map(|packet| packet.get(self.layout.payload..));
        [vnet, &self.headers]
            .into_iter()
            .chain(payloads)
            .map(IoSlice::new)
            .take(MAX_SEGMENTS + 2)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::split::Split;
    use super::super::transport::samples::{FIN, Sample};
    use super::*;
    use proptest::prelude::*;

    const ALL: Kinds = Kinds::ALL;

    fn counts(packets: &[Vec<u8>], kinds: Kinds) -> Vec<usize> {
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        Runs::new(&packets, kinds)
            .map(|run| run.packets.len())
            .collect()
    }

    /// `count` packets of one flow, as a sender with segmentation makes them.
    fn flow(sample: Sample, count: usize, size: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|index| {
                Sample {
                    id: sample.id.wrapping_add(index as u16),
                    seq: sample.seq.wrapping_add((index * size) as u32),
                    ..sample
                }
                .build(&vec![index as u8; size])
            })
            .collect()
    }

    /// Coalesces, then splits as the kernel would.
    fn there_and_back(packets: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let mut back = Vec::new();
        let mut writes = 0;
        for run in Runs::new(&packets, ALL) {
            writes += 1;
            let Some(header) = SuperHeader::new(&run) else {
                assert_eq!(run.packets.len(), 1);
                back.push(run.packets[0].to_vec());
                continue;
            };
            let vectors = header.vectors(&[], &run);
            let packet: Vec<u8> = vectors
                .iter()
                .flat_map(|part| part.iter().copied())
                .collect();
            assert!(packet.len() <= MAX_PACKET);
            assert!(Layout::plain(&packet).is_some(), "lengths are right");
            let mut split = Split::new(&packet, &header.vnet).unwrap();
            while let Some(len) = split.next_len() {
                let mut out = vec![0; len];
                split.write_next(&packet, &mut out).unwrap();
                back.push(out);
            }
        }
        (writes, back)
    }

    #[test]
    fn a_super_packet_comes_together_again() {
        for v6 in [false, true] {
            for sample in [Sample::tcp(v6), Sample::udp(v6)] {
                let packets = flow(sample, 45, 1348);
                assert_eq!(counts(&packets, ALL), [45]);
                assert_eq!(there_and_back(&packets), (1, packets));
            }
        }
    }

    #[test]
    fn limits() {
        assert_eq!(counts(&flow(Sample::udp(false), 100, 10), ALL), [64, 36]);
        assert_eq!(counts(&flow(Sample::tcp(false), 9, 9000), ALL), [7, 2]);
        for (kinds, tcp, udp) in [
            (Kinds::NONE, vec![1; 3], vec![1; 3]),
            (Kinds::TCP, vec![3], vec![1; 3]),
        ] {
            assert_eq!(counts(&flow(Sample::tcp(false), 3, 10), kinds), tcp);
            assert_eq!(counts(&flow(Sample::udp(false), 3, 10), kinds), udp);
        }
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let good = flow(Sample::tcp(false), 3, 100);
        assert_eq!(counts(&good, ALL), [3]);
        let next = |change: &dyn Fn(&mut Sample)| {
            let mut sample = Sample::tcp(false);
            sample.id += 1;
            sample.seq = sample.seq.wrapping_add(100);
            change(&mut sample);
            vec![good[0].clone(), sample.build(&[1; 100])]
        };
        assert_eq!(counts(&next(&|_| {}), ALL), [2]);
        let changes: [&dyn Fn(&mut Sample); 6] = [
            &|sample| sample.port += 1,
            &|sample| sample.seq = sample.seq.wrapping_add(1),
            &|sample| sample.id += 1,
            &|sample| sample.flags |= FIN,
            &|sample| sample.options = false,
            &|sample| *sample = Sample::tcp(true),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(counts(&next(change), ALL), [1, 1], "change {index}");
        }
        // Any other header field that differs: TOS, DF, hop count; acknowledgement, window,
        // urgent pointer, options.
        for at in [1, 6, 8, 31, 34, 38, 50] {
            let mut other = next(&|_| {});
            other[1][at] ^= 0x40;
            let layout = Layout::plain(&other[1]).unwrap();
            let len = other[1].len();
            layout.set_lengths(&mut other[1], len).unwrap();
            layout.set_checksum(&mut other[1]).unwrap();
            assert!(layout.verifies(&other[1]));
            assert_eq!(counts(&other, ALL), [1, 1], "byte {at}");
        }
        // Data that is corrupt.
        let mut corrupt = next(&|_| {});
        corrupt[1][100] ^= 1;
        assert_eq!(counts(&corrupt, ALL), [1, 1]);
    }

    #[test]
    fn a_push_or_a_short_segment_ends_a_run() {
        let mut packets = flow(Sample::tcp(false), 4, 100);
        let sample = Sample::tcp(false);
        packets[1] = Sample {
            id: sample.id + 1,
            seq: sample.seq.wrapping_add(100),
            flags: ACK | PSH,
            ..sample
        }
        .build(&[1; 100]);
        assert_eq!(counts(&packets, ALL), [2, 2]);
        assert_eq!(there_and_back(&packets).1, packets);
        packets[1] = Sample {
            id: sample.id + 1,
            seq: sample.seq.wrapping_add(100),
            ..sample
        }
        .build(&[1; 99]);
        assert_eq!(counts(&packets, ALL), [2, 2]);
    }

    /// A batch of few flows whose packets may or may not follow one another.
    fn batch() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let packet = (
            any::<bool>(),
            any::<bool>(),
            0u16..2,
            0u16..4,
            0u32..4,
            prop_oneof![4 => Just(ACK), 1 => Just(ACK | PSH), 1 => any::<u8>()],
            prop_oneof![4 => Just(40usize), 1 => 0usize..60],
            prop_oneof![5 => Just(None), 1 => (0usize..100, any::<u8>()).prop_map(Some)],
        );
        let loose = packet.prop_map(|(v6, udp, port, id, step, flags, len, damage)| {
            let base = if udp {
                Sample::udp(v6)
            } else {
                Sample::tcp(v6)
            };
            let mut packet = Sample {
                port,
                id,
                seq: step * 40,
                flags,
                ..base
            }
            .build(&vec![len as u8; len]);
            if let Some((at, value)) = damage
                && let Some(byte) = packet.get_mut(at)
            {
                *byte ^= value;
            }
            vec![packet]
        });
        let together = (any::<bool>(), any::<bool>(), 1usize..20, 1usize..100).prop_map(
            |(v6, udp, count, size)| {
                let sample = if udp {
                    Sample::udp(v6)
                } else {
                    Sample::tcp(v6)
                };
                flow(sample, count, size)
            },
        );
        proptest::collection::vec(prop_oneof![loose, together], 0..20)
            .prop_map(|groups| groups.concat())
    }

    proptest! {
        #[test]
        fn splitting_undoes_coalescing(packets in batch()) {
            let (writes, back) = there_and_back(&packets);
            prop_assert!(writes <= packets.len());
            prop_assert_eq!(back, packets);
        }

        #[test]
        fn any_bytes(packets in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..100), 0..10,
        )) {
            prop_assert_eq!(there_and_back(&packets).1, packets);
        }
    }
}
