//! The receiver-index table: whose an incoming message is.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::peer::Peer;
use super::trie::Trie;
use crate::noise::Session;

/// The most indices in use at once: of 2^20 peers, three sessions and a handshake each.
pub const MAX_INDICES: usize = 4 << 20;

/// Why there is no index to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// All are taken.
    #[error("all {MAX_INDICES} receiver indices are in use: remove peers")]
    Exhausted,
    /// The kernel's random generator failed.
    #[error("no random receiver index: {0}")]
    Random(getrandom::Error),
}

/// What a receiver index stands for.
#[derive(Clone, Debug)]
pub struct IndexEntry {
    peer: Arc<Peer>,
    session: Option<Arc<Session>>,
}

impl IndexEntry {
    /// The peer.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The session; `None` while its handshake is under way.
    #[must_use]
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }
}

/// The indices at one moment.
#[derive(Clone, Debug, Default)]
pub struct Indices(Trie<u32, IndexEntry>);

impl Indices {
    /// What `index` stands for. No lock, no hashing, no reference count.
    #[inline]
    #[must_use]
    pub fn entry(&self, index: u32) -> Option<&IndexEntry> {
        self.0.lookup(index)
    }

    /// [`entry`](Self::entry) of several indices, each of which bears the number that `found` is
    /// called with, in no particular order. In a large table they wait for memory together.
    #[inline]
    pub fn entries<'a>(
        &'a self,
        indices: impl IntoIterator<Item = (usize, u32)>,
        found: impl FnMut(usize, Option<&'a IndexEntry>),
    ) {
        self.0.lookup_many(indices, found);
    }

    /// How many are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Receiver indices, to be read by workers while control and workers change them.
///
/// An index is a random number that is not in use, so nobody can predict one or tell from it how
/// many peers there are. Because all 32 bits are random, an index is its own hash: the table is
/// the trie of the allowed IPs with the index as its address, three to four array accesses deep
/// for a million of them, and whole indices are compared at its end.
///
/// A reader sees the table as it was when it loaded it; a change costs a copy of its path.
#[derive(Debug, Default)]
pub struct IndexTable {
    published: ArcSwap<Indices>,
    writer: Mutex<()>,
}

impl IndexTable {
    /// The indices as they are now. Load once a batch.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Indices>> {
        self.published.load()
    }

    /// Takes an index for a handshake with `peer`.
    ///
    /// # Errors
    /// [`IndexError`] where no index can be had.
    pub fn reserve(&self, peer: &Arc<Peer>) -> Result<u32, IndexError> {
        self.change(|indices| {
            if indices.len() >= MAX_INDICES {
                return Err(IndexError::Exhausted);
            }
            // At most one in 1024 is taken, so this ends.
            let index = loop {
                let index = getrandom::u32().map_err(IndexError::Random)?;
                if indices.entry(index).is_none() {
                    break index;
                }
            };
            let entry = IndexEntry {
                peer: Arc::clone(peer),
                session: None,
            };
            indices.0.insert(index, u32::BITS as u8, entry);
            Ok(index)
        })
    }

    /// Makes the reserved index of `session` stand for it, so that its data is accepted. False
    /// where the index was removed meanwhile (with its peer): the session is of no use then.
    #[must_use]
    pub fn publish(&self, session: &Arc<Session>) -> bool {
        let index = session.local_index();
        self.change(|indices| {
            let Some(reserved) = indices.entry(index) else {
                return false;
            };
            let entry = IndexEntry {
                peer: Arc::clone(&reserved.peer),
                session: Some(Arc::clone(session)),
            };
            indices.0.insert(index, u32::BITS as u8, entry);
            true
        })
    }

    /// Gives an index back, reserved or published. What comes for it from now on is unknown.
    pub fn remove(&self, index: u32) -> Option<IndexEntry> {
        self.change(|indices| indices.0.remove(index, u32::BITS as u8))
    }

