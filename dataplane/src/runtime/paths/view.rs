//! What is known of links and neighbours, and what paths it makes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    VlanProtocol,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use crate::io::xdp::Path;
use crate::io::xdp::path::PathMarks;

/// TTL and hop limit where the route names none: the kernel's default.
const HOP_LIMIT: u8 = 64;

/// The part of a route that a path needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub(super) interface: u32,
    pub(super) next_hop: IpAddr,
    source: IpAddr,
    mtu: Option<u32>,
    hop_limit: u8,
}

impl Route {
    /// From the kernel's answer about `destination`; `None` where that is no neighbour or
    /// gateway on an interface: a local address, a broadcast, a blackhole.
    pub(super) fn parse(message: &RouteMessage, destination: IpAddr) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let mut interface = None;
        let mut next_hop = destination;
        let mut source = None;
        let mut mtu = None;
        let mut hop_limit = HOP_LIMIT;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = Some(*index),
                RouteAttribute::Gateway(gateway) => next_hop = ip(gateway)?,
                // An IPv4 destination behind an IPv6 gateway (RFC 5549).
                RouteAttribute::Via(RouteVia::Inet(v4)) => next_hop = (*v4).into(),
                RouteAttribute::Via(RouteVia::Inet6(v6)) => next_hop = (*v6).into(),
                RouteAttribute::PrefSource(address) => source = ip(address),
                // Echoed where a source was asked for; then there is no preferred one.
                RouteAttribute::Source(address) => source = source.or_else(|| ip(address)),
                RouteAttribute::Metrics(metrics) => {
                    for metric in metrics {
                        match metric {
                            RouteMetric::Mtu(value) if *value > 0 => mtu = Some(*value),
                            RouteMetric::Hoplimit(value) if (1..=255).contains(value) => {
                                hop_limit = *value as u8;
                            }
                            _ => {}
                        }
                    }
                }
                // Tunnelled by the route itself (MPLS, SRv6): not plain Ethernet.
                RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
                _ => {}
            }
        }
        Some(Self {
            interface: interface?,
            next_hop,
            source: source?,
            mtu,
            hop_limit,
        })
    }

    /// Whether the route has an MTU of its own: configured, or learnt and to be forgotten.
    pub(super) const fn has_mtu(&self) -> bool {
        self.mtu.is_some()
    }

    /// The same route, sent from `source`.
    pub(super) const fn from(self, source: IpAddr) -> Self {
        Self { source, ..self }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    up: bool,
    mac: [u8; 6],
    mtu: u32,
    /// The parent and the number, if it is a VLAN device.
    vlan: Option<(u32, u16)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Neighbour {
    mac: [u8; 6],
    state: NeighbourState,
}

/// What an event may have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Nothing,
    /// The hardware address behind an address on an interface.
    Neighbour(u32, IpAddr),
    /// Any route.
    Everything,
}

/// The Ethernet links of the namespace, their neighbours, and the local addresses.
#[derive(Debug, Default)]
pub(super) struct View {
    links: HashMap<u32, Link>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// With the interface: the same address may be on several.
    addresses: HashSet<(u32, IpAddr)>,
}

