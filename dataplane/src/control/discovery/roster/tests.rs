use core::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::control::kubespan::KubeSpan;
use crate::crypto::SeededRandom;

const GRACE: Duration = Duration::from_secs(5);

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn cipher() -> ClusterCipher {
    ClusterCipher::new(&[1; 32].into()).unwrap()
}

fn roster() -> Roster {
    Roster::new(cipher(), "own".into(), GRACE)
}

fn affiliate(node_id: &str, hostname: &str, endpoints: &[SocketAddr]) -> Affiliate {
    Affiliate {
        node_id: node_id.into(),
        hostname: hostname.into(),
        kubespan: KubeSpan {
            public_key: format!("key of {node_id}"),
            endpoints: endpoints.to_vec(),
            ..KubeSpan::default()
        },
        ..Affiliate::default()
    }
}

fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51820))
}

fn sealed(affiliate: &Affiliate, seed: u64) -> StoredAffiliate {
    let seal = |endpoint: &SocketAddr| cipher().seal_endpoint(*endpoint).unwrap();
    StoredAffiliate {
        id: affiliate.node_id.clone(),
        data: cipher()
            .seal_affiliate(affiliate, &mut SeededRandom::new(seed))
            .unwrap(),
        endpoints: affiliate.kubespan.endpoints.iter().map(seal).collect(),
    }
}

fn member(affiliate: &Affiliate) -> Change {
    Change::Member(Box::new(affiliate.clone()))
}

fn refused(id: &str, reason: Refusal) -> Change {
    Change::Refused {
        affiliate_id: id.into(),
        reason,
    }
}

/// A roster with the members `a` and `b`, and what the service has of them.
fn two() -> (Roster, Affiliate, Affiliate, [StoredAffiliate; 2]) {
    let mut roster = roster();
    let a = affiliate("a", "one", &[endpoint(1)]);
    let b = affiliate("b", "two", &[]);
    let stored = [sealed(&a, 1), sealed(&b, 2)];
    assert_eq!(roster.snapshot(&stored), [member(&a), member(&b)]);
    (roster, a, b, stored)
}

fn gone(id: &str) -> [StoredAffiliate; 1] {
    [StoredAffiliate {
        id: id.into(),
        ..StoredAffiliate::default()
    }]
}

#[test]
fn what_is_said_twice_is_told_once() {
    let (mut roster, a, _, stored) = two();
    assert_eq!(roster.updated(&stored), []);
    let own = sealed(&affiliate("own", "", &[]), 3);
    assert_eq!(roster.updated(&[own]), []);
    let moved = affiliate("a", "one", &[endpoint(1), endpoint(2)]);
    let mut again = sealed(&moved, 1);
    assert_eq!(roster.updated(&[again.clone()]), [member(&moved)]);
    // Endpoints alone: the data stay.
    again.data.clear();
    again.endpoints.truncate(1);
    assert_eq!(roster.updated(&[again]), [member(&a)]);
    let alone = StoredAffiliate {
        data: Vec::new(),
        ..sealed(&affiliate("c", "", &[endpoint(3)]), 4)
    };
    assert_eq!(roster.updated(&[alone]), []);
    assert_eq!(roster.members().count(), 2);
}

#[test]
fn a_living_member_that_is_deleted_stays() {
    let (mut roster, _, b, stored) = two();
    roster.deleted(at(10), &gone("a"));
    assert_eq!(roster.ask_at(), Some(at(15)));
    assert_eq!(roster.listed(at(15), &stored), []);
    assert_eq!(roster.ask_at(), None);
    // Or it speaks up before anybody asks.
    roster.deleted(at(20), &gone("a"));
    assert_eq!(roster.updated(&stored[..1]), []);
    assert_eq!(roster.ask_at(), None);
    // The listing does not have it: it has left.
    roster.deleted(at(30), &gone("a"));
    let removed = Change::Removed {
        node_id: "a".into(),
    };
    assert_eq!(roster.listed(at(35), &stored[1..]), [removed]);
    assert_eq!(roster.members().collect::<Vec<_>>(), [&b]);
    // What is unknown cannot be deleted.
    roster.deleted(at(40), &gone("a"));
    roster.deleted(at(40), &gone("nobody"));
    assert_eq!(roster.ask_at(), None);
}

