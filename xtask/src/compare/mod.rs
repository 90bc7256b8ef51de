//! Throughput, latency, CPU and memory of `ringspan` beside other user-space implementations, in
//! one run: `cargo xtask compare`.
//!
//! Two namespaces, one veth pair, one daemon at each end. All contenders take their turn within
//! each round, so that what else the machine does falls on all alike: figures of two runs say
//! little of each other, ratios within one run say what they seem to.

mod bed;
mod chart;
mod contender;
mod load;
mod machine;
mod measure;
mod report;
mod resources;

use std::path::PathBuf;

use clap::ValueEnum as _;
use indicatif::{ProgressBar, ProgressStyle};
use ringspan_tests::privilege::{self, Need};

use self::bed::{Link, Pair};
use self::contender::{Contender, Installed};
use self::measure::{Measure, Times};
use self::report::Samples;
use crate::interrupt::Interrupt;
use crate::{Result, workspace};

/// Options of `cargo xtask compare`
#[derive(clap::Args)]
#[command(after_help = "\
Names for --only, of three kinds; a kind that is not named is not narrowed:
  contenders  ringspan-udp ringspan-xdp ringspan-xdp-udp wireguard-go wireguard-go-sid
              boringtun gotatun
  links       default (veth as it is), gro (no segmentation, GRO on), off (no offload at all)
  measures    rtt tcp1 tcp4 rtt-load udp1372 udp64")]
pub(crate) struct Args {
    /// How often each contender takes its turn, 1 to 99
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    repeats: u8,
    /// A look only: short measurements, two repeats, the default link, charts beside the JSON
    #[arg(long)]
    quick: bool,
    /// Only these contenders, links and measures
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Peers that each daemon is configured with; one of them talks
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 100],
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    peers: Vec<u16>,
    /// Another ringspan binary to run beside this tree's, to compare before and after
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
}

/// What is run: every combination.
struct Plan {
    contenders: Vec<Installed>,
    cases: Vec<Case>,
    measures: Vec<Measure>,
    repeats: u32,
    times: Times,
}

/// What is the same for all contenders of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) link: Link,
    pub(crate) peers: u16,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let needs = [Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp];
    if let Some(reason) = privilege::missing(&needs) {
        return Err(format!("the comparison {reason}").into());
    }
    let plan = plan(args)?;
    let machine = machine::Machine::read()?;
    println!("{machine}");
    for contender in &plan.contenders {
        println!("  {:<18} {}", contender.name(), contender.version());
    }
    let interrupt = Interrupt::catch()?;
    let samples = measure_all(&plan, &interrupt)?;
    for failure in samples.failures() {
        eprintln!("failed: {failure}");
    }
    if samples.is_empty() {
        return Err("nothing was measured".into());
    }
    let rows = samples.rows();
    report::print(&samples);
    let bench = workspace::target().join("bench");
    report::write_json(&bench.join("compare.json"), &rows)?;
    // The documentation shows whole runs only.
    let whole = !args.quick && args.only.is_empty() && args.before.is_none() && !interrupt.came();
    let charts = if whole {
        workspace::root().join("docs/benchmarks")
    } else {
        bench.join("charts")
    };
    chart::write_all(&charts, &samples, &machine, &plan.contenders)?;
    println!(
        "\nwritten: {}, {}",
        bench.join("compare.json").display(),
        charts.join("README.md").display()
    );
    if interrupt.came() {
        return Err("interrupted: daemons stopped, namespaces removed".into());
    }
    Ok(())
}

