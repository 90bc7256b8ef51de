//! Traffic between all pairs at once, verified byte by byte.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ringspan_tests::netns::Namespace;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::udp::{Echo, Exchange, exchange};
use ringspan_tests::traffic::{Pings, tcp};

use super::mesh::Mesh;
use crate::Result;
use crate::interrupt::Interrupt;

/// Bytes of one TCP connection; a new one follows until time is up.
const CONNECTION: u64 = 2 << 20;
/// Datagrams of one UDP round.
const ROUND: u64 = 256;
/// UDP payload, in bytes.
const DATAGRAM: usize = 1200;
/// Datagrams on their way in one pair.
const WINDOW: u64 = 32;
/// When nothing moves for so long, a pair has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What answers in every node, and the mesh to load.
pub(crate) struct Load<'a> {
    mesh: &'a Mesh,
    interrupt: &'a Interrupt,
    servers: Vec<(tcp::Server, Echo)>,
}

/// What one pair moved over TCP.
#[derive(Default)]
pub(crate) struct TcpResult {
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
    pub(crate) upload_time: Duration,
    pub(crate) download_time: Duration,
    pub(crate) failure: Option<String>,
}

/// What one pair exchanged over UDP.
#[derive(Default)]
pub(crate) struct UdpResult {
    pub(crate) exchange: Exchange,
    pub(crate) failure: Option<String>,
}

impl<'a> Load<'a> {
    pub(crate) fn new(mesh: &'a Mesh, interrupt: &'a Interrupt) -> Result<Self> {
        let servers = mesh
            .nodes()
            .iter()
            .map(|node| {
                node.space.run(|| {
                    Ok((
                        tcp::Server::start(node.address)?,
                        Echo::start(node.address)?,
                    ))
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            mesh,
            interrupt,
            servers,
        })
    }

    /// Pings along every pair, one pair after the other: the handshakes first, then while
    /// nothing else flows.
    pub(crate) fn round_trips(&self) -> Result<Vec<Pings>> {
        let pairs = self.mesh.pairs();
        let first = Options {
            count: 1,
            timeout: PATIENCE,
            ..Options::default()
        };
        for &(from, to) in &pairs {
            if self.interrupt.came() {
                return Ok(Vec::new());
            }
            let answered = self.ping(from, to, first)?;
            if !answered.all_answered() {
                let nodes = self.mesh.nodes();
                return Err(format!(
                    "no way from {} to {}: no answer within {PATIENCE:?}",
                    nodes[from].label, nodes[to].label
                )
                .into());
            }
        }
        let many = Options {
            count: (300 / pairs.len()).clamp(5, 50),
            interval: Duration::from_millis(5),
            ..first
        };
        pairs
            .iter()
            .take_while(|_| !self.interrupt.came())
            .map(|&(from, to)| self.ping(from, to, many))
            .collect()
    }

    fn ping(&self, from: usize, to: usize, options: Options) -> Result<Pings> {
        let nodes = self.mesh.nodes();
        Ok(nodes[from].space.run(|| ping(nodes[to].address, options))?)
    }

    /// TCP along all pairs at once, each in turn up and down, for `time` and as long as what is
    /// done `meanwhile` lasts. That may show how far it is.
    pub(crate) fn tcp<M: Send>(
        &self,
        time: Duration,
        meanwhile: impl FnOnce(&ProgressBar) -> M + Send,
    ) -> Result<(Vec<TcpResult>, M)> {
        self.all_pairs("TCP", time, meanwhile, |to, moved, go_on| {
            let mut result = TcpResult::default();
            let server = self.servers[to].0.address();
            if let Err(error) = tcp_until(server, moved, go_on, &mut result) {
                result.failure = Some(error.to_string());
            }
            result
        })
    }

    /// UDP along all pairs at once, echoed.
    pub(crate) fn udp(&self, time: Duration) -> Result<Vec<UdpResult>> {
        let results = self.all_pairs(
            "UDP",
            time,
            |_| (),
            |to, moved, go_on| {
                let mut result = UdpResult::default();
                let echo = self.servers[to].1.address();
                if let Err(error) = udp_until(echo, moved, go_on, &mut result.exchange) {
                    result.failure = Some(error.to_string());
                }
                result
            },
        );
        Ok(results?.0)
    }

    /// Runs `work` for each pair, in the namespace of its first node, until `time` is up and
    /// `meanwhile` has ended. `work` gets the other node, a counter of bytes, and the question
    /// whether to go on.
    fn all_pairs<R: Send, M: Send>(
        &self,
        what: &str,
        time: Duration,
        meanwhile: impl FnOnce(&ProgressBar) -> M + Send,
        work: impl Fn(usize, &AtomicU64, &dyn Fn() -> bool) -> R + Sync,
    ) -> Result<(Vec<R>, M)> {
        let moved = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let go_on = || !stop.load(Relaxed) && !self.interrupt.came();
        let pairs = self.mesh.pairs();
        thread::scope(|scope| {
            let workers: Vec<_> = pairs
                .iter()
                .map(|&(from, to)| {
                    let space: &Namespace = &self.mesh.nodes()[from].space;
                    let (work, moved, go_on) = (&work, &moved, &go_on);
                    scope.spawn(move || {
                        space.enter();
                        work(to, moved, go_on)
                    })
                })
                .collect();
            let bar = ProgressBar::new(0);
            let aside = bar.clone();
            let aside = scope.spawn(move || meanwhile(&aside));
            show(&bar, what, pairs.len(), time, &moved, |time_is_up| {
                let works = go_on() && workers.iter().any(|worker| !worker.is_finished());
                works && !(time_is_up && aside.is_finished())
            });
            stop.store(true, Relaxed);
            let results = workers
                .into_iter()
                .map(|worker| {
                    worker
                        .join()
                        .map_err(|_| "a traffic thread panicked".into())
                })
                .collect::<Result<Vec<R>>>();
            let done = aside.join().map_err(|_| "a thread of the demo panicked")?;
            Ok((results?, done))
        })
    }
}

/// A progress bar over `time`, with the rate at which `moved` grows, for as long as `go_on`, which
/// is told whether time is up.
fn show(
    bar: &ProgressBar,
    what: &str,
    pairs: usize,
    time: Duration,
    moved: &AtomicU64,
    go_on: impl Fn(bool) -> bool,
) {
    const TICK: Duration = Duration::from_millis(100);
    let ticks = (time.as_millis() / TICK.as_millis()).max(1) as u64;
    bar.set_length(ticks);
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:40}] {elapsed:>4} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let began = Instant::now();
    let mut last = (began, 0);
    for tick in 1.. {
        if !go_on(tick > ticks) {
            break;
        }
        thread::sleep((began + TICK * tick as u32).saturating_duration_since(Instant::now()));
        let now = (Instant::now(), moved.load(Relaxed));
        let rate = rate(now.1 - last.1, now.0 - last.0);
        bar.set_prefix(format!("{what} over {pairs} pairs, {rate}"));
        bar.set_position(tick.min(ticks));
        last = now;
    }
    bar.finish_and_clear();
    let total = moved.load(Relaxed);
    println!(
        "{what} over {pairs} pairs: {} of verified content, {}",
        indicatif::HumanBytes(total),
        rate(total, began.elapsed())
    );
}

