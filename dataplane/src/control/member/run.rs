//! The member's thread: carries news of discovery and of the machine to its [`Membership`], and
//! what that says to the node and to the discovery services.

use core::net::IpAddr;
use core::time::Duration;
use std::os::fd::AsFd;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, warn};

use super::builder::Member;
use super::membership::Membership;
use super::view::{MemberHandle, ServiceState};
use crate::control::discovery::{Announcement, CallError, Client, Event};
use crate::control::{Feed, PeerSpec, Source, SpecChange};
use crate::runtime::clock::monotonic;
use crate::runtime::paths::HostWatch;
use crate::time::Instant;

/// How long addresses must not have changed before they are announced: many changes become one.
const SETTLE: Duration = Duration::from_millis(200);
/// How often what nobody tells of is looked at: the node's port, endpoints that work.
const LOOK: Duration = Duration::from_secs(5);
/// How often others are told of endpoints that work: Talos's interval.
const HARVEST: Duration = Duration::from_secs(30);
/// How long leaving may take. Members that are not told of it wait until the entry's time runs
/// out.
const LEAVE: Duration = Duration::from_secs(3);

impl Source for Member {
    fn name(&self) -> String {
        let urls: Vec<String> = self
            .configs
            .iter()
            .map(|config| config.server.to_string())
            .collect();
        format!("discovery {}", urls.join(" "))
    }

    fn run(self: Box<Self>, feed: &Feed) {
        let Self {
            membership,
            handle,
            configs,
            observe,
            addresses,
        } = *self;
        let host = match addresses {
            Some(_) => None,
            None => HostWatch::open()
                .map_err(|error| feed.problem(format!("addresses are not known: {error}")))
                .ok(),
        };
        let mut running = Running {
            feed,
            membership,
            handle,
            host,
            observe,
            links: Vec::new(),
            specs: None,
            announcement: Announcement::default(),
            announce_at: None,
            harvest_at: monotonic() + HARVEST,
            problem: None,
        };
        if let Some(fixed) = addresses {
            running.membership.set_addresses(fixed);
        }
        running.membership.set_listen_port(feed.listen_port());
        running.look_at_host();
        running.announcement = running.membership.announcement(&[]);
        for config in configs {
            let started = match observe {
                true => Client::observe(config),
                false => Client::join(config, &running.announcement),
            };
            let link = started
                .map_err(|error| feed.problem(format!("discovery cannot be used: {error}")))
                .ok()
                .map(Link::new);
            running.links.push(link);
        }
        running.show();
        while !feed.is_stopped() {
            running.wait();
            running.turn();
        }
        running.leave();
    }
}

/// A discovery service, connected or not.
struct Link {
    client: Client,
    /// Between the connection and the end of its snapshot: not all members are known yet.
    catching_up: bool,
    /// Whether its members have been known once.
    synchronized: bool,
}

impl Link {
    fn new(client: Client) -> Self {
        Self {
            client,
            catching_up: false,
            synchronized: false,
        }
    }
}

struct Running<'a> {
    feed: &'a Feed,
    membership: Membership,
    handle: MemberHandle,
    host: Option<HostWatch>,
    observe: bool,
    /// In the order of the configuration; none where one could not start.
    links: Vec<Option<Link>>,
    /// What was published last.
    specs: Option<Vec<PeerSpec>>,
    announcement: Announcement,
    announce_at: Option<Instant>,
    harvest_at: Instant,
    /// What was said to be wrong last.
    problem: Option<String>,
}

