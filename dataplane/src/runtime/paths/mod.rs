//! Where AF_XDP frames go: routes and neighbours of the kernel, kept current by its events.
//!
//! One thread owns a `Resolver`. It waits for rtnetlink events and for keys that the sending
//! halves miss ([`PathTable::bell`]), looks routes up as the kernel would (with the node's mark),
//! joins them with the neighbour table, and publishes a new generation when something differs. It
//! never sends a packet of its own: the kernel looks for a neighbour because the UDP socket sends
//! meanwhile, and because it is asked to (`NTF_USE`).

mod host;
mod local;
mod netlink;
mod sources;
mod view;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::host::{HostAddress, HostState, HostWatch};
pub use self::local::{LocalAddressKeeper, LocalAddressWatch};
use self::netlink::{Questions, RouteQuestion};
pub use self::sources::SourceWatch;
use self::view::{Change, Route, View};
use crate::io::xdp::path::Paths;
use crate::io::xdp::{Path, PathKey, PathTable, TooBigWatch};
use crate::runtime::rtnetlink::Events;

/// Multicast groups (`enum rtnetlink_groups`): links, neighbours, and addresses, routes and
/// rules of both families.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];

/// The most paths kept. Outside they lead to endpoints of authenticated peers, or configured ones; on
/// an inner interface a peer has the choice of destinations, so that some must give way to others.
const MOST_PATHS: usize = 1 << 16;

/// At most this often room is made when there are as many: all are looked at for it.
const LEAST_BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// All routes are looked up anew at most this often: where a routing daemon works, they change
/// all the time.
const LEAST_BETWEEN_LOOKUPS: Duration = Duration::from_millis(500);

/// How often paths are asked whether they are used and confirmed.
const ROUND: Duration = Duration::from_secs(15);

/// Rounds after which a key is forgotten that nobody used or asked for.
const IDLE_ROUNDS: u32 = 20;

/// The resolver's thread. Dropping it ends the thread; the paths published last stay.
#[derive(Debug)]
pub struct PathResolver {
    table: Arc<PathTable>,
    mark: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PathResolver {
    /// Starts resolving for `table`, in the calling thread's network namespace. `mark` is the
    /// mark that policy rules are to see (`SO_MARK` of the UDP socket), 0 for none.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket or no thread.
    pub fn start(table: Arc<PathTable>, mark: u32) -> io::Result<Self> {
        let mark = Arc::new(AtomicU32::new(mark));
        let mut resolver = Resolver::new(Arc::clone(&table), Arc::clone(&mark))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("paths".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    resolver.wait();
                    resolver.step();
                }
            })?;
        Ok(Self {
            table,
            mark,
            stop,
            thread: Some(thread),
        })
    }

    /// Looks all routes up anew, under this mark from now on.
    pub fn set_mark(&self, mark: u32) {
        self.mark.store(mark, Ordering::Release);
        self.table.ring();
    }
}

impl Drop for PathResolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.table.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the path resolver panicked: paths were no longer kept current");
        }
    }
}

/// A key that is kept resolved.
#[derive(Debug, Default)]
struct Wanted {
    route: Option<Route>,
    /// Rounds since it was last used or asked for.
    idle: u32,
}

#[derive(Debug)]
struct Resolver {
    table: Arc<PathTable>,
    mark: Arc<AtomicU32>,
    /// The mark that routes are looked up under now.
    looked_up_under: u32,
    questions: Questions,
    events: Events,
    view: View,
    wanted: HashMap<PathKey, Wanted>,
    published: Paths,
    /// What routers say; `None` where that cannot be heard.
    too_big: Option<TooBigWatch>,
    /// All routes must be looked up anew, not before `next_lookup`.
    stale: bool,
    /// And once more after that.
    again: bool,
    next_lookup: Instant,
    next_round: Instant,
    next_sweep: Instant,
}

impl Resolver {
    fn new(table: Arc<PathTable>, mark: Arc<AtomicU32>) -> io::Result<Self> {
        let now = Instant::now();
        let mut resolver = Self {
            table,
            looked_up_under: mark.load(Ordering::Acquire),
            mark,
            // Events first: what happens during the first listing is then told twice, not never.
            events: Events::open(&GROUPS)?,
            questions: Questions::open()?,
            view: View::default(),
            wanted: HashMap::new(),
            published: Paths::new(),
            too_big: TooBigWatch::open()
                .map_err(|error| {
                    tracing::warn!(%error, "a smaller MTU on the way shows late: cannot hear ICMP");
                })
                .ok(),
            stale: false,
            again: false,
            next_lookup: now,
            next_round: now + ROUND,
            next_sweep: now,
        };
        resolver.list()?;
        Ok(resolver)
    }

