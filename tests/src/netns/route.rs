//! Routes and policy rules.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Namespace, NetError, family};

/// A route over a link, in the main table unless another one is named.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    destination: IpNet,
    link: &'a str,
    via: Option<IpAddr>,
    source: Option<IpAddr>,
    table: Option<u32>,
    priority: Option<u32>,
    mtu: Option<u32>,
}

impl<'a> Route<'a> {
    /// To what is on the link itself.
    #[must_use]
    pub fn new(destination: impl Into<IpNet>, link: &'a str) -> Self {
        Self {
            destination: destination.into().trunc(),
            link,
            via: None,
            source: None,
            table: None,
            priority: None,
            mtu: None,
        }
    }

    /// By a gateway.
    #[must_use]
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self
    }

    /// With this source address where the sender names none.
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// In another table, that a [`Rule`] leads to.
    #[must_use]
    pub fn table(mut self, table: u32) -> Self {
        self.table = Some(table);
        self
    }

    /// Where several lead to the same prefix, the least counts.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// With an MTU of its own, in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }
}

/// A policy rule: which packets look their route up in which table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Packets with this mark; all if 0.
    pub mark: u32,
    /// All but these.
    pub invert: bool,
    /// The table.
    pub table: u32,
    /// Passes over routes with prefixes of this length or shorter.
    pub suppress_prefix_length: Option<u32>,
    /// The least counts first; the main table's rule has 32766.
    pub priority: u32,
}

impl Namespace {
    /// Routes `destination` over `link`, by the gateway `via` if there is one.
    ///
    /// # Errors
    /// When the link does not exist, is down, or the gateway is out of reach.
    pub fn add_route(
        &self,
        destination: impl Into<IpNet>,
        link: &str,
        via: Option<IpAddr>,
    ) -> Result<(), NetError> {
        let mut route = Route::new(destination, link);
        route.via = via;
        self.route(&route)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// As [`add_route`](Self::add_route).
    pub fn route(&self, route: &Route<'_>) -> Result<(), NetError> {
        let message = self.route_message(route)?;
        self.change(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("route {} over {}", route.destination, route.link),
        )
    }

    /// Takes a route away.
    ///
    /// # Errors
    /// When there is no such route.
    pub fn remove_route(&self, route: &Route<'_>) -> Result<(), NetError> {
        let message = self.route_message(route)?;
        self.change(RouteNetlinkMessage::DelRoute(message), 0, || {
            format!("remove the route {} over {}", route.destination, route.link)
        })
    }

    fn route_message(&self, route: &Route<'_>) -> Result<RouteMessage, NetError> {
        let destination = route.destination;
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(destination.addr()),
            destination_prefix_length: destination.prefix_len(),
            table: if route.table.is_some() {
                RouteHeader::RT_TABLE_UNSPEC
            } else {
                RouteHeader::RT_TABLE_MAIN
            },
            protocol: RouteProtocol::Static,
            scope: if route.via.is_some() || destination.addr().is_ipv6() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::from(destination.addr())),
            RouteAttribute::Oif(self.index(route.link)?),
        ];
        let gateway = route.via.map(|ip| RouteAttribute::Gateway(ip.into()));
        let source = route.source.map(|ip| RouteAttribute::PrefSource(ip.into()));
        let table = route.table.map(RouteAttribute::Table);
        let priority = route.priority.map(RouteAttribute::Priority);
        let mtu = route.mtu.map(RouteMetric::Mtu);
        let mtu = mtu.map(|mtu| RouteAttribute::Metrics(vec![mtu]));
        let optional = [gateway, source, table, priority, mtu];
        message.attributes.extend(optional.into_iter().flatten());
        Ok(message)
    }

    /// Adds a policy rule for IPv4 and one for IPv6.
    ///
    /// # Errors
    /// When the kernel has no policy routing.
    pub fn add_rule(&self, rule: Rule) -> Result<(), NetError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            message.header.action = RuleAction::ToTable;
            if rule.invert {
                message.header.flags = RuleFlags::Invert;
            }
            message.attributes = vec![
                RuleAttribute::Table(rule.table),
                RuleAttribute::Priority(rule.priority),
            ];
            if rule.mark != 0 {
                message.attributes.push(RuleAttribute::FwMark(rule.mark));
            }
            if let Some(length) = rule.suppress_prefix_length {
                message
                    .attributes
                    .push(RuleAttribute::SuppressPrefixLen(length));
            }
            self.change(
                RouteNetlinkMessage::NewRule(message),
                NLM_F_CREATE | NLM_F_EXCL,
                || format!("add {rule:?}"),
            )?;
        }
        Ok(())
    }
}
