//! From affiliates to the peers of this node: who may use which addresses.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::affiliate::{Affiliate, Prefix};
use super::ranges::RangeSet;
use super::{PERSISTENT_KEEPALIVE, ula};
use crate::control::PeerSpec;
use crate::crypto::{KeyError, PresharedKey};

/// A peer as the mesh's members derive it from what they know: Talos's `KubeSpanPeerSpec`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KubeSpanPeerSpec {
    /// The peer's WireGuard public key in base64, as it was published: the resource's id.
    pub public_key: String,
    /// Its address in the mesh.
    pub address: IpAddr,
    /// The prefixes behind it: the fewest that make up the set, ascending.
    pub allowed_ips: Vec<IpNet>,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Its name in Kubernetes; may be empty.
    pub label: String,
}

impl KubeSpanPeerSpec {
    /// The peer as [`Control`](crate::control::Control) takes it, with the cluster's secret as
    /// preshared key and KubeSpan's keepalive.
    ///
    /// # Errors
    /// [`KeyError`] where the published key is none: this peer alone is to be left out.
    pub fn to_peer_spec(&self, preshared_key: Option<&PresharedKey>) -> Result<PeerSpec, KeyError> {
        Ok(PeerSpec {
            public_key: self.public_key.parse()?,
            preshared_key: preshared_key.cloned(),
            endpoints: self.endpoints.clone(),
            allowed_ips: self.allowed_ips.clone(),
            persistent_keepalive: PERSISTENT_KEEPALIVE,
            label: self.label.clone(),
        })
    }
}

/// What is wrong with an affiliate. All others are peers as before.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Left out: it has a public key, but no address in the mesh.
    #[error("node {node} is no peer: it has published a public key but no KubeSpan address")]
    NoAddress {
        /// Its node id.
        node: String,
    },
    /// Left out: a prefix length beyond that of its family.
    #[error("node {node} is no peer: it has published {prefix}, which is no network")]
    BadPrefix {
        /// Its node id.
        node: String,
        /// What it has published.
        prefix: Prefix,
    },
    /// It wants addresses that another node has, and does not get them.
    #[error("node {node} wants addresses that node {owner} has too: {owner} keeps them")]
    Overlap {
        /// Its node id.
        node: String,
        /// Who keeps the addresses: the one with the smaller node id.
        owner: String,
    },
    /// It is a peer without any address.
    #[error("node {node} is a peer without addresses: other nodes have all of them")]
    NothingLeft {
        /// Its node id.
        node: String,
    },
}

/// The peers of a node, and what was wrong with others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerSpecs {
    /// The peers, by public key.
    pub specs: BTreeMap<String, KubeSpanPeerSpec>,
    /// What was wrong, in the order of node ids.
    pub problems: Vec<Problem>,
    /// What is reached through the tunnel only: mesh addresses and pod networks of all nodes. An
    /// endpoint in there is not to be tried (see [`LocalEndpoints`](super::LocalEndpoints)).
    pub tunnel: RangeSet,
}

/// The peers of the node `local`. Of nodes that want the same addresses the one with the smallest
/// id keeps them, so the order of `affiliates` does not matter.
#[must_use]
#[expect(single_use_lifetimes, reason = "`impl Trait` cannot elide it yet")]
pub fn peer_specs<'a>(
    local: &str,
    affiliates: impl IntoIterator<Item = &'a Affiliate>,
) -> PeerSpecs {
    let mut sorted: Vec<_> = affiliates
        .into_iter()
        .filter(|node| node.node_id != local && !node.kubespan.public_key.is_empty())
        .collect();
    sorted.sort_by(|a, b| a.node_id.cmp(&b.node_id));

    let mut result = PeerSpecs::default();
    let mut taken = RangeSet::new();
    let mut owners: Vec<(&str, RangeSet)> = Vec::new();
    for node in sorted {
        let (address, mut set) = match advertised(node, &mut result.tunnel) {
            Ok(advertised) => advertised,
            Err(problem) => {
                result.problems.push(problem);
                continue;
            }
        };
        if set.overlaps(&taken) {
            let in_conflict = owners.iter().filter(|(_, owned)| owned.overlaps(&set));
            result
                .problems
                .extend(in_conflict.map(|(owner, _)| Problem::Overlap {
                    node: node.node_id.clone(),
                    owner: (*owner).to_owned(),
                }));
            set.subtract(&taken);
            if set.is_empty() {
                let node = node.node_id.clone();
                result.problems.push(Problem::NothingLeft { node });
            }
        }
        let spec = KubeSpanPeerSpec {
            public_key: node.kubespan.public_key.clone(),
            address,
            allowed_ips: set.prefixes(),
            endpoints: node.kubespan.endpoints.clone(),
            label: node.nodename.clone(),
        };
        result.specs.insert(spec.public_key.clone(), spec);
        taken.union(&set);
        owners.push((&node.node_id, set));
    }
    result
}

