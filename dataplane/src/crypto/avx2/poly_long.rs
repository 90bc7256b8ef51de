//! Poly1305 of one long message over all lanes: lane j takes blocks j, j + 4, j + 8 …
//!
//! Every lane is Horner's rule in r⁴; four rows of four blocks (times r¹⁶, r¹², r⁸ and r⁴)
//! share a carry. At the end lane j is multiplied by r⁴⁻ʲ and the lanes are summed.

use core::arch::x86_64::*;

use super::field::{Element, HIGH_BIT, Sum};
use super::poly_lanes::copy_row;
use crate::crypto::batch::{Message, Tag};
use crate::crypto::poly1305::{Limbs, finish_26};

/// From this many blocks on, the powers of `r` are worth their making.
pub(super) const LONG: usize = 24;

/// Bytes of a row.
const ROW: usize = 64;

/// The tag of one message of at least [`LONG`] blocks.
///
/// # Safety
/// The message's invariant holds.
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn tag(message: &Message) -> Tag {
    let r = Limbs::clamped(&message.key.0);
    let r2 = r.times(r);
    let (r3, r4) = (r2.times(r), r2.times(r2));
    let r8 = r4.times(r4);
    let by = [r8.times(r8), r8.times(r4), r8, r4].map(|power| splat(power).factor());
    let [by_16, by_12, by_8, by_4] = &by;

    let mut row = message.blocks().div_ceil(4);
    let mut h = Element::zero();
    // SAFETY: passed on; rows count down to 1, and all but the first and the last lie
    // within the text.
    unsafe {
        loop {
            h = h.add(edge(message, row)).times(by_4);
            row -= 1;
            if row.is_multiple_of(4) {
                break;
            }
        }
        while row > 4 {
            h = Sum::of(full(message, row - 1), by_12)
                .plus(full(message, row - 2), by_8)
                .plus(full(message, row - 3), by_4)
                .plus(h.add(full(message, row)), by_16)
                .carry();
            row -= 4;
        }
        // The last row is multiplied lane by lane below, not by r⁴.
        h = Sum::of(full(message, 3), by_8)
            .plus(full(message, 2), by_4)
            .plus(h.add(full(message, 4)), by_12)
            .carry();
        h = h.add(edge(message, 1));
    }

    // In the order in which a row's words are unpacked: see `blocks`.
    let h = h.times(&lanes([r4, r2, r3, r]).factor());
    let limbs = h.lanes().into_iter().fold([0; 5], |sum, lane| {
        let ([a, b, c, d, e], [v, w, x, y, z]) = (sum, lane);
        [a + v, b + w, c + x, d + y, e + z]
    });
    finish_26(limbs, &message.key.0)
}

/// The four blocks of the row that is `row`th from the end, counted from 1.
///
/// # Safety
/// The row lies within the text.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn full(message: &Message, row: usize) -> Element {
    let start = message
        .text
        .wrapping_add(message.blocks() * 16)
        .wrapping_sub(row * ROW);
    // SAFETY: the caller says so.
    unsafe { blocks(start, _mm256_set1_epi64x(HIGH_BIT)) }
}

/// The same for a row that may begin before the text, or end it.
///
/// # Safety
/// The message's invariant holds.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn edge(message: &Message, row: usize) -> Element {
    let mut copy = [0_u64; 8];
    let before = (row * 4).saturating_sub(message.blocks());
    let bit = |at: usize| if at >= before { HIGH_BIT } else { 0 };
    // SAFETY: passed on; the copy is 64 bytes.
    unsafe {
        copy_row(&mut copy, message, row);
        let high_bit = _mm256_setr_epi64x(bit(0), bit(2), bit(1), bit(3));
        blocks(copy.as_ptr().cast(), high_bit)
    }
}

/// Blocks in the lane order 0, 2, 1, 3: what unpacking gives at no cost.
///
/// # Safety
/// 64 bytes are readable at `row`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn blocks(row: *const u8, high_bit: __m256i) -> Element {
    // SAFETY: passed on.
    let (first, second) = unsafe {
        (
            _mm256_loadu_si256(row.cast()),
            _mm256_loadu_si256(row.wrapping_add(32).cast()),
        )
    };
    Element::from_words(
        _mm256_unpacklo_epi64(first, second),
        _mm256_unpackhi_epi64(first, second),
        high_bit,
    )
}

#[target_feature(enable = "avx2")]
#[inline]
fn splat(limbs: Limbs) -> Element {
    Element(
        limbs
            .in_26_bits()
            .map(|limb| _mm256_set1_epi64x(limb as i64)),
    )
}

#[target_feature(enable = "avx2")]
#[inline]
fn lanes(of: [Limbs; 4]) -> Element {
    let [a, b, c, d] = of.map(|limbs| limbs.in_26_bits().map(|limb| limb as i64));
    Element([
        _mm256_setr_epi64x(a[0], b[0], c[0], d[0]),
        _mm256_setr_epi64x(a[1], b[1], c[1], d[1]),
        _mm256_setr_epi64x(a[2], b[2], c[2], d[2]),
        _mm256_setr_epi64x(a[3], b[3], c[3], d[3]),
        _mm256_setr_epi64x(a[4], b[4], c[4], d[4]),
    ])
}
