//! The single-packet library back end: aws-lc-rs, packet by packet.
//!
//! What a CPU without a batched back end gets, and what a batched one hands those packets to
//! that it cannot make faster. The library's key object is on the heap: keys keep it.

use aws_lc_rs::aead::{Aad, Nonce};

use super::aead::nonce;
use super::{BatchAead, OpenJob, SealJob, Verdict};

/// aws-lc-rs, one packet at a time.
#[derive(Clone, Copy, Debug)]
pub struct Library;

impl BatchAead for Library {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        for job in jobs {
            let tag = {
                let (key, counter, plaintext) = job.fill_plaintext();
                key.library().and_then(|cipher| {
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
        for job in jobs {
            let (key, counter, buffer) = job.parts();
            // The library wipes the buffer itself where the tag is wrong.
            let opened = key.library().is_some_and(|cipher| {
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

fn unique(counter: u64) -> Nonce {
    Nonce::assume_unique_for_key(nonce(counter))
}
