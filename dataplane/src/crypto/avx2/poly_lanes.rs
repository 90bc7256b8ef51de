//! Poly1305 of four, eight or sixteen messages side by side: a lane a message.
//!
//! As in the AVX-512 back end, messages end on the same row of 64 bytes, a shorter one
//! begins later with zeros, and a row of four blocks costs one carry. AVX2 has no byte
//! masks: the first and last rows are copied through a buffer.

use core::arch::x86_64::*;
use core::hint::black_box;
use core::ptr;

use super::field::{Element, Factor, HIGH_BIT, Sum};
use super::transpose::transpose_4x4;
use crate::crypto::batch::{Message, Tag};
use crate::crypto::poly1305::{clamped_words, finish_26};

/// Up to this many blocks, Horner's rule block by block beats the making of r² to r⁴.
const SHORT: usize = 6;

/// Four messages.
struct Quad<'a> {
    messages: [&'a Message; 4],
    /// Where each message's padded text would end with one more block behind it.
    ends: [*const u8; 4],
    h: Element,
}

/// The tags of one to `QUADS` × 4 messages.
///
/// # Safety
/// The messages' invariants hold.
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn tags<const QUADS: usize>(messages: &[Message], tags: &mut [Tag; 16]) {
    let mut shortest = usize::MAX;
    let mut longest = 0;
    for message in messages {
        shortest = shortest.min(message.blocks());
        longest = longest.max(message.blocks());
    }
    let mut quads: [Quad<'_>; QUADS] = core::array::from_fn(|at| Quad::new(messages, at * 4));
    let r = quads.each_ref().map(|quad| quad.r());

    // SAFETY: passed on; rows count down from the longest message's.
    unsafe {
        if longest <= SHORT {
            short(&mut quads, &r, longest);
        } else {
            long(&mut quads, &r, shortest, longest);
        }
    }

    let (places, _) = tags.as_chunks_mut::<4>();
    for (quad, places) in quads.into_iter().zip(places) {
        let lanes = quad.h.lanes();
        for ((place, limbs), message) in places.iter_mut().zip(lanes).zip(quad.messages) {
            *place = finish_26(limbs, &message.key.0);
        }
    }
}

/// Block by block: h = (h + m) · r.
///
/// # Safety
/// As for [`tags`].
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn short<const QUADS: usize>(
    quads: &mut [Quad<'_>; QUADS],
    r: &[Element; QUADS],
    longest: usize,
) {
    let r = r.map(|r| r.factor());
    for row in (1..=longest.div_ceil(4)).rev() {
        // SAFETY: passed on.
        let blocks = quads
            .each_ref()
            .map(|quad| unsafe { quad.row::<true>(row) });
        for at in 0..4 {
            // Blocks that no message has yet need no work.
            if row * 4 - at <= longest {
                for ((quad, r), blocks) in quads.iter_mut().zip(&r).zip(&blocks) {
                    if let Some(block) = blocks.get(at) {
                        quad.h = quad.h.add(*block).times(r);
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
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn long<const QUADS: usize>(
    quads: &mut [Quad<'_>; QUADS],
    r: &[Element; QUADS],
    shortest: usize,
    longest: usize,
) {
    let mut powers = r.map(|r| powers(r));
    let rows = longest.div_ceil(4);
    // Rows that every message fills, but for the last.
    let full = (shortest / 4).max(1);
    // SAFETY: passed on; full rows lie within every message's text.
    unsafe {
        for row in (full + 1..=rows).rev() {
            for (quad, powers) in quads.iter_mut().zip(&powers) {
                quad.take::<true>(row, powers);
            }
        }
        for row in (2..=full).rev() {
            for (quad, powers) in quads.iter_mut().zip(&powers) {
                quad.take::<false>(row, powers);
            }
        }
        for (quad, powers) in quads.iter_mut().zip(&powers) {
            quad.take::<true>(1, powers);
        }
    }
    // They were in memory: wipe them.
    powers = powers.map(|_| [Element::zero().factor(); 4]);
    black_box(&powers);
}

/// r⁴, r³, r², r.
#[target_feature(enable = "avx2")]
#[inline]
fn powers(r: Element) -> [Factor; 4] {
    let factor = r.factor();
    let r2 = r.times(&factor);
    let factor2 = r2.factor();
    let r3 = r2.times(&factor);
    let r4 = r2.times(&factor2);
    [r4.factor(), r3.factor(), factor2, factor]
}

impl<'a> Quad<'a> {
    /// Messages `first..first + 4`. Lanes without a message repeat the last message; their
    /// tags are not asked for.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(messages: &'a [Message], first: usize) -> Self {
        let last = messages.last().unwrap_or(&Message::EMPTY);
        let messages: [&Message; 4] =
            core::array::from_fn(|lane| messages.get(first + lane).unwrap_or(last));
        Self {
            messages,
            ends: messages.map(|message| message.text.wrapping_add(message.blocks() * 16)),
            h: Element::zero(),
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn r(&self) -> Element {
        let words = self.messages.map(|message| clamped_words(&message.key.0));
        Element::from_words(
            vector(words.map(|[low, _]| low)),
            vector(words.map(|[_, high]| high)),
            _mm256_setzero_si256(),
        )
    }

    /// Takes in the four blocks of the row that is `row`th from the end, counted from 1.
    ///
    /// # Safety
    /// As for [`row`](Self::row).
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    unsafe fn take<const EDGE: bool>(&mut self, row: usize, powers: &[Factor; 4]) {
        // SAFETY: passed on.
        let [a, b, c, d] = unsafe { self.row::<EDGE>(row) };
        let [r4, r3, r2, r] = powers;
        self.h = Sum::of(d, r)
            .plus(c, r2)
            .plus(b, r3)
            .plus(self.h.add(a), r4)
            .carry();
    }

    /// The four blocks of the row that is `row`th from the end, counted from 1.
    ///
    /// # Safety
    /// The messages' invariants hold. Unless `EDGE`, the row lies within every message's
    /// text.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    unsafe fn row<const EDGE: bool>(&self, row: usize) -> [Element; 4] {
        let mut edges = [[0_u64; 8]; 4];
        let rows = if EDGE {
            for (edge, message) in edges.iter_mut().zip(self.messages) {
                // SAFETY: passed on.
                unsafe { copy_row(edge, message, row) };
            }
            edges.each_ref().map(|edge| edge.as_ptr().cast())
        } else {
            self.ends.map(|end| end.wrapping_sub(row * 64))
        };
        // SAFETY: 64 bytes are readable at each.
        let half = |offset: usize| unsafe {
            transpose_4x4(rows.map(|row| _mm256_loadu_si256(row.wrapping_add(offset).cast())))
        };
        let ([c0, c1, c2, c3], [c4, c5, c6, c7]) = (half(0), half(32));
        let high_bit = |at: usize| {
            let bit = _mm256_set1_epi64x(HIGH_BIT);
            if EDGE {
                let behind = row * 4 - 1 - at;
                let begun = self.messages.map(|m| u64::from(m.blocks() > behind));
                _mm256_and_si256(_mm256_sub_epi64(_mm256_setzero_si256(), vector(begun)), bit)
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

/// Copies one message's row, `row`th from the end: zeros before the text, and the last block
/// in the last row.
///
/// # Safety
/// The message's invariant holds.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn copy_row(to: &mut [u64; 8], message: &Message, row: usize) {
    let end = message.blocks() * 16;
    let (before, from) = ((row * 64).saturating_sub(end), end.saturating_sub(row * 64));
    if before >= 64 {
        return;
    }
    let len = message.len.saturating_sub(from).min(64 - before);
    let place: *mut u8 = to.as_mut_ptr().cast();
    // SAFETY: `from + len` is at most the text's length, and `before + len` at most 64.
    unsafe {
        ptr::copy_nonoverlapping(
            message.text.wrapping_add(from),
            place.wrapping_add(before),
            len,
        );
    }
    if row == 1 {
        [to[6], to[7]] = message.last;
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn vector(words: [u64; 4]) -> __m256i {
    let [a, b, c, d] = words.map(|word| word as i64);
    _mm256_setr_epi64x(a, b, c, d)
}
