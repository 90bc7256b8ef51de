//! The receiving half of a queue: RX ring in, fill ring out.

use core::net::SocketAddr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringspan_xdp_common::UdpFrame;

use super::gather::{Frames, Gather};
use super::outlet::Outlet;
use super::path::{PathKey, PathReader};
use super::queue::Description;
use super::rx_frames::{Frame, RxFrames, RxSide};
use super::socket::SocketStatistics;
use crate::engine::port::{Datagram, DriverInfo, Ecn, MAX_BATCH, OuterRx, Pollable};
use crate::mesh::Endpoint;

/// Receives the datagrams of one queue.
///
/// Its frames circulate between it and the kernel: fill ring → kernel → RX ring → lent to the
/// engine in place → fill ring. Those of a jumbo frame go back as soon as it was put together. They
/// are never the sending half's. An inner queue that shares the
/// UMEM may send a lent frame on; then it takes the way through that queue's rings before it comes
/// back.
#[derive(Debug)]
pub struct XdpRx {
    side: RxSide,
    /// Sends on what the engine opened in our frames.
    outlet: Option<Arc<Outlet>>,
    description: Arc<Description>,
    paths: Option<PathReader>,
    counters: RxCounters,
}

#[derive(Clone, Copy, Debug, Default)]
struct RxCounters {
    datagrams: u64,
    /// Not a whole UDP datagram: cut short, or a fragment; the program passes none.
    malformed: u64,
    busy_polls: u64,
}

impl XdpRx {
    pub(super) fn new(
        side: RxSide,
        description: Arc<Description>,
        paths: Option<PathReader>,
    ) -> Self {
        Self {
            side,
            outlet: None,
            description,
            paths,
            counters: RxCounters::default(),
        }
    }

    /// From now on `outlet` may send our frames on.
    pub(super) fn lend_to(&mut self, outlet: Arc<Outlet>) {
        self.outlet = Some(outlet);
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

    /// Sends on what is to be sent on of the lent frames, and gives the rest back to the kernel.
    fn settle(&mut self) {
        match &self.outlet {
            Some(outlet) => {
                let mut back = outlet.settle(&mut self.side.lent);
                self.side.give_back(back.drain());
            }
            None => self.side.give_back([]),
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
            paths.confirm(&key, interface, frame.source_mac);
        }
    }
}

impl Pollable for XdpRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit((*self.side.handle).as_fd());
    }

    fn info(&self) -> DriverInfo {
        self.description.info()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.side.statistics();
        all.extend([
            ("rx_datagrams", self.counters.datagrams),
            ("rx_malformed", self.counters.malformed),
            ("rx_busy_polls", self.counters.busy_polls),
        ]);
        all
    }
}

impl OuterRx for XdpRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize> {
        // Not empty only after a panic in `handle`.
        if !self.side.lent.is_empty() {
            self.settle();
        }
        if let Some(gather) = &mut self.side.gather {
            gather.begin_batch();
        }
        self.side.take();
        if self.side.lent.is_empty() && self.busy_poll() {
            self.side.take();
        }
        if self.side.lent.is_empty() {
            // The flag may have come up after the last refill.
            self.settle();
            return Ok(0);
        }

        let mut datagrams = ArrayVec::<Datagram<'_>, MAX_BATCH>::new();
        let interface = self.description.interface;
        // One frame a batch speaks for the health of a path: it is looked at twice a minute.
        let mut confirming = self.paths.as_mut();
        if let Some(paths) = &mut confirming {
            paths.refresh();
        }
        let umem = &self.side.handle.umem;
        let gather = self.side.gather.as_mut();
        let mut gathered = gather.map_or(Frames::none(), Gather::frames);
        for frame in &mut *self.side.lent {
            let bytes = match frame {
                Frame::Gathered(place) => gathered.take(place.clone()),
                in_place => in_place.bytes(umem),
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
            let socket = (*self.side.handle).as_fd();
            self.description.busy_poll.learn(socket);
        }
        self.counters.datagrams += count as u64;
        if count > 0 {
            handle(&mut datagrams);
        }
        drop(datagrams);
        self.settle();
        Ok(count)
    }

    fn busy_poll(&mut self) -> bool {
        if !self.description.busy_poll.polls() {
            return false;
        }
        self.counters.busy_polls += 1;
        self.side.poll()
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
