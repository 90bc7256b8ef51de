//! Notices that somebody removes the tunnel's interface, as `wg-quick down` and `ip link delete`
//! do to end a user-space WireGuard.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use super::netlink::{Netlink, messages};

/// Multicast group of link changes (`RTMGRP_LINK`, rtnetlink(7)).
const LINK_CHANGES: u32 = 1;

/// Watches one interface.
pub(crate) struct LinkWatch {
    events: Socket,
    index: u32,
}

impl LinkWatch {
    /// Watches the interface with this index from now on.
    pub(crate) fn start(index: u32) -> io::Result<Self> {
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.bind(&SocketAddr::new(0, LINK_CHANGES))?;
        events.set_non_blocking(true)?;
        Ok(Self { events, index })
    }

    /// Reads what has happened; true when the interface is gone.
    pub(crate) fn removed(&self) -> io::Result<bool> {
        loop {
            let datagram = match self.events.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Events were lost: only the present can tell.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    let links = Netlink::open()?.links()?;
                    return Ok(links.iter().all(|link| link.index != self.index));
                }
                Err(error) => return Err(error),
            };
            let gone = |message| match message {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    link.header.index == self.index
                }
                _ => false,
            };
            if messages(&datagram)?.into_iter().any(gone) {
                return Ok(true);
            }
        }
    }
}

impl AsFd for LinkWatch {
    /// Becomes readable when any link changes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
