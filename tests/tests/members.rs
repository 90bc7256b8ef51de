//! Members of a mesh in one process: real discovery over loopback, real handshakes over the memory
//! driver. Needs no privilege.

#[path = "common/discovery.rs"]
#[allow(dead_code, reason = "shared with the client's own tests")]
mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ringspan::control::PeerState;
use ringspan::control::discovery::Timings;
use ringspan::control::kubespan::config::DiscoveryService;
use ringspan::control::kubespan::{ClusterId, MachineConfig};
use ringspan::control::member::{Member, MemberHandle, ServiceState};
use ringspan::crypto::PresharedKey;
use ringspan::io::memory::{DEFAULT_CAPACITY, InnerUser, Network, inner_port};
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::discovery::DiscoveryServer;

use common::{CLUSTER, SECRET, server, until};

fn config(servers: &[&DiscoveryServer]) -> MachineConfig {
    MachineConfig {
        enabled: true,
        cluster_id: ClusterId::new(CLUSTER),
        cluster_secret: Some(PresharedKey::from(SECRET)),
        discovery_enabled: true,
        discovery_services: servers
            .iter()
            .enumerate()
            .map(|(number, server)| DiscoveryService {
                name: number.to_string(),
                endpoint: server.url(),
            })
            .collect(),
        ..MachineConfig::default()
    }
}

fn timings() -> Timings {
    Timings {
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(20),
        confirm: Duration::from_millis(20),
        ..Timings::default()
    }
}

struct Node {
    plane: Dataplane,
    mesh: MemberHandle,
    _host: InnerUser,
}

impl Node {
    fn join(network: &Network, last: u8, config: &MachineConfig, observe: bool) -> Self {
        Self::join_from(network, last, last, config, observe)
    }

    /// Behind an address that is not the one that it knows of.
    fn join_from(
        network: &Network,
        last: u8,
        known: u8,
        config: &MachineConfig,
        observe: bool,
    ) -> Self {
        let address = IpAddr::from([192, 0, 2, last]);
        let member = Member::builder(config)
            .addresses([IpAddr::from([192, 0, 2, known])])
            .hardware_address([2, 0, 0, 0, 0, last])
            .node_name(format!("node-{last}"))
            .timings(timings())
            .observe(observe)
            .build()
            .expect("a member");
        let mesh = member.handle();
        let outer = SocketAddr::new(address, 51820);
        let end = network.attach(outer, DEFAULT_CAPACITY).expect("an address");
        let (rx, tx, host) = inner_port(DEFAULT_CAPACITY).expect("a port");
        let control_tx = Box::new(end.tx.clone());
        let plane = Dataplane::builder(member.private_key().clone())
            .outer(Outer::custom(
                vec![Box::new(end.rx)],
                vec![Box::new(end.tx)],
                control_tx,
            ))
            .inner(Inner::custom(vec![(Box::new(rx), Box::new(tx))]))
            .source(member)
            .start()
            .expect("a node");
        Self {
            plane,
            mesh,
            _host: host,
        }
    }

    fn up(&self) -> usize {
        let statuses = self.plane.statuses();
        let up = statuses.iter().filter(|peer| peer.state == PeerState::Up);
        up.count()
    }

    fn labels(&self) -> Vec<String> {
        let mut labels: Vec<_> = self.plane.statuses().into_iter().map(|p| p.label).collect();
        labels.sort();
        labels
    }
}

#[test]
fn members_find_each_other_and_leave() {
    let server = server();
    let network = Network::new();
    let config = config(&[&server]);
    let mut nodes: Vec<Node> = (1..=3)
        .map(|last| Node::join(&network, last, &config, false))
        .collect();
    until(|| nodes.iter().all(|node| node.up() == 2));
    assert_eq!(nodes[0].labels(), ["node-2", "node-3"]);
    let status = nodes[0].plane.statuses().remove(0);
    assert!(status.has_preshared_key);
    assert_eq!(status.persistent_keepalive, Some(25));
    let state = nodes[0].mesh.state();
    assert_eq!(state.peers.len(), 2);
    assert_eq!(state.services[0].state, ServiceState::Synchronized);
    let own = nodes[0].mesh.identity().address;
    let announced = state.announced.expect("a member tells of itself");
    assert_eq!(
        announced.addresses,
        [IpAddr::from([192, 0, 2, 1]), own.into()]
    );

    // Confirmed by the service: gone at once, not after the grace time.
    let left = nodes.pop().expect("three nodes");
    left.plane.shutdown().expect("a clean end");
    until(|| nodes.iter().all(|node| node.labels().len() == 1));
    assert_eq!(
        server.affiliates(CLUSTER).len(),
        2,
        "its entry is taken away"
    );
    assert!(nodes.iter().all(|node| node.up() == 1));
}

