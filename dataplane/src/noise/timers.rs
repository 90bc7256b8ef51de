//! The five timers of a peer (kernel `timers.c`), as functions of what has happened and `now`.
//!
//! | timer | armed by | after | does |
//! | --- | --- | --- | --- |
//! | retransmit handshake | an initiation sent | 5 s + jitter | sends it anew, or gives up |
//! | send keepalive | data received, nothing sent since | 10 s | sends an empty packet |
//! | new handshake | data sent, nothing received since | 15 s + jitter | initiates |
//! | zero key material | a session made | 540 s | wipes all keys |
//! | persistent keepalive | anything authenticated, either way | as configured | sends an empty packet |
//!
//! The second, third and fifth follow from the [`Marks`] that the data path leaves.

use core::num::NonZeroU16;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use super::constants::{
    KEEP_FRESH_AFTER, KEEPALIVE_TIMEOUT, MAX_HANDSHAKE_ATTEMPTS, REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER_MAX, ZERO_KEYS_AFTER,
};
use super::marks::Marks;
use super::session::{Role, SessionSet};
use crate::time::Instant;

/// What a timer that has run out asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// No response: forget the source address, in case it is the trouble, and initiate again.
    RetryHandshake,
    /// No response after all retries: drop what waits for a session.
    GiveUp,
    /// A handshake that came too soon after the last one may be made now.
    DeferredHandshake {
        /// Whether it is to be made even where there is a good session.
        in_any_case: bool,
    },
    /// The peer has gone silent: forget the source address and initiate.
    NewHandshake,
    /// Send an empty packet.
    SendKeepalive,
    /// Wipe sessions and handshake.
    ZeroKeyMaterial,
}

/// The timers of one peer that the control side keeps itself.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    persistent_keepalive: Option<Duration>,
    /// Persistent keepalives were switched on, and none was asked for yet.
    first_keepalive: bool,
    /// The last persistent keepalive was asked for then. It need not have been sent.
    persistent_fired: Option<Instant>,
    retransmit_at: Option<Instant>,
    deferred_to: Option<Instant>,
    deferred_in_any_case: bool,
    /// Retries since the last new handshake.
    attempts: u32,
    /// The last handshake message was sent then, of either kind.
    last_sent: Option<Instant>,
    zero_at: Option<Instant>,
    /// The current session was renewed because the peer sends and this end does not.
    kept_fresh: bool,
    silence_jitter: Duration,
}

impl Timers {
    /// Sets or ends persistent keepalives. Where there were none before, the first one is due at
    /// once.
    pub fn set_persistent_keepalive(&mut self, seconds: Option<NonZeroU16>) {
        let interval = seconds.map(|s| Duration::from_secs(u64::from(s.get())));
        self.first_keepalive |= self.persistent_keepalive.is_none() && interval.is_some();
        self.first_keepalive &= interval.is_some();
        self.persistent_keepalive = interval;
    }

    /// Whether an initiation may be sent: none was within [`REKEY_TIMEOUT`].
    #[must_use]
    pub fn may_initiate(&self, now: Instant) -> bool {
        self.last_sent
            .is_none_or(|sent| now.since(sent) >= REKEY_TIMEOUT)
    }

    /// Whether a handshake is on its way, or will be by itself.
    #[must_use]
    pub fn is_initiating(&self) -> bool {
        self.retransmit_at.is_some() || self.deferred_to.is_some()
    }

    /// A handshake was asked for anew, not by the retransmission timer.
    pub fn restart_attempts(&mut self) {
        self.attempts = 0;
    }

    /// An initiation that [`may_initiate`](Self::may_initiate) forbids is made as soon as it may,
    /// `in_any_case` or if there is no good session then.
    pub fn defer_initiation(&mut self, in_any_case: bool) {
        if self.retransmit_at.is_none() {
            self.deferred_to = self.last_sent.map(|sent| sent + REKEY_TIMEOUT);
            self.deferred_in_any_case |= in_any_case;
        }
    }

    /// An initiation was sent. `jitter` is any random number.
    pub fn initiation_sent(&mut self, now: Instant, jitter: u32) {
        self.last_sent = Some(now);
        self.cancel_deferred();
        self.retransmit_at = Some(now + REKEY_TIMEOUT + jitter_from(jitter));
    }