/// Bits per second, in words.
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    let bits = bytes as f64 * 8.0 / time.as_secs_f64().max(f64::EPSILON);
    if bits >= 1e9 {
        format!("{:.2} Gbit/s", bits / 1e9)
    } else {
        format!("{:.0} Mbit/s", bits / 1e6)
    }
}

fn tcp_until(
    server: SocketAddr,
    moved: &AtomicU64,
    go_on: &dyn Fn() -> bool,
    result: &mut TcpResult,
) -> io::Result<()> {
    while go_on() {
        for up in [true, false] {
            let began = Instant::now();
            let mut bytes = 0;
            let (upload, download) = if up { (CONNECTION, 0) } else { (0, CONNECTION) };
            let outcome = tcp::transfer(server, upload, download, PATIENCE, |part| {
                bytes += part;
                moved.fetch_add(part, Relaxed);
                go_on()
            });
            let (total, time) = if up {
                (&mut result.uploaded, &mut result.upload_time)
            } else {
                (&mut result.downloaded, &mut result.download_time)
            };
            *total += bytes;
            *time += began.elapsed();
            match outcome {
                // Time is up.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

fn udp_until(
    echo: SocketAddr,
    moved: &AtomicU64,
    go_on: &dyn Fn() -> bool,
    total: &mut Exchange,
) -> io::Result<()> {
    while go_on() {
        let round = exchange(echo, ROUND, DATAGRAM, WINDOW, PATIENCE / 10, |bytes| {
            moved.fetch_add(2 * bytes, Relaxed);
            true
        })?;
        total.sent += round.sent;
        total.echoed += round.echoed;
        total.damaged += round.damaged;
        total.elapsed += round.elapsed;
    }
    Ok(())
}

/// The first thing that went wrong, if anything did.
pub(crate) fn judge(tcp: &[TcpResult], udp: &[UdpResult]) -> Result<()> {
    let failures = tcp.iter().map(|result| &result.failure);
    let failures = failures.chain(udp.iter().map(|result| &result.failure));
    if let Some(failure) = failures.flatten().next() {
        return Err(format!("traffic failed: {failure}").into());
    }
    if tcp
        .iter()
        .any(|result| result.uploaded == 0 || result.downloaded == 0)
    {
        return Err("a pair moved nothing over TCP".into());
    }
    if udp.iter().any(|result| result.exchange.echoed == 0) {
        return Err("a pair moved nothing over UDP".into());
    }
    if udp.iter().any(|result| result.exchange.damaged > 0) {
        return Err("a datagram came back changed".into());
    }
    Ok(())
}
