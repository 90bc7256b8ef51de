//! Does the XDP program decide as it should: frame by frame through BPF_PROG_RUN, and attached to
//! a veth; and does its loader attach with care?
//!
//! `RINGSPAN_XDP_OBJECT` names another build of the program to test instead of the embedded one.

mod attach;
mod bystanders;
mod differential;
mod inner;
mod privilege;
mod verdicts;

use std::process::ExitCode;

use ringspan::io::xdp::program::{LoadError, UpdateError, XdpProgram};
use ringspan_tests::harness::Suite;
use ringspan_tests::privilege::Need;
use ringspan_xdp_common::Verdict;

fn main() -> ExitCode {
    let suite = Suite::new().role(attach::OWNER).role(privilege::RESTRICTED);
    let suite = verdicts::add(suite, &[Need::Bpf]);
    let suite = differential::add(suite, &[Need::Bpf]);
    let suite = inner::add(suite, &[Need::Bpf]);
    let suite = privilege::add(suite, &[Need::Bpf]);
    let suite = attach::add(suite, &[Need::Bpf, Need::Namespaces]);
    bystanders::add(suite).main()
}

/// The port that is ours in these tests.
const PORT: u16 = 51820;

/// Loads the program under test.
fn load(ports: &[u16]) -> Result<XdpProgram, LoadError> {
    match object() {
        None => XdpProgram::load(ports),
        Some(bytes) => XdpProgram::load_object(&bytes, ports),
    }
}

/// Loads the program of an inner interface under test.
fn load_inner(mac: [u8; 6]) -> Result<XdpProgram, LoadError> {
    match object() {
        None => XdpProgram::load_inner(mac),
        Some(bytes) => XdpProgram::load_inner_object(&bytes, mac),
    }
}

/// The build to be tested, where another one than the embedded is.
fn object() -> Option<Vec<u8>> {
    let path = std::env::var_os("RINGSPAN_XDP_OBJECT")?;
    let bytes = std::fs::read(&path);
    Some(bytes.unwrap_or_else(|error| panic!("{}: {error}", path.to_string_lossy())))
}

/// The counter of `verdict`.
fn count(program: &XdpProgram, verdict: Verdict) -> Result<u64, UpdateError> {
    let counters = program.counters()?;
    Ok(counters[verdict.index() as usize].1)
}