#[test]
fn each_deleted_member_has_its_time() {
    let (mut roster, ..) = two();
    roster.deleted(at(10), &gone("a"));
    // Just before the others are asked after; and to be told again makes it no later.
    roster.deleted(at(14), &gone("b"));
    roster.deleted(at(14), &gone("a"));
    let removed = |id: &str| Change::Removed { node_id: id.into() };
    assert_eq!(roster.listed(at(15), &[]), [removed("a")]);
    assert_eq!(roster.ask_at(), Some(at(19)));
    assert_eq!(roster.listed(at(19), &[]), [removed("b")]);
}

#[test]
fn a_service_without_memory_removes_nobody() {
    let (mut roster, a, _, stored) = two();
    let vanished = |id: &str| Change::Vanished { node_id: id.into() };
    assert_eq!(roster.snapshot(&[]), [vanished("a"), vanished("b")]);
    assert_eq!(roster.snapshot(&[]), []);
    // Who comes back is told, changed or not.
    assert_eq!(roster.snapshot(&stored[..1]), [member(&a)]);
}

#[test]
fn its_own_entry_is_asked_for_when_it_is_gone() {
    let mut roster = roster();
    let own = sealed(&affiliate("own", "", &[]), 3);
    roster.snapshot(&[own]);
    assert!(!roster.take_own_missing());
    roster.deleted(at(1), &gone("own"));
    assert!(roster.take_own_missing());
    assert!(!roster.take_own_missing());
    roster.snapshot(&[]);
    assert!(roster.take_own_missing());
    assert_eq!(roster.ask_at(), None);
}

#[test]
fn old_data_do_not_replace_new_ones() {
    let (mut roster, _, _, stored) = two();
    let new = affiliate("a", "new", &[endpoint(1)]);
    assert_eq!(roster.updated(&[sealed(&new, 5)]), [member(&new)]);
    let replay = || refused("a", Refusal::Replayed);
    assert_eq!(roster.updated(&stored[..1]), [replay()]);
    // Not even after it was away.
    roster.snapshot(&stored[1..]);
    assert_eq!(roster.snapshot(&stored), [replay()]);
    assert_eq!(roster.updated(&[sealed(&new, 5)]), [member(&new)]);
}

#[test]
fn one_members_data_are_not_anothers() {
    let (mut roster, ..) = two();
    let mut stored = sealed(&affiliate("b", "evil", &[]), 6);
    stored.id = "a".into();
    let mismatch = Refusal::NodeIdMismatch {
        node_id: "b".into(),
    };
    assert_eq!(roster.updated(&[stored]), [refused("a", mismatch)]);
    let long = StoredAffiliate {
        id: "x".repeat(257),
        ..StoredAffiliate::default()
    };
    let changes = roster.updated(&[long, StoredAffiliate::default()]);
    assert!(matches!(
        changes[..],
        [
            Change::Refused {
                reason: Refusal::BadId { length: 257 },
                ..
            },
            Change::Refused {
                reason: Refusal::BadId { length: 0 },
                ..
            },
        ]
    ));
}

#[test]
fn another_clusters_data_are_refused_one_by_one() {
    let (mut roster, a, b, stored) = two();
    let foreign = ClusterCipher::new(&[2; 32].into()).unwrap();
    let data = foreign
        .seal_affiliate(&a, &mut SeededRandom::new(9))
        .unwrap();
    let forged = StoredAffiliate {
        data,
        ..stored[0].clone()
    };
    let refusal = refused("a", Refusal::Data(OpenError::NotAuthentic));
    let both = [forged, stored[1].clone()];
    assert_eq!(roster.snapshot(&both), [refusal]);
    assert_eq!(roster.members().collect::<Vec<_>>(), [&a, &b]);
}

#[test]
fn noise_among_endpoints_is_dropped_alone() {
    let mut roster = roster();
    let a = affiliate("a", "", &[endpoint(1), endpoint(2)]);
    let mut stored = sealed(&a, 1);
    stored.endpoints.insert(1, vec![7; 16]);
    stored.endpoints.insert(0, Vec::new());
    stored.endpoints.push(vec![0; 17]);
    stored.endpoints.push(stored.endpoints[1].clone());
    assert_eq!(roster.snapshot(&[stored]), [member(&a)]);
}

