//! A whole cluster on simulated time: every node has the control core of a real one.
//!
//! Every node keeps its peers in a [`Registry`] over real tables ([`Mesh`](crate::mesh::Mesh)),
//! derives them with the rules of [`peer_specs`](crate::control::kubespan::peer_spec::peer_specs)
//! from what a discovery service with memory limits, expiry and false departures tells it, and
//! judges the state of each peer by its [`Rotation`](crate::control::kubespan::Rotation): with
//! 1,000 nodes, 999,000 of each.
//!
//! The first few nodes ([`Setup::full`]) have everything: encrypted entries through a
//! [`Roster`](crate::control::discovery::Roster) and a
//! [`Membership`](crate::control::member::Membership), and among each other real
//! handshakes and data over the memory driver. The other nodes are told entries in clear, and a
//! handshake with one of them succeeds exactly where its initiation would have arrived: at the
//! address that the initiator has chosen there is, now and reachable, the node with that key,
//! and it knows the initiator. (A million real handshakes every two minutes of simulated time
//! would take this machine an hour.)
//!
//! A run is a seed. `RINGSPAN_CLUSTER_SEED=n` replays one, `RINGSPAN_CLUSTER_SEEDS=n` runs that many
//! more, `RINGSPAN_CLUSTER_NODES=n` sizes the large cluster. A seed that has failed belongs into
//! [`REGRESSIONS`].

mod node;
mod service;
mod world;

use std::str::FromStr;

use world::{Setup, World};

/// Seeds that have failed once, with the number of nodes.
const REGRESSIONS: &[(u64, usize)] = &[(1, 200)];

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    let parsed = value.parse().ok();
    assert!(parsed.is_some(), "{name}={value} is no number");
    parsed
}

/// Says which run this is: where it fails, that is printed.
fn run(seed: u64, setup: &Setup) {
    eprintln!(
        "cluster of {} nodes: RINGSPAN_CLUSTER_SEED={seed} RINGSPAN_CLUSTER_NODES={}",
        setup.nodes, setup.nodes
    );
    let mut world = World::new(seed, setup);
    world.live_through(setup);
    world.check();
}

/// 1,000 nodes take minutes and 2.5 GB: CI's step `cluster` asks for them, in an optimized build.
#[test]
fn a_large_cluster_finds_itself_after_trouble() {
    let seed = variable("RINGSPAN_CLUSTER_SEED").unwrap_or(1);
    let nodes = variable("RINGSPAN_CLUSTER_NODES").unwrap_or(200);
    run(seed, &Setup::new(nodes, 16));
}

/// Small enough for every node to be complete, and so for many seeds.
#[test]
fn small_clusters_find_each_other_after_any_trouble() {
    let more = variable("RINGSPAN_CLUSTER_SEEDS").unwrap_or(6);
    for seed in 1..=more {
        run(seed, &Setup::new(20, 20));
    }
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    for &(seed, nodes) in REGRESSIONS {
        let full = if nodes > 100 { 16 } else { nodes };
        run(seed, &Setup::new(nodes, full));
    }
}
