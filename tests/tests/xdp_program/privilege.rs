//! Without the privileges the error says which are missing and how to get them.

use std::process::ExitCode;

use ringspan_tests::child::Role;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::{PORT, load};

pub(super) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test("names_missing_capabilities", needs, names_missing)
        .test("does_without_sys_admin", needs, without_sys_admin)
}

/// Keeps only the capabilities in its argument (bits, decimal), loads the program, and tells
/// the error, or `loaded`, on standard error. A process of its own: the library remembers what it was allowed to do.
pub(super) const RESTRICTED: Role = Role {
    name: "restricted",
    main: |arguments| {
        let bits = arguments.first().and_then(|bits| bits.parse().ok());
        let kept = CapabilitySet::from_bits_truncate(bits.unwrap_or(0));
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        if let Err(error) = set_capabilities(None, sets) {
            eprintln!("cannot drop capabilities: {error}");
            return ExitCode::FAILURE;
        }
        match load(&[PORT]) {
            Ok(_) => eprint!("loaded"),
            Err(error) => eprint!("{error}"),
        }
        ExitCode::SUCCESS
    },
};

fn load_with(kept: CapabilitySet) -> Result<String, Box<dyn std::error::Error>> {
    let output = RESTRICTED.command(&[&kept.bits().to_string()])?.output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stderr)?)
}

fn names_missing() -> TestResult {
    const NET_ADMIN: CapabilitySet = CapabilitySet::NET_ADMIN;
    for (kept, missing) in [
        (
            CapabilitySet::empty(),
            "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON",
        ),
        (NET_ADMIN, "CAP_BPF, CAP_PERFMON"),
        (CapabilitySet::BPF | CapabilitySet::PERFMON, "CAP_NET_ADMIN"),
        (NET_ADMIN | CapabilitySet::BPF, "CAP_PERFMON"),
    ] {
        let message = load_with(kept)?;
        assert!(
            message.ends_with(&format!("missing here: {missing}")),
            "{message}"
        );
        assert!(message.contains("run as root"), "{message}");
    }
    Ok(())
}

fn without_sys_admin() -> TestResult {
    let enough = CapabilitySet::NET_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON;
    assert_eq!(load_with(enough)?, "loaded");
    Ok(())
}
