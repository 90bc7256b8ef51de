//! The nodes and the network they stand in: one switch, every node on a cable of its own.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan::runtime::worker::DriverReport;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::peers::{KeyPair, preshared_key};

use super::OuterDriver;
use crate::Result;

const PORT: u16 = 51820;
/// The tunnel's interface in each node.
const TUNNEL: &str = "kubespan";
/// The cable to the switch, in each node.
const CABLE: &str = "eth0";
const BRIDGE: &str = "br0";

pub(crate) struct Mesh {
    nodes: Vec<Node>,
    /// Holds the bridge.
    _switch: Namespace,
}

pub(crate) struct Node {
    pub(crate) label: String,
    pub(crate) space: Namespace,
    pub(crate) plane: Dataplane,
    /// Its address inside the mesh.
    pub(crate) address: IpAddr,
}

impl Mesh {
    pub(crate) fn build(count: usize, outer: OuterDriver) -> Result<Self> {
        let switch = Namespace::new("switch")?;
        switch.add_bridge(BRIDGE)?;
        let identities: Vec<_> = (0..count).map(|_| KeyPair::generate()).collect();
        let mut nodes = Vec::with_capacity(count);
        for (at, identity) in identities.iter().enumerate() {
            nodes.push(Node::start(at, identity, &switch, outer)?);
        }
        // Every node is told of all others, as a discovery service would.
        let mut specs: Vec<Vec<PeerSpec>> = vec![Vec::new(); count];
        for a in 0..count {
            for b in a + 1..count {
                let secret = preshared_key();
                for (own, peer) in [(a, b), (b, a)] {
                    let mut spec = PeerSpec::new(identities[peer].public);
                    spec.label = label(peer);
                    spec.preshared_key = Some(secret.clone());
                    spec.endpoints = vec![SocketAddr::new(outer_net(peer)?.addr(), PORT)];
                    spec.allowed_ips = vec![IpNet::from(inner_net(peer)?.addr())];
                    specs[own].push(spec);
                }
            }
        }
        for (node, specs) in nodes.iter().zip(specs) {
            let applied = node.plane.control().apply(&specs)?;
            if !applied.rejected.is_empty() {
                return Err(format!("{}: {:?}", node.label, applied.rejected).into());
            }
        }
        Ok(Self {
            nodes,
            _switch: switch,
        })
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Every two nodes, the one that begins first.
    pub(crate) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.nodes.len();
        (0..count)
            .flat_map(|a| (a + 1..count).map(move |b| (a, b)))
            .collect()
    }

    /// Whether every node received by the driver that was asked for.
    pub(crate) fn check_drivers(&self, outer: OuterDriver) -> Result<()> {
        for node in &self.nodes {
            let drivers = node.plane.drivers();
            let found = drivers
                .iter()
                .filter(|driver| driver.port == "outer rx" && driver.info.driver == outer.name())
                .any(|driver| outer == OuterDriver::Udp || received(driver));
            if !found {
                return Err(
                    format!("{} received nothing over {}", node.label, outer.name()).into(),
                );
            }
        }
        Ok(())
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
}

impl Node {
    fn start(
        at: usize,
        identity: &KeyPair,
        switch: &Namespace,
        outer: OuterDriver,
    ) -> Result<Self> {
        let label = label(at);
        let space = Namespace::new(&label)?;
        let port = format!("port{at}");
        Veth::default().join(&space, CABLE, switch, &port)?;
        switch.attach(&port, BRIDGE)?;
        space.add_address(CABLE, outer_net(at)?)?;
        // Threads and sockets stay in the namespace of the thread that made them.
        let plane = space.run(|| {
            Dataplane::builder(identity.private.clone())
                .listen_port(PORT)
                .outer(match outer {
                    OuterDriver::Xdp => Outer::xdp(CABLE),
                    OuterDriver::Udp => Outer::udp(),
                })
                .inner(Inner::tun(TUNNEL).mtu(1420))
                .start()
        })?;
        let inner = inner_net(at)?;
        space.add_address(TUNNEL, inner)?;
        space.up(TUNNEL)?;
        Ok(Self {
            label,
            space,
            plane,
            address: inner.addr(),
        })
    }
}

/// Whether an AF_XDP queue had datagrams: the UDP socket beside it takes what XDP leaves.
fn received(driver: &DriverReport) -> bool {
    let counted = |(name, count): &(&str, u64)| *name == "rx_datagrams" && *count > 0;
    driver.statistics.iter().any(counted)
}

fn label(at: usize) -> String {
    format!("node-{}", at + 1)
}

fn outer_net(at: usize) -> Result<IpNet> {
    Ok(format!("192.0.2.{}/24", at + 1).parse()?)
}

fn inner_net(at: usize) -> Result<IpNet> {
    Ok(format!("10.244.0.{}/24", at + 1).parse()?)
}
