//! The discovery service: what it remembers, forgets and tells, with what is odd about it.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::discovery::ClusterCipher;
use crate::control::discovery::messages::StoredAffiliate;
use crate::control::kubespan::Affiliate;

/// Seconds that an entry lives without being renewed.
const TTL: u64 = 30 * 60;

/// What a member leaves there.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) data: Vec<u8>,
    pub(super) affiliate: Affiliate,
}

/// An entry as it is told to watchers.
#[derive(Debug)]
pub(super) struct Version {
    /// Counts up: a watcher in clear takes none that is older than what it has.
    pub(super) number: u64,
    pub(super) stored: StoredAffiliate,
    pub(super) affiliate: Affiliate,
}

/// News for all watchers.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Which node.
    pub(super) node: usize,
    /// None: it is gone, or so the service says.
    pub(super) version: Option<Arc<Version>>,
}

#[derive(Debug)]
struct Entry {
    told: Arc<Told>,
    /// Added, never replaced, each with its end.
    endpoints: Vec<(SocketAddr, u64)>,
    expires: u64,
    version: Arc<Version>,
}

#[derive(Debug)]
pub(super) struct Service {
    cipher: ClusterCipher,
    entries: BTreeMap<usize, Entry>,
    /// Everything that was ever said; a watcher has read up to somewhere.
    pub(super) log: Vec<Item>,
    /// How often it was started: streams of an earlier life are broken.
    pub(super) life: u64,
    number: u64,
}

impl Service {
    pub(super) fn new(cipher: ClusterCipher) -> Self {
        Self {
            cipher,
            entries: BTreeMap::new(),
            log: Vec::new(),
            life: 0,
            number: 0,
        }
    }

    /// What a watch begins with, and what a listing says.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &Arc<Version>)> {
        let entries = self.entries.iter();
        entries.map(|(&node, entry)| (node, &entry.version))
    }

    pub(super) fn has(&self, node: usize) -> bool {
        self.entries.contains_key(&node)
    }

    /// A member tells of itself: every such call is told to all, whether it is news or not.
    pub(super) fn update(&mut self, second: u64, node: usize, told: &Arc<Told>) {
        let expires = second + TTL;
        let mut endpoints = self
            .entries
            .remove(&node)
            .map_or_else(Vec::new, |entry| entry.endpoints);
        for endpoint in &told.affiliate.kubespan.endpoints {
            match endpoints.iter_mut().find(|(known, _)| known == endpoint) {
                Some((_, until)) => *until = expires,
                None => endpoints.push((*endpoint, expires)),
            }
        }
        let version = self.version(told, &endpoints);
        self.tell(node, Some(Arc::clone(&version)));
        let entry = Entry {
            told: Arc::clone(told),
            endpoints,
            expires,
            version,
        };
        self.entries.insert(node, entry);
    }

    /// A member leaves.
    pub(super) fn delete(&mut self, node: usize) {
        if self.entries.remove(&node).is_some() {
            self.tell(node, None);
        }
    }

    /// Says that a member is gone that is not.
    pub(super) fn lie(&mut self, node: usize) {
        self.tell(node, None);
    }

    /// Drops what has expired. Where those are endpoints alone, watchers are told that the whole
    /// member is gone.
    pub(super) fn collect(&mut self, second: u64) {
        let gone: Vec<usize> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.expires < second)
            .map(|(&node, _)| node)
            .collect();
        gone.into_iter().for_each(|node| self.delete(node));
        let stale = |entry: &Entry| entry.endpoints.iter().any(|&(_, until)| until < second);
        let poorer: Vec<usize> = self
            .entries
            .iter()
            .filter(|(_, entry)| stale(entry))
            .map(|(&node, _)| node)
            .collect();
        for node in poorer {
            if let Some(mut entry) = self.entries.remove(&node) {
                entry.endpoints.retain(|&(_, until)| until >= second);
                entry.version = self.version(&entry.told, &entry.endpoints);
                self.entries.insert(node, entry);
            }
            self.tell(node, None);
        }
    }

    /// It dies and begins anew, without memory.
    pub(super) fn restart(&mut self) {
        self.entries.clear();
        self.life += 1;
    }

    fn tell(&mut self, node: usize, version: Option<Arc<Version>>) {
        self.log.push(Item { node, version });
    }

    fn version(&mut self, told: &Told, endpoints: &[(SocketAddr, u64)]) -> Arc<Version> {
        self.number += 1;
        let seal =
            |(endpoint, _): &(SocketAddr, u64)| self.cipher.seal_endpoint(*endpoint).unwrap();
        let mut affiliate = told.affiliate.clone();
        affiliate.kubespan.endpoints = endpoints.iter().map(|(endpoint, _)| *endpoint).collect();
        Arc::new(Version {
            number: self.number,
            stored: StoredAffiliate {
                id: affiliate.node_id.clone(),
                data: told.data.clone(),
                endpoints: endpoints.iter().map(seal).collect(),
            },
            affiliate,
        })
    }
}
