//! What changes of the wanted peers cost a running node, and what they cost its traffic: whole
//! nodes, threads and all, over the memory driver.
//!
//! `cargo bench -p ringspan-bench --bench control -- [--quick] [--rounds N] [WORD…]`

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod bed;
mod cases;

use std::io;

use ringspan_bench::options::Options;
use ringspan_bench::report::{self, Row, figure};

fn main() -> io::Result<()> {
    let options = Options::from_args(21, 5);
    let mut rows: Vec<Row> = Vec::new();
    for (name, case) in cases::ALL {
        if options.wants(name) {
            eprintln!("{name} ...");
            let new = case(&options);
            new.iter().for_each(print);
            rows.extend(new);
        }
    }
    let path = report::path("control");
    report::write_json(&path, &rows)?;
    println!("\nwritten: {}", path.display());
    Ok(())
}

fn print(row: &Row) {
    let spread = &row.spread;
    println!(
        "{:<44} {:<22} {:<18} {:>9} {:<14} {:>9} .. {:<9} n={}",
        row.case,
        row.contender,
        row.metric,
        figure(spread.median),
        row.unit,
        figure(spread.min),
        figure(spread.max),
        spread.n
    );
}
