//! The handle through which peers of a running node are changed and seen.

use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tracing::debug;

use crate::crypto::{PrivateKey, PublicKey};
use crate::engine::handshakes::{AddPeerError, PeerConfig};
use crate::mesh::{Endpoint, Peer, TableUpdate};
use crate::runtime::clock::monotonic;
use crate::runtime::control_thread::Stopped;
use crate::runtime::node::Node;
use crate::time::Instant;

use super::events::{Publisher, Sight, Subscription};
use super::kubespan::LocalEndpoints;
use super::kubespan::rotation::{Rotation, Seen};
use super::plan::{Applied, Plan};
use super::source::merge;
use super::spec::{PeerSpec, RejectReason};
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
    events: Publisher,
}

/// This node's keys.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) public_key: PublicKey,
    /// `None` where nobody has set one.
    pub(super) private_key: Option<PrivateKey>,
}

/// The source that [`Control::apply`] is.
const API: usize = 0;

/// The peers that run.
pub(super) type Peers = BTreeMap<PublicKey, Running>;

#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) peers: Peers,
    /// What each source wants, by its number.
    wanted: BTreeMap<usize, Vec<PeerSpec>>,
    local: LocalEndpoints,
}

type Rejection = (PublicKey, RejectReason);

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
            private_key: has_identity.then(|| private_key.clone()),
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
        self.apply_from(API, specs.to_vec())
    }

    /// [`Control::apply`] for the source with this number; the API has 0. Lower numbers win.
    pub(crate) fn apply_from(
        &self,
        source: usize,
        specs: Vec<PeerSpec>,
    ) -> Result<Applied, Stopped> {
        let mut registry = self.registry();
        registry.wanted.insert(source, specs);
        let Registry {
            peers,
            wanted,
            local,
        } = &mut *registry;
        let specs = merge(wanted.values().map(Vec::as_slice));
        let applied = self.run(peers, local, &specs)?;
        drop(registry);
        self.look();
        self.events.applied(&applied);
        Ok(applied)
    }

    fn run(
        &self,
        peers: &mut BTreeMap<PublicKey, Running>,
        local: &LocalEndpoints,
        specs: &[PeerSpec],
    ) -> Result<Applied, Stopped> {
        let now = (self.clock)();
        let running = peers
            .iter()
            .map(|(key, running)| (*key, running.spec.clone()))
            .collect();
        let plan = Plan::new(&self.public_key(), &running, specs);
        let (new, refused) = self.introduce(plan.add, &plan.change, local)?;

        let mut applied = Applied {
            added: new.len(),
            changed: plan.change.len(),
            removed: plan.remove.len(),
            unchanged: plan.unchanged,
            rejected: plan.rejected,
        };
        applied.rejected.extend(refused);

        let mut moves = Moves::default();
        for key in &plan.remove {
            if let Some(gone) = peers.remove(key) {
                moves.take(&gone);
            }
        }
        let mut renew = Vec::new();
        for spec in plan.change {
            if let Some(running) = peers.get_mut(&spec.public_key) {
                moves.change(running, &spec.allowed_ips);
                if running.change(spec, now, local) {
                    renew.push(running.spec.public_key);
                }
            }
        }
        for running in new {
            moves.give(&running);
            peers.insert(running.spec.public_key, running);
        }
        // A peer whose new spec was refused stays, but not with what another has taken over: it
        // must be seen to lack that when the next set gives it back.
        for (key, _) in &applied.rejected {
            if let Some(stays) = peers.get_mut(key) {
                stays
                    .spec
                    .allowed_ips
                    .retain(|prefix| !moves.gives_away(prefix, key));
            }
        }
        self.node.mesh().update(|tables| moves.apply(tables));

        // Only now: until the prefixes were gone, workers could still meet the peer.
        let remove = plan.remove;
        self.node.control().run(move |handshakes, now, out| {
            for key in &remove {
                handshakes.remove_peer(key);
            }
            for key in &renew {
                handshakes.renew(now, key, out);
            }
        })?;
        self.node.wake_workers();
        Ok(applied)
    }

    /// Gives the next endpoint its turn, at each peer where that is due; tells at how many. The
    /// node calls this every second.
    ///
    /// # Errors
    /// [`Stopped`] where the node was shut down.
    pub fn tick(&self) -> Result<usize, Stopped> {
        let now = (self.clock)();
        let mut registry = self.registry();
        let Registry { peers, local, .. } = &mut *registry;
        // Most have one endpoint and are there: nothing to ask the control thread for.
        let movable: Vec<PublicKey> = peers
            .iter_mut()
            .filter_map(|(key, running)| running.has_choice(local).then_some(*key))
            .collect();
        if movable.is_empty() {
            return Ok(0);
        }
        let (movable, initiating) = self.node.control().run(move |handshakes, _, _| {
            let initiating: Vec<bool> = movable
                .iter()
                .map(|key| handshakes.is_initiating(key))
                .collect();
            (movable, initiating)
        })?;

        let (mut moved, mut turns) = (0, Vec::new());
        for (key, initiating) in movable.iter().zip(initiating) {
            let Some(running) = peers.get_mut(key) else {
                continue;
            };
            if let Some(next) = running.advance(now, local, initiating) {
                debug!("peer {key}: trying {next}");
                moved += 1;
                let rivals = running.rivals(local);
                turns.push((*key, rivals, running.is_standing()));
            }
        }
        if !turns.is_empty() {
            self.node.control().run(move |handshakes, now, out| {
                for (key, rivals, renew) in turns {
                    handshakes.race(&key, rivals);
                    if renew {
                        handshakes.renew(now, &key, out);
                    }
                }
            })?;
        }
        Ok(moved)
    }

    /// Restricts which endpoints of peers are tried. A peer that is up stays where it is.
    pub fn set_local_endpoints(&self, local: LocalEndpoints) {
        self.registry().local = local;
    }

    /// Tells from now on what happens to peers; at most `capacity` events wait to be read, and
    /// those beyond are lost and counted. State and endpoint are looked at ten times a second
    /// while anybody listens.
    ///
    /// # Errors
    /// Whatever `eventfd(2)` says: no descriptors left.
    pub fn subscribe(&self, capacity: usize) -> io::Result<Subscription> {
        self.events.subscribe(capacity, self.sights())
    }

    /// Whether anybody listens to events.
    pub(crate) fn is_watched(&self) -> bool {
        self.events.is_watched()
    }

    /// Finds what has happened to peers, if anybody listens.
    pub(crate) fn look(&self) {
        if self.is_watched() {
            self.events.look(self.sights());
        }
    }

    fn sights(&self) -> BTreeMap<PublicKey, Sight> {
        let now = (self.clock)();
        let registry = self.registry();
        let sight = |running: &Running| Sight {
            label: running.spec.label.clone(),
            state: running.state(now),
            endpoint: running.active(),
        };
        let peers = registry.peers.iter();
        peers.map(|(key, running)| (*key, sight(running))).collect()
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

    /// Makes new peers known to the handshakes, with what changed of the present ones.
    fn introduce(
        &self,
        add: Vec<PeerSpec>,
        change: &[PeerSpec],
        local: &LocalEndpoints,
    ) -> Result<(Vec<Running>, Vec<Rejection>), Stopped> {
        let now = (self.clock)();
        let new: Vec<Running> = add
            .into_iter()
            .map(|spec| Running::new(spec, now, local))
            .collect();
        let added: Vec<(Arc<Peer>, PeerConfig)> = new
            .iter()
            .map(|running| (Arc::clone(&running.peer), config(&running.spec)))
            .collect();
        let changed: Vec<(PublicKey, PeerConfig)> = change
            .iter()
            .map(|spec| (spec.public_key, config(spec)))
            .collect();
        let refused = self.node.control().run(move |handshakes, _, _| {
            for (key, config) in changed {
                handshakes.set_preshared_key(&key, config.preshared_key);
                handshakes.set_persistent_keepalive(&key, config.persistent_keepalive);
            }
            let mut refused = Vec::new();
            for (peer, config) in added {
                let key = *peer.public_key();
                if let Err(error) = handshakes.add_peer(peer, config) {
                    refused.push((key, reject_reason(&error, key)));
                }
            }
            refused
        })?;
        let taken = |running: &Running| {
            !refused
                .iter()
                .any(|(key, _)| *key == running.spec.public_key)
        };
        Ok((new.into_iter().filter(taken).collect(), refused))
    }
}

