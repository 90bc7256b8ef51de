//! Notices that somebody removes an interface, as `wg-quick down` and `ip link delete` do to end a
//! user-space WireGuard.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::LinkAttribute;
use rustix::io::Errno;

use super::{Events, HostNetlink};

/// Multicast group of link changes (`RTNLGRP_LINK`).
const LINK_CHANGES: u32 = 1;

/// What has become of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is where it was.
    There,
    /// It is in another network namespace.
    Moved,
    /// It does not exist any more.
    Removed,
}

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

    /// Reads what has happened.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(&self) -> io::Result<Fate> {
        let fate = |message: &Message| match message {
            Message::DelLink(link) if link.header.index == self.index => {
                let mut attributes = link.attributes.iter();
                let moved = attributes.any(|one| matches!(one, LinkAttribute::NewNetnsId(_)));
                Some(if moved { Fate::Moved } else { Fate::Removed })
            }
            _ => None,
        };
        loop {
            match self.events.read() {
                Ok(events) if events.is_empty() => return Ok(Fate::There),
                Ok(events) => {
                    if let Some(fate) = events.iter().find_map(fate) {
                        return Ok(fate);
                    }
                }
                // Events were lost: only the present can tell. Moved or removed, it cannot; whoever
                // asks the interface itself knows.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    let links = HostNetlink::open()?.links()?;
                    let gone = links.iter().all(|link| link.index != self.index);
                    return Ok(if gone { Fate::Moved } else { Fate::There });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what has happened; true when the interface is gone from this namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn removed(&self) -> io::Result<bool> {
        Ok(self.look()? != Fate::There)
    }
}

impl AsFd for LinkWatch {
    /// Becomes readable when any link changes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
