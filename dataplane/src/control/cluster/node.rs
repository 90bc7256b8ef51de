//! One node of the cluster.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::service::{Item, Service, Told, Version};
use crate::control::discovery::messages::StoredAffiliate;
use crate::control::discovery::{Change, Roster};
use crate::control::kubespan::hold_down::DELETION_GRACE;
use crate::control::kubespan::peer_spec::peer_specs;
use crate::control::kubespan::{HoldDown, LocalEndpoints};
use crate::control::member::Membership;
use crate::control::registry::{self, API, ConfigChange, Plane, Registry, Rejection, Turn};
use crate::control::{PeerSpec, PeerState, SpecChange};
use crate::crypto::{PresharedKey, PublicKey, Random, SeededRandom};
use crate::engine::handshakes::{Handshakes, Output, PeerConfig, Sink};
use crate::engine::port::{Datagram, Ecn, OuterRx};
use crate::engine::tunnel::{Action, Tunnel};
use crate::io::DatagramSender;
use crate::io::memory::MemoryEnd;
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::noise::constants::REKEY_AFTER_TIME;
use crate::runtime::control_thread::Stopped;
use crate::time::{Instant, Now};

/// Seconds between two derivations of the peers: much news become one.
const PAUSE: u64 = 20;
/// How long the answer to an initiation takes: it comes after the choice that it proves right.
const ROUND_TRIP: Duration = Duration::from_millis(10);
/// How much of what was told is told again.
const REMEMBERED: usize = 64;

/// A tunnel to a node with which handshakes are not real.
#[derive(Debug)]
struct Link {
    peer: Arc<Peer>,
    preshared_key: PresharedKey,
    /// A handshake is wanted and has not succeeded.
    trying: bool,
    /// One is wanted although the last is not old.
    renew: bool,
    /// Where it is tried beside the peer's endpoint.
    rivals: Vec<SocketAddr>,
}

/// A node with real handshakes.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) tunnel: RefCell<Tunnel>,
    pub(super) end: RefCell<MemoryEnd>,
    /// What is to be sent.
    outbox: RefCell<Vec<(SocketAddr, Vec<u8>)>>,
    /// What came out of the tunnel.
    pub(super) delivered: RefCell<Vec<Vec<u8>>>,
}

/// What a node's registry acts on.
#[derive(Debug)]
pub(super) struct SimPlane {
    pub(super) now: Cell<Now>,
    mesh: Arc<Mesh>,
    /// Which node has which key.
    numbers: Arc<HashMap<PublicKey, usize>>,
    /// How many nodes have real handshakes.
    full: usize,
    pub(super) wire: Option<Wire>,
    links: RefCell<Vec<Option<Link>>>,
}

impl SimPlane {
    fn is_real(&self, number: usize) -> Option<&Wire> {
        self.wire.as_ref().filter(|_| number < self.full)
    }

    fn number(&self, key: &PublicKey) -> usize {
        self.numbers[key]
    }
}

impl Wire {
    pub(super) fn new(tunnel: Tunnel, end: MemoryEnd) -> Self {
        Self {
            tunnel: RefCell::new(tunnel),
            end: RefCell::new(end),
            outbox: RefCell::default(),
            delivered: RefCell::default(),
        }
    }

