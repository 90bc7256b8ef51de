//! Writing: what came out of the tunnel for the host.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::rx::info;
use crate::engine::port::{DriverInfo, InnerTx, Sent};

/// Sends into one queue of a [`Tun`](super::Tun).
#[derive(Debug)]
pub struct TunTx {
    fd: Arc<OwnedFd>,
    interface: String,
    queue: Option<u32>,
    packets: u64,
    refused: u64,
    last_error: Option<Errno>,
}

impl TunTx {
    pub(super) const fn new(fd: Arc<OwnedFd>, interface: String, queue: Option<u32>) -> Self {
        Self {
            fd,
            interface,
            queue,
            packets: 0,
            refused: 0,
            last_error: None,
        }
    }

    /// Logs a cause when it is not the last one's.
    fn note(&mut self, error: Errno) {
        if self.last_error != Some(error) {
            self.last_error = Some(error);
            let interface = &self.interface;
            tracing::debug!("{interface} refuses a packet: {error}");
        }
    }
}

impl InnerTx for TunTx {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        let mut accepted = 0;
        for packet in packets {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, packet)) {
                Ok(_) => accepted += 1,
                // The interface is down or gone: so it is for the others.
                Err(error @ (Errno::IO | Errno::BADFD)) => {
                    self.note(error);
                    break;
                }
                Err(error) => self.note(error),
            }
        }
        let dropped = packets.len() - accepted;
        self.packets += accepted as u64;
        self.refused += dropped as u64;
        Sent { accepted, dropped }
    }

    fn info(&self) -> DriverInfo {
        info(&self.interface, self.queue)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("tx_packets", self.packets), ("tx_refused", self.refused)]
    }
}
