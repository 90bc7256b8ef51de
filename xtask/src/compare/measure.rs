//! What is measured, and how.

use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ringspan_tests::traffic::ping::{Options, Pings, ping};

use super::bed::Pair;
use super::load::{Load, udp_trial};
use super::resources::{cpu_time, peak_resident};
use crate::Result;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Measure {
    /// Round trips while nothing else flows
    Rtt,
    /// One TCP stream; CPU time and memory of the daemons
    Tcp1,
    /// Four TCP streams; CPU time and memory of the daemons
    Tcp4,
    /// Round trips beside a load that every contender carries
    RttLoad,
    /// The highest rate of 1372-byte datagrams that loses less than 0.1 %
    Udp1372,
    /// The same of 64-byte datagrams
    Udp64,
}

/// How long things are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    tcp: Duration,
    trial: Duration,
    pings: usize,
    /// Halvings of the interval once a rate has failed.
    halvings: u32,
}

impl Times {
    pub(crate) const FULL: Self = Self {
        tcp: Duration::from_millis(2500),
        trial: Duration::from_millis(400),
        pings: 1000,
        halvings: 4,
    };

    pub(crate) const QUICK: Self = Self {
        tcp: Duration::from_millis(1000),
        trial: Duration::from_millis(200),
        pings: 200,
        halvings: 3,
    };

    /// No time at all: what is left then is what no plan can shorten.
    pub(crate) const NONE: Self = Self {
        tcp: Duration::ZERO,
        trial: Duration::ZERO,
        pings: 0,
        halvings: 4,
    };

    /// `factor` times as long, within limits: shorter, and the figures would be noise; longer, and
    /// more repeats would be the better use.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let factor = factor.clamp(0.5, 2.5);
        Self {
            tcp: self.tcp.mul_f64(factor),
            trial: self.trial.mul_f64(factor),
            // The 99.9th percentile needs a thousand.
            pings: (self.pings as f64 * factor).max(1000.0) as usize,
            halvings: self.halvings,
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "TCP {:.1} s, UDP {:.2} s a rate, {} pings",
            self.tcp.as_secs_f64(),
            self.trial.as_secs_f64(),
            self.pings
        )
    }
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

const PING_INTERVAL: Duration = Duration::from_millis(1);
/// What a trial of a rate takes beside the sending.
const SETTLE: Duration = Duration::from_millis(150);
/// Where the search for a rate begins, in datagrams a second.
const FIRST_RATE: f64 = 16_000.0;
/// Before a measurement begins, the load has run for so long.
const WARM_UP: Duration = Duration::from_millis(500);
/// The rate of the load beside which round trips are measured, in datagrams of 1372 bytes a second.
const BESIDE: f64 = 10_000.0;
/// Loss that counts as none.
const LOSS_FREE: f64 = 0.001;

impl Measure {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::RttLoad => "rtt-load",
            Self::Udp1372 => "udp1372",
            Self::Udp64 => "udp64",
        }
    }

    /// About how long it takes.
    pub(crate) fn estimate(self, times: &Times) -> Duration {
        let pings = (PING_INTERVAL + Duration::from_micros(200)) * times.pings as u32;
        match self {
            Self::Rtt => pings,
            Self::RttLoad => WARM_UP + pings,
            Self::Tcp1 | Self::Tcp4 => WARM_UP + times.tcp,
            // Two doublings, one of which fails twice, and halvings, half of which do.
            Self::Udp1372 | Self::Udp64 => (times.trial + SETTLE) * (3 + times.halvings * 3 / 2),
        }
    }

    /// `before` is what this measure gave in the round before, if anything.
    pub(crate) fn take(
        self,
        pair: &Pair,
        times: &Times,
        before: Option<f64>,
    ) -> Result<Vec<Value>> {
        match self {
            Self::Rtt => round_trips(pair, times),
            Self::Tcp1 => tcp(pair, 1, times),
            Self::Tcp4 => tcp(pair, 4, times),
            Self::RttLoad => {
                let _load = Load::udp(pair, 1372, BESIDE)?;
                thread::sleep(WARM_UP);
                round_trips(pair, times)
            }
            Self::Udp1372 => loss_free_rate(pair, 1372, times, before),
            Self::Udp64 => loss_free_rate(pair, 64, times, before),
        }
    }
}

