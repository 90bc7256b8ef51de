//! Which peers are wanted, which run, and the way from one to the other. It knows neither threads
//! nor clocks: what it acts on is a [`Plane`], a running node or a simulated one.

use core::net::SocketAddr;
use core::num::NonZeroU16;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use tracing::debug;

use super::handle::Running;
use super::kubespan::LocalEndpoints;
use super::plan::{Applied, Plan, normalized};
use super::source::merge;
use super::spec::{PeerSpec, RejectReason, SpecChange};
use super::wanted::Wanted;
use crate::crypto::{PresharedKey, PublicKey};
use crate::engine::handshakes::{AddPeerError, Handshakes, PeerConfig, Sink};
use crate::mesh::{Mesh, Peer, TableUpdate};
use crate::runtime::control_thread::Stopped;
use crate::time::{Instant, Now};

/// The source that [`Control::apply`](super::Control::apply) is.
pub(super) const API: usize = 0;

/// The peers that run.
pub(super) type Peers = BTreeMap<PublicKey, Running>;

pub(super) type Rejection = (PublicKey, RejectReason);

/// What a registry acts on.
pub(super) trait Plane {
    /// The tables that workers read.
    fn mesh(&self) -> &Mesh;

    /// Makes new peers known to the handshakes and changes present ones; tells of those new ones
    /// that were refused.
    fn introduce(
        &self,
        new: Vec<(Arc<Peer>, PeerConfig)>,
        changes: Vec<ConfigChange>,
    ) -> Result<Vec<Rejection>, Stopped>;

    /// Ends what concerns removed peers, which no table leads to any more, and makes new sessions
    /// with others.
    fn conclude(&self, removed: Vec<PublicKey>, renew: Vec<PublicKey>) -> Result<(), Stopped>;

    /// Goes on with other endpoints.
    fn turn(&self, turns: Vec<Turn>) -> Result<(), Stopped>;

    /// Whether handshakes with these peers are being tried and have not been answered yet.
    fn are_initiating(&self, peers: Vec<PublicKey>) -> Result<Vec<bool>, Stopped>;

    /// Peers are new or have changed: whoever waits may have something to send to them.
    fn wake(&self);
}

/// A peer whose next endpoint has its turn.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) key: PublicKey,
    /// The endpoints that are tried at once with it.
    pub(super) rivals: Vec<SocketAddr>,
    /// Its session is to be made anew.
    pub(super) renew: bool,
}

/// What changes about the handshakes of a peer.
#[derive(Clone, Debug)]
pub(super) struct ConfigChange {
    key: PublicKey,
    preshared_key: Option<PresharedKey>,
    persistent_keepalive: Option<Option<NonZeroU16>>,
}

impl ConfigChange {
    /// Only what is different: to set a keepalive, though it be the same, sends a packet.
    fn between(old: &PeerSpec, new: &PeerSpec) -> Option<Self> {
        let preshared_key = (old.preshared_key != new.preshared_key)
            .then(|| new.preshared_key.clone().unwrap_or_default());
        let persistent_keepalive = (old.persistent_keepalive != new.persistent_keepalive)
            .then_some(new.persistent_keepalive);
        (preshared_key.is_some() || persistent_keepalive.is_some()).then_some(Self {
            key: new.public_key,
            preshared_key,
            persistent_keepalive,
        })
    }

    pub(super) fn make(self, handshakes: &mut Handshakes) {
        if let Some(preshared_key) = self.preshared_key {
            handshakes.set_preshared_key(&self.key, preshared_key);
        }
        if let Some(seconds) = self.persistent_keepalive {
            handshakes.set_persistent_keepalive(&self.key, seconds);
        }
    }
}

