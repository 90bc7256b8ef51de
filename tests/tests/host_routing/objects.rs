//! What is set, and that it is gone afterwards.

use std::net::IpAddr;

use ipnet::IpNet;
use ringspan::runtime::host_routing::{HostRoutingError, NFT_TABLE};
use ringspan::runtime::rtnetlink::{
    Family, HostNetlink, MAIN_TABLE, Protocol, Route, RouteWay, Rule, RuleSelector,
};
use ringspan::{HostRouting, Outer};
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::Namespace;

use crate::bed::{Bed, LINK, MTU, Member, Result, config, ipv6_addresses, nft_output, ula};

/// Everything that routing touches: rules, the routes of its table and of the main one, nftables.
pub(crate) fn snapshot(namespace: &Namespace) -> Result<(Vec<Rule>, Vec<Route>, String)> {
    let (rules, mut routes) = namespace.run(|| {
        let mut netlink = HostNetlink::open()?;
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            rules.extend(netlink.rules(family)?);
            for table in [180, MAIN_TABLE] {
                routes.extend(netlink.routes(family, table)?);
            }
        }
        Ok::<_, std::io::Error>((rules, routes))
    })?;
    // The kernel's own, which come with some delay.
    let link_local: IpNet = "fe80::/10".parse()?;
    routes.retain(|route: &Route| !link_local.contains(&route.prefix));
    Ok((rules, routes, nft_output(namespace, &["list", "ruleset"])?))
}

fn mesh_address(namespace: &Namespace) -> Result<Option<[String; 4]>> {
    let wanted: String = ula(1)
        .octets()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let addresses = ipv6_addresses(namespace, LINK)?;
    Ok(addresses
        .into_iter()
        .find(|[address, ..]| *address == wanted))
}

pub(crate) fn set_and_taken_back() -> TestResult {
    let bed = Bed::new()?;
    let before = snapshot(&bed.host)?;
    let member = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let index = bed.host.index(LINK)?;

    let (rules, routes, ruleset) = snapshot(&bed.host)?;
    for family in Family::ALL {
        let rule = Rule {
            family,
            priority: 32500,
            selector: RuleSelector::Mark {
                mark: 0x40,
                mask: 0x60,
            },
            table: 180,
            protocol: Protocol::RINGSPAN,
        };
        assert!(rules.contains(&rule), "{rules:?}");
    }
    for prefix in ["0.0.0.0/0", "::/0"] {
        let prefix: IpNet = prefix.parse()?;
        let through = Route {
            prefix,
            table: 180,
            way: RouteWay::Link(index),
            metric: 1,
            mtu: Some(MTU.into()),
            protocol: Protocol::STATIC,
        };
        assert!(
            routes.contains(&through),
            "{through:?} is not in {routes:?}"
        );
        let nowhere = |route: &&Route| route.prefix == prefix && route.table == 180;
        assert_eq!(routes.iter().filter(nowhere).count(), 2, "{routes:?}");
    }
    let [_, length, scope, flags] = mesh_address(&bed.host)?.ok_or("no mesh address")?;
    // Of global scope (0) and permanent (0x80), usable at once (0x02: no duplicate detection).
    assert_eq!([length, scope, flags], ["40", "00", "82"]);
    for part in [
        "table inet ringspan",
        "meta mark & 0x00000060 == 0x00000020 accept",
        "oifname \"lo\" accept",
        // As nft shows `(mark & 0xffffff9f) ^ 0x40`.
        "meta mark set meta mark & 0xffffffdf | 0x00000040 accept",
        "tcp option maxseg size set 1368",
        "tcp option maxseg size set 1348",
        "10.244.2.0/23",
        "2001:db8:2::/64",
    ] {
        assert!(ruleset.contains(part), "{part} is not in\n{ruleset}");
    }
    // The mesh's own addresses take the link's /64.
    assert!(!ruleset.contains("fd12:"), "{ruleset}");

    // The same again changes nothing.
    member.route(false)?;
    assert_eq!(snapshot(&bed.host)?, (rules, routes, ruleset));

    member.routing.close()?;
    assert_eq!(
        mesh_address(&bed.host)?,
        None,
        "the address was left behind"
    );
    member.plane.shutdown()?;
    assert_eq!(snapshot(&bed.host)?, before, "something was left behind");
    Ok(())
}

pub(crate) fn dropped() -> TestResult {
    let bed = Bed::new()?;
    let before = snapshot(&bed.host)?;
    drop(Member::start(&bed.host, 1, Outer::udp(), false)?);
    assert_eq!(snapshot(&bed.host)?, before, "something was left behind");
    Ok(())
}

pub(crate) fn one_at_a_time() -> TestResult {
    let bed = Bed::new()?;
    let member = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let during = snapshot(&bed.host)?;
    let second = bed.host.run(|| HostRouting::start(config(1, false)));
    assert!(
        matches!(second, Err(HostRoutingError::Busy { table: 180 })),
        "{second:?}"
    );
    assert_eq!(
        snapshot(&bed.host)?,
        during,
        "the second took something away"
    );
    // Another network namespace is another host.
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    other.close()?;
    member.close()
}

pub(crate) fn missing() -> TestResult {
    let bed = Bed::new()?;
    let before = snapshot(&bed.host)?;
    let start = |config| bed.host.run(|| HostRouting::start(config)).map(drop);
    let error = start(config(1, false)).expect_err("there is no link");
    assert!(error.to_string().contains("interface kubespan"), "{error}");
    let mut lone = config(1, false);
    lone.address = IpAddr::from(ula(1)).into();
    let error = start(lone).expect_err("an address without a network");
    assert!(matches!(error, HostRoutingError::Address(_)), "{error}");
    assert_eq!(snapshot(&bed.host)?, before, "{NFT_TABLE} was left behind");
    Ok(())
}

pub(crate) fn ipv6_enabled() -> TestResult {
    let bed = Bed::new()?;
    bed.host.set_sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    let member = Member::start(&bed.host, 1, Outer::udp(), false)?;
    assert!(mesh_address(&bed.host)?.is_some(), "no mesh address");
    member.close()
}
