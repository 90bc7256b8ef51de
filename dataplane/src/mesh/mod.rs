//! Floor 4: what control writes and workers read: peers, allowed IPs, receiver indices.

pub mod endpoint;
pub mod peer;

pub use endpoint::Endpoint;
pub use peer::{Peer, PeerCounters};