    /// Has the tunnel do something.
    pub(super) fn with<R>(
        &self,
        work: impl FnOnce(&mut Tunnel, &mut (dyn FnMut(Action<'_>) + Send)) -> R,
    ) -> R {
        let (mut outbox, mut delivered) = (self.outbox.borrow_mut(), self.delivered.borrow_mut());
        let (outbox, delivered) = (&mut *outbox, &mut *delivered);
        let mut take = move |action: Action<'_>| match action {
            Action::Send { to, datagram, .. } => outbox.push((to.remote, datagram.to_vec())),
            Action::Deliver { packet } => delivered.push(packet.to_vec()),
            _ => {}
        };
        work(&mut self.tunnel.borrow_mut(), &mut take)
    }

    /// Takes what has arrived from where it can come from.
    pub(super) fn receive(&self, now: Now, reachable: impl Fn(SocketAddr) -> bool) {
        let mut arrived: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
        let mut take = |batch: &mut [Datagram<'_>]| {
            arrived.extend(
                batch
                    .iter()
                    .map(|one| (one.from.remote, one.payload.to_vec())),
            );
        };
        let rx = &mut self.end.borrow_mut().rx;
        while rx.recv_batch(&mut take).unwrap() > 0 {}
        arrived.retain(|(from, _)| reachable(*from));
        let mut datagrams: Vec<_> = arrived
            .iter_mut()
            .map(|(from, payload)| Datagram {
                payload,
                from: (*from).into(),
                ecn: Ecn::NotEct,
            })
            .collect();
        self.with(|tunnel, out| tunnel.open(now, &mut datagrams, out));
    }

    /// Sends what is to be sent; whether that was anything. What nobody takes is lost.
    pub(super) fn send(&self) -> bool {
        let outbox = self.outbox.take();
        let sender = self.end.borrow().sender();
        for (to, datagram) in &outbox {
            let _ = sender.send(&Endpoint::from(*to), 0, datagram);
        }
        !outbox.is_empty()
    }
}

impl SimPlane {
    /// Has the real handshakes do something, if there are any.
    fn with_handshakes(&self, work: impl FnOnce(&mut Handshakes, Now, Sink<'_>)) {
        let Some(wire) = &self.wire else { return };
        let now = self.now.get();
        wire.with(|tunnel, out| {
            let mut post = |output: Output<'_>| {
                if let Output::Send {
                    to, datagram, tos, ..
                } = output
                {
                    out(Action::Send { to, tos, datagram });
                }
            };
            work(tunnel.handshakes(), now, &mut post);
        });
    }
}

impl Plane for SimPlane {
    fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn introduce(
        &self,
        new: Vec<(Arc<Peer>, PeerConfig)>,
        changes: Vec<ConfigChange>,
    ) -> Result<Vec<Rejection>, Stopped> {
        let mut real = Vec::new();
        for (peer, config) in new {
            let number = self.number(peer.public_key());
            if self.is_real(number).is_some() {
                real.push((peer, config));
                continue;
            }
            let link = Link {
                peer,
                preshared_key: config.preshared_key,
                trying: false,
                renew: false,
                rivals: Vec::new(),
            };
            let before = self.links.borrow_mut()[number].replace(link);
            assert!(before.is_none(), "introduced twice");
        }
        Ok(self.wire.as_ref().map_or_else(Vec::new, |wire| {
            wire.with(|tunnel, _| registry::introduce(tunnel.handshakes(), real, changes))
        }))
    }

    fn conclude(&self, removed: Vec<PublicKey>, renew: Vec<PublicKey>) -> Result<(), Stopped> {
        let real = |key: &PublicKey| self.is_real(self.number(key)).is_some();
        let (real_removed, removed): (Vec<_>, Vec<_>) = removed.into_iter().partition(real);
        let (real_renew, renew): (Vec<_>, Vec<_>) = renew.into_iter().partition(real);
        let mut links = self.links.borrow_mut();
        for key in removed {
            assert!(links[self.number(&key)].take().is_some(), "removed twice");
        }
        for key in renew {
            if let Some(link) = &mut links[self.number(&key)] {
                link.renew = true;
            }
        }
        self.with_handshakes(|handshakes, now, out| {
            registry::conclude(handshakes, now, out, &real_removed, &real_renew);
        });
        Ok(())
    }

    fn turn(&self, turns: Vec<Turn>) -> Result<(), Stopped> {
        let real = |turn: &Turn| self.is_real(self.number(&turn.key)).is_some();
        let (real_turns, turns): (Vec<_>, Vec<_>) = turns.into_iter().partition(real);
        let mut links = self.links.borrow_mut();
        for turn in turns {
            if let Some(link) = &mut links[self.number(&turn.key)] {
                (link.rivals, link.renew) = (turn.rivals, turn.renew);
            }
        }
        self.with_handshakes(|handshakes, now, out| {
            registry::turn(handshakes, now, out, real_turns);
        });
        Ok(())
    }

    fn are_initiating(&self, peers: Vec<PublicKey>) -> Result<Vec<bool>, Stopped> {
        let links = self.links.borrow();
        let initiating = |key: &PublicKey| {
            let number = self.number(key);
            match self.is_real(number) {
                Some(wire) => wire.tunnel.borrow_mut().handshakes().is_initiating(key),
                None => links[number].as_ref().is_some_and(|link| link.trying),
            }
        };
        Ok(peers.iter().map(initiating).collect())
    }

    fn wake(&self) {}
}

/// How a node learns who there is.
#[derive(Debug)]
pub(super) enum View {
    /// As a real one: encrypted entries, and all that is made of them.
    Full(Box<(Roster, Membership)>),
    /// Entries in clear, by node.
    Clear {
        known: Vec<Option<Arc<Version>>>,
        hold: HoldDown,
        /// Somebody is said to be gone.
        doubt: bool,
        /// Gone by deletions that a listing has confirmed: not held.
        left: Vec<PublicKey>,
    },
}

impl View {
    /// Knows nobody of so many nodes yet.
    pub(super) fn clear(nodes: usize) -> Self {
        Self::Clear {
            known: vec![None; nodes],
            hold: HoldDown::new(DELETION_GRACE),
            doubt: false,
            left: Vec::new(),
        }
    }
}

/// Where a node is in what the service says.
#[derive(Debug, Default)]
struct Stream {
    life: u64,
    read: usize,
    /// Told, and on its way still.
    late: Vec<usize>,
    /// What has arrived lately.
    recent: Vec<Item>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) key: PublicKey,
    pub(super) told: Arc<Told>,
    pub(super) address: SocketAddr,
    /// Until when it sleeps: it does nothing and answers nobody.
    pub(super) asleep_until: u64,
    /// How far its clocks are from those of the world.
    pub(super) monotonic_ahead: u64,
    pub(super) unix_ahead: i64,
    pub(super) plane: SimPlane,
    pub(super) registry: Registry,
    pub(super) view: View,
    preshared_key: PresharedKey,
    stream: Option<Stream>,
    connect_at: u64,
    /// When it tells of itself next; 0: as soon as it can.
    pub(super) announce_at: u64,
    pub(super) wants_to_announce: bool,
    changed: bool,
    derive_at: u64,
    random: SeededRandom,
}

/// What every node of a world has.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) numbers: Arc<HashMap<PublicKey, usize>>,
    pub(super) full: usize,
    pub(super) preshared_key: PresharedKey,
}

