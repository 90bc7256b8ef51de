//! Changes to links, addresses, routes and rules, one acknowledged request each.

use core::fmt;
use core::net::IpAddr;
use std::io;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::Requests;

/// The main routing table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of a prefix.
    #[must_use]
    pub const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    fn kernel(self) -> AddressFamily {
        match self {
            Self::Ipv4 => AddressFamily::Inet,
            Self::Ipv6 => AddressFamily::Inet6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// Who set a route or a rule (`rtm_protocol`): the kernel keeps it, and does not look at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// `boot`: by hand, or nobody said.
    pub const BOOT: Self = Self(3);
    /// `static`: by the administrator.
    pub const STATIC: Self = Self(4);
    /// By ringspan: what bears it is left from a run that was killed, and may be taken away.
    pub const RINGSPAN: Self = Self(82);
}

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteWay {
    /// Over the interface with this index, without a gateway.
    Link(u32),
    /// Nowhere: packets are lost without a word.
    Blackhole,
    /// To a gateway over the interface with this index. Only read.
    Via(u32),
    /// Another way. Only read.
    Other,
}

/// A route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The destinations.
    pub prefix: IpNet,
    /// The table it stands in.
    pub table: u32,
    /// Where it leads.
    pub way: RouteWay,
    /// Its metric; 0 leaves it to the kernel.
    pub metric: u32,
    /// The MTU of packets on it, in bytes; `None`: that of the link.
    pub mtu: Option<u32>,
    /// Who set it.
    pub protocol: Protocol,
}

/// Which packets a rule takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleSelector {
    /// Those whose mark, under the mask, is this one.
    Mark {
        /// The mark.
        mark: u32,
        /// The bits that count.
        mask: u32,
    },
    /// All but those with this mark.
    NotMark(u32),
    /// All; but a default route that is found does not count (`suppress_prefixlength 0`).
    SuppressDefault,
    /// Others, which this module reads but does not set.
    Other,
}

/// A rule that leads to a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its family: each has rules of its own.
    pub family: Family,
    /// Its place: lower comes first.
    pub priority: u32,
    /// Which packets it takes.
    pub selector: RuleSelector,
    /// The table it leads to.
    pub table: u32,
    /// Who set it.
    pub protocol: Protocol,
}

/// A socket for requests, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct HostNetlink(Requests);

impl HostNetlink {
    /// Opens one.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Requests::open().map(Self)
    }

    /// Every interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.dump(Message::GetLink(LinkMessage::default()))?;
        Ok(answers.iter().filter_map(link).collect())
    }

    /// Sets an interface up, with this MTU if one is given.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN, `ENODEV`, `EINVAL` for an MTU that it cannot have.
    pub fn set_up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.request(Message::SetLink(link), 0)
    }

    /// Gives an interface an address: of global scope, permanent, usable at once.
    ///
    /// # Errors
    /// `EEXIST` when it has it; `EACCES` for IPv6 where that is disabled on the interface.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        self.create(Message::NewAddress(address_message(index, address)))
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when the interface does not have it.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        self.request(Message::DelAddress(address_message(index, address)), 0)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// `EEXIST` when its table has one to the prefix with the same metric; `ENETDOWN` when its
    /// link is down.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.create(Message::NewRoute(route_message(route)?))
    }

    /// Takes a route away.
    ///
    /// # Errors
    /// `ESRCH` when there is none like it.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        self.request(Message::DelRoute(route_message(route)?), 0)
    }

    /// All routes of a table. (The kernel lists all of a family; this is no question for every
    /// second.)
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self, family: Family, table: u32) -> io::Result<Vec<Route>> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family.kernel();
        let answers = self.dump(Message::GetRoute(ask))?;
        let routes = answers.iter().filter_map(|answer| match answer {
            Message::NewRoute(message) => Some(route(message)),
            _ => None,
        });
        Ok(routes.filter(|route| route.table == table).collect())
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// `EEXIST` when there is one like it; `EAFNOSUPPORT` for a family that the kernel lacks.
    pub fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        self.create(Message::NewRule(rule_message(rule)?))
    }

    /// Takes a rule away.
    ///
    /// # Errors
    /// `ENOENT` when there is none like it.
    pub fn remove_rule(&mut self, rule: &Rule) -> io::Result<()> {
        self.request(Message::DelRule(rule_message(rule)?), 0)
    }

    /// All rules of a family, in their order.
    ///
    /// # Errors
    /// What the kernel says; `EOPNOTSUPP` for a family that it lacks.
    pub fn rules(&mut self, family: Family) -> io::Result<Vec<Rule>> {
        let mut ask = RuleMessage::default();
        ask.header.family = family.kernel();
        let answers = self.dump(Message::GetRule(ask))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                Message::NewRule(message) => Some(rule(family, message)),
                _ => None,
            })
            .collect())
    }

    fn dump(&mut self, message: Message) -> io::Result<Vec<Message>> {
        self.0.ask(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn create(&mut self, message: Message) -> io::Result<()> {
        self.request(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn request(&mut self, message: Message, flags: u16) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.0.ask(message, flags).map(drop)
    }
}

/// The link that a message tells of, if it tells enough.
pub(in crate::runtime) fn link(message: &Message) -> Option<Link> {
    let (Message::NewLink(link) | Message::DelLink(link)) = message else {
        return None;
    };
    let mut found = Link {
        index: link.header.index,
        name: String::new(),
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            _ => {}
        }
    }
    (!found.name.is_empty()).then_some(found)
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = Family::of(&address).kernel();
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    let ip = address.addr();
    message.attributes.push(AddressAttribute::Address(ip));
    match ip {
        IpAddr::V4(_) => message.attributes.push(AddressAttribute::Local(ip)),
        // A tunnel's far ends are peers with addresses of their own: nothing to detect.
        IpAddr::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
    }
    message
}

fn not_to_be_set(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("a {what} of another kind can only be read"),
    )
}

