//! The control thread: owns the handshakes of all peers, answers the workers' mail, runs the
//! timers.

use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, select, unbounded};
use tracing::{info, trace};

use super::clock::now;
use super::interruption::Watch;
use super::mailbox::{CAPACITY, Letters, Mail};
use super::paths::SourceWatch;
use super::wake::Waker;
use crate::engine::handshakes::{Handshakes, Output};
use crate::engine::port::{OuterTx, TxRequest};
use crate::time::Now;

/// Letters answered after the first one before the timers get their turn again.
const MAIL_PER_TURN: usize = 64;

/// Work for the control thread, done between two letters.
type Task = Box<dyn FnOnce(&mut Handshakes, Now, &mut dyn FnMut(Output<'_>)) + Send>;

/// The control thread has ended (the node was shut down, or the thread panicked).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the node has been shut down")]
pub struct Stopped;

/// The handle of a running control thread.
#[derive(Debug)]
pub struct ControlThread {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlThread {
    /// Starts the thread. It sends through `tx`, wakes `workers` when sessions come or go, and has
    /// `sources` keep the peers' source addresses in step with the routes.
    ///
    /// # Errors
    /// Where the thread cannot be made.
    pub fn start(
        handshakes: Handshakes,
        mail: Letters,
        tx: Box<dyn OuterTx>,
        workers: Vec<Arc<Waker>>,
        sources: Option<SourceWatch>,
    ) -> io::Result<Self> {
        let (tasks, inbox) = unbounded();
        let run = Loop {
            handshakes,
            mail,
            inbox,
            tx,
            workers,
            watch: Watch::begin(),
            sources,
        };
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || run.run())?;
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    /// Runs `work` on the control thread and waits for its result.
    ///
    /// # Errors
    /// [`Stopped`] where the thread has ended.
    pub fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Handshakes, Now, &mut dyn FnMut(Output<'_>)) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let task: Task =
            Box::new(move |handshakes, now, out| drop(answer.send(work(handshakes, now, out))));
        self.tasks
            .as_ref()
            .ok_or(Stopped)?
            .send(task)
            .map_err(|_| Stopped)?;
        answered.recv().map_err(|_| Stopped)
    }

    /// Ends the thread and waits for it. False where it had panicked.
    pub fn stop(&mut self) -> bool {
        self.tasks = None;
        self.thread
            .take()
            .is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Loop {
    handshakes: Handshakes,
    mail: Letters,
    inbox: Receiver<Task>,
    tx: Box<dyn OuterTx>,
    workers: Vec<Arc<Waker>>,
    watch: Watch,
    sources: Option<SourceWatch>,
}

impl Loop {
    fn run(mut self) {
        loop {
            // At least once a second: timers look at all peers that often.
            if let Some(interruption) = self.watch.look() {
                info!(
                    "the machine was interrupted ({interruption:?}): all session keys are forgotten"
                );
                self.handshakes.forget_sessions();
            }
            let deadline = {
                let Self {
                    handshakes,
                    tx,
                    workers,
                    ..
                } = &mut self;
                handshakes.tick(now(), &mut |output| act(&output, &mut **tx, workers))
            };
            let mut wait = deadline.since(super::clock::monotonic());
            if let Some(sources) = &mut self.sources
                && sources.look(|| self.handshakes.peers().cloned().collect())
            {
                wait = Duration::ZERO;
            }
            // A message and a task may wait at once; `select!` takes either, so neither starves.
            select! {
                recv(self.mail.receiver()) -> mail => match mail {
                    Ok(mail) => self.answer(mail),
                    // All workers are gone: only tasks and timers remain.
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                },
                recv(self.inbox) -> task => match task {
                    Ok(task) => self.perform(task),
                    Err(_) => return,
                },
                default(wait) => {}
            }
        }
    }

    fn perform(&mut self, task: Task) {
        let Self {
            handshakes,
            tx,
            workers,
            ..
        } = self;
        task(handshakes, now(), &mut |output| {
            act(&output, &mut **tx, workers);
        });
    }

    /// Answers one letter and those behind it.
    fn answer(&mut self, first: Mail) {
        let Self {
            handshakes,
            mail,
            tx,
            workers,
            ..
        } = self;
        let rest = core::iter::from_fn(|| mail.receiver().try_recv().ok());
        for letter in core::iter::once(first).chain(rest.take(MAIL_PER_TURN)) {
            let now = now();
            mail.took(&letter);
            handshakes.set_load(mail.messages(), CAPACITY);
            let mut out = |output: Output<'_>| act(&output, &mut **tx, workers);
            match letter {
                Mail::Message { datagram, from } => {
                    if let Err(refusal) = handshakes.receive(now, &datagram, &from, &mut out) {
                        trace!("handshake message refused: {refusal}");
                    }
                }
                Mail::Wanted(peer) => handshakes.request(now, peer.public_key(), &mut out),
            }
        }
    }
}

fn act(output: &Output<'_>, tx: &mut dyn OuterTx, workers: &[Arc<Waker>]) {
    match output {
        Output::Send {
            to, datagram, tos, ..
        } => {
            let request = TxRequest {
                to: *to,
                len: datagram.len(),
                tos: *tos,
            };
            // A handshake message that is lost is sent again by its timer.
            let _ = tx.send_batch(&[request], &mut |slots| {
                for slot in slots {
                    slot.buffer.copy_from_slice(datagram);
                }
            });
        }
        Output::SessionReady { .. } | Output::HandshakeFailed { .. } => {
            for worker in workers {
                worker.wake();
            }
        }
    }
}
