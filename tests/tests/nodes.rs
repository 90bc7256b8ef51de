//! Whole nodes in namespaces of their own: every pair of outer drivers over a veth, IPv4 and IPv6
//! outside, TUN inside; real ping and TCP through the tunnel; nothing left behind.

#[path = "nodes/jumbo.rs"]
mod jumbo;

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use ipnet::IpNet;
use ringspan::control::{PeerSpec, PeerState};
use ringspan::crypto::{PresharedKey, PrivateKey};
use ringspan::io::xdp::{BusyPoll, TxChecksum, XdpConfig, XdpDriver, XdpProgram};
use ringspan::runtime::wishes::XdpSend;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options as PingOptions, ping};
use ringspan_tests::traffic::tcp;

/// The outer link, in either namespace.
const OUTER: &str = "outer0";
/// The tunnel's interface, in either namespace.
const TUNNEL: &str = "ring0";
/// Bytes of TCP each way.
const TRANSFER: u64 = 4 << 20;
/// How long a transfer may stand still.
const PATIENCE: Duration = Duration::from_secs(20);

const NEEDS: [Need; 4] = [Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Udp,
    Xdp,
    XdpGeneric,
    XdpReceive,
}

impl Driver {
    const ALL: [(&'static str, Self); 4] = [
        ("udp", Self::Udp),
        ("xdp", Self::Xdp),
        ("xdp_generic", Self::XdpGeneric),
        ("xdp_in_udp_out", Self::XdpReceive),
    ];

    fn outer(self) -> Outer {
        match self {
            Self::Udp => Outer::udp(),
            Self::Xdp => Outer::xdp(OUTER),
            Self::XdpGeneric => Outer::xdp(OUTER).generic_only(),
            Self::XdpReceive => Outer::xdp(OUTER).send(XdpSend::ReceiveOnly),
        }
    }
}

struct Node {
    namespace: Namespace,
    plane: Dataplane,
    outer: [IpAddr; 2],
    inner: [IpAddr; 2],
}

impl Node {
    fn start(namespace: Namespace, number: u8, driver: Driver) -> Result<Self, Box<dyn Error>> {
        Self::start_with(namespace, number, driver.outer(), Inner::tun(TUNNEL))
    }

    fn start_with(
        namespace: Namespace,
        number: u8,
        driver: Outer,
        tunnel: Inner,
    ) -> Result<Self, Box<dyn Error>> {
        let outer = [
            IpAddr::from([192, 0, 2, number]),
            format!("fd00::{number}").parse()?,
        ];
        let inner = [
            IpAddr::from([10, 7, 0, number]),
            format!("fd07::{number}").parse()?,
        ];
        for address in outer {
            namespace.add_address(OUTER, network(address)?)?;
        }
        let plane = namespace.run(|| {
            Dataplane::builder(PrivateKey::from([number; 32]))
                .outer(driver)
                .inner(tunnel)
                .start()
        })?;
        for address in inner {
            namespace.add_address(TUNNEL, network(address)?)?;
        }
        Ok(Self {
            namespace,
            plane,
            outer,
            inner,
        })
    }

