//! The receiving side of a socket: RX ring in, fill ring out, and the frames between them.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::ring::{Consumer, Descriptor, Producer};
use super::socket::{Handle, SocketStatistics};
use super::umem::Chunk;
use crate::engine::port::MAX_BATCH;

/// A frame that is ours for the moment.
#[derive(Debug)]
pub(super) struct Frame {
    /// `None` once the frame was sent on.
    pub(super) chunk: Option<Chunk>,
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// The rings of a receiving half, and the frames that it lends.
#[derive(Debug)]
pub(super) struct RxSide {
    // Rings before the socket: see `Socket`.
    fill: Producer<u64>,
    rx: Consumer<Descriptor>,
    /// Taken from the RX ring, not yet back in the fill ring. Empty between calls, unless the
    /// engine panicked: then the frames are returned by the next call.
    pub(super) lent: Box<ArrayVec<Frame, MAX_BATCH>>,
    pub(super) handle: Arc<Handle>,
    need_wakeup: bool,
    total: u32,
    /// Sent on by another socket and not yet back.
    forwarded: u32,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    /// An address that is not in the UMEM: the ring was written by somebody else.
    foreign: u64,
    wakeups: u64,
}

/// Where the frames of a receiving half are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxFrames {
    /// All of them.
    pub total: u32,
    /// In the fill ring, for the kernel to take.
    pub fill_ring: u32,
    /// In the RX ring, received, for us to take.
    pub rx_ring: u32,
    /// In our hands.
    pub lent: u32,
    /// Sent on by another socket without a copy, and not yet back.
    pub forwarded: u32,
}

impl RxFrames {
    /// With the kernel or the card: taken from the fill ring and not yet received into. In copy
    /// mode, and while nothing comes, 0 or the one frame that the kernel took ahead.
    #[must_use]
    pub const fn in_kernel(&self) -> u32 {
        self.total
            .saturating_sub(self.fill_ring)
            .saturating_sub(self.rx_ring)
            .saturating_sub(self.lent)
            .saturating_sub(self.forwarded)
    }
}

impl RxSide {
    /// Of the `total` frames, all must be in `fill` already.
    pub(super) fn new(
        fill: Producer<u64>,
        rx: Consumer<Descriptor>,
        handle: Arc<Handle>,
        need_wakeup: bool,
        total: u32,
    ) -> Self {
        Self {
            fill,
            rx,
            lent: Box::default(),
            handle,
            need_wakeup,
            total,
            forwarded: 0,
            counters: Counters::default(),
        }
    }

    /// Where the frames are at this moment.
    pub(super) fn frames(&self) -> RxFrames {
        RxFrames {
            total: self.total,
            fill_ring: self.fill.pending(),
            rx_ring: self.rx.waiting(),
            lent: self.lent.len() as u32,
            forwarded: self.forwarded,
        }
    }

    /// Takes up to a batch of frames out of the RX ring into `lent`.
    pub(super) fn take(&mut self) {
        while !self.lent.is_full() {
            let Some(descriptor) = self.rx.pop() else {
                break;
            };
            // SAFETY: the RX ring returns frames of this socket's fill ring, each entry is popped
            // once, and the token of every chunk that the kernel has was surrendered to the
            // fill ring.
            let frame = unsafe { self.handle.umem.reclaim(descriptor.address) };
            match frame {
                Some((chunk, offset)) => self.lent.push(Frame {
                    chunk: Some(chunk),
                    offset,
                    length: descriptor.length as usize,
                }),
                None => self.counters.foreign += 1,
            }
        }
        self.rx.release();
    }

    /// Puts everything that is still in `lent`, and what comes `back` from being sent on, into the
    /// fill ring, and wakes the driver if it sleeps.
    pub(super) fn give_back(&mut self, back: impl IntoIterator<Item = Chunk>) {
        let mut returned = false;
        for frame in self.lent.drain(..) {
            match frame.chunk {
                // Never full: the ring has an entry for every frame.
                Some(chunk) => returned |= self.fill.push(chunk.surrender(0)),
                None => self.forwarded += 1,
            }
        }
        for chunk in back {
            self.forwarded = self.forwarded.saturating_sub(1);
            returned |= self.fill.push(chunk.surrender(0));
        }
        if returned {
            self.fill.publish();
        }
        if self.need_wakeup && self.fill.needs_wakeup() {
            self.counters.wakeups += 1;
            // Only fails when the interface is down or the program gone: then nothing comes,
            // and the next call tries again.
            let _ = self.handle.kick_rx();
        }
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    pub(super) fn socket_statistics(&self) -> SocketStatistics {
        self.handle.statistics().unwrap_or_default()
    }

    /// The statistics that every receiving half has, name and value.
    pub(super) fn statistics(&self) -> Vec<(&'static str, u64)> {
        let frames = self.frames();
        let kernel = self.socket_statistics();
        vec![
            ("rx_dropped", kernel.rx_dropped),
            ("rx_invalid_descs", kernel.rx_invalid_descs),
            ("rx_ring_full", kernel.rx_ring_full),
            ("rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs),
            ("rx_foreign_descs", self.counters.foreign),
            ("rx_wakeups", self.counters.wakeups),
            ("rx_frames", u64::from(frames.total)),
            ("rx_frames_fill_ring", u64::from(frames.fill_ring)),
            ("rx_frames_rx_ring", u64::from(frames.rx_ring)),
            ("rx_frames_forwarded", u64::from(frames.forwarded)),
        ]
    }
}
