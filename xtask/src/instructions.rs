//! Instructions of the hot path, counted under callgrind and held against committed numbers: a
//! regression gate that no noise blurs. `cargo xtask instructions`.
//!
//! Valgrind executes no AVX-512, so the AEAD's back ends are `avx2` and `portable`; everything
//! around them is the same code for all.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ringspan_tests::privilege;
use serde::{Deserialize, Serialize};

use crate::{Result, workspace};

/// Options of `cargo xtask instructions`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write what is counted now into the baseline instead of judging it
    #[arg(long)]
    update: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "WORD", conflicts_with = "update")]
    only: Option<String>,
}

/// What the bench's program is told, and the back end.
struct Case {
    what: &'static str,
    size: usize,
    back_end: Option<&'static str>,
}

const fn case(what: &'static str, size: usize, back_end: Option<&'static str>) -> Case {
    Case {
        what,
        size,
        back_end,
    }
}

const CASES: &[Case] = &[
    case("seal", 64, Some("avx2")),
    case("seal", 1420, Some("avx2")),
    case("seal", 8920, Some("avx2")),
    case("seal", 64, Some("portable")),
    case("seal", 1420, Some("portable")),
    case("seal-and-open", 64, Some("avx2")),
    case("seal-and-open", 1420, Some("avx2")),
    case("seal-and-open", 8920, Some("avx2")),
    case("seal-and-open", 64, Some("portable")),
    case("seal-and-open", 1420, Some("portable")),
    case("lookup-v4", 10, None),
    case("lookup-v4", 10_000, None),
    case("lookup-v6", 10, None),
    case("lookup-v6", 10_000, None),
    case("parse", 1420, None),
    case("replay", 0, None),
];

/// Batches of 64: the difference between the two is what counts.
const BATCHES: [usize; 2] = [16, 80];
const BATCH: usize = 64;

/// Above a baseline by more than this is a regression, below it an improvement to be kept. In
/// percent: a compiler's mood is less.
const TOLERANCE: f64 = 3.0;

/// What is committed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Baseline {
    /// The compiler that the numbers are from.
    rustc: String,
    /// Instructions a packet, look-up or counter, by case.
    instructions: BTreeMap<String, f64>,
}

impl Case {
    fn name(&self) -> String {
        let Self { what, size, .. } = self;
        match self.back_end {
            Some(back_end) => format!("{what}/{size}/{back_end}"),
            None => format!("{what}/{size}"),
        }
    }
}

/// Why instructions cannot be counted here, if so.
pub(crate) fn missing() -> Option<&'static str> {
    privilege::program("valgrind")
        .is_none()
        .then_some("valgrind is not installed: apt-get install valgrind")
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(reason) = missing() {
        return Err(reason.into());
    }
    let program = workspace::released("ringspan-bench", "instructions")?;
    let rustc = workspace::rustc_field("rustc".as_ref(), "release")?;
    let wanted = |case: &&Case| args.only.as_ref().is_none_or(|w| case.name().contains(w));
    let mut counted = BTreeMap::new();
    for case in CASES.iter().filter(wanted) {
        let [few, many] = BATCHES.map(|batches| count(&program, case, batches));
        let each = (many? - few?) as f64 / ((BATCHES[1] - BATCHES[0]) * BATCH) as f64;
        counted.insert(case.name(), (each * 10.0).round() / 10.0);
    }
    if counted.is_empty() {
        return Err("--only: no case has that in its name; without it all are listed".into());
    }
    if args.update {
        let baseline = Baseline {
            rustc,
            instructions: counted,
        };
        let text = toml::to_string(&baseline)?;
        fs::write(baseline_file(), format!("{HEAD}{text}"))?;
        println!("written: {}", baseline_file().display());
        return Ok(());
    }
    let baseline: Baseline = toml::from_str(&fs::read_to_string(baseline_file())?)?;
    println!(
        "{:<28} {:>10} {:>10} {:>8}",
        "instructions each", "baseline", "now", "change"
    );
    let mut regressions = Vec::new();
    for (name, now) in &counted {
        let verdict = judge(baseline.instructions.get(name).copied(), *now);
        let before = baseline.instructions.get(name).copied().unwrap_or_default();
        println!("{name:<28} {before:>10.1} {now:>10.1} {verdict}");
        if verdict.is_failure() {
            regressions.push(format!("{name} {verdict}"));
        }
    }
    if regressions.is_empty() {
        return Ok(());
    }
    let compiler = if baseline.rustc == rustc {
        String::new()
    } else {
        format!(
            "; the baseline is from rustc {}, this is {rustc}",
            baseline.rustc
        )
    };
    Err(format!(
        "{}{compiler}; profiles for callgrind_annotate are in {}; \
         where the change is meant, `cargo xtask instructions --update`",
        regressions.join(", "),
        profiles().display()
    )
    .into())
}

