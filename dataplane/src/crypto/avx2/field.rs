//! Arithmetic modulo 2^130 - 5 in four lanes: five limbs of 26 bits, in the radix of the
//! 32-bit multipliers. Products at or above 2^130 wrap around times 5, so that `r` is kept
//! beside 5 · `r`.
//!
//! Bounds: a reduced element's limbs are below 2^26 + 2^12; a message block adds less than
//! 2^26; 5 · `r` is below 2^29; five products of four blocks make sums below 20 · 2^56,
//! which is less than 2^61.

use core::arch::x86_64::*;

const MASK: i64 = (1 << 26) - 1;

/// 2^128, the high bit of every block, in the top limb.
pub(super) const HIGH_BIT: i64 = 1 << 24;

/// An element in each of four lanes.
#[derive(Clone, Copy)]
pub(super) struct Element(pub(super) [__m256i; 5]);

/// A multiplicand: an element, and its upper limbs times 5.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    r: [__m256i; 5],
    s: [__m256i; 4],
}

/// Sums of products, not carried.
#[derive(Clone, Copy)]
pub(super) struct Sum([__m256i; 5]);

impl Element {
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn zero() -> Self {
        Self([_mm256_setzero_si256(); 5])
    }

    /// Blocks of 128 bits; `high_bit` is [`HIGH_BIT`] or zero.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn from_words(low: __m256i, high: __m256i, high_bit: __m256i) -> Self {
        let mask = _mm256_set1_epi64x(MASK);
        let middle = _mm256_or_si256(_mm256_srli_epi64::<52>(low), _mm256_slli_epi64::<12>(high));
        Self([
            _mm256_and_si256(low, mask),
            _mm256_and_si256(_mm256_srli_epi64::<26>(low), mask),
            _mm256_and_si256(middle, mask),
            _mm256_and_si256(_mm256_srli_epi64::<14>(high), mask),
            _mm256_or_si256(_mm256_srli_epi64::<40>(high), high_bit),
        ])
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn add(self, other: Self) -> Self {
        let ([a0, a1, a2, a3, a4], [b0, b1, b2, b3, b4]) = (self.0, other.0);
        Self([
            _mm256_add_epi64(a0, b0),
            _mm256_add_epi64(a1, b1),
            _mm256_add_epi64(a2, b2),
            _mm256_add_epi64(a3, b3),
            _mm256_add_epi64(a4, b4),
        ])
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn times(self, factor: &Factor) -> Self {
        Sum::of(self, factor).carry()
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn factor(self) -> Factor {
        let [_, r1, r2, r3, r4] = self.0;
        Factor {
            r: self.0,
            s: [times_5(r1), times_5(r2), times_5(r3), times_5(r4)],
        }
    }

    /// Each lane's limbs.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn lanes(self) -> [[u64; 5]; 4] {
        let mut lanes = [[0; 5]; 4];
        for (at, limb) in self.0.into_iter().enumerate() {
            let words = [
                _mm256_extract_epi64::<0>(limb),
                _mm256_extract_epi64::<1>(limb),
                _mm256_extract_epi64::<2>(limb),
                _mm256_extract_epi64::<3>(limb),
            ];
            for (lane, word) in lanes.iter_mut().zip(words) {
                if let Some(place) = lane.get_mut(at) {
                    *place = word as u64;
                }
            }
        }
        lanes
    }
}

impl Sum {
    /// One product.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn of(element: Element, factor: &Factor) -> Self {
        let [m0, m1, m2, m3, m4] = element.0;
        let ([r0, r1, r2, r3, r4], [s1, s2, s3, s4]) = (factor.r, factor.s);
        Self([
            dot([m0, m1, m2, m3, m4], [r0, s4, s3, s2, s1]),
            dot([m0, m1, m2, m3, m4], [r1, r0, s4, s3, s2]),
            dot([m0, m1, m2, m3, m4], [r2, r1, r0, s4, s3]),
            dot([m0, m1, m2, m3, m4], [r3, r2, r1, r0, s4]),
            dot([m0, m1, m2, m3, m4], [r4, r3, r2, r1, r0]),
        ])
    }

    /// Adds a product. Up to four fit before [`carry`](Self::carry).
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn plus(self, element: Element, factor: &Factor) -> Self {
        Self(Element(self.0).add(Element(Self::of(element, factor).0)).0)
    }

    /// The element that the sums make, reduced within the bounds above. Two chains of
    /// carries run side by side.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn carry(self) -> Element {
        let [d0, d1, d2, d3, d4] = self.0;
        let (d0, d1) = carry(d0, d1);
        let (d3, d4) = carry(d3, d4);
        let (d1, d2) = carry(d1, d2);
        let mask = _mm256_set1_epi64x(MASK);
        let d0 = _mm256_add_epi64(d0, times_5(_mm256_srli_epi64::<26>(d4)));
        let d4 = _mm256_and_si256(d4, mask);
        let (d2, d3) = carry(d2, d3);
        let (d0, d1) = carry(d0, d1);
        let (d3, d4) = carry(d3, d4);
        Element([d0, d1, d2, d3, d4])
    }
}

/// What `from` holds above its limb goes to `to`.
#[target_feature(enable = "avx2")]
#[inline]
fn carry(from: __m256i, to: __m256i) -> (__m256i, __m256i) {
    (
        _mm256_and_si256(from, _mm256_set1_epi64x(MASK)),
        _mm256_add_epi64(to, _mm256_srli_epi64::<26>(from)),
    )
}

/// The sum of five products.
#[target_feature(enable = "avx2")]
#[inline]
fn dot(a: [__m256i; 5], b: [__m256i; 5]) -> __m256i {
    let ([a0, a1, a2, a3, a4], [b0, b1, b2, b3, b4]) = (a, b);
    let first = _mm256_add_epi64(_mm256_mul_epu32(a0, b0), _mm256_mul_epu32(a1, b1));
    let second = _mm256_add_epi64(_mm256_mul_epu32(a2, b2), _mm256_mul_epu32(a3, b3));
    _mm256_add_epi64(_mm256_add_epi64(first, second), _mm256_mul_epu32(a4, b4))
}

#[target_feature(enable = "avx2")]
#[inline]
fn times_5(x: __m256i) -> __m256i {
    _mm256_add_epi64(x, _mm256_slli_epi64::<2>(x))
}
