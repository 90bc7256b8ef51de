//! What the kernel's own acceptance test (`tools/testing/selftests/wireguard/netns.sh`) asks of a
//! WireGuard device, in our words and over both outer drivers: real interfaces, real routes, real
//! traffic. Beside its scenarios stand those of rules that it has no test for.

mod bed;
mod changes;
mod path_mtu;
mod paths;
mod peers;
mod routes;
mod sizes;
mod sources;
mod streams;

use std::process::ExitCode;

use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;

use bed::Driver;

type Scenario = (&'static str, fn(Driver) -> TestResult);

const SCENARIOS: &[Scenario] = &[
    (
        "streams_of_both_families_arrive",
        streams::streams_of_both_families,
    ),
    ("four_five_and_fifty_streams", streams::streams_at_once),
    (
        "streams_with_an_mtu_of_34816",
        streams::streams_with_a_huge_mtu,
    ),
    ("handshakes_have_a_time", streams::handshakes_have_a_time),
    ("nothing_is_left_at_the_end", streams::nothing_is_left),
    ("a_mark_chooses_the_way", routes::a_mark_chooses_the_way),
    (
        "a_default_route_spares_its_own",
        routes::a_default_route_spares_its_own,
    ),
    ("a_tunnel_in_the_tunnel", routes::a_tunnel_in_the_tunnel),
    ("an_onion_has_no_loop", routes::an_onion_has_no_loop),
    (
        "an_error_goes_back_through_the_nat",
        routes::an_error_goes_back_through_the_nat,
    ),
    (
        "an_interface_moves_to_another_namespace",
        routes::an_interface_moves_to_another_namespace,
    ),
    (
        "a_source_is_not_too_sticky",
        sources::a_source_is_not_too_sticky,
    ),
    (
        "answers_from_another_interface_s_address",
        sources::answers_from_another_interface_s_address,
    ),
    ("a_better_route_is_taken", sources::a_better_route_is_taken),
    (
        "a_narrow_link_on_the_way_is_learnt",
        path_mtu::a_narrow_link_on_the_way,
    ),
    (
        "an_untouched_peer_loses_nothing",
        changes::an_untouched_peer_loses_nothing,
    ),
    ("a_prefix_moves", changes::a_prefix_moves),
    (
        "a_private_key_changes_while_running",
        changes::a_private_key_changes_while_running,
    ),
    ("a_port_moves", changes::a_port_moves),
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
            if scenario.contains("_nat") {
                needs.push(Need::Program("nft"));
            }
            suite = suite.test(format!("{scenario}_over_{name}"), &needs, move || {
                run(driver)
            });
        }
    }
    suite.serial().main()
}
