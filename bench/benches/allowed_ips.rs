//! Allowed-IP look-ups and updates, beside boringtun's table and the crate `prefix-trie`: random
//! addresses that all hit, half of the prefixes hosts, half of them /24 (IPv4) or /64 (IPv6).
//!
//! `ringspan` looks up 64 addresses at once, as the engine does with each batch; `ringspan, one by
//! one` does not, and the others cannot. All take turns in one process. `replace` takes a prefix
//! out and puts it in again: ringspan in a table that a reader holds, which must not see it, the
//! others in a table of their own. Figures go to `target/bench/engine.json`.
//!
//! `cargo bench -p ringspan-bench --bench allowed_ips -- [--quick] [--rounds N] [WORD…]`
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use core::hint::black_box;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::device::allowed_ips::AllowedIps as BoringtunTable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use ringspan::mesh::AllowedIps;
use ringspan_bench::addresses::{inside, prefixes};
use ringspan_bench::options::Options;
use ringspan_bench::report::{self, Row, figure, speed_up};
use ringspan_bench::turns::take_turns;

/// Addresses to choose from: enough that the tables are not asked in a learnt order.
const ADDRESSES: usize = 1 << 18;

/// Addresses that are looked up together.
const BATCH: usize = 64;

/// Look-ups of a turn, and replacements.
const LOOKUPS: usize = 4096;
const REPLACEMENTS: usize = 256;

const COUNTS: [usize; 4] = [10, 1000, 100_000, 1_000_000];

type Owner = Arc<u64>;
/// Does so many operations from a place in the list on.
type Contender<'a> = (&'static str, Box<dyn FnMut(usize) + 'a>);

fn main() -> io::Result<()> {
    let options = Options::from_args(101, 15);
    println!("nanoseconds an operation; ratio: time of boringtun in the same round / own");
    println!(
        "{:<30} {:<22} {:>9} {:>9} {:>9} {:>6} {:>12}",
        "case", "contender", "median", "min", "max", "ratio", "spread"
    );
    let mut rows = Vec::new();
    for v6 in [false, true] {
        for count in COUNTS {
            let family = if v6 { "v6" } else { "v4" };
            let case = format!("allowed_ips/{family}/{count}");
            if options.wants(&case) {
                measure(&case, count, v6, options.rounds, &mut rows);
            }
        }
    }
    let path = report::path("engine");
    report::merge_json(&path, "allowed_ips/", rows)?;
    println!("\nwritten: {}", path.display());
    Ok(())
}

fn measure(case: &str, count: usize, v6: bool, rounds: usize, rows: &mut Vec<Row>) {
    let prefixes = prefixes(count, v6);
    let addresses = inside(&prefixes, ADDRESSES);
    let mut tables = Tables::new(&prefixes);
    let list = Turns {
        case: format!("{case}/lookup"),
        metric: "time per look-up",
        operations: LOOKUPS,
    };
    list.take(rounds, tables.lookups(&addresses), rows);
    // Those of a large table are in no order of places, so that every change is somewhere else.
    let shuffled: Vec<_> = (0..count).map(|n| prefixes[n * 7919 % count]).collect();
    let list = Turns {
        case: format!("{case}/replace"),
        metric: "time per replacement",
        operations: REPLACEMENTS,
    };
    list.take(rounds, tables.replacements(&shuffled), rows);
}

/// One table of figures.
struct Turns {
    case: String,
    metric: &'static str,
    /// In one turn.
    operations: usize,
}

impl Turns {
    fn take(&self, rounds: usize, mut contenders: Vec<Contender<'_>>, rows: &mut Vec<Row>) {
        let mut places = vec![0; contenders.len()];
        let samples = take_turns(rounds, contenders.len(), |at| {
            let place = places[at];
            places[at] += self.operations;
            let begin = Instant::now();
            contenders[at].1(place);
            begin.elapsed().as_nanos() as f64 / self.operations as f64
        });
        let names: Vec<_> = contenders.iter().map(|(name, _)| *name).collect();
        let yardstick = names.iter().position(|name| *name == "boringtun");
        for (name, own) in names.iter().zip(&samples) {
            let row = Row::new(&self.case, *name, self.metric, "ns", own.clone());
            let (ratio, spread) = yardstick.map_or_else(Default::default, |at| {
                let ratio = speed_up(own, &samples[at]);
                let spread = format!("{}-{}", figure(ratio.min), figure(ratio.max));
                (figure(ratio.median), spread)
            });
            println!(
                "{:<30} {name:<22} {:>9.1} {:>9.1} {:>9.1} {ratio:>6} {spread:>12}",
                row.case, row.spread.median, row.spread.min, row.spread.max
            );
            rows.push(row);
        }
    }
}

