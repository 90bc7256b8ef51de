//! ChaCha20 over lanes.
//!
//! Full states are *vertical*: a register holds one word of eight states, sixteen registers
//! hold all; two states take turns. Four lanes or fewer are *rows*: a register holds one row (four words) of two
//! states, which needs no transposition and leaves pairs without lanes out.

use core::arch::x86_64::*;
use core::hint::black_box;
use core::ptr;

use super::transpose::{high_halves, low_halves, transpose_8x8};
use crate::crypto::batch::{BLOCKS, Lanes, Packet, Rows};

/// "expand 32-byte k", the constant row (RFC 8439 §2.3).
const SIGMA: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

const DOUBLE_ROUNDS: usize = 10;

/// Lanes of a vertical state.
const WIDTH: usize = 8;

/// One state of eight lanes: a register a word.
type State = [__m256i; 16];

/// Runs all lanes.
///
/// # Safety
/// The lanes' invariants hold.
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn run(lanes: &mut Lanes) {
    let len = lanes.len();
    // Idle lanes run under the first one's key.
    let first = lanes.key[0];
    for key in lanes.key.iter_mut().skip(len) {
        *key = first;
    }
    let mut from = 0;
    while from < len {
        // SAFETY: passed on; every lane now has a key, and `from` is a multiple of the width.
        unsafe {
            match len - from {
                1 | 2 => rows::<1>(lanes, from),
                3 | 4 => rows::<2>(lanes, from),
                5..=WIDTH => one_state(lanes, from),
                _ => {
                    two_states(lanes, from);
                    from += WIDTH;
                }
            }
        }
        from += WIDTH;
    }
}

macro_rules! quarter_rounds {
    ($by_16:ident, $v:ident, $([$a:literal, $b:literal, $c:literal, $d:literal]),+) => {
        $(
            $v[$a] = _mm256_add_epi32($v[$a], $v[$b]);
            $v[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($v[$d], $v[$a]), $by_16);
        )+
        $(
            $v[$c] = _mm256_add_epi32($v[$c], $v[$d]);
            $v[$b] = rotate::<12, 20>(_mm256_xor_si256($v[$b], $v[$c]));
        )+
        $(
            $v[$a] = _mm256_add_epi32($v[$a], $v[$b]);
            $v[$d] = rotate_8(_mm256_xor_si256($v[$d], $v[$a]));
        )+
        $(
            $v[$c] = _mm256_add_epi32($v[$c], $v[$d]);
            $v[$b] = rotate::<7, 25>(_mm256_xor_si256($v[$b], $v[$c]));
        )+
    };
}

/// A column round and a diagonal round, two quarter-rounds at a time: four want more
/// registers than there are.
macro_rules! double_round {
    ($by_16:ident, $($v:ident),+) => {
        $(
            quarter_rounds!($by_16, $v, [0, 4, 8, 12], [1, 5, 9, 13]);
            quarter_rounds!($by_16, $v, [2, 6, 10, 14], [3, 7, 11, 15]);
        )+
        $(
            quarter_rounds!($by_16, $v, [0, 5, 10, 15], [1, 6, 11, 12]);
            quarter_rounds!($by_16, $v, [2, 7, 8, 13], [3, 4, 9, 14]);
        )+
    };
}

/// Runs lanes `first..first + 8`.
///
/// # Safety
/// The lanes' invariants hold, every key, used or not, is readable, and `first` is a
/// multiple of 8 below the number of lanes.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn one_state(lanes: &Lanes, first: usize) {
    // SAFETY: passed on.
    unsafe {
        let start = start(lanes, first);
        let mut v = start;
        let by_16 = rotation_by_16();
        for _ in 0..DOUBLE_ROUNDS {
            double_round!(by_16, v);
        }
        finish(lanes, first, v, &start);
    }
}

/// Runs lanes `first..first + 16`. Half of the words wait in memory at any time, which costs
/// less than waiting for the results of one state alone.
///
/// # Safety
/// As for [`one_state`]; `first + 8` is below the number of lanes, too.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn two_states(lanes: &Lanes, first: usize) {
    // SAFETY: passed on.
    unsafe {
        let (start0, start1) = (start(lanes, first), start(lanes, first + WIDTH));
        let (mut v, mut w) = (start0, start1);
        let by_16 = rotation_by_16();
        for _ in 0..DOUBLE_ROUNDS {
            double_round!(by_16, v, w);
        }
        finish(lanes, first, v, &start0);
        finish(lanes, first + WIDTH, w, &start1);
    }
}

