//! Routing on the host for a mesh whose peers' own addresses lie behind the tunnel, as in KubeSpan.
//!
//! Plain routes would send the tunnel's own datagrams into the tunnel. Instead nftables marks what
//! is for a routed prefix, a rule leads marked packets to a table of its own, and that table's
//! default routes lead into the tunnel. Datagrams of the data plane bear another mark
//! ([`Builder::fwmark`](crate::Builder::fwmark)) and pass by.
//!
//! What is set, in the order in which it is set:
//!
//! 1. where traffic must not leave in clear: routes of last resort to nowhere, in the table and for
//!    the mesh's own prefix in the main table, which hold when the link is down or gone;
//! 2. a rule of each family;
//! 3. the link: MTU, up, address, and the default routes over it;
//! 4. the nftables table, whose sets hold the routed prefixes.
//!
//! A thread watches links, addresses, routes, rules and the table, and puts back what is lost.
//! Whatever bears ringspan's protocol number, or stands in its nftables table, was left by a run
//! that was killed, and is taken over; anything else is left alone, and refused by its name.

mod error;
mod routed;
mod sysctl;
mod table;
mod worker;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use ipnet::IpNet;

pub use self::error::HostRoutingError;
pub use self::table::TABLE as NFT_TABLE;
use self::worker::Worker;
use super::wake::Waker;

/// What is to be set.
/// [`control::kubespan::routing::host_routing`](crate::control::kubespan::routing::host_routing)
/// has the figures of KubeSpan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostRoutingConfig {
    /// The tunnel's interface, which is there already.
    pub link: String,
    /// This node's address in the mesh, with the mesh's prefix.
    pub address: IpNet,
    /// The MTU of the link and of its routes, in bytes.
    pub mtu: u16,
    /// The routing table.
    pub table: u32,
    /// The metric of the table's default routes.
    pub metric: u32,
    /// The priority of the rules.
    pub rule_priority: u32,
    /// The mark of the data plane's own datagrams.
    pub outer_mark: u32,
    /// The mark that leads into the tunnel.
    pub tunnel_mark: u32,
    /// The bits that the two marks use.
    pub mark_mask: u32,
    /// The largest TCP segments of IPv4 connections that this host makes, in bytes.
    pub max_segment_ipv4: u16,
    /// The same for IPv6.
    pub max_segment_ipv6: u16,
    /// What is for a routed prefix is lost, rather than sent in clear, whenever the tunnel cannot
    /// take it: the link is down, this process was killed.
    pub fail_closed: bool,
}

/// Routes of this host into a tunnel. It works in the network namespace of the thread that starts
/// it.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (plane, address): (ringspan::Dataplane, std::net::Ipv6Addr) = todo!();
/// use ringspan::HostRouting;
/// use ringspan::control::kubespan::routing;
///
/// let bypass = false; // allowDownPeerBypass
/// let routing = HostRouting::start(routing::host_routing("kubespan", address, 1420, bypass))?;
/// // At every change of peers, and with the bypass of their states too:
/// routing.set_routed(&routing::routed_of(bypass, &plane.statuses()))?;
/// routing.close()?;
/// # Ok(())
/// # }
/// ```
///
/// Dropping it takes everything back too; what could not be is then logged.
#[derive(Debug)]
pub struct HostRouting {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    notes: Vec<String>,
}

/// What the thread is asked to do, and where the answer goes.
enum Command {
    SetRouted(Vec<IpNet>, Sender<Result<(), HostRoutingError>>),
    Close(Sender<Vec<String>>),
}

