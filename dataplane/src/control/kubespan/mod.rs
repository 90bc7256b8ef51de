//! What makes a node a member of a KubeSpan mesh (Talos Linux): identity, affiliates, peer specs,
//! endpoint choice, routing figures.
//!
//! Pure: no I/O, `now` is a parameter. The one exception is [`identity_file`]. Affiliates come from
//! a discovery service; [`peer_specs`](peer_spec::peer_specs) turns them into the peers that
//! [`Control`](super::Control) runs, [`Rotation`] chooses among their endpoints.
//!
//! Names and figures are those of Talos, so that its nodes and these see the same mesh.

pub mod affiliate;
pub mod annotations;
pub mod config;
pub mod endpoints;
pub mod hold_down;
pub mod identity;
pub mod identity_file;
pub mod peer_spec;
pub mod ranges;
pub mod resource;
pub mod rotation;
pub mod routing;
#[cfg(test)]
mod simulated;
pub mod ula;
#[cfg(test)]
mod vectors;

use core::num::NonZeroU16;
use core::time::Duration;

pub use affiliate::{Affiliate, ControlPlane, KubeSpan, MachineType, Prefix};
pub use config::MachineConfig;
pub use endpoints::{EndpointFilter, LocalEndpoints};
pub use hold_down::HoldDown;
pub use identity::{ClusterId, Identity};
pub use peer_spec::{KubeSpanPeerSpec, PeerSpecs};
pub use ranges::RangeSet;
pub use rotation::Rotation;

/// The link's name.
pub const LINK_NAME: &str = "kubespan";
/// The UDP port of every Talos node.
pub const LISTEN_PORT: u16 = 51820;
/// The link's MTU unless configured, in bytes.
pub const DEFAULT_MTU: u16 = 1420;
/// The least MTU that may be configured, in bytes.
pub const MIN_MTU: u16 = 1280;
/// Seconds between keepalives, for every peer.
pub const PERSISTENT_KEEPALIVE: Option<NonZeroU16> = NonZeroU16::new(25);
/// The mark of encrypted packets on their way out.
pub const FWMARK_EGRESS: u32 = 0x20;
/// The mark that sends a packet into the tunnel.
pub const FWMARK_FORCE_ROUTE: u32 = 0x40;
/// The bits that the two marks use.
pub const FWMARK_MASK: u32 = 0x60;
/// The routing table that leads into the tunnel.
pub const ROUTING_TABLE: u32 = 180;
/// The metric of that table's routes.
pub const ROUTE_METRIC: u32 = 1;
/// The priority of the rule that leads to that table.
pub const RULE_PRIORITY: u32 = 32500;
/// How often Talos looks at its peers. This node is told by packets, and looks more often.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);
