//! The world that the nodes live in: addresses, partitions, time, and what happens.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::thread;

use ipnet::IpNet;

use super::node::{Common, Node, View, Wire};
use super::service::{Service, Told};
use crate::control::discovery::{ClusterCipher, Roster};
use crate::control::kubespan::identity::ClusterId;
use crate::control::kubespan::{
    Affiliate, Identity, KubeSpan, MachineConfig, MachineType, Prefix, RangeSet, ula,
};
use crate::control::member::{Membership, Settings};
use crate::control::{PeerSpec, PeerState};
use crate::crypto::{KeyPair, PresharedKey, PrivateKey, Random, SeededRandom, backend};
use crate::engine::tunnel::Tunnel;
use crate::io::memory::Network;

const SECRET: [u8; 32] = [0x17; 32];
/// Seconds between two looks at nodes that are not complete, and at all in quiet times.
const STEP: u64 = 5;
/// How long a deleted member has to come back before a listing is asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Members tell of themselves so often.
const REFRESH: u64 = 15 * 60;

/// What happens in a world.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) nodes: usize,
    /// How many of them, the first ones, are complete.
    pub(super) full: usize,
    /// Bouts of trouble.
    bouts: usize,
}

impl Setup {
    pub(super) fn new(nodes: usize, full: usize) -> Self {
        Self {
            nodes,
            full: full.min(nodes),
            bouts: if nodes > 100 { 3 } else { 8 },
        }
    }
}

pub(super) struct World {
    random: SeededRandom,
    second: u64,
    common: Common,
    cipher_key: PresharedKey,
    cluster: ClusterId,
    service: Service,
    network: Network,
    /// Those that live, at their numbers.
    nodes: Vec<Option<Box<Node>>>,
    affiliates: Vec<Affiliate>,
    /// Who can talk to whom: nodes of one side. The service is on side 0.
    sides: Vec<u8>,
    /// Addresses ever given away.
    addresses: u32,
    owners: HashMap<SocketAddr, usize>,
    /// Deaths, so that nobody comes back with the randomness that it had.
    deaths: u64,
}

pub(super) fn node_id(number: usize) -> String {
    format!("node-{number:04}")
}

