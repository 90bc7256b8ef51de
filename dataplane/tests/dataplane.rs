//! Whole nodes, threads and all, over drivers that need no privilege: the memory network and
//! UDP on the loopback interface.

use std::mem;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use ringspan::control::{PeerSpec, PeerState, RejectReason};
use ringspan::crypto::{KeyPair, PresharedKey, PrivateKey, PublicKey};
use ringspan::engine::port::{DriverInfo, OuterTx, Sent, TxRequest, TxSlot};
use ringspan::io::memory::{DEFAULT_CAPACITY, InnerUser, MemoryOuterTx, Network, inner_port};
use ringspan::mesh::Endpoint;
use ringspan::{Dataplane, Inner, Outer, StartError};

/// Far more than anything here takes; only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(30);

fn private(byte: u8) -> PrivateKey {
    PrivateKey::from([byte; 32])
}

fn public(byte: u8) -> PublicKey {
    *KeyPair::new(&private(byte)).unwrap().public()
}

struct Node {
    plane: Dataplane,
    host: InnerUser,
    address: SocketAddr,
}

fn inner() -> (Inner, InnerUser) {
    let (rx, tx, host) = inner_port(DEFAULT_CAPACITY).unwrap();
    (Inner::custom(vec![(Box::new(rx), Box::new(tx))]), host)
}

fn on_network(network: &Network, byte: u8) -> Node {
    on_network_by(network, byte, |tx| Box::new(tx))
}

fn on_network_by(
    network: &Network,
    byte: u8,
    sender: impl FnOnce(MemoryOuterTx) -> Box<dyn OuterTx>,
) -> Node {
    let address = SocketAddr::from(([192, 0, 2, byte], 51820));
    let end = network.attach(address, DEFAULT_CAPACITY).unwrap();
    let (rx, tx) = (end.rx, end.tx);
    let control_tx = Box::new(tx.clone());
    let (inner, host) = inner();
    let outer = Outer::custom(vec![Box::new(rx)], vec![sender(tx)], control_tx);
    let plane = Dataplane::builder(private(byte))
        .outer(outer)
        .inner(inner)
        .start()
        .unwrap();
    Node {
        plane,
        host,
        address,
    }
}

fn on_loopback(byte: u8) -> Node {
    let (inner, host) = inner();
    let plane = Dataplane::builder(private(byte))
        .listen_port(0)
        .outer(Outer::udp())
        .inner(inner)
        .start()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], plane.listen_port()));
    Node {
        plane,
        host,
        address,
    }
}

fn spec(of: &Node, byte: u8, endpoint: bool) -> PeerSpec {
    PeerSpec {
        preshared_key: Some(PresharedKey::from([7; 32])),
        endpoints: endpoint.then_some(of.address).into_iter().collect(),
        allowed_ips: vec![format!("10.0.0.{byte}/32").parse().unwrap()],
        label: format!("node {byte}"),
        ..PeerSpec::new(of.plane.public_key())
    }
}

/// An IPv4 packet with `payload`, from 10.0.0.`from` to 10.0.0.`to`.
fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    packet_between([10, 0, 0, from], [10, 0, 0, to], payload)
}

fn packet_between(from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend_from_slice(&from);
    packet.extend_from_slice(&to);
    packet.extend_from_slice(payload);
    packet
}

/// Waits until the node's counter of this name is not 0.
fn await_counter(node: &Node, name: &str) {
    let start = Instant::now();
    let count = || {
        let counters = node.plane.counters();
        counters.iter().find(|(key, _)| *key == name).unwrap().1
    };
    while count() == 0 {
        assert!(start.elapsed() < LIMIT);
        std::thread::yield_now();
    }
}

fn exchange(a: &Node, b: &Node) {
    // Staged until the handshake is done, then delivered in order.
    for number in 0..100_u8 {
        assert!(a.host.send(&packet(1, 2, &[number])));
    }
    for number in 0..100_u8 {
        let got = b
            .host
            .receive_within(LIMIT, <[u8]>::to_vec)
            .expect("the packet arrives");
        assert_eq!(got, packet(1, 2, &[number]));
    }
    assert!(b.host.send(&packet(2, 1, b"back")));
    assert_eq!(
        a.host.receive_within(LIMIT, <[u8]>::to_vec).unwrap(),
        packet(2, 1, b"back")
    );
}

