//! What is measured, where and for how long: as much as fits the time there is.

use std::time::Duration;

use clap::ValueEnum as _;

use super::bed::Link;
use super::contender::{Contender, Installed};
use super::measure::{Measure, Times};
use super::{Args, Case};
use crate::Result;

/// Daemons, namespaces and the first handshake of a turn.
const START: Duration = Duration::from_millis(1200);

/// A whole run.
pub(super) struct Plan {
    pub(super) contenders: Vec<Installed>,
    pub(super) cases: Vec<(Case, Vec<Measure>)>,
    pub(super) repeats: u32,
    pub(super) times: Times,
    left_out: Vec<String>,
}

impl Plan {
    /// Finds and builds contenders too.
    pub(super) fn new(args: &Args) -> Result<Self> {
        check_names(&args.only)?;
        let mut plan = Self {
            contenders: installed(args)?,
            cases: Vec::new(),
            repeats: if args.quick {
                2
            } else {
                u32::from(args.repeats)
            },
            times: if args.quick {
                Times::QUICK
            } else {
                Times::FULL
            },
            left_out: Vec::new(),
        };
        plan.choose_cases(args);
        if !args.quick {
            plan.fit(Duration::from_secs(u64::from(args.minutes) * 60));
        }
        Ok(plan)
    }

    fn choose_cases(&mut self, args: &Args) {
        let links = select(Link::value_variants(), &args.only);
        let measures = select(Measure::value_variants(), &args.only);
        // Who names links or measures wants all of them.
        let every = args.every || named::<Link>(&args.only) || named::<Measure>(&args.only);
        for (at, &peers) in args.peers.iter().enumerate() {
            for (nth, &link) in links.iter().enumerate() {
                // Many peers are a matter of tables, not of links: on the first link alone.
                if (at > 0 || args.quick) && nth > 0 || args.quick && at > 0 {
                    continue;
                }
                let case = Case { link, peers };
                let (chosen, left): (Vec<Measure>, Vec<Measure>) = measures
                    .iter()
                    .copied()
                    .partition(|measure| every || is_judged(*measure, link, at));
                if !left.is_empty() {
                    let left: Vec<_> = left.iter().map(|measure| measure.name()).collect();
                    self.left_out.push(format!("{case}: {}", left.join(", ")));
                }
                self.cases.push((case, chosen));
            }
        }
    }

    /// Makes measurements shorter or longer, so that the run takes about `budget`.
    fn fit(&mut self, budget: Duration) {
        let whole = self.estimate();
        let fixed = {
            let times = std::mem::replace(&mut self.times, Times::NONE);
            let fixed = self.estimate();
            self.times = times;
            fixed
        };
        let scalable = whole.saturating_sub(fixed).as_secs_f64();
        if scalable > 0.0 {
            let factor = budget.saturating_sub(fixed).as_secs_f64() / scalable;
            self.times = Times::FULL.scaled(factor);
        }
    }

    /// About how long the whole run takes.
    pub(super) fn estimate(&self) -> Duration {
        let turns = self.cases.iter().flat_map(|(case, measures)| {
            let contenders = self.contenders.iter();
            contenders.map(|contender| self.turn(contender, *case, measures))
        });
        turns.sum::<Duration>() * self.repeats
    }

    /// About how long one contender's turn takes.
    pub(super) fn turn(&self, contender: &Installed, case: Case, measures: &[Measure]) -> Duration {
        let taken: Duration = contender
            .takes(case, measures)
            .map(|measure| measure.estimate(&self.times))
            .sum();
        if taken.is_zero() {
            taken
        } else {
            START + taken
        }
    }

    /// For people: how much there is to do, and what there is not.
    pub(super) fn print(&self) {
        println!(
            "{} repeats, about {:.0} minutes; {}",
            self.repeats,
            (self.estimate().as_secs_f64() / 60.0).ceil(),
            self.times
        );
        for (case, measures) in &self.cases {
            let names: Vec<_> = measures.iter().map(|measure| measure.name()).collect();
            println!("  {case}: {}", names.join(", "));
        }
        for left in &self.left_out {
            println!("  left out of {left} (--every measures it)");
        }
    }
}

/// Whether targets speak of `measure` there; `peers` is the place in the list of `--peers`.
fn is_judged(measure: Measure, link: Link, peers: usize) -> bool {
    match (link, peers) {
        (Link::Default, 0) => true,
        (Link::Default, _) => matches!(measure, Measure::Rtt | Measure::Tcp1),
        (Link::Gro | Link::Off, _) => matches!(measure, Measure::Tcp1 | Measure::Tcp4),
    }
}

fn installed(args: &Args) -> Result<Vec<Installed>> {
    let mut contenders = select(Contender::value_variants(), &args.only);
    if args.before.is_none() {
        contenders.retain(|contender| !contender.is_before());
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
    Ok(installed)
}

fn check_names(names: &[String]) -> Result<()> {
    let known = |name: &&String| {
        Contender::from_str(name, false).is_ok()
            || Link::from_str(name, false).is_ok()
            || Measure::from_str(name, false).is_ok()
    };
    match names.iter().find(|name| !known(name)) {
        Some(name) => Err(format!(
            "--only {name}: no contender, link or measure of that name; see --help"
        )
        .into()),
        None => Ok(()),
    }
}

/// Whether one of `names` is a `T`.
fn named<T: clap::ValueEnum>(names: &[String]) -> bool {
    names.iter().any(|name| T::from_str(name, false).is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(every: bool) -> Plan {
        let args = Args {
            repeats: 5,
            minutes: 25,
            quick: false,
            every,
            only: Vec::new(),
            peers: vec![1, 100],
            before: None,
            report: Vec::new(),
        };
        let mut plan = Plan {
            contenders: Contender::value_variants()
                .iter()
                .filter(|contender| !contender.is_before())
                .map(|contender| Installed::for_plans(*contender))
                .collect(),
            cases: Vec::new(),
            repeats: 5,
            times: Times::FULL,
            left_out: Vec::new(),
        };
        plan.choose_cases(&args);
        plan
    }

    #[test]
    fn a_whole_run_fits_its_minutes() {
        for minutes in [25, 40] {
            let budget = Duration::from_secs(minutes * 60);
            let mut plan = plan(false);
            plan.fit(budget);
            let estimate = plan.estimate();
            assert!(estimate <= budget.mul_f64(1.02), "{minutes}: {estimate:?}");
            assert!(estimate >= budget.mul_f64(0.9), "{minutes}: {estimate:?}");
        }
    }

    #[test]
    fn what_no_target_speaks_of_is_left_out_and_told() {
        let short = plan(false);
        assert_eq!(short.cases.len(), 4);
        assert!(short.left_out.iter().any(|left| left.contains("off/1p")));
        let whole = plan(true);
        assert!(whole.left_out.is_empty());
        assert!(whole.estimate() > short.estimate());
    }
}
