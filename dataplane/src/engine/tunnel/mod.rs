//! The tunnel without any I/O: for embedders who have their own.
//!
//! [`Tunnel`] is handshakes and data of one node with any number of peers. Bytes and time go in;
//! what is to be done comes out as [`Action`]s, lent for the time of one call. It has no threads,
//! opens nothing and reads no clock. [`Tunnel::encapsulate`] and [`Tunnel::decapsulate`] take one
//! packet at a time; [`Tunnel::seal`] and [`Tunnel::open`] take batches, which is where the
//! batched AEAD pays.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::time::{Duration, SystemTime};
//! use ringspan::crypto::{KeyPair, PrivateKey};
//! use ringspan::engine::PeerConfig;
//! use ringspan::engine::tunnel::{Action, Tunnel};
//! use ringspan::time::{Instant, Now};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The embedder's clocks: both ends of this example share one.
//! let now = Now {
//!     monotonic: Instant::from_secs(1),
//!     unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?,
//! };
//! let (key_a, key_b) = (PrivateKey::from([1; 32]), PrivateKey::from([2; 32]));
//! let (addr_a, addr_b) = ("192.0.2.1:51820".parse()?, "192.0.2.2:51820".parse()?);
//!
//! let mut a = Tunnel::new(&key_a, 1420)?;
//! let public_b = *KeyPair::new(&key_b)?.public();
//! a.add_peer(public_b, PeerConfig::default(), Some(addr_b), ["10.0.0.2/32".parse()?])?;
//! let mut b = Tunnel::new(&key_b, 1420)?;
//! b.add_peer(*a.public_key(), PeerConfig::default(), None, ["10.0.0.1/32".parse()?])?;
//!
//! // The network of this example: datagrams for b, datagrams for a. And what b received.
//! let (mut to_b, mut to_a, mut received) = (VecDeque::new(), VecDeque::new(), Vec::new());
//!
//! // a sends an IP packet. There is no session yet: it waits, and an initiation goes out.
//! let mut packet = [0; 40];
//! packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
//! packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
//! a.encapsulate(now, &mut packet, &mut |action| {
//!     if let Action::Send { datagram, .. } = action {
//!         to_b.push_back(datagram.to_vec());
//!     }
//! });
//!
//! // Each end does what the other's datagrams ask for, until all is quiet.
//! while !(to_b.is_empty() && to_a.is_empty()) {
//!     for mut datagram in to_b.drain(..) {
//!         b.decapsulate(now, &mut datagram, addr_a, &mut |action| match action {
//!             Action::Send { datagram, .. } => to_a.push_back(datagram.to_vec()),
//!             Action::Deliver { packet } => received.push(packet.to_vec()),
//!             _ => {}
//!         });
//!     }
//!     for mut datagram in to_a.drain(..) {
//!         a.decapsulate(now, &mut datagram, addr_b, &mut |action| {
//!             if let Action::Send { datagram, .. } = action {
//!                 to_b.push_back(datagram.to_vec());
//!             }
//!         });
//!     }
//! }
//! assert_eq!(received, [packet]);
//!
//! // Timers run when the embedder says so, and tell when to come again.
//! let next = a.tick(now, &mut |_action| {});
//! assert!(next.since(now.monotonic) <= Duration::from_secs(60));
//! # Ok(())
//! # }
//! ```

mod ports;
#[cfg(test)]
mod tests;

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use ipnet::IpNet;

use super::counters::WorkerCounters;
use super::handshakes::{AddPeerError, Handshakes, IdentityError, Output, PeerConfig};
use super::port::{Datagram, Ecn, MAX_BATCH, Packet};
use super::worker::{Worker, WorkerConfig};
use crate::crypto::{BackendError, BatchAead, OsRandom, PrivateKey, PublicKey, Random, backend};
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::time::{Instant, Now};

use ports::{Lend, Mailbox, Receive};

/// How often packets that wait for a handshake are looked at, at least.
const STAGED_INTERVAL: Duration = Duration::from_secs(1);

