//! Poly1305 (RFC 8439 §2.5) for one short message on the integer unit: what the SIMD back
//! ends use where a message is too short, or too alone, to fill vectors.
//!
//! The accumulator is three words in radix 2^64, `r` two: a block costs four 64-bit
//! multiplications and two short ones. No branch or index depends on a secret.

/// An authenticator that has taken in whole blocks.
pub(super) struct Poly1305 {
    h: [u64; 3],
    r: [u64; 2],
    /// `r[1]` · 5 / 4: clamping leaves `r[1]` a multiple of 4, so that 2^128 · r[1] reduces
    /// to this.
    r1_reduced: u64,
    s: [u64; 2],
}

impl Poly1305 {
    #[inline(always)]
    pub(super) fn new(one_time_key: &[u8; 32]) -> Self {
        let [r0, r1, s0, s1] = words(one_time_key);
        let r = [r0 & CLAMP[0], r1 & CLAMP[1]];
        Self {
            h: [0; 3],
            r,
            r1_reduced: r[1] + (r[1] >> 2),
            s: [s0, s1],
        }
    }

    /// Takes in one block with its high bit (2^128) set.
    #[inline(always)]
    pub(super) fn block(&mut self, low: u64, high: u64) {
        let [h0, h1, h2] = self.h;
        let [r0, r1] = self.r;
        let (h0, carry) = h0.overflowing_add(low);
        let t = u128::from(h1) + u128::from(high) + u128::from(carry);
        let (h1, h2) = (t as u64, h2 + 1 + (t >> 64) as u64);

        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let d0 = wide(h0, r0) + wide(h1, self.r1_reduced);
        // h2 stays below 8, so that its products fit a word.
        let d1 = wide(h0, r1) + wide(h1, r0) + u128::from(h2 * self.r1_reduced) + (d0 >> 64);
        let d2 = h2 * r0 + (d1 >> 64) as u64;

        // 2^130 = 5: what stands above comes back four- and onefold, both shifted down by 2.
        let excess = (d2 >> 2) + (d2 & !3);
        let (h0, carry) = (d0 as u64).overflowing_add(excess);
        let (h1, carry) = (d1 as u64).overflowing_add(u64::from(carry));
        self.h = [h0, h1, (d2 & 3) + u64::from(carry)];
    }

    /// The tag.
    #[inline(always)]
    pub(super) fn finish(self) -> [u8; 16] {
        finish(self.h, self.s)
    }
}

/// Bits of `r` that may be set (RFC 8439 §2.5).
pub(super) const CLAMP: [u64; 2] = [0x0fff_fffc_0fff_ffff, 0x0fff_fffc_0fff_fffc];

