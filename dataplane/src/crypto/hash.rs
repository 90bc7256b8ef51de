//! BLAKE2s as the handshake uses it: hash, keyed MAC, HMAC and the key derivation over HMAC
//! (WireGuard paper §5.4: `Hash`, `Mac`, `Hmac`, `Kdf`).

use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

/// Bytes of a hash.
pub const HASH_LEN: usize = 32;
/// Bytes of a keyed MAC.
pub const MAC_LEN: usize = 16;

/// 32 secret bytes that wipe themselves.
pub type Secret = Zeroizing<[u8; HASH_LEN]>;

/// `Hash`: BLAKE2s-256 over the concatenation of `parts`.
#[must_use]
pub fn hash(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut state = Blake2s256::new();
    for part in parts {
        state.update(part);
    }
    state.finalize().into()
}

/// SHA-256 (FIPS 180-4): not of WireGuard, but of the addresses of a KubeSpan cluster.
#[must_use]
pub fn sha256(message: &[u8]) -> [u8; HASH_LEN] {
    let mut out = [0; HASH_LEN];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message);
    for (byte, digest) in out.iter_mut().zip(digest.as_ref()) {
        *byte = *digest;
    }
    out
}

/// A key for [`mac`]: 16 bytes (a cookie) or 32 (everything else).
#[derive(Clone, Copy, Debug)]
pub enum MacKey<'a> {
    /// A cookie.
    Short(&'a [u8; MAC_LEN]),
    /// A hash.
    Long(&'a [u8; HASH_LEN]),
}

/// `Mac`: keyed BLAKE2s with 16 bytes of output over the concatenation of `parts`.
#[must_use]
pub fn mac(key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let key: &[u8] = match key {
        MacKey::Short(key) => key,
        MacKey::Long(key) => key,
    };
    let mut out = [0; MAC_LEN];
    // Fails for keys beyond 32 bytes alone, which `MacKey` cannot hold.
    if let Ok(mut state) = Blake2sMac::<U16>::new_from_slice(key) {
        for part in parts {
            state.update(part);
        }
        state.finalize_into((&mut out).into());
    }
    out
}

/// `Hmac` over the concatenation of `parts`.
fn hmac(key: &[u8; HASH_LEN], parts: &[&[u8]]) -> Secret {
    let mut out = Secret::default();
    // HMAC takes keys of any length.
    if let Ok(mut state) = <SimpleHmac<Blake2s256> as hmac::Mac>::new_from_slice(key) {
        for part in parts {
            hmac::Mac::update(&mut state, part);
        }
        out.copy_from_slice(&hmac::Mac::finalize(state).into_bytes());
    }
    out
}

/// `Kdf1`: the next chaining key from `key` and `input`.
#[must_use]
pub fn kdf1(key: &[u8; HASH_LEN], input: &[u8]) -> Secret {
    hmac(&hmac(key, &[input]), &[&[1]])
}

/// `Kdf2`: two keys from `key` and `input`.
#[must_use]
pub fn kdf2(key: &[u8; HASH_LEN], input: &[u8]) -> (Secret, Secret) {
    let extracted = hmac(key, &[input]);
    let first = hmac(&extracted, &[&[1]]);
    let second = hmac(&extracted, &[&*first, &[2]]);
    (first, second)
}

/// `Kdf3`: three keys from `key` and `input`.
#[must_use]
pub fn kdf3(key: &[u8; HASH_LEN], input: &[u8]) -> (Secret, Secret, Secret) {
    let extracted = hmac(key, &[input]);
    let first = hmac(&extracted, &[&[1]]);
    let second = hmac(&extracted, &[&*first, &[2]]);
    let third = hmac(&extracted, &[&*second, &[3]]);
    (first, second, third)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let bytes: Vec<u8> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn hash_matches_rfc_7693() {
        // RFC 7693, appendix B.
        let expected = hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"abc"]), expected);
        assert_eq!(hash(&[b"a", b"", b"bc"]), expected);
    }

    #[test]
    fn protocol_constants_match_the_known_ones() {
        // The initial chaining key and hash: every WireGuard implementation starts from these.
        let chaining = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        assert_eq!(
            chaining,
            hex("60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36")
        );
        let hash = hash(&[&chaining, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        assert_eq!(
            hash,
            hex("2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3")
        );
    }

    /// RFC 2104 from its definition, over the plain hash: an independent second opinion.
    fn hmac_by_definition(key: &[u8; 32], input: &[u8]) -> [u8; 32] {
        let (mut inner, mut outer) = ([0x36; 64], [0x5c; 64]);
        for (at, byte) in key.iter().enumerate() {
            inner[at] ^= byte;
            outer[at] ^= byte;
        }
        hash(&[&outer, &hash(&[&inner, input])])
    }

    #[test]
    fn kdf_is_hkdf_over_hmac() {
        let (key, input) = ([7; 32], [9_u8; 45]);
        let extracted = hmac_by_definition(&key, &input);
        let first = hmac_by_definition(&extracted, &[1]);
        let second = hmac_by_definition(&extracted, &[&first[..], &[2]].concat());
        let third = hmac_by_definition(&extracted, &[&second[..], &[3]].concat());
        assert_eq!(*kdf1(&key, &input), first);
        let (a, b) = kdf2(&key, &input);
        assert_eq!((*a, *b), (first, second));
        let (a, b, c) = kdf3(&key, &input);
        assert_eq!((*a, *b, *c), (first, second, third));
    }

    #[test]
    fn mac_depends_on_key_length_and_all_parts() {
        let short = mac(MacKey::Short(&[1; 16]), &[b"message"]);
        let long = mac(MacKey::Long(&[1; 32]), &[b"message"]);
        assert_ne!(short, [0; 16]);
        assert_ne!(short, long);
        assert_eq!(short, mac(MacKey::Short(&[1; 16]), &[b"mess", b"age"]));
        // BLAKE2's key block is the padded key: the parameter block alone tells them apart.
        let mut padded = [0; 32];
        padded[..16].copy_from_slice(&[1; 16]);
        assert_ne!(short, mac(MacKey::Long(&padded), &[b"message"]));
    }
}
