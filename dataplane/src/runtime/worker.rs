//! A worker thread: receives, opens, delivers; receives, seals, sends; sleeps when there is
//! nothing to do.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::Timespec;
use rustix::io::Errno;
use tracing::{debug, warn};

use super::clock::monotonic;
use super::mailbox::Mailbox;
use super::ready::{Ready, WaitSet};
use super::spin::Spin;
use super::team::{Place, Team};
use super::wake::Waker;
use crate::engine::Worker;
use crate::engine::port::{DriverInfo, InnerRx, InnerTx, OuterRx, OuterTx};
use crate::io::scheduling;
use crate::time::Instant;
use crate::wire::message::DATA_OVERHEAD;

/// Packets of one turn from which on the next turn asks every driver without asking the kernel
/// first which of them have something: then most have.
const BUSY: usize = 32;

/// Longest sleep while packets are staged: they expire without a packet's coming, and the session
/// they wait for may be confirmed by a packet that another worker receives.
const STAGED_POLL: Duration = Duration::from_millis(100);

/// First sleep while a send driver holds what the kernel would not take yet; each further one is twice as long, up to [`STAGED_POLL`]: the interface may be down.
const UNSENT_POLL: Duration = Duration::from_millis(1);

/// Pause after a driver's error: long enough not to spin, short enough for an interface that
/// is only down for a moment.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// How often, while there is work, the inner interface is asked for its MTU.
const MTU_PERIOD: Duration = Duration::from_millis(250);

/// How a worker runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorkerOptions {
    /// The CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// For how long at most it polls before it sleeps; zero is not at all.
    pub spin: Duration,
}

/// The drivers of one worker.
pub struct Ports {
    /// Receives datagrams: AF_XDP queues, and for one worker the UDP socket.
    pub outer_rx: Vec<Box<dyn OuterRx>>,
    /// Sends datagrams.
    pub outer_tx: Box<dyn OuterTx>,
    /// Receives packets from the host.
    pub inner_rx: Vec<Box<dyn InnerRx>>,
    /// Delivers packets to the host.
    pub inner_tx: Box<dyn InnerTx>,
}

/// One driver's state, as its worker reports it.
#[derive(Clone, Debug)]
pub struct DriverReport {
    /// Which worker it belongs to.
    pub worker: usize,
    /// `outer rx`, `outer tx`, `inner rx` or `inner tx`.
    pub port: &'static str,
    /// What it is and does.
    pub info: DriverInfo,
    /// Its own counters, name and value.
    pub statistics: Vec<(&'static str, u64)>,
}

enum Request {
    Report(Sender<Vec<DriverReport>>),
    /// Register the drivers' descriptors anew: they stand for other sockets now.
    Register(Sender<io::Result<()>>),
    Stop,
}

/// The handle of a running worker thread.
#[derive(Debug)]
pub struct WorkerThread {
    waker: Arc<Waker>,
    requests: Sender<Request>,
    detached: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerThread {
    /// Starts worker `number` of `team` on `ports`.
    ///
    /// # Errors
    /// Where the thread or its descriptor cannot be made.
    pub(super) fn start(
        (team, number): (&Team, usize),
        engine: Worker,
        ports: Ports,
        mailbox: Mailbox,
        options: WorkerOptions,
    ) -> io::Result<Self> {
        let gone = || io::Error::other("no such worker in the team");
        let waker = team.wakers().get(number).map(Arc::clone).ok_or_else(gone)?;
        let place = team.place(number, !ports.outer_rx.is_empty());
        let (requests, inbox) = unbounded();
        let wait_set = WaitSet::new(&ports, &waker)?;
        let detached = Arc::new(AtomicBool::new(false));
        let run = Loop {
            number,
            engine,
            ports,
            mailbox,
            place,
            waker: Arc::clone(&waker),
            inbox,
            wait_set,
            spin: Spin::new(options.spin),
            unsent_pause: UNSENT_POLL,
            failures: 0,
            detached: Arc::clone(&detached),
            mtu: None,
            mtu_asked: None,
        };
        let thread = thread::Builder::new()
            .name(format!("worker {number}"))
            .spawn(move || {
                if let Some(cpu) = options.cpu {
                    pin(cpu);
                }
                if let Err(error) = scheduling::as_batch() {
                    debug!("worker {number} interrupts whoever wakes it: {error}");
                }
                run.run();
            })?;
        Ok(Self {
            waker,
            requests,
            detached,
            thread: Some(thread),
        })
    }

    /// Has the worker look for new sessions.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Whether a driver's interface was removed, in whatever namespace it was by then.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.detached.load(Relaxed)
    }

    /// What its drivers say of themselves; empty where the worker is gone.
    #[must_use]
    pub fn report(&self) -> Vec<DriverReport> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        if self.requests.send(Request::Report(answer)).is_err() {
            return Vec::new();
        }
        self.waker.wake();
        answered
            .recv_timeout(Duration::from_secs(2))
            .unwrap_or_default()
    }

