//! What `wg-quick` users expect beside the tunnel itself: addresses and routes on its interface,
//! set over netlink and taken back at the end; and the look-ups that errors need.

mod netlink;
mod setup;
mod watch;

use std::io;

pub(crate) use setup::{Setup, SetupError};
pub(crate) use watch::LinkWatch;

/// The machine's interfaces, as this network namespace sees them.
pub(crate) fn interface_names() -> io::Result<Vec<String>> {
    let links = netlink::Netlink::open()?.links()?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// The index of the interface called `name`.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let links = netlink::Netlink::open()?.links()?;
    let link = links.into_iter().find(|link| link.name == name);
    link.map(|link| link.index)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The interface that holds the default route: IPv4's, else IPv6's; of several the one with the
/// lowest metric.
pub(crate) fn default_interface() -> io::Result<Option<String>> {
    let netlink = netlink::Netlink::open()?;
    let Some(index) = netlink.default_route()? else {
        return Ok(None);
    };
    let link = netlink
        .links()?
        .into_iter()
        .find(|link| link.index == index);
    Ok(link.map(|link| link.name))
}
