//! Members of a cluster as the discovery service tells of them.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use std::collections::BTreeMap;

use ipnet::IpNet;

/// An address and a prefix length as a member has published them: not checked, host bits kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// Any address of the network.
    pub address: IpAddr,
    /// The prefix length. Too long a one makes the whole affiliate unusable as a peer.
    pub bits: u32,
}

impl Prefix {
    /// The network; `None` where the prefix length is out of range.
    #[must_use]
    pub fn net(&self) -> Option<IpNet> {
        let bits = u8::try_from(self.bits).ok()?;
        IpNet::new(self.address, bits).ok().map(|net| net.trunc())
    }
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        Self {
            address: net.addr(),
            bits: net.prefix_len().into(),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// What a machine does in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MachineType {
    /// Nobody said.
    #[default]
    Unknown,
    /// The first control plane machine of old clusters.
    Init,
    /// A control plane machine.
    ControlPlane,
    /// Any other machine.
    Worker,
}

/// A machine type that there is not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("machine type `{0}` is none of init, controlplane, worker, join, unknown")]
pub struct BadMachineType(String);

impl FromStr for MachineType {
    type Err = BadMachineType;

    /// As Talos reads it: nothing and `join` mean a worker.
    fn from_str(text: &str) -> Result<Self, BadMachineType> {
        match text {
            "unknown" => Ok(Self::Unknown),
            "init" => Ok(Self::Init),
            "controlplane" => Ok(Self::ControlPlane),
            "worker" | "join" | "" => Ok(Self::Worker),
            _ => Err(BadMachineType(text.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for MachineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Init => "init",
            Self::ControlPlane => "controlplane",
            Self::Worker => "worker",
        })
    }
}

/// What a member tells for KubeSpan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KubeSpan {
    /// Its WireGuard public key in base64, as it was sent. Empty: not a peer.
    pub public_key: String,
    /// Its address in the mesh.
    pub address: Option<IpAddr>,
    /// Networks behind it: its pods'.
    pub additional_addresses: Vec<Prefix>,
    /// What is not to be sent to it through the tunnel, although the above has it.
    pub exclude_advertised_networks: Vec<Prefix>,
    /// Where it may be reached, its own first, then what others have found.
    pub endpoints: Vec<SocketAddr>,
}

/// What a control plane machine tells of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ControlPlane {
    /// The port of the Kubernetes API.
    pub api_server_port: u16,
}

/// One member, by one registry or by all of them: Talos's `Affiliate`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affiliate {
    /// The node's id in the cluster.
    pub node_id: String,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its fully qualified host name.
    pub hostname: String,
    /// Its name in Kubernetes.
    pub nodename: String,
    /// Name and version of its system.
    pub operating_system: String,
    /// What it does.
    pub machine_type: MachineType,
    /// Its part in KubeSpan.
    pub kubespan: KubeSpan,
    /// Its part in the control plane.
    pub control_plane: Option<ControlPlane>,
}

impl Affiliate {
    /// Adds what `other`, which tells of the same node, has: lists grow by what is new, single
    /// values that it has replace those here. The operating system stays.
    pub fn merge(&mut self, other: &Self) {
        append_new(&mut self.addresses, &other.addresses);
        replace(&mut self.hostname, &other.hostname);
        replace(&mut self.nodename, &other.nodename);
        if other.machine_type != MachineType::Unknown {
            self.machine_type = other.machine_type;
        }
        let (own, new) = (&mut self.kubespan, &other.kubespan);
        replace(&mut own.public_key, &new.public_key);
        own.address = new.address.or(own.address);
        append_new(&mut own.additional_addresses, &new.additional_addresses);
        append_new(
            &mut own.exclude_advertised_networks,
            &new.exclude_advertised_networks,
        );
        append_new(&mut own.endpoints, &new.endpoints);
        self.control_plane = other.control_plane.or(self.control_plane);
    }
}

/// One affiliate a node, of what several registries tell. `raw` has ids such as `service/ID` and
/// `k8s/ID`; of values in conflict the one with the greatest id stays. An affiliate without a node
/// id is dropped.
#[must_use]
pub fn merge_all(raw: &BTreeMap<String, Affiliate>) -> BTreeMap<String, Affiliate> {
    let mut merged: BTreeMap<String, Affiliate> = BTreeMap::new();
    for affiliate in raw
        .values()
        .filter(|affiliate| !affiliate.node_id.is_empty())
    {
        let new = || Affiliate {
            node_id: affiliate.node_id.clone(),
            operating_system: affiliate.operating_system.clone(),
            ..Affiliate::default()
        };
        let known = merged.entry(affiliate.node_id.clone());
        known.or_insert_with(new).merge(affiliate);
    }
    merged
}

fn append_new<T: PartialEq + Clone>(list: &mut Vec<T>, new: &[T]) {
    for item in new {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn replace(value: &mut String, new: &str) {
    if !new.is_empty() {
        new.clone_into(value);
    }
}
