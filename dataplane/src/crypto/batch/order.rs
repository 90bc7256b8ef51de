//! The order in which packets are taken: by length, longest first, so that messages side by
//! side in Poly1305's lanes end together. A counting sort: linear, on the stack.

use super::schedule::SPAN;
use super::{GROUP, Packet};

/// Classes of lengths: by 64 bytes up to 2 KiB, then by 2 KiB.
const CLASSES: usize = 65;

/// A permutation of up to [`SPAN`] packets.
pub(super) struct Order([u8; SPAN]);

impl Order {
    /// The order of `packets`, of which there are at most [`SPAN`].
    pub(super) fn of(packets: &[Packet]) -> Self {
        let mut order = Self([0; SPAN]);
        let uniform = packets
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.len == b.len));
        if uniform {
            for (index, place) in order.0.iter_mut().enumerate().take(packets.len()) {
                *place = index as u8;
            }
            return order;
        }
        let mut next = [0_u16; CLASSES];
        for packet in packets {
            if let Some(count) = next.get_mut(class(packet)) {
                *count += 1;
            }
        }
        let mut start = 0;
        for count in &mut next {
            start += core::mem::replace(count, start);
        }
        for (index, packet) in packets.iter().enumerate() {
            if let Some(next) = next.get_mut(class(packet)) {
                if let Some(place) = order.0.get_mut(usize::from(*next)) {
                    *place = index as u8;
                }
                *next += 1;
            }
        }
        order
    }

    /// The packets' indices in order.
    pub(super) fn indices(&self, packets: &[Packet]) -> &[u8] {
        self.0.get(..packets.len()).unwrap_or(&[])
    }
}

/// Text from which on fewer packets are authenticated together: sixteen would have left the
/// first-level cache by the time that all are sealed.
const JUMBO: usize = 4096;

/// Packets in order, in groups to authenticate together.
pub(super) struct Groups<'a> {
    packets: &'a [Packet],
    rest: &'a [u8],
    taken: usize,
    /// Packets of [`JUMBO`] bytes and more in a group.
    jumbos: usize,
}

impl<'a> Groups<'a> {
    pub(super) fn new(packets: &'a [Packet], order: &'a Order, jumbos: usize) -> Self {
        Self {
            packets,
            rest: order.indices(packets),
            taken: 0,
            jumbos,
        }
    }

    /// The next group, where it lies within the first `done` packets.
    pub(super) fn next_within(&mut self, done: usize) -> Option<&'a [u8]> {
        let first = self.packets.get(usize::from(*self.rest.first()?))?;
        let most = if first.len >= JUMBO {
            self.jumbos
        } else {
            GROUP
        };
        // A lane costs as many rows as the longest one's: much shorter packets wait for
        // their like.
        let alike = |index: &&u8| {
            let packet = self.packets.get(usize::from(**index));
            packet.is_some_and(|packet| first.text_blocks() <= 2 * packet.text_blocks() + 4)
        };
        let len = self.rest.iter().take(most).take_while(alike).count();
        let (group, rest) = self.rest.split_at_checked(len)?;
        if self.taken + len > done {
            return None;
        }
        self.taken += len;
        self.rest = rest;
        Some(group)
    }
}

/// 0 for the longest.
const fn class(packet: &Packet) -> usize {
    let rows = packet.len / 64;
    let class = if rows < 32 { rows } else { 31 + rows / 32 };
    (CLASSES - 1).saturating_sub(class)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(len: usize) -> Packet {
        Packet {
            key: core::ptr::null(),
            counter: 0,
            src: core::ptr::null(),
            dst: core::ptr::null_mut(),
            src_len: len,
            len,
        }
    }

    proptest! {
        #[test]
        fn orders_every_packet_once_and_longest_first(
            lens in prop::collection::vec(prop_oneof![0..3000_usize, 0..65_536_usize], 0..=SPAN),
        ) {
            let packets: Vec<Packet> = lens.iter().copied().map(packet).collect();
            let order = Order::of(&packets);
            let indices = order.indices(&packets);
            let mut seen: Vec<u8> = indices.to_vec();
            seen.sort_unstable();
            prop_assert!(seen.iter().enumerate().all(|(at, index)| at == usize::from(*index)));
            for pair in indices.windows(2) {
                let [a, b] = [pair[0], pair[1]].map(|index| lens[usize::from(index)]);
                prop_assert!(a >= b || a / 64 == b / 64 || (a >= 2048 && a / 2048 == b / 2048));
            }
        }
    }
}
