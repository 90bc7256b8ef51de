//! Sealing and opening through the whole engine (tables, counters, replay window, AEAD), beside
//! boringtun's `Tunn`, in batches of 64: time per batch, so divide by 64 for a packet.

use core::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use ringspan::crypto::backend;
use ringspan::engine::port::{
    ControlSink, Datagram, DriverInfo, Ecn, InnerTx, OuterTx, Packet, Sent, TxRequest, TxSlot,
};
use ringspan::engine::{Worker, WorkerConfig};
use ringspan::mesh::{Endpoint, Mesh, Peer};
use ringspan::noise::{Role, Session, SessionKeys};
use ringspan::time::Instant;

const BATCH: usize = 64;
const NOW: Instant = Instant::from_secs(1000);
const LENGTHS: [usize; 3] = [64, 1420, 8920];

/// Takes datagrams into buffers that are used again.
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
        self.0.resize_with(requests.len(), Vec::new);
        let mut slots = Vec::with_capacity(requests.len());
        for ((request, buffer), wanted) in self.0.iter_mut().enumerate().zip(requests) {
            buffer.resize(wanted.len, 0);
            slots.push(TxSlot { request, buffer });
        }
        fill(&mut slots);
        Sent {
            accepted: requests.len(),
            dropped: 0,
        }
    }

    fn info(&self) -> DriverInfo {
        DriverInfo::default()
    }
}

/// Counts packets.
#[derive(Default)]
struct Inner(usize);

