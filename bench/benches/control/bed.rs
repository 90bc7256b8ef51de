//! Nodes over the memory driver, and the peers that they are given.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan::crypto::{KeyPair, PrivateKey, PublicKey};
use ringspan::io::memory::{DEFAULT_CAPACITY, InnerUser, Network, inner_port};
use ringspan::{Dataplane, Inner, Outer};

/// Peers of every node.
pub(crate) const PEERS: usize = 1000;
/// The network in which nodes send packets to each other: no peer's made below.
const TRAFFIC: [u8; 2] = [192, 168];
/// Only a failing run waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) plane: Dataplane,
    pub(crate) host: InnerUser,
    pub(crate) address: SocketAddr,
}

impl Node {
    /// A node at 192.0.2.`last`.
    pub(crate) fn new(network: &Network, last: u8) -> Self {
        let address = SocketAddr::from(([192, 0, 2, last], 51820));
        let end = network
            .attach(address, DEFAULT_CAPACITY)
            .expect("an address");
        let (rx, tx, host) = inner_port(DEFAULT_CAPACITY).expect("a port");
        let control = Box::new(end.tx.clone());
        let plane = Dataplane::builder(private_key(u32::MAX - u32::from(last)))
            .outer(Outer::custom(
                vec![Box::new(end.rx)],
                vec![Box::new(end.tx)],
                control,
            ))
            .inner(Inner::custom(vec![(Box::new(rx), Box::new(tx))]))
            .start()
            .expect("a node");
        Self {
            plane,
            host,
            address,
        }
    }

    /// What another node is told of this one.
    pub(crate) fn spec(&self) -> PeerSpec {
        PeerSpec {
            endpoints: vec![self.address],
            allowed_ips: vec![IpNet::from(self.inner())],
            ..PeerSpec::new(self.plane.public_key())
        }
    }

    fn inner(&self) -> IpAddr {
        let [.., last] = match self.address.ip() {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let [a, b] = TRAFFIC;
        [a, b, 0, last].into()
    }
}

/// A packet of 100 bytes from the inside of node `from` to `to`.
pub(crate) fn packet(from: u8, to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; 100];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 100]);
    packet[12..16].copy_from_slice(&[TRAFFIC[0], TRAFFIC[1], 0, from]);
    packet[16..20].copy_from_slice(&to);
    packet
}

/// Sends `count` packets from the first node to the second, never more at once than fit, and
/// returns how many arrived.
pub(crate) fn exchange(from: &Node, to: &Node, packet: &[u8], count: usize) -> usize {
    let mut arrived = 0;
    let mut sent = 0;
    let mut last = Instant::now();
    while arrived < count && last.elapsed() < PATIENCE {
        while sent < count && sent - arrived < 64 && from.host.send(packet) {
            sent += 1;
        }
        let mut news = false;
        while to.host.receive(|got| assert_eq!(got, packet)).is_some() {
            arrived += 1;
            news = true;
        }
        if news {
            last = Instant::now();
        } else {
            std::thread::yield_now();
        }
    }
    arrived
}

fn private_key(number: u32) -> PrivateKey {
    let mut key = [0x40; 32];
    key[8..12].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from(key)
}

/// The key of the peer with this number: a real one, with which an agreement is possible.
pub(crate) fn public_key(number: u32) -> PublicKey {
    *KeyPair::new(&private_key(number)).expect("a key").public()
}

/// The prefix of this number, out of a million: a /28 of 10.0.0.0/8.
pub(crate) fn prefix(number: usize) -> IpNet {
    let bits = 0x0a00_0000_u32 | (number as u32) << 4;
    IpNet::new(IpAddr::V4(bits.into()), 28).expect("a prefix")
}

/// [`PEERS`] peers with so many prefixes each; nobody is there.
pub(crate) fn peers(prefixes: usize) -> Vec<PeerSpec> {
    let peer = |number: usize| PeerSpec {
        allowed_ips: (0..prefixes)
            .map(|own| prefix(number * prefixes + own))
            .collect(),
        label: format!("peer-{number}"),
        ..PeerSpec::new(public_key(number as u32))
    };
    (0..PEERS).map(peer).collect()
}
