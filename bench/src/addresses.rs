//! Prefixes and addresses without pattern, the same each time.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// SplitMix64: reproducible and good enough to place prefixes.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn address(&mut self, v6: bool) -> IpAddr {
        if v6 {
            let bits = u128::from(self.next()) << 64 | u128::from(self.next());
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(self.next() as u32))
        }
    }
}

/// `count` prefixes, half of them hosts, half of them /24 (IPv4) or /64 (IPv6), in order.
#[must_use]
pub fn prefixes(count: usize, v6: bool) -> Vec<IpNet> {
    let mut random = Random(count as u64);
    let mut all = BTreeSet::new();
    while all.len() < count {
        let len = match (all.len() % 2, v6) {
            (0, false) => 32,
            (0, true) => 128,
            (_, false) => 24,
            (_, true) => 64,
        };
        all.extend(IpNet::new(random.address(v6), len).map(|net| net.trunc()));
    }
    all.into_iter().collect()
}

/// `count` addresses, each inside of one of `prefixes`, in no order.
///
/// # Panics
/// Where there is no prefix.
#[must_use]
pub fn inside(prefixes: &[IpNet], count: usize) -> Vec<IpAddr> {
    let mut random = Random(1);
    let mut address = || {
        let net = prefixes[random.next() as usize % prefixes.len()];
        let host = random.next();
        match net {
            IpNet::V4(net) => {
                let host = host as u32 & net.hostmask().to_bits();
                IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | host))
            }
            IpNet::V6(net) => {
                let host = u128::from(host) & net.hostmask().to_bits();
                IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | host))
            }
        }
    };
    (0..count).map(|_| address()).collect()
}
