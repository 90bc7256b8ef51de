//! Nodes whose inner side is a veth into a pod's namespace: real ping, UDP and TCP between the pods
//! with the kernel's default offloads, over every outer driver; and a proof that nothing is copied
//! where the memory is shared.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan::crypto::PrivateKey;
use ringspan::runtime::wishes::XdpSend;
use ringspan::{Dataplane, Inner, Outer, StartError};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::{tcp, udp};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The outer link of either node.
const OUTER: &str = "outer0";
/// The node's end of its pod's link, and the pod's.
const HOST: &str = "pod0";
const POD: &str = "eth0";
/// Bytes of TCP each way.
const TRANSFER: u64 = 4 << 20;
/// How long a transfer may stand still.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Driver {
    Udp,
    Xdp,
    XdpReceive,
}

/// A node and its pod.
struct Side {
    node: Namespace,
    pod: Namespace,
    plane: Dataplane,
    number: u8,
}

impl Side {
    fn start(node: Namespace, number: u8, driver: Driver, queues: u32) -> Fallible<Self> {
        let pod = Namespace::new(format!("pod {number}"))?;
        let link = Veth { queues, mtu: 1420 };
        link.join(&node, HOST, &pod, POD)?;
        node.add_address(OUTER, IpNet::new([192, 0, 2, number].into(), 24)?)?;
        for family in [4, 6] {
            let length = if family == 4 { 24 } else { 64 };
            node.add_address(HOST, IpNet::new(gateway(number, family), length)?)?;
            pod.add_address(POD, IpNet::new(address(number, family), length)?)?;
            // The other pod's network.
            let beyond = IpNet::new(address(3 - number, family), length)?.trunc();
            pod.add_route(beyond, POD, Some(gateway(number, family)))?;
        }
        let outer = match driver {
            Driver::Udp => Outer::udp(),
            Driver::Xdp => Outer::xdp(OUTER),
            Driver::XdpReceive => Outer::xdp(OUTER).send(XdpSend::ReceiveOnly),
        };
        let builder = Dataplane::builder(PrivateKey::from([number; 32]))
            .outer(outer)
            .inner(Inner::veth(HOST));
        let plane = node.run(|| builder.start())?;
        Ok(Self {
            node,
            pod,
            plane,
            number,
        })
    }

    fn spec(&self) -> Fallible<PeerSpec> {
        let of = |family, length| IpNet::new(address(self.number, family), length);
        let endpoint = SocketAddr::new([192, 0, 2, self.number].into(), self.plane.listen_port());
        Ok(PeerSpec {
            endpoints: vec![endpoint],
            allowed_ips: vec![of(4, 24)?.trunc(), of(6, 64)?.trunc()],
            ..PeerSpec::new(self.plane.public_key())
        })
    }

    fn statistic(&self, port: &str, name: &str) -> u64 {
        let reports = self.plane.drivers();
        let values = reports
            .iter()
            .filter(|report| report.port == port && report.info.driver == "xdp")
            .flat_map(|report| report.statistics.iter());
        values
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .sum()
    }

    /// All counters that are not zero, for a failure's message.
    fn counted(&self) -> Vec<(String, u64)> {
        let own = self.plane.counters().into_iter();
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let drivers = self.plane.drivers().into_iter().flat_map(|report| {
            let place = format!("{} {}", report.info.driver, report.port);
            let statistics = report.statistics.into_iter();
            statistics.map(move |(name, value)| (format!("{place} {name}"), value))
        });
        own.chain(drivers)
            .filter(|(_, value)| *value != 0)
            .collect()
    }

    /// Shuts it down: the interface is there as before, without a program.
    fn end(self) -> Fallible<(Namespace, Namespace)> {
        assert_ne!(self.node.xdp_program(HOST)?, None);
        self.plane.shutdown()?;
        assert_eq!(self.node.xdp_program(HOST)?, None, "XDP is there");
        assert!(
            self.node.index(HOST).is_ok(),
            "the interface is the operator's"
        );
        Ok((self.node, self.pod))
    }
}

fn address(number: u8, family: u8) -> IpAddr {
    match family {
        4 => IpAddr::from([10, 8, number, 2]),
        _ => IpAddr::from([0xfd08, 0, 0, number.into(), 0, 0, 0, 2]),
    }
}

fn gateway(number: u8, family: u8) -> IpAddr {
    match family {
        4 => IpAddr::from([10, 8, number, 1]),
        _ => IpAddr::from([0xfd08, 0, 0, number.into(), 0, 0, 0, 1]),
    }
}

fn sides(driver: Driver, queues: u32) -> Fallible<(Side, Side)> {
    let (a, b) = (Namespace::new("node 1")?, Namespace::new("node 2")?);
    let link = Veth {
        queues,
        ..Veth::default()
    };
    link.join(&a, OUTER, &b, OUTER)?;
    let a = Side::start(a, 1, driver, queues)?;
    let b = Side::start(b, 2, driver, queues)?;
    a.plane.control().apply(&[b.spec()?])?;
    b.plane.control().apply(&[a.spec()?])?;
    Ok((a, b))
}

