//! Two nodes, each in a namespace of its own, joined by a veth pair.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::control::{DeviceChange, PeerSpec, PeerStatus};
use ringspan::crypto::PrivateKey;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::traffic::ping::{Options, Pings, ping};
use ringspan_tests::traffic::{tcp, udp};

/// The outer link, in either namespace.
pub(crate) const OUTER: &str = "outer0";
/// The tunnel's interface, in either namespace.
pub(crate) const TUNNEL: &str = "ring0";
/// Far more than anything here takes; only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a stream may stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driver {
    Udp,
    Xdp,
}

pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) plane: Dataplane,
    number: u8,
}

impl Node {
    pub(crate) fn start(
        namespace: Namespace,
        number: u8,
        driver: Driver,
        key: u8,
    ) -> Fallible<Self> {
        let outer = match driver {
            Driver::Udp => Outer::udp(),
            Driver::Xdp => Outer::xdp(OUTER),
        };
        let plane = namespace.run(|| {
            Dataplane::builder(PrivateKey::from([key; 32]))
                .outer(outer)
                .inner(Inner::tun(TUNNEL))
                .start()
        })?;
        let node = Self {
            namespace,
            plane,
            number,
        };
        for address in [node.inner(4), node.inner(6)] {
            node.namespace.add_address(TUNNEL, network(address))?;
        }
        // The kernel takes an IPv6 address into use a moment after it has answered.
        wait_for("the node reaches itself", || node.knock(node.inner(6)));
        Ok(node)
    }

    /// Shuts it down: its interface, its port and its XDP program must be gone.
    pub(crate) fn end(self, driver: Driver) -> Fallible<Namespace> {
        let Self {
            namespace, plane, ..
        } = self;
        let port = plane.listen_port();
        if driver == Driver::Xdp {
            assert_ne!(namespace.xdp_program(OUTER)?, None);
        }
        plane.shutdown()?;
        assert!(namespace.index(TUNNEL).is_err(), "the interface is there");
        assert_eq!(namespace.xdp_program(OUTER)?, None, "XDP is there");
        namespace.run(|| std::net::UdpSocket::bind(("::", port)))?;
        Ok(namespace)
    }

    /// Its outer address, of family 4 or 6.
    pub(crate) fn outer(&self, family: u8) -> IpAddr {
        outer(self.number, family)
    }

    /// Its inner address, of family 4 or 6.
    pub(crate) fn inner(&self, family: u8) -> IpAddr {
        match family {
            4 => IpAddr::from([10, 7, 0, self.number]),
            _ => ip(&format!("fd07::{}", self.number)),
        }
    }

    /// How others know it, reached at `endpoint`.
    pub(crate) fn spec_at(&self, endpoint: Option<IpAddr>) -> PeerSpec {
        let port = self.plane.listen_port();
        PeerSpec {
            endpoints: endpoint
                .map(|address| SocketAddr::new(address, port))
                .into_iter()
                .collect(),
            allowed_ips: [4, 6].map(|family| self.inner(family).into()).to_vec(),
            ..PeerSpec::new(self.plane.public_key().to_owned())
        }
    }

    pub(crate) fn spec(&self, family: u8) -> PeerSpec {
        self.spec_at(Some(self.outer(family)))
    }

    pub(crate) fn apply(&self, specs: &[PeerSpec]) -> Fallible<()> {
        let applied = self.plane.control().apply(specs)?;
        assert_eq!(applied.rejected, [], "every spec is good");
        Ok(())
    }

    /// The first peer as it is now.
    pub(crate) fn peer(&self) -> PeerStatus {
        self.plane.statuses().remove(0)
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.plane.counters();
        let found = counters.iter().find(|(key, _)| *key == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).1
    }

    pub(crate) fn ping(&self, to: IpAddr, count: usize, size: usize) -> Fallible<Pings> {
        let options = Options {
            count,
            size,
            ..Options::default()
        };
        Ok(self.namespace.run(|| ping(to, options))?)
    }

    /// Pings that must all be answered.
    pub(crate) fn reaches(&self, other: &Self) -> Fallible<()> {
        for family in [4, 6] {
            let pings = self.ping(other.inner(family), 3, 56)?;
            assert!(
                pings.all_answered(),
                "IPv{family}: {pings:?}\n here: {:?}\n there: {:?}",
                self.counted(),
                other.counted()
            );
        }
        Ok(())
    }

    /// Pings once; whether that was answered in time.
    pub(crate) fn knock(&self, to: IpAddr) -> bool {
        let options = Options {
            count: 1,
            timeout: Duration::from_millis(300),
            ..Options::default()
        };
        let pings = self.namespace.run(|| ping(to, options));
        pings.is_ok_and(|pings| pings.all_answered())
    }

    /// Pings of which none may be answered.
    pub(crate) fn is_ignored_by(&self, to: IpAddr) -> Fallible<()> {
        let options = Options {
            timeout: Duration::from_millis(300),
            ..Options::default()
        };
        // The kernel may refuse to send once an ICMP error has come back: that is no answer.
        if let Ok(pings) = self.namespace.run(|| ping(to, options)) {
            assert_eq!(pings.round_trips, [], "nothing may come back");
        }
        Ok(())
    }

