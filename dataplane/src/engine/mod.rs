//! Floor 5: the batch pipeline. Opens batches of datagrams, seals batches of packets; no
//! system calls, no clock.

pub mod counters;
pub mod handshakes;
pub mod port;
pub(crate) mod spread;
mod staged;
#[cfg(test)]
mod testing;
pub mod tunnel;
pub mod worker;

pub use counters::{Totals, WorkerCounters};
pub use handshakes::{
    AddPeerError, Handshakes, IdentityError, Output, PeerConfig, Refusal, Statistics,
};
pub use tunnel::Tunnel;
pub use worker::{Worker, WorkerConfig};
