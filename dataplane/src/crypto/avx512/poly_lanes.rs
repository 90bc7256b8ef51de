//! Poly1305 of eight or sixteen messages side by side: a lane a message.
//!
//! Messages end on the same row of 64 bytes: a shorter one begins later, and until then its
//! lane multiplies zero by `r`, which leaves zero. So no lane needs a branch of its own, the
//! block of lengths is every lane's last, and only the first and last rows need masks. A row
//! is four blocks: the accumulator and the first block times r⁴, the others times r³, r², r,
//! and one carry for all.

use core::arch::x86_64::*;
use core::hint::black_box;

use super::field::{Element, Factor, HIGH_BIT, Sum};
use super::transpose::transpose_8x8;
use crate::crypto::batch::{Message, Tag};
use crate::crypto::poly1305::CLAMP;

/// Up to this many blocks, Horner's rule block by block beats the making of r² to r⁴.
const SHORT: usize = 6;

/// Eight messages.
struct Octet {
    /// Where each message's padded text would end with a block of lengths behind it.
    ends: [*const u8; 8],
    lens: [usize; 8],
    /// The last blocks' low and high words.
    last: [__m512i; 2],
    /// Blocks of each message.
    blocks: __m512i,
    h: Element,
    s: [__m512i; 2],
}

/// The tags of one to `OCTETS` × 8 messages.
///
/// # Safety
/// The messages' invariants hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) unsafe fn tags<const OCTETS: usize>(messages: &[Message], tags: &mut [Tag; 16]) {
    let mut shortest = usize::MAX;
    let mut longest = 0;
    for message in messages {
        shortest = shortest.min(message.blocks());
        longest = longest.max(message.blocks());
    }
    // SAFETY: passed on.
    let pairs: [(Octet, Element); OCTETS] =
        core::array::from_fn(|at| unsafe { Octet::new(messages, at * 8) });
    let r = pairs.each_ref().map(|(_, r)| *r);
    let mut octets = pairs.map(|(octet, _)| octet);

    // SAFETY: passed on; rows count down from the longest message's.
    unsafe {
        if longest <= SHORT {
            short(&mut octets, &r, longest);
        } else {
            long(&mut octets, &r, shortest, longest);
        }
    }

    let (places, _) = tags.as_chunks_mut::<8>();
    for (octet, place) in octets.into_iter().zip(places) {
        let [low, high] = octet.h.finish(octet.s);
        let first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        let second = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
        let place: *mut Tag = place.as_mut_ptr();
        // SAFETY: `place` has eight tags of 16 bytes.
        unsafe {
            _mm512_storeu_si512(place.cast(), _mm512_permutex2var_epi64(low, first, high));
            _mm512_storeu_si512(
                place.wrapping_add(4).cast(),
                _mm512_permutex2var_epi64(low, second, high),
            );
        }
    }
}

/// Block by block: h = (h + m) · r.
///
/// # Safety
/// As for [`tags`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn short<const OCTETS: usize>(
    octets: &mut [Octet; OCTETS],
    r: &[Element; OCTETS],
    longest: usize,
) {
    let r = r.map(|r| r.factor());
    for row in (1..=longest.div_ceil(4)).rev() {
        // SAFETY: passed on.
        let blocks = octets
            .each_ref()
            .map(|octet| unsafe { octet.row::<true>(row) });
        for at in 0..4 {
            // Blocks that no message has yet need no work.
            if row * 4 - at <= longest {
                for ((octet, r), blocks) in octets.iter_mut().zip(&r).zip(&blocks) {
                    if let Some(block) = blocks.get(at) {
                        octet.h = octet.h.add(*block).times(r);
                    }
                }
            }
        }
    }
}

/// Row by row.
///
/// # Safety
/// As for [`tags`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn long<const OCTETS: usize>(
    octets: &mut [Octet; OCTETS],
    r: &[Element; OCTETS],
    shortest: usize,
    longest: usize,
) {
    let mut powers = r.map(|r| powers(r));
    let rows = longest.div_ceil(4);
    // Rows that every message fills, but for the last with its padding and lengths.
    let full = (shortest / 4).max(1);
    // SAFETY: passed on; full rows lie within every message's text.
    unsafe {
        for row in (full + 1..=rows).rev() {
            for (octet, powers) in octets.iter_mut().zip(&powers) {
                octet.take::<true>(row, powers);
            }
        }
        for row in (2..=full).rev() {
            for (octet, powers) in octets.iter_mut().zip(&powers) {
                octet.take::<false>(row, powers);
            }
        }
        for (octet, powers) in octets.iter_mut().zip(&powers) {
            octet.take::<true>(1, powers);
        }
    }
    // They were in memory: wipe them.
    powers = powers.map(|_| [Element::zero().factor(); 4]);
    black_box(&powers);
}

/// r⁴, r³, r², r.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn powers(r: Element) -> [Factor; 4] {
    let factor = r.factor();
    let r2 = r.times(&factor);
    let factor2 = r2.factor();
    let r3 = r2.times(&factor);
    let r4 = r2.times(&factor2);
    [r4.factor(), r3.factor(), factor2, factor]
}

