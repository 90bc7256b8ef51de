//! What the host has to send into the tunnel, and how.

use ipnet::IpNet;

use super::ranges::RangeSet;
use super::{FWMARK_FORCE_ROUTE, FWMARK_MASK, ula};
use crate::control::PeerState;

/// The largest TCP segments that fit into a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentSizes {
    /// MSS of IPv4 connections, in bytes.
    pub ipv4: u16,
    /// MSS of IPv6 connections, in bytes.
    pub ipv6: u16,
}

/// Which destinations go through the tunnel: those of all peers where routing is forced, else of
/// peers that are up. Mesh addresses are left out: the link's own /64 leads there.
///
/// Routing is forced unless `allowDownPeerBypass` is set: what is for a peer that is down is lost,
/// not sent in clear.
#[must_use]
#[expect(single_use_lifetimes, reason = "`impl Trait` cannot elide it yet")]
pub fn routed<'a>(
    force_routing: bool,
    peers: impl IntoIterator<Item = (PeerState, &'a [IpNet])>,
) -> Vec<IpNet> {
    let mut set = RangeSet::new();
    for (state, allowed_ips) in peers {
        if !force_routing && state != PeerState::Up {
            continue;
        }
        allowed_ips
            .iter()
            .filter(|net| !ula::is_ula(net.addr(), ula::Purpose::KubeSpan))
            .for_each(|net| set.insert_net(net));
    }
    set.prefixes()
}

/// The segment sizes that SYNs are clamped to: MTU less IP and TCP headers, with 12 bytes for
/// the timestamp option.
#[must_use]
pub const fn segment_sizes(mtu: u16) -> SegmentSizes {
    SegmentSizes {
        ipv4: mtu.saturating_sub(52),
        ipv6: mtu.saturating_sub(72),
    }
}

/// The mark that sends a packet marked `mark` into the tunnel; bits outside the mask stay.
#[must_use]
pub const fn mark_into_tunnel(mark: u32) -> u32 {
    (mark & !FWMARK_MASK) ^ FWMARK_FORCE_ROUTE
}
