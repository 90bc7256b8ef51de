use super::side_by_side::FAR;
use super::*;
use crate::mesh::bits::Halves;

#[test]
fn slots_stay_small() {
    // One slot a prefix: 1 M prefixes are 40 MB and a little.
    assert_eq!(size_of::<Slot<u32, Arc<()>>>(), 40);
    assert_eq!(size_of::<Slot<Halves, Arc<()>>>(), 40);
}

/// The slabs of a subtree, by address.
fn slabs<K, T>(slot: &Slot<K, T>, all: &mut std::collections::HashSet<*const Slot<K, T>>) {
    if let Slot::Branch(branch) = slot {
        all.insert(branch.slab.as_ptr());
        branch.slab.iter().for_each(|slot| slabs(slot, all));
    }
}

#[test]
fn many_look_ups_find_what_single_ones_do() {
    let key = |n: u32| n.wrapping_mul(0x9e37_79b9);
    let mut trie = Trie::default();
    // Nested prefixes among them, and one that all of these may fall back to.
    trie.insert(0, 1, u32::MAX);
    for count in [100, FAR as u32, 3 * FAR as u32] {
        for n in 0..count {
            trie.insert(key(n), 32 - (n % 17) as u8, n);
        }
        // Twice as many as there are prefixes: some hit, some do not.
        let keys: Vec<u32> = (0..2 * count).map(|n| key(n) ^ (n % 5)).collect();
        let mut found = vec![None; keys.len()];
        trie.lookup_many(keys.iter().copied().enumerate(), |n, value| {
            assert_eq!(found[n].replace(value.copied()), None, "{n} comes once");
        });
        for (key, found) in keys.into_iter().zip(found) {
            assert_eq!(found, Some(trie.lookup(key).copied()), "{key:#x}");
        }
    }
    assert!(trie.len() > FAR);
}

#[test]
fn an_update_copies_its_path_and_nothing_else() {
    let mut trie = Trie::default();
    let key = |n: u32| n.wrapping_mul(0x9e37_79b9);
    for n in 0..100_000 {
        trie.insert(key(n), 32 - (n % 9) as u8, Arc::new(n));
    }
    let published = trie.clone();
    for n in [7, 77, 777, 7777, 77_777] {
        let before = trie.clone();
        let (mut old, mut new) = Default::default();
        slabs(&before.root, &mut old);
        trie.remove(key(n), 32 - (n % 9) as u8);
        trie.insert(key(n), 30, Arc::new(n));
        slabs(&trie.root, &mut new);
        let copied = new.difference(&old).count();
        assert!(
            (1..=10).contains(&copied),
            "{copied} of {} slabs",
            old.len()
        );
        assert!(old.len() > 10_000);
    }
    assert_eq!(published.lookup(key(7)).map(|n| **n), Some(7));
    assert_eq!(published.len(), published.iter().count());
}
