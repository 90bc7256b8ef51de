//! The handle through which peers of a running node are changed and seen.

use core::borrow::Borrow;
use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::crypto::x25519::clamped;
use crate::crypto::{PrivateKey, PublicKey};
use crate::engine::handshakes::PeerConfig;
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::runtime::clock::monotonic;
use crate::runtime::control_thread::Stopped;
use crate::runtime::node::Node;
use crate::time::Instant;

use super::events::Publisher;
use super::kubespan::LocalEndpoints;
use super::kubespan::rotation::{Rotation, Seen};
use super::plan::Applied;
use super::registry::{self, API, ConfigChange, Plane, Registry, Rejection, Turn};
use super::spec::{PeerSpec, SpecChange};
use super::status::{PeerState, PeerStatus};

/// Changes and shows the peers of a running node. Any thread may call it; calls that change
/// something wait for each other, workers wait for none.
#[derive(Debug)]
pub struct Control {
    pub(super) node: Arc<Node>,
    pub(super) clock: fn() -> Instant,
    registry: Mutex<Registry>,
    /// Locked after the registry, if both are.
    identity: Mutex<Identity>,
    pub(super) events: Publisher,
}

/// This node's keys.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) public_key: PublicKey,
    /// `None` where nobody has set one.
    pub(super) private_key: Option<PrivateKey>,
}

/// A peer that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) spec: PeerSpec,
    pub(super) peer: Arc<Peer>,
    pub(super) rotation: Rotation,
    /// The last handshake shown, with the wall clock's time for it: shown the same again.
    pub(super) handshake_shown: Option<(Instant, Duration)>,
}

impl Control {
    /// `has_identity`: somebody chose the node's key.
    pub(crate) fn new(node: Arc<Node>, has_identity: bool) -> Self {
        let (private_key, public_key) = node.identity();
        let identity = Identity {
            public_key: *public_key,
            private_key: has_identity.then(|| clamped(private_key)),
        };
        Self {
            node,
            clock: monotonic,
            registry: Mutex::default(),
            identity: Mutex::new(identity),
            events: Publisher::default(),
        }
    }

