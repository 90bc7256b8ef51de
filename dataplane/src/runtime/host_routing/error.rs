//! Why the host is not routed as wanted.

use std::io;

use ipnet::IpNet;

use super::table::TABLE;
use crate::runtime::nftables::NftError;
use crate::runtime::rtnetlink::Family;

/// Why the host is not routed as wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostRoutingError {
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// There is no such link.
    #[error("there is no interface {0} to route into: start the data plane first")]
    NoLink(String),
    /// The address is not one of a network.
    #[error("{0} cannot be the mesh address: it needs a prefix shorter than the address itself")]
    Address(IpNet),
    /// Another process, or another part of this one, does the same here.
    #[error(
        "routing table {table} is in use by another ringspan in this network namespace: stop it \
         first"
    )]
    Busy {
        /// The table.
        table: u32,
    },
    /// A rule is there that this crate did not set.
    #[error(
        "the {family} rule {priority} that leads to table {table} (protocol {protocol}) is not \
         ringspan's and is left alone: remove what set it, or the rule (`ip rule` shows it)"
    )]
    RuleTaken {
        /// Its family.
        family: Family,
        /// Its priority.
        priority: u32,
        /// Where it leads.
        table: u32,
        /// Who set it, as `ip rule` says after `proto`; 0: nobody said.
        protocol: u8,
    },
    /// The table holds a route that this crate did not set.
    #[error(
        "routing table {table} holds a route to {prefix} (protocol {protocol}) that is not \
         ringspan's and is left alone: remove what set it, or the route (`ip route show table \
         {table}` and `ip -6 route show table {table}` show it)"
    )]
    TableTaken {
        /// The table.
        table: u32,
        /// Where the route leads to.
        prefix: IpNet,
        /// Who set it, as `ip route` says after `proto`.
        protocol: u8,
    },
    /// An nftables table has the name, and not from this crate.
    #[error(
        "the nftables table inet {TABLE} is not ringspan's and is left alone: rename or remove it \
         (`nft list table inet {TABLE}` shows it)"
    )]
    NftTableTaken,
    /// A request was refused.
    #[error("cannot {doing}: {source}{}", hint(source))]
    Refused {
        /// What was asked for.
        doing: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// What could not be taken back.
    #[error("left behind on this host: {}", .0.join("; "))]
    LeftBehind(Vec<String>),
    /// The thread that keeps it has ended.
    #[error("host routing has stopped: see the log, and please report it")]
    Stopped,
}

fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied {
        " (it needs root or CAP_NET_ADMIN)"
    } else {
        ""
    }
}
