//! What `wg-quick` users expect beside the tunnel itself: addresses and routes on its interface,
//! set over netlink and taken back at the end; and the look-ups that errors need.

mod policy;
mod setup;

use std::io;

use ringspan::runtime::rtnetlink::{Family, HostNetlink, MAIN_TABLE, Route, RouteWay};

pub(crate) use policy::mark;
pub(crate) use ringspan::runtime::rtnetlink::{Fate, LinkWatch};
pub(crate) use setup::{Setup, SetupError};

/// The machine's interfaces, as this network namespace sees them.
pub(crate) fn interface_names() -> io::Result<Vec<String>> {
    let links = HostNetlink::open()?.links()?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// The index of the interface called `name`.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let links = HostNetlink::open()?.links()?;
    let link = links.into_iter().find(|link| link.name == name);
    link.map(|link| link.index)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The interface that holds the default route: IPv4's, else IPv6's; of several the one with the
/// lowest metric.
pub(crate) fn default_interface() -> io::Result<Option<String>> {
    let mut netlink = HostNetlink::open()?;
    for family in Family::ALL {
        if let Some(index) = best_default(&netlink.routes(family, MAIN_TABLE)?) {
            let links = netlink.links()?;
            let link = links.into_iter().find(|link| link.index == index);
            return Ok(link.map(|link| link.name));
        }
    }
    Ok(None)
}

/// The interface of the best default route.
fn best_default(routes: &[Route]) -> Option<u32> {
    let defaults = routes.iter().filter(|route| route.prefix.prefix_len() == 0);
    defaults
        .filter_map(|route| match route.way {
            RouteWay::Link(index) | RouteWay::Via(index) => Some((route.metric, index)),
            _ => None,
        })
        .min()
        .map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use ringspan::runtime::rtnetlink::Protocol;

    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let route = |prefix: &str, way, metric| Route {
            prefix: prefix.parse().unwrap(),
            table: MAIN_TABLE,
            way,
            metric,
            mtu: None,
            protocol: Protocol::STATIC,
        };
        let mut routes = vec![
            route("0.0.0.0/0", RouteWay::Blackhole, 0),
            route("10.0.0.0/8", RouteWay::Link(5), 0),
        ];
        assert_eq!(best_default(&routes), None);
        routes.push(route("0.0.0.0/0", RouteWay::Via(7), 100));
        assert_eq!(best_default(&routes), Some(7));
        routes.push(route("0.0.0.0/0", RouteWay::Link(8), 10));
        assert_eq!(best_default(&routes), Some(8));
    }
}
