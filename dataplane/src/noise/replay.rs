//! The replay window (RFC 6479): which counters of a session were seen.

use super::constants::{REJECT_AFTER_MESSAGES, REPLAY_WINDOW};

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// A sliding window over the last 8192 counters, as the kernel's `counter_validate` keeps it:
/// 8128 of them usable, because the word at the front is only partly filled.
///
/// To be asked *after* a packet is authenticated: a forged counter must not move it.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct ReplayWindow {
    /// One above the highest counter accepted.
    next: u64,
    /// The word at the front, beside `next`: as long as all come about in order, nothing further
    /// off is looked at. Its place in `older` is stale until the front moves on.
    front: u64,
    older: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            front: 0,
            older: [0; WORDS],
        }
    }
}

impl ReplayWindow {
    /// Bytes of what is looked at only now and then, at the end.
    pub(super) const OLDER: usize = size_of::<[u64; WORDS]>();

    /// Accepts `counter` unless it was seen, is older than the window, or is past
    /// [`REJECT_AFTER_MESSAGES`].
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        let usable = REPLAY_WINDOW - 64;
        // `next` is one above the highest: a counter exactly `usable` below that is still held.
        let highest = self.next.saturating_sub(1);
        if counter.saturating_add(usable) < highest {
            return false;
        }
        let (front, word) = (highest / 64, counter / 64);
        if word > front {
            self.move_front(front, word);
        }
        if counter >= self.next {
            self.next = counter + 1;
        }
        let bits = if word >= front {
            &mut self.front
        } else {
            let Some(bits) = self.older.get_mut(place(word)) else {
                return false;
            };
            bits
        };
        let bit = 1 << (counter % 64);
        let fresh = *bits & bit == 0;
        *bits |= bit;
        fresh
    }

    #[cold]
    fn move_front(&mut self, from: u64, to: u64) {
        if let Some(bits) = self.older.get_mut(place(from)) {
            *bits = self.front;
        }
        // Words between the old front and the new one hold counters of a lap ago.
        for stale in from + 1..=to.min(from.saturating_add(WORDS as u64)) {
            if let Some(bits) = self.older.get_mut(place(stale)) {
                *bits = 0;
            }
        }
        self.front = 0;
    }
}

/// Where in the window a word is.
const fn place(word: u64) -> usize {
    word as usize % WORDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Counters below the highest one that are still held.
    const HELD: u64 = REPLAY_WINDOW - 64;

    /// A window that is fed a story of counters, each with the answer it must give.
    fn story(counters: impl IntoIterator<Item = (u64, bool)>) {
        let mut window = ReplayWindow::default();
        for (step, (counter, fresh)) in counters.into_iter().enumerate() {
            assert_eq!(window.accept(counter), fresh, "step {step}: {counter}");
        }
    }

    // The scenarios are those of the kernel's `selftest/counter.c`.

    #[test]
    fn mixed_orders_jumps_and_the_limit() {
        let far = 4 * (HELD + 1);
        let end = REJECT_AFTER_MESSAGES;
        story([
            // Out of order, each once.
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            // A jump of a window: what is just inside is still open.
            (HELD + 1, true),
            (HELD, true),
            (HELD, false),
            (HELD - 1, true),
            (2, true),
            (2, false),
            (HELD + 17, true),
            (3, false),
            (HELD + 17, false),
            // A jump of several windows empties it.
            (far, true),
            (far - HELD, true),
            (10, false),
            (far - HELD - 1, false),
            (far - HELD - 2, false),
            (far - HELD + 1, true),
            (far - HELD, false),
            (0, false),
            // The end of all counters.
            (end, false),
            (end - 1, true),
            (end, false),
            (end - 1, false),
            (end - 2, true),
            (end + 1, false),
            (end + 2, false),
            (u64::MAX, false),
            (end - 2, false),
            (end - 3, true),
            (0, false),
        ]);
    }

    #[test]
    fn ascending_windows_leave_their_first_place_open() {
        let all = |range: core::ops::RangeInclusive<u64>| range.map(|counter| (counter, true));
        story(all(1..=HELD).chain([(0, true), (0, false)]));
        story(all(2..=HELD + 1).chain([(1, true), (0, false)]));
    }

    #[test]
    fn descending_windows_accept_everything_they_hold() {
        let down = |low: u64, high: u64| (low..=high).rev().map(|counter| (counter, true));
        story(down(0, HELD));
        story(down(1, HELD + 1).chain([(0, false)]));
        story(down(1, HELD).chain([(HELD + 1, true), (0, false)]));
        story(down(1, HELD).chain([(0, true), (HELD + 1, true)]));
    }

    proptest! {
        /// Against the definition: a set of all that was accepted.
        #[test]
        fn behaves_like_a_set_with_a_horizon(
            steps in proptest::collection::vec((0_u64..20_000, 0_u64..4), 1..400),
        ) {
            let mut window = ReplayWindow::default();
            let (mut seen, mut base, mut highest) = (BTreeSet::new(), 0, None);
            for (offset, jump) in steps {
                base += jump * jump * 3_000;
                let counter = base + offset;
                let held = highest.is_none_or(|highest| counter + HELD >= highest);
                let fresh = held && seen.insert(counter);
                prop_assert_eq!(window.accept(counter), fresh, "{}", counter);
                if fresh {
                    highest = highest.max(Some(counter));
                }
            }
        }
    }
}
