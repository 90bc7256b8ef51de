//! How long a super-packet may get: so long that its datagrams fit one send.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// What WireGuard adds to a packet: data header and tag.
const OVERHEAD: u32 = 32;

/// The longest UDP payload, and the most datagrams, that one send takes.
const SEND: u32 = 65_507;
const SEGMENTS: u32 = 64;

/// IPv4 and TCP headers with time stamps: what a segment repeats.
const HEADERS: u32 = 52;

/// The length of a super-packet whose segments, sealed, fit one send. A default one of 64 KiB takes
/// two: at MTU 1420 one of 45 datagrams and one of two or three.
pub(super) fn fitting(mtu: u32) -> u32 {
    let segments = (SEND / mtu.saturating_add(OVERHEAD)).clamp(1, SEGMENTS);
    (segments * mtu.saturating_sub(HEADERS)).clamp(mtu, u32::from(u16::MAX).max(mtu))
}

/// Sets the interface's `gso_max_size`, in the calling thread's network namespace.
pub(super) fn set(interface: u32, bytes: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = interface;
    link.attributes.push(LinkAttribute::GsoMaxSize(bytes));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::SetLink(link));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&buffer, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::Error(verdict) if verdict.code.is_some() => Err(verdict.to_io()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_segments_fit_one_send() {
        assert_eq!(fitting(1420), 45 * 1368);
        for mtu in 68..=65_535 {
            let size = fitting(mtu);
            assert!((mtu..=65_535).contains(&size), "{mtu}");
            // TCP over IPv4 with time stamps: payload, and datagrams it becomes.
            let Some(payload) = size.checked_sub(HEADERS + 1) else {
                continue;
            };
            let segment = mtu - HEADERS;
            let (full, rest) = (payload / segment, payload % segment);
            let last = if rest > 0 {
                rest + HEADERS + OVERHEAD
            } else {
                0
            };
            let bytes = full * (mtu + OVERHEAD) + last;
            assert!(
                bytes <= SEND || full + u32::from(rest > 0) <= 1,
                "{mtu}: {bytes}"
            );
        }
    }
}
