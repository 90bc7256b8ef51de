//! Who the peers of a member are, and what it tells of itself: pure.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::view::Refused;
use crate::control::discovery::{Announcement, Change, MAX_ENDPOINTS};
use crate::control::kubespan::affiliate::merge_all;
use crate::control::kubespan::endpoints::{announced, harvest};
use crate::control::kubespan::hold_down::DELETION_GRACE;
use crate::control::kubespan::peer_spec::{Problem, peer_specs};
use crate::control::kubespan::ula::{Purpose, is_ula};
use crate::control::kubespan::{
    Affiliate, HoldDown, Identity, KubeSpan, KubeSpanPeerSpec, LocalEndpoints, MachineConfig,
    MachineType, Prefix, RangeSet,
};
use crate::control::{PeerSpec, PeerStatus};
use crate::crypto::PublicKey;
use crate::time::Instant;

/// How much of what was not believed is kept.
const MAX_REFUSED: usize = 64;

/// What is known of the node beforehand.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who it is in the mesh.
    pub identity: Identity,
    /// Its id in the cluster.
    pub node_id: String,
    /// Its fully qualified host name.
    pub hostname: String,
    /// The name that its peers show.
    pub node_name: String,
    /// Name and version of its system.
    pub operating_system: String,
    /// Networks behind it: its pods', say.
    pub advertised_networks: Vec<IpNet>,
    /// The machine configuration.
    pub config: MachineConfig,
}

/// One discovery service's word.
#[derive(Debug, Default)]
struct Registry {
    present: BTreeMap<String, Affiliate>,
    vanished: BTreeSet<String>,
    public_ip: Option<IpAddr>,
}

/// A node's membership. Told what the discovery services report and what the machine is like, it
/// says which peers there are and what is to be announced.
///
/// Members are merged by node id: of services that contradict each other the later one counts.
/// Whoever has left (confirmed) is a peer no more; whoever has merely vanished is held for
/// [`DELETION_GRACE`], less the addresses that others have taken over.
#[derive(Debug)]
pub struct Membership {
    settings: Settings,
    services: Vec<Registry>,
    addresses: Vec<IpAddr>,
    listen_port: u16,
    hold: HoldDown,
    /// Members whose departure was confirmed since the last look.
    left: BTreeSet<String>,
    /// The node ids of all keys that run, held ones too.
    owners: BTreeMap<PublicKey, String>,
    peers: BTreeMap<String, KubeSpanPeerSpec>,
    problems: Vec<Problem>,
    tunnel: RangeSet,
    refused: BTreeMap<String, String>,
    bad_keys: Vec<Refused>,
}

impl Membership {
    /// A node that knows nobody, with this many discovery services.
    #[must_use]
    pub fn new(settings: Settings, services: usize) -> Self {
        let mut tunnel = RangeSet::new();
        tunnel.insert_net(&settings.identity.subnet.into());
        Self {
            listen_port: crate::control::kubespan::LISTEN_PORT,
            services: (0..services).map(|_| Registry::default()).collect(),
            addresses: Vec::new(),
            hold: HoldDown::new(DELETION_GRACE),
            left: BTreeSet::new(),
            owners: BTreeMap::new(),
            peers: BTreeMap::new(),
            problems: Vec::new(),
            tunnel,
            refused: BTreeMap::new(),
            bad_keys: Vec::new(),
            settings,
        }
    }

