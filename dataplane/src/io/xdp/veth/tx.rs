//! The sending half of an inner queue.

use core::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ringspan_xdp_common::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use super::super::interface::Interface;
use super::super::ledger::{EthernetHeader, OutletFrames, Refusal};
use super::super::outlet::{Add, Outlet};
use super::super::path::{Path, PathKey, PathReader};
use super::super::queue::Description;
use super::super::socket::SocketStatistics;
use crate::engine::port::{DriverInfo, InnerTx, Sent};
use crate::wire::Ip;

/// Sends packets to the interface's other end: in the very frame that the datagram came in, where
/// that lies in the memory that this queue shares with an outer one, else in a copy.
///
/// The neighbour's hardware address comes from the kernel's neighbour table, over the
/// [`PathTable`](super::super::PathTable). Until it is there, packets are dropped and counted, as
/// the kernel drops what its own queue for an unknown neighbour has no room for.
#[derive(Debug)]
pub struct VethTx {
    outlet: Arc<Outlet>,
    description: Arc<Description>,
    interface: Interface,
    next: NextHop,
    counters: Counters,
}

/// Finds the way to a packet's destination, mostly that of the packet before.
#[derive(Debug)]
struct NextHop {
    interface: u32,
    paths: PathReader,
    generation: u64,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    destination: IpAddr,
    generation: u64,
    header: EthernetHeader,
    path: Arc<Path>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    packets: u64,
    no_path: u64,
    too_long: u64,
    ring_full: u64,
    malformed: u64,
}

impl VethTx {
    pub(super) fn new(
        outlet: Arc<Outlet>,
        description: Arc<Description>,
        interface: Interface,
        paths: PathReader,
    ) -> Self {
        Self {
            outlet,
            next: NextHop {
                interface: interface.index(),
                paths,
                generation: 0,
                current: None,
            },
            description,
            interface,
            counters: Counters::default(),
        }
    }

    /// Where the frames are at this moment.
    #[must_use]
    pub fn frames(&self) -> OutletFrames {
        self.outlet.frames()
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    #[must_use]
    pub fn socket_statistics(&self) -> SocketStatistics {
        self.outlet.socket_statistics()
    }
}

impl NextHop {
    /// The way to `destination`, if it is known; otherwise it is asked for.
    fn find(&mut self, destination: IpAddr) -> Option<&Current> {
        let known = self.current.as_ref().is_some_and(|current| {
            current.destination == destination && current.generation == self.generation
        });
        if !known {
            self.current = self.look_up(destination);
        }
        self.current.as_ref()
    }

    fn look_up(&mut self, destination: IpAddr) -> Option<Current> {
        let scoped = matches!(destination, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let path = self.paths.path(&PathKey {
            remote: destination,
            source: None,
            scope: if scoped { self.interface } else { 0 },
        })?;
        if path.interface != self.interface || path.vlan.is_some() {
            return None;
        }
        let ether_type = match destination {
            IpAddr::V4(_) => ETHERTYPE_IPV4,
            IpAddr::V6(_) => ETHERTYPE_IPV6,
        };
        let mut header = EthernetHeader::default();
        let (macs, kind) = header.split_at_mut(12);
        let (to, from) = macs.split_at_mut(6);
        to.copy_from_slice(&path.destination_mac);
        from.copy_from_slice(&path.source_mac);
        kind.copy_from_slice(&ether_type.to_be_bytes());
        Some(Current {
            destination,
            generation: self.generation,
            header,
            path,
        })
    }
}

impl Counters {
    /// Hands one packet to `add`; whether it was taken.
    fn deliver(&mut self, packet: &[u8], next: &mut NextHop, add: &mut Add<'_>) -> bool {
        let Ok(ip) = Ip::parse(packet) else {
            self.malformed += 1;
            return false;
        };
        let Some(Current { header, path, .. }) = next.find(ip.destination()) else {
            self.no_path += 1;
            return false;
        };
        if packet.len() > path.mtu as usize {
            self.too_long += 1;
            return false;
        }
        match add(packet, header) {
            Ok(()) => {
                path.marks.mark_used();
                self.packets += 1;
                return true;
            }
            Err(Refusal::TooLong) => self.too_long += 1,
            Err(Refusal::RingFull) => self.ring_full += 1,
        }
        false
    }
}

impl AsFd for VethTx {
    /// The AF_XDP socket.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.outlet.as_fd()
    }
}

impl InnerTx for VethTx {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        let Self {
            outlet,
            next,
            counters,
            ..
        } = self;
        next.generation = next.paths.refresh();
        let mut accepted = 0;
        outlet.send(|add| {
            for packet in packets {
                accepted += usize::from(counters.deliver(packet, next, add));
            }
        });
        Sent {
            accepted,
            dropped: packets.len() - accepted,
        }
    }

    fn flush(&mut self) -> bool {
        self.outlet.flush()
    }

    fn mtu(&self) -> Option<u16> {
        let mtu = self.interface.current_mtu().ok()?;
        Some(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    fn info(&self) -> DriverInfo {
        self.description.info()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let frames = self.frames();
        let kernel = self.socket_statistics();
        let (ledger, kicks) = self.outlet.counters();
        vec![
            ("tx_invalid_descs", kernel.tx_invalid_descs),
            ("tx_ring_empty_descs", kernel.tx_ring_empty_descs),
            ("tx_packets", self.counters.packets),
            ("tx_forwarded_frames", ledger.forwarded),
            ("tx_copied", ledger.copied),
            ("tx_abandoned", ledger.abandoned),
            ("tx_no_path", self.counters.no_path),
            ("tx_too_long", self.counters.too_long),
            ("tx_ring_full", self.counters.ring_full),
            ("tx_malformed", self.counters.malformed),
            ("tx_foreign_descs", ledger.foreign),
            ("tx_wakeups", kicks.wakeups),
            ("tx_wakeup_errors", kicks.errors),
            ("tx_frames", frames.total as u64),
            ("tx_frames_free", frames.free as u64),
            ("tx_frames_under_way", frames.under_way as u64),
        ]
    }
}
