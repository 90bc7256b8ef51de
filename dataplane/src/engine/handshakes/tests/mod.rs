//! Nodes against each other on a simulated network and clock.

mod foreign;
mod hostile;
mod load;
mod rekey;
mod sessions;

use core::time::Duration;

use super::*;
use crate::crypto::{SeededRandom, single};
use crate::noise::Session;
use crate::wire::Message;
use crate::wire::message::{DATA_HEADER_LEN, DataHeader};
use zerocopy::IntoBytes;

/// A datagram under way.
#[derive(Clone, Debug)]
struct Flying {
    to: Endpoint,
    bytes: Vec<u8>,
    tos: u8,
}

impl Flying {
    fn kind(&self) -> u8 {
        self.bytes[0]
    }
}

/// What a node has sent and said since it was asked last.
#[derive(Default)]
struct Said {
    sent: Vec<Flying>,
    ready: usize,
    failed: usize,
}

impl Said {
    fn hear(&mut self, output: &Output<'_>) {
        match output {
            Output::Send {
                to, datagram, tos, ..
            } => self.sent.push(Flying {
                to: *to,
                bytes: datagram.to_vec(),
                tos: *tos,
            }),
            Output::SessionReady { .. } => self.ready += 1,
            Output::HandshakeFailed { .. } => self.failed += 1,
        }
    }
}

/// One end, which knows one peer.
struct Node {
    handshakes: Handshakes,
    mesh: Arc<Mesh>,
    peer: Arc<Peer>,
    address: Endpoint,
    said: Said,
    /// Payloads that have come through.
    inbox: Vec<Vec<u8>>,
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint::from(text.parse::<SocketAddr>().unwrap())
}

fn private_key(id: u8) -> PrivateKey {
    PrivateKey::from([id; 32])
}

fn public_key(id: u8) -> PublicKey {
    *KeyPair::new(&private_key(id)).unwrap().public()
}

impl Node {
    fn new(id: u8, peer: u8, config: PeerConfig) -> Self {
        let mesh = Arc::new(Mesh::default());
        let random = Box::new(SeededRandom::new(id.into()));
        let mut handshakes = Handshakes::new(&private_key(id), Arc::clone(&mesh), random).unwrap();
        let address = |id| endpoint(&format!("192.0.2.{id}:51820"));
        let peer_address = address(peer);
        let peer = Arc::new(Peer::new(public_key(peer)));
        peer.set_endpoint(peer_address);
        handshakes.add_peer(Arc::clone(&peer), config).unwrap();
        Self {
            handshakes,
            mesh,
            peer,
            address: address(id),
            said: Said::default(),
            inbox: Vec::new(),
        }
    }

    fn tick(&mut self, now: Now) -> Instant {
        let said = &mut self.said;
        self.handshakes.tick(now, &mut |output| said.hear(&output))
    }

    /// What a worker does that has something to send and no session for it.
    fn want(&mut self, now: Now) {
        if self.peer.marks.want_handshake() {
            let (said, key) = (&mut self.said, *self.peer.public_key());
            self.handshakes
                .request(now, &key, &mut |output| said.hear(&output));
        }
    }

    fn receive(&mut self, now: Now, bytes: &[u8], from: Endpoint) -> Result<(), Refusal> {
        let said = &mut self.said;
        self.handshakes
            .receive(now, bytes, &from, &mut |output| said.hear(&output))
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.peer.sessions.load().current.clone()
    }

    /// What a worker does with a packet; false where it has no session.
    fn send_data(&mut self, now: Now, payload: &[u8]) -> bool {
        let at = now.monotonic;
        let Some(session) = self.current().filter(|session| !session.is_expired(at)) else {
            self.want(now);
            return false;
        };
        let counter = session.reserve_counters(1).unwrap();
        let mut bytes = vec![0; DATA_HEADER_LEN + payload.len() + 16];
        let header = DataHeader::new(session.remote_index(), counter);
        bytes[..DATA_HEADER_LEN].copy_from_slice(header.as_bytes());
        let key = session.sending().as_bytes();
        assert!(single::seal(
            key,
            counter,
            &[],
            payload,
            &mut bytes[DATA_HEADER_LEN..]
        ));
        self.said.sent.push(Flying {
            to: self.peer.endpoint().unwrap(),
            bytes,
            tos: 0,
        });
        self.peer.marks.data_sent(at);
        if session.wants_rekey_on_send(at) {
            self.want(now);
        }
        true
    }

