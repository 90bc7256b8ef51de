//! Two ends and a simulated clock.

use super::*;
use crate::crypto::Random;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_first_packet_makes_a_session_and_arrives() {
    let mut pair = Pair::new();
    pair.a.seal(pair.now, &[a_to_b(0), a_to_b(1)]);
    assert_eq!(pair.a.sent.len(), 1);
    assert_eq!(pair.a.sent[0].len(), 148);
    pair.settle();
    assert_eq!(pair.b.received(), [a_to_b(0), a_to_b(1)]);
    assert_eq!(pair.a.news, ["ready"]);
    pair.b.seal(pair.now, &[b_to_a(5)]);
    pair.settle();
    assert_eq!(pair.a.received(), [b_to_a(5)]);
}

#[test]
fn what_waited_on_both_ends_arrives_in_order() {
    let mut pair = Pair::new();
    pair.a_of_b
        .set_endpoint(A.parse::<SocketAddr>().unwrap().into());
    let (there, back): (Vec<_>, Vec<_>) = (0..128).map(|n| (a_to_b(n), b_to_a(n))).unzip();
    pair.a.seal(pair.now, &there);
    pair.b.seal(pair.now, &back);
    for _ in 0..20 {
        pair.settle();
        pair.pass(SECOND);
        pair.a.tick(pair.now);
        pair.b.tick(pair.now);
    }
    pair.settle();
    assert!(pair.b.received() == there);
    assert!(pair.a.received() == back);
}

#[test]
fn a_roaming_peer_is_answered_where_it_is() {
    let mut pair = Pair::connected();
    let moved: SocketAddr = "203.0.113.9:1".parse().unwrap();
    pair.a.address = moved;
    pair.a.seal(pair.now, &[a_to_b(3)]);
    let late = pair.a.sent.clone();
    pair.settle();
    assert_eq!(pair.a_of_b.endpoint().unwrap().remote, moved);
    // Captured and sent again from elsewhere it moves nothing.
    let replayed: Vec<_> = late.into_iter().map(|d| (A.parse().unwrap(), d)).collect();
    pair.b.open(pair.now, &replayed);
    assert_eq!(pair.a_of_b.endpoint().unwrap().remote, moved);
    assert_eq!(pair.b.received(), [a_to_b(3)]);
}

#[test]
fn ten_minutes_of_traffic_renew_the_session_and_lose_nothing() {
    let mut pair = Pair::connected();
    let mut generations = std::collections::BTreeSet::new();
    for n in 0..600 {
        pair.pass(SECOND);
        pair.a.seal(pair.now, &[a_to_b(n), a_to_b(n + 1)]);
        // Renewal happens while data is under way in both directions.
        pair.b.seal(pair.now, &[b_to_a(n)]);
        pair.settle();
        pair.a.tick(pair.now);
        pair.b.tick(pair.now);
        pair.settle();
        assert_eq!(pair.b.received(), [a_to_b(n), a_to_b(n + 1)], "second {n}");
        assert_eq!(pair.a.received(), [b_to_a(n)], "second {n}");
        let current = pair.b_of_a.sessions.load().current.clone().unwrap();
        generations.insert(current.established());
        for end in [&pair.a, &pair.b] {
            assert!(
                end.tunnel.mesh.indices.load().len() <= 4,
                "indices are given back"
            );
        }
    }
    // Every 120 seconds.
    assert_eq!(generations.len(), 5 + 1);
}

#[test]
fn a_silent_peer_is_given_up_and_what_waited_is_dropped() {
    let mut pair = Pair::new();
    pair.a.seal(pair.now, &[a_to_b(0)]);
    let mut initiations = 0;
    for _ in 0..120 {
        initiations += pair.a.fly().len();
        pair.pass(SECOND);
        pair.a.tick(pair.now);
    }
    assert!(
        (15..=20).contains(&initiations),
        "{initiations} initiations"
    );
    assert_eq!(pair.a.news, ["failed"]);
    assert!(!pair.a.tunnel.worker.has_staged());
    assert_eq!(pair.a.tunnel.counters().totals().staged_expired, 1);
}

#[test]
fn data_is_acknowledged_by_an_empty_packet_when_there_is_nothing_to_say() {
    let mut pair = Pair::connected();
    let before = pair.a.tunnel.counters().totals().keepalives;
    for _ in 0..12 {
        pair.pass(SECOND);
        pair.a.tick(pair.now);
        pair.b.tick(pair.now);
        pair.settle();
    }
    assert_eq!(pair.a.tunnel.counters().totals().keepalives, before + 1);
    assert!(pair.a.received().is_empty());
}

#[test]
fn a_removed_peer_is_unknown_at_once() {
    let mut pair = Pair::connected();
    pair.a.seal(pair.now, &[a_to_b(1)]);
    assert!(pair.b.tunnel.remove_peer(&public_key(1)));
    assert!(!pair.b.tunnel.remove_peer(&public_key(1)));
    pair.settle();
    assert!(pair.b.received().is_empty());
    assert_eq!(pair.b.tunnel.counters().totals().unknown_index, 1);
    assert!(pair.b.tunnel.mesh.indices.load().is_empty());
    assert!(pair.b.tunnel.mesh.table().allowed_ips.is_empty());
}

#[test]
fn one_packet_at_a_time_is_the_same() {
    let mut pair = Pair::connected();
    let (mut flying, mut delivered) = (Vec::new(), Vec::new());
    let mut data = a_to_b(100);
    pair.a
        .tunnel
        .encapsulate(pair.now, &mut data, &mut |action| {
            if let Action::Send { to, tos, datagram } = action {
                assert_eq!((to.remote, tos), (B.parse().unwrap(), 0));
                flying.extend_from_slice(datagram);
            }
        });
    let from = A.parse().unwrap();
    let now = pair.now;
    pair.b
        .tunnel
        .decapsulate(now, &mut flying, from, &mut |action| {
            if let Action::Deliver { packet } = action {
                delivered.push(packet.to_vec());
            }
        });
    assert_eq!(delivered, [data]);
}

/// A network that loses, repeats and reorders: every packet arrives at most once, unchanged, and
/// what the network did not lose does arrive.
#[test]
fn a_bad_network_costs_only_what_it_loses() {
    for seed in 0..20 {
        let mut random = SeededRandom::new(seed);
        let mut pair = Pair::connected();
        let mut below = |n: u32| random.next_u32().unwrap() % n;
        let (mut expected, mut wire) = (Vec::new(), Vec::new());
        for n in 0..200 {
            let packet = a_to_b(n);
            pair.a.seal(pair.now, std::slice::from_ref(&packet));
            for flying in pair.a.fly() {
                match below(10) {
                    0 => continue,
                    1 => wire.extend([flying.clone(), flying]),
                    _ => wire.push(flying),
                }
                expected.push(packet.clone());
            }
        }
        for i in 0..wire.len() {
            let j = (i + below(40) as usize).min(wire.len() - 1);
            wire.swap(i, j);
        }
        for batch in wire.chunks(1 + below(70) as usize) {
            pair.b.open(pair.now, batch);
        }
        let mut received = pair.b.received();
        received.sort();
        expected.sort();
        assert!(received == expected, "seed {seed}");
        let repeated = wire.len() - expected.len();
        assert_eq!(pair.b.tunnel.counters().totals().replayed, repeated as u64);
        assert_eq!(pair.a_of_b.counters.rx_packets(), expected.len() as u64 + 1);
    }
}
