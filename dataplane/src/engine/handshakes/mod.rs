//! The control side of a node's protocol: handshakes, cookies and timers of all its peers.
//!
//! Pure: datagrams, wishes and time in; datagrams and news out. What workers must know it
//! publishes where they read it: sessions in [`Peer::sessions`], receiver indices in
//! [`Mesh::indices`](crate::mesh::Mesh). It learns what they do from each peer's
//! [`Marks`](crate::noise::Marks).
//!
//! ```text
//!  handshake messages ─► receive ─┐
//!  wishes of workers  ─► request ─┼─► Output::Send, SessionReady, HandshakeFailed
//!  the clock          ─► tick    ─┘
//! ```
//!
//! One thread owns it. Nothing here is on the path of data; a handshake costs four X25519
//! agreements (about 100 µs), and what has no valid mac1, or under load no valid cookie, costs
//! none.

mod peer;
mod receive;
mod schedule;
mod statistics;
#[cfg(test)]
mod tests;

use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU16;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::{
    AgreementError, KeyPair, NoRandomness, PresharedKey, PrivateKey, PublicKey, Random,
};
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::noise::constants::MAX_PEERS;
use crate::noise::cookie::Checker;
use crate::noise::handshake::Remote;
use crate::noise::ratelimit::{Rate, RateLimiter};
use crate::time::{Instant, Now};

use peer::{Context, PeerState};
use receive::Load;
pub use receive::Refusal;
use schedule::Schedule;
pub use statistics::Statistics;

/// How many handshake messages a second one source may send before it, and it alone, is asked for
/// a cookie although the node is not under load. Generous: a site behind one address may have many
/// peers. (The kernel has no such rule, so there one source that fills the queue makes every
/// other one fetch a cookie.)
const UNPROVED_RATE: Rate = Rate {
    per_second: 256,
    burst: 256,
};

/// What is configured of a peer's handshakes.
#[derive(Clone, Debug, Default)]
pub struct PeerConfig {
    /// The preshared key; all zero for none.
    pub preshared_key: PresharedKey,
    /// Seconds without traffic after which an empty packet is sent; `None` for never.
    pub persistent_keepalive: Option<NonZeroU16>,
}

/// What is to be done, or known.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output<'a> {
    /// Send this datagram. Already counted in the peer's totals.
    Send {
        /// Where to.
        to: Endpoint,
        /// The UDP payload.
        datagram: &'a [u8],
        /// The outer TOS or traffic-class octet.
        tos: u8,
        /// The peer; `None` for cookie replies, whose receiver has proved nothing.
        peer: Option<&'a Arc<Peer>>,
    },
    /// The peer has a session to send with: what was staged may go. For sessions that this end
    /// has initiated; those that it has answered become ready in the data path
    /// ([`Peer::confirm`]).
    SessionReady {
        /// The peer.
        peer: &'a Arc<Peer>,
    },
    /// No response to any initiation: what was staged may be dropped.
    HandshakeFailed {
        /// The peer.
        peer: &'a Arc<Peer>,
    },
}

