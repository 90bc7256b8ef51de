//! KubeSpan's part of a Talos machine configuration: the blocks of the old document and the newer
//! separate documents, read into one type.

use core::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::endpoints::EndpointFilter;
use super::{ClusterId, DEFAULT_MTU, MIN_MTU};
use crate::control::documents::{Documents, Node, SyntaxError, ValueError};
use crate::crypto::PresharedKey;

/// The discovery service that Talos uses unless told otherwise.
pub const DEFAULT_DISCOVERY: &str = "https://discovery.talos.dev/";

/// A discovery service to be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveryService {
    /// Its name among several; empty for the one of the old document.
    pub name: String,
    /// Its URL: `https`, `grpc` (both TLS) or `http`.
    pub endpoint: String,
}

/// What a machine configuration says of KubeSpan and of discovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// Whether KubeSpan is wanted.
    pub enabled: bool,
    /// The cluster's id.
    pub cluster_id: Option<ClusterId>,
    /// The cluster's secret: it keys discovery, and is the preshared key of all peers.
    pub cluster_secret: Option<PresharedKey>,
    /// Announce the networks of this node's pods.
    pub advertise_kubernetes_networks: bool,
    /// Send what is for a peer that is down in clear. Otherwise it is lost.
    pub allow_down_peer_bypass: bool,
    /// Tell others of the endpoints under which peers are up.
    pub harvest_extra_endpoints: bool,
    /// The link's MTU, in bytes.
    pub mtu: u16,
    /// Which of its own addresses the node announces as endpoints.
    pub endpoint_filters: Vec<EndpointFilter>,
    /// Which endpoints of peers it tries.
    pub peer_endpoint_filters: Vec<EndpointFilter>,
    /// What others are not to send it through the tunnel.
    pub exclude_advertised_networks: Vec<IpNet>,
    /// Endpoints announced besides, unfiltered.
    pub extra_announced_endpoints: Vec<SocketAddr>,
    /// The networks of the cluster's pods and services. An address in there is no node's.
    pub cluster_subnets: Vec<IpNet>,
    /// Whether members are to be found through discovery.
    pub discovery_enabled: bool,
    /// The services to be used.
    pub discovery_services: Vec<DiscoveryService>,
}

impl Default for MachineConfig {
    /// A machine without KubeSpan.
    fn default() -> Self {
        Self {
            enabled: false,
            cluster_id: None,
            cluster_secret: None,
            advertise_kubernetes_networks: false,
            allow_down_peer_bypass: false,
            harvest_extra_endpoints: false,
            mtu: DEFAULT_MTU,
            endpoint_filters: Vec::new(),
            peer_endpoint_filters: Vec::new(),
            exclude_advertised_networks: Vec::new(),
            extra_announced_endpoints: Vec::new(),
            cluster_subnets: Vec::new(),
            discovery_enabled: false,
            discovery_services: Vec::new(),
        }
    }
}

/// Why a machine configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No YAML.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A value that is wrong.
    #[error("{document}: {source}")]
    Value {
        /// The document: its kind, or `machine configuration`.
        document: String,
        /// What is wrong.
        source: ValueError,
    },
    /// The same is said in two places.
    #[error("{first} and {second} say the same: keep one of them")]
    Twice {
        /// One place.
        first: String,
        /// The other.
        second: String,
    },
}

impl MachineConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&Zeroizing::new(text))
    }

    /// Reads the documents of a machine configuration. Unknown keys and documents of other kinds
    /// are ignored.
    ///
    /// # Errors
    /// [`ConfigError`] names the place and the value, but for secrets.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let documents = Documents::parse(text)?;
        let mut reading = Reading::default();
        for document in documents.iter() {
            let mut name = "machine configuration".to_owned();
            let kind = document.field("kind");
            let result = match kind.text() {
                Ok(None) => reading.legacy(&document),
                Ok(Some(kind)) => {
                    kind.clone_into(&mut name);
                    reading.document(kind, &document)
                }
                Err(error) => Err(error.into()),
            };
            result.map_err(|trouble| match trouble {
                Trouble::Value(source) => ConfigError::Value {
                    document: name.chars().take(64).collect(),
                    source,
                },
                Trouble::Twice(first, second) => ConfigError::Twice { first, second },
            })?;
        }
        Ok(reading.config)
    }
}

