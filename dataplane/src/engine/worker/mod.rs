//! A worker: opens batches of datagrams and seals batches of packets.
//!
//! Inwards ([`open`](Worker::open)): parse, receiver index to session, the whole batch through the
//! AEAD in place; then per session and in order: replay window, promotion, roaming, marks; then
//! per packet: source address, ECN, length; delivery in one call.
//!
//! Outwards ([`seal`](Worker::seal)): destination to peer, counters reserved a run of packets at a
//! time, the whole batch through the AEAD from the source buffers into the driver's.
//!
//! One thread owns a worker. It takes one lock, that of a session's replay window, and nothing
//! else while it holds it. The only queue is that of the packets that wait for a handshake,
//! bounded per peer and in bytes.

mod errors;
mod open;
mod parcels;
mod routing_loop;
mod seal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::counters::{Totals, WorkerCounters};
use super::port::ControlSink;
use super::staged::Staged;
use crate::crypto::{BatchAead, PublicKey};
use crate::mesh::{Mesh, Peer, WorkerId};
use errors::Errors;

/// What a worker must know beside its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkerConfig {
    /// MTU of the inner interface, in bytes: padding does not go beyond it. 0 is no limit.
    pub mtu: u16,
}

/// The batch pipeline of one thread.
#[derive(Debug)]
pub struct Worker {
    id: Option<WorkerId>,
    mesh: Arc<Mesh>,
    aead: &'static dyn BatchAead,
    config: WorkerConfig,
    staged: Staged,
    /// A session was confirmed since packets were last released.
    confirmed: bool,
    errors: Errors,
    counters: Arc<WorkerCounters>,
}

impl Worker {
    /// A worker on `mesh`. Any number of them may share one.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, aead: &'static dyn BatchAead, config: WorkerConfig) -> Self {
        Self {
            id: WorkerId::unique(),
            mesh,
            aead,
            config,
            staged: Staged::default(),
            confirmed: false,
            errors: Errors::new(),
            counters: Arc::default(),
        }
    }

    /// Has packets padded up to another MTU, in bytes, from now on; 0 is no limit: the inner
    /// interface's was changed.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.config.mtu = mtu;
    }

    /// Whether packets wait for a handshake: [`Worker::release_staged`] is to be called when a
    /// session may have come, and every now and then for those that wait in vain.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether a session that packets may wait for was confirmed by a datagram of the last
    /// batches: to be asked after [`Worker::open`].
    #[must_use]
    pub fn wants_release(&self) -> bool {
        self.confirmed && self.has_staged()
    }

    /// Drops what waits for a session with `peer`: no handshake came about, or the peer is gone.
    /// Returns how many packets.
    pub fn discard_staged(&mut self, peer: &PublicKey) -> usize {
        let count = self
            .staged
            .take(peer)
            .map_or(0, |queue| queue.packets.len());
        self.counters.add(&Totals {
            staged_expired: count as u64,
            ..Totals::default()
        });
        count
    }

    /// What this worker counts.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }
}

/// Asks control for a handshake, unless that was done already.
fn want_handshake(peer: &Arc<Peer>, control: &mut dyn ControlSink) {
    if peer.marks.want_handshake() && !control.handshake_wanted(peer) {
        // The wish was lost on the way: the next packet makes it again.
        peer.marks.handshake_begun();
    }
}
