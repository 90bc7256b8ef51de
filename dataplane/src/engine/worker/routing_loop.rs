//! A node's own datagrams that come back into its tunnel.
//!
//! Where the host routes a peer's endpoint through the tunnel to that very peer, each datagram
//! would come back as a packet, be sealed again, longer by 60 bytes, and so for ever. The kernel's
//! WireGuard sees that as a recursion of its transmit function; here only the packet itself can
//! tell: it is UDP to the endpoint that it would be sealed to, and bears the receiver index of the
//! session that it would be sealed under. Nobody else's datagram does, except by a chance of one
//! in 2³² that a tunnel within the tunnel uses the same endpoint with the same index.

use core::net::{IpAddr, SocketAddr};

use crate::wire::Ip;
use crate::wire::message::kind;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// Whether `packet`, to be sealed to `endpoint` under the receiver index `index`, is a datagram
/// that was sealed so already.
pub(super) fn is_own(packet: &[u8], endpoint: &SocketAddr, index: u32) -> bool {
    // Cheap first: hardly any packet goes to the address of its own endpoint.
    let addressed = match endpoint.ip() {
        IpAddr::V4(address) => packet.get(16..20) == Some(&address.octets()),
        IpAddr::V6(address) => packet.get(24..40) == Some(&address.octets()),
    };
    addressed && carries(packet, endpoint, index).unwrap_or(false)
}

fn carries(packet: &[u8], endpoint: &SocketAddr, index: u32) -> Option<bool> {
    let ip = Ip::parse(packet).ok()?;
    let (protocol, header) = match ip {
        // Of a fragmented datagram the first part has the headers; the others, on their own, come
        // back once as datagrams that have them.
        Ip::V4(header) if header.fragment.get() & 0x1fff == 0 => {
            (header.protocol, usize::from(header.version_ihl & 0xf) * 4)
        }
        Ip::V4(_) => return None,
        Ip::V6(header) if header.next_header == 44 => (*packet.get(40)?, 48),
        Ip::V6(header) => (header.next_header, 40),
    };
    if protocol != UDP || ip.destination() != endpoint.ip() {
        return Some(false);
    }
    let (udp, message) = packet.get(header..)?.split_at_checked(UDP_HEADER)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    if port != endpoint.port() {
        return Some(false);
    }
    let (word, rest) = message.split_first_chunk::<4>()?;
    let (receiver, _) = rest.split_first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word) == kind::DATA && u32::from_le_bytes(*receiver) == index)
}
