//! Two nodes, every part of which a test can reach.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringspan::crypto::{KeyPair, PresharedKey, PrivateKey, PublicKey, SeededRandom, backend};
use ringspan::engine::port::{
    ControlSink, Datagram, DriverInfo, Ecn, InnerTx, OuterTx, Packet, Sent, TxRequest, TxSlot,
};
use ringspan::engine::{Handshakes, Output, PeerConfig, Refusal, Totals, Worker, WorkerConfig};
use ringspan::mesh::{Endpoint, Mesh, Peer};
use ringspan::time::{Instant, Now};

pub(crate) const MTU: u16 = 1420;
pub(crate) const INITIATION: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const COOKIE: u8 = 3;
pub(crate) const DATA: u8 = 4;

/// Keeps datagrams with where they go.
#[derive(Debug, Default)]
pub(crate) struct Outbox(pub(crate) Vec<(Endpoint, Vec<u8>)>);

impl OuterTx for Outbox {
    fn reaches(&mut self, _: &Endpoint) -> bool {
        true
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        for (request, asked) in requests.iter().enumerate() {
            let mut buffer = vec![0; asked.len];
            fill(&mut [TxSlot {
                request,
                buffer: &mut buffer,
            }]);
            self.0.push((asked.to, buffer));
        }
        Sent {
            accepted: requests.len(),
            dropped: 0,
        }
    }

    fn info(&self) -> DriverInfo {
        DriverInfo::default()
    }
}

/// Keeps packets.
#[derive(Debug, Default)]
pub(crate) struct Inbox(pub(crate) Vec<Vec<u8>>);

impl InnerTx for Inbox {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        self.0.extend(packets.iter().map(|packet| packet.to_vec()));
        Sent {
            accepted: packets.len(),
            dropped: 0,
        }
    }

    fn info(&self) -> DriverInfo {
        DriverInfo::default()
    }
}

/// Keeps what is for control, unless it is full.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) messages: Vec<(Vec<u8>, Endpoint)>,
    pub(crate) wishes: Vec<PublicKey>,
    pub(crate) full: bool,
}

impl ControlSink for Mail {
    fn handshake_message(&mut self, datagram: &[u8], from: &Endpoint) -> bool {
        if !self.full {
            self.messages.push((datagram.to_vec(), *from));
        }
        !self.full
    }

    fn handshake_wanted(&mut self, peer: &Arc<Peer>) -> bool {
        self.wishes.push(*peer.public_key());
        true
    }
}

pub(crate) struct Node {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) handshakes: Handshakes,
    pub(crate) worker: Worker,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    pub(crate) mail: Mail,
}

impl Node {
    pub(crate) fn new(id: u8) -> Self {
        let mesh = Arc::new(Mesh::default());
        let random = Box::new(SeededRandom::new(id.into()));
        let worker = Worker::new(
            Arc::clone(&mesh),
            backend().unwrap(),
            WorkerConfig { mtu: MTU },
        );
        Self {
            handshakes: Handshakes::new(&private_key(id), Arc::clone(&mesh), random).unwrap(),
            mesh,
            worker,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            mail: Mail::default(),
        }
    }

    /// Adds node `id` as a peer.
    pub(crate) fn add(&mut self, id: u8, endpoint: &str, allowed: &[&str]) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(public_key(id)));
        peer.set_endpoint(at(endpoint));
        let config = PeerConfig {
            preshared_key: PresharedKey::from([0x77; 32]),
            persistent_keepalive: None,
        };
        self.handshakes.add_peer(Arc::clone(&peer), config).unwrap();
        self.mesh.update(|update| {
            for prefix in allowed {
                update.allow(&prefix.parse().unwrap(), &peer);
            }
        });
        peer
    }

    /// Seals packets, and does what that asks of control.
    pub(crate) fn seal(&mut self, now: Now, packets: &[Vec<u8>]) {
        let mut packets = packets.to_vec();
        let mut batch: Vec<_> = packets.iter_mut().map(|data| Packet { data }).collect();
        self.worker
            .seal(now.monotonic, &mut batch, &mut self.outbox, &mut self.mail);
        self.worker.deliver_errors(&mut self.inbox);
        self.control(now);
    }

    /// Opens datagrams, and does what they ask of control. Returns what control said.
    pub(crate) fn open(
        &mut self,
        now: Now,
        from: &str,
        datagrams: &[Vec<u8>],
    ) -> Vec<Result<(), Refusal>> {
        self.open_data(now, from, datagrams);
        self.control(now)
    }

    /// Opens datagrams and leaves control's mail where it is.
    pub(crate) fn open_data(&mut self, now: Now, from: &str, datagrams: &[Vec<u8>]) {
        let mut payloads = datagrams.to_vec();
        let mut batch: Vec<_> = payloads
            .iter_mut()
            .map(|payload| Datagram {
                payload,
                from: at(from),
                ecn: Ecn::NotEct,
            })
            .collect();
        self.worker
            .open(now.monotonic, &mut batch, &mut self.inbox, &mut self.mail);
    }

    pub(crate) fn control(&mut self, now: Now) -> Vec<Result<(), Refusal>> {
        let outbox = &mut self.outbox;
        let mut out = |output: Output<'_>| {
            if let Output::Send { to, datagram, .. } = output {
                outbox.0.push((to, datagram.to_vec()));
            }
        };
        let mut answers = Vec::new();
        for (message, from) in self.mail.messages.drain(..) {
            answers.push(self.handshakes.receive(now, &message, &from, &mut out));
        }
        for peer in self.mail.wishes.drain(..) {
            self.handshakes.request(now, &peer, &mut out);
        }
        if self.worker.has_staged() {
            self.worker
                .release_staged(now.monotonic, &mut self.outbox, &mut self.mail);
        }
        answers
    }

    pub(crate) fn tick(&mut self, now: Now) {
        let outbox = &mut self.outbox;
        self.handshakes.tick(now, &mut |output| {
            if let Output::Send { to, datagram, .. } = output {
                outbox.0.push((to, datagram.to_vec()));
            }
        });
    }

    /// Takes what was put out.
    pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
        self.outbox.0.drain(..).map(|(_, bytes)| bytes).collect()
    }

    pub(crate) fn received(&mut self) -> Vec<Vec<u8>> {
        self.inbox.0.split_off(0)
    }

    pub(crate) fn totals(&self) -> Totals {
        self.worker.counters().totals()
    }
}

