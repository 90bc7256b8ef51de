//! Sizes, lengths, addresses, routes.

use ringspan::crypto::{PresharedKey, PrivateKey, PublicKey};

use crate::node::*;

/// Class 1. A datagram longer than a receive slot made batch and GRO code panic (gotatun 0.7.2).
/// Here drivers lend slices of what has arrived, nothing is copied into slots of another size, and
/// floors 1 to 6 have neither indexing nor `unwrap` (denied by lint). The UDP driver's own case is
/// beside it in `io/udp/tests.rs`.
#[test]
fn class_01_datagram_larger_than_a_receive_slot() {
    let mut pair = Pair::connected();
    pair.a.seal(pair.now, &[a_to_b(1)]);
    let honest = pair.a.sent().remove(0);
    let long = |len: usize| {
        let mut datagram = honest.clone();
        datagram.resize(len, 0x5a);
        datagram
    };
    let mut batch: Vec<_> = [1500, 2048, 9000, 65_507, 65_535, 70_000, 1 << 20]
        .into_iter()
        .map(long)
        .collect();
    for kind in [INITIATION, RESPONSE, COOKIE] {
        let mut datagram = long(66_000);
        datagram[0] = kind;
        batch.push(datagram);
    }
    batch.insert(3, honest);
    pair.b.open(pair.now, A, &batch);
    assert_eq!(pair.b.received(), [a_to_b(1)]);
    let totals = pair.b.totals();
    assert_eq!(totals.forged + totals.wrong_length, 10);
}

/// Class 2. The source address was checked against the sender's own list of prefixes, so that a
/// peer could speak for an address that another one owns by a longer prefix (gotatun before 0.7.2;
/// the same check is in boringtun, NepTUN and VPP). Here the node's one table is asked, as for
/// sending, and must name this very peer.
#[test]
fn class_02_source_owned_more_specifically_by_another_peer() {
    let mut pair = Pair::connected();
    pair.b.add(3, "192.0.2.3:1", &["10.0.1.66/32"]);
    let from = |host| packet([10, 0, 1, host], [10, 0, 2, 1], 60);
    pair.a.seal(pair.now, &[from(65), from(66), from(67)]);
    pair.settle();
    assert_eq!(pair.b.received(), [from(65), from(67)]);
    assert_eq!(pair.b.totals().wrong_source, 1);
}

/// Class 16. Lengths were subtracted before they were compared (VPP `d9d7707`, `d23c55f`; DragonFly
/// DF-0316) and message lengths were not exact (wireguard-go `842888a`); bad keys read beyond
/// their end. Here a message is parsed once into a type that has its exact length, and every cut
/// is a checked one.
#[test]
fn class_16_short_packets_and_bad_keys() {
    let mut pair = Pair::connected();
    pair.a.seal(pair.now, &[a_to_b(0)]);
    let data = pair.a.sent().remove(0);
    for len in 0..200 {
        for kind in 0..=5 {
            let mut datagram = data.clone();
            datagram.resize(len, 0);
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            // The one that is whole comes later.
            if datagram != data {
                pair.b.open(pair.now, A, &[datagram]);
            }
        }
    }
    assert!(pair.b.received().is_empty() && pair.b.sent().is_empty());
    // Inner lengths that say more, or less, than is there.
    for (say, header) in [
        (0, 0x45),
        (19, 0x45),
        (41, 0x45),
        (0xffff, 0x45),
        (40, 0x4f),
        (40, 0x41),
    ] {
        let mut packet = a_to_b(0);
        packet[0] = header;
        packet[2..4].copy_from_slice(&u16::to_be_bytes(say));
        let before = pair.a.totals().malformed;
        pair.a.seal(pair.now, &[packet]);
        assert_eq!(pair.a.totals().malformed, before + 1, "{say} {header:#x}");
    }
    pair.b.open(pair.now, A, &[data]);
    assert_eq!(pair.b.received(), [a_to_b(0)]);

    for text in [
        "",
        "=",
        "AAAA",
        &"A".repeat(43),
        &"A".repeat(45),
        &"=".repeat(44),
        &"é".repeat(22),
    ] {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
        assert!(text.parse::<PrivateKey>().is_err(), "{text}");
        assert!(text.parse::<PresharedKey>().is_err(), "{text}");
    }
}

