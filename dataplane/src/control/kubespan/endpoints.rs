//! Endpoints: which of its own a node announces, which of its peers' it tries, which it has found.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::ranges::RangeSet;
use crate::control::{PeerState, PeerStatus};
use crate::crypto::PublicKey;

/// One line of an endpoint filter: a network that is let through, or with `!` one that is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointFilter {
    /// Whom it is about.
    pub net: IpNet,
    /// Whether it keeps them out.
    pub negative: bool,
}

/// A text that is no endpoint filter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no endpoint filter: write a network or an address, with `!` before it to keep it out"
)]
pub struct BadFilter(String);

impl FromStr for EndpointFilter {
    type Err = BadFilter;
    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let (negative, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let net = rest
            .parse()
            .or_else(|_| rest.parse().map(|address: IpAddr| IpNet::from(address)))
            .map_err(|_| BadFilter(text.chars().take(64).collect()))?;
        Ok(Self { net, negative })
    }
}

impl fmt::Display for EndpointFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negative { "!" } else { "" }, self.net)
    }
}

/// What passes `filters`, in the order of the filters. Each adds those that it holds, or takes
/// them away again; so nothing passes filters that are all negative. Everything passes where there
/// are none.
#[must_use]
pub fn filter_addresses(filters: &[EndpointFilter], addresses: &[IpAddr]) -> Vec<IpAddr> {
    if filters.is_empty() {
        return addresses.to_vec();
    }
    let mut passed: Vec<IpAddr> = Vec::new();
    for filter in filters {
        if filter.negative {
            passed.retain(|address| !filter.net.contains(address));
            continue;
        }
        for address in addresses {
            if filter.net.contains(address) && !passed.contains(address) {
                passed.push(*address);
            }
        }
    }
    passed
}

/// The endpoints that a node announces: its addresses and those that the discovery service has
/// seen it by, as far as the filters let them, on `port`; then the extra ones, whatever they are.
#[must_use]
pub fn announced(
    addresses: &[IpAddr],
    discovered: &[IpAddr],
    filters: &[EndpointFilter],
    extra: &[SocketAddr],
    port: u16,
) -> Vec<SocketAddr> {
    let mut candidates = addresses.to_vec();
    for address in discovered {
        if !candidates.contains(address) {
            candidates.push(*address);
        }
    }
    let mut endpoints: Vec<_> = filter_addresses(filters, &candidates)
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    for endpoint in extra {
        if !endpoints.contains(endpoint) {
            endpoints.push(*endpoint);
        }
    }
    endpoints
}

/// Which endpoints of its peers this node tries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LocalEndpoints {
    filters: Vec<EndpointFilter>,
    tunnel: RangeSet,
    own: Vec<SocketAddr>,
}

impl LocalEndpoints {
    /// Those that pass `filters` and do not lie in `tunnel`: what is reached through the tunnel
    /// cannot carry it.
    #[must_use]
    pub fn new(filters: Vec<EndpointFilter>, tunnel: RangeSet) -> Self {
        Self {
            filters,
            tunnel,
            own: Vec::new(),
        }
    }

    /// And that are none of `own`, this node's endpoints: every host with Docker has 172.17.0.1.
    #[must_use]
    pub fn except(mut self, own: Vec<SocketAddr>) -> Self {
        self.own = own;
        self
    }

    /// Whether an endpoint may be tried.
    #[must_use]
    pub fn admits(&self, endpoint: &SocketAddr) -> bool {
        let address = endpoint.ip();
        let passes = self.filters.is_empty()
            || self
                .filters
                .iter()
                .rfind(|filter| filter.net.contains(&address))
                .is_some_and(|filter| !filter.negative);
        passes
            && endpoint.port() != 0
            && !address.is_unspecified()
            && !self.tunnel.contains(address)
            && !self.own.contains(endpoint)
    }

    /// Those of `endpoints` that may be tried, in their order: it is the peer's order of
    /// preference, which a filter here is not to change.
    #[must_use]
    pub fn admitted(&self, endpoints: &[SocketAddr]) -> Vec<SocketAddr> {
        let admitted = endpoints.iter().filter(|endpoint| self.admits(endpoint));
        admitted.copied().collect()
    }
}

/// A working endpoint of another node, worth telling the others: Talos's `KubeSpanEndpoint`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Harvested {
    /// Whose it is.
    pub public_key: PublicKey,
    /// Its node id.
    pub affiliate_id: String,
    /// Where it is reached.
    pub endpoint: SocketAddr,
}

/// The endpoints under which peers are up; `affiliates` has the node ids of public keys. A peer
/// that no affiliate has is left out.
#[must_use]
pub fn harvest(
    statuses: &[PeerStatus],
    affiliates: &BTreeMap<PublicKey, String>,
) -> Vec<Harvested> {
    let up = statuses
        .iter()
        .filter(|status| status.state == PeerState::Up);
    up.filter_map(|status| {
        Some(Harvested {
            public_key: status.public_key,
            affiliate_id: affiliates.get(&status.public_key)?.clone(),
            endpoint: status.endpoint?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Vec<EndpointFilter> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn later_filters_take_back_and_give_again() {
        let candidates = addresses(&["10.0.0.1", "192.168.0.1", "192.168.0.2", "2001:db8::1"]);
        let passed = |texts: &[&str]| filter_addresses(&filters(texts), &candidates);
        assert_eq!(passed(&[]), candidates);
        assert_eq!(passed(&["!10.0.0.0/8"]), addresses(&[]));
        assert_eq!(
            passed(&["::/0", "0.0.0.0/0", "!192.168.0.0/16", "192.168.0.2"]),
            addresses(&["2001:db8::1", "10.0.0.1", "192.168.0.2"])
        );
    }

    #[test]
    fn a_filter_is_read_and_shown_again() {
        for text in ["10.0.0.0/8", "!192.168.1.7/32", "::/0"] {
            assert_eq!(text.parse::<EndpointFilter>().unwrap().to_string(), text);
        }
        assert_eq!(
            "10.0.0.1".parse::<EndpointFilter>().unwrap().to_string(),
            "10.0.0.1/32"
        );
        for text in ["", "!", "!!10.0.0.0/8", "10.0.0.0/33", "everything"] {
            let error = text.parse::<EndpointFilter>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn what_lies_in_the_tunnel_is_not_tried() {
        let mut tunnel = RangeSet::new();
        tunnel.insert_net(&"fd00:0:0:2::/64".parse().unwrap());
        let local = LocalEndpoints::new(filters(&["0.0.0.0/0", "::/0", "!10.0.0.0/8"]), tunnel);
        let endpoints: Vec<SocketAddr> = [
            "[fd00:0:0:2::7]:51820",
            "[2001:db8::7]:51820",
            "10.1.2.3:51820",
            "192.0.2.7:51820",
            "192.0.2.7:0",
            "0.0.0.0:51820",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        assert_eq!(local.admitted(&endpoints), [endpoints[1], endpoints[3]]);
        assert!(LocalEndpoints::default().admits(&endpoints[0]));
        let own = LocalEndpoints::default().except(vec![endpoints[3]]);
        assert_eq!(own.admitted(&endpoints), endpoints[..3]);
        assert!(
            !LocalEndpoints::new(filters(&["!10.0.0.0/8"]), RangeSet::new()).admits(&endpoints[3])
        );
    }
}
