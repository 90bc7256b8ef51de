//! Poly1305 where carries are longest: limbs all ones, `r` with all allowed bits,
//! accumulators on either side of 2^130 - 5. Held against long arithmetic done bit by bit.

use super::kernels::{all, poly1305_alone};
use crate::crypto::batch::Tag;

/// 2^130 - 5.
const P: Wide = Wide([0xffff_ffff_ffff_fffb, u64::MAX, 3]);

/// 192 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wide([u64; 3]);

impl Wide {
    fn plus(self, other: Self) -> Self {
        let mut carry = 0;
        Self(core::array::from_fn(|at| {
            let sum = u128::from(self.0[at]) + u128::from(other.0[at]) + carry;
            carry = sum >> 64;
            sum as u64
        }))
    }

    fn at_least(self, other: Self) -> bool {
        self.0.iter().rev().ge(other.0.iter().rev())
    }

    fn minus(self, other: Self) -> Self {
        let complement = Self(other.0.map(|word| !word));
        self.plus(complement).plus(Self([1, 0, 0]))
    }

    /// Modulo [`P`], of a number below 2 · `P`.
    fn reduced(self) -> Self {
        if self.at_least(P) {
            self.minus(P)
        } else {
            self
        }
    }

    /// Modulo [`P`]: doubling and adding.
    fn times(self, other: Self) -> Self {
        let mut product = Self([0; 3]);
        for bit in (0..192).rev() {
            product = product.plus(product).reduced();
            if other.0[bit / 64] >> (bit % 64) & 1 == 1 {
                product = product.plus(self).reduced();
            }
        }
        product
    }
}

fn halves(bytes: &[u8]) -> [u64; 2] {
    let value = u128::from_le_bytes(bytes.try_into().unwrap());
    [value as u64, (value >> 64) as u64]
}

/// What the text leaves in the accumulator before the last block is added.
fn accumulator(r: u128, text: &[u8]) -> Wide {
    let r = Wide([r as u64, (r >> 64) as u64, 0]);
    text.chunks(16).fold(Wide([0; 3]), |h, block| {
        let mut padded = [0; 16];
        padded[..block.len()].copy_from_slice(block);
        let [low, high] = halves(&padded);
        h.plus(Wide([low, high, 1])).reduced().times(r)
    })
}

fn expected(key: &[u8; 32], text: &[u8], last: [u64; 2]) -> Tag {
    let r = clamped(key);
    let h = accumulator(r, text)
        .plus(Wide([last[0], last[1], 1]))
        .reduced();
    let h = h.times(Wide([r as u64, (r >> 64) as u64, 0]));
    let h = u128::from(h.0[0]) | u128::from(h.0[1]) << 64;
    let s = u128::from_le_bytes(key[16..].try_into().unwrap());
    h.wrapping_add(s).to_le_bytes()
}

const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;

fn clamped(key: &[u8; 32]) -> u128 {
    u128::from_le_bytes(key[..16].try_into().unwrap()) & CLAMP
}

/// Checks one message alone and at every place among others, in every kernel.
fn check(key: [u8; 32], text: &[u8], last: [u64; 2]) {
    let expected = expected(&key, text, last);
    assert_eq!(poly1305_alone(&key, text, last), expected, "integer unit");
    let other = ([0x77; 32], &[0x99; 40][..], [1, 2]);
    for kernel in all() {
        for abreast in [1, 2, 3, 8, 9, 16] {
            let mut messages = vec![other; abreast];
            for at in [0, abreast / 2, abreast - 1] {
                messages[at] = (key, text, last);
            }
            let tags = kernel.poly1305(&messages);
            for at in [0, abreast / 2, abreast - 1] {
                assert_eq!(
                    tags[at],
                    expected,
                    "{}: place {at} of {abreast}, {} bytes, last {last:x?}, key {key:x?}",
                    kernel.name,
                    text.len()
                );
            }
        }
        // All lanes at the extreme at once.
        for tag in kernel.poly1305(&[(key, text, last); 16]) {
            assert_eq!(tag, expected, "{}: all lanes", kernel.name);
        }
    }
}

fn one_time_key(r: u128, s: u128) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&r.to_le_bytes());
    key[16..].copy_from_slice(&s.to_le_bytes());
    key
}

/// Values of `r`, clamped or to be clamped: none, one, powers, every allowed bit, the most
/// that single limbs can hold.
fn rs() -> [u128; 9] {
    [
        0,
        1,
        2,
        4,
        1 << 96,
        CLAMP,
        u128::MAX,
        CLAMP & !((1 << 88) - 1),
        CLAMP & ((1 << 44) - 1),
    ]
}

const LENGTHS: [usize; 16] = [
    0, 16, 31, 48, 64, 80, 96, 112, 128, 255, 256, 400, 512, 1024, 1436, 4096,
];

#[test]
fn limbs_of_ones_and_zeros() {
    for r in rs() {
        for s in [0, u128::MAX] {
            for fill in [0x00, 0xff, 0x80, 0x01] {
                for len in LENGTHS {
                    for last in [[0, 0], [u64::MAX, u64::MAX], [0, len as u64]] {
                        check(one_time_key(r, s), &vec![fill; len], last);
                    }
                }
            }
        }
    }
}

/// With `r` = 1 the accumulator is the plain sum, so that the last block can put it at any
/// distance from 2^130 - 5 before the final reduction.
#[test]
fn accumulators_around_the_modulus() {
    let mut reached = 0;
    for len in LENGTHS {
        for fill in [0x00, 0xff, 0x5a] {
            let text = vec![fill; len];
            let before = accumulator(1, &text).plus(Wide([0, 0, 1])).reduced();
            for distance in -6_i64..=6 {
                let target = if distance < 0 {
                    P.minus(Wide([distance.unsigned_abs(), 0, 0]))
                } else {
                    Wide([distance.unsigned_abs(), 0, 0])
                };
                // The last block that leads there; where it takes more than 128 bits, the
                // fill leads elsewhere.
                let needed = target.plus(P).minus(before).reduced();
                if needed.0[2] == 0 {
                    reached += 1;
                    for s in [0, u128::MAX] {
                        check(one_time_key(1, s), &text, [needed.0[0], needed.0[1]]);
                    }
                }
            }
        }
    }
    assert!(reached > 100, "{reached} accumulators reached");
}

/// The same inside the message: each block is chosen so that the accumulator before its
/// multiplication is at, below or above the modulus, with `r` at its greatest.
#[test]
fn accumulators_around_the_modulus_at_every_block() {
    for r in [1, 4, CLAMP] {
        for distance in [-5_i64, -1, 0, 1, 4] {
            let mut text = Vec::new();
            for block in 0..70_u64 {
                let before = accumulator(r, &text).plus(Wide([0, 0, 1])).reduced();
                let target = if distance < 0 {
                    P.minus(Wide([distance.unsigned_abs(), 0, 0]))
                } else {
                    Wide([distance.unsigned_abs(), 0, 0])
                };
                let needed = target.plus(P).minus(before).reduced();
                let value = if needed.0[2] == 0 {
                    u128::from(needed.0[0]) | u128::from(needed.0[1]) << 64
                } else {
                    // Out of reach: take the greatest, or another, and go on from there.
                    u128::MAX - u128::from(block % 2) * 0x1234_5678
                };
                text.extend_from_slice(&value.to_le_bytes());
                if block % 7 == 0 {
                    check(one_time_key(r, u128::MAX), &text, [u64::MAX, u64::MAX]);
                }
            }
        }
    }
}
