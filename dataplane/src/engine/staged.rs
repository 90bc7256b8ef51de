//! Packets that wait for a handshake.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::crypto::PublicKey;
use crate::mesh::Peer;
use crate::noise::constants::{MAX_STAGED_PACKETS, REKEY_ATTEMPT_TIME};
use crate::time::Instant;
use crate::wire::Ecn;

/// The most bytes that wait in one worker, over all peers.
pub(super) const MAX_STAGED_BYTES: usize = 8 << 20;

/// A copy of a packet that waits.
#[derive(Debug)]
pub(super) struct StagedPacket {
    pub(super) data: Box<[u8]>,
    pub(super) ecn: Ecn,
    since: Instant,
}

/// The packets of one peer, oldest first.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) peer: Arc<Peer>,
    pub(super) packets: VecDeque<StagedPacket>,
}

/// What waits in one worker: at most [`MAX_STAGED_PACKETS`] a peer, of which the oldest give way,
/// and [`MAX_STAGED_BYTES`] in all.
#[derive(Debug, Default)]
pub(super) struct Staged {
    queues: BTreeMap<PublicKey, Queue>,
    bytes: usize,
}

impl Staged {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(super) fn holds(&self, peer: &PublicKey) -> bool {
        !self.is_empty() && self.queues.contains_key(peer)
    }

    /// Keeps a copy of `data`; returns how many packets were dropped for it, itself included.
    pub(super) fn push(&mut self, now: Instant, peer: &Arc<Peer>, data: &[u8], ecn: Ecn) -> u64 {
        let queue = self
            .queues
            .entry(*peer.public_key())
            .or_insert_with(|| Queue {
                peer: Arc::clone(peer),
                packets: VecDeque::new(),
            });
        if !Arc::ptr_eq(&queue.peer, peer) {
            // Removed and added again meanwhile: the old one will never have a session.
            queue.peer = Arc::clone(peer);
        }
        let mut dropped = 0;
        while queue.packets.len() >= MAX_STAGED_PACKETS
            || self.bytes + data.len() > MAX_STAGED_BYTES
        {
            // Its own packets give way, never those of another peer.
            let Some(oldest) = queue.packets.pop_front() else {
                self.queues.remove(peer.public_key());
                return dropped + 1;
            };
            self.bytes -= oldest.data.len();
            dropped += 1;
        }
        self.bytes += data.len();
        queue.packets.push_back(StagedPacket {
            data: data.into(),
            ecn,
            since: now,
        });
        dropped
    }

    /// Drops what has waited as long as a handshake is tried; returns how many packets.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        let bytes = &mut self.bytes;
        self.queues.retain(|_, queue| {
            let old = |packet: &&StagedPacket| now.since(packet.since) >= REKEY_ATTEMPT_TIME;
            let count = queue.packets.iter().take_while(old).count();
            *bytes -= queue
                .packets
                .drain(..count)
                .map(|p| p.data.len())
                .sum::<usize>();
            expired += count as u64;
            !queue.packets.is_empty()
        });
        expired
    }

    /// The peers with packets, in the order of their keys.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.queues.values().map(|queue| &queue.peer)
    }

    /// Takes a peer's packets out.
    pub(super) fn take(&mut self, peer: &PublicKey) -> Option<Queue> {
        let queue = self.queues.remove(peer)?;
        self.bytes -= queue.packets.iter().map(|p| p.data.len()).sum::<usize>();
        Some(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn peer(id: u8) -> Arc<Peer> {
        Arc::new(Peer::new([id; 32].into()))
    }

    #[test]
    fn the_oldest_gives_way() {
        let (mut staged, peer) = (Staged::default(), peer(1));
        let dropped: u64 = (0..200_u32)
            .map(|n| staged.push(Instant::ZERO, &peer, &n.to_le_bytes(), Ecn::NotEct))
            .sum();
        assert_eq!(dropped, 72);
        let queue = staged.take(peer.public_key()).unwrap();
        assert_eq!(queue.packets.len(), MAX_STAGED_PACKETS);
        assert_eq!(*queue.packets[0].data, 72_u32.to_le_bytes());
        assert!(staged.is_empty());
        assert_eq!(staged.bytes, 0);
    }

    #[test]
    fn a_peer_cannot_displace_another_ones_packets() {
        let (mut staged, big, small) = (Staged::default(), peer(1), peer(2));
        for _ in 0..MAX_STAGED_PACKETS {
            staged.push(Instant::ZERO, &big, &[0; 65_536], Ecn::NotEct);
        }
        assert_eq!(staged.bytes, MAX_STAGED_BYTES);
        assert_eq!(staged.push(Instant::ZERO, &small, &[1], Ecn::NotEct), 1);
        assert!(!staged.holds(small.public_key()));
        assert_eq!(staged.push(Instant::ZERO, &big, &[1], Ecn::NotEct), 1);
        assert_eq!(staged.push(Instant::ZERO, &small, &[1], Ecn::NotEct), 0);
    }

    /// What waits for a peer that was removed and added again goes out with the new one's session.
    #[test]
    fn a_peer_added_again_takes_its_packets_over() {
        let (mut staged, old, new) = (Staged::default(), peer(1), peer(1));
        staged.push(Instant::ZERO, &old, &[1], Ecn::NotEct);
        staged.push(Instant::ZERO, &new, &[2], Ecn::NotEct);
        assert!(staged.peers().all(|peer| Arc::ptr_eq(peer, &new)));
        assert_eq!(staged.take(new.public_key()).unwrap().packets.len(), 2);
    }

    #[test]
    fn what_waited_in_vain_goes() {
        let (mut staged, a, b) = (Staged::default(), peer(1), peer(2));
        let later = Instant::ZERO + Duration::from_secs(10);
        staged.push(Instant::ZERO, &a, &[1; 10], Ecn::NotEct);
        staged.push(later, &a, &[1; 10], Ecn::NotEct);
        staged.push(Instant::ZERO, &b, &[1; 10], Ecn::NotEct);
        assert_eq!(staged.expire(Instant::ZERO + REKEY_ATTEMPT_TIME), 2);
        assert!(staged.holds(a.public_key()) && !staged.holds(b.public_key()));
        assert_eq!(staged.bytes, 10);
        assert_eq!(staged.expire(later + REKEY_ATTEMPT_TIME), 1);
        assert!(staged.is_empty());
        assert_eq!(staged.bytes, 0);
    }
}
