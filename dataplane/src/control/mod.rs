//! Floor 8: peer specs in, table generations out; statuses of what runs.

#[cfg(all(test, feature = "discovery"))]
mod cluster;
pub mod device;
#[cfg(feature = "discovery-codec")]
pub mod discovery;
pub mod documents;
mod events;
pub mod handle;
pub mod kubespan;
mod manager;
#[cfg(feature = "discovery")]
pub mod member;
pub mod plan;
mod registry;
pub mod source;
pub mod spec;
pub mod status;
#[cfg(test)]
mod testing;
pub mod uapi;
mod wanted;

pub use device::{
    AllowedIpChange, ChangeError, DeviceChange, DeviceState, PeerChange, PeerSettings,
};
pub use events::{PeerEvent, Subscription};
pub use handle::Control;
pub(crate) use manager::Manager;
pub use manager::SourceStatus;
pub use plan::{Applied, Plan};
pub use source::{Feed, FileSource, Source};
pub use spec::{PeerSpec, RejectReason, SpecChange};
pub use status::{PeerState, PeerStatus};
