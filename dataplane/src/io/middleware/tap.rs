//! A capture around a driver.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::pcap::{Capture, Flow};
use crate::engine::port::{
    Datagram, DriverInfo, InnerRx, InnerTx, OuterRx, OuterTx, Packet, Pollable, Sent, TxRequest,
    TxSlot,
};
use crate::mesh::Endpoint;

/// Wraps a driver and records what passes.
///
/// Around an outer receiver it records before the datagrams are opened, around an outer
/// transmitter after they are sealed: what an observer on the link sees. Inner packets are
/// recorded as they are: they are plain text, and so is the file.
#[derive(Debug)]
pub struct PcapTap<D> {
    driver: D,
    capture: Capture,
    local_port: u16,
}

impl<D> PcapTap<D> {
    /// Around an inner port.
    pub const fn inner(driver: D, capture: Capture) -> Self {
        Self {
            driver,
            capture,
            local_port: 0,
        }
    }

    /// Around an outer port; `local_port` goes into the headers that are made up.
    pub const fn outer(driver: D, capture: Capture, local_port: u16) -> Self {
        Self {
            driver,
            capture,
            local_port,
        }
    }

    fn describe(mut info: DriverInfo) -> DriverInfo {
        info.mode.push_str(", captured");
        info
    }
}

/// Our side's address: what the endpoint says, else the unspecified one.
fn local(endpoint: &Endpoint, port: u16) -> SocketAddr {
    let unspecified = match endpoint.remote {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let ip = endpoint
        .local
        .filter(|ip| ip.is_ipv4() == unspecified.is_ipv4());
    SocketAddr::new(ip.unwrap_or(unspecified), port)
}

impl<D: Pollable> Pollable for PcapTap<D> {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.driver.poll_fds(visit);
    }

    fn info(&self) -> DriverInfo {
        Self::describe(self.driver.info())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.driver.statistics()
    }
}

impl<D: OuterRx> OuterRx for PcapTap<D> {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize> {
        let (capture, port) = (&self.capture, self.local_port);
        self.driver.recv_batch(&mut |batch| {
            capture.record(|recorder| {
                batch.iter().try_for_each(|datagram| {
                    let flow = Flow {
                        from: datagram.from.remote,
                        to: local(&datagram.from, port),
                        tos: datagram.ecn as u8,
                    };
                    recorder.datagram(&flow, datagram.payload)
                })
            });
            handle(batch);
        })
    }

    fn busy_poll(&mut self) -> bool {
        self.driver.busy_poll()
    }
}

impl<D: InnerRx> InnerRx for PcapTap<D> {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let capture = &self.capture;
        self.driver.recv_batch(&mut |batch| {
            capture.record(|recorder| {
                batch
                    .iter()
                    .try_for_each(|packet| recorder.packet(packet.data))
            });
            handle(batch);
        })
    }
}

impl<D: OuterTx> OuterTx for PcapTap<D> {
    fn set_longest(&mut self, bytes: usize) {
        self.driver.set_longest(bytes);
    }

    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        self.driver.reaches(endpoint)
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        let (capture, port) = (&self.capture, self.local_port);
        self.driver.send_batch(requests, &mut |slots| {
            fill(slots);
            capture.record(|recorder| {
                slots.iter().try_for_each(|slot| {
                    let Some(request) = requests.get(slot.request) else {
                        return Ok(());
                    };
                    let flow = Flow {
                        from: local(&request.to, port),
                        to: request.to.remote,
                        tos: request.tos,
                    };
                    recorder.datagram(&flow, slot.buffer)
                })
            });
        })
    }

    fn flush(&mut self) -> bool {
        self.driver.flush()
    }

    fn info(&self) -> DriverInfo {
        Self::describe(self.driver.info())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.driver.statistics()
    }
}

impl<D: InnerTx> InnerTx for PcapTap<D> {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        self.capture.record(|recorder| {
            packets
                .iter()
                .try_for_each(|packet| recorder.packet(packet))
        });
        self.driver.send_batch(packets)
    }

    fn mtu(&self) -> Option<u16> {
        self.driver.mtu()
    }

    fn flush(&mut self) -> bool {
        self.driver.flush()
    }

    fn info(&self) -> DriverInfo {
        Self::describe(self.driver.info())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.driver.statistics()
    }
}
