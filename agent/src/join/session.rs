//! A membership from start to end.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use ipnet::{IpNet, Ipv6Net};
use ringspan::control::kubespan::resource::{Kind, ResourceBook};
use ringspan::control::kubespan::{FWMARK_EGRESS, MachineConfig, routing};
use ringspan::control::member::{Member, MemberHandle};
use ringspan::control::{PeerEvent, Subscription};
use ringspan::{Dataplane, HostRouting, Inner, Outer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::JoinError;
use crate::cli::Join;
use crate::failure::Failure;
use crate::net::{LinkWatch, Setup, interface_index};
use crate::signals::EndSignals;
use crate::status::report::TunnelStatus;
use crate::status::{Answers, Resources, StatusSocket};
use crate::up::UpError;
use crate::up::tunnel::{io_error, open_uapi, status};

/// Events that may wait. Those beyond are found in the statuses.
const WAITING_EVENTS: usize = 4096;

/// Joins, serves status and resources, waits for the end, leaves, takes everything back. Key and id
/// stay.
pub(super) fn run(
    options: &Join,
    config: &MachineConfig,
    outer: Outer,
    member: Member,
    socket: StatusSocket,
    mut signals: EndSignals,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mesh = member.handle();
    let plane = Dataplane::builder(member.private_key().clone())
        .listen_port(options.listen_port)
        .fwmark(FWMARK_EGRESS)
        .outer(outer)
        .inner(Inner::tun(options.name.as_str()).mtu(config.mtu))
        .source(member)
        .start()
        .map_err(UpError::from)?;
    let plane = Arc::new(plane);
    let events = plane.control().subscribe(WAITING_EVENTS);
    let events = events.map_err(io_error("subscribing to events"))?;
    let interface = plane.interface().unwrap_or(&options.name);
    let index = interface_index(interface).map_err(io_error("finding the tunnel's interface"))?;
    let watch = LinkWatch::start(index).map_err(io_error("watching the tunnel's interface"))?;
    let routes = Routes::start(options, config, &mesh, index)?;
    let uapi = open_uapi(&options.name, &plane);

    let shown = Shown {
        name: options.name.clone(),
        mtu: config.mtu,
        started,
        plane: Arc::clone(&plane),
        mesh: mesh.clone(),
        book: Arc::default(),
    };
    let server = socket.serve(shown.clone());
    let server = server.map_err(io_error("starting the status thread"))?;
    tracing::info!(
        "this host is a member of the mesh: node id {}, public key {}, UDP port {}{}",
        mesh.node_id(),
        plane.public_key(),
        plane.listen_port(),
        if options.observe {
            "; it only observes"
        } else {
            ""
        }
    );
    tracing::debug!("its mesh address is {}", mesh.identity().address);

    let outcome = Serving {
        shown: &shown,
        events: &events,
        watch: &watch,
        routes: &routes,
        signals: &mut signals,
    }
    .run();

    tracing::info!("leaving the mesh");
    drop((server, uapi, shown));
    let left = routes.end();
    // The server's thread has ended, and with it the last other owner. What stops the source tells
    // the discovery services, too.
    if let Some(plane) = Arc::into_inner(plane) {
        plane.shutdown().map_err(UpError::from)?;
    }
    outcome?;
    left
}

/// How the host reaches the mesh.
enum Routes {
    /// All that is behind the peers.
    Host { routing: HostRouting, bypass: bool },
    /// Mesh addresses, over the link's own prefix.
    Link(Setup),
}

impl Routes {
    fn start(
        options: &Join,
        config: &MachineConfig,
        mesh: &MemberHandle,
        index: u32,
    ) -> Result<Self, Failure> {
        let address = mesh.identity().address;
        if options.no_routes {
            let address = IpNet::V6(Ipv6Net::new_assert(address, 64));
            let setup = Setup::address(index, &options.name, address).map_err(UpError::from)?;
            return Ok(Self::Link(setup));
        }
        let bypass = config.allow_down_peer_bypass;
        let wanted = routing::host_routing(&options.name, address, config.mtu, bypass);
        let routing = HostRouting::start(wanted).map_err(JoinError::Routing)?;
        for note in routing.notes() {
            tracing::warn!("{note}");
        }
        Ok(Self::Host { routing, bypass })
    }

    /// Leads what is for the peers as they are now into the tunnel.
    fn update(&self, plane: &Dataplane) {
        if let Self::Host { routing, bypass } = self {
            let prefixes = routing::routed_of(*bypass, &plane.statuses());
            if let Err(error) = routing.set_routed(&prefixes) {
                tracing::error!("the former prefixes stay routed: {error}");
            }
        }
    }

    /// Takes everything back.
    fn end(self) -> Result<(), Failure> {
        match self {
            Self::Host { routing, .. } => Ok(routing.close().map_err(JoinError::LeftBehind)?),
            Self::Link(setup) => {
                let left = setup.undo();
                match left.is_empty() {
                    true => Ok(()),
                    false => Err(UpError::LeftBehind(left.join("; ")).into()),
                }
            }
        }
    }
}

/// What others are shown.
#[derive(Clone)]
struct Shown {
    name: String,
    mtu: u16,
    started: Instant,
    plane: Arc<Dataplane>,
    mesh: MemberHandle,
    book: Arc<Mutex<ResourceBook>>,
}

impl Shown {
    fn book(&self) -> MutexGuard<'_, ResourceBook> {
        // Whoever panicked in between left whole entries behind.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what has changed, and when.
    fn note(&self) {
        let now = SystemTime::now();
        let peers = self.mesh.state().peers;
        let statuses = self.plane.statuses();
        let mut book = self.book();
        book.peer_specs(now, &peers);
        book.peer_statuses(now, &statuses);
    }
}

impl Answers for Shown {
    fn status(&self) -> TunnelStatus {
        let mut status = status(&self.plane, &self.name, self.mtu, &[], self.started);
        for source in self.plane.sources() {
            let problem = source.problem.into_iter();
            let problem = problem.map(|problem| format!("{}: {problem}", source.name));
            status.notes.extend(problem);
            let rejected = source.rejected.iter();
            status
                .notes
                .extend(rejected.map(|(_, reason)| format!("peer refused: {reason}")));
        }
        let state = self.mesh.state();
        status
            .notes
            .extend(state.problems.iter().map(ToString::to_string));
        let refused = state.refused.iter();
        status
            .notes
            .extend(refused.map(|one| format!("{} is not believed: {}", one.id, one.reason)));
        status
    }

    fn resources(&self, kind: Kind, with_key: bool) -> Result<Resources, String> {
        let now = SystemTime::now();
        let node = self.mesh.node_name().to_owned();
        let items = match kind {
            Kind::Identity => self.book().identity(now, self.mesh.identity(), with_key),
            Kind::PeerSpec => {
                let peers = self.mesh.state().peers;
                self.book().peer_specs(now, &peers)
            }
            Kind::PeerStatus => {
                let statuses = self.plane.statuses();
                self.book().peer_statuses(now, &statuses)
            }
        };
        Ok(Resources { node, items })
    }
}

/// What a member waits for.
struct Serving<'a> {
    shown: &'a Shown,
    events: &'a Subscription,
    watch: &'a LinkWatch,
    routes: &'a Routes,
    signals: &'a mut EndSignals,
}

