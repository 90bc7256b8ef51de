//! What the benches share: foreign libraries, options, taking turns, reports.

#[cfg(ipsec_mb)]
pub mod ipsec_mb;
pub mod options;
pub mod report;
pub mod turns;
