//! What the kernel's own acceptance test (`tools/testing/selftests/wireguard/netns.sh`) asks of a
//! WireGuard device, in our words and over both outer drivers: real interfaces, real routes, real
//! traffic. Beside its scenarios stand those of rules that it has no test for.

mod bed;
mod paths;
mod peers;
mod sizes;

use std::process::ExitCode;

use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;

use bed::Driver;

type Scenario = (&'static str, fn(Driver) -> TestResult);

const SCENARIOS: &[Scenario] = &[
    ("roams_between_ipv4_and_ipv6", paths::roams_between_families),
    (
        "answers_from_the_address_that_was_addressed",
        paths::answers_from_the_addressed_one,
    ),
    (
        "a_routing_loop_is_bounded",
        paths::a_routing_loop_is_bounded,
    ),
    (
        "senders_of_what_goes_nowhere_are_told",
        paths::senders_are_told,
    ),
    ("holds_a_way_through_a_nat_open", paths::holds_a_nat_open),
    (
        "a_source_needs_the_longest_prefix",
        peers::a_source_needs_the_longest_prefix,
    ),
    (
        "a_new_key_carries_traffic_at_once",
        peers::a_new_key_carries_traffic,
    ),
    (
        "low_order_points_never_cause_a_send",
        peers::low_order_points_never_send,
    ),
    (
        "keys_are_forgotten_when_the_machine_is_cloned",
        peers::keys_are_forgotten_when_cloned,
    ),
    (
        "bytes_are_counted_exactly",
        sizes::bytes_are_counted_exactly,
    ),
    (
        "padding_follows_an_mtu_of_1299",
        sizes::padding_follows_the_mtu,
    ),
    (
        "packets_longer_than_the_path_arrive",
        sizes::packets_longer_than_the_path,
    ),
];

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for (driver, name) in [(Driver::Udp, "udp"), (Driver::Xdp, "xdp")] {
        for &(scenario, run) in SCENARIOS {
            let mut needs = vec![Need::Namespaces, Need::Tun];
            if driver == Driver::Xdp {
                needs.extend([Need::Bpf, Need::AfXdp]);
            }
            if scenario.ends_with("nat_open") {
                needs.push(Need::Program("nft"));
            }
            suite = suite.test(format!("{scenario}_over_{name}"), &needs, move || {
                run(driver)
            });
        }
    }
    suite.serial().main()
}
