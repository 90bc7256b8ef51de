//! Floor 2: cryptography. Knows nothing of packets' meaning, of I/O or of time.

pub mod aead;
pub mod backend;
#[cfg(test)]
mod conformance;
pub mod hash;
pub mod keys;
pub mod library;
pub mod portable;
pub mod random;
pub mod single;
pub mod x25519;

pub use aead::{BatchAead, OpenJob, SealJob, Verdict};
pub use backend::{BackendError, backend};
pub use keys::{AeadKey, KeyError, PresharedKey, PrivateKey, PublicKey};
pub use random::{NoRandomness, OsRandom, Random, SeededRandom};
pub use x25519::{AgreementError, KeyPair};
