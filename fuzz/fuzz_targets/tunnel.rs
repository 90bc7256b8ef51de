//! Two whole tunnels, a network between them that loses, repeats and reorders, and an attacker who
//! damages and invents datagrams. The input is the script of what happens.
//!
//! Whatever happens: a packet is delivered only where its peer has sent it, and once; and nothing
//! that the attacker has touched delivers a packet or becomes a peer's endpoint.
#![no_main]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringspan::crypto::{PrivateKey, SeededRandom, backend};
use ringspan::engine::PeerConfig;
use ringspan::engine::tunnel::{Action, Tunnel};
use ringspan::time::{Instant, Now};

/// Lengths of an initiation, a response; both end with mac2, which is not looked at without load.
const HANDSHAKES: [usize; 2] = [148, 92];
const MAC2: usize = 16;

struct End {
    tunnel: Tunnel,
    address: SocketAddr,
    /// The numbers of the packets that it has sent and the other end has not received.
    outstanding: BTreeSet<u32>,
}

struct Datagram {
    /// Which end it is for.
    to: usize,
    bytes: Vec<u8>,
}

struct World {
    ends: [End; 2],
    attacker: SocketAddr,
    network: Vec<Datagram>,
    millis: u64,
    packets: u32,
}

impl World {
    fn new() -> Self {
        let keys = [PrivateKey::from([1; 32]), PrivateKey::from([2; 32])];
        let ends = [0, 1].map(|number: u8| {
            let aead = backend().expect("an AEAD");
            let random = Box::new(SeededRandom::new(number.into()));
            End {
                tunnel: Tunnel::with(&keys[usize::from(number)], 1420, aead, random)
                    .expect("a tunnel"),
                address: ([192, 0, 2, number + 1], 51820).into(),
                outstanding: BTreeSet::new(),
            }
        });
        let mut world = Self {
            ends,
            attacker: ([203, 0, 113, 9], 666).into(),
            network: Vec::new(),
            millis: 1000,
            packets: 0,
        };
        for (number, other) in [(0, 1), (1, 0)] {
            let key = *world.ends[other].tunnel.public_key();
            let endpoint = Some(world.ends[other].address);
            let prefix = format!("10.0.0.{}/32", other + 1)
                .parse()
                .expect("a prefix");
            world.ends[number]
                .tunnel
                .add_peer(key, PeerConfig::default(), endpoint, [prefix])
                .expect("a peer");
        }
        world
    }

    fn now(&self) -> Now {
        Now {
            monotonic: Instant::ZERO + Duration::from_millis(self.millis),
            unix: Duration::from_millis(1_700_000_000_000 + self.millis),
        }
    }

    /// `end` sends a numbered IPv4 packet to the other one.
    fn send(&mut self, end: usize, padding: u8) {
        let now = self.now();
        let length = 24 + u16::from(padding) * 5;
        let mut packet = vec![0; length.into()];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[12..16].copy_from_slice(&[10, 0, 0, end as u8 + 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2 - end as u8]);
        packet[20..24].copy_from_slice(&self.packets.to_be_bytes());
        self.ends[end].outstanding.insert(self.packets);
        self.packets += 1;
        let network = &mut self.network;
        self.ends[end]
            .tunnel
            .encapsulate(now, &mut packet, &mut |action| {
                post(action, 1 - end, network);
            });
    }

    /// `end` gets a datagram that the other one has sent, unchanged.
    fn deliver(&mut self, datagram: Datagram) {
        let now = self.now();
        let from = self.ends[1 - datagram.to].address;
        let mut received = Vec::new();
        let network = &mut self.network;
        let mut bytes = datagram.bytes;
        self.ends[datagram.to]
            .tunnel
            .decapsulate(now, &mut bytes, from, &mut |action| {
                if let Action::Deliver { packet } = &action {
                    received.push(number(packet));
                }
                post(action, 1 - datagram.to, network);
            });
        for packet in received {
            let sent = self.ends[1 - datagram.to].outstanding.remove(&packet);
            assert!(sent, "packet {packet} was never sent, or came twice");
        }
    }

