//! What goes wrong, decided packet by packet; no driver in sight.

use std::net::{Ipv4Addr, SocketAddr};

use crate::mesh::Endpoint;

/// What goes wrong, and how often. Probabilities are from 0 (never, the default) to 1 (always)
/// and apply to each packet independently; the same seed and the same packets give the same
/// faults.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct FaultPlan {
    /// Begins the sequence of random numbers.
    pub seed: u64,
    /// How often a packet is lost.
    pub drop: f64,
    /// How often a packet comes twice.
    pub duplicate: f64,
    /// How often one bit of a packet is inverted.
    pub corrupt: f64,
    /// How often a packet changes places with the next.
    pub reorder: f64,
    /// How often a packet is held back until [`delay_packets`](Self::delay_packets) others have
    /// passed.
    pub delay: f64,
    /// How long a delayed packet waits, counted in packets of its direction, so that a run can
    /// be repeated.
    pub delay_packets: u32,
}

/// What travels with a packet: all that any of the ports needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// Sender or destination of a datagram; meaningless for inner packets.
    pub(super) endpoint: Endpoint,
    pub(super) tos: u8,
}

impl Meta {
    /// For an inner packet.
    pub(super) fn inner() -> Self {
        Self {
            endpoint: Endpoint::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            tos: 0,
        }
    }
}

/// A packet that has its own buffer.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) meta: Meta,
    pub(super) data: Vec<u8>,
}

/// How many packets met each fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) dropped: u64,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    pub(super) reordered: u64,
    pub(super) delayed: u64,
}

/// One direction of traffic.
#[derive(Debug)]
pub(super) struct Lane {
    plan: FaultPlan,
    random: SplitMix64,
    /// How many packets have come by.
    clock: u64,
    /// What is held back, and until when.
    held: Vec<(u64, Parcel)>,
    /// What may leave, in order.
    pub(super) out: Vec<Parcel>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    pub(super) counts: Counts,
}

impl Lane {
    pub(super) const fn new(plan: FaultPlan) -> Self {
        Self {
            plan,
            random: SplitMix64(plan.seed),
            clock: 0,
            held: Vec::new(),
            out: Vec::new(),
            spare: Vec::new(),
            counts: Counts {
                dropped: 0,
                duplicated: 0,
                corrupted: 0,
                reordered: 0,
                delayed: 0,
            },
        }
    }

    /// A packet comes by: it, or what becomes of it, goes to `out` now or later.
    pub(super) fn pass(&mut self, meta: Meta, data: &[u8]) {
        // Always as many draws, so that one probability does not shift the others' outcome.
        let plan = self.plan;
        let [drop, duplicate, corrupt, reorder, delay] = [
            plan.drop,
            plan.duplicate,
            plan.corrupt,
            plan.reorder,
            plan.delay,
        ]
        .map(|probability| self.random.chance(probability));
        let place = self.random.next();
        if drop {
            self.counts.dropped += 1;
        } else {
            if duplicate {
                self.counts.duplicated += 1;
                let twin = self.parcel(meta, data);
                self.out.push(twin);
            }
            let mut parcel = self.parcel(meta, data);
            if corrupt && invert_bit(&mut parcel.data, place) {
                self.counts.corrupted += 1;
            }
            if delay {
                self.counts.delayed += 1;
                let until = self.clock + 1 + u64::from(plan.delay_packets);
                self.held.push((until, parcel));
            } else if reorder {
                self.counts.reordered += 1;
                self.held.push((self.clock + 2, parcel));
            } else {
                self.out.push(parcel);
            }
        }
        self.tick();
    }

    /// Time passes: by a packet, or by looking for one in vain.
    pub(super) fn tick(&mut self) {
        self.clock += 1;
        let due = |held: &mut (u64, Parcel)| held.0 <= self.clock;
        self.out
            .extend(self.held.extract_if(.., due).map(|(_, parcel)| parcel));
    }

    /// Whether something waits for time to pass.
    pub(super) const fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the buffers of what has left back.
    pub(super) fn clear_out(&mut self) {
        self.spare
            .extend(self.out.drain(..).map(|parcel| parcel.data));
    }

    fn parcel(&mut self, meta: Meta, data: &[u8]) -> Parcel {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(data);
        Parcel { meta, data: buffer }
    }
}

