//! Resolved paths: what an Ethernet frame needs to know that a socket never asks for.
//!
//! The resolver of the runtime fills the [`PathTable`], sending halves read it: one pointer load a
//! batch, no lock. What a reader misses it puts on a bounded list of wanted keys and wakes the
//! resolver; until the path is there, the datagram takes the UDP socket.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use crossbeam_channel::{Receiver, Sender};
use rustix::event::{EventfdFlags, eventfd};

use crate::mesh::Endpoint;

/// The most keys that wait for the resolver.
const MOST_WANTED: usize = 4096;
/// How many keys a reader remembers to have asked for.
const MEMORY: usize = 256;

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathKey {
    /// The remote address.
    pub remote: IpAddr,
    /// The sticky source address, if there is one.
    pub source: Option<IpAddr>,
    /// The interface's index for an IPv6 link-local remote, else 0.
    pub scope: u32,
}

impl From<&Endpoint> for PathKey {
    fn from(endpoint: &Endpoint) -> Self {
        let remote = endpoint.remote.ip().to_canonical();
        let scope = match endpoint.remote {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
                if v6.scope_id() == 0 {
                    endpoint.interface
                } else {
                    v6.scope_id()
                }
            }
            _ => 0,
        };
        Self {
            remote,
            source: endpoint
                .local
                .map(|local| local.to_canonical())
                .filter(|local| local.is_ipv4() == remote.is_ipv4()),
            scope,
        }
    }
}

/// A resolved path.
#[derive(Debug)]
pub struct Path {
    /// The Ethernet interface that frames leave by; the parent where the route names a VLAN
    /// device.
    pub interface: u32,
    /// The sender's hardware address.
    pub source_mac: [u8; 6],
    /// The next hop's hardware address.
    pub destination_mac: [u8; 6],
    /// The VLAN's number, 1 to 4094, if the route leads through a VLAN device.
    pub vlan: Option<u16>,
    /// The local address.
    pub source: IpAddr,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What is known of its use and health.
    pub marks: PathMarks,
}

/// What drivers tell the resolver about a path. Relaxed flags: hints, they guard nothing.
#[derive(Debug, Default)]
pub struct PathMarks {
    used: AtomicBool,
    confirmed: AtomicBool,
}

impl PathMarks {
    /// A frame was sent on the path.
    pub fn mark_used(&self) {
        // Loaded first: in steady state it is set, and storing would take the cache line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// A frame came from the remote address by the path's next hop.
    pub fn mark_confirmed(&self) {
        if !self.confirmed.load(Ordering::Relaxed) {
            self.confirmed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the path was used since the last call.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Whether the path was confirmed since the last call.
    pub fn take_confirmed(&self) -> bool {
        self.confirmed.swap(false, Ordering::Relaxed)
    }
}

/// One generation of the table.
pub type Paths = HashMap<PathKey, Arc<Path>>;

/// The resolved paths of one tunnel device, as published last, and the keys that are wanted.
#[derive(Debug)]
pub struct PathTable {
    published: Arc<ArcSwap<Paths>>,
    want: Sender<PathKey>,
    wanted: Receiver<PathKey>,
    bell: OwnedFd,
}

impl PathTable {
    /// An empty table.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        let (want, wanted) = crossbeam_channel::bounded(MOST_WANTED);
        Ok(Arc::new(Self {
            published: Arc::default(),
            want,
            wanted,
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        }))
    }

    /// Publishes a generation; readers see it with their next batch.
    pub fn publish(&self, paths: Paths) {
        self.published.store(Arc::new(paths));
    }

    /// The generation published last.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Paths> {
        self.published.load_full()
    }

    /// Asks the resolver for `key`; false when too many keys wait already.
    pub fn want(&self, key: PathKey) -> bool {
        if self.want.try_send(key).is_err() {
            return false;
        }
        self.ring();
        true
    }

    /// As [`want`](Self::want), for who rings later.
    fn want_quietly(&self, key: PathKey) -> bool {
        self.want.try_send(key).is_ok()
    }

    /// Takes the next key that was asked for. Several readers may ask for the same one.
    pub fn next_wanted(&self) -> Option<PathKey> {
        self.wanted.try_recv().ok()
    }

    /// Becomes readable when a key is wanted, or [`ring`](Self::ring) was called; `quiet` ends
    /// that.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Wakes whoever waits for [`bell`](Self::bell).
    pub fn ring(&self) {
        // Fails only when the counter is full: then the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Ends the ringing; call it before looking at what is wanted.
    pub fn quiet(&self) {
        let mut count = [0; 8];
        // Fails when it did not ring.
        let _ = rustix::io::read(&self.bell, &mut count);
    }

    /// A reader for one driver half.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> PathReader {
        PathReader {
            cache: Cache::new(Arc::clone(&self.published)),
            table: Arc::clone(self),
            asked: Box::new([None; MEMORY]),
            hasher: RandomState::new(),
            generation: 0,
            rung: false,
            unheard: false,
            seen: core::ptr::null::<Paths>().addr(),
        }
    }
}

/// Reads a [`PathTable`] without locks.
#[derive(Debug)]
pub struct PathReader {
    cache: Cache<Arc<ArcSwap<Paths>>, Arc<Paths>>,
    table: Arc<PathTable>,
    /// What was asked for since the table last changed, so that a busy sender asks once.
    asked: Box<[Option<PathKey>; MEMORY]>,
    hasher: RandomState,
    generation: u64,
    /// Whether the bell was rung since the last batch began: once a batch is enough, since it takes
    /// a system call.
    rung: bool,
    /// Whether something was asked for without ringing.
    unheard: bool,
    /// The address of the generation seen last. It cannot be another one's: the cache holds it.
    seen: usize,
}

impl PathReader {
    /// Looks whether a new generation was published, and numbers it; once a batch.
    pub fn refresh(&mut self) -> u64 {
        self.rung = core::mem::take(&mut self.unheard);
        if self.rung {
            self.table.ring();
        }
        let now = Arc::as_ptr(self.cache.load()).addr();
        if now != self.seen {
            self.seen = now;
            self.generation += 1;
            self.asked.fill(None);
        }
        self.generation
    }