    /// A response was sent.
    pub fn response_sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
    }

    /// A session was made, confirmed or not.
    pub fn session_derived(&mut self, now: Instant) {
        self.zero_at = Some(now + ZERO_KEYS_AFTER);
    }

    /// A handshake is complete: its response came, or the first packet that confirms it.
    pub fn handshake_complete(&mut self) {
        self.retransmit_at = None;
        self.cancel_deferred();
        self.attempts = 0;
        self.kept_fresh = false;
    }

    /// Forgets everything but the configuration, as if nothing had ever been sent.
    pub fn reset(&mut self) {
        *self = Self {
            persistent_keepalive: self.persistent_keepalive,
            first_keepalive: self.persistent_keepalive.is_some(),
            ..Self::default()
        };
    }

    /// Whether the peer sends on a session that it will not renew and that is about to expire
    /// (kernel `keep_key_fresh` of `receive.c`). True once a session.
    pub fn wants_fresh(&mut self, sessions: &SessionSet, marks: &Marks) -> bool {
        if self.kept_fresh {
            return false;
        }
        let Some(current) = &sessions.current else {
            return false;
        };
        let due = current.role() == Role::Initiator
            && marks
                .last_received
                .load()
                .is_some_and(|heard| heard.since(current.established()) >= KEEP_FRESH_AFTER);
        self.kept_fresh = due;
        due
    }

    /// When the next timer runs out, as far as is known: the data path's marks may move it.
    #[must_use]
    pub fn deadline(&self, marks: &Marks) -> Option<Instant> {
        [
            self.retransmit_at,
            self.deferred_to,
            self.zero_at,
            self.new_handshake_at(marks),
            send_keepalive_at(marks),
            self.persistent_at(marks),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// One timer that has run out by `now`, if there is one; ask again until there is none.
    /// `jitter` is any random number.
    pub fn expired(&mut self, now: Instant, marks: &Marks, jitter: u32) -> Option<Action> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if over(self.zero_at) {
            self.zero_at = None;
            return Some(Action::ZeroKeyMaterial);
        }
        if over(self.retransmit_at) {
            self.retransmit_at = None;
            if self.attempts > MAX_HANDSHAKE_ATTEMPTS {
                marks.unacknowledged_since.clear();
                // Residue of the handshake is wiped even if no session ever comes.
                self.zero_at.get_or_insert(now + ZERO_KEYS_AFTER);
                return Some(Action::GiveUp);
            }
            self.attempts += 1;
            return Some(Action::RetryHandshake);
        }
        if over(self.deferred_to) {
            let in_any_case = self.deferred_in_any_case;
            self.cancel_deferred();
            return Some(Action::DeferredHandshake { in_any_case });
        }
        if over(self.new_handshake_at(marks)) {
            marks.unanswered_since.clear();
            self.silence_jitter = jitter_from(jitter);
            return Some(Action::NewHandshake);
        }
        if over(send_keepalive_at(marks)) {
            marks.unacknowledged_since.clear();
            return Some(Action::SendKeepalive);
        }
        if over(self.persistent_at(marks)) {
            self.first_keepalive = false;
            self.persistent_fired = Some(now);
            return Some(Action::SendKeepalive);
        }
        None
    }

    fn cancel_deferred(&mut self) {
        self.deferred_to = None;
        self.deferred_in_any_case = false;
    }

    fn new_handshake_at(&self, marks: &Marks) -> Option<Instant> {
        let since = marks.unanswered_since.load()?;
        Some(since + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.silence_jitter)
    }

    fn persistent_at(&self, marks: &Marks) -> Option<Instant> {
        let interval = self.persistent_keepalive?;
        if self.first_keepalive {
            return Some(Instant::ZERO);
        }
        let last = marks.last_traversal.load().max(self.persistent_fired);
        Some(last.map_or(Instant::ZERO, |last| last + interval))
    }
}

fn send_keepalive_at(marks: &Marks) -> Option<Instant> {
    Some(marks.unacknowledged_since.load()? + KEEPALIVE_TIMEOUT)
}

/// To be called when the keepalive that [`Action::SendKeepalive`] asks for was sent: more data
/// that came while it was pending makes the next one due, as if it had come now.
pub fn keepalive_sent(now: Instant, marks: &Marks) {
    if marks.another_keepalive.swap(false, Relaxed) {
        marks.unacknowledged_since.store_if_none(now);
    }
}

