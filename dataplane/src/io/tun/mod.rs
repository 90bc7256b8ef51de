//! The TUN driver: inner packets to and from the host's IP stack.
//!
//! [`Tun::open`] creates the interface, which vanishes with the last descriptor on it;
//! [`TunRx`] and [`TunTx`] are the two ports of one of its queues. The files: `request` (the
//! ioctls, with all the `unsafe`), `open`, `rx`, `tx`.

mod open;
mod request;
mod rx;
mod tx;

pub use open::{OpenError, Tun, TunConfig};
pub use rx::TunRx;
pub use tx::TunTx;