impl Running<'_> {
    fn wait(&self) {
        let now = monotonic();
        let due = [self.announce_at, self.membership.next_expiry()];
        let due = due.into_iter().flatten().map(|at| at.since(now)).min();
        let limit = due.map_or(LOOK, |due| due.min(LOOK));
        let mut fds = vec![PollFd::from_borrowed_fd(self.feed.stopped(), PollFlags::IN)];
        let host = self.host.as_ref().map(AsFd::as_fd);
        let clients = self.links.iter().flatten().map(|link| link.client.as_fd());
        let all = host.into_iter().chain(clients);
        fds.extend(all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // A span of seconds fits. Fails on a signal: then there is nothing to be read.
        let _ = poll(&mut fds, Timespec::try_from(limit).ok().as_ref());
    }

    fn turn(&mut self) {
        let (mut members, mut own) = (false, false);
        if self.host.as_ref().is_some_and(HostWatch::take_changed) {
            own |= self.look_at_host();
        }
        own |= self.membership.set_listen_port(self.feed.listen_port());
        for service in 0..self.links.len() {
            let (of_members, of_own) = self.hear(service);
            members |= of_members;
            own |= of_own;
        }
        let now = monotonic();
        members |= self.membership.next_expiry().is_some_and(|at| at <= now);
        if own {
            // Our own endpoints are not tried.
            self.feed.restrict(self.membership.local_endpoints());
            self.announce_at = Some(now + SETTLE);
        }
        if self.membership.settings().config.harvest_extra_endpoints && self.harvest_at <= now {
            self.harvest_at = now + HARVEST;
            self.announce_at.get_or_insert(now);
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            self.announce();
        }
        self.publish(now, members);
    }

    /// Reads the machine's addresses; true where they have changed.
    fn look_at_host(&mut self) -> bool {
        let Some(host) = &mut self.host else {
            return false;
        };
        match host.state() {
            Ok(state) => {
                let found = state.addresses.into_iter().map(|found| found.address);
                let found: Vec<IpAddr> = found.collect();
                let lost = |address: &IpAddr| !found.contains(address);
                if self.membership.addresses().iter().any(lost) {
                    // A connection from there would only fail when a call takes too long.
                    let links = self.links.iter().flatten();
                    links.for_each(|link| link.client.reconnect());
                }
                self.membership.set_addresses(found)
            }
            Err(error) => {
                warn!("the machine's addresses cannot be read: {error}");
                false
            }
        }
    }

    /// Takes what a service's client reports. Whether members have changed, and whether what the
    /// node is to announce has.
    fn hear(&mut self, service: usize) -> (bool, bool) {
        let (mut members, mut own) = (false, false);
        let Some(Some(link)) = self.links.get_mut(service) else {
            return (false, false);
        };
        for event in link.client.take_events() {
            let mut state = None;
            match event {
                Event::Connected { public_ip } => {
                    link.catching_up = true;
                    own |= self.membership.set_public_ip(service, public_ip);
                    if let Some(shown) = self.handle.lock().services.get_mut(service) {
                        shown.public_ip = public_ip;
                    }
                    state = Some(ServiceState::Connecting);
                }
                Event::Synchronized => {
                    link.catching_up = false;
                    link.synchronized = true;
                    members = true;
                    state = Some(ServiceState::Synchronized);
                }
                Event::Change(change) => members |= self.membership.observe(service, change),
                Event::Announced => {}
                Event::Disconnected { reason, .. } => {
                    // What it had told until then is as good as ever.
                    link.catching_up = false;
                    members = true;
                    state = Some(match reason {
                        CallError::Moved => ServiceState::Connecting,
                        reason => ServiceState::Disconnected {
                            reason: reason.to_string(),
                        },
                    });
                }
            }
            if let (Some(state), Some(shown)) =
                (state, self.handle.lock().services.get_mut(service))
            {
                shown.state = state;
            }
        }
        (members, own)
    }

    /// Has the node run what the membership says, unless a service is in the middle of telling.
    fn publish(&mut self, now: Instant, members: bool) {
        let links = || self.links.iter().flatten();
        let known = links().any(|link| link.synchronized);
        let waits = links().any(|link| link.catching_up);
        if members && known && !waits {
            let specs = self.membership.peers(now);
            let problem = self.trouble();
            let news = self.specs.as_ref() != Some(&specs);
            if news || (self.problem.is_some() && problem.is_none()) {
                self.feed.restrict(self.membership.local_endpoints());
                // One member's news cost that member's work.
                match &self.specs {
                    Some(old) => self.feed.update(SpecChange::between(old, &specs)),
                    None => self.feed.publish(specs.clone()),
                }
                self.problem = None;
            }
            self.specs = Some(specs);
        } else if !members {
            self.show();
            return;
        }
        let problem = self.trouble();
        if let Some(text) = &problem
            && self.problem != problem
        {
            self.feed.problem(text.clone());
        }
        self.problem = problem;
        self.show();
    }

    /// What is wrong with the services.
    fn trouble(&self) -> Option<String> {
        let state = self.handle.lock();
        let down: Vec<String> = state
            .services
            .iter()
            .filter_map(|service| match &service.state {
                ServiceState::Disconnected { reason } => Some(reason.clone()),
                _ => None,
            })
            .collect();
        (!down.is_empty()).then(|| down.join("; "))
    }

    fn announce(&mut self) {
        let announcement = self.membership.announcement(&self.feed.statuses());
        if announcement == self.announcement {
            return;
        }
        self.announcement = announcement;
        if self.observe {
            return;
        }
        debug!(
            "announcing endpoints {:?}",
            self.announcement.affiliate.kubespan.endpoints
        );
        for link in self.links.iter().flatten() {
            if let Err(error) = link.client.announce(&self.announcement) {
                warn!("not announced: {error}");
            }
        }
    }

    /// Lets the owner see it.
    fn show(&self) {
        let mut state = self.handle.lock();
        state.peers = self.membership.peer_specs();
        self.membership.problems().clone_into(&mut state.problems);
        state.refused = self.membership.refused();
        state.announced = (!self.observe).then(|| self.announcement.affiliate.clone());
    }

    /// Tells the others that this node is leaving, all services at once.
    fn leave(self) {
        let clients = self.links.into_iter().flatten().map(|link| link.client);
        let leaving: Vec<_> = clients
            .map(|client| thread::spawn(move || client.leave_within(LEAVE)))
            .collect();
        for one in leaving {
            // A panic there was printed when it happened.
            if let Ok(Err(error)) = one.join() {
                warn!("others see this node until its entry runs out: {error}");
            }
        }
    }
}