/// Up to [`REKEY_TIMEOUT_JITTER_MAX`], in proportion to `random`.
fn jitter_from(random: u32) -> Duration {
    let max = REKEY_TIMEOUT_JITTER_MAX.as_nanos() as u64;
    Duration::from_nanos((max * u64::from(random)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_secs(1000 + secs)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn jitter_spans_a_third_of_a_second() {
        assert_eq!(jitter_from(0), Duration::ZERO);
        assert!(jitter_from(u32::MAX) < REKEY_TIMEOUT_JITTER_MAX);
        assert!(jitter_from(u32::MAX) > REKEY_TIMEOUT_JITTER_MAX - MS);
    }

    #[test]
    fn retransmits_nineteen_times_then_gives_up() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        let mut now = at(0);
        timers.initiation_sent(now, u32::MAX);
        for _ in 0..19 {
            let deadline = timers.deadline(&marks).unwrap();
            assert!(deadline > now + REKEY_TIMEOUT && deadline < now + REKEY_TIMEOUT + 333 * MS);
            assert_eq!(timers.expired(deadline - MS, &marks, 0), None);
            now = deadline;
            assert!(timers.may_initiate(now));
            assert_eq!(timers.expired(now, &marks, 0), Some(Action::RetryHandshake));
            timers.initiation_sent(now, u32::MAX);
        }
        now = timers.deadline(&marks).unwrap();
        marks.unacknowledged_since.store(now);
        assert_eq!(timers.expired(now, &marks, 0), Some(Action::GiveUp));
        assert_eq!(marks.unacknowledged_since.load(), None);
        assert!(!timers.is_initiating());
        assert_eq!(timers.deadline(&marks), Some(now + ZERO_KEYS_AFTER));
    }

    #[test]
    fn a_new_wish_restarts_the_count() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        for n in 0..60 {
            timers.initiation_sent(at(5 * n), 0);
            let fired = timers.expired(at(5 * n + 5), &marks, 0);
            assert_eq!(fired, Some(Action::RetryHandshake));
            timers.restart_attempts();
        }
    }

    #[test]
    fn an_early_initiation_is_deferred_not_forgotten() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        timers.response_sent(at(0));
        assert!(!timers.may_initiate(at(5) - MS));
        timers.defer_initiation(false);
        timers.defer_initiation(true);
        assert_eq!(timers.expired(at(5) - MS, &marks, 0), None);
        let deferred = |in_any_case| Some(Action::DeferredHandshake { in_any_case });
        assert_eq!(timers.expired(at(5), &marks, 0), deferred(true));
        assert_eq!(timers.expired(at(5), &marks, 0), None);
        timers.defer_initiation(false);
        assert_eq!(timers.expired(at(5), &marks, 0), deferred(false));
        timers.defer_initiation(true);
        timers.handshake_complete();
        assert_eq!(timers.deadline(&marks), None);
    }

    #[test]
    fn passive_keepalive_after_ten_seconds_and_another() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        marks.data_received(at(0));
        assert_eq!(timers.expired(at(10) - MS, &marks, 0), None);
        marks.data_received(at(9));
        assert_eq!(
            timers.expired(at(10), &marks, 0),
            Some(Action::SendKeepalive)
        );
        marks.authenticated_sent(at(10));
        keepalive_sent(at(10), &marks);
        assert_eq!(timers.expired(at(20) - MS, &marks, 0), None);
        assert_eq!(
            timers.expired(at(20), &marks, 0),
            Some(Action::SendKeepalive)
        );
        marks.authenticated_sent(at(20));
        keepalive_sent(at(20), &marks);
        assert_eq!(timers.deadline(&marks), None);
    }

    #[test]
    fn nothing_passive_where_data_was_sent_or_a_keepalive_received() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        marks.authenticated_received(at(0));
        assert_eq!(timers.deadline(&marks), None, "keepalives are not answered");
        marks.data_received(at(0));
        marks.data_sent(at(3));
        assert_eq!(
            timers.deadline(&marks),
            Some(at(18)),
            "only the silence is watched"
        );
        marks.authenticated_received(at(4));
        assert_eq!(timers.expired(at(500), &marks, 0), None);
    }

    #[test]
    fn silence_after_data_makes_a_new_handshake_with_jitter() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        marks.data_sent(at(0));
        marks.data_sent(at(14));
        assert_eq!(
            timers.expired(at(15), &marks, u32::MAX),
            Some(Action::NewHandshake)
        );
        assert_eq!(timers.expired(at(15), &marks, 0), None);
        marks.data_sent(at(20));
        assert_eq!(
            timers.expired(at(35), &marks, 0),
            None,
            "jitter from the last time"
        );
        let late = at(35) + REKEY_TIMEOUT_JITTER_MAX;
        assert_eq!(timers.expired(late, &marks, 0), Some(Action::NewHandshake));
    }

    #[test]
    fn persistent_keepalive_counts_from_any_traffic() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        timers.set_persistent_keepalive(NonZeroU16::new(25));
        assert_eq!(
            timers.expired(at(0), &marks, 0),
            Some(Action::SendKeepalive),
            "at once"
        );
        assert_eq!(
            timers.expired(at(25) - MS, &marks, 0),
            None,
            "even if it was not sent"
        );
        assert_eq!(
            timers.expired(at(25), &marks, 0),
            Some(Action::SendKeepalive)
        );
        marks.authenticated_received(at(40));
        assert_eq!(timers.deadline(&marks), Some(at(65)));
        // Setting what is set already sends nothing; another interval counts from then too.
        timers.set_persistent_keepalive(NonZeroU16::new(25));
        assert_eq!(timers.deadline(&marks), Some(at(65)));
        timers.set_persistent_keepalive(NonZeroU16::new(5));
        assert_eq!(timers.deadline(&marks), Some(at(45)));
        timers.set_persistent_keepalive(None);
        assert_eq!(timers.deadline(&marks), None);
        timers.set_persistent_keepalive(NonZeroU16::new(5));
        assert_eq!(
            timers.expired(at(41), &marks, 0),
            Some(Action::SendKeepalive)
        );
    }

    #[test]
    fn keys_are_zeroed_three_lifetimes_after_the_last_session() {
        let (mut timers, marks) = (Timers::default(), Marks::default());
        timers.session_derived(at(0));
        timers.session_derived(at(100));
        assert_eq!(timers.expired(at(639), &marks, 0), None);
        assert_eq!(
            timers.expired(at(640), &marks, 0),
            Some(Action::ZeroKeyMaterial)
        );
        assert_eq!(timers.deadline(&marks), None);
    }
}