/// [`Plane::introduce`] for those who have handshakes.
pub(super) fn introduce(
    handshakes: &mut Handshakes,
    new: Vec<(Arc<Peer>, PeerConfig)>,
    changes: Vec<ConfigChange>,
) -> Vec<Rejection> {
    for change in changes {
        change.make(handshakes);
    }
    let add = |(peer, config): (Arc<Peer>, PeerConfig)| {
        let key = *peer.public_key();
        let error = handshakes.add_peer(peer, config).err()?;
        Some((key, reject_reason(&error, key)))
    };
    new.into_iter().filter_map(add).collect()
}

/// [`Plane::conclude`] for those who have handshakes.
pub(super) fn conclude(
    handshakes: &mut Handshakes,
    now: Now,
    out: Sink<'_>,
    removed: &[PublicKey],
    renew: &[PublicKey],
) {
    for key in removed {
        handshakes.remove_peer(key);
    }
    for key in renew {
        handshakes.renew(now, key, out);
    }
}

/// [`Plane::turn`] for those who have handshakes.
pub(super) fn turn(handshakes: &mut Handshakes, now: Now, out: Sink<'_>, turns: Vec<Turn>) {
    for turn in turns {
        handshakes.race(&turn.key, turn.rivals);
        if turn.renew {
            handshakes.renew(now, &turn.key, out);
        }
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

/// Wanted peers and running ones.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) peers: Peers,
    pub(super) local: LocalEndpoints,
    /// What each source wants, by its number.
    wanted: BTreeMap<usize, Wanted>,
    /// Who was refused, and the prefixes wanted in vain: what touches them is judged together with
    /// all others.
    refused: HashSet<PublicKey>,
    /// The same with the reasons, for those who look.
    rejections: Vec<Rejection>,
    contested: HashSet<IpNet>,
    /// Somebody was refused for want of room.
    crowded: bool,
}

/// What is to be done.
#[derive(Debug, Default)]
struct Todo {
    plan: Plan,
    /// Single prefixes of running peers that come (true) or go.
    prefixes: Vec<(PublicKey, IpNet, bool)>,
}

/// What a set of changes mentions of a peer.
#[derive(Debug)]
enum Mention {
    /// Its spec.
    Spec,
    /// Prefixes alone.
    Prefixes(Vec<IpNet>),
}

impl Registry {
    /// How many peers a source wants.
    pub(super) fn wanted_from(&self, source: usize) -> usize {
        self.wanted.get(&source).map_or(0, Wanted::len)
    }

    /// What is refused now, whichever change it came with.
    pub(super) fn rejections(&self) -> &[Rejection] {
        &self.rejections
    }

    /// Makes `specs` all that `source` wants. Lower numbers win.
    pub(super) fn replace(
        &mut self,
        plane: &impl Plane,
        own: &PublicKey,
        now: Instant,
        source: usize,
        specs: &[PeerSpec],
    ) -> Result<Applied, Stopped> {
        self.wanted.insert(source, Wanted::new(specs));
        self.judge_all(plane, own, now)
    }

    /// Changes what `source` wants. The outcome is that of [`Registry::replace`] with the changed
    /// set. The costs are those of the changes alone, as long as no two peers want the same.
    pub(super) fn update(
        &mut self,
        plane: &impl Plane,
        own: &PublicKey,
        now: Instant,
        source: usize,
        changes: &[SpecChange],
    ) -> Result<Applied, Stopped> {
        // Who contradicts himself is judged with all others.
        let repeated = |change: &SpecChange| {
            let mut sets = self.wanted.values();
            sets.any(|wanted| wanted.is_repeated(change.peer()))
        };
        let together = changes.iter().any(repeated);
        let wanted = self.wanted.entry(source).or_default();
        let mut unknown = Vec::new();
        let mut touched: BTreeMap<PublicKey, Mention> = BTreeMap::new();
        for change in changes {
            let key = *change.peer();
            let prefix = match change {
                SpecChange::Set(spec) => {
                    wanted.set(spec);
                    None
                }
                SpecChange::Remove(_) => {
                    wanted.remove(&key);
                    None
                }
                SpecChange::Allow { prefix, .. } => {
                    let prefix = prefix.trunc();
                    if !wanted.allow(&key, prefix) {
                        unknown.push((key, RejectReason::NotWanted(key)));
                        continue;
                    }
                    Some(prefix)
                }
                SpecChange::Disallow { prefix, .. } => {
                    let prefix = prefix.trunc();
                    if !wanted.disallow(&key, &prefix) {
                        unknown.push((key, RejectReason::NotWanted(key)));
                        continue;
                    }
                    Some(prefix)
                }
            };
            let mention = touched
                .entry(key)
                .or_insert_with(|| Mention::Prefixes(Vec::new()));
            match (mention, prefix) {
                (Mention::Prefixes(all), Some(prefix)) => all.push(prefix),
                (mention, None) => *mention = Mention::Spec,
                (Mention::Spec, Some(_)) => {}
            }
        }
        let alone = if together {
            None
        } else {
            self.judge_alone(plane.mesh(), own, &touched)
        };
        let mut applied = match alone {
            Some(todo) => self.act(plane, now, todo)?,
            None => self.judge_all(plane, own, now)?,
        };
        applied.rejected.extend(unknown);
        Ok(applied)
    }

    /// Gives the next endpoint its turn, at each peer where that is due; tells at how many.
    pub(super) fn tick(&mut self, plane: &impl Plane, now: Instant) -> Result<usize, Stopped> {
        let Self { peers, local, .. } = self;
        // Most have one endpoint and are there: nothing to ask the control thread for.
        let movable: Vec<PublicKey> = peers
            .iter_mut()
            .filter_map(|(key, running)| running.has_choice(local).then_some(*key))
            .collect();
        if movable.is_empty() {
            return Ok(0);
        }
        let initiating = plane.are_initiating(movable.clone())?;
        let mut turns = Vec::new();
        for (key, initiating) in movable.iter().zip(initiating) {
            let Some(running) = peers.get_mut(key) else {
                continue;
            };
            if let Some(next) = running.advance(now, local, initiating) {
                debug!("peer {key}: trying {next}");
                turns.push(Turn {
                    key: *key,
                    rivals: running.rivals(local),
                    renew: running.is_standing(),
                });
            }
        }
        let moved = turns.len();
        if moved > 0 {
            plane.turn(turns)?;
        }
        Ok(moved)
    }

    /// What all sources together want of a peer.
    fn wanted_of(&self, key: &PublicKey) -> Option<PeerSpec> {
        let mut specs = self.wanted.values().filter_map(|wanted| wanted.get(key));
        let mut spec = specs.next()?.clone();
        let mut several = false;
        for other in specs {
            spec.add(other);
            several = true;
        }
        Some(if several { normalized(&spec) } else { spec })
    }

    fn wants(&self, key: &PublicKey, prefix: &IpNet) -> bool {
        self.wanted.values().any(|wanted| wanted.has(key, prefix))
    }

    /// Judges the changed peers by themselves; `None` where that is not enough, because another
    /// peer wants, or wanted in vain, what they get or give up.
    fn judge_alone(
        &self,
        mesh: &Mesh,
        own: &PublicKey,
        touched: &BTreeMap<PublicKey, Mention>,
    ) -> Option<Todo> {
        let mut todo = Todo::default();
        let table = mesh.table();
        let mut gained: HashMap<IpNet, PublicKey> = HashMap::new();
        let mut gains = |prefix: &IpNet, key: &PublicKey| {
            let other = gained.insert(*prefix, *key);
            let owner = table
                .allowed_ips
                .owner(prefix)
                .map(|peer| peer.public_key());
            // Whoever has it may give it up in the same step.
            let leaves = |owner: &PublicKey| {
                let mentioned = touched.contains_key(owner) && !self.refused.contains(owner);
                owner == key || (mentioned && !self.wants(owner, prefix))
            };
            other.is_none_or(|other| other == *key)
                && owner.is_none_or(leaves)
                && !self.contested.contains(prefix)
        };
        let loses = |prefix: &IpNet| !self.contested.contains(prefix);
        for (key, mention) in touched {
            if key == own || self.refused.contains(key) {
                return None;
            }
            let running = self.peers.get(key).map(|running| &running.spec);
            if let (Mention::Prefixes(prefixes), Some(running)) = (mention, running) {
                for prefix in prefixes {
                    let (has, wants) = (
                        running.allowed_ips.binary_search(prefix).is_ok(),
                        self.wants(key, prefix),
                    );
                    match (has, wants) {
                        (false, true) if gains(prefix, key) => {}
                        (true, false) if loses(prefix) => {}
                        (true, true) | (false, false) => continue,
                        _ => return None,
                    }
                    todo.prefixes.push((*key, *prefix, wants));
                }
                continue;
            }
            // Its place among the others may be new: who has what others want is judged with them.
            if running.is_some_and(|spec| !spec.allowed_ips.iter().all(loses)) {
                return None;
            }
            match (running, self.wanted_of(key)) {
                (None, None) => {}
                (None, Some(wanted)) => {
                    if !wanted.allowed_ips.iter().all(|prefix| gains(prefix, key)) {
                        return None;
                    }
                    todo.plan.add.push(wanted);
                }
                (Some(_), None) if self.crowded => return None,
                (Some(_), None) => todo.plan.remove.push(*key),
                (Some(running), Some(wanted)) if *running == wanted => todo.plan.unchanged += 1,
                (Some(running), Some(wanted)) => {
                    let (_, new) = differences(&running.allowed_ips, &wanted.allowed_ips);
                    if !new.iter().all(|prefix| gains(prefix, key)) {
                        return None;
                    }
                    todo.plan.change.push(wanted);
                }
            }
        }
        Some(todo)
    }

    /// Judges everything anew.
    fn judge_all(
        &mut self,
        plane: &impl Plane,
        own: &PublicKey,
        now: Instant,
    ) -> Result<Applied, Stopped> {
        let specs = merge(self.wanted.values().map(Wanted::iter));
        let plan = Plan::new(own, &self.peers, &specs);
        self.refused.clear();
        self.rejections.clear();
        self.contested.clear();
        self.crowded = false;
        self.act(
            plane,
            now,
            Todo {
                plan,
                prefixes: Vec::new(),
            },
        )
    }

    /// Does it: new peers first, then all prefixes in one step, then those that are gone.
    fn act(&mut self, plane: &impl Plane, now: Instant, todo: Todo) -> Result<Applied, Stopped> {
        let Todo { plan, prefixes } = todo;
        let (new, refused) = self.introduce(plane, plan.add, &plan.change, now)?;
        let changed_alone: HashSet<&PublicKey> = prefixes.iter().map(|(key, ..)| key).collect();
        let mut applied = Applied {
            added: new.len(),
            changed: plan.change.len() + changed_alone.len(),
            removed: plan.remove.len(),
            unchanged: plan.unchanged,
            rejected: plan.rejected,
        };
        applied.rejected.extend(refused);

        let Self { peers, local, .. } = self;
        let mut moves = Moves::default();
        for key in &plan.remove {
            if let Some(gone) = peers.remove(key) {
                moves.take(&gone);
            }
        }
        // Not for single prefixes: nothing waits for them.
        let wake = !(new.is_empty() && plan.change.is_empty() && plan.remove.is_empty());
        let mut renew = Vec::new();
        for spec in plan.change {
            if let Some(running) = peers.get_mut(&spec.public_key) {
                moves.change(running, &spec.allowed_ips);
                if running.change(spec, now, local) {
                    renew.push(running.spec.public_key);
                }
            }
        }
        for (key, prefix, comes) in prefixes {
            if let Some(running) = peers.get_mut(&key) {
                moves.change_one(running, prefix, comes);
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
        if !moves.is_empty() {
            plane.mesh().update(|tables| moves.apply(tables));
        }
        self.remember(&applied.rejected);

        // Only now: until the prefixes were gone, workers could still meet the peers.
        if !plan.remove.is_empty() || !renew.is_empty() {
            plane.conclude(plan.remove, renew)?;
        }
        if wake {
            plane.wake();
        }
        Ok(applied)
    }

    /// Makes new peers known to the handshakes, with what changed of the present ones.
    fn introduce(
        &self,
        plane: &impl Plane,
        add: Vec<PeerSpec>,
        change: &[PeerSpec],
        now: Instant,
    ) -> Result<(Vec<Running>, Vec<Rejection>), Stopped> {
        let changes: Vec<_> = change
            .iter()
            .filter_map(|new| {
                let old = &self.peers.get(&new.public_key)?.spec;
                ConfigChange::between(old, new)
            })
            .collect();
        if add.is_empty() && changes.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut new: Vec<Running> = add
            .into_iter()
            .map(|spec| Running::new(spec, now, &self.local))
            .collect();
        let added = new
            .iter()
            .map(|running| (Arc::clone(&running.peer), config(&running.spec)))
            .collect();
        let refused = plane.introduce(added, changes)?;
        let names: HashSet<&PublicKey> = refused.iter().map(|(key, _)| key).collect();
        new.retain(|running| !names.contains(&running.spec.public_key));
        Ok((new, refused))
    }

    /// Remembers who was refused, and what of.
    fn remember(&mut self, rejected: &[Rejection]) {
        for (key, reason) in rejected {
            self.refused.insert(*key);
            self.rejections.push((*key, reason.clone()));
            self.crowded |= matches!(reason, RejectReason::TooMany(_));
            let specs = self.wanted.values().flat_map(|wanted| wanted.all_of(key));
            self.contested
                .extend(specs.flat_map(|spec| &spec.allowed_ips));
        }
    }
}

fn config(spec: &PeerSpec) -> PeerConfig {
    PeerConfig {
        preshared_key: spec.preshared_key.clone().unwrap_or_default(),
        persistent_keepalive: spec.persistent_keepalive,
    }
}

/// What is only in `old`, and what is only in `new`. Both are sorted.
fn differences(old: &[IpNet], new: &[IpNet]) -> (Vec<IpNet>, Vec<IpNet>) {
    let only = |own: &[IpNet], other: &[IpNet]| {
        let missing = own
            .iter()
            .filter(|prefix| other.binary_search(prefix).is_err());
        missing.copied().collect()
    };
    (only(old, new), only(new, old))
}

/// Prefixes that change hands, applied to the table in one step.
#[derive(Default)]
struct Moves {
    taken: Vec<(Arc<Peer>, IpNet)>,
    given: BTreeMap<IpNet, Arc<Peer>>,
}

impl Moves {
    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.given.is_empty()
    }

    fn take(&mut self, running: &Running) {
        self.taken.extend(running.prefixes());
    }

    fn give(&mut self, running: &Running) {
        let prefixes = running.prefixes();
        self.given
            .extend(prefixes.map(|(peer, prefix)| (prefix, peer)));
    }

    /// What is to be done for `running` to have `wanted`. Both are sorted, and what is in both is
    /// not touched.
    fn change(&mut self, running: &Running, wanted: &[IpNet]) {
        let (gone, new) = differences(&running.spec.allowed_ips, wanted);
        let peer = || Arc::clone(&running.peer);
        self.taken
            .extend(gone.into_iter().map(|prefix| (peer(), prefix)));
        self.given
            .extend(new.into_iter().map(|prefix| (prefix, peer())));
    }

    /// Has one prefix come to `running` or go.
    fn change_one(&mut self, running: &mut Running, prefix: IpNet, comes: bool) {
        let own = &mut running.spec.allowed_ips;
        match (own.binary_search(&prefix), comes) {
            (Err(place), true) => {
                own.insert(place, prefix);
                self.given.insert(prefix, Arc::clone(&running.peer));
            }
            (Ok(place), false) => {
                own.remove(place);
                self.taken.push((Arc::clone(&running.peer), prefix));
            }
            _ => {}
        }
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

#[cfg(test)]
mod tests;
