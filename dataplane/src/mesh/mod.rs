//! Floor 4: what control writes and workers read: peers, allowed IPs, receiver indices.
//!
//! Everything is published as whole generations. A worker loads [`Mesh::table`] and
//! [`IndexTable::load`] once a batch and then reads without locks or reference counts; control
//! changes a clone, which shares all that stays the same, and publishes it with one store.

pub mod allowed_ips;
mod bits;
pub mod endpoint;
pub mod index_table;
pub mod peer;
mod retired;
pub mod traffic;
mod trie;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;

use crate::crypto::PublicKey;
use retired::Retired;

pub use allowed_ips::AllowedIps;
pub use endpoint::Endpoint;
pub use index_table::{IndexEntry, IndexError, IndexTable, Indices};
pub use peer::Peer;
pub use traffic::{PeerCounters, WorkerId};

/// What is published as one: every look-up of a batch is answered from the same generation.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Which peer an inner address belongs to.
    pub allowed_ips: AllowedIps<Arc<Peer>>,
}

/// All that workers share with control.
#[derive(Debug, Default)]
pub struct Mesh {
    /// Which session an incoming message belongs to.
    pub indices: IndexTable,
    table: ArcSwap<Table>,
    writer: Mutex<Writer>,
}

/// What writers need; locked for as long as one writes.
#[derive(Debug, Default)]
struct Writer {
    /// Which prefixes a peer has.
    prefixes: HashMap<PublicKey, BTreeSet<IpNet>>,
    retired: Retired<Table>,
}

impl Mesh {
    /// The tables as they are now. Load once a batch.
    #[must_use]
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Makes any number of changes and publishes them as one generation.
    pub fn update<R>(&self, change: impl FnOnce(&mut TableUpdate<'_>) -> R) -> R {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut update = TableUpdate {
            table: Table::clone(&self.table.load()),
            prefixes: &mut writer.prefixes,
        };
        let result = change(&mut update);
        let next = update.table;
        writer.retired.replace(&self.table, next);
        result
    }

    /// The prefixes of a peer, sorted.
    #[must_use]
    pub fn prefixes_of(&self, peer: &PublicKey) -> Vec<IpNet> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer
            .prefixes
            .get(peer)
            .map_or_else(Vec::new, |own| own.iter().copied().collect())
    }
}

/// Changes to a [`Table`] that are not published yet.
#[derive(Debug)]
pub struct TableUpdate<'a> {
    table: Table,
    prefixes: &'a mut HashMap<PublicKey, BTreeSet<IpNet>>,
}

impl TableUpdate<'_> {
    /// Gives `prefix` to `peer`; host bits are ignored. A prefix has one owner: whoever had
    /// exactly this one loses it and is returned.
    pub fn allow(&mut self, prefix: &IpNet, peer: &Arc<Peer>) -> Option<Arc<Peer>> {
        let prefix = prefix.trunc();
        let loser = self
            .table
            .allowed_ips
            .insert(&prefix, Arc::clone(peer))
            .filter(|loser| loser.public_key() != peer.public_key());
        if let Some(loser) = &loser {
            self.forget(&prefix, loser.public_key());
        }
        let own = self.prefixes.entry(*peer.public_key()).or_default();
        own.insert(prefix);
        loser
    }

    /// Takes `prefix` from `peer`; false where it is not the peer's.
    pub fn disallow(&mut self, prefix: &IpNet, peer: &PublicKey) -> bool {
        let prefix = prefix.trunc();
        let owned = self.forget(&prefix, peer);
        if owned {
            self.table.allowed_ips.remove(&prefix);
        }
        owned
    }

    /// Takes all prefixes from `peer`; returns how many there were.
    pub fn disallow_all(&mut self, peer: &PublicKey) -> usize {
        let own = self.prefixes.remove(peer).unwrap_or_default();
        for prefix in &own {
            self.table.allowed_ips.remove(prefix);
        }
        own.len()
    }

    /// The tables with the changes so far.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    fn forget(&mut self, prefix: &IpNet, peer: &PublicKey) -> bool {
        let Some(own) = self.prefixes.get_mut(peer) else {
            return false;
        };
        let owned = own.remove(prefix);
        if own.is_empty() {
            self.prefixes.remove(peer);
        }
        owned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn peer(id: u8) -> Arc<Peer> {
        Arc::new(Peer::new([id; 32].into()))
    }

    #[test]
    fn a_prefix_moves_to_its_last_owner() {
        let (mesh, a, b) = (Mesh::default(), peer(1), peer(2));
        let before = mesh.table();
        let loser = mesh.update(|update| {
            assert!(update.allow(&net("10.0.0.1/24"), &a).is_none());
            assert!(update.allow(&net("10.0.0.0/24"), &a).is_none());
            update.allow(&net("10.0.0.0/24"), &b)
        });
        assert!(Arc::ptr_eq(&loser.unwrap(), &a));
        assert!(before.allowed_ips.is_empty());
        assert_eq!(mesh.prefixes_of(a.public_key()), []);
        assert_eq!(mesh.prefixes_of(b.public_key()), [net("10.0.0.0/24")]);
        let table = mesh.table();
        let owner = table.allowed_ips.lookup("10.0.0.9".parse().unwrap());
        assert!(Arc::ptr_eq(owner.unwrap(), &b));
    }

    #[test]
    fn prefixes_go_one_by_one_or_with_their_peer() {
        let (mesh, a, b) = (Mesh::default(), peer(1), peer(2));
        mesh.update(|update| {
            for text in ["10.1.0.0/16", "fd00::/8", "10.2.0.0/16"] {
                update.allow(&net(text), &a);
            }
            update.allow(&net("10.0.0.0/8"), &b);
            assert!(!update.disallow(&net("10.1.0.0/16"), b.public_key()));
            assert!(update.disallow(&net("10.1.0.0/16"), a.public_key()));
            assert!(!update.disallow(&net("10.1.0.0/16"), a.public_key()));
        });
        assert_eq!(mesh.table().allowed_ips.len(), 3);
        mesh.update(|update| assert_eq!(update.disallow_all(a.public_key()), 2));
        let table = mesh.table();
        assert_eq!(table.allowed_ips.len(), 1);
        let owner = table.allowed_ips.lookup("10.2.3.4".parse().unwrap());
        assert!(Arc::ptr_eq(owner.unwrap(), &b));
    }
}
