//! Floor 8: peer specs in, table generations out; statuses of what runs.

pub mod documents;
pub mod handle;
pub mod kubespan;
pub mod plan;
pub mod spec;
pub mod status;
#[cfg(test)]
mod testing;

pub use handle::Control;
pub use plan::{Applied, Plan};
pub use spec::{PeerSpec, RejectReason};
pub use status::{PeerState, PeerStatus};
