//! What benches share that is not Rust's: foreign libraries.

#[cfg(ipsec_mb)]
pub mod ipsec_mb;
