//! The sending half of a queue: TX ring out, completion ring in.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use arrayvec::ArrayVec;

use super::driver::LARGEST_DATAGRAM;
use super::header::{self, Fields, HeaderTemplate, MOST_HEADERS};
use super::kick::Kicks;
use super::metadata;
use super::path::{Path, PathKey, PathReader};
use super::queue::Description;
use super::ring::{Consumer, Descriptor, Producer};
use super::socket::{Handle, SocketStatistics};
use super::umem::{CHUNK_SIZE, Chunk, Place, SendChunks};
use crate::engine::port::{DriverInfo, MAX_BATCH, OuterTx, Sent, TxRequest, TxSlot};
use crate::mesh::Endpoint;
use crate::wire::checksum::Sum;

/// Where a datagram begins in its chunk or run: room for the headers and the metadata in front of
/// it, and on a cache line.
pub(super) const PAYLOAD_OFFSET: usize = 128;
const _: () = assert!(metadata::LENGTH + MOST_HEADERS <= PAYLOAD_OFFSET);

/// Sends datagrams by one queue.
///
/// Its frames circulate between it and the kernel: free → headers and datagram written → TX
/// ring → kernel → completion ring → free. They are never the receiving half's.
#[derive(Debug)]
pub struct XdpTx {
    // Rings before the socket: see `Socket`.
    tx: Producer<Descriptor>,
    completion: Consumer<u64>,
    free: SendChunks,
    filling: Box<ArrayVec<Filling, MAX_BATCH>>,
    handle: Arc<Handle>,
    description: Arc<Description>,
    settings: TxSettings,
    identification: u16,
    paths: PathReader,
    current: Option<Current>,
    kicks: Kicks,
    counters: TxCounters,
}

/// What the sending half must know of the tunnel.
#[derive(Clone, Debug)]
pub(super) struct TxSettings {
    /// The local UDP port, which may change.
    pub(super) source_port: Arc<AtomicU16>,
    /// Whether IPv4 datagrams carry a UDP checksum too.
    pub(super) ipv4_checksum: bool,
    /// The largest UDP payload, in bytes, that a path must be able to carry.
    pub(super) largest_datagram: u16,
    /// Whether frames ask for their UDP checksum by metadata, instead of bearing it.
    pub(super) metadata: bool,
}

/// The endpoint of the last datagram: mostly also the next one's.
#[derive(Debug)]
struct Current {
    endpoint: Endpoint,
    source_port: u16,
    generation: u64,
    template: HeaderTemplate,
    path: Arc<Path>,
}

/// A frame that is being written.
#[derive(Debug)]
struct Filling {
    place: Place,
    request: usize,
    headers: usize,
    length: usize,
    /// The UDP checksum's beginning, if one is wanted; the pseudo-header's sum where others compute
    /// the checksum.
    checksum: Option<Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TxCounters {
    datagrams: u64,
    multi_buffer: u64,
    no_path: u64,
    too_long: u64,
    ring_full: u64,
    foreign: u64,
}

/// Where the frames of a sending half are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxFrames {
    /// All of them.
    pub total: usize,
    /// Free to be used.
    pub free: usize,
    /// In the TX ring, for the kernel to take.
    pub tx_ring: usize,
    /// Sent, in the completion ring, for us to take back.
    pub completion_ring: usize,
}

impl TxFrames {
    /// With the kernel or the card: taken from the TX ring and not yet completed.
    #[must_use]
    pub const fn in_kernel(&self) -> usize {
        self.total
            .saturating_sub(self.free)
            .saturating_sub(self.tx_ring)
            .saturating_sub(self.completion_ring)
    }
}

/// Why a request gets no frame.
enum Refusal {
    NoPath,
    TooLong,
    RingFull,
}

impl XdpTx {
    /// `chunks` may not be more than either ring has entries.
    pub(super) fn new(
        tx: Producer<Descriptor>,
        completion: Consumer<u64>,
        chunks: Vec<Chunk>,
        handle: Arc<Handle>,
        description: Arc<Description>,
        settings: TxSettings,
        paths: PathReader,
    ) -> Self {
        // Any beginning serves: identifications are told apart for some milliseconds only.
        let longest = if description.mode.multi_buffer {
            PAYLOAD_OFFSET + usize::from(settings.largest_datagram)
        } else {
            CHUNK_SIZE
        };
        let identification = getrandom::u32().map_or(0, |random| random as u16);
        Self {
            tx,
            completion,
            free: SendChunks::new(chunks, longest),
            filling: Box::default(),
            handle,
            description,
            settings,
            identification,
            paths,
            current: None,
            kicks: Kicks::default(),
            counters: TxCounters::default(),
        }
    }