/// Class 24. A route that leads the tunnel's own datagrams into the tunnel multiplied them without
/// end; ICMP errors were made about what is no IP packet; an MTU of 0 divided by zero (kernel
/// `a63edc0`, `c9ba029`, `netns.sh`). Here a packet that is this node's own datagram is known by
/// endpoint and receiver index; errors are made of parsed packets alone; an MTU of 0 is none.
#[test]
fn class_24_routing_loop_icmp_for_non_ip_and_mtu_0() {
    let mut pair = Pair::connected();
    pair.a.mesh.update(|update| {
        update.allow(&"192.0.2.0/24".parse().unwrap(), &pair.b_of_a);
    });
    pair.a.seal(pair.now, &[a_to_b(0)]);
    let mut turns = 0;
    while let Some(datagram) = pair.a.sent().pop() {
        turns += 1;
        assert!(turns < 5, "it goes round and round");
        let mut back = packet([192, 0, 2, 1], [192, 0, 2, 2], 28 + datagram.len());
        back[20..24].copy_from_slice(&[0xca, 0x6c, 0xca, 0x6c]);
        back[28..].copy_from_slice(&datagram);
        pair.a.seal(pair.now, &[back]);
    }
    assert_eq!((turns, pair.a.totals().looped), (1, 1));

    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.resize(60, 0);
    pair.a
        .seal(pair.now, &[arp, vec![], vec![0x65; 39], vec![0xff; 1500]]);
    assert_eq!(pair.a.totals().malformed, 4);
    assert!(pair.a.received().is_empty());
    let nowhere = packet([10, 0, 1, 1], [10, 9, 9, 9], 60);
    pair.a.seal(pair.now, std::slice::from_ref(&nowhere));
    let errors = pair.a.received();
    assert_eq!(errors.len(), 1);
    pair.a.seal(pair.now, &errors);
    assert!(pair.a.received().is_empty(), "no error about an error");

    pair.a.worker.set_mtu(0);
    pair.a.seal(pair.now, &[a_to_b(1), a_to_b(2000)]);
    pair.settle();
    assert_eq!(pair.b.received(), [a_to_b(1), a_to_b(2000)]);
}

/// Class 25. Packets went out in plain text while a peer was down or the rules that should have
/// stopped them lagged behind (Talos PR 4301, talos #9426), and nodes that shared one key shared
/// its sequence too (cilium CVE-2024-28860). Here a packet leaves sealed for its peer or not at
/// all, and a counter is reserved once, by whichever worker.
#[test]
fn class_25_plain_text_when_a_peer_is_down_or_gone() {
    let mut pair = Pair::new();
    let secret = a_to_b(500);
    let mut wire = Vec::new();
    pair.a.seal(pair.now, std::slice::from_ref(&secret));
    for _ in 0..200 {
        // Nobody answers; handshakes are tried, given up, and tried again.
        pair.pass(std::time::Duration::from_secs(1));
        pair.a.tick(pair.now);
        pair.a.seal(pair.now, std::slice::from_ref(&secret));
        wire.extend(pair.a.sent());
    }
    assert!(!wire.is_empty() && wire.iter().all(|datagram| datagram[0] == INITIATION));

    let mut pair = Pair::connected();
    pair.a.handshakes.remove_peer(pair.b_of_a.public_key());
    pair.a.seal(pair.now, std::slice::from_ref(&secret));
    assert!(
        pair.a.sent().is_empty(),
        "its prefixes still stand, its sessions do not"
    );
    pair.a
        .mesh
        .update(|update| update.disallow_all(pair.b_of_a.public_key()));
    pair.a.seal(pair.now, std::slice::from_ref(&secret));
    assert!(pair.a.sent().is_empty());
    assert_eq!(pair.a.totals().no_peer, 1);

    let mut pair = Pair::connected();
    let mut counters = Vec::new();
    let mut other = Node::new(1);
    other.mesh = std::sync::Arc::clone(&pair.a.mesh);
    other.worker = ringspan::engine::Worker::new(
        std::sync::Arc::clone(&pair.a.mesh),
        ringspan::crypto::backend().unwrap(),
        ringspan::engine::WorkerConfig { mtu: MTU },
    );
    for _ in 0..50 {
        for worker in [&mut pair.a, &mut other] {
            worker.seal(pair.now, &[secret.clone(), secret.clone()]);
            let sent = worker.sent();
            assert!(sent.iter().all(|datagram| {
                datagram[0] == DATA && !datagram.windows(64).any(|part| part == &secret[100..164])
            }));
            counters.extend(sent.iter().map(|datagram| counter(datagram)));
        }
    }
    let count = counters.len();
    counters.sort_unstable();
    counters.dedup();
    assert_eq!((count, counters.len()), (200, 200));
}
