//! From wanted to running: the pure difference between two sets of peer specs.

use core::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};

use ipnet::IpNet;

use super::spec::{PeerSpec, RejectReason};
use crate::crypto::PublicKey;

/// What has to be done to get from one set of peers to another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Peers to add, in the order wanted.
    pub add: Vec<PeerSpec>,
    /// Peers that stay, with something about them to change.
    pub change: Vec<PeerSpec>,
    /// Peers to remove.
    pub remove: Vec<PublicKey>,
    /// How many peers stay as they are.
    pub unchanged: usize,
    /// Specs that cannot be applied, each with its reason. A running peer whose new spec was
    /// refused is left as it is.
    pub rejected: Vec<(PublicKey, RejectReason)>,
}

impl Plan {
    /// Compares the whole `wanted` set with what is `running`; `own` is this node's key.
    ///
    /// Of specs in conflict the first one wins.
    #[must_use]
    pub fn new(
        own: &PublicKey,
        running: &BTreeMap<PublicKey, impl Borrow<PeerSpec>>,
        wanted: &[PeerSpec],
    ) -> Self {
        let mut plan = Self::default();
        let mut seen: BTreeMap<PublicKey, ()> = BTreeMap::new();
        let mut owners: HashMap<IpNet, PublicKey> = HashMap::new();
        for spec in wanted {
            let key = spec.public_key;
            if let Some(reason) = refuse(spec, own, &seen, &owners) {
                plan.rejected.push((key, reason));
                continue;
            }
            seen.insert(key, ());
            let spec = normalized(spec);
            owners.extend(spec.allowed_ips.iter().map(|&prefix| (prefix, key)));
            match running.get(&key) {
                None => plan.add.push(spec),
                Some(present) if *present.borrow() == spec => plan.unchanged += 1,
                Some(_) => plan.change.push(spec),
            }
        }
        let refused: HashSet<&PublicKey> = plan.rejected.iter().map(|(key, _)| key).collect();
        plan.remove = running
            .keys()
            .filter(|key| !seen.contains_key(key) && !refused.contains(key))
            .copied()
            .collect();
        plan
    }
}

/// The spec as it is compared and stored: prefixes without host bits, sorted, each once.
pub(super) fn normalized(spec: &PeerSpec) -> PeerSpec {
    let mut spec = spec.clone();
    for prefix in &mut spec.allowed_ips {
        *prefix = prefix.trunc();
    }
    spec.allowed_ips.sort_unstable();
    spec.allowed_ips.dedup();
    spec
}

fn refuse(
    spec: &PeerSpec,
    own: &PublicKey,
    seen: &BTreeMap<PublicKey, ()>,
    owners: &HashMap<IpNet, PublicKey>,
) -> Option<RejectReason> {
    let peer = spec.public_key;
    if peer == *own {
        return Some(RejectReason::OwnKey(peer));
    }
    if seen.contains_key(&peer) {
        return Some(RejectReason::Duplicate(peer));
    }
    spec.allowed_ips
        .iter()
        .map(IpNet::trunc)
        .find_map(|prefix| {
            let &owner = owners.get(&prefix)?;
            Some(RejectReason::PrefixTaken {
                prefix,
                peer,
                owner,
            })
        })
}

/// What applying a set of specs did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Peers added.
    pub added: usize,
    /// Peers changed in place: session, endpoint and counters kept.
    pub changed: usize,
    /// Peers removed.
    pub removed: usize,
    /// Peers not touched.
    pub unchanged: usize,
    /// Specs refused, each with its reason; all others were applied.
    pub rejected: Vec<(PublicKey, RejectReason)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::from([byte; 32])
    }

    fn spec(byte: u8, prefixes: &[&str]) -> PeerSpec {
        PeerSpec {
            allowed_ips: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            ..PeerSpec::new(key(byte))
        }
    }

    fn running(specs: &[PeerSpec]) -> BTreeMap<PublicKey, PeerSpec> {
        specs
            .iter()
            .map(|spec| (spec.public_key, normalized(spec)))
            .collect()
    }

    #[test]
    fn only_differences_are_planned() {
        let before = running(&[
            spec(1, &["10.0.1.0/24"]),
            spec(2, &["10.0.2.0/24"]),
            spec(3, &[]),
        ]);
        let wanted = [
            spec(1, &["10.0.1.9/24"]),
            spec(2, &["10.0.9.0/24"]),
            spec(4, &[]),
        ];
        let plan = Plan::new(&key(0), &before, &wanted);
        assert_eq!(plan.unchanged, 1, "host bits in a prefix are no difference");
        assert_eq!(plan.change, [spec(2, &["10.0.9.0/24"])]);
        assert_eq!(plan.add, [spec(4, &[])]);
        assert_eq!(plan.remove, [key(3)]);
        assert_eq!(plan.rejected, []);
    }

    #[test]
    fn a_bad_spec_is_refused_alone() {
        let before = running(&[spec(1, &["10.0.1.0/24"])]);
        let wanted = [
            spec(2, &["10.0.0.0/8"]),
            spec(0, &[]),
            spec(1, &["10.0.0.0/8"]),
            spec(2, &[]),
        ];
        let plan = Plan::new(&key(0), &before, &wanted);
        assert_eq!(plan.add, [spec(2, &["10.0.0.0/8"])]);
        assert_eq!(plan.remove, [], "a running peer outlives a bad spec");
        let reasons: Vec<_> = plan
            .rejected
            .iter()
            .map(|(_, reason)| reason.clone())
            .collect();
        let prefix = "10.0.0.0/8".parse().unwrap();
        assert_eq!(
            reasons,
            [
                RejectReason::OwnKey(key(0)),
                RejectReason::PrefixTaken {
                    prefix,
                    peer: key(1),
                    owner: key(2)
                },
                RejectReason::Duplicate(key(2)),
            ]
        );
    }

    proptest! {
        /// Planning, applying the plan and planning again finds nothing left to do.
        #[test]
        fn a_plan_reaches_its_goal(
            before in prop::collection::btree_map(1_u8..20, 0_u8..4, 0..10),
            wanted in prop::collection::btree_map(1_u8..20, 0_u8..4, 0..10),
        ) {
            let make = |set: &BTreeMap<u8, u8>| -> Vec<PeerSpec> {
                set.iter().map(|(&byte, &net)| spec(byte, &[&format!("10.{byte}.{net}.0/24")])).collect()
            };
            let mut table = running(&make(&before));
            let wanted = make(&wanted);
            let plan = Plan::new(&key(0), &table, &wanted);
            for gone in &plan.remove {
                table.remove(gone);
            }
            for new in plan.add.iter().chain(&plan.change) {
                table.insert(new.public_key, new.clone());
            }
            let again = Plan::new(&key(0), &table, &wanted);
            prop_assert_eq!(&again.add, &[]);
            prop_assert_eq!(&again.change, &[]);
            prop_assert_eq!(&again.remove, &[]);
            prop_assert_eq!(again.unchanged, wanted.len());
        }
    }
}