fn plan(args: &Args) -> Result<Plan> {
    let mut contenders = select(Contender::value_variants(), &args.only);
    if args.before.is_none() {
        contenders.retain(|contender| !contender.is_before());
    }
    let mut links = select(Link::value_variants(), &args.only);
    let measures = select(Measure::value_variants(), &args.only);
    for name in &args.only {
        let known = Contender::from_str(name, false).is_ok()
            || Link::from_str(name, false).is_ok()
            || Measure::from_str(name, false).is_ok();
        if !known {
            return Err(format!(
                "--only {name}: no contender, link or measure of that name; see --help"
            )
            .into());
        }
    }
    let mut peers = args.peers.clone();
    if args.quick {
        links.truncate(1);
        peers.truncate(1);
    }
    // Many peers are a matter of tables, not of links: on the first link alone.
    let mut cases: Vec<Case> = Vec::new();
    for (at, &peers) in peers.iter().enumerate() {
        let links = if at == 0 { &links[..] } else { &links[..1] };
        cases.extend(links.iter().map(|&link| Case { link, peers }));
    }
    let mut installed = Vec::new();
    for contender in contenders {
        match contender.install(args.before.as_deref()) {
            Ok(found) => installed.push(found),
            Err(error) => eprintln!("absent: {}: {error}", contender.name()),
        }
    }
    if installed.is_empty() {
        return Err("no contender is there".into());
    }
    Ok(Plan {
        contenders: installed,
        cases,
        measures,
        repeats: if args.quick {
            2
        } else {
            u32::from(args.repeats)
        },
        times: if args.quick {
            Times::quick()
        } else {
            Times::full()
        },
    })
}

/// Of `all`, those that `names` has; all of them when it has none of this kind.
fn select<T: clap::ValueEnum + Clone>(all: &[T], names: &[String]) -> Vec<T> {
    let named: Vec<T> = names
        .iter()
        .filter_map(|name| T::from_str(name, false).ok())
        .collect();
    if named.is_empty() {
        all.to_vec()
    } else {
        named
    }
}

fn measure_all(plan: &Plan, interrupt: &Interrupt) -> Result<Samples> {
    let turns = plan.cases.len() * plan.repeats as usize * plan.contenders.len();
    let bar = ProgressBar::new((turns * plan.measures.len()) as u64);
    bar.set_style(ProgressStyle::with_template(
        "[{bar:30}] {pos}/{len} {elapsed}, {eta} left  {msg}",
    )?);
    let mut samples = Samples::new();
    for &case in &plan.cases {
        for round in 0..plan.repeats {
            // Another order each round: nobody always follows the same neighbour.
            let count = plan.contenders.len();
            for at in 0..count {
                let contender = &plan.contenders[(at + round as usize) % count];
                if interrupt.came() {
                    bar.finish_and_clear();
                    return Ok(samples);
                }
                let turn = Turn {
                    case,
                    round,
                    contender,
                };
                if let Err(error) = turn.take(plan, interrupt, &bar, &mut samples) {
                    samples.failed(turn, &error);
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(samples)
}

/// One contender's turn in one round.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    case: Case,
    round: u32,
    contender: &'a Installed,
}

impl std::fmt::Display for Turn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.contender.name();
        write!(f, "{name} on {}, round {}", self.case, self.round + 1)
    }
}

impl Turn<'_> {
    fn take(
        &self,
        plan: &Plan,
        interrupt: &Interrupt,
        bar: &ProgressBar,
        samples: &mut Samples,
    ) -> Result<()> {
        let end = bar.position() + plan.measures.len() as u64;
        let outcome = self.measure(plan, interrupt, bar, samples);
        bar.set_position(end);
        outcome
    }

    fn measure(
        &self,
        plan: &Plan,
        interrupt: &Interrupt,
        bar: &ProgressBar,
        samples: &mut Samples,
    ) -> Result<()> {
        let name = self.contender.name();
        bar.set_message(format!("{name} {}: starting", self.case));
        let pair = Pair::start(self.contender, self.case)?;
        for &measure in &plan.measures {
            if interrupt.came() {
                return Ok(());
            }
            bar.set_message(format!("{name} {}: {}", self.case, measure.name()));
            for value in measure.take(&pair, &plan.times)? {
                samples.add(self.case, measure, name, self.round, value);
            }
            bar.inc(1);
        }
        Ok(())
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}p", self.link.name(), self.peers)
    }
}
