//! The AVX-512 back end (F, BW, VL and IFMA): sixteen ChaCha20 lanes a register set, Poly1305
//! on the 52-bit multipliers.

mod chacha;
mod field;
mod poly_lanes;
mod poly_long;
mod transpose;

use super::batch::{self, Kernel, Lanes, Message, Tag};
use super::{BatchAead, OpenJob, SealJob};

/// The AVX-512 back end. [`Avx512::find`] alone hands it out: having it proves that the CPU
/// can run it.
#[derive(Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    /// What the CPU must have.
    pub(super) const NEEDS: &str = "AVX-512 F, BW, VL and IFMA, and BMI2";

    /// The back end, where the CPU can run it.
    pub(super) fn find() -> Option<&'static dyn BatchAead> {
        static ONLY: Avx512 = Avx512(());
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("bmi2");
        found.then_some(&ONLY as &dyn BatchAead)
    }
}

impl BatchAead for Avx512 {
    fn name(&self) -> &'static str {
        "avx512"
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        // SAFETY: `find` found the features.
        unsafe { seal(jobs) }
    }

    fn open(&self, jobs: &mut [OpenJob<'_>]) {
        // SAFETY: `find` found the features.
        unsafe { open(jobs) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn seal(jobs: &mut [SealJob<'_>]) {
    // SAFETY: the features are this function's own.
    unsafe { batch::schedule::seal::<Vectors>(jobs) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn open(jobs: &mut [OpenJob<'_>]) {
    // SAFETY: the features are this function's own.
    unsafe { batch::schedule::open::<Vectors>(jobs) }
}

pub(super) struct Vectors;

impl Kernel for Vectors {
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
}

/// # Safety
/// The messages' invariants hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
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
            3..=8 => poly_lanes::tags::<1>(messages, tags),
            _ => poly_lanes::tags::<2>(messages, tags),
        }
    }
}
