//! Floor 2: cryptography. Knows nothing of packets' meaning, of I/O or of time.

pub mod aead;
pub mod keys;

pub use aead::{BatchAead, OpenJob, SealJob, Verdict};
pub use keys::{AeadKey, KeyError, PresharedKey, PrivateKey, PublicKey};
