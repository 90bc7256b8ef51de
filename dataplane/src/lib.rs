//! **ringspan**: a kernel-bypass, high-throughput WireGuard data plane.
//!
//! The modules are floors: each may use what stands below it, never what stands above.
//!
//! | floor | module | holds |
//! | --- | --- | --- |
//! | 1 | [`wire`] | typed views of bytes |
//! | 2 | [`crypto`] | the batched AEAD, hashes, X25519, key types |
//! | 3 | [`noise`] | handshake, sessions, replay window, timers, cookies; pure |
//! | 4 | [`mesh`] | peers, allowed IPs, receiver indices: control writes, workers read |
//! | 5 | [`engine`] | the batch pipeline and the ports that drivers implement |
//! | 6 | [`io`] | drivers: AF_XDP, UDP, TUN, memory, middleware |
//! | 7 | [`runtime`] | threads, event loops, back-end selection, start and stop |
//! | 8 | [`control`] | peer specs in, table generations out; statuses |
//!
//! Floors 1 to 5 need no root, no network and no clock: `now` is a parameter.

#[forbid(unsafe_code)]
pub mod time;

#[forbid(unsafe_code)]
#[cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]
pub mod wire;

#[cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]
pub mod crypto;

#[forbid(unsafe_code)]
#[cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]
pub mod noise;

#[forbid(unsafe_code)]
#[cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]
pub mod mesh;

#[forbid(unsafe_code)]
#[cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]
pub mod engine;

#[cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]
pub mod io;

#[forbid(unsafe_code)]
pub mod runtime;

#[forbid(unsafe_code)]
pub mod control;

#[forbid(unsafe_code)]
pub mod dataplane;

pub use dataplane::{Builder, Dataplane};
pub use runtime::host_routing::{HostRouting, HostRoutingConfig, HostRoutingError};
pub use runtime::setup::StartError;
pub use runtime::wishes::{Inner, Outer};