/// Adds the starting state, transposes to one block a pair of registers, and emits lanes
/// `first..first + 8`.
///
/// # Safety
/// As for [`one_state`].
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn finish(lanes: &Lanes, first: usize, mut v: State, start: &State) {
    for (word, start) in v.iter_mut().zip(start) {
        *word = _mm256_add_epi32(*word, *start);
    }
    let [
        v0,
        v1,
        v2,
        v3,
        v4,
        v5,
        v6,
        v7,
        v8,
        v9,
        v10,
        v11,
        v12,
        v13,
        v14,
        v15,
    ] = v;
    let low = transpose_8x8([v0, v1, v2, v3, v4, v5, v6, v7]);
    let high = transpose_8x8([v8, v9, v10, v11, v12, v13, v14, v15]);
    let full = lanes.is_whole() && lanes.len() >= first + WIDTH;
    for (at, (low, high)) in low.into_iter().zip(high).enumerate() {
        let lane = first + at;
        // SAFETY: passed on; where `full`, the lane is in use and takes and puts 64 bytes.
        unsafe {
            if full {
                let (src, dst) = (
                    *lanes.src.get_unchecked(lane),
                    *lanes.dst.get_unchecked(lane),
                );
                xor(src, dst, low, high);
            } else {
                emit(lanes, lane, (low, high));
            }
        }
    }
}

/// # Safety
/// As for [`one_state`].
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn start(lanes: &Lanes, first: usize) -> State {
    // SAFETY: `first..first + 8` lies within the arrays.
    let word =
        |words: &[u32]| unsafe { _mm256_loadu_si256(words.as_ptr().wrapping_add(first).cast()) };
    // SAFETY: every key is readable.
    let key = unsafe {
        if lanes.has_one_key() {
            let words: *const i32 = lanes.key[0].cast();
            core::array::from_fn(|at| _mm256_set1_epi32(words.wrapping_add(at).read_unaligned()))
        } else {
            transpose_8x8(core::array::from_fn(|lane| {
                _mm256_loadu_si256((*lanes.key.get_unchecked(first + lane)).cast())
            }))
        }
    };
    let [k0, k1, k2, k3, k4, k5, k6, k7]: [__m256i; 8] = key;
    let [s0, s1, s2, s3] = SIGMA;
    [
        _mm256_set1_epi32(s0),
        _mm256_set1_epi32(s1),
        _mm256_set1_epi32(s2),
        _mm256_set1_epi32(s3),
        k0,
        k1,
        k2,
        k3,
        k4,
        k5,
        k6,
        k7,
        word(&lanes.block),
        word(&lanes.prefix),
        word(&lanes.low),
        word(&lanes.high),
    ]
}

/// XORs a lane's keystream (in two halves) onto its source, into its destination. Does
/// nothing for an idle lane.
///
/// # Safety
/// The lanes' invariants hold.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn emit(lanes: &Lanes, lane: usize, (low, high): (__m256i, __m256i)) {
    if lane >= lanes.len() {
        return;
    }
    // SAFETY: the lane is in use; its source and destination are readable and writable for
    // `take` and `put` bytes, 64 at most.
    unsafe {
        let dst = *lanes.dst.get_unchecked(lane);
        let src = *lanes.src.get_unchecked(lane);
        let (take, put) = (
            usize::from(*lanes.take.get_unchecked(lane)),
            usize::from(*lanes.put.get_unchecked(lane)),
        );
        if take == 64 {
            xor(src, dst, low, high);
        } else if take == 0 && put == 32 {
            _mm256_storeu_si256(dst.cast(), low);
        } else {
            let mut block = Block([0; 64]);
            ptr::copy_nonoverlapping(src, block.0.as_mut_ptr(), take);
            let place: *mut u8 = block.0.as_mut_ptr();
            xor(place, place, low, high);
            ptr::copy_nonoverlapping(block.0.as_ptr(), dst, put);
        }
    }
}

#[repr(align(32))]
struct Block([u8; 64]);

