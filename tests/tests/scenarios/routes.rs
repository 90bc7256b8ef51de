//! Routing around, into and under the tunnel.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ringspan::control::{DeviceChange, PeerSpec};
use ringspan::crypto::PrivateKey;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Namespace, Route, Rule, Veth};

use crate::bed::*;
use crate::paths::{run_nft, told};

const MARK: u32 = 0x66;
const TABLE: u32 = 66;

/// Addresses of b that only a route leads to.
const BEHIND: [&str; 2] = ["198.51.100.2", "fd51::2"];

/// The rule that leads marked packets to the table of the only route there is. Whatever is sent, a
/// handshake or data, by either driver, bears the mark while there is one.
pub(crate) fn a_mark_chooses_the_way(driver: Driver) -> TestResult {
    for (family, far) in [(4, BEHIND[0]), (6, BEHIND[1])] {
        let (a, b) = strangers(driver)?;
        b.namespace.add_address("lo", IpNet::from(ip(far)))?;
        a.namespace.add_rule(Rule {
            mark: MARK,
            invert: false,
            table: TABLE,
            suppress_prefix_length: None,
            priority: 100,
        })?;
        let way = Route::new(ip(far), OUTER).via(b.outer(family)).table(TABLE);
        a.namespace.route(&way)?;
        a.apply(&[b.spec_at(Some(ip(far)))])?;
        b.apply(&[a.spec_at(None)])?;

        a.is_ignored_by(b.inner(4))?;
        assert_eq!(b.counter("datagrams"), 0, "{:?}", b.counted());
        let mark = |mark| DeviceChange {
            fwmark: Some(mark),
            ..DeviceChange::default()
        };
        a.configure(mark(MARK))?;
        // Initiations are five seconds apart.
        wait_for("the mark opens the way", || a.knock(b.inner(4)));
        a.reaches(&b)?;
        wait_for("the driver under test carries", || {
            a.carries_by(driver, || a.reaches(&b)).is_ok()
        });
        assert_eq!(a.peer().endpoint.map(|at| at.ip()), Some(ip(far)));

        let heard = b.peer().receive_bytes;
        a.configure(mark(MARK + 1))?;
        wait_for("another mark closes it", || !a.knock(b.inner(4)));
        let closed = b.peer().receive_bytes;
        assert!(closed >= heard);
        a.is_ignored_by(b.inner(4))?;
        assert_eq!(b.peer().receive_bytes, closed, "IPv{family}");
        a.configure(mark(MARK))?;
        wait_for("and the first one opens it", || a.knock(b.inner(4)));
    }
    Ok(())
}

/// Everything goes into the tunnel but what bears the mark, as `wg-quick` sets it up; the main
/// table has a default route of its own, that only the outer datagrams take.
pub(crate) fn a_default_route_spares_its_own(driver: Driver) -> TestResult {
    let (a, b) = strangers(driver)?;
    for (at, far) in BEHIND.into_iter().enumerate() {
        let family = [4, 6][at];
        b.namespace.add_address("lo", IpNet::from(ip(far)))?;
        let everything: IpNet = ["0.0.0.0/0", "::/0"][at].parse()?;
        a.namespace
            .add_route(everything, OUTER, Some(b.outer(family)))?;
        a.namespace
            .route(&Route::new(everything, TUNNEL).table(TABLE))?;
    }
    let rule = Rule {
        mark: MARK,
        invert: true,
        table: TABLE,
        suppress_prefix_length: None,
        priority: 200,
    };
    a.namespace.add_rule(rule)?;
    a.namespace.add_rule(Rule {
        mark: 0,
        invert: false,
        table: 254,
        suppress_prefix_length: Some(0),
        priority: 100,
    })?;
    a.configure(DeviceChange {
        fwmark: Some(MARK),
        ..DeviceChange::default()
    })?;
    let beyond = ["203.0.113.7", "fd53::7"].map(ip);
    for address in beyond {
        b.namespace.add_address("lo", IpNet::from(address))?;
    }
    b.apply(&[a.spec_at(None)])?;
    for endpoint in BEHIND {
        a.apply(&[])?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut spec = b.spec_at(Some(ip(endpoint)));
        spec.allowed_ips = vec!["0.0.0.0/0".parse()?, "::/0".parse()?];
        a.apply(&[spec])?;
        a.reaches(&b)?;
        a.carries_by(driver, || {
            for address in beyond {
                let pings = a.ping(address, 100, 56)?;
                assert!(pings.all_answered(), "{address}: {pings:?}");
            }
            Ok(())
        })?;
        assert_eq!(a.counter("looped"), 0);
    }
    Ok(())
}

/// Another tunnel, whose datagrams go through the first one.
pub(crate) fn a_tunnel_in_the_tunnel(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let (within_a, within_b) = (within(&a, 3)?, within(&b, 4)?);
    for (plane, other, node) in [(&within_a, &within_b, &b), (&within_b, &within_a, &a)] {
        plane.control().apply(&[PeerSpec {
            endpoints: vec![SocketAddr::new(node.inner(6), other.listen_port())],
            allowed_ips: vec![within_address(node).into()],
            ..PeerSpec::new(other.public_key())
        }])?;
    }
    a.carries_by(driver, || {
        for (from, to) in [(&a, &b), (&b, &a)] {
            for size in [56, 1200] {
                let pings = from.ping(within_address(to), 5, size)?;
                assert!(pings.all_answered(), "{size}: {pings:?}");
            }
        }
        Ok(())
    })?;
    let inner = within_b.statuses().remove(0);
    assert_eq!(inner.endpoint.map(|at| at.ip()), Some(a.inner(6)));
    within_a.shutdown()?;
    within_b.shutdown()?;
    a.reaches(&b)
}

const WITHIN: &str = "ring1";

