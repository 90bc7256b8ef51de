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
mod extremes;
#[cfg(unix)]
mod guard;
mod kernels;
mod known_answers;
mod scalar;

use super::{BatchAead, backend};

/// Every back end that can run here, and the scalar kernel.
fn back_ends() -> impl Iterator<Item = &'static dyn BatchAead> {
    backend::supported().chain([&scalar::Scalar as &dyn BatchAead])
}
