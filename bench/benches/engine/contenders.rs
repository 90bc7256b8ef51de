//! Who takes part, each as fast as its interface allows.

use core::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn as Boringtun, TunnResult as BoringtunResult};
use bytes::BytesMut;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn as Gotatun, TunnResult as GotatunResult};
use gotatun::packet::{Packet, WgKind};
use ringspan::crypto::backend;
use ringspan_bench::hubs::{BATCH, Hubs, LONGEST, packets};

use super::timed::Timed;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Seal,
    Open,
}

impl Op {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
        }
    }
}

pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    fn set_len(&mut self, len: usize);

    /// Seals a batch, and opens it where `op` wants that; returns how long `op` took.
    fn batch(&mut self, op: Op) -> Duration;

    /// Nanoseconds a packet, over `batches`.
    fn run(&mut self, op: Op, batches: usize) -> f64 {
        let time: Duration = (0..batches).map(|_| self.batch(op)).sum();
        time.as_nanos() as f64 / (batches * BATCH) as f64
    }

    /// Of the last run, in percent.
    fn aead_share(&mut self) -> Option<f64> {
        None
    }

    /// Whether its times are distorted by looking.
    fn is_probe(&self) -> bool {
        false
    }
}

/// The others take part with one peer: they have no table. The last one is the probe.
pub(crate) fn all(peers: usize) -> Vec<Box<dyn Contender>> {
    let back_end = backend().unwrap_or_else(|error| panic!("{error}"));
    let mut all: Vec<Box<dyn Contender>> = vec![Box::new(Ours(Hubs::new(back_end, peers)))];
    if peers == 1 {
        all.push(Box::new(BoringtunPair::new()));
        all.push(Box::new(GotatunPair::new()));
    }
    let timed = Timed::leak(back_end);
    all.push(Box::new(Probe {
        hubs: Hubs::new(timed, peers),
        timed,
        op: Op::Seal,
        share: 0.0,
    }));
    all
}

struct Ours(Hubs);

fn run_hubs(hubs: &mut Hubs, op: Op) -> Duration {
    hubs.address();
    let sealing = hubs.seal();
    match op {
        Op::Seal => sealing,
        Op::Open => {
            let before = hubs.delivered();
            let opening = hubs.open();
            assert_eq!(hubs.delivered(), before + BATCH, "all is delivered");
            opening
        }
    }
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        "ringspan"
    }

    fn set_len(&mut self, len: usize) {
        self.0.set_len(len);
    }

    fn batch(&mut self, op: Op) -> Duration {
        run_hubs(&mut self.0, op)
    }
}

/// Ours with a clock inside.
struct Probe {
    hubs: Hubs,
    timed: &'static Timed,
    op: Op,
    share: f64,
}

impl Contender for Probe {
    fn name(&self) -> &'static str {
        "ringspan, timed inside"
    }

    fn set_len(&mut self, len: usize) {
        self.hubs.set_len(len);
    }

    fn batch(&mut self, op: Op) -> Duration {
        self.op = op;
        self.hubs.address();
        let sealing = self.hubs.seal();
        if op == Op::Seal {
            return sealing;
        }
        // What sealing took inside is not asked for.
        self.timed.take();
        self.hubs.open()
    }

    fn run(&mut self, op: Op, batches: usize) -> f64 {
        let (mut whole, mut inside) = (0.0, 0.0);
        self.timed.take();
        for _ in 0..batches {
            whole += self.batch(op).as_nanos() as f64;
            inside += self.timed.take();
        }
        self.share = inside / whole * 100.0;
        whole / (batches * BATCH) as f64
    }

    fn aead_share(&mut self) -> Option<f64> {
        Some(self.share)
    }

    fn is_probe(&self) -> bool {
        true
    }
}

/// Two ends of boringtun with a session.
struct BoringtunPair {
    ends: [Boringtun; 2],
    packets: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
    plain: Vec<u8>,
}

