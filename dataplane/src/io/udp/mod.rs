//! The UDP driver: a kernel socket pair that is always bound, whatever else carries the traffic.
//!
//! It reserves the port, receives what an XDP program passes, sends the handshakes (so that
//! routing, neighbours and source addresses are the kernel's), and is the whole outer driver
//! where AF_XDP cannot be had. [`UdpPort`] owns the two sockets; [`UdpRx`], [`UdpTx`] and
//! [`UdpSender`] are its uses, to be made as often as needed.
//!
//! One file a kernel concept: [`bind`](BindError) and socket options, addresses, ancillary data
//! (`control`), `recvmmsg` and `sendmmsg` (`mmsg`, which with `options` holds all the `unsafe`),
//! segmentation on send (`gso`) and on receive (`gro`), and the test of both (`self_test`).

mod address;
mod bind;
mod control;
mod gro;
mod gso;
mod mmsg;
mod options;
mod rx;
mod self_test;
mod sender;
mod tx;

#[cfg(test)]
mod tests;

#[cfg(feature = "discovery")]
pub(crate) use options::set_mark;

pub use bind::{BindError, UdpConfig, UdpPort};
pub use rx::UdpRx;
pub use sender::UdpSender;
pub use tx::UdpTx;

/// The longest UDP payload over IPv4: 65535 bytes less the two headers. Larger ones do not exist
/// over IPv6 either, jumbograms aside.
pub const MAX_DATAGRAM: usize = 65_507;

/// The most messages that one system call carries.
const MAX_MESSAGES: usize = 64;
