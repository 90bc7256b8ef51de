//! When which peer's timers must run.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

use super::peer::PeerState;
use crate::crypto::PublicKey;
use crate::time::Instant;

/// How often all peers are looked at. Workers leave marks without a word, but none of them makes
/// anything due sooner than ten seconds later (a persistent keepalive only ever moves away), so
/// a look every second finds every deadline in time. It costs well below a microsecond a peer (0.6 µs
/// in a build without optimization).
const SCAN_PERIOD: Duration = Duration::from_secs(1);

/// Deadlines of peers, the earliest first.
///
/// An entry is not removed when its deadline moves; [`PeerState::scheduled`] tells the valid one.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    deadlines: BinaryHeap<Reverse<(Instant, PublicKey)>>,
    next_scan: Instant,
}

impl Schedule {
    /// Whether it is time to look at all peers. If so the next time is set.
    pub(super) fn begin_scan(&mut self, now: Instant) -> bool {
        let due = self.next_scan <= now;
        if due {
            self.next_scan = now + SCAN_PERIOD;
        }
        due
    }

    /// Enters a peer's deadline, if it comes before the next scan and is not entered yet.
    pub(super) fn note(&mut self, state: &mut PeerState) {
        let Some(at) = state.deadline().filter(|&at| at < self.next_scan) else {
            return;
        };
        if state.scheduled.is_none_or(|scheduled| at < scheduled) {
            state.scheduled = Some(at);
            self.deadlines.push(Reverse((at, *state.peer.public_key())));
        }
    }

    /// Takes out an entry that is due by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, PublicKey)> {
        let Reverse((at, _)) = self.deadlines.peek()?;
        if *at > now {
            return None;
        }
        self.deadlines.pop().map(|Reverse(entry)| entry)
    }

    /// The earliest deadline, or the next scan.
    pub(super) fn next(&self) -> Instant {
        match self.deadlines.peek() {
            Some(Reverse((at, _))) => self.next_scan.min(*at),
            None => self.next_scan,
        }
    }
}