impl BoringtunPair {
    fn new() -> Self {
        use boringtun::x25519::{PublicKey, StaticSecret};
        let end = |own: [u8; 32], peer: [u8; 32], index| {
            let peer = PublicKey::from(&StaticSecret::from(peer));
            Boringtun::new(StaticSecret::from(own), peer, None, None, index, None)
        };
        let mut ends = [end([1; 32], [2; 32], 1), end([2; 32], [1; 32], 2)];
        let [a, b] = &mut ends;
        let (mut here, mut there) = (vec![0; 2048], vec![0; 2048]);
        let initiation = datagram(a.format_handshake_initiation(&mut here, false));
        let response = datagram(b.decapsulate(None, &initiation, &mut there));
        let keepalive = datagram(a.decapsulate(None, &response, &mut here));
        b.decapsulate(None, &keepalive, &mut there);
        Self {
            ends,
            packets: Vec::new(),
            sealed: vec![vec![0; LONGEST + 64]; BATCH],
            plain: vec![0; LONGEST + 64],
        }
    }
}

fn datagram(result: BoringtunResult<'_>) -> Vec<u8> {
    match result {
        BoringtunResult::WriteToNetwork(datagram) => datagram.to_vec(),
        other => panic!("{other:?} in place of a datagram"),
    }
}

impl Contender for BoringtunPair {
    fn name(&self) -> &'static str {
        "boringtun"
    }

    fn set_len(&mut self, len: usize) {
        self.packets = packets(len);
    }

    fn batch(&mut self, op: Op) -> Duration {
        let [a, b] = &mut self.ends;
        let begin = Instant::now();
        for (packet, buffer) in self.packets.iter().zip(&mut self.sealed) {
            let result = black_box(a.encapsulate(packet, buffer));
            debug_assert!(matches!(result, BoringtunResult::WriteToNetwork(_)));
        }
        let sealing = begin.elapsed();
        if op == Op::Seal {
            return sealing;
        }
        let len = self.packets.first().map_or(0, Vec::len) + 32;
        let begin = Instant::now();
        for datagram in &self.sealed {
            let result = b.decapsulate(None, &datagram[..len], &mut self.plain);
            assert!(matches!(result, BoringtunResult::WriteToTunnelV4(..)));
        }
        begin.elapsed()
    }
}

/// Two ends of gotatun with a session. Its packets own their buffers: they are made before the
/// clock runs, and what it makes itself it also frees while the clock runs.
struct GotatunPair {
    ends: [Gotatun; 2],
    packets: Vec<Vec<u8>>,
}

impl GotatunPair {
    fn new() -> Self {
        use gotatun::x25519::{PublicKey, StaticSecret};
        let end = |own: [u8; 32], peer: [u8; 32]| {
            let own = StaticSecret::from(own);
            let limiter = RateLimiter::new(&PublicKey::from(&own), 1000);
            let peer = PublicKey::from(&StaticSecret::from(peer));
            let table = IndexTable::from_os_rng();
            Gotatun::new(own, peer, None, None, table, Arc::new(limiter))
        };
        let mut ends = [end([1; 32], [2; 32]), end([2; 32], [1; 32])];
        let [a, b] = &mut ends;
        let initiation = a
            .format_handshake_initiation(false)
            .expect("an initiation comes first");
        let response = answer(b.handle_incoming_packet(initiation.into()));
        let keepalive = answer(a.handle_incoming_packet(response));
        b.handle_incoming_packet(keepalive);
        Self {
            ends,
            packets: Vec::new(),
        }
    }
}

fn answer(result: GotatunResult) -> WgKind {
    match result {
        GotatunResult::WriteToNetwork(message) => message,
        other => panic!("{other:?} in place of a message"),
    }
}

impl Contender for GotatunPair {
    fn name(&self) -> &'static str {
        "gotatun"
    }

    fn set_len(&mut self, len: usize) {
        self.packets = packets(len);
    }

    fn batch(&mut self, op: Op) -> Duration {
        let [a, b] = &mut self.ends;
        let made: Vec<Packet> = self
            .packets
            .iter()
            .map(|packet| Packet::from_bytes(BytesMut::from(&packet[..])))
            .collect();
        let mut sealed = Vec::with_capacity(BATCH);
        let begin = Instant::now();
        for packet in made {
            sealed.extend(a.handle_outgoing_packet(packet, None));
        }
        let sealing = begin.elapsed();
        assert_eq!(sealed.len(), BATCH, "every packet is sealed");
        if op == Op::Seal {
            return sealing;
        }
        let begin = Instant::now();
        for message in sealed {
            let result = b.handle_incoming_packet(message);
            assert!(matches!(result, GotatunResult::WriteToTunnel(_)));
        }
        begin.elapsed()
    }
}
