//! A running node changed piece by piece, as `wg set` and the kernel's netlink interface do, and
//! shown whole, secrets included. [`Control::apply`] is the other way: the whole wanted set.

use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::crypto::x25519::clamped;
use crate::crypto::{PresharedKey, PrivateKey, PublicKey};
use crate::engine::handshakes::{AddPeerError, IdentityError, PeerConfig};
use crate::mesh::{Endpoint, Peer, TableUpdate};
use crate::runtime::clock;
use crate::runtime::control_thread::Stopped;
use crate::runtime::outer_settings::OuterError;
use crate::time::Now;

use super::handle::{Control, Running};
use super::registry::Peers;
use super::spec::PeerSpec;

/// What is to be different; what is not mentioned stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceChange {
    /// The node's identity. All zero: none, which ends all handshakes.
    pub private_key: Option<PrivateKey>,
    /// The UDP port; 0 has the kernel choose.
    pub listen_port: Option<u16>,
    /// The mark of outer packets (`SO_MARK`); 0 for none.
    pub fwmark: Option<u32>,
    /// Remove all peers first, sessions and counters included.
    pub replace_peers: bool,
    /// Changes to peers, made in this order.
    pub peers: Vec<PeerChange>,
}

/// What is to be different of one peer; what is not mentioned stays. A peer that does not exist is
/// added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerChange {
    /// Which peer. The node's own key is passed over, as in the kernel.
    pub public_key: PublicKey,
    /// Remove it.
    pub remove: bool,
    /// Do nothing where it does not exist.
    pub update_only: bool,
    /// For handshakes from now on; sessions stay. All zero: none.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is reached from now on.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: Option<u16>,
    /// Take all its prefixes first. No packet sees the state in between.
    pub replace_allowed_ips: bool,
    /// Changes to its prefixes, made in this order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

/// A change to the prefixes of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllowedIpChange {
    /// The peer has this prefix from now on, and whoever had it does not.
    Add(IpNet),
    /// The peer no longer has it, if it did.
    Remove(IpNet),
}

impl PeerChange {
    /// Adds the peer, or changes nothing about it.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// A node as it is now. Contains its secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceState {
    /// Clamped (RFC 7748 §5); `None` where none was set.
    pub private_key: Option<PrivateKey>,
    /// The UDP port that is bound.
    pub listen_port: u16,
    /// The mark of outer packets; 0 for none.
    pub fwmark: u32,
    /// In the order of their keys.
    pub peers: Vec<PeerSettings>,
}

/// A peer as it is now. Contains its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSettings {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// The preshared key, if there is one.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is reached.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake ended, since the Unix epoch.
    pub last_handshake: Option<Duration>,
    /// Outer bytes received from it.
    pub rx_bytes: u64,
    /// Outer bytes sent to it.
    pub tx_bytes: u64,
    /// Seconds between keepalives, if any.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// The inner prefixes behind it, sorted.
    pub allowed_ips: Vec<IpNet>,
}

