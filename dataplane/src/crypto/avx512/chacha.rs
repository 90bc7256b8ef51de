//! ChaCha20 over lanes.
//!
//! Full passes are *vertical*: a register holds one word of sixteen states, and two such
//! sets of sixteen registers, all the machine has, run side by side. The rounds need no
//! other register: addition and XOR work in place, and AVX-512 rotates. Two sets matter
//! because one alone waits for its own results: a quarter-round is a chain of twelve
//! dependent instructions, four chains fill no more than half of the ports.
//!
//! Eight lanes or fewer are *rows*: a register holds one row (four words) of four states,
//! which needs no transposition and leaves sets without lanes out.

use core::arch::x86_64::*;

use super::transpose::{join, transpose_quads, transpose_quarters};
use crate::crypto::batch::{BLOCKS, LANES, Lanes, Packet, Rows};

/// "expand 32-byte k", the constant row (RFC 8439 §2.3).
const SIGMA: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

const DOUBLE_ROUNDS: usize = 10;

/// Lanes of one state.
const WIDTH: usize = LANES / 2;

/// One state of sixteen lanes: a register a word.
type State = [__m512i; 16];

/// Runs all lanes.
///
/// # Safety
/// The lanes' invariants hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
pub(super) unsafe fn run(lanes: &mut Lanes) {
    let len = lanes.len();
    // Idle lanes run under the first one's key.
    let first = lanes.key[0];
    for key in lanes.key.iter_mut().skip(len) {
        *key = first;
    }
    // SAFETY: passed on; every lane now has a key.
    unsafe {
        if len <= 4 {
            rows::<1>(lanes);
        } else if len <= 8 {
            rows::<2>(lanes);
        } else if len <= WIDTH {
            one_state(lanes);
        } else {
            two_states(lanes);
        }
    }
}

macro_rules! quarter_round {
    ($v:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $v[$a] = _mm512_add_epi32($v[$a], $v[$b]);
        $v[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($v[$d], $v[$a]));
        $v[$c] = _mm512_add_epi32($v[$c], $v[$d]);
        $v[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($v[$b], $v[$c]));
        $v[$a] = _mm512_add_epi32($v[$a], $v[$b]);
        $v[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($v[$d], $v[$a]));
        $v[$c] = _mm512_add_epi32($v[$c], $v[$d]);
        $v[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($v[$b], $v[$c]));
    };
}

/// A column round and a diagonal round of each of the given states, interleaved.
macro_rules! double_round {
    ($($v:ident),+) => {
        $(quarter_round!($v, 0, 4, 8, 12);)+
        $(quarter_round!($v, 1, 5, 9, 13);)+
        $(quarter_round!($v, 2, 6, 10, 14);)+
        $(quarter_round!($v, 3, 7, 11, 15);)+
        $(quarter_round!($v, 0, 5, 10, 15);)+
        $(quarter_round!($v, 1, 6, 11, 12);)+
        $(quarter_round!($v, 2, 7, 8, 13);)+
        $(quarter_round!($v, 3, 4, 9, 14);)+
    };
}

/// # Safety
/// The lanes' invariants hold, and every key, used or not, is readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn two_states(lanes: &Lanes) {
    // SAFETY: passed on.
    unsafe {
        let (start0, start1) = (start::<0>(lanes), start::<WIDTH>(lanes));
        let (mut v, mut w) = (start0, start1);
        for _ in 0..DOUBLE_ROUNDS {
            double_round!(v, w);
        }
        finish::<0>(lanes, v, &start0);
        finish::<WIDTH>(lanes, w, &start1);
    }
}

/// # Safety
/// As for [`two_states`]; there are at most [`WIDTH`] lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn one_state(lanes: &Lanes) {
    // SAFETY: passed on.
    unsafe {
        let start0 = start::<0>(lanes);
        let mut v = start0;
        for _ in 0..DOUBLE_ROUNDS {
            double_round!(v);
        }
        finish::<0>(lanes, v, &start0);
    }
}

