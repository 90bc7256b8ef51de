//! Charts for the documentation, one SVG a series, and the page that shows them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ringspan_bench::report::figure;

use super::contender::Installed;
use super::machine::Machine;
use super::report::{Samples, Series, table};
use super::targets;
use crate::Result;

const WIDTH: f64 = 760.0;
const LINE: f64 = 26.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 150.0;
const LONGEST: f64 = 430.0;

pub(crate) fn write_all(
    directory: &Path,
    samples: &Samples,
    machine: &Machine,
    contenders: &[Installed],
) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut page = format!(
        "# Benchmarks\n\nWritten by `cargo xtask compare`. {machine}.\n\n\
         Both ends and the load share the machine. Ratios are taken round by round, to the newest \
         wireguard-go that took part; `default`, `gro` and `off` say what the veth does with \
         super-packets, `1p` and `100p` how many peers are configured.\n\n"
    );
    for contender in contenders {
        let _ = writeln!(page, "- {}: {}", contender.name(), contender.version());
    }
    for failure in samples.failures() {
        let _ = writeln!(page, "- failed: {failure}");
    }
    let _ = writeln!(
        page,
        "\n## Targets\n\nBy the medians of this run.\n\n```text\n{}\n```",
        targets::table(&samples.rows())
    );
    for series in samples.series() {
        let name = file_name(series);
        fs::write(directory.join(&name), chart(samples, series, machine))?;
        let _ = writeln!(
            page,
            "\n## {}\n\n![{}]({name})\n\n```text\n{}\n```",
            title(series),
            title(series),
            table(samples, series)
        );
    }
    fs::write(directory.join("README.md"), page)?;
    Ok(())
}

/// A bar for each contender, as long as its median, with a line from its least to its most.
fn chart(samples: &Samples, series: Series, machine: &Machine) -> String {
    let contenders = samples.contenders(series);
    let rows: Vec<_> = contenders
        .iter()
        .map(|contender| samples.row(series, contender))
        .collect();
    let most = rows
        .iter()
        .fold(f64::MIN_POSITIVE, |most, row| most.max(row.spread.max));
    let scale = |value: f64| value / most * LONGEST;
    let height = 40.0 + LINE * rows.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(&title(series))
    );
    for (at, row) in rows.iter().enumerate() {
        let top = 40.0 + LINE * at as f64;
        let middle = top + LINE / 2.0 - 3.0;
        let colour = if row.contender.starts_with("ringspan") {
            "#1f6f8b"
        } else {
            "#a8a8a8"
        };
        let (length, least, longest) = (
            scale(row.spread.median),
            scale(row.spread.min),
            scale(row.spread.max),
        );
        let ratio = samples
            .ratio(series, &row.contender)
            .map_or_else(String::new, |ratio| format!(" ({:.2} x)", ratio.median));
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{} {}{ratio}</text>",
            LEFT - 8.0,
            top + 13.0,
            escape(&row.contender),
            LEFT + least,
            LEFT + longest,
            LEFT + longest + 8.0,
            top + 13.0,
            figure(row.spread.median),
            series.unit,
        );
    }
    let _ = write!(
        svg,
        "<text x=\"8\" y=\"{:.1}\" font-size=\"10\" fill=\"#666\">{}</text>\n</svg>\n",
        height - 10.0,
        escape(&machine.to_string())
    );
    svg
}

fn title(series: Series) -> String {
    format!(
        "{} on {}: {}, {}",
        series.measure.name(),
        series.case,
        series.metric,
        series.unit
    )
}

fn file_name(series: Series) -> String {
    let words = format!(
        "{}-{}-{}.svg",
        series.measure.name(),
        series.case,
        series.metric
    );
    words
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
