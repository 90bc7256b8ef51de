//! Arithmetic modulo 2^130 - 5 in eight lanes: three limbs of 44, 44 and 42 bits, in the
//! radix that leaves the 52-bit multipliers (IFMA) room for sums and for late carries.
//!
//! `vpmadd52` gives the low or the high 52 bits of a product. The high half of a product of
//! limbs i and j stands 52 = 44 + 8 bits above the low one: it is summed apart and joins the
//! next limb shifted left by 8. Products at or above 2^132 wrap around: 2^132 = 4 · 2^130 =
//! 20, so that `r` is kept beside 20 · `r`.
//!
//! Bounds: a reduced element's limbs are below 2^44 + 2^18, 2^44 + 2^18 and 2^42; a message
//! block adds less than 2^44; 20 · `r` is below 2^49; four products and three terms make
//! sums below 12 · 2^52 < 2^56 (low) and 12 · 2^43 < 2^47 (high). Nothing reaches 2^64.

use core::arch::x86_64::*;

const MASK_44: i64 = (1 << 44) - 1;
const MASK_42: i64 = (1 << 42) - 1;

/// 2^128, the high bit of every block, in the top limb.
pub(super) const HIGH_BIT: i64 = 1 << 40;

/// An element in each of eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Element(pub(super) [__m512i; 3]);

/// A multiplicand: an element, and its upper limbs times 20.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    r: [__m512i; 3],
    s: [__m512i; 2],
}

/// Sums of products, not carried.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    low: [__m512i; 3],
    high: [__m512i; 3],
}

impl Element {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn zero() -> Self {
        Self([_mm512_setzero_si512(); 3])
    }

    /// Blocks of 128 bits; `high_bit` is [`HIGH_BIT`] or zero.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn from_words(low: __m512i, high: __m512i, high_bit: __m512i) -> Self {
        const OR_AND: i32 = 0xa8; // (a | b) & c
        let mask = _mm512_set1_epi64(MASK_44);
        Self([
            _mm512_and_si512(low, mask),
            _mm512_ternarylogic_epi64::<OR_AND>(
                _mm512_srli_epi64::<44>(low),
                _mm512_slli_epi64::<20>(high),
                mask,
            ),
            _mm512_or_si512(_mm512_srli_epi64::<24>(high), high_bit),
        ])
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn add(self, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);
        Self([
            _mm512_add_epi64(a0, b0),
            _mm512_add_epi64(a1, b1),
            _mm512_add_epi64(a2, b2),
        ])
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn times(self, factor: &Factor) -> Self {
        Sum::zero().plus(self, factor).carry()
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn factor(self) -> Factor {
        let [_, r1, r2] = self.0;
        let times_20 = |x| _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x));
        Factor {
            r: self.0,
            s: [times_20(r1), times_20(r2)],
        }
    }

    /// Reduces fully and adds `s`, modulo 2^128: the tags' low and high words.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn finish(self, s: [__m512i; 2]) -> [__m512i; 2] {
        let (mask, top) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
        let [h0, h1, h2] = self.0;
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        let (h0, h1) = (_mm512_and_si512(h0, mask), _mm512_and_si512(h1, mask));
        let h0 = _mm512_add_epi64(h0, times_5(_mm512_srli_epi64::<42>(h2)));
        let h2 = _mm512_and_si512(h2, top);
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        let h0 = _mm512_and_si512(h0, mask);
        let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        let h1 = _mm512_and_si512(h1, mask);

        // h - p = h + 5 - 2^130: taken where that is not negative.
        let g0 = _mm512_add_epi64(h0, _mm512_set1_epi64(5));
        let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
        let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
        let above = _mm512_cmpgt_epu64_mask(g2, top);
        let h0 = _mm512_mask_and_epi64(h0, above, g0, mask);
        let h1 = _mm512_mask_and_epi64(h1, above, g1, mask);
        let h2 = _mm512_mask_and_epi64(h2, above, g2, top);

        let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
        let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
        let [s0, s1] = s;
        let low = _mm512_add_epi64(low, s0);
        let carry = _mm512_cmplt_epu64_mask(low, s0);
        let high = _mm512_add_epi64(high, s1);
        let high = _mm512_mask_add_epi64(high, carry, high, _mm512_set1_epi64(1));
        [low, high]
    }
}

impl Sum {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn zero() -> Self {
        Self {
            low: [_mm512_setzero_si512(); 3],
            high: [_mm512_setzero_si512(); 3],
        }
    }

    /// Adds a product. Up to four fit before [`carry`](Self::carry).
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn plus(self, element: Element, factor: &Factor) -> Self {
        let [m0, m1, m2] = element.0;
        let ([r0, r1, r2], [s1, s2]) = (factor.r, factor.s);
        let ([l0, l1, l2], [h0, h1, h2]) = (self.low, self.high);

        let (l0, h0) = madd(l0, h0, m0, r0);
        let (l1, h1) = madd(l1, h1, m0, r1);
        let (l2, h2) = madd(l2, h2, m0, r2);
        let (l0, h0) = madd(l0, h0, m1, s2);
        let (l1, h1) = madd(l1, h1, m1, r0);
        let (l2, h2) = madd(l2, h2, m1, r1);
        let (l0, h0) = madd(l0, h0, m2, s1);
        let (l1, h1) = madd(l1, h1, m2, s2);
        let (l2, h2) = madd(l2, h2, m2, r0);
        Self {
            low: [l0, l1, l2],
            high: [h0, h1, h2],
        }
    }

    /// The element that the sums make, reduced within the bounds above.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn carry(self) -> Element {
        let mask = _mm512_set1_epi64(MASK_44);
        let ([l0, l1, l2], [h0, h1, h2]) = (self.low, self.high);
        let l1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(h0));
        let l2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(h1));
        let l1 = _mm512_add_epi64(l1, _mm512_srli_epi64::<44>(l0));
        let l0 = _mm512_and_si512(l0, mask);
        let l2 = _mm512_add_epi64(l2, _mm512_srli_epi64::<44>(l1));
        let l1 = _mm512_and_si512(l1, mask);
        // The top limb has 42 bits, and its high sum stands 52 bits above it: at 2^10 · 2^130.
        let over = _mm512_add_epi64(_mm512_srli_epi64::<42>(l2), _mm512_slli_epi64::<10>(h2));
        let l2 = _mm512_and_si512(l2, _mm512_set1_epi64(MASK_42));
        let l0 = _mm512_add_epi64(l0, times_5(over));
        let l1 = _mm512_add_epi64(l1, _mm512_srli_epi64::<44>(l0));
        Element([_mm512_and_si512(l0, mask), l1, l2])
    }
}

/// Adds the low and high 52 bits of `a` · `b`.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn madd(low: __m512i, high: __m512i, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
    (
        _mm512_madd52lo_epu64(low, a, b),
        _mm512_madd52hi_epu64(high, a, b),
    )
}

#[target_feature(enable = "avx512f")]
#[inline]
fn times_5(x: __m512i) -> __m512i {
    _mm512_add_epi64(x, _mm512_slli_epi64::<2>(x))
}