impl Node {
    pub(super) fn new(
        number: usize,
        seed: u64,
        common: &Common,
        told: Arc<Told>,
        address: SocketAddr,
        view: View,
        wire: Option<Wire>,
    ) -> Self {
        let mesh = match &wire {
            Some(wire) => wire.tunnel.borrow().shared_mesh(),
            None => Arc::default(),
        };
        let links = (0..common.numbers.len()).map(|_| None).collect();
        Self {
            number,
            key: told.affiliate.kubespan.public_key.parse().unwrap(),
            told,
            address,
            asleep_until: 0,
            monotonic_ahead: 0,
            unix_ahead: 0,
            plane: SimPlane {
                now: Cell::new(clock(0, 0, 0)),
                mesh,
                numbers: Arc::clone(&common.numbers),
                full: common.full,
                wire,
                links: RefCell::new(links),
            },
            registry: Registry::default(),
            view,
            preshared_key: common.preshared_key.clone(),
            stream: None,
            connect_at: 0,
            announce_at: 0,
            wants_to_announce: false,
            changed: false,
            derive_at: 0,
            random: SeededRandom::new(seed),
        }
    }

    pub(super) fn is_awake(&self, second: u64) -> bool {
        second >= self.asleep_until
    }

    pub(super) fn set_clock(&mut self, second: u64) -> Instant {
        let now = clock(second, self.monotonic_ahead, self.unix_ahead);
        self.plane.now.set(now);
        now.monotonic
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.next_u64().unwrap() % n
    }

    /// Listens to the service, where it can be reached.
    pub(super) fn listen(&mut self, second: u64, service: &Service, reachable: bool) {
        let now = self.set_clock(second);
        let broken = |stream: &Stream| !reachable || stream.life != service.life;
        if self.stream.as_ref().is_some_and(broken) {
            self.stream = None;
            self.connect_at = second + 1 + self.below(9);
        }
        if self.stream.is_none() && reachable && second >= self.connect_at {
            self.stream = Some(Stream {
                life: service.life,
                read: service.log.len(),
                ..Stream::default()
            });
            self.begin(service);
            self.announce_at = 0;
        }
        self.hear(now, service);
        if self.stream.is_some() && second >= self.announce_at {
            self.wants_to_announce = true;
        }
    }

    /// Takes the snapshot that a watch begins with.
    fn begin(&mut self, service: &Service) {
        match &mut self.view {
            View::Full(full) => {
                let (roster, membership) = &mut **full;
                let changes = roster.snapshot(&stored(service));
                for change in changes {
                    self.changed |= membership.observe(0, change);
                }
            }
            View::Clear { known, .. } => {
                let mut listed: Vec<Option<Arc<Version>>> = vec![None; known.len()];
                for (node, version) in service.all() {
                    listed[node] = Some(Arc::clone(version));
                }
                listed[self.number] = None;
                *known = listed;
                self.changed = true;
            }
        }
    }

