//! What was measured, in rows, tables and JSON.

use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::measure::{Measure, Value};
use super::{Case, Turn};
use crate::{Error, Result};

/// Whom ratios are to, the first of these that took part.
const REFERENCES: [&str; 2] = ["wireguard-go-sid", "wireguard-go"];

/// All figures of a run.
pub(crate) struct Samples {
    all: Vec<Sample>,
    failures: Vec<String>,
}

struct Sample {
    series: Series,
    contender: &'static str,
    round: u32,
    value: f64,
}

/// What figures have in common that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Series {
    pub(crate) case: Case,
    pub(crate) measure: Measure,
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
}

/// One line of the result, as it stands in the JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    case: String,
    pub(crate) contender: String,
    metric: String,
    unit: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    n: usize,
}

impl Samples {
    pub(crate) const fn new() -> Self {
        Self {
            all: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        case: Case,
        measure: Measure,
        contender: &'static str,
        round: u32,
        value: Value,
    ) {
        self.all.push(Sample {
            series: Series {
                case,
                measure,
                metric: value.metric,
                unit: value.unit,
            },
            contender,
            round,
            value: value.value,
        });
    }

    pub(crate) fn failed(&mut self, turn: Turn<'_>, why: &Error) {
        self.failures.push(format!("{turn}: {why}"));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Every series, in the order of measurement.
    pub(crate) fn series(&self) -> Vec<Series> {
        let mut found = Vec::new();
        for sample in &self.all {
            if !found.contains(&sample.series) {
                found.push(sample.series);
            }
        }
        found
    }

    /// Who has figures in `series`, by name.
    pub(crate) fn contenders(&self, series: Series) -> Vec<&'static str> {
        let mut found: Vec<_> = self.of(series).map(|sample| sample.contender).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(crate) fn row(&self, series: Series, contender: &str) -> Row {
        let values = self
            .of(series)
            .filter(|sample| sample.contender == contender);
        let spread = Spread::of(values.map(|sample| sample.value).collect());
        Row {
            case: format!("{} {}", series.measure.name(), series.case),
            contender: contender.to_owned(),
            metric: series.metric.to_owned(),
            unit: series.unit,
            median: spread.median,
            min: spread.min,
            max: spread.max,
            n: spread.n,
        }
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let series = self.series().into_iter();
        series
            .flat_map(|series| {
                let contenders = self.contenders(series).into_iter();
                contenders.map(move |contender| self.row(series, contender))
            })
            .collect()
    }

    /// How `contender` compares with the reference, round by round.
    pub(crate) fn ratio(&self, series: Series, contender: &str) -> Option<Spread> {
        let present = self.contenders(series);
        let reference = REFERENCES.into_iter().find(|name| present.contains(name))?;
        let ratios: Vec<_> = self
            .of(series)
            .filter(|sample| sample.contender == contender)
            .filter_map(|sample| {
                let same_round =
                    |other: &&Sample| other.contender == reference && other.round == sample.round;
                let other = self.of(series).find(same_round)?;
                Some(sample.value / other.value)
            })
            .filter(|ratio| ratio.is_finite())
            .collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }

    fn of(&self, series: Series) -> impl Iterator<Item = &Sample> {
        self.all
            .iter()
            .filter(move |sample| sample.series == series)
    }
}

/// Where figures lie.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) n: usize,
}

impl Spread {
    /// All zero for no figures.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self {
            median: f64::midpoint(at(n.saturating_sub(1) / 2), at(n / 2)),
            min: at(0),
            max: at(n.saturating_sub(1)),
            n,
        }
    }
}

pub(crate) fn print(samples: &Samples) {
    for series in samples.series() {
        println!(
            "\n{} on {}: {}, {}",
            series.measure.name(),
            series.case,
            series.metric,
            series.unit
        );
        println!("{}", table(samples, series));
    }
}

/// A series as a table, by contender.
pub(crate) fn table(samples: &Samples, series: Series) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "CONTENDER",
        "MEDIAN",
        "MIN",
        "MAX",
        "N",
        "RATIO",
        "SPREAD",
    ]);
    for contender in samples.contenders(series) {
        let row = samples.row(series, contender);
        let ratio = samples.ratio(series, contender);
        table.add_row([
            contender.to_owned(),
            figure(row.median),
            figure(row.min),
            figure(row.max),
            row.n.to_string(),
            ratio.map_or_else(|| "-".into(), |ratio| format!("{:.2}", ratio.median)),
            ratio.map_or_else(String::new, |ratio| {
                format!("{:.2}-{:.2}", ratio.min, ratio.max)
            }),
        ]);
    }
    for column in 1..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Three significant digits or all before the point.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(crate) fn write_json(path: &Path, rows: &[Row]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, serde_json::to_string_pretty(rows)? + "\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::bed::Link;
    use super::*;

    #[test]
    fn a_spread_has_the_median_in_the_middle() {
        let spread = Spread::of(vec![9.0, 1.0, 5.0]);
        assert_eq!((spread.median, spread.min, spread.max), (5.0, 1.0, 9.0));
        assert_eq!(Spread::of(vec![1.0, 3.0]).median, 2.0);
        assert_eq!(Spread::of(Vec::new()).n, 0);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut samples = Samples::new();
        let case = Case {
            link: Link::Default,
            peers: 1,
        };
        // The machine was half as fast in the second round, for both.
        for (contender, round, value) in [
            ("wireguard-go-sid", 0, 2.0),
            ("ringspan-udp", 0, 6.0),
            ("ringspan-udp", 1, 3.0),
            ("wireguard-go-sid", 1, 1.0),
        ] {
            let value = Value {
                metric: "throughput",
                unit: "Gbit/s",
                value,
            };
            samples.add(case, Measure::Tcp1, contender, round, value);
        }
        let series = samples.series()[0];
        let ratio = samples.ratio(series, "ringspan-udp").unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (3.0, 3.0, 3.0));
        assert_eq!(samples.rows().len(), 2);
    }
}
