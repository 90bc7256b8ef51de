//! WireGuard implementations of others, to test ours against.

pub mod uapi;
pub mod wg;
pub mod wireguard_go;

use std::net::SocketAddr;

use ipnet::IpNet;
use ringspan::crypto::{PresharedKey, PrivateKey, PublicKey};

pub use uapi::Device;
pub use wg::{parse_dump, setconf};

/// A node's identity.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The static private key.
    pub private: PrivateKey,
    /// The public key that belongs to it.
    pub public: PublicKey,
}

impl KeyPair {
    /// A new identity. The public key is computed by x25519-dalek, not by the code under test.
    ///
    /// # Panics
    /// When the kernel has no random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let private = random();
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(private));
        Self {
            private: private.into(),
            public: public.to_bytes().into(),
        }
    }
}

/// A new preshared key.
///
/// # Panics
/// When the kernel has no random bytes.
#[must_use]
pub fn preshared_key() -> PresharedKey {
    random().into()
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

/// What a device is told: the words of `wg setconf`.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Its own key.
    pub private_key: PrivateKey,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// Its peers.
    pub peers: Vec<PeerConfig>,
}

/// What a device is told of a peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// The secret both share besides their keys, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where to reach it; without one the peer has to begin.
    pub endpoint: Option<SocketAddr>,
    /// The addresses behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives, if any.
    pub persistent_keepalive: Option<u16>,
}

/// What a device says of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// Where it was last heard from, or is configured to be.
    pub endpoint: Option<SocketAddr>,
    /// Outer bytes received in authenticated messages.
    pub rx_bytes: u64,
    /// Outer bytes sent.
    pub tx_bytes: u64,
    /// Whether there ever was a handshake. (Not when: boringtun gives an age for a time.)
    pub handshaken: bool,
}
