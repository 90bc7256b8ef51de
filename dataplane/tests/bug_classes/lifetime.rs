//! Clocks, timers, removal, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan::engine::Refusal;
use ringspan::io::memory::{Network, inner_port};
use ringspan::mesh::{AllowedIps, Peer};
use ringspan::time::Instant;
use ringspan::{Dataplane, Inner, Outer};

use crate::node::*;

/// Class 12. A clock that went back made subtraction panic, or a timestamp from the future locked
/// the peer out until that time (boringtun #106, gotatun before 0.3.0, CVE-2021-46873). Here time
/// saturates, and a node's own timestamps only ever increase while it runs.
#[test]
fn class_12_clock_that_goes_backwards() {
    let mut pair = Pair::connected();
    let future = pair.now.unix + Duration::from_secs(1_000_000_000);
    let past = Duration::from_secs(3);
    for unix in [
        future,
        past,
        Duration::ZERO,
        future + Duration::from_secs(1),
        past,
    ] {
        pair.pass(Duration::from_secs(10));
        pair.now.unix = unix;
        let initiation = pair.initiation();
        assert_eq!(
            pair.b.open(pair.now, A, &[initiation]),
            [Ok(())],
            "{unix:?}"
        );
        let response = pair.b.sent();
        assert_eq!(pair.a.open(pair.now, B, &response), [Ok(())], "{unix:?}");
        pair.settle();
    }
    // The monotonic one should not, but on a restored machine it may.
    for seconds in [4000, 0, 9_000_000, 1, 5000] {
        pair.now.monotonic = Instant::from_secs(seconds);
        pair.a.tick(pair.now);
        pair.b.tick(pair.now);
        pair.a.seal(pair.now, &[a_to_b(0)]);
        pair.b.seal(pair.now, &[b_to_a(0)]);
        pair.settle();
    }
    pair.now.monotonic = Instant::from_secs(20_000_000);
    pair.b.received();
    pair.a.seal(pair.now, &[a_to_b(9)]);
    for _ in 0..20 {
        pair.settle();
        pair.second();
    }
    assert!(
        pair.b.received().contains(&a_to_b(9)),
        "they find each other again"
    );
}

/// Class 19. A peer was removed while a handshake with it was under way, and the index table kept,
/// or followed, what was gone (kernel 2020-09 and `b8b9e86`; boringtun `f8068c5`). Here removal
/// takes sessions and indices out in one call on the thread that makes them, and workers hold
/// counted references.
#[test]
fn class_19_removal_while_a_handshake_is_under_way() {
    let mut pair = Pair::new();
    let initiation = pair.initiation();
    pair.b.open(pair.now, A, &[initiation]);
    let response = pair.b.sent();
    let key = *pair.b_of_a.public_key();
    pair.a.handshakes.remove_peer(&key);
    let answer = pair.a.open(pair.now, B, &response);
    assert!(
        matches!(answer[..], [Err(Refusal::UnknownIndex(_))]),
        "{answer:?}"
    );
    assert!(pair.a.mesh.indices.load().is_empty());
    assert!(pair.a.sent().is_empty());

    // Data arrives on one thread while another one removes and adds.
    let mut pair = Pair::connected();
    let packets: Vec<_> = (0..100).map(a_to_b).collect();
    pair.a.seal(pair.now, &packets);
    let wire = pair.a.sent();
    let stop = AtomicBool::new(false);
    let Pair { mut b, now, .. } = pair;
    thread::scope(|scope| {
        let mesh = Arc::clone(&b.mesh);
        let mut reader = Node::new(2);
        reader.worker = ringspan::engine::Worker::new(
            Arc::clone(&mesh),
            ringspan::crypto::backend().unwrap(),
            ringspan::engine::WorkerConfig { mtu: MTU },
        );
        let (wire, stop) = (&wire, &stop);
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                reader.open_data(now, A, wire);
            }
        });
        for _ in 0..300 {
            b.handshakes.remove_peer(&public_key(1));
            mesh.update(|update| update.disallow_all(&public_key(1)));
            b.add(1, A, &["10.0.1.0/24"]);
        }
        stop.store(true, Relaxed);
    });
    b.handshakes.remove_peer(&public_key(1));
    assert!(b.mesh.indices.load().is_empty());
}

