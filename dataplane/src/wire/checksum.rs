//! The Internet checksum (RFC 1071), its pseudo headers, and its incremental update (RFC 1624).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A running one's complement sum over 16-bit words.
///
/// Slices may have any length: one that ends in the middle of a word is continued by the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Sum {
    /// The words as they stand in memory, so in native byte order (RFC 1071 §2, B). Every
    /// `with` folds it to 33 bits or less, so that it cannot overflow.
    words: u64,
    /// Whether an odd number of bytes has gone in.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self {
            words: 0,
            odd: false,
        }
    }

    /// The pseudo header of TCP or UDP over IPv4 (RFC 9293 §3.1): `len` is the length of
    /// transport header and payload in bytes.
    pub fn pseudo_v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, len: u16) -> Self {
        Self::new()
            .with(&from.octets())
            .with(&to.octets())
            .with(&[0, protocol])
            .with(&len.to_be_bytes())
    }

    /// The pseudo header of an upper layer over IPv6 (RFC 8200 §8.1): `len` is the length of
    /// upper-layer header and payload in bytes.
    pub fn pseudo_v6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, len: u32) -> Self {
        Self::new()
            .with(&from.octets())
            .with(&to.octets())
            .with(&len.to_be_bytes())
            .with(&[0, 0, 0, protocol])
    }

    /// The pseudo header for addresses of either family; `None` where the families differ or
    /// `len` does not fit the family's field.
    #[must_use]
    pub fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Option<Self> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Some(Self::pseudo_v4(
                from,
                to,
                protocol,
                u16::try_from(len).ok()?,
            )),
            (IpAddr::V6(from), IpAddr::V6(to)) => Some(Self::pseudo_v6(
                from,
                to,
                protocol,
                u32::try_from(len).ok()?,
            )),
            _ => None,
        }
    }

    /// Goes on with `bytes`.
    pub fn with(self, bytes: &[u8]) -> Self {
        let words = word_sum(bytes);
        // A slice that begins in the middle of a word contributes its bytes swapped.
        let words = if self.odd {
            u64::from(fold(words).swap_bytes())
        } else {
            words
        };
        Self {
            words: u64::from(fold(self.words)) + words,
            odd: self.odd ^ (bytes.len() % 2 == 1),
        }
    }

    /// The sum itself, not complemented: what the kernel expects in the checksum field of a
    /// packet whose checksum it (or the card) completes.
    #[must_use]
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum, as it goes into the header.
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.partial()
    }

    /// The checksum for UDP, where a computed zero is sent as all ones because zero means "none"
    /// (RFC 768).
    #[must_use]
    pub fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The checksum over `bytes`. Over data that contains a correct checksum it is zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().with(bytes).finish()
}

/// `check` after one 16-bit word that it covers went from `old` to `new` (RFC 1624 §3, eqn. 3).
#[must_use]
pub fn update(check: u16, old: u16, new: u16) -> u16 {
    let sum = u64::from(!check) + u64::from(!old) + u64::from(new);
    !fold(sum)
}

/// Adds up native-endian words; a last odd byte counts as if a zero followed.
fn word_sum(bytes: &[u8]) -> u64 {
    // 32-bit words into 64-bit lanes: no carries to look after for 2^32 words, and a shape that
    // the compiler turns into vector code.
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum: u64 = lanes.iter().map(|lane| fold_to_32(*lane)).sum();
    let (words, last) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    if let [byte] = last {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    sum
}

/// 64 bits to at most 33: end-around carries.
const fn fold_to_32(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// 64 bits to 16.
const fn fold(sum: u64) -> u16 {
    let sum = fold_to_32(fold_to_32(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §1, word by word, as plain as can be.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().with(&data).partial(), 0xddf2);
        assert_eq!(checksum(&data), !0xddf2);
    }

    #[test]
    fn ipv4_header() {
        // A header from a capture; its checksum is 0xb861.
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00,
            0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(checksum(&header), 0xb861);
        header[10..12].copy_from_slice(&0xb861u16.to_be_bytes());
        assert_eq!(checksum(&header), 0);
    }

    #[test]
    fn pseudo_headers_refuse_mixed_families() {
        let v4 = IpAddr::from([127, 0, 0, 1]);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert!(Sum::pseudo(v4, v6, 17, 8).is_none());
        assert!(Sum::pseudo(v4, v4, 17, 0x1_0000).is_none());
        assert!(Sum::pseudo(v6, v6, 17, 0x1_0000).is_some());
    }

    #[test]
    fn long_runs_of_ones_do_not_overflow() {
        let bytes = vec![0xff; 1 << 20];
        assert_eq!(checksum(&bytes), reference(&bytes));
    }

    proptest! {
        #[test]
        fn equals_the_reference(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(checksum(&bytes), reference(&bytes));
        }

        #[test]
        fn splits_anywhere(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut sum = Sum::new();
            let mut start = 0;
            for cut in cuts {
                sum = sum.with(&bytes[start..cut]);
                start = cut;
            }
            prop_assert_eq!(sum.with(&bytes[start..]).finish(), reference(&bytes));
        }

        #[test]
        fn incremental_update(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..60),
            at in 0usize..9,
            new in any::<u16>(),
        ) {
            // An all-zero header has two valid checksums; a version field never leaves one.
            bytes[0] = 0x45;
            let at = at * 2 + 2;
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let before = checksum(&bytes);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }

        #[test]
        fn a_filled_in_checksum_verifies(
            from in any::<[u8; 16]>(),
            to in any::<[u8; 16]>(),
            mut datagram in proptest::collection::vec(any::<u8>(), 8..100),
        ) {
            let pseudo =
                Sum::pseudo_v6(from.into(), to.into(), 17, u32::try_from(datagram.len()).unwrap());
            datagram[6..8].fill(0);
            let check = pseudo.with(&datagram).finish_udp();
            datagram[6..8].copy_from_slice(&check.to_be_bytes());
            prop_assert_eq!(pseudo.with(&datagram).finish(), 0);
        }
    }
}