/// Prefixes that change hands, applied to the table in one step.
#[derive(Default)]
struct Moves {
    taken: Vec<(Arc<Peer>, IpNet)>,
    given: BTreeMap<IpNet, Arc<Peer>>,
}

impl Moves {
    fn take(&mut self, running: &Running) {
        self.taken.extend(running.prefixes());
    }

    fn give(&mut self, running: &Running) {
        let prefixes = running.prefixes();
        self.given
            .extend(prefixes.map(|(peer, prefix)| (prefix, peer)));
    }

    /// What is to be done for `running` to have `wanted`. Both are sorted ([`Plan`] sees to it),
    /// and what is in both is not touched.
    fn change(&mut self, running: &Running, wanted: &[IpNet]) {
        let present = &running.spec.allowed_ips;
        let gone = |(_, prefix): &(_, IpNet)| wanted.binary_search(prefix).is_err();
        self.taken.extend(running.prefixes().filter(gone));
        let new = wanted
            .iter()
            .filter(|prefix| present.binary_search(prefix).is_err());
        self.given
            .extend(new.map(|&prefix| (prefix, Arc::clone(&running.peer))));
    }

    /// Whether `prefix` goes to another peer than `key`.
    fn gives_away(&self, prefix: &IpNet, key: &PublicKey) -> bool {
        self.given
            .get(prefix)
            .is_some_and(|peer| peer.public_key() != key)
    }