impl HostRouting {
    /// Sets everything, with no prefix routed but those that a run that was killed has left:
    /// they stay until [`set_routed`](Self::set_routed) is first called, if
    /// [`fail_closed`](HostRoutingConfig::fail_closed) is set.
    ///
    /// # Errors
    /// [`HostRoutingError`]; what was set before is taken back.
    pub fn start(config: HostRoutingConfig) -> Result<Self, HostRoutingError> {
        let waker = Waker::new().map_err(refused("make an eventfd"))?;
        let waker = Arc::new(waker);
        let (commands, received) = unbounded();
        let (ready, started) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("host-routing".to_owned())
            .spawn({
                let waker = Arc::clone(&waker);
                move || run(config, &received, &waker, &ready)
            })
            .map_err(refused("start the thread of host routing"))?;
        let mut routing = Self {
            commands,
            waker,
            thread: Some(thread),
            notes: Vec::new(),
        };
        match started.recv().map_err(|_| HostRoutingError::Stopped) {
            Ok(Ok(notes)) => {
                routing.notes = notes;
                Ok(routing)
            }
            Ok(Err(error)) | Err(error) => {
                routing.join();
                Err(error)
            }
        }
    }

    /// What of it this host cannot do, in sentences for people; mostly nothing.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Routes these prefixes into the tunnel, and no others. One change of nftables' sets, in one
    /// transaction: a prefix that is in the old set and in the new one is routed at any time.
    ///
    /// # Errors
    /// [`HostRoutingError::Nft`]; the former prefixes are then still routed.
    pub fn set_routed(&self, prefixes: &[IpNet]) -> Result<(), HostRoutingError> {
        let (reply, answer) = bounded(1);
        self.tell(Command::SetRouted(prefixes.to_vec(), reply))?;
        answer.recv().map_err(|_| HostRoutingError::Stopped)?
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// [`HostRoutingError::LeftBehind`] names what could not be.
    pub fn close(mut self) -> Result<(), HostRoutingError> {
        let left = self.end()?;
        if left.is_empty() {
            return Ok(());
        }
        Err(HostRoutingError::LeftBehind(left))
    }

    fn tell(&self, command: Command) -> Result<(), HostRoutingError> {
        let told = self.commands.send(command);
        self.waker.wake();
        told.map_err(|_| HostRoutingError::Stopped)
    }

    /// Has the thread take everything back and end.
    fn end(&mut self) -> Result<Vec<String>, HostRoutingError> {
        let (reply, answer) = bounded(1);
        self.tell(Command::Close(reply))?;
        let left = answer.recv().map_err(|_| HostRoutingError::Stopped);
        self.join();
        left
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("host routing panicked: routes and marks are left behind");
        }
    }
}

impl Drop for HostRouting {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        match self.end() {
            Ok(left) => {
                for what in left {
                    tracing::error!("left behind on this host: {what}");
                }
            }
            Err(error) => tracing::error!("{error}"),
        }
    }
}

/// The thread: everything is done by it, because sockets and children belong to the network
/// namespace of the thread that makes them.
fn run(
    config: HostRoutingConfig,
    commands: &Receiver<Command>,
    waker: &Waker,
    ready: &Sender<Result<Vec<String>, HostRoutingError>>,
) {
    let mut worker = match Worker::start(config) {
        Ok(worker) => worker,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(worker.notes().to_vec())).is_err() {
        return;
    }
    loop {
        worker.wait(waker);
        waker.drain();
        // Read anyway: whoever sends wakes afterwards.
        waker.take();
        for command in commands.try_iter() {
            match command {
                Command::SetRouted(prefixes, reply) => {
                    let _ = reply.send(worker.set_routed(&prefixes));
                }
                Command::Close(reply) => {
                    let _ = reply.send(worker.undo());
                    return;
                }
            }
        }
        worker.step();
    }
}

fn refused(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> HostRoutingError {
    let doing = doing.into();
    move |source| HostRoutingError::Refused { doing, source }
}

impl HostRoutingConfig {
    /// The prefix of the whole mesh.
    fn mesh(&self) -> IpNet {
        self.address.trunc()
    }

    fn check(&self) -> Result<(), HostRoutingError> {
        let unspecified = match self.address.addr() {
            IpAddr::V4(ip) => ip.is_unspecified(),
            IpAddr::V6(ip) => ip == Ipv6Addr::UNSPECIFIED,
        };
        if unspecified || self.address.prefix_len() == self.address.max_prefix_len() {
            return Err(HostRoutingError::Address(self.address));
        }
        Ok(())
    }
}
