//! Sets of addresses, kept as ranges: union, difference, and the fewest prefixes that cover one.

use core::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A set of IPv4 and IPv6 addresses. The families are apart: an IPv4-mapped IPv6 address is an
/// IPv6 address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeSet {
    v4: Ranges,
    v6: Ranges,
}

/// Both ends belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    first: u128,
    last: u128,
}

/// Ascending, disjoint, and with a gap between any two.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Ranges(Vec<Range>);

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address.
    pub fn insert(&mut self, address: IpAddr) {
        self.insert_net(&address.into());
    }

    /// Adds all addresses of a prefix, whatever its host bits.
    pub fn insert_net(&mut self, net: &IpNet) {
        let (ranges, range) = self.family(net);
        ranges.insert(range);
    }

    /// Takes all addresses of a prefix out.
    pub fn remove_net(&mut self, net: &IpNet) {
        let (ranges, range) = self.family(net);
        ranges.remove(range);
    }

    /// Adds all of `other`.
    pub fn union(&mut self, other: &Self) {
        other.v4.0.iter().for_each(|&range| self.v4.insert(range));
        other.v6.0.iter().for_each(|&range| self.v6.insert(range));
    }

    /// Takes all of `other` out.
    pub fn subtract(&mut self, other: &Self) {
        self.v4.subtract(&other.v4);
        self.v6.subtract(&other.v6);
    }

    /// Whether `address` is in the set.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ranges, range) = match address {
            IpAddr::V4(address) => (&self.v4, Range::single(address.to_bits().into())),
            IpAddr::V6(address) => (&self.v6, Range::single(address.to_bits())),
        };
        ranges.overlaps(range)
    }

    /// Whether some address is in both sets.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.v4.overlaps_any(&other.v4) || self.v6.overlaps_any(&other.v6)
    }

    /// Whether there is no address in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    /// The fewest prefixes that make up the set, IPv4 before IPv6, ascending.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        let mut cover = Vec::new();
        for range in &self.v4.0 {
            range.cover(32, &mut |first, len| {
                // Within 32 bits, as everything that came in was.
                let first = u32::try_from(first).unwrap_or(u32::MAX);
                cover.extend(Ipv4Net::new(first.into(), len).map(IpNet::V4));
            });
        }
        for range in &self.v6.0 {
            range.cover(128, &mut |first, len| {
                cover.extend(Ipv6Net::new(first.into(), len).map(IpNet::V6));
            });
        }
        cover
    }

    fn family(&mut self, net: &IpNet) -> (&mut Ranges, Range) {
        match net {
            IpNet::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                let (first, last) = (first.into(), last.into());
                (&mut self.v4, Range { first, last })
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                (&mut self.v6, Range { first, last })
            }
        }
    }
}

impl<'a> FromIterator<&'a IpNet> for RangeSet {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(nets: I) -> Self {
        let mut set = Self::new();
        nets.into_iter().for_each(|net| set.insert_net(net));
        set
    }
}

impl Ranges {
    fn insert(&mut self, mut new: Range) {
        // Those that touch or adjoin the new one become one with it.
        let from = self
            .0
            .partition_point(|range| range.last.checked_add(1).is_some_and(|end| end < new.first));
        let to = self.0.partition_point(|range| {
            new.last
                .checked_add(1)
                .is_none_or(|after| range.first <= after)
        });
        for range in self.0.get(from..to).unwrap_or_default() {
            new.first = new.first.min(range.first);
            new.last = new.last.max(range.last);
        }
        self.0.splice(from..to.max(from), [new]);
    }

    fn remove(&mut self, gone: Range) {
        let touched = self.touched(gone);
        let cut = self.0.get(touched.clone()).unwrap_or_default();
        let (Some(&low), Some(&high)) = (cut.first(), cut.last()) else {
            return;
        };
        let before = (low.first < gone.first).then(|| Range {
            first: low.first,
            last: gone.first - 1,
        });
        let after = (high.last > gone.last).then(|| Range {
            first: gone.last + 1,
            last: high.last,
        });
        self.0.splice(touched, before.into_iter().chain(after));
    }

    fn subtract(&mut self, other: &Self) {
        other.0.iter().for_each(|&range| self.remove(range));
    }

    fn overlaps(&self, range: Range) -> bool {
        !self.touched(range).is_empty()
    }

    fn overlaps_any(&self, other: &Self) -> bool {
        let (few, many) = if self.0.len() < other.0.len() {
            (self, other)
        } else {
            (other, self)
        };
        few.0.iter().any(|&range| many.overlaps(range))
    }

    /// Which ranges have something in common with `range`.
    fn touched(&self, range: Range) -> core::ops::Range<usize> {
        let from = self.0.partition_point(|own| own.last < range.first);
        let to = self.0.partition_point(|own| own.first <= range.last);
        from..to.max(from)
    }
}

impl Range {
    const fn single(address: u128) -> Self {
        Self {
            first: address,
            last: address,
        }
    }

    /// Shows the fewest prefixes that make up the range, by first address and length, in a space
    /// of `bits` bits.
    fn cover(self, bits: u32, show: &mut dyn FnMut(u128, u8)) {
        let mut first = self.first;
        loop {
            // The largest block that begins here and ends in time.
            let mut size = first.trailing_zeros().min(bits);
            while block_end(first, size) > self.last {
                size -= 1;
            }
            show(first, u8::try_from(bits - size).unwrap_or(u8::MAX));
            match block_end(first, size).checked_add(1) {
                Some(next) if next <= self.last => first = next,
                _ => return,
            }
        }
    }
}

