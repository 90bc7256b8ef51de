//! What of the outer side can be changed while the node runs: its UDP port and its mark.

use core::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::io::udp::{BindError, UdpPort};
use crate::io::xdp::program::UpdateError;

use super::control_thread::{ControlThread, Stopped};
use super::paths::{LocalAddressKeeper, PathResolver};
use super::veth_setup::VethKeeper;
use super::worker::WorkerThread;

/// Why the outer side was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OuterError {
    /// The port or the mark is refused.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// The embedder's own drivers: only they know.
    #[error(
        "the outer drivers are the embedder's own: their port and mark cannot be changed here, change them there"
    )]
    Custom,
    /// The node was shut down.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A worker cannot wait for the new sockets.
    #[error("a worker cannot wait for its new sockets: {0}; restart the node")]
    Register(#[source] io::Error),
    /// The XDP program was not told: the UDP socket carries everything.
    #[error("the XDP program cannot be told the new port, the UDP socket carries everything: {0}")]
    Xdp(#[source] UpdateError),
}

/// The parts of open outer drivers that their settings reach.
#[derive(Debug, Default)]
pub struct OuterSettings {
    // Dropped in this order: resolvers, then programs, then the port.
    /// Of an inner interface: kept here because it must outlive the workers too.
    pub(super) veth: Option<VethKeeper>,
    pub(super) resolver: Option<PathResolver>,
    pub(super) program: Option<LocalAddressKeeper>,
    /// Where AF_XDP sends from.
    pub(super) source_port: Option<Arc<AtomicU16>>,
    pub(super) udp: Option<UdpPort>,
    /// What an embedder with drivers of its own said its port is.
    pub(super) declared_port: u16,
    /// One change at a time.
    pub(super) changing: Mutex<()>,
}

impl OuterSettings {
    /// The UDP port; with the embedder's own drivers, what it said.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        self.udp.as_ref().map_or(self.declared_port, UdpPort::port)
    }

    /// The mark of outer packets; 0 for none.
    #[must_use]
    pub fn fwmark(&self) -> u32 {
        self.udp.as_ref().map_or(0, UdpPort::fwmark)
    }

    /// Moves to another UDP port; 0 has the kernel choose. A socket belongs to the network namespace
    /// of the thread that makes it, and the caller may be in another one: `control` makes it.
    ///
    /// # Errors
    /// [`OuterError`]. When the port is not to be had, nothing has changed.
    pub fn set_listen_port(
        &self,
        port: u16,
        control: &ControlThread,
        workers: &[WorkerThread],
    ) -> Result<(), OuterError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let udp = self.udp.as_ref().ok_or(OuterError::Custom)?;
        let port_of = udp.clone();
        control.run(move |_, _, _| port_of.rebind(port))??;
        // All are told, whatever the first one says.
        let registered = workers.iter().map(WorkerThread::register);
        let outcome = registered.fold(Ok(()), Result::and);
        if let Some(source_port) = &self.source_port {
            source_port.store(udp.port(), Relaxed);
        }
        if let Some(program) = &self.program {
            program.set_port(udp.port()).map_err(OuterError::Xdp)?;
        }
        outcome.map_err(OuterError::Register)
    }

    /// Marks outer packets from now on; 0 for not.
    ///
    /// # Errors
    /// [`OuterError`], with nothing changed.
    pub fn set_fwmark(&self, mark: u32) -> Result<(), OuterError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let udp = self.udp.as_ref().ok_or(OuterError::Custom)?;
        udp.set_fwmark(mark)?;
        if let Some(resolver) = &self.resolver {
            resolver.set_mark(mark);
        }
        Ok(())
    }
}
