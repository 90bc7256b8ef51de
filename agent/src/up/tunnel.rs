//! A tunnel from start to end.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringspan::control::uapi::{UapiServer, UapiSocket};
use ringspan::crypto::PublicKey;
use ringspan::io::xdp::{self, BusyPoll};
use ringspan::runtime::wishes::XdpSend;
use ringspan::{Dataplane, Inner, Outer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::UpError;
use crate::config::{Config, OuterChoice, OuterDriver, OuterSend, PeerConfig, TxChecksum, XdpMode};
use crate::net::{self, Fate, LinkWatch, Setup, interface_index};
use crate::resolve::{Known, Resolver, specs};
use crate::signals::EndSignals;
use crate::socket_watch::SocketWatch;
use crate::status::StatusSocket;
use crate::status::report::{self, TunnelStatus};

/// Starts the tunnel, serves its status, waits for its end, takes everything back.
///
/// `card` is the network card for XDP, if one is known.
pub(crate) fn run(
    mut config: Config,
    card: Option<String>,
    socket: StatusSocket,
    mut signals: EndSignals,
) -> Result<(), UpError> {
    let started = Instant::now();
    config.fwmark =
        net::mark(&config).map_err(io_error("choosing a mark for the default route"))?;
    let plane = Arc::new(start(&config, card)?);
    apply(&plane, &config.peers, &Known::new())?;
    let resolver = Resolver::start(&config.peers).map_err(io_error("starting the resolver"))?;

    let interface = plane.interface().unwrap_or(&config.name);
    let index = interface_index(interface).map_err(io_error("finding the tunnel's interface"))?;
    let watch = LinkWatch::start(index).map_err(io_error("watching the tunnel's interface"))?;
    let setup = Setup::apply(index, &config)?;
    let uapi = open_uapi(&config.name, &plane);

    let config = Arc::new(config);
    let server = {
        let (plane, config) = (Arc::clone(&plane), Arc::clone(&config));
        socket
            .serve(move || status(&plane, &config.name, config.mtu, &config.peers, started))
            .map_err(io_error("starting the status thread"))?
    };
    tracing::info!(
        "tunnel {} is up: UDP port {}, peers: {}",
        config.name,
        plane.listen_port(),
        config.peers.len()
    );

    let outcome = Serving {
        plane: &plane,
        peers: &config.peers,
        resolver: resolver.as_ref(),
        watch: &watch,
        signals: &mut signals,
        socket: None,
    }
    .run();

    tracing::info!("tunnel {} goes down", config.name);
    drop((server, uapi));
    let left = setup.undo();
    // The server's thread has ended, and with it the only other owner.
    if let Some(plane) = Arc::into_inner(plane) {
        plane.shutdown()?;
    }
    outcome?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(UpError::LeftBehind(left.join("; ")))
    }
}

/// The socket that `wg` speaks to. The tunnel does without where it cannot be had: its file says
/// everything, and a user who may not write to `/var/run` has no other choice.
pub(crate) fn open_uapi(name: &str, plane: &Arc<Dataplane>) -> Option<UapiServer> {
    let socket = UapiSocket::bind(name)
        .map_err(|error| tracing::warn!("wg cannot reach this tunnel: {error}"))
        .ok()?;
    UapiServer::start(socket, Arc::clone(plane))
        .map_err(|error| tracing::warn!("wg cannot reach this tunnel: no thread: {error}"))
        .ok()
}

/// The outer drivers that were chosen, on the network card found.
pub(crate) fn outer(choice: &OuterChoice, card: Option<String>) -> Outer {
    let outer = match (choice.driver, card) {
        (OuterDriver::Xdp, Some(card)) => Outer::xdp(card),
        (OuterDriver::Auto, Some(card)) => Outer::auto(card),
        (OuterDriver::Auto, None) => {
            tracing::info!("no default route names a network card for XDP: the UDP socket is used");
            Outer::udp()
        }
        (OuterDriver::Udp | OuterDriver::Xdp, _) => Outer::udp(),
    };
    let outer = match choice.mode {
        XdpMode::Auto => outer,
        XdpMode::Copy => outer.copy_only(),
        XdpMode::Generic => outer.generic_only(),
    };
    let outer = match (choice.busy_poll, BusyPoll::default()) {
        (0, _) => outer,
        (microseconds, usual) => outer.busy_poll(BusyPoll {
            microseconds: microseconds.into(),
            budget: choice.busy_poll_budget.map_or(usual.budget, u16::from),
        }),
    };
    let outer = outer.tx_checksum(match choice.tx_checksum {
        TxChecksum::Auto => xdp::TxChecksum::Auto,
        TxChecksum::Software => xdp::TxChecksum::Software,
        TxChecksum::Device => xdp::TxChecksum::Device,
    });
    match choice.send {
        OuterSend::Auto => outer.send(XdpSend::Auto),
        OuterSend::Xdp => outer.send(XdpSend::Both),
        OuterSend::Udp => outer.send(XdpSend::ReceiveOnly),
    }
}