    /// What is known of the node beforehand.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes what a discovery service reports; `service` counts from 0. True where
    /// [`peers`](Self::peers) is to be asked anew.
    pub fn observe(&mut self, service: usize, change: Change) -> bool {
        let Some(registry) = self.services.get_mut(service) else {
            return false;
        };
        match change {
            Change::Member(affiliate) => {
                self.refused.remove(&affiliate.node_id);
                registry.vanished.remove(&affiliate.node_id);
                self.left.remove(&affiliate.node_id);
                registry
                    .present
                    .insert(affiliate.node_id.clone(), *affiliate);
            }
            Change::Vanished { node_id } => {
                if registry.present.remove(&node_id).is_some() {
                    registry.vanished.insert(node_id);
                }
            }
            Change::Removed { node_id } => {
                registry.present.remove(&node_id);
                registry.vanished.remove(&node_id);
                let knows = |registry: &Registry| {
                    registry.present.contains_key(&node_id) || registry.vanished.contains(&node_id)
                };
                if !self.services.iter().any(knows) {
                    self.left.insert(node_id);
                }
            }
            Change::Refused {
                affiliate_id,
                reason,
            } => {
                if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&affiliate_id) {
                    self.refused.insert(affiliate_id, reason.to_string());
                }
                return false;
            }
        }
        true
    }

    /// Takes the address that a service sees this node by. True where that is news.
    pub fn set_public_ip(&mut self, service: usize, address: Option<IpAddr>) -> bool {
        let registry = self.services.get_mut(service);
        registry
            .is_some_and(|registry| core::mem::replace(&mut registry.public_ip, address) != address)
    }

    /// The machine's addresses, as last told.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Takes the machine's addresses. True where that is news.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) -> bool {
        let news = self.addresses != addresses;
        self.addresses = addresses;
        news
    }

    /// Takes the node's UDP port. True where that is news.
    pub fn set_listen_port(&mut self, port: u16) -> bool {
        core::mem::replace(&mut self.listen_port, port) != port
    }

    /// Every peer to run from `now` on.
    pub fn peers(&mut self, now: Instant) -> Vec<PeerSpec> {
        let mut raw = BTreeMap::new();
        for (number, registry) in self.services.iter().enumerate() {
            for (node_id, affiliate) in &registry.present {
                raw.insert(format!("{number:04}/{node_id}"), affiliate.clone());
            }
        }
        let members = merge_all(&raw);
        let found = peer_specs(&self.settings.node_id, members.values());
        self.problems = found.problems;
        self.tunnel = found.tunnel;
        self.tunnel
            .insert_net(&self.settings.identity.subnet.into());

        self.bad_keys.clear();
        let secret = self.settings.config.cluster_secret.clone();
        let mut wanted = Vec::with_capacity(found.specs.len());
        let mut peers = BTreeMap::new();
        for (id, spec) in found.specs {
            match spec.to_peer_spec(secret.as_ref()) {
                Ok(peer) => {
                    wanted.push(peer);
                    peers.insert(id, spec);
                }
                Err(error) => self.bad_keys.push(Refused {
                    id: id.chars().take(64).collect(),
                    reason: format!("its public key cannot be used: {error}"),
                }),
            }
        }
        let owners: BTreeMap<PublicKey, String> = members
            .values()
            .filter(|member| member.node_id != self.settings.node_id)
            .filter_map(|member| {
                let key = member.kubespan.public_key.parse().ok()?;
                Some((key, member.node_id.clone()))
            })
            .collect();

        self.hold.update(now, wanted);
        let left = core::mem::take(&mut self.left);
        let before = core::mem::replace(&mut self.owners, owners);
        for (key, node) in &before {
            // Gone by its own word, or known under another key (or none) now.
            if !self.owners.contains_key(key) && (left.contains(node) || members.contains_key(node))
            {
                self.hold.confirm(key);
            }
        }
        let specs = self.hold.specs(now);
        // Who is held is shown as it was, with what is left to it.
        let held = self.hold.held();
        for spec in specs.iter().filter(|spec| held.contains(&spec.public_key)) {
            let id = spec.public_key.to_string();
            if let Some(mut shown) = self.peers.remove(&id) {
                shown.allowed_ips.clone_from(&spec.allowed_ips);
                peers.insert(id, shown);
            }
            if let Some(node) = before.get(&spec.public_key) {
                self.owners.insert(spec.public_key, node.clone());
            }
        }
        self.peers = peers;
        specs
    }

    /// When [`peers`](Self::peers) is to be asked again although nothing was reported.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.hold.next_expiry()
    }

    /// The peers as resources, as of the last [`peers`](Self::peers).
    #[must_use]
    pub fn peer_specs(&self) -> Vec<KubeSpanPeerSpec> {
        self.peers.values().cloned().collect()
    }

    /// What is wrong with members, as of the last [`peers`](Self::peers).
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What was not believed.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        let refused = self.refused.iter().map(|(id, reason)| Refused {
            id: id.clone(),
            reason: reason.clone(),
        });
        refused.chain(self.bad_keys.iter().cloned()).collect()
    }

    /// Which endpoints of peers are tried: those that the configuration lets through, none that is
    /// reached through the tunnel itself, none of this node's own.
    #[must_use]
    pub fn local_endpoints(&self) -> LocalEndpoints {
        let filters = self.settings.config.peer_endpoint_filters.clone();
        let own = self.addresses.iter().chain(self.public_ips());
        let own = own.map(|&address| SocketAddr::new(address, self.listen_port));
        LocalEndpoints::new(filters, self.tunnel.clone()).except(own.collect())
    }

    /// What the node is to tell the others; `statuses` are those of its peers.
    #[must_use]
    pub fn announcement(&self, statuses: &[PeerStatus]) -> Announcement {
        let Settings {
            identity,
            config,
            node_id,
            ..
        } = &self.settings;
        let routed = self.routed_addresses();
        let public: Vec<IpAddr> = self.public_ips().copied().collect();
        let mut endpoints = announced(
            &routed,
            &public,
            &config.endpoint_filters,
            &config.extra_announced_endpoints,
            self.listen_port,
        );
        // The service takes no more; those that somebody has named are the last to go.
        let extra = config.extra_announced_endpoints.len().min(MAX_ENDPOINTS);
        while endpoints.len() > MAX_ENDPOINTS {
            endpoints.remove(endpoints.len().saturating_sub(extra + 1));
        }
        let mut addresses = routed;
        addresses.push(identity.address.into());
        let nets = |nets: &[IpNet]| nets.iter().copied().map(Prefix::from).collect();
        let affiliate = Affiliate {
            node_id: node_id.clone(),
            addresses,
            hostname: self.settings.hostname.clone(),
            nodename: self.settings.node_name.clone(),
            operating_system: self.settings.operating_system.clone(),
            machine_type: MachineType::Worker,
            kubespan: KubeSpan {
                public_key: identity.public_key.to_string(),
                address: Some(identity.address.into()),
                additional_addresses: nets(&self.settings.advertised_networks),
                exclude_advertised_networks: nets(&config.exclude_advertised_networks),
                endpoints,
            },
            control_plane: None,
        };
        let mut found: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
        if config.harvest_extra_endpoints {
            for one in harvest(statuses, &self.owners) {
                found
                    .entry(one.affiliate_id)
                    .or_default()
                    .push(one.endpoint);
            }
        }
        Announcement { affiliate, found }
    }

    /// The machine's addresses that belong to it: not its tunnels', not its pods'.
    fn routed_addresses(&self) -> Vec<IpAddr> {
        let tunnels = [
            Purpose::KubeSpan,
            Purpose::SideroLink,
            Purpose::VirtualSideroLink,
        ];
        let mut routed: Vec<IpAddr> = Vec::new();
        for address in &self.addresses {
            let foreign = tunnels.iter().any(|&purpose| is_ula(*address, purpose))
                || self
                    .settings
                    .config
                    .cluster_subnets
                    .iter()
                    .any(|net| net.contains(address));
            if !foreign && !routed.contains(address) {
                routed.push(*address);
            }
        }
        routed
    }

    fn public_ips(&self) -> impl Iterator<Item = &IpAddr> {
        let told = self
            .services
            .iter()
            .filter_map(|registry| registry.public_ip.as_ref());
        told.filter(|address| !address.is_loopback())
    }
}