#[test]
fn an_observer_finds_and_is_not_found() {
    let server = server();
    let network = Network::new();
    let config = config(&[&server]);
    let member = Node::join(&network, 1, &config, false);
    let observer = Node::join(&network, 2, &config, true);
    until(|| observer.labels() == ["node-1"]);
    until(|| member.mesh.state().services[0].state == ServiceState::Synchronized);
    assert_eq!(server.affiliates(CLUSTER).len(), 1);
    assert_eq!(member.labels().len(), 0);
    assert_eq!(observer.mesh.state().announced, None);
    observer.plane.shutdown().expect("a clean end");
    assert_eq!(server.affiliates(CLUSTER).len(), 1, "it takes nothing away");
}

#[test]
fn what_two_services_know_is_one_mesh() {
    let servers = [server(), server()];
    let network = Network::new();
    let first = Node::join(&network, 1, &config(&[&servers[0]]), false);
    let second = Node::join(&network, 2, &config(&[&servers[1]]), false);
    let both = Node::join(&network, 3, &config(&[&servers[0], &servers[1]]), false);
    until(|| both.up() == 2);
    until(|| first.up() == 1 && second.up() == 1);
    assert_eq!(first.labels(), ["node-3"]);
    assert_eq!(second.labels(), ["node-3"]);
}

/// Losing a service costs no peer, and its return changes nothing.
#[test]
fn a_lost_service_costs_no_peer() {
    let lost = server();
    let network = Network::new();
    let config = config(&[&lost]);
    let nodes: Vec<Node> = (1..=2)
        .map(|last| Node::join(&network, last, &config, false))
        .collect();
    until(|| nodes.iter().all(|node| node.up() == 1));
    drop(lost);
    let disconnected = |node: &Node| {
        let state = node.mesh.state();
        matches!(state.services[0].state, ServiceState::Disconnected { .. })
    };
    until(|| nodes.iter().all(disconnected));
    until(|| {
        nodes
            .iter()
            .all(|node| node.plane.sources()[0].problem.is_some())
    });
    assert!(nodes.iter().all(|node| node.up() == 1));
}

/// Two members announce addresses at which nobody reaches them. Both reach a third, which tells each
/// of them where it has heard the other, within half a minute.
#[test]
fn endpoints_that_one_member_has_heard_help_the_others() {
    let server = server();
    let network = Network::new();
    let mut config = config(&[&server]);
    config.harvest_extra_endpoints = true;
    let hub = Node::join(&network, 1, &config, false);
    let hidden = [2, 3].map(|last| Node::join_from(&network, last, last + 100, &config, false));
    until(|| hub.up() == 2);
    let heard = |last: u8| SocketAddr::from(([192, 0, 2, last], 51820));
    assert!(
        hidden.iter().all(|node| node.up() == 1),
        "only the third is reached at first"
    );
    let deadline = Instant::now() + Duration::from_secs(120);
    while !hidden.iter().all(|node| node.up() == 2) {
        let known: Vec<_> = hidden.iter().map(|node| node.plane.statuses()).collect();
        assert!(Instant::now() < deadline, "they do not meet: {known:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    for (node, other) in hidden.iter().zip([3, 2]) {
        let label = format!("node-{other}");
        let statuses = node.plane.statuses();
        let status = statuses.iter().find(|status| status.label == label);
        assert_eq!(
            status.and_then(|status| status.endpoint),
            Some(heard(other))
        );
    }
}
