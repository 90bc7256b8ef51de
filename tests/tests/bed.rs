//! Does the bed itself hold: namespaces, links, children, traffic between them?

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use ipnet::IpNet;
use ringspan_tests::child::Role;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::{tcp, udp};

const NEEDS: &[Need] = &[Need::Namespaces];

/// Waits to be ended.
const SLEEPER: Role = Role {
    name: "sleeper",
    main: |_| {
        std::thread::sleep(Duration::from_secs(600));
        ExitCode::FAILURE
    },
};

fn main() -> ExitCode {
    Suite::new()
        .role(SLEEPER)
        .test("traffic_crosses_a_veth", NEEDS, traffic_crosses_a_veth)
        .test("a_route_is_needed", NEEDS, a_route_is_needed)
        .test("a_bridge_joins_links", NEEDS, a_bridge_joins_links)
        .test("offloads_are_switched", NEEDS, offloads_are_switched)
        .test("a_child_dies_with_its_namespace", NEEDS, a_child_dies)
        .main()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pair() -> Result<(Namespace, Namespace), Box<dyn std::error::Error>> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    Veth::default().join(&a, "ab", &b, "ba")?;
    for (namespace, link, host) in [(&a, "ab", 1), (&b, "ba", 2)] {
        namespace.add_address(link, net(&format!("10.9.0.{host}/24")))?;
        namespace.add_address(link, net(&format!("fd09::{host}/64")))?;
    }
    Ok((a, b))
}

fn traffic_crosses_a_veth() -> TestResult {
    let (a, b) = pair()?;
    for address in ["10.9.0.2", "fd09::2"] {
        let address = ip(address);
        let pings = a.run(|| ping(address, Options::default()))?;
        assert!(pings.all_answered(), "{pings:?}");

        let server = b.run(|| tcp::Server::start(address))?;
        let patience = Duration::from_secs(10);
        let moved =
            a.run(|| tcp::transfer(server.address(), 1 << 20, 1 << 20, patience, |_| true))?;
        assert_eq!(moved.uploaded + moved.downloaded, 2 << 20);

        let echo = b.run(|| udp::Echo::start(address))?;
        let exchange = a.run(|| udp::exchange(echo.address(), 100, 1200, 8, patience, |_| true))?;
        assert_eq!(exchange.echoed, 100, "{exchange:?}");
    }
    Ok(())
}

fn a_route_is_needed() -> TestResult {
    let (a, b) = pair()?;
    b.add_address("lo", net("10.77.0.1/32"))?;
    let to = ip("10.77.0.1");
    assert!(a.run(|| ping(to, Options::default())).is_err());
    a.add_route(net("10.77.0.0/24"), "ab", Some(ip("10.9.0.2")))?;
    assert!(a.run(|| ping(to, Options::default()))?.all_answered());
    a.down("ab")?;
    assert!(a.run(|| ping(to, Options::default())).is_err());
    Ok(())
}

fn a_bridge_joins_links() -> TestResult {
    let middle = Namespace::new("middle")?;
    middle.add_bridge("br0")?;
    let ends = [Namespace::new("left")?, Namespace::new("right")?];
    for (at, end) in ends.iter().enumerate() {
        let port = format!("port{at}");
        Veth {
            queues: 2,
            mtu: 1400,
        }
        .join(&middle, &port, end, "up")?;
        middle.attach(&port, "br0")?;
        end.add_address("up", net(&format!("10.8.0.{}/24", at + 1)))?;
        end.set_mtu("up", 1300)?;
    }
    let pings = ends[0].run(|| ping(ip("10.8.0.2"), Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");
    Ok(())
}

fn offloads_are_switched() -> TestResult {
    let (a, _b) = pair()?;
    let switched = [("tx-tcp-segmentation", false), ("rx-gro", true)];
    a.set_offloads("ab", &switched)?;
    assert!(a.set_offloads("ab", &[("no-such-feature", true)]).is_err());
    assert!(a.set_offloads("nolink", &switched).is_err());
    Ok(())
}

fn a_child_dies() -> TestResult {
    let namespace = Namespace::new("child")?;
    let mut child = namespace.spawn_role(&SLEEPER, &[], |_| ())?;
    let same = std::fs::read_link(format!("/proc/{}/ns/net", child.id()))?;
    let here = namespace.run(|| std::fs::read_link("/proc/thread-self/ns/net"))?;
    assert_eq!(same, here);
    assert!(child.try_wait()?.is_none());
    drop(namespace);
    let status = child.wait(Duration::from_secs(10))?;
    assert!(!status.success());
    Ok(())
}