    /// This node's identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.identity().public_key
    }

    /// The mark of outer packets (`SO_MARK`); 0 for none.
    #[must_use]
    pub fn fwmark(&self) -> u32 {
        self.node.outer().fwmark()
    }

    /// The UDP port that is bound.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        self.node.outer().listen_port()
    }

    /// Makes `specs` the whole set of peers. Only differences touch what runs: a peer that did
    /// not change keeps its session, its endpoint and its counters, and so does one of which
    /// only prefixes, keepalive or label changed. A spec that cannot be applied is refused alone
    /// and listed in [`Applied::rejected`]; a peer that runs under it stays as it was, less the
    /// prefixes that `specs` give to others.
    ///
    /// All prefixes change in one step: no packet sees half of a new set.
    ///
    /// Where the node has other [`Source`](super::Source)s, `specs` are the API's share: those of
    /// the others stay, and of specs in conflict the API's win.
    ///
    /// # Errors
    /// [`Stopped`] where the node was shut down.
    pub fn apply(&self, specs: &[PeerSpec]) -> Result<Applied, Stopped> {
        self.apply_from(API, specs)
    }

    /// Changes single peers of those given to [`Control::apply`] or here before, and leaves all
    /// others alone: the outcome is that of `apply` with the changed set. The cost is that of the
    /// changes, however many peers and prefixes there are; only where two peers want the same
    /// prefix is everything judged anew. All prefixes change in one step.
    ///
    /// [`Applied`] tells of the peers that are mentioned, and of all that were judged.
    ///
    /// ```no_run
    /// # fn change(plane: &ringspan::Dataplane, peer: ringspan::crypto::PublicKey)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use ringspan::control::SpecChange;
    ///
    /// let prefix = "10.244.7.0/24".parse()?;
    /// let applied = plane.control().update(&[SpecChange::Allow { peer, prefix }])?;
    /// for (peer, reason) in applied.rejected {
    ///     eprintln!("{peer}: {reason}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Stopped`] where the node was shut down.
    pub fn update(&self, changes: &[SpecChange]) -> Result<Applied, Stopped> {
        self.update_from(API, changes)
    }

    /// [`Control::apply`] for the source with this number; the API has 0. Lower numbers win.
    pub(crate) fn apply_from(&self, source: usize, specs: &[PeerSpec]) -> Result<Applied, Stopped> {
        let (now, own) = ((self.clock)(), self.public_key());
        let mut registry = self.registry();
        let applied = registry.replace(&*self.node, &own, now, source, specs)?;
        drop(registry);
        self.look();
        self.events.applied(&applied);
        Ok(applied)
    }

    /// [`Control::update`] for the source with this number.
    pub(crate) fn update_from(
        &self,
        source: usize,
        changes: &[SpecChange],
    ) -> Result<Applied, Stopped> {
        let (now, own) = ((self.clock)(), self.public_key());
        let mut registry = self.registry();
        let applied = registry.update(&*self.node, &own, now, source, changes)?;
        drop(registry);
        // Changes cost what they are: whoever listens is told at the next look of the node.
        self.events.also_applied(&applied);
        Ok(applied)
    }

    /// How many peers the source with this number wants.
    pub(crate) fn wanted_from(&self, source: usize) -> usize {
        self.registry().wanted_from(source)
    }

    /// What is refused now, whichever change it came with.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        self.registry().rejections().to_vec()
    }

    /// Gives the next endpoint its turn, at each peer where that is due; tells at how many. The
    /// node calls this every second.
    ///
    /// # Errors
    /// [`Stopped`] where the node was shut down.
    pub fn tick(&self) -> Result<usize, Stopped> {
        let now = (self.clock)();
        self.registry().tick(&*self.node, now)
    }

    /// Restricts which endpoints of peers are tried. A peer that is up stays where it is.
    pub fn set_local_endpoints(&self, local: LocalEndpoints) {
        self.registry().local = local;
    }

    /// Every peer as it is now, in the order of their keys.
    #[must_use]
    pub fn statuses(&self) -> Vec<PeerStatus> {
        let now = (self.clock)();
        self.registry()
            .peers
            .values()
            .map(|running| running.status(now))
            .collect()
    }

    pub(super) fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        // A caller that panicked in between left whole entries behind.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plane for Node {
    fn mesh(&self) -> &Mesh {
        Self::mesh(self)
    }

    fn introduce(
        &self,
        new: Vec<(Arc<Peer>, PeerConfig)>,
        changes: Vec<ConfigChange>,
    ) -> Result<Vec<Rejection>, Stopped> {
        self.control()
            .run(move |handshakes, _, _| registry::introduce(handshakes, new, changes))
    }

    fn conclude(&self, removed: Vec<PublicKey>, renew: Vec<PublicKey>) -> Result<(), Stopped> {
        self.control().run(move |handshakes, now, out| {
            registry::conclude(handshakes, now, out, &removed, &renew);
        })
    }

    fn turn(&self, turns: Vec<Turn>) -> Result<(), Stopped> {
        self.control()
            .run(move |handshakes, now, out| registry::turn(handshakes, now, out, turns))
    }

    fn are_initiating(&self, peers: Vec<PublicKey>) -> Result<Vec<bool>, Stopped> {
        self.control().run(move |handshakes, _, _| {
            let initiating = peers.iter().map(|key| handshakes.is_initiating(key));
            initiating.collect()
        })
    }

    fn wake(&self) {
        self.wake_workers();
    }
}

impl Borrow<PeerSpec> for Running {
    fn borrow(&self) -> &PeerSpec {
        &self.spec
    }
}

impl Running {
    /// One that has no endpoint yet.
    pub(super) fn idle(spec: PeerSpec) -> Self {
        Self {
            peer: Arc::new(Peer::new(spec.public_key)),
            rotation: Rotation::default(),
            handshake_shown: None,
            spec,
        }
    }

