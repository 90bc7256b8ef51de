//! What a status says.

use std::collections::BTreeMap;

use ringspan::control::PeerStatus;
use ringspan::runtime::worker::DriverReport;
use serde::{Deserialize, Serialize};

/// One running tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TunnelStatus {
    /// Its interface.
    pub(crate) name: String,
    /// This node's public key, in base64.
    pub(crate) public_key: String,
    /// The UDP port it listens on.
    pub(crate) listen_port: u16,
    /// Firewall mark of its datagrams; 0: none.
    pub(crate) fwmark: u32,
    /// Bytes of the largest inner packet.
    pub(crate) mtu: u16,
    /// The process, and its version.
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// The drivers of each worker.
    pub(crate) drivers: Vec<DriverStatus>,
    /// What the start had to do without, and why.
    pub(crate) notes: Vec<String>,
    /// Counters of the data path, by name.
    pub(crate) counters: BTreeMap<String, u64>,
    /// The peers, in the order of the configuration.
    pub(crate) peers: Vec<PeerReport>,
}

/// A driver in use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DriverStatus {
    /// The worker thread it belongs to.
    pub(crate) worker: usize,
    /// `outer rx`, `outer tx`, `inner rx` or `inner tx`.
    pub(crate) port: String,
    /// `xdp`, `udp` or `tun`.
    pub(crate) driver: String,
    /// The mode in use, in words.
    pub(crate) mode: String,
    /// Its interface, where it has one.
    pub(crate) interface: Option<String>,
    /// Its queue, where there are several.
    pub(crate) queue: Option<u32>,
    /// Its own counters, by name.
    pub(crate) statistics: BTreeMap<String, u64>,
}

/// One peer, under the names of Talos's `KubeSpanPeerStatus`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    /// Its name for people; may be empty.
    pub(crate) label: String,
    /// Its public key, in base64.
    pub(crate) public_key: String,
    /// Where it is reached now.
    pub(crate) endpoint: Option<String>,
    /// `unknown`, `up` or `down`.
    pub(crate) state: String,
    /// Seconds since the last handshake; none: there was none.
    pub(crate) last_handshake_s: Option<u64>,
    /// The endpoint that this node last chose, and how many seconds ago.
    pub(crate) last_used_endpoint: Option<String>,
    pub(crate) last_endpoint_change_s: Option<u64>,
    /// Outer bytes, both ways.
    pub(crate) receive_bytes: u64,
    pub(crate) transmit_bytes: u64,
    /// Inner packets, both ways.
    pub(crate) receive_packets: u64,
    pub(crate) transmit_packets: u64,
    /// The inner prefixes behind it.
    pub(crate) allowed_ips: Vec<String>,
    /// Whether the two ends have a preshared key.
    pub(crate) preshared_key: bool,
    /// Seconds between keepalives; 0: none are sent.
    pub(crate) persistent_keepalive_s: u16,
}

/// A driver as the data plane describes it.
pub(crate) fn driver(report: DriverReport) -> DriverStatus {
    let interface = report.info.interface;
    DriverStatus {
        worker: report.worker,
        port: report.port.to_owned(),
        driver: report.info.driver.to_owned(),
        mode: report.info.mode,
        interface: (!interface.is_empty()).then_some(interface),
        queue: report.info.queue,
        statistics: report
            .statistics
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

/// A peer as the data plane describes it.
pub(crate) fn peer(status: PeerStatus) -> PeerReport {
    PeerReport {
        label: status.label,
        public_key: status.public_key.to_string(),
        endpoint: status.endpoint.map(|endpoint| endpoint.to_string()),
        state: status.state.to_string(),
        last_handshake_s: status.last_handshake.map(|age| age.as_secs()),
        last_used_endpoint: status.last_used_endpoint.map(|e| e.to_string()),
        last_endpoint_change_s: status.last_endpoint_change.map(|age| age.as_secs()),
        receive_bytes: status.receive_bytes,
        transmit_bytes: status.transmit_bytes,
        receive_packets: status.receive_packets,
        transmit_packets: status.transmit_packets,
        allowed_ips: status.allowed_ips.iter().map(ToString::to_string).collect(),
        preshared_key: status.has_preshared_key,
        persistent_keepalive_s: status.persistent_keepalive.unwrap_or(0),
    }
}

#[cfg(test)]
pub(crate) fn sample() -> TunnelStatus {
    TunnelStatus {
        name: "mesh0".into(),
        public_key: "OWN=".into(),
        listen_port: 51820,
        fwmark: 0x20,
        mtu: 1420,
        pid: 7,
        version: "0.1.0".into(),
        uptime_s: 60,
        drivers: [(0, "outer rx"), (1, "outer rx"), (0, "inner tx")]
            .into_iter()
            .map(|(worker, port)| DriverStatus {
                worker,
                port: port.into(),
                driver: if port == "outer rx" { "xdp" } else { "tun" }.into(),
                mode: "zero copy".into(),
                interface: Some("eth0".into()),
                queue: Some(worker as u32),
                statistics: BTreeMap::from([("rx_dropped".into(), 20 + worker as u64)]),
            })
            .collect(),
        notes: vec!["no huge pages".into()],
        counters: BTreeMap::from([("decrypt_failed".into(), 3), ("always_zero".into(), 0)]),
        peers: vec![PeerReport {
            label: "node-b".into(),
            public_key: "KEY=".into(),
            endpoint: Some("192.0.2.2:51820".into()),
            state: "up".into(),
            last_handshake_s: Some(125),
            last_used_endpoint: None,
            last_endpoint_change_s: None,
            receive_bytes: 1536,
            transmit_bytes: 92,
            receive_packets: 2,
            transmit_packets: 1,
            allowed_ips: vec!["10.0.0.2/32".into(), "fd00::2/128".into()],
            preshared_key: true,
            persistent_keepalive_s: 25,
        }],
    }
}