/// What a number means beside its baseline.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Verdict {
    /// By so many percent.
    Regressed(f64),
    Improved(f64),
    Same(f64),
    New,
}

impl Verdict {
    const fn is_failure(self) -> bool {
        matches!(self, Self::Regressed(_) | Self::New)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Regressed(percent) => write!(f, "{percent:+.1} % REGRESSED"),
            Self::Improved(percent) => write!(f, "{percent:+.1} % improved: --update keeps it"),
            Self::Same(percent) => write!(f, "{percent:+.1} %"),
            Self::New => f.write_str("has no baseline"),
        }
    }
}

fn judge(before: Option<f64>, now: f64) -> Verdict {
    let Some(before) = before else {
        return Verdict::New;
    };
    let percent = (now / before - 1.0) * 100.0;
    // A tenth of an instruction is rounding.
    if (now - before).abs() <= 0.15 {
        Verdict::Same(percent)
    } else if percent > TOLERANCE {
        Verdict::Regressed(percent)
    } else if percent < -TOLERANCE {
        Verdict::Improved(percent)
    } else {
        Verdict::Same(percent)
    }
}

/// All instructions of one run.
fn count(program: &PathBuf, case: &Case, batches: usize) -> Result<u64> {
    fs::create_dir_all(profiles())?;
    let profile = profiles().join(format!("{}.{batches}", case.name().replace('/', "-")));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--error-exitcode=99"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args([case.what, &case.size.to_string(), &batches.to_string()]);
    if let Some(back_end) = case.back_end {
        command.args(["--back-end", back_end]);
    }
    let output = command
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} ended with {}: {words}", case.name(), output.status).into());
    }
    collected(&words).ok_or_else(|| format!("callgrind told no count: {words}").into())
}

/// The total in callgrind's closing words: `==1== Collected : 123`.
fn collected(words: &str) -> Option<u64> {
    words.lines().find_map(|line| {
        let (_, number) = line.split_once("Collected : ")?;
        number.trim().parse().ok()
    })
}

fn baseline_file() -> PathBuf {
    workspace::root().join("bench/instructions.toml")
}

fn profiles() -> PathBuf {
    workspace::target().join("bench/callgrind")
}

const HEAD: &str = "# Instructions a packet, look-up or counter: `cargo xtask instructions` fails where \
                    one has grown.\n# Written by `cargo xtask instructions --update`.\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_instructions_than_the_tolerance_are_a_regression() {
        assert!(matches!(judge(Some(100.0), 102.0), Verdict::Same(_)));
        assert!(matches!(judge(Some(100.0), 103.5), Verdict::Regressed(p) if p > 3.4 && p < 3.6));
        assert!(matches!(judge(Some(100.0), 90.0), Verdict::Improved(_)));
        assert!(judge(Some(100.0), 104.0).is_failure());
        assert!(judge(Some(100.0), 104.0).to_string().contains("+4.0 %"));
        assert!(judge(None, 1.0).is_failure());
        // Of few instructions a tenth is much, and nothing.
        assert!(!judge(Some(2.0), 2.1).is_failure());
    }

    #[test]
    fn the_count_is_read_from_callgrinds_words() {
        let words = "==9== Events    : Ir\n==9== Collected : 123456\n==9==\n";
        assert_eq!(collected(words), Some(123_456));
        assert_eq!(collected("==9== nothing"), None);
    }

    #[test]
    fn every_case_has_a_committed_baseline() {
        let text = fs::read_to_string(baseline_file()).unwrap();
        let baseline: Baseline = toml::from_str(&text).unwrap();
        let names: Vec<_> = CASES.iter().map(Case::name).collect();
        assert_eq!(names.len(), baseline.instructions.len());
        for name in names {
            assert!(baseline.instructions.contains_key(&name), "{name}");
        }
    }
}
