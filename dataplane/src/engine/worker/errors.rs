//! ICMP errors for inner senders whose packets cannot be sent.
//!
//! They are made while packets are sealed and wait, a few at most, until the owner of the worker
//! has the inner driver at hand ([`Worker::deliver_errors`]).

use core::fmt;
use core::hash::{BuildHasher, Hasher};
use core::net::{IpAddr, Ipv6Addr};
use std::hash::RandomState;

use arrayvec::ArrayVec;

use super::Worker;
use crate::engine::counters::Totals;
use crate::engine::port::InnerTx;
use crate::noise::ratelimit::{Rate, RateLimiter};
use crate::time::Instant;
use crate::wire::Ip;
use crate::wire::icmp::{self, MAX_ERROR_LEN, Problem};

/// Errors that wait at once; what is more in one batch is not answered.
const MAX_WAITING: usize = 16;

/// Errors for all senders together (the kernel's `icmp_msgs_per_sec` and `icmp_msgs_burst`).
const ALL: Rate = Rate {
    per_second: 1000,
    burst: 50,
};

/// Errors for one sender (an IPv6 sender is its /64): a burst as the kernel grants it
/// (`XRLIM_BURST_FACTOR`), then as many a second.
const EACH: Rate = Rate {
    per_second: 6,
    burst: 6,
};

/// Errors that wait to be delivered.
pub(super) struct Errors {
    /// Their bytes, one after the other. Room is made for all at the first error.
    bytes: Vec<u8>,
    lengths: ArrayVec<usize, MAX_WAITING>,
    all: RateLimiter,
    each: RateLimiter,
}

impl Errors {
    pub(super) fn new() -> Self {
        let seed = || RandomState::new().build_hasher().finish();
        Self {
            bytes: Vec::new(),
            lengths: ArrayVec::new(),
            all: RateLimiter::new(ALL, [seed(), seed()]),
            each: RateLimiter::new(EACH, [seed(), seed()]),
        }
    }

    /// Answers `packet`, where that is allowed and the sender's share is not used up.
    pub(super) fn answer(&mut self, now: Instant, packet: &[u8], problem: Problem) {
        if self.lengths.is_full() {
            return;
        }
        let mut buffer = [0; MAX_ERROR_LEN];
        let Some(len) = icmp::error(packet, problem, &mut buffer) else {
            return;
        };
        let Ok(source) = Ip::parse(packet).map(|ip| ip.source()) else {
            return;
        };
        // One bucket, so one name, for all.
        let everybody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if !self.each.allow(now, source) || !self.all.allow(now, everybody) {
            return;
        }
        self.bytes
            .reserve(MAX_WAITING * MAX_ERROR_LEN - self.bytes.len());
        self.bytes
            .extend_from_slice(buffer.get(..len).unwrap_or_default());
        let _ = self.lengths.try_push(len);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }
}

impl fmt::Debug for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Errors").field(&self.lengths).finish()
    }
}

impl Worker {
    /// Hands the ICMP errors of the last batches to the inner side: for packets without a peer,
    /// for peers without an endpoint, and for packets that no datagram can hold. To be called
    /// after [`Worker::seal`]; costs nothing where there are none.
    pub fn deliver_errors(&mut self, inner: &mut dyn InnerTx) {
        if self.errors.lengths.is_empty() {
            return;
        }
        let mut rest = self.errors.bytes.as_slice();
        let mut packets = ArrayVec::<&[u8], MAX_WAITING>::new();
        for &len in &self.errors.lengths {
            let Some((packet, after)) = rest.split_at_checked(len) else {
                break;
            };
            rest = after;
            let _ = packets.try_push(packet);
        }
        let sent = inner.send_batch(&packets);
        drop(packets);
        self.counters.add(&Totals {
            errors_delivered: sent.accepted as u64,
            inner_dropped: sent.dropped as u64,
            ..Totals::default()
        });
        self.errors.clear();
    }
}
