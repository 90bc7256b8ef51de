//! A persistent longest-prefix-match trie: what [`AllowedIps`](super::AllowedIps) and
//! [`IndexTable`](super::IndexTable) are made of.
//!
//! Nodes consume six bits at a time and keep only the slots in use, in one slab behind an
//! [`Arc`], ranked by population count. A node's bitmaps stand in its parent's slot, next to the
//! pointer, so that one cache miss a level is enough. A subtree with a single prefix is a leaf
//! in place, and runs of bits without a choice are skipped, so that the depth follows the
//! logarithm of the number of prefixes and not the length of an address.
//!
//! Cloning copies one slot. An update copies the slabs on its path that a clone still shares (at
//! most 128 slots each) and changes the others in place; readers of older clones see nothing of it.

mod side_by_side;
#[cfg(test)]
mod tests;

use core::{mem, slice};
use std::sync::Arc;

use super::bits::{Key, STRIDE};

/// For each six-bit chunk, the positions of its prefixes in [`Branch::internal`].
const MATCHES: [u64; 64] = {
    let mut masks = [0; 64];
    let mut chunk = 0;
    while chunk < 64 {
        let mut len = 0;
        while len < STRIDE {
            #[allow(clippy::indexing_slicing)] // evaluated at compile time
            {
                masks[chunk] |= internal_bit(chunk as u64, len);
            }
            len += 1;
        }
        chunk += 1;
    }
    masks
};

/// The bit in [`Branch::internal`] of the prefix that is the first `len` (at most 5) bits of
/// `chunk`: longer prefixes have higher bits.
const fn internal_bit(chunk: u64, len: u8) -> u64 {
    1 << ((1 << len) - 1 + (chunk >> (STRIDE - len)))
}

/// A prefix and its value.
#[derive(Clone, Debug)]
struct Leaf<K, T> {
    key: K,
    len: u8,
    value: T,
}

/// A node: all prefixes that share their first `depth` bits, at least two.
#[derive(Clone, Debug)]
struct Branch<K, T> {
    /// Bits before this node; a multiple of [`STRIDE`].
    depth: u8,
    /// Bits were skipped on the way here: the slab ends with a [`Slot::Path`] to compare.
    skips: bool,
    /// Which of the 64 continuations have a slot.
    children: u64,
    /// Which of the 63 prefixes shorter than the stride have a slot, after those of `children`.
    internal: u64,
    slab: Arc<[Slot<K, T>]>,
}

#[derive(Clone, Debug)]
enum Slot<K, T> {
    Empty,
    Leaf(Leaf<K, T>),
    Branch(Branch<K, T>),
    /// The bits before a branch that skips some.
    Path(K),
}

/// The trie.
#[derive(Clone, Debug)]
pub(super) struct Trie<K, T> {
    root: Slot<K, T>,
    len: usize,
}

impl<K, T> Default for Trie<K, T> {
    fn default() -> Self {
        Self {
            root: Slot::Empty,
            len: 0,
        }
    }
}

impl<K: Key, T: Clone> Trie<K, T> {
    /// The number of prefixes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of the longest prefix of `key`.
    #[inline]
    pub(super) fn lookup(&self, key: K) -> Option<&T> {
        let mut best = None;
        let mut slot = &self.root;
        loop {
            match slot {
                Slot::Leaf(leaf) if leaf.key.common(key) >= leaf.len => return Some(&leaf.value),
                Slot::Branch(branch) => {
                    if branch.skips && !branch.follows_path(key) {
                        break;
                    }
                    let chunk = key.chunk(branch.depth);
                    let hits = branch.internal & MATCHES.get(chunk as usize)?;
                    if hits != 0 {
                        best = Some((branch, hits));
                    }
                    if branch.children & 1 << chunk == 0 {
                        break;
                    }
                    slot = branch.slab.get(rank(branch.children, 1 << chunk))?;
                }
                _ => break,
            }
        }
        let (branch, hits) = best?;
        match branch
            .slab
            .get(branch.internal_position(1 << hits.ilog2()))?
        {
            Slot::Leaf(leaf) => Some(&leaf.value),
            _ => None,
        }
    }

    /// The value of exactly this prefix.
    pub(super) fn exact(&self, key: K, len: u8) -> Option<&T> {
        let key = key.truncate(len);
        let mut slot = &self.root;
        loop {
            match slot {
                Slot::Leaf(leaf) if leaf.key == key && leaf.len == len => return Some(&leaf.value),
                Slot::Branch(branch) => slot = branch.slab.get(branch.find(key, len)?)?,
                _ => return None,
            }
        }
    }