    /// Takes what has been said since: some of it late, some twice, that of different members in
    /// any order.
    fn hear(&mut self, now: Instant, service: &Service) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let mut waiting = core::mem::take(&mut stream.late);
        waiting.extend(stream.read..service.log.len());
        stream.read = service.log.len();
        let mut items: Vec<(u64, usize)> = Vec::with_capacity(waiting.len());
        let (salt, mut late) = (self.random.next_u64().unwrap(), HashSet::new());
        for place in waiting {
            let node = service.log[place].node as u64;
            // The same for all that concerns one member: of one member the order is kept.
            let order = (node ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if late.contains(&node) || self.below(5) == 0 {
                late.insert(node);
                stream.late.push(place);
            } else {
                items.push((order, place));
            }
        }
        items.sort_by_key(|&(order, _)| order);
        for (_, place) in items {
            let item = &service.log[place];
            self.take(now, item);
            if self.below(16) == 0 {
                self.take(now, item);
            }
            if self.below(64) == 0 && !stream.recent.is_empty() {
                let again = self.below(stream.recent.len() as u64) as usize;
                self.take(now, &stream.recent[again]);
            }
            if self.below(24) == 0
                && let Some(version) = &item.version
            {
                self.hear_a_lie(&version.stored);
            }
            if stream.recent.len() < REMEMBERED {
                stream.recent.push(item.clone());
            } else {
                let replaced = self.below(REMEMBERED as u64) as usize;
                stream.recent[replaced] = item.clone();
            }
        }
        self.ask(now, service);
        self.stream = Some(stream);
    }

    /// Somebody who knows the cluster's id, or runs the service, makes something of an entry.
    /// Whoever has no cipher would not hear the difference.
    fn hear_a_lie(&mut self, truth: &StoredAffiliate) {
        let mut lie = truth.clone();
        let kind = self.below(5);
        let place = self.below(lie.data.len() as u64) as usize;
        match kind {
            0 => lie.data.truncate(place),
            1 => lie.data[place] ^= 1,
            2 => lie.id = super::world::node_id(place),
            3 => self.random.fill(&mut lie.data).unwrap(),
            _ => {
                let mut noise = vec![0; 16];
                self.random.fill(&mut noise).unwrap();
                lie.endpoints.push(noise);
            }
        }
        if let View::Full(full) = &mut self.view {
            let (roster, membership) = &mut **full;
            for change in roster.updated(&[lie]) {
                let taken = matches!(change, Change::Removed { .. } | Change::Vanished { .. });
                assert!(!taken, "{change:?}");
                self.changed |= membership.observe(0, change);
            }
        }
    }

    /// Takes one piece of news.
    fn take(&mut self, now: Instant, item: &Item) {
        if item.node == self.number {
            // Its own entry is gone: it is to tell of itself again.
            if item.version.is_none() {
                self.announce_at = 0;
            }
            return;
        }
        match &mut self.view {
            View::Full(full) => {
                let (roster, membership) = &mut **full;
                let changes = match &item.version {
                    Some(version) => roster.updated(core::slice::from_ref(&version.stored)),
                    None => {
                        let id = super::world::node_id(item.node);
                        let gone = StoredAffiliate {
                            id,
                            ..StoredAffiliate::default()
                        };
                        roster.deleted(now, &[gone]);
                        Vec::new()
                    }
                };
                for change in changes {
                    self.changed |= membership.observe(0, change);
                }
            }
            View::Clear { known, doubt, .. } => {
                let Some(version) = &item.version else {
                    *doubt = true;
                    return;
                };
                let present = &mut known[item.node];
                let newer = |present: &Arc<Version>| present.number < version.number;
                if present.as_ref().is_none_or(newer) {
                    let same = |present: &Arc<Version>| present.affiliate == version.affiliate;
                    self.changed |= !present.as_ref().is_some_and(same);
                    *present = Some(Arc::clone(version));
                }
            }
        }
    }

    /// Asks for a listing where somebody is said to be gone.
    fn ask(&mut self, now: Instant, service: &Service) {
        match &mut self.view {
            View::Full(full) => {
                let (roster, membership) = &mut **full;
                if roster.ask_at().is_some_and(|at| at <= now) {
                    for change in roster.listed(now, &stored(service)) {
                        assert!(
                            !matches!(&change, Change::Removed { node_id } if service.all().any(|(_, version)| version.stored.id == *node_id)),
                            "{change:?} is there"
                        );
                        self.changed |= membership.observe(0, change);
                    }
                }
            }
            View::Clear {
                known, doubt, left, ..
            } => {
                if !core::mem::take(doubt) {
                    return;
                }
                for (number, version) in known.iter_mut().enumerate() {
                    if service.has(number) {
                        continue;
                    }
                    if let Some(gone) = version.take() {
                        left.push(gone.affiliate.kubespan.public_key.parse().unwrap());
                        self.changed = true;
                    }
                }
            }
        }
    }

