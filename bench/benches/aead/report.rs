//! The table on the screen and `target/bench/aead.json`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{fs, io};

use crate::contenders::Contender;
use crate::pool::{Case, Op};

/// One contender's figures in one case, in nanoseconds a packet.
pub(crate) struct Row {
    case: &'static str,
    size: usize,
    batch: usize,
    mean: f64,
    op: Op,
    contender: String,
    yardstick: bool,
    median: f64,
    min: f64,
    max: f64,
    n: usize,
}

impl Row {
    pub(crate) fn new(case: &Case, op: Op, contender: &Contender, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self {
            case: case.kind(),
            size: case.size(),
            batch: case.batch(),
            mean: case.mean(),
            op,
            contender: contender.name().to_owned(),
            yardstick: contender.is_yardstick(),
            median: samples[samples.len() / 2],
            min: samples[0],
            max: samples[samples.len() - 1],
            n: samples.len(),
        }
    }

    fn is_ours(&self) -> bool {
        self.contender.starts_with("ringspan")
    }
}

pub(crate) struct Report {
    rows: Vec<Row>,
    contenders: usize,
}

impl Report {
    pub(crate) fn new(contenders: &[Contender]) -> Self {
        println!("per packet; ratio: median of the faster of ring and aws-lc-rs / median");
        println!(
            "{:<16} {:>4} {:<16} {:>9} {:>9} {:>7} {:>6}",
            "case", "op", "contender", "median ns", "min ns", "GB/s", "ratio"
        );
        Self {
            rows: Vec::new(),
            contenders: contenders.len(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the rows of the case added last.
    pub(crate) fn print_last(&self) {
        let case = &self.rows[self.rows.len() - self.contenders..];
        let best = best(case);
        for row in case {
            println!(
                "{:<16} {:>4} {:<16} {:>9.1} {:>9.1} {:>7.2} {:>6.2}",
                format!("{}/{}/{}", row.case, row.size, row.batch),
                row.op.name(),
                row.contender,
                row.median,
                row.min,
                row.mean / row.median,
                best / row.median,
            );
        }
    }

    /// Our ratios alone: a line a case.
    pub(crate) fn print_summary(&self) {
        let cases = || self.rows.chunks(self.contenders);
        let Some(first) = cases().next() else { return };
        print!("\nratios  {:<16} {:>4}", "case", "op");
        for row in first.iter().filter(|row| row.is_ours()) {
            print!(" {:>16}", row.contender);
        }
        println!();
        for case in cases() {
            let best = best(case);
            let name = format!("{}/{}/{}", case[0].case, case[0].size, case[0].batch);
            print!("        {name:<16} {:>4}", case[0].op.name());
            for row in case.iter().filter(|row| row.is_ours()) {
                print!(" {:>16.2}", best / row.median);
            }
            println!();
        }
    }

    /// Writes every row to `target/bench/aead.json`.
    pub(crate) fn write_json(&self) -> io::Result<()> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
            PathBuf::from,
        );
        let mut json = String::from("[\n");
        for (at, row) in self.rows.iter().enumerate() {
            let comma = if at + 1 < self.rows.len() { "," } else { "" };
            let _ = writeln!(
                json,
                r#"{{"case":"{}","size":{},"batch":{},"op":"{}","contender":"{}","median_ns":{:.2},"min_ns":{:.2},"max_ns":{:.2},"n":{}}}{comma}"#,
                row.case,
                row.size,
                row.batch,
                row.op.name(),
                row.contender,
                row.median,
                row.min,
                row.max,
                row.n
            );
        }
        json.push_str("]\n");
        fs::create_dir_all(target.join("bench"))?;
        let path = target.join("bench/aead.json");
        fs::write(&path, json)?;
        println!("\nwritten: {}", path.display());
        Ok(())
    }
}

/// The faster yardstick's median.
fn best(case: &[Row]) -> f64 {
    case.iter()
        .filter(|row| row.yardstick)
        .map(|row| row.median)
        .fold(f64::INFINITY, f64::min)
}
