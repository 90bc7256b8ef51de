//! rtnetlink(7), synchronously: requests with their answers, events, and the few changes to links,
//! addresses, routes and rules that a node makes on its host.

pub(super) mod host;
mod watch;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use self::host::{
    Family, HostNetlink, Link, MAIN_TABLE, Protocol, Route, RouteWay, Rule, RuleSelector,
};
pub use self::watch::{Fate, LinkWatch};

/// The bytes of a netlink header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// Room for events, in bytes: a full Internet table changing at once overruns any.
const EVENT_BUFFER: usize = 1 << 20;

/// Asks and waits for the answer.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open(NETLINK_ROUTE)?,
            sequence: 0,
        })
    }

    /// Sends `message` and collects what is answered: all of a dump, the acknowledgement of a
    /// change, or the one object that was asked for.
    pub(super) fn ask(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;

        let several = flags & (NLM_F_DUMP | NLM_F_ACK) != 0;
        let mut found = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for answer in messages(&bytes) {
                // What is left of an earlier question that failed half-way.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        found.push(inner);
                        if !several {
                            return Ok(found);
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(found),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What the kernel tells of changes.
#[derive(Debug)]
pub(super) struct Events(Socket);

impl Events {
    /// Those of the multicast groups `groups` (`enum rtnetlink_groups`), in the calling thread's
    /// network namespace.
    pub(super) fn open(groups: &[u32]) -> io::Result<Self> {
        Self::of(NETLINK_ROUTE, groups)
    }

    /// Those of another netlink family; only [`read_raw`](Self::read_raw) understands them.
    pub(super) fn of(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let socket = open(protocol)?;
        // Less is no error: an overrun is noticed, and everything read anew.
        let _ = socket.set_rx_buf_sz(EVENT_BUFFER as i32);
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// What has happened since the last call; nothing when nothing has.
    ///
    /// # Errors
    /// `ENOBUFS` when events were lost.
    pub(super) fn read(&self) -> io::Result<Vec<Message>> {
        let bytes = self.read_raw()?;
        Ok(messages(&bytes)
            .filter_map(|message| match message.payload {
                NetlinkPayload::InnerMessage(inner) => Some(inner),
                _ => None,
            })
            .collect())
    }

    /// One datagram of events as it came; empty when none has.
    ///
    /// # Errors
    /// `ENOBUFS` when events were lost.
    pub(super) fn read_raw(&self) -> io::Result<Vec<u8>> {
        match self.0.recv_from_full() {
            Ok((bytes, _)) => Ok(bytes),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

impl Events {
    /// Reads all that there are; true when there were any, or some were lost.
    pub(super) fn drain(&self) -> bool {
        let mut changed = false;
        loop {
            match self.read() {
                Ok(events) if events.is_empty() => return changed,
                Ok(_) => changed = true,
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The messages in `bytes`, each with its header, type first.
pub(super) fn split(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length.max(HEADER))?;
        // Messages are aligned to four bytes; the last one's padding may be missing.
        rest = rest
            .get(length.max(HEADER).next_multiple_of(4)..)
            .unwrap_or_default();
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        Some((kind, message))
    })
}

/// The messages in `bytes`; one that this version cannot read is left out.
fn messages(bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<Message>> {
    split(bytes).filter_map(|(_, message)| match NetlinkMessage::deserialize(message) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::debug!(%error, "an rtnetlink message is not understood");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
        }
    }
}
