//! The path resolver: do AF_XDP frames go where the kernel would send the datagram?

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringspan::engine::port::{OuterTx, TxRequest};
use ringspan::io::xdp::path::Paths;
use ringspan::io::xdp::{Mode, XdpTx};
use ringspan::mesh::Endpoint;
use ringspan::runtime::paths::PathResolver;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;

use crate::bed::{Bed, FAMILIES, FAR, NEAR, PATIENCE, PORT};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test("neighbours_are_found", needs, neighbours_are_found)
        .test("gateways_are_followed", needs, gateways_are_followed)
        .test("sticky_sources_are_kept", needs, sticky_sources_are_kept)
        .test(
            "a_lost_link_takes_its_paths",
            needs,
            a_lost_link_takes_its_paths,
        )
}

/// A bed without paths, and a resolver that is to find them.
fn bed() -> Result<(Bed, PathResolver), Box<dyn std::error::Error>> {
    let bed = Bed::new(1)?;
    bed.paths.publish(Paths::new());
    let paths = Arc::clone(&bed.paths);
    let resolver = bed.near.run(|| PathResolver::start(paths, 0))?;
    Ok((bed, resolver))
}

/// Waits until `tx` reaches `to`, or until it does not.
fn wait_until(tx: &mut XdpTx, to: &Endpoint, reached: bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while tx.reaches(to) != reached {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Sends to `to` until something arrives at `socket`; says from where.
fn arrives(
    tx: &mut XdpTx,
    to: Endpoint,
    socket: &UdpSocket,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let request = TxRequest { to, len: 5, tos: 0 };
    let sent = tx.send_batch(&[request], &mut |slots| {
        for slot in slots {
            slot.buffer.copy_from_slice(b"found");
        }
    });
    assert_eq!(sent.accepted, 1);
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"found");
    Ok(from)
}

fn neighbours_are_found() -> TestResult {
    let (bed, _resolver) = bed()?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    for (near, far) in FAMILIES {
        let socket = bed.socket(far)?;
        let to = Endpoint::from(socket.local_addr()?);
        assert!(!tx.reaches(&to), "nobody has asked before");
        assert!(wait_until(&mut tx, &to, true), "{far}");
        let from = arrives(&mut tx, to, &socket)?;
        assert_eq!(from, SocketAddr::new(near.parse()?, PORT));
    }
    // An address that nobody has, and our own.
    for nobody in ["10.9.0.99:1", "10.9.0.1:1", "203.0.113.1:1"] {
        let to = Endpoint::from(nobody.parse::<SocketAddr>()?);
        for _ in 0..20 {
            assert!(!tx.reaches(&to), "{nobody}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn gateways_are_followed() -> TestResult {
    let (bed, _resolver) = bed()?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    for (net, behind, gateway) in [
        ("10.77.0.0/24", "10.77.0.1", FAMILIES[0].1),
        ("fd77::/64", "fd77::1", FAMILIES[1].1),
    ] {
        let behind: IpAddr = behind.parse()?;
        bed.far.add_address("lo", ipnet::IpNet::from(behind))?;
        let socket = bed.socket(&behind.to_string())?;
        let to = Endpoint::from(socket.local_addr()?);
        // No route yet: the resolver is asked in vain, and then told by the kernel.
        for _ in 0..10 {
            assert!(!tx.reaches(&to), "{behind}");
            std::thread::sleep(Duration::from_millis(10));
        }
        bed.near
            .add_route(net.parse::<ipnet::IpNet>()?, NEAR, Some(gateway.parse()?))?;
        // The gateway's address is looked for when there is something to send to it: the UDP
        // socket does that here as it does in a node.
        let kernel = bed.near.run(|| UdpSocket::bind((any_of(behind), 0)))?;
        kernel.send_to(b"knock", socket.local_addr()?)?;
        let mut buffer = [0; 64];
        assert_eq!(socket.recv(&mut buffer)?, 5);
        assert!(wait_until(&mut tx, &to, true), "{behind}");
        arrives(&mut tx, to, &socket)?;
    }
    Ok(())
}

fn any_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn sticky_sources_are_kept() -> TestResult {
    let (bed, _resolver) = bed()?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    for (second, length, (near, far)) in [
        ("10.9.0.11", 24, FAMILIES[0]),
        ("fd09::11", 64, FAMILIES[1]),
    ] {
        let second: IpAddr = second.parse()?;
        bed.near
            .add_address(NEAR, ipnet::IpNet::new(second, length)?)?;
        let socket = bed.socket(far)?;
        let mut to = Endpoint::from(socket.local_addr()?);
        to.local = Some(second);
        assert!(wait_until(&mut tx, &to, true));
        assert_eq!(arrives(&mut tx, to, &socket)?.ip(), second);
        // A source that is not ours any more is given up for the one the kernel chooses.
        let gone = if second.is_ipv4() {
            "10.9.0.12"
        } else {
            "fd09::12"
        };
        to.local = Some(gone.parse()?);
        assert!(wait_until(&mut tx, &to, true));
        let chosen = arrives(&mut tx, to, &socket)?.ip();
        assert!(
            chosen == near.parse::<IpAddr>()? || chosen == second,
            "{chosen}"
        );
    }
    Ok(())
}

fn a_lost_link_takes_its_paths() -> TestResult {
    let (bed, resolver) = bed()?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    let socket = bed.socket(FAMILIES[0].1)?;
    let to = Endpoint::from(socket.local_addr()?);
    for _ in 0..2 {
        assert!(wait_until(&mut tx, &to, true));
        arrives(&mut tx, to, &socket)?;
        bed.far.down(FAR)?;
        assert!(wait_until(&mut tx, &to, false));
        bed.far.up(FAR)?;
        // Whoever misses the path sends by the kernel's socket, which finds the neighbour.
        let kernel = bed.near.run(|| UdpSocket::bind("0.0.0.0:0"))?;
        bed.near.wait_for_link(NEAR, PATIENCE)?;
        kernel.send_to(b"knock", socket.local_addr()?)?;
        let mut buffer = [0; 64];
        assert_eq!(socket.recv(&mut buffer)?, 5);
    }
    // The paths outlive the resolver.
    assert!(wait_until(&mut tx, &to, true));
    drop(resolver);
    arrives(&mut tx, to, &socket)?;
    Ok(())
}
