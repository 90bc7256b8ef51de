//! Interoperability: against `wireguard-go` and boringtun in network namespaces, and against the
//! Linux kernel in a virtual machine; over AF_XDP and over UDP, begun by either side, over IPv4
//! and IPv6, with and without a preshared key.

#[path = "../common/boringtun.rs"]
mod boringtun;
mod ends;
mod place;
mod scenario;

use std::process::ExitCode;

use ringspan_tests::harness::Suite;

use ringspan_tests::vm;

use crate::boringtun::BORINGTUN;
use crate::ends::{Kind, Transport};
use crate::scenario::Scenario;

fn main() -> ExitCode {
    let mut suite = Suite::new().role(BORINGTUN).role(vm::ROLE);
    for peer in [Kind::WireguardGo, Kind::Boringtun, Kind::Kernel] {
        for transport in [Transport::Xdp, Transport::Udp] {
            let us = Kind::Ringspan(transport);
            for scenario in Scenario::matrix(us, peer).chain(Scenario::estranged(us, peer)) {
                suite = suite.test(scenario.name(), &scenario.needs(), move || scenario.run());
            }
        }
    }
    // The bed's own proof: what fails above and not here is ours.
    for scenario in Scenario::matrix(Kind::Boringtun, Kind::WireguardGo) {
        suite = suite.test(scenario.name(), &scenario.needs(), move || scenario.run());
    }
    suite.main()
}
