//! The questions that paths put to rtnetlink.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use crate::runtime::rtnetlink::Requests;

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
pub(super) struct Questions(Requests);

impl Questions {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Requests::open().map(Self)
    }

    /// All links.
    pub(super) fn links(&mut self) -> io::Result<Vec<Message>> {
        self.0.ask(
            Message::GetLink(LinkMessage::default()),
            NLM_F_REQUEST | NLM_F_DUMP,
        )
    }

    /// All addresses of both families.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Message>> {
        self.0.ask(
            Message::GetAddress(AddressMessage::default()),
            NLM_F_REQUEST | NLM_F_DUMP,
        )
    }

    /// All neighbours of both families.
    pub(super) fn neighbours(&mut self) -> io::Result<Vec<Message>> {
        self.0.ask(
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
        let answers = self.0.ask(Message::GetRoute(message), NLM_F_REQUEST)?;
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
        self.0.ask(Message::NewNeighbour(message), flags).map(drop)
    }
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
}
