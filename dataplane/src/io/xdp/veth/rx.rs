//! The receiving half of an inner queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringspan_xdp_common::inner::ETHERNET_HEADER;

use super::super::path::{PathKey, PathReader};
use super::super::queue::Description;
use super::super::rx_frames::{RxFrames, RxSide};
use super::super::socket::SocketStatistics;
use super::partial;
use crate::engine::port::{DriverInfo, InnerRx, MAX_BATCH, Packet, Pollable};
use crate::wire::Ip;

/// Receives the packets that the interface's other end sends through the tunnel.
#[derive(Debug)]
pub struct VethRx {
    side: RxSide,
    description: Arc<Description>,
    paths: PathReader,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    packets: u64,
    /// Checksums that were only there in part.
    completed: u64,
    /// No IP packet, or one that was cut short.
    malformed: u64,
}

impl VethRx {
    pub(super) fn new(side: RxSide, description: Arc<Description>, paths: PathReader) -> Self {
        Self {
            side,
            description,
            paths,
            counters: Counters::default(),
        }
    }

    /// Where the frames are at this moment.
    #[must_use]
    pub fn frames(&self) -> RxFrames {
        self.side.frames()
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    #[must_use]
    pub fn socket_statistics(&self) -> SocketStatistics {
        self.side.socket_statistics()
    }
}

/// The packet in `frame`, without what pads the frame.
fn packet(frame: &mut [u8]) -> Option<&mut [u8]> {
    let bytes = frame.get_mut(ETHERNET_HEADER..)?;
    let length = Ip::parse(bytes).ok()?.total_len();
    bytes.get_mut(..length)
}

/// Tells the resolver that the path to the sender of `frame` works.
fn confirm(paths: &mut PathReader, interface: u32, frame: &[u8]) {
    let Some(source_mac) = frame.get(6..).and_then(|rest| rest.first_chunk()) else {
        return;
    };
    let packet = frame.get(ETHERNET_HEADER..).unwrap_or_default();
    if let Ok(ip) = Ip::parse(packet) {
        let key = PathKey {
            remote: ip.source(),
            source: None,
            scope: 0,
        };
        paths.refresh();
        paths.confirm(&key, interface, *source_mac);
    }
}

impl AsFd for VethRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.side.handle).as_fd()
    }
}

impl Pollable for VethRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(self.as_fd());
    }

    fn info(&self) -> DriverInfo {
        self.description.info()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.side.statistics();
        all.extend([
            ("rx_packets", self.counters.packets),
            ("rx_checksums_completed", self.counters.completed),
            ("rx_malformed", self.counters.malformed),
        ]);
        all
    }
}

impl InnerRx for VethRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        // Not empty only after a panic in `handle`.
        if !self.side.lent.is_empty() {
            self.side.give_back([]);
        }
        self.side.take();
        if self.side.lent.is_empty() {
            // The flag may have come up after the last refill.
            self.side.give_back([]);
            return Ok(0);
        }
        let mut packets = ArrayVec::<Packet<'_>, MAX_BATCH>::new();
        let interface = self.description.interface;
        // One frame a batch speaks for the neighbour's health.
        let mut confirming = Some(&mut self.paths);
        let umem = &self.side.handle.umem;
        for frame in &mut *self.side.lent {
            let Some(bytes) = frame.bytes(umem) else {
                self.counters.malformed += 1;
                continue;
            };
            if let Some(paths) = confirming.take() {
                confirm(paths, interface, bytes);
            }
            let Some(data) = packet(bytes) else {
                self.counters.malformed += 1;
                continue;
            };
            self.counters.completed += u64::from(partial::complete(data));
            packets.push(Packet { data });
        }
        let count = packets.len();
        self.counters.packets += count as u64;
        if count > 0 {
            handle(&mut packets);
        }
        drop(packets);
        self.side.give_back([]);
        Ok(count)
    }
}
