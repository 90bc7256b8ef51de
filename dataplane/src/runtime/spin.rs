//! Polling for a while before sleeping, where it pays.
//!
//! A thread that sleeps is woken some microseconds late: it is scheduled, its CPU perhaps leaves an
//! idle state. Polling saves that, at the price of a busy CPU. So the time polled follows what
//! comes: it grows while waits end soon after sleep began, and shrinks with every wait that
//! polling could not have covered, down to none (as KVM's `halt_poll_ns` does for idle CPUs).

use core::time::Duration;

/// The longest that an operator can ask for.
pub const MAX_SPIN: Duration = Duration::from_millis(10);

/// A look that takes longer than this had to share its CPU: others want it for work of their own.
const CONTENDED: Duration = Duration::from_micros(200);

/// Where growth begins.
const FIRST: Duration = Duration::from_micros(10);

/// How long to poll before the next sleep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    bound: Duration,
    window: Duration,
}

impl Spin {
    /// Polls for no longer than `bound`; zero is never.
    pub(super) fn new(bound: Duration) -> Self {
        Self {
            bound: bound.min(MAX_SPIN),
            window: Duration::ZERO,
        }
    }

    /// Whether there is anything to measure.
    pub(super) fn enabled(&self) -> bool {
        !self.bound.is_zero()
    }

    /// How long to poll now.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// One look, with the CPU offered to others behind it, took so long.
    pub(super) fn looked(&mut self, time: Duration) {
        if time > CONTENDED {
            self.shrink();
        }
    }

    /// Polling was in vain; sleep came after it, and ended after `wait` in all.
    pub(super) fn slept(&mut self, wait: Duration) {
        if wait > self.bound {
            self.shrink();
        } else {
            self.window = (self.window * 2).max(FIRST).min(self.bound);
        }
    }

    fn shrink(&mut self) {
        self.window /= 2;
        if self.window < FIRST {
            self.window = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn short_waits_are_polled_through_and_long_ones_end_it() {
        let mut spin = Spin::new(us(50));
        assert_eq!(spin.window(), us(0), "none before it is known to pay");
        let grown: Vec<_> = (0..4)
            .map(|_| {
                spin.slept(us(30));
                spin.window()
            })
            .collect();
        assert_eq!(grown, [us(10), us(20), us(40), us(50)]);
        let shrunk: Vec<_> = (0..4)
            .map(|_| {
                spin.slept(us(51));
                spin.window()
            })
            .collect();
        assert_eq!(
            shrunk,
            [us(25), us(12) + Duration::from_nanos(500), us(0), us(0)]
        );
    }

    #[test]
    fn whoever_shares_a_cpu_polls_less() {
        let mut spin = Spin::new(us(80));
        (0..4).for_each(|_| spin.slept(us(1)));
        spin.looked(us(200));
        assert_eq!(spin.window(), us(80), "a short task of somebody else");
        spin.looked(us(3000));
        assert_eq!(spin.window(), us(40));
    }

    #[test]
    fn off_stays_off_and_nobody_polls_for_long() {
        let mut off = Spin::new(Duration::ZERO);
        off.slept(Duration::ZERO);
        assert!(!off.enabled() && off.window().is_zero());
        let mut long = Spin::new(Duration::from_secs(1));
        for _ in 0..20 {
            long.slept(us(1));
        }
        assert_eq!(long.window(), MAX_SPIN);
        let mut small = Spin::new(us(3));
        small.slept(us(1));
        assert_eq!(small.window(), us(3), "a bound below the first step holds");
    }
}
