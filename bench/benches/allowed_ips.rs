//! Allowed-IP look-ups and updates, beside boringtun's table: random probes that all hit, half of
//! the prefixes hosts, half of them /24 (IPv4) or /64 (IPv6).

use core::hint::black_box;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use boringtun::device::allowed_ips::AllowedIps as BoringtunTable;
use boringtun::device::peer::AllowedIP;
use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use ringspan::mesh::AllowedIps;

/// Probes in one go: enough that the tables are not probed in a learnt order.
const PROBES: usize = 1 << 16;

/// SplitMix64: reproducible and good enough to place prefixes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
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

fn prefixes(count: usize, v6: bool) -> Vec<IpNet> {
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

/// Addresses inside of random prefixes.
fn probes(prefixes: &[IpNet]) -> Vec<IpAddr> {
    let mut random = Random(1);
    let mut probe = || {
        let net = prefixes.get(random.next() as usize % prefixes.len());
        match (net, random.next()) {
            (Some(IpNet::V4(net)), low) => {
                let host = low as u32 & net.hostmask().to_bits();
                IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | host))
            }
            (Some(IpNet::V6(net)), low) => {
                let host = u128::from(low) & net.hostmask().to_bits();
                IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | host))
            }
            (None, _) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    };
    (0..PROBES).map(|_| probe()).collect()
}

fn benches(criterion: &mut Criterion) {
    for v6 in [false, true] {
        for count in [10, 1000, 100_000, 1_000_000] {
            let family = if v6 { "v6" } else { "v4" };
            let mut group = criterion.benchmark_group(format!("allowed_ips/{family}/{count}"));
            let prefixes = prefixes(count, v6);
            let probes = probes(&prefixes);
            let owner = Arc::new(7_u64);

            let mut ours = AllowedIps::default();
            for net in &prefixes {
                ours.insert(net, Arc::clone(&owner));
            }
            let theirs: BoringtunTable<Arc<u64>> = prefixes
                .iter()
                .map(|net| AllowedIP {
                    addr: net.network(),
                    cidr: net.prefix_len(),
                })
                .collect::<Vec<_>>()
                .iter()
                .map(|ip| (ip, Arc::clone(&owner)))
                .collect();

            let mut turn = probes.iter().cycle();
            group.bench_function("lookup/ringspan", |bencher| {
                bencher.iter(|| {
                    let probe = turn.next().copied().map(black_box);
                    probe
                        .and_then(|probe| ours.lookup(probe))
                        .map(|owner| **owner)
                });
            });
            let mut turn = probes.iter().cycle();
            group.bench_function("lookup/boringtun", |bencher| {
                bencher.iter(|| {
                    let probe = turn.next().copied().map(black_box);
                    probe
                        .and_then(|probe| theirs.find(probe))
                        .map(|owner| **owner)
                });
            });

            // One change and its publication: a clone is kept, as workers would.
            let mut turn = prefixes.iter().cycle().step_by(7919);
            group.bench_function("replace one in a published table/ringspan", |bencher| {
                bencher.iter(|| {
                    let published = ours.clone();
                    if let Some(net) = turn.next() {
                        ours.remove(net);
                        ours.insert(net, Arc::clone(&owner));
                    }
                    published
                });
            });
            group.finish();
        }
    }
}

criterion_group!(all, benches);
criterion_main!(all);