fn private_key(number: usize) -> PrivateKey {
    let mut key = [0x40; 32];
    // Not the first byte: its lowest bits do not count.
    key[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    PrivateKey::from(key)
}

fn pods(number: usize) -> IpNet {
    let [.., high, low] = (number as u32).to_be_bytes();
    IpNet::new([10, high, low, 0].into(), 24).unwrap()
}

impl World {
    pub(super) fn new(seed: u64, setup: &Setup) -> Self {
        let cluster = ClusterId::new("8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=").unwrap();
        let prefix = ula::prefix(&cluster, ula::Purpose::KubeSpan);
        let mut numbers = HashMap::new();
        let mut affiliates = Vec::new();
        for number in 0..setup.nodes {
            let key = *KeyPair::new(&private_key(number)).unwrap().public();
            numbers.insert(key, number);
            let [.., high, low] = (number as u32).to_be_bytes();
            let mesh = ula::eui64(prefix.addr(), &[2, 0, 0, 0, high, low]).unwrap();
            affiliates.push(Affiliate {
                node_id: node_id(number),
                hostname: node_id(number),
                nodename: node_id(number),
                operating_system: "Talos (v1.13.0)".to_owned(),
                machine_type: MachineType::Worker,
                kubespan: KubeSpan {
                    public_key: key.to_string(),
                    address: Some(mesh.into()),
                    additional_addresses: vec![pods(number).into()],
                    ..KubeSpan::default()
                },
                ..Affiliate::default()
            });
        }
        let secret = PresharedKey::from(SECRET);
        Self {
            random: SeededRandom::new(seed),
            second: 0,
            common: Common {
                numbers: Arc::new(numbers),
                full: setup.full,
                preshared_key: secret.clone(),
            },
            service: Service::new(ClusterCipher::new(&secret).unwrap()),
            cipher_key: secret,
            cluster,
            network: Network::new(),
            nodes: (0..setup.nodes).map(|_| None).collect(),
            affiliates,
            sides: vec![0; setup.nodes],
            addresses: 0,
            owners: HashMap::new(),
            deaths: 0,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.random.next_u64().unwrap() % n.max(1) as u64) as usize
    }

    /// Some of the living, a hundredth of whom is `percent`, and one at least.
    fn some(&mut self, percent: usize) -> Vec<usize> {
        let mut living: Vec<_> = (0..self.nodes.len())
            .filter(|&number| self.nodes[number].is_some())
            .collect();
        let count = (living.len() * percent).div_ceil(100);
        let mut chosen = Vec::new();
        while chosen.len() < count && !living.is_empty() {
            let place = self.below(living.len());
            chosen.push(living.swap_remove(place));
        }
        chosen
    }

    fn new_address(&mut self) -> SocketAddr {
        self.addresses += 1;
        let [_, a, b, c] = self.addresses.to_be_bytes();
        SocketAddr::from(([172, 16 + a, b, c], 51820))
    }

    /// Seals what a node tells of itself now.
    fn told(&mut self, number: usize, address: SocketAddr) -> Arc<Told> {
        let affiliate = &mut self.affiliates[number];
        let mesh: IpAddr = affiliate.kubespan.address.unwrap();
        affiliate.addresses = vec![address.ip(), mesh];
        affiliate.kubespan.endpoints = vec![address];
        let affiliate = affiliate.clone();
        let cipher = ClusterCipher::new(&self.cipher_key).unwrap();
        let data = cipher.seal_affiliate(&affiliate, &mut self.random).unwrap();
        Arc::new(Told { data, affiliate })
    }

    fn retell(&mut self, number: usize, address: SocketAddr) {
        let told = self.told(number, address);
        if let Some(node) = &mut self.nodes[number] {
            node.told = told;
            node.announce_at = 0;
        }
    }

    fn join(&mut self, number: usize) {
        let address = self.new_address();
        let told = self.told(number, address);
        let seed = self.random.next_u64().unwrap() ^ self.deaths;
        let (view, wire) = if number < self.common.full {
            let key = private_key(number);
            let random = Box::new(SeededRandom::new(seed));
            let tunnel = Tunnel::with(&key, 1420, backend().unwrap(), random).unwrap();
            let end = self.network.attach(address, 256).unwrap();
            let roster = Roster::new(
                ClusterCipher::new(&self.cipher_key).unwrap(),
                node_id(number),
                GRACE,
            );
            let membership = Membership::new(self.settings(number), 1);
            let view = View::Full(Box::new((roster, membership)));
            (view, Some(Wire::new(tunnel, end)))
        } else {
            (View::clear(self.nodes.len()), None)
        };
        let node = Node::new(number, seed, &self.common, told, address, view, wire);
        self.owners.insert(address, number);
        self.nodes[number] = Some(Box::new(node));
    }

    fn settings(&self, number: usize) -> Settings {
        let [.., high, low] = (number as u32).to_be_bytes();
        let hardware = [2, 0, 0, 0, high, low];
        Settings {
            identity: Identity::new(private_key(number), &self.cluster, &hardware).unwrap(),
            node_id: node_id(number),
            hostname: node_id(number),
            node_name: node_id(number),
            operating_system: String::new(),
            advertised_networks: Vec::new(),
            config: MachineConfig {
                cluster_secret: Some(self.cipher_key.clone()),
                ..MachineConfig::default()
            },
        }
    }

    fn die(&mut self, number: usize) {
        self.deaths += 1;
        if let Some(node) = self.nodes[number].take() {
            self.owners.remove(&node.address);
        }
    }

    fn move_to(&mut self, number: usize, address: SocketAddr) {
        if let Some(node) = &mut self.nodes[number] {
            // Another node may have the old one by now.
            if self.owners.get(&node.address) == Some(&number) {
                self.owners.remove(&node.address);
            }
            if let Some(wire) = &node.plane.wire {
                wire.end.borrow_mut().move_to(address).unwrap();
            }
            node.address = address;
            self.owners.insert(address, number);
            self.retell(number, address);
        }
    }

    /// Joins, trouble, and the dust settling.
    pub(super) fn live_through(&mut self, setup: &Setup) {
        // A tenth comes later.
        let mut order: Vec<_> = (0..setup.nodes).collect();
        for place in 0..order.len() {
            let other = place + self.below(order.len() - place);
            order.swap(place, other);
        }
        let late = order.split_off(order.len() - order.len() / 10);
        for wave in order.chunks(setup.nodes.div_ceil(3)) {
            wave.iter().for_each(|&number| self.join(number));
            self.pass(20);
        }
        let mut absent: BTreeSet<usize> = late.into_iter().collect();
        for bout in 0..setup.bouts {
            self.trouble(&mut absent);
            let quiet = 30 + self.below(60) as u64;
            self.pass(quiet);
            if bout % 2 == 1 {
                self.sides.fill(0);
            }
        }
        self.sides.fill(0);
        absent.into_iter().for_each(|number| self.join(number));
        // Soon, while endpoints that lead nowhere are told still; and when they have expired.
        self.settle(REFRESH);
        self.check();
        self.settle(REFRESH * 2 + 300);
    }

    /// A few things at once.
    fn trouble(&mut self, absent: &mut BTreeSet<usize>) {
        for number in self.some(4) {
            let address = self.new_address();
            self.move_to(number, address);
        }
        // Two swap addresses: what is known of both is not only old, but another's.
        if let [a, b] = self
            .some(1)
            .as_slice()
            .first_chunk()
            .copied()
            .unwrap_or([0, 0])
            && a != b
        {
            let (of_a, of_b) = (self.address(a), self.address(b));
            if let (Some(of_a), Some(of_b)) = (of_a, of_b) {
                let between = self.new_address();
                self.move_to(a, between);
                self.move_to(b, of_a);
                self.move_to(a, of_b);
            }
        }
        // Those who come back come with another address.
        let back: Vec<usize> = absent.iter().copied().collect();
        for number in back {
            if self.below(2) == 0 {
                absent.remove(&number);
                self.join(number);
            }
        }
        for number in self.some(1) {
            self.service.delete(number);
            self.die(number);
            absent.insert(number);
        }
        for number in self.some(1) {
            self.die(number);
            absent.insert(number);
        }
        for number in self.some(4) {
            self.service.lie(number);
        }
        for number in self.some(2) {
            let asleep = 20 + self.below(250) as u64;
            if let Some(node) = &mut self.nodes[number] {
                node.asleep_until = self.second + asleep;
            }
        }
        for number in self.some(3) {
            let jump = self.below(1000) as u64;
            if let Some(node) = &mut self.nodes[number] {
                node.monotonic_ahead += jump;
            }
        }
        for number in self.some(3) {
            let jump = self.below(200_000) as i64 - 100_000;
            if let Some(node) = &mut self.nodes[number] {
                node.unix_ahead += jump;
            }
        }
        // Networks move, and some are claimed by two.
        for number in self.some(2) {
            let other = self.below(self.nodes.len());
            let networks = &mut self.affiliates[number].kubespan.additional_addresses;
            *networks = vec![pods(other).into(), pods(number + 40_000).into()];
            if let Some(address) = self.address(number) {
                self.retell(number, address);
            }
        }
        for number in self.some(1) {
            self.affiliates[number].kubespan.exclude_advertised_networks =
                vec![Prefix::from(pods(number))];
            if let Some(address) = self.address(number) {
                self.retell(number, address);
            }
        }
        match self.below(3) {
            0 => self.service.restart(),
            1 => {
                let cut = 10 + self.below(60);
                for side in 0..self.sides.len() {
                    self.sides[side] = u8::from(self.below(100) < cut);
                }
            }
            _ => {}
        }
    }

    fn address(&self, number: usize) -> Option<SocketAddr> {
        self.nodes[number].as_ref().map(|node| node.address)
    }

    /// Time in which something happens.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second += 1;
            self.wires();
            if self.second.is_multiple_of(STEP) {
                self.step();
            }
        }
    }

    /// Time in which nothing happens: with longer strides.
    fn settle(&mut self, seconds: u64) {
        let end = self.second + seconds;
        while self.second < end {
            // The end as closely as everything before, so that it is no stride's doing.
            let stride = if self.second + 300 >= end {
                STEP
            } else if self.nodes.len() > 100 {
                6 * STEP
            } else {
                3 * STEP
            };
            self.second += stride - self.second % STEP;
            self.wires();
            self.step();
        }
    }

    /// The complete nodes among each other: timers and packets.
    fn wires(&mut self) {
        let (second, sides, owners) = (self.second, &self.sides, &self.owners);
        let full = &mut self.nodes[..self.common.full];
        let mut awake: Vec<&mut Box<Node>> = full
            .iter_mut()
            .flatten()
            .filter(|node| node.is_awake(second))
            .collect();
        for node in &mut awake {
            node.set_clock(second);
            if let Some(wire) = &node.plane.wire {
                let now = node.plane.now.get();
                wire.with(|tunnel, out| tunnel.tick(now, out));
            }
        }
        // Until all is quiet, or for as long as anything can be answered.
        for _ in 0..6 {
            let mut quiet = true;
            for node in &awake {
                let Some(wire) = &node.plane.wire else {
                    continue;
                };
                let reachable = |from: SocketAddr| {
                    owners
                        .get(&from)
                        .is_some_and(|&other| sides[other] == sides[node.number])
                };
                wire.receive(node.plane.now.get(), reachable);
                quiet &= !wire.send();
            }
            if quiet {
                break;
            }
        }
    }

    /// All nodes: news, peers, turns of endpoints, and the handshakes that are not real.
    fn step(&mut self) {
        let (second, service, sides) = (self.second, &self.service, &self.sides);
        let each = self.nodes.len().div_ceil(2).max(1);
        let tries: Vec<(usize, usize, SocketAddr)> = thread::scope(|scope| {
            let halves: Vec<_> = self
                .nodes
                .chunks_mut(each)
                .map(|nodes| {
                    scope.spawn(move || {
                        let mut tries = Vec::new();
                        let awake = |node: &&mut Box<Node>| node.is_awake(second);
                        for node in nodes.iter_mut().flatten().filter(awake) {
                            let number = node.number;
                            node.listen(second, service, sides[number] == 0);
                            node.derive(second);
                            let more = node.tick(second);
                            tries.extend(more.into_iter().map(|(to, at)| (number, to, at)));
                        }
                        tries
                    })
                })
                .collect();
            let halves = halves.into_iter().map(|half| half.join().unwrap());
            halves.flatten().collect()
        });
        for (from, to, at) in tries {
            self.try_handshake(from, to, at);
        }
        for number in 0..self.nodes.len() {
            let Some(node) = &mut self.nodes[number] else {
                continue;
            };
            if core::mem::take(&mut node.wants_to_announce) {
                node.announce_at = second + REFRESH;
                let told = Arc::clone(&node.told);
                self.service.update(second, number, &told);
            }
        }
        if second.is_multiple_of(12 * STEP) {
            self.service.collect(second);
        }
    }

    /// An initiation arrives where it was sent, or does not.
    fn try_handshake(&mut self, from: usize, to: usize, at: SocketAddr) {
        let second = self.second;
        let arrives = self.owners.get(&at) == Some(&to) && self.sides[from] == self.sides[to];
        let answers = |node: &Node| {
            let knows = node.knows(from);
            node.is_awake(second) && knows == Some(self.common.preshared_key.clone())
        };
        if !arrives || !self.nodes[to].as_deref().is_some_and(answers) {
            return;
        }
        let Some(address) = self.address(from) else {
            return;
        };
        if let Some(node) = &mut self.nodes[to] {
            node.handshake(second, from, address);
        }
        if let Some(node) = &mut self.nodes[from] {
            node.handshake(second, to, at);
        }
    }

    /// Every two living nodes are up with each other, nobody else is anybody's peer, and no
    /// address belongs to two.
    pub(super) fn check(&mut self) {
        let living: Vec<usize> = (0..self.nodes.len())
            .filter(|&number| self.nodes[number].is_some())
            .collect();
        let second = self.second;
        self.nodes.iter_mut().flatten().for_each(|node| {
            node.set_clock(second);
        });
        let keys: Vec<_> = living
            .iter()
            .map(|&number| (number, self.nodes[number].as_ref().unwrap().key))
            .collect();
        let (mut pairs, mut apart) = (0, Vec::new());
        for &number in &living {
            let node = self.nodes[number].as_deref().unwrap();
            for &(other, key) in keys.iter().filter(|(other, _)| *other != number) {
                pairs += 1;
                if node.state_of(&key) != Some(PeerState::Up) {
                    apart.push(self.view_of(number, other));
                }
            }
        }
        assert!(
            apart.is_empty(),
            "{} of {pairs} are not up:\n{}",
            apart.len(),
            apart[..apart.len().min(20)].join("\n")
        );
        for &number in &living {
            let node = self.nodes[number].as_deref().unwrap();
            assert_eq!(
                node.registry.peers.len(),
                living.len() - 1,
                "peers of {number}"
            );
            let specs = node.registry.peers.values().map(|running| &running.spec);
            check_addresses(node, specs);
        }
        eprintln!(
            "{} nodes, {pairs} pairs are up after {second} s",
            living.len()
        );
        self.check_data();
    }

    /// What one node knows of another, and how it is with that one.
    fn view_of(&self, number: usize, other: usize) -> String {
        let key = |number: usize| self.nodes[number].as_ref().map(|node| node.key);
        let node = self.nodes[number].as_deref();
        let running = key(other)
            .zip(node)
            .and_then(|(key, node)| node.registry.peers.get(&key));
        let now = node.map(|node| node.plane.now.get().monotonic);
        format!(
            "{number} sees {other}, who is at {:?}: {:?}",
            self.address(other),
            running
                .zip(now)
                .map(|(running, now)| (running.status(now), &running.spec.endpoints))
        )
    }

    /// A packet through every tunnel that is real.
    fn check_data(&mut self) {
        let full: Vec<usize> = (0..self.common.full)
            .filter(|&number| self.nodes[number].is_some())
            .collect();
        for &from in &full {
            for &to in full.iter().filter(|&&to| to != from) {
                let source = self.affiliates[from].kubespan.address.unwrap();
                let destination = self.affiliates[to].kubespan.address.unwrap();
                let mut packet = packet(source, destination);
                let node = self.nodes[from].as_deref().unwrap();
                let (wire, now) = (node.plane.wire.as_ref().unwrap(), node.plane.now.get());
                wire.with(|tunnel, out| tunnel.encapsulate(now, &mut packet, out));
                wire.send();
                self.wires();
                let node = self.nodes[to].as_deref().unwrap();
                let delivered = node.plane.wire.as_ref().unwrap().delivered.take();
                assert!(
                    delivered.contains(&packet),
                    "nothing comes from {from} to {to}"
                );
            }
        }
    }
}

/// Distinct peers have distinct addresses, and workers see the same.
#[expect(single_use_lifetimes, reason = "`impl Trait` cannot elide it yet")]
fn check_addresses<'a>(node: &Node, specs: impl Iterator<Item = &'a PeerSpec>) {
    let (mut all, mut count) = (RangeSet::new(), 0);
    let table = crate::control::registry::Plane::mesh(&node.plane).table();
    for spec in specs {
        let own: RangeSet = spec.allowed_ips.iter().collect();
        assert!(
            !all.overlaps(&own),
            "{} has what is another's",
            spec.public_key
        );
        all.union(&own);
        count += spec.allowed_ips.len();
        for prefix in &spec.allowed_ips {
            let owner = table.allowed_ips.owner(prefix).unwrap();
            assert_eq!(*owner.public_key(), spec.public_key);
        }
    }
    assert_eq!(
        table.allowed_ips.len(),
        count,
        "nothing is left over in the tables"
    );
}

fn packet(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    for address in [from, to] {
        if let IpAddr::V6(address) = address {
            packet.extend_from_slice(&address.octets());
        }
    }
    packet
}
