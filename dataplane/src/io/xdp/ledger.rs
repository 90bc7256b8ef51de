//! Who has which frame while frames of one socket are sent by another one.
//!
//! The lender, a receiving half, lends the engine its frames. What the engine opened in such a
//! frame, the sender does not copy: it notes the place. When the engine is done, the lender hands
//! the noted frames' tokens over ([`Ledger::settle`]), they go into the sender's TX ring, and what
//! the completion ring gives back goes home: the lender's frames to the lender, the sender's own
//! (into which it copies whatever lies elsewhere) to the free ones.
//!
//! A place in the rings is set aside when a frame is noted or copied, so that nothing can fail
//! later: at most as many frames are under way as the rings have entries.

#[cfg(test)]
mod tests;

use core::mem;
use std::sync::Arc;

use super::ring::{Consumer, Descriptor, Producer};
use super::rx_frames::Frame;
use super::umem::{Chunk, FreeChunks, Umem};

/// What stands in front of a packet: hardware addresses and EtherType.
pub(super) type EthernetHeader = [u8; 14];

const HEADER: usize = size_of::<EthernetHeader>();

/// Where a copied packet begins in its chunk: on a cache line, with room for the header.
const COPY_OFFSET: usize = 128;

/// Why a packet was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    TooLong,
    RingFull,
}

/// A packet that waits until the lender's frames are handed over: those behind a noted one must
/// not overtake it.
#[derive(Debug)]
enum Waiting {
    Noted {
        chunk: u32,
        offset: usize,
        length: usize,
        header: EthernetHeader,
    },
    Copied {
        chunk: Chunk,
        length: usize,
    },
}

/// What the ledger counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LedgerCounters {
    /// Frames of the lender put into the TX ring.
    pub(super) forwarded: u64,
    /// Packets copied into frames of the sender's.
    pub(super) copied: u64,
    /// Noted packets whose frame never was handed over: the engine panicked in between.
    pub(super) abandoned: u64,
    /// Addresses in the completion ring that are in no chunk.
    pub(super) foreign: u64,
}

/// Where the sender's frames, and those sent on for the lender, are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutletFrames {
    /// The sender's own.
    pub total: usize,
    /// Its own that are free.
    pub free: usize,
    /// Own and lent ones in the rings, or with the kernel.
    pub under_way: usize,
    /// Lent ones that were sent, for the lender to take home.
    pub returned: usize,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) tx: Producer<Descriptor>,
    completion: Consumer<u64>,
    umem: Arc<Umem>,
    free: FreeChunks,
    /// Of the chunks below this number, the lender's.
    noted: Box<[bool]>,
    waiting: Vec<Waiting>,
    returned: Vec<Chunk>,
    /// Frames in the TX ring, with the kernel, or in the completion ring.
    under_way: usize,
    capacity: usize,
    pub(super) counters: LedgerCounters,
}

impl Ledger {
    /// Over rings of `capacity` entries each, with `chunks` to copy into. The lender's chunks are
    /// the first `lent` of `umem`; 0 where nobody lends.
    pub(super) fn new(
        tx: Producer<Descriptor>,
        completion: Consumer<u64>,
        umem: Arc<Umem>,
        chunks: Vec<Chunk>,
        lent: u32,
        capacity: u32,
    ) -> Self {
        let capacity = capacity as usize;
        Self {
            tx,
            completion,
            umem,
            free: FreeChunks::new(chunks),
            noted: vec![false; lent as usize].into(),
            waiting: Vec::with_capacity(capacity),
            // Twice: of the frames that come back between two visits of the lender, a ring's worth
            // may come with each.
            returned: Vec::with_capacity(if lent > 0 { 2 * capacity } else { 0 }),
            under_way: 0,
            capacity,
            counters: LedgerCounters::default(),
        }
    }

    pub(super) fn frames(&self) -> OutletFrames {
        OutletFrames {
            total: self.free.total(),
            free: self.free.len(),
            under_way: self.under_way,
            returned: self.returned.len(),
        }
    }

