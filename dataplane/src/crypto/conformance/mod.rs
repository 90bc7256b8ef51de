//! One suite for every back end.
//!
//! Whole back ends are held against the portable one over random batches
//! ([`differential`]), at the edges of mapped memory ([`guard`]), and against what they
//! must do with forgeries. Their [kernels](super::batch::Kernel) are also held against
//! known answers that need nonces and associated data which WireGuard's transport data
//! never has ([`known_answers`]), and against plain long arithmetic where Poly1305's carries
//! are at their extremes ([`extremes`]).

mod batches;
mod differential;
#[cfg(target_arch = "x86_64")]
mod extremes;
#[cfg(unix)]
mod guard;
#[cfg(target_arch = "x86_64")]
mod kernels;
#[cfg(target_arch = "x86_64")]
mod known_answers;
