//! What was measured beside what it was meant to reach.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use ringspan_bench::report::{Row, figure, read_json};

use crate::Result;

const UDP: &[&str] = &["ringspan-udp"];
const SPIN: &[&str] = &["ringspan-udp-spin"];
const XDP: &[&str] = &["ringspan-xdp"];
const XDP_UDP: &[&str] = &["ringspan-xdp-udp"];
/// The best of our driver pairs.
const OURS: &[&str] = &["ringspan-udp", "ringspan-xdp", "ringspan-xdp-udp"];
const ENGINE: &[&str] = &["ringspan"];
const BORINGTUN: &[&str] = &["boringtun"];
const REFERENCE: &[&str] = &["reference"];
const NEWEST_GO: &[&str] = &["wireguard-go-sid"];
/// The best of the others.
const PEERS: &[&str] = &["wireguard-go-sid", "wireguard-go", "boringtun", "gotatun"];

/// Which figures stand on one side of a ratio: those of the best of several contenders.
struct Side {
    case: String,
    who: &'static [&'static str],
}

struct Target {
    metric: &'static str,
    own: Side,
    /// Nobody: the figure itself is judged.
    against: Option<Side>,
    /// Of the figure: whether more is better.
    more: bool,
    /// Whether what is judged is how much faster we are: `against / own`.
    inverse: bool,
    target: f64,
    stretch: f64,
    /// Where another contender is meant to reach the stretch goal.
    stretch_by: Option<&'static [&'static str]>,
}

impl Target {
    fn new(
        case: impl Into<String>,
        metric: &'static str,
        own: &'static [&'static str],
        against: &'static [&'static str],
        [target, stretch]: [f64; 2],
    ) -> Self {
        let case = case.into();
        Self {
            metric,
            own: Side {
                case: case.clone(),
                who: own,
            },
            against: (!against.is_empty()).then_some(Side { case, who: against }),
            more: true,
            inverse: false,
            target,
            stretch,
            stretch_by: None,
        }
    }

    /// Less is better.
    fn less(self) -> Self {
        Self {
            more: false,
            ..self
        }
    }

    /// The figure is a time, and judged is how many times as fast we are.
    fn speed(self) -> Self {
        Self {
            inverse: true,
            ..self.less()
        }
    }

    fn against_case(mut self, case: &str) -> Self {
        if let Some(against) = &mut self.against {
            case.clone_into(&mut against.case);
        }
        self
    }

    fn stretch_by(self, who: &'static [&'static str]) -> Self {
        Self {
            stretch_by: Some(who),
            ..self
        }
    }

    /// The best figure on one side.
    fn best<'a>(&self, rows: &'a [Row], side: &Side) -> Option<&'a Row> {
        let order = |a: &&Row, b: &&Row| a.spread.median.total_cmp(&b.spread.median);
        let rows = rows.iter().filter(|row| {
            row.case == side.case
                && row.metric == self.metric
                && side.who.contains(&row.contender.as_str())
        });
        if self.more {
            rows.max_by(order)
        } else {
            rows.min_by(order)
        }
    }

    /// What is judged, of `own`.
    fn value(&self, rows: &[Row], own: &Side) -> Option<f64> {
        let own = self.best(rows, own)?;
        let Some(against) = &self.against else {
            return Some(own.spread.median);
        };
        let ratio = own.ratio_to(self.best(rows, against)?);
        Some(if self.inverse { 1.0 / ratio } else { ratio })
    }

    fn reaches(&self, value: f64, goal: f64) -> bool {
        if self.more || self.inverse {
            value >= goal
        } else {
            value <= goal
        }
    }

    fn verdict(&self, rows: &[Row]) -> (Option<f64>, Verdict) {
        let Some(value) = self.value(rows, &self.own) else {
            return (None, Verdict::NotMeasured);
        };
        if !self.reaches(value, self.target) {
            return (Some(value), Verdict::Missed);
        }
        let stretch = match self.stretch_by {
            None => Some(value),
            Some(who) => {
                let case = self.own.case.clone();
                self.value(rows, &Side { case, who })
            }
        };
        let verdict = if stretch.is_some_and(|value| self.reaches(value, self.stretch)) {
            Verdict::Stretch
        } else {
            Verdict::Met
        };
        (Some(value), verdict)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Stretch,
    Met,
    Missed,
    NotMeasured,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Stretch => "met, stretch too",
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NotMeasured => "not measured",
        }
    }
}

