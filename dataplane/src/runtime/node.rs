//! A running node: one control thread, its workers, and the tables between them.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use tracing::warn;

use crate::crypto::{self, OsRandom, PrivateKey, PublicKey};
use crate::engine::handshakes::{Handshakes, IdentityError};
use crate::engine::port::OuterTx;
use crate::engine::{Worker, WorkerConfig, WorkerCounters};
use crate::mesh::Mesh;

use super::control_thread::ControlThread;
use super::mailbox::{Mailbox, mailbox};
use super::outer_settings::{OuterError, OuterSettings};
use super::paths::SourceWatch;
use super::team::Team;
use super::worker::{DriverReport, Ports, WorkerOptions, WorkerThread};

/// What a node is made of, once its drivers are open.
pub struct Parts {
    /// The node's identity.
    pub private_key: PrivateKey,
    /// The inner MTU, in bytes.
    pub mtu: u16,
    /// The drivers of each worker.
    pub workers: Vec<Ports>,
    /// Pin worker *n* to CPU *n*.
    pub pin: bool,
    /// For how long at most workers poll before they sleep; zero is not at all.
    pub spin: Duration,
    /// Sends the handshakes.
    pub control_tx: Box<dyn OuterTx>,
    /// What reaches the drivers' settings, and must outlive them: the XDP program, the resolver.
    pub outer: OuterSettings,
}

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts")
            .field("mtu", &self.mtu)
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

/// A node that could not be started or was not stopped cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A forced AEAD back end that this CPU does not have.
    #[error(transparent)]
    Crypto(#[from] crypto::BackendError),
    /// The private key, or the source of randomness.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel refused a thread or a descriptor.
    #[error("cannot start the node's threads: {0}")]
    Threads(#[from] io::Error),
    /// A thread ended by a panic: a bug. The others were stopped and everything was released.
    #[error(
        "the {0} thread panicked; everything it held was released, but its last packets are lost (please report this)"
    )]
    Panicked(String),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    // The order is that of dropping: threads before tables, drivers before what they stand on.
    control: ControlThread,
    workers: Vec<WorkerThread>,
    counters: Vec<Arc<WorkerCounters>>,
    mailbox: Mailbox,
    mesh: Arc<Mesh>,
    private_key: PrivateKey,
    public_key: PublicKey,
    outer: OuterSettings,
}

impl Node {
    /// Starts all threads.
    ///
    /// # Errors
    /// [`NodeError::Crypto`] and [`NodeError::Threads`]; whatever was started is stopped again.
    pub fn start(parts: Parts) -> Result<Self, NodeError> {
        let Parts {
            private_key,
            mtu,
            workers: ports,
            pin,
            spin,
            control_tx,
            outer,
        } = parts;
        let aead = crypto::backend()?;
        let mesh = Arc::new(Mesh::default());
        let handshakes = Handshakes::new(&private_key, Arc::clone(&mesh), Box::new(OsRandom))?;
        let public_key = *handshakes.public_key();
        let (mailbox, mail) = mailbox();
        let (mut workers, mut counters) = (Vec::new(), Vec::new());
        let team = Team::new(ports.len())?;
        for (number, ports) in ports.into_iter().enumerate() {
            let engine = Worker::new(Arc::clone(&mesh), aead, WorkerConfig { mtu });
            counters.push(engine.counters());
            workers.push(WorkerThread::start(
                (&team, number),
                engine,
                ports,
                mailbox.clone(),
                WorkerOptions {
                    cpu: pin.then_some(number),
                    spin,
                },
            )?);
        }
        let wakers = team.wakers().to_vec();
        let sources = outer.udp.clone().and_then(|udp| {
            SourceWatch::open(udp)
                .map_err(|error| {
                    warn!("source addresses are not kept in step with routes: {error}");
                })
                .ok()
        });
        let control = ControlThread::start(handshakes, mail, control_tx, wakers, sources)?;
        Ok(Self {
            private_key,
            public_key,
            control,
            workers,
            counters,
            mailbox,
            mesh,
            outer,
        })
    }

    /// The identity that the node was started with, and its public half.
    #[must_use]
    pub fn identity(&self) -> (&PrivateKey, &PublicKey) {
        (&self.private_key, &self.public_key)
    }

    /// What can be changed of the outer side.
    #[must_use]
    pub fn outer(&self) -> &OuterSettings {
        &self.outer
    }

    /// Moves to another UDP port; 0 has the kernel choose.
    ///
    /// # Errors
    /// [`OuterError`]. When the port is not to be had, nothing has changed.
    pub fn set_listen_port(&self, port: u16) -> Result<(), OuterError> {
        self.outer
            .set_listen_port(port, &self.control, &self.workers)
    }

    /// The tables that workers read.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// The thread that owns the handshakes.
    #[must_use]
    pub fn control(&self) -> &ControlThread {
        &self.control
    }

    /// The workers' counters, one set a worker.
    #[must_use]
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// Letters to control that were dropped because it had fallen behind.
    #[must_use]
    pub fn dropped_mail(&self) -> u64 {
        self.mailbox.dropped()
    }

    /// Whether a driver's interface was removed while the node ran.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.workers.iter().any(WorkerThread::is_detached)
    }

    /// What every driver says of itself.
    #[must_use]
    pub fn drivers(&self) -> Vec<DriverReport> {
        self.workers.iter().flat_map(WorkerThread::report).collect()
    }

    /// Has every worker look at the tables again.
    pub fn wake_workers(&self) {
        for worker in &self.workers {
            worker.waker().wake();
        }
    }

    /// Stops workers, then control, then releases what they stood on.
    ///
    /// # Errors
    /// [`NodeError::Panicked`] names the first thread that did not end by itself.
    pub fn stop(&mut self) -> Result<(), NodeError> {
        let mut outcome = Ok(());
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if !worker.stop() && outcome.is_ok() {
                outcome = Err(NodeError::Panicked(format!("worker {number}")));
            }
        }
        if !self.control.stop() && outcome.is_ok() {
            outcome = Err(NodeError::Panicked("control".to_owned()));
        }
        self.outer = OuterSettings::default();
        outcome
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whoever wants the error calls `stop`.
        let _ = self.stop();
    }
}