impl InnerTx for Inner {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        self.0 += black_box(packets).len();
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

fn endpoint() -> Endpoint {
    SocketAddr::from(([192, 0, 2, 1], 51820)).into()
}

/// The network of peer `n`: a /24 of 10.0.0.0/8.
fn network(n: usize) -> [u8; 3] {
    [10, (n >> 8) as u8, n as u8]
}

fn packet(from: [u8; 3], to: [u8; 3], len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
    packet[12..15].copy_from_slice(&from);
    packet[16..19].copy_from_slice(&to);
    packet
}

/// A hub that seals to many peers, and one that opens what it has sealed: each peer of the first
/// has the keys of the peer of the second, the other way round.
fn hubs(peers: usize) -> (Worker, Worker) {
    let aead = backend().expect("an AEAD");
    let (sealing, opening) = (Arc::new(Mesh::default()), Arc::new(Mesh::default()));
    for mesh in [&sealing, &opening] {
        mesh.update(|update| {
            for n in 0..peers {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
                let peer = Arc::new(Peer::new(key.into()));
                peer.set_endpoint(endpoint());
                let [a, b, c] = network(n);
                let net = Ipv4Net::new([a, b, c, 0].into(), 24).expect("a prefix");
                update.allow(&IpNet::V4(net), &peer);
            }
        });
    }
    for n in 0..peers {
        let [a, b, c] = network(n);
        let address = [a, b, c, 1].into();
        let other = opening
            .table()
            .allowed_ips
            .lookup_v4(address)
            .cloned()
            .expect("a peer");
        let peer = sealing
            .table()
            .allowed_ips
            .lookup_v4(address)
            .cloned()
            .expect("a peer");
        let index = opening.indices.reserve(&other).expect("an index");
        let mut key = [0x5a; 32];
        key[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let keys = |local_index, remote_index, role| SessionKeys {
            sending: key.into(),
            receiving: key.into(),
            local_index,
            remote_index,
            role,
        };
        let session = Arc::new(Session::new(keys(index, 0, Role::Initiator), NOW));
        assert!(opening.indices.publish(&session));
        other.sessions.install(&session);
        let session = Arc::new(Session::new(keys(0, index, Role::Initiator), NOW));
        peer.sessions.install(&session);
    }
    let config = WorkerConfig { mtu: 8920 };
    (
        Worker::new(sealing, aead, config),
        Worker::new(opening, aead, config),
    )
}

/// Packets of `len` bytes to nobody yet.
fn packets(len: usize) -> Vec<Vec<u8>> {
    vec![packet(network(0), network(0), len); BATCH]
}

/// Addresses packets to (and from: the same prefix serves both ends) peers in no order. Always
/// the same buffers, so that their contents stay as warm as they are with one peer.
fn address(packets: &mut [Vec<u8>], peers: usize, round: usize) {
    for (n, packet) in packets.iter_mut().enumerate() {
        let network = network((round * BATCH + n).wrapping_mul(0x9e37_79b9) % peers);
        packet[12..15].copy_from_slice(&network);
        packet[16..19].copy_from_slice(&network);
    }
}

fn seal(worker: &mut Worker, packets: &mut [Vec<u8>], outer: &mut Outer) {
    let mut batch: Vec<_> = packets.iter_mut().map(|data| Packet { data }).collect();
    worker.seal(NOW, &mut batch, outer, &mut Silent);
}

fn ours(criterion: &mut Criterion) {
    for peers in [1, 10_000] {
        let (mut sealing, mut opening) = hubs(peers);
        for len in LENGTHS {
            let mut packets = packets(len);
            let name = format!("ringspan, {peers} peers");
            let mut outer = Outer(Vec::new());

            let mut group = criterion.benchmark_group("engine/seal");
            group.throughput(Throughput::Bytes((BATCH * len) as u64));
            let mut round = 0;
            group.bench_function(BenchmarkId::new(&name, len), |bencher| {
                bencher.iter(|| {
                    round += 1;
                    address(&mut packets, peers, round);
                    seal(&mut sealing, &mut packets, &mut outer);
                });
                assert_eq!(outer.0.len(), BATCH, "every packet is sealed");
            });
            group.finish();

            let mut group = criterion.benchmark_group("engine/open");
            group.throughput(Throughput::Bytes((BATCH * len) as u64));
            let mut inner = Inner::default();
            let mut expected = 0;
            group.bench_function(BenchmarkId::new(&name, len), |bencher| {
                bencher.iter_custom(|iterations| {
                    let mut time = Duration::ZERO;
                    for round in 0..iterations as usize {
                        address(&mut packets, peers, round);
                        seal(&mut sealing, &mut packets, &mut outer);
                        let mut batch: Vec<_> = outer
                            .0
                            .iter_mut()
                            .map(|payload| Datagram {
                                payload,
                                from: endpoint(),
                                ecn: Ecn::NotEct,
                            })
                            .collect();
                        let start = Clock::now();
                        opening.open(NOW, &mut batch, &mut inner, &mut Silent);
                        time += start.elapsed();
                        expected += BATCH;
                    }
                    time
                });
            });
            group.finish();
            assert_eq!(inner.0, expected, "every packet is delivered");
        }
    }
}

/// Two ends of boringtun with a session.
fn tunns() -> (Tunn, Tunn) {
    let (a, b) = ([1; 32], [2; 32]);
    let secret = |key: [u8; 32]| x25519::StaticSecret::from(key);
    let end = |own, peer, index| {
        let peer = x25519::PublicKey::from(&secret(peer));
        Tunn::new(secret(own), peer, None, None, index, None)
    };
    let (mut a, mut b) = (end(a, b, 1), end(b, a, 2));
    let (mut here, mut there) = (vec![0; 2048], vec![0; 2048]);
    let initiation = network_bytes(a.format_handshake_initiation(&mut here, false));
    let response = network_bytes(b.decapsulate(None, &initiation, &mut there));
    let keepalive = network_bytes(a.decapsulate(None, &response, &mut here));
    b.decapsulate(None, &keepalive, &mut there);
    (a, b)
}

fn network_bytes(result: TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
        other => panic!("{other:?} in place of a datagram"),
    }
}

fn boringtun(criterion: &mut Criterion) {
    let (mut a, mut b) = tunns();
    for len in LENGTHS {
        let packets = packets(len);
        let mut sealed = vec![vec![0; len + 64]; BATCH];

        let mut group = criterion.benchmark_group("engine/seal");
        group.throughput(Throughput::Bytes((BATCH * len) as u64));
        group.bench_function(BenchmarkId::new("boringtun", len), |bencher| {
            bencher.iter(|| {
                for (packet, buffer) in packets.iter().zip(&mut sealed) {
                    black_box(a.encapsulate(packet, buffer));
                }
            });
        });
        group.finish();

        let mut group = criterion.benchmark_group("engine/open");
        group.throughput(Throughput::Bytes((BATCH * len) as u64));
        let mut plain = vec![0; len + 64];
        group.bench_function(BenchmarkId::new("boringtun", len), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    let sealed: Vec<_> = packets
                        .iter()
                        .zip(&mut sealed)
                        .map(|(packet, buffer)| network_bytes(a.encapsulate(packet, buffer)))
                        .collect();
                    let start = Clock::now();
                    for datagram in &sealed {
                        let result = b.decapsulate(None, datagram, &mut plain);
                        assert!(matches!(result, TunnResult::WriteToTunnelV4(..)));
                    }
                    time += start.elapsed();
                }
                time
            });
        });
        group.finish();
    }
}

criterion_group!(all, ours, boringtun);
criterion_main!(all);
