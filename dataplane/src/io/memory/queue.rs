//! One direction: a bounded queue of recycled buffers, and the eventfd that announces it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};

/// A packet in a buffer that may be longer than it.
#[derive(Debug)]
pub(super) struct Parcel<M> {
    buffer: Vec<u8>,
    len: usize,
    pub(super) meta: M,
}

impl<M> Parcel<M> {
    /// Makes room for `len` bytes of arbitrary contents.
    fn resize(&mut self, len: usize) {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        self.len = len;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(..self.len).unwrap_or_default()
    }
}

/// What both sides share. Any number of threads may stand on either side; with one on each, the
/// order is kept.
#[derive(Debug)]
pub(super) struct Queue<M> {
    ready: (Sender<Parcel<M>>, Receiver<Parcel<M>>),
    /// Empty buffers. There are as many parcels as the queue has places, so neither channel can
    /// be full when a parcel comes back to it.
    free: (Sender<Parcel<M>>, Receiver<Parcel<M>>),
    event: OwnedFd,
    full: AtomicU64,
}

impl<M: Copy + Default> Queue<M> {
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let capacity = capacity.max(1);
        let free = bounded(capacity);
        for _ in 0..capacity {
            let empty = Parcel {
                buffer: Vec::new(),
                len: 0,
                meta: M::default(),
            };
            // Cannot fail: the channel has a place for each, and this function holds its
            // receiving end.
            let _ = free.0.try_send(empty);
        }
        Ok(Self {
            ready: bounded(capacity),
            free,
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            full: AtomicU64::new(0),
        })
    }

    /// A parcel of `len` bytes to fill; `None`, and counted, when all are under way.
    pub(super) fn take(&self, len: usize, meta: M) -> Option<Parcel<M>> {
        let Ok(mut parcel) = self.free.1.try_recv() else {
            self.full.fetch_add(1, Relaxed);
            return None;
        };
        parcel.resize(len);
        parcel.meta = meta;
        Some(parcel)
    }

    /// Queues a filled parcel; [`announce`](Self::announce) tells the receiver.
    pub(super) fn push(&self, parcel: Parcel<M>) {
        let _ = self.ready.0.try_send(parcel);
    }

    /// Makes the eventfd readable.
    pub(super) fn announce(&self) {
        // It refuses only when its counter is about to overflow: readable anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes the eventfd unreadable. Call before the queue is drained, so that what comes in
    /// meanwhile announces itself again.
    pub(super) fn acknowledge(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }

    pub(super) fn pop(&self) -> Option<Parcel<M>> {
        self.ready.1.try_recv().ok()
    }

    pub(super) fn pop_within(&self, patience: Duration) -> Option<Parcel<M>> {
        self.ready.1.recv_timeout(patience).ok()
    }

    /// Returns a buffer.
    pub(super) fn recycle(&self, parcel: Parcel<M>) {
        let _ = self.free.0.try_send(parcel);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.1.is_empty()
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// How many packets found no free buffer.
    pub(super) fn refused(&self) -> u64 {
        self.full.load(Relaxed)
    }
}