/// Class 20. Allowed IPs were dropped by recursion over their depth, iterated past their end, and
/// shared without synchronisation (boringtun #281, #222, `d513497`). Here the trie has an explicit
/// depth of at most 128 bits, whatever is in it, and generations share nodes by counted references.
#[test]
fn class_20_deep_recursion_and_iteration_in_allowed_ips() {
    let work = || {
        let mut table = AllowedIps::default();
        // As deep as can be, and as wide as many peers make it.
        for length in 0..=128 {
            let prefix = IpNet::new("fdff:ffff::".parse().unwrap(), length).unwrap();
            table.insert(&prefix.trunc(), length.into());
        }
        let wide = |n: u32| IpNet::from(std::net::IpAddr::V4((0x0a00_0000 + n).into()));
        for n in 0..50_000 {
            table.insert(&wide(n), 1000 + n);
        }
        let shared = table.clone();
        assert_eq!(table.lookup("fdff:ffff::".parse().unwrap()), Some(&128));
        assert_eq!(table.lookup("fdff:ffff::1".parse().unwrap()), Some(&127));
        assert_eq!(table.lookup(wide(49_999).addr()), Some(&50_999));
        for n in 0..50_000 {
            assert_eq!(table.remove(&wide(n)), Some(1000 + n));
        }
        assert_eq!(table.lookup(wide(7).addr()), None);
        assert_eq!(shared.lookup(wide(7).addr()), Some(&1007));
        drop(shared);
        assert_eq!(table.len(), 129);
    };
    // A small stack: recursion over prefixes would not fit.
    let thread = thread::Builder::new().stack_size(256 << 10).spawn(work);
    thread.unwrap().join().unwrap();
}

/// Class 21. Closing waited for itself, left threads and memory behind, or a removed peer was used
/// (wireguard-go PRs 78, 79, 96, `068d932`; tailscale PR 20010). Here threads are joined in one
/// order, none waits for a packet that cannot come, and a node that is gone has let go of its
/// peers.
#[test]
fn class_21_deadlock_or_leak_on_close_and_removal() {
    let network = Network::new();
    for round in 0..10 {
        let node = |byte: u8| {
            let address = std::net::SocketAddr::from(([192, 0, 2, byte], 51820));
            let end = network.attach(address, 256).unwrap();
            let (rx, tx, host) = inner_port(256).unwrap();
            let control = Box::new(end.tx.clone());
            let outer = Outer::custom(vec![Box::new(end.rx)], vec![Box::new(end.tx)], control);
            let inner = Inner::custom(vec![(Box::new(rx), Box::new(tx))]);
            let plane = Dataplane::builder(private_key(byte))
                .outer(outer)
                .inner(inner);
            (plane.start().unwrap(), host, address)
        };
        let ((a, host_a, _), (b, _host_b, address_b)) = (node(1), node(2));
        let spec = PeerSpec {
            endpoints: vec![address_b],
            allowed_ips: vec!["10.0.2.0/24".parse().unwrap()],
            ..PeerSpec::new(b.public_key().to_owned())
        };
        for _ in 0..10 {
            a.control().apply(std::slice::from_ref(&spec)).unwrap();
            for n in 0..50 {
                // What does not fit is lost, as on any interface.
                let _ = host_a.send(&a_to_b(n));
            }
            assert_eq!(a.statuses().len(), 1);
            if round % 2 == 0 {
                a.control().apply(&[]).unwrap();
            }
        }
        // With packets that wait for a session, and one end gone before the other.
        b.shutdown().unwrap();
        a.shutdown().unwrap();
    }

    let mut pair = Pair::connected();
    pair.a.handshakes.forget_sessions();
    pair.a.seal(pair.now, &[a_to_b(0)]);
    let weak: Vec<_> = [&pair.a_of_b, &pair.b_of_a].map(Arc::downgrade).into();
    drop(pair);
    assert!(
        weak.iter()
            .all(|peer: &std::sync::Weak<Peer>| peer.upgrade().is_none())
    );
}

/// Class 23. Empty packets answered each other for ever, both ends made a session at once, or made
/// them far too often (gotatun before 0.7.2, firezone PRs 16 and 53). Here an empty packet asks for
/// no answer, initiations that cross end in one session, and only the initiator renews by age.
#[test]
fn class_23_keepalive_ping_pong_double_initiation_excess_rekeys() {
    let mut pair = Pair::connected();
    pair.carried.clear();
    for _ in 0..100 {
        pair.second();
    }
    assert_eq!(
        pair.count(DATA),
        1,
        "one empty packet in answer to data: {:?}",
        pair.carried
    );
    assert_eq!(pair.count(INITIATION), 0);

    let mut pair = Pair::new();
    pair.a.seal(pair.now, &[a_to_b(0)]);
    pair.b.seal(pair.now, &[b_to_a(0)]);
    for _ in 0..30 {
        pair.settle();
        pair.second();
    }
    assert_eq!(
        (pair.a.received(), pair.b.received()),
        (vec![b_to_a(0)], vec![a_to_b(0)])
    );
    assert_eq!(pair.count(INITIATION), 2);
    assert!(pair.count(RESPONSE) <= 2);

    pair.carried.clear();
    for n in 0..600 {
        pair.a.seal(pair.now, &[a_to_b(n)]);
        pair.b.seal(pair.now, &[b_to_a(n)]);
        pair.second();
    }
    assert_eq!(
        (pair.a.received().len(), pair.b.received().len()),
        (600, 600)
    );
    assert!(
        pair.count(INITIATION) <= 6,
        "{} in ten minutes",
        pair.count(INITIATION)
    );
}