/// The starting state of lanes `FIRST..FIRST + 16`.
///
/// # Safety
/// As for [`two_states`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn start<const FIRST: usize>(lanes: &Lanes) -> State {
    // SAFETY: the arrays have `LANES` words, and `FIRST` is 0 or half of that.
    let word = |words: &[u32; LANES]| unsafe {
        _mm512_load_si512(words.as_ptr().wrapping_add(FIRST).cast())
    };
    // SAFETY: passed on.
    let key = unsafe {
        if lanes.has_one_key() {
            let words: *const i32 = lanes.key[0].cast();
            core::array::from_fn(|at| _mm512_set1_epi32(words.wrapping_add(at).read_unaligned()))
        } else {
            gather_keys::<FIRST>(lanes)
        }
    };
    let [k0, k1, k2, k3, k4, k5, k6, k7]: [__m512i; 8] = key;
    let [s0, s1, s2, s3] = SIGMA;
    [
        _mm512_set1_epi32(s0),
        _mm512_set1_epi32(s1),
        _mm512_set1_epi32(s2),
        _mm512_set1_epi32(s3),
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

/// The sixteen lanes' keys, transposed: a register a word.
///
/// # Safety
/// As for [`two_states`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn gather_keys<const FIRST: usize>(lanes: &Lanes) -> [__m512i; 8] {
    let key = |lane: usize| lanes.key.as_ptr().wrapping_add(FIRST + lane);
    // Keys `lane` and `lane + 4` side by side, so that the words come out in lane order.
    // SAFETY: `FIRST + lane + 4` is below `LANES`; every key is readable.
    let pair = |lane: usize| unsafe {
        let low = _mm256_loadu_si256((*key(lane)).cast());
        let high = _mm256_loadu_si256((*key(lane + 4)).cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    };
    let lower = transpose_quads(pair(0), pair(1), pair(2), pair(3));
    let upper = transpose_quads(pair(8), pair(9), pair(10), pair(11));
    let [a0, a1, a2, a3] = lower;
    let [b0, b1, b2, b3] = upper;
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a0, b0),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a1, b1),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a2, b2),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a3, b3),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a0, b0),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a1, b1),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a2, b2),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a3, b3),
    ]
}

/// Adds the starting state, transposes to one block a register, and emits lanes
/// `FIRST..FIRST + 16`.
///
/// # Safety
/// As for [`two_states`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn finish<const FIRST: usize>(lanes: &Lanes, mut v: State, start: &State) {
    for (word, start) in v.iter_mut().zip(start) {
        *word = _mm512_add_epi32(*word, *start);
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
    let a = transpose_quads(v0, v1, v2, v3);
    let b = transpose_quads(v4, v5, v6, v7);
    let c = transpose_quads(v8, v9, v10, v11);
    let d = transpose_quads(v12, v13, v14, v15);
    for (at, (((a, b), c), d)) in a.into_iter().zip(b).zip(c).zip(d).enumerate() {
        let blocks = transpose_quarters(a, b, c, d);
        for (quarter, block) in blocks.into_iter().enumerate() {
            // SAFETY: passed on.
            unsafe { emit(lanes, FIRST + quarter * 4 + at, block) };
        }
    }
}

/// XORs a lane's keystream onto its source, into its destination. Does nothing for an idle
/// lane.
///
/// # Safety
/// The lanes' invariants hold, and `lane` is below [`LANES`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn emit(lanes: &Lanes, lane: usize, keystream: __m512i) {
    // SAFETY: `lane` is below `LANES`; source and destination are readable and writable for
    // `take` and `put` bytes, and bytes outside of a mask are not touched.
    unsafe {
        if lanes.is_whole() && lanes.len() == LANES {
            let text = _mm512_loadu_si512((*lanes.src.get_unchecked(lane)).cast());
            let dst = *lanes.dst.get_unchecked(lane);
            _mm512_storeu_si512(dst.cast(), _mm512_xor_si512(text, keystream));
            return;
        }
        if lane >= lanes.len() {
            return;
        }
        let dst = *lanes.dst.get_unchecked(lane);
        let (take, put) = (
            *lanes.take.get_unchecked(lane),
            *lanes.put.get_unchecked(lane),
        );
        let src = *lanes.src.get_unchecked(lane);
        if take == 64 {
            let text = _mm512_loadu_si512(src.cast());
            _mm512_storeu_si512(dst.cast(), _mm512_xor_si512(text, keystream));
        } else if take == 0 && put == 32 {
            _mm256_storeu_si256(dst.cast(), _mm512_castsi512_si256(keystream));
        } else {
            let text = _mm512_maskz_loadu_epi8(first_bytes(take), src.cast());
            let out = _mm512_xor_si512(text, keystream);
            _mm512_mask_storeu_epi8(dst.cast(), first_bytes(put), out);
        }
    }
}