/// What is read so far, and where each part was.
#[derive(Default)]
struct Reading {
    config: MachineConfig,
    places: Vec<(&'static str, String)>,
}

enum Trouble {
    Value(ValueError),
    Twice(String, String),
}

impl From<ValueError> for Trouble {
    fn from(error: ValueError) -> Self {
        Self::Value(error)
    }
}

impl Reading {
    fn legacy(&mut self, root: &Node<'_>) -> Result<(), Trouble> {
        let kubespan = root.at("machine.network.kubespan");
        if !kubespan.is_null() {
            self.claim("kubespan", kubespan.path())?;
            self.kubespan(&kubespan)?;
        }
        let cluster = root.field("cluster");
        if !cluster.field("id").is_null() || !cluster.field("secret").is_null() {
            self.claim("identity", "cluster.id")?;
            self.identity(&cluster.field("id"), &cluster.field("secret"))?;
        }
        for name in ["podSubnets", "serviceSubnets"] {
            let subnets = cluster.field("network").field(name);
            let subnets: Vec<IpNet> = subnets.list("a network, ADDRESS/LENGTH")?;
            self.config.cluster_subnets.extend(subnets);
        }
        let discovery = cluster.field("discovery");
        if discovery.is_null() {
            return Ok(());
        }
        self.claim("discovery", discovery.path())?;
        self.config.discovery_enabled = discovery.field("enabled").flag()?;
        let service = discovery.at("registries.service");
        if !service.field("disabled").flag()? {
            let endpoint = service.field("endpoint");
            let endpoint = match endpoint.is_null() {
                true => DEFAULT_DISCOVERY.to_owned(),
                false => discovery_url(&endpoint)?,
            };
            self.config.discovery_services.push(DiscoveryService {
                name: String::new(),
                endpoint,
            });
        }
        Ok(())
    }

    fn document(&mut self, kind: &str, root: &Node<'_>) -> Result<(), Trouble> {
        match kind {
            "KubeSpanConfig" => {
                self.claim("kubespan", kind)?;
                self.kubespan(root)?;
            }
            // The second spelling is that of Talos's manual.
            "KubeSpanEndpointsConfig" | "KubespanEndpointsConfig" => {
                self.claim("endpoints", kind)?;
                self.config.extra_announced_endpoints = root
                    .field("extraAnnouncedEndpoints")
                    .list("an endpoint, ADDRESS:PORT")?;
            }
            "DiscoveryIdentityConfig" => {
                self.claim("identity", kind)?;
                self.identity(&root.field("clusterID"), &root.field("clusterSecret"))?;
            }
            "DiscoveryServiceConfig" => {
                // Several of them add up, but not with the old block.
                if !self.places.iter().any(|(_, place)| place == kind) {
                    self.claim("discovery", kind)?;
                }
                let name: String = root.field("name").required("a name")?;
                let known = &self.config.discovery_services;
                if known.iter().any(|service| service.name == name) {
                    let wrong = root.field("name").wrong("a name of its own");
                    return Err(wrong.into());
                }
                let endpoint = discovery_url(&root.field("endpoint"))?;
                self.config.discovery_enabled = true;
                let service = DiscoveryService { name, endpoint };
                self.config.discovery_services.push(service);
            }
            _ => return Ok(()),
        }
        let version = root.field("apiVersion");
        match version.text()? {
            Some("v1alpha1") => Ok(()),
            _ => Err(version.wrong("v1alpha1").into()),
        }
    }

    fn kubespan(&mut self, block: &Node<'_>) -> Result<(), ValueError> {
        let config = &mut self.config;
        config.enabled = block.field("enabled").flag()?;
        config.advertise_kubernetes_networks = block.field("advertiseKubernetesNetworks").flag()?;
        config.allow_down_peer_bypass = block.field("allowDownPeerBypass").flag()?;
        config.harvest_extra_endpoints = block.field("harvestExtraEndpoints").flag()?;
        let mtu = block.field("mtu").number(MIN_MTU..=u16::MAX)?;
        config.mtu = mtu.unwrap_or(DEFAULT_MTU);
        let filters = block.field("filters");
        let expected = "a network or address, with `!` before it to keep it out";
        config.endpoint_filters = filters.field("endpoints").list(expected)?;
        config.peer_endpoint_filters = filters.field("peerEndpoints").list(expected)?;
        config.exclude_advertised_networks = filters
            .field("excludeAdvertisedNetworks")
            .list("a network, ADDRESS/LENGTH")?;
        Ok(())
    }