/// Why a change was not made, or not wholly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The port or the mark.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// The private key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A peer could not be added; all others were.
    #[error(transparent)]
    Peer(#[from] AddPeerError),
    /// The node was shut down.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Control {
    /// Makes the changes: mark, port and private key first, then the peers, whose prefixes all
    /// change in one step. What is not mentioned loses no packet.
    ///
    /// A peer whose key no handshake can use (a point of low order) is kept, but is never spoken
    /// to, as in the kernel.
    ///
    /// # Errors
    /// [`ChangeError`]. What comes before the failure in the order above has been made; of peers,
    /// all have been changed but those that there was no room for.
    pub fn configure(&self, change: DeviceChange) -> Result<(), ChangeError> {
        let mut registry = self.registry();
        if let Some(mark) = change.fwmark
            && mark != self.node.outer().fwmark()
        {
            self.node.outer().set_fwmark(mark)?;
        }
        if let Some(port) = change.listen_port
            && port != self.listen_port()
        {
            self.node.set_listen_port(port)?;
            for running in registry.peers.values() {
                running.peer.forget_source();
            }
        }
        if let Some(key) = &change.private_key {
            self.set_private_key(&mut registry.peers, key)?;
        }
        self.change_peers(&mut registry.peers, change.replace_peers, change.peers)
    }

    /// The node as it is now, with its secrets.
    #[must_use]
    pub fn device(&self) -> DeviceState {
        let now = clock::now();
        let mut registry = self.registry();
        let peers = registry
            .peers
            .values_mut()
            .map(|running| running.settings(now))
            .collect();
        DeviceState {
            private_key: self.identity().private_key.clone(),
            listen_port: self.listen_port(),
            fwmark: self.node.outer().fwmark(),
            peers,
        }
    }

    fn set_private_key(&self, peers: &mut Peers, wanted: &PrivateKey) -> Result<(), ChangeError> {
        // Clamped at once, as in the kernel: what is shown is what counts.
        let wanted = (*wanted != PrivateKey::from([0; 32])).then(|| clamped(wanted));
        let mut identity = self.identity();
        if identity.private_key == wanted {
            return Ok(());
        }
        let key = match &wanted {
            Some(key) => key.clone(),
            None => PrivateKey::random().map_err(IdentityError::from)?,
        };
        let (own, itself) = self.node.control().run(move |handshakes, _, _| {
            let itself = handshakes.set_private_key(&key)?;
            Ok::<_, IdentityError>((*handshakes.public_key(), itself.is_some()))
        })??;
        identity.public_key = own;
        identity.private_key = wanted;
        if itself && peers.remove(&own).is_some() {
            self.node.mesh().update(|tables| tables.disallow_all(&own));
        }
        self.node.wake_workers();
        Ok(())
    }

    fn change_peers(
        &self,
        peers: &mut Peers,
        replace: bool,
        changes: Vec<PeerChange>,
    ) -> Result<(), ChangeError> {
        let mut steps = Steps::default();
        if replace {
            let all: Vec<PublicKey> = peers.keys().copied().collect();
            for key in &all {
                steps.remove(peers, key);
            }
        }
        let own = self.public_key();
        let changes = changes
            .into_iter()
            .filter(|change| change.public_key != own);
        for change in changes {
            steps.change(peers, change);
        }
        let Steps {
            handshakes: first,
            mut prefixes,
            gone,
            touched,
        } = steps;

        let mut refused: Vec<(PublicKey, AddPeerError)> = Vec::new();
        if !first.is_empty() {
            refused = self.node.control().run(move |handshakes, _, _| {
                let run = |step: HandshakeStep| step.run(handshakes);
                first.into_iter().filter_map(run).collect()
            })?;
        }
        refused.retain(|(_, error)| !matches!(error, AddPeerError::UnusableKey { .. }));
        for (key, _) in &refused {
            peers.remove(key);
            prefixes.retain(|step| !step.gives_to(key));
        }
        if !prefixes.is_empty() {
            self.publish(peers, prefixes, touched);
        }
        // Only now: until the prefixes were gone, workers could still meet the peers.
        if !gone.is_empty() {
            self.node.control().run(move |handshakes, _, _| {
                for key in &gone {
                    handshakes.remove_peer(key);
                }
            })?;
        }
        self.node.wake_workers();
        refused.pop().map_or(Ok(()), |(_, error)| Err(error.into()))
    }

    /// Moves prefixes in one step, and tells the registry who has which.
    fn publish(&self, peers: &mut Peers, steps: Vec<PrefixStep>, mut touched: BTreeSet<PublicKey>) {
        self.node.mesh().update(|tables| {
            for step in steps {
                if let Some(loser) = step.run(tables) {
                    touched.insert(*loser.public_key());
                }
            }
        });
        for key in &touched {
            if let Some(running) = peers.get_mut(key) {
                running.spec.allowed_ips = self.node.mesh().prefixes_of(key);
            }
        }
    }
}

/// What changes amount to.
#[derive(Default)]
struct Steps {
    /// Done before the prefixes move.
    handshakes: Vec<HandshakeStep>,
    prefixes: Vec<PrefixStep>,
    /// Peers to be removed once they have no prefixes.
    gone: BTreeSet<PublicKey>,
    /// Peers whose prefixes may change.
    touched: BTreeSet<PublicKey>,
}

enum HandshakeStep {
    Add(Arc<Peer>),
    Remove(PublicKey),
    PresharedKey(PublicKey, PresharedKey),
    PersistentKeepalive(PublicKey, Option<NonZeroU16>),
}

enum PrefixStep {
    Give(Arc<Peer>, IpNet),
    Take(PublicKey, IpNet),
    TakeAll(PublicKey),
}

impl Steps {
    fn remove(&mut self, peers: &mut Peers, key: &PublicKey) {
        if peers.remove(key).is_some() {
            self.prefixes.push(PrefixStep::TakeAll(*key));
            self.gone.insert(*key);
        }
    }

