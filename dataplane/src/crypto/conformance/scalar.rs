//! A kernel in plain Rust. It is slow and only for tests: with it the glue between jobs and
//! kernels (packets, lanes, schedule, raw pointers and all) runs under Miri, and on CPUs
//! that have no other kernel.

use core::ptr;

use crate::crypto::batch::{Kernel, Lanes, Message, Packet, Rows, Tag, schedule, tag_one};
use crate::crypto::{BatchAead, OpenJob, SealJob};

#[derive(Debug)]
pub(super) struct Scalar;

impl BatchAead for Scalar {
    fn name(&self) -> &'static str {
        "scalar kernel"
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        // SAFETY: the kernel needs no feature.
        unsafe { schedule::seal::<Self>(jobs) }
    }

    fn open(&self, jobs: &mut [OpenJob<'_>]) {
        // SAFETY: the kernel needs no feature.
        unsafe { schedule::open::<Self>(jobs) }
    }
}

impl Kernel for Scalar {
    const STATE: usize = 4;
    const JUMBOS: usize = 2;

    unsafe fn run(lanes: &mut Lanes) {
        for lane in 0..lanes.len() {
            // SAFETY: the lane is in use, so that its key is readable for 32 bytes, its source
            // for `take` and its destination writable for `put`.
            unsafe {
                let key = lanes.key[lane].cast::<[u8; 32]>().read();
                let nonce = [lanes.prefix[lane], lanes.low[lane], lanes.high[lane]];
                let mut row = block(&key, lanes.block[lane], nonce);
                let (take, put) = (lanes.take[lane], lanes.put[lane]);
                Self::xor_row(&mut row, lanes.src[lane], take.into(), put.into());
                Self::store_row(&row, lanes.dst[lane], put.into());
            }
        }
    }

    unsafe fn tags(messages: &[Message], tags: &mut [Tag; 16]) {
        for (message, tag) in messages.iter().zip(tags) {
            // SAFETY: passed on.
            *tag = unsafe { tag_one(message) };
        }
    }

    unsafe fn keystream(packet: &Packet, count: usize, rows: &mut Rows) {
        // SAFETY: by the packet's invariant.
        let key = unsafe { packet.key.cast::<[u8; 32]>().read() };
        let nonce = [0, packet.counter as u32, (packet.counter >> 32) as u32];
        for (at, row) in rows.0.iter_mut().take(count).enumerate() {
            *row = block(&key, at as u32, nonce);
        }
    }

    unsafe fn xor_row(row: &mut [u8; 64], src: *const u8, take: usize, put: usize) {
        for (at, byte) in row.iter_mut().enumerate() {
            if at < take {
                // SAFETY: `src` is readable for `take` bytes.
                *byte ^= unsafe { src.wrapping_add(at).read() };
            } else if at >= put {
                *byte = 0;
            }
        }
    }

    unsafe fn store_row(row: &[u8; 64], dst: *mut u8, put: usize) {
        // SAFETY: passed on.
        unsafe { ptr::copy_nonoverlapping(row.as_ptr(), dst, put) };
    }
}

/// A block of ChaCha20 (RFC 8439 §2.3), as the paper writes it.
fn block(key: &[u8; 32], counter: u32, nonce: [u32; 3]) -> [u8; 64] {
    let mut start = [
        0x6170_7865,
        0x3320_646e,
        0x7962_2d32,
        0x6b20_6574,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        counter,
        nonce[0],
        nonce[1],
        nonce[2],
    ];
    for (word, bytes) in start[4..12].iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let mut v = start;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        for (to, from, by, left) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            v[to] = v[to].wrapping_add(v[from]);
            v[by] = (v[by] ^ v[to]).rotate_left(left);
        }
    };
    for _ in 0..10 {
        for at in 0..4 {
            quarter(at, 4 + at, 8 + at, 12 + at);
        }
        for at in 0..4 {
            quarter(at, 4 + (at + 1) % 4, 8 + (at + 2) % 4, 12 + (at + 3) % 4);
        }
    }
    let mut out = [0; 64];
    for ((place, word), start) in out.chunks_mut(4).zip(v).zip(start) {
        place.copy_from_slice(&word.wrapping_add(start).to_le_bytes());
    }
    out
}
