//! The batched AEAD beside single-packet libraries and Intel's multi-buffer library.
//!
//! All contenders work on the same buffers in the same run, taking turns, so that what
//! slows the machine slows them alike. Figures are per packet; judge by the ratios in one
//! run, never by figures of different runs.
//!
//! `cargo bench -p ringspan-bench --bench aead -- [--quick] [--rounds N] [WORD…]`
//!
//! `--quick` takes few rounds and fewer cases; words select cases whose name
//! contains one of them (`uniform/64/32`, `imix/`, `open`).
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod contenders;
mod pool;
mod report;

use std::io;
use std::time::Instant;

use contenders::Contender;
use pool::{Case, Op, Pool};
use ringspan_bench::options::Options;
use ringspan_bench::turns::take_turns;

/// Sizes in bytes and batches of the uniform cases.
const SIZES: [usize; 9] = [16, 64, 128, 256, 512, 1024, 1420, 4096, 8920];
const BATCHES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];
const QUICK_SIZES: [usize; 3] = [64, 512, 1420];
const QUICK_BATCHES: [usize; 3] = [1, 8, 32];

fn main() -> io::Result<()> {
    let options = Options::from_args(101, 15);
    let mut contenders = contenders::all();
    let mut report = report::Report::new();
    for case in cases(options.quick) {
        for op in [Op::Seal, Op::Open] {
            if options.wants(&format!("{}/{}", case.name(), op.name())) {
                let samples = measure(&case, op, options.rounds, &mut contenders);
                report.add(&case, op, &contenders, samples);
            }
        }
    }
    report.print_summary();
    report.write_json()
}

/// Times every contender on one case, in turns.
fn measure(case: &Case, op: Op, rounds: usize, contenders: &mut [Contender]) -> Vec<Vec<f64>> {
    let mut pool = Pool::new(case);
    take_turns(rounds, contenders.len(), |at| {
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
        elapsed.as_nanos() as f64 / pool.packets() as f64
    })
}

fn cases(quick: bool) -> Vec<Case> {
    let (sizes, batches) = if quick {
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