/// Reduces `h` (below 2^131) fully and adds `s`.
#[inline(always)]
pub(super) fn finish(h: [u64; 3], s: [u64; 2]) -> [u8; 16] {
    let [h0, h1, h2] = h;
    // h - p = h + 5 - 2^130: taken where that is not negative.
    let (g0, carry) = h0.overflowing_add(5);
    let (g1, carry) = h1.overflowing_add(u64::from(carry));
    let g2 = h2 + u64::from(carry);
    let take = 0_u64.wrapping_sub((g2 >> 2) & 1);
    let low = (h0 & !take) | (g0 & take);
    let high = (h1 & !take) | (g1 & take);

    let (low, carry) = low.overflowing_add(s[0]);
    let high = high.wrapping_add(s[1]).wrapping_add(u64::from(carry));
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// A residue in limbs of 44, 44 and 42 bits: for powers of `r` that vectors will hold.
#[derive(Clone, Copy)]
pub(super) struct Limbs(pub(super) [u64; 3]);

const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;

impl Limbs {
    /// The `r` of a one-time key.
    #[inline(always)]
    pub(super) fn clamped(one_time_key: &[u8; 32]) -> Self {
        let [low, high] = clamped_words(one_time_key);
        Self([
            low & MASK_44,
            (low >> 44 | high << 20) & MASK_44,
            high >> 24,
        ])
    }

    /// The product, reduced but for a bit or two.
    #[inline(always)]
    pub(super) fn times(self, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        // 2^132 = 20.
        let (c1, c2) = (b1 * 20, b2 * 20);
        let d0 = wide(a0, b0) + wide(a1, c2) + wide(a2, c1);
        let d1 = wide(a0, b1) + wide(a1, b0) + wide(a2, c2) + (d0 >> 44);
        let d2 = wide(a0, b2) + wide(a1, b1) + wide(a2, b0) + (d1 >> 44);
        let h0 = (d0 as u64 & MASK_44) + (d2 >> 42) as u64 * 5;
        Self([
            h0 & MASK_44,
            (d1 as u64 & MASK_44) + (h0 >> 44),
            d2 as u64 & MASK_42,
        ])
    }
}

impl Limbs {
    /// The same residue in limbs of 26 bits, the top one of a bit or two more.
    #[inline(always)]
    pub(super) const fn in_26_bits(self) -> [u64; 5] {
        const MASK: u64 = (1 << 26) - 1;
        let [l0, l1, l2] = self.0;
        // The middle limb may stand a little above its 44 bits.
        let (l1, l2) = (l1 & MASK_44, l2 + (l1 >> 44));
        [
            l0 & MASK,
            (l0 >> 26 | l1 << 18) & MASK,
            (l1 >> 8) & MASK,
            (l1 >> 34 | l2 << 10) & MASK,
            l2 >> 16,
        ]
    }
}

/// The `r` of a one-time key, in words.
#[inline(always)]
pub(super) fn clamped_words(one_time_key: &[u8; 32]) -> [u64; 2] {
    let [low, high, ..] = words(one_time_key);
    [low & CLAMP[0], high & CLAMP[1]]
}

/// The tag of an accumulator in limbs of 26 bits, each below 2^30.
#[inline(always)]
pub(super) fn finish_26(limbs: [u64; 5], one_time_key: &[u8; 32]) -> [u8; 16] {
    let [l0, l1, l2, l3, l4] = limbs;
    let wide = |limb: u64, at: u32| u128::from(limb) << at;
    let (h, carry) =
        (wide(l0, 0) + wide(l1, 26) + wide(l2, 52) + wide(l3, 78)).overflowing_add(wide(l4, 104));
    let top = (l4 >> 24) + u64::from(carry);
    // 2^130 = 5.
    let (h, carry) = h.overflowing_add(u128::from(top >> 2) * 5);
    let [_, _, s0, s1] = words(one_time_key);
    finish(
        [h as u64, (h >> 64) as u64, (top & 3) + u64::from(carry)],
        [s0, s1],
    )
}

/// The tag of an accumulator in limbs of 44, 44 and 42 bits, each below 2^48.
#[inline(always)]
pub(super) fn finish_limbs(limbs: [u64; 3], one_time_key: &[u8; 32]) -> [u8; 16] {
    let [h0, h1, h2] = limbs;
    let h1 = h1 + (h0 >> 44);
    let h2 = h2 + (h1 >> 44);
    let h = u128::from(h0 & MASK_44) + (u128::from(h1 & MASK_44) << 44);
    // 2^130 = 5, and what is left of h2 stands at 2^88: bits 40 and 41 above 2^128.
    let (h, carry) = h.overflowing_add(u128::from(h2 & (MASK_42 >> 2)) << 88);
    let (h, more) = h.overflowing_add(u128::from(h2 >> 42) * 5);
    let top = (h2 & MASK_42) >> 40;
    let [_, _, s0, s1] = words(one_time_key);
    finish(
        [
            h as u64,
            (h >> 64) as u64,
            top + u64::from(carry) + u64::from(more),
        ],
        [s0, s1],
    )
}

fn words(key: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
