//! The AVX-512 back end (F, BW, VL and IFMA): sixteen ChaCha20 lanes a register set, Poly1305
//! on the 52-bit multipliers.

mod chacha;
mod field;
mod poly_lanes;
mod poly_long;
mod transpose;

use super::batch::{self, Kernel, Lanes, Message, Packet, Rows, Tag};
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
        let found = !cfg!(miri)
            && is_x86_feature_detected!("avx512f")
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
    const STATE: usize = 16;
    const JUMBOS: usize = 1;

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
        // SAFETY: bytes outside of the mask are not touched.
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
unsafe fn tags_of(messages: &[Message], tags: &mut [Tag; 16]) {
    // SAFETY: passed on.
    unsafe {
        let longest = messages.iter().map(Message::blocks).max().unwrap_or(0);
        let count = messages.len();
        if count <= 3 && longest >= poly_long::LONG {
            for (message, tag) in messages.iter().zip(tags) {
                *tag = poly_long::tag(message);
            }
        } else if count <= 2 {
            for (message, tag) in messages.iter().zip(tags) {
                *tag = batch::tag_one(message);
            }
        } else if count <= 8 {
            poly_lanes::tags::<1>(messages, tags);
        } else {
            poly_lanes::tags::<2>(messages, tags);
        }
    }
}
