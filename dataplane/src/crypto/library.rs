//! The single-packet library back end: aws-lc-rs, packet by packet.
//!
//! What a CPU without a batched back end gets. The library's key object is on the heap, so a
//! run of jobs under one key shares one object: an allocation a run, not a packet.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::aead::nonce;
use super::{AeadKey, BatchAead, OpenJob, SealJob, Verdict};

/// aws-lc-rs, one packet at a time.
#[derive(Clone, Copy, Debug)]
pub struct Library;

impl BatchAead for Library {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        let mut cipher = Cipher::default();
        for job in jobs {
            let tag = {
                let (key, counter, plaintext) = job.fill_plaintext();
                cipher.of(key).and_then(|cipher| {
                    cipher
                        .seal_in_place_separate_tag(unique(counter), Aad::empty(), plaintext)
                        .ok()
                })
            };
            match tag.as_ref().and_then(|tag| tag.as_ref().try_into().ok()) {
                Some(tag) => job.set_tag(tag),
                // Out of memory for the key object: nothing may leave in the clear.
                None => job.wipe(),
            }
        }
    }

    fn open(&self, jobs: &mut [OpenJob<'_>]) {
        let mut cipher = Cipher::default();
        for job in jobs {
            let (key, counter, buffer) = job.parts();
            // The library wipes the buffer itself where the tag is wrong.
            let opened = cipher.of(key).is_some_and(|cipher| {
                cipher
                    .open_in_place(unique(counter), Aad::empty(), buffer)
                    .is_ok()
            });
            job.decide(if opened {
                Verdict::Authentic
            } else {
                Verdict::Forged
            });
        }
    }
}

/// The key object of the current run of jobs.
#[derive(Default)]
struct Cipher(Option<(AeadKey, LessSafeKey)>);

impl Cipher {
    fn of(&mut self, key: &AeadKey) -> Option<&LessSafeKey> {
        if self.0.as_ref().is_none_or(|(last, _)| last != key) {
            let object = UnboundKey::new(&CHACHA20_POLY1305, key.as_bytes()).ok()?;
            self.0 = Some((key.clone(), LessSafeKey::new(object)));
        }
        self.0.as_ref().map(|(_, object)| object)
    }
}

fn unique(counter: u64) -> Nonce {
    Nonce::assume_unique_for_key(nonce(counter))
}
