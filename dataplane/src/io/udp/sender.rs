//! Single datagrams from outside the workers.

use std::io;
use std::sync::Arc;

use super::address::RawAddress;
use super::bind::Sockets;
use super::control::Control;
use super::mmsg::{self, Outgoing};
use crate::io::DatagramSender;
use crate::mesh::Endpoint;

/// Sends single datagrams through a [`UdpPort`](super::UdpPort). Cheap to clone.
#[derive(Clone, Debug)]
pub struct UdpSender {
    sockets: Arc<Sockets>,
}

impl UdpSender {
    pub(super) const fn new(sockets: Arc<Sockets>) -> Self {
        Self { sockets }
    }
}

impl DatagramSender for UdpSender {
    /// # Errors
    /// Whatever the kernel says; `WouldBlock` where the socket's send buffer is full. A sticky
    /// source address that is no longer ours is no error: the kernel chooses another then.
    fn send(&self, to: &Endpoint, tos: u8, datagram: &[u8]) -> io::Result<()> {
        let Some(fd) = self.sockets.towards(&to.remote) else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        let name = RawAddress::from(to.remote);
        let send = |sticky| {
            let message = Outgoing {
                to: &name,
                control: &Control::outgoing(to, sticky, tos, None),
                payload: datagram,
            };
            mmsg::send(fd, &[message]).map(drop)
        };
        match send(true) {
            Err(error) if to.local.is_some() && source_refused(&error) => send(false),
            result => result,
        }
    }
}

/// Whether a send failed in a way that a source address which is gone, or has no route any more,
/// explains.
pub(super) fn source_refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
        )
    )
}
