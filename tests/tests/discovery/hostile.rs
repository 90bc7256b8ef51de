//! A service, or somebody who knows the cluster's id, that lies.

use ringspan::control::discovery::{
    Change, Client, ClusterCipher, Event, MAX_AFFILIATES, MAX_ENDPOINTS, OpenError, Refusal,
};
use ringspan::crypto::SeededRandom;

use crate::common::{
    CLUSTER, announcement, client_config, endpoint, next, observer, request, seal, server, stored,
    until_member,
};

#[test]
fn lies_are_refused_and_cost_nobody() {
    let server = server();
    let mut told = announcement("a", "old", &[endpoint(1)]);
    let a = Client::join(client_config(&server, "a"), &told).unwrap();
    let observer = observer(&server);
    assert_eq!(until_member(&observer, "a"), told.affiliate);
    let old = server.affiliates(CLUSTER)[0].data.clone();
    told.affiliate.hostname = "new".into();
    a.announce(&told).unwrap();
    assert_eq!(until_member(&observer, "a"), told.affiliate);

    let good = server.affiliates(CLUSTER)[0].data.clone();
    let mut flipped = good.clone();
    flipped[40] ^= 0x10;
    let foreign = ClusterCipher::new(&[0x55; 32].into()).unwrap();
    let foreign = foreign
        .seal_affiliate(&told.affiliate, &mut SeededRandom::new(1))
        .unwrap();
    let not_authentic = || Refusal::Data(OpenError::NotAuthentic);
    let mismatch = Refusal::NodeIdMismatch {
        node_id: "b".into(),
    };
    for (lie, refusal) in [
        (
            good[..27].to_vec(),
            Refusal::Data(OpenError::TooShort { length: 27 }),
        ),
        (good[..60].to_vec(), not_authentic()),
        (flipped, not_authentic()),
        (foreign, not_authentic()),
        (old, Refusal::Replayed),
        (stored("b").data, mismatch),
    ] {
        server.update(request("a", Some(lie), Vec::new())).unwrap();
        let change = next(&observer, |event| match event {
            Event::Change(change) => Some(change),
            _ => None,
        });
        let refused = Change::Refused {
            affiliate_id: "a".into(),
            reason: refusal,
        };
        assert_eq!(change, refused);
    }
    // Noise among its endpoints, then the member itself again.
    let noise = vec![vec![0xee; 16], vec![0xee; 32], vec![0xee; 7], Vec::new()];
    server.update(request("a", None, noise)).unwrap();
    told.affiliate.kubespan.endpoints.push(endpoint(2));
    a.announce(&told).unwrap();
    let last = next(&observer, |event| match event {
        Event::Change(Change::Member(member)) if member.kubespan.endpoints.len() == 2 => {
            Some(*member)
        }
        Event::Change(Change::Removed { .. } | Change::Vanished { .. }) => panic!("{event:?}"),
        _ => None,
    });
    assert_eq!(last, told.affiliate);
}

#[test]
fn a_full_cluster_fits() {
    let server = server();
    let endpoints: Vec<_> = (0..64).map(endpoint).collect();
    for n in 0..MAX_AFFILIATES {
        let told = announcement(&format!("{n:04}"), &"x".repeat(253), &endpoints);
        server.update(seal(&told.affiliate).into_request()).unwrap();
    }
    let observer = observer(&server);
    for n in 0..MAX_AFFILIATES {
        let member = until_member(&observer, &format!("{n:04}"));
        assert_eq!(member.kubespan.endpoints.len(), MAX_ENDPOINTS);
    }
}