    /// Sets the value of the first `len` bits of `key`; returns the one it replaces.
    pub(super) fn insert(&mut self, key: K, len: u8, value: T) -> Option<T> {
        let len = len.min(K::BITS);
        let leaf = Leaf {
            key: key.truncate(len),
            len,
            value,
        };
        let replaced = self.root.insert(leaf, 0);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Removes exactly this prefix; returns its value.
    pub(super) fn remove(&mut self, key: K, len: u8) -> Option<T> {
        // Looked up first, so that an absent prefix copies nothing.
        self.exact(key, len)?;
        let removed = self.root.remove(key.truncate(len), len, 0);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// All prefixes: bits, length and value, in no particular order.
    pub(super) fn iter(&self) -> Iter<'_, K, T> {
        Iter {
            stack: vec![slice::from_ref(&self.root).iter()],
        }
    }
}

/// Iterates over a [`Trie`].
pub(super) struct Iter<'a, K, T> {
    stack: Vec<slice::Iter<'a, Slot<K, T>>>,
}

impl<'a, K: Key, T> Iterator for Iter<'a, K, T> {
    type Item = (K, u8, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.stack.last_mut()?.next() {
                None => {
                    self.stack.pop();
                }
                Some(Slot::Leaf(leaf)) => return Some((leaf.key, leaf.len, &leaf.value)),
                Some(Slot::Branch(branch)) => self.stack.push(branch.slab.iter()),
                Some(Slot::Empty | Slot::Path(_)) => {}
            }
        }
    }
}

/// How many of `bitmap`'s bits stand below `bit`.
fn rank(bitmap: u64, bit: u64) -> usize {
    (bitmap & (bit - 1)).count_ones() as usize
}

impl<K: Key, T: Clone> Slot<K, T> {
    /// Puts `leaf` into this subtree, which begins after `from` bits.
    fn insert(&mut self, leaf: Leaf<K, T>, from: u8) -> Option<T> {
        match self {
            Self::Empty | Self::Path(_) => {
                *self = Self::Leaf(leaf);
                None
            }
            Self::Leaf(old) if old.key == leaf.key && old.len == leaf.len => {
                Some(mem::replace(&mut old.value, leaf.value))
            }
            Self::Leaf(old) => {
                let common = old.key.common(leaf.key).min(old.len).min(leaf.len);
                let mut branch = Branch::new(common, from, leaf.key);
                if let Self::Leaf(old) = mem::replace(self, Self::Empty) {
                    branch.add(old);
                }
                branch.add(leaf);
                *self = Self::Branch(branch);
                None
            }
            Self::Branch(branch) => {
                let path = branch.path().unwrap_or(leaf.key);
                let common = path.common(leaf.key).min(leaf.len);
                if common < branch.depth {
                    // The prefix leaves the skipped bits halfway: a node is needed there.
                    let mut fork = Branch::new(common, from, path);
                    if let Self::Branch(mut old) = mem::replace(self, Self::Empty) {
                        old.begin_at(fork.depth + STRIDE);
                        fork.add_child(path, Self::Branch(old));
                    }
                    fork.add(leaf);
                    *self = Self::Branch(fork);
                    return None;
                }
                let below = branch.depth + STRIDE;
                match branch.find(leaf.key, leaf.len) {
                    Some(position) => Arc::make_mut(&mut branch.slab)
                        .get_mut(position)?
                        .insert(leaf, below),
                    None => {
                        branch.add(leaf);
                        None
                    }
                }
            }
        }
    }

    /// Takes the prefix, which must be there, out of this subtree, which begins after `from` bits.
    fn remove(&mut self, key: K, len: u8, from: u8) -> Option<T> {
        let Self::Branch(branch) = self else {
            return match mem::replace(self, Self::Empty) {
                Self::Leaf(leaf) => Some(leaf.value),
                _ => None,
            };
        };
        let (depth, position) = (branch.depth, branch.find(key, len)?);
        let slot = Arc::make_mut(&mut branch.slab).get_mut(position)?;
        let removed = slot.remove(key, len, depth + STRIDE);
        if matches!(slot, Self::Empty) {
            branch.drop_slot(position);
            if let Some(mut only) = branch.only_slot() {
                if let Self::Branch(child) = &mut only {
                    child.begin_at(from);
                }
                *self = only;
            }
        }
        removed
    }
}

