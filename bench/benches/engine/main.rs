//! Sealing and opening through the whole engine (tables, counters, replay window, AEAD) in batches
//! of 64, beside boringtun's `Tunn` and gotatun's, which take one packet at a time and have no
//! table of peers before them.
//!
//! All take turns in one process, so judge by the ratios of one run. Figures are nanoseconds a
//! packet; they go to `target/bench/engine.json`. With many peers, each packet of a batch is for
//! another peer, in no order. `share of the AEAD` is what of the engine's time passes within
//! the AEAD's back end.
//!
//! `cargo bench -p ringspan-bench --bench engine -- [--quick] [--rounds N] [WORD…]`
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod contenders;
mod timed;

use std::io;

use contenders::{Contender, Op};
use ringspan_bench::options::Options;
use ringspan_bench::report::{self, Row, Spread, figure, speed_up};
use ringspan_bench::turns::take_turns;

const LENGTHS: [usize; 4] = [64, 256, 1420, 8920];
const PEERS: [usize; 4] = [1, 100, 1000, 10_000];

/// Bytes that a contender works on in one turn, about.
const TURN: usize = 256 << 10;

fn main() -> io::Result<()> {
    let options = Options::from_args(201, 31);
    println!("nanoseconds a packet; ratio: time of boringtun in the same round / own");
    println!(
        "{:<28} {:<14} {:>9} {:>9} {:>9} {:>6} {:>12}",
        "case", "contender", "median", "min", "max", "ratio", "spread"
    );
    let mut rows = Vec::new();
    for peers in PEERS {
        let mut contenders = contenders::all(peers);
        for op in [Op::Seal, Op::Open] {
            for len in LENGTHS {
                let plural = if peers == 1 { "" } else { "s" };
                let case = format!("engine/{}/{len}/{peers} peer{plural}", op.name());
                if options.wants(&case) {
                    rows.extend(measure(&case, op, len, options.rounds, &mut contenders));
                }
            }
        }
    }
    many_beside_one(&rows);
    let path = report::path("engine");
    report::merge_json(&path, "engine/", rows)?;
    println!("\nwritten: {}", path.display());
    Ok(())
}

fn measure(
    case: &str,
    op: Op,
    len: usize,
    rounds: usize,
    contenders: &mut [Box<dyn Contender>],
) -> Vec<Row> {
    for contender in contenders.iter_mut() {
        contender.set_len(len);
    }
    let batches = (TURN / (len * ringspan_bench::hubs::BATCH)).max(1);
    let mut shares = Vec::new();
    // What is timed inside comes last, and takes turns of its own: its tables would throw the
    // others' out of the caches.
    let (others, probes) = contenders.split_at_mut(contenders.len() - 1);
    let samples = take_turns(rounds, others.len(), |at| others[at].run(op, batches));
    take_turns(rounds, probes.len(), |at| {
        let time = probes[at].run(op, batches);
        shares.extend(probes[at].aead_share());
        time
    });
    let boringtun = contenders
        .iter()
        .position(|contender| contender.name() == "boringtun");
    let mut rows = Vec::new();
    for (contender, own) in contenders.iter().zip(&samples) {
        // What is timed inside is not for the table.
        if contender.is_probe() {
            continue;
        }
        let row = Row::new(case, contender.name(), "time per packet", "ns", own.clone());
        let ratio = boringtun.map(|at| speed_up(own, &samples[at]));
        print(&row, ratio);
        rows.push(row);
    }
    if !shares.is_empty() {
        // The first one warmed up.
        shares.remove(0);
        let row = Row::new(case, "ringspan", "share of the AEAD", "%", shares);
        println!(
            "{case:<28} {:<14} {:>8}% {:>8}% {:>8}%",
            "  in the AEAD",
            figure(row.spread.median),
            figure(row.spread.min),
            figure(row.spread.max)
        );
        rows.push(row);
    }
    rows
}

fn print(row: &Row, ratio: Option<Spread>) {
    let (ratio, spread) = ratio.map_or_else(
        || ("-".into(), String::new()),
        |ratio| {
            let spread = format!("{}-{}", figure(ratio.min), figure(ratio.max));
            (figure(ratio.median), spread)
        },
    );
    println!(
        "{:<28} {:<14} {:>9.1} {:>9.1} {:>9.1} {ratio:>6} {spread:>12}",
        row.case, row.contender, row.spread.median, row.spread.min, row.spread.max
    );
}

/// How fast the engine is with many peers, beside itself with one.
fn many_beside_one(rows: &[Row]) {
    let time = |case: &str| {
        rows.iter().find(|row| {
            row.case == case && row.contender == "ringspan" && row.metric == "time per packet"
        })
    };
    println!();
    for op in [Op::Seal, Op::Open] {
        for len in LENGTHS {
            let one = time(&format!("engine/{}/{len}/1 peer", op.name()));
            let many = time(&format!("engine/{}/{len}/10000 peers", op.name()));
            if let Some((one, many)) = one.zip(many) {
                let ratio = figure(one.ratio_to(many));
                println!("{}, {len} bytes: 10,000 peers at {ratio} of one", op.name());
            }
        }
    }
}
