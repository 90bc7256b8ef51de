//! What the data path leaves for the timers: a few words a peer, written once a batch.
//!
//! The kernel arms and cancels timers from its data path (`timers.c`). Here workers only note
//! *when* things happened and the control side derives every deadline from that, so that the
//! data path owns no timer and the timers stay a pure function of marks and `now`.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::time::{AtomicInstant, Instant};

/// The marks of one peer.
#[derive(Debug, Default)]
pub struct Marks {
    /// The first data packet sent since the peer was last heard: after
    /// `KEEPALIVE_TIMEOUT + REKEY_TIMEOUT` of silence a new handshake is due
    /// (`timer_new_handshake`).
    pub unanswered_since: AtomicInstant,
    /// The first data packet received since anything was last sent: after `KEEPALIVE_TIMEOUT`
    /// an empty packet is due (`timer_send_keepalive`).
    pub unacknowledged_since: AtomicInstant,
    /// More data came while that keepalive was pending (`timer_need_another_keepalive`).
    pub another_keepalive: AtomicBool,
    /// The last authenticated packet of any kind, sent or received
    /// (`timer_persistent_keepalive` counts from here).
    pub last_traversal: AtomicInstant,
    /// The last authenticated packet of any kind received.
    pub last_received: AtomicInstant,
    /// A handshake was asked for. Stays set until it is retried, done or given up, and so keeps
    /// workers from asking for it per packet.
    handshake_wanted: AtomicBool,
}

impl Marks {
    /// Transport data with contents was sent.
    pub fn data_sent(&self, now: Instant) {
        self.unanswered_since.store_if_none(now);
        self.authenticated_sent(now);
    }

    /// Any authenticated message was sent: data, keepalive or handshake.
    pub fn authenticated_sent(&self, now: Instant) {
        self.unacknowledged_since.clear();
        self.last_traversal.store(now);
    }

    /// Transport data with contents was received and authenticated.
    pub fn data_received(&self, now: Instant) {
        self.authenticated_received(now);
        if !self.unacknowledged_since.store_if_none(now) {
            self.another_keepalive.store(true, Relaxed);
        }
    }

    /// Any authenticated message was received: data, keepalive or handshake.
    pub fn authenticated_received(&self, now: Instant) {
        self.unanswered_since.clear();
        self.last_traversal.store(now);
        self.last_received.store(now);
    }

    /// Asks for a handshake; true for the first to ask since the last one began.
    pub fn want_handshake(&self) -> bool {
        !self.handshake_wanted.load(Relaxed) && !self.handshake_wanted.swap(true, Relaxed)
    }

    /// Whether a handshake is asked for.
    pub fn handshake_is_wanted(&self) -> bool {
        self.handshake_wanted.load(Relaxed)
    }

    /// The wish is fulfilled, or given up, or could not be handed on: workers may ask again.
    pub fn handshake_begun(&self) {
        self.handshake_wanted.store(false, Relaxed);
    }
}
