//! The portable back end: RustCrypto's ChaCha20-Poly1305, packet by packet.
//!
//! It is the reference that every other back end is tested against, and slow in builds
//! without `target-cpu=native`; [`backend`](super::backend()) never chooses it unasked.

use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, Nonce, Tag};

use super::aead::{TAG_LEN, nonce};
use super::{AeadKey, BatchAead, OpenJob, SealJob, Verdict};

/// RustCrypto, one packet at a time.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl BatchAead for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        for job in jobs {
            let tag = {
                let (key, counter, plaintext) = job.fill_plaintext();
                cipher(key).encrypt_in_place_detached(&Nonce::from(nonce(counter)), &[], plaintext)
            };
            // Fails past 256 GiB alone; a job's longest is 64 KiB. The zero tag that the job
            // would then carry opens nowhere.
            job.set_tag(&tag.map_or([0; TAG_LEN], Into::into));
        }
    }

    fn open(&self, jobs: &mut [OpenJob<'_>]) {
        for job in jobs {
            let (key, counter, ciphertext, tag) = job.split();
            let opened = cipher(key).decrypt_in_place_detached(
                &Nonce::from(nonce(counter)),
                &[],
                ciphertext,
                &Tag::from(*tag),
            );
            job.decide(if opened.is_ok() {
                Verdict::Authentic
            } else {
                Verdict::Forged
            });
        }
    }
}

fn cipher(key: &AeadKey) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.as_bytes().into())
}
