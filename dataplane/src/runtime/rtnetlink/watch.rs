//! Notices that somebody removes an interface, as `wg-quick down` and `ip link delete` do to end a
//! user-space WireGuard.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage as Message;
use rustix::io::Errno;

use super::{Events, HostNetlink};

/// Multicast group of link changes (`RTNLGRP_LINK`).
const LINK_CHANGES: u32 = 1;

/// Watches one interface.
#[derive(Debug)]
pub struct LinkWatch {
    events: Events,
    index: u32,
}

impl LinkWatch {
    /// Watches the interface with this index from now on.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn start(index: u32) -> io::Result<Self> {
        let events = Events::open(&[LINK_CHANGES])?;
        Ok(Self { events, index })
    }

    /// Reads what has happened; true when the interface is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn removed(&self) -> io::Result<bool> {
        let gone = |message: &Message| matches!(message, Message::DelLink(link) if link.header.index == self.index);
        loop {
            match self.events.read() {
                Ok(events) if events.is_empty() => return Ok(false),
                Ok(events) if events.iter().any(gone) => return Ok(true),
                Ok(_) => {}
                // Events were lost: only the present can tell.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    let links = HostNetlink::open()?.links()?;
                    return Ok(links.iter().all(|link| link.index != self.index));
                }
                Err(error) => return Err(error),
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
