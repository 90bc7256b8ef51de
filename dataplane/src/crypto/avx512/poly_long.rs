//! Poly1305 of one long message over all lanes: lane j takes blocks j, j + 8, j + 16 …
//!
//! Every lane is Horner's rule in r⁸; up to four rows of eight blocks (times r³², r²⁴, r¹⁶
//! and r⁸) share a carry. At the end lane j is multiplied by r⁸⁻ʲ and the lanes are summed.
//! As in [`poly_lanes`](super::poly_lanes), the message ends on a row and begins with zeros.

use core::arch::x86_64::*;

use super::field::{Element, Factor, HIGH_BIT, Sum};
use crate::crypto::batch::{Message, Tag};
use crate::crypto::poly1305::{Limbs, finish_limbs};

/// From this many blocks on, the powers of `r` are worth their making.
pub(super) const LONG: usize = 24;

/// Bytes of a row.
const ROW: usize = 128;

/// The tag of one message.
///
/// # Safety
/// The message's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) unsafe fn tag(message: &Message) -> Tag {
    let r = Limbs::clamped(&message.key.0);
    let r2 = r.times(r);
    let (r3, r4) = (r2.times(r), r2.times(r2));
    let (r5, r6, r7, r8) = (r4.times(r), r4.times(r2), r4.times(r3), r4.times(r4));
    let by_8 = splat(r8).factor();

    let rows = message.blocks().div_ceil(8);
    let mut h = Element::zero();
    let mut row = rows;
    // SAFETY: passed on; rows count down to 1.
    unsafe {
        if rows >= 8 {
            let r16 = r8.times(r8);
            let (by_24, by_32) = (
                splat(r16.times(r8)).factor(),
                splat(r16.times(r16)).factor(),
            );
            let by_16 = splat(r16).factor();
            for _ in 0..rows % 4 {
                h = h.add(masked(message, row)).times(&by_8);
                row -= 1;
            }
            // The first quadruple may begin the message; the last one ends it.
            h = quadruple::<true>(message, row, h, [&by_32, &by_24, &by_16, &by_8]);
            row -= 4;
            while row > 4 {
                h = quadruple::<false>(message, row, h, [&by_32, &by_24, &by_16, &by_8]);
                row -= 4;
            }
            // The last row is multiplied lane by lane below, not by r⁸.
            h = Sum::zero()
                .plus(h.add(full(message, 4)), &by_24)
                .plus(full(message, 3), &by_16)
                .plus(full(message, 2), &by_8)
                .carry();
        } else {
            while row > 1 {
                h = h.add(masked(message, row)).times(&by_8);
                row -= 1;
            }
        }
        h = h.add(masked(message, 1));
    }

    // In the order in which a row's words are unpacked: see `blocks`.
    let h = h.times(&lanes([r8, r4, r7, r3, r6, r2, r5, r]).factor());
    let limbs = h.0.map(|limb| _mm512_reduce_add_epi64(limb) as u64);
    finish_limbs(limbs, &message.key.0)
}

/// # Safety
/// The message's invariant holds, and rows `row - 3` to `row` lie within its text, or but
/// for their beginning where `MASKED`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn quadruple<const MASKED: bool>(
    message: &Message,
    row: usize,
    h: Element,
    by: [&Factor; 4],
) -> Element {
    let [by_32, by_24, by_16, by_8] = by;
    // SAFETY: passed on.
    unsafe {
        let first = if MASKED {
            masked(message, row)
        } else {
            full(message, row)
        };
        Sum::zero()
            .plus(full(message, row - 1), by_24)
            .plus(full(message, row - 2), by_16)
            .plus(full(message, row - 3), by_8)
            .plus(h.add(first), by_32)
            .carry()
    }
}

/// The eight blocks of the row that is `row`th from the end, counted from 1, where all of it
/// is text.
///
/// # Safety
/// It is.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn full(message: &Message, row: usize) -> Element {
    let start = message
        .text
        .wrapping_add(message.blocks() * 16)
        .wrapping_sub(row * ROW);
    // SAFETY: the row lies within the text.
    let (first, second) = unsafe {
        (
            _mm512_loadu_si512(start.cast()),
            _mm512_loadu_si512(start.wrapping_add(64).cast()),
        )
    };
    blocks(first, second, _mm512_set1_epi64(HIGH_BIT))
}

/// The same for a row that may begin before the text, or end it.
///
/// # Safety
/// The message's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
unsafe fn masked(message: &Message, row: usize) -> Element {
    let end = message.blocks() * 16;
    let start = message.text.wrapping_add(end).wrapping_sub(row * ROW);
    let (before, from) = (
        (row * ROW).saturating_sub(end),
        end.saturating_sub(row * ROW),
    );
    let below = (before + message.len.saturating_sub(from)).min(ROW);
    let mask = |count: usize| (u128::MAX).checked_shr((ROW - count) as u32).unwrap_or(0);
    let mask = mask(below) & !mask(before);
    // SAFETY: bytes outside of the mask, before and behind the text, are not touched.
    let (first, mut second) = unsafe {
        (
            _mm512_maskz_loadu_epi8(mask as u64, start.cast()),
            _mm512_maskz_loadu_epi8((mask >> 64) as u64, start.wrapping_add(64).cast()),
        )
    };
    if row == 1 {
        let [low, high] = message.last.map(|word| word as i64);
        let last = _mm512_setr_epi64(0, 0, 0, 0, 0, 0, low, high);
        second = _mm512_or_si512(second, last);
    }
    // Whole blocks before the beginning have no high bit.
    let at = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    let begun = _mm512_cmpge_epu64_mask(at, _mm512_set1_epi64((before / 16) as i64));
    let high_bit = _mm512_maskz_mov_epi64(begun, _mm512_set1_epi64(HIGH_BIT));
    blocks(first, second, high_bit)
}

/// Blocks in the lane order 0, 4, 1, 5, 2, 6, 3, 7: what unpacking gives at no cost.
#[target_feature(enable = "avx512f")]
#[inline]
fn blocks(first: __m512i, second: __m512i, high_bit: __m512i) -> Element {
    Element::from_words(
        _mm512_unpacklo_epi64(first, second),
        _mm512_unpackhi_epi64(first, second),
        high_bit,
    )
}

#[target_feature(enable = "avx512f")]
#[inline]
fn splat(limbs: Limbs) -> Element {
    Element(limbs.0.map(|limb| _mm512_set1_epi64(limb as i64)))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn lanes(of: [Limbs; 8]) -> Element {
    let [a, b, c, d, e, f, g, h] = of.map(|limbs| limbs.0.map(|limb| limb as i64));
    Element([
        _mm512_setr_epi64(a[0], b[0], c[0], d[0], e[0], f[0], g[0], h[0]),
        _mm512_setr_epi64(a[1], b[1], c[1], d[1], e[1], f[1], g[1], h[1]),
        _mm512_setr_epi64(a[2], b[2], c[2], d[2], e[2], f[2], g[2], h[2]),
    ])
}