/// The same prefixes in every contender's table.
struct Tables {
    owner: Owner,
    ours: AllowedIps<Owner>,
    boringtun: BoringtunTable<Owner>,
    map_v4: PrefixMap<Ipv4Net, Owner>,
    map_v6: PrefixMap<Ipv6Net, Owner>,
}

impl Tables {
    fn new(prefixes: &[IpNet]) -> Self {
        let owner = Arc::new(7);
        let mut tables = Self {
            owner: Arc::clone(&owner),
            ours: AllowedIps::default(),
            boringtun: BoringtunTable::new(),
            map_v4: PrefixMap::new(),
            map_v6: PrefixMap::new(),
        };
        for net in prefixes {
            tables.ours.insert(net, Arc::clone(&owner));
            let (address, len) = (net.network(), net.prefix_len().into());
            tables.boringtun.insert(address, len, Arc::clone(&owner));
            match *net {
                IpNet::V4(net) => drop(tables.map_v4.insert(net, Arc::clone(&owner))),
                IpNet::V6(net) => drop(tables.map_v6.insert(net, Arc::clone(&owner))),
            }
        }
        tables
    }

    fn in_map(&self, address: IpAddr) -> Option<&Owner> {
        match address {
            IpAddr::V4(address) => Some(self.map_v4.get_lpm(&address.into())?.1),
            IpAddr::V6(address) => Some(self.map_v6.get_lpm(&address.into())?.1),
        }
    }

    fn lookups<'a>(&'a self, addresses: &'a [IpAddr]) -> Vec<Contender<'a>> {
        fn each<'a>(
            addresses: &'a [IpAddr],
            find: impl Fn(IpAddr) -> u64 + 'a,
        ) -> Box<dyn FnMut(usize) + 'a> {
            Box::new(move |place| {
                let sum: u64 = (0..LOOKUPS)
                    .map(|n| find(black_box(addresses[(place + n) % ADDRESSES])))
                    .sum();
                assert_eq!(black_box(sum), 7 * LOOKUPS as u64, "every address is found");
            })
        }
        let value = |owner: Option<&Owner>| owner.map_or(0, |owner| **owner);
        let together = move |place: usize| {
            let mut sum = 0;
            for batch in (0..LOOKUPS).step_by(BATCH) {
                let first = (place + batch) % ADDRESSES;
                let mut owners = [None; BATCH];
                let batch = black_box(&addresses[first..first + BATCH]);
                self.ours.lookup_many(batch, &mut owners);
                sum += owners.into_iter().map(value).sum::<u64>();
            }
            assert_eq!(black_box(sum), 7 * LOOKUPS as u64, "every address is found");
        };
        vec![
            ("ringspan", Box::new(together)),
            (
                "ringspan, one by one",
                each(addresses, move |address| value(self.ours.lookup(address))),
            ),
            (
                "boringtun",
                each(addresses, move |address| {
                    value(self.boringtun.find(address))
                }),
            ),
            (
                "prefix-trie",
                each(addresses, move |address| value(self.in_map(address))),
            ),
        ]
    }

    fn replacements<'a>(&'a mut self, prefixes: &'a [IpNet]) -> Vec<Contender<'a>> {
        let owner = &self.owner;
        let of = move |place: usize| {
            (place..place + REPLACEMENTS).map(move |n| prefixes[n % prefixes.len()])
        };
        let ours = &mut self.ours;
        let (map_v4, map_v6) = (&mut self.map_v4, &mut self.map_v6);
        let boringtun = &mut self.boringtun;
        vec![
            (
                "ringspan",
                Box::new(move |place| {
                    for net in of(place) {
                        // What workers hold meanwhile.
                        let published = ours.clone();
                        ours.remove(&net);
                        ours.insert(&net, Arc::clone(owner));
                        drop(black_box(published));
                    }
                }),
            ),
            (
                "prefix-trie",
                Box::new(move |place| {
                    for net in of(place) {
                        match net {
                            IpNet::V4(net) => {
                                map_v4.remove(&net);
                                map_v4.insert(net, Arc::clone(owner));
                            }
                            IpNet::V6(net) => {
                                map_v6.remove(&net);
                                map_v6.insert(net, Arc::clone(owner));
                            }
                        }
                    }
                }),
            ),
            (
                // It can take out by owner only, which walks through all: this overwrites.
                "boringtun",
                Box::new(move |place| {
                    for net in of(place) {
                        let (address, len) = (net.network(), net.prefix_len().into());
                        boringtun.insert(address, len, Arc::clone(owner));
                    }
                }),
            ),
        ]
    }
}
