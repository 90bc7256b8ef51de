//! A peer as workers and control share it.

use core::mem::offset_of;
use std::sync::Arc;

use super::endpoint::{Endpoint, EndpointCell};
use super::traffic::PeerCounters;
use crate::crypto::{PublicKey, prefetch};
use crate::noise::{Marks, Session, Sessions};
use crate::time::{AtomicInstant, Instant};

/// One peer. What is not in here (preshared key, handshake state, timers) belongs to the control
/// side alone.
///
/// With thousands of peers each packet finds its peer in memory and not in the cache: what workers
/// touch is in three cache lines.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Peer {
    /// Session keys.
    pub sessions: Sessions,
    /// What the data path tells the timers.
    pub marks: Marks,
    endpoint: EndpointCell,
    /// Traffic totals.
    pub counters: PeerCounters,
    /// When the last handshake ended.
    pub last_handshake: AtomicInstant,
    public_key: PublicKey,
}

const _: () = assert!(offset_of!(Peer, endpoint) == 64 && offset_of!(Peer, counters) == 128);

impl Peer {
    /// A peer without session or endpoint.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            sessions: Sessions::default(),
            marks: Marks::default(),
            counters: PeerCounters::default(),
            last_handshake: AtomicInstant::none(),
            endpoint: EndpointCell::default(),
        }
    }

    /// The peer's identity.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Calls for what workers touch of the peer, from memory.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.sessions);
        prefetch(&self.endpoint);
        prefetch(&self.counters);
    }

    /// Where the peer is reached, if known.
    #[inline]
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.load()
    }

    /// Writes where the peer is reached into `endpoint`, if known; tells whether it is.
    #[inline]
    pub(crate) fn endpoint_into(&self, endpoint: &mut Endpoint) -> bool {
        self.endpoint.load_into(endpoint)
    }

    /// Notes where the peer is: from configuration, or (roaming, WireGuard paper §2.1) from an
    /// **authenticated** message, never from a cookie reply. Returns whether that was news.
    #[inline]
    pub fn set_endpoint(&self, endpoint: Endpoint) -> bool {
        self.endpoint.store(&endpoint)
    }

    /// Forgets which local address and interface the peer was last heard on, in case that is the
    /// cause of trouble: the kernel chooses anew.
    pub fn forget_source(&self) {
        self.endpoint
            .update(|endpoint| Endpoint::from(endpoint.remote));
    }

    /// To be called when a packet of `session` is **authenticated**: the first one confirms the
    /// handshake that this end has answered. True for that one: what waits for a session may go.
    pub fn confirm(&self, session: &Arc<Session>, now: Instant) -> bool {
        let confirmed = self.sessions.promote(session);
        if confirmed {
            self.last_handshake.store(now);
        }
        confirmed
    }
}