fn all() -> Vec<Target> {
    const RATE: &str = "throughput";
    let mut all = Vec::new();
    for tcp in ["tcp1", "tcp4"] {
        let on = |link: &str| format!("{tcp} {link}/1p");
        all.extend([
            Target::new(on("default"), RATE, UDP, NEWEST_GO, [2.3, 3.0]),
            Target::new(on("gro"), RATE, OURS, NEWEST_GO, [2.2, 2.8]),
            Target::new(on("off"), RATE, OURS, PEERS, [3.2, 4.0]),
            Target::new(on("off"), RATE, XDP, PEERS, [2.8, 3.5]),
            Target::new(on("off"), RATE, XDP_UDP, PEERS, [3.5, 5.0]),
        ]);
    }
    let lossless = "loss-free rate";
    all.extend([
        Target::new("udp1372 default/1p", lossless, OURS, PEERS, [3.0, 5.0]),
        Target::new("udp64 default/1p", lossless, OURS, PEERS, [3.5, 6.0]),
    ]);
    for metric in ["p50", "p99"] {
        let target = Target::new("rtt default/1p", metric, UDP, PEERS, [0.9, 0.5]);
        all.push(target.less().stretch_by(SPIN));
    }
    for tcp in ["tcp1 default/1p", "tcp4 default/1p"] {
        all.push(Target::new(tcp, "daemons' CPU", UDP, NEWEST_GO, [0.4, 0.3]).less());
        all.push(Target::new(tcp, RATE, UDP, REFERENCE, [0.6, 0.7]));
    }
    for who in [UDP, XDP] {
        let metric = "peak resident, larger end";
        all.push(Target::new("tcp1 default/1p", metric, who, &[], [64.0, 32.0]).less());
    }
    all.extend(in_process());
    all
}

/// What the benches `engine` and `allowed_ips` measure.
fn in_process() -> Vec<Target> {
    const TIME: &str = "time per packet";
    let mut all = Vec::new();
    for op in ["seal", "open"] {
        for (len, goals) in [(64, [2.5, 3.5]), (1420, [1.6, 2.0]), (8920, [1.5, 1.8])] {
            let case = format!("engine/{op}/{len}/1 peer");
            all.push(Target::new(case, TIME, ENGINE, BORINGTUN, goals).speed());
        }
        for len in [64, 1420] {
            let one = format!("engine/{op}/{len}/1 peer");
            let many = format!("engine/{op}/{len}/10000 peers");
            let target = Target::new(many, TIME, ENGINE, ENGINE, [0.5, 0.8]).speed();
            all.push(target.against_case(&one));
        }
        let case = format!("engine/{op}/1420/1 peer");
        all.push(Target::new(
            case,
            "share of the AEAD",
            ENGINE,
            &[],
            [80.0, 90.0],
        ));
    }
    for (case, goal) in [
        ("v4/1000", 2.5),
        ("v4/1000000", 4.0),
        ("v6/1000", 4.0),
        ("v6/1000000", 5.0),
    ] {
        let case = format!("allowed_ips/{case}/lookup");
        all.push(Target::new(case, "time per look-up", ENGINE, BORINGTUN, [goal, 5.0]).speed());
    }
    all
}

/// The verdicts as a table, without what was not measured.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "CASE", "METRIC", "OURS", "AGAINST", "VALUE", "TARGET", "STRETCH", "VERDICT",
    ]);
    for target in all() {
        let (value, verdict) = target.verdict(rows);
        if verdict == Verdict::NotMeasured {
            continue;
        }
        let who = |side| {
            let row: Option<&Row> = target.best(rows, side);
            row.map_or_else(|| "-".into(), |row| row.contender.clone())
        };
        let against = match &target.against {
            Some(side) if side.case != target.own.case => side.case.clone(),
            Some(side) => who(side),
            None => "-".into(),
        };
        let least = target.more || target.inverse;
        let sign = if least { ">=" } else { "<=" };
        let spin = target.stretch_by.map_or("", |_| " (spin)");
        table.add_row([
            target.own.case.clone(),
            target.metric.to_owned(),
            who(&target.own),
            against,
            value.map_or_else(|| "-".into(), figure),
            format!("{sign} {}", target.target),
            format!("{sign} {}{spin}", target.stretch),
            verdict.name().to_owned(),
        ]);
    }
    for column in 4..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints the verdicts on what is in `files`.
