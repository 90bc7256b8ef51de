//! Rules of the protocol against other implementations where it is hard: the Linux kernel's own
//! WireGuard (two lines of it), `wireguard-go` and boringtun, each in a room of a virtual machine
//! that has what the host lacks (netem); our node on the host, over UDP and over AF_XDP.
//!
//! The machines are emulated and slow: limits are in packets, and whatever waits is bounded.

mod bed;
#[path = "../common/boringtun.rs"]
mod boringtun;
mod cookies;
mod flood;
mod handshakes;
mod loss;
mod nat;
mod rekey;
mod roaming;
mod turned;

use std::process::ExitCode;

use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use ringspan_tests::vm;

use crate::bed::{Driver, Kind};
use crate::boringtun::BORINGTUN;
use crate::handshakes::Beginning;

type Case = (&'static str, fn(Kind, Driver) -> TestResult);

type ClockCase = (&'static str, fn(Kind) -> TestResult);

/// What every implementation is put through.
const FOR_ALL: &[Case] = &[
    ("they_follow_us", roaming::they_follow_us),
    ("we_follow_them", roaming::we_follow_them),
    (
        "from_one_family_to_the_other",
        roaming::from_one_family_to_the_other,
    ),
    ("losses_and_overtaking", loss::losses_and_overtaking),
    ("repetition", loss::repetition),
    ("nat::we_are_behind_it", nat::we_are_behind_it),
    ("nat::they_are_behind_it", nat::they_are_behind_it),
    ("cookies::they_are_under_load", cookies::they_are_under_load),
    ("cookies::we_are_under_load", cookies::we_are_under_load),
];

/// What our node does when its clock, and no other, is turned: no matter of drivers.
const WITH_TURNED_CLOCK: &[ClockCase] = &[
    ("we_renew_at_120_seconds", rekey::we_renew_at_120_seconds),
    (
        "we_keep_fresh_at_165_seconds",
        rekey::we_keep_fresh_at_165_seconds,
    ),
    ("it_ends_at_180_seconds", rekey::it_ends_at_180_seconds),
    (
        "a_responder_does_not_renew",
        rekey::a_responder_does_not_renew,
    ),
];

fn main() -> ExitCode {
    let mut suite = Suite::new().role(vm::ROLE).role(BORINGTUN);
    // First, for it waits most of the time: others run beside it.
    suite = suite.test(
        "rekey::they_renew_at_120_seconds",
        &Kind::ALL.map(|kind| needs(kind, Driver::Xdp)).concat(),
        rekey::they_renew_at_120_seconds,
    );
    for kind in Kind::ALL {
        for &(name, case) in WITH_TURNED_CLOCK {
            suite = suite.test(
                format!("{}::rekey::{name}", kind.name()),
                kind.needs(),
                move || case(kind),
            );
        }
    }
    for driver in Driver::ALL {
        for beginning in Beginning::ALL {
            let kind = Kind::NewerKernel;
            suite = suite.test(
                format!("{}::{}::{}", kind.name(), driver.name(), beginning.name()),
                &needs(kind, driver),
                move || beginning.run(kind, driver),
            );
        }
        for kind in Kind::ALL {
            for &(name, case) in FOR_ALL {
                // In user space of an emulated machine they are too slow to be kept under load and
                // to answer within 5 s.
                if !kind.is_kernel() && name == "cookies::they_are_under_load" {
                    continue;
                }
                let mut needs = needs(kind, driver);
                if name.starts_with("nat::") {
                    needs.push(Need::Program("nft"));
                }
                suite = suite.test(
                    format!("{}::{}::{name}", kind.name(), driver.name()),
                    &needs,
                    move || case(kind, driver),
                );
            }
        }
    }
    suite.main()
}

fn needs(kind: Kind, driver: Driver) -> Vec<Need> {
    [kind.needs(), driver.needs()].concat()
}
