//! The few rtnetlink requests (rtnetlink(7)) that the binary makes, one at a time.

use core::net::IpAddr;
use std::io;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A request socket.
pub(super) struct Netlink(Socket);

/// One interface.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
}

/// Whether a request adds or takes away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Every interface of the namespace.
    pub(super) fn links(&self) -> io::Result<Vec<Link>> {
        let answers = self.request(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            NLM_F_DUMP,
        )?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(links
            .filter_map(|link| {
                let name = link.attributes.into_iter().find_map(|a| match a {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })?;
                Some(Link {
                    index: link.header.index,
                    name,
                })
            })
            .collect())
    }

    /// The index of the interface that the main table's best default route leads to.
    pub(super) fn default_route(&self) -> io::Result<Option<u32>> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let answers = self.request(RouteNetlinkMessage::GetRoute(ask), NLM_F_DUMP)?;
            let routes = answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => best_default(&route),
                _ => None,
            });
            if let Some((_, index)) = routes.min() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Sets the interface up.
    pub(super) fn set_up(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
            .map(drop)
    }

    /// Adds an address to the interface, or takes it away.
    pub(super) fn address(&self, change: Change, index: u32, address: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(&address);
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.header.scope = AddressScope::Universe;
        message
            .attributes
            .push(AddressAttribute::Address(address.addr()));
        if address.addr().is_ipv4() {
            message
                .attributes
                .push(AddressAttribute::Local(address.addr()));
        }
        self.change(
            change,
            RouteNetlinkMessage::NewAddress(message.clone()),
            RouteNetlinkMessage::DelAddress(message),
        )
    }

    /// Adds a route through the interface to `table`, or takes it away.
    pub(super) fn route(
        &self,
        change: Change,
        index: u32,
        prefix: IpNet,
        table: u32,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(&prefix);
        message.header.destination_prefix_length = prefix.prefix_len();
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match prefix {
            IpNet::V4(_) => RouteScope::Link,
            IpNet::V6(_) => RouteScope::Universe,
        };
        // The header has a byte for the table; larger numbers go into an attribute.
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.attributes.push(RouteAttribute::Table(table));
        message.attributes.push(RouteAttribute::Oif(index));
        message
            .attributes
            .push(RouteAttribute::Destination(match prefix.network() {
                IpAddr::V4(network) => RouteAddress::Inet(network),
                IpAddr::V6(network) => RouteAddress::Inet6(network),
            }));
        self.change(
            change,
            RouteNetlinkMessage::NewRoute(message.clone()),
            RouteNetlinkMessage::DelRoute(message),
        )
    }

    fn change(
        &self,
        change: Change,
        add: RouteNetlinkMessage,
        remove: RouteNetlinkMessage,
    ) -> io::Result<()> {
        match change {
            Change::Add => self.request(add, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
            Change::Remove => self.request(remove, NLM_F_ACK),
        }
        .map(drop)
    }

    /// Sends one request and gathers its answers up to the acknowledgement or the dump's end.
    fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            for answer in messages(&datagram)? {
                match answer {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of one datagram.
pub(super) fn messages(datagram: &[u8]) -> io::Result<Vec<NetlinkPayload<RouteNetlinkMessage>>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let length = (message.header.length as usize).next_multiple_of(4);
        messages.push(message.payload);
        rest = rest.get(length.max(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn family(prefix: &IpNet) -> AddressFamily {
    match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

/// Metric and interface of a default route of the main table.
fn best_default(route: &RouteMessage) -> Option<(u32, u32)> {
    let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
    if !main
        || route.header.destination_prefix_length != 0
        || route.header.kind != RouteType::Unicast
    {
        return None;
    }
    let attribute =
        |pick: fn(&RouteAttribute) -> Option<u32>| route.attributes.iter().find_map(pick);
    let interface = attribute(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })?;
    let metric = attribute(|a| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    Some((metric.unwrap_or(0), interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_links() {
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(
            links
                .iter()
                .any(|link| link.name == "lo" && link.index == 1)
        );
    }

    #[test]
    fn only_default_routes_of_the_main_table_count() {
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes.push(RouteAttribute::Oif(7));
        assert_eq!(best_default(&route), Some((0, 7)));
        route.attributes.push(RouteAttribute::Priority(100));
        assert_eq!(best_default(&route), Some((100, 7)));
        route.header.destination_prefix_length = 8;
        assert_eq!(best_default(&route), None);
        route.header.destination_prefix_length = 0;
        route.header.table = 180;
        assert_eq!(best_default(&route), None);
    }

    #[test]
    fn refusals_carry_the_kernels_reason() {
        let netlink = Netlink::open().unwrap();
        let address = "192.0.2.1/32".parse().unwrap();
        // No such interface; an ordinary user is refused before that.
        let error = netlink
            .address(Change::Remove, 0x7fff_ffff, address)
            .unwrap_err();
        let reasons = [rustix::io::Errno::NODEV, rustix::io::Errno::PERM]
            .map(|errno| Some(errno.raw_os_error()));
        assert!(reasons.contains(&error.raw_os_error()), "{error}");
    }
}
