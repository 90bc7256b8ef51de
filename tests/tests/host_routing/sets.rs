//! Changes of the routed prefixes, against a model.

use std::collections::BTreeSet;

use ipnet::IpNet;
use ringspan::Outer;
use ringspan_tests::harness::TestResult;

use crate::bed::{Bed, Member, Result, nft, nft_output};

/// What the sets hold, as prefixes.
fn held(bed: &Bed) -> Result<BTreeSet<IpNet>> {
    let mut held = BTreeSet::new();
    for set in ["routed4", "routed6"] {
        let text = nft_output(&bed.host, &["list", "set", "inet", "ringspan", set])?;
        let Some((_, elements)) = text.split_once("elements = {") else {
            continue;
        };
        let elements = elements.split('}').next().unwrap_or_default();
        for element in elements.split(',').map(str::trim) {
            let prefix = element
                .parse()
                .or_else(|_| element.parse::<std::net::IpAddr>().map(IpNet::from))?;
            held.insert(prefix);
        }
    }
    Ok(held)
}

/// A small generator: the same changes at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }

    fn prefix(&mut self) -> IpNet {
        // Few addresses, so that prefixes often contain each other or lie side by side.
        let address = self.below(64) as u32;
        let text = if self.below(2) == 0 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 | address << 2);
            format!("{address}/{}", 24 + self.below(9))
        } else {
            format!("2001:db8::{:x}/{}", address << 2, 120 + self.below(9))
        };
        text.parse::<IpNet>().expect("a prefix").trunc()
    }
}

pub(crate) fn follow_any_change() -> TestResult {
    let bed = Bed::new()?;
    let member = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let mut numbers = Numbers(1);
    for round in 0..60 {
        let count = numbers.below(24);
        let mut prefixes: Vec<IpNet> = (0..count).map(|_| numbers.prefix()).collect();
        if round == 30 {
            prefixes = vec!["0.0.0.0/0".parse()?, "::/0".parse()?];
        }
        if round == 40 {
            // Somebody else has interfered: the next change has to do without what it knows.
            nft(&bed.host, "flush set inet ringspan routed4")?;
            prefixes = vec!["192.0.2.0/24".parse()?];
        }
        member.routing.set_routed(&prefixes)?;
        let model: BTreeSet<IpNet> = IpNet::aggregate(&prefixes).into_iter().collect();
        assert_eq!(held(&bed)?, model, "round {round}: {prefixes:?}");
    }
    let many: Vec<IpNet> = (0..20_000_u32)
        .map(|n| IpNet::new(std::net::Ipv4Addr::from(0x0b00_0000 + (n << 9)).into(), 24))
        .collect::<std::result::Result<_, _>>()?;
    member.routing.set_routed(&many)?;
    assert_eq!(held(&bed)?.len(), many.len());
    member.routing.set_routed(&many[1..])?;
    assert_eq!(held(&bed)?.len(), many.len() - 1);
    member.close()
}