    pub(super) fn new(spec: PeerSpec, now: Instant, local: &LocalEndpoints) -> Self {
        let mut running = Self::idle(spec);
        running.advance(now, local, false);
        running
    }

    /// Takes a new spec; true where a handshake with another endpoint is due.
    pub(super) fn change(&mut self, spec: PeerSpec, now: Instant, local: &LocalEndpoints) -> bool {
        let moved = spec.endpoints != self.spec.endpoints;
        self.spec = spec;
        let endpoints = local.admitted(&self.spec.endpoints);
        let last = self.rotation.last_used();
        // A peer that answers where it is keeps its endpoint, listed or not; one that is being
        // tried where it is still listed has the rest of its time.
        let keeps =
            self.state(now) == PeerState::Up || last.is_some_and(|last| endpoints.contains(&last));
        match self.rotation.next(&endpoints, self.active()) {
            Some(next) if moved && !keeps => {
                self.rotation.choose(now, next);
                self.peer.set_endpoint(Endpoint::from(next));
                self.is_standing()
            }
            _ => false,
        }
    }

    /// Gives the next endpoint its turn if that is due; tells which.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        local: &LocalEndpoints,
        initiating: bool,
    ) -> Option<SocketAddr> {
        let seen = Seen {
            endpoints: &local.admitted(&self.spec.endpoints),
            active: self.active(),
            last_handshake: self.peer.last_handshake.load(),
            standing: self.is_standing(),
            initiating,
        };
        let next = self.rotation.advance(now, &seen);
        if let Some(next) = next {
            self.peer.set_endpoint(Endpoint::from(next));
        }
        next
    }

    /// The endpoints that are tried at once with the one that has its turn.
    pub(super) fn rivals(&self, local: &LocalEndpoints) -> Vec<SocketAddr> {
        self.rotation.rivals(&local.admitted(&self.spec.endpoints))
    }

    /// Whether there is another endpoint to try.
    pub(super) fn has_choice(&mut self, local: &LocalEndpoints) -> bool {
        // What most are like costs nothing: this is asked of every peer every second.
        if let [only] = self.spec.endpoints[..]
            && self.rotation.last_used() == Some(only)
            && self.active() == Some(only)
        {
            self.rotation.rest();
            return false;
        }
        let endpoints = local.admitted(&self.spec.endpoints);
        let choice = self.rotation.next(&endpoints, self.active()).is_some();
        if !choice {
            self.rotation.rest();
        }
        choice
    }

    pub(super) fn active(&self) -> Option<SocketAddr> {
        self.peer.endpoint().map(|endpoint| endpoint.remote)
    }

    /// Whether the peer is to have a session at all times.
    pub(super) fn is_standing(&self) -> bool {
        self.spec.persistent_keepalive.is_some()
    }

    pub(super) fn state(&self, now: Instant) -> PeerState {
        self.rotation.state(now, self.peer.last_handshake.load())
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = (Arc<Peer>, IpNet)> + '_ {
        self.spec
            .allowed_ips
            .iter()
            .map(|&prefix| (Arc::clone(&self.peer), prefix))
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        let Self {
            spec,
            peer,
            rotation,
            ..
        } = self;
        let last_handshake = peer.last_handshake.load();
        PeerStatus {
            public_key: spec.public_key,
            label: spec.label.clone(),
            endpoint: self.active(),
            state: self.state(now),
            receive_bytes: peer.counters.rx_bytes(),
            transmit_bytes: peer.counters.tx_bytes(),
            receive_packets: peer.counters.rx_packets(),
            transmit_packets: peer.counters.tx_packets(),
            last_handshake: last_handshake.map(|at| now.since(at)),
            last_used_endpoint: rotation.last_used(),
            last_endpoint_change: rotation.last_change().map(|at| now.since(at)),
            allowed_ips: spec.allowed_ips.clone(),
            has_preshared_key: spec.preshared_key.is_some(),
            persistent_keepalive: spec.persistent_keepalive.map(NonZeroU16::get),
        }
    }
}

#[cfg(test)]
mod tests;
