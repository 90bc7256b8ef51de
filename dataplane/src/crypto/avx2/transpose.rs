//! Transpositions in registers.

use core::arch::x86_64::*;

/// Transposes 4 × 4 words within each half of the registers.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_halves(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Transposes 8 × 8 words.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn transpose_8x8(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
    let [a0, a1, a2, a3] = transpose_halves(r0, r1, r2, r3);
    let [b0, b1, b2, b3] = transpose_halves(r4, r5, r6, r7);
    [
        low_halves(a0, b0),
        low_halves(a1, b1),
        low_halves(a2, b2),
        low_halves(a3, b3),
        high_halves(a0, b0),
        high_halves(a1, b1),
        high_halves(a2, b2),
        high_halves(a3, b3),
    ]
}

/// Transposes 4 × 4 double words.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn transpose_4x4(rows: [__m256i; 4]) -> [__m256i; 4] {
    let [r0, r1, r2, r3] = rows;
    let (a, b) = (_mm256_unpacklo_epi64(r0, r1), _mm256_unpackhi_epi64(r0, r1));
    let (c, d) = (_mm256_unpacklo_epi64(r2, r3), _mm256_unpackhi_epi64(r2, r3));
    [
        low_halves(a, c),
        low_halves(b, d),
        high_halves(a, c),
        high_halves(b, d),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn low_halves(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute2x128_si256::<0x20>(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn high_halves(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute2x128_si256::<0x31>(a, b)
}
