//! Does the AF_XDP driver move frames as it should: on a veth, in native and generic mode, over
//! one queue and several, and without losing a frame of its memory?

mod bed;
mod forward;
mod frames;
mod jumbo;
mod lifecycle;
mod options;
mod paths;
mod receive;
mod send;

use std::process::ExitCode;

use ringspan_tests::harness::Suite;
use ringspan_tests::privilege::Need;

fn main() -> ExitCode {
    let needs = &[Need::Namespaces, Need::Bpf, Need::AfXdp];
    let suite = receive::add(Suite::new(), needs);
    let suite = send::add(suite, needs);
    let suite = frames::add(suite, needs);
    let suite = jumbo::add(suite, needs);
    let suite = lifecycle::add(suite, needs);
    let suite = options::add(suite, needs);
    let suite = paths::add(suite, needs);
    forward::add(suite, needs).main()
}
