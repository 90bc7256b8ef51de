//! Two nodes, threads and all, over the memory network.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use super::*;
use crate::control::kubespan::{EndpointFilter, PERSISTENT_KEEPALIVE, RangeSet};
use crate::crypto::PrivateKey;
use crate::io::memory::{DEFAULT_CAPACITY, InnerUser, Network, inner_port};
use crate::runtime::node::Parts;
use crate::runtime::outer_settings::OuterSettings;
use crate::runtime::worker::Ports;

/// Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(30);

/// How far the clock of the rotating node lags, in seconds: what happens while it does counts as
/// long ago once it does not.
static LAG: AtomicU64 = AtomicU64::new(0);

fn lagging() -> Instant {
    monotonic() - Duration::from_secs(LAG.load(Relaxed))
}

fn node(network: &Network, byte: u8, clock: fn() -> Instant) -> (Control, SocketAddr, InnerUser) {
    let address = SocketAddr::from(([192, 0, 2, byte], 51820));
    let end = network.attach(address, DEFAULT_CAPACITY).unwrap();
    let (rx, tx, host) = inner_port(DEFAULT_CAPACITY).unwrap();
    let parts = Parts {
        private_key: PrivateKey::from([byte; 32]),
        mtu: 1420,
        control_tx: Box::new(end.tx.clone()),
        workers: vec![Ports {
            outer_rx: vec![Box::new(end.rx)],
            outer_tx: Box::new(end.tx),
            inner_rx: vec![Box::new(rx)],
            inner_tx: Box::new(tx),
        }],
        pin: false,
        spin: core::time::Duration::ZERO,
        outer: OuterSettings::default(),
    };
    let control = Control::new(Arc::new(Node::start(parts).unwrap()), true);
    (Control { clock, ..control }, address, host)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_next_endpoint_is_tried_and_an_answering_one_is_kept() {
    let network = Network::new();
    let (a, _, _a_host) = node(&network, 1, lagging);
    let (b, b_address, _b_host) = node(&network, 2, monotonic);
    let dead = SocketAddr::from(([192, 0, 2, 99], 51820));
    let tunnelled: SocketAddr = "[fd00:0:0:2::2]:51820".parse().unwrap();
    let spec = |endpoints: &[SocketAddr]| PeerSpec {
        endpoints: endpoints.to_vec(),
        allowed_ips: vec!["10.0.0.2/32".parse().unwrap()],
        persistent_keepalive: PERSISTENT_KEEPALIVE,
        ..PeerSpec::new(b.public_key())
    };
    b.apply(&[PeerSpec::new(a.public_key())]).unwrap();
    let mut tunnel = RangeSet::new();
    tunnel.insert_net(&"fd00:0:0:2::/64".parse().unwrap());
    a.set_local_endpoints(LocalEndpoints::new(Vec::<EndpointFilter>::new(), tunnel));

    LAG.store(16, Relaxed);
    a.apply(&[spec(&[tunnelled, dead, b_address])]).unwrap();
    assert_eq!(
        a.statuses()[0].last_used_endpoint,
        Some(dead),
        "not one within the tunnel"
    );
    assert_eq!(a.tick().unwrap(), 0, "it has its fifteen seconds");
    LAG.store(0, Relaxed);
    assert_eq!(a.statuses()[0].state, PeerState::Down);
    assert_eq!(a.tick().unwrap(), 1);
    assert_eq!(a.statuses()[0].last_used_endpoint, Some(b_address));
    wait_for("the peer is up", || a.statuses()[0].state == PeerState::Up);

    // From here on nothing about its endpoint is to change, whatever the list says.
    let before = a.statuses()[0].clone();
    for endpoints in [&[dead][..], &[], &[b_address, dead]] {
        assert_eq!(a.apply(&[spec(endpoints)]).unwrap().changed, 1);
        assert_eq!(a.tick().unwrap(), 0);
        let after = &a.statuses()[0];
        assert_eq!(after.endpoint, Some(b_address));
        assert_eq!(after.last_used_endpoint, before.last_used_endpoint);
        assert_eq!(after.state, PeerState::Up);
        assert!(after.transmit_bytes >= before.transmit_bytes);
    }
    assert_eq!(a.apply(&[spec(&[b_address, dead])]).unwrap().unchanged, 1);
}

#[test]
fn sources_add_up_and_the_api_wins() {
    let network = Network::new();
    let (control, ..) = node(&network, 3, monotonic);
    let spec = |byte: u8, label: &str| PeerSpec {
        label: label.to_owned(),
        allowed_ips: vec![format!("10.0.{byte}.0/24").parse().unwrap()],
        ..PeerSpec::new([byte; 32].into())
    };
    let labels = || -> Vec<String> {
        let statuses = control.statuses();
        statuses.into_iter().map(|status| status.label).collect()
    };
    control
        .apply_from(1, &[spec(7, "file"), spec(8, "file")])
        .unwrap();
    assert_eq!(
        control
            .apply(&[spec(8, "api"), spec(9, "api")])
            .unwrap()
            .added,
        1
    );
    assert_eq!(labels(), ["file", "api", "api"]);
    assert_eq!(
        control.apply_from(1, &[spec(8, "file")]).unwrap().removed,
        1
    );
    assert_eq!(control.apply(&[]).unwrap().removed, 1);
    assert_eq!(labels(), ["file"]);
}

/// Peers come, go and change around two that talk: not one of their packets is lost, and their
/// counters know all of them.
#[test]
fn changes_cost_untouched_peers_no_packet() {
    const PACKETS: u64 = 20_000;
    const UPDATES: u8 = 250;
    let network = Network::new();
    let (a, a_address, a_host) = node(&network, 1, monotonic);
    let (b, b_address, b_host) = node(&network, 2, monotonic);
    let spec = |key: PublicKey, address: SocketAddr, prefix: &str| PeerSpec {
        endpoints: vec![address],
        allowed_ips: vec![prefix.parse().unwrap()],
        ..PeerSpec::new(key)
    };
    b.apply(&[spec(a.public_key(), a_address, "10.0.0.1/32")])
        .unwrap();
    let stays = spec(b.public_key(), b_address, "10.0.0.2/32");
    let other = |n: u8| {
        let key = *crate::crypto::KeyPair::new(&PrivateKey::from([n; 32]))
            .unwrap()
            .public();
        spec(
            key,
            ([192, 0, 2, 200], n.into()).into(),
            &format!("10.1.{n}.0/24"),
        )
    };
    a.apply(&[stays.clone(), other(100)]).unwrap();

    let mut packet = vec![0; 60];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let done = core::sync::atomic::AtomicBool::new(false);
    let (mut sent, mut arrived) = (0, 0);
    std::thread::scope(|scope| {
        let (a, done, stays) = (&a, &done, &stays);
        let updates = scope.spawn(move || {
            for n in 0..UPDATES {
                let (peer, one) = (other(100).public_key, other(101 + n % 100));
                let prefix = format!("10.2.{n}.0/24").parse().unwrap();
                for changes in [
                    vec![SpecChange::Allow { peer, prefix }],
                    vec![SpecChange::Set(one.clone())],
                    vec![
                        SpecChange::Disallow { peer, prefix },
                        SpecChange::Remove(one.public_key),
                    ],
                ] {
                    assert_eq!(a.update(&changes).unwrap().rejected, []);
                }
                // The whole set, too: without the others, and with one again.
                a.apply(core::slice::from_ref(stays)).unwrap();
                a.apply(&[stays.clone(), other(100)]).unwrap();
            }
            done.store(true, Relaxed);
        });
        let mut last = std::time::Instant::now();
        // As long as there are updates, and that many packets at least.
        while arrived < sent || sent < PACKETS || !done.load(Relaxed) {
            assert!(
                !updates.is_finished() || done.load(Relaxed),
                "the updates failed"
            );
            while sent - arrived < 64
                && (sent < PACKETS || !done.load(Relaxed))
                && a_host.send(&packet)
            {
                sent += 1;
            }
            let before = arrived;
            while b_host.receive(|got| assert_eq!(got, packet)).is_some() {
                arrived += 1;
            }
            if arrived > before {
                last = std::time::Instant::now();
            } else {
                assert!(last.elapsed() < LIMIT, "{arrived} of {sent} packets");
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(arrived, sent);
    wait_for("the counters", || {
        let status = a
            .statuses()
            .into_iter()
            .find(|peer| peer.public_key == stays.public_key);
        status.is_some_and(|status| status.transmit_packets == sent)
    });
}
