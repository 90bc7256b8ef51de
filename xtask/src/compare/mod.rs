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
mod plan;
mod report;
mod resources;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ringspan_bench::report::write_json;
use ringspan_tests::privilege::{self, Need};

use self::bed::{Link, Pair};
use self::contender::Installed;
use self::measure::Measure;
use self::plan::Plan;
use self::report::Samples;
use crate::interrupt::Interrupt;
use crate::{Result, workspace};

/// Options of `cargo xtask compare`
#[derive(clap::Args)]
#[command(after_help = "\
Names for --only, of three kinds; a kind that is not named is not narrowed:
  contenders  ringspan-udp ringspan-udp-spin ringspan-xdp ringspan-xdp-udp wireguard-go
              wireguard-go-sid boringtun gotatun reference (a tunnel without a cipher)
  links       default (veth as it is), gro (no segmentation, GRO on), off (no offload at all)
  measures    rtt tcp1 tcp4 rtt-load udp1372 udp64

Without names of links or measures, what no target speaks of is left out, and listed: on the links
gro and off, and with many peers, only some measures are taken. --every takes all of them.")]
pub(crate) struct Args {
    /// How often each contender takes its turn, 1 to 99
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    repeats: u8,
    /// About how long the whole run may take, 1 to 600: each measurement gets its share, within
    /// limits below which it would say nothing
    #[arg(long, default_value_t = 25, conflicts_with = "quick",
          value_parser = clap::value_parser!(u16).range(1..=600))]
    minutes: u16,
    /// A look only: short measurements, two repeats, the default link, charts beside the JSON
    #[arg(long)]
    quick: bool,
    /// Every measure on every link
    #[arg(long)]
    every: bool,
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
    /// Measure nothing: judge what these files have (compare.json, engine.json) by the targets
    #[arg(long, value_name = "FILE", num_args = 1..)]
    report: Vec<PathBuf>,
}

/// What is the same for all contenders of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) link: Link,
    pub(crate) peers: u16,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.report.is_empty() {
        return targets::report(&args.report);
    }
    let needs = [Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp];
    if let Some(reason) = privilege::missing(&needs) {
        return Err(format!("the comparison {reason}").into());
    }
    let plan = Plan::new(args)?;
    let machine = machine::Machine::read()?;
    println!("{machine}");
    for contender in &plan.contenders {
        println!("  {:<18} {}", contender.name(), contender.version());
    }
    plan.print();
    let interrupt = Interrupt::catch()?;
    let bench = workspace::target().join("bench");
    let json = bench.join("compare.json");
    let samples = measure_all(&plan, &interrupt, &json)?;
    for failure in samples.failures() {
        eprintln!("failed: {failure}");
    }
    if samples.is_empty() {
        return Err("nothing was measured".into());
    }
    let rows = samples.rows();
    report::print(&samples);
    println!(
        "\ntargets, by medians of this run\n{}",
        targets::table(&rows)
    );
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
        json.display(),
        charts.join("README.md").display()
    );
    if interrupt.came() {
        return Err("interrupted: daemons stopped, namespaces removed".into());
    }
    Ok(())
}

/// Each round takes every case, so that a run that ends early has measured all of them.
fn measure_all(plan: &Plan, interrupt: &Interrupt, json: &Path) -> Result<Samples> {
    let bar = ProgressBar::new(plan.estimate().as_secs());
    bar.set_style(ProgressStyle::with_template(
        "[{bar:30}] {percent}% {elapsed}, {eta} left  {msg}",
    )?);
    bar.enable_steady_tick(Duration::from_secs(1));
    let mut samples = Samples::new();
    let mut done = Duration::ZERO;
    for round in 0..plan.repeats {
        for (case, measures) in &plan.cases {
            // Another order each round: nobody always follows the same neighbour.
            let count = plan.contenders.len();
            for at in 0..count {
                let contender = &plan.contenders[(at + round as usize) % count];
                let turn = Turn {
                    case: *case,
                    round,
                    contender,
                };
                let measures: Vec<_> = contender.takes(*case, measures).collect();
                if measures.is_empty() {
                    continue;
                }
                if let Err(error) = turn.take(plan, &measures, interrupt, &bar, &mut samples) {
                    samples.failed(turn, &error);
                }
                if interrupt.came() {
                    bar.finish_and_clear();
                    return Ok(samples);
                }
                done += plan.turn(contender, *case, &measures);
                bar.set_position(done.as_secs());
            }
        }
        // Whatever becomes of the rest of the run.
        write_json(json, &samples.rows())?;
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
        measures: &[Measure],
        interrupt: &Interrupt,
        bar: &ProgressBar,
        samples: &mut Samples,
    ) -> Result<()> {
        let name = self.contender.name();
        let round = self.round + 1;
        bar.set_message(format!("round {round}, {name} {}: starting", self.case));
        let pair = Pair::start(self.contender, self.case)?;
        for &measure in measures {
            if interrupt.came() {
                return Ok(());
            }
            let what = measure.name();
            bar.set_message(format!("round {round}, {name} {}: {what}", self.case));
            let before = samples.last(self.case, measure, name);
            match measure.take(&pair, &plan.times, before) {
                Ok(values) => {
                    for value in values {
                        samples.add(self.case, measure, name, self.round, value);
                    }
                }
                // The others may still work.
                Err(error) => samples.failed(*self, &format!("{what}: {error}").into()),
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}p", self.link.name(), self.peers)
    }
}
