//! Who a node is in a KubeSpan mesh.

use core::fmt;
use core::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::ula::{self, Eui64Error, Purpose};
use crate::crypto::x25519::clamped;
use crate::crypto::{AgreementError, KeyPair, NoRandomness, PrivateKey, PublicKey, Random};

/// A cluster's id: a text that all members share. Whoever knows it can list the cluster at its
/// discovery service, and delete there; so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClusterId(String);

impl ClusterId {
    /// `None` for the empty text.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Option<Self> {
        Some(id.into()).filter(|id| !id.is_empty()).map(Self)
    }

    /// The id, to be hashed or sent as it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterId(not shown)")
    }
}

/// Why a node has no identity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// No address can be made of the interface's hardware address.
    #[error(transparent)]
    Address(#[from] Eui64Error),
    /// The private key cannot be used.
    #[error("the private key cannot be used: {0}")]
    Key(#[from] AgreementError),
    /// No randomness for a new key.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// Who a node is: Talos's `KubeSpanIdentity`. Only the key is stored; the addresses follow from
/// cluster id and hardware address at every start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node's address in the mesh.
    pub address: Ipv6Addr,
    /// The mesh's prefix, a /64.
    pub subnet: Ipv6Net,
    /// The node's private key.
    pub private_key: PrivateKey,
    /// The node's public key: its name among peers.
    pub public_key: PublicKey,
}

impl Identity {
    /// The identity of the node with `private_key` whose first Ethernet interface has the address
    /// `hardware`.
    ///
    /// # Errors
    /// [`IdentityError`] names what cannot be used.
    pub fn new(
        private_key: PrivateKey,
        cluster: &ClusterId,
        hardware: &[u8],
    ) -> Result<Self, IdentityError> {
        let subnet = ula::prefix(cluster, Purpose::KubeSpan);
        Ok(Self {
            address: ula::eui64(subnet.network(), hardware)?,
            subnet,
            public_key: *KeyPair::new(&private_key)?.public(),
            private_key,
        })
    }
}

/// A new private key, clamped as Talos stores it.
///
/// # Errors
/// [`NoRandomness`].
pub fn generate_key(random: &mut dyn Random) -> Result<PrivateKey, NoRandomness> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    random.fill(&mut *bytes)?;
    Ok(clamped(&PrivateKey::from(*bytes)))
}