    fn apply(&self, tables: &mut TableUpdate<'_>) {
        for (peer, prefix) in &self.taken {
            tables.disallow(prefix, peer.public_key());
        }
        for (prefix, peer) in &self.given {
            tables.allow(prefix, peer);
        }
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

    fn new(spec: PeerSpec, now: Instant, local: &LocalEndpoints) -> Self {
        let mut running = Self::idle(spec);
        running.advance(now, local, false);
        running
    }

    /// Takes a new spec; true where a handshake with another endpoint is due.
    fn change(&mut self, spec: PeerSpec, now: Instant, local: &LocalEndpoints) -> bool {
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
    fn advance(
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
    fn rivals(&self, local: &LocalEndpoints) -> Vec<SocketAddr> {
        self.rotation.rivals(&local.admitted(&self.spec.endpoints))
    }

    /// Whether there is another endpoint to try.
    fn has_choice(&mut self, local: &LocalEndpoints) -> bool {
        let endpoints = local.admitted(&self.spec.endpoints);
        let choice = self.rotation.next(&endpoints, self.active()).is_some();
        if !choice {
            self.rotation.rest();
        }
        choice
    }

    fn active(&self) -> Option<SocketAddr> {
        self.peer.endpoint().map(|endpoint| endpoint.remote)
    }

    /// Whether the peer is to have a session at all times.
    fn is_standing(&self) -> bool {
        self.spec.persistent_keepalive.is_some()
    }

    fn state(&self, now: Instant) -> PeerState {
        self.rotation.state(now, self.peer.last_handshake.load())
    }

    fn prefixes(&self) -> impl Iterator<Item = (Arc<Peer>, IpNet)> + '_ {
        self.spec
            .allowed_ips
            .iter()
            .map(|&prefix| (Arc::clone(&self.peer), prefix))
    }

    fn status(&self, now: Instant) -> PeerStatus {
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
            receive_bytes: peer.counters.rx_bytes.load(Relaxed),
            transmit_bytes: peer.counters.tx_bytes.load(Relaxed),
            receive_packets: peer.counters.rx_packets.load(Relaxed),
            transmit_packets: peer.counters.tx_packets.load(Relaxed),
            last_handshake: last_handshake.map(|at| now.since(at)),
            last_used_endpoint: rotation.last_used(),
            last_endpoint_change: rotation.last_change().map(|at| now.since(at)),
            allowed_ips: spec.allowed_ips.clone(),
            has_preshared_key: spec.preshared_key.is_some(),
            persistent_keepalive: spec.persistent_keepalive.map(NonZeroU16::get),
        }
    }
}

fn config(spec: &PeerSpec) -> PeerConfig {
    PeerConfig {
        preshared_key: spec.preshared_key.clone().unwrap_or_default(),
        persistent_keepalive: spec.persistent_keepalive,
    }
}

fn reject_reason(error: &AddPeerError, key: PublicKey) -> RejectReason {
    match error {
        AddPeerError::OwnKey(_) => RejectReason::OwnKey(key),
        AddPeerError::Exists(_) => RejectReason::Duplicate(key),
        AddPeerError::TooMany => RejectReason::TooMany(key),
        _ => RejectReason::UnusableKey(key),
    }
}

#[cfg(test)]
mod tests;