    fn identity(&mut self, id: &Node<'_>, secret: &Node<'_>) -> Result<(), ValueError> {
        // Not repeated in errors either: whoever knows it can delete the cluster's members.
        let hidden = |error: ValueError| ValueError {
            found: "the id (not shown)".to_owned(),
            ..error
        };
        let text = id.text().map_err(hidden)?;
        self.config.cluster_id = match text {
            None => None,
            Some(text) => {
                Some(ClusterId::new(text).ok_or_else(|| id.wrong("a text that is not empty"))?)
            }
        };
        self.config.cluster_secret = match secret.is_null() {
            true => None,
            false => Some(secret.secret("32 bytes in standard base64")?),
        };
        Ok(())
    }

    /// Notes that `what` is said at `place`, which nobody may have said before.
    fn claim(&mut self, what: &'static str, place: &str) -> Result<(), Trouble> {
        match self.places.iter().find(|(known, _)| *known == what) {
            Some((_, first)) => Err(Trouble::Twice(first.clone(), place.to_owned())),
            None => {
                self.places.push((what, place.to_owned()));
                Ok(())
            }
        }
    }
}

/// The URL of a discovery service, as far as it is judged here: scheme and host.
fn discovery_url(node: &Node<'_>) -> Result<String, ValueError> {
    let expected = "a URL with https://, grpc:// or http:// and a host";
    let url: String = node.required(expected)?;
    let host = ["https://", "grpc://", "http://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .and_then(|rest| rest.split('/').next());
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(url),
        _ => Err(node.wrong(expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    const ID: &str = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=";

    fn legacy() -> String {
        format!(
            r#"version: v1alpha1
persist: true
machine:
  type: worker
  token: abc.def
  network:
    hostname: w1
    kubespan:
      enabled: true
      advertiseKubernetesNetworks: true
      harvestExtraEndpoints: true
      mtu: 1380
      filters:
        endpoints: ["0.0.0.0/0", "!192.168.0.0/16", "::/0"]
        peerEndpoints: ["!10.244.0.0/16", "0.0.0.0/0"]
        excludeAdvertisedNetworks: ["192.168.1.0/24"]
cluster:
  id: {ID}
  secret: {SECRET}
  network:
    podSubnets: [10.244.0.0/16]
    serviceSubnets: [10.96.0.0/12]
  discovery:
    enabled: true
    registries:
      kubernetes: {{ disabled: true }}
      service: {{}}
---
apiVersion: v1alpha1
kind: KubeSpanEndpointsConfig
extraAnnouncedEndpoints: ["192.0.2.7:51820", "[2001:db8::7]:51820"]
---
apiVersion: v1alpha1
kind: HostnameConfig
hostname: 17
"#
        )
    }

    fn documents() -> String {
        format!(
            r#"apiVersion: v1alpha1
kind: KubeSpanConfig
enabled: true
advertiseKubernetesNetworks: true
harvestExtraEndpoints: true
mtu: 1380
filters:
  endpoints: ["0.0.0.0/0", "!192.168.0.0/16", "::/0"]
  peerEndpoints: ["!10.244.0.0/16", "0.0.0.0/0"]
  excludeAdvertisedNetworks: ["192.168.1.0/24"]
---
apiVersion: v1alpha1
kind: DiscoveryIdentityConfig
clusterID: {ID}
clusterSecret: {SECRET}
---
apiVersion: v1alpha1
kind: KubespanEndpointsConfig
extraAnnouncedEndpoints: ["192.0.2.7:51820", "[2001:db8::7]:51820"]
---
apiVersion: v1alpha1
kind: DiscoveryServiceConfig
name: ours
endpoint: grpc://discovery.example.com:6443/
---
apiVersion: v1alpha1
kind: DiscoveryServiceConfig
name: theirs
endpoint: http://[::1]
"#
        )
    }

    #[test]
    fn both_forms_say_the_same() {
        let old = MachineConfig::parse(&legacy()).unwrap();
        let new = MachineConfig::parse(&documents()).unwrap();
        assert!(old.enabled && old.harvest_extra_endpoints && !old.allow_down_peer_bypass);
        assert_eq!(old.mtu, 1380);
        assert_eq!(old.cluster_id.as_ref().unwrap().as_str(), ID);
        assert_eq!(old.cluster_secret.as_ref().unwrap().as_bytes()[31], 32);
        assert!(old.endpoint_filters[1].negative);
        assert_eq!(old.extra_announced_endpoints.len(), 2);
        assert_eq!(old.discovery_services[0].endpoint, DEFAULT_DISCOVERY);
        let names: Vec<_> = new
            .discovery_services
            .iter()
            .map(|s| s.name.as_str())
            .collect();
        assert_eq!(names, ["ours", "theirs"]);
        assert_eq!(old.cluster_subnets.len(), 2);
        let services = old.discovery_services.clone();
        let cluster_subnets = old.cluster_subnets.clone();
        assert_eq!(
            MachineConfig {
                discovery_services: services,
                cluster_subnets,
                ..new
            },
            old
        );

        let none = MachineConfig::parse("machine:\n  network: {}\ncluster:\n  secret: null\n");
        assert_eq!(none.unwrap(), MachineConfig::default());
        assert_eq!(MachineConfig::parse("").unwrap(), MachineConfig::default());
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (from, to, expected) in [
            (
                "mtu: 1380",
                "mtu: 1279",
                "machine.network.kubespan.mtu: `1279` is not a number from 1280",
            ),
            ("mtu: 1380", "mtu: big", "`big` is not a number"),
            (
                "enabled: true\n      adv",
                "enabled: yes please\n      adv",
                "kubespan.enabled: `yes please` is not true or false",
            ),
            (
                "!192.168.0.0/16",
                "!192.168.0.0/66",
                "filters.endpoints[1]: `!192.168.0.0/66` is not a network",
            ),
            (
                "\"192.168.1.0/24\"",
                "\"!192.168.1.0/24\"",
                "excludeAdvertisedNetworks[0]: `!192.168.1.0/24`",
            ),
            (
                "service: {}",
                "service: {endpoint: ftp://x}",
                "cluster.discovery.registries.service.endpoint: `ftp://x` is not a URL",
            ),
            (
                "192.0.2.7:51820",
                "192.0.2.7",
                "KubeSpanEndpointsConfig: extraAnnouncedEndpoints[0]: `192.0.2.7` is not an endpoint",
            ),
            (
                "apiVersion: v1alpha1\nkind: KubeSpan",
                "apiVersion: v2\nkind: KubeSpan",
                "apiVersion: `v2` is not v1alpha1",
            ),
            (
                SECRET,
                "AQID",
                "cluster.secret: the secret (not shown) is not 32 bytes",
            ),
        ] {
            assert!(legacy().contains(from), "{from}");
            let error = MachineConfig::parse(&legacy().replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn the_same_is_said_once() {
        for kinds in [
            "kind: KubeSpanConfig",
            "kind: DiscoveryIdentityConfig",
            "kind: DiscoveryServiceConfig\nname: a\nendpoint: http://a",
        ] {
            let text = format!("{}---\napiVersion: v1alpha1\n{kinds}\n", legacy());
            let error = MachineConfig::parse(&text).unwrap_err();
            assert!(matches!(error, ConfigError::Twice { .. }), "{error}");
        }
        let twice = documents()
            + "---\napiVersion: v1alpha1\nkind: DiscoveryServiceConfig\nname: ours\nendpoint: http://a\n";
        let error = MachineConfig::parse(&twice).unwrap_err().to_string();
        assert!(
            error.contains("name: `ours` is not a name of its own"),
            "{error}"
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let config = MachineConfig::parse(&legacy()).unwrap();
        let mut shown = format!("{config:?} {config:#?}");
        for (from, to) in [
            (SECRET, format!("[{SECRET}]")),
            (ID, format!("[{ID}]")),
            (SECRET, format!("x{SECRET}")),
        ] {
            let error = MachineConfig::parse(&legacy().replacen(from, &to, 1)).unwrap_err();
            shown += &format!("{error} {error:?}");
        }
        assert!(!shown.contains(SECRET) && !shown.contains(ID), "{shown}");
    }
}
