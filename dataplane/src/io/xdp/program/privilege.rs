//! Which capabilities the process lacks for its XDP program.

use rustix::thread::{CapabilitySet, capabilities};

/// CAP_BPF for maps and program, CAP_NET_ADMIN for XDP, and CAP_PERFMON because the verifier lets
/// no other program read a packet at an offset that depends on the packet (IPv4 options).
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
];

/// The names of the capabilities that are missing, comma-separated; empty if none is, or if the
/// kernel does not tell. CAP_SYS_ADMIN implies them all.
pub(super) fn missing() -> String {
    capabilities(None).map_or_else(|_| String::new(), |sets| lacking(sets.effective))
}

fn lacking(effective: CapabilitySet) -> String {
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return String::new();
    }
    let names = NEEDED
        .iter()
        .filter(|(capability, _)| !effective.contains(*capability))
        .map(|(_, name)| *name);
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(lacking(CapabilitySet::SYS_ADMIN), "");
        assert_eq!(
            lacking(CapabilitySet::empty()),
            "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"
        );
        assert_eq!(
            lacking(CapabilitySet::BPF | CapabilitySet::NET_ADMIN),
            "CAP_PERFMON"
        );
    }
}