    /// Whether nothing waits for the lender.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether one more frame can be taken without asking the kernel for frames back.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() + self.under_way < self.capacity && self.free.len() > 0
    }

    /// Takes a packet: notes it where it lies in a frame of the lender's, else copies it.
    pub(super) fn add(&mut self, packet: &[u8], header: &EthernetHeader) -> Result<(), Refusal> {
        if self.waiting.len() + self.under_way >= self.capacity {
            return Err(Refusal::RingFull);
        }
        if let Some((chunk, offset)) = self.umem.locate(packet)
            && offset >= HEADER
            && let Some(noted) = self.noted.get_mut(chunk as usize)
            && !mem::replace(noted, true)
        {
            self.waiting.push(Waiting::Noted {
                chunk,
                offset,
                length: packet.len(),
                header: *header,
            });
            return Ok(());
        }
        let length = HEADER + packet.len();
        let mut chunk = self.free.take().ok_or(Refusal::RingFull)?;
        let Some(frame) = self.umem.bytes(&mut chunk, COPY_OFFSET - HEADER, length) else {
            self.free.put(chunk);
            return Err(Refusal::TooLong);
        };
        let (head, body) = frame.split_at_mut(HEADER);
        head.copy_from_slice(header);
        body.copy_from_slice(packet);
        self.counters.copied += 1;
        if self.waiting.is_empty() {
            self.push(chunk, COPY_OFFSET - HEADER, length);
        } else {
            self.waiting.push(Waiting::Copied { chunk, length });
        }
        Ok(())
    }

    /// The lender's engine is done with `lent`: takes the tokens of what was noted out of it, and
    /// puts everything that waited into the TX ring, in order.
    pub(super) fn settle(&mut self, lent: &mut [Frame]) {
        let mut waiting = mem::take(&mut self.waiting);
        // Noted in the order in which they were lent, mostly.
        let mut next = 0;
        for packet in waiting.drain(..) {
            match packet {
                Waiting::Copied { chunk, length } => {
                    self.push(chunk, COPY_OFFSET - HEADER, length);
                }
                Waiting::Noted {
                    chunk: index,
                    offset,
                    length,
                    header,
                } => {
                    if let Some(noted) = self.noted.get_mut(index as usize) {
                        *noted = false;
                    }
                    let Some((place, chunk)) = take_from(lent, next, index) else {
                        self.counters.abandoned += 1;
                        continue;
                    };
                    next = place + 1;
                    self.forward(chunk, offset, length, &header);
                }
            }
        }
        self.waiting = waiting;
        self.tx.publish();
    }

    fn forward(&mut self, mut chunk: Chunk, offset: usize, length: usize, header: &EthernetHeader) {
        // `add` saw to it that there is room for the header.
        let start = offset.saturating_sub(HEADER);
        if let Some(place) = self.umem.bytes(&mut chunk, start, HEADER) {
            place.copy_from_slice(header);
        }
        self.counters.forwarded += 1;
        self.push(chunk, start, HEADER + length);
    }

    fn push(&mut self, chunk: Chunk, start: usize, length: usize) {
        // Never full: `add` counted the ring's entries.
        let pushed = self.tx.push(Descriptor {
            address: chunk.surrender(start),
            length: length as u32,
            options: 0,
        });
        debug_assert!(pushed, "more frames under way than TX ring entries");
        self.under_way += usize::from(pushed);
    }

    /// Takes sent frames back.
    pub(super) fn reap(&mut self) {
        let mut any = false;
        // Kernels complete frames before they take them out of the TX ring: no more may come back
        // than there is room for, or some later push would fail. What waits needs its room then.
        let room = self.tx.room(self.tx.capacity()) as usize;
        while self.capacity.saturating_sub(self.under_way) < room
            && let Some(address) = self.completion.pop()
        {
            any = true;
            // SAFETY: the completion ring returns the frames of this socket's TX ring, each
            // entry is popped once, and their tokens were surrendered to that ring.
            match unsafe { self.umem.reclaim(address) } {
                Some((chunk, _)) => {
                    self.under_way = self.under_way.saturating_sub(1);
                    if (chunk.index() as usize) < self.noted.len() {
                        self.returned.push(chunk);
                    } else {
                        self.free.put(chunk);
                    }
                }
                None => self.counters.foreign += 1,
            }
        }
        if any {
            self.completion.release();
        }
    }

    /// The lender's frames that have come back.
    pub(super) fn take_returned(&mut self) -> impl Iterator<Item = Chunk> {
        self.returned.drain(..)
    }
}

/// The token of chunk `index` out of `lent`, and where it was; looked for from `next` on.
fn take_from(lent: &mut [Frame], next: usize, index: u32) -> Option<(usize, Chunk)> {
    let is_it = |frame: &Frame| frame.chunk().is_some_and(|c| c.index() == index);
    let (before, after) = lent.split_at_checked(next.min(lent.len()))?;
    let place = match after.iter().position(is_it) {
        Some(place) => before.len() + place,
        None => before.iter().position(is_it)?,
    };
    let chunk = lent.get_mut(place)?.take_chunk()?;
    Some((place, chunk))
}
