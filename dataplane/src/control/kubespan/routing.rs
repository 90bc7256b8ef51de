//! What the host has to send into the tunnel, and how.

use core::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use super::ranges::RangeSet;
use super::{
    FWMARK_EGRESS, FWMARK_FORCE_ROUTE, FWMARK_MASK, ROUTE_METRIC, ROUTING_TABLE, RULE_PRIORITY, ula,
};
use crate::control::{PeerState, PeerStatus};
use crate::runtime::host_routing::HostRoutingConfig;

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

/// What [`HostRouting`](crate::HostRouting) is to set on a member of the mesh. `address` is its
/// [`Identity`](super::Identity)'s; the data plane's mark has to be [`FWMARK_EGRESS`].
///
/// Without the bypass (`allowDownPeerBypass`) nothing for a peer leaves in clear, also when the
/// link is down and after this process was killed.
#[must_use]
pub fn host_routing(
    link: &str,
    address: Ipv6Addr,
    mtu: u16,
    allow_down_peer_bypass: bool,
) -> HostRoutingConfig {
    let sizes = segment_sizes(mtu);
    HostRoutingConfig {
        link: link.to_owned(),
        address: Ipv6Net::new_assert(address, 64).into(),
        mtu,
        table: ROUTING_TABLE,
        metric: ROUTE_METRIC,
        rule_priority: RULE_PRIORITY,
        outer_mark: FWMARK_EGRESS,
        tunnel_mark: FWMARK_FORCE_ROUTE,
        mark_mask: FWMARK_MASK,
        max_segment_ipv4: sizes.ipv4,
        max_segment_ipv6: sizes.ipv6,
        fail_closed: !allow_down_peer_bypass,
    }
}

/// [`routed`] of the peers of a data plane as they are now. With the bypass it changes with every
/// peer that comes up or goes down, without it with the peers' prefixes alone.
#[must_use]
pub fn routed_of(allow_down_peer_bypass: bool, peers: &[PeerStatus]) -> Vec<IpNet> {
    routed(
        !allow_down_peer_bypass,
        peers
            .iter()
            .map(|peer| (peer.state, peer.allowed_ips.as_slice())),
    )
}
