//! A session: one pair of transport keys and what must be remembered with them.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::constants::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
};
use super::replay::ReplayWindow;
use crate::crypto::{AeadKey, prefetch};
use crate::time::Instant;

/// Which end made the handshake of a session. Only the initiator renews it by age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// This end sent the initiation.
    Initiator,
    /// This end sent the response.
    Responder,
}

/// What a finished handshake yields (WireGuard paper §5.4.5).
#[derive(Debug)]
pub struct SessionKeys {
    /// Seals what this end sends.
    pub sending: AeadKey,
    /// Opens what the peer sends.
    pub receiving: AeadKey,
    /// The receiver index that this end chose: it comes in with the peer's data.
    pub local_index: u32,
    /// The receiver index that the peer chose: it goes out with this end's data.
    pub remote_index: u32,
    /// Which end made the handshake.
    pub role: Role,
}

/// One session. Shared by control and workers; everything that changes is atomic or behind a
/// lock that a worker takes once a batch.
///
/// With thousands of peers each packet finds its session in memory and not in the cache, so what
/// sealing needs is in the first line of 64 bytes, and what opening needs in the first two.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Session {
    sending: AeadKey,
    next_counter: AtomicU64,
    established: Instant,
    remote_index: u32,
    role: Role,
    /// Its first packet made it current, which happens but once.
    promoted: AtomicBool,
    receiving: AeadKey,
    replay: Mutex<ReplayWindow>,
    local_index: u32,
}

/// Bytes of a cache line.
const LINE: usize = 64;

const _: () = assert!(
    offset_of!(Session, promoted) < LINE,
    "sealing needs one line"
);
const _: () = assert!(
    offset_of!(Session, receiving) == LINE
        && offset_of!(Session, replay) + size_of::<Mutex<ReplayWindow>>() - ReplayWindow::OLDER
            == 2 * LINE,
    "opening needs another one"
);

impl Session {
    /// A session whose handshake ended at `established`.
    #[must_use]
    pub fn new(keys: SessionKeys, established: Instant) -> Self {
        Self {
            sending: keys.sending,
            next_counter: AtomicU64::new(0),
            established,
            remote_index: keys.remote_index,
            role: keys.role,
            promoted: AtomicBool::new(false),
            receiving: keys.receiving,
            replay: Mutex::default(),
            local_index: keys.local_index,
        }
    }

    /// Seals what this end sends.
    #[must_use]
    pub fn sending(&self) -> &AeadKey {
        &self.sending
    }

    /// Opens what the peer sends.
    #[must_use]
    pub fn receiving(&self) -> &AeadKey {
        &self.receiving
    }

    /// The receiver index that this end chose: it comes in with the peer's data.
    #[must_use]
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The receiver index that the peer chose: it goes out with this end's data.
    #[must_use]
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Which end made the handshake.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// When the handshake ended.
    #[must_use]
    pub fn established(&self) -> Instant {
        self.established
    }

    /// Takes `count` consecutive sending counters and returns the first; `None` once they would
    /// reach [`REJECT_AFTER_MESSAGES`].
    pub fn reserve_counters(&self, count: u64) -> Option<u64> {
        // Far from the limit nothing can go wrong, and adding is all there is to do.
        let is_far = self.next_counter.load(Relaxed) < REKEY_AFTER_MESSAGES;
        if is_far && count <= u32::MAX.into() {
            return Some(self.next_counter.fetch_add(count, Relaxed));
        }
        // An update loop and not `fetch_add`: refused reservations must not add up to a wrap.
        self.next_counter
            .fetch_update(Relaxed, Relaxed, |next| {
                next.checked_add(count)
                    .filter(|&end| end <= REJECT_AFTER_MESSAGES)
            })
            .ok()
    }

    /// The replay window of the receiving direction. Lock it once a batch, not once a packet.
    pub fn replay(&self) -> MutexGuard<'_, ReplayWindow> {
        // A worker that panicked while it held the window left it consistent: every update is
        // one bit.
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls for what sealing will look at, from memory.
    #[inline]
    pub fn prefetch_to_seal(&self) {
        prefetch(&self.sending);
    }

    /// Calls for what opening will look at, from memory.
    #[inline]
    pub fn prefetch_to_open(&self) {
        prefetch(&self.sending);
        prefetch(&self.receiving);
    }

    /// Whether the session is too old to open or seal anything.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        now.since(self.established) >= REJECT_AFTER_TIME
    }

    /// Whether a sender should ask for the next session (§6.2): by messages for either end, by
    /// age for the initiator.
    #[must_use]
    pub fn wants_rekey_on_send(&self, now: Instant) -> bool {
        self.next_counter.load(Relaxed) > REKEY_AFTER_MESSAGES
            || (self.role == Role::Initiator && now.since(self.established) >= REKEY_AFTER_TIME)
    }
}

