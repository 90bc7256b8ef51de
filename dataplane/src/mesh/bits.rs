//! The bit strings that a [`Trie`](super::trie::Trie) is keyed by.

/// Bits that a node consumes.
pub(super) const STRIDE: u8 = 6;

/// A bit string of fixed length: an address or an index, first bit foremost.
pub(super) trait Key: Copy + Eq {
    /// Its length in bits.
    const BITS: u8;

    /// The six bits from `depth` on; whatever is past the end is arbitrary.
    fn chunk(self, depth: u8) -> u64;

    /// How many leading bits are the same.
    fn common(self, other: Self) -> u8;

    /// The first `len` bits, followed by zeros.
    fn truncate(self, len: u8) -> Self;
}

impl Key for u32 {
    const BITS: u8 = 32;

    fn chunk(self, depth: u8) -> u64 {
        u64::from(self.rotate_left((depth + STRIDE).into()) & 63)
    }

    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn truncate(self, len: u8) -> Self {
        self & !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }
}

/// 128 bits in halves: what is needed of an IPv6 address is nearly always in the first one, and
/// slots stay aligned to 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Halves {
    high: u64,
    low: u64,
}

impl From<u128> for Halves {
    fn from(bits: u128) -> Self {
        Self {
            high: (bits >> 64) as u64,
            low: bits as u64,
        }
    }
}

impl From<Halves> for u128 {
    fn from(halves: Halves) -> Self {
        Self::from(halves.high) << 64 | Self::from(halves.low)
    }
}

impl Key for Halves {
    const BITS: u8 = 128;

    fn chunk(self, depth: u8) -> u64 {
        let chunk = match depth {
            0..=58 => self.high >> (58 - depth),
            59..=63 => self.high << (depth - 58) | self.low >> (64 + 58 - depth),
            _ => self.low.rotate_left(u32::from(depth - 64 + STRIDE)),
        };
        chunk & 63
    }

    fn common(self, other: Self) -> u8 {
        match (self.high ^ other.high).leading_zeros() as u8 {
            64 => 64 + (self.low ^ other.low).leading_zeros() as u8,
            common => common,
        }
    }

    fn truncate(self, len: u8) -> Self {
        let mask = !u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
        Self::from(u128::from(self) & mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_halves_are_those_of_the_whole() {
        let bits = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128;
        for depth in (0..=120).step_by(usize::from(STRIDE)) {
            let expected = (bits >> (122 - depth)) as u64 & 63;
            assert_eq!(Halves::from(bits).chunk(depth as u8), expected, "{depth}");
        }
    }
}
