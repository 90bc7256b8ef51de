//! Key types. Secret ones wipe themselves on drop and show nothing in `Debug`.

use core::fmt;
use core::str::FromStr;

use super::random::{NoRandomness, OsRandom, Random as _};
use aws_lc_rs::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use once_cell::race::OnceBox;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A text that is no key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 44 characters of base64. The text itself is not repeated: it may be a mistyped secret.
    #[error(
        "a key is 44 characters of base64 (32 bytes), as `wg genkey` prints; this one has {length} characters that are not"
    )]
    Malformed {
        /// Characters in the refused text.
        length: usize,
    },
}

fn from_base64(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let malformed = KeyError::Malformed { length: text.len() };
    let mut key = Zeroizing::new([0; 32]);
    // One byte more than a key: the decoder asks for room in whole groups of three.
    let mut room = Zeroizing::new([0; 33]);
    match STANDARD.decode_slice(text, room.as_mut()) {
        Ok(32) => {
            key.copy_from_slice(room.get(..32).ok_or(malformed)?);
            Ok(key)
        }
        _ => Err(malformed),
    }
}

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key's bytes. Whoever copies them must wipe the copy.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }

        impl PartialEq for $name {
            /// Constant time.
            fn eq(&self, other: &Self) -> bool {
                subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
            }
        }

        impl Eq for $name {}
    };
}

/// A ChaCha20-Poly1305 key of one direction of one session.
///
/// Beside its bytes it holds the single-packet library's key object, made when that library
/// first needs it: the object is on the heap, and packets must not allocate.
pub struct AeadKey {
    bytes: [u8; 32],
    /// Wipes itself on drop, too. `None` where the heap was exhausted. No more than a pointer, so
    /// that what else a packet needs of its session is in the same cache line.
    library: OnceBox<Option<LessSafeKey>>,
}

impl AeadKey {
    /// The key's bytes. Whoever copies them must wipe the copy.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The single-packet library's object, made on first use.
    pub(super) fn library(&self) -> Option<&LessSafeKey> {
        let make = || {
            let key = UnboundKey::new(&CHACHA20_POLY1305, &self.bytes);
            Box::new(key.ok().map(LessSafeKey::new))
        };
        self.library.get_or_init(make).as_ref()
    }
}

impl From<[u8; 32]> for AeadKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self {
            bytes,
            library: OnceBox::new(),
        }
    }
}

impl Clone for AeadKey {
    fn clone(&self) -> Self {
        Self::from(self.bytes)
    }
}

impl Zeroize for AeadKey {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
        self.library = OnceBox::new();
    }
}

impl Drop for AeadKey {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl ZeroizeOnDrop for AeadKey {}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey(secret)")
    }
}

impl PartialEq for AeadKey {
    /// Constant time.
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.bytes[..], &other.bytes[..]).into()
    }
}

impl Eq for AeadKey {}

secret_key! {
    /// A static or ephemeral X25519 private key.
    PrivateKey
}
secret_key! {
    /// A preshared key (WireGuard paper §5.2). All zero is "none".
    PresharedKey
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// [`NoRandomness`] where the kernel has none.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; 32]);
        OsRandom.fill(&mut bytes[..])?;
        Ok(Self(*bytes))
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_base64(text).map(|key| Self(*key))
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_base64(text).map(|key| Self(*key))
    }
}

impl Default for PresharedKey {
    /// The key of a peer without one: all zero.
    fn default() -> Self {
        Self([0; 32])
    }
}

/// An X25519 public key: a peer's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_base64(text).map(|key| Self(*key))
    }
}

impl fmt::Display for PublicKey {
    /// Base64, as `wg` prints keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}
