//! A member as its owner sees it.

use core::fmt;
use core::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::kubespan::peer_spec::Problem;
use crate::control::kubespan::{Affiliate, Identity, KubeSpanPeerSpec};

/// Looks at a member, for as long as anybody cares. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemberHandle {
    pub(super) identity: Arc<Identity>,
    pub(super) node_id: Arc<str>,
    pub(super) node_name: Arc<str>,
    pub(super) shared: Arc<Mutex<MemberState>>,
}

impl MemberHandle {
    /// Who the node is in the mesh.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node's id in the cluster.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The name that its peers show.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// What the member knows now.
    #[must_use]
    pub fn state(&self) -> MemberState {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, MemberState> {
        // A writer that panicked in between left whole values behind.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a member knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberState {
    /// The peers that it has found, in the order of their public keys, with those that have
    /// vanished lately and are held.
    pub peers: Vec<KubeSpanPeerSpec>,
    /// Members that are peers in part or not at all, with the reason.
    pub problems: Vec<Problem>,
    /// What came from a discovery service and was not believed; the first ones of many.
    pub refused: Vec<Refused>,
    /// The discovery services, in the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// What the node tells of itself; `None` where it only observes.
    pub announced: Option<Affiliate>,
}

/// Something that was not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// A node id or a public key, as it was received: not verified.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// A discovery service in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceStatus {
    /// Its name in the configuration; may be empty.
    pub name: String,
    /// Where it is configured to be.
    pub url: String,
    /// How it is.
    pub state: ServiceState,
    /// The address that it sees this node by.
    pub public_ip: Option<IpAddr>,
}

/// How a discovery service is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ServiceState {
    /// No connection has been tried yet, or the members are not known yet.
    #[default]
    Connecting,
    /// The members are known, and news are heard.
    Synchronized,
    /// There is no connection. What was known stays.
    Disconnected {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Synchronized => f.write_str("synchronized"),
            Self::Disconnected { reason } => write!(f, "disconnected: {reason}"),
        }
    }
}
