//! Which privileges a start needs, asked before anything is touched.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use rustix::thread::{CapabilitySet, capabilities};

use crate::config::OuterDriver;

/// A start that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MissingPrivilege {
    #[error(
        "needs {needed}: run as root, grant it with `setcap {grant} $(command -v ringspan)`, or, \
         in a systemd unit, with AmbientCapabilities={ambient}{way_out}"
    )]
    Capability {
        needed: String,
        grant: String,
        ambient: String,
        way_out: &'static str,
    },
    #[error(
        "needs to read and write {TUN}, which its mode does not allow: run as root, or let this \
         user's group (`chgrp GROUP {TUN}; chmod 660 {TUN}`)"
    )]
    TunDevice,
}

/// Where the kernel makes TUN interfaces.
const TUN: &str = "/dev/net/tun";

/// Whether this process may start a tunnel with `driver`.
///
/// `Auto` asks for the interface alone: without the rest it ends up at the UDP socket.
pub(crate) fn check(driver: OuterDriver) -> Result<(), MissingPrivilege> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    capable(driver, held)?;
    // Opening makes no interface yet. What else can go wrong here the TUN driver explains.
    match OpenOptions::new().read(true).write(true).open(TUN) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(MissingPrivilege::TunDevice)
        }
        _ => Ok(()),
    }
}

fn capable(driver: OuterDriver, held: CapabilitySet) -> Result<(), MissingPrivilege> {
    let mut wanted = vec![("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN)];
    if driver == OuterDriver::Xdp {
        // The first two load the program (CAP_SYS_ADMIN includes them), the last opens the
        // sockets.
        if !held.contains(CapabilitySet::SYS_ADMIN) {
            wanted.push(("CAP_BPF", CapabilitySet::BPF));
            wanted.push(("CAP_PERFMON", CapabilitySet::PERFMON));
        }
        wanted.push(("CAP_NET_RAW", CapabilitySet::NET_RAW));
    }
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(_, capability)| !held.contains(*capability))
        .map(|(name, _)| *name)
        .collect();
    let needed = match missing.split_last() {
        None => return Ok(()),
        Some((only, [])) => (*only).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    };
    // Granting replaces what a file has, so all are listed, not only the missing.
    let all: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
    let only_xdp = driver == OuterDriver::Xdp && held.contains(CapabilitySet::NET_ADMIN);
    Err(MissingPrivilege::Capability {
        needed,
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
        assert_eq!(capable(OuterDriver::Udp, net), Ok(()));
        assert_eq!(capable(OuterDriver::Auto, net), Ok(()));
        let xdp = net | CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_RAW;
        assert_eq!(capable(OuterDriver::Xdp, xdp), Ok(()));
        let old_kernel = net | CapabilitySet::SYS_ADMIN | CapabilitySet::NET_RAW;
        assert_eq!(capable(OuterDriver::Xdp, old_kernel), Ok(()));
    }

    #[test]
    fn the_error_names_what_is_missing_and_the_ways_out() {
        let text = capable(OuterDriver::Xdp, CapabilitySet::empty())
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with(
                "needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW: run as root"
            )
        );
        let text = capable(OuterDriver::Xdp, CapabilitySet::NET_ADMIN)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("needs CAP_BPF, CAP_PERFMON and CAP_NET_RAW: "),
            "{text}"
        );
        assert!(
            text.contains("setcap cap_net_admin,cap_bpf,cap_perfmon,cap_net_raw+ep"),
            "{text}"
        );
        assert!(text.ends_with("--outer udp does without"), "{text}");
        assert!(capable(OuterDriver::Auto, CapabilitySet::BPF).is_err());
    }
}
