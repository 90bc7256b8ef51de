//! A node that runs ringspan and routes: what passes through it on the same port is not its own.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::crypto::PrivateKey;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;

use super::PORT;

pub(super) fn add(suite: Suite) -> Suite {
    let needs = [Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp];
    suite
        .test("routed_datagrams_pass", &needs, routed_datagrams_pass)
        .test("a_new_address_is_ours", &needs, a_new_address_is_ours)
}

/// How long the kernel and the node may take for what they do in the background.
const PATIENCE: Duration = Duration::from_secs(10);

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A host, a router that runs ringspan on its link to the host, and a host behind it.
struct Bed {
    near: Namespace,
    router: Namespace,
    far: Namespace,
    plane: Dataplane,
}

impl Bed {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let near = Namespace::new("near")?;
        let router = Namespace::new("router")?;
        let far = Namespace::new("far")?;
        Veth::default().join(&near, "up", &router, "near")?;
        Veth::default().join(&far, "up", &router, "far")?;
        near.add_address("up", net("10.41.0.1/24"))?;
        router.add_address("near", net("10.41.0.2/24"))?;
        router.add_address("far", net("10.42.0.2/24"))?;
        far.add_address("up", net("10.42.0.1/24"))?;
        near.add_route(net("10.42.0.0/24"), "up", Some(ip("10.41.0.2")))?;
        far.add_route(net("10.41.0.0/24"), "up", Some(ip("10.42.0.2")))?;
        router.set_sysctl("ipv4/ip_forward", "1")?;
        let plane = router.run(|| {
            Dataplane::builder(PrivateKey::from([7; 32]))
                .listen_port(PORT)
                .outer(Outer::xdp("near"))
                .inner(Inner::tun("ring0"))
                .start()
        })?;
        Ok(Self {
            near,
            router,
            far,
            plane,
        })
    }

    /// Datagrams that came in over AF_XDP.
    fn steered(&self) -> u64 {
        self.plane
            .drivers()
            .iter()
            .filter(|report| report.info.driver == "xdp")
            .flat_map(|report| &report.statistics)
            .filter(|(name, _)| *name == "rx_datagrams")
            .map(|(_, value)| value)
            .sum()
    }

    /// Sends to `address` from the near host until the node has had one over AF_XDP.
    fn is_steered(&self, address: &str) -> Result<bool, Box<dyn std::error::Error>> {
        let before = self.steered();
        let socket = self.near.run(|| UdpSocket::bind("10.41.0.1:0"))?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            socket.send_to(b"no message of ours", (ip(address), PORT))?;
            std::thread::sleep(Duration::from_millis(20));
            if self.steered() > before {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn routed_datagrams_pass() -> TestResult {
    let bed = Bed::new()?;
    let behind = bed.far.run(|| UdpSocket::bind(("10.42.0.1", PORT)))?;
    behind.set_read_timeout(Some(PATIENCE))?;
    let sender = bed.near.run(|| UdpSocket::bind("10.41.0.1:0"))?;
    sender.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 64];
    for text in ["one", "two"] {
        sender.send_to(text.as_bytes(), SocketAddr::new(ip("10.42.0.1"), PORT))?;
        let (length, from) = behind.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..length], text.as_bytes());
        behind.send_to(b"back", from)?;
        let (length, _) = sender.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..length], b"back");
    }
    assert_eq!(bed.steered(), 0);
    assert!(bed.is_steered("10.41.0.2")?, "the router's own datagrams");
    Ok(())
}

fn a_new_address_is_ours() -> TestResult {
    let bed = Bed::new()?;
    bed.router.add_address("near", net("10.41.0.77/24"))?;
    assert!(bed.is_steered("10.41.0.77")?);
    // Its address on another link is its own too.
    assert!(bed.is_steered("10.42.0.2")?);
    Ok(())
}