/// # Safety
/// 64 bytes are readable at `src` and writable at `dst`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn xor(src: *const u8, dst: *mut u8, low: __m256i, high: __m256i) {
    // SAFETY: passed on.
    unsafe {
        let a = _mm256_loadu_si256(src.cast());
        let b = _mm256_loadu_si256(src.wrapping_add(32).cast());
        _mm256_storeu_si256(dst.cast(), _mm256_xor_si256(a, low));
        _mm256_storeu_si256(dst.wrapping_add(32).cast(), _mm256_xor_si256(b, high));
    }
}

/// Runs lanes `first..first + SETS * 2`, two states a set, a register a row.
///
/// # Safety
/// As for [`one_state`].
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn rows<const SETS: usize>(lanes: &Lanes, first: usize) {
    let [s0, s1, s2, s3] = SIGMA;
    // SAFETY: the lanes lie within the arrays, and every key is readable.
    let starts: [[__m256i; 4]; SETS] = core::array::from_fn(|set| unsafe {
        let lane = first + set * 2;
        let key = |at: usize| _mm256_loadu_si256((*lanes.key.get_unchecked(lane + at)).cast());
        let row = |lane: usize| {
            _mm_setr_epi32(
                *lanes.block.get_unchecked(lane) as i32,
                *lanes.prefix.get_unchecked(lane) as i32,
                *lanes.low.get_unchecked(lane) as i32,
                *lanes.high.get_unchecked(lane) as i32,
            )
        };
        [
            _mm256_broadcastsi128_si256(_mm_setr_epi32(s0, s1, s2, s3)),
            low_halves(key(0), key(1)),
            high_halves(key(0), key(1)),
            _mm256_set_m128i(row(lane + 1), row(lane)),
        ]
    });
    for (set, [[a, b], [c, d]]) in run_rows(starts).into_iter().enumerate() {
        let lane = first + set * 2;
        // SAFETY: passed on.
        unsafe {
            emit(lanes, lane, (a, b));
            emit(lanes, lane + 1, (c, d));
        }
    }
}

/// The first `count` blocks of a packet's keystream, [`BLOCKS`] at most.
///
/// # Safety
/// The packet's invariant holds.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub(super) unsafe fn keystream(packet: &Packet, count: usize, rows: &mut Rows) {
    const { assert!(BLOCKS == 8, "four sets of rows") };
    let [s0, s1, s2, s3] = SIGMA;
    // SAFETY: the key is readable for 32 bytes.
    let (low, high) = unsafe {
        (
            _mm_loadu_si128(packet.key.cast()),
            _mm_loadu_si128(packet.key.wrapping_add(16).cast()),
        )
    };
    let nonce = _mm_set_epi64x(packet.counter as i64, 0);
    let start = |block: i32| {
        [
            _mm256_broadcastsi128_si256(_mm_setr_epi32(s0, s1, s2, s3)),
            _mm256_broadcastsi128_si256(low),
            _mm256_broadcastsi128_si256(high),
            _mm256_add_epi32(
                _mm256_broadcastsi128_si256(nonce),
                _mm256_setr_epi32(block, 0, 0, 0, block + 1, 0, 0, 0),
            ),
        ]
    };
    let store = |rows: &mut [[u8; 64]], sets: &[[[__m256i; 2]; 2]]| {
        for (row, [low, high]) in rows.iter_mut().zip(sets.as_flattened()) {
            let row: *mut [u8; 64] = row;
            // SAFETY: a row is 64 bytes.
            unsafe {
                _mm256_storeu_si256(row.cast(), *low);
                _mm256_storeu_si256(row.cast::<u8>().wrapping_add(32).cast(), *high);
            }
        }
    };
    match count {
        0..=2 => store(&mut rows.0, &run_rows([start(0)])),
        3..=4 => store(&mut rows.0, &run_rows([start(0), start(2)])),
        5..=6 => store(&mut rows.0, &run_rows([start(0), start(2), start(4)])),
        _ => store(
            &mut rows.0,
            &run_rows([start(0), start(2), start(4), start(6)]),
        ),
    }
}

