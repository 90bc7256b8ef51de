//! The thread's state: what is set, what is watched, what is put back.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::routed::Routed;
use super::sysctl::Settings;
use super::table::{self, COMMENT, TABLE};
use super::{HostRoutingConfig, HostRoutingError, refused};
use crate::runtime::nftables::Nft;
use crate::runtime::rtnetlink::{
    Events, Family, HostNetlink, Link, MAIN_TABLE, Protocol, Route, RouteWay, Rule, RuleSelector,
    host, split,
};
use crate::runtime::wake::Waker;

/// Multicast groups (`enum rtnetlink_groups`): links, IPv4 routes and rules, IPv6 addresses,
/// routes and rules.
const GROUPS: [u32; 6] = [1, 7, 8, 9, 11, 19];
/// Multicast group of nftables (`NFNLGRP_NFTABLES`).
const NFTABLES_GROUP: u32 = 7;
/// nftables' messages bear this number in the high byte of their type (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u16 = 10;
/// Removed tables, chains, rules and sets (`enum nf_tables_msg_types`).
const REMOVALS: [u16; 4] = [2, 5, 8, 11];

/// The metric of routes of last resort: any other route is better.
const LAST_RESORT: u32 = u32::MAX;

/// What is lost is put back at most this often: somebody else may insist.
const LEAST_BETWEEN_REPAIRS: Duration = Duration::from_millis(100);

pub(super) struct Worker {
    config: HostRoutingConfig,
    nft: Nft,
    netlink: HostNetlink,
    events: Events,
    nft_events: Events,
    /// Held while this runs: the name is free again when the process ends in whatever way.
    _alone: UnixListener,
    families: Vec<Family>,
    settings: Settings,
    notes: Vec<String>,
    /// What the table's sets hold; `None`: what a former run has left there.
    routed: Option<Routed>,
    /// The table as nft showed it at first, line by line in their order. Never read anew: what
    /// somebody takes away right after a repair must be missed.
    listing: Vec<String>,
    /// The link's index, once it was found.
    index: Option<u32>,
    routes_due: bool,
    table_due: bool,
    next_repair: Instant,
    /// The last repair's failure, so as to say it once.
    trouble: Option<String>,
}