/// The up to three sessions of a peer, as the kernel's `struct noise_keypairs` has them.
#[derive(Clone, Debug, Default)]
pub struct SessionSet {
    /// Seals everything that is sent.
    pub current: Option<Arc<Session>>,
    /// Still opens what was under way when `current` came.
    pub previous: Option<Arc<Session>>,
    /// Made as responder; becomes current with the first packet that it authenticates.
    pub next: Option<Arc<Session>>,
}

impl SessionSet {
    /// Whether `session` is one of them.
    #[must_use]
    pub fn contains(&self, session: &Arc<Session>) -> bool {
        [&self.current, &self.previous, &self.next]
            .into_iter()
            .flatten()
            .any(|own| Arc::ptr_eq(own, session))
    }
}

/// A peer's sessions: read by workers without a lock, replaced whole.
#[derive(Debug, Default)]
pub struct Sessions {
    set: ArcSwap<SessionSet>,
    /// The local index of the current session and [`IS_CURRENT`]; 0 where there is none.
    current_index: AtomicU64,
}

const IS_CURRENT: u64 = 1 << 32;

impl Sessions {
    /// The sessions as they are now.
    pub fn load(&self) -> Guard<Arc<SessionSet>> {
        self.set.load()
    }

    /// The receiver index of the current session, for who finds the session by it in a table that
    /// is loaded once a batch: a guard of each peer's sessions would cost several locked
    /// instructions. While others change the sessions, it may be of the one before.
    #[inline]
    pub fn current_index(&self) -> Option<u32> {
        let word = self.current_index.load(Relaxed);
        (word & IS_CURRENT != 0).then_some(word as u32)
    }

    /// Adds a session whose handshake has just ended (kernel `add_new_keypair`).
    ///
    /// The initiator may use it at once: its peer has it already. The responder keeps it aside
    /// until the initiator proves by its first packet that it has it too.
    pub fn install(&self, session: &Arc<Session>) {
        let new = || Some(Arc::clone(session));
        self.update(|set| match session.role {
            Role::Initiator => SessionSet {
                current: new(),
                // An unconfirmed session may be confirmed by a packet under way.
                previous: set.next.clone().or_else(|| set.current.clone()),
                next: None,
            },
            Role::Responder => SessionSet {
                current: set.current.clone(),
                previous: None,
                next: new(),
            },
        });
    }

    /// Makes `session` current if it was waiting for its first packet; tells whether it was.
    /// To be called when a packet of it is **authenticated** (kernel
    /// `wg_noise_received_with_keypair`).
    pub fn promote(&self, session: &Arc<Session>) -> bool {
        let waits = |set: &SessionSet| {
            set.next
                .as_ref()
                .is_some_and(|next| Arc::ptr_eq(next, session))
        };
        // In steady state nothing but this happens: an initiator's session never waits, and one
        // that was promoted does not wait again.
        if session.role == Role::Initiator || session.promoted.load(Relaxed) {
            return false;
        }
        if !waits(&self.load()) {
            return false;
        }
        let before = self.update(|set| {
            if !waits(set) {
                return set.clone();
            }
            SessionSet {
                current: set.next.clone(),
                previous: set.current.clone(),
                next: None,
            }
        });
        let promoted = waits(&before);
        if promoted {
            session.promoted.store(true, Relaxed);
        }
        promoted
    }

    /// Ends all sending: what is current may still open what is under way (kernel
    /// `wg_noise_expire_current_peer_keypairs`).
    pub fn retire(&self) {
        self.update(|set| SessionSet {
            current: None,
            previous: set.current.clone().or_else(|| set.previous.clone()),
            next: None,
        });
    }

    /// Forgets all sessions. Their keys are wiped when the last worker lets go of them.
    pub fn clear(&self) {
        self.update(|_| SessionSet::default());
    }

