//! From wishes to open drivers: probing, falling back, saying why.

use core::time::Duration;
use std::io;

use tracing::{info, warn};

use crate::crypto::PrivateKey;
use crate::engine::handshakes::IdentityError;
use crate::engine::port::{InnerRx, InnerTx, OuterRx, OuterTx};
use crate::io::tun::{OpenError, Tun, TunConfig};
use crate::io::udp::{BindError, UdpConfig, UdpPort};
use crate::io::xdp::program::LoadError;
use crate::io::xdp::{BusyPoll, XdpError};

use super::node::{Node, NodeError, Parts};
use super::outer_choice::Reason;
use super::outer_settings::OuterSettings;
use super::spin::MAX_SPIN;
use super::veth_setup::{OpenVeth, Veth};
use super::wishes::{CustomOuter, Inner, InnerWish, MIN_MTU, NodeWishes, Outer, OuterWish};
use super::worker::Ports;

/// Bytes that WireGuard adds to an inner packet, IPv6 outside: 40 + 8 + 16 + 16.
const MAX_OVERHEAD: u16 = 80;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The builder was given no inner driver.
    #[error("no inner driver: call `.inner(Inner::tun(\"NAME\"))` before `.start()`")]
    NoInner,
    /// An inner MTU that no packet or no datagram can have.
    #[error("MTU {mtu} is out of range: it must be {MIN_MTU} to {most} bytes", most = u16::MAX - MAX_OVERHEAD)]
    Mtu {
        /// The refused value.
        mtu: u16,
    },
    /// More or fewer workers than there can be.
    #[error("{workers} workers are out of range: it must be 1 to {most}")]
    Workers {
        /// The refused value.
        workers: usize,
        /// The most that make sense with these drivers.
        most: usize,
    },
    /// More workers than an inner interface has queues.
    #[error(
        "{workers} workers cannot share the {queues} receive queues of {interface}: ask for fewer workers, or make the interface with more queues (`ip link add … numrxqueues N numtxqueues N`, both ends)"
    )]
    Queues {
        /// The interface.
        interface: String,
        /// Its receive queues.
        queues: usize,
        /// The workers.
        workers: usize,
    },
    /// A longer polling before sleep than makes sense.
    #[error("spinning for {} µs is out of range: it must be 0 to {} µs", spin.as_micros(), MAX_SPIN.as_micros())]
    Spin {
        /// The refused value.
        spin: Duration,
    },
    /// The caller's own drivers do not come in equal numbers.
    #[error(
        "{outer_rx} outer receivers, {outer_tx} outer senders and {inner} inner pairs: each worker needs one of each"
    )]
    Uneven {
        /// Outer receivers given.
        outer_rx: usize,
        /// Outer senders given.
        outer_tx: usize,
        /// Inner pairs given.
        inner: usize,
    },
    /// A number of workers or a mark, with drivers of the caller's own.
    #[error(
        "with `Outer::custom` there is one worker for each pair of drivers, and marks are theirs: leave out `.workers()` and `.fwmark()`"
    )]
    NotForCustom,
    /// The UDP port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The TUN interface.
    #[error(transparent)]
    Tun(#[from] OpenError),
    /// The XDP program could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// AF_XDP could not be set up.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The kernel refused something that names no value of the caller's.
    #[error("cannot {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The threads.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A started node and what is known of its drivers.
pub(crate) struct Ready {
    pub(crate) node: Node,
    /// Whether the identity is the caller's.
    pub(crate) has_identity: bool,
    pub(crate) interface: Option<String>,
    pub(crate) notes: Vec<String>,
}

/// Opens everything `wishes` asks for and starts the node. On an error, what was opened closes
/// again by being dropped.
pub(crate) fn start(wishes: NodeWishes) -> Result<Ready, StartError> {
    let NodeWishes {
        private_key,
        listen_port,
        fwmark,
        outer,
        inner,
        workers,
        pin,
        spin,
    } = wishes;
    let Inner { mtu, wish: inner } = inner.ok_or(StartError::NoInner)?;
    let inner = match inner {
        InnerWish::Veth(name) => InnerSide::Veth(Veth::find(name)?),
        InnerWish::Tun(name) => InnerSide::Tun(name),
        InnerWish::Custom(ports) => InnerSide::Custom(ports),
    };
    let mtu = inner.veth().map_or(mtu, Veth::mtu);
    if !(MIN_MTU..=u16::MAX - MAX_OVERHEAD).contains(&mtu) {
        return Err(StartError::Mtu { mtu });
    }
    if let Some(workers) = workers.filter(|count| !(1..=MAX_WORKERS).contains(count)) {
        return Err(StartError::Workers {
            workers,
            most: MAX_WORKERS,
        });
    }
    if spin > MAX_SPIN {
        return Err(StartError::Spin { spin });
    }
    let request = OuterRequest {
        listen_port,
        fwmark: fwmark.unwrap_or(0),
        mtu,
        workers,
        veth: inner.veth(),
    };
    let mut outer = open_outer(outer, &request)?;
    let (inner, interface) = open_inner(inner, mtu, &mut outer)?;
    let ports = join(outer.ports, inner)?;
    let mut notes = outer.notes;
    for note in &notes {
        warn!("{note}");
    }
    match outer.reason {
        Reason::Asked => {}
        Reason::Best(text) => {
            info!("{text}");
            notes.insert(0, text);
        }
        Reason::Lacking(text) => {
            warn!("{text}");
            notes.insert(0, text);
        }
    }
    let has_identity = private_key.is_some();
    let private_key = match private_key {
        Some(key) => key,
        None => {
            PrivateKey::random().map_err(|error| NodeError::from(IdentityError::from(error)))?
        }
    };
    let parts = Parts {
        private_key,
        mtu,
        workers: ports,
        pin,
        spin,
        control_tx: outer.control_tx,
        outer: outer.settings,
    };
    Ok(Ready {
        node: Node::start(parts)?,
        has_identity,
        interface,
        notes,
    })
}

/// The most worker threads: as many as a TUN interface may have queues.
const MAX_WORKERS: usize = 256;

/// The inner side, looked up as far as the outer one must know it.
enum InnerSide {
    Veth(Veth),
    Tun(String),
    Custom(Vec<(Box<dyn InnerRx>, Box<dyn InnerTx>)>),
}

impl InnerSide {
    const fn veth(&self) -> Option<&Veth> {
        match self {
            Self::Veth(veth) => Some(veth),
            Self::Tun(_) | Self::Custom(_) => None,
        }
    }
}

pub(super) struct OuterRequest<'a> {
    listen_port: u16,
    pub(super) fwmark: u32,
    pub(super) mtu: u16,
    pub(super) workers: Option<usize>,
    /// The inner interface that is to share the memory of the outer one.
    pub(super) veth: Option<&'a Veth>,
}

