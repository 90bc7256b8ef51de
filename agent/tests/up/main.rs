//! Two `ringspan up` in two namespaces, from start to the last trace of them. Needs root: the
//! harness reports what cannot run here. (They live beside the binary, and not in `tests/`,
//! because Cargo tells only the tests of its own package where a binary is.)

mod bed;
mod default_route;

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::tcp;
use rustix::process::Signal;
use serde_json::Value;

use bed::{Bed, KEYS, PATIENCE, PRESHARED};

const UDP: &[Need] = &[Need::Namespaces, Need::Tun];
const UDP_NFT: &[Need] = &[Need::Namespaces, Need::Tun, Need::Program("nft")];
const XDP_NFT: &[Need] = &[
    Need::Namespaces,
    Need::Tun,
    Need::Bpf,
    Need::AfXdp,
    Need::Program("nft"),
];
const XDP: &[Need] = &[Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .test("a_tunnel_over_udp_from_toml_and_conf", UDP, || {
            tunnel("udp")
        })
        .test("a_tunnel_over_xdp_from_toml_and_conf", XDP, || {
            tunnel("xdp")
        })
        .test(
            "xdp_receives_and_udp_sends",
            XDP,
            xdp_receives_and_udp_sends,
        )
        .test("auto_takes_the_card_with_the_default_route", XDP, auto)
        .test("an_endpoint_is_looked_up", UDP, an_endpoint_is_looked_up)
        .test(
            "a_tunnel_whose_interface_is_removed_ends",
            UDP,
            a_removed_interface,
        )
        .test("a_name_is_taken_once", UDP, a_name_is_taken_once)
        .test(
            "a_killed_tunnel_is_succeeded",
            XDP,
            a_killed_tunnel_is_succeeded,
        )
        .test(
            "a_strangers_route_is_left_alone",
            UDP,
            a_strangers_route_is_left_alone,
        )
        .test("table_off_sets_no_routes", UDP, table_off_sets_no_routes)
        .test("a_default_route_over_udp", UDP_NFT, || {
            default_route::through_the_tunnel("udp")
        })
        .test("a_default_route_over_xdp", XDP_NFT, || {
            default_route::through_the_tunnel("xdp")
        })
        .test(
            "default_routes_of_a_killed_tunnel_are_succeeded",
            UDP_NFT,
            default_route::killed,
        )
        .main()
}

