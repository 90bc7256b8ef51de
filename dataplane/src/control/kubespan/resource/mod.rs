//! What runs, as the resources that `talosctl get` shows: identity, peer specs, peer statuses.
//!
//! A [`ResourceBook`] gives them what only time gives: versions, and when they were made and last
//! changed.

mod render;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Identity, KubeSpanPeerSpec};
use crate::control::PeerStatus;
use crate::crypto::PublicKey;

pub use render::timestamp;

/// The namespace of all of them.
pub const NAMESPACE: &str = "kubespan";
/// What stands for a private key that is not to be shown.
pub const HIDDEN: &str = "(hidden)";

/// Which resources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `KubeSpanIdentity`: who this node is.
    Identity,
    /// `KubeSpanPeerSpec`: which peers it is to have.
    PeerSpec,
    /// `KubeSpanPeerStatus`: how they are.
    PeerStatus,
}

impl Kind {
    /// The resource type.
    #[must_use]
    pub const fn resource_type(self) -> &'static str {
        match self {
            Self::Identity => "KubeSpanIdentities.kubespan.talos.dev",
            Self::PeerSpec => "KubeSpanPeerSpecs.kubespan.talos.dev",
            Self::PeerStatus => "KubeSpanPeerStatuses.kubespan.talos.dev",
        }
    }

    /// The type in a table.
    #[must_use]
    pub const fn display_type(self) -> &'static str {
        match self {
            Self::Identity => "KubeSpanIdentity",
            Self::PeerSpec => "KubeSpanPeerSpec",
            Self::PeerStatus => "KubeSpanPeerStatus",
        }
    }

    /// The controller that Talos has for it.
    #[must_use]
    pub const fn owner(self) -> &'static str {
        match self {
            Self::Identity => "kubespan.IdentityController",
            Self::PeerSpec => "kubespan.PeerSpecController",
            Self::PeerStatus => "kubespan.ManagerController",
        }
    }

    /// The columns of a table: heading, and field of the spec.
    #[must_use]
    pub const fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Identity => &[("ADDRESS", "address"), ("PUBLICKEY", "publicKey")],
            Self::PeerSpec => &[("LABEL", "label"), ("ENDPOINTS", "endpoints")],
            Self::PeerStatus => &[
                ("LABEL", "label"),
                ("ENDPOINT", "endpoint"),
                ("STATE", "state"),
                ("RX", "receiveBytes"),
                ("TX", "transmitBytes"),
            ],
        }
    }
}

/// The fields of a resource, in Talos's order: texts, numbers, lists of texts.
pub type Spec = Vec<(String, Value)>;

/// What every resource has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Its name: `local`, or a public key in base64.
    pub id: String,
    /// 1 when it is new, and one more with each change.
    pub version: u64,
    /// When it was made: RFC 3339, UTC, seconds.
    pub created: String,
    /// When it last changed.
    pub updated: String,
}

/// One resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resource {
    /// Its name, and what time has made of it.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

impl Resource {
    /// The value of a field, as a table shows it: lists as JSON.
    #[must_use]
    pub fn column(&self, field: &str) -> String {
        let value = self.spec.iter().find(|(name, _)| name == field);
        match value {
            Some((_, Value::String(text))) => text.clone(),
            Some((_, value)) => value.to_string(),
            None => String::new(),
        }
    }
}

/// Resources through time.
#[derive(Debug, Default)]
pub struct ResourceBook {
    resources: BTreeMap<Kind, BTreeMap<String, Resource>>,
    /// When handshakes ended and endpoints were chosen, as it was first shown: statuses have ages.
    times: BTreeMap<(PublicKey, &'static str), SystemTime>,
}

impl ResourceBook {
    /// A book without resources.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this node's identity. The private key is shown only where `with_key`.
    pub fn identity(
        &mut self,
        now: SystemTime,
        identity: &Identity,
        with_key: bool,
    ) -> Vec<Resource> {
        let private = match with_key {
            true => STANDARD.encode(identity.private_key.as_bytes()),
            false => HIDDEN.to_owned(),
        };
        let spec = fields([
            ("address", format!("{}/128", identity.address).into()),
            ("subnet", identity.subnet.to_string().into()),
            ("privateKey", HIDDEN.into()),
            ("publicKey", identity.public_key.to_string().into()),
        ]);
        let local = [("local".to_owned(), spec)];
        let mut shown = self.update(Kind::Identity, now, local);
        // Not kept: a book may be printed.
        let key = shown.iter_mut().flat_map(|one| &mut one.spec);
        for (_, value) in key.filter(|(name, _)| name == "privateKey") {
            *value = private.as_str().into();
        }
        shown
    }

