//! TAI64N timestamps, which make an initiation impossible to replay (WireGuard paper §5.1).

use core::time::Duration;

use super::constants::INITIATIONS_PER_SECOND;

/// Step of the clock, in nanoseconds: the largest power of two within the pause that
/// [`INITIATIONS_PER_SECOND`] leaves. A finer clock would tell observers about this machine
/// (kernel `tai64n_now`).
const STEP: u32 = (1_000_000_000 / INITIATIONS_PER_SECOND + 1).next_power_of_two() / 2;

/// TAI64 label of the Unix epoch, with the ten leap seconds of 1970
/// (<https://cr.yp.to/libtai/tai64.html>).
const UNIX_EPOCH: u64 = 0x4000_0000_0000_000a;

/// A timestamp as it stands in an initiation: big-endian seconds and nanoseconds, so that its
/// bytes order as the times do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tai64n([u8; 12]);

impl Tai64n {
    /// The timestamp's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    fn new(unix_secs: u64, nanos: u32) -> Self {
        let mut bytes = [0; 12];
        let (secs, rest) = bytes.split_at_mut(8);
        secs.copy_from_slice(&UNIX_EPOCH.saturating_add(unix_secs).to_be_bytes());
        rest.copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }
}

impl From<[u8; 12]> for Tai64n {
    fn from(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }
}

/// Gives out timestamps for one peer: coarse, and each later than the one before even when the
/// wall clock goes back or stands still (the peer would otherwise take the next initiation for a
/// replay until the clock has caught up).
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamper {
    /// Unix time of the last one, in steps.
    last: Duration,
}

impl Stamper {
    /// The timestamp for an initiation made at `unix`.
    pub fn stamp(&mut self, unix: Duration) -> Tai64n {
        let nanos = unix.subsec_nanos();
        let coarse = Duration::new(unix.as_secs(), nanos - nanos % STEP);
        if coarse > self.last {
            self.last = coarse;
        } else {
            self.last = self.last.saturating_add(Duration::from_nanos(STEP.into()));
        }
        Tai64n::new(self.last.as_secs(), self.last.subsec_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn label_of_the_epoch_and_the_kernel_s_step() {
        assert_eq!(STEP, 1 << 24);
        let at = Duration::new(1, (1 << 24) + 5);
        assert_eq!(
            Stamper::default().stamp(at).as_bytes(),
            &[0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0x01, 0, 0, 0]
        );
    }

    proptest! {
        /// Whatever the wall clock does.
        #[test]
        fn always_increases(times in proptest::collection::vec((0_u64..4, 0_u32..1_000_000_000), 2..50)) {
            let mut stamper = Stamper::default();
            let mut last = Tai64n::default();
            for (secs, nanos) in times {
                let next = stamper.stamp(Duration::new(secs, nanos));
                prop_assert!(next > last);
                last = next;
            }
        }

        /// A clock that moves by a step or more is followed exactly, rounded down.
        #[test]
        fn follows_the_clock(secs in 1_u64..1 << 40, nanos in 0_u32..1_000_000_000) {
            let stamp = Stamper::default().stamp(Duration::new(secs, nanos));
            prop_assert_eq!(stamp, Tai64n::new(secs, nanos / STEP * STEP));
        }
    }
}
