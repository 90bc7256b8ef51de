//! What an operator or a discovery service wants of a peer.

use core::net::SocketAddr;
use core::num::NonZeroU16;
use std::collections::HashMap;

use ipnet::IpNet;

use crate::crypto::{PresharedKey, PublicKey};

/// One wanted peer. The fields are those of Talos's `KubeSpanPeerSpec`, and the two that a
/// `wg-quick` file adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSpec {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// The preshared key, if the two ends have one.
    pub preshared_key: Option<PresharedKey>,
    /// Where it may be reached, best first. Empty: it has to speak first.
    pub endpoints: Vec<SocketAddr>,
    /// The inner prefixes behind it. A prefix belongs to one peer; of overlapping ones the
    /// longest wins.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds of silence after which an empty packet is sent, to keep NATs open.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// A name for people: the node's name.
    pub label: String,
}

impl PeerSpec {
    /// A peer of which nothing but the key is known.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoints: Vec::new(),
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            label: String::new(),
        }
    }
}

/// A change to one of the wanted peers; all others stay.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpecChange {
    /// The peer is wanted as this spec says, whether it was wanted before or not.
    Set(PeerSpec),
    /// The peer is not wanted any more. Nothing happens where it was not.
    Remove(PublicKey),
    /// The peer is to have this prefix too.
    Allow {
        /// Which peer: one that is wanted.
        peer: PublicKey,
        /// The prefix; host bits are ignored.
        prefix: IpNet,
    },
    /// The peer is to lack this prefix. Nothing happens where it does.
    Disallow {
        /// Which peer: one that is wanted.
        peer: PublicKey,
        /// The prefix; host bits are ignored.
        prefix: IpNet,
    },
}

impl SpecChange {
    /// Which peer is changed.
    #[must_use]
    pub const fn peer(&self) -> &PublicKey {
        match self {
            Self::Set(spec) => &spec.public_key,
            Self::Remove(peer) | Self::Allow { peer, .. } | Self::Disallow { peer, .. } => peer,
        }
    }

    /// The changes that make `old` into `new`, whatever the order of either: removals first, then
    /// what is new or different, in the order of `new`. A peer that is listed twice counts as
    /// listed last.
    #[must_use]
    pub fn between(old: &[PeerSpec], new: &[PeerSpec]) -> Vec<Self> {
        let known = |specs: &'_ [PeerSpec]| -> HashMap<PublicKey, usize> {
            let keys = specs.iter().map(|spec| spec.public_key);
            keys.zip(0..).collect()
        };
        let (before, after) = (known(old), known(new));
        let gone = old
            .iter()
            .map(|spec| spec.public_key)
            .filter(|key| !after.contains_key(key));
        let mut changes: Vec<_> = gone.map(Self::Remove).collect();
        for (place, spec) in new.iter().enumerate() {
            let last = after.get(&spec.public_key) == Some(&place);
            let present = before.get(&spec.public_key);
            if last && present.and_then(|&place| old.get(place)) != Some(spec) {
                changes.push(Self::Set(spec.clone()));
            }
        }
        changes
    }
}

/// Why one spec was refused while the others were applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The spec names this node itself.
    #[error(
        "{0} is this node's own public key: remove the peer, or check which node's key was copied"
    )]
    OwnKey(PublicKey),
    /// The key is a point of low order: no handshake with it can be secret.
    #[error("{0} is not a usable public key (a point of low order): copy the peer's key again")]
    UnusableKey(PublicKey),
    /// Two specs have the same key.
    #[error("peer {0} is listed twice: merge the two entries")]
    Duplicate(PublicKey),
    /// The node has as many peers as it can have.
    #[error("there is no room for peer {0}: a node has at most 1,048,576 peers")]
    TooMany(PublicKey),
    /// A prefix was given to, or taken from, a peer that is not wanted.
    #[error("there is no peer {0} whose prefixes could change: give its whole spec first")]
    NotWanted(PublicKey),
    /// Another peer has exactly this prefix.
    #[error(
        "allowed IP {prefix} of peer {peer} already belongs to peer {owner}: a prefix can have one peer only"
    )]
    PrefixTaken {
        /// The prefix that both want.
        prefix: IpNet,
        /// The peer that was refused.
        peer: PublicKey,
        /// The peer that keeps it.
        owner: PublicKey,
    },
}
