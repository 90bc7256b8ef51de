//! Whole tunnels against each other, against a bad network, and against boringtun. Time is the
//! test's own.

mod against_boringtun;
mod hostile;
mod simulated;

use std::collections::VecDeque;

use super::*;
use crate::crypto::{KeyPair, PresharedKey, SeededRandom};
use crate::engine::testing::packet;

const A: &str = "192.0.2.1:51820";
const B: &str = "[2001:db8::2]:51820";
const MTU: u16 = 1420;

/// A datagram and where it comes from.
type Flying = (SocketAddr, Vec<u8>);

/// One node, its address, and what it has put out.
struct End {
    tunnel: Tunnel,
    address: SocketAddr,
    sent: VecDeque<Vec<u8>>,
    delivered: Vec<Vec<u8>>,
    news: Vec<&'static str>,
}

impl End {
    fn new(id: u8, address: &str) -> Self {
        let random = Box::new(SeededRandom::new(id.into()));
        let tunnel = Tunnel::with(&private_key(id), MTU, backend().unwrap(), random);
        Self {
            tunnel: tunnel.unwrap(),
            address: address.parse().unwrap(),
            sent: VecDeque::new(),
            delivered: Vec::new(),
            news: Vec::new(),
        }
    }

    fn add(&mut self, id: u8, endpoint: Option<&str>, allowed: &[&str]) -> Arc<Peer> {
        let config = PeerConfig {
            preshared_key: PresharedKey::from([0x77; 32]),
            persistent_keepalive: None,
        };
        let endpoint = endpoint.map(|address| address.parse().unwrap());
        let allowed = allowed.iter().map(|prefix| prefix.parse().unwrap());
        self.tunnel
            .add_peer(public_key(id), config, endpoint, allowed)
            .unwrap()
    }

    fn seal(&mut self, now: Now, packets: &[Vec<u8>]) {
        let mut packets = packets.to_vec();
        let mut batch: Vec<_> = packets.iter_mut().map(|data| Packet { data }).collect();
        let (sent, news) = (&mut self.sent, &mut self.news);
        self.tunnel
            .seal(now, &mut batch, &mut |action| match action {
                Action::Send { datagram, .. } => sent.push_back(datagram.to_vec()),
                Action::SessionReady { .. } => news.push("ready"),
                Action::HandshakeFailed { .. } => news.push("failed"),
                Action::Deliver { .. } => panic!("sealing delivers nothing"),
            });
    }

    fn open(&mut self, now: Now, datagrams: &[Flying]) {
        let mut datagrams = datagrams.to_vec();
        let mut batch: Vec<_> = datagrams
            .iter_mut()
            .map(|(from, payload)| Datagram {
                payload,
                from: (*from).into(),
                ecn: Ecn::NotEct,
            })
            .collect();
        let (sent, delivered, news) = (&mut self.sent, &mut self.delivered, &mut self.news);
        self.tunnel
            .open(now, &mut batch, &mut |action| match action {
                Action::Send { datagram, .. } => sent.push_back(datagram.to_vec()),
                Action::Deliver { packet } => delivered.push(packet.to_vec()),
                Action::SessionReady { .. } => news.push("ready"),
                Action::HandshakeFailed { .. } => news.push("failed"),
            });
    }

    fn tick(&mut self, now: Now) -> Instant {
        let (sent, news) = (&mut self.sent, &mut self.news);
        self.tunnel.tick(now, &mut |action| match action {
            Action::Send { datagram, .. } => sent.push_back(datagram.to_vec()),
            Action::SessionReady { .. } => news.push("ready"),
            Action::HandshakeFailed { .. } => news.push("failed"),
            Action::Deliver { .. } => panic!("timers deliver nothing"),
        })
    }

    /// All that was sent, on its way.
    fn fly(&mut self) -> Vec<Flying> {
        self.sent
            .drain(..)
            .map(|payload| (self.address, payload))
            .collect()
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        self.delivered.split_off(0)
    }
}

/// Two nodes that know each other; only `a` knows where the other one is.
struct Pair {
    a: End,
    b: End,
    b_of_a: Arc<Peer>,
    a_of_b: Arc<Peer>,
    now: Now,
}

impl Pair {
    fn new() -> Self {
        let (mut a, mut b) = (End::new(1, A), End::new(2, B));
        Self {
            b_of_a: a.add(2, Some(B), &["10.0.2.0/24", "fd00:2::/32"]),
            a_of_b: b.add(1, None, &["10.0.1.0/24", "fd00:1::/32"]),
            a,
            b,
            now: Now {
                monotonic: Instant::from_secs(5000),
                unix: Duration::from_secs(1_700_000_000),
            },
        }
    }

    fn connected() -> Self {
        let mut pair = Self::new();
        pair.a.seal(pair.now, &[a_to_b(0)]);
        pair.settle();
        assert_eq!(pair.b.received(), [a_to_b(0)]);
        pair
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.unix += time;
    }

    /// Delivers everything until nobody has anything to say.
    fn settle(&mut self) {
        while !(self.a.sent.is_empty() && self.b.sent.is_empty()) {
            let (to_b, to_a) = (self.a.fly(), self.b.fly());
            self.b.open(self.now, &to_b);
            self.a.open(self.now, &to_a);
        }
    }
}

fn private_key(id: u8) -> PrivateKey {
    PrivateKey::from([id; 32])
}

fn public_key(id: u8) -> PublicKey {
    *KeyPair::new(&private_key(id)).unwrap().public()
}

fn a_to_b(n: usize) -> Vec<u8> {
    packet("10.0.1.1", "10.0.2.1", 0, 28 + n)
}

fn b_to_a(n: usize) -> Vec<u8> {
    packet("fd00:2::1", "fd00:1::1", 0, 48 + n)
}

/// All of a peer, and of the tables, that a datagram may change.
fn snapshot(end: &End, peer: &Peer) -> impl PartialEq + core::fmt::Debug + use<> {
    let set = peer.sessions.load();
    let index = |session: &Option<Arc<crate::noise::Session>>| {
        session.as_ref().map(|session| session.local_index())
    };
    let marks = &peer.marks;
    let replay = [&set.current, &set.previous, &set.next].map(|session| {
        session
            .as_ref()
            .map(|session| format!("{:?}", session.replay()))
    });
    (
        [&set.current, &set.previous, &set.next].map(index),
        replay,
        peer.endpoint(),
        format!("{:?} {:?}", peer.counters, marks),
        peer.last_handshake.load(),
        end.tunnel.mesh.indices.load().len(),
    )
}