fn talk(a: Node, b: Node) {
    let applied = a.plane.control().apply(&[spec(&b, 2, true)]).unwrap();
    assert_eq!((applied.added, applied.rejected.len()), (1, 0));
    // B does not know where A is: it learns that from the handshake.
    b.plane.control().apply(&[spec(&a, 1, false)]).unwrap();
    assert_eq!(a.plane.statuses()[0].state, PeerState::Unknown);

    exchange(&a, &b);

    for (node, other, sent) in [(&a, &b, 100), (&b, &a, 1)] {
        // A worker counts after it has sent: the other end may have had the packet before.
        let counted = || {
            let status = &node.plane.statuses()[0];
            status.transmit_packets >= sent && status.receive_bytes > 0
        };
        let end = Instant::now() + LIMIT;
        while !counted() && Instant::now() < end {
            std::thread::yield_now();
        }
        let status = &node.plane.statuses()[0];
        assert_eq!(status.state, PeerState::Up);
        assert_eq!(status.endpoint, Some(other.address));
        assert!(status.last_handshake.is_some() && status.has_preshared_key);
        assert_eq!(status.transmit_packets, sent);
        assert!(status.receive_bytes > 0 && status.transmit_bytes > 0);
    }

    // Change what does not concern the session: it stays, and so do the counters.
    let mut changed = spec(&b, 2, true);
    changed.label = "renamed".to_owned();
    changed.allowed_ips.push("10.9.0.0/16".parse().unwrap());
    changed.persistent_keepalive = NonZeroU16::new(25);
    let before = a.plane.statuses()[0].clone();
    assert_eq!(
        a.plane.control().apply(&[changed.clone()]).unwrap().changed,
        1
    );
    let after = a.plane.statuses()[0].clone();
    assert_eq!(after.label, "renamed");
    assert_eq!(after.transmit_packets, before.transmit_packets);
    assert!(a.host.send(&packet(1, 2, b"still there")));
    assert!(b.host.receive_within(LIMIT, |_| ()).is_some());
    assert_eq!(a.plane.control().apply(&[changed]).unwrap().unchanged, 1);

    // Remove the peer: nothing goes through, and it is counted.
    assert_eq!(a.plane.control().apply(&[]).unwrap().removed, 1);
    assert_eq!(a.plane.statuses(), []);
    assert!(a.host.send(&packet(1, 2, b"nobody")));
    await_counter(&a, "no_peer");

    let ports: Vec<_> = b.plane.drivers().iter().map(|report| report.port).collect();
    assert_eq!(ports, ["outer rx", "outer tx", "inner rx", "inner tx"]);
    a.plane.shutdown().unwrap();
    b.plane.shutdown().unwrap();
}

#[test]
fn two_nodes_talk_over_the_memory_network() {
    let network = Network::new();
    talk(on_network(&network, 1), on_network(&network, 2));
}

#[test]
fn two_nodes_talk_over_udp() {
    talk(on_loopback(1), on_loopback(2));
}

#[test]
fn a_bad_spec_is_refused_alone() {
    let node = on_loopback(1);
    let other = PublicKey::from([9; 32]);
    let own = node.plane.public_key();
    let low_order = PublicKey::from([0; 32]);
    let specs = [
        PeerSpec::new(own),
        PeerSpec::new(other),
        PeerSpec::new(other),
        PeerSpec::new(low_order),
    ];
    let applied = node.plane.control().apply(&specs).unwrap();
    assert_eq!(applied.added, 1);
    let expected = [
        (own, RejectReason::OwnKey(own)),
        (other, RejectReason::Duplicate(other)),
        (low_order, RejectReason::UnusableKey(low_order)),
    ];
    assert_eq!(applied.rejected, expected);
}

