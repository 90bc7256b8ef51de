//! Token buckets per source (kernel `ratelimiter.c`).

use core::hash::BuildHasher;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;

use siphasher::sip::SipHasher13;

use crate::time::Instant;

/// Sources remembered at most: the kernel's bound on machines with more than 1 GiB.
pub const MAX_SOURCES: usize = 65_536;

/// A source that was silent for so long is forgotten: its bucket is full again.
const FORGET_AFTER: Duration = Duration::from_secs(1);

/// How fast one source may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Events a second in the long run. Zero counts as one.
    pub per_second: u32,
    /// Events at once. At most what refills in a second, after which silent
    /// sources are forgotten: else that would be a gift.
    pub burst: u32,
}

/// What the kernel grants to a source that has proved its address by a cookie.
pub const HANDSHAKE_RATE: Rate = Rate {
    per_second: 20,
    burst: 5,
};

/// A hasher that attackers cannot make collide: SipHash-1-3 under a random key.
#[derive(Clone, Debug)]
struct Seeded(u64, u64);

impl BuildHasher for Seeded {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 site has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Source {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Tokens are nanoseconds of waiting saved up: one event costs a second divided by the rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u64,
    refilled: Instant,
}

/// A bounded table of token buckets. When it is full, new sources are refused and known ones go
/// on as before.
#[derive(Debug)]
pub struct RateLimiter {
    cost: u64,
    full: u64,
    buckets: HashMap<Source, Bucket, Seeded>,
    swept: Instant,
}

impl RateLimiter {
    /// A limiter that grants `rate`; `seed` must be random.
    #[must_use]
    pub fn new(rate: Rate, seed: [u64; 2]) -> Self {
        let cost = 1_000_000_000 / u64::from(rate.per_second.max(1));
        let [a, b] = seed;
        Self {
            cost,
            full: cost * u64::from(rate.burst),
            buckets: HashMap::with_hasher(Seeded(a, b)),
            swept: Instant::ZERO,
        }
    }

    /// Whether `source` may do it once more.
    pub fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        self.sweep(now);
        let source = Source::from(source);
        if !self.buckets.contains_key(&source) && self.buckets.len() >= MAX_SOURCES {
            return false;
        }
        let (cost, full) = (self.cost, self.full);
        let bucket = self.buckets.entry(source).or_insert(Bucket {
            tokens: full,
            refilled: now,
        });
        let earned = u64::try_from(now.since(bucket.refilled).as_nanos()).unwrap_or(u64::MAX);
        bucket.tokens = bucket.tokens.saturating_add(earned).min(full);
        bucket.refilled = now;
        match bucket.tokens.checked_sub(cost) {
            Some(rest) => {
                bucket.tokens = rest;
                true
            }
            None => false,
        }
    }

    /// Sources remembered now.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.buckets.len()
    }

    /// Forgets silent sources, at most once in [`FORGET_AFTER`].
    fn sweep(&mut self, now: Instant) {
        if now.since(self.swept) >= FORGET_AFTER {
            self.swept = now;
            self.buckets
                .retain(|_, bucket| now.since(bucket.refilled) <= FORGET_AFTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn limiter() -> RateLimiter {
        RateLimiter::new(HANDSHAKE_RATE, [1, 2])
    }

    fn at(millis: u64) -> Instant {
        Instant::from_secs(10) + Duration::from_millis(millis)
    }

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn five_at_once_then_one_every_fiftieth_millisecond() {
        let mut limiter = limiter();
        let granted = (0..20).filter(|_| limiter.allow(at(0), A)).count();
        assert_eq!(granted, 5);
        assert!(!limiter.allow(at(49), A));
        assert!(limiter.allow(at(50), A));
        assert!(!limiter.allow(at(50), A));
        // Two seconds of attempts every millisecond: 20 a second pass.
        let granted = (51..2051).filter(|&ms| limiter.allow(at(ms), A)).count();
        assert_eq!(granted, 40);
    }

    #[test]
    fn sources_do_not_share_a_bucket() {
        let mut limiter = limiter();
        while limiter.allow(at(0), A) {}
        assert!(limiter.allow(at(0), B));
    }

    #[test]
    fn an_ipv6_site_is_one_source() {
        let mut limiter = limiter();
        let host =
            |net: u16, host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host));
        let granted = (0..100)
            .filter(|&n| limiter.allow(at(0), host(1, n)))
            .count();
        assert_eq!(granted, 5);
        assert!(limiter.allow(at(0), host(2, 1)));
        assert_eq!(limiter.sources(), 2);
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mut limiter = limiter();
        while limiter.allow(at(0), A) {}
        assert!(!limiter.allow(
            at(0),
            IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped())
        ));
    }

    #[test]
    fn spoofed_sources_cannot_make_it_grow() {
        let mut limiter = limiter();
        assert!(limiter.allow(at(0), A));
        let spoofed = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
        for n in 0..2 * MAX_SOURCES as u32 {
            limiter.allow(at(0), spoofed(n));
        }
        assert_eq!(limiter.sources(), MAX_SOURCES);
        assert!(
            !limiter.allow(at(0), spoofed(MAX_SOURCES as u32)),
            "new while full"
        );
        assert!(limiter.allow(at(0), A), "known while full");
        // A second of silence, and the table is free again.
        assert!(limiter.allow(at(1500), B));
        assert_eq!(limiter.sources(), 1);
    }

    #[test]
    fn a_clock_that_goes_back_grants_nothing() {
        let mut limiter = limiter();
        while limiter.allow(at(500), A) {}
        assert!(!limiter.allow(at(0), A));
    }
}
