//! The inner side: IP packets between the engine and whoever plays the host's IP stack.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::queue::{Parcel, Queue};
use crate::engine::port::{DriverInfo, InnerRx, InnerTx, MAX_BATCH, Packet, Pollable, Sent};

/// An inner driver in memory and the handle to its other side, with room for `capacity` packets
/// in each direction.
///
/// # Errors
/// When no eventfd can be had.
pub fn inner_port(capacity: usize) -> io::Result<(MemoryInnerRx, MemoryInnerTx, InnerUser)> {
    let into = Arc::new(Queue::new(capacity)?);
    let out_of = Arc::new(Queue::new(capacity)?);
    Ok((
        MemoryInnerRx {
            queue: Arc::clone(&into),
            held: ArrayVec::new_const(),
        },
        MemoryInnerTx {
            queue: Arc::clone(&out_of),
        },
        InnerUser { into, out_of },
    ))
}

/// Receives what [`InnerUser::send`] was given.
#[derive(Debug)]
pub struct MemoryInnerRx {
    queue: Arc<Queue<()>>,
    held: ArrayVec<Parcel<()>, MAX_BATCH>,
}

impl Pollable for MemoryInnerRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(self.queue.event());
    }

    fn info(&self) -> DriverInfo {
        info()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("queue_full", self.queue.refused())]
    }
}

impl InnerRx for MemoryInnerRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        self.queue.acknowledge();
        while !self.held.is_full()
            && let Some(parcel) = self.queue.pop()
        {
            self.held.push(parcel);
        }
        if self.held.is_empty() {
            return Ok(0);
        }
        if !self.queue.is_empty() {
            self.queue.announce();
        }
        let mut batch: ArrayVec<Packet<'_>, MAX_BATCH> = self
            .held
            .iter_mut()
            .map(|parcel| Packet {
                data: parcel.bytes_mut(),
            })
            .collect();
        let count = batch.len();
        handle(&mut batch);
        drop(batch);
        for parcel in self.held.drain(..) {
            self.queue.recycle(parcel);
        }
        Ok(count)
    }
}

/// Delivers to [`InnerUser::receive`]. Cloneable: one for each worker.
#[derive(Clone, Debug)]
pub struct MemoryInnerTx {
    queue: Arc<Queue<()>>,
}

impl InnerTx for MemoryInnerTx {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        let mut accepted = 0;
        for packet in packets {
            accepted += usize::from(push(&self.queue, packet));
        }
        if accepted > 0 {
            self.queue.announce();
        }
        Sent {
            accepted,
            dropped: packets.len() - accepted,
        }
    }

    fn info(&self) -> DriverInfo {
        info()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("queue_full", self.queue.refused())]
    }
}

/// The host's side of an inner port.
#[derive(Clone, Debug)]
pub struct InnerUser {
    into: Arc<Queue<()>>,
    out_of: Arc<Queue<()>>,
}

impl InnerUser {
    /// Hands an IP packet to the tunnel; false when the queue is full and it was dropped.
    #[must_use]
    pub fn send(&self, packet: &[u8]) -> bool {
        let accepted = push(&self.into, packet);
        if accepted {
            self.into.announce();
        }
        accepted
    }

    /// Lends the next packet that came out of the tunnel; `None` when there is none.
    pub fn receive<T>(&self, handle: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.out_of.acknowledge();
        let parcel = self.out_of.pop()?;
        if !self.out_of.is_empty() {
            self.out_of.announce();
        }
        let result = handle(parcel.bytes());
        self.out_of.recycle(parcel);
        Some(result)
    }

    /// As [`receive`](Self::receive), but waits for a packet, at most for `patience`.
    pub fn receive_within<T>(
        &self,
        patience: Duration,
        handle: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let parcel = self.out_of.pop_within(patience)?;
        let result = handle(parcel.bytes());
        self.out_of.recycle(parcel);
        Some(result)
    }

    /// Readable while a packet waits for [`receive`](Self::receive).
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.out_of.event()
    }
}

fn push(queue: &Queue<()>, packet: &[u8]) -> bool {
    let Some(mut parcel) = queue.take(packet.len(), ()) else {
        return false;
    };
    parcel.bytes_mut().copy_from_slice(packet);
    queue.push(parcel);
    true
}

fn info() -> DriverInfo {
    DriverInfo {
        driver: "memory",
        mode: "channel".to_owned(),
        ..DriverInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_both_ways_in_order() {
        let (mut rx, mut tx, user) = inner_port(8).unwrap();
        assert!(user.send(b"one"));
        assert!(user.send(b"two"));
        let mut seen = Vec::new();
        let count = rx
            .recv_batch(&mut |batch| seen.extend(batch.iter().map(|packet| packet.data.to_vec())))
            .unwrap();
        assert_eq!((count, seen), (2, vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(rx.recv_batch(&mut |_| unreachable!()).unwrap(), 0);

        let sent = tx.send_batch(&[b"three", b"four"]);
        assert_eq!((sent.accepted, sent.dropped), (2, 0));
        assert_eq!(user.receive(<[u8]>::to_vec), Some(b"three".to_vec()));
        let last = user.receive_within(Duration::from_secs(20), <[u8]>::to_vec);
        assert_eq!(last, Some(b"four".to_vec()));
        assert_eq!(user.receive(|_| ()), None);
    }

    #[test]
    fn full_queues_drop_and_count() {
        let (rx, mut tx, user) = inner_port(2).unwrap();
        let sent = tx.send_batch(&[b"1", b"2", b"3"]);
        assert_eq!((sent.accepted, sent.dropped), (2, 1));
        assert_eq!(tx.statistics(), [("queue_full", 1)]);
        assert!(user.send(b"1") && user.send(b"2"));
        assert!(!user.send(b"3"));
        assert_eq!(rx.statistics(), [("queue_full", 1)]);
    }
}
