//! Allowed IPs: which peer a destination belongs to, and which peer may use a source.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::bits::Halves;
use super::trie::Trie;

/// Longest-prefix-match tables for both families (WireGuard paper §2, "cryptokey routing").
///
/// Persistent: a clone costs nothing and an update copies only its path, so that control can
/// change a clone of what workers are reading and publish it. A look-up takes no lock, allocates
/// nothing and touches no reference count.
#[derive(Clone, Debug)]
pub struct AllowedIps<T> {
    v4: Trie<u32, T>,
    v6: Trie<Halves, T>,
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self {
            v4: Trie::default(),
            v6: Trie::default(),
        }
    }
}

impl<T: Clone> AllowedIps<T> {
    /// The owner of the longest prefix that holds `address`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    /// [`AllowedIps::lookup`] in the IPv4 table.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<&T> {
        self.v4.lookup(address.to_bits())
    }

    /// [`AllowedIps::lookup`] in the IPv6 table.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<&T> {
        self.v6.lookup(address.to_bits().into())
    }

    /// [`AllowedIps::lookup`] of each of `addresses`, into the same place of `owners`, which is at
    /// least as long. In large tables much faster than one after the other: the look-ups wait for
    /// memory together.
    #[inline]
    pub fn lookup_many<'a>(&'a self, addresses: &[IpAddr], owners: &mut [Option<&'a T>]) {
        let mut found = |number: usize, owner| {
            if let Some(place) = owners.get_mut(number) {
                *place = owner;
            }
        };
        let v4 = addresses.iter().enumerate().filter_map(|(n, address)| {
            let IpAddr::V4(address) = address else {
                return None;
            };
            Some((n, address.to_bits()))
        });
        self.v4.lookup_many(v4, &mut found);
        let v6 = addresses.iter().enumerate().filter_map(|(n, address)| {
            let IpAddr::V6(address) = address else {
                return None;
            };
            Some((n, address.to_bits().into()))
        });
        self.v6.lookup_many(v6, &mut found);
    }

    /// The owner of exactly `prefix`. Host bits are ignored, here and below.
    #[must_use]
    pub fn owner(&self, prefix: &IpNet) -> Option<&T> {
        match prefix {
            IpNet::V4(net) => self.v4.exact(net.network().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self
                .v6
                .exact(net.network().to_bits().into(), net.prefix_len()),
        }
    }

    /// Gives `prefix` to `owner`; returns whom it was taken from.
    pub fn insert(&mut self, prefix: &IpNet, owner: T) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self
                .v4
                .insert(net.network().to_bits(), net.prefix_len(), owner),
            IpNet::V6(net) => {
                let bits = net.network().to_bits().into();
                self.v6.insert(bits, net.prefix_len(), owner)
            }
        }
    }

    /// Removes exactly `prefix`; returns whose it was.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(net.network().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self
                .v6
                .remove(net.network().to_bits().into(), net.prefix_len()),
        }
    }

    /// All prefixes with their owners, IPv4 first, otherwise in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self.v4.iter().map(|(bits, len, owner)| {
            let net = Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len);
            (IpNet::V4(net), owner)
        });
        let v6 = self.v6.iter().map(|(bits, len, owner)| {
            let net = Ipv6Net::new_assert(Ipv6Addr::from_bits(bits.into()), len);
            (IpNet::V6(net), owner)
        });
        v4.chain(v6)
    }

    /// How many prefixes there are in both tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no prefix at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The same by walking through everything.
    #[derive(Clone, Default, Debug)]
    struct Model(BTreeMap<IpNet, u32>);

    impl Model {
        fn lookup(&self, address: IpAddr) -> Option<u32> {
            let holders = self.0.iter().filter(|(net, _)| net.contains(&address));
            holders
                .max_by_key(|(net, _)| net.prefix_len())
                .map(|(_, owner)| *owner)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(IpNet, u32),
        Remove(IpNet),
        /// Take a clone, to be found unchanged at the end.
        Keep,
    }

    /// Addresses that share many bits, so that prefixes nest and paths fork everywhere.
    fn address() -> impl Strategy<Value = IpAddr> {
        let crowded_v4 = (0..4_u32, 0..32_u32).prop_map(|(n, shift)| 0x0a00_0000 ^ (n << shift));
        let crowded_v6 =
            (0..4_u128, 0..128_u32).prop_map(|(n, shift)| (0xfd << 120) ^ (n << shift));
        prop_oneof![
            crowded_v4.prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            crowded_v6.prop_map(|bits| IpAddr::V6(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0..=128_u8).prop_map(|(address, len)| {
            let len = if address.is_ipv4() { len % 33 } else { len };
            IpNet::new(address, len).unwrap().trunc()
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (prefix(), any::<u32>()).prop_map(|(net, owner)| Step::Insert(net, owner)),
            4 => prefix().prop_map(Step::Remove),
            1 => Just(Step::Keep),
        ]
    }

    fn assert_same(table: &AllowedIps<u32>, model: &Model, probes: &[IpAddr]) {
        assert_eq!(table.len(), model.0.len());
        assert_eq!(
            table
                .iter()
                .map(|(net, owner)| (net, *owner))
                .collect::<BTreeMap<_, _>>(),
            model.0
        );
        let inside = model
            .0
            .keys()
            .flat_map(|net| [net.network(), net.broadcast()]);
        let addresses: Vec<_> = inside.chain(probes.iter().copied()).collect();
        // What was there before is overwritten.
        let mut owners = vec![Some(&0); addresses.len()];
        table.lookup_many(&addresses, &mut owners);
        for (address, owner) in addresses.into_iter().zip(owners) {
            let expected = model.lookup(address);
            assert_eq!(table.lookup(address).copied(), expected, "{address}");
            assert_eq!(owner.copied(), expected, "{address}, beside others");
        }
    }

    proptest! {
        #[test]
        fn matches_a_naive_table(
            steps in prop::collection::vec(step(), 0..120),
            probes in prop::collection::vec(address(), 0..40),
        ) {
            let (mut table, mut model) = (AllowedIps::default(), Model::default());
            let mut kept = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(net, owner) => {
                        assert_eq!(table.insert(&net, owner), model.0.insert(net, owner));
                        assert_eq!(table.owner(&net), Some(&owner));
                    }
                    Step::Remove(net) => {
                        // Mostly one that is there.
                        let nearby = model.0.range(net..).next().map_or(net, |(net, _)| *net);
                        for net in [nearby, net] {
                            assert_eq!(table.remove(&net), model.0.remove(&net));
                            assert_eq!(table.owner(&net), None);
                        }
                    }
                    Step::Keep => kept.push((table.clone(), model.clone())),
                }
            }
            kept.push((table, model));
            for (table, model) in &kept {
                assert_same(table, model, &probes);
            }
        }
    }

    #[test]
    fn removing_everything_leaves_nothing() {
        let nets: Vec<IpNet> = (0..2000_u32)
            .map(|n| {
                IpNet::new(
                    IpAddr::V4(n.wrapping_mul(0x9e37_79b9).into()),
                    8 + n as u8 % 25,
                )
            })
            .map(|net| net.unwrap().trunc())
            .collect();
        let mut table = AllowedIps::default();
        for net in &nets {
            table.insert(net, ());
        }
        assert!(table.len() > 1500);
        for net in &nets {
            table.remove(net);
        }
        assert!(table.is_empty());
        assert_eq!(table.iter().count(), 0);
        assert_eq!(table.lookup(IpAddr::V4(Ipv4Addr::LOCALHOST)), None);
    }

    #[test]
    fn the_most_specific_owner_wins_even_against_another_peer() {
        let mut table = AllowedIps::default();
        table.insert(&"0.0.0.0/0".parse().unwrap(), "gateway");
        table.insert(&"10.0.0.0/8".parse().unwrap(), "site");
        table.insert(&"10.1.2.3/32".parse().unwrap(), "host");
        table.insert(&"::/0".parse().unwrap(), "gateway6");
        let owner = |address: &str| table.lookup(address.parse().unwrap()).copied();
        assert_eq!(owner("10.1.2.3"), Some("host"));
        assert_eq!(owner("10.1.2.2"), Some("site"));
        assert_eq!(owner("11.1.2.3"), Some("gateway"));
        assert_eq!(owner("fd00::1"), Some("gateway6"));
    }
}