    /// Replaces the set by what `change` makes of it; `change` may run several times when
    /// control and a worker meet. Returns what was there before.
    pub fn update(&self, mut change: impl FnMut(&SessionSet) -> SessionSet) -> Arc<SessionSet> {
        let before = self.set.rcu(|set| change(set));
        // Whoever changes the set last finds its own change here and leaves its index; one that was
        // overtaken sees that it was.
        loop {
            let set = self.set.load();
            let current = set.current.as_ref();
            let word = current.map_or(0, |session| IS_CURRENT | u64::from(session.local_index));
            self.current_index.store(word, SeqCst);
            if ptr::eq(Arc::as_ptr(&self.set.load()), Arc::as_ptr(&set)) {
                return before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(role: Role, id: u32) -> Arc<Session> {
        let keys = SessionKeys {
            sending: [1; 32].into(),
            receiving: [2; 32].into(),
            local_index: id,
            remote_index: id,
            role,
        };
        Arc::new(Session::new(keys, Instant::from_secs(1000)))
    }

    /// The local indices of current, previous and next; 0 for none.
    fn layout(sessions: &Sessions) -> [u32; 3] {
        let set = sessions.load();
        let current = set.current.as_ref().map(|session| session.local_index());
        assert_eq!(sessions.current_index(), current);
        [&set.current, &set.previous, &set.next]
            .map(|slot| slot.as_ref().map_or(0, |session| session.local_index()))
    }

    #[test]
    fn initiator_uses_its_session_at_once() {
        let sessions = Sessions::default();
        for (id, expected) in [(1, [1, 0, 0]), (2, [2, 1, 0]), (3, [3, 2, 0])] {
            sessions.install(&session(Role::Initiator, id));
            assert_eq!(layout(&sessions), expected);
        }
    }

    #[test]
    fn responder_waits_for_the_first_packet() {
        let sessions = Sessions::default();
        sessions.install(&session(Role::Initiator, 1));
        sessions.install(&session(Role::Initiator, 2));
        let third = session(Role::Responder, 3);
        sessions.install(&third);
        assert_eq!(layout(&sessions), [2, 0, 3]);
        assert!(sessions.promote(&third));
        assert_eq!(layout(&sessions), [3, 2, 0]);
        assert!(!sessions.promote(&third), "only once");
        assert!(
            !sessions.promote(&session(Role::Responder, 3)),
            "only the very session"
        );
        assert_eq!(layout(&sessions), [3, 2, 0]);
    }

    #[test]
    fn a_session_never_confirmed_is_replaced_or_demoted() {
        let sessions = Sessions::default();
        sessions.install(&session(Role::Responder, 1));
        sessions.install(&session(Role::Responder, 2));
        assert_eq!(layout(&sessions), [0, 0, 2]);
        sessions.install(&session(Role::Initiator, 3));
        assert_eq!(layout(&sessions), [3, 2, 0]);
    }

    #[test]
    fn retired_sessions_still_open() {
        let sessions = Sessions::default();
        sessions.install(&session(Role::Initiator, 1));
        sessions.retire();
        assert_eq!(layout(&sessions), [0, 1, 0]);
        sessions.clear();
        assert_eq!(layout(&sessions), [0, 0, 0]);
    }

    #[test]
    fn the_current_index_is_right_once_all_changes_are_done() {
        let sessions = Sessions::default();
        for round in 0..200 {
            std::thread::scope(|scope| {
                for id in [1, 2] {
                    let (sessions, session) = (&sessions, session(Role::Initiator, id + round));
                    scope.spawn(move || {
                        sessions.install(&session);
                        if id == 2 {
                            sessions.retire();
                        }
                    });
                }
            });
            layout(&sessions);
        }
    }

    #[test]
    fn counters_are_given_out_once_near_the_limit_and_far_from_it() {
        for begin in [0, REKEY_AFTER_MESSAGES - 500, REJECT_AFTER_MESSAGES - 1000] {
            let session = session(Role::Initiator, 1);
            session.reserve_counters(begin).unwrap();
            let session = &session;
            let taken = std::thread::scope(|scope| {
                let take = || {
                    scope.spawn(|| {
                        let firsts = (0..100).filter_map(|_| session.reserve_counters(7));
                        firsts.collect::<Vec<_>>()
                    })
                };
                let both = [take(), take()];
                both.map(|taken| taken.join().unwrap()).concat()
            });
            let all: std::collections::BTreeSet<_> = taken.iter().collect();
            assert_eq!(all.len(), taken.len());
            assert!(taken.iter().all(|first| first + 7 <= REJECT_AFTER_MESSAGES));
        }
    }

    #[test]
    fn counters_end_at_the_limit() {
        let session = session(Role::Initiator, 1);
        assert_eq!(session.reserve_counters(REJECT_AFTER_MESSAGES - 1), Some(0));
        assert_eq!(session.reserve_counters(2), None);
        assert_eq!(session.reserve_counters(1), Some(REJECT_AFTER_MESSAGES - 1));
        assert_eq!(session.reserve_counters(1), None);
        assert_eq!(session.reserve_counters(u64::MAX), None);
    }

    #[test]
    fn only_the_initiator_renews_by_age_but_both_by_messages() {
        let (initiator, responder) = (session(Role::Initiator, 1), session(Role::Responder, 2));
        let at = |secs: u64| Instant::from_secs(1000 + secs);
        assert!(!initiator.wants_rekey_on_send(at(119)));
        assert!(initiator.wants_rekey_on_send(at(120)));
        assert!(!responder.wants_rekey_on_send(at(179)));
        assert!(!responder.is_expired(at(179)) && responder.is_expired(at(180)));
        assert!(responder.reserve_counters(REKEY_AFTER_MESSAGES).is_some());
        assert!(!responder.wants_rekey_on_send(at(1)));
        assert!(responder.reserve_counters(1).is_some());
        assert!(responder.wants_rekey_on_send(at(1)));
    }
}
