//! Who takes part, each as fast as its interface allows: key objects are ready, libraries
//! that can only work in place find their plaintext in place, those that work on batches
//! get the batch as a whole.

use arrayvec::ArrayVec;
use chacha20poly1305::aead::AeadInPlace as _;
use ringspan::crypto::aead::TAG_LEN;
use ringspan::crypto::{BatchAead, OpenJob, SealJob, Verdict};

use crate::pool::Batch;

/// The longest batch.
const MOST: usize = 256;

pub(crate) enum Contender {
    Ring,
    AwsLc,
    RustCrypto,
    #[cfg(ipsec_mb)]
    IpsecMb(ringspan_bench::ipsec_mb::Manager),
    Ours(&'static dyn BatchAead, String),
}

/// Libraries first, then our back ends, fastest first. Ours that are one of the libraries
/// are left out.
pub(crate) fn all() -> Vec<Contender> {
    let mut all = vec![Contender::Ring, Contender::AwsLc, Contender::RustCrypto];
    #[cfg(ipsec_mb)]
    all.extend(ringspan_bench::ipsec_mb::Manager::new().map(Contender::IpsecMb));
    if !all.iter().any(|contender| contender.name() == "ipsec-mb") {
        println!("ipsec-mb takes no part: not found when the bench was built (libipsec-mb-dev)");
    }
    all.extend(
        ringspan::crypto::backend::supported()
            .filter(|back_end| back_end.name() != "portable")
            .map(|back_end| Contender::Ours(back_end, format!("ringspan {}", back_end.name()))),
    );
    all
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

impl Contender {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Ring => "ring",
            Self::AwsLc => "aws-lc-rs",
            Self::RustCrypto => "RustCrypto",
            #[cfg(ipsec_mb)]
            Self::IpsecMb(_) => "ipsec-mb",
            Self::Ours(_, name) => name,
        }
    }

    /// One of the two that the targets are set against.
    pub(crate) const fn is_yardstick(&self) -> bool {
        matches!(self, Self::Ring | Self::AwsLc)
    }

    pub(crate) fn seal(&mut self, batch: &mut Batch) {
        let Batch { packets, keys } = batch;
        match self {
            Self::Ring => {
                for packet in packets {
                    let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(packet.counter));
                    let key = &keys[packet.key].ring;
                    let (text, place) = split(packet.text());
                    let aad = ring::aead::Aad::empty();
                    let tag = key.seal_in_place_separate_tag(nonce, aad, text).unwrap();
                    place.copy_from_slice(tag.as_ref());
                }
            }
            Self::AwsLc => {
                for packet in packets {
                    let nonce =
                        aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce(packet.counter));
                    let key = &keys[packet.key].aws_lc;
                    let (text, place) = split(packet.text());
                    let aad = aws_lc_rs::aead::Aad::empty();
                    let tag = key.seal_in_place_separate_tag(nonce, aad, text).unwrap();
                    place.copy_from_slice(tag.as_ref());
                }
            }
            Self::RustCrypto => {
                for packet in packets {
                    let nonce = nonce(packet.counter).into();
                    let key = &keys[packet.key].rust_crypto;
                    let (text, place) = split(packet.text());
                    let tag = key.encrypt_in_place_detached(&nonce, &[], text).unwrap();
                    place.copy_from_slice(&tag);
                }
            }
            #[cfg(ipsec_mb)]
            Self::IpsecMb(manager) => {
                let tags = multi_buffer(manager, packets, keys, true);
                for (packet, tag) in packets.iter_mut().zip(tags) {
                    split(packet.text()).1.copy_from_slice(&tag);
                }
            }
            Self::Ours(back_end, _) => {
                let mut jobs: ArrayVec<SealJob<'_>, MOST> = ArrayVec::new();
                for packet in packets {
                    let (key, counter) = (&keys[packet.key].ours, packet.counter);
                    let (src, dst) = packet.split();
                    jobs.push(SealJob::new(key, counter, src, dst).unwrap());
                }
                back_end.seal(&mut jobs);
            }
        }
    }

    pub(crate) fn open(&mut self, batch: &mut Batch) {
        let Batch { packets, keys } = batch;
        match self {
            Self::Ring => {
                for packet in packets {
                    let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(packet.counter));
                    let key = &keys[packet.key].ring;
                    let aad = ring::aead::Aad::empty();
                    packet.opened = key.open_in_place(nonce, aad, packet.text()).is_ok();
                }
            }
            Self::AwsLc => {
                for packet in packets {
                    let nonce =
                        aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce(packet.counter));
                    let key = &keys[packet.key].aws_lc;
                    let aad = aws_lc_rs::aead::Aad::empty();
                    packet.opened = key.open_in_place(nonce, aad, packet.text()).is_ok();
                }
            }
            Self::RustCrypto => {
                for packet in packets {
                    let nonce = nonce(packet.counter).into();
                    let key = &keys[packet.key].rust_crypto;
                    let (text, tag) = split(packet.text());
                    let tag = chacha20poly1305::Tag::clone_from_slice(tag);
                    let opened = key.decrypt_in_place_detached(&nonce, &[], text, &tag);
                    packet.opened = opened.is_ok();
                }
            }
            #[cfg(ipsec_mb)]
            Self::IpsecMb(manager) => {
                let tags = multi_buffer(manager, packets, keys, false);
                for (packet, tag) in packets.iter_mut().zip(tags) {
                    packet.opened = split(packet.text()).1 == tag;
                }
            }
            Self::Ours(back_end, _) => {
                let mut jobs: ArrayVec<OpenJob<'_>, MOST> = ArrayVec::new();
                let mut verdicts: ArrayVec<Verdict, MOST> = ArrayVec::new();
                for packet in packets.iter_mut() {
                    let (key, counter) = (&keys[packet.key].ours, packet.counter);
                    jobs.push(OpenJob::new(key, counter, packet.text()).unwrap());
                }
                back_end.open(&mut jobs);
                verdicts.extend(jobs.iter().map(OpenJob::verdict));
                drop(jobs);
                for (packet, verdict) in packets.iter_mut().zip(verdicts) {
                    packet.opened = verdict == Verdict::Authentic;
                }
            }
        }
    }
}

/// Runs a batch in place; the tags of the ciphertexts.
#[cfg(ipsec_mb)]
fn multi_buffer(
    manager: &mut ringspan_bench::ipsec_mb::Manager,
    packets: &mut [crate::pool::Packet],
    keys: &[crate::pool::Keys],
    seal: bool,
) -> ArrayVec<[u8; TAG_LEN], MOST> {
    use ringspan_bench::ipsec_mb::Job;
    let mut nonces: ArrayVec<[u8; 12], MOST> = ArrayVec::new();
    nonces.extend(packets.iter().map(|packet| nonce(packet.counter)));
    let mut tags: ArrayVec<[u8; TAG_LEN], MOST> = ArrayVec::new();
    tags.extend(packets.iter().map(|_| [0; TAG_LEN]));
    let mut jobs: ArrayVec<Job, MOST> = ArrayVec::new();
    for ((packet, nonce), tag) in packets.iter_mut().zip(&nonces).zip(&mut tags) {
        let key = keys[packet.key].ours.as_bytes();
        jobs.push(Job::in_place(key, nonce, split(packet.text()).0, tag));
    }
    // SAFETY: packets, keys, nonces and tags live on, and are not touched meanwhile.
    let completed = unsafe { manager.run(&jobs, seal) };
    assert!(completed, "ipsec-mb left jobs undone");
    tags
}

fn split(buffer: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let len = buffer.len() - TAG_LEN;
    buffer.split_at_mut(len)
}
