//! Two whole engines with sessions between them, over ports that lend buffers in memory: no
//! queue, no system call and no copy beside what the engine does itself.

use core::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use arrayvec::ArrayVec;
use ipnet::{IpNet, Ipv4Net};
use ringspan::crypto::BatchAead;
use ringspan::engine::port::{
    ControlSink, Datagram, DriverInfo, Ecn, InnerTx, OuterTx, Packet, Sent, TxRequest, TxSlot,
};
use ringspan::engine::{Worker, WorkerConfig};
use ringspan::mesh::{Endpoint, Mesh, Peer};
use ringspan::noise::{Role, Session, SessionKeys};
use ringspan::time::Instant;

/// Packets that are sealed and opened together.
pub const BATCH: usize = 64;

/// The longest packet, in bytes.
pub const LONGEST: usize = 8920;

const NOW: Instant = Instant::from_secs(1000);

/// A hub that seals to many peers, and one that opens what it has sealed: each peer of the first
/// has the keys of the peer of the second, the other way round.
#[derive(Debug)]
pub struct Hubs {
    sealing: Worker,
    opening: Worker,
    peers: usize,
    packets: Vec<Vec<u8>>,
    outer: Outer,
    delivered: usize,
    round: usize,
}

impl Hubs {
    /// Hubs with `peers` (at most 65,536) peers each, and nothing to seal yet.
    ///
    /// # Panics
    /// Where no receiver index can be had.
    #[must_use]
    pub fn new(aead: &'static dyn BatchAead, peers: usize) -> Self {
        let (sealing, opening) = (mesh(peers), mesh(peers));
        for n in 0..peers {
            connect(n, &sealing, &opening);
        }
        let config = WorkerConfig {
            mtu: LONGEST as u16,
        };
        Self {
            sealing: Worker::new(sealing, aead, config),
            opening: Worker::new(opening, aead, config),
            peers,
            packets: Vec::new(),
            outer: Outer(vec![vec![0; LONGEST + 64]; BATCH]),
            delivered: 0,
            round: 0,
        }
    }

    /// From now on packets of `len` bytes, at least 20 and at most [`LONGEST`].
    pub fn set_len(&mut self, len: usize) {
        self.packets = packets(len);
    }

    /// Addresses the next batch to (and from: the same prefix serves both ends) peers in no order.
    /// Always the same buffers, so that their contents stay as warm as they are with one peer.
    pub fn address(&mut self) {
        for (n, packet) in self.packets.iter_mut().enumerate() {
            let place = (self.round * BATCH + n).wrapping_mul(0x9e37_79b9) % self.peers;
            let network = network(place);
            packet[12..15].copy_from_slice(&network);
            packet[16..19].copy_from_slice(&network);
        }
        self.round += 1;
    }

    /// Seals a batch, and returns how long that took.
    pub fn seal(&mut self) -> Duration {
        let mut batch: ArrayVec<_, BATCH> = self
            .packets
            .iter_mut()
            .map(|data| Packet { data })
            .collect();
        let begin = Clock::now();
        self.sealing
            .seal(NOW, &mut batch, &mut self.outer, &mut Silent);
        begin.elapsed()
    }

    /// Opens the batch that was sealed last, once, and returns how long that took.
    pub fn open(&mut self) -> Duration {
        let mut batch: ArrayVec<_, BATCH> = self
            .outer
            .0
            .iter_mut()
            .map(|payload| Datagram {
                payload,
                from: endpoint(),
                ecn: Ecn::NotEct,
            })
            .collect();
        let mut inner = Inner(&mut self.delivered);
        let begin = Clock::now();
        self.opening.open(NOW, &mut batch, &mut inner, &mut Silent);
        begin.elapsed()
    }

    /// How many packets were opened and delivered.
    #[must_use]
    pub const fn delivered(&self) -> usize {
        self.delivered
    }
}

/// A batch of packets of `len` bytes from and to the first peer's network.
#[must_use]
pub fn packets(len: usize) -> Vec<Vec<u8>> {
    let mut packet = vec![0; len];
    packet[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
    packet[12..15].copy_from_slice(&network(0));
    packet[16..19].copy_from_slice(&network(0));
    vec![packet; BATCH]
}

fn mesh(peers: usize) -> Arc<Mesh> {
    let mesh = Mesh::default();
    mesh.update(|update| {
        for n in 0..peers {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
            let peer = Arc::new(Peer::new(key.into()));
            peer.set_endpoint(endpoint());
            let [a, b, c] = network(n);
            let net = Ipv4Net::new_assert([a, b, c, 0].into(), 24);
            update.allow(&IpNet::V4(net), &peer);
        }
    });
    Arc::new(mesh)
}

/// Gives both ends of tunnel `n` a session.
fn connect(n: usize, sealing: &Mesh, opening: &Mesh) {
    let [a, b, c] = network(n);
    let peer = |mesh: &Mesh| {
        let table = mesh.table();
        let owner = table.allowed_ips.lookup_v4([a, b, c, 1].into());
        owner.cloned().expect("every network has an owner")
    };
    let (here, there) = (peer(sealing), peer(opening));
    let reserve = |mesh: &Mesh, peer| mesh.indices.reserve(peer).expect("an index");
    let (own, index) = (reserve(sealing, &here), reserve(opening, &there));
    let mut key = [0x5a; 32];
    key[..8].copy_from_slice(&(n as u64).to_le_bytes());
    let session = |local_index, remote_index| {
        let keys = SessionKeys {
            sending: key.into(),
            receiving: key.into(),
            local_index,
            remote_index,
            role: Role::Initiator,
        };
        Arc::new(Session::new(keys, NOW))
    };
    for (mesh, peer, session) in [
        (opening, there, session(index, own)),
        (sealing, here, session(own, index)),
    ] {
        assert!(mesh.indices.publish(&session), "the index is there");
        peer.sessions.install(&session);
    }
}

fn endpoint() -> Endpoint {
    SocketAddr::from(([192, 0, 2, 1], 51820)).into()
}

/// The network of peer `n`: a /24 of 10.0.0.0/8.
fn network(n: usize) -> [u8; 3] {
    [10, (n >> 8) as u8, n as u8]
}

/// Takes datagrams into buffers that are used again.
#[derive(Debug)]
struct Outer(Vec<Vec<u8>>);

impl OuterTx for Outer {
    fn reaches(&mut self, _: &Endpoint) -> bool {
        true
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        let mut slots: ArrayVec<_, BATCH> = ArrayVec::new();
        for ((request, buffer), wanted) in self.0.iter_mut().enumerate().zip(requests) {
            buffer.resize(wanted.len, 0);
            slots.push(TxSlot { request, buffer });
        }
        let accepted = slots.len();
        fill(&mut slots);
        Sent {
            accepted,
            dropped: requests.len() - accepted,
        }
    }

    fn info(&self) -> DriverInfo {
        DriverInfo::default()
    }
}

/// Counts packets.
struct Inner<'a>(&'a mut usize);

impl InnerTx for Inner<'_> {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        *self.0 += black_box(packets).len();
        Sent {
            accepted: packets.len(),
            dropped: 0,
        }
    }

    fn info(&self) -> DriverInfo {
        DriverInfo::default()
    }
}

struct Silent;

impl ControlSink for Silent {
    fn handshake_message(&mut self, _: &[u8], _: &Endpoint) -> bool {
        true
    }

    fn handshake_wanted(&mut self, _: &Arc<Peer>) -> bool {
        true
    }
}