    /// Takes the peers that the node is to have.
    pub fn peer_specs(&mut self, now: SystemTime, specs: &[KubeSpanPeerSpec]) -> Vec<Resource> {
        let specs = specs.iter().map(|spec| {
            let list = |items: Vec<String>| Value::from(items);
            let texts = |endpoint: &SocketAddr| endpoint.to_string();
            let fields = fields([
                ("address", spec.address.to_string().into()),
                (
                    "allowedIPs",
                    list(spec.allowed_ips.iter().map(ToString::to_string).collect()),
                ),
                (
                    "endpoints",
                    list(spec.endpoints.iter().map(texts).collect()),
                ),
                ("label", spec.label.as_str().into()),
            ]);
            (spec.public_key.clone(), fields)
        });
        self.update(Kind::PeerSpec, now, specs.collect::<Vec<_>>())
    }

    /// Takes how the peers are.
    pub fn peer_statuses(&mut self, now: SystemTime, statuses: &[PeerStatus]) -> Vec<Resource> {
        self.times
            .retain(|(key, _), _| statuses.iter().any(|status| status.public_key == *key));
        let mut specs = Vec::with_capacity(statuses.len());
        for status in statuses {
            let key = status.public_key;
            let endpoint = |endpoint: Option<SocketAddr>| {
                Value::from(endpoint.map(|at| at.to_string()).unwrap_or_default())
            };
            let handshake = self.moment(now, (key, "handshake"), status.last_handshake);
            let change = self.moment(now, (key, "change"), status.last_endpoint_change);
            let fields = fields([
                ("endpoint", endpoint(status.endpoint)),
                ("label", status.label.as_str().into()),
                ("state", status.state.to_string().into()),
                ("receiveBytes", status.receive_bytes.into()),
                ("transmitBytes", status.transmit_bytes.into()),
                ("lastHandshakeTime", timestamp(handshake, true).into()),
                ("lastUsedEndpoint", endpoint(status.last_used_endpoint)),
                ("lastEndpointChange", timestamp(change, true).into()),
            ]);
            specs.push((key.to_string(), fields));
        }
        self.update(Kind::PeerStatus, now, specs)
    }

