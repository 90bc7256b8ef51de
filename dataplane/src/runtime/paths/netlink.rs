//! rtnetlink, synchronously: questions with their answers, and events.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The bytes of a netlink header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// Room for events, in bytes: a full Internet table changing at once overruns any.
const EVENT_BUFFER: usize = 1 << 20;

/// A question to the routing table.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteQuestion {
    pub(super) destination: IpAddr,
    pub(super) source: Option<IpAddr>,
    /// The interface to leave by; 0 for any.
    pub(super) interface: u32,
    /// The mark that policy rules see; 0 for none.
    pub(super) mark: u32,
}

/// Asks and waits for the answer.
#[derive(Debug)]
pub(super) struct Questions {
    socket: Socket,
    sequence: u32,
}

impl Questions {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open()?,
            sequence: 0,
        })
    }

    /// All links.
    pub(super) fn links(&mut self) -> io::Result<Vec<Message>> {
        self.ask(
            Message::GetLink(LinkMessage::default()),
            NLM_F_REQUEST | NLM_F_DUMP,
        )
    }

    /// All addresses of both families.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Message>> {
        self.ask(
            Message::GetAddress(AddressMessage::default()),
            NLM_F_REQUEST | NLM_F_DUMP,
        )
    }

    /// All neighbours of both families.
    pub(super) fn neighbours(&mut self) -> io::Result<Vec<Message>> {
        self.ask(
            Message::GetNeighbour(NeighbourMessage::default()),
            NLM_F_REQUEST | NLM_F_DUMP,
        )
    }

    /// The route that the kernel would take.
    ///
    /// # Errors
    /// `ENETUNREACH`, `EHOSTUNREACH` and others where there is none; `EINVAL` for a source address
    /// that is not local.
    pub(super) fn route(&mut self, question: RouteQuestion) -> io::Result<Option<RouteMessage>> {
        let mut message = RouteMessage::default();
        let length = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
        message.header.address_family = family(question.destination);
        message.header.destination_prefix_length = length(question.destination);
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(address(question.destination)));
        if let Some(source) = question.source {
            message.header.source_prefix_length = length(source);
            attributes.push(RouteAttribute::Source(address(source)));
        }
        if question.interface != 0 {
            attributes.push(RouteAttribute::Oif(question.interface));
        }
        if question.mark != 0 {
            attributes.push(RouteAttribute::Mark(question.mark));
        }
        let answers = self.ask(Message::GetRoute(message), NLM_F_REQUEST)?;
        Ok(answers.into_iter().find_map(|answer| match answer {
            Message::NewRoute(route) => Some(route),
            _ => None,
        }))
    }

    /// Has the kernel look for `neighbour`, or look whether it is still there, as if it had a
    /// packet for it.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN.
    pub(super) fn probe(&mut self, interface: u32, neighbour: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(neighbour);
        message.header.ifindex = interface;
        message.header.flags = NeighbourFlags::Use;
        message
            .attributes
            .push(NeighbourAttribute::Destination(match neighbour {
                IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
                IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
            }));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.ask(Message::NewNeighbour(message), flags).map(drop)
    }

    /// Sends `message` and collects what is answered: all of a dump, the acknowledgement of a
    /// change, or the one object that was asked for.
    fn ask(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
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
        let socket = open()?;
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
        let bytes = match self.0.recv_from_full() {
            Ok((bytes, _)) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        Ok(messages(&bytes)
            .filter_map(|message| match message.payload {
                NetlinkPayload::InnerMessage(inner) => Some(inner),
                _ => None,
            })
            .collect())
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

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The messages in `bytes`; one that this version cannot read is left out.
fn messages(bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<Message>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
            let message = rest.get(..length.max(HEADER))?;
            // Messages are aligned to four bytes; the last one's padding may be missing.
            rest = rest
                .get(length.max(HEADER).next_multiple_of(4)..)
                .unwrap_or_default();
            match NetlinkMessage::deserialize(message) {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!(%error, "an rtnetlink message is not understood"),
            }
        }
    })
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Asking needs no privilege, and every namespace has a loopback.
    #[test]
    fn loopback_is_listed_and_routed_to() {
        let mut questions = Questions::open().unwrap();
        let links = questions.links().unwrap();
        assert!(links.iter().any(|message| matches!(
            message,
            Message::NewLink(link) if link.header.flags.contains(
                netlink_packet_route::link::LinkFlags::Loopback
            )
        )));
        questions.neighbours().unwrap();
        let route = questions.route(RouteQuestion {
            destination: IpAddr::from([127, 0, 0, 1]),
            source: None,
            interface: 0,
            mark: 0,
        });
        let route = route.unwrap().unwrap();
        assert_eq!(
            route.header.kind,
            netlink_packet_route::route::RouteType::Local
        );
    }

    #[test]
    fn a_foreign_source_is_refused() {
        let mut questions = Questions::open().unwrap();
        let route = questions.route(RouteQuestion {
            destination: IpAddr::from([127, 0, 0, 1]),
            source: Some(IpAddr::from([198, 51, 100, 1])),
            interface: 0,
            mark: 0,
        });
        assert!(route.is_err(), "{route:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
        }
    }
}