/// The mask of the first `count` bytes, of 64 at most.
#[target_feature(enable = "bmi2")]
#[inline]
fn first_bytes(count: u8) -> u64 {
    _bzhi_u64(u64::MAX, u32::from(count))
}

/// Runs up to `SETS` × 4 lanes, four states a set, a register a row.
///
/// # Safety
/// As for [`two_states`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn rows<const SETS: usize>(lanes: &Lanes) {
    let [s0, s1, s2, s3] = SIGMA;
    let sigma = _mm512_broadcast_i32x4(_mm_setr_epi32(s0, s1, s2, s3));
    // SAFETY: `set * 4 + 3` is below `LANES`; every key is readable.
    let starts: [[__m512i; 4]; SETS] = core::array::from_fn(|set| unsafe {
        let key = |at: usize| *lanes.key.get_unchecked(set * 4 + at);
        let half = |at: usize, half: usize| _mm_loadu_si128(key(at).wrapping_add(half * 16).cast());
        let row = |at: usize| {
            let lane = set * 4 + at;
            _mm_setr_epi32(
                *lanes.block.get_unchecked(lane) as i32,
                *lanes.prefix.get_unchecked(lane) as i32,
                *lanes.low.get_unchecked(lane) as i32,
                *lanes.high.get_unchecked(lane) as i32,
            )
        };
        [
            sigma,
            join(half(0, 0), half(1, 0), half(2, 0), half(3, 0)),
            join(half(0, 1), half(1, 1), half(2, 1), half(3, 1)),
            join(row(0), row(1), row(2), row(3)),
        ]
    });
    for (set, blocks) in run_rows(starts).into_iter().enumerate() {
        for (at, block) in blocks.into_iter().enumerate() {
            // SAFETY: passed on.
            unsafe { emit(lanes, set * 4 + at, block) };
        }
    }
}

/// The first `count` blocks of a packet's keystream, [`BLOCKS`] at most.
///
/// # Safety
/// The packet's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
pub(super) unsafe fn keystream(packet: &Packet, count: usize, rows: &mut Rows) {
    const { assert!(BLOCKS == 8, "two sets of rows") };
    let [s0, s1, s2, s3] = SIGMA;
    // SAFETY: the key is readable for 32 bytes.
    let (low, high) = unsafe {
        (
            _mm_loadu_si128(packet.key.cast()),
            _mm_loadu_si128(packet.key.wrapping_add(16).cast()),
        )
    };
    let start = [
        _mm512_broadcast_i32x4(_mm_setr_epi32(s0, s1, s2, s3)),
        _mm512_broadcast_i32x4(low),
        _mm512_broadcast_i32x4(high),
        _mm512_add_epi32(
            _mm512_broadcast_i32x4(_mm_set_epi64x(packet.counter as i64, 0)),
            _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0),
        ),
    ];
    let [a, b, c, d] = start;
    let four = _mm512_maskz_set1_epi32(0x1111, 4);
    let (first, second) = rows.0.split_at_mut(4);
    let store = |rows: &mut [[u8; 64]], blocks: [__m512i; 4]| {
        for (row, block) in rows.iter_mut().zip(blocks) {
            let row: *mut [u8; 64] = row;
            // SAFETY: a row is 64 bytes, and aligned as the rows together are.
            unsafe { _mm512_store_si512(row.cast(), block) };
        }
    };
    if count <= 4 {
        let [blocks] = run_rows([start]);
        store(first, blocks);
    } else {
        let [blocks, more] = run_rows([start, [a, b, c, _mm512_add_epi32(d, four)]]);
        store(first, blocks);
        store(second, more);
    }
}

