//! What is known of a running peer, under the names of Talos's `KubeSpanPeerStatus`.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use ipnet::IpNet;

use crate::crypto::PublicKey;

/// Age of a handshake past which a peer is down: 180 s + 5 s + 90 s.
pub const PEER_DOWN_INTERVAL: Duration = Duration::from_secs(275);
/// How long a newly chosen endpoint may take before its peer is down.
pub const ENDPOINT_CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether a peer can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerState {
    /// Too early to tell.
    #[default]
    Unknown,
    /// A handshake succeeded, lately and with the endpoint in use.
    Up,
    /// None did.
    Down,
}

impl PeerState {
    /// KubeSpan's rule: `change` is the time since this node last chose an endpoint (`None`: it
    /// never did), `handshake` the time since the last handshake (`None`: never).
    #[must_use]
    pub fn assess(change: Option<Duration>, handshake: Option<Duration>) -> Self {
        let Some(change) = change else {
            // Never chosen: the peer speaks first, and only a handshake says anything.
            return match handshake {
                Some(age) if age < PEER_DOWN_INTERVAL => Self::Up,
                _ => Self::Unknown,
            };
        };
        let fresh = handshake.is_some_and(|age| age < change);
        if change > PEER_DOWN_INTERVAL {
            match handshake {
                Some(age) if age < PEER_DOWN_INTERVAL => Self::Up,
                _ => Self::Down,
            }
        } else if fresh {
            Self::Up
        } else if change < ENDPOINT_CONNECTION_TIMEOUT {
            Self::Unknown
        } else {
            Self::Down
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// One peer, as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// Its name, from the spec.
    pub label: String,
    /// Where it is reached: it moves when the peer roams.
    pub endpoint: Option<SocketAddr>,
    /// Whether it can be reached.
    pub state: PeerState,
    /// Outer bytes received from it.
    pub receive_bytes: u64,
    /// Outer bytes sent to it.
    pub transmit_bytes: u64,
    /// Inner packets received from it.
    pub receive_packets: u64,
    /// Inner packets sent to it.
    pub transmit_packets: u64,
    /// Time since the last handshake; `None` where there was none.
    pub last_handshake: Option<Duration>,
    /// The endpoint that this node last chose.
    pub last_used_endpoint: Option<SocketAddr>,
    /// Time since it chose it.
    pub last_endpoint_change: Option<Duration>,
    /// The inner prefixes behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Whether the two ends have a preshared key. The key itself is never shown.
    pub has_preshared_key: bool,
    /// Seconds between keepalives, if any.
    pub persistent_keepalive: Option<u16>,
}

impl PeerStatus {
    /// A peer of which nothing is known yet.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            label: String::new(),
            endpoint: None,
            state: PeerState::Unknown,
            receive_bytes: 0,
            transmit_bytes: 0,
            receive_packets: 0,
            transmit_packets: 0,
            last_handshake: None,
            last_used_endpoint: None,
            last_endpoint_change: None,
            allowed_ips: Vec::new(),
            has_preshared_key: false,
            persistent_keepalive: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assess(change: Option<u64>, handshake: Option<u64>) -> PeerState {
        PeerState::assess(
            change.map(Duration::from_secs),
            handshake.map(Duration::from_secs),
        )
    }

    #[test]
    fn a_peer_that_speaks_first_is_up_by_its_handshake() {
        assert_eq!(assess(None, None), PeerState::Unknown);
        assert_eq!(assess(None, Some(274)), PeerState::Up);
        assert_eq!(assess(None, Some(275)), PeerState::Unknown);
    }

    #[test]
    fn a_new_endpoint_has_fifteen_seconds() {
        assert_eq!(assess(Some(14), None), PeerState::Unknown);
        assert_eq!(assess(Some(15), None), PeerState::Down);
        assert_eq!(assess(Some(10), Some(9)), PeerState::Up);
    }

    #[test]
    fn a_handshake_with_an_earlier_endpoint_does_not_count() {
        assert_eq!(assess(Some(10), Some(11)), PeerState::Unknown);
        assert_eq!(assess(Some(20), Some(21)), PeerState::Down);
        assert_eq!(assess(Some(275), Some(276)), PeerState::Down);
    }

    #[test]
    fn an_old_endpoint_is_judged_by_the_age_of_the_handshake() {
        assert_eq!(assess(Some(1000), Some(274)), PeerState::Up);
        assert_eq!(assess(Some(1000), Some(275)), PeerState::Down);
        assert_eq!(assess(Some(1000), None), PeerState::Down);
    }
}
