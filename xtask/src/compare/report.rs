//! What was measured, in rows, tables and JSON.

use comfy_table::{CellAlignment, Table, presets};
use ringspan_bench::report::{Row, Spread, figure};

use super::measure::{Measure, Value};
use super::{Case, Turn};
use crate::Error;

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

    /// The first figure that `measure` gave `contender` last, in a round before.
    pub(crate) fn last(&self, case: Case, measure: Measure, contender: &str) -> Option<f64> {
        let mut own = self.all.iter().filter(|sample| {
            sample.contender == contender
                && sample.series.case == case
                && sample.series.measure == measure
        });
        let round = own.clone().next_back()?.round;
        own.find(|sample| sample.round == round)
            .map(|sample| sample.value)
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
        Row::new(
            format!("{} {}", series.measure.name(), series.case),
            contender,
            series.metric,
            series.unit,
            values.map(|sample| sample.value).collect(),
        )
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
            figure(row.spread.median),
            figure(row.spread.min),
            figure(row.spread.max),
            row.spread.n.to_string(),
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

#[cfg(test)]
mod tests {
    use super::super::bed::Link;
    use super::*;

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