/// Inverts the bit that `place` points to; false where there is none.
fn invert_bit(data: &mut [u8], place: u64) -> bool {
    let bits = data.len() as u64 * 8;
    let Some(bit) = place.checked_rem(bits) else {
        return false;
    };
    let byte = usize::try_from(bit / 8)
        .ok()
        .and_then(|at| data.get_mut(at));
    byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
}

/// A small generator of well-mixed numbers (Steele, Lea and Flood 2014, "Fast splittable
/// pseudorandom number generators"); not for secrets.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True with the given probability.
    fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits: as many as an `f64` holds exactly.
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends packets 0, 1, … through; what comes out, in order.
    fn run(plan: FaultPlan, packets: u8) -> (Vec<u8>, Counts) {
        let mut lane = Lane::new(plan);
        for mark in 0..packets {
            lane.pass(Meta::inner(), &[mark]);
        }
        let out = lane.out.iter().map(|parcel| parcel.data[0]).collect();
        (out, lane.counts)
    }

    #[test]
    fn nothing_happens_by_default() {
        let (out, counts) = run(FaultPlan::default(), 100);
        assert_eq!(out, (0..100).collect::<Vec<_>>());
        assert_eq!(counts, Counts::default());
    }

    #[test]
    fn each_fault_alone() {
        let none = FaultPlan::default();
        let (out, counts) = run(FaultPlan { drop: 1.0, ..none }, 5);
        assert!(out.is_empty());
        assert_eq!(counts.dropped, 5);

        let duplicate = FaultPlan {
            duplicate: 1.0,
            ..none
        };
        let (out, counts) = run(duplicate, 3);
        assert_eq!(out, [0, 0, 1, 1, 2, 2]);
        assert_eq!(counts.duplicated, 3);

        let (out, counts) = run(
            FaultPlan {
                corrupt: 1.0,
                ..none
            },
            50,
        );
        for (mark, byte) in (0u8..).zip(out) {
            assert_eq!((mark ^ byte).count_ones(), 1);
        }
        assert_eq!(counts.corrupted, 50);

        let delay = FaultPlan {
            delay: 1.0,
            delay_packets: 3,
            ..none
        };
        assert_eq!(run(delay, 10).0, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_reordered_packet_changes_places_with_the_next() {
        let plan = FaultPlan {
            seed: 7,
            reorder: 0.2,
            ..FaultPlan::default()
        };
        let (out, counts) = run(plan, 200);
        assert!(counts.reordered > 10);
        assert_ne!(out, (0..200).collect::<Vec<_>>());
        for (place, mark) in out.iter().enumerate() {
            assert!(place.abs_diff(usize::from(*mark)) <= 8, "{place}: {mark}");
        }
    }

    #[test]
    fn what_is_held_comes_out_as_time_passes() {
        let mut lane = Lane::new(FaultPlan {
            delay: 1.0,
            delay_packets: 2,
            ..FaultPlan::default()
        });
        lane.pass(Meta::inner(), b"x");
        assert!(lane.holds());
        lane.tick();
        assert!(lane.out.is_empty());
        lane.tick();
        assert_eq!(lane.out.len(), 1);
        assert!(!lane.holds());
    }

    #[test]
    fn an_empty_packet_has_no_bit_to_invert() {
        assert!(!invert_bit(&mut [], 5));
    }

    proptest! {
        #[test]
        fn deterministic_and_conserving(
            seed in any::<u64>(),
            drop in 0.0..1.0,
            duplicate in 0.0..1.0,
            reorder in 0.0..1.0,
            delay in 0.0..1.0,
            delay_packets in 0u32..20,
        ) {
            let plan = FaultPlan { seed, drop, duplicate, reorder, delay, delay_packets, corrupt: 0.0 };
            let (out, counts) = run(plan, 200);
            prop_assert_eq!(&run(plan, 200).0, &out);
            let mut lane = Lane::new(plan);
            for mark in 0..200 {
                lane.pass(Meta::inner(), &[mark]);
            }
            for _ in 0..22 {
                lane.tick();
            }
            prop_assert!(!lane.holds());
            let expected = 200 - counts.dropped + counts.duplicated;
            prop_assert_eq!(lane.out.len() as u64, expected);
        }

        #[test]
        fn probabilities_are_kept(seed in any::<u64>(), probability in 0.0..1.0) {
            let mut random = SplitMix64(seed);
            let hits = (0..4000).filter(|_| random.chance(probability)).count();
            // Five standard deviations of the worst case, and then some.
            prop_assert!((hits as f64 / 4000.0 - probability).abs() < 0.05);
        }
    }
}