    /// Has it wait for its drivers' descriptors anew, because they stand for other sockets now.
    ///
    /// # Errors
    /// When the kernel refuses; the worker then waits for what it did before.
    pub fn register(&self) -> io::Result<()> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let gone = || io::Error::other("the worker has ended");
        self.requests
            .send(Request::Register(answer))
            .map_err(|_| gone())?;
        self.waker.wake();
        answered.recv().map_err(|_| gone())?
    }

    /// Ends the thread and waits for it. False where it had panicked.
    pub fn stop(&mut self) -> bool {
        let _ = self.requests.send(Request::Stop);
        self.waker.wake();
        self.thread
            .take()
            .is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        warn!("cannot pin a worker to CPU {cpu}: {error}; it runs where the scheduler puts it");
    }
}

struct Loop {
    number: usize,
    engine: Worker,
    ports: Ports,
    mailbox: Mailbox,
    /// What it does for other workers, where there are any.
    place: Option<Place>,
    waker: Arc<Waker>,
    inbox: Receiver<Request>,
    wait_set: WaitSet,
    spin: Spin,
    unsent_pause: Duration,
    failures: u64,
    detached: Arc<AtomicBool>,
    /// The inner interface's MTU, and when it was asked for.
    mtu: Option<u16>,
    mtu_asked: Option<Instant>,
}

impl Loop {
    fn run(mut self) {
        let mut ready = Ready::ALL;
        loop {
            if self.waker.take() {
                if !self.answer() {
                    return;
                }
                self.release_staged();
            }
            self.follow_mtu();
            ready = match self.turn(ready) {
                Ok(packets) if packets >= BUSY => Ready::ALL,
                // One system call says which drivers have more, or sleeps until one has.
                Ok(_) => self.wait(),
                Err(error) => {
                    self.endure(&error);
                    Ready::ALL
                }
            };
        }
    }

    /// Answers what others ask; false when asked to stop.
    fn answer(&mut self) -> bool {
        while let Ok(request) = self.inbox.try_recv() {
            match request {
                Request::Report(answer) => drop(answer.send(self.report())),
                Request::Register(answer) => {
                    let set = WaitSet::new(&self.ports, &self.waker);
                    let _ = answer.send(set.map(|set| self.wait_set = set));
                }
                Request::Stop => return false,
            }
        }
        true
    }

    /// Follows what an administrator makes of the inner interface's MTU.
    fn follow_mtu(&mut self) {
        let now = monotonic();
        if self.mtu_asked.is_some_and(|at| now.since(at) < MTU_PERIOD) {
            return;
        }
        self.mtu_asked = Some(now);
        let mtu = self.ports.inner_tx.mtu();
        if let Some(mtu) = mtu.filter(|mtu| Some(*mtu) != self.mtu) {
            self.mtu = Some(mtu);
            self.engine.set_mtu(mtu);
            let longest = usize::from(mtu) + DATA_OVERHEAD;
            self.ports.outer_tx.set_longest(longest);
        }
    }

    /// One batch from every driver that is `ready`; the number of packets. A driver that fails
    /// keeps none of the others from their turn.
    ///
    /// # Errors
    /// The first driver's error, where no driver had anything.
    fn turn(&mut self, mut ready: Ready) -> io::Result<usize> {
        let Self {
            engine,
            ports,
            mailbox,
            place,
            ..
        } = self;
        let now = monotonic();
        let mut turn = Ok(0);
        let may_receive = place.as_ref().is_none_or(Place::may_receive);
        for (number, rx) in ports.outer_rx.iter_mut().enumerate() {
            if !ready.has_outer(number) || !may_receive {
                continue;
            }
            let received = rx.recv_batch(&mut |datagrams| {
                let taken = place
                    .as_mut()
                    .is_some_and(|place| place.hand_off(engine, datagrams, mailbox));
                if !taken {
                    engine.open(now, datagrams, &mut *ports.inner_tx, mailbox);
                }
            });
            turn = merge(turn, received);
        }
        if let Some(place) = place {
            let received = *turn.as_ref().unwrap_or(&0);
            if may_receive {
                place.received(received);
            }
            if place.deliver(engine, now, &mut *ports.inner_tx) {
                turn = merge(turn, Ok(1));
            }
            // Who receives helps when there is nothing to receive, or no parcel to put it into.
            if received < BUSY && place.help(engine, now) {
                // More may wait.
                turn = merge(turn, Ok(BUSY));
            }
        }
        if matches!(turn, Ok(1..)) {
            // What was delivered is often answered by the host at once, within the delivery.
            ready |= Ready::INNER;
        }
        if engine.wants_release() {
            engine.release_staged(now, &mut *ports.outer_tx, mailbox);
        }
        for (number, rx) in ports.inner_rx.iter_mut().enumerate() {
            if !ready.has_inner(number) {
                continue;
            }
            let received = rx.recv_batch(&mut |packets| {
                engine.seal(now, packets, &mut *ports.outer_tx, mailbox);
            });
            turn = merge(turn, received);
        }
        engine.deliver_errors(&mut *ports.inner_tx);
        turn
    }