    /// The moment so long ago; the one shown before where it is the same but for the time that
    /// looking takes.
    fn moment(
        &mut self,
        now: SystemTime,
        of: (PublicKey, &'static str),
        age: Option<Duration>,
    ) -> Option<SystemTime> {
        let Some(moment) = age.and_then(|age| now.checked_sub(age)) else {
            self.times.remove(&of);
            return None;
        };
        let known = self.times.entry(of).or_insert(moment);
        let apart = match moment.duration_since(*known) {
            Ok(later) => later,
            Err(earlier) => earlier.duration(),
        };
        if apart > Duration::from_millis(500) {
            *known = moment;
        }
        Some(*known)
    }

    /// Takes all resources of a kind.
    fn update(
        &mut self,
        kind: Kind,
        now: SystemTime,
        specs: impl IntoIterator<Item = (String, Spec)>,
    ) -> Vec<Resource> {
        let stamp = timestamp(Some(now), false);
        let mut before = self.resources.remove(&kind).unwrap_or_default();
        let mut after = BTreeMap::new();
        for (id, spec) in specs {
            let resource = match before.remove(&id) {
                Some(same) if same.spec == spec => same,
                Some(Resource { metadata, .. }) => Resource {
                    metadata: Metadata {
                        version: metadata.version + 1,
                        updated: stamp.clone(),
                        ..metadata
                    },
                    spec,
                },
                None => Resource {
                    metadata: Metadata {
                        kind,
                        id: id.clone(),
                        version: 1,
                        created: stamp.clone(),
                        updated: stamp.clone(),
                    },
                    spec,
                },
            };
            after.insert(id, resource);
        }
        let shown = after.values().cloned().collect();
        self.resources.insert(kind, after);
        shown
    }
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Spec {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PeerState;
    use crate::control::source::peer_specs;
    use crate::crypto::{PresharedKey, PrivateKey};

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn spec(byte: u8) -> KubeSpanPeerSpec {
        KubeSpanPeerSpec {
            public_key: PublicKey::from([byte; 32]).to_string(),
            address: "fd00:0:0:2::7".parse().unwrap(),
            allowed_ips: vec![
                "10.0.0.0/24".parse().unwrap(),
                "fd00:0:0:2::7/128".parse().unwrap(),
            ],
            endpoints: vec![
                "192.0.2.7:51820".parse().unwrap(),
                "[2001:db8::7]:51820".parse().unwrap(),
            ],
            label: "yes".to_owned(),
        }
    }

    #[test]
    fn versions_count_changes() {
        let mut book = ResourceBook::new();
        let first = book.peer_specs(at(10), &[spec(1), spec(2)]);
        assert!(first.iter().all(|one| one.metadata.version == 1));
        let mut changed = spec(1);
        changed.label = "other".to_owned();
        let second = book.peer_specs(at(20), &[changed.clone(), spec(2)]);
        assert_eq!(
            (second[0].metadata.version, second[1].metadata.version),
            (2, 1)
        );
        assert_eq!(second[0].metadata.created, "1970-01-01T00:00:10Z");
        assert_eq!(second[0].metadata.updated, "1970-01-01T00:00:20Z");
        assert_eq!(second[1].metadata.updated, "1970-01-01T00:00:10Z");
        book.peer_specs(at(30), &[]);
        let back = book.peer_specs(at(40), &[changed]);
        assert_eq!(back[0].metadata.version, 1);
        assert_eq!(back[0].metadata.created, "1970-01-01T00:00:40Z");
    }

    #[test]
    fn what_is_printed_is_what_a_file_source_reads() {
        let mut book = ResourceBook::new();
        let shown = book.peer_specs(at(10), &[spec(1), spec(2)]);
        let psk = PresharedKey::from([7; 32]);
        let expected: Vec<_> = [spec(1), spec(2)]
            .iter()
            .map(|spec| spec.to_peer_spec(Some(&psk)).unwrap())
            .collect();
        let yaml: Vec<String> = shown.iter().map(|one| one.to_yaml("node", None)).collect();
        let json: Vec<String> = shown.iter().map(|one| one.to_json("node", None)).collect();
        for text in [yaml.join("---\n"), json.join("")] {
            assert_eq!(peer_specs(&text, Some(&psk)).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_status_that_only_ages_is_the_same() {
        let mut book = ResourceBook::new();
        let mut status = PeerStatus::new([1; 32].into());
        status.state = PeerState::Up;
        status.last_handshake = Some(Duration::from_secs(5));
        let first = book.peer_statuses(at(100), std::slice::from_ref(&status));
        status.last_handshake = Some(Duration::from_millis(6002));
        let second = book.peer_statuses(at(101), std::slice::from_ref(&status));
        assert_eq!(first, second);
        assert_eq!(first[0].column("lastHandshakeTime"), "1970-01-01T00:01:35Z");
        assert_eq!(
            first[0].column("lastEndpointChange"),
            "0001-01-01T00:00:00Z"
        );
        assert_eq!(first[0].column("endpoint"), "");
        status.last_handshake = Some(Duration::from_secs(1));
        let third = book.peer_statuses(at(102), &[status]);
        assert_eq!(third[0].metadata.version, 2);
    }

    #[test]
    fn a_private_key_is_shown_only_when_asked_for_and_never_kept() {
        let cluster = crate::control::kubespan::ClusterId::new("cluster").unwrap();
        let key = PrivateKey::from([0x42; 32]);
        let identity = Identity::new(key.clone(), &cluster, &[2, 0, 0, 0, 0, 1]).unwrap();
        let mut book = ResourceBook::new();
        let secret = STANDARD.encode(key.as_bytes());
        let shown = book.identity(at(1), &identity, true);
        assert!(shown[0].to_yaml("n", None).contains(&secret));
        assert!(!format!("{book:?}").contains(&secret));
        let hidden = book.identity(at(2), &identity, false);
        assert!(!hidden[0].to_yaml("n", None).contains(&secret));
        assert_eq!(hidden[0].metadata.version, 1, "looking is no change");
    }
}
