//! The kernel drivers where they need privileges: TUN interfaces, firewall marks, paths with a
//! small MTU.

mod tun;
mod udp;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use ringspan::engine::port::Pollable;
use ringspan_tests::harness::Suite;
use ringspan_tests::privilege::Need;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const TUN: &[Need] = &[Need::Namespaces, Need::Tun];
const TUN_SHOWN: &[Need] = &[Need::Namespaces, Need::Tun, Need::Program("ip")];
const TCPDUMP: &[Need] = &[Need::Program("tcpdump")];
const NET: &[Need] = &[Need::Namespaces];
const RULES: &[Need] = &[Need::Namespaces, Need::Program("ip")];

fn main() -> ExitCode {
    Suite::new()
        .test("tun_carries_packets_both_ways", TUN, tun::both_ways)
        .test("tun_vanishes_with_its_owner", TUN, tun::vanishes)
        .test("tun_mtu_is_set_and_checked", TUN, tun::mtu)
        .test("tun_queue_length_is_set", TUN_SHOWN, tun::queue_length)
        .test("tun_names_and_conflicts", TUN, tun::names)
        .test("tun_queues_share_the_traffic", TUN, tun::queues)
        .test("tun_refusals_are_counted", TUN, tun::refusals)
        .test("tun_super_packets_carry_tcp", TUN, || tun::to_tun(true))
        .test("tun_single_packets_carry_tcp", TUN, || tun::to_tun(false))
        .test("tun_super_packets_carry_udp", TUN, tun::udp_segments)
        .test("udp_marks_what_it_sends", RULES, udp::mark)
        .test("udp_segments_too_long_for_the_path", NET, udp::small_mtu)
        .test("udp_follows_a_changed_source", NET, udp::source_gone)
        .test(
            "tcpdump_reads_captures",
            TCPDUMP,
            udp::tcpdump_reads_captures,
        )
        .main()
}

/// Waits until the port has something; fails when it stays silent.
fn wait(port: &dyn Pollable) -> io::Result<()> {
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut failed = None;
    port.poll_fds(&mut |fd| match fd.try_clone_to_owned() {
        Ok(fd) => fds.push(fd),
        Err(error) => failed = Some(error),
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    let patience = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}
