//! All traffic through the tunnel: policy routing as `wg-quick` sets it.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use ringspan::runtime::rtnetlink::{Family, HostNetlink, MAIN_TABLE, Route, Rule, RuleSelector};
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::Namespace;
use ringspan_tests::traffic::ping::{Options, Pings, ping};
use ringspan_tests::traffic::tcp;
use rustix::process::Signal;

use crate::bed::{Bed, PATIENCE};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Where all the world lies: behind node 1.
const WORLD: [&str; 2] = ["203.0.113.1", "2001:db8:77::1"];
/// The endpoint of node 1: behind the default route too.
const ENDPOINT: &str = "192.0.2.2";

/// Node 0 has a default route over the wire, a strict reverse path filter, and one through the
/// tunnel to set.
fn bed() -> Result<Bed> {
    let bed = Bed::new()?;
    let [node, world] = &bed.namespaces;
    for address in WORLD.iter().chain([&ENDPOINT]) {
        world.add_address("lo", IpNet::from(address.parse::<IpAddr>()?))?;
    }
    node.add_address("veth0", "fd09::1/64".parse::<IpNet>()?)?;
    world.add_address("veth1", "fd09::2/64".parse::<IpNet>()?)?;
    for (to, via) in [("0.0.0.0/0", "10.9.0.2"), ("::/0", "fd09::2")] {
        node.add_route(to.parse::<IpNet>()?, "veth0", Some(via.parse()?))?;
    }
    node.set_sysctl("ipv4/conf/all/rp_filter", "1")?;
    let path = bed.scratch.join("node0.toml");
    let text = fs::read_to_string(&path)?
        .replace("10.9.0.2:51820", &format!("{ENDPOINT}:51820"))
        .replace("\"10.78.1.0/24\"", "\"0.0.0.0/0\", \"::/0\"");
    fs::write(&path, text)?;
    // What comes to node 1 in clear, by the address that it is for.
    nft(
        world,
        "table inet probe { counter clear { }; chain in { \
         type filter hook prerouting priority raw; policy accept; \
         iifname veth1 ip daddr 203.0.113.1 counter name clear; \
         iifname veth1 ip6 daddr 2001:db8:77::1 counter name clear; }; }",
    )?;
    Ok(bed)
}

fn nft(namespace: &Namespace, command: &str) -> Result<String> {
    let output = namespace.run(|| Command::new("nft").arg(command).output())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn clear(bed: &Bed) -> Result<u64> {
    let text = nft(&bed.namespaces[1], "list counter inet probe clear")?;
    let mut words = text.split_whitespace();
    words.find(|word| *word == "packets").ok_or("no counter")?;
    Ok(words.next().ok_or("no count")?.parse()?)
}

fn pinged(namespace: &Namespace, to: &str) -> Result<Pings> {
    let to: IpAddr = to.parse()?;
    let options = Options {
        timeout: Duration::from_secs(2),
        ..Options::default()
    };
    Ok(namespace.run(|| ping(to, options))?)
}

/// Rules, the routes of the mark's table, the ruleset.
fn snapshot(namespace: &Namespace) -> Result<(Vec<Rule>, Vec<Route>, String)> {
    let (rules, routes) = namespace.run(|| {
        let mut netlink = HostNetlink::open()?;
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            rules.extend(netlink.rules(family)?);
            routes.extend(netlink.routes(family, 51820)?);
        }
        Ok::<_, std::io::Error>((rules, routes))
    })?;
    Ok((rules, routes, nft(namespace, "list ruleset")?))
}

pub(crate) fn through_the_tunnel(outer: &str) -> TestResult {
    let bed = bed()?;
    let [node0, node1] = &bed.namespaces;
    let before = snapshot(node0)?;
    for address in WORLD {
        assert!(pinged(node0, address)?.all_answered(), "{address} in clear");
    }
    assert_eq!(clear(&bed)?, 6, "the counter does not count");

    let mut nodes = [bed.up(0, outer)?, bed.up(1, outer)?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }
    let (rules, routes, _) = snapshot(node0)?;
    assert_eq!(routes.len(), 2, "{routes:?}");
    for family in Family::ALL {
        let of_family = |rule: &&Rule| rule.family == family;
        let [_local, suppress, by_mark, ..] =
            rules.iter().filter(of_family).collect::<Vec<_>>()[..]
        else {
            return Err(format!("too few rules: {rules:?}").into());
        };
        assert_eq!(suppress.selector, RuleSelector::SuppressDefault);
        assert_eq!(suppress.table, MAIN_TABLE);
        assert_eq!(by_mark.selector, RuleSelector::NotMark(51820));
        assert_eq!(by_mark.table, 51820);
    }

    for address in WORLD {
        let pings = pinged(node0, address)?;
        assert!(
            pings.all_answered(),
            "{address}: {pings:?}\n{}",
            nodes[0].log()
        );
    }
    let server = node1.run(|| tcp::Server::start("203.0.113.1".parse().unwrap()))?;
    let moved =
        node0.run(|| tcp::transfer(server.address(), 1 << 20, 1 << 20, PATIENCE, |_| true))?;
    assert_eq!(moved.uploaded + moved.downloaded, 2 << 20);
    assert_eq!(clear(&bed)?, 6, "packets in clear");
    // The main table's other routes come first.
    assert!(
        pinged(node0, "10.9.0.2")?.all_answered(),
        "the network is cut off"
    );
    let status = bed.status(&["node0", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    assert_eq!(status[0]["fwmark"], 51820, "{status}");
    if outer == "xdp" {
        let drivers = status[0]["drivers"].as_array().ok_or("no drivers")?;
        let xdp = drivers
            .iter()
            .any(|d| d["port"] == "outer rx" && d["driver"] == "xdp");
        assert!(xdp, "{drivers:?}");
    }

    // A neighbour that asks for the tunnel's address gets no answer, because of our table.
    assert_eq!(
        nodes[1].end(Signal::TERM)?.code(),
        Some(0),
        "{}",
        nodes[1].log()
    );
    let inside: IpNet = "10.77.0.1/32".parse()?;
    node1.add_route(inside, "veth1", Some("10.9.0.1".parse()?))?;
    let spied = pinged(node1, "10.77.0.1")?;
    assert!(spied.round_trips.is_empty(), "{spied:?}");
    nft(node0, "delete table inet ringspan-node0")?;
    assert!(
        pinged(node1, "10.77.0.1")?.all_answered(),
        "it was another's doing"
    );

    assert_eq!(
        nodes[0].end(Signal::INT)?.code(),
        Some(0),
        "{}",
        nodes[0].log()
    );
    assert_eq!(snapshot(node0)?, before, "something was left behind");
    bed.assert_clean();
    Ok(())
}

pub(crate) fn killed() -> TestResult {
    let bed = bed()?;
    let node0 = &bed.namespaces[0];
    let before = snapshot(node0)?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(node0)?;
    let whole = snapshot(node0)?;
    node.end(Signal::KILL)?;
    // Nothing of what stays is in anybody's way.
    assert!(pinged(node0, WORLD[0])?.all_answered());

    let mut next = bed.up(0, "udp")?;
    next.wait_until_up(node0)?;
    let (rules, _, ruleset) = snapshot(node0)?;
    assert_eq!((rules, ruleset), (whole.0, whole.2), "not taken over");
    assert_eq!(next.end(Signal::TERM)?.code(), Some(0), "{}", next.log());
    assert_eq!(snapshot(node0)?, before, "something was left behind");
    bed.assert_clean();
    Ok(())
}