/// XORs `take` bytes of `src` onto a row, and zeroes what stands behind its first `put`.
///
/// # Safety
/// `src` is readable for `take` bytes; `take` and `put` are 64 at most.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
pub(super) unsafe fn xor_row(row: &mut [u8; 64], src: *const u8, take: usize, put: usize) {
    let place: *mut [u8; 64] = row;
    // SAFETY: bytes outside of the mask are not touched; a row is 64 bytes.
    unsafe {
        let keystream = _mm512_maskz_loadu_epi8(first_bytes(put as u8), place.cast());
        let text = _mm512_maskz_loadu_epi8(first_bytes(take as u8), src.cast());
        _mm512_storeu_si512(place.cast(), _mm512_xor_si512(keystream, text));
    }
}

/// Writes the first `put` bytes of a row.
///
/// # Safety
/// `dst` is writable for `put` bytes, 64 at most.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
pub(super) unsafe fn store_row(row: &[u8; 64], dst: *mut u8, put: usize) {
    // SAFETY: a row is 64 bytes; bytes outside of the mask are not touched.
    unsafe {
        let row = _mm512_loadu_si512(core::ptr::from_ref(row).cast());
        if put == 64 {
            _mm512_storeu_si512(dst.cast(), row);
        } else {
            _mm512_mask_storeu_epi8(dst.cast(), first_bytes(put as u8), row);
        }
    }
}

/// Runs sets of four states, a register a row, to one block a register.
#[target_feature(enable = "avx512f")]
#[inline]
fn run_rows<const SETS: usize>(starts: [[__m512i; 4]; SETS]) -> [[__m512i; 4]; SETS] {
    let mut states = starts;
    for _ in 0..DOUBLE_ROUNDS {
        for [a, b, c, d] in &mut states {
            round_of_rows(a, b, c, d);
        }
        for [_, b, c, d] in &mut states {
            *b = _mm512_shuffle_epi32::<0b00_11_10_01>(*b);
            *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm512_shuffle_epi32::<0b10_01_00_11>(*d);
        }
        for [a, b, c, d] in &mut states {
            round_of_rows(a, b, c, d);
        }
        for [_, b, c, d] in &mut states {
            *b = _mm512_shuffle_epi32::<0b10_01_00_11>(*b);
            *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm512_shuffle_epi32::<0b00_11_10_01>(*d);
        }
    }
    for ([a, b, c, d], [a0, b0, c0, d0]) in states.iter_mut().zip(starts) {
        [*a, *b, *c, *d] = transpose_quarters(
            _mm512_add_epi32(*a, a0),
            _mm512_add_epi32(*b, b0),
            _mm512_add_epi32(*c, c0),
            _mm512_add_epi32(*d, d0),
        );
    }
    states
}

/// Four quarter-rounds of each of four states.
#[target_feature(enable = "avx512f")]
#[inline]
fn round_of_rows(a: &mut __m512i, b: &mut __m512i, c: &mut __m512i, d: &mut __m512i) {
    *a = _mm512_add_epi32(*a, *b);
    *d = _mm512_rol_epi32::<16>(_mm512_xor_si512(*d, *a));
    *c = _mm512_add_epi32(*c, *d);
    *b = _mm512_rol_epi32::<12>(_mm512_xor_si512(*b, *c));
    *a = _mm512_add_epi32(*a, *b);
    *d = _mm512_rol_epi32::<8>(_mm512_xor_si512(*d, *a));
    *c = _mm512_add_epi32(*c, *d);
    *b = _mm512_rol_epi32::<7>(_mm512_xor_si512(*b, *c));
}
