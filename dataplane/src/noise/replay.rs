//! The replay window (RFC 6479): which counters of a session were seen.

use super::constants::{REJECT_AFTER_MESSAGES, REPLAY_WINDOW};

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// A sliding window over the last 8192 counters, as the kernel's `counter_validate` keeps it:
/// 8128 of them usable, because the word at the front is only partly filled.
///
/// To be asked *after* a packet is authenticated: a forged counter must not move it.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One above the highest counter accepted.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

impl ReplayWindow {
    /// Accepts `counter` unless it was seen, is older than the window, or is past
    /// [`REJECT_AFTER_MESSAGES`].
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        let usable = REPLAY_WINDOW - 64;
        if counter.saturating_add(usable) < self.next {
            return false;
        }
        if counter >= self.next {
            let (front, word) = (self.next.saturating_sub(1) / 64, counter / 64);
            // Words between the old front and the new one hold counters of a lap ago.
            let first = if self.next == 0 { 0 } else { front + 1 };
            for stale in first..=word.min(first.saturating_add(WORDS as u64 - 1)) {
                if let Some(bits) = self.seen.get_mut(stale as usize % WORDS) {
                    *bits = 0;
                }
            }
            self.next = counter + 1;
        }
        let Some(bits) = self.seen.get_mut((counter / 64) as usize % WORDS) else {
            return false;
        };
        let bit = 1 << (counter % 64);
        let fresh = *bits & bit == 0;
        *bits |= bit;
        fresh
    }
}
