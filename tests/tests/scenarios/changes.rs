//! Changes under traffic, counted.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use ringspan::control::{AllowedIpChange, DeviceChange, PeerChange};
use ringspan::crypto::{PresharedKey, PrivateKey, PublicKey};
use ringspan_tests::harness::TestResult;
use ringspan_tests::traffic::udp;

use crate::bed::*;

/// While datagrams go to one peer and back, everything else changes: peers come and go, prefixes
/// move between them, their keys and endpoints change, the node's mark changes, and its key and
/// port are set to what they are. Every datagram is answered, and counted once at the other end.
pub(crate) fn an_untouched_peer_loses_nothing(driver: Driver) -> TestResult {
    const DATAGRAMS: u64 = 4000;
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let echo = b.namespace.run(|| udp::Echo::start(b.inner(4)))?;
    let (packets, rounds) = (a.peer().transmit_packets, AtomicU32::new(0));
    let ended = AtomicBool::new(false);
    let (exchange, changed) = thread::scope(|scope| {
        let churn = scope.spawn(|| -> Result<(), String> {
            while !ended.load(Ordering::Acquire) {
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                for change in everything_else(&a, &b, round) {
                    a.configure(change).map_err(|error| error.to_string())?;
                }
            }
            Ok(())
        });
        let address = echo.address();
        let exchange = a
            .namespace
            .run(|| udp::exchange(address, DATAGRAMS, 1200, 8, PATIENCE, |_| true));
        ended.store(true, Ordering::Release);
        (exchange, churn.join())
    });
    changed.map_err(|_| "the changes panicked")??;
    let exchange = exchange?;
    assert_eq!(
        (exchange.sent, exchange.echoed, exchange.damaged),
        (DATAGRAMS, DATAGRAMS, 0),
        "after {rounds:?} rounds: {exchange:?}"
    );
    assert!(rounds.into_inner() >= 3, "too little was changed meanwhile");
    let of_b = |node: &Node, other: &Node| {
        let mut statuses = node.plane.statuses();
        statuses.retain(|status| status.public_key == other.plane.public_key());
        statuses.remove(0)
    };
    wait_for("every packet is counted", || {
        of_b(&a, &b).transmit_packets - packets >= DATAGRAMS
    });
    Ok(())
}

/// One round of changes that do not concern `b`.
fn everything_else(a: &Node, b: &Node, round: u32) -> Vec<DeviceChange> {
    let byte = 10 + (round % 50) as u8;
    let strangers = [[byte; 32], [byte + 100; 32]].map(PublicKey::from);
    // Around b's address: b has the longer prefix.
    let wide = ["10.7.0.0/24", "fd07::/64", "10.99.0.0/16"].map(|text| {
        let prefix = text.parse().expect("a prefix");
        AllowedIpChange::Add(prefix)
    });
    let peers = |peers| DeviceChange {
        peers,
        ..DeviceChange::default()
    };
    let come = strangers.map(|key| PeerChange {
        endpoint: Some(SocketAddr::new(b.outer(4), 9)),
        preshared_key: Some(PresharedKey::from([byte; 32])),
        persistent_keepalive: Some(25),
        allowed_ips: wide.to_vec(),
        ..PeerChange::new(key)
    });
    let mut other = come[0].clone();
    other.preshared_key = Some(PresharedKey::from([byte + 1; 32]));
    other.endpoint = Some(SocketAddr::new(IpAddr::from([192, 0, 2, 77]), 9));
    other.replace_allowed_ips = true;
    let gone = strangers.map(|key| PeerChange {
        remove: true,
        ..PeerChange::new(key)
    });
    vec![
        peers(come.to_vec()),
        peers(vec![other]),
        DeviceChange {
            fwmark: Some(round % 3),
            listen_port: Some(a.plane.listen_port()),
            private_key: Some(PrivateKey::from([1; 32])),
            ..DeviceChange::default()
        },
        peers(gone.to_vec()),
    ]
}

/// A prefix goes back and forth between two peers, once before each datagram: each arrives at the
/// one that has it, and is believed of that one.
pub(crate) fn a_prefix_moves(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let (moving, holder) = (ip("10.7.0.9"), PublicKey::from([9; 32]));
    b.namespace.add_address("lo", ipnet::IpNet::from(moving))?;
    for round in 0..20 {
        let to = if round % 2 == 0 {
            b.plane.public_key()
        } else {
            holder
        };
        a.configure(DeviceChange {
            peers: vec![PeerChange {
                allowed_ips: vec![AllowedIpChange::Add(moving.into())],
                ..PeerChange::new(to)
            }],
            ..DeviceChange::default()
        })?;
        if round % 2 == 0 {
            let pings = a.ping(moving, 1, 56)?;
            assert!(pings.all_answered(), "round {round}: {pings:?}");
        } else {
            a.is_ignored_by(moving)?;
        }
    }
    a.reaches(&b)
}

/// The node's key changes while it runs; its peer is told; the next packet arrives, either way.
pub(crate) fn a_private_key_changes_while_running(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    for key in [71, 72, 73] {
        let old = a.plane.public_key();
        a.configure(DeviceChange {
            private_key: Some(PrivateKey::from([key; 32])),
            ..DeviceChange::default()
        })?;
        assert_ne!(a.plane.public_key(), old);
        let removed = PeerChange {
            remove: true,
            ..PeerChange::new(old)
        };
        let added = PeerChange {
            endpoint: Some(SocketAddr::new(a.outer(4), a.plane.listen_port())),
            preshared_key: Some(PresharedKey::from([key; 32])),
            allowed_ips: [4, 6]
                .map(|family| AllowedIpChange::Add(a.inner(family).into()))
                .to_vec(),
            ..PeerChange::new(a.plane.public_key())
        };
        b.configure(DeviceChange {
            peers: vec![removed, added],
            ..DeviceChange::default()
        })?;
        a.configure(DeviceChange {
            peers: vec![PeerChange {
                preshared_key: Some(PresharedKey::from([key; 32])),
                ..PeerChange::new(b.plane.public_key())
            }],
            ..DeviceChange::default()
        })?;
        // No pause: the first packet waits for the handshake, and is answered.
        let (from, to) = if key % 2 == 0 { (&b, &a) } else { (&a, &b) };
        from.reaches(to)?;
        to.reaches(from)?;
    }
    Ok(())
}

/// The port moves, again and again, between exchanges: sessions stay, and nothing is lost.
pub(crate) fn a_port_moves(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let echo = b.namespace.run(|| udp::Echo::start(b.inner(6)))?;
    let initiations = a.counter("initiations_sent") + b.counter("initiations_sent");
    for port in [40_001, 40_002, 51_820] {
        a.configure(DeviceChange {
            listen_port: Some(port),
            ..DeviceChange::default()
        })?;
        a.carries_by(driver, || {
            let exchange = a
                .namespace
                .run(|| udp::exchange(echo.address(), 200, 1000, 8, PATIENCE, |_| true))?;
            assert_eq!((exchange.sent, exchange.echoed), (200, 200), "{exchange:?}");
            Ok(())
        })?;
        assert_eq!(b.peer().endpoint.map(|at| at.port()), Some(port));
    }
    assert_eq!(
        a.counter("initiations_sent") + b.counter("initiations_sent"),
        initiations
    );
    Ok(())
}
