//! A peer as workers and control share it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::endpoint::Endpoint;
use crate::crypto::PublicKey;
use crate::noise::{Marks, Session, Sessions};
use crate::time::{AtomicInstant, Instant};

/// Totals of one peer since it was added.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Outer bytes received in authenticated messages (as `wg show` counts them).
    pub rx_bytes: AtomicU64,
    /// Outer bytes sent.
    pub tx_bytes: AtomicU64,
    /// Inner packets received.
    pub rx_packets: AtomicU64,
    /// Inner packets sent.
    pub tx_packets: AtomicU64,
}

/// One peer. What is not in here (preshared key, handshake state, timers) belongs to the control
/// side alone.
#[derive(Debug)]
pub struct Peer {
    public_key: PublicKey,
    /// Session keys.
    pub sessions: Sessions,
    /// What the data path tells the timers.
    pub marks: Marks,
    /// Traffic totals.
    pub counters: PeerCounters,
    /// When the last handshake ended.
    pub last_handshake: AtomicInstant,
    endpoint: ArcSwapOption<Endpoint>,
}

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
            endpoint: ArcSwapOption::empty(),
        }
    }

    /// The peer's identity.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Where the peer is reached, if known.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.load().as_deref().copied()
    }

    /// Notes where the peer is: from configuration, or (roaming, WireGuard paper §2.1) from an
    /// **authenticated** message, never from a cookie reply. Returns whether that was news.
    pub fn set_endpoint(&self, endpoint: Endpoint) -> bool {
        let news = self.endpoint.load().as_deref() != Some(&endpoint);
        if news {
            // Roaming is rare: the allocation is not on the steady path.
            self.endpoint.store(Some(Arc::new(endpoint)));
        }
        news
    }

    /// Forgets which local address and interface the peer was last heard on, in case that is the
    /// cause of trouble: the kernel chooses anew.
    pub fn forget_source(&self) {
        // Not load and store: a worker may note a new endpoint at the same moment.
        self.endpoint.rcu(|endpoint| {
            let endpoint = endpoint.as_deref()?;
            Some(Arc::new(Endpoint::from(endpoint.remote)))
        });
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

    /// Adds to the receive totals; once a batch.
    pub fn count_received(&self, packets: u64, bytes: u64) {
        self.counters.rx_packets.fetch_add(packets, Relaxed);
        self.counters.rx_bytes.fetch_add(bytes, Relaxed);
    }

    /// Adds to the send totals; once a batch.
    pub fn count_sent(&self, packets: u64, bytes: u64) {
        self.counters.tx_packets.fetch_add(packets, Relaxed);
        self.counters.tx_bytes.fetch_add(bytes, Relaxed);
    }
}
