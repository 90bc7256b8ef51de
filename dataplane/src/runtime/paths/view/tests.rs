use netlink_packet_route::link::LinkHeader;

use super::*;

const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 254));
const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn link(index: u32, mtu: u32, more: &[LinkAttribute]) -> Message {
    let mut message = LinkMessage::default();
    message.header = LinkHeader {
        index,
        link_layer_type: LinkLayerType::Ether,
        flags: LinkFlags::Up | LinkFlags::Running,
        ..LinkHeader::default()
    };
    message.attributes = vec![
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::Mtu(mtu),
    ];
    message.attributes.extend_from_slice(more);
    Message::NewLink(message)
}

fn vlan(index: u32, parent: u32, number: u16) -> Message {
    link(
        index,
        1400,
        &[
            LinkAttribute::Link(parent),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(number)])),
            ]),
        ],
    )
}

fn neighbour(interface: u32, mac: [u8; 6], state: NeighbourState) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    message.header.state = state;
    let IpAddr::V4(router) = ROUTER else {
        unreachable!()
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(router)),
        NeighbourAttribute::LinkLocalAddress(mac.to_vec()),
    ];
    Message::NewNeighbour(message)
}

fn route(interface: u32) -> Route {
    Route {
        interface,
        next_hop: ROUTER,
        source: SOURCE,
        mtu: None,
        hop_limit: 64,
    }
}

#[test]
fn a_path_needs_link_and_neighbour() {
    let mut view = View::default();
    assert!(view.path(&route(3)).is_none());
    assert_eq!(view.update(&link(3, 1500, &[])), Change::Everything);
    assert!(view.path(&route(3)).is_none());
    let learnt = view.update(&neighbour(3, ROUTER_MAC, NeighbourState::Reachable));
    assert_eq!(learnt, Change::Neighbour(3, ROUTER));
    let path = view.path(&route(3)).unwrap();
    assert_eq!(
        (path.interface, path.source_mac, path.destination_mac),
        (3, MAC, ROUTER_MAC)
    );
    assert_eq!((path.mtu, path.vlan, path.source), (1500, None, SOURCE));
    // Told again: nothing to do.
    assert_eq!(view.update(&link(3, 1500, &[])), Change::Nothing);
    let stale = view.update(&neighbour(3, ROUTER_MAC, NeighbourState::Stale));
    assert_eq!(stale, Change::Nothing);
    assert!(view.is_stale(3, ROUTER));
    assert!(view.path(&route(3)).is_some(), "stale is usable");
    // Gone.
    let failed = view.update(&neighbour(3, ROUTER_MAC, NeighbourState::Failed));
    assert_eq!(failed, Change::Neighbour(3, ROUTER));
    assert!(view.path(&route(3)).is_none());
}

#[test]
fn the_least_mtu_on_the_way_counts() {
    let mut view = View::default();
    view.update(&link(3, 1500, &[]));
    view.update(&neighbour(3, ROUTER_MAC, NeighbourState::Permanent));
    let learnt = Route {
        mtu: Some(1280),
        ..route(3)
    };
    assert_eq!(view.path(&learnt).unwrap().mtu, 1280);
    let large = Route {
        mtu: Some(9000),
        ..route(3)
    };
    assert_eq!(view.path(&large).unwrap().mtu, 1500);
}

#[test]
fn a_vlan_is_sent_on_its_parent() {
    let mut view = View::default();
    view.update(&vlan(5, 3, 42));
    view.update(&neighbour(5, ROUTER_MAC, NeighbourState::Reachable));
    assert!(view.path(&route(5)).is_none(), "no parent");
    view.update(&link(3, 1500, &[]));
    let path = view.path(&route(5)).unwrap();
    assert_eq!((path.interface, path.vlan, path.mtu), (3, Some(42), 1400));
    // A VLAN on a VLAN, or with its parent in another namespace, is the kernel's business.
    view.update(&vlan(6, 5, 43));
    view.update(&neighbour(6, ROUTER_MAC, NeighbourState::Reachable));
    assert!(view.path(&route(6)).is_none());
    let Message::NewLink(mut away) = vlan(7, 3, 44) else {
        unreachable!()
    };
    away.attributes.push(LinkAttribute::LinkNetNsId(0));
    assert_eq!(view.update(&Message::NewLink(away)), Change::Nothing);
}

#[test]
fn a_link_that_goes_takes_its_neighbours_along() {
    let mut view = View::default();
    let up = link(3, 1500, &[]);
    view.update(&up);
    view.update(&neighbour(3, ROUTER_MAC, NeighbourState::Reachable));
    let Message::NewLink(mut down) = up.clone() else {
        unreachable!()
    };
    down.header.flags = LinkFlags::Up;
    let change = view.update(&Message::NewLink(down.clone()));
    assert_eq!(change, Change::Everything);
    assert!(view.path(&route(3)).is_none(), "no carrier");
    view.update(&Message::DelLink(down));
    view.update(&up);
    assert!(!view.knows(3, ROUTER));
}

#[test]
fn only_unicast_routes_over_plain_ethernet_serve() {
    let mut message = RouteMessage::default();
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Oif(3),
        RouteAttribute::Gateway(RouteAddress::Inet("192.0.2.254".parse().unwrap())),
        RouteAttribute::PrefSource(RouteAddress::Inet("192.0.2.1".parse().unwrap())),
        RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400), RouteMetric::Hoplimit(9)]),
    ];
    let parsed = Route::parse(&message, REMOTE).unwrap();
    let expected = Route {
        mtu: Some(1400),
        hop_limit: 9,
        ..route(3)
    };
    assert_eq!(parsed, expected);
    for kind in [RouteType::Local, RouteType::BlackHole, RouteType::Broadcast] {
        let mut other = message.clone();
        other.header.kind = kind;
        assert_eq!(Route::parse(&other, REMOTE), None);
    }
    // Without a gateway the remote itself is the next hop.
    message.attributes.remove(1);
    assert_eq!(Route::parse(&message, REMOTE).unwrap().next_hop, REMOTE);
    // An IPv6 gateway for an IPv4 destination.
    let via = "fe80::1".parse().unwrap();
    message
        .attributes
        .push(RouteAttribute::Via(RouteVia::Inet6(via)));
    assert_eq!(
        Route::parse(&message, REMOTE).unwrap().next_hop,
        IpAddr::V6(via)
    );
}

#[test]
fn local_addresses_are_known_by_interface() {
    let mut view = View::default();
    let mut message = AddressMessage::default();
    message.header.index = 3;
    // A link to one peer: the peer's address is not ours.
    message.attributes = vec![
        AddressAttribute::Address(ROUTER),
        AddressAttribute::Local(SOURCE),
    ];
    let new = Message::NewAddress(message.clone());
    assert_eq!(view.update(&new), Change::Everything);
    assert_eq!(
        view.update(&new),
        Change::Nothing,
        "its lifetime was renewed"
    );
    assert!(view.is_local(SOURCE) && !view.is_local(ROUTER));
    // On two interfaces, gone from one.
    message.header.index = 4;
    view.update(&Message::NewAddress(message.clone()));
    view.update(&Message::DelAddress(message));
    assert!(view.is_local(SOURCE));
}
