//! The batched AEAD beside single-packet libraries and Intel's multi-buffer library.
//!
//! All contenders work on the same buffers in the same run, taking turns, so that what
//! slows the machine slows them alike. Figures are per packet; judge by the ratios in one
//! run, never by figures of different runs.
//!
//! `cargo bench -p ringspan-bench --bench aead -- [--quick] [--rounds N] [WORD…]`
//!
//! `--quick` takes few rounds and fewer cases, for CI; words select cases whose name
//! contains one of them (`uniform/64/32`, `imix/`, `open`).
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod contenders;
mod pool;
mod report;

use std::io;
use std::time::Instant;

use contenders::Contender;
use pool::{Case, Op, Pool};
use report::Row;

/// Sizes in bytes and batches of the uniform cases.
const SIZES: [usize; 9] = [16, 64, 128, 256, 512, 1024, 1420, 4096, 8920];
const BATCHES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];
const QUICK_SIZES: [usize; 3] = [64, 512, 1420];
const QUICK_BATCHES: [usize; 3] = [1, 8, 32];

fn main() -> io::Result<()> {
    let options = Options::from_args(std::env::args().skip(1));
    let mut contenders = contenders::all();
    let mut report = report::Report::new(&contenders);
    for case in options.cases() {
        for op in [Op::Seal, Op::Open] {
            if options.wants(&case, op) {
                for row in measure(&case, op, options.rounds, &mut contenders) {
                    report.add(row);
                }
                report.print_last();
            }
        }
    }
    report.print_summary();
    report.write_json()
}

/// Times every contender on one case, in turns.
fn measure(case: &Case, op: Op, rounds: usize, contenders: &mut [Contender]) -> Vec<Row> {
    let mut pool = Pool::new(case);
    let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
    // One round more than asked for: the first one warms caches and branch predictors.
    for round in 0..=rounds {
        for at in 0..contenders.len() {
            // Every other round in reverse, so that nobody always follows the same one.
            let at = if round % 2 == 0 {
                at
            } else {
                contenders.len() - 1 - at
            };
            let contender = &mut contenders[at];
            pool.restore(op);
            let begin = Instant::now();
            for batch in pool.batches() {
                match op {
                    Op::Seal => contender.seal(batch),
                    Op::Open => contender.open(batch),
                }
            }
            let elapsed = begin.elapsed();
            pool.check(op, contender.name());
            if round > 0 {
                samples[at].push(elapsed.as_nanos() as f64 / pool.packets() as f64);
            }
        }
    }
    contenders
        .iter()
        .zip(samples)
        .map(|(contender, samples)| Row::new(case, op, contender, samples))
        .collect()
}

struct Options {
    quick: bool,
    rounds: usize,
    words: Vec<String>,
}

impl Options {
    fn from_args(args: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            quick: false,
            rounds: 0,
            words: Vec::new(),
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => {
                    options.rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                }
                "--bench" => {} // what cargo passes
                word => options.words.push(word.to_owned()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 15 } else { 101 };
        }
        options
    }

    fn cases(&self) -> Vec<Case> {
        let (sizes, batches) = if self.quick {
            (&QUICK_SIZES[..], &QUICK_BATCHES[..])
        } else {
            (&SIZES[..], &BATCHES[..])
        };
        let mut cases = Vec::new();
        for size in sizes {
            cases.extend(batches.iter().map(|batch| Case::uniform(*size, *batch)));
        }
        cases.extend([12, 48, 192].map(Case::imix));
        cases.push(Case::many_keys(64, 32));
        cases.push(Case::many_keys(1420, 32));
        cases
    }

    fn wants(&self, case: &Case, op: Op) -> bool {
        let name = format!("{}/{}", case.name(), op.name());
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}