/// A peer keeps running when its new spec is refused; what another took over meanwhile comes back
/// with the next good set.
#[test]
fn a_prefix_lost_while_a_spec_was_refused_comes_back() {
    let node = on_loopback(1);
    let with = |byte, prefixes: &[&str]| PeerSpec {
        allowed_ips: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
        ..PeerSpec::new(public(byte))
    };
    let prefixes = |byte| {
        let key = public(byte);
        let status = node.plane.statuses();
        let peer = status.into_iter().find(|peer| peer.public_key == key);
        peer.map(|peer| {
            peer.allowed_ips
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        })
    };
    let (p, q) = ("10.1.0.0/16", "10.2.0.0/16");
    let control = node.plane.control();
    assert_eq!(control.apply(&[with(2, &[p])]).unwrap().added, 1);

    let taken = [with(3, &[q]), with(2, &[p, q]), with(4, &[p])];
    let applied = control.apply(&taken).unwrap();
    assert_eq!(
        (applied.added, applied.removed, applied.rejected.len()),
        (2, 0, 1)
    );
    assert_eq!(
        (prefixes(2), prefixes(4)),
        (Some(vec![]), Some(vec![p.to_owned()]))
    );

    let applied = control.apply(&[with(2, &[p])]).unwrap();
    assert_eq!((applied.changed, applied.removed), (1, 2));
    assert_eq!(prefixes(2), Some(vec![p.to_owned()]));
    // The table says so too: the packet is the peer's, which has no endpoint.
    assert!(
        node.host
            .send(&packet_between([10, 0, 0, 1], [10, 1, 0, 1], b"whose?"))
    );
    await_counter(&node, "no_endpoint");
}

/// A driver that takes datagrams and does not send them before it is urged to, twice.
struct Reluctant {
    driver: MemoryOuterTx,
    held: Vec<(TxRequest, Vec<u8>)>,
    urged: bool,
}

impl OuterTx for Reluctant {
    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        self.driver.reaches(endpoint)
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        self.urged = false;
        for (request, wanted) in requests.iter().enumerate() {
            let mut buffer = vec![0; wanted.len];
            fill(&mut [TxSlot {
                request,
                buffer: &mut buffer,
            }]);
            self.held.push((*wanted, buffer));
        }
        Sent {
            accepted: requests.len(),
            dropped: 0,
        }
    }

    fn flush(&mut self) -> bool {
        if self.held.is_empty() || !mem::replace(&mut self.urged, true) {
            return !self.held.is_empty();
        }
        for (request, datagram) in self.held.drain(..) {
            let _ = self.driver.send_batch(&[request], &mut |slots| {
                slots[0].buffer.copy_from_slice(&datagram);
            });
        }
        false
    }

    fn info(&self) -> DriverInfo {
        self.driver.info()
    }
}

#[test]
fn what_a_driver_holds_back_is_sent_all_the_same() {
    let network = Network::new();
    let (a, b) = (
        on_network_by(&network, 1, |tx| {
            Box::new(Reluctant {
                driver: tx,
                held: Vec::new(),
                urged: false,
            })
        }),
        on_network(&network, 2),
    );
    a.plane.control().apply(&[spec(&b, 2, true)]).unwrap();
    b.plane.control().apply(&[spec(&a, 1, false)]).unwrap();
    exchange(&a, &b);
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let refused = |builder: ringspan::Builder| builder.start().unwrap_err();
    let builder = || Dataplane::builder(private(1)).listen_port(0);
    assert!(matches!(refused(builder()), StartError::NoInner));
    assert!(
        refused(builder().inner(inner().0.mtu(575)))
            .to_string()
            .contains("575")
    );
    assert!(
        refused(builder().inner(inner().0).workers(0))
            .to_string()
            .starts_with('0')
    );

    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = refused(
        Dataplane::builder(private(1))
            .listen_port(port)
            .inner(inner().0),
    );
    assert!(
        error.to_string().contains(&format!("port {port} is taken")),
        "{error}"
    );
}

#[test]
fn dropping_a_node_stops_it() {
    let node = on_loopback(1);
    let port = node.plane.listen_port();
    drop(node);
    std::net::UdpSocket::bind(("0.0.0.0", port)).expect("the port is free again");
}
