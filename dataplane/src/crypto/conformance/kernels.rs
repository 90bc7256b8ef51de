//! The SIMD back ends' kernels, taken apart: ChaCha20 and Poly1305 alone, with any nonce
//! and any last block.

use super::scalar::Scalar;
use crate::crypto::batch::{Kernel, Lanes, Message, OneTimeKey, Packet, Tag, tag_one};
#[cfg(target_arch = "x86_64")]
use crate::crypto::{avx2, avx512};

/// One back end's kernel.
pub(super) struct UnderTest {
    pub(super) name: &'static str,
    run: unsafe fn(&mut Lanes),
    tags: unsafe fn(&[Message], &mut [Tag; 16]),
}

/// The kernels that this CPU can run.
pub(super) fn all() -> Vec<UnderTest> {
    let mut all = vec![UnderTest {
        name: "scalar",
        run: Scalar::run,
        tags: Scalar::tags,
    }];
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::Avx512::find().is_some() {
            all.push(UnderTest {
                name: "avx512",
                run: avx512::Vectors::run,
                tags: avx512::Vectors::tags,
            });
        }
        if avx2::Avx2::find().is_some() {
            all.push(UnderTest {
                name: "avx2",
                run: avx2::Vectors::run,
                tags: avx2::Vectors::tags,
            });
        }
    }
    all
}

impl UnderTest {
    /// ChaCha20 (RFC 8439 §2.4), the first block being number `block`.
    pub(super) fn chacha20(
        &self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        block: u32,
        text: &[u8],
    ) -> Vec<u8> {
        let mut out = vec![0; text.len()];
        let packet = packet(key, nonce, text, &mut out);
        let mut lanes = Lanes::new();
        for from in 0..text.len().div_ceil(64) {
            // SAFETY: the packet is `text` and `out`; lanes are run one by one.
            unsafe { lanes.push_text(&packet, from, from + 1) };
            lanes.block[0] = block + from as u32;
            lanes.prefix[0] = word(nonce, 0);
            // SAFETY: the CPU was found to have the features.
            unsafe { (self.run)(&mut lanes) };
            lanes.clear();
        }
        out
    }

    /// The same with lanes as full as they get.
    pub(super) fn chacha20_in_full_passes(
        &self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        text: &[u8],
    ) -> Vec<u8> {
        let mut out = vec![0; text.len()];
        let packet = packet(key, nonce, text, &mut out);
        let mut lanes = Lanes::new();
        let (mut from, to) = (0, text.len().div_ceil(64));
        while from < to {
            let step = (to - from).min(lanes.room());
            lanes.prefix.fill(word(nonce, 0));
            // SAFETY: as in `chacha20`.
            unsafe {
                lanes.push_text(&packet, from, from + step);
                (self.run)(&mut lanes);
            }
            lanes.clear();
            from += step;
        }
        out
    }

    /// Poly1305 of texts, each padded to blocks and followed by its last block.
    pub(super) fn poly1305(&self, messages: &[([u8; 32], &[u8], [u64; 2])]) -> Vec<Tag> {
        let messages: Vec<Message> = messages
            .iter()
            .map(|(key, text, last)| Message {
                text: text.as_ptr(),
                len: text.len(),
                last: *last,
                key: OneTimeKey(*key),
            })
            .collect();
        let mut tags = [[0; 16]; 16];
        // SAFETY: the CPU was found to have the features; the messages are borrowed.
        unsafe { (self.tags)(&messages, &mut tags) };
        tags[..messages.len()].to_vec()
    }
}

/// The integer unit's Poly1305, which kernels use for lone short messages.
pub(super) fn poly1305_alone(key: &[u8; 32], text: &[u8], last: [u64; 2]) -> Tag {
    // SAFETY: the text is borrowed.
    unsafe {
        tag_one(&Message {
            text: text.as_ptr(),
            len: text.len(),
            last,
            key: OneTimeKey(*key),
        })
    }
}

fn packet(key: &[u8; 32], nonce: &[u8; 12], text: &[u8], out: &mut [u8]) -> Packet {
    Packet {
        key: key.as_ptr(),
        counter: u64::from(word(nonce, 1)) | u64::from(word(nonce, 2)) << 32,
        src: text.as_ptr(),
        dst: out.as_mut_ptr(),
        src_len: text.len(),
        len: text.len(),
    }
}

fn word(nonce: &[u8; 12], at: usize) -> u32 {
    u32::from_le_bytes(nonce[at * 4..at * 4 + 4].try_into().unwrap())
}
