//! So many requests a second from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A token bucket an address. Tokens are drawn in advance: who draws one that is not there yet
/// waits for it.
#[derive(Debug)]
pub(super) struct RateLimiter {
    /// The time of one request.
    interval: Duration,
    burst: u32,
    /// When the bucket of an address is full again.
    full_at: BTreeMap<IpAddr, Duration>,
}

impl RateLimiter {
    /// `rate` requests a second, four times as many at once.
    pub(super) fn new(rate: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            burst: rate * 4,
            full_at: BTreeMap::new(),
        }
    }

    /// How long a request of `from` has to wait; none where that would be beyond `deadline` from
    /// now.
    pub(super) fn draw(
        &mut self,
        now: Duration,
        from: IpAddr,
        deadline: Option<Duration>,
    ) -> Option<Duration> {
        self.full_at.retain(|_, full_at| *full_at > now);
        let full_at = self.full_at.get(&from).copied().unwrap_or(now) + self.interval;
        let wait = full_at.saturating_sub(now + self.interval * self.burst);
        if deadline.is_some_and(|deadline| wait > deadline) {
            return None;
        }
        self.full_at.insert(from, full_at);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_a_trickle() {
        let mut limiter = RateLimiter::new(15);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let now = Duration::from_secs(100);
        for _ in 0..60 {
            assert_eq!(limiter.draw(now, a, None), Some(Duration::ZERO));
        }
        let interval = Duration::from_secs(1) / 15;
        assert_eq!(limiter.draw(now, a, None), Some(interval));
        assert_eq!(limiter.draw(now, a, Some(interval)), None);
        assert_eq!(limiter.draw(now, b, None), Some(Duration::ZERO));
        let later = now + Duration::from_secs(10);
        assert_eq!(limiter.draw(later, a, None), Some(Duration::ZERO));
    }
}
