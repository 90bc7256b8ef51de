//! The AVX2 back end: eight ChaCha20 lanes a register set, Poly1305 in 26-bit limbs on the
//! 32-bit multipliers.

mod chacha;
mod field;
mod poly_lanes;
mod poly_long;
mod transpose;

use super::aead::TAG_LEN;
use super::batch::{self, Kernel, Lanes, Message, Packet, Rows, Tag};
use super::library::Library;
use super::{BatchAead, OpenJob, SealJob};

/// The AVX2 back end. [`Avx2::find`] alone hands it out: having it proves that the CPU can
/// run it.
#[derive(Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    /// What the CPU must have.
    pub(super) const NEEDS: &str = "AVX2 and BMI2";

    /// The back end, where the CPU can run it.
    pub(super) fn find() -> Option<&'static dyn BatchAead> {
        static ONLY: Avx2 = Avx2(());
        let found =
            !cfg!(miri) && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
        found.then_some(&ONLY as &dyn BatchAead)
    }
}

impl BatchAead for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        if is_for_library(jobs.iter_mut().map(|job| job.parts().3.len())) {
            return Library.seal(jobs);
        }
        // SAFETY: `find` found the features.
        unsafe { seal(jobs) }
    }

    fn open(&self, jobs: &mut [OpenJob<'_>]) {
        if is_for_library(jobs.iter_mut().map(|job| job.parts().2.len())) {
            return Library.open(jobs);
        }
        // SAFETY: `find` found the features.
        unsafe { open(jobs) }
    }
}

/// Whether the single-packet library is faster than lanes: it computes the tag of a lone
/// packet beside the keystream, which pays where there is much text and nothing else to do.
/// `lens` are the buffers', tags included. The limits were found by the bench `aead`
/// (`docs/crypto.md`).
fn is_for_library(lens: impl ExactSizeIterator<Item = usize>) -> bool {
    let limit = match lens.len() {
        1 => 192 + TAG_LEN,
        2 | 3 => 448 + TAG_LEN,
        _ => return false,
    };
    lens.max().is_some_and(|longest| longest > limit)
}

#[target_feature(enable = "avx2,bmi2")]
fn seal(jobs: &mut [SealJob<'_>]) {
    // SAFETY: the features are this function's own.
    unsafe { batch::schedule::seal::<Vectors>(jobs) }
}

#[target_feature(enable = "avx2,bmi2")]
fn open(jobs: &mut [OpenJob<'_>]) {
    // SAFETY: the features are this function's own.
    unsafe { batch::schedule::open::<Vectors>(jobs) }
}

pub(super) struct Vectors;

impl Kernel for Vectors {
    const STATE: usize = 8;
    const JUMBOS: usize = 16;

    #[inline(always)]
    unsafe fn run(lanes: &mut Lanes) {
        // SAFETY: passed on.
        unsafe { chacha::run(lanes) }
    }

    #[inline(always)]
    unsafe fn tags(messages: &[Message], tags: &mut [Tag; 16]) {
        // SAFETY: passed on.
        unsafe { tags_of(messages, tags) }
    }

    #[inline(always)]
    unsafe fn keystream(packet: &Packet, count: usize, rows: &mut Rows) {
        // SAFETY: passed on.
        unsafe { chacha::keystream(packet, count, rows) }
    }

    #[inline(always)]
    unsafe fn xor_row(row: &mut [u8; 64], src: *const u8, take: usize, put: usize) {
        // SAFETY: passed on.
        unsafe { chacha::xor_row(row, src, take, put) }
    }

    #[inline(always)]
    unsafe fn store_row(row: &[u8; 64], dst: *mut u8, put: usize) {
        // SAFETY: passed on.
        unsafe { chacha::store_row(row, dst, put) }
    }
}

/// # Safety
/// The messages' invariants hold.
#[target_feature(enable = "avx2,bmi2")]
unsafe fn tags_of(messages: &[Message], tags: &mut [Tag; 16]) {
    // SAFETY: passed on.
    unsafe {
        match messages.len() {
            0 => {}
            1 | 2 => {
                for (message, tag) in messages.iter().zip(tags) {
                    *tag = if message.blocks() < poly_long::LONG {
                        batch::tag_one(message)
                    } else {
                        poly_long::tag(message)
                    };
                }
            }
            3..=4 => poly_lanes::tags::<1>(messages, tags),
            5..=8 => poly_lanes::tags::<2>(messages, tags),
            _ => poly_lanes::tags::<4>(messages, tags),
        }
    }
}