    /// What a worker does with transport data; false where it is refused.
    fn open_data(&mut self, now: Now, bytes: &[u8], from: Endpoint) -> bool {
        let Ok(Message::Data(data)) = Message::parse(bytes) else {
            return false;
        };
        let indices = self.mesh.indices.load();
        let entry = indices.entry(data.header.receiver_index.get());
        let Some(session) = entry.and_then(|entry| entry.session()) else {
            return false;
        };
        if session.is_expired(now.monotonic) {
            return false;
        }
        let counter = data.header.counter.get();
        let mut payload = vec![0; data.ciphertext.len() - 16];
        let key = session.receiving().as_bytes();
        if single::open(key, counter, &[], data.ciphertext, &mut payload).is_err()
            || !session.replay().accept(counter)
        {
            return false;
        }
        self.peer.set_endpoint(from);
        self.peer.confirm(session, now.monotonic);
        if payload.is_empty() {
            self.peer.marks.authenticated_received(now.monotonic);
        } else {
            self.peer.marks.data_received(now.monotonic);
            self.inbox.push(payload);
        }
        true
    }
}

/// Two nodes, the network between them, and time.
struct World {
    a: Node,
    b: Node,
    now: Now,
    /// Everything that was delivered, in order, as `(from a, type)`.
    log: Vec<(bool, u8)>,
}

impl World {
    fn new(a: PeerConfig, b: PeerConfig) -> Self {
        Self {
            a: Node::new(1, 2, a),
            b: Node::new(2, 1, b),
            now: Now {
                monotonic: Instant::from_secs(1000),
                unix: Duration::from_secs(1_700_000_000),
            },
            log: Vec::new(),
        }
    }

    fn plain() -> Self {
        Self::new(PeerConfig::default(), PeerConfig::default())
    }

    /// A world whose `a` has made a session with `b`.
    fn connected() -> Self {
        let mut world = Self::plain();
        world.a.want(world.now);
        world.settle();
        assert!(world.has_session());
        world.log.clear();
        (world.a.said, world.b.said) = Default::default();
        world
    }

    /// Lets time pass with nothing happening.
    fn pass(&mut self, span: Duration) {
        self.now.monotonic += span;
        self.now.unix += span;
    }

    /// Carries what is under way, and what that causes, but for what `keep` loses.
    fn settle_but(&mut self, keep: &mut dyn FnMut(bool, &Flying) -> bool) {
        loop {
            let from_a = core::mem::take(&mut self.a.said.sent);
            let from_b = core::mem::take(&mut self.b.said.sent);
            if from_a.is_empty() && from_b.is_empty() {
                return;
            }
            let (addr_a, addr_b) = (self.a.address, self.b.address);
            let both = [
                (from_a, true, addr_a, addr_b, &mut self.b),
                (from_b, false, addr_b, addr_a, &mut self.a),
            ];
            for (flying, by_a, from, at, receiver) in both {
                for datagram in flying {
                    if datagram.to.remote != at.remote || !keep(by_a, &datagram) {
                        continue;
                    }
                    self.log.push((by_a, datagram.kind()));
                    if datagram.kind() == 4 {
                        receiver.open_data(self.now, &datagram.bytes, from);
                    } else {
                        let _ = receiver.receive(self.now, &datagram.bytes, from);
                    }
                }
            }
        }
    }

    fn settle(&mut self) {
        self.settle_but(&mut |_, _| true);
    }

    /// Lets time pass as in life: both tick when they ask for it, the network carries everything
    /// but what `keep` loses.
    fn run_but(&mut self, span: Duration, keep: &mut dyn FnMut(bool, &Flying) -> bool) {
        let end = self.now.monotonic + span;
        loop {
            let next = self.a.tick(self.now).min(self.b.tick(self.now));
            self.settle_but(keep);
            let next = next
                .min(self.a.handshakes.next_tick())
                .min(self.b.handshakes.next_tick());
            if next > end {
                self.pass(end.since(self.now.monotonic));
                return;
            }
            // A tick that asks to be called at once would stop the clock.
            self.pass(next.since(self.now.monotonic).max(Duration::from_nanos(1)));
        }
    }

    fn run(&mut self, span: Duration) {
        self.run_but(span, &mut |_, _| true);
    }

    /// Whether data gets through in both directions now.
    fn exchange(&mut self) -> bool {
        self.a.inbox.clear();
        self.b.inbox.clear();
        self.a.send_data(self.now, b"from a");
        self.settle();
        self.b.send_data(self.now, b"from b");
        self.settle();
        self.b.inbox == [b"from a"] && self.a.inbox == [b"from b"]
    }

    /// Whether both ends hold the same session as current.
    fn has_session(&self) -> bool {
        match (self.a.current(), self.b.current()) {
            (Some(a), Some(b)) => a.local_index() == b.remote_index(),
            _ => false,
        }
    }

    /// How many messages of a type were delivered.
    fn count(&self, by_a: bool, kind: u8) -> usize {
        self.log
            .iter()
            .filter(|&&entry| entry == (by_a, kind))
            .count()
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