impl View {
    /// Takes over what a dump listed or an event told.
    pub(super) fn update(&mut self, message: &Message) -> Change {
        match message {
            Message::NewLink(link) => self.new_link(link),
            Message::DelLink(link) => {
                let index = link.header.index;
                self.neighbours.retain(|(on, _), _| *on != index);
                self.addresses.retain(|(on, _)| *on != index);
                match self.links.remove(&index) {
                    None => Change::Nothing,
                    Some(_) => Change::Everything,
                }
            }
            Message::NewNeighbour(neighbour) => self.neighbour(neighbour, true),
            Message::DelNeighbour(neighbour) => self.neighbour(neighbour, false),
            Message::NewAddress(address) => self.address(address, true),
            Message::DelAddress(address) => self.address(address, false),
            Message::NewRoute(_)
            | Message::DelRoute(_)
            | Message::NewRule(_)
            | Message::DelRule(_) => Change::Everything,
            _ => Change::Nothing,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Change {
        let index = message.header.index;
        let before = self.links.get(&index);
        let now = parse_link(message);
        if before == now.as_ref() {
            return Change::Nothing;
        }
        match now {
            Some(link) => self.links.insert(index, link),
            None => self.links.remove(&index),
        };
        Change::Everything
    }

    fn address(&mut self, message: &AddressMessage, present: bool) -> Change {
        let Some(own) = own_address(message) else {
            return Change::Nothing;
        };
        let key = (message.header.index, own);
        let changed = if present {
            self.addresses.insert(key)
        } else {
            self.addresses.remove(&key)
        };
        if changed {
            Change::Everything
        } else {
            // A lifetime was renewed.
            Change::Nothing
        }
    }

    /// Whether `ip` is an address of this namespace: only then a datagram may bear it.
    pub(super) fn is_local(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(_, own)| *own == ip)
    }

    fn neighbour(&mut self, message: &NeighbourMessage, present: bool) -> Change {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::from(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::from(*v6));
                }
                NeighbourAttribute::LinkLocalAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                }
                _ => {}
            }
        }
        // Bridges' forwarding entries have no IP address.
        let Some(address) = address else {
            return Change::Nothing;
        };
        let key = (message.header.ifindex, address);
        let state = message.header.state;
        let usable = matches!(
            state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        );
        let now = mac
            .filter(|_| present && usable)
            .map(|mac| Neighbour { mac, state });
        let before = match now {
            Some(neighbour) => self.neighbours.insert(key, neighbour),
            None => self.neighbours.remove(&key),
        };
        if before.map(|neighbour| neighbour.mac) == now.map(|neighbour| neighbour.mac) {
            return Change::Nothing;
        }
        Change::Neighbour(key.0, key.1)
    }

    /// Whether the kernel believes in the neighbour without having looked lately: it will not
    /// look by itself, because it sends nothing there.
    pub(super) fn is_stale(&self, interface: u32, neighbour: IpAddr) -> bool {
        self.neighbours
            .get(&(interface, neighbour))
            .is_some_and(|neighbour| neighbour.state == NeighbourState::Stale)
    }

    /// Whether the neighbour's hardware address is known.
    pub(super) fn knows(&self, interface: u32, neighbour: IpAddr) -> bool {
        self.neighbours.contains_key(&(interface, neighbour))
    }

    /// The path that `route` makes; `None` while a part of it is missing.
    pub(super) fn path(&self, route: &Route) -> Option<Path> {
        let link = self.links.get(&route.interface).filter(|link| link.up)?;
        let (interface, vlan, parent_mtu) = match link.vlan {
            None => (route.interface, None, link.mtu),
            Some((parent, number)) => {
                let parent_link = self.links.get(&parent).filter(|link| link.up)?;
                // A tag in a tag is left to the kernel.
                if parent_link.vlan.is_some() {
                    return None;
                }
                (parent, Some(number), parent_link.mtu)
            }
        };
        let neighbour = self.neighbours.get(&(route.interface, route.next_hop))?;
        let mtu = route.mtu.unwrap_or(u32::MAX).min(link.mtu).min(parent_mtu);
        Some(Path {
            interface,
            source_mac: link.mac,
            destination_mac: neighbour.mac,
            vlan,
            source: route.source,
            mtu,
            hop_limit: route.hop_limit,
            marks: PathMarks::default(),
        })
    }
}

/// `None` for what is no Ethernet link that frames could be sent on.
fn parse_link(message: &LinkMessage) -> Option<Link> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let mut mac = None;
    let mut mtu = None;
    let mut parent = None;
    let mut is_vlan = false;
    let mut number = None;
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(value) => mtu = Some(*value),
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Vlan) => is_vlan = true,
                        LinkInfo::Data(InfoData::Vlan(data)) => {
                            let provider = InfoVlan::Protocol(VlanProtocol::Ieee8021Ad);
                            if data.contains(&provider) {
                                return None;
                            }
                            number = data.iter().find_map(|item| match item {
                                InfoVlan::Id(id) => Some(*id),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let vlan = match (is_vlan, elsewhere) {
        (false, _) => None,
        // The parent is in another namespace: its index means nothing here.
        (true, true) => return None,
        (true, false) => Some((parent?, number?)),
    };
    Some(Link {
        up: message
            .header
            .flags
            .contains(LinkFlags::Up | LinkFlags::Running),
        mac: mac?,
        mtu: mtu?,
        vlan,
    })
}

/// The address that an interface has by `message`.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On a link to one peer `Address` is the peer's, and `Local` ours.
    find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
