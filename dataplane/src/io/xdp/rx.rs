//! The receiving half of a queue: RX ring in, fill ring out.

use core::net::SocketAddr;
use core::ops::Range;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringspan_xdp_common::UdpFrame;

use super::gather::{Frames, Gather};
use super::path::{PathKey, PathReader};
use super::queue::Description;
use super::ring::{Consumer, Descriptor, Producer};
use super::socket::{Handle, SocketStatistics};
use super::umem::Chunk;
use crate::engine::port::{Datagram, DriverInfo, Ecn, MAX_BATCH, OuterRx, Pollable};
use crate::mesh::Endpoint;

/// Receives the datagrams of one queue.
///
/// Its frames circulate between it and the kernel: fill ring → kernel → RX ring → lent to the
/// engine in place → fill ring. Those of a jumbo frame go back as soon as it was put together. They
/// are never the sending half's.
#[derive(Debug)]
pub struct XdpRx {
    // Rings before the socket: see `Socket`.
    fill: Producer<u64>,
    rx: Consumer<Descriptor>,
    /// Taken from the RX ring, not yet back in the fill ring. Empty between calls, unless the
    /// engine panicked: then the frames are returned by the next call.
    lent: Box<ArrayVec<Frame, MAX_BATCH>>,
    /// For frames of several chunks; none where the socket takes none.
    gather: Option<Gather>,
    handle: Arc<Handle>,
    description: Arc<Description>,
    paths: Option<PathReader>,
    frames: u32,
    counters: RxCounters,
}

/// A frame that is ours for the moment.
#[derive(Debug)]
enum Frame {
    /// In the chunk that it was received into.
    InPlace {
        chunk: Chunk,
        offset: usize,
        length: usize,
    },
    /// Put together from several chunks, at this place of the arena.
    Gathered(Range<usize>),
}

/// The most descriptors taken at once: so that a flood of frames which make no datagram cannot keep
/// us from anything else.
const MOST_DESCRIPTORS: usize = 8 * MAX_BATCH;

#[derive(Clone, Copy, Debug, Default)]
struct RxCounters {
    datagrams: u64,
    /// Not a whole UDP datagram: cut short, or a fragment; the program passes none.
    malformed: u64,
    /// An address that is not in the UMEM: the ring was written by somebody else.
    foreign: u64,
    wakeups: u64,
    busy_polls: u64,
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
    }
}

impl XdpRx {
    /// Of the chunks, all must be in `fill` already.
    pub(super) fn new(
        fill: Producer<u64>,
        rx: Consumer<Descriptor>,
        handle: Arc<Handle>,
        description: Arc<Description>,
        paths: Option<PathReader>,
        frames: u32,
        gather: Option<Gather>,
    ) -> Self {
        Self {
            fill,
            rx,
            lent: Box::default(),
            gather,
            handle,
            description,
            paths,
            frames,
            counters: RxCounters::default(),
        }
    }

    /// Where the frames are at this moment.
    #[must_use]
    pub fn frames(&self) -> RxFrames {
        RxFrames {
            total: self.frames,
            fill_ring: self.fill.pending(),
            rx_ring: self.rx.waiting(),
            lent: self
                .lent
                .iter()
                .filter(|frame| matches!(frame, Frame::InPlace { .. }))
                .count() as u32,
        }
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    #[must_use]
    pub fn socket_statistics(&self) -> SocketStatistics {
        self.handle.statistics().unwrap_or_default()
    }

    /// Takes up to a batch of frames out of the RX ring into `lent`.
    fn take(&mut self) {
        let mut returned = false;
        for _ in 0..MOST_DESCRIPTORS {
            if self.lent.is_full() || self.gather.as_ref().is_some_and(|g| !g.has_room()) {
                break;
            }
            let Some(descriptor) = self.rx.pop() else {
                break;
            };
            // SAFETY: the RX ring returns frames of this socket's UMEM, each entry is popped
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
                    chunk,
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

    /// Puts everything in `lent` back into the fill ring and wakes the driver if it sleeps.
    fn give_back(&mut self) {
        let mut returned = false;
        for frame in self.lent.drain(..) {
            if let Frame::InPlace { chunk, .. } = frame {
                // Never full: the ring has an entry for every frame.
                returned |= self.fill.push(chunk.surrender(0));
            }
        }
        if returned {
            self.fill.publish();
        }
        if self.description.mode.need_wakeup && self.fill.needs_wakeup() {
            self.counters.wakeups += 1;
            // Only fails when the interface is down or the program gone: then nothing comes,
            // and the next call tries again.
            let _ = self.handle.kick_rx();
        }
    }

    /// Tells the resolver that the path back to the sender of `frame` works, when it came by
    /// the very next hop that the path leads to.
    fn confirm(paths: &mut PathReader, interface: u32, frame: &UdpFrame, from: &Endpoint) {
        let key = PathKey::from(from);
        for key in [
            key,
            PathKey {
                source: None,
                ..key
            },
        ] {
            if let Some(path) = paths.known(&key)
                && path.destination_mac == frame.source_mac
                && path.interface == interface
            {
                path.marks.mark_confirmed();
            }
        }
    }
}

impl Pollable for XdpRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit((*self.handle).as_fd());
    }

    fn info(&self) -> DriverInfo {
        self.description.info()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
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
            ("rx_datagrams", self.counters.datagrams),
            ("rx_malformed", self.counters.malformed),
            ("rx_foreign_descs", self.counters.foreign),
            ("rx_gathered", gathered),
            ("rx_broken_chains", broken),
            ("rx_wakeups", self.counters.wakeups),
            ("rx_busy_polls", self.counters.busy_polls),
            ("rx_frames", u64::from(frames.total)),
            ("rx_frames_fill_ring", u64::from(frames.fill_ring)),
            ("rx_frames_rx_ring", u64::from(frames.rx_ring)),
        ]
    }
}