    /// Datagrams that this node's AF_XDP sockets have received and sent.
    pub(crate) fn over_xdp(&self) -> (u64, u64) {
        let sum = |name| {
            let drivers = self.plane.drivers();
            let ours = drivers
                .iter()
                .filter(|report| report.info.driver == "xdp")
                .flat_map(|report| report.statistics.iter());
            let values = ours.filter(|(key, _)| *key == name).map(|(_, value)| value);
            values.sum()
        };
        (sum("rx_datagrams"), sum("tx_datagrams"))
    }

    /// That the driver under test is the one that carries the datagrams of `work`, both ways.
    pub(crate) fn carries_by(
        &self,
        driver: Driver,
        work: impl FnOnce() -> Fallible<()>,
    ) -> Fallible<()> {
        let before = self.over_xdp();
        work()?;
        let after = self.over_xdp();
        match driver {
            Driver::Udp => assert_eq!(after, (0, 0)),
            Driver::Xdp => assert!(
                after.0 > before.0 && after.1 > before.1,
                "AF_XDP carried nothing: {before:?} {after:?}"
            ),
        }
        Ok(())
    }

    /// One transfer of TCP with so many bytes each way, and an exchange over UDP.
    pub(crate) fn streams_to(&self, other: &Self, family: u8, bytes: u64) -> Fallible<()> {
        self.tcp_streams_to(other, family, bytes, 1)?;
        let to = other.inner(family);
        let echo = other.namespace.run(|| udp::Echo::start(to))?;
        let exchange = self
            .namespace
            .run(|| udp::exchange(echo.address(), 300, 1300, 16, PATIENCE, |_| true))?;
        assert_eq!(
            (exchange.sent, exchange.echoed, exchange.damaged),
            (300, 300, 0),
            "IPv{family}: {:?}",
            self.counted()
        );
        Ok(())
    }

    /// So many transfers of TCP at once; content is verified at both ends.
    pub(crate) fn tcp_streams_to(
        &self,
        other: &Self,
        family: u8,
        bytes: u64,
        streams: usize,
    ) -> Fallible<()> {
        let to = other.inner(family);
        let server = other.namespace.run(|| tcp::Server::start(to))?;
        let address = server.address();
        let transfer = || tcp::transfer(address, bytes, bytes, PATIENCE, |_| true);
        let finished: Vec<io::Result<tcp::Transfer>> = self.namespace.run(|| {
            std::thread::scope(|scope| {
                let running: Vec<_> = (0..streams).map(|_| scope.spawn(transfer)).collect();
                let joined = running.into_iter().map(std::thread::ScopedJoinHandle::join);
                joined
                    .map(|one| one.unwrap_or_else(|_| Err(io::Error::other("a stream panicked"))))
                    .collect()
            })
        });
        assert_eq!(finished.len(), streams);
        for one in finished {
            let one = one.map_err(|error| {
                format!(
                    "IPv{family}, {streams} streams: {error}\n here: {:?}\n there: {:?}",
                    self.counted(),
                    other.counted()
                )
            })?;
            assert_eq!((one.uploaded, one.downloaded), (bytes, bytes));
        }
        Ok(())
    }

    /// Changes something as `wg set` does.
    pub(crate) fn configure(&self, change: DeviceChange) -> Fallible<()> {
        Ok(self.plane.control().configure(change)?)
    }

    /// All counters that are not zero, those of the drivers too: for a failure's message.
    pub(crate) fn counted(&self) -> Vec<(String, u64)> {
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
}

/// Waits until `done`; fails by `what` when that does not come about.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Namespaces 1 and 2 with their outer addresses.
pub(crate) fn joined() -> Fallible<(Namespace, Namespace)> {
    let (a, b) = (Namespace::new("node 1")?, Namespace::new("node 2")?);
    Veth::default().join(&a, OUTER, &b, OUTER)?;
    for (number, namespace) in [(1, &a), (2, &b)] {
        for family in [4, 6] {
            namespace.add_address(OUTER, network(outer(number, family)))?;
        }
    }
    Ok((a, b))
}

/// Nodes 1 and 2 with private keys of the same numbers; they do not know each other yet.
pub(crate) fn strangers(driver: Driver) -> Fallible<(Node, Node)> {
    let (a, b) = joined()?;
    Ok((Node::start(a, 1, driver, 1)?, Node::start(b, 2, driver, 2)?))
}

/// Nodes 1 and 2, which know each other's IPv4 endpoint.
pub(crate) fn nodes(driver: Driver) -> Fallible<(Node, Node)> {
    let (a, b) = strangers(driver)?;
    a.apply(&[b.spec(4)])?;
    b.apply(&[a.spec(4)])?;
    Ok((a, b))
}

pub(crate) fn outer(number: u8, family: u8) -> IpAddr {
    match family {
        4 => IpAddr::from([192, 0, 2, number]),
        _ => ip(&format!("fd00::{number}")),
    }
}

pub(crate) fn network(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new(address, length).expect("a length of its family")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
