//! Floor 6: drivers. One folder a driver, one file a kernel concept; all behind the ports of
//! [`engine::port`](crate::engine::port).

pub mod memory;
pub mod middleware;
pub(crate) mod scheduling;
pub mod tun;
pub mod udp;
pub mod xdp;

use std::io;

use crate::mesh::Endpoint;

/// Sends single datagrams from outside the workers: how the control thread gets its handshake
/// messages out, whatever the workers' driver is.
pub trait DatagramSender: Send + Sync {
    /// Sends one datagram with the given TOS or traffic-class octet.
    ///
    /// # Errors
    /// Whatever the kernel says; the datagram is lost then.
    fn send(&self, to: &Endpoint, tos: u8, datagram: &[u8]) -> io::Result<()>;
}