    /// Derives the peers anew where there is news, and has them run.
    pub(super) fn derive(&mut self, second: u64) {
        let now = self.set_clock(second);
        let expired = match &self.view {
            View::Full(full) => full.1.next_expiry(),
            View::Clear { hold, .. } => hold.next_expiry(),
        };
        let due = self.changed && second >= self.derive_at;
        if !due && expired.is_none_or(|at| now < at) {
            return;
        }
        self.changed = false;
        self.derive_at = second + PAUSE;
        let specs = match &mut self.view {
            View::Full(full) => {
                let specs = full.1.peers(now);
                self.registry.local = full.1.local_endpoints();
                specs
            }
            View::Clear {
                known, hold, left, ..
            } => {
                let affiliates = known.iter().flatten().map(|version| &version.affiliate);
                let found = peer_specs(&self.told.affiliate.node_id, affiliates);
                self.registry.local = LocalEndpoints::new(Vec::new(), found.tunnel);
                let specs = found.specs.values();
                let specs = specs.map(|spec| spec.to_peer_spec(Some(&self.preshared_key)).unwrap());
                hold.update(now, specs);
                for key in left.drain(..) {
                    hold.confirm(&key);
                }
                hold.specs(now)
            }
        };
        // Both ways of telling a node its peers.
        let applied = if self.below(8) == 0 {
            self.registry
                .replace(&self.plane, &self.key, now, API, &specs)
        } else {
            let changes = self.differences(specs);
            self.registry
                .update(&self.plane, &self.key, now, API, &changes)
        };
        assert_eq!(applied.unwrap().rejected, []);
    }

    fn differences(&self, specs: Vec<PeerSpec>) -> Vec<SpecChange> {
        let wanted: HashSet<PublicKey> = specs.iter().map(|spec| spec.public_key).collect();
        let running = self.registry.peers.keys();
        let gone = running.filter(|key| !wanted.contains(key)).copied();
        let mut changes: Vec<_> = gone.map(SpecChange::Remove).collect();
        let differs = |spec: &PeerSpec| {
            let running = self.registry.peers.get(&spec.public_key);
            running.is_none_or(|running| running.spec != *spec)
        };
        changes.extend(specs.into_iter().filter(differs).map(SpecChange::Set));
        changes
    }

    /// Gives endpoints their turns; returns who is to be tried where, of those with whom
    /// handshakes are not real.
    pub(super) fn tick(&mut self, second: u64) -> Vec<(usize, SocketAddr)> {
        let now = self.set_clock(second);
        self.registry.tick(&self.plane, now).unwrap();
        let mut links = self.plane.links.borrow_mut();
        let mut tries = Vec::new();
        for (number, link) in links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            let last = link.peer.last_handshake.load();
            let old = last.is_none_or(|at| now.since(at) >= REKEY_AFTER_TIME);
            link.trying = old || link.renew;
            if link.trying {
                let endpoint = link.peer.endpoint().map(|endpoint| endpoint.remote);
                let all = endpoint.into_iter().chain(link.rivals.iter().copied());
                tries.extend(all.map(|at| (number, at)));
            }
        }
        tries
    }

    /// Whether this node has that one as a peer; with which secret.
    pub(super) fn knows(&self, number: usize) -> Option<PresharedKey> {
        let links = self.plane.links.borrow();
        links[number]
            .as_ref()
            .map(|link| link.preshared_key.clone())
    }

    /// A handshake with that node has succeeded, and came from there.
    pub(super) fn handshake(&mut self, second: u64, number: usize, from: SocketAddr) {
        let now = self.set_clock(second) + ROUND_TRIP;
        let mut links = self.plane.links.borrow_mut();
        if let Some(link) = &mut links[number] {
            (link.trying, link.renew) = (false, false);
            link.rivals.clear();
            link.peer.last_handshake.store(now);
            link.peer.set_endpoint(from.into());
        }
    }

    pub(super) fn state_of(&self, key: &PublicKey) -> Option<PeerState> {
        let running = self.registry.peers.get(key)?;
        Some(running.state(self.plane.now.get().monotonic))
    }
}

fn stored(service: &Service) -> Vec<StoredAffiliate> {
    let all = service.all();
    all.map(|(_, version)| version.stored.clone()).collect()
}

fn clock(second: u64, monotonic_ahead: u64, unix_ahead: i64) -> Now {
    let unix = 1_700_000_000 + second;
    Now {
        monotonic: Instant::from_secs(1000 + second + monotonic_ahead),
        unix: Duration::from_secs(unix.saturating_add_signed(unix_ahead)),
    }
}
