//! What a caller may ask for: outer and inner drivers, unopened.

use core::fmt;
use core::time::Duration;

use crate::crypto::PrivateKey;
use crate::engine::port::{InnerRx, InnerTx, OuterRx, OuterTx};
use crate::io::xdp::{BusyPoll, TxChecksum};

/// The smallest inner MTU: what every IPv4 host must accept (RFC 791 §3.2), in bytes.
pub const MIN_MTU: u16 = 576;

/// The inner MTU that fits a path of 1500 bytes with IPv6 outside: 1500 − 40 − 8 − 32.
pub const DEFAULT_MTU: u16 = 1420;

/// All that a node to be started is asked for.
#[derive(Debug)]
pub(crate) struct NodeWishes {
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) listen_port: u16,
    pub(crate) fwmark: Option<u32>,
    pub(crate) outer: Outer,
    /// Without it, the node does not start.
    pub(crate) inner: Option<Inner>,
    pub(crate) workers: Option<usize>,
    pub(crate) pin: bool,
    pub(crate) spin: Duration,
}

/// How AF_XDP is used on its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpSend {
    /// What the sockets turn out to be decides: AF_XDP where all of them have zero copy and send a
    /// test frame, else the UDP socket. The default of [`Outer::auto`].
    Auto,
    /// AF_XDP both ways. The default of [`Outer::xdp`].
    #[default]
    Both,
    /// AF_XDP receives, the UDP socket sends: often the better pair where there is no zero copy,
    /// because the socket sends runs of datagrams as one (GSO).
    ReceiveOnly,
}

/// Where encrypted datagrams come from and go to. The UDP socket is bound in any case: it
/// reserves the port, takes what XDP passes, and sends what AF_XDP cannot yet.
#[derive(Debug)]
pub struct Outer(pub(super) OuterWish);

#[derive(Debug)]
pub(super) enum OuterWish {
    Udp,
    Xdp(XdpWish),
    Custom(CustomOuter),
}

#[derive(Clone, Debug)]
pub(super) struct XdpWish {
    pub(super) interface: String,
    /// Without it the node does not start; else it goes on with UDP and says why.
    pub(super) required: bool,
    pub(super) send: XdpSend,
    pub(super) copy_only: bool,
    pub(super) generic_only: bool,
    pub(super) busy_poll: Option<BusyPoll>,
    pub(super) tx_checksum: TxChecksum,
}

pub(super) struct CustomOuter {
    pub(super) rx: Vec<Box<dyn OuterRx>>,
    pub(super) tx: Vec<Box<dyn OuterTx>>,
    pub(super) control_tx: Box<dyn OuterTx>,
}

impl fmt::Debug for CustomOuter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomOuter")
            .field("workers", &self.rx.len())
            .finish_non_exhaustive()
    }
}

impl Outer {
    /// The best that `interface` can do, by probing: AF_XDP with zero copy, AF_XDP with copying,
    /// else the UDP socket; who sends is chosen apart ([`XdpSend::Auto`]). What was not taken is in
    /// the node's notes, with the reason.
    #[must_use]
    pub fn auto(interface: impl Into<String>) -> Self {
        Self::on(interface, false)
    }

    /// AF_XDP on `interface`, or an error.
    #[must_use]
    pub fn xdp(interface: impl Into<String>) -> Self {
        Self::on(interface, true)
    }

    fn on(interface: impl Into<String>, required: bool) -> Self {
        Self(OuterWish::Xdp(XdpWish {
            interface: interface.into(),
            required,
            send: if required {
                XdpSend::Both
            } else {
                XdpSend::Auto
            },
            copy_only: false,
            generic_only: false,
            busy_poll: None,
            tx_checksum: TxChecksum::Auto,
        }))
    }

    /// The kernel's UDP socket alone.
    #[must_use]
    pub fn udp() -> Self {
        Self(OuterWish::Udp)
    }

    /// Drivers of the caller's own. Worker *n* gets the *n*th of `rx` and of `tx`; `control_tx`
    /// sends the handshakes.
    #[must_use]
    pub fn custom(
        rx: Vec<Box<dyn OuterRx>>,
        tx: Vec<Box<dyn OuterTx>>,
        control_tx: Box<dyn OuterTx>,
    ) -> Self {
        Self(OuterWish::Custom(CustomOuter { rx, tx, control_tx }))
    }