fn tcp(pair: &Pair, streams: usize, times: &Times) -> Result<Vec<Value>> {
    let load = Load::tcp(pair, streams)?;
    thread::sleep(WARM_UP);
    let (cpu, bytes, began) = (daemons_cpu(pair)?, load.received(), Instant::now());
    thread::sleep(times.tcp);
    let (bytes, elapsed) = (load.received() - bytes, began.elapsed());
    let cpu = daemons_cpu(pair)?.saturating_sub(cpu);
    if bytes == 0 {
        return Err(format!("TCP stood still, {streams} streams").into());
    }
    let resident = pair.processes().map(peak_resident);
    let [a, b] = resident;
    Ok(vec![
        Value {
            metric: "throughput",
            unit: "Gbit/s",
            value: bytes as f64 * 8e-9 / elapsed.as_secs_f64(),
        },
        Value {
            metric: "daemons' CPU",
            unit: "s/GB",
            value: cpu.as_secs_f64() / (bytes as f64 * 1e-9),
        },
        Value {
            metric: "peak resident, larger end",
            unit: "MiB",
            value: a?.max(b?),
        },
    ])
}

fn daemons_cpu(pair: &Pair) -> Result<Duration> {
    let [a, b] = pair.processes();
    Ok(cpu_time(a)? + cpu_time(b)?)
}

fn round_trips(pair: &Pair, times: &Times) -> Result<Vec<Value>> {
    let options = Options {
        count: times.pings,
        interval: PING_INTERVAL,
        timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let pings = pair.sender().run(|| ping(pair.target(), options))?;
    if pings.round_trips.len() * 2 < pings.sent {
        return Err("most pings went unanswered".into());
    }
    let quantile = |metric, share| quantile(&pings, metric, share);
    Ok([
        quantile("p50", 0.5),
        quantile("p99", 0.99),
        quantile("p99.9", 0.999),
    ]
    .into_iter()
    .flatten()
    .collect())
}

fn quantile(pings: &Pings, metric: &'static str, share: f64) -> Option<Value> {
    pings.quantile(share).map(|time| Value {
        metric,
        unit: "us",
        value: time.as_secs_f64() * 1e6,
    })
}

/// Doubles the rate until datagrams are lost, then halves the interval, as RFC 2544, section 26.1
/// has it. A rate has failed when it did so twice: others may have had the CPU the first time.
///
/// Where a round went `before` (its result in kpps), the search begins below what that one found;
/// it finds higher and lower ones all the same.
fn loss_free_rate(
    pair: &Pair,
    size: usize,
    times: &Times,
    before: Option<f64>,
) -> Result<Vec<Value>> {
    let passes = |rate: f64| -> Result<Option<f64>> {
        for _ in 0..2 {
            let trial = udp_trial(pair, size, rate, times.trial)?;
            if trial.loss < LOSS_FREE {
                return Ok(Some(trial.offered));
            }
        }
        Ok(None)
    };
    let first = before
        .filter(|kpps| *kpps > 0.0)
        .map_or(FIRST_RATE, |kpps| kpps * 700.0);
    let value = search(first, times.halvings, passes)? / 1e3;
    Ok(vec![Value {
        metric: "loss-free rate",
        unit: "kpps",
        value,
    }])
}

/// The highest rate that was offered and passed; `passes` gives what was offered in fact.
fn search(
    first: f64,
    halvings: u32,
    mut passes: impl FnMut(f64) -> Result<Option<f64>>,
) -> Result<f64> {
    let mut best: f64 = 0.0;
    let (mut low, mut high) = (0.0, first);
    while let Some(offered) = passes(high)? {
        best = best.max(offered);
        low = high;
        // The generator itself ends it: it could not send so many.
        if offered < 0.8 * high {
            return Ok(best);
        }
        high *= 2.0;
    }
    for _ in 0..halvings {
        let middle = f64::midpoint(low, high);
        match passes(middle)? {
            Some(offered) => {
                best = best.max(offered);
                low = middle;
            }
            None => high = middle,
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_finds_the_limit_from_wherever_it_begins() {
        for limit in [3_000.0, 50_000.0, 310_000.0] {
            for first in [FIRST_RATE, limit * 0.7, limit * 1.3] {
                let passes = |rate| Ok((rate <= limit).then_some(rate));
                let found = search(first, 5, passes).unwrap();
                assert!(found <= limit, "{first}: {found}");
                // Five halvings of the interval between a rate that passed, or none, and one
                // that failed.
                let interval = f64::max(limit, first);
                assert!(
                    found >= limit - interval / 32.0,
                    "{first}: {found} of {limit}"
                );
            }
        }
    }

    #[test]
    fn a_search_ends_at_what_the_generator_can_send() {
        let found = search(FIRST_RATE, 4, |rate: f64| Ok(Some(rate.min(100_000.0)))).unwrap();
        assert_eq!(found, 100_000.0);
    }
}
