//! What one source wants.

use std::collections::{BTreeMap, HashMap, HashSet};

use ipnet::IpNet;

use super::plan::normalized;
use super::spec::PeerSpec;
use crate::crypto::PublicKey;

/// The peers that one source wants, in the order in which it first told of them: of specs in
/// conflict the first one wins. Prefixes are sorted and without host bits.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    specs: BTreeMap<u64, PeerSpec>,
    /// Where a peer is; the first place of one that is listed twice.
    places: HashMap<PublicKey, u64>,
    /// Listed more than once: a set that contradicts itself is shown to whoever judges it.
    repeated: HashSet<PublicKey>,
    next: u64,
}

impl Wanted {
    pub(super) fn new(specs: &[PeerSpec]) -> Self {
        let mut wanted = Self::default();
        for spec in specs {
            let key = spec.public_key;
            if wanted.places.contains_key(&key) {
                wanted.repeated.insert(key);
            }
            wanted.append(normalized(spec));
        }
        wanted
    }

    /// How many specs there are.
    pub(super) fn len(&self) -> usize {
        self.specs.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PeerSpec> {
        self.specs.values()
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<&PeerSpec> {
        self.specs.get(self.places.get(key)?)
    }

    /// Every spec of a peer, should it be listed more than once.
    pub(super) fn all_of(&self, key: &PublicKey) -> Vec<&PeerSpec> {
        if self.is_repeated(key) {
            let all = self.iter();
            return all.filter(|spec| spec.public_key == *key).collect();
        }
        self.get(key).into_iter().collect()
    }

    pub(super) fn is_repeated(&self, key: &PublicKey) -> bool {
        self.repeated.contains(key)
    }

    /// Whether the peer is wanted with this prefix.
    pub(super) fn has(&self, key: &PublicKey, prefix: &IpNet) -> bool {
        self.get(key)
            .is_some_and(|spec| spec.allowed_ips.binary_search(prefix).is_ok())
    }

    /// Makes this the peer's only spec, in its old place where it has one.
    pub(super) fn set(&mut self, spec: &PeerSpec) {
        let (key, spec) = (spec.public_key, normalized(spec));
        self.only_once(&key);
        let place = self.places.get(&key);
        match place.and_then(|place| self.specs.get_mut(place)) {
            Some(present) => *present = spec,
            None => self.append(spec),
        }
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        self.only_once(key);
        if let Some(place) = self.places.remove(key) {
            self.specs.remove(&place);
        }
    }

    /// False where the peer is not wanted.
    pub(super) fn allow(&mut self, key: &PublicKey, prefix: IpNet) -> bool {
        let Some(own) = self.prefixes(key) else {
            return false;
        };
        if let Err(place) = own.binary_search(&prefix) {
            own.insert(place, prefix);
        }
        true
    }

    /// False where the peer is not wanted.
    pub(super) fn disallow(&mut self, key: &PublicKey, prefix: &IpNet) -> bool {
        let Some(own) = self.prefixes(key) else {
            return false;
        };
        if let Ok(place) = own.binary_search(prefix) {
            own.remove(place);
        }
        true
    }

    fn prefixes(&mut self, key: &PublicKey) -> Option<&mut Vec<IpNet>> {
        self.only_once(key);
        let spec = self.specs.get_mut(self.places.get(key)?)?;
        Some(&mut spec.allowed_ips)
    }

    fn append(&mut self, spec: PeerSpec) {
        self.places.entry(spec.public_key).or_insert(self.next);
        self.specs.insert(self.next, spec);
        self.next += 1;
    }

    /// Forgets all specs of a peer but the first: somebody who changes one peer means one.
    fn only_once(&mut self, key: &PublicKey) {
        if self.repeated.remove(key) {
            let first = self.places.get(key).copied();
            self.specs
                .retain(|place, spec| spec.public_key != *key || Some(*place) == first);
        }
    }
}
