//! What a peer's traffic adds up to.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Tells one worker from all others of this process, former and later ones too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkerId(NonZeroU32);

impl WorkerId {
    /// An id that nobody else has; `None` after four billion of them.
    #[must_use]
    pub fn unique() -> Option<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let last = LAST.fetch_update(Relaxed, Relaxed, |last| last.checked_add(1));
        NonZeroU32::new(last.ok()?.wrapping_add(1)).map(Self)
    }
}

/// Totals of one peer since it was added.
///
/// With many peers a batch brings each of them one packet, and a locked instruction costs as much
/// as a tenth of such a packet. So the first worker that counts in a direction of a peer has a place
/// of its own for it, to which it adds without one. Whoever else counts shares another place.
#[derive(Debug, Default)]
#[repr(C)]
pub struct PeerCounters {
    received: Own,
    sent: Own,
    received_by_others: Pair,
    sent_by_others: Pair,
}

/// The place of one worker.
#[derive(Debug, Default)]
#[repr(C)]
struct Own {
    count: Pair,
    /// Its id; 0 for none yet. Never changes afterwards.
    owner: AtomicU32,
}

#[derive(Debug, Default)]
struct Pair {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Own {
    #[inline]
    fn belongs_to(&self, worker: WorkerId) -> bool {
        let id = worker.0.get();
        match self.owner.load(Relaxed) {
            0 => {
                let claim = self.owner.compare_exchange(0, id, Relaxed, Relaxed);
                claim.is_ok()
            }
            owner => owner == id,
        }
    }

    #[inline]
    fn add(&self, others: &Pair, worker: Option<WorkerId>, packets: u64, bytes: u64) {
        if worker.is_some_and(|worker| self.belongs_to(worker)) {
            // Nothing is lost because nobody else writes.
            let Pair {
                packets: p,
                bytes: b,
            } = &self.count;
            p.store(p.load(Relaxed).wrapping_add(packets), Relaxed);
            b.store(b.load(Relaxed).wrapping_add(bytes), Relaxed);
        } else {
            others.packets.fetch_add(packets, Relaxed);
            others.bytes.fetch_add(bytes, Relaxed);
        }
    }
}

fn sum(a: &AtomicU64, b: &AtomicU64) -> u64 {
    a.load(Relaxed).wrapping_add(b.load(Relaxed))
}

impl PeerCounters {
    /// Outer bytes received in authenticated messages (as `wg show` counts them).
    #[must_use]
    pub fn rx_bytes(&self) -> u64 {
        sum(&self.received.count.bytes, &self.received_by_others.bytes)
    }

    /// Outer bytes sent.
    #[must_use]
    pub fn tx_bytes(&self) -> u64 {
        sum(&self.sent.count.bytes, &self.sent_by_others.bytes)
    }

    /// Inner packets received.
    #[must_use]
    pub fn rx_packets(&self) -> u64 {
        sum(
            &self.received.count.packets,
            &self.received_by_others.packets,
        )
    }

    /// Inner packets sent.
    #[must_use]
    pub fn tx_packets(&self) -> u64 {
        sum(&self.sent.count.packets, &self.sent_by_others.packets)
    }

    /// Adds what `worker` received, or another thread; once a batch.
    #[inline]
    pub fn received(&self, worker: Option<WorkerId>, packets: u64, bytes: u64) {
        self.received
            .add(&self.received_by_others, worker, packets, bytes);
    }

    /// Adds what `worker` sent, or another thread; once a batch.
    #[inline]
    pub fn sent(&self, worker: Option<WorkerId>, packets: u64, bytes: u64) {
        self.sent.add(&self.sent_by_others, worker, packets, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_lost_whoever_counts() {
        let counters = PeerCounters::default();
        thread::scope(|scope| {
            for thread in 0..4 {
                let counters = &counters;
                scope.spawn(move || {
                    let worker = (thread != 0).then(|| WorkerId::unique().unwrap());
                    for _ in 0..10_000 {
                        counters.received(worker, 1, 100);
                        counters.sent(worker, 2, 300);
                    }
                });
            }
        });
        let totals = [
            counters.rx_packets(),
            counters.rx_bytes(),
            counters.tx_packets(),
            counters.tx_bytes(),
        ];
        assert_eq!(totals, [40_000, 4_000_000, 80_000, 12_000_000]);
    }
}