    /// Where the frames are at this moment.
    #[must_use]
    pub fn frames(&self) -> TxFrames {
        TxFrames {
            total: self.free.total(),
            free: self.free.len() + self.filling_chunks(),
            tx_ring: self.tx.pending() as usize,
            completion_ring: self.completion.waiting() as usize,
        }
    }

    fn filling_chunks(&self) -> usize {
        self.filling.iter().map(|f| f.place.chunks()).sum()
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    #[must_use]
    pub fn socket_statistics(&self) -> SocketStatistics {
        self.handle.statistics().unwrap_or_default()
    }

    /// Sends a frame of the caller's own, as it is; false when it does not get as far as the
    /// kernel.
    pub(super) fn send_frame(&mut self, frame: &[u8]) -> bool {
        let Some(mut place) = self.free_place(frame.len()) else {
            return false;
        };
        if let Some(bytes) = place.bytes(&self.handle.umem, PAYLOAD_OFFSET, frame.len()) {
            bytes.copy_from_slice(frame);
        }
        let errors = self.kicks.errors;
        let pushed = push(
            &mut self.tx,
            &mut self.free,
            place,
            PAYLOAD_OFFSET,
            frame.len(),
            0,
        );
        self.tx.publish();
        self.kick();
        pushed && self.kicks.errors == errors
    }

    /// Whether none of its frames is under way; urges the kernel on where one is.
    pub(super) fn has_all_frames(&mut self) -> bool {
        self.flush();
        self.free.len() == self.free.total()
    }

    /// Takes sent frames back.
    fn reap(&mut self) {
        let mut any = false;
        // Linux 6.1 completes frames before it takes them out of the TX ring: no more may
        // come back than there is room for, or some later push would fail.
        let room = self.tx.room(self.tx.capacity()) as usize;
        let mut held = self.free.len() + self.filling_chunks();
        while held < room
            && let Some(address) = self.completion.pop()
        {
            any = true;
            held += 1;
            // SAFETY: the completion ring returns the frames of this socket's TX ring, each
            // entry is popped once, and their tokens were surrendered to that ring.
            match unsafe { self.handle.umem.reclaim(address) } {
                Some((chunk, _)) => self.free.put(chunk),
                None => self.counters.foreign += 1,
            }
        }
        if any {
            self.completion.release();
        }
    }

    /// A free place for a datagram of `length` bytes; when there is none, the kernel is asked for
    /// those it has.
    fn free_place(&mut self, length: usize) -> Option<Place> {
        let bytes = PAYLOAD_OFFSET + length;
        let place = self.free.take_place(bytes);
        if place.is_some() {
            return place;
        }
        self.reap();
        let place = self.free.take_place(bytes);
        if place.is_some() {
            return place;
        }
        self.kick();
        self.reap();
        self.free.take_place(bytes)
    }

    fn kick(&mut self) {
        let polled = self.description.busy_poll.polls();
        self.kicks
            .kick(&self.tx, &self.handle, self.description.mode, polled);
    }

    /// Makes `current` the path and headers for `endpoint`; false when it is not reached by
    /// this queue.
    fn select(&mut self, endpoint: &Endpoint, generation: u64) -> bool {
        let source_port = self.settings.source_port.load(Relaxed);
        if self.current.as_ref().is_some_and(|now| {
            now.generation == generation
                && now.endpoint == *endpoint
                && now.source_port == source_port
        }) {
            return true;
        }
        self.current = self.look_up(endpoint, source_port, generation);
        self.current.is_some()
    }

    /// The largest datagram that a frame of this half holds, and an IP packet.
    fn largest_payload(&self) -> usize {
        (self.free.longest() - PAYLOAD_OFFSET).min(usize::from(LARGEST_DATAGRAM))
    }

    fn look_up(
        &mut self,
        endpoint: &Endpoint,
        source_port: u16,
        generation: u64,
    ) -> Option<Current> {
        let path = self.paths.path(&PathKey::from(endpoint))?;
        if path.interface != self.description.interface {
            return None;
        }
        let template = HeaderTemplate::new(&path, source_port, endpoint.remote)?;
        let largest = template.ip_length() + usize::from(self.settings.largest_datagram);
        let fits = usize::from(self.settings.largest_datagram) <= self.largest_payload();
        if largest > path.mtu as usize || !fits {
            return None;
        }
        Some(Current {
            endpoint: *endpoint,
            source_port,
            generation,
            template,
            path,
        })
    }

    /// A frame for `request`, its headers written.
    fn prepare(
        &mut self,
        index: usize,
        request: &TxRequest,
        generation: u64,
    ) -> Result<Filling, Refusal> {
        if !self.select(&request.to, generation) {
            return Err(Refusal::NoPath);
        }
        if request.len > self.largest_payload() {
            return Err(Refusal::TooLong);
        }
        let mut place = self.free_place(request.len).ok_or(Refusal::RingFull)?;
        let written = self.write_headers(&mut place, request);
        match written {
            Some((headers, checksum)) => Ok(Filling {
                place,
                request: index,
                headers,
                length: request.len,
                checksum,
            }),
            None => {
                self.free.put_place(place);
                Err(Refusal::TooLong)
            }
        }
    }

    /// The headers' length, and the UDP checksum's beginning if it is wanted; `None` when the
    /// datagram is longer than the path or a chunk can carry.
    fn write_headers(
        &mut self,
        place: &mut Place,
        request: &TxRequest,
    ) -> Option<(usize, Option<Sum>)> {
        let Current { template, path, .. } = self.current.as_ref()?;
        let payload = u16::try_from(request.len).ok()?;
        if request.len + template.ip_length() > path.mtu as usize {
            return None;
        }
        let headers = template.length();
        let start = PAYLOAD_OFFSET.checked_sub(headers)?;
        template.write(
            place.bytes(&self.handle.umem, start, headers)?,
            Fields {
                payload,
                tos: request.tos,
                identification: self.identification,
            },
        );
        self.identification = self.identification.wrapping_add(1);
        path.marks.mark_used();
        let checksum = (self.settings.ipv4_checksum || template.must_checksum()).then(|| {
            if self.settings.metadata {
                template.pseudo_sum(payload)
            } else {
                template.checksum_begin(payload)
            }
        });
        Some((headers, checksum))
    }

    /// Lends the frames in `filling`.
    fn lend(&mut self, fill: &mut dyn FnMut(&mut [TxSlot<'_>])) {
        let mut slots = ArrayVec::<TxSlot<'_>, MAX_BATCH>::new();
        for filling in &mut *self.filling {
            let place = &mut filling.place;
            let bytes = place.bytes(&self.handle.umem, PAYLOAD_OFFSET, filling.length);
            if let Some(buffer) = bytes {
                slots.push(TxSlot {
                    request: filling.request,
                    buffer,
                });
            }
        }
        if !slots.is_empty() {
            fill(&mut slots);
        }
    }

    /// Has the frames in `filling` filled and sent; returns how many.
    fn send_written(&mut self, fill: &mut dyn FnMut(&mut [TxSlot<'_>])) -> usize {
        if self.filling.is_empty() {
            return 0;
        }
        self.lend(fill);
        let accepted = self.submit();
        self.counters.datagrams += accepted as u64;
        self.kick();
        accepted
    }

    /// Puts the frames in `filling` into the TX ring; returns how many.
    fn submit(&mut self) -> usize {
        let mut accepted = 0;
        for mut filling in self.filling.drain(..) {
            let headers = filling.headers;
            let start = PAYLOAD_OFFSET - headers;
            let length = headers + filling.length;
            let mut options = 0;
            if self.settings.metadata {
                let reach = (start - metadata::LENGTH, metadata::LENGTH + headers);
                if let Some(pseudo) = filling.checksum
                    && let Some(bytes) = filling.place.bytes(&self.handle.umem, reach.0, reach.1)
                {
                    header::request_checksum(bytes, pseudo);
                    options = metadata::OPTION;
                }
            } else if let Some(begin) = filling.checksum
                && let Some(frame) = filling.place.bytes(&self.handle.umem, start, length)
                && let Some((head, payload)) = frame.split_at_mut_checked(headers)
                && let Some(place) = head.get_mut(header::checksum_offset(headers)..)
            {
                place.copy_from_slice(&begin.with(payload).finish_udp().to_be_bytes());
            }
            // Never full: the ring has an entry for every chunk.
            let several = start + length > CHUNK_SIZE;
            self.counters.multi_buffer += u64::from(several);
            let pushed = push(
                &mut self.tx,
                &mut self.free,
                filling.place,
                start,
                length,
                options,
            );
            debug_assert!(pushed, "more chunks than TX ring entries");
            accepted += usize::from(pushed);
        }
        self.tx.publish();
        accepted
    }
}

/// Puts the `length` bytes of `place` from `start` on into the TX ring; false where it had no room,
/// which its size rules out: it has an entry for every chunk.
fn push(
    tx: &mut Producer<Descriptor>,
    free: &mut SendChunks,
    place: Place,
    start: usize,
    length: usize,
    options: u32,
) -> bool {
    let mut parts = free.surrender(place, start, length);
    parts.all(|(address, length, more)| {
        tx.push(Descriptor {
            address,
            length,
            options: options | if more { libc::XDP_PKT_CONTD } else { 0 },
        })
    })
}

impl AsFd for XdpTx {
    /// The AF_XDP socket: writable when the TX ring has room.
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.handle).as_fd()
    }
}

impl OuterTx for XdpTx {
    fn set_longest(&mut self, bytes: usize) {
        // Paths are judged anew.
        self.settings.largest_datagram = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.current = None;
    }

    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        let generation = self.paths.refresh();
        self.select(endpoint, generation)
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        // Not empty only after a panic in `fill`.
        while let Some(filling) = self.filling.pop() {
            self.free.put_place(filling.place);
        }
        self.reap();
        let generation = self.paths.refresh();
        let mut accepted = 0;
        for (index, request) in requests.iter().enumerate().take(MAX_BATCH) {
            let mut prepared = self.prepare(index, request, generation);
            // A batch of jumbo datagrams may need more than there is: what is written goes first.
            if self.description.mode.multi_buffer
                && !self.filling.is_empty()
                && matches!(prepared, Err(Refusal::RingFull))
            {
                accepted += self.send_written(fill);
                prepared = self.prepare(index, request, generation);
            }
            match prepared {
                Ok(filling) => self.filling.push(filling),
                Err(Refusal::NoPath) => self.counters.no_path += 1,
                Err(Refusal::TooLong) => self.counters.too_long += 1,
                Err(Refusal::RingFull) => self.counters.ring_full += 1,
            }
        }
        accepted += self.send_written(fill);
        Sent {
            accepted,
            dropped: requests.len() - accepted,
        }
    }

    /// Has the kernel send what is still in the TX ring (a full transmit queue, or a full send
    /// buffer in copy mode, stops [`send_batch`](OuterTx::send_batch) half-way), and takes back
    /// what it has sent.
    fn flush(&mut self) -> bool {
        self.kick();
        self.reap();
        self.tx.pending() != 0
    }

    fn info(&self) -> DriverInfo {
        let mut info = self.description.info();
        info.mode.push_str(match self.settings.metadata {
            false => ", checksums in software",
            true if self.description.mode.zero_copy => ", checksums by the card",
            true => ", checksums by the kernel",
        });
        info
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let frames = self.frames();
        let kernel = self.socket_statistics();
        vec![
            ("tx_invalid_descs", kernel.tx_invalid_descs),
            ("tx_ring_empty_descs", kernel.tx_ring_empty_descs),
            ("tx_datagrams", self.counters.datagrams),
            ("tx_multi_buffer", self.counters.multi_buffer),
            ("tx_no_path", self.counters.no_path),
            ("tx_too_long", self.counters.too_long),
            ("tx_ring_full", self.counters.ring_full),
            ("tx_foreign_descs", self.counters.foreign),
            ("tx_wakeups", self.kicks.wakeups),
            ("tx_wakeup_errors", self.kicks.errors),
            ("tx_frames", frames.total as u64),
            ("tx_frames_free", frames.free as u64),
            ("tx_frames_tx_ring", frames.tx_ring as u64),
        ]
    }
}