    fn spec(&self, family: usize) -> PeerSpec {
        PeerSpec {
            preshared_key: Some(PresharedKey::from([3; 32])),
            endpoints: vec![SocketAddr::new(
                self.outer[family],
                self.plane.listen_port(),
            )],
            allowed_ips: self.inner.map(IpNet::from).to_vec(),
            ..PeerSpec::new(self.plane.public_key())
        }
    }
}

fn network(address: IpAddr) -> Result<IpNet, ipnet::PrefixLenError> {
    IpNet::new(address, if address.is_ipv4() { 24 } else { 64 })
}

fn nodes(queues: u32, driver: Driver) -> Result<(Node, Node), Box<dyn Error>> {
    let (a, b) = (Namespace::new("node a")?, Namespace::new("node b")?);
    Veth {
        queues,
        ..Veth::default()
    }
    .join(&a, OUTER, &b, OUTER)?;
    Ok((Node::start(a, 1, driver)?, Node::start(b, 2, driver)?))
}

fn carries_traffic(driver: Driver, family: usize, queues: u32) -> TestResult {
    let (a, b) = nodes(queues, driver)?;
    a.plane.control().apply(&[b.spec(family)])?;
    b.plane.control().apply(&[a.spec(family)])?;

    for inner in 0..2 {
        let pings = a
            .namespace
            .run(|| ping(b.inner[inner], PingOptions::default()))?;
        assert!(pings.all_answered(), "{pings:?}");
        let server = b.namespace.run(|| tcp::Server::start(b.inner[inner]))?;
        let transfer = a
            .namespace
            .run(|| tcp::transfer(server.address(), TRANSFER, TRANSFER, PATIENCE, |_| true))
            .map_err(|error| format!("{error}\na: {}\nb: {}", seen(&a.plane), seen(&b.plane)))?;
        assert_eq!(
            (transfer.uploaded, transfer.downloaded),
            (TRANSFER, TRANSFER)
        );
    }

    for (node, other) in [(&a, &b), (&b, &a)] {
        let status = node.plane.statuses().remove(0);
        assert_eq!(status.state, PeerState::Up);
        assert_eq!(
            status.endpoint.map(|endpoint| endpoint.ip()),
            Some(other.outer[family])
        );
        assert!(
            status.receive_bytes > 2 * TRANSFER && status.transmit_bytes > 2 * TRANSFER,
            "{status:?}"
        );
        carried_by(&node.plane, driver, queues);
    }
    // Both namespaces last to the end: one that goes takes the veth pair along.
    let (a, b) = (clean_end(a)?, clean_end(b)?);
    drop((a, b));
    Ok(())
}

/// All counters of a node that are not zero, for a failure's message.
fn seen(plane: &Dataplane) -> String {
    let drivers = plane.drivers().into_iter().map(|report| {
        let counted = report
            .statistics
            .into_iter()
            .filter(|(_, value)| *value != 0);
        format!(
            "{} {}: {:?}",
            report.info.driver,
            report.port,
            counted.collect::<Vec<_>>()
        )
    });
    let counted = plane
        .counters()
        .into_iter()
        .filter(|(_, value)| *value != 0);
    let counted = format!("counters: {:?}", counted.collect::<Vec<_>>());
    drivers.chain([counted]).collect::<Vec<_>>().join("\n  ")
}

/// That the driver asked for is the one that carried the traffic.
fn carried_by(plane: &Dataplane, driver: Driver, queues: u32) {
    let reports = plane.drivers();
    let of = |port: &str, driver: &str| {
        reports
            .iter()
            .filter(|report| report.port == port && report.info.driver == driver)
            .count()
    };
    let queues = queues as usize;
    let (receivers, senders) = match driver {
        Driver::Udp => (0, 0),
        Driver::Xdp | Driver::XdpGeneric => (queues, queues.min(2)),
        Driver::XdpReceive => (queues, 0),
    };
    assert_eq!(of("outer rx", "xdp"), receivers, "{reports:#?}");
    assert_eq!(of("outer tx", "xdp"), senders, "{reports:#?}");
    if driver != Driver::Udp {
        assert!(plane.notes().is_empty(), "{:?}", plane.notes());
        let received: u64 = statistic(plane, "outer rx", "xdp", "rx_datagrams");
        assert!(
            received > 1000,
            "AF_XDP received {received} datagrams: {reports:#?}"
        );
    }
    if senders > 0 {
        let sent: u64 = statistic(plane, "outer tx", "xdp", "tx_datagrams");
        assert!(sent > 1000, "AF_XDP sent {sent} datagrams: {reports:#?}");
    }
}

fn statistic(plane: &Dataplane, port: &str, driver: &str, name: &str) -> u64 {
    plane
        .drivers()
        .iter()
        .filter(|report| report.port == port && report.info.driver == driver)
        .flat_map(|report| report.statistics.iter())
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .sum()
}

/// Shuts a node down; its interface, its port and its XDP program must be gone.
fn clean_end(node: Node) -> Result<Namespace, Box<dyn Error>> {
    let Node {
        namespace, plane, ..
    } = node;
    let port = plane.listen_port();
    plane.shutdown()?;
    assert!(
        namespace.index(TUNNEL).is_err(),
        "the interface is still there"
    );
    namespace.run(|| std::net::UdpSocket::bind(("::", port)))?;
    // Whoever comes next finds the interface free for a program of its own.
    let builder = Dataplane::builder(PrivateKey::from([9; 32]))
        .outer(Outer::xdp(OUTER))
        .inner(Inner::tun(TUNNEL));
    let again = namespace.run(|| builder.start())?;
    again.shutdown()?;
    Ok(namespace)
}

fn auto_falls_back() -> TestResult {
    let namespace = Namespace::new("no card")?;
    let builder = || Dataplane::builder(PrivateKey::from([1; 32])).inner(Inner::tun(TUNNEL));
    let plane = namespace.run(|| builder().outer(Outer::auto("absent0")).start())?;
    assert!(plane.notes()[0].contains("absent0"), "{:?}", plane.notes());
    plane.shutdown()?;
    let refused = namespace
        .run(|| builder().outer(Outer::xdp("absent0")).start())
        .unwrap_err();
    assert!(refused.to_string().contains("absent0"), "{refused}");
    Ok(())
}

/// A veth has no zero copy: AF_XDP receives, the UDP socket sends, and a note says so. Asked for by
/// name, AF_XDP sends too.
fn auto_chooses_who_sends() -> TestResult {
    let spaces = [Namespace::new("chooses")?, Namespace::new("other end")?];
    Veth::default().join(&spaces[0], OUTER, &spaces[1], OUTER)?;
    let senders = |outer: Outer| -> Result<(String, String), Box<dyn Error>> {
        let builder = Dataplane::builder(PrivateKey::from([1; 32]))
            .outer(outer)
            .inner(Inner::tun(TUNNEL));
        let plane = spaces[0].run(|| builder.start())?;
        let of = |port| {
            let drivers = plane.drivers();
            let mut all: Vec<_> = drivers
                .iter()
                .filter(|report| report.port == port)
                .map(|report| report.info.driver)
                .collect();
            all.sort_unstable();
            all.dedup();
            all.join("+")
        };
        let found = (
            format!("{} in, {} out", of("outer rx"), of("outer tx")),
            plane.notes().join("; "),
        );
        plane.shutdown()?;
        Ok(found)
    };
    let (drivers, notes) = senders(Outer::auto(OUTER))?;
    assert_eq!(drivers, "udp+xdp in, udp out");
    assert!(
        notes.contains("no zero copy") && notes.contains(OUTER),
        "{notes}"
    );
    let (drivers, notes) = senders(Outer::xdp(OUTER))?;
    assert_eq!(
        (drivers.as_str(), notes.as_str()),
        ("udp+xdp in, xdp out", "")
    );
    Ok(())
}

/// Every option at once, on a pair that carries traffic: the drivers say what became of each.
fn options_are_told() -> TestResult {
    let spaces = [Namespace::new("options a")?, Namespace::new("options b")?];
    Veth::default().join(&spaces[0], OUTER, &spaces[1], OUTER)?;
    let [a, b] = spaces;
    let outer = || {
        Outer::xdp(OUTER)
            .busy_poll(BusyPoll::default())
            .tx_checksum(TxChecksum::Device)
    };
    let start =
        |namespace, number| Node::start_with(namespace, number, outer(), Inner::tun(TUNNEL));
    let (a, b) = (start(a, 1)?, start(b, 2)?);
    a.plane.control().apply(&[b.spec(1)])?;
    b.plane.control().apply(&[a.spec(1)])?;
    let server = b.namespace.run(|| tcp::Server::start(b.inner[0]))?;
    let address = server.address();
    let moved = a
        .namespace
        .run(|| tcp::transfer(address, TRANSFER, TRANSFER, PATIENCE, |_| true))?;
    assert_eq!((moved.uploaded, moved.downloaded), (TRANSFER, TRANSFER));
    for plane in [&a.plane, &b.plane] {
        let drivers = plane.drivers();
        let mode = |port: &str| {
            let mut found = drivers.iter();
            let found = found.find(|r| r.port == port && r.info.driver == "xdp");
            found.map(|r| r.info.mode.clone()).unwrap_or_default()
        };
        assert!(mode("outer rx").contains("busy poll (20 µs, 64 frames"));
        let sent = mode("outer tx");
        assert!(sent.contains("checksums by the kernel"), "{sent}");
        assert!(plane.notes().is_empty(), "{:?}", plane.notes());
    }
    let (a, b) = (clean_end(a)?, clean_end(b)?);
    drop((a, b));
    Ok(())
}

/// A wrong value is the caller's, and no reason to do without AF_XDP.
fn a_wrong_busy_poll_is_an_error() -> TestResult {
    let namespace = Namespace::new("wrong")?;
    let wrong = BusyPoll {
        microseconds: 10_001,
        ..BusyPoll::default()
    };
    let builder = Dataplane::builder(PrivateKey::from([1; 32]))
        .outer(Outer::auto("absent0").busy_poll(wrong))
        .inner(Inner::tun(TUNNEL));
    let error = namespace.run(|| builder.start()).unwrap_err().to_string();
    assert!(
        error.contains("10001") && error.contains("1 to 10000 µs"),
        "{error}"
    );
    Ok(())
}

/// The other end does not look into its queue, so that nothing that is sent comes back: a note says
/// so where AF_XDP was asked for.
fn a_silent_tx_ring_is_told() -> TestResult {
    let spaces = [Namespace::new("silent")?, Namespace::new("deaf")?];
    Veth::default().join(&spaces[0], OUTER, &spaces[1], OUTER)?;
    let (_program, _queues) = spaces[1]
        .run(|| {
            let mut program = XdpProgram::load(&[1])?;
            let queues = XdpDriver::open(OUTER, &mut program, &XdpConfig::default())?;
            Ok::<_, Box<dyn Error + Send + Sync>>((program, queues))
        })
        .map_err(|error| error.to_string())?;
    spaces[1].set_link_attribute(OUTER, "gro_flush_timeout", "60000000000")?;
    spaces[1].set_link_attribute(OUTER, "napi_defer_hard_irqs", "1000")?;
    // Its queue is looked at for this one, and from then on put off.
    spaces[0].add_address(OUTER, network(IpAddr::from([192, 0, 2, 1]))?)?;
    spaces[0].run(|| std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "192.0.2.9:9"))?;
    let builder = Dataplane::builder(PrivateKey::from([1; 32]))
        .outer(Outer::xdp(OUTER))
        .inner(Inner::tun(TUNNEL));
    let plane = spaces[0].run(|| builder.start())?;
    let notes = plane.notes().join("; ");
    assert!(
        notes.contains("queue 0 of outer0") && notes.contains("may be lost"),
        "{notes}"
    );
    plane.shutdown()?;
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::new()
        .test(
            "options_are_told",
            &[&NEEDS[..], &[Need::Linux(6, 8)]].concat(),
            options_are_told,
        )
        .test(
            "a_wrong_busy_poll_is_an_error",
            &NEEDS,
            a_wrong_busy_poll_is_an_error,
        )
        .test("a_silent_tx_ring_is_told", &NEEDS, a_silent_tx_ring_is_told)
        .test("auto_falls_back_with_a_reason", &NEEDS, auto_falls_back)
        .test("auto_chooses_who_sends", &NEEDS, auto_chooses_who_sends);
    for (name, driver) in Driver::ALL {
        for (outside, family) in [("ipv4", 0), ("ipv6", 1)] {
            suite = suite.test(
                format!("{name}_over_{outside}_carries_traffic"),
                &NEEDS,
                move || carries_traffic(driver, family, 1),
            );
        }
        suite = suite.test(
            format!("{name}_on_three_queues_carries_traffic"),
            &NEEDS,
            move || carries_traffic(driver, 0, 3),
        );
    }
    jumbo::add(suite).serial().main()
}