pub(crate) const A: &str = "192.0.2.1:51820";
pub(crate) const B: &str = "192.0.2.2:51820";

/// Nodes 1 and 2, which know each other.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) b_of_a: Arc<Peer>,
    pub(crate) a_of_b: Arc<Peer>,
    pub(crate) now: Now,
    /// Datagrams that `settle` has carried, by their type.
    pub(crate) carried: Vec<u8>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let (mut a, mut b) = (Node::new(1), Node::new(2));
        Self {
            b_of_a: a.add(2, B, &["10.0.2.0/24"]),
            a_of_b: b.add(1, A, &["10.0.1.0/24"]),
            a,
            b,
            now: Now {
                monotonic: Instant::from_secs(5000),
                unix: Duration::from_secs(1_700_000_000),
            },
            carried: Vec::new(),
        }
    }

    pub(crate) fn connected() -> Self {
        let mut pair = Self::new();
        pair.a.seal(pair.now, &[a_to_b(0)]);
        pair.settle();
        assert_eq!(pair.b.received(), [a_to_b(0)]);
        pair
    }

    /// Has `a` begin a handshake; returns its initiation.
    pub(crate) fn initiation(&mut self) -> Vec<u8> {
        let peer = *self.b_of_a.public_key();
        let outbox = &mut self.a.outbox;
        self.a.handshakes.renew(self.now, &peer, &mut |output| {
            if let Output::Send { to, datagram, .. } = output {
                outbox.0.push((to, datagram.to_vec()));
            }
        });
        let initiation = self.a.sent().pop().expect("an initiation");
        assert_eq!(initiation[0], INITIATION);
        initiation
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.unix += time;
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let (to_b, to_a) = (self.a.sent(), self.b.sent());
            if to_b.is_empty() && to_a.is_empty() {
                return;
            }
            self.carried
                .extend(to_b.iter().chain(&to_a).map(|datagram| datagram[0]));
            self.b.open(self.now, A, &to_b);
            self.a.open(self.now, B, &to_a);
        }
    }

    pub(crate) fn second(&mut self) {
        self.pass(Duration::from_secs(1));
        self.a.tick(self.now);
        self.b.tick(self.now);
        self.settle();
    }

    pub(crate) fn count(&self, kind: u8) -> usize {
        self.carried
            .iter()
            .filter(|carried| **carried == kind)
            .count()
    }
}

pub(crate) fn at(address: &str) -> Endpoint {
    address.parse::<SocketAddr>().unwrap().into()
}

pub(crate) fn private_key(id: u8) -> PrivateKey {
    PrivateKey::from([id; 32])
}

pub(crate) fn public_key(id: u8) -> PublicKey {
    *KeyPair::new(&private_key(id)).unwrap().public()
}

/// An IPv4 packet of `len` bytes.
pub(crate) fn packet(from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
    let length = (len as u16).to_be_bytes();
    packet[..12].copy_from_slice(&[0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0]);
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet
}

pub(crate) fn a_to_b(n: usize) -> Vec<u8> {
    packet([10, 0, 1, 1], [10, 0, 2, 1], 40 + n)
}

pub(crate) fn b_to_a(n: usize) -> Vec<u8> {
    packet([10, 0, 2, 1], [10, 0, 1, 1], 40 + n)
}

/// The counter of a data message.
pub(crate) fn counter(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(datagram[8..16].try_into().unwrap())
}
