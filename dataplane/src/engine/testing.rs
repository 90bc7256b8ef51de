//! Ends for the engine's tests: drivers that keep what they are given, and nodes with sessions
//! made by hand.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::port::{
    ControlSink, Datagram, DriverInfo, Ecn, InnerTx, OuterTx, Packet, Sent, TxRequest, TxSlot,
};
use super::{Totals, Worker, WorkerConfig};
use crate::crypto::backend;
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::noise::{Role, Session, SessionKeys};
use crate::time::Instant;

pub(super) const MTU: u16 = 1420;

/// A datagram under way.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) to: Endpoint,
    pub(super) tos: u8,
    pub(super) payload: Vec<u8>,
}

/// Keeps datagrams; lends its slots a few at a time, and only so many of them.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) sent: Vec<Sealed>,
    pub(super) room: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            room: usize::MAX,
        }
    }
}

impl OuterTx for Outbox {
    fn reaches(&mut self, _: &Endpoint) -> bool {
        true
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        let accepted = requests
            .len()
            .min(self.room.saturating_sub(self.sent.len()));
        let first = self.sent.len();
        self.sent
            .extend(requests[..accepted].iter().map(|request| Sealed {
                to: request.to,
                tos: request.tos,
                payload: vec![0xa5; request.len],
            }));
        let slots = self.sent[first..].iter_mut().enumerate();
        let mut slots: Vec<_> = slots
            .map(|(request, sealed)| TxSlot {
                request,
                buffer: &mut sealed.payload,
            })
            .collect();
        for part in slots.chunks_mut(7) {
            fill(part);
        }
        Sent {
            accepted,
            dropped: requests.len() - accepted,
        }
    }

    fn info(&self) -> DriverInfo {
        DriverInfo::default()
    }
}

/// Keeps packets.
#[derive(Debug, Default)]
pub(super) struct Inbox(pub(super) Vec<Vec<u8>>);

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

/// Keeps what goes to control; refuses all of it when told to.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) wanted: Vec<Arc<Peer>>,
    pub(super) full: bool,
}

impl ControlSink for Control {
    fn handshake_message(&mut self, datagram: &[u8], _: &Endpoint) -> bool {
        if !self.full {
            self.messages.push(datagram.to_vec());
        }
        !self.full
    }

    fn handshake_wanted(&mut self, peer: &Arc<Peer>) -> bool {
        if !self.full {
            self.wanted.push(Arc::clone(peer));
        }
        !self.full
    }
}

/// One end: a mesh with a worker on it, and all that comes out.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mesh: Arc<Mesh>,
    pub(super) worker: Worker,
    pub(super) outer: Outbox,
    pub(super) inner: Inbox,
    pub(super) control: Control,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::on(Arc::default())
    }

    /// Another worker on a mesh.
    pub(super) fn on(mesh: Arc<Mesh>) -> Self {
        let config = WorkerConfig { mtu: MTU };
        Self {
            worker: Worker::new(Arc::clone(&mesh), backend().unwrap(), config),
            mesh,
            outer: Outbox::default(),
            inner: Inbox::default(),
            control: Control::default(),
        }
    }

    /// Adds a peer with these allowed IPs.
    pub(super) fn peer(&self, id: u8, allowed: &[&str], endpoint: &str) -> Arc<Peer> {
        let peer = Arc::new(Peer::new([id; 32].into()));
        peer.set_endpoint(self::endpoint(endpoint));
        self.mesh.update(|update| {
            for prefix in allowed {
                update.allow(&prefix.parse().unwrap(), &peer);
            }
        });
        peer
    }

    /// Opens datagrams that come from `from` without ECN.
    pub(super) fn open(&mut self, now: Instant, from: &str, datagrams: &[Sealed]) {
        let mut payloads: Vec<_> = datagrams.iter().map(|d| d.payload.clone()).collect();
        let mut batch: Vec<_> = payloads
            .iter_mut()
            .zip(datagrams)
            .map(|(payload, datagram)| Datagram {
                payload,
                from: endpoint(from),
                ecn: Ecn::from(datagram.tos),
            })
            .collect();
        self.worker
            .open(now, &mut batch, &mut self.inner, &mut self.control);
    }

    /// Seals packets and returns what goes out.
    pub(super) fn seal(&mut self, now: Instant, packets: &[Vec<u8>]) -> Vec<Sealed> {
        let mut packets = packets.to_vec();
        let mut batch: Vec<_> = packets.iter_mut().map(|data| Packet { data }).collect();
        self.worker
            .seal(now, &mut batch, &mut self.outer, &mut self.control);
        self.outer.sent.split_off(0)
    }

    /// ICMP errors about the last packets.
    pub(super) fn errors(&mut self) -> Vec<Vec<u8>> {
        assert!(self.inner.0.is_empty());
        self.worker.deliver_errors(&mut self.inner);
        self.received()
    }

    /// Sends what waited.
    pub(super) fn release(&mut self, now: Instant) -> Vec<Sealed> {
        let count = self
            .worker
            .release_staged(now, &mut self.outer, &mut self.control);
        assert_eq!(count, self.outer.sent.len());
        self.outer.sent.split_off(0)
    }

    /// What came out of the tunnel.
    pub(super) fn received(&mut self) -> Vec<Vec<u8>> {
        self.inner.0.split_off(0)
    }

    pub(super) fn totals(&self) -> Totals {
        self.worker.counters().totals()
    }
}

pub(super) fn endpoint(address: &str) -> Endpoint {
    address.parse::<SocketAddr>().unwrap().into()
}

/// Gives two peers of each other a session, as a handshake would: the initiator can send at once,
/// the responder when it has heard of it.
pub(super) fn connect(
    seed: u8,
    now: Instant,
    (initiator, its_peer): (&Node, &Arc<Peer>),
    (responder, other_peer): (&Node, &Arc<Peer>),
) -> (Arc<Session>, Arc<Session>) {
    let local = initiator.mesh.indices.reserve(its_peer).unwrap();
    let remote = responder.mesh.indices.reserve(other_peer).unwrap();
    let session = |sending: u8, receiving: u8, local_index, remote_index, role| {
        let keys = SessionKeys {
            sending: [sending; 32].into(),
            receiving: [receiving; 32].into(),
            local_index,
            remote_index,
            role,
        };
        Arc::new(Session::new(keys, now))
    };
    let ours = session(seed, seed ^ 0x80, local, remote, Role::Initiator);
    let theirs = session(seed ^ 0x80, seed, remote, local, Role::Responder);
    assert!(initiator.mesh.indices.publish(&ours));
    assert!(responder.mesh.indices.publish(&theirs));
    its_peer.sessions.install(&ours);
    other_peer.sessions.install(&theirs);
    (ours, theirs)
}

/// A UDP packet (or one that looks like it) of `len` bytes between two addresses of one family.
pub(super) fn packet(source: &str, destination: &str, tos: u8, len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
    match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet[..12].fill(0);
            packet[..2].copy_from_slice(&[0x45, tos]);
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[8..10].copy_from_slice(&[64, 17]);
            packet[12..16].copy_from_slice(&source.octets());
            packet[16..20].copy_from_slice(&destination.octets());
            let sum = crate::wire::checksum::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet[..8].fill(0);
            packet[..2].copy_from_slice(&[0x60 | tos >> 4, tos << 4]);
            packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
            packet[6..8].copy_from_slice(&[17, 64]);
            packet[8..24].copy_from_slice(&source.octets());
            packet[24..40].copy_from_slice(&destination.octets());
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
    packet
}