impl Worker {
    /// Sets everything. On failure all is taken back.
    pub(super) fn start(config: HostRoutingConfig) -> Result<Self, HostRoutingError> {
        config.check()?;
        let nft = Nft::find()?;
        let alone = alone(config.table)?;
        let mut worker = Self {
            nft,
            netlink: HostNetlink::open().map_err(refused("open a netlink socket"))?,
            // Before anything is read: what happens meanwhile is then told.
            events: Events::open(&GROUPS).map_err(refused("watch routes and rules"))?,
            nft_events: Events::of(NETLINK_NETFILTER, &[NFTABLES_GROUP])
                .map_err(refused("watch nftables"))?,
            _alone: alone,
            families: Family::ALL.to_vec(),
            settings: Settings::default(),
            notes: Vec::new(),
            routed: None,
            listing: Vec::new(),
            index: None,
            routes_due: false,
            table_due: false,
            next_repair: Instant::now(),
            trouble: None,
            config,
        };
        worker.refuse_strangers()?;
        match worker.set_all() {
            Ok(()) => Ok(worker),
            Err(error) => {
                for what in worker.undo() {
                    tracing::error!("left behind on this host: {what}");
                }
                Err(error)
            }
        }
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    fn set_all(&mut self) -> Result<(), HostRoutingError> {
        let link = self.link()?;
        self.prepare_link(&link);
        self.set_last_resorts()?;
        self.set_rules()?;
        self.netlink
            .set_up(link.index, Some(self.config.mtu.into()))
            .map_err(refused(format!("set interface {} up", link.name)))?;
        self.set_routes(&link)?;
        self.install()
    }

    /// The settings of the link, without which it may still do.
    fn prepare_link(&mut self, link: &Link) {
        let name = &link.name;
        match self.settings.enable_ipv6(name) {
            Ok(true) => {}
            Ok(false) => {
                self.families.retain(|family| *family != Family::Ipv6);
                self.notes.push(format!(
                    "this kernel has no IPv6: only IPv4 is routed, and {} cannot be set",
                    self.config.address
                ));
            }
            Err(error) => self.notes.push(format!(
                "IPv6 is disabled on {name} and cannot be enabled: {error}; set \
                 net.ipv6.conf.{name}.disable_ipv6=0"
            )),
        }
        match self.settings.open_reverse_path(name) {
            Ok(true) => {}
            Ok(false) => self.notes.push(
                "the reverse path filter drops IPv4 packets from peers: set \
                 net.ipv4.conf.all.rp_filter=0 (each interface's own setting still counts)"
                    .to_owned(),
            ),
            Err(error) => self.notes.push(format!(
                "the reverse path filter of {name} may drop IPv4 packets from peers, and cannot be \
                 changed: {error}; set net.ipv4.conf.{name}.rp_filter=0"
            )),
        }
    }

    /// Routes that bear ringspan's number and are not among those wanted go.
    fn set_last_resorts(&mut self) -> Result<(), HostRoutingError> {
        let wanted = self.last_resorts();
        for table in [self.config.table, MAIN_TABLE] {
            for family in self.families.clone() {
                let old: Vec<Route> = self
                    .routes(family, table)?
                    .into_iter()
                    .filter(|route| {
                        route.protocol == Protocol::RINGSPAN
                            && route.way == RouteWay::Blackhole
                            && !wanted.contains(route)
                    })
                    .collect();
                for route in old {
                    let removed = self.netlink.remove_route(&route);
                    unless(removed, &GONE).map_err(refused(format!("remove {}", named(&route))))?;
                }
            }
        }
        for route in &wanted {
            unless(self.netlink.add_route(route), &[Errno::EXIST])
                .map_err(refused(format!("set {}", named(route))))?;
        }
        Ok(())
    }

    fn set_rules(&mut self) -> Result<(), HostRoutingError> {
        for rule in self.rules() {
            unless(self.netlink.add_rule(&rule), &[Errno::EXIST]).map_err(refused(format!(
                "set the {} rule {}",
                rule.family, rule.priority
            )))?;
        }
        Ok(())
    }

    /// Address and routes over the link, which is up.
    fn set_routes(&mut self, link: &Link) -> Result<(), HostRoutingError> {
        self.index = Some(link.index);
        // What IPv6 does without on a link where it is disabled, notes have said.
        let known = [Errno::EXIST, Errno::ACCESS];
        let address = self.config.address;
        if self.families.contains(&Family::of(&address)) {
            unless(self.netlink.add_address(link.index, address), &known)
                .map_err(refused(format!("set address {address} on {}", link.name)))?;
        }
        for route in self.link_routes(link.index) {
            unless(self.netlink.add_route(&route), &known).map_err(refused(format!(
                "set {} over {}",
                named(&route),
                link.name
            )))?;
        }
        Ok(())
    }

    /// Makes the nftables table what it should be.
    fn install(&mut self) -> Result<(), HostRoutingError> {
        let mut transaction = table::install(&self.config);
        match &self.routed {
            Some(routed) => transaction.push_str(&routed.whole()),
            // Where down peers are passed by, nobody knows whether those of the last run are up.
            None if !self.config.fail_closed => {
                transaction.push_str(&Routed::default().whole());
                self.routed = Some(Routed::default());
            }
            None => {}
        }
        self.nft
            .apply(&format!("install table inet {TABLE}"), &transaction)?;
        if self.listing.is_empty() {
            self.listing = lines(&self.nft.table("inet", TABLE)?.unwrap_or_default());
        }
        Ok(())
    }

    pub(super) fn set_routed(&mut self, prefixes: &[IpNet]) -> Result<(), HostRoutingError> {
        let new = Routed::new(prefixes);
        let doing = format!("change the sets of table inet {TABLE}");
        let changed = match &self.routed {
            Some(old) => {
                let change = new.change_from(old);
                if change.is_empty() {
                    return Ok(());
                }
                self.nft.apply(&doing, &change)
            }
            None => self.nft.apply(&doing, &new.whole()),
        };
        if let Err(error) = changed {
            // Somebody has changed the sets, or removed the table: say it all.
            tracing::debug!(%error, "the routed prefixes are set from the beginning");
            let transaction = format!("{}{}", table::install(&self.config), new.whole());
            self.nft.apply(&doing, &transaction)?;
        }
        self.routed = Some(new);
        Ok(())
    }

    /// Sleeps until something happens, or a repair is due.
    pub(super) fn wait(&self, waker: &Waker) {
        let limit = (self.routes_due || self.table_due)
            .then(|| self.next_repair.saturating_duration_since(Instant::now()))
            .and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = [
            PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.nft_events.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(waker.as_fd(), PollFlags::IN),
        ];
        // Fails on a signal; then one step is made for nothing.
        let _ = poll(&mut fds, limit.as_ref());
    }

    /// Reads events, and puts back what they say is lost.
    pub(super) fn step(&mut self) {
        self.read_events();
        self.read_nft_events();
        let now = Instant::now();
        if !(self.routes_due || self.table_due) || now < self.next_repair {
            return;
        }
        self.next_repair = now + LEAST_BETWEEN_REPAIRS;
        let mut outcome = Ok(());
        // The table first: without marks nothing else protects.
        if std::mem::take(&mut self.table_due) {
            outcome = self.repair_table();
        }
        if std::mem::take(&mut self.routes_due) {
            outcome = outcome.and(self.repair_routes());
        }
        let trouble = outcome.err().map(|error| error.to_string());
        if trouble != self.trouble
            && let Some(trouble) = &trouble
        {
            tracing::error!("host routing is incomplete: {trouble}");
        }
        self.trouble = trouble;
    }

    fn repair_table(&mut self) -> Result<(), HostRoutingError> {
        match self.nft.table("inet", TABLE)? {
            Some(listing) if lines(&listing) == self.listing => return Ok(()),
            Some(listing) if !listing.contains(COMMENT) => {
                return Err(HostRoutingError::NftTableTaken);
            }
            _ => tracing::warn!(
                "somebody has removed the nftables table inet {TABLE}, or parts of it (was the \
                 firewall reloaded?): it is put back"
            ),
        }
        // Rules are replaced as a whole; but a chain of another kind is in the way.
        self.install().or_else(|_| {
            let routed = self.routed.clone().unwrap_or_default();
            let transaction = format!(
                "{}{}{}",
                table::remove(),
                table::install(&self.config),
                routed.whole()
            );
            self.nft
                .apply(&format!("replace table inet {TABLE}"), &transaction)
                .map_err(Into::into)
        })
    }

    fn repair_routes(&mut self) -> Result<(), HostRoutingError> {
        for route in self.last_resorts() {
            unless(self.netlink.add_route(&route), &[Errno::EXIST])
                .map_err(refused(format!("set {}", named(&route))))?;
        }
        self.set_rules()?;
        let link = self.link()?;
        if link.up {
            self.set_routes(&link)?;
        }
        Ok(())
    }

    fn read_events(&mut self) {
        loop {
            match self.events.read() {
                Ok(events) if events.is_empty() => return,
                Ok(events) => {
                    self.routes_due |= events.iter().any(|event| self.concerns(event));
                }
                Err(error) => {
                    // Most likely ENOBUFS: events were lost.
                    tracing::debug!(%error, "rtnetlink events were lost");
                    self.routes_due = true;
                    return;
                }
            }
        }
    }

    /// Whether an event may have taken something of ours away, or brought our link.
    fn concerns(&self, event: &Message) -> bool {
        match event {
            Message::NewLink(message) | Message::DelLink(message) => {
                self.index == Some(message.header.index)
                    || host::link(event).is_some_and(|link| link.name == self.config.link)
            }
            Message::DelAddress(message) => self.index == Some(message.header.index),
            Message::DelRoute(message) => {
                let route = host::route(message);
                route.table == self.config.table || route.prefix == self.config.mesh()
            }
            Message::DelRule(_) => true,
            _ => false,
        }
    }

    fn read_nft_events(&mut self) {
        loop {
            match self.nft_events.read_raw() {
                Ok(bytes) if bytes.is_empty() => return,
                Ok(bytes) => {
                    self.table_due |= split(&bytes).any(|(kind, message)| {
                        kind >> 8 == NFTABLES
                            && REMOVALS.contains(&(kind & 0xff))
                            && contains(message, format!("{TABLE}\0").as_bytes())
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "nftables events were lost");
                    self.table_due = true;
                    return;
                }
            }
        }
    }

    /// Takes everything back, and says what could not be.
    pub(super) fn undo(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        if let Err(error) = self
            .nft
            .apply(&format!("remove table inet {TABLE}"), &table::remove())
        {
            left.push(format!("nftables table inet {TABLE}: {error}"));
        }
        for rule in self.rules() {
            if let Err(error) = unless(self.netlink.remove_rule(&rule), &GONE) {
                left.push(format!("{} rule {}: {error}", rule.family, rule.priority));
            }
        }
        let index = self.link().ok().map(|link| link.index);
        let mut routes = self.last_resorts();
        routes.extend(index.into_iter().flat_map(|index| self.link_routes(index)));
        for route in routes.iter().rev() {
            if let Err(error) = unless(self.netlink.remove_route(route), &GONE) {
                left.push(format!("{}: {error}", named(route)));
            }
        }
        if let Some(index) = index {
            let address = self.config.address;
            if let Err(error) = unless(self.netlink.remove_address(index, address), &GONE) {
                left.push(format!("address {address}: {error}"));
            }
        }
        left.extend(self.settings.undo());
        left
    }

    /// Whoever else uses the priority, the table or the nftables table keeps them.
    fn refuse_strangers(&mut self) -> Result<(), HostRoutingError> {
        let HostRoutingConfig {
            table,
            rule_priority,
            ..
        } = self.config;
        let index = self.link()?.index;
        for family in Family::ALL {
            let rules = match self.netlink.rules(family) {
                // A kernel without the family.
                Err(error) if is(&error, Errno::OPNOTSUPP) || is(&error, Errno::AFNOSUPPORT) => {
                    continue;
                }
                rules => rules.map_err(refused(format!("list {family} rules")))?,
            };
            for rule in rules {
                let meets = rule.priority == rule_priority || rule.table == table;
                if meets && rule.protocol != Protocol::RINGSPAN {
                    return Err(HostRoutingError::RuleTaken {
                        family,
                        priority: rule.priority,
                        table: rule.table,
                        protocol: rule.protocol.0,
                    });
                }
            }
            let own = self.link_routes(index);
            for route in self.routes(family, table)? {
                let ours = route.protocol == Protocol::RINGSPAN || own.contains(&route);
                if !ours {
                    return Err(HostRoutingError::TableTaken {
                        table,
                        prefix: route.prefix,
                        protocol: route.protocol.0,
                    });
                }
            }
        }
        match self.nft.table("inet", TABLE)? {
            Some(listing) if !listing.contains(COMMENT) => Err(HostRoutingError::NftTableTaken),
            _ => Ok(()),
        }
    }

    fn link(&mut self) -> Result<Link, HostRoutingError> {
        let links = self.netlink.links().map_err(refused("list interfaces"))?;
        let mut links = links.into_iter();
        links
            .find(|link| link.name == self.config.link)
            .ok_or_else(|| HostRoutingError::NoLink(self.config.link.clone()))
    }

    fn routes(&mut self, family: Family, table: u32) -> Result<Vec<Route>, HostRoutingError> {
        self.netlink
            .routes(family, table)
            .map_err(refused(format!("list {family} routes of table {table}")))
    }

    /// Routes that hold when the link does not.
    fn last_resorts(&self) -> Vec<Route> {
        if !self.config.fail_closed {
            return Vec::new();
        }
        let last_resort = |prefix, table| Route {
            prefix,
            table,
            way: RouteWay::Blackhole,
            metric: LAST_RESORT,
            mtu: None,
            protocol: Protocol::RINGSPAN,
        };
        self.families
            .iter()
            .map(|family| last_resort(default_of(*family), self.config.table))
            .chain([last_resort(self.config.mesh(), MAIN_TABLE)])
            .filter(|route| self.families.contains(&Family::of(&route.prefix)))
            .collect()
    }

    fn link_routes(&self, index: u32) -> Vec<Route> {
        let route = |family: &Family| Route {
            prefix: default_of(*family),
            table: self.config.table,
            way: RouteWay::Link(index),
            metric: self.config.metric,
            mtu: Some(self.config.mtu.into()),
            protocol: Protocol::STATIC,
        };
        self.families.iter().map(route).collect()
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |family: &Family| Rule {
            family: *family,
            priority: self.config.rule_priority,
            selector: RuleSelector::Mark {
                mark: self.config.tunnel_mark,
                mask: self.config.mark_mask,
            },
            table: self.config.table,
            protocol: Protocol::RINGSPAN,
        };
        self.families.iter().map(rule).collect()
    }
}

/// What the kernel says of what is gone already, with its link or by another's hand.
const GONE: [Errno; 6] = [
    Errno::NODEV,
    Errno::NXIO,
    Errno::SRCH,
    Errno::ADDRNOTAVAIL,
    Errno::NOENT,
    Errno::NETUNREACH,
];

/// An outcome, to which these errors are as good as success.
fn unless(outcome: io::Result<()>, fine: &[Errno]) -> io::Result<()> {
    match outcome {
        Err(error) if fine.iter().any(|errno| is(&error, *errno)) => Ok(()),
        outcome => outcome,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn default_of(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::Ipv6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn named(route: &Route) -> String {
    let kind = match route.way {
        RouteWay::Blackhole => "the blackhole route",
        _ => "the route",
    };
    format!("{kind} to {} in table {}", route.prefix, route.table)
}

/// The lines of a listing, sorted: a chain that was made anew stands elsewhere.
fn lines(listing: &str) -> Vec<String> {
    let mut lines: Vec<String> = listing.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

/// Takes the name that stands for the table in this network namespace. Abstract names belong to
/// the namespace, and vanish with the process.
fn alone(table: u32) -> Result<UnixListener, HostRoutingError> {
    SocketAddr::from_abstract_name(format!("ringspan/host-routing/{table}"))
        .and_then(|name| UnixListener::bind_addr(&name))
        .map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                HostRoutingError::Busy { table }
            } else {
                HostRoutingError::Refused {
                    doing: "claim the routing table for this process".to_owned(),
                    source,
                }
            }
        })
}
