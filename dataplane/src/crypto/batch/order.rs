//! The order in which packets are taken: by length, longest first, so that messages side by
//! side in Poly1305's lanes end together. A counting sort: linear, on the stack.

use super::Packet;
use super::schedule::SPAN;

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
