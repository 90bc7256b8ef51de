//! The table on the screen.

use std::io;

use ringspan_bench::report::{self, Row};

use crate::contenders::Contender;
use crate::pool::{Case, Op};

/// The rows of one case, in the order of contenders, and what the table says beside them.
struct Group {
    name: String,
    op: Op,
    rows: Vec<Row>,
    /// The faster yardstick's median.
    best: f64,
}

#[derive(Default)]
pub(crate) struct Report(Vec<Group>);

impl Report {
    pub(crate) fn new() -> Self {
        println!("per packet; ratio: median of the faster of ring and aws-lc-rs / median");
        println!(
            "{:<16} {:>4} {:<16} {:>9} {:>9} {:>7} {:>6}",
            "case", "op", "contender", "median ns", "min ns", "GB/s", "ratio"
        );
        Self::default()
    }

    /// Takes and prints what `contenders` reached in nanoseconds a packet.
    pub(crate) fn add(
        &mut self,
        case: &Case,
        op: Op,
        contenders: &[Contender],
        samples: Vec<Vec<f64>>,
    ) {
        let name = format!("{}/{}", case.name(), op.name());
        let rows: Vec<_> = contenders
            .iter()
            .zip(samples)
            .map(|(contender, samples)| {
                Row::new(&name, contender.name(), "time per packet", "ns", samples)
            })
            .collect();
        let best = contenders
            .iter()
            .zip(&rows)
            .filter(|(contender, _)| contender.is_yardstick())
            .map(|(_, row)| row.spread.median)
            .fold(f64::INFINITY, f64::min);
        let (name, mean) = (case.name(), case.mean());
        for row in &rows {
            println!(
                "{name:<16} {:>4} {:<16} {:>9.1} {:>9.1} {:>7.2} {:>6.2}",
                op.name(),
                row.contender,
                row.spread.median,
                row.spread.min,
                mean / row.spread.median,
                best / row.spread.median,
            );
        }
        self.0.push(Group {
            name,
            op,
            rows,
            best,
        });
    }

    /// Our ratios alone: a line a case.
    pub(crate) fn print_summary(&self) {
        let Some(first) = self.0.first() else { return };
        print!("\nratios  {:<16} {:>4}", "case", "op");
        for row in ours(&first.rows) {
            print!(" {:>16}", row.contender);
        }
        println!();
        for group in &self.0 {
            print!("        {:<16} {:>4}", group.name, group.op.name());
            for row in ours(&group.rows) {
                print!(" {:>16.2}", group.best / row.spread.median);
            }
            println!();
        }
    }

    /// Writes every row to `target/bench/aead.json`.
    pub(crate) fn write_json(self) -> io::Result<()> {
        let rows: Vec<_> = self.0.into_iter().flat_map(|group| group.rows).collect();
        let path = report::path("aead");
        report::write_json(&path, &rows)?;
        println!("\nwritten: {}", path.display());
        Ok(())
    }
}

fn ours(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter()
        .filter(|row| row.contender.starts_with("ringspan"))
}