    /// Gives several indices back at once.
    pub fn remove_all(&self, gone: impl IntoIterator<Item = u32>) {
        self.change(|indices| {
            for index in gone {
                indices.0.remove(index, u32::BITS as u8);
            }
        });
    }

    /// Publishes what `change` makes of the table.
    fn change<R>(&self, change: impl FnOnce(&mut Indices) -> R) -> R {
        // The published table is whole whatever happened to the last writer.
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Indices::clone(&self.published.load());
        let result = change(&mut next);
        // What was published before is not kept for its readers' sake: it may hold the last
        // reference to keys, which are to be wiped now and not with the next change.
        self.published.store(Arc::new(next));
        result
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;

    use super::*;
    use crate::noise::{Role, SessionKeys};
    use crate::time::Instant;

    fn peer() -> Arc<Peer> {
        Arc::new(Peer::new([7; 32].into()))
    }

    fn session(local_index: u32) -> Arc<Session> {
        let keys = SessionKeys {
            sending: [1; 32].into(),
            receiving: [2; 32].into(),
            local_index,
            remote_index: 0,
            role: Role::Responder,
        };
        Arc::new(Session::new(keys, Instant::from_secs(1)))
    }

    #[test]
    fn an_index_stands_for_a_handshake_then_a_session_then_nothing() {
        let (table, peer) = (IndexTable::default(), peer());
        let index = table.reserve(&peer).unwrap();
        assert!(table.load().entry(index).unwrap().session().is_none());
        let session = session(index);
        assert!(table.publish(&session));
        let before = table.load();
        let entry = before.entry(index).unwrap();
        assert!(Arc::ptr_eq(entry.peer(), &peer));
        assert!(Arc::ptr_eq(entry.session().unwrap(), &session));
        assert!(table.remove(index).is_some());
        assert!(
            before.entry(index).is_some(),
            "a loaded table does not change"
        );
        assert!(table.load().entry(index).is_none());
        assert!(!table.publish(&session), "a removed index stays removed");
        assert!(table.load().is_empty());
    }

    #[test]
    fn only_the_whole_index_matches() {
        let (table, peer) = (IndexTable::default(), peer());
        let index = table.reserve(&peer).unwrap();
        for bit in 0..u32::BITS {
            assert!(table.load().entry(index ^ 1 << bit).is_none());
        }
    }

    #[test]
    fn indices_use_all_their_bits() {
        let (table, peer) = (IndexTable::default(), peer());
        let all: HashSet<u32> = (0..256).map(|_| table.reserve(&peer).unwrap()).collect();
        assert_eq!(all.len(), 256);
        for bit in 0..u32::BITS {
            let ones = all.iter().filter(|index| *index & 1 << bit != 0).count();
            // Off by chance once in 10^20 runs.
            assert!(
                (53..=203).contains(&ones),
                "bit {bit} is set in {ones} of 256"
            );
        }
    }

    #[test]
    fn readers_always_see_a_session_under_its_own_index() {
        let (table, peer) = (IndexTable::default(), peer());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u64;
                while !done.load(Relaxed) || seen == 0 {
                    let indices = table.load();
                    for (index, _, entry) in indices.0.iter() {
                        let session = entry.session().map(|s| s.local_index());
                        assert!(session.is_none_or(|local| local == index));
                        assert!(indices.entry(index).is_some());
                        seen += 1;
                    }
                }
            });
            let mut live = Vec::new();
            for round in 0..2000 {
                let index = table.reserve(&peer).unwrap();
                assert!(table.publish(&session(index)));
                live.push(index);
                if round % 3 != 0 {
                    let gone = live.swap_remove(round * 7 % live.len());
                    assert!(table.remove(gone).is_some());
                }
            }
            done.store(true, Relaxed);
            reader.join().unwrap();
            assert_eq!(table.load().len(), live.len());
            table.remove_all(live);
        });
        assert!(table.load().is_empty());
    }
}
