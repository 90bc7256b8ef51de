//! Endpoints, source addresses, routes, NAT.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan::crypto::PublicKey;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege;

use crate::bed::*;

/// One end comes from another family's address: the other one follows, and no longer than its last
/// datagram, there and back.
pub(crate) fn roams_between_families(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    for family in [6, 4, 6] {
        // Begun anew, so that the first endpoint listed is taken; and later than the last time:
        // two initiations within 20 ms are a flood.
        std::thread::sleep(Duration::from_millis(50));
        a.apply(&[])?;
        a.apply(&[b.spec(family)])?;
        a.reaches(&b)?;
        let endpoint = b.peer().endpoint.expect("it has heard of a");
        assert_eq!(endpoint.ip(), a.outer(family));
        b.reaches(&a)?;
        assert_eq!(a.peer().endpoint.expect("heard").ip(), b.outer(family));
    }
    Ok(())
}

/// Whoever is addressed by its second address answers from that, not from the one that routing
/// prefers: else its peer would follow it there.
pub(crate) fn answers_from_the_addressed_one(driver: Driver) -> TestResult {
    let (a, b) = strangers(driver)?;
    for (second, family) in [(ip("192.0.2.200"), 4), (ip("fd00::200"), 6)] {
        b.namespace.add_address(OUTER, network(second))?;
        a.apply(&[])?;
        std::thread::sleep(Duration::from_millis(50));
        a.apply(&[b.spec_at(Some(second))])?;
        b.apply(&[a.spec_at(None)])?;
        a.reaches(&b)?;
        b.reaches(&a)?;
        assert_eq!(
            a.peer().endpoint.map(|at| at.ip()),
            Some(second),
            "IPv{family}"
        );
    }
    Ok(())
}

/// The way to the peer's endpoint is led into the tunnel to that peer. Nothing can arrive, but a
/// packet may not breed others for ever.
pub(crate) fn a_routing_loop_is_bounded(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let mut spec = b.spec(4);
    spec.allowed_ips.push(IpNet::from(b.outer(4)));
    a.apply(&[spec])?;
    a.namespace
        .add_route(IpNet::from(b.outer(4)), TUNNEL, None)?;
    // AF_XDP learns of the route from the kernel's events; until then it goes on.
    wait_for("the loop begins", || {
        a.knock(b.inner(4));
        a.counter("looped") > 0
    });
    let before = a.peer().transmit_bytes;
    a.is_ignored_by(b.inner(4))?;
    let sent = a.peer().transmit_bytes - before;
    // Three pings and a keepalive or initiation at most, each sealed once; twice with fragments.
    assert!(sent < 4096, "{sent} bytes: {:?}", a.counted());
    wait_for("the loop is counted", || a.counter("looped") >= 4);
    Ok(())
}

/// Whoever sends to an address that is no peer's, or to a peer that is nowhere, is told by ICMP; the
/// host's own sockets understand it.
pub(crate) fn senders_are_told(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    let nowhere = PeerSpec {
        allowed_ips: vec!["10.7.0.50/32".parse()?, "fd07::50/128".parse()?],
        ..PeerSpec::new(PublicKey::from([9; 32]))
    };
    a.apply(&[b.spec(4), nowhere])?;
    a.reaches(&b)?;
    for lost in ["10.7.0.99", "fd07::99", "10.7.0.50", "fd07::50"] {
        let error = a.namespace.run(|| told(ip(lost)))?;
        // EHOSTUNREACH.
        assert_eq!(error.raw_os_error(), Some(113), "{lost}: {error}");
    }
    // The worker counts a batch after it has delivered it.
    wait_for("the errors are counted", || {
        a.counter("errors_delivered") >= 4
    });
    a.reaches(&b)
}

/// The error that an attempt to connect to `to` ends with.
pub(crate) fn told(to: IpAddr) -> io::Result<io::Error> {
    match TcpStream::connect_timeout(&SocketAddr::new(to, 9), Duration::from_secs(10)) {
        Ok(_) => Err(io::Error::other("somebody has answered")),
        Err(error) => Ok(error),
    }
}

/// Has `nft` add `rules` in a namespace.
pub(crate) fn run_nft(namespace: &Namespace, rules: &str) -> Fallible<()> {
    let nft = privilege::program("nft").ok_or("nft is gone")?;
    let mut child = namespace.spawn(nft, |command| {
        command.arg(rules);
    })?;
    let status = child.wait(Duration::from_secs(10))?;
    assert!(status.success(), "nft {rules}: {status}");
    Ok(())
}

/// A node behind a NAT that forgets a silent flow after two seconds is reached at any time when it
/// sends an empty packet every second.
pub(crate) fn holds_a_nat_open(driver: Driver) -> TestResult {
    let (inside, nat, outside) = (
        Namespace::new("inside")?,
        Namespace::new("nat")?,
        Namespace::new("outside")?,
    );
    Veth::default().join(&inside, OUTER, &nat, "in0")?;
    Veth::default().join(&outside, OUTER, &nat, "out0")?;
    inside.add_address(OUTER, "192.168.9.1/24".parse::<IpNet>()?)?;
    nat.add_address("in0", "192.168.9.254/24".parse::<IpNet>()?)?;
    nat.add_address("out0", "192.0.2.254/24".parse::<IpNet>()?)?;
    outside.add_address(OUTER, network(outer(2, 4)))?;
    inside.add_route(
        "0.0.0.0/0".parse::<IpNet>()?,
        OUTER,
        Some(ip("192.168.9.254")),
    )?;
    nat.set_sysctl("ipv4/ip_forward", "1")?;
    run_nft(
        &nat,
        "table ip n { chain p { type nat hook postrouting priority 100; oifname out0 masquerade; }; }",
    )?;
    for name in ["udp_timeout", "udp_timeout_stream"] {
        nat.set_sysctl(&format!("netfilter/nf_conntrack_{name}"), "2")?;
    }
    let a = Node::start(inside, 1, driver, 1)?;
    let b = Node::start(outside, 2, driver, 2)?;
    let mut spec = b.spec(4);
    spec.persistent_keepalive = NonZeroU16::new(1);
    b.apply(&[a.spec_at(None)])?;
    a.apply(&[spec])?;
    wait_for("the way opens by itself", || b.peer().endpoint.is_some());
    assert_eq!(b.peer().endpoint.map(|at| at.ip()), Some(ip("192.0.2.254")));
    b.reaches(&a)?;
    let heard = b.counter("keepalives");
    wait_for("four more keepalives", || {
        b.counter("keepalives") >= heard + 4
    });
    b.reaches(&a)
}
