//! What others have set is refused by its name, and stays.

use ipnet::IpNet;
use ringspan::runtime::host_routing::HostRoutingError;
use ringspan::runtime::rtnetlink::{
    Family, HostNetlink, Protocol, Route, RouteWay, Rule, RuleSelector,
};
use ringspan::{Dataplane, HostRouting, Inner};
use ringspan_tests::harness::TestResult;

use crate::bed::{Bed, LAN, LINK, MTU, Result, config, nft};
use crate::objects::snapshot;

/// A link to route into.
fn plane(bed: &Bed) -> Result<Dataplane> {
    Ok(bed.host.run(|| {
        Dataplane::builder([1; 32].into())
            .inner(Inner::tun(LINK).mtu(MTU))
            .start()
    })?)
}

/// Starts beside a stranger, is refused, and has changed nothing.
fn refused(bed: &Bed) -> Result<HostRoutingError> {
    let before = snapshot(&bed.host)?;
    let outcome = bed.host.run(|| HostRouting::start(config(1, false)));
    let error = outcome.err().ok_or("it was not refused")?;
    assert_eq!(snapshot(&bed.host)?, before);
    Ok(error)
}

pub(crate) fn rules() -> TestResult {
    let bed = Bed::new()?;
    let plane = plane(&bed)?;
    let stranger = Rule {
        family: Family::Ipv6,
        priority: 32500,
        selector: RuleSelector::Mark { mark: 7, mask: 7 },
        table: 99,
        protocol: Protocol(186),
    };
    let of_the_table = Rule {
        priority: 100,
        table: 180,
        family: Family::Ipv4,
        ..stranger
    };
    let mut netlink = bed.host.run(HostNetlink::open)?;
    for rule in [stranger, of_the_table] {
        netlink.add_rule(&rule)?;
        let error = refused(&bed)?.to_string();
        for part in [
            format!("{} rule {}", rule.family, rule.priority),
            format!("table {}", rule.table),
            "protocol 186".to_owned(),
        ] {
            assert!(error.contains(&part), "{part} is not in {error}");
        }
        netlink.remove_rule(&rule)?;
    }
    // Others stay, and do not disturb.
    let harmless = Rule {
        priority: 32400,
        ..stranger
    };
    netlink.add_rule(&harmless)?;
    nft(
        &bed.host,
        "table inet talos { set kubespan { type ipv4_addr; }\n}",
    )?;
    let before = snapshot(&bed.host)?;
    let routing = bed.host.run(|| HostRouting::start(config(1, false)))?;
    routing.close()?;
    assert_eq!(snapshot(&bed.host)?, before);
    plane.shutdown()?;
    Ok(())
}

pub(crate) fn routes() -> TestResult {
    let bed = Bed::new()?;
    let plane = plane(&bed)?;
    let prefix: IpNet = "192.0.2.0/24".parse()?;
    let stranger = Route {
        prefix,
        table: 180,
        way: RouteWay::Link(bed.host.index(LAN)?),
        metric: 0,
        mtu: None,
        protocol: Protocol(186),
    };
    let mut netlink = bed.host.run(HostNetlink::open)?;
    netlink.add_route(&stranger)?;
    let error = refused(&bed)?.to_string();
    for part in ["table 180", "192.0.2.0/24", "protocol 186"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    plane.shutdown()?;
    Ok(())
}

pub(crate) fn tables() -> TestResult {
    let bed = Bed::new()?;
    let plane = plane(&bed)?;
    nft(
        &bed.host,
        "table inet ringspan { set mine { type ipv4_addr; }\n}",
    )?;
    let error = refused(&bed)?;
    assert!(matches!(error, HostRoutingError::NftTableTaken), "{error}");
    assert!(error.to_string().contains("inet ringspan"), "{error}");
    plane.shutdown()?;
    Ok(())
}
