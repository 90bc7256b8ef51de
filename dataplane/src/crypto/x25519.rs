//! X25519 (RFC 7748): key pairs and key agreement.
//!
//! AWS-LC does the arithmetic (24 to 30 µs against 50 to 60 µs for `x25519-dalek`, which remains
//! as the reference in the tests). A result that is all zero, which is what the points of low
//! order give, is refused (RFC 7748 §6.1).

use core::fmt;

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use subtle::ConstantTimeEq;

use super::hash::Secret;
use super::{PrivateKey, PublicKey};

/// Why two keys do not agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgreementError {
    /// The public key is one of the few points that give zero with every private key.
    #[error(
        "the public key is a point of low order: no peer has made it; ask for the peer's real key"
    )]
    LowOrder,
    /// The library could not load the private key (memory is exhausted).
    #[error("the X25519 library could not load the private key")]
    Library,
}

/// Sets and clears the bits that make 32 bytes an X25519 scalar (RFC 7748 §5). Agreement does so
/// by itself; this is for keys that are shown or compared.
#[must_use]
pub fn clamped(private: &PrivateKey) -> PrivateKey {
    let mut bytes = *private.as_bytes();
    bytes[0] &= 0b1111_1000;
    bytes[31] &= 0b0111_1111;
    bytes[31] |= 0b0100_0000;
    let key = PrivateKey::from(bytes);
    zeroize::Zeroize::zeroize(&mut bytes);
    key
}

/// A private key made ready for agreements, with its public key.
///
/// Making one costs about as much as an agreement, so static keys are kept in this form. The
/// private part lives in memory of AWS-LC, which wipes it on drop.
pub struct KeyPair {
    private: agreement::PrivateKey,
    public: PublicKey,
}

impl KeyPair {
    /// The key pair of `private`.
    ///
    /// # Errors
    /// [`AgreementError::Library`] where the library refuses to load it.
    pub fn new(private: &PrivateKey) -> Result<Self, AgreementError> {
        let private = agreement::PrivateKey::from_private_key(&X25519, private.as_bytes())
            .map_err(|_| AgreementError::Library)?;
        let public = private
            .compute_public_key()
            .map_err(|_| AgreementError::Library)?;
        let public = <[u8; 32]>::try_from(public.as_ref()).map_err(|_| AgreementError::Library)?;
        Ok(Self {
            private,
            public: public.into(),
        })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The secret shared with the owner of `public`.
    ///
    /// # Errors
    /// [`AgreementError::LowOrder`] where it would be all zero.
    pub fn agree(&self, public: &PublicKey) -> Result<Secret, AgreementError> {
        let public = UnparsedPublicKey::new(&X25519, public.as_bytes());
        let low_order = AgreementError::LowOrder;
        agreement::agree(&self.private, public, low_order, |shared| {
            let mut secret = Secret::default();
            if shared.len() == secret.len() {
                secret.copy_from_slice(shared);
            }
            // AWS-LC checks this as well; the protocol rests on it, so it is not left to a library.
            if secret[..].ct_eq(&[0; 32]).into() {
                return Err(low_order);
            }
            Ok(secret)
        })
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The points of low order on the curve and its twist, with their representatives beyond the
    /// prime, as <https://cr.yp.to/ecdh.html#validate> lists them.
    pub(crate) fn low_order_points() -> Vec<PublicKey> {
        const ORDER_8: [[u8; 32]; 2] = [
            [
                0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
                0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
                0x5f, 0x49, 0xb8, 0x00,
            ],
            [
                0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83,
                0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd,
                0xd0, 0x9f, 0x11, 0x57,
            ],
        ];
        let mut one = [0; 32];
        one[0] = 1;
        // 2^255 - 19 - 1, then - 0, then + 1.
        let near_prime = [0xec, 0xed, 0xee].map(|first| {
            let mut point = [0xff; 32];
            point[0] = first;
            point[31] = 0x7f;
            point
        });
        let mut points = vec![[0; 32], one];
        points.extend(ORDER_8);
        points.extend(near_prime);
        // The highest bit is to be ignored (RFC 7748 §5).
        for mut point in points.clone() {
            point[31] |= 0x80;
            points.push(point);
        }
        points.into_iter().map(PublicKey::from).collect()
    }

    fn reference(private: [u8; 32], public: [u8; 32]) -> [u8; 32] {
        let private = x25519_dalek::StaticSecret::from(private);
        private
            .diffie_hellman(&x25519_dalek::PublicKey::from(public))
            .to_bytes()
    }

    #[test]
    fn matches_rfc_7748_section_6_1() {
        let key = |text: &str| -> [u8; 32] {
            core::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        };
        let alice = key("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let alice = KeyPair::new(&alice.into()).unwrap();
        let public = key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(alice.public().as_bytes(), &public);
        let bob = key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let shared = key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(*alice.agree(&bob.into()).unwrap(), shared);
    }

    #[test]
    fn low_order_points_are_refused() {
        let pair = KeyPair::new(&PrivateKey::from([0x77; 32])).unwrap();
        let points = low_order_points();
        assert_eq!(points.len(), 14);
        for point in points {
            assert_eq!(reference([0x77; 32], *point.as_bytes()), [0; 32], "{point}");
            assert_eq!(pair.agree(&point).unwrap_err(), AgreementError::LowOrder);
        }
    }

    #[test]
    fn clamping_changes_nothing_but_the_bytes() {
        let private = PrivateKey::from([0xff; 32]);
        let fixed = clamped(&private);
        assert_eq!(fixed.as_bytes()[0], 0xf8);
        assert_eq!(fixed.as_bytes()[31], 0x7f);
        assert_eq!(clamped(&PrivateKey::from([0; 32])).as_bytes()[31], 0x40);
        let public = |key| *KeyPair::new(key).unwrap().public();
        assert_eq!(public(&private), public(&fixed));
    }

    #[test]
    fn debug_shows_no_secret() {
        let pair = KeyPair::new(&PrivateKey::from([0x77; 32])).unwrap();
        let text = format!("{pair:?}");
        assert!(
            text.contains("PublicKey(") && !text.contains("119"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(private: [u8; 32], other: [u8; 32]) {
            let pair = KeyPair::new(&private.into()).unwrap();
            let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(private));
            prop_assert_eq!(pair.public().as_bytes(), public.as_bytes());
            let shared = pair.agree(&other.into()).unwrap();
            prop_assert_eq!(*shared, reference(private, other));
        }
    }
}