    /// The path for `key`. When there is none, it is asked for.
    pub fn path(&mut self, key: &PathKey) -> Option<Arc<Path>> {
        if let Some(path) = self.cache.load().get(key) {
            return Some(Arc::clone(path));
        }
        let place = self.hasher.hash_one(key) as usize % MEMORY;
        let memory = self.asked.get_mut(place)?;
        if *memory != Some(*key) && self.table.want_quietly(*key) {
            *memory = Some(*key);
            if self.rung {
                self.unheard = true;
            } else {
                self.rung = true;
                self.table.ring();
            }
        }
        None
    }

    /// Tells the resolver that the path for `key` works, if it leads over the neighbour
    /// `source_mac` on `interface`, from which a frame came. Nothing is asked for.
    pub fn confirm(&mut self, key: &PathKey, interface: u32, source_mac: [u8; 6]) {
        if let Some(path) = self.cache.load().get(key)
            && path.destination_mac == source_mac
            && path.interface == interface
        {
            path.marks.mark_confirmed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> PathKey {
        PathKey {
            remote: IpAddr::from([192, 0, 2, last]),
            source: None,
            scope: 0,
        }
    }

    fn path() -> Arc<Path> {
        Arc::new(Path {
            interface: 3,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlan: None,
            source: IpAddr::from([192, 0, 2, 1]),
            mtu: 1500,
            hop_limit: 64,
            marks: PathMarks::default(),
        })
    }

    fn rings(table: &PathTable) -> bool {
        let mut polled = [rustix::event::PollFd::from_borrowed_fd(
            table.bell(),
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polled, Some(&now)).unwrap() == 1
    }

    #[test]
    fn a_missing_path_is_asked_for_once_a_generation() {
        let table = PathTable::new().unwrap();
        let mut reader = table.reader();
        assert!(!rings(&table));
        for _ in 0..10 {
            reader.refresh();
            assert!(reader.path(&key(9)).is_none());
        }
        assert!(rings(&table));
        table.quiet();
        assert!(!rings(&table));
        assert_eq!(table.next_wanted(), Some(key(9)));
        assert_eq!(table.next_wanted(), None);

        table.publish(Paths::from([(key(9), path())]));
        assert_eq!(reader.refresh(), reader.refresh());
        assert_eq!(reader.path(&key(9)).unwrap().interface, 3);
        assert_eq!(table.next_wanted(), None);

        table.publish(Paths::new());
        reader.refresh();
        assert!(reader.path(&key(9)).is_none());
        assert_eq!(
            table.next_wanted(),
            Some(key(9)),
            "gone, so asked for again"
        );
    }

    #[test]
    fn the_list_of_wanted_keys_is_bounded() {
        let table = PathTable::new().unwrap();
        let mut taken = 0;
        while table.want(key(1)) {
            taken += 1;
            assert!(taken <= MOST_WANTED);
        }
        assert_eq!(taken, MOST_WANTED);
        // A reader that could not ask does not believe it had.
        let mut reader = table.reader();
        reader.refresh();
        assert!(reader.path(&key(2)).is_none());
        while table.next_wanted().is_some() {}
        assert!(reader.path(&key(2)).is_none());
        assert_eq!(table.next_wanted(), Some(key(2)));
    }

    #[test]
    fn keys_are_canonical() {
        let mapped = Endpoint::from("[::ffff:192.0.2.9]:51820".parse::<SocketAddr>().unwrap());
        assert_eq!(PathKey::from(&mapped), key(9));
        let mut local = Endpoint::from(SocketAddr::new("fe80::1".parse().unwrap(), 1));
        local.interface = 7;
        assert_eq!(PathKey::from(&local).scope, 7);
        local.local = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(PathKey::from(&local).source, None, "of the other family");
    }
}
