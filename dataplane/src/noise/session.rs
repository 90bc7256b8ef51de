//! A session: one pair of transport keys and what must be remembered with them.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::constants::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
};
use super::replay::ReplayWindow;
use crate::crypto::AeadKey;
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
#[derive(Debug)]
pub struct Session {
    keys: SessionKeys,
    established: Instant,
    next_counter: AtomicU64,
    replay: Mutex<ReplayWindow>,
}

impl Session {
    /// A session whose handshake ended at `established`.
    #[must_use]
    pub fn new(keys: SessionKeys, established: Instant) -> Self {
        Self {
            keys,
            established,
            next_counter: AtomicU64::new(0),
            replay: Mutex::default(),
        }
    }

    /// The transport keys and indices.
    #[must_use]
    pub fn keys(&self) -> &SessionKeys {
        &self.keys
    }

    /// When the handshake ended.
    #[must_use]
    pub fn established(&self) -> Instant {
        self.established
    }

    /// Takes `count` consecutive sending counters and returns the first; `None` once they would
    /// reach [`REJECT_AFTER_MESSAGES`].
    pub fn reserve_counters(&self, count: u64) -> Option<u64> {
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
            || (self.keys.role == Role::Initiator
                && now.since(self.established) >= REKEY_AFTER_TIME)
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
pub struct Sessions(ArcSwap<SessionSet>);

impl Sessions {
    /// The sessions as they are now.
    pub fn load(&self) -> Guard<Arc<SessionSet>> {
        self.0.load()
    }

    /// Adds a session whose handshake has just ended (kernel `add_new_keypair`).
    ///
    /// The initiator may use it at once: its peer has it already. The responder keeps it aside
    /// until the initiator proves by its first packet that it has it too.
    pub fn install(&self, session: &Arc<Session>) {
        let new = || Some(Arc::clone(session));
        self.update(|set| match session.keys.role {
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
        // The load first: it is all that happens in steady state.
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
        waits(&before)
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
        self.0.rcu(|set| change(set))
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
        [&set.current, &set.previous, &set.next].map(|slot| {
            slot.as_ref()
                .map_or(0, |session| session.keys().local_index)
        })
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
