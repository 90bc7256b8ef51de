//! Affiliates by the annotations of Kubernetes nodes: Talos's older registry.

use core::str::FromStr;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::affiliate::{Affiliate, ControlPlane, KubeSpan, Prefix};

const NODE_ID: &str = "cluster.talos.dev/node-id";
const NETWORKING: &str = "networking.talos.dev/";

/// The affiliate that a node's annotations describe; `None` without a node id. Items that cannot
/// be read are left out.
#[must_use]
pub fn affiliate(annotations: &BTreeMap<String, String>) -> Option<Affiliate> {
    let node_id = annotations.get(NODE_ID).filter(|id| !id.is_empty())?;
    let text = |name: &str| {
        let value = annotations.get(&format!("{NETWORKING}{name}"));
        value.map(String::as_str).unwrap_or_default()
    };
    let nets = |name| list::<IpNet>(text(name)).map(Prefix::from).collect();
    Some(Affiliate {
        node_id: node_id.clone(),
        addresses: list(text("self-ips")).collect(),
        kubespan: KubeSpan {
            public_key: text("kubespan-public-key").to_owned(),
            address: text("kubespan-ip").parse().ok(),
            additional_addresses: nets("assigned-prefixes"),
            exclude_advertised_networks: nets("kubespan-exclude-advertised-networks"),
            endpoints: list(text("kubespan-endpoints")).collect(),
        },
        control_plane: text("api-server-port")
            .parse()
            .ok()
            .map(|api_server_port| ControlPlane { api_server_port }),
        ..Affiliate::default()
    })
}

fn list<T: FromStr>(text: &str) -> impl Iterator<Item = T> + '_ {
    text.split(',').filter_map(|item| item.trim().parse().ok())
}