/// What the embedder is to do, or to know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Send this datagram.
    Send {
        /// Where to; with the source address to use, where it is known.
        to: Endpoint,
        /// The TOS or traffic-class octet of the outer header: DSCP and ECN.
        tos: u8,
        /// The UDP payload.
        datagram: &'a [u8],
    },
    /// Hand this IP packet to the host.
    Deliver {
        /// The packet: authentic, of its sender's addresses, without padding; or an ICMP error
        /// of this end about a packet that could not be sealed.
        packet: &'a [u8],
    },
    /// A handshake with the peer that this end has begun is done.
    SessionReady {
        /// The peer.
        peer: &'a Arc<Peer>,
    },
    /// The peer has not answered for as long as handshakes are tried; what waited is dropped.
    HandshakeFailed {
        /// The peer.
        peer: &'a Arc<Peer>,
    },
}

/// Takes [`Action`]s as they come. It stands in for drivers, which may go to another thread.
pub type Actions<'a> = &'a mut (dyn FnMut(Action<'_>) + Send);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The private key is of no use, or there is no randomness.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The AEAD that the environment asks for is not to be had.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A node of the protocol: handshakes, timers and data, and no I/O.
#[derive(Debug)]
pub struct Tunnel {
    mesh: Arc<Mesh>,
    handshakes: Handshakes,
    worker: Worker,
    /// Where datagrams are sealed to.
    buffer: Vec<u8>,
    mailbox: Mailbox,
    refused: u64,
}

impl Tunnel {
    /// A node with the private key `private_key`, for inner packets of up to `mtu` bytes (padding
    /// ends there; 0 for no limit), with the AEAD that suits this machine and the operating
    /// system's randomness.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub fn new(private_key: &PrivateKey, mtu: u16) -> Result<Self, TunnelError> {
        Self::with(private_key, mtu, backend()?, Box::new(OsRandom))
    }

    /// A node with an AEAD and a random source of the caller's choice.
    ///
    /// # Errors
    /// [`TunnelError::Identity`].
    pub fn with(
        private_key: &PrivateKey,
        mtu: u16,
        aead: &'static dyn BatchAead,
        random: Box<dyn Random>,
    ) -> Result<Self, TunnelError> {
        let mesh = Arc::new(Mesh::default());
        Ok(Self {
            handshakes: Handshakes::new(private_key, Arc::clone(&mesh), random)?,
            worker: Worker::new(Arc::clone(&mesh), aead, WorkerConfig { mtu }),
            mesh,
            buffer: Vec::new(),
            mailbox: Mailbox::default(),
            refused: 0,
        })
    }

    /// This node's public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.handshakes.public_key()
    }

    /// Adds a peer. Without an endpoint it is not written to before it has been heard. A prefix
    /// that another peer has changes its owner.
    ///
    /// # Errors
    /// [`AddPeerError`], with nothing changed.
    pub fn add_peer(
        &mut self,
        public_key: PublicKey,
        config: PeerConfig,
        endpoint: Option<SocketAddr>,
        allowed_ips: impl IntoIterator<Item = IpNet>,
    ) -> Result<Arc<Peer>, AddPeerError> {
        let peer = Arc::new(Peer::new(public_key));
        if let Some(endpoint) = endpoint {
            peer.set_endpoint(endpoint.into());
        }
        self.handshakes.add_peer(Arc::clone(&peer), config)?;
        self.mesh.update(|update| {
            for prefix in allowed_ips {
                update.allow(&prefix, &peer);
            }
        });
        Ok(peer)
    }

    /// Removes a peer with its sessions, its prefixes and what waits for it. False where there is
    /// none.
    pub fn remove_peer(&mut self, public_key: &PublicKey) -> bool {
        self.mesh.update(|update| update.disallow_all(public_key));
        self.worker.discard_staged(public_key);
        self.handshakes.remove_peer(public_key)
    }

    /// The tables, to look at or to change allowed IPs.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// For whoever simulates a node's control, as `control::cluster` does.
    #[cfg(all(test, feature = "discovery"))]
    pub(crate) fn handshakes(&mut self) -> &mut Handshakes {
        &mut self.handshakes
    }

    #[cfg(all(test, feature = "discovery"))]
    pub(crate) fn shared_mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.mesh)
    }

    /// What becomes of the packets, by name.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        self.worker.counters()
    }

    /// Handshake messages that had no effect.
    #[must_use]
    pub fn handshakes_refused(&self) -> u64 {
        self.refused
    }

    /// Seals one IP packet to the peer that its destination belongs to. Without a session it
    /// waits and a handshake begins.
    pub fn encapsulate(&mut self, now: Now, packet: &mut [u8], out: Actions<'_>) {
        self.seal(now, &mut [Packet { data: packet }], out);
    }

    /// Takes one datagram from `from`: opens it in place and delivers the packet in it, or goes on
    /// with a handshake.
    pub fn decapsulate(
        &mut self,
        now: Now,
        datagram: &mut [u8],
        from: SocketAddr,
        out: Actions<'_>,
    ) {
        let datagram = Datagram {
            payload: datagram,
            from: from.into(),
            ecn: Ecn::NotEct,
        };
        self.open(now, &mut [datagram], out);
    }

    /// [`encapsulate`](Self::encapsulate) for any number of packets, in order. What is delivered
    /// meanwhile are ICMP errors about packets that go nowhere.
    pub fn seal(&mut self, now: Now, packets: &mut [Packet<'_>], out: Actions<'_>) {
        let mut outer = Lend {
            buffer: &mut self.buffer,
            out: &mut *out,
        };
        self.worker
            .seal(now.monotonic, packets, &mut outer, &mut self.mailbox);
        self.worker.deliver_errors(&mut Receive { out: &mut *out });
        self.answer(now, out);
    }

    /// [`decapsulate`](Self::decapsulate) for any number of datagrams, in order.
    pub fn open(&mut self, now: Now, datagrams: &mut [Datagram<'_>], out: Actions<'_>) {
        // The mailbox holds the messages of one batch.
        for batch in datagrams.chunks_mut(MAX_BATCH) {
            let mut inner = Receive { out: &mut *out };
            self.worker
                .open(now.monotonic, batch, &mut inner, &mut self.mailbox);
            self.answer(now, &mut *out);
        }
    }

    /// Runs the timers that are due; returns when to call this next, unless another call comes
    /// first: everything may bring that moment forward.
    pub fn tick(&mut self, now: Now, out: Actions<'_>) -> Instant {
        let worker = &mut self.worker;
        self.handshakes
            .tick(now, &mut |output| forward(&output, worker, &mut *out));
        self.answer(now, out);
        let next = self.handshakes.next_tick();
        if self.worker.has_staged() {
            next.min(now.monotonic + STAGED_INTERVAL)
        } else {
            next
        }
    }

    /// Does what the data path has left to do: handshake messages, wishes, and packets that
    /// waited for what has come of them.
    fn answer(&mut self, now: Now, out: Actions<'_>) {
        if !self.mailbox.is_empty() {
            let Self {
                handshakes,
                worker,
                mailbox,
                refused,
                ..
            } = self;
            handshakes.set_load(mailbox.messages().count(), MAX_BATCH);
            for (message, from) in mailbox.messages() {
                let mut sink = |output: Output<'_>| forward(&output, worker, &mut *out);
                let result = handshakes.receive(now, message, from, &mut sink);
                *refused += u64::from(result.is_err());
            }
            for peer in mailbox.wishes() {
                let mut sink = |output: Output<'_>| forward(&output, worker, &mut *out);
                handshakes.request(now, peer, &mut sink);
            }
            mailbox.clear();
        }
        if self.worker.has_staged() {
            let mut outer = Lend {
                buffer: &mut self.buffer,
                out,
            };
            // What this leaves in the mailbox waits for the next call.
            self.worker
                .release_staged(now.monotonic, &mut outer, &mut self.mailbox);
        }
    }
}

/// What the handshakes put out, as the embedder is to see it.
fn forward(output: &Output<'_>, worker: &mut Worker, out: Actions<'_>) {
    match output {
        Output::Send {
            to, datagram, tos, ..
        } => out(Action::Send {
            to: *to,
            tos: *tos,
            datagram,
        }),
        Output::SessionReady { peer } => out(Action::SessionReady { peer }),
        Output::HandshakeFailed { peer } => {
            worker.discard_staged(peer.public_key());
            out(Action::HandshakeFailed { peer });
        }
    }
}