fn route_message(route: &Route) -> io::Result<RouteMessage> {
    let family = Family::of(&route.prefix);
    let mut message = RouteMessage::default();
    message.header.address_family = family.kernel();
    message.header.destination_prefix_length = route.prefix.prefix_len();
    message.header.protocol = RouteProtocol::from(route.protocol.0);
    message.header.scope = RouteScope::Universe;
    // The header has a byte for the table; larger numbers go into an attribute.
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    match route.way {
        RouteWay::Link(index) => {
            message.header.kind = RouteType::Unicast;
            attributes.push(RouteAttribute::Oif(index));
            if family == Family::Ipv4 {
                message.header.scope = RouteScope::Link;
            }
        }
        RouteWay::Blackhole => message.header.kind = RouteType::BlackHole,
        RouteWay::Via(_) | RouteWay::Other => return Err(not_to_be_set("route")),
    }
    if route.prefix.prefix_len() != 0 {
        let network = match route.prefix.network() {
            IpAddr::V4(network) => RouteAddress::Inet(network),
            IpAddr::V6(network) => RouteAddress::Inet6(network),
        };
        attributes.push(RouteAttribute::Destination(network));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(mtu) = route.mtu {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    Ok(message)
}

/// The route that a message tells of.
pub(in crate::runtime) fn route(message: &RouteMessage) -> Route {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => IpAddr::from([0; 4]),
    };
    let (mut destination, mut interface, mut gateway) = (unspecified, None, false);
    let mut found = Route {
        prefix: IpNet::from(unspecified),
        table: message.header.table.into(),
        way: RouteWay::Other,
        metric: 0,
        mtu: None,
        protocol: Protocol(message.header.protocol.into()),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = (*ip).into(),
            RouteAttribute::Table(table) => found.table = *table,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Priority(metric) => found.metric = *metric,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                gateway = true;
            }
            RouteAttribute::Metrics(metrics) => {
                found.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let length = message.header.destination_prefix_length;
    found.prefix = IpNet::new(destination, length).unwrap_or(found.prefix);
    found.way = match (message.header.kind, interface) {
        (RouteType::Unicast, Some(index)) if gateway => RouteWay::Via(index),
        (RouteType::Unicast, Some(index)) => RouteWay::Link(index),
        (RouteType::BlackHole, _) => RouteWay::Blackhole,
        _ => RouteWay::Other,
    };
    found
}

fn rule_message(rule: &Rule) -> io::Result<RuleMessage> {
    let mut message = RuleMessage::default();
    message.header.family = rule.family.kernel();
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Protocol(rule.protocol.0.into()));
    match rule.selector {
        RuleSelector::Mark { mark, mask } => {
            attributes.push(RuleAttribute::FwMark(mark));
            attributes.push(RuleAttribute::FwMask(mask));
        }
        RuleSelector::NotMark(mark) => {
            message.header.flags = RuleFlags::Invert;
            attributes.push(RuleAttribute::FwMark(mark));
            attributes.push(RuleAttribute::FwMask(u32::MAX));
        }
        RuleSelector::SuppressDefault => attributes.push(RuleAttribute::SuppressPrefixLen(0)),
        RuleSelector::Other => return Err(not_to_be_set("rule")),
    }
    Ok(message)
}

fn rule(family: Family, message: &RuleMessage) -> Rule {
    let mut found = Rule {
        family,
        priority: 0,
        selector: RuleSelector::Other,
        table: message.header.table.into(),
        protocol: Protocol(0),
    };
    let (mut mark, mut mask, mut suppress) = (None, u32::MAX, None);
    let mut plain = message.header.dst_len == 0
        && message.header.src_len == 0
        && message.header.tos == 0
        && message.header.action == RuleAction::ToTable;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => found.priority = *priority,
            RuleAttribute::Table(table) => found.table = *table,
            RuleAttribute::Protocol(protocol) => found.protocol = Protocol((*protocol).into()),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            // All bits set: the kernel's way to say that nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::SuppressPrefixLen(length) => suppress = Some(*length),
            _ => plain = false,
        }
    }
    let inverted = message.header.flags.contains(RuleFlags::Invert);
    found.selector = match (mark, suppress) {
        _ if !plain => RuleSelector::Other,
        (Some(mark), None) if !inverted => RuleSelector::Mark { mark, mask },
        (Some(mark), None) if mask == u32::MAX => RuleSelector::NotMark(mark),
        (None, Some(0)) if !inverted => RuleSelector::SuppressDefault,
        _ => RuleSelector::Other,
    };
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn family() -> impl Strategy<Value = Family> {
        prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
    }

    fn selector() -> impl Strategy<Value = RuleSelector> {
        prop_oneof![
            (any::<u32>(), any::<u32>()).prop_map(|(mark, mask)| RuleSelector::Mark { mark, mask }),
            any::<u32>().prop_map(RuleSelector::NotMark),
            Just(RuleSelector::SuppressDefault),
        ]
    }

    #[test]
    fn loopback_is_among_the_links() {
        let links = HostNetlink::open().unwrap().links().unwrap();
        assert!(
            links
                .iter()
                .any(|link| link.name == "lo" && link.index == 1 && link.mtu > 0)
        );
    }

    #[test]
    fn every_namespace_has_the_rule_of_the_main_table() {
        let rules = HostNetlink::open().unwrap().rules(Family::Ipv4).unwrap();
        assert!(
            rules
                .iter()
                .any(|rule| rule.priority == 32766 && rule.table == MAIN_TABLE),
            "{rules:?}"
        );
    }

    #[test]
    fn refusals_carry_the_kernels_reason() {
        let mut netlink = HostNetlink::open().unwrap();
        // No such interface; an ordinary user is refused before that.
        let error = netlink
            .remove_address(0x7fff_ffff, "192.0.2.1/32".parse().unwrap())
            .unwrap_err();
        let reasons = [rustix::io::Errno::NODEV, rustix::io::Errno::PERM]
            .map(|errno| Some(errno.raw_os_error()));
        assert!(reasons.contains(&error.raw_os_error()), "{error}");
    }

    proptest! {
        #[test]
        fn a_rule_is_read_as_it_was_written(
            family in family(), priority in any::<u32>(), table in 1_u32..,
            selector in selector(), protocol in any::<u8>(),
        ) {
            let protocol = Protocol(protocol);
            let written = Rule { family, priority, selector, table, protocol };
            prop_assert_eq!(rule(family, &rule_message(&written).unwrap()), written);
        }

        #[test]
        fn a_route_is_read_as_it_was_written(
            family in family(), address in any::<[u8; 16]>(), length in 0_u8..=32, table in 1_u32..,
            way in prop_oneof![(1_u32..).prop_map(RouteWay::Link), Just(RouteWay::Blackhole)],
            metric in any::<u32>(), mtu in proptest::option::of(any::<u32>()), protocol in any::<u8>(),
        ) {
            let ip = match family {
                Family::Ipv4 => IpAddr::from([address[0], address[1], address[2], address[3]]),
                Family::Ipv6 => IpAddr::from(address),
            };
            let written = Route {
                prefix: IpNet::new(ip, length).unwrap().trunc(),
                table, way, metric, mtu, protocol: Protocol(protocol),
            };
            prop_assert_eq!(route(&route_message(&written).unwrap()), written);
        }
    }
}