impl Serving<'_> {
    /// Waits for the end: a signal, or the removal of the interface. Meanwhile has the host follow
    /// what happens to peers.
    fn run(&mut self) -> Result<(), Failure> {
        // Found before anybody listened. Until something is found, what a run that was killed has
        // left stays routed.
        if !self.shown.plane.statuses().is_empty() {
            self.routes.update(&self.shown.plane);
        }
        loop {
            self.wait().map_err(io_error("waiting for signals"))?;
            if self.signals.came() {
                return Ok(());
            }
            let removed = self.watch.removed();
            if removed.map_err(io_error("watching the tunnel's interface"))? {
                tracing::warn!("the tunnel's interface was removed");
                return Ok(());
            }
            self.follow();
        }
    }

    fn follow(&self) {
        let events = self.events.take();
        let lost = self.events.take_lost();
        if events.is_empty() && lost == 0 {
            return;
        }
        if lost > 0 {
            tracing::warn!("{lost} events of peers were not told: too many at once");
        }
        for event in &events {
            tell(event);
        }
        self.routes.update(&self.shown.plane);
        self.shown.note();
    }

    fn wait(&self) -> std::io::Result<()> {
        let all = [
            self.signals.as_fd(),
            self.watch.as_fd(),
            self.events.as_fd(),
        ];
        let mut waiting = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Addresses are for the level of debugging.
fn tell(event: &PeerEvent) {
    match event {
        PeerEvent::Added { public_key, label } => {
            tracing::info!("peer {public_key} ({label}) has joined");
        }
        PeerEvent::Removed { public_key } => tracing::info!("peer {public_key} has left"),
        PeerEvent::Rejected { public_key, reason } => {
            tracing::warn!("peer {public_key} is refused: {reason}");
        }
        PeerEvent::State {
            public_key,
            from,
            to,
        } => tracing::info!("peer {public_key} is {to} (was {from})"),
        PeerEvent::Endpoint {
            public_key,
            endpoint: Some(endpoint),
        } => tracing::debug!("peer {public_key} is at {endpoint}"),
        _ => {}
    }
}
