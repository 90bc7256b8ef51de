//! Receiving: `recvmmsg` into fixed slots, cut into datagrams.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::address::RawAddress;
use super::bind::Sockets;
use super::control::Control;
use super::mmsg::{self, Incoming};
use super::{MAX_MESSAGES, gro, options};
use crate::engine::port::{Datagram, DriverInfo, Ecn, MAX_BATCH, OuterRx, Pollable};
use crate::mesh::Endpoint;

/// The fewest slots offered at once, however much the kernel coalesces.
const MIN_WIDTH: usize = 4;

/// How often, in messages, the family that was idle is looked at while the other is busy.
const IDLE_LOOK: usize = 64;

/// Index of `SK_MEMINFO_DROPS` in what `SO_MEMINFO` returns (`linux/sock_diag.h`).
const MEMINFO_DROPS: usize = 8;

/// Receives from both sockets of a [`UdpPort`](super::UdpPort).
#[derive(Debug)]
pub struct UdpRx {
    sockets: Arc<Sockets>,
    slots: Slots,
    /// Messages since the idle family was looked at.
    since_look: usize,
    /// Which family spoke last.
    busy: Family,
    counts: Counts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// Where messages are received.
#[derive(Debug)]
struct Slots {
    arena: Box<[u8]>,
    from: Box<[RawAddress]>,
    controls: Box<[Control]>,
    /// A slot's usable length, and its distance from the next.
    len: usize,
    stride: usize,
    /// How many of them to offer.
    width: usize,
}

#[derive(Debug, Default)]
struct Counts {
    datagrams: u64,
    messages: u64,
    oversized: u64,
    malformed: u64,
}

impl Slots {
    fn new(len: usize) -> Self {
        // Slots that begin on the same page offset would compete for the same few cache sets:
        // each begins 25 cache lines further on.
        let stride = len.next_multiple_of(4096) + 25 * 64;
        Self {
            arena: vec![0; stride * MAX_MESSAGES].into_boxed_slice(),
            from: vec![RawAddress::EMPTY; MAX_MESSAGES].into_boxed_slice(),
            controls: vec![Control::EMPTY; MAX_MESSAGES].into_boxed_slice(),
            len,
            stride,
            width: MIN_WIDTH,
        }
    }

    /// Puts the places to offer the kernel into `places`, which is empty.
    fn offer<'a>(&'a mut self, places: &mut ArrayVec<Incoming<'a>, MAX_MESSAGES>) {
        let len = self.len;
        let offered = self
            .arena
            .chunks_exact_mut(self.stride)
            .zip(&mut self.from)
            .zip(&mut self.controls)
            .take(self.width)
            .map(|((slot, from), control)| Incoming {
                buffer: slot.get_mut(..len).unwrap_or_default(),
                from,
                control,
                len: 0,
                truncated: false,
            });
        places.extend(offered);
    }

    /// Offers twice as many slots as were filled, but not more than make a batch: where the kernel
    /// coalesces, a few long messages; else many short ones. Each costs some nanoseconds even if
    /// nothing comes to lie in it.
    fn adapt(&mut self, messages: usize, datagrams: usize) {
        if let Some(each) = datagrams.checked_div(messages) {
            let most = (MAX_BATCH / each.max(1)).clamp(MIN_WIDTH, MAX_MESSAGES);
            self.width = (2 * messages).clamp(MIN_WIDTH, most);
        }
    }
}

impl UdpRx {
    pub(super) fn new(sockets: Arc<Sockets>) -> Self {
        // What GRO puts together is as long as IP allows, however short its datagrams are.
        let len = if sockets.gro {
            usize::from(u16::MAX)
        } else {
            sockets.max_datagram
        };
        let slots = Slots::new(len);
        Self {
            sockets,
            slots,
            since_look: 0,
            busy: Family::V4,
            counts: Counts::default(),
        }
    }

