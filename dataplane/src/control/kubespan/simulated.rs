//! Endpoint choice against a real handshake on the other end, on simulated time.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use super::PERSISTENT_KEEPALIVE;
use super::rotation::{Rotation, Seen};
use crate::control::PeerState;
use crate::crypto::{PrivateKey, SeededRandom};
use crate::engine::handshakes::{Handshakes, Output, PeerConfig};
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::time::{Instant, Now};

struct End {
    handshakes: Handshakes,
    peer: Arc<Peer>,
    address: SocketAddr,
}

fn end(byte: u8, other: u8, config: PeerConfig, address: SocketAddr) -> End {
    let keys = [byte, other].map(|byte| PrivateKey::from([byte; 32]));
    let make = |key: &PrivateKey| {
        let random = Box::new(SeededRandom::new(byte.into()));
        Handshakes::new(key, Arc::new(Mesh::default()), random).unwrap()
    };
    let peer = Arc::new(Peer::new(*make(&keys[1]).public_key()));
    let mut handshakes = make(&keys[0]);
    handshakes.add_peer(Arc::clone(&peer), config).unwrap();
    End {
        handshakes,
        peer,
        address,
    }
}

struct World {
    a: End,
    b: End,
    rotation: Rotation,
    list: Vec<SocketAddr>,
    second: u64,
}

impl World {
    fn new(live: usize) -> Self {
        Self::with_endpoints(3, live)
    }

    /// So many endpoints, of which one leads to B.
    fn with_endpoints(count: u8, live: usize) -> Self {
        let list: Vec<SocketAddr> = (1..=count)
            .map(|n| ([192, 0, 2, n], 51820).into())
            .collect();
        let keepalive = PeerConfig {
            persistent_keepalive: PERSISTENT_KEEPALIVE,
            ..PeerConfig::default()
        };
        Self {
            a: end(1, 2, keepalive, ([198, 51, 100, 1], 51820).into()),
            b: end(2, 1, PeerConfig::default(), list[live]),
            rotation: Rotation::default(),
            list,
            second: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: Instant::from_secs(1000 + self.second),
            unix: Duration::from_secs(1_700_000_000 + self.second),
        }
    }

    /// A second of A: timers, endpoint choice, and whatever B answers.
    fn step(&mut self) -> Option<SocketAddr> {
        self.second += 1;
        let now = self.now();
        let mut sent = Vec::new();
        let mut post = |output: Output<'_>| {
            if let Output::Send { to, datagram, .. } = output {
                sent.push((to.remote, datagram.to_vec()));
            }
        };
        self.a.handshakes.tick(now, &mut post);
        let key = *self.a.peer.public_key();
        let next = self.rotation.advance(
            now.monotonic,
            &Seen {
                endpoints: &self.list,
                active: self.a.peer.endpoint().map(|endpoint| endpoint.remote),
                last_handshake: self.a.peer.last_handshake.load(),
                standing: true,
                initiating: self.a.handshakes.is_initiating(&key),
            },
        );
        if let Some(next) = next {
            self.a.peer.set_endpoint(Endpoint::from(next));
            let rivals = self.rotation.rivals(&self.list);
            self.a.handshakes.race(&key, rivals);
            self.a.handshakes.renew(now, &key, &mut post);
        }
        // An answer takes some time: it comes after the choice that it proves right.
        let later = Now {
            monotonic: now.monotonic + Duration::from_millis(10),
            unix: now.unix + Duration::from_millis(10),
        };
        for (to, datagram) in sent {
            if to == self.b.address {
                self.answer(later, &datagram);
            }
        }
        next
    }

    fn answer(&mut self, now: Now, datagram: &[u8]) {
        let mut answers = Vec::new();
        let from = Endpoint::from(self.a.address);
        // Keepalives are data, which is not for handshakes.
        let _ = self
            .b
            .handshakes
            .receive(now, datagram, &from, &mut |output| {
                if let Output::Send { datagram, .. } = output {
                    answers.push(datagram.to_vec());
                }
            });
        for answer in answers {
            let from = Endpoint::from(self.b.address);
            let accepted = self.a.handshakes.receive(now, &answer, &from, &mut |_| {});
            accepted.unwrap();
        }
    }

    fn state(&self) -> PeerState {
        let handshake = self.a.peer.last_handshake.load();
        self.rotation.state(self.now().monotonic, handshake)
    }

    /// Steps until A's view is `state`; the second in which it is.
    fn until(&mut self, state: PeerState) -> u64 {
        while self.state() != state {
            assert!(self.second < 2000, "never {state}");
            self.step();
        }
        self.second
    }
}

#[test]
fn the_third_endpoint_wins_the_race_after_fifteen_seconds() {
    let mut world = World::new(2);
    assert_eq!(world.state(), PeerState::Unknown);
    // An initiation waits until five seconds have passed since the last one, a tick may come in
    // between.
    let found = world.until(PeerState::Up);
    assert!((16..=22).contains(&found), "{found}");
    assert_eq!(world.step(), None, "the winner is taken over");
    assert_eq!(world.rotation.last_used(), Some(world.list[2]));
    let settled = world.rotation.clone();
    for _ in 0..100 {
        assert_eq!(world.step(), None);
    }
    assert_eq!(world.rotation.last_change(), settled.last_change());
}

#[test]
fn one_good_endpoint_among_many_is_found_by_races() {
    // 15 seconds for the first, then eight at once: the 42nd is in the sixth race.
    let mut world = World::with_endpoints(64, 41);
    let found = world.until(PeerState::Up);
    assert!((15 * 6..=15 * 6 + 7).contains(&found), "{found}");
    world.step();
    assert_eq!(world.rotation.last_used(), Some(world.list[41]));
    assert_eq!(world.a.peer.endpoint().unwrap().remote, world.list[41]);
    // B has answered one copy of each initiation, and A has one session.
    assert_eq!(world.b.handshakes.statistics().initiations_accepted, 1);
}

#[test]
fn a_peer_that_has_moved_without_a_word_is_found_before_it_counts_as_down() {
    let mut world = World::new(0);
    world.until(PeerState::Up);
    world.b.address = world.list[1];
    // It stays up, by the rule of 275 seconds; the next renewal goes unanswered.
    let lost = world.until(PeerState::Unknown);
    assert!(lost < 200, "{lost}");
    let found = world.until(PeerState::Up);
    assert!(found - lost <= 6, "{lost} {found}");
    assert_eq!(world.a.peer.endpoint().unwrap().remote, world.list[1]);
}

#[test]
fn a_peer_that_is_nowhere_is_down_and_found_when_it_is_back() {
    let mut world = World::new(0);
    let (home, away) = (world.b.address, SocketAddr::from(([203, 0, 113, 1], 1)));
    world.b.address = away;
    let turns: Vec<u64> = (0..120)
        .filter_map(|_| world.step().map(|_| world.second))
        .collect();
    assert_eq!(turns, [1, 16, 31, 46, 61, 76, 91, 106]);
    assert_ne!(world.state(), PeerState::Up);
    world.b.address = home;
    // At most the turns of the two others, and a retry.
    let found = world.until(PeerState::Up);
    assert!(found <= 120 + 2 * 15 + 6, "{found}");
}
