//! From a machine configuration to a member that can start.

use core::net::IpAddr;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;

use super::membership::{Membership, Settings};
use super::node_id::{self, NODE_ID_FILE, NodeIdError};
use super::view::{MemberHandle, MemberState, ServiceState, ServiceStatus};
use crate::control::discovery::{BadUrl, Config, Timings};
use crate::control::kubespan::identity::{IdentityError, generate_key};
use crate::control::kubespan::identity_file::{self, IdentityFileError};
use crate::control::kubespan::{Identity, MachineConfig};
use crate::crypto::hash::sha256;
use crate::crypto::{OsRandom, PrivateKey};
use crate::runtime::paths::HostWatch;

/// Why a machine configuration makes no member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The configuration does not want KubeSpan.
    #[error(
        "KubeSpan is off: set machine.network.kubespan.enabled (or, of a KubeSpanConfig document, enabled) to true"
    )]
    Disabled,
    /// No cluster to join.
    #[error(
        "there is no cluster id: set cluster.id (or, of a DiscoveryIdentityConfig document, clusterID) to that of the cluster"
    )]
    NoClusterId,
    /// Nothing to join it with.
    #[error(
        "there is no cluster secret: set cluster.secret (or, of a DiscoveryIdentityConfig document, clusterSecret) to that of the cluster"
    )]
    NoClusterSecret,
    /// Nowhere to find it.
    #[error(
        "no discovery service is to be used: set cluster.discovery.enabled to true and do not disable registries.service, or add a DiscoveryServiceConfig document"
    )]
    NoDiscovery,
    /// A service that cannot be there.
    #[error("discovery service {name}: {source}")]
    Url {
        /// Its name, or its place in the configuration.
        name: String,
        /// What is wrong.
        source: BadUrl,
    },
    /// The node's key.
    #[error(transparent)]
    IdentityFile(#[from] IdentityFileError),
    /// The node's key or address.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node's id.
    #[error(transparent)]
    NodeId(#[from] NodeIdError),
    /// The machine's interfaces.
    #[error("the network interfaces cannot be listed: {0}")]
    Interfaces(#[source] io::Error),
}

/// A member that has not started. It is a [`Source`](crate::control::Source): give it to a node.
#[derive(Debug)]
pub struct Member {
    pub(super) membership: Membership,
    pub(super) handle: MemberHandle,
    /// One for each discovery service.
    pub(super) configs: Vec<Config>,
    pub(super) observe: bool,
    /// In place of the machine's.
    pub(super) addresses: Option<Vec<IpAddr>>,
}

impl Member {
    /// Begins a member of the cluster that `config` names.
    #[must_use]
    pub fn builder(config: &MachineConfig) -> MemberBuilder {
        MemberBuilder {
            config: config.clone(),
            state_dir: None,
            identity: None,
            hardware_address: None,
            addresses: None,
            hostname: None,
            node_name: None,
            advertised_networks: Vec::new(),
            observe: false,
            timings: Timings::default(),
            fwmark: 0,
        }
    }

    /// The key that the node is to have.
    #[must_use]
    pub fn private_key(&self) -> &PrivateKey {
        &self.handle.identity.private_key
    }

    /// Looks at the member, also while and after it runs.
    #[must_use]
    pub fn handle(&self) -> MemberHandle {
        self.handle.clone()
    }
}

/// A member to be made. See [`Member::builder`].
#[derive(Debug)]
pub struct MemberBuilder {
    config: MachineConfig,
    state_dir: Option<PathBuf>,
    identity: Option<(PrivateKey, String)>,
    hardware_address: Option<Vec<u8>>,
    addresses: Option<Vec<IpAddr>>,
    hostname: Option<String>,
    node_name: Option<String>,
    advertised_networks: Vec<IpNet>,
    observe: bool,
    timings: Timings,
    fwmark: u32,
}

impl MemberBuilder {
    /// Keeps key and node id in this directory, under Talos's file names; those that are there are
    /// used. Default: a new key and a new id each time.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Has this key and this id (1 to 256 bytes), whatever the state directory says.
    #[must_use]
    pub fn identity(mut self, key: PrivateKey, node_id: impl Into<String>) -> Self {
        self.identity = Some((key, node_id.into()));
        self
    }

    /// Makes the mesh address of this hardware address (6 or 8 bytes). Default: that of the first
    /// physical Ethernet link by name; one made of the node's id where there is none.
    #[must_use]
    pub fn hardware_address(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.hardware_address = Some(bytes.into());
        self
    }

    /// Announces these addresses. Default: those of the machine (of the network namespace that the
    /// node is started in), followed as they change.
    #[must_use]
    pub fn addresses(mut self, addresses: impl Into<Vec<IpAddr>>) -> Self {
        self.addresses = Some(addresses.into());
        self
    }

    /// The fully qualified host name. Default: the machine's.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The name that peers show (the node's name in Kubernetes, if it has one). Default: the host
    /// name.
    #[must_use]
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = Some(name.into());
        self
    }

    /// Has the others send what is for these networks here: those of the node's pods, say.
    #[must_use]
    pub fn advertise(mut self, networks: impl Into<Vec<IpNet>>) -> Self {
        self.advertised_networks = networks.into();
        self
    }

    /// Only looks: finds the others, and is not found. No handshake succeeds with a node that does
    /// not know this one.
    #[must_use]
    pub fn observe(mut self, observe: bool) -> Self {
        self.observe = observe;
        self
    }

    /// When the discovery clients do what. Default: as Talos does.
    #[must_use]
    pub fn timings(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }

    /// Marks the connections to the discovery services (`SO_MARK`), which needs `CAP_NET_ADMIN`:
    /// with the node's own mark, [`FWMARK_EGRESS`](crate::control::kubespan::FWMARK_EGRESS), a
    /// service that lies behind a peer is reached whether that peer is up or down. Default: 0,
    /// none.
    #[must_use]
    pub fn fwmark(mut self, mark: u32) -> Self {
        self.fwmark = mark;
        self
    }

    /// Checks the configuration alone: nothing is read or written.
    ///
    /// # Errors
    /// [`MemberError`] names what is missing or wrong.
    pub fn check(&self) -> Result<(), MemberError> {
        self.services("").map(drop)
    }

    /// Checks the configuration; loads or makes key and id.
    ///
    /// # Errors
    /// [`MemberError`] names what is missing or wrong.
    pub fn build(self) -> Result<Member, MemberError> {
        // What is wrong with the configuration comes before a file is made.
        self.check()?;
        let (private_key, node_id) = self.keys()?;
        let configs = self.services(&node_id)?;
        let cluster = self.config.cluster_id.clone();
        let cluster = cluster.ok_or(MemberError::NoClusterId)?;
        let hardware = match &self.hardware_address {
            Some(given) => given.clone(),
            None => {
                let state = HostWatch::open().and_then(|mut watch| watch.state());
                let found = state.map_err(MemberError::Interfaces)?.hardware_address;
                found.unwrap_or_else(|| derived_hardware_address(&node_id))
            }
        };
        let identity = Identity::new(private_key, &cluster, &hardware)?;
        let hostname = self.hostname.unwrap_or_else(machine_name);
        let node_name = self.node_name.unwrap_or_else(|| hostname.clone());
        let state = MemberState {
            services: self
                .config
                .discovery_services
                .iter()
                .map(|service| ServiceStatus {
                    name: service.name.clone(),
                    url: service.endpoint.clone(),
                    state: ServiceState::Connecting,
                    public_ip: None,
                })
                .collect(),
            ..MemberState::default()
        };
        let handle = MemberHandle {
            identity: Arc::new(identity.clone()),
            node_id: node_id.as_str().into(),
            node_name: node_name.as_str().into(),
            shared: Arc::new(Mutex::new(state)),
        };
        let settings = Settings {
            identity,
            node_id,
            node_name,
            hostname,
            operating_system: operating_system(),
            advertised_networks: self.advertised_networks,
            config: self.config,
        };
        Ok(Member {
            membership: Membership::new(settings, configs.len()),
            handle,
            configs,
            observe: self.observe,
            addresses: self.addresses,
        })
    }

    fn keys(&self) -> Result<(PrivateKey, String), MemberError> {
        if let Some(given) = &self.identity {
            return Ok(given.clone());
        }
        let mut random = OsRandom;
        match &self.state_dir {
            Some(directory) => {
                let key = directory.join(identity_file::FILE_NAME);
                let key = identity_file::load_or_create(&key, &mut random)?;
                let id = node_id::load_or_create(&directory.join(NODE_ID_FILE), &mut random)?;
                Ok((key, id))
            }
            None => {
                let key = generate_key(&mut random).map_err(IdentityError::from)?;
                let id = node_id::generate(&mut random).map_err(NodeIdError::from)?;
                Ok((key, id))
            }
        }
    }

    fn services(&self, node_id: &str) -> Result<Vec<Config>, MemberError> {
        let config = &self.config;
        if !config.enabled {
            return Err(MemberError::Disabled);
        }
        let cluster_id = config.cluster_id.as_ref().ok_or(MemberError::NoClusterId)?;
        let secret = config.cluster_secret.as_ref();
        let secret = secret.ok_or(MemberError::NoClusterSecret)?;
        if !config.discovery_enabled || config.discovery_services.is_empty() {
            return Err(MemberError::NoDiscovery);
        }
        let one =
            |(number, service): (usize, &crate::control::kubespan::config::DiscoveryService)| {
                let server = service
                    .endpoint
                    .parse()
                    .map_err(|source| MemberError::Url {
                        name: match service.name.as_str() {
                            "" => format!("number {number}"),
                            name => name.to_owned(),
                        },
                        source,
                    })?;
                Ok(Config {
                    server,
                    cluster_id: cluster_id.clone(),
                    secret: secret.clone(),
                    node_id: node_id.to_owned(),
                    timings: self.timings,
                    mark: self.fwmark,
                })
            };
        (1..).zip(&config.discovery_services).map(one).collect()
    }
}

/// A hardware address for a node that has none, the same at each start: locally administered, not
/// multicast.
fn derived_hardware_address(node_id: &str) -> Vec<u8> {
    let hash = sha256(node_id.as_bytes());
    let mut address: Vec<u8> = hash.iter().take(6).copied().collect();
    if let Some(first) = address.first_mut() {
        *first = (*first & 0xfc) | 0x02;
    }
    address
}

fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// As Talos writes it: `NAME (VERSION)`.
fn operating_system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default()
            .trim_matches(['"', '\''])
            .to_owned()
    };
    match (value("NAME"), value("VERSION_ID")) {
        (name, _) if name.is_empty() => "Linux".to_owned(),
        (name, version) if version.is_empty() => name,
        (name, version) => format!("{name} ({version})"),
    }
}
