//! The handle through which peers of a running node are changed and seen.

use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::crypto::PublicKey;
use crate::engine::handshakes::{AddPeerError, PeerConfig};
use crate::mesh::{Endpoint, Peer, TableUpdate};
use crate::runtime::clock::monotonic;
use crate::runtime::control_thread::Stopped;
use crate::runtime::node::Node;
use crate::time::Instant;

use super::plan::{Applied, Plan};
use super::spec::{PeerSpec, RejectReason};
use super::status::{PeerState, PeerStatus};

/// Changes and shows the peers of a running node. Any thread may call it; calls that change
/// something wait for each other, workers wait for none.
#[derive(Debug)]
pub struct Control {
    own: PublicKey,
    node: Arc<Node>,
    registry: Mutex<BTreeMap<PublicKey, Running>>,
}

type Rejection = (PublicKey, RejectReason);

/// A peer that runs.
#[derive(Debug)]
struct Running {
    spec: PeerSpec,
    peer: Arc<Peer>,
    chosen: Option<(SocketAddr, Instant)>,
}

impl Control {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self {
            own: *node.public_key(),
            node,
            registry: Mutex::default(),
        }
    }

    /// This node's identity.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.own
    }

    /// Makes `specs` the whole set of peers. Only differences touch what runs: a peer that did
    /// not change keeps its session, its endpoint and its counters, and so does one of which
    /// only prefixes, keepalive or label changed. A spec that cannot be applied is refused alone
    /// and listed in [`Applied::rejected`]; a peer that runs under it stays as it was, less the
    /// prefixes that `specs` give to others.
    ///
    /// All prefixes change in one step: no packet sees half of a new set.
    ///
    /// # Errors
    /// [`Stopped`] where the node was shut down.
    pub fn apply(&self, specs: &[PeerSpec]) -> Result<Applied, Stopped> {
        let mut registry = self.registry();
        let running = registry
            .iter()
            .map(|(key, running)| (*key, running.spec.clone()))
            .collect();
        let plan = Plan::new(&self.own, &running, specs);
        let (new, refused) = self.introduce(plan.add, &plan.change)?;

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
            if let Some(gone) = registry.remove(key) {
                moves.take(&gone);
            }
        }
        for spec in plan.change {
            if let Some(running) = registry.get_mut(&spec.public_key) {
                moves.change(running, &spec.allowed_ips);
                running.change(spec);
            }
        }
        for running in new {
            moves.give(&running);
            registry.insert(running.spec.public_key, running);
        }
        // A peer whose new spec was refused stays, but not with what another has taken over: it
        // must be seen to lack that when the next set gives it back.
        for (key, _) in &applied.rejected {
            if let Some(stays) = registry.get_mut(key) {
                stays
                    .spec
                    .allowed_ips
                    .retain(|prefix| !moves.gives_away(prefix, key));
            }
        }
        self.node.mesh().update(|tables| moves.apply(tables));

        // Only now: until the prefixes were gone, workers could still meet the peer.
        let remove = plan.remove;
        self.node.control().run(move |handshakes, _, _| {
            for key in &remove {
                handshakes.remove_peer(key);
            }
        })?;
        self.node.wake_workers();
        Ok(applied)
    }

    /// Every peer as it is now, in the order of their keys.
    #[must_use]
    pub fn statuses(&self) -> Vec<PeerStatus> {
        let now = monotonic();
        self.registry()
            .values()
            .map(|running| running.status(now))
            .collect()
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Running>> {
        // A caller that panicked in between left whole entries behind.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes new peers known to the handshakes, with what changed of the present ones.
    fn introduce(
        &self,
        add: Vec<PeerSpec>,
        change: &[PeerSpec],
    ) -> Result<(Vec<Running>, Vec<Rejection>), Stopped> {
        let new: Vec<Running> = add.into_iter().map(Running::new).collect();
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
    fn new(spec: PeerSpec) -> Self {
        let mut running = Self {
            peer: Arc::new(Peer::new(spec.public_key)),
            chosen: None,
            spec,
        };
        running.choose();
        running
    }

    fn change(&mut self, spec: PeerSpec) {
        let moved = spec.endpoints != self.spec.endpoints;
        self.spec = spec;
        // A peer that answers where it is keeps its endpoint, listed or not.
        if moved && self.status(monotonic()).state != PeerState::Up {
            self.choose();
        }
    }

    /// Tries the first endpoint listed.
    fn choose(&mut self) {
        if let Some(&remote) = self.spec.endpoints.first() {
            self.peer.set_endpoint(Endpoint::from(remote));
            self.chosen = Some((remote, monotonic()));
        }
    }

    fn prefixes(&self) -> impl Iterator<Item = (Arc<Peer>, IpNet)> + '_ {
        self.spec
            .allowed_ips
            .iter()
            .map(|&prefix| (Arc::clone(&self.peer), prefix))
    }

    fn status(&self, now: Instant) -> PeerStatus {
        let Self { spec, peer, chosen } = self;
        let last_handshake = peer.last_handshake.load().map(|at| now.since(at));
        let last_endpoint_change = chosen.map(|(_, at)| now.since(at));
        PeerStatus {
            public_key: spec.public_key,
            label: spec.label.clone(),
            endpoint: peer.endpoint().map(|endpoint| endpoint.remote),
            state: PeerState::assess(last_endpoint_change, last_handshake),
            receive_bytes: peer.counters.rx_bytes.load(Relaxed),
            transmit_bytes: peer.counters.tx_bytes.load(Relaxed),
            receive_packets: peer.counters.rx_packets.load(Relaxed),
            transmit_packets: peer.counters.tx_packets.load(Relaxed),
            last_handshake,
            last_used_endpoint: chosen.map(|(remote, _)| remote),
            last_endpoint_change,
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
