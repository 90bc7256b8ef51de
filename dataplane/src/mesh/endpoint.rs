//! Where a peer is reached.

use core::net::{IpAddr, SocketAddr};

/// A peer's address and the way to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// The peer's outer address and port.
    pub remote: SocketAddr,
    /// The local address that the peer last wrote to (the sticky source address), if known.
    pub local: Option<IpAddr>,
    /// The interface it last came in on; 0 where unknown.
    pub interface: u32,
}

impl From<SocketAddr> for Endpoint {
    /// An endpoint from configuration: the kernel chooses source and interface.
    fn from(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            interface: 0,
        }
    }
}