pub(super) type OuterPorts = (Vec<Box<dyn OuterRx>>, Box<dyn OuterTx>);

pub(super) struct OpenOuter {
    pub(super) ports: Vec<OuterPorts>,
    pub(super) control_tx: Box<dyn OuterTx>,
    pub(super) settings: OuterSettings,
    /// Why these drivers.
    pub(super) reason: Reason,
    /// What else had to be done without.
    pub(super) notes: Vec<String>,
    /// The inner interface, where it was opened along.
    pub(super) veth: Option<OpenVeth>,
}

fn open_outer(outer: Outer, request: &OuterRequest<'_>) -> Result<OpenOuter, StartError> {
    let wish = match outer.0 {
        OuterWish::Custom(custom) => return open_custom(custom, request),
        OuterWish::Udp => None,
        OuterWish::Xdp(wish) => Some(wish),
    };
    let config = UdpConfig {
        port: request.listen_port,
        fwmark: request.fwmark,
        ..UdpConfig::default()
    };
    let udp = UdpPort::bind(&config)?;
    let Some(wish) = wish else {
        return Ok(udp_alone(&udp, request, Reason::Asked));
    };
    // Not a reason to do without: the value is the caller's.
    wish.busy_poll.map_or(Ok(()), BusyPoll::check)?;
    match super::xdp_setup::open(&wish, &udp, request) {
        Ok(open) => Ok(open),
        Err(error) if wish.required => Err(error),
        Err(error) => {
            let note = format!(
                "AF_XDP on {} is not used, the UDP socket carries everything: {error}",
                wish.interface
            );
            Ok(udp_alone(&udp, request, Reason::Lacking(note)))
        }
    }
}

