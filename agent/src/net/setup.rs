//! Addresses and routes of one tunnel, from up to down.

use std::io;

use ipnet::IpNet;
use ringspan::runtime::nftables::NftError;
use ringspan::runtime::rtnetlink::{
    Family, HostNetlink, MAIN_TABLE, Protocol, Route, RouteWay, Rule,
};
use rustix::io::Errno;

use super::policy::{self, Shield};
use crate::config::{Config, Routes};

/// What was set on a tunnel's interface. Dropping it without [`Setup::undo`] leaves all in place.
pub(crate) struct Setup {
    netlink: HostNetlink,
    index: u32,
    done: Vec<Step>,
}

/// One thing set.
#[derive(Debug)]
enum Step {
    Address(IpNet),
    Route(Route),
    Rule(Rule),
    Shield(Shield),
}

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("netlink: {0}")]
    Netlink(#[source] io::Error),
    #[error("interface {name} cannot be set up: {source}")]
    Up { name: String, source: io::Error },
    #[error("address {address} cannot be set on interface {name}: {source}")]
    Address {
        address: IpNet,
        name: String,
        source: io::Error,
    },
    #[error(
        "a route to {prefix} exists already: remove it, narrow the allowed IP, or set the routes \
         yourself (Table = off; TOML: table = \"off\")"
    )]
    RouteExists { prefix: IpNet },
    #[error("the route to {prefix} through interface {name} cannot be set: {source}")]
    Route {
        prefix: IpNet,
        name: String,
        source: io::Error,
    },
    #[error("the {family} rules of a default route through the tunnel cannot be set: {source}")]
    Rule { family: Family, source: io::Error },
    #[error(
        "there is no room before the first {family} rule for those of a default route through the \
         tunnel: give it a priority above 3 (`ip rule` shows it), or set the routes yourself \
         (Table = off; TOML: table = \"off\")"
    )]
    NoPriority { family: Family },
    #[error("a default route through the tunnel needs nftables: {0}")]
    Nft(#[from] NftError),
}

impl Setup {
    /// Sets the interface up and gives it what `config` lists. On failure all is taken back.
    pub(crate) fn apply(index: u32, config: &Config) -> Result<Self, SetupError> {
        Self::build(index, |setup| {
            setup.addresses(&config.name, &config.addresses)?;
            for family in policy::families(config) {
                policy::remove_stale(&mut setup.netlink, family, config.fwmark)
                    .map_err(|source| SetupError::Rule { family, source })?;
            }
            setup.routes(&config.name, &wanted_routes(config))?;
            setup.policy(config)
        })
    }

    /// Sets the interface `name` up and gives it one address.
    #[cfg(feature = "discovery")]
    pub(crate) fn address(index: u32, name: &str, address: IpNet) -> Result<Self, SetupError> {
        Self::build(index, |setup| setup.addresses(name, &[address]))
    }

    fn build(
        index: u32,
        steps: impl FnOnce(&mut Self) -> Result<(), SetupError>,
    ) -> Result<Self, SetupError> {
        let netlink = HostNetlink::open().map_err(SetupError::Netlink)?;
        let mut setup = Self {
            netlink,
            index,
            done: Vec::new(),
        };
        match steps(&mut setup) {
            Ok(()) => Ok(setup),
            Err(error) => {
                setup.undo();
                Err(error)
            }
        }
    }

    fn addresses(&mut self, name: &str, addresses: &[IpNet]) -> Result<(), SetupError> {
        self.netlink
            .set_up(self.index, None)
            .map_err(|source| SetupError::Up {
                name: name.to_owned(),
                source,
            })?;
        for &address in addresses {
            self.netlink
                .add_address(self.index, address)
                .map_err(|source| SetupError::Address {
                    address,
                    name: name.to_owned(),
                    source,
                })?;
            self.done.push(Step::Address(address));
        }
        Ok(())
    }

    fn routes(&mut self, name: &str, routes: &[(IpNet, u32)]) -> Result<(), SetupError> {
        for &(prefix, table) in routes {
            let route = Route {
                prefix,
                table,
                way: RouteWay::Link(self.index),
                metric: 0,
                mtu: None,
                protocol: Protocol::BOOT,
            };
            match self.netlink.add_route(&route) {
                Ok(()) => self.done.push(Step::Route(route)),
                Err(source) if is(&source, Errno::EXIST) => {
                    return Err(SetupError::RouteExists { prefix });
                }
                Err(source) => {
                    return Err(SetupError::Route {
                        prefix,
                        name: name.to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Rules and protection of default routes, if there are any.
    fn policy(&mut self, config: &Config) -> Result<(), SetupError> {
        let families = policy::families(config);
        if families.is_empty() {
            return Ok(());
        }
        let shield = Shield::set(&config.name, &config.addresses, &families, config.fwmark)?;
        self.done.push(Step::Shield(shield));
        if families.contains(&Family::Ipv4) {
            policy::look_at_marks();
        }
        for family in families {
            for rule in policy::rules(&mut self.netlink, family, config.fwmark)? {
                self.netlink
                    .add_rule(&rule)
                    .map_err(|source| SetupError::Rule { family, source })?;
                self.done.push(Step::Rule(rule));
            }
        }
        Ok(())
    }

    /// Takes everything back, last first, and returns what could not be. What is gone already
    /// (somebody removed it, or the interface) needs no taking back.
    pub(crate) fn undo(mut self) -> Vec<String> {
        let gone = [
            Errno::NODEV,
            Errno::NXIO,
            Errno::SRCH,
            Errno::ADDRNOTAVAIL,
            Errno::NOENT,
        ];
        let mut left = Vec::new();
        for step in self.done.iter().rev() {
            let (undone, what) = match step {
                Step::Address(address) => (
                    self.netlink.remove_address(self.index, *address),
                    format!("address {address}"),
                ),
                Step::Route(route) => (
                    self.netlink.remove_route(route),
                    format!("route to {} in table {}", route.prefix, route.table),
                ),
                Step::Rule(rule) => (
                    self.netlink.remove_rule(rule),
                    format!("{} rule {}", rule.family, rule.priority),
                ),
                Step::Shield(shield) => (
                    shield.remove().map_err(io::Error::other),
                    format!("nftables table inet {}", shield.name()),
                ),
            };
            match undone {
                Err(error) if !gone.iter().any(|errno| is(&error, *errno)) => {
                    left.push(format!("{what}: {error}"));
                }
                _ => {}
            }
        }
        left
    }
}

/// A route for each allowed IP, but for those that the kernel makes for the addresses; default
/// routes in a table of their own, which has the number of the mark.
fn wanted_routes(config: &Config) -> Vec<(IpNet, u32)> {
    let table = match config.routes {
        Routes::Off => return Vec::new(),
        Routes::Auto => MAIN_TABLE,
        Routes::Table(table) => table,
    };
    let connected = |prefix: &IpNet| {
        table == MAIN_TABLE && config.addresses.iter().any(|own| own.trunc() == *prefix)
    };
    let mut prefixes: Vec<_> = config
        .peers
        .iter()
        .flat_map(|peer| &peer.allowed_ips)
        .copied()
        .filter(|prefix| !connected(prefix))
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let policy = matches!(config.routes, Routes::Auto);
    let table_of = |prefix: &IpNet| match prefix.prefix_len() {
        0 if policy => config.fwmark,
        _ => table,
    };
    prefixes
        .into_iter()
        .map(|prefix| (prefix, table_of(&prefix)))
        .collect()
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