/// What a node wants sent to it, and its address in the mesh.
fn advertised(node: &Affiliate, tunnel: &mut RangeSet) -> Result<(IpAddr, RangeSet), Problem> {
    let kubespan = &node.kubespan;
    let net = |prefix: &Prefix| {
        prefix.net().ok_or_else(|| Problem::BadPrefix {
            node: node.node_id.clone(),
            prefix: *prefix,
        })
    };
    let nets = |prefixes: &[Prefix]| prefixes.iter().map(net).collect::<Result<Vec<_>, _>>();
    let additional = nets(&kubespan.additional_addresses)?;
    let excluded = nets(&kubespan.exclude_advertised_networks)?;
    let address = kubespan.address.ok_or_else(|| Problem::NoAddress {
        node: node.node_id.clone(),
    })?;

    let mut set: RangeSet = additional.iter().collect();
    node.addresses.iter().for_each(|&own| set.insert(own));
    excluded.iter().for_each(|net| set.remove_net(net));
    // Last, so that no exclusion takes it away.
    set.insert(address);

    tunnel.insert(address);
    for net in additional {
        tunnel.insert_net(&net);
    }
    // What a node calls its own is reached without the tunnel too, but for its mesh address.
    for own in &node.addresses {
        if !ula::is_ula(*own, ula::Purpose::KubeSpan) {
            tunnel.remove_net(&(*own).into());
        }
    }
    Ok((address, set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kubespan::KubeSpan;
    use proptest::prelude::*;

    fn net(bits: u8, len: u32) -> Prefix {
        // 10.0.0.0/24 and around: few addresses, many conflicts.
        Prefix {
            address: IpAddr::from([10, 0, 0, bits]),
            bits: len,
        }
    }

    fn affiliate() -> impl Strategy<Value = Affiliate> {
        let prefixes = || prop::collection::vec((any::<u8>(), 24..33_u32), 0..4);
        let lists = (
            prop::collection::vec(any::<u8>(), 0..4),
            prefixes(),
            prefixes(),
        );
        (0..40_u8, 0..40_u8, any::<bool>(), lists).prop_map(
            |(id, key, has_address, (own, additional, excluded))| Affiliate {
                node_id: format!("node-{id}"),
                addresses: own
                    .iter()
                    .map(|&bits| IpAddr::from([10, 0, 0, bits]))
                    .collect(),
                kubespan: KubeSpan {
                    public_key: if key == 0 {
                        String::new()
                    } else {
                        format!("key-{id}")
                    },
                    address: has_address.then(|| format!("fd00:0:0:2::{id:x}").parse().unwrap()),
                    additional_addresses: additional.iter().map(|&(a, l)| net(a, l)).collect(),
                    exclude_advertised_networks: excluded.iter().map(|&(a, l)| net(a, l)).collect(),
                    endpoints: Vec::new(),
                },
                ..Affiliate::default()
            },
        )
    }

    /// One affiliate a node, as there is.
    fn cluster() -> impl Strategy<Value = Vec<Affiliate>> {
        prop::collection::vec(affiliate(), 0..16).prop_map(|list| {
            let unique: BTreeMap<_, _> = list
                .into_iter()
                .map(|node| (node.node_id.clone(), node))
                .collect();
            unique.into_values().collect()
        })
    }

    proptest! {
        #[test]
        fn addresses_have_one_owner_each(
            (cluster, shuffled) in cluster().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        ) {
            let result = peer_specs("node-7", &cluster);
            prop_assert_eq!(&result, &peer_specs("node-7", &shuffled), "order does not matter");

            let (mut union, mut count) = (RangeSet::new(), 0);
            for spec in result.specs.values() {
                let own: RangeSet = spec.allowed_ips.iter().collect();
                prop_assert!(!union.overlaps(&own), "{} has what is another's", spec.public_key);
                union.union(&own);
                count += 1;
                prop_assert!(own.contains(spec.address));
            }

            let mut wanted = RangeSet::new();
            let mut peers = 0;
            for node in &cluster {
                let Some(address) = node.kubespan.address else { continue };
                if node.node_id == "node-7" || node.kubespan.public_key.is_empty() { continue }
                let mut set = RangeSet::new();
                node.addresses.iter().for_each(|own| set.insert(*own));
                node.kubespan.additional_addresses.iter().for_each(|p| set.insert_net(&p.net().unwrap()));
                node.kubespan.exclude_advertised_networks.iter().for_each(|p| set.remove_net(&p.net().unwrap()));
                set.insert(address);
                wanted.union(&set);
                peers += 1;
            }
            prop_assert_eq!(union, wanted, "nothing is lost, nothing invented");
            prop_assert_eq!(count, peers);
        }
    }

    #[test]
    fn an_unusable_affiliate_is_left_out_alone() {
        let node = |id: &str, bits| Affiliate {
            node_id: id.to_owned(),
            kubespan: KubeSpan {
                public_key: id.to_owned(),
                address: (bits != 1).then(|| format!("fd00::{id}").parse().unwrap()),
                additional_addresses: vec![net(0, bits)],
                ..KubeSpan::default()
            },
            ..Affiliate::default()
        };
        let result = peer_specs(
            "me",
            &[node("a", 33), node("b", 24), node("c", 1), node("d", 300)],
        );
        assert_eq!(result.specs.keys().collect::<Vec<_>>(), ["b"]);
        let texts: Vec<_> = result.problems.iter().map(ToString::to_string).collect();
        assert!(
            texts[0].contains("10.0.0.0/33") && texts[2].contains("/300"),
            "{texts:?}"
        );
        assert_eq!(
            result.problems[1],
            Problem::NoAddress {
                node: "c".to_owned()
            }
        );
    }

    #[test]
    fn a_conflict_is_shown() {
        let node = |id: &str| Affiliate {
            node_id: id.to_owned(),
            kubespan: KubeSpan {
                public_key: id.to_owned(),
                address: Some("fd00::1".parse().unwrap()),
                ..KubeSpan::default()
            },
            ..Affiliate::default()
        };
        let result = peer_specs("me", &[node("b"), node("a")]);
        let (node, owner) = ("b".to_owned(), "a".to_owned());
        assert_eq!(
            result.problems,
            [
                Problem::Overlap {
                    node: node.clone(),
                    owner
                },
                Problem::NothingLeft { node }
            ]
        );
        assert_eq!(result.specs["b"].allowed_ips, []);
    }

    #[test]
    fn pod_networks_and_mesh_addresses_carry_no_tunnel() {
        let node = Affiliate {
            node_id: "a".to_owned(),
            addresses: vec![
                "192.0.2.7".parse().unwrap(),
                "fd00:0:0:2::1".parse().unwrap(),
            ],
            kubespan: KubeSpan {
                public_key: "a".to_owned(),
                address: Some("fd00:0:0:2::1".parse().unwrap()),
                additional_addresses: vec![net(0, 24)],
                ..KubeSpan::default()
            },
            ..Affiliate::default()
        };
        let tunnel = peer_specs("me", &[node]).tunnel;
        for (address, inside) in [
            ("192.0.2.7", false),
            ("fd00:0:0:2::1", true),
            ("10.0.0.9", true),
        ] {
            assert_eq!(
                tunnel.contains(address.parse().unwrap()),
                inside,
                "{address}"
            );
        }
    }
}