    /// Chooses who sends; no effect without AF_XDP.
    #[must_use]
    pub fn send(mut self, send: XdpSend) -> Self {
        if let OuterWish::Xdp(wish) = &mut self.0 {
            wish.send = send;
        }
        self
    }

    /// Does not try zero copy; no effect without AF_XDP.
    #[must_use]
    pub fn copy_only(mut self) -> Self {
        if let OuterWish::Xdp(wish) = &mut self.0 {
            wish.copy_only = true;
        }
        self
    }

    /// Attaches in generic mode, behind the driver; no effect without AF_XDP.
    #[must_use]
    pub fn generic_only(mut self) -> Self {
        if let OuterWish::Xdp(wish) = &mut self.0 {
            wish.generic_only = true;
        }
        self
    }

    /// Has workers run the card's NAPI themselves: with every look of one that polls
    /// ([`Builder::spin`](crate::Builder::spin)), and between batches. Pays where cores are idle
    /// and the card's interrupts are deferred; slower on a veth. Where the kernel refuses it, the
    /// node goes on without and the driver's mode says so. Default: not. No effect without AF_XDP.
    #[must_use]
    pub fn busy_poll(mut self, how: BusyPoll) -> Self {
        if let OuterWish::Xdp(wish) = &mut self.0 {
            wish.busy_poll = Some(how);
        }
        self
    }

    /// Chooses who computes the UDP checksums of what AF_XDP sends. Default:
    /// [`TxChecksum::Auto`]. No effect without AF_XDP.
    #[must_use]
    pub fn tx_checksum(mut self, who: TxChecksum) -> Self {
        if let OuterWish::Xdp(wish) = &mut self.0 {
            wish.tx_checksum = who;
        }
        self
    }
}

/// Where plain packets come from and go to.
#[derive(Debug)]
pub struct Inner {
    pub(super) mtu: u16,
    pub(super) wish: InnerWish,
}

pub(super) enum InnerWish {
    Tun(String),
    Veth(String),
    Custom(Vec<(Box<dyn InnerRx>, Box<dyn InnerTx>)>),
}

impl fmt::Debug for InnerWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tun(name) => f.debug_tuple("Tun").field(name).finish(),
            Self::Veth(name) => f.debug_tuple("Veth").field(name).finish(),
            Self::Custom(ports) => f.debug_tuple("Custom").field(&ports.len()).finish(),
        }
    }
}

impl Inner {
    /// A TUN interface of this name, made at start and gone with the node. A `%d` in the name is
    /// replaced by the kernel with a free number.
    #[must_use]
    pub fn tun(name: impl Into<String>) -> Self {
        Self {
            mtu: DEFAULT_MTU,
            wish: InnerWish::Tun(name.into()),
        }
    }

    /// AF_XDP on the Ethernet interface of this name, mostly our end of a veth whose other end is a
    /// pod's or a router namespace's: unicast packets that the other end sends to this interface's
    /// hardware address go through the tunnel, unless they are for an address of this machine, and
    /// what comes out of the tunnel is sent to the other end. Where the outer side is AF_XDP too,
    /// in copy mode, a packet leaves in the very frame that its datagram came in.
    ///
    /// The interface stays what it is, its addresses, its routes and its MTU, which counts as the
    /// inner MTU: give both ends 1420. The kernel goes on answering ARP and neighbour discovery;
    /// its routes say which neighbour a packet from the tunnel goes to. There are at most as many
    /// workers as the interface has receive queues. Native XDP is required.
    #[must_use]
    pub fn veth(interface: impl Into<String>) -> Self {
        Self {
            mtu: DEFAULT_MTU,
            wish: InnerWish::Veth(interface.into()),
        }
    }

    /// Drivers of the caller's own, one pair a worker.
    #[must_use]
    pub fn custom(ports: Vec<(Box<dyn InnerRx>, Box<dyn InnerTx>)>) -> Self {
        Self {
            mtu: DEFAULT_MTU,
            wish: InnerWish::Custom(ports),
        }
    }

    /// The largest inner packet, in bytes: [`MIN_MTU`] to 65535 less 80. Default:
    /// [`DEFAULT_MTU`]. No effect on [`veth`](Self::veth), whose interface has one.
    #[must_use]
    pub fn mtu(mut self, bytes: u16) -> Self {
        self.mtu = bytes;
        self
    }
}