/// Takes [`Output`]s as they come.
pub type Sink<'a> = &'a mut dyn FnMut(Output<'_>);

/// Why a node cannot start or change its identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The private key cannot be used.
    #[error("the private key cannot be used: {0}")]
    Key(#[from] AgreementError),
    /// No randomness for secrets.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// Why a peer is not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddPeerError {
    /// The peer would be this node.
    #[error("peer {0} is this node itself: give the other node's public key")]
    OwnKey(PublicKey),
    /// No agreement is possible with the key.
    #[error("peer {key} cannot be reached: {reason}")]
    UnusableKey {
        /// The peer's key.
        key: PublicKey,
        /// Why.
        reason: AgreementError,
    },
    /// The peer exists.
    #[error("peer {0} exists already: remove it first, or change it")]
    Exists(PublicKey),
    /// The node is full.
    #[error("there are {MAX_PEERS} peers already, which is the most there can be")]
    TooMany,
}

/// The handshakes, cookies and timers of a node.
pub struct Handshakes {
    mesh: Arc<Mesh>,
    random: Box<dyn Random>,
    identity: KeyPair,
    checker: Checker,
    load: Load,
    unproved: RateLimiter,
    /// Ordered, so that a run with the same inputs gives the same outputs.
    peers: BTreeMap<PublicKey, PeerState>,
    schedule: Schedule,
    statistics: Statistics,
}

impl Handshakes {
    /// A node with `private_key` and no peers, which publishes into `mesh`. `random` is
    /// [`OsRandom`](crate::crypto::OsRandom) but for simulations.
    ///
    /// # Errors
    /// [`IdentityError`] where the key cannot be loaded or `random` fails.
    pub fn new(
        private_key: &PrivateKey,
        mesh: Arc<Mesh>,
        mut random: Box<dyn Random>,
    ) -> Result<Self, IdentityError> {
        let identity = KeyPair::new(private_key)?;
        let checker = Checker::new(identity.public(), &mut *random)?;
        let seed = [random.next_u64()?, random.next_u64()?];
        Ok(Self {
            mesh,
            random,
            identity,
            checker,
            load: Load::default(),
            unproved: RateLimiter::new(UNPROVED_RATE, seed),
            peers: BTreeMap::new(),
            schedule: Schedule::default(),
            statistics: Statistics::default(),
        })
    }

    /// This node's public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.identity.public()
    }

    /// What has been sent, accepted and refused so far.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Adds a peer. With a persistent keepalive its handshake begins at the next
    /// [`tick`](Self::tick), as soon as it has an endpoint.
    ///
    /// # Errors
    /// [`AddPeerError`], with nothing changed.
    pub fn add_peer(&mut self, peer: Arc<Peer>, config: PeerConfig) -> Result<(), AddPeerError> {
        let key = *peer.public_key();
        if key == *self.public_key() {
            return Err(AddPeerError::OwnKey(key));
        }
        if self.peers.contains_key(&key) {
            return Err(AddPeerError::Exists(key));
        }
        if self.peers.len() >= MAX_PEERS {
            return Err(AddPeerError::TooMany);
        }
        let remote = Remote::new(&self.identity, key, config.preshared_key)
            .map_err(|reason| AddPeerError::UnusableKey { key, reason })?;
        let mut state = PeerState::new(peer, remote);
        state
            .timers
            .set_persistent_keepalive(config.persistent_keepalive);
        self.schedule.note(&mut state);
        self.peers.insert(key, state);
        Ok(())
    }

    /// Removes a peer: its sessions and indices are gone when this returns. False where there is
    /// none.
    pub fn remove_peer(&mut self, key: &PublicKey) -> bool {
        match self.peers.remove(key) {
            Some(mut state) => {
                state.forget_keys(&self.mesh);
                true
            }
            None => false,
        }
    }

    /// Sets the preshared key for all handshakes that are not finished yet; sessions stay. False
    /// where there is no such peer.
    pub fn set_preshared_key(&mut self, key: &PublicKey, preshared_key: PresharedKey) -> bool {
        let Some(state) = self.peers.get_mut(key) else {
            return false;
        };
        state.remote.preshared_key = preshared_key;
        true
    }

    /// Sets or ends persistent keepalives; the first is due at once. False where there is no such
    /// peer.
    pub fn set_persistent_keepalive(
        &mut self,
        key: &PublicKey,
        seconds: Option<NonZeroU16>,
    ) -> bool {
        let Some(state) = self.peers.get_mut(key) else {
            return false;
        };
        state.timers.set_persistent_keepalive(seconds);
        self.schedule.note(state);
        true
    }

    /// Changes this node's identity. No session is sent on any more, those that exist receive
    /// until they expire, and all handshakes begin anew. A peer that has the new key itself is
    /// removed and returned.
    ///
    /// # Errors
    /// [`IdentityError`], with nothing changed.
    pub fn set_private_key(
        &mut self,
        private_key: &PrivateKey,
    ) -> Result<Option<Arc<Peer>>, IdentityError> {
        self.identity = KeyPair::new(private_key)?;
        self.checker.set_public_key(self.identity.public());
        let own = *self.identity.public();
        let itself = self.peers.get(&own).map(|state| Arc::clone(&state.peer));
        self.remove_peer(&own);
        for (key, state) in &mut self.peers {
            let preshared_key = state.remote.preshared_key.clone();
            // Whether a key is of low order does not depend on the private key, and this one has
            // passed.
            if let Ok(remote) = Remote::new(&self.identity, *key, preshared_key) {
                state.remote = remote;
            }
            state.expire(&self.mesh);
            self.schedule.note(state);
        }
        Ok(itself)
    }

    /// All peers, in the order of their keys.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values().map(|state| &state.peer)
    }

    /// Forgets all sessions and handshakes of all peers at once: the machine was suspended or
    /// cloned, so that counters may have been used elsewhere.
    pub fn forget_sessions(&mut self) {
        self.statistics.interruptions += 1;
        for state in self.peers.values_mut() {
            state.forget_keys(&self.mesh);
            state.timers.reset();
            state.peer.marks.handshake_begun();
            self.schedule.note(state);
        }
    }

    /// How many handshake messages wait for [`receive`](Self::receive), of how many that may. A
    /// queue filled to an eighth is load: for a second from then, cookies are asked for (kernel
    /// `wg_receive_handshake_packet`).
    pub fn set_load(&mut self, queued: usize, capacity: usize) {
        self.load.set(queued, capacity);
    }

    /// A worker asks for a session with `peer`
    /// ([`Marks::want_handshake`](crate::noise::Marks::want_handshake)). Does nothing where it
    /// has a good one meanwhile.
    pub fn request(&mut self, now: Now, peer: &PublicKey, out: Sink<'_>) {
        if let Some((state, mut context)) = self.enter(peer, now, out) {
            state.request(&mut context);
        }
        self.leave(peer);
    }

    /// Makes a new session with `peer` whether it has one or not: its endpoint was changed, say.
    /// Like all initiations it waits until [`REKEY_TIMEOUT`](crate::noise::constants::REKEY_TIMEOUT) has passed since the last one.
    pub fn renew(&mut self, now: Now, peer: &PublicKey, out: Sink<'_>) {
        if let Some((state, mut context)) = self.enter(peer, now, out) {
            state.renew(&mut context);
        }
        self.leave(peer);
    }

    /// Sends each initiation to these addresses too, beside the peer's endpoint, until a handshake
    /// with it is complete. It answers where the first copy reached it, and refuses the others as
    /// replays; wherever the answer comes from is its endpoint then.
    pub fn race(&mut self, peer: &PublicKey, rivals: Vec<SocketAddr>) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.rivals = rivals;
        }
    }

    /// Whether a handshake with `peer` is being tried and has not been answered yet.
    #[must_use]
    pub fn is_initiating(&self, peer: &PublicKey) -> bool {
        let state = self.peers.get(peer);
        state.is_some_and(|state| state.timers.is_initiating())
    }

    /// Runs all timers that are due, and returns when to call this next.
    pub fn tick(&mut self, now: Now, out: Sink<'_>) -> Instant {
        if self.schedule.begin_scan(now.monotonic) {
            let mut context = Context {
                mesh: &self.mesh,
                identity: &self.identity,
                random: &mut *self.random,
                statistics: &mut self.statistics,
                now,
                out: &mut *out,
            };
            for state in self.peers.values_mut() {
                state.run_timers(&mut context);
                state.scheduled = None;
                self.schedule.note(state);
            }
        }
        while let Some((at, key)) = self.schedule.due(now.monotonic) {
            let Some((state, mut context)) = self.enter(&key, now, &mut *out) else {
                continue;
            };
            // Entries are not taken out when a deadline moves: this may be an old one.
            if state.scheduled == Some(at) {
                state.scheduled = None;
                state.run_timers(&mut context);
                self.leave(&key);
            }
        }
        self.schedule.next()
    }

    /// When [`tick`](Self::tick) is to be called next. Every other method may bring it forward.
    #[must_use]
    pub fn next_tick(&self) -> Instant {
        self.schedule.next()
    }

    /// The state of a peer, and everything it may use.
    fn enter<'a>(
        &'a mut self,
        key: &PublicKey,
        now: Now,
        out: Sink<'a>,
    ) -> Option<(&'a mut PeerState, Context<'a>)> {
        let state = self.peers.get_mut(key)?;
        let context = Context {
            mesh: &self.mesh,
            identity: &self.identity,
            random: &mut *self.random,
            statistics: &mut self.statistics,
            now,
            out,
        };
        Some((state, context))
    }

    /// Schedules what has changed since [`enter`](Self::enter).
    fn leave(&mut self, key: &PublicKey) {
        if let Some(state) = self.peers.get_mut(key) {
            self.schedule.note(state);
        }
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes")
            .field("public_key", self.public_key())
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}