#[test]
fn a_full_cluster_is_taken_whole_and_no_more() {
    let endpoints: Vec<_> = (0..=u8::MAX).map(endpoint).collect();
    let stored: Vec<_> = (0..MAX_AFFILIATES as u64 + 1)
        .map(|n| sealed(&affiliate(&format!("{n:04}"), "", &endpoints[..65]), n))
        .collect();
    let mut roster = roster();
    let changes = roster.snapshot(&stored);
    assert_eq!(changes.len(), MAX_AFFILIATES + 1);
    assert_eq!(changes.last(), Some(&refused("1024", Refusal::ClusterFull)));
    assert!(
        roster
            .members()
            .all(|member| member.kubespan.endpoints == endpoints[..MAX_ENDPOINTS])
    );
    // One leaves: there is room for the other.
    roster.deleted(at(1), &gone("0000"));
    let changes = roster.listed(at(6), &stored[1..]);
    assert_eq!(
        changes[0],
        Change::Removed {
            node_id: "0000".into()
        }
    );
    assert!(matches!(&changes[1..], [Change::Member(new)] if new.node_id == "1024"));
}

/// What an attacker who knows the cluster's id, or runs the service, can say.
#[derive(Clone, Debug)]
enum Lie {
    Garbage {
        id: usize,
        data: Vec<u8>,
        endpoints: Vec<Vec<u8>>,
    },
    BitFlip {
        id: usize,
        bit: usize,
    },
    Truncated {
        id: usize,
        length: usize,
    },
    Swapped {
        id: usize,
        of: usize,
    },
    Deleted {
        id: usize,
    },
    Forgotten,
}

fn lie() -> impl Strategy<Value = Lie> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..80);
    let id = || 0..3_usize;
    prop_oneof![
        (id(), bytes(), proptest::collection::vec(bytes(), 0..4)).prop_map(
            |(id, data, endpoints)| Lie::Garbage {
                id,
                data,
                endpoints
            }
        ),
        (id(), any::<usize>()).prop_map(|(id, bit)| Lie::BitFlip { id, bit }),
        (id(), any::<usize>()).prop_map(|(id, length)| Lie::Truncated { id, length }),
        (id(), id()).prop_map(|(id, of)| Lie::Swapped { id, of }),
        id().prop_map(|id| Lie::Deleted { id }),
        Just(Lie::Forgotten),
    ]
}

proptest! {
    #[test]
    fn lies_remove_and_change_nobody(lies in proptest::collection::vec(lie(), 0..20)) {
        let honest: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|id| affiliate(id, "honest", &[endpoint(id.as_bytes()[0])]))
            .collect();
        let stored: Vec<_> = (0..).zip(&honest).map(|(n, one)| sealed(one, n)).collect();
        let mut roster = roster();
        roster.snapshot(&stored);
        for lie in lies {
            let changes = match lie {
                Lie::Garbage { id, data, endpoints } => {
                    let id = stored[id].id.clone();
                    roster.updated(&[StoredAffiliate { id, data, endpoints }])
                }
                Lie::BitFlip { id, bit } => {
                    let mut one = stored[id].clone();
                    let bit = bit % (one.data.len() * 8);
                    one.data[bit / 8] ^= 1 << (bit % 8);
                    roster.updated(&[one])
                }
                Lie::Truncated { id, length } => {
                    let mut one = stored[id].clone();
                    one.data.truncate(length % one.data.len());
                    roster.updated(&[one])
                }
                Lie::Swapped { id, of } => roster.updated(&[StoredAffiliate {
                    id: stored[id].id.clone(),
                    ..stored[of].clone()
                }]),
                Lie::Deleted { id } => {
                    roster.deleted(at(1), &gone(&stored[id].id));
                    Vec::new()
                }
                Lie::Forgotten => roster.snapshot(&[]),
            };
            for change in changes {
                match change {
                    Change::Removed { node_id } => prop_assert!(false, "{node_id} was removed"),
                    Change::Member(told) => {
                        // Endpoints can be taken away and, from others, added: data cannot change.
                        let of = honest.iter().find(|one| one.node_id == told.node_id).unwrap();
                        prop_assert_eq!(&told.kubespan.public_key, &of.kubespan.public_key);
                        prop_assert_eq!(&told.hostname, "honest");
                    }
                    _ => {}
                }
            }
        }
        // The truth is told again: everybody is there as they were.
        roster.listed(at(100), &stored);
        prop_assert!(roster.members().eq(&honest));
    }
}