fn start(config: &Config, card: Option<String>) -> Result<Dataplane, UpError> {
    let mut builder = Dataplane::builder(config.private_key.clone())
        .listen_port(config.listen_port)
        .outer(outer(&config.outer, card))
        .inner(Inner::tun(config.name.as_str()).mtu(config.mtu))
        .spin(Duration::from_micros(config.spin.into()));
    if config.fwmark != 0 {
        builder = builder.fwmark(config.fwmark);
    }
    if let Some(workers) = config.workers {
        builder = builder.workers(workers.get());
    }
    Ok(builder.start()?)
}

/// What a running tunnel waits for.
pub(crate) struct Serving<'a> {
    pub(crate) plane: &'a Dataplane,
    pub(crate) peers: &'a [PeerConfig],
    pub(crate) resolver: Option<&'a Resolver>,
    pub(crate) watch: &'a LinkWatch,
    pub(crate) signals: &'a mut EndSignals,
    /// Ends the node when its file goes, if given.
    pub(crate) socket: Option<&'a SocketWatch>,
}

/// How often an interface in another namespace is looked after.
const ROUND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};

impl Serving<'_> {
    /// Waits for the end: a signal, the removal of the interface, wherever it was moved to, or that
    /// of the socket. Meanwhile tells control of names that were found.
    pub(crate) fn run(&mut self) -> Result<(), UpError> {
        let mut known = Known::new();
        let mut moved = false;
        loop {
            self.wait(moved).map_err(io_error("waiting for signals"))?;
            if self.signals.came() {
                return Ok(());
            }
            let fate = self.watch.look();
            let fate = fate.map_err(io_error("watching the tunnel's interface"))?;
            if fate == Fate::Moved && !moved {
                moved = true;
                tracing::info!("the tunnel's interface is in another namespace now");
            }
            if fate == Fate::Removed || moved && self.plane.interface_is_gone() {
                tracing::warn!("the tunnel's interface was removed");
                return Ok(());
            }
            if self.socket.is_some_and(SocketWatch::removed) {
                tracing::warn!("the configuration socket was removed");
                return Ok(());
            }
            if self.resolver.is_some_and(|r| r.collect(&mut known)) {
                apply(self.plane, self.peers, &known)?;
            }
        }
    }

    fn wait(&self, moved: bool) -> io::Result<()> {
        let all = [
            Some(self.signals.as_fd()),
            Some(self.watch.as_fd()),
            self.socket.map(AsFd::as_fd),
        ];
        let mut waiting: Vec<_> = all
            .into_iter()
            .chain([self.resolver.map(AsFd::as_fd)])
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut waiting, moved.then_some(&ROUND)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes the configured peers the plane's. The configuration was checked, so a refusal is either
/// a key that no handshake can use, or a mistake of ours; both deserve the operator's attention.
fn apply(plane: &Dataplane, peers: &[PeerConfig], known: &Known) -> Result<(), UpError> {
    let applied = plane
        .control()
        .apply(&specs(peers, known))
        .map_err(|_| UpError::Stopped)?;
    match applied.rejected.first() {
        None => Ok(()),
        Some((_, reason)) => Err(UpError::Peer(reason.clone())),
    }
}

/// What `ringspan status` is told; `peers` gives the order.
pub(crate) fn status(
    plane: &Dataplane,
    name: &str,
    mtu: u16,
    peers: &[PeerConfig],
    started: Instant,
) -> TunnelStatus {
    let order: BTreeMap<PublicKey, usize> = peers
        .iter()
        .enumerate()
        .map(|(index, peer)| (peer.public_key, index))
        .collect();
    let mut peers = plane.statuses();
    // Those that wg added come last.
    peers.sort_by_key(|peer| order.get(&peer.public_key).copied().unwrap_or(usize::MAX));
    TunnelStatus {
        name: name.to_owned(),
        public_key: plane.public_key().to_string(),
        listen_port: plane.listen_port(),
        fwmark: plane.control().fwmark(),
        mtu,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: started.elapsed().as_secs(),
        drivers: plane.drivers().into_iter().map(report::driver).collect(),
        notes: plane.notes().to_vec(),
        counters: plane
            .counters()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        peers: peers.into_iter().map(report::peer).collect(),
    }
}

pub(crate) fn io_error(doing: &'static str) -> impl Fn(io::Error) -> UpError {
    move |source| UpError::Io { doing, source }
}
