//! What the XDP program and user space must agree on: the names and layouts of the maps
//! ([`maps`]), the verdicts and their counters ([`Verdict`]), which frames carry a datagram
//! ([`frame`]), and which a packet for the tunnel ([`inner`]).
//!
//! Compiled for both sides, so that the AF_XDP driver takes a frame apart exactly as the program
//! did that sent it there.

#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

#[cfg(any(test, feature = "builder"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(any(test, feature = "builder"))]
pub mod builder;
pub mod frame;
pub mod inner;
pub mod maps;
mod verdict;

pub use frame::{Frame, Layout, NotADatagram, UdpFrame, VlanTag};
pub use verdict::Verdict;