/// The last address of the block of 2^`size` addresses at `first`.
fn block_end(first: u128, size: u32) -> u128 {
    first | 1_u128.checked_shl(size).unwrap_or(0).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn set(nets: &[&str]) -> RangeSet {
        nets.iter()
            .map(|text| net(text))
            .collect::<Vec<_>>()
            .iter()
            .collect()
    }

    fn texts(set: &RangeSet) -> Vec<String> {
        set.prefixes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn adjacent_prefixes_become_one() {
        assert_eq!(
            texts(&set(&["10.0.0.5/32", "10.0.0.4/32"])),
            ["10.0.0.4/31"]
        );
        assert_eq!(
            texts(&set(&["10.0.1.0/24", "10.0.2.0/24"])),
            ["10.0.1.0/24", "10.0.2.0/24"]
        );
        assert_eq!(texts(&set(&["10.244.3.1/24"])), ["10.244.3.0/24"]);
    }

    #[test]
    fn whole_spaces_have_one_prefix() {
        let mut all = set(&["0.0.0.0/1", "::/0", "128.0.0.0/1"]);
        assert_eq!(texts(&all), ["0.0.0.0/0", "::/0"]);
        all.remove_net(&net("::/128"));
        assert_eq!(texts(&all).len(), 129);
        all.remove_net(&net("0.0.0.0/0"));
        all.remove_net(&net("::/0"));
        assert!(all.is_empty());
    }

    #[test]
    fn families_are_apart() {
        let mapped = set(&["::ffff:10.0.0.0/104"]);
        assert!(!mapped.contains("10.0.0.1".parse().unwrap()));
        assert!(!mapped.overlaps(&set(&["0.0.0.0/0"])));
        assert!(mapped.contains("::ffff:10.0.0.1".parse().unwrap()));
    }

    /// The last 64 addresses of each family, one bit each: no carry may be lost at the end.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Bitmap([u64; 2]);

    #[derive(Clone, Debug)]
    struct Block {
        family: usize,
        first: u32,
        size: u32,
    }

    impl Block {
        fn net(&self) -> IpNet {
            let len = 6 - u8::try_from(self.size).unwrap();
            let offset = self.first;
            if self.family == 0 {
                let address = u32::MAX - 63 + offset;
                IpNet::V4(Ipv4Net::new(address.into(), 26 + len).unwrap())
            } else {
                let address = u128::MAX - 63 + u128::from(offset);
                IpNet::V6(Ipv6Net::new(address.into(), 122 + len).unwrap())
            }
        }

        /// Host bits are ignored.
        fn mask(&self) -> u64 {
            let size = 1 << self.size;
            let ones = if size == 64 {
                u64::MAX
            } else {
                (1 << size) - 1
            };
            ones << (self.first / size * size)
        }
    }

    fn block() -> impl Strategy<Value = Block> {
        (0..2_usize, 0..64_u32, 0..=6_u32).prop_map(|(family, first, size)| Block {
            family,
            first,
            size,
        })
    }

    fn build(steps: &[(bool, Block)]) -> (RangeSet, Bitmap) {
        let (mut set, mut model) = (RangeSet::new(), Bitmap::default());
        for (add, block) in steps {
            if *add {
                set.insert_net(&block.net());
                model.0[block.family] |= block.mask();
            } else {
                set.remove_net(&block.net());
                model.0[block.family] &= !block.mask();
            }
        }
        (set, model)
    }

    fn bitmap(set: &RangeSet) -> Bitmap {
        let mut model = Bitmap::default();
        for offset in 0..64_u32 {
            let v4 = IpAddr::V4((u32::MAX - 63 + offset).into());
            let v6 = IpAddr::V6((u128::MAX - 63 + u128::from(offset)).into());
            model.0[0] |= u64::from(set.contains(v4)) << offset;
            model.0[1] |= u64::from(set.contains(v6)) << offset;
        }
        model
    }

    /// How many aligned blocks it takes to cover exactly the bits of `map`.
    fn fewest(map: u64, first: u32, size: u32) -> usize {
        let ones = if size == 64 {
            u64::MAX
        } else {
            ((1_u64 << size) - 1) << first
        };
        match map & ones {
            0 => 0,
            here if here == ones => 1,
            _ => fewest(map, first, size / 2) + fewest(map, first + size / 2, size / 2),
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, Block)>> {
        prop::collection::vec((prop::bool::weighted(0.6), block()), 0..24)
    }

    proptest! {
        #[test]
        fn matches_a_bitmap(a in steps(), b in steps()) {
            let ((a, in_a), (b, in_b)) = (build(&a), build(&b));
            prop_assert_eq!(bitmap(&a), in_a);
            prop_assert_eq!(a == b, in_a == in_b, "one form for one set");

            let cover = a.prefixes();
            prop_assert_eq!(cover.len(), in_a.0.iter().map(|&map| fewest(map, 0, 64)).sum::<usize>());
            prop_assert!(cover.is_sorted());
            prop_assert_eq!(&cover.iter().collect::<RangeSet>(), &a);

            let mut both = a.clone();
            both.union(&b);
            prop_assert_eq!(bitmap(&both).0, [in_a.0[0] | in_b.0[0], in_a.0[1] | in_b.0[1]]);
            let common = [in_a.0[0] & in_b.0[0], in_a.0[1] & in_b.0[1]];
            prop_assert_eq!(a.overlaps(&b), common != [0, 0]);
            let mut rest = a;
            rest.subtract(&b);
            prop_assert_eq!(bitmap(&rest).0, [in_a.0[0] & !in_b.0[0], in_a.0[1] & !in_b.0[1]]);
            prop_assert!(!rest.overlaps(&b));
        }
    }
}