/// XORs `take` bytes of `src` onto a row, and zeroes what stands behind its first `put`.
///
/// # Safety
/// `src` is readable for `take` bytes; `take` and `put` are 64 at most.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub(super) unsafe fn xor_row(row: &mut [u8; 64], src: *const u8, take: usize, put: usize) {
    let mut text = Block([0; 64]);
    let text: *const u8 = if take == 64 {
        src
    } else {
        // SAFETY: passed on.
        unsafe { ptr::copy_nonoverlapping(src, text.0.as_mut_ptr(), take) };
        text.0.as_ptr()
    };
    let place: *mut u8 = row.as_mut_ptr();
    // SAFETY: both are 64 bytes, and so is the row.
    unsafe {
        let low = _mm256_loadu_si256(place.cast());
        let high = _mm256_loadu_si256(place.wrapping_add(32).cast());
        xor(text, place, low, high);
        if put < 64 {
            ptr::write_bytes(place.wrapping_add(put), 0, 64 - put);
        }
    }
}

/// Writes the first `put` bytes of a row.
///
/// # Safety
/// `dst` is writable for `put` bytes, 64 at most.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub(super) unsafe fn store_row(row: &[u8; 64], dst: *mut u8, put: usize) {
    // SAFETY: passed on.
    unsafe {
        if put == 64 {
            ptr::copy_nonoverlapping(row.as_ptr(), dst, 64);
        } else {
            ptr::copy_nonoverlapping(row.as_ptr(), dst, put);
        }
    }
}

/// Runs sets of two states, a register a row, to two blocks a set, two registers a block.
#[target_feature(enable = "avx2")]
#[inline]
fn run_rows<const SETS: usize>(starts: [[__m256i; 4]; SETS]) -> [[[__m256i; 2]; 2]; SETS] {
    let by_16 = rotation_by_16();
    let mut states = starts;
    for _ in 0..DOUBLE_ROUNDS {
        for [a, b, c, d] in &mut states {
            round_of_rows(by_16, a, b, c, d);
        }
        for [_, b, c, d] in &mut states {
            *b = _mm256_shuffle_epi32::<0b00_11_10_01>(*b);
            *c = _mm256_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm256_shuffle_epi32::<0b10_01_00_11>(*d);
        }
        for [a, b, c, d] in &mut states {
            round_of_rows(by_16, a, b, c, d);
        }
        for [_, b, c, d] in &mut states {
            *b = _mm256_shuffle_epi32::<0b10_01_00_11>(*b);
            *c = _mm256_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm256_shuffle_epi32::<0b00_11_10_01>(*d);
        }
    }
    for ([a, b, c, d], [a0, b0, c0, d0]) in states.iter_mut().zip(starts) {
        let (low, high) = (_mm256_add_epi32(*a, a0), _mm256_add_epi32(*b, b0));
        let (more, most) = (_mm256_add_epi32(*c, c0), _mm256_add_epi32(*d, d0));
        (*a, *b) = (low_halves(low, high), low_halves(more, most));
        (*c, *d) = (high_halves(low, high), high_halves(more, most));
    }
    states.map(|[a, b, c, d]| [[a, b], [c, d]])
}

/// Four quarter-rounds of each of two states.
#[target_feature(enable = "avx2")]
#[inline]
fn round_of_rows(
    by_16: __m256i,
    a: &mut __m256i,
    b: &mut __m256i,
    c: &mut __m256i,
    d: &mut __m256i,
) {
    *a = _mm256_add_epi32(*a, *b);
    *d = _mm256_shuffle_epi8(_mm256_xor_si256(*d, *a), by_16);
    *c = _mm256_add_epi32(*c, *d);
    *b = rotate::<12, 20>(_mm256_xor_si256(*b, *c));
    *a = _mm256_add_epi32(*a, *b);
    *d = rotate_8(_mm256_xor_si256(*d, *a));
    *c = _mm256_add_epi32(*c, *d);
    *b = rotate::<7, 25>(_mm256_xor_si256(*b, *c));
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate<const LEFT: i32, const RIGHT: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
}

/// What [`_mm256_shuffle_epi8`] rotates words by 16 bits with. The compiler must not know it:
/// it would make two shuffles of one.
#[target_feature(enable = "avx2")]
#[inline]
fn rotation_by_16() -> __m256i {
    let order = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    black_box(_mm256_broadcastsi128_si256(order))
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate_8(x: __m256i) -> __m256i {
    let order = _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14);
    _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order))
}