    /// `end` gets a datagram of the attacker's making.
    fn attack(&mut self, end: usize, mut bytes: Vec<u8>) {
        let (now, attacker) = (self.now(), self.attacker);
        let network = &mut self.network;
        self.ends[end]
            .tunnel
            .decapsulate(now, &mut bytes, attacker, &mut |action| {
                match &action {
                    Action::Deliver { packet } => panic!("a forged packet: {packet:02x?}"),
                    // A cookie is all that is owed to who has proved nothing.
                    Action::Send { to, datagram, .. } if to.remote == attacker => {
                        assert_eq!(datagram.first(), Some(&3));
                    }
                    _ => {}
                }
                post(action, 1 - end, network);
            });
        let table = self.ends[end].tunnel.mesh().table();
        for (_, peer) in table.allowed_ips.iter() {
            let endpoint = peer.endpoint().map(|endpoint| endpoint.remote);
            assert_ne!(endpoint, Some(attacker), "a forged datagram moved a peer");
        }
    }

    fn tick(&mut self, millis: u64) {
        self.millis += millis;
        let now = self.now();
        for end in [0, 1] {
            let network = &mut self.network;
            self.ends[end]
                .tunnel
                .tick(now, &mut |action| post(action, 1 - end, network));
        }
    }

    fn step(&mut self, operation: u8, argument: u8, rest: &[u8]) {
        let end = usize::from(operation & 1);
        let chosen = usize::from(argument) % self.network.len().max(1);
        match (operation >> 1) % 8 {
            0 => self.send(end, argument),
            1 if !self.network.is_empty() => {
                let datagram = self.network.remove(chosen);
                self.deliver(datagram);
            }
            2 if !self.network.is_empty() => {
                let Datagram { to, bytes } = &self.network[chosen];
                let repeated = Datagram {
                    to: *to,
                    bytes: bytes.clone(),
                };
                self.deliver(repeated);
            }
            3 if !self.network.is_empty() => {
                self.network.remove(chosen);
            }
            // One byte damaged; to the right receiver or back to the sender.
            4 if !self.network.is_empty() => {
                let mut bytes = self.network[chosen].bytes.clone();
                let mut length = bytes.len();
                if HANDSHAKES.contains(&length) && bytes[0] != 4 {
                    length -= MAC2;
                }
                let [place, value, ..] = *rest else { return };
                bytes[usize::from(place) % length] ^= value | 1;
                self.attack(end, bytes);
            }
            // Cut short.
            5 if !self.network.is_empty() => {
                let mut bytes = self.network[chosen].bytes.clone();
                bytes.truncate(bytes.len() - 1 - usize::from(argument) % bytes.len());
                self.attack(end, bytes);
            }
            6 => self.attack(end, rest[..rest.len().min(argument.into())].to_vec()),
            7 => self.tick(u64::from(argument) * if end == 0 { 10 } else { 1000 }),
            _ => {}
        }
        // Enough for any script, little enough for a quick one.
        self.network.truncate(64);
    }
}

/// Puts what an end sends on the network.
fn post(action: Action<'_>, to: usize, network: &mut Vec<Datagram>) {
    if let Action::Send { datagram, .. } = action {
        network.push(Datagram {
            to,
            bytes: datagram.to_vec(),
        });
    }
}

/// The number that [`World::send`] has given a packet.
fn number(packet: &[u8]) -> u32 {
    let bytes = packet.get(20..24).expect("a packet of ours");
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fuzz_target!(|script: &[u8]| {
    let mut world = World::new();
    let mut rest = script;
    for _ in 0..200 {
        let [operation, argument, tail @ ..] = rest else {
            break;
        };
        rest = tail;
        world.step(*operation, *argument, rest);
    }
});