/// Traffic, status, clean end: node 0 has a TOML file and gets SIGTERM, node 1 a wg-quick file
/// and SIGINT.
fn tunnel(outer: &str) -> TestResult {
    let bed = Bed::new()?;
    let mut nodes = [bed.up(0, outer)?, bed.up(1, outer)?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }

    for to in ["10.77.0.2", "fd77::2", "10.78.1.1"] {
        let to: IpAddr = to.parse()?;
        let pings = bed.namespaces[0].run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{to}: {pings:?}");
    }
    let server = bed.namespaces[1].run(|| tcp::Server::start("10.77.0.2".parse().unwrap()))?;
    let moved = bed.namespaces[0]
        .run(|| tcp::transfer(server.address(), 1 << 20, 1 << 20, PATIENCE, |_| true))?;
    assert_eq!(moved.uploaded + moved.downloaded, 2 << 20);

    let status = bed.status(&["node0", "-o", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout)?;
    let status = &status[0];
    assert_eq!(status["public_key"], KEYS[0].1);
    assert_eq!(status["listen_port"], 51820);
    let rx: Vec<_> = status["drivers"]
        .as_array()
        .ok_or("no drivers")?
        .iter()
        .filter(|driver| driver["port"] == "outer rx")
        .map(|driver| driver["driver"].as_str().unwrap_or_default())
        .collect();
    assert!(rx.contains(&outer), "{outer} does not receive: {rx:?}");
    let peer = &status["peers"][0];
    assert_eq!(peer["label"], "node-1");
    assert_eq!(peer["state"], "up");
    assert_eq!(peer["endpoint"], "10.9.0.2:51820");
    assert_eq!(peer["preshared_key"], true);
    assert!(peer["last_handshake_s"].is_u64(), "{peer}");
    for bytes in ["receive_bytes", "transmit_bytes"] {
        assert!(peer[bytes].as_u64() > Some(1 << 20), "{bytes}: {peer}");
    }
    let table = bed.status(&[]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for part in [
        "node0",
        "node1",
        "node-0",
        "node-1",
        "outer rx",
        "10.9.0.2:51820",
    ] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    assert!(
        !table.contains(KEYS[0].0) && !table.contains(PRESHARED),
        "a secret is shown"
    );

    for (node, signal) in nodes.iter_mut().zip([Signal::TERM, Signal::INT]) {
        let ended = node.end(signal)?;
        assert_eq!(ended.code(), Some(0), "{signal:?}: {}", node.log());
        assert!(!node.log().contains(KEYS[0].0), "a secret was logged");
    }
    bed.assert_clean();
    Ok(())
}

fn xdp_receives_and_udp_sends() -> TestResult {
    let bed = Bed::new()?;
    let path = bed.scratch.join("node0.toml");
    let text = fs::read_to_string(&path)?
        .replace("[outer]\n", "[outer]\nsend = \"udp\"\nmode = \"copy\"\n");
    fs::write(&path, text)?;
    let mut nodes = [bed.up(0, "xdp")?, bed.up(1, "udp")?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }
    let pings = bed.namespaces[0].run(|| ping("10.77.0.2".parse().unwrap(), Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");

    let status: Value = serde_json::from_slice(&bed.status(&["node0", "-o", "json"]).stdout)?;
    let drivers = status[0]["drivers"].as_array().ok_or("no drivers")?;
    let of = |port: &str| {
        let mine = drivers.iter().filter(|driver| driver["port"] == port);
        mine.map(|driver| driver["driver"].as_str().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert!(of("outer rx").contains(&"xdp"), "{drivers:?}");
    assert_eq!(of("outer tx"), ["udp"], "{drivers:?}");
    for node in &mut nodes {
        assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    }
    bed.assert_clean();
    Ok(())
}

fn auto() -> TestResult {
    let bed = Bed::new()?;
    let everything: ipnet::IpNet = "0.0.0.0/0".parse()?;
    bed.namespaces[0].add_route(everything, "veth0", Some("10.9.0.2".parse()?))?;
    let path = bed.scratch.join("node0.toml");
    let text = fs::read_to_string(&path)?.replace("interface = \"veth0\"\n", "");
    fs::write(&path, text)?;
    let mut node = bed.start(0, "node0.toml", &[])?;
    node.wait_until_up(&bed.namespaces[0])?;
    let status: Value = serde_json::from_slice(&bed.status(&["node0", "-o", "json"]).stdout)?;
    let drivers = status[0]["drivers"].as_array().ok_or("no drivers")?;
    let xdp = drivers.iter().find(|driver| driver["driver"] == "xdp");
    assert_eq!(xdp.ok_or("no XDP")?["interface"], "veth0", "{drivers:?}");
    assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    bed.assert_clean();
    Ok(())
}

/// A link-local endpoint takes the way of host names: its interface is one.
fn an_endpoint_is_looked_up() -> TestResult {
    let bed = Bed::new()?;
    // Both ends: the kernel's own link-local addresses wait for duplicate address detection.
    for (at, address) in ["fe80::1/64", "fe80::2/64"].into_iter().enumerate() {
        let address: ipnet::IpNet = address.parse()?;
        bed.namespaces[at].add_address(&format!("veth{at}"), address)?;
    }
    let path = bed.scratch.join("node0.toml");
    let text = fs::read_to_string(&path)?.replace("10.9.0.2:51820", "[fe80::2%veth0]:51820");
    fs::write(&path, text)?;
    let mut nodes = [bed.up(0, "udp")?, bed.up(1, "udp")?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }
    // Looked up in the background: until then the peer has no endpoint.
    let end = Instant::now() + PATIENCE;
    let endpoint = loop {
        let status: Value = serde_json::from_slice(&bed.status(&["node0", "-o", "json"]).stdout)?;
        match status[0]["peers"][0]["endpoint"].as_str() {
            Some(endpoint) => break endpoint.to_owned(),
            None if Instant::now() > end => return Err("no endpoint was found".into()),
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(endpoint.starts_with("[fe80::2%"), "{endpoint}");
    let pings = bed.namespaces[0].run(|| ping("10.77.0.2".parse().unwrap(), Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");
    for node in &mut nodes {
        assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    }
    bed.assert_clean();
    Ok(())
}

/// `ip link delete` is how `wg-quick down` ends a user-space WireGuard.
fn a_removed_interface() -> TestResult {
    let bed = Bed::new()?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    bed.namespaces[0].remove("node0")?;
    assert_eq!(
        node.process.wait(PATIENCE)?.code(),
        Some(0),
        "{}",
        node.log()
    );
    assert!(
        node.log().contains("interface was removed"),
        "{}",
        node.log()
    );
    bed.assert_clean();
    Ok(())
}

fn a_name_is_taken_once() -> TestResult {
    let bed = Bed::new()?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    // In the same namespace the interface is in the way, in another one the status socket.
    for (at, code, reason) in [
        (0, 3, "interface node0 exists already"),
        (1, 1, "tunnel node0 is running already"),
    ] {
        let mut second = bed.start(
            at,
            "node0.toml",
            &["--outer", "udp", "--interface", ["veth0", "veth1"][at]],
        )?;
        assert_eq!(
            second.process.wait(PATIENCE)?.code(),
            Some(code),
            "{}",
            second.log()
        );
        assert!(second.log().contains(reason), "{}", second.log());
    }
    assert!(
        bed.socket(0).exists(),
        "the second took the first one's socket away"
    );
    assert_eq!(node.end(Signal::TERM)?.code(), Some(0));
    bed.assert_clean();
    Ok(())
}

fn a_killed_tunnel_is_succeeded() -> TestResult {
    let bed = Bed::new()?;
    let mut node = bed.up(0, "xdp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    node.end(Signal::KILL)?;
    assert!(bed.socket(0).exists(), "nobody could have removed it");
    bed.assert_no_devices();
    let ghost = bed.status(&["node0"]);
    assert_eq!(ghost.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ghost.stderr).contains("not running"));

    let mut next = bed.up(0, "xdp")?;
    next.wait_until_up(&bed.namespaces[0])?;
    assert_eq!(next.end(Signal::HUP)?.code(), Some(0), "{}", next.log());
    bed.assert_clean();
    Ok(())
}

fn a_strangers_route_is_left_alone() -> TestResult {
    let behind: ipnet::IpNet = "10.78.1.0/24".parse()?;
    let bed = Bed::new()?;
    bed.namespaces[0].add_route(behind, "veth0", None)?;
    let mut node = bed.up(0, "udp")?;
    assert_eq!(node.process.wait(PATIENCE)?.code(), Some(1));
    assert!(
        node.log()
            .contains("a route to 10.78.1.0/24 exists already"),
        "{}",
        node.log()
    );
    bed.assert_clean();
    // It is still there: to set it again is refused.
    assert!(bed.namespaces[0].add_route(behind, "veth0", None).is_err());
    Ok(())
}

fn table_off_sets_no_routes() -> TestResult {
    let behind: ipnet::IpNet = "10.78.1.0/24".parse()?;
    let bed = Bed::new()?;
    let path = bed.scratch.join("node0.toml");
    let text =
        fs::read_to_string(&path)?.replace("[interface]\n", "[interface]\ntable = \"off\"\n");
    fs::write(&path, text)?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    // The prefix is free for somebody else's route.
    bed.namespaces[0].add_route(behind, "veth0", None)?;
    assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    bed.assert_clean();
    Ok(())
}
