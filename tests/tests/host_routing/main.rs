//! Routing on the host of a mesh member: what is set and taken back, what enters the tunnel, and
//! that nothing leaves in clear that must not.

mod bed;
mod faults;
mod objects;
mod sets;
mod strangers;
mod traffic;

use std::process::ExitCode;

use ringspan_tests::harness::Suite;
use ringspan_tests::privilege::Need;

const UDP: &[Need] = &[Need::Namespaces, Need::Tun, Need::Program("nft")];
const XDP: &[Need] = &[
    Need::Namespaces,
    Need::Tun,
    Need::Program("nft"),
    Need::Bpf,
    Need::AfXdp,
];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .role(faults::MEMBER)
        .test(
            "all_is_set_and_taken_back",
            UDP,
            objects::set_and_taken_back,
        )
        .test("dropping_takes_back_too", UDP, objects::dropped)
        .test("one_at_a_time", UDP, objects::one_at_a_time)
        .test("what_is_missing_is_named", UDP, objects::missing)
        .test("ipv6_is_enabled_on_the_link", UDP, objects::ipv6_enabled)
        .test("sets_follow_any_change", UDP, sets::follow_any_change)
        .test("peers_are_reached_through_the_tunnel_udp", UDP, || {
            traffic::through_the_tunnel(traffic::Driver::Udp)
        })
        .test("peers_are_reached_through_the_tunnel_xdp", XDP, || {
            traffic::through_the_tunnel(traffic::Driver::Xdp)
        })
        .test("a_down_peer_is_a_black_hole", UDP, traffic::black_hole)
        .test(
            "with_the_bypass_a_down_peer_is_reached_in_clear",
            UDP,
            traffic::bypass,
        )
        .test("segments_are_clamped", UDP, traffic::clamped)
        .test(
            "strict_reverse_paths_do_not_matter",
            UDP,
            traffic::strict_reverse_path,
        )
        .test(
            "strangers_rules_are_refused_and_stay",
            UDP,
            strangers::rules,
        )
        .test(
            "strangers_routes_are_refused_and_stay",
            UDP,
            strangers::routes,
        )
        .test(
            "strangers_tables_are_refused_and_stay",
            UDP,
            strangers::tables,
        )
        .test(
            "a_link_that_flaps_is_routed_again",
            UDP,
            faults::flapping_link,
        )
        .test(
            "what_others_remove_is_put_back",
            UDP,
            faults::removed_by_others,
        )
        .test(
            "a_killed_member_fails_closed_and_is_succeeded",
            UDP,
            faults::killed,
        )
        .test(
            "a_killed_member_with_the_bypass_fails_open",
            UDP,
            faults::killed_with_bypass,
        )
        .main()
}
