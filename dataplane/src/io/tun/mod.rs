//! The TUN driver: inner packets to and from the host's IP stack.
//!
//! [`Tun::open`] creates the interface, which vanishes with the last descriptor on it;
//! [`TunRx`] and [`TunTx`] are the two ports of one of its queues. Where the kernel can, one read
//! brings a super-packet of up to 64 KiB, and one write takes one.
//!
//! The files: `request` (the ioctls, with all the `unsafe`), `open`, `rx`, `tx`; for super-packets
//! `vnet` (the header that describes them), `transport` (TCP and UDP headers), `split` (cutting
//! what was read), `coalesce` (putting together what is written) and `super_size` (their length).

mod coalesce;
mod open;
mod request;
mod rx;
mod split;
mod super_size;
pub(in crate::io) mod transport;
mod tx;
mod vnet;

pub use open::{OpenError, Tun, TunConfig};
pub use rx::TunRx;
pub use tx::TunTx;
