//! The receiving side of a socket: RX ring in, fill ring out, and the frames between them.

use core::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::gather::Gather;
use super::ring::{Consumer, Descriptor, Producer};
use super::socket::{Handle, SocketStatistics};
use super::umem::{Chunk, Umem};
use crate::engine::port::MAX_BATCH;

/// A frame that is ours for the moment.
#[derive(Debug)]
pub(super) enum Frame {
    /// In the chunk that it was received into.
    InPlace {
        /// `None` once the frame was sent on.
        chunk: Option<Chunk>,
        offset: usize,
        length: usize,
    },
    /// Put together from several chunks, at this place of the arena.
    Gathered(Range<usize>),
}

impl Frame {
    /// Its chunk, while it is ours.
    pub(super) const fn chunk(&self) -> Option<&Chunk> {
        match self {
            Self::InPlace { chunk, .. } => chunk.as_ref(),
            Self::Gathered(_) => None,
        }
    }

    /// Takes its chunk, to be sent on.
    pub(super) const fn take_chunk(&mut self) -> Option<Chunk> {
        match self {
            Self::InPlace { chunk, .. } => chunk.take(),
            Self::Gathered(_) => None,
        }
    }

    /// What was received, where it lies in a chunk of ours.
    pub(super) fn bytes<'a>(&'a mut self, umem: &'a Umem) -> Option<&'a mut [u8]> {
        match self {
            Self::InPlace {
                chunk,
                offset,
                length,
            } => umem.bytes(chunk.as_mut()?, *offset, *length),
            Self::Gathered(_) => None,
        }
    }
}

/// The most descriptors taken at once: so that a flood of frames which make no datagram cannot keep
/// us from anything else.
const MOST_DESCRIPTORS: usize = 8 * MAX_BATCH;

/// The rings of a receiving half, and the frames that it lends.
#[derive(Debug)]
pub(super) struct RxSide {
    // Rings before the socket: see `Socket`.
    fill: Producer<u64>,
    rx: Consumer<Descriptor>,
    /// Taken from the RX ring, not yet back in the fill ring. Empty between calls, unless the
    /// engine panicked: then the frames are returned by the next call.
    pub(super) lent: Box<ArrayVec<Frame, MAX_BATCH>>,
    /// For frames of several chunks; none where the socket takes none.
    pub(super) gather: Option<Gather>,
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
            gather: None,
            handle,
            need_wakeup,
            total,
            forwarded: 0,
            counters: Counters::default(),
        }
    }

    /// With this to put frames of several chunks together.
    pub(super) fn gathering(self, gather: Option<Gather>) -> Self {
        Self { gather, ..self }
    }

    /// Where the frames are at this moment.
    pub(super) fn frames(&self) -> RxFrames {
        RxFrames {
            total: self.total,
            fill_ring: self.fill.pending(),
            rx_ring: self.rx.waiting(),
            lent: self.lent.iter().filter_map(Frame::chunk).count() as u32,
            forwarded: self.forwarded,
        }
    }

    /// Takes up to a batch of frames out of the RX ring into `lent`.
    pub(super) fn take(&mut self) {
        let mut returned = false;
        for _ in 0..MOST_DESCRIPTORS {
            if self.lent.is_full() || self.gather.as_ref().is_some_and(|g| !g.has_room()) {
                break;
            }
            let Some(descriptor) = self.rx.pop() else {
                break;
            };
            // SAFETY: the RX ring returns frames of this socket's fill ring, each entry is popped
            // once, and the token of every chunk that the kernel has was surrendered to the
            // fill ring.
            let frame = unsafe { self.handle.umem.reclaim(descriptor.address) };
            self.counters.foreign += u64::from(frame.is_none());
            let length = descriptor.length as usize;
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            match (&mut self.gather, frame) {
                (Some(gather), mut frame) if gather.concerns(more) => {
                    let part = frame
                        .as_mut()
                        .and_then(|(chunk, offset)| self.handle.umem.bytes(chunk, *offset, length));
                    if let Some(place) = gather.add(part.as_deref(), more) {
                        self.lent.push(Frame::Gathered(place));
                    }
                    // Copied: the kernel may have the chunk again.
                    if let Some((chunk, _)) = frame {
                        returned |= self.fill.push(chunk.surrender(0));
                    }
                }
                (_, Some((chunk, offset))) => self.lent.push(Frame::InPlace {
                    chunk: Some(chunk),
                    offset,
                    length,
                }),
                (_, None) => {}
            }
        }
        self.rx.release();
        if returned {
            self.fill.publish();
        }
    }

    /// Puts everything that is still in `lent`, and what comes `back` from being sent on, into the
    /// fill ring, and wakes the driver if it sleeps.
    pub(super) fn give_back(&mut self, back: impl IntoIterator<Item = Chunk>) {
        let mut returned = false;
        for frame in self.lent.drain(..) {
            match frame {
                // Never full: the ring has an entry for every frame.
                Frame::InPlace {
                    chunk: Some(chunk), ..
                } => returned |= self.fill.push(chunk.surrender(0)),
                Frame::InPlace { chunk: None, .. } => self.forwarded += 1,
                // Its chunks went back when it was put together.
                Frame::Gathered(_) => {}
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

    /// Has the kernel poll the card; whether something has come.
    pub(super) fn poll(&self) -> bool {
        // Fails like a wake-up does, and as little depends on it.
        let _ = self.handle.kick_rx();
        self.rx.waiting() > 0
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    pub(super) fn socket_statistics(&self) -> SocketStatistics {
        self.handle.statistics().unwrap_or_default()
    }

    /// The statistics that every receiving half has, name and value.
    pub(super) fn statistics(&self) -> Vec<(&'static str, u64)> {
        let frames = self.frames();
        let kernel = self.socket_statistics();
        let (gathered, broken) = self
            .gather
            .as_ref()
            .map_or((0, 0), |gather| (gather.gathered(), gather.broken()));
        vec![
            ("rx_dropped", kernel.rx_dropped),
            ("rx_invalid_descs", kernel.rx_invalid_descs),
            ("rx_ring_full", kernel.rx_ring_full),
            ("rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs),
            ("rx_foreign_descs", self.counters.foreign),
            ("rx_gathered", gathered),
            ("rx_broken_chains", broken),
            ("rx_wakeups", self.counters.wakeups),
            ("rx_frames", u64::from(frames.total)),
            ("rx_frames_fill_ring", u64::from(frames.fill_ring)),
            ("rx_frames_rx_ring", u64::from(frames.rx_ring)),
            ("rx_frames_forwarded", u64::from(frames.forwarded)),
        ]
    }
}