impl OuterRx for XdpRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize> {
        // Not empty only after a panic in `handle`.
        if !self.lent.is_empty() {
            self.give_back();
        }
        if let Some(gather) = &mut self.gather {
            gather.begin_batch();
        }
        self.take();
        if self.lent.is_empty() && self.busy_poll() {
            self.take();
        }
        if self.lent.is_empty() {
            // The flag may have come up after the last refill.
            self.give_back();
            return Ok(0);
        }

        let mut datagrams = ArrayVec::<Datagram<'_>, MAX_BATCH>::new();
        let interface = self.description.interface;
        // One frame a batch speaks for the health of a path: it is looked at twice a minute.
        let mut confirming = self.paths.as_mut();
        if let Some(paths) = &mut confirming {
            paths.refresh();
        }
        let mut gathered = self.gather.as_mut().map_or(Frames::none(), Gather::frames);
        for frame in &mut *self.lent {
            let bytes = match frame {
                Frame::InPlace {
                    chunk,
                    offset,
                    length,
                } => self.handle.umem.bytes(chunk, *offset, *length),
                Frame::Gathered(place) => gathered.take(place.clone()),
            };
            let parsed = bytes.and_then(|bytes| {
                let parsed = UdpFrame::parse(bytes).ok()?;
                let payload = bytes.get_mut(parsed.payload.clone())?;
                Some((parsed, payload))
            });
            let Some((parsed, payload)) = parsed else {
                self.counters.malformed += 1;
                continue;
            };
            // Behind a VLAN tag the interface is the VLAN's device, which the frame cannot name.
            let tagged = parsed.vlan.iter().flatten().any(|tag| tag.vlan() != 0);
            let from = Endpoint {
                remote: scoped(parsed.source, interface, tagged),
                local: Some(parsed.destination.ip()),
                interface: if tagged { 0 } else { interface },
            };
            if let Some(paths) = confirming.take() {
                Self::confirm(paths, interface, &parsed, &from);
            }
            datagrams.push(Datagram {
                payload,
                from,
                ecn: Ecn::from(parsed.tos),
            });
        }
        let count = datagrams.len();
        if self.counters.datagrams == 0 {
            self.description.busy_poll.learn((*self.handle).as_fd());
        }
        self.counters.datagrams += count as u64;
        if count > 0 {
            handle(&mut datagrams);
        }
        drop(datagrams);
        self.give_back();
        Ok(count)
    }

    fn busy_poll(&mut self) -> bool {
        if !self.description.busy_poll.polls() {
            return false;
        }
        self.counters.busy_polls += 1;
        // Fails like a wake-up does, and as little depends on it.
        let _ = self.handle.kick_rx();
        self.rx.waiting() > 0
    }
}

/// A link-local source with the interface as its scope: without one it cannot be answered.
fn scoped(source: SocketAddr, interface: u32, tagged: bool) -> SocketAddr {
    match source {
        SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() && !tagged => {
            v6.set_scope_id(interface);
            v6.into()
        }
        other => other,
    }
}
