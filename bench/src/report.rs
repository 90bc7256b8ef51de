//! Rows of results, their table on the screen and their JSON: one object a row, with `case`,
//! `contender`, `metric`, `unit`, `median`, `min`, `max` and `n`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// Where figures lie.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// The one in the middle, or halfway between the two there.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many there are.
    pub n: usize,
}

impl Spread {
    /// Of `values` in any order; all zero for none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
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

/// What one contender reached in one case.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was done, with parameters: `seal/1420/1 peer`.
    pub case: String,
    /// By whom.
    pub contender: String,
    /// What was measured.
    pub metric: String,
    /// In which unit.
    pub unit: String,
    /// The figures.
    #[serde(flatten)]
    pub spread: Spread,
}

impl Row {
    /// A row of `samples`.
    #[must_use]
    pub fn new(
        case: impl Into<String>,
        contender: impl Into<String>,
        metric: &str,
        unit: &str,
        samples: Vec<f64>,
    ) -> Self {
        Self {
            case: case.into(),
            contender: contender.into(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            spread: Spread::of(samples),
        }
    }

    /// This row's median over that of `other`.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> f64 {
        self.spread.median / other.spread.median
    }
}

/// How much faster than `yardstick` a contender is: the median and the extremes of the quotient of
/// times taken in the same round.
#[must_use]
pub fn speed_up(own: &[f64], yardstick: &[f64]) -> Spread {
    let quotients = own.iter().zip(yardstick).map(|(own, other)| other / own);
    Spread::of(quotients.collect())
}

/// Writes `rows` as an array to `path`, whose directory is made where it is missing.
///
/// # Errors
/// Whatever the file system says.
pub fn write_json(path: &Path, rows: &[Row]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, serde_json::to_string_pretty(rows)? + "\n")
}

/// Reads what [`write_json`] wrote.
///
/// # Errors
/// Whatever the file system says, or that the file is no such array.
pub fn read_json(path: &Path) -> io::Result<Vec<Row>> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// Puts `rows` in the place of those rows in `path` whose case begins with `prefix`: benches that
/// share a file keep what the others wrote.
///
/// # Errors
/// Whatever the file system says, or that the file is there and no such array.
pub fn merge_json(path: &Path, prefix: &str, rows: Vec<Row>) -> io::Result<()> {
    let mut all = match read_json(path) {
        Ok(all) => all,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    all.retain(|row| !row.case.starts_with(prefix));
    all.extend(rows);
    write_json(path, &all)
}

/// `target/bench/NAME.json` of this build.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    target.join("bench").join(name).with_extension("json")
}

/// Three significant digits or all before the point.
#[must_use]
pub fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_in_the_middle() {
        let spread = Spread::of(vec![9.0, 1.0, 5.0]);
        assert_eq!((spread.median, spread.min, spread.max), (5.0, 1.0, 9.0));
        assert_eq!(Spread::of(vec![1.0, 3.0]).median, 2.0);
        assert_eq!(Spread::of(Vec::new()).n, 0);
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        // The machine was half as fast in the second round.
        let spread = speed_up(&[2.0, 4.0], &[6.0, 12.0]);
        assert_eq!((spread.min, spread.median, spread.max), (3.0, 3.0, 3.0));
    }

    #[test]
    fn a_row_is_one_flat_object() {
        let row = Row::new("seal/64", "ringspan", "time", "ns", vec![2.0, 4.0]);
        let json = serde_json::to_value(&row).unwrap();
        let expected = serde_json::json!({
            "case": "seal/64", "contender": "ringspan", "metric": "time", "unit": "ns",
            "median": 3.0, "min": 2.0, "max": 4.0, "n": 2,
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
    }

    #[test]
    fn benches_that_share_a_file_keep_each_others_rows() {
        let directory = std::env::temp_dir().join(format!("ringspan-{}", std::process::id()));
        let path = directory.join("shared.json");
        let rows = |case: &str, value| vec![Row::new(case, "ringspan", "time", "ns", vec![value])];
        merge_json(&path, "engine/", rows("engine/seal", 1.0)).unwrap();
        merge_json(&path, "allowed_ips/", rows("allowed_ips/v4", 2.0)).unwrap();
        merge_json(&path, "engine/", rows("engine/open", 3.0)).unwrap();
        let cases: Vec<_> = read_json(&path)
            .unwrap()
            .into_iter()
            .map(|row| row.case)
            .collect();
        fs::remove_dir_all(directory).unwrap();
        assert_eq!(cases, ["allowed_ips/v4", "engine/open"]);
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(figure(1234.5), "1234");
        assert_eq!(figure(12.345), "12.3");
        assert_eq!(figure(1.234), "1.23");
    }
}