pub(super) fn report(files: &[PathBuf]) -> Result<()> {
    let mut rows = Vec::new();
    for file in files {
        rows.extend(read_json(file).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    let absent = all()
        .iter()
        .filter(|target| target.verdict(&rows).1 == Verdict::NotMeasured)
        .count();
    println!("{}", table(&rows));
    println!("ratios of medians of one run; {absent} targets are not measured in what was given");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, contender: &str, metric: &str, median: f64) -> Row {
        Row::new(case, contender, metric, "", vec![median])
    }

    fn verdict(rows: &[Row], case: &str, metric: &str) -> (Option<f64>, Verdict) {
        let target = all()
            .into_iter()
            .find(|target| target.own.case == case && target.metric == metric)
            .unwrap();
        target.verdict(rows)
    }

    #[test]
    fn throughput_is_judged_against_the_newest_wireguard_go() {
        let case = "tcp1 default/1p";
        let rows = |ours| {
            [
                row(case, "ringspan-udp", "throughput", ours),
                row(case, "ringspan-xdp", "throughput", 100.0),
                row(case, "gotatun", "throughput", 50.0),
                row(case, "wireguard-go-sid", "throughput", 2.0),
            ]
        };
        let judged = |ours| verdict(&rows(ours), case, "throughput");
        assert_eq!(judged(4.0), (Some(2.0), Verdict::Missed));
        assert_eq!(judged(4.8), (Some(2.4), Verdict::Met));
        assert_eq!(judged(6.0), (Some(3.0), Verdict::Stretch));
        assert_eq!(
            verdict(&[], case, "throughput"),
            (None, Verdict::NotMeasured)
        );
    }

    #[test]
    fn round_trips_are_judged_against_the_quickest_peer_and_stretch_by_spinning() {
        let case = "rtt default/1p";
        let mut rows = vec![
            row(case, "ringspan-udp", "p50", 80.0),
            row(case, "wireguard-go-sid", "p50", 300.0),
            row(case, "boringtun", "p50", 100.0),
        ];
        assert_eq!(verdict(&rows, case, "p50"), (Some(0.8), Verdict::Met));
        rows.push(row(case, "ringspan-udp-spin", "p50", 40.0));
        assert_eq!(verdict(&rows, case, "p50"), (Some(0.8), Verdict::Stretch));
        rows[0] = row(case, "ringspan-udp", "p50", 95.0);
        assert_eq!(verdict(&rows, case, "p50"), (Some(0.95), Verdict::Missed));
    }

    #[test]
    fn times_become_speeds() {
        let case = "engine/seal/64/1 peer";
        let rows = [
            row(case, "ringspan", "time per packet", 40.0),
            row(case, "boringtun", "time per packet", 120.0),
        ];
        let judged = verdict(&rows, case, "time per packet");
        assert_eq!(judged, (Some(3.0), Verdict::Met));
        let many = "engine/seal/64/10000 peers";
        let rows = [
            row(case, "ringspan", "time per packet", 40.0),
            row(many, "ringspan", "time per packet", 160.0),
        ];
        let judged = verdict(&rows, many, "time per packet");
        assert_eq!(judged, (Some(0.25), Verdict::Missed));
    }

    #[test]
    fn memory_is_judged_by_itself() {
        let case = "tcp1 default/1p";
        let metric = "peak resident, larger end";
        let judged = |mib| verdict(&[row(case, "ringspan-udp", metric, mib)], case, metric);
        assert_eq!(judged(10.0).1, Verdict::Stretch);
        assert_eq!(judged(40.0).1, Verdict::Met);
        assert_eq!(judged(70.0).1, Verdict::Missed);
    }
}
