//! Addresses and routes of one tunnel, from up to down.

use std::io;

use ipnet::IpNet;
use rustix::io::Errno;

use super::netlink::{Change, Netlink};
use crate::config::{Config, Routes};

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;

/// What was set on a tunnel's interface. Dropping it without [`Setup::undo`] leaves all in place.
pub(crate) struct Setup {
    netlink: Netlink,
    index: u32,
    done: Vec<Step>,
}

/// One thing set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Address(IpNet),
    Route(IpNet, u32),
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
}

impl Setup {
    /// Sets the interface up and gives it what `config` lists. On failure all is taken back.
    pub(crate) fn apply(index: u32, config: &Config) -> Result<Self, SetupError> {
        let routes = wanted_routes(config);
        Self::set(index, &config.name, &config.addresses, &routes)
    }

    /// Sets the interface `name` up and gives it one address.
    #[cfg(feature = "discovery")]
    pub(crate) fn address(index: u32, name: &str, address: IpNet) -> Result<Self, SetupError> {
        Self::set(index, name, &[address], &[])
    }

    fn set(
        index: u32,
        name: &str,
        addresses: &[IpNet],
        routes: &[(IpNet, u32)],
    ) -> Result<Self, SetupError> {
        let netlink = Netlink::open().map_err(SetupError::Netlink)?;
        let mut setup = Self {
            netlink,
            index,
            done: Vec::new(),
        };
        match setup.steps(name, addresses, routes) {
            Ok(()) => Ok(setup),
            Err(error) => {
                setup.undo();
                Err(error)
            }
        }
    }

    fn steps(
        &mut self,
        name: &str,
        addresses: &[IpNet],
        routes: &[(IpNet, u32)],
    ) -> Result<(), SetupError> {
        let name = || name.to_owned();
        self.netlink
            .set_up(self.index)
            .map_err(|source| SetupError::Up {
                name: name(),
                source,
            })?;
        for &address in addresses {
            match self.netlink.address(Change::Add, self.index, address) {
                Ok(()) => self.done.push(Step::Address(address)),
                Err(source) => {
                    return Err(SetupError::Address {
                        address,
                        name: name(),
                        source,
                    });
                }
            }
        }
        for &(prefix, table) in routes {
            match self.netlink.route(Change::Add, self.index, prefix, table) {
                Ok(()) => self.done.push(Step::Route(prefix, table)),
                Err(source) if is(&source, Errno::EXIST) => {
                    return Err(SetupError::RouteExists { prefix });
                }
                Err(source) => {
                    return Err(SetupError::Route {
                        prefix,
                        name: name(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes everything back, last first, and returns what could not be. What is gone already
    /// (somebody removed it, or the interface) needs no taking back.
    pub(crate) fn undo(self) -> Vec<String> {
        let gone = [
            Errno::NODEV,
            Errno::NXIO,
            Errno::SRCH,
            Errno::ADDRNOTAVAIL,
            Errno::NOENT,
        ];
        let mut left = Vec::new();
        for step in self.done.iter().rev() {
            let (undone, what) = match *step {
                Step::Address(address) => (
                    self.netlink.address(Change::Remove, self.index, address),
                    format!("address {address}"),
                ),
                Step::Route(prefix, table) => (
                    self.netlink
                        .route(Change::Remove, self.index, prefix, table),
                    format!("route to {prefix} in table {table}"),
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

/// A route for each allowed IP, but for those that the kernel makes for the addresses.
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
    prefixes.into_iter().map(|prefix| (prefix, table)).collect()
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
