//! One message at a time, with associated data: what handshakes and cookies are sealed with.
//! Bulk data goes through the batched AEAD.

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};

/// Bytes of a tag.
const TAG_LEN: usize = 16;

/// A message whose tag is wrong, or too short to have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the message is not authentic")]
pub struct Forged;

/// Seals `plaintext` into `out`, which must be exactly 16 bytes longer; false, with `out`
/// untouched, where it is not.
///
/// `Aead` of the WireGuard paper (§5.4): ChaCha20-Poly1305 with a nonce of four zero bytes and the
/// little-endian `counter`.
#[must_use]
pub fn seal(key: &[u8; 32], counter: u64, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> bool {
    seal_with(
        &ChaCha20Poly1305::new(key.into()),
        &nonce(counter).into(),
        aad,
        plaintext,
        out,
    )
}

/// Opens `ciphertext` (with its tag) into `out`, which must be exactly 16 bytes shorter.
///
/// # Errors
/// [`Forged`] where the tag is wrong or the lengths do not fit; `out` then holds no plaintext.
pub fn open(
    key: &[u8; 32],
    counter: u64,
    aad: &[u8],
    ciphertext: &[u8],
    out: &mut [u8],
) -> Result<(), Forged> {
    open_with(
        &ChaCha20Poly1305::new(key.into()),
        &nonce(counter).into(),
        aad,
        ciphertext,
        out,
    )
}

/// [`seal`] with XChaCha20-Poly1305 (`Xaead`) and its 24-byte nonce.
#[must_use]
pub fn seal_x(
    key: &[u8; 32],
    nonce: &[u8; 24],
    aad: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> bool {
    seal_with(
        &XChaCha20Poly1305::new(key.into()),
        nonce.into(),
        aad,
        plaintext,
        out,
    )
}

/// [`open`] with XChaCha20-Poly1305 (`Xaead`) and its 24-byte nonce.
///
/// # Errors
/// As [`open`].
pub fn open_x(
    key: &[u8; 32],
    nonce: &[u8; 24],
    aad: &[u8],
    ciphertext: &[u8],
    out: &mut [u8],
) -> Result<(), Forged> {
    open_with(
        &XChaCha20Poly1305::new(key.into()),
        nonce.into(),
        aad,
        ciphertext,
        out,
    )
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some((_, low)) = nonce.split_first_chunk_mut::<4>() {
        low.copy_from_slice(&counter.to_le_bytes());
    }
    nonce
}

fn seal_with<A: AeadInPlace>(
    cipher: &A,
    nonce: &chacha20poly1305::aead::Nonce<A>,
    aad: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> bool {
    if out.len() != plaintext.len() + TAG_LEN {
        return false;
    }
    let (text, room) = out.split_at_mut(plaintext.len());
    text.copy_from_slice(plaintext);
    match cipher.encrypt_in_place_detached(nonce, aad, text) {
        Ok(tag) => {
            room.copy_from_slice(&tag);
            true
        }
        // Lengths beyond 256 GiB alone.
        Err(_) => false,
    }
}

fn open_with<A: AeadInPlace>(
    cipher: &A,
    nonce: &chacha20poly1305::aead::Nonce<A>,
    aad: &[u8],
    ciphertext: &[u8],
    out: &mut [u8],
) -> Result<(), Forged> {
    let Some(len) = ciphertext
        .len()
        .checked_sub(TAG_LEN)
        .filter(|&len| len == out.len())
    else {
        return Err(Forged);
    };
    let (text, tag) = ciphertext.split_at(len);
    out.copy_from_slice(text);
    let opened = cipher.decrypt_in_place_detached(nonce, aad, out, tag.into());
    opened.map_err(|_| {
        // RustCrypto checks before it decrypts; this does not depend on it.
        out.fill(0);
        Forged
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nonce_is_zeros_then_the_counter() {
        assert_eq!(
            nonce(0x0102_0304_0506_0708),
            [0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]
        );
    }

    /// RFC 8439, appendix A.5: the one vector of the RFC whose nonce begins with four zeros.
    #[test]
    fn opens_the_vector_of_rfc_8439_a_5() {
        let key: [u8; 32] = [
            0x1c, 0x92, 0x40, 0xa5, 0xeb, 0x55, 0xd3, 0x8a, 0xf3, 0x33, 0x88, 0x86, 0x04, 0xf6,
            0xb5, 0xf0, 0x47, 0x39, 0x17, 0xc1, 0x40, 0x2b, 0x80, 0x09, 0x9d, 0xca, 0x5c, 0xbc,
            0x20, 0x70, 0x75, 0xc0,
        ];
        let aad = [0xf3, 0x33, 0x88, 0x86, 0, 0, 0, 0, 0, 0, 0x4e, 0x91];
        let counter = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let mut sealed = [0; 16 + 265];
        let text = "Internet-Drafts are draft documents valid for a maximum of six months and may \
                    be updated, replaced, or obsoleted by other documents at any time. It is \
                    inappropriate to use Internet-Drafts as reference material or to cite them \
                    other than as /\u{201c}work in progress./\u{201d}";
        assert_eq!(text.len(), 265);
        assert!(seal(&key, counter, &aad, text.as_bytes(), &mut sealed));
        assert_eq!(
            sealed[265..],
            [
                0xee, 0xad, 0x9d, 0x67, 0x89, 0x0c, 0xbb, 0x22, 0x39, 0x23, 0x36, 0xfe, 0xa1, 0x85,
                0x1f, 0x38
            ]
        );
        assert_eq!(
            sealed[..8],
            [0x64, 0xa0, 0x86, 0x15, 0x75, 0x86, 0x1a, 0xf4]
        );
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn seals_the_vector_of_the_xchacha_draft() {
        let key = core::array::from_fn(|at| 0x80 + at as u8);
        let nonce = core::array::from_fn(|at| 0x40 + at as u8);
        let aad = [
            0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7,
        ];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
                     for the future, sunscreen would be it.";
        let mut sealed = vec![0; text.len() + 16];
        assert!(seal_x(&key, &nonce, &aad, text, &mut sealed));
        assert_eq!(
            sealed[..8],
            [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]
        );
        assert_eq!(
            sealed[text.len()..],
            [
                0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a,
                0xcf, 0x49
            ]
        );
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_nothing_else(
            key: [u8; 32],
            nonce: [u8; 24],
            counter: u64,
            aad in proptest::collection::vec(any::<u8>(), 0..40),
            text in proptest::collection::vec(any::<u8>(), 0..200),
            flip: proptest::sample::Index,
            bit in 0_u32..8,
        ) {
            let mut sealed = vec![0; text.len() + 16];
            let mut opened = vec![0; text.len()];

            prop_assert!(seal(&key, counter, &aad, &text, &mut sealed));
            prop_assert_eq!(open(&key, counter, &aad, &sealed, &mut opened), Ok(()));
            prop_assert_eq!(&opened, &text);
            let other = counter.wrapping_add(1);
            prop_assert_eq!(open(&key, other, &aad, &sealed, &mut opened), Err(Forged));
            prop_assert!(opened.iter().all(|&byte| byte == 0));

            prop_assert!(seal_x(&key, &nonce, &aad, &text, &mut sealed));
            prop_assert_eq!(open_x(&key, &nonce, &aad, &sealed, &mut opened), Ok(()));
            prop_assert_eq!(&opened, &text);
            sealed[flip.index(text.len() + 16)] ^= 1 << bit;
            prop_assert_eq!(open_x(&key, &nonce, &aad, &sealed, &mut opened), Err(Forged));
        }

        #[test]
        fn lengths_that_do_not_fit_are_refused(text in 0_usize..64, out in 0_usize..96) {
            prop_assume!(out != text + 16);
            prop_assert!(!seal(&[1; 32], 0, &[], &vec![0; text], &mut vec![0; out]));
            prop_assume!(text != out + 16);
            prop_assert_eq!(
                open(&[1; 32], 0, &[], &vec![0; text], &mut vec![0; out]),
                Err(Forged)
            );
        }
    }
}
