//! The front door: build a node, change its peers, see its state, shut it down.

use core::time::Duration;
use std::sync::Arc;

use crate::control::uapi::Device;
use crate::control::{
    ChangeError, Control, DeviceChange, DeviceState, Manager, PeerStatus, Source, SourceStatus,
};
use crate::crypto::{PrivateKey, PublicKey};
use crate::engine::Totals;
use crate::engine::handshakes::Statistics;
use crate::runtime::node::{Node, NodeError};
use crate::runtime::setup::{self, StartError};
use crate::runtime::wishes::{Inner, NodeWishes, Outer};
use crate::runtime::worker::DriverReport;

/// WireGuard's usual port.
pub const DEFAULT_PORT: u16 = 51820;

/// A running WireGuard data plane.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ringspan::control::PeerSpec;
/// use ringspan::{Dataplane, Inner, Outer};
///
/// # let (private_key, peer_key) = ("".parse()?, "".parse()?);
/// let plane = Dataplane::builder(private_key)
///     .listen_port(51820)
///     .outer(Outer::auto("eth0")) // AF_XDP zero copy, AF_XDP copy or UDP, chosen by probing
///     .inner(Inner::tun("kubespan").mtu(1420))
///     .start()?;
///
/// let mut spec = PeerSpec::new(peer_key);
/// spec.endpoints.push("192.0.2.7:51820".parse()?);
/// spec.allowed_ips.push("10.244.3.0/24".parse()?);
/// plane.control().apply(&[spec])?; // the whole wanted set; only differences touch what runs
///
/// for status in plane.statuses() {
///     println!("{}: {}, {} bytes in", status.label, status.state, status.receive_bytes);
/// }
/// plane.shutdown()?; // joins the threads, detaches, says what could not be undone
/// # Ok(())
/// # }
/// ```
///
/// Dropping it shuts it down too, without the report.
#[derive(Debug)]
pub struct Dataplane {
    // First: its threads use what follows, and end when it is dropped.
    manager: Manager,
    control: Arc<Control>,
    node: Arc<Node>,
    interface: Option<String>,
    notes: Vec<String>,
}

impl Dataplane {
    /// Begins a node with this identity.
    #[must_use]
    pub fn builder(private_key: PrivateKey) -> Builder {
        let wishes = NodeWishes {
            private_key: Some(private_key),
            listen_port: DEFAULT_PORT,
            fwmark: None,
            outer: Outer::udp(),
            inner: None,
            workers: None,
            pin: false,
            spin: Duration::ZERO,
        };
        Builder {
            wishes,
            sources: Vec::new(),
        }
    }

    /// Begins a node without an identity: it reaches nobody until [`Control::configure`] gives it
    /// a private key. (Until then it has a random one, which is never shown.)
    #[must_use]
    pub fn without_identity() -> Builder {
        let mut builder = Self::builder([0; 32].into());
        builder.wishes.private_key = None;
        builder
    }

    /// Changes peers.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Every peer as it is now.
    #[must_use]
    pub fn statuses(&self) -> Vec<PeerStatus> {
        self.control.statuses()
    }