impl<K: Key, T: Clone> Branch<K, T> {
    /// An empty node for prefixes that have `common` first bits of `key` in common, in a slot
    /// that begins after `from` bits.
    fn new(common: u8, from: u8, key: K) -> Self {
        // Two different prefixes never have all bits in common unless one is shorter, and then
        // a full-length one still ends within the last node.
        let depth = common - common % STRIDE;
        let skips = depth > from;
        Self {
            depth,
            skips,
            children: 0,
            internal: 0,
            slab: skips
                .then(|| Slot::Path(key.truncate(depth)))
                .into_iter()
                .collect(),
        }
    }

    /// The bits before this node, where some were skipped.
    fn path(&self) -> Option<K> {
        match self.slab.last() {
            Some(Slot::Path(path)) => Some(*path),
            _ => None,
        }
    }

    /// Whether `key` has the bits that were skipped.
    fn follows_path(&self, key: K) -> bool {
        self.path()
            .is_none_or(|path| path.common(key) >= self.depth)
    }

    /// Where in the slab the internal prefix of `bit` is, or would be.
    fn internal_position(&self, bit: u64) -> usize {
        self.children.count_ones() as usize + rank(self.internal, bit)
    }

    /// Where in the slab the prefix, or the subtree that would hold it, is.
    fn find(&self, key: K, len: u8) -> Option<usize> {
        let chunk = key.chunk(self.depth);
        let len = len.checked_sub(self.depth)?;
        if len < STRIDE {
            let bit = internal_bit(chunk, len);
            (self.internal & bit != 0).then(|| self.internal_position(bit))
        } else {
            let bit = 1 << chunk;
            (self.children & bit != 0).then(|| rank(self.children, bit))
        }
    }

    /// Adds a prefix for which there is no slot yet.
    fn add(&mut self, leaf: Leaf<K, T>) {
        let len = leaf.len.saturating_sub(self.depth);
        if len < STRIDE {
            let bit = internal_bit(leaf.key.chunk(self.depth), len);
            let position = self.internal_position(bit);
            self.internal |= bit;
            self.add_slot(position, Slot::Leaf(leaf));
        } else {
            self.add_child(leaf.key, Slot::Leaf(leaf));
        }
    }

    /// Adds the subtree of `key`, for which there is no slot yet.
    fn add_child(&mut self, key: K, child: Slot<K, T>) {
        let bit = 1 << key.chunk(self.depth);
        let position = rank(self.children, bit);
        self.children |= bit;
        self.add_slot(position, child);
    }

    fn add_slot(&mut self, position: usize, slot: Slot<K, T>) {
        let mut slots = self.take_slots(1);
        slots.insert(position.min(slots.len()), slot);
        self.slab = slots.into();
    }

    /// Removes the slot at `position` and its bit.
    fn drop_slot(&mut self, position: usize) {
        let children = self.children.count_ones() as usize;
        let (bitmap, nth) = match position.checked_sub(children) {
            None => (&mut self.children, position),
            Some(nth) => (&mut self.internal, nth),
        };
        let mut rest = *bitmap;
        for _ in 0..nth {
            rest &= rest.wrapping_sub(1);
        }
        *bitmap &= !(rest & rest.wrapping_neg());
        let mut slots = self.take_slots(0);
        if position < slots.len() {
            slots.remove(position);
        }
        self.slab = slots.into();
    }

    /// The only slot that is left, if there is but one: the node is not needed any more.
    fn only_slot(&mut self) -> Option<Slot<K, T>> {
        if self.children.count_ones() + self.internal.count_ones() != 1 {
            return None;
        }
        self.take_slots(0).into_iter().next()
    }

    /// Makes the slot of this node begin after `from` bits instead of where it did.
    fn begin_at(&mut self, from: u8) {
        let skips = self.depth > from;
        if skips == self.skips {
            return;
        }
        let path = self.some_key().map(|key| key.truncate(self.depth));
        let mut slots = self.take_slots(1);
        if skips {
            slots.extend(path.map(Slot::Path));
        } else {
            slots.pop();
        }
        self.slab = slots.into();
        self.skips = skips;
    }

    /// One of the keys below this node.
    fn some_key(&self) -> Option<K> {
        match self.slab.first()? {
            Slot::Leaf(leaf) => Some(leaf.key),
            Slot::Branch(child) => child.some_key(),
            Slot::Path(key) => Some(*key),
            Slot::Empty => None,
        }
    }

    /// The slots, moved out where no clone shares them, with room for `more`.
    fn take_slots(&mut self, more: usize) -> Vec<Slot<K, T>> {
        let mut slots = Vec::with_capacity(self.slab.len() + more);
        match Arc::get_mut(&mut self.slab) {
            Some(slab) => slots.extend(slab.iter_mut().map(|s| mem::replace(s, Slot::Empty))),
            None => slots.extend_from_slice(&self.slab),
        }
        slots
    }
}