    /// Reads links, addresses and neighbours from the beginning.
    fn list(&mut self) -> io::Result<()> {
        self.view = View::default();
        let links = self.questions.links()?;
        let addresses = self.questions.addresses()?;
        let neighbours = self.questions.neighbours()?;
        for message in links.iter().chain(&addresses).chain(&neighbours) {
            self.view.update(message);
        }
        self.stale = true;
        Ok(())
    }

    /// Sleeps until there is something to do.
    fn wait(&self) {
        let mut until = self.next_round;
        if self.stale {
            until = until.min(self.next_lookup);
        }
        let limit = until.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(limit).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut fds: Vec<PollFd<'_>> = [self.events.as_fd(), self.table.bell()]
            .into_iter()
            .chain(self.too_big.iter().flat_map(TooBigWatch::fds))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        // Fails on a signal; then one step is made for nothing.
        let _ = poll(&mut fds, Some(&limit));
    }

    /// Does all that is to be done now.
    fn step(&mut self) {
        let mut publish = self.take_events();
        publish |= self.take_wanted();
        let now = Instant::now();
        let mark = self.mark.load(Ordering::Acquire);
        if mark != self.looked_up_under {
            self.looked_up_under = mark;
            (self.stale, self.next_lookup) = (true, now);
        }
        // Heard before the kernel has noted it: the first look may come too early.
        if self.too_big.as_ref().is_some_and(TooBigWatch::take) {
            (self.stale, self.again) = (true, true);
        }
        if self.stale && now >= self.next_lookup {
            self.stale = core::mem::take(&mut self.again);
            self.next_lookup = now + LEAST_BETWEEN_LOOKUPS;
            publish |= self.look_up_all();
        }
        if now >= self.next_round {
            self.next_round = now + ROUND;
            publish |= self.round();
        }
        if publish {
            self.table.publish(self.published.clone());
        }
    }

    /// Follows the kernel's events; true when a path has changed.
    fn take_events(&mut self) -> bool {
        let mut changed = false;
        loop {
            match self.events.read() {
                Ok(events) if events.is_empty() => return changed,
                Ok(events) => {
                    for event in &events {
                        match self.view.update(event) {
                            Change::Nothing => {}
                            Change::Everything => self.stale = true,
                            Change::Neighbour(interface, ip) => {
                                changed |= self.follow_neighbour(interface, ip);
                            }
                        }
                    }
                }
                Err(error) => {
                    // Most likely ENOBUFS: events were lost. What was missed is in the lists.
                    tracing::debug!(%error, "rtnetlink events were lost: listing anew");
                    if let Err(error) = self.list() {
                        tracing::warn!(%error, "cannot list links and neighbours");
                    }
                    return changed;
                }
            }
        }
    }

