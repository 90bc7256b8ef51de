//! Which privileges a start needs, asked before anything is touched.

use rustix::thread::{CapabilitySet, capabilities};

use crate::config::OuterDriver;

/// A start that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "needs {needed}: run as root, grant it with `setcap {grant} $(command -v ringspan)`, or, in a \
     systemd unit, with AmbientCapabilities={ambient}{way_out}"
)]
pub(crate) struct MissingPrivilege {
    needed: String,
    grant: String,
    ambient: String,
    way_out: &'static str,
}

/// Whether this process may start a tunnel with `driver`.
///
/// `Auto` asks for the interface alone: without the rest it ends up at the UDP socket.
pub(crate) fn check(driver: OuterDriver) -> Result<(), MissingPrivilege> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    missing(driver, held)
}

fn missing(driver: OuterDriver, held: CapabilitySet) -> Result<(), MissingPrivilege> {
    let mut wanted = vec![("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN)];
    if driver == OuterDriver::Xdp {
        // Loading the program, and opening AF_XDP sockets. CAP_SYS_ADMIN includes CAP_BPF.
        if !held.contains(CapabilitySet::SYS_ADMIN) {
            wanted.push(("CAP_BPF", CapabilitySet::BPF));
        }
        wanted.push(("CAP_NET_RAW", CapabilitySet::NET_RAW));
    }
    let names: Vec<_> = wanted
        .iter()
        .filter(|(_, capability)| !held.contains(*capability))
        .map(|(name, _)| *name)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    // Granting replaces what a file has, so all are listed, not only the missing.
    let all: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
    let only_xdp = driver == OuterDriver::Xdp && held.contains(CapabilitySet::NET_ADMIN);
    Err(MissingPrivilege {
        needed: names.join(" and "),
        grant: format!("{}+ep", all.join(",").to_ascii_lowercase()),
        ambient: all.join(" "),
        way_out: if only_xdp {
            "; --outer udp does without"
        } else {
            ""
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_asks_for_what_it_needs() {
        let net = CapabilitySet::NET_ADMIN;
        assert_eq!(missing(OuterDriver::Udp, net), Ok(()));
        assert_eq!(missing(OuterDriver::Auto, net), Ok(()));
        let xdp = net | CapabilitySet::BPF | CapabilitySet::NET_RAW;
        assert_eq!(missing(OuterDriver::Xdp, xdp), Ok(()));
        let old_kernel = net | CapabilitySet::SYS_ADMIN | CapabilitySet::NET_RAW;
        assert_eq!(missing(OuterDriver::Xdp, old_kernel), Ok(()));
    }

    #[test]
    fn the_error_names_what_is_missing_and_the_ways_out() {
        let text = missing(OuterDriver::Xdp, CapabilitySet::empty())
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("needs CAP_NET_ADMIN and CAP_BPF and CAP_NET_RAW: run as root"));
        let text = missing(OuterDriver::Xdp, CapabilitySet::NET_ADMIN)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("needs CAP_BPF and CAP_NET_RAW: "),
            "{text}"
        );
        assert!(
            text.contains("setcap cap_net_admin,cap_bpf,cap_net_raw+ep"),
            "{text}"
        );
        assert!(text.ends_with("--outer udp does without"), "{text}");
        assert!(missing(OuterDriver::Auto, CapabilitySet::BPF).is_err());
    }
}
