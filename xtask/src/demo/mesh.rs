//! The nodes and the network they stand in: one switch, every node on a cable of its own, and a
//! discovery service on the switch, through which the nodes find each other.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::control::PeerState;
use ringspan::control::kubespan::config::DiscoveryService;
use ringspan::control::kubespan::{ClusterId, LINK_NAME, LISTEN_PORT, MachineConfig};
use ringspan::control::member::{Member, MemberHandle};
use ringspan::runtime::worker::DriverReport;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::discovery::{DiscoveryServer, Options};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::peers::{KeyPair, preshared_key};

use super::OuterDriver;
use crate::Result;
use crate::interrupt::Interrupt;

/// The cable to the switch, in each node.
const CABLE: &str = "eth0";
const BRIDGE: &str = "br0";
/// Where the discovery service listens, on the switch.
const DISCOVERY: &str = "192.0.2.254/24";
const DISCOVERY_PORT: u16 = 8080;
/// When a node is not found for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Mesh {
    nodes: Vec<Node>,
    config: MachineConfig,
    outer: OuterDriver,
    /// Outlives the nodes, which tell it that they leave.
    discovery: DiscoveryServer,
    /// Holds the bridge.
    switch: Namespace,
}

pub(crate) struct Node {
    pub(crate) label: String,
    pub(crate) space: Namespace,
    pub(crate) plane: Dataplane,
    pub(crate) member: MemberHandle,
    /// Its address inside the mesh.
    pub(crate) address: IpAddr,
}

impl Mesh {
    /// Starts the discovery service and all nodes, none of which knows any other.
    pub(crate) fn build(count: usize, outer: OuterDriver) -> Result<Self> {
        let switch = Namespace::new("switch")?;
        switch.add_bridge(BRIDGE)?;
        let own: IpNet = DISCOVERY.parse()?;
        switch.add_address(BRIDGE, own)?;
        let discovery = switch.run(|| {
            DiscoveryServer::start(Options {
                listen: (own.addr(), DISCOVERY_PORT).into(),
                ..Options::default()
            })
        })?;
        let config = MachineConfig {
            enabled: true,
            // Any text will do, and a key is one that nobody else has.
            cluster_id: ClusterId::new(KeyPair::generate().public.to_string()),
            cluster_secret: Some(preshared_key()),
            discovery_enabled: true,
            discovery_services: vec![DiscoveryService {
                name: "demo".into(),
                endpoint: discovery.url(),
            }],
            ..MachineConfig::default()
        };
        let mut mesh = Self {
            nodes: Vec::with_capacity(count),
            config,
            outer,
            discovery,
            switch,
        };
        for at in 0..count {
            let node = mesh.start(at)?;
            mesh.nodes.push(node);
        }
        Ok(mesh)
    }

    /// Waits until every node is up with all others; `show` is told how many of the connections
    /// are there, of how many.
    pub(crate) fn wait_for_all(
        &self,
        interrupt: &Interrupt,
        show: impl Fn(usize, usize),
    ) -> Result<()> {
        let wanted = self.nodes.len() * (self.nodes.len() - 1);
        let began = Instant::now();
        loop {
            let up = self.nodes.iter().map(Node::up).sum();
            show(up, wanted);
            if up >= wanted || interrupt.came() {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(self.lost(up, wanted).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the nodes have to say about not finding each other.
    fn lost(&self, up: usize, wanted: usize) -> String {
        let mut text = format!(
            "{up} of {wanted} connections are up after {PATIENCE:?}, discovery at {}",
            self.discovery.url()
        );
        for node in &self.nodes {
            let state = node.member.state();
            for service in &state.services {
                text += &format!("; {}: {}, {} up", node.label, service.state, node.up());
            }
            for source in node.plane.sources() {
                text += &source
                    .problem
                    .map_or_else(String::new, |problem| format!(": {problem}"));
            }
        }
        text
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The URL of the discovery service.
    pub(crate) fn discovery(&self) -> String {
        self.discovery.url()
    }

    /// Every two nodes, the one that begins first.
    pub(crate) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.nodes.len();
        (0..count)
            .flat_map(|a| (a + 1..count).map(move |b| (a, b)))
            .collect()
    }

    /// Whether every node received by the driver that was asked for.
    pub(crate) fn check_drivers(&self) -> Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| node.check_driver(self.outer))
    }

    /// Stops every node; the namespaces are gone afterwards.
    pub(crate) fn shutdown(self) -> Result<()> {
        let mut failures = Vec::new();
        for node in self.nodes {
            if let Err(error) = node.plane.shutdown() {
                failures.push(format!("{}: {error}", node.label));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; ").into())
        }
    }

    /// Starts the node with this number, whether it is one of the mesh's own or one that comes
    /// later: nobody is told of it but the discovery service.
    pub(crate) fn start(&self, at: usize) -> Result<Node> {
        let label = format!("node-{}", at + 1);
        let space = Namespace::new(&label)?;
        let port = format!("port{at}");
        Veth::default().join(&space, CABLE, &self.switch, &port)?;
        self.switch.attach(&port, BRIDGE)?;
        space.add_address(CABLE, outer_net(at)?)?;
        // Threads and sockets stay in the namespace of the thread that made them.
        let started = space.run(
            || -> std::result::Result<_, Box<dyn std::error::Error + Send + Sync>> {
                let member = Member::builder(&self.config).node_name(&label).build()?;
                let handle = member.handle();
                let plane = Dataplane::builder(member.private_key().clone())
                    .listen_port(LISTEN_PORT)
                    .outer(match self.outer {
                        OuterDriver::Xdp => Outer::xdp(CABLE),
                        OuterDriver::Udp => Outer::udp(),
                    })
                    .inner(Inner::tun(LINK_NAME).mtu(self.config.mtu))
                    .source(member)
                    .start()?;
                Ok((plane, handle))
            },
        );
        let (plane, member) = started.map_err(|error| format!("{label}: {error}"))?;
        let identity = member.identity();
        let address = identity.address.into();
        let subnet = IpNet::new(address, identity.subnet.prefix_len())?;
        space.add_address(LINK_NAME, subnet)?;
        space.up(LINK_NAME)?;
        Ok(Node {
            label,
            space,
            plane,
            member,
            address,
        })
    }
}

impl Node {
    /// How many peers it is up with.
    pub(crate) fn up(&self) -> usize {
        let statuses = self.plane.statuses();
        let up = statuses.iter().filter(|peer| peer.state == PeerState::Up);
        up.count()
    }

    /// Whether it received by the driver that was asked for.
    pub(crate) fn check_driver(&self, outer: OuterDriver) -> Result<()> {
        let drivers = self.plane.drivers();
        let found = drivers
            .iter()
            .filter(|driver| driver.port == "outer rx" && driver.info.driver == outer.name())
            .any(|driver| outer == OuterDriver::Udp || received(driver));
        if found {
            Ok(())
        } else {
            Err(format!("{} received nothing over {}", self.label, outer.name()).into())
        }
    }
}

/// Whether an AF_XDP queue had datagrams: the UDP socket beside it takes what XDP leaves.
fn received(driver: &DriverReport) -> bool {
    let counted = |(name, count): &(&str, u64)| *name == "rx_datagrams" && *count > 0;
    driver.statistics.iter().any(counted)
}

fn outer_net(at: usize) -> Result<IpNet> {
    Ok(format!("192.0.2.{}/24", at + 1).parse()?)
}