    fn release_staged(&mut self) {
        if self.engine.has_staged() {
            self.engine
                .release_staged(monotonic(), &mut *self.ports.outer_tx, &mut self.mailbox);
        }
    }

    /// How long nothing need be done, whatever does not come; `None` is for ever.
    fn longest_sleep(&mut self) -> Option<Duration> {
        // Both, whatever the first one answers.
        if self.ports.outer_tx.flush() | self.ports.inner_tx.flush() {
            return Some(self.unsent_pause);
        }
        self.unsent_pause = UNSENT_POLL;
        self.engine.has_staged().then_some(STAGED_POLL)
    }

    /// Waits for a driver or a wake-up: polls as long as that pays, then sleeps.
    fn wait(&mut self) -> Ready {
        let longest = self.longest_sleep();
        let began = self.spin.enabled().then(monotonic);
        if let Some(began) = began {
            let mut looked = began;
            while looked.since(began) < self.spin.window() {
                let mut ready = self
                    .wait_set
                    .wait(Some(&timespec(Duration::ZERO)), &self.waker);
                ready |= self.busy_poll();
                if ready != Ready::NONE {
                    return ready;
                }
                // Whoever is to send the next packet may need this CPU for it.
                thread::yield_now();
                let now = monotonic();
                self.spin.looked(now.since(looked));
                looked = now;
            }
        }
        let ready = self
            .wait_set
            .wait(longest.map(timespec).as_ref(), &self.waker);
        if let Some(began) = began {
            self.spin.slept(monotonic().since(began));
        }
        if ready == Ready::NONE {
            // Only time that has passed counts, not turns.
            self.unsent_pause = (self.unsent_pause * 2).min(STAGED_POLL);
            self.release_staged();
        }
        ready
    }

    /// Drives the cards whose drivers leave that to us; which of them have something now.
    fn busy_poll(&mut self) -> Ready {
        let mut ready = Ready::NONE;
        if self.place.as_ref().is_none_or(Place::may_receive) {
            for (number, rx) in self.ports.outer_rx.iter_mut().enumerate() {
                if rx.busy_poll() {
                    ready |= Ready::outer(number);
                }
            }
        }
        ready
    }

    /// A driver failed: says so, the first time and then ever more rarely, and pauses. An
    /// interface may be down for a moment; one that is gone keeps failing until somebody stops
    /// the node.
    fn endure(&mut self, error: &io::Error) {
        self.failures += 1;
        // What a TUN descriptor answers when its interface is gone.
        if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) {
            self.detached.store(true, Relaxed);
        }
        if self.failures.is_power_of_two() {
            warn!(
                "worker {}: a driver failed ({} times by now): {error}",
                self.number, self.failures
            );
        }
        thread::sleep(ERROR_PAUSE);
    }

    fn report(&self) -> Vec<DriverReport> {
        let Ports {
            outer_rx,
            outer_tx,
            inner_rx,
            inner_tx,
        } = &self.ports;
        let report = |port, info, statistics| DriverReport {
            worker: self.number,
            port,
            info,
            statistics,
        };
        let outer = outer_rx
            .iter()
            .map(|rx| report("outer rx", rx.info(), rx.statistics()));
        let inner = inner_rx
            .iter()
            .map(|rx| report("inner rx", rx.info(), rx.statistics()));
        outer
            .chain([report("outer tx", outer_tx.info(), outer_tx.statistics())])
            .chain(inner)
            .chain([report("inner tx", inner_tx.info(), inner_tx.statistics())])
            .collect()
    }
}

/// What two drivers did: packets outweigh errors, the first error outweighs idleness.
fn merge(a: io::Result<usize>, b: io::Result<usize>) -> io::Result<usize> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok(a + b),
        (Ok(0), Err(error)) | (Err(error), Ok(0) | Err(_)) => Err(error),
        (Ok(work), Err(_)) | (Err(_), Ok(work)) => Ok(work),
    }
}

fn timespec(span: Duration) -> Timespec {
    // Both fit: the spans here are fractions of a second.
    Timespec {
        tv_sec: span.as_secs() as i64,
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_driver_does_not_hold_up_a_working_one() {
        let failed = || Err(io::Error::other("down"));
        assert_eq!(merge(Ok(3), failed()).unwrap(), 3);
        assert_eq!(merge(failed(), Ok(3)).unwrap(), 3);
        assert_eq!(merge(Ok(3), Ok(4)).unwrap(), 7);
        assert!(merge(failed(), Ok(0)).is_err() && merge(Ok(0), failed()).is_err());
        assert!(merge(failed(), failed()).is_err());
    }
}
