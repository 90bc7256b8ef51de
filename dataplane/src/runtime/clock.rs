//! The clocks of a running node.

use core::time::Duration;
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use crate::time::{Instant, Now};

/// `CLOCK_BOOTTIME`: monotonic, and goes on during suspend, so that keys age while the machine
/// sleeps.
#[must_use]
pub fn monotonic() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let (secs, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Instant::from_secs(secs) + Duration::from_nanos(nanos)
}

/// Both clocks. A wall clock before 1970 counts as 1970.
#[must_use]
pub fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        monotonic: monotonic(),
        unix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_advances_and_is_not_at_its_origin() {
        let first = monotonic();
        assert!(first > Instant::ZERO);
        assert!(monotonic() >= first);
    }
}