    /// Makes all paths anew that lead over one neighbour.
    fn follow_neighbour(&mut self, interface: u32, ip: IpAddr) -> bool {
        let concerned: Vec<PathKey> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| {
                wanted
                    .route
                    .is_some_and(|route| route.interface == interface && route.next_hop == ip)
            })
            .map(|(key, _)| *key)
            .collect();
        let mut changed = false;
        for key in concerned {
            changed |= self.make_path(&key);
        }
        changed
    }

    /// Takes up the keys that the sending halves miss; true when a path was found.
    fn take_wanted(&mut self) -> bool {
        self.table.quiet();
        let mut changed = false;
        while let Some(key) = self.table.next_wanted() {
            let full = self.wanted.len() >= MOST_PATHS && !self.make_room();
            match self.wanted.entry(key) {
                Entry::Occupied(mut known) => known.get_mut().idle = 0,
                Entry::Vacant(_) if full => continue,
                Entry::Vacant(free) => {
                    free.insert(Wanted::default());
                    changed |= self.look_up(&key);
                }
            }
            self.seek(&key);
        }
        changed
    }

    /// Forgets the keys that lead nowhere, or that nobody used or asked for in the last round; whether
    /// there is room for another one.
    fn make_room(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.next_sweep {
            self.next_sweep = now + LEAST_BETWEEN_SWEEPS;
            let published = &self.published;
            self.wanted
                .retain(|key, wanted| wanted.idle == 0 && published.contains_key(key));
            let wanted = &self.wanted;
            self.published.retain(|key, _| wanted.contains_key(key));
        }
        self.wanted.len() < MOST_PATHS
    }

    fn look_up_all(&mut self) -> bool {
        let keys: Vec<PathKey> = self.wanted.keys().copied().collect();
        let mut changed = false;
        for key in keys {
            changed |= self.look_up(&key);
        }
        changed
    }

    /// Looks the route for `key` up and makes its path; true when that has changed.
    fn look_up(&mut self, key: &PathKey) -> bool {
        let route = self.route(key);
        if let Some(wanted) = self.wanted.get_mut(key) {
            wanted.route = route;
        }
        self.make_path(key)
    }

    fn route(&mut self, key: &PathKey) -> Option<Route> {
        let sticky = key.source.filter(|source| self.view.is_local(*source));
        let mut ask = |source| {
            let answer = self.questions.route(RouteQuestion {
                destination: key.remote,
                source,
                interface: key.scope,
                mark: self.looked_up_under,
            });
            match answer {
                Ok(message) => Route::parse(&message?, key.remote),
                Err(error) => {
                    tracing::debug!(%error, "no route to an endpoint");
                    None
                }
            }
        };
        // A sticky source that no route accepts is given up, as the kernel's WireGuard does.
        match sticky {
            Some(source) => ask(Some(source))
                .map(|route| route.from(source))
                .or_else(|| ask(None)),
            None => ask(None),
        }
    }

    /// Joins route, link and neighbour into the path for `key`; true when it differs from the
    /// published one.
    fn make_path(&mut self, key: &PathKey) -> bool {
        let route = self.wanted.get(key).and_then(|wanted| wanted.route);
        let path = route.and_then(|route| self.view.path(&route));
        match (self.published.get(key), path) {
            (None, None) => false,
            (Some(before), Some(now)) if same(before, &now) => false,
            (_, Some(now)) => {
                self.published.insert(*key, Arc::new(now));
                true
            }
            (Some(_), None) => {
                self.published.remove(key);
                true
            }
        }
    }

    /// Has the kernel look for the neighbour of `key`, if it does not know it.
    fn seek(&mut self, key: &PathKey) {
        let route = self.wanted.get(key).and_then(|wanted| wanted.route);
        if let Some(route) = route
            && !self.view.knows(route.interface, route.next_hop)
        {
            self.probe(route.interface, route.next_hop);
        }
    }

    fn probe(&mut self, interface: u32, neighbour: IpAddr) {
        // Without CAP_NET_ADMIN it is left to the datagrams that the UDP socket sends.
        if let Err(error) = self.questions.probe(interface, neighbour) {
            tracing::debug!(%error, "cannot have a neighbour looked for");
        }
    }

    /// Looks after used paths and forgets idle ones; true when something has changed.
    ///
    /// Frames that AF_XDP sends are no sign of use to the kernel, so it would let the neighbour
    /// go stale and never notice that it has gone. A path that is used, and by which nothing
    /// has come back since the last round, has its neighbour probed.
    fn round(&mut self) -> bool {
        let mut doubtful = Vec::new();
        for (key, wanted) in &mut self.wanted {
            wanted.idle += 1;
            let Some(path) = self.published.get(key) else {
                continue;
            };
            let confirmed = path.marks.take_confirmed();
            if path.marks.take_used() {
                wanted.idle = 0;
                if !confirmed
                    && let Some(route) = wanted.route
                    && self.view.is_stale(route.interface, route.next_hop)
                {
                    doubtful.push((route.interface, route.next_hop));
                }
            }
        }
        // What was learnt of a path's MTU, the kernel forgets after a while without a word.
        let learnt: Vec<PathKey> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| wanted.route.is_some_and(|route| route.has_mtu()))
            .map(|(key, _)| *key)
            .collect();
        let mut changed = false;
        for key in learnt {
            changed |= self.look_up(&key);
        }
        doubtful.sort_unstable();
        doubtful.dedup();
        for (interface, neighbour) in doubtful {
            self.probe(interface, neighbour);
        }
        let before = self.wanted.len();
        self.wanted.retain(|_, wanted| wanted.idle < IDLE_ROUNDS);
        let wanted = &self.wanted;
        self.published.retain(|key, _| wanted.contains_key(key));
        // A generation is published also when only keys without a path went: whoever still
        // wants one asks again with a new generation only.
        changed || self.wanted.len() < before
    }
}

/// Whether two paths lead the same way, whatever their marks.
fn same(a: &Path, b: &Path) -> bool {
    a.interface == b.interface
        && a.source_mac == b.source_mac
        && a.destination_mac == b.destination_mac
        && a.vlan == b.vlan
        && a.source == b.source
        && a.mtu == b.mtu
        && a.hop_limit == b.hop_limit
}
