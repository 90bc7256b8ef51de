//! Floor 2: cryptography. Knows nothing of packets' meaning, of I/O or of time.

pub mod aead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod backend;
#[cfg(any(test, target_arch = "x86_64"))]
mod batch;
#[cfg(test)]
mod conformance;
pub mod hash;
pub mod keys;
pub mod library;
#[cfg(any(test, target_arch = "x86_64"))]
mod poly1305;
pub mod portable;
pub mod prefetch;
pub mod random;
pub mod single;
pub mod x25519;

pub use aead::{BatchAead, OpenJob, SealJob, Verdict};
pub use backend::{BackendError, backend};
pub use keys::{AeadKey, KeyError, PresharedKey, PrivateKey, PublicKey};
pub use prefetch::prefetch;
pub use random::{NoRandomness, OsRandom, Random, SeededRandom};
pub use x25519::{AgreementError, KeyPair};