fn within_address(node: &Node) -> IpAddr {
    match node.inner(4) {
        IpAddr::V4(v4) => IpAddr::from([10, 8, 0, v4.octets()[3]]),
        other => other,
    }
}

/// A second node in the namespace of the first, over UDP, with an address of its own.
fn within(node: &Node, key: u8) -> Fallible<Dataplane> {
    let plane = node.namespace.run(|| {
        Dataplane::builder(PrivateKey::from([key; 32]))
            .listen_port(0)
            .outer(Outer::udp())
            .inner(Inner::tun(WITHIN).mtu(1280))
            .start()
    })?;
    let address = within_address(node);
    node.namespace.add_address(WITHIN, network(address))?;
    Ok(plane)
}

/// A peer whose endpoint lies behind another peer of the same node: two layers, one node. Then its
/// endpoint is said to be behind itself: nothing arrives, and nothing goes round for ever.
pub(crate) fn an_onion_has_no_loop(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let core = within(&b, 3)?;
    a.namespace
        .add_address(TUNNEL, network(within_address(&a)))?;
    let spec = |endpoint| PeerSpec {
        endpoints: vec![SocketAddr::new(endpoint, core.listen_port())],
        allowed_ips: vec![within_address(&b).into()],
        ..PeerSpec::new(core.public_key())
    };
    core.control().apply(&[PeerSpec {
        allowed_ips: vec![within_address(&a).into()],
        ..PeerSpec::new(a.plane.public_key())
    }])?;
    a.apply(&[b.spec(4), spec(b.inner(4))])?;
    let pings = a.ping(within_address(&b), 5, 56)?;
    assert!(pings.all_answered(), "{pings:?} {:?}", a.counted());
    assert_eq!(
        core.statuses()[0].endpoint.map(|at| at.ip()),
        Some(a.inner(4)),
        "it came through the outer layer"
    );

    a.apply(&[b.spec(4)])?;
    a.apply(&[b.spec(4), spec(within_address(&b))])?;
    let before: u64 = sent(&a);
    a.is_ignored_by(within_address(&b))?;
    let grown = sent(&a) - before;
    assert!(grown < 4096, "{grown} bytes: {:?}", a.counted());
    a.apply(&[b.spec(4)])?;
    a.reaches(&b)
}

fn sent(node: &Node) -> u64 {
    let statuses = node.plane.statuses();
    statuses.iter().map(|peer| peer.transmit_bytes).sum()
}

/// A client behind a node that masquerades it into the tunnel: when the peer is gone, the error
/// finds its way back through the address translation.
pub(crate) fn an_error_goes_back_through_the_nat(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    let client = Namespace::new("client")?;
    Veth::default().join(&client, "lan0", &a.namespace, "lan0")?;
    for (at, everything) in ["0.0.0.0/0", "::/0"].into_iter().enumerate() {
        let (inside, gateway) = [("10.20.0.1", "10.20.0.254"), ("fd20::1", "fd20::254")]
            .map(|(x, y)| (ip(x), ip(y)))[at];
        client.add_address("lan0", network(inside))?;
        a.namespace.add_address("lan0", network(gateway))?;
        client.add_route(everything.parse::<IpNet>()?, "lan0", Some(gateway))?;
    }
    a.namespace.set_sysctl("ipv4/ip_forward", "1")?;
    a.namespace.set_sysctl("ipv6/conf/all/forwarding", "1")?;
    run_nft(
        &a.namespace,
        "table inet n { chain p { type nat hook postrouting priority 100; oifname ring0 masquerade; }; }",
    )?;
    a.reaches(&b)?;
    let options = ringspan_tests::traffic::ping::Options::default();
    for family in [4, 6] {
        let to = b.inner(family);
        let pings = client.run(|| ringspan_tests::traffic::ping::ping(to, options))?;
        assert!(pings.all_answered(), "IPv{family}: {pings:?}");
    }
    a.apply(&[])?;
    for family in [4, 6] {
        let error = client.run(|| told(b.inner(family)))?;
        // EHOSTUNREACH.
        assert_eq!(error.raw_os_error(), Some(113), "IPv{family}: {error}");
    }
    a.apply(&[b.spec(4)])?;
    for family in [4, 6] {
        let to = b.inner(family);
        wait_for("the client reaches b again", || {
            client
                .run(|| ringspan_tests::traffic::ping::ping(to, options))
                .is_ok_and(|pings| pings.all_answered())
        });
    }
    Ok(())
}

/// The interface is taken into another namespace: the outer side stays where it was born.
pub(crate) fn an_interface_moves_to_another_namespace(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let inside = Namespace::new("inside")?;
    a.namespace.move_link(TUNNEL, &inside)?;
    inside.up(TUNNEL)?;
    for family in [4, 6] {
        inside.add_address(TUNNEL, network(a.inner(family)))?;
    }
    let options = ringspan_tests::traffic::ping::Options::default();
    for family in [4, 6] {
        let to = b.inner(family);
        wait_for("the namespace inside reaches b", || {
            inside
                .run(|| ringspan_tests::traffic::ping::ping(to, options))
                .is_ok_and(|pings| pings.all_answered())
        });
        // Nothing but the tunnel is in there.
        assert!(inside.index(OUTER).is_err());
    }
    b.carries_by(driver, || {
        let server = b
            .namespace
            .run(|| ringspan_tests::traffic::tcp::Server::start(b.inner(4)))?;
        let moved = inside.run(|| {
            ringspan_tests::traffic::tcp::transfer(
                server.address(),
                1 << 20,
                1 << 20,
                PATIENCE,
                |_| true,
            )
        })?;
        assert_eq!((moved.uploaded, moved.downloaded), (1 << 20, 1 << 20));
        Ok(())
    })
}