    fn recv_family(
        &mut self,
        family: Family,
        handle: &mut dyn FnMut(&mut [Datagram<'_>]),
    ) -> io::Result<usize> {
        let fd = match family {
            Family::V4 => self.sockets.v4.as_fd(),
            Family::V6 => match &self.sockets.v6 {
                Some(v6) => v6.as_fd(),
                None => return Ok(0),
            },
        };
        let mut slots = ArrayVec::new();
        self.slots.offer(&mut slots);
        let messages = match mmsg::receive(fd, &mut slots) {
            Ok(messages) => messages,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let longest = self.sockets.max_datagram;
        let datagrams = lend(&mut slots, messages, longest, &mut self.counts, handle);
        drop(slots);
        self.slots.adapt(messages, datagrams);
        self.counts.messages += messages as u64;
        self.counts.datagrams += datagrams as u64;
        Ok(datagrams)
    }
}

/// Cuts the first `messages` slots into datagrams and lends those that are not longer than
/// `longest`.
fn lend(
    slots: &mut [Incoming<'_>],
    messages: usize,
    longest: usize,
    counts: &mut Counts,
    handle: &mut dyn FnMut(&mut [Datagram<'_>]),
) -> usize {
    let mut lent = 0;
    let mut batch: ArrayVec<Datagram<'_>, MAX_BATCH> = ArrayVec::new();
    for slot in slots.iter_mut().take(messages) {
        if slot.truncated {
            counts.oversized += 1;
            continue;
        }
        let Some(remote) = slot.from.decode() else {
            counts.malformed += 1;
            continue;
        };
        let said = slot.control.parse();
        let from = Endpoint {
            remote,
            local: said.local,
            interface: said.interface,
        };
        let ecn = Ecn::from(said.tos);
        let payload = slot.buffer.get_mut(..slot.len).unwrap_or_default();
        for payload in gro::split(payload, said.segment) {
            if payload.len() > longest {
                counts.oversized += 1;
                continue;
            }
            if batch.is_full() {
                handle(&mut batch);
                batch.clear();
            }
            batch.push(Datagram { payload, from, ecn });
            lent += 1;
        }
    }
    if !batch.is_empty() {
        handle(&mut batch);
    }
    lent
}

impl Pollable for UdpRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.sockets.all().for_each(visit);
    }

    fn info(&self) -> DriverInfo {
        let gro = if self.sockets.gro { ", gro" } else { "" };
        info(&self.sockets, gro)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let drops = self
            .sockets
            .all()
            .filter_map(|fd| options::values(fd, libc::SOL_SOCKET, libc::SO_MEMINFO).ok())
            .filter_map(|meminfo: [i32; 9]| meminfo.get(MEMINFO_DROPS).copied())
            .map(|drops| u64::from(drops.cast_unsigned()))
            .sum();
        vec![
            ("rx_datagrams", self.counts.datagrams),
            ("rx_messages", self.counts.messages),
            ("rx_oversized", self.counts.oversized),
            ("rx_malformed", self.counts.malformed),
            ("rx_socket_drops", drops),
        ]
    }
}

impl OuterRx for UdpRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize> {
        let before = self.counts.messages;
        let mut lent = self.recv_family(self.busy, handle)?;
        // An idle family costs a system call each time it is asked. Ask when the busy one has
        // nothing, so that no wake-up is in vain, and now and then while it has.
        let messages = (self.counts.messages - before) as usize;
        self.since_look += messages;
        if messages == 0 || self.since_look >= IDLE_LOOK {
            self.since_look = 0;
            let before = self.counts.messages;
            lent += self.recv_family(self.busy.other(), handle)?;
            if self.counts.messages > before {
                self.busy = self.busy.other();
                self.since_look = IDLE_LOOK; // both are busy: alternate
            }
        }
        Ok(lent)
    }
}

pub(super) fn info(sockets: &Sockets, offload: &str) -> DriverInfo {
    let families = if sockets.v6.is_some() {
        "ipv4+ipv6"
    } else {
        "ipv4"
    };
    DriverInfo {
        driver: "udp",
        mode: format!("port {}, {families}{offload}", sockets.port()),
        ..DriverInfo::default()
    }
}