    fn change(&mut self, peers: &mut Peers, change: PeerChange) {
        let key = change.public_key;
        if change.remove {
            self.remove(peers, &key);
            return;
        }
        if !peers.contains_key(&key) {
            if change.update_only {
                return;
            }
            self.add(peers, key);
        }
        let Some(running) = peers.get_mut(&key) else {
            return;
        };
        if let Some(preshared_key) = change.preshared_key {
            let none = preshared_key == PresharedKey::default();
            running.spec.preshared_key = (!none).then(|| preshared_key.clone());
            let step = HandshakeStep::PresharedKey(key, preshared_key);
            self.handshakes.push(step);
        }
        if let Some(remote) = change.endpoint {
            running.peer.set_endpoint(Endpoint::from(remote));
            // Here and nowhere else: a list would have it tried in turns.
            running.spec.endpoints.clear();
            running.rotation.choose(clock::monotonic(), remote);
        }
        if let Some(seconds) = change.persistent_keepalive {
            let seconds = NonZeroU16::new(seconds);
            // Setting one sends a packet: the same one again must not.
            if seconds != running.spec.persistent_keepalive {
                running.spec.persistent_keepalive = seconds;
                let step = HandshakeStep::PersistentKeepalive(key, seconds);
                self.handshakes.push(step);
            }
        }
        if change.replace_allowed_ips {
            self.prefixes.push(PrefixStep::TakeAll(key));
        }
        let peer = &running.peer;
        self.prefixes
            .extend(change.allowed_ips.into_iter().map(|step| match step {
                AllowedIpChange::Add(prefix) => PrefixStep::Give(Arc::clone(peer), prefix),
                AllowedIpChange::Remove(prefix) => PrefixStep::Take(key, prefix),
            }));
        self.touched.insert(key);
    }

    fn add(&mut self, peers: &mut Peers, key: PublicKey) {
        let running = Running::idle(PeerSpec::new(key));
        if self.gone.remove(&key) {
            // One with the same key goes, and has to make room first.
            self.handshakes.push(HandshakeStep::Remove(key));
        }
        self.handshakes
            .push(HandshakeStep::Add(Arc::clone(&running.peer)));
        peers.insert(key, running);
    }
}

impl HandshakeStep {
    /// Tells of a peer that could not be added.
    fn run(self, handshakes: &mut crate::engine::Handshakes) -> Option<(PublicKey, AddPeerError)> {
        match self {
            Self::Add(peer) => {
                let key = *peer.public_key();
                let added = handshakes.add_peer(peer, PeerConfig::default());
                return added.err().map(|error| (key, error));
            }
            Self::Remove(key) => handshakes.remove_peer(&key),
            // False for a peer with an unusable key: there is nobody to tell.
            Self::PresharedKey(key, secret) => handshakes.set_preshared_key(&key, secret),
            Self::PersistentKeepalive(key, seconds) => {
                handshakes.set_persistent_keepalive(&key, seconds)
            }
        };
        None
    }
}

impl PrefixStep {
    fn gives_to(&self, key: &PublicKey) -> bool {
        matches!(self, Self::Give(peer, _) if peer.public_key() == key)
    }

    /// Returns who lost the prefix.
    fn run(self, tables: &mut TableUpdate<'_>) -> Option<Arc<Peer>> {
        match self {
            Self::Give(peer, prefix) => return tables.allow(&prefix, &peer),
            Self::Take(key, prefix) => drop(tables.disallow(&prefix, &key)),
            Self::TakeAll(key) => drop(tables.disallow_all(&key)),
        }
        None
    }
}

impl Running {
    fn settings(&mut self, now: Now) -> PeerSettings {
        let last_handshake = self.peer.last_handshake.load().map(|at| {
            let shown = self.handshake_shown.filter(|(shown, _)| *shown == at);
            let (_, unix) = *self.handshake_shown.insert(shown.unwrap_or_else(|| {
                let age = now.monotonic.since(at);
                (at, now.unix.saturating_sub(age))
            }));
            unix
        });
        let Self { spec, peer, .. } = self;
        PeerSettings {
            public_key: spec.public_key,
            preshared_key: spec.preshared_key.clone(),
            endpoint: peer.endpoint().map(|endpoint| endpoint.remote),
            last_handshake,
            rx_bytes: peer.counters.rx_bytes(),
            tx_bytes: peer.counters.tx_bytes(),
            persistent_keepalive: spec.persistent_keepalive,
            allowed_ips: spec.allowed_ips.clone(),
        }
    }
}
