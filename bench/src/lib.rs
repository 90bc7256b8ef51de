//! What the benches share: what they work on, options, taking turns, reports, foreign libraries.

pub mod addresses;
pub mod hubs;
#[cfg(ipsec_mb)]
pub mod ipsec_mb;
pub mod options;
pub mod report;
pub mod turns;
