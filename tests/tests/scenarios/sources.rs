//! Which address datagrams come from, when addresses and routes change.

use ipnet::IpNet;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Route, Veth};

use crate::bed::*;

/// Gives an address, and waits until it is in use: the kernel makes an IPv6 address local a moment
/// after it has answered, and drops what comes for it until then.
fn give(node: &Node, link: &str, address: IpNet) -> TestResult {
    node.namespace.add_address(link, address)?;
    wait_for("the address is in use", || node.knock(address.addr()));
    Ok(())
}

/// The address that a peer knows this node by is taken away: the session goes on from another one.
pub(crate) fn a_source_is_not_too_sticky(driver: Driver) -> TestResult {
    for (family, first, second) in [(4, "192.0.2.50", "192.0.2.60"), (6, "fd00::50", "fd00::60")] {
        let (a, b) = strangers(driver)?;
        // Else the kernel takes the second address away with the first.
        a.namespace
            .set_sysctl(&format!("ipv4/conf/{OUTER}/promote_secondaries"), "1")?;
        a.namespace
            .remove_address(OUTER, network(a.outer(family)))?;
        give(&a, OUTER, network(ip(first)))?;
        a.apply(&[b.spec(family)])?;
        b.apply(&[a.spec_at(None)])?;
        // What is under way while an address goes is none of this test's business.
        wait_for("a goes on without its old address", || a.knock(b.inner(4)));
        a.reaches(&b)?;
        assert_eq!(b.peer().endpoint.map(|at| at.ip()), Some(ip(first)));
        let initiations = a.counter("initiations_sent") + b.counter("initiations_sent");
        give(&a, OUTER, network(ip(second)))?;
        a.namespace.remove_address(OUTER, network(ip(first)))?;
        wait_for("a goes on from its other address", || a.knock(b.inner(4)));
        a.reaches(&b)?;
        b.reaches(&a)?;
        assert_eq!(b.peer().endpoint.map(|at| at.ip()), Some(ip(second)));
        assert_eq!(
            a.counter("initiations_sent") + b.counter("initiations_sent"),
            initiations,
            "the session was kept"
        );
    }
    Ok(())
}

/// The address that is addressed belongs to another interface than the one the route leads over.
pub(crate) fn answers_from_another_interface_s_address(driver: Driver) -> TestResult {
    for (family, far, net) in [
        (4, "10.50.0.1", "10.50.0.0/24"),
        (6, "fd50::1", "fd50::/64"),
    ] {
        let (a, b) = strangers(driver)?;
        // The XDP program may learn of it later; what it passes until then is received nevertheless.
        give(&a, "lo", IpNet::from(ip(far)))?;
        b.namespace
            .add_route(net.parse::<IpNet>()?, OUTER, Some(a.outer(family)))?;
        b.apply(&[a.spec_at(Some(ip(far)))])?;
        a.apply(&[b.spec_at(None)])?;
        b.reaches(&a)?;
        a.reaches(&b)?;
        b.carries_by(driver, || b.reaches(&a))?;
        assert_eq!(b.peer().endpoint.map(|at| at.ip()), Some(ip(far)));
    }
    Ok(())
}

/// A better route appears, over another link and from another address: it is taken, and the peer
/// sees the new address.
pub(crate) fn a_better_route_is_taken(driver: Driver) -> TestResult {
    const SECOND: &str = "second0";
    for (net, family, sources) in [
        ("203.0.113.0/24", 4, ["192.0.2.1", "192.0.2.129"]),
        ("fd53::/64", 6, ["fd00::1", "fd00:1::1"]),
    ] {
        let (a, b) = strangers(driver)?;
        Veth::default().join(&a.namespace, SECOND, &b.namespace, SECOND)?;
        let net: IpNet = net.parse()?;
        let far = net.hosts().nth(6).ok_or("a host")?;
        give(&b, "lo", IpNet::from(far))?;
        give(&a, SECOND, IpNet::from(ip(sources[1])))?;
        b.namespace
            .add_route(IpNet::from(ip(sources[1])), SECOND, None)?;
        // The neighbour on the second link answers for the address by which it is the gateway.
        let gateway = if family == 4 {
            ip("172.16.9.2")
        } else {
            ip("fd09::2")
        };
        let near = if family == 4 {
            ip("172.16.9.1")
        } else {
            ip("fd09::1")
        };
        give(&a, SECOND, network(near))?;
        give(&b, SECOND, network(gateway))?;
        for namespace in [&a.namespace, &b.namespace] {
            for link in ["all", OUTER, SECOND] {
                namespace.set_sysctl(&format!("ipv4/conf/{link}/rp_filter"), "0")?;
            }
        }
        let worse = Route::new(net, OUTER)
            .via(b.outer(family))
            .source(ip(sources[0]))
            .priority(2000);
        a.namespace.route(&worse)?;
        a.apply(&[b.spec_at(Some(far))])?;
        b.apply(&[a.spec_at(None)])?;
        a.reaches(&b)?;
        assert_eq!(b.peer().endpoint.map(|at| at.ip()), Some(ip(sources[0])));

        let better = Route::new(net, SECOND)
            .via(gateway)
            .source(ip(sources[1]))
            .priority(1000);
        a.namespace.route(&better)?;
        wait_for("the better route is taken", || {
            a.knock(b.inner(4)) && b.peer().endpoint.map(|at| at.ip()) == Some(ip(sources[1]))
        });
        b.reaches(&a)?;
        a.namespace.remove_route(&better)?;
        wait_for("and the worse one again", || {
            a.knock(b.inner(4)) && b.peer().endpoint.map(|at| at.ip()) == Some(ip(sources[0]))
        });
        a.reaches(&b)?;
        b.reaches(&a)?;
    }
    Ok(())
}