    /// Where peers come from besides [`Dataplane::control`], with what each source last said.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.manager.statuses()
    }

    /// The drivers in use, with their modes and counters.
    #[must_use]
    pub fn drivers(&self) -> Vec<DriverReport> {
        self.node.drivers()
    }

    /// What workers and handshakes counted: one entry a verdict, summed over all workers.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut sum = Totals::default();
        for worker in self.node.counters() {
            sum += worker.totals();
        }
        // Nothing of the handshakes where control has ended.
        let handshakes = self
            .node
            .control()
            .run(|handshakes, _, _| *handshakes.statistics());
        sum.named()
            .chain([("control_mail_dropped", self.node.dropped_mail())])
            .chain(handshakes.iter().flat_map(Statistics::named))
            .collect()
    }

    /// The UDP port that is bound: the one asked for last, or the one that the kernel chose for 0.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        self.control.listen_port()
    }

    /// The TUN interface, if there is one.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// Whether the inner interface was removed by somebody else, also after it was moved to another
    /// network namespace: nothing will come from it any more, the node can be shut down.
    #[must_use]
    pub fn interface_is_gone(&self) -> bool {
        self.node.is_detached()
    }

    /// This node's identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.control.public_key()
    }

    /// What start-up chose where nothing was asked for, and what it had to do without, in words: why
    /// AF_XDP was not taken, say.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Stops all threads, closes all drivers, detaches the XDP program.
    ///
    /// # Errors
    /// Where something could not be undone, or a thread had panicked.
    pub fn shutdown(self) -> Result<(), NodeError> {
        let Self {
            manager,
            control,
            node,
            ..
        } = self;
        drop(manager);
        drop(control);
        // Nobody else has a handle by now: the manager's threads have ended, and no caller's
        // borrow outlives this.
        Arc::into_inner(node).map_or(Ok(()), |mut node| node.stop())
    }
}

/// What [`UapiServer`](crate::control::uapi::UapiServer) serves.
impl Device for Dataplane {
    fn state(&self) -> DeviceState {
        self.control.device()
    }

    fn change(&self, change: DeviceChange) -> Result<(), ChangeError> {
        self.control.configure(change)
    }
}

/// A node to be started. See [`Dataplane::builder`].
#[derive(Debug)]
pub struct Builder {
    wishes: NodeWishes,
    sources: Vec<Box<dyn Source>>,
}

impl Builder {
    /// The UDP port, IPv4 and IPv6 alike; 0 has the kernel choose. Default:
    /// [`DEFAULT_PORT`].
    #[must_use]
    pub fn listen_port(mut self, port: u16) -> Self {
        self.wishes.listen_port = port;
        self
    }

    /// The mark that outer packets bear (`SO_MARK`), for policy routing. AF_XDP routes are
    /// looked up under it.
    #[must_use]
    pub fn fwmark(mut self, mark: u32) -> Self {
        self.wishes.fwmark = Some(mark);
        self
    }

    /// Where encrypted datagrams come from and go to. Default: [`Outer::udp`].
    #[must_use]
    pub fn outer(mut self, outer: Outer) -> Self {
        self.wishes.outer = outer;
        self
    }

    /// Where plain packets come from and go to. Must be given.
    #[must_use]
    pub fn inner(mut self, inner: Inner) -> Self {
        self.wishes.inner = Some(inner);
        self
    }

    /// How many worker threads. Default: one for each AF_XDP queue, at most one for each CPU;
    /// one without AF_XDP.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.wishes.workers = Some(count);
        self
    }

    /// Pins worker *n* to CPU *n*. Default: not.
    #[must_use]
    pub fn pin(mut self, pin: bool) -> Self {
        self.wishes.pin = pin;
        self
    }

    /// Has workers poll before they sleep, for at most `bound`: 0 to 10 ms, in steps of
    /// microseconds. Lowers the latency of lone packets by the time it takes to wake a thread. How
    /// long is polled follows what pays: a worker that waits in vain soon polls no more. Between
    /// two looks it offers its CPU to others. Default: zero, sleep at once.
    #[must_use]
    pub fn spin(mut self, bound: Duration) -> Self {
        self.wishes.spin = bound;
        self
    }

    /// Has peers come from `source` too, for as long as the node runs. Of specs in conflict those
    /// of the API win, then those of the source that was added first.
    #[must_use]
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Opens the drivers and starts the threads, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had and the way out. Nothing is left behind.
    pub fn start(self) -> Result<Dataplane, StartError> {
        let ready = setup::start(self.wishes)?;
        let node = Arc::new(ready.node);
        let control = Arc::new(Control::new(Arc::clone(&node), ready.has_identity));
        let manager = Manager::start(&control, self.sources).map_err(NodeError::from)?;
        Ok(Dataplane {
            manager,
            control,
            node,
            interface: ready.interface,
            notes: ready.notes,
        })
    }
}