impl Octet {
    /// Messages `first..first + 8`, and their `r`. Lanes without a message repeat the last
    /// message, so that they need no masks; their tags are not asked for.
    ///
    /// # Safety
    /// The messages' invariants hold.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
    #[inline]
    unsafe fn new(messages: &[Message], first: usize) -> (Self, Element) {
        let none = Message::EMPTY;
        let last = messages.last().unwrap_or(&none);
        let lanes: [&Message; 8] =
            core::array::from_fn(|lane| messages.get(first + lane).unwrap_or(last));
        let key = |message: &Message| {
            let key: *const u8 = message.key.0.as_ptr();
            // SAFETY: a key is 32 bytes.
            unsafe { _mm256_loadu_si256(key.cast()) }
        };
        let pair = |a: &Message, b: &Message| {
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(key(a)), key(b))
        };
        let [m0, m1, m2, m3, m4, m5, m6, m7] = lanes;
        // Paired so that words come out in lane order: r in even quarters, s in odd ones.
        let (a, b) = (pair(m0, m2), pair(m1, m3));
        let (c, d) = (pair(m4, m6), pair(m5, m7));
        let (ab_low, ab_high) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
        let [clamp0, clamp1] = CLAMP.map(|mask| _mm512_set1_epi64(mask as i64));
        let r = Element::from_words(
            _mm512_and_si512(_mm512_shuffle_i32x4::<0x88>(ab_low, cd_low), clamp0),
            _mm512_and_si512(_mm512_shuffle_i32x4::<0x88>(ab_high, cd_high), clamp1),
            _mm512_setzero_si512(),
        );
        let s = [
            _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
            _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
        ];
        let vector = |of: [u64; 8]| {
            let [a, b, c, d, e, f, g, h] = of.map(|word| word as i64);
            _mm512_setr_epi64(a, b, c, d, e, f, g, h)
        };
        let octet = Self {
            ends: lanes.map(|message| message.text.wrapping_add(message.blocks() * 16)),
            lens: lanes.map(|message| message.len),
            last: [
                vector(lanes.map(|message| message.last[0])),
                vector(lanes.map(|message| message.last[1])),
            ],
            blocks: vector(lanes.map(|message| message.blocks() as u64)),
            h: Element::zero(),
            s,
        };
        (octet, r)
    }

    /// Takes in the four blocks of the row that is `row`th from the end, counted from 1.
    ///
    /// # Safety
    /// As for [`row`](Self::row).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn take<const MASKED: bool>(&mut self, row: usize, powers: &[Factor; 4]) {
        // SAFETY: passed on.
        let [a, b, c, d] = unsafe { self.row::<MASKED>(row) };
        let [r4, r3, r2, r] = powers;
        self.h = Sum::zero()
            .plus(b, r3)
            .plus(c, r2)
            .plus(d, r)
            .plus(self.h.add(a), r4)
            .carry();
    }

    /// The four blocks of the row that is `row`th from the end, counted from 1.
    ///
    /// # Safety
    /// The messages' invariants hold. Without `MASKED`, the row lies within every message's
    /// text.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
    #[inline]
    unsafe fn row<const MASKED: bool>(&self, row: usize) -> [Element; 4] {
        let start = |end: *const u8| end.wrapping_sub(row * 64);
        let rows = if MASKED {
            // SAFETY: bytes outside of the mask, before and behind the text, are not touched.
            core::array::from_fn(|lane| unsafe {
                let (end, len) = (
                    *self.ends.get_unchecked(lane),
                    *self.lens.get_unchecked(lane),
                );
                _mm512_maskz_loadu_epi8(text_bytes(len, row), start(end).cast())
            })
        } else {
            // SAFETY: the caller says that the row lies within every text.
            self.ends
                .map(|end| unsafe { _mm512_loadu_si512(start(end).cast()) })
        };
        let [c0, c1, c2, c3, c4, c5, mut c6, mut c7] = transpose_8x8(rows);
        if row == 1 {
            [c6, c7] = self.last;
        }
        let high_bit = |at: usize| {
            let bit = _mm512_set1_epi64(HIGH_BIT);
            if MASKED {
                let behind = _mm512_set1_epi64((row * 4 - 1 - at) as i64);
                _mm512_maskz_mov_epi64(_mm512_cmpgt_epu64_mask(self.blocks, behind), bit)
            } else {
                bit
            }
        };
        [
            Element::from_words(c0, c1, high_bit(0)),
            Element::from_words(c2, c3, high_bit(1)),
            Element::from_words(c4, c5, high_bit(2)),
            Element::from_words(c6, c7, high_bit(3)),
        ]
    }
}

/// Which of the 64 bytes of the row, `row`th from the end, are text.
#[target_feature(enable = "bmi2")]
#[inline]
fn text_bytes(len: usize, row: usize) -> u64 {
    let end = (len.div_ceil(16) + 1) * 16;
    let (before, from) = ((row * 64).saturating_sub(end), end.saturating_sub(row * 64));
    let below = (before + len.saturating_sub(from)).min(64);
    _bzhi_u64(u64::MAX, below as u32) & !_bzhi_u64(u64::MAX, before.min(64) as u32)
}
