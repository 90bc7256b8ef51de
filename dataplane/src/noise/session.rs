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

/// A peer's sessions: read by workers without a lock, replaced whole.
#[derive(Debug, Default)]
pub struct Sessions(ArcSwap<SessionSet>);

impl Sessions {
    /// The sessions as they are now.
    pub fn load(&self) -> Guard<Arc<SessionSet>> {
        self.0.load()
    }

    /// Replaces the set by what `change` makes of it; `change` may run several times when
    /// control and a worker meet. Returns what was there before.
    pub fn update(&self, mut change: impl FnMut(&SessionSet) -> SessionSet) -> Arc<SessionSet> {
        self.0.rcu(|set| change(set))
    }
}
