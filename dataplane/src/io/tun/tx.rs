//! Writing: what came out of the tunnel for the host.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, retry_on_intr, writev};

use super::coalesce::{Kinds, Run, Runs, SuperHeader};
use super::transport::Protocol;
use super::vnet;
use crate::engine::port::{DriverInfo, InnerTx, Sent};

/// Nothing to be done to a packet.
const PLAIN: [u8; vnet::HEADER] = [0; vnet::HEADER];

/// Sends into one queue of a [`Tun`](super::Tun).
#[derive(Debug)]
pub struct TunTx {
    fd: Arc<OwnedFd>,
    /// For questions about the interface.
    socket: Arc<OwnedFd>,
    info: DriverInfo,
    /// What is put together; less where the kernel refused.
    kinds: Kinds,
    packets: u64,
    writes: u64,
    refused: u64,
    last_error: Option<Errno>,
}

impl TunTx {
    pub(super) const fn new(
        fd: Arc<OwnedFd>,
        socket: Arc<OwnedFd>,
        info: DriverInfo,
        kinds: Kinds,
    ) -> Self {
        Self {
            fd,
            socket,
            info,
            kinds,
            packets: 0,
            writes: 0,
            refused: 0,
            last_error: None,
        }
    }

    /// Writes a run; returns how many of its packets the kernel took, and whether the interface
    /// is there to take more.
    fn write_run(&mut self, run: &Run<'_>) -> (usize, bool) {
        if let Some(header) = SuperHeader::new(run) {
            let vnet = header.vnet.encode();
            match self.write(&header.vectors(&vnet, run)) {
                Ok(()) => return (run.packets.len(), true),
                Err(Errno::INVAL) => self.stop_joining(header.protocol()),
                Err(error) => {
                    self.note(error);
                    return (0, !is_gone(error));
                }
            }
        }
        let mut accepted = 0;
        for packet in run.packets {
            match self.write(&[IoSlice::new(&PLAIN), IoSlice::new(packet)]) {
                Ok(()) => accepted += 1,
                Err(error) => {
                    self.note(error);
                    if is_gone(error) {
                        return (accepted, false);
                    }
                }
            }
        }
        (accepted, true)
    }

    fn write(&mut self, vectors: &[IoSlice<'_>]) -> Result<(), Errno> {
        retry_on_intr(|| writev(&self.fd, vectors))?;
        self.writes += 1;
        Ok(())
    }

    /// The kernel does not take super-packets of this protocol.
    fn stop_joining(&mut self, protocol: Protocol) {
        match protocol {
            Protocol::Tcp => self.kinds.tcp = false,
            Protocol::Udp => self.kinds.udp = false,
        }
        let interface = &self.info.interface;
        tracing::warn!(
            "interface {interface} refuses {protocol:?} super-packets: single ones from now on"
        );
    }

    /// Logs a cause when it is not the last one's.
    fn note(&mut self, error: Errno) {
        if self.last_error != Some(error) {
            self.last_error = Some(error);
            let interface = &self.info.interface;
            tracing::debug!("{interface} refuses a packet: {error}");
        }
    }
}

/// Whether the interface is down or gone.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::IO | Errno::BADFD)
}

impl InnerTx for TunTx {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        let mut accepted = 0;
        for run in Runs::new(packets, self.kinds) {
            let (taken, goes_on) = self.write_run(&run);
            accepted += taken;
            if !goes_on {
                break;
            }
        }
        let dropped = packets.len() - accepted;
        self.packets += accepted as u64;
        self.refused += dropped as u64;
        Sent { accepted, dropped }
    }

    fn mtu(&self) -> Option<u16> {
        let mtu = super::open::mtu(&self.socket, &self.info.interface).ok()?;
        u16::try_from(mtu).ok()
    }

    fn info(&self) -> DriverInfo {
        DriverInfo {
            mode: self.kinds.mode().to_owned(),
            ..self.info.clone()
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("tx_packets", self.packets),
            ("tx_writes", self.writes),
            ("tx_refused", self.refused),
        ]
    }
}