fn open_custom(custom: CustomOuter, request: &OuterRequest<'_>) -> Result<OpenOuter, StartError> {
    let CustomOuter { rx, tx, control_tx } = custom;
    if request.workers.is_some_and(|workers| workers != rx.len()) || request.fwmark != 0 {
        return Err(StartError::NotForCustom);
    }
    if rx.len() != tx.len() || rx.is_empty() {
        return Err(StartError::Uneven {
            outer_rx: rx.len(),
            outer_tx: tx.len(),
            inner: rx.len(),
        });
    }
    let ports = rx
        .into_iter()
        .zip(tx)
        .map(|(rx, tx)| (vec![rx], tx))
        .collect();
    Ok(OpenOuter {
        ports,
        control_tx,
        settings: OuterSettings {
            declared_port: request.listen_port,
            ..OuterSettings::default()
        },
        reason: Reason::Asked,
        notes: Vec::new(),
        veth: None,
    })
}

/// One socket receives, in worker 0: two receivers would share the datagrams of one tunnel and
/// lose their order.
fn udp_alone(udp: &UdpPort, request: &OuterRequest<'_>, reason: Reason) -> OpenOuter {
    let mut rx: Vec<Box<dyn OuterRx>> = vec![Box::new(udp.rx())];
    let ports = (0..request.workers.unwrap_or(1))
        .map(|_| {
            (
                core::mem::take(&mut rx),
                Box::new(udp.tx()) as Box<dyn OuterTx>,
            )
        })
        .collect();
    OpenOuter {
        ports,
        control_tx: Box::new(udp.tx()),
        settings: OuterSettings {
            udp: Some(udp.clone()),
            ..OuterSettings::default()
        },
        reason,
        notes: Vec::new(),
        veth: None,
    }
}

/// Packets that wait in the TUN interface for a worker. The kernel's 500 are 2 ms of single packets
/// at a rate that one worker carries: less than it may be kept from its CPU.
const TUN_QUEUE: u32 = 2000;

pub(super) type InnerPorts = (Vec<Box<dyn InnerRx>>, Box<dyn InnerTx>);

/// Opens the inner side for the workers of `outer`; the name too, where it is an interface.
fn open_inner(
    side: InnerSide,
    mtu: u16,
    outer: &mut OpenOuter,
) -> Result<(Vec<InnerPorts>, Option<String>), StartError> {
    let workers = outer.ports.len();
    match side {
        InnerSide::Custom(ports) => Ok((
            ports.into_iter().map(|(rx, tx)| (vec![rx], tx)).collect(),
            None,
        )),
        InnerSide::Tun(name) => {
            let tun = Tun::open(&TunConfig {
                mtu: u32::from(mtu),
                queues: workers,
                queue_length: Some(TUN_QUEUE),
                ..TunConfig::new(name)
            })?;
            let queue = |number| Some((tun.rx(number)?, tun.tx(number)?));
            let ports = (0..tun.queues())
                .filter_map(queue)
                .map(|(rx, tx)| {
                    (
                        vec![Box::new(rx) as Box<dyn InnerRx>],
                        Box::new(tx) as Box<dyn InnerTx>,
                    )
                })
                .collect();
            Ok((ports, Some(tun.name().to_owned())))
        }
        InnerSide::Veth(veth) => {
            let open = match outer.veth.take() {
                Some(open) => open,
                None => veth.open(&mut [], workers)?,
            };
            outer.settings.veth = Some(open.keeper);
            outer.notes.extend(open.notes);
            Ok((open.ports, Some(veth.name().to_owned())))
        }
    }
}

fn join(outer: Vec<OuterPorts>, inner: Vec<InnerPorts>) -> Result<Vec<Ports>, StartError> {
    if outer.len() != inner.len() {
        return Err(StartError::Uneven {
            outer_rx: outer.len(),
            outer_tx: outer.len(),
            inner: inner.len(),
        });
    }
    Ok(outer
        .into_iter()
        .zip(inner)
        .map(|((outer_rx, outer_tx), (inner_rx, inner_tx))| Ports {
            outer_rx,
            outer_tx,
            inner_rx,
            inner_tx,
        })
        .collect())
}
