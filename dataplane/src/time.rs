//! Time as the pure floors see it: a parameter, never a clock.

use core::ops::{Add, AddAssign, Sub};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

/// A point on a monotonic clock, in nanoseconds since an arbitrary origin.
///
/// The runtime reads `CLOCK_BOOTTIME`, which goes on during suspend, so that keys age while the
/// machine sleeps. Tests count their own. [`Instant::ZERO`] is the origin and serves
/// [`AtomicInstant`] as "never": a clock that stands at its origin must be started one tick later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// The point `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The point `secs` seconds after the origin.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero where `earlier` is later (a clock that went back).
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Saturates at the end of the clock (584 years).
    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    /// Saturates at the origin.
    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Both clocks at one moment, for whatever makes handshakes: timers age on the monotonic one,
/// TAI64N timestamps come from the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time.
    pub monotonic: Instant,
    /// Time since the Unix epoch. May jump in either direction.
    pub unix: Duration,
}

/// An optional [`Instant`] that several threads share; [`Instant::ZERO`] stands for "none".
///
/// All accesses are relaxed: the values are hints to timers, they guard no memory.
#[derive(Debug, Default)]
pub struct AtomicInstant(AtomicU64);

impl AtomicInstant {
    /// A cell without a value.
    #[must_use]
    pub const fn none() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The value, if there is one.
    pub fn load(&self) -> Option<Instant> {
        match self.0.load(Relaxed) {
            0 => None,
            nanos => Some(Instant(nanos)),
        }
    }

    /// Sets the value.
    pub fn store(&self, at: Instant) {
        self.0.store(at.0, Relaxed);
    }

    /// Sets the value unless there is one already; tells whether it did.
    pub fn store_if_none(&self, at: Instant) -> bool {
        // The load first: in steady state the cell is set, and a failed exchange would still
        // take the cache line exclusively.
        self.0.load(Relaxed) == 0 && self.0.compare_exchange(0, at.0, Relaxed, Relaxed).is_ok()
    }

    /// Empties the cell.
    pub fn clear(&self) {
        if self.0.load(Relaxed) != 0 {
            self.0.store(0, Relaxed);
        }
    }
}
