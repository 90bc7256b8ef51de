//! Range sets against a bitmap. The input is a script of insertions, removals and operations on
//! two sets, within the last 64 addresses of each family, where a carry would get lost.
#![no_main]

use std::net::IpAddr;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use ringspan::control::kubespan::RangeSet;

const BITS: u32 = 64;

/// One bit an address, for each family.
type Bitmap = [u64; 2];

fn address(family: usize, offset: u32) -> IpAddr {
    match family {
        0 => IpAddr::V4((u32::MAX - (BITS - 1) + offset).into()),
        _ => IpAddr::V6((u128::MAX - u128::from(BITS - 1 - offset)).into()),
    }
}

fn block(family: usize, offset: u32, size: u32) -> (IpNet, u64) {
    let most = if family == 0 { 32 } else { 128 };
    let net = IpNet::new(address(family, offset), most - size as u8).expect("in range");
    let width = 1 << size;
    let ones = u64::MAX >> (BITS - width);
    (net, ones << (offset / width * width))
}

fn bitmap(set: &RangeSet) -> Bitmap {
    [0, 1].map(|family| {
        (0..BITS)
            .filter(|&offset| set.contains(address(family, offset)))
            .fold(0, |map, offset| map | 1 << offset)
    })
}

/// How many aligned blocks make up exactly `map`.
fn fewest(map: u64, first: u32, width: u32) -> usize {
    let ones = (u64::MAX >> (BITS - width)) << first;
    match map & ones {
        0 => 0,
        here if here == ones => 1,
        _ => fewest(map, first, width / 2) + fewest(map, first + width / 2, width / 2),
    }
}

fuzz_target!(|script: &[u8]| {
    let mut sets = [RangeSet::new(), RangeSet::new()];
    let mut maps: [Bitmap; 2] = [[0; 2]; 2];
    for step in script.chunks_exact(2).take(256) {
        let [operation, argument] = [u32::from(step[0]), u32::from(step[1])];
        let one = (operation & 1) as usize;
        let family = (operation >> 1 & 1) as usize;
        let (net, mask) = block(family, argument % BITS, (operation >> 4) % 7);
        let other = sets[1 - one].clone();
        match operation >> 2 & 3 {
            0 => {
                sets[one].insert_net(&net);
                maps[one][family] |= mask;
            }
            1 => {
                sets[one].remove_net(&net);
                maps[one][family] &= !mask;
            }
            2 => {
                sets[one].union(&other);
                maps[one] = [0, 1].map(|f| maps[one][f] | maps[1 - one][f]);
            }
            _ => {
                sets[one].subtract(&other);
                maps[one] = [0, 1].map(|f| maps[one][f] & !maps[1 - one][f]);
            }
        }
    }
    for (set, map) in sets.iter().zip(maps) {
        assert_eq!(bitmap(set), map);
        let cover = set.prefixes();
        assert!(cover.is_sorted());
        let least: usize = map.iter().map(|&map| fewest(map, 0, BITS)).sum();
        assert_eq!(cover.len(), least);
        assert_eq!(&cover.iter().collect::<RangeSet>(), set);
    }
    let common = (0..2).any(|family| maps[0][family] & maps[1][family] != 0);
    assert_eq!(sets[0].overlaps(&sets[1]), common);
    assert_eq!(sets[0] == sets[1], maps[0] == maps[1]);
});
