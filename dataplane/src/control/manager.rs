//! The threads that keep the peers of a node right: one for each source, one that applies what
//! they publish and gives endpoints their turns.

use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tracing::{info, warn};

use super::handle::Control;
use super::plan::Applied;
use super::source::{Feed, News, Source, Stop};
use super::spec::RejectReason;
use crate::crypto::PublicKey;
use crate::runtime::control_thread::Stopped;

/// How often endpoints get their turns.
const TICK: Duration = Duration::from_secs(1);
/// How often peers are looked at while anybody listens to events.
const LOOK: Duration = Duration::from_millis(100);

/// What a source last said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// How many peers it has.
    pub peers: usize,
    /// How often it has published them.
    pub updates: u64,
    /// What is wrong with it now. The peers above are the last that were right.
    pub problem: Option<String>,
    /// What was refused as of the last time that its peers were applied or changed, its own or
    /// another source's.
    pub rejected: Vec<(PublicKey, RejectReason)>,
}

/// The running threads.
#[derive(Debug)]
pub(crate) struct Manager {
    stop: Arc<Stop>,
    /// Kept until all sources have ended: the thread that applies ends with the last sender.
    news: Option<Sender<(usize, News)>>,
    sources: Vec<JoinHandle<()>>,
    applying: Option<JoinHandle<()>>,
    statuses: Arc<Mutex<Vec<SourceStatus>>>,
}

impl Manager {
    /// Starts the threads for `sources`, which count in their order, and all less than the API.
    pub(crate) fn start(control: &Arc<Control>, sources: Vec<Box<dyn Source>>) -> io::Result<Self> {
        let (news, inbox) = unbounded();
        let statuses = sources.iter().map(|source| SourceStatus {
            name: source.name(),
            peers: 0,
            updates: 0,
            problem: None,
            rejected: Vec::new(),
        });
        let mut manager = Self {
            stop: Arc::new(Stop::new()?),
            news: Some(news.clone()),
            sources: Vec::new(),
            applying: None,
            statuses: Arc::new(Mutex::new(statuses.collect())),
        };
        let loop_ = Loop {
            control: Arc::clone(control),
            inbox,
            statuses: Arc::clone(&manager.statuses),
        };
        let applying = thread::Builder::new().name("peers".to_owned());
        manager.applying = Some(applying.spawn(move || loop_.run())?);
        // Number 0 is the API.
        for (number, source) in (1..).zip(sources) {
            let feed = Feed::new(number, news.clone(), Arc::clone(&manager.stop))
                .with_control(Arc::clone(control));
            let thread = thread::Builder::new().name(format!("source {number}"));
            manager
                .sources
                .push(thread.spawn(move || source.run(&feed))?);
        }
        Ok(manager)
    }

    pub(crate) fn statuses(&self) -> Vec<SourceStatus> {
        lock(&self.statuses).clone()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.set();
        for source in self.sources.drain(..) {
            // A panic there was printed when it happened; what it published is applied.
            let _ = source.join();
        }
        self.news = None;
        if let Some(applying) = self.applying.take() {
            let _ = applying.join();
        }
    }
}

struct Loop {
    control: Arc<Control>,
    inbox: Receiver<(usize, News)>,
    statuses: Arc<Mutex<Vec<SourceStatus>>>,
}

impl Loop {
    fn run(self) {
        let mut next = std::time::Instant::now();
        loop {
            if next <= std::time::Instant::now() {
                // Fails where the control thread has ended: then there is nothing to do.
                let _ = self.control.tick();
                next = std::time::Instant::now() + TICK;
            }
            let mut wake = next;
            if self.control.is_watched() {
                self.control.look();
                wake = wake.min(std::time::Instant::now() + LOOK);
            }
            match self.inbox.recv_deadline(wake) {
                Ok((number, news)) => self.hear(number, news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn hear(&self, number: usize, news: News) {
        match news {
            News::Specs(specs) => self.take(number, self.control.apply_from(number, &specs)),
            News::Changes(changes) => {
                self.take(number, self.control.update_from(number, &changes));
            }
            News::Restrict(local) => self.control.set_local_endpoints(local),
            News::Problem(problem) => self.note(number, |status| {
                if status.problem.as_deref() != Some(&problem) {
                    warn!("{}: {problem}; its last peers stay", status.name);
                }
                status.problem = Some(problem);
            }),
        }
    }

    /// Tells what has come of a source's news.
    fn take(&self, number: usize, applied: Result<Applied, Stopped>) {
        let Ok(applied) = applied else { return };
        let peers = self.control.wanted_from(number);
        // A change does not mention those that were refused before it.
        let mut rejected = self.control.rejections();
        for one in &applied.rejected {
            if !rejected.contains(one) {
                rejected.push(one.clone());
            }
        }
        for (_, reason) in &applied.rejected {
            warn!("peer refused: {reason}");
        }
        self.note(number, |status| {
            info!(
                "{}: {peers} peers ({} added, {} changed, {} removed)",
                status.name, applied.added, applied.changed, applied.removed
            );
            status.peers = peers;
            status.updates += 1;
            status.problem = None;
            status.rejected = rejected;
        });
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut SourceStatus)) {
        if let Some(status) = lock(&self.statuses).get_mut(number - 1) {
            change(status);
        }
    }
}

fn lock(statuses: &Mutex<Vec<SourceStatus>>) -> std::sync::MutexGuard<'_, Vec<SourceStatus>> {
    statuses.lock().unwrap_or_else(PoisonError::into_inner)
}