/// Until pods have been heard of, and links have their addresses, packets are lost.
fn wait_until_reached(from: &Side, to: IpAddr) {
    let once = Options {
        count: 1,
        timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let end = Instant::now() + PATIENCE;
    while !from
        .pod
        .run(|| ping(to, once))
        .is_ok_and(|pings| pings.all_answered())
    {
        assert!(
            Instant::now() < end,
            "{to} is not reached: {:?}",
            from.counted()
        );
    }
}

fn pods_talk(driver: Driver, queues: u32) -> TestResult {
    let (a, b) = sides(driver, queues)?;
    for family in [4, 6] {
        wait_until_reached(&a, address(2, family));
        for (from, to) in [(&a, &b), (&b, &a)] {
            let far = address(to.number, family);
            let seen = || format!("IPv{family}\n {:?}\n {:?}", from.counted(), to.counted());
            let pings = from.pod.run(|| ping(far, Options::default()))?;
            assert!(pings.all_answered(), "{pings:?} {}", seen());
            let echo = to.pod.run(|| udp::Echo::start(far))?;
            let exchange = from
                .pod
                .run(|| udp::exchange(echo.address(), 300, 1300, 16, PATIENCE, |_| true))?;
            let counts = (exchange.echoed, exchange.damaged, exchange.overtaken);
            assert_eq!(counts, (300, 0, 0), "{}", seen());
            let server = to.pod.run(|| tcp::Server::start(far))?;
            let address = server.address();
            let transfer = from
                .pod
                .run(|| tcp::transfer(address, TRANSFER, TRANSFER, PATIENCE, |_| true))
                .map_err(|error| format!("{error} {}", seen()))?;
            let moved = (transfer.uploaded, transfer.downloaded);
            assert_eq!(moved, (TRANSFER, TRANSFER));
        }
    }
    for side in [&a, &b] {
        let of = |name| side.statistic("inner tx", name);
        let (sent, forwarded, copied) =
            (of("tx_packets"), of("tx_forwarded_frames"), of("tx_copied"));
        assert_eq!(sent, forwarded + copied, "{:?}", side.counted());
        assert!(sent > 10_000, "{:?}", side.counted());
        if driver == Driver::Udp {
            assert_eq!(forwarded, 0);
        } else if queues == 1 {
            assert_eq!(copied, 0, "{:?}", side.counted());
        } else {
            assert!(forwarded > 0, "{:?}", side.counted());
        }
        assert_eq!(of("tx_invalid_descs"), 0);
        assert_eq!(side.statistic("inner rx", "rx_malformed"), 0);
        assert!(side.statistic("inner rx", "rx_checksums_completed") > 0);
        assert!(side.plane.notes().is_empty(), "{:?}", side.plane.notes());
    }
    // Namespaces last to the end: one that goes takes its links along.
    let (a, b) = (a.end()?, b.end()?);
    drop((a, b));
    Ok(())
}

/// What cannot be opened is refused with the interface's name and the way out.
fn refusals_name_the_way_out() -> TestResult {
    let node = Namespace::new("node")?;
    let start = |inner, workers| {
        let builder = Dataplane::builder(PrivateKey::from([1; 32]))
            .outer(Outer::udp())
            .inner(inner)
            .workers(workers);
        node.run(|| builder.start().map(drop))
    };
    let absent = start(Inner::veth("absent0"), 1).unwrap_err();
    assert!(absent.to_string().contains("absent0"), "{absent}");
    let pod = Namespace::new("pod")?;
    Veth::default().join(&node, HOST, &pod, POD)?;
    let few = start(Inner::veth(HOST), 2).unwrap_err();
    assert!(matches!(
        few,
        StartError::Queues {
            queues: 1,
            workers: 2,
            ..
        }
    ));
    assert!(few.to_string().contains("numrxqueues"), "{few}");
    assert_eq!(node.xdp_program(HOST)?, None, "nothing is left behind");
    start(Inner::veth(HOST), 1)?;
    Ok(())
}

fn main() -> ExitCode {
    let needs = &[Need::Namespaces, Need::Bpf, Need::AfXdp];
    let mut suite = Suite::new();
    for (name, driver) in [
        ("udp", Driver::Udp),
        ("xdp", Driver::Xdp),
        ("xdp_in_udp_out", Driver::XdpReceive),
    ] {
        for queues in [1, 2] {
            let test = format!("pods_talk_over_{name}_with_{queues}_queues");
            suite = suite.test(test, needs, move || pods_talk(driver, queues));
        }
    }
    suite
        .test(
            "refusals_name_the_way_out",
            needs,
            refusals_name_the_way_out,
        )
        .serial()
        .main()
}
