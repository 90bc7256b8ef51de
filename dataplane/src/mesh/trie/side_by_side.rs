//! Several look-ups at once.

use arrayvec::ArrayVec;

use super::{Branch, Key, MATCHES, Slot, Trie, rank};

/// How many look-ups go down the trie together: as many as a core has loads from memory under way.
const SIDE_BY_SIDE: usize = 16;

/// From so many prefixes on, a trie is too large for the nearer caches, and waiting together pays.
pub(super) const FAR: usize = 8192;

impl<K: Key, T: Clone> Trie<K, T> {
    /// [`lookup`](Self::lookup) of several keys, each of which bears the number that `found` is
    /// called with, in no particular order.
    ///
    /// In a large trie, walks go down side by side, a level each in turn, so that they wait for
    /// memory together.
    #[inline]
    pub(in crate::mesh) fn lookup_many<'a>(
        &'a self,
        keys: impl IntoIterator<Item = (usize, K)>,
        mut found: impl FnMut(usize, Option<&'a T>),
    ) {
        if self.len < FAR {
            keys.into_iter()
                .for_each(|(number, key)| found(number, self.lookup(key)));
            return;
        }
        let begin = |(number, key)| Walk {
            number,
            key,
            slot: &self.root,
            best: None,
        };
        let mut waiting = keys.into_iter().map(begin);
        let mut walks: ArrayVec<Walk<'a, K, T>, SIDE_BY_SIDE> =
            waiting.by_ref().take(SIDE_BY_SIDE).collect();
        while !walks.is_empty() {
            let mut at = 0;
            while let Some(walk) = walks.get_mut(at) {
                let Some(end) = walk.step() else {
                    at += 1;
                    continue;
                };
                found(walk.number, end);
                match waiting.next() {
                    // Its first step comes with the next turn.
                    Some(next) => {
                        *walk = next;
                        at += 1;
                    }
                    None => drop(walks.swap_remove(at)),
                }
            }
        }
    }
}

/// A look-up under way.
struct Walk<'a, K, T> {
    number: usize,
    key: K,
    /// Where to go on.
    slot: &'a Slot<K, T>,
    /// The node that has the longest prefix so far, and which of them match.
    best: Option<(&'a Branch<K, T>, u64)>,
}

impl<'a, K: Key, T: Clone> Walk<'a, K, T> {
    /// Goes down one level; the outcome at the end.
    #[inline]
    fn step(&mut self) -> Option<Option<&'a T>> {
        match self.slot {
            Slot::Leaf(leaf) if leaf.key.common(self.key) >= leaf.len => Some(Some(&leaf.value)),
            Slot::Branch(branch) if !branch.skips || branch.follows_path(self.key) => {
                let chunk = self.key.chunk(branch.depth);
                let hits = branch.internal & MATCHES.get(chunk as usize).copied().unwrap_or(0);
                if hits != 0 {
                    self.best = Some((branch, hits));
                }
                if branch.children & 1 << chunk == 0 {
                    return self.fall_back();
                }
                match branch.slab.get(rank(branch.children, 1 << chunk)) {
                    Some(next) => {
                        self.slot = next;
                        None
                    }
                    None => Some(None),
                }
            }
            _ => self.fall_back(),
        }
    }

    /// Goes to the longest prefix found so far, whose leaf may still have to come from memory.
    #[inline]
    fn fall_back(&mut self) -> Option<Option<&'a T>> {
        let Some((branch, hits)) = self.best.take() else {
            return Some(None);
        };
        let position = branch.internal_position(1 << hits.ilog2());
        match branch.slab.get(position) {
            Some(leaf) => {
                self.slot = leaf;
                None
            }
            None => Some(None),
        }
    }
}
