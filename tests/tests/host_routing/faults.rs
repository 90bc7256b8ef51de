//! Links that flap, strangers that tidy up, and processes that are killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use ringspan::Outer;
use ringspan::runtime::rtnetlink::{Family, HostNetlink};
use ringspan_tests::child::Role;
use ringspan_tests::harness::TestResult;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, DOWN, LINK, Member, Result, UP, nft, ula, wait_for};
use crate::objects::snapshot;

/// Tells the test.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Member 1 in a process of its own, to be killed.
pub(crate) const MEMBER: Role = Role {
    name: "member",
    main: |arguments| {
        let bypass = arguments.first().is_some_and(|word| word == "bypass");
        match Member::start_here(1, Outer::udp(), bypass) {
            Ok(_member) => {
                say("ready");
                thread::sleep(Duration::from_secs(600));
                ExitCode::FAILURE
            }
            Err(error) => {
                say(&error.to_string());
                ExitCode::FAILURE
            }
        }
    },
};

/// Starts the member in a process, and kills it.
fn start_and_kill(bed: &Bed, mode: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut process = bed.host.spawn_role(&MEMBER, &[mode], |command| {
        command.stdout(Stdio::piped());
    })?;
    let stdout = process.streams().stdout.take().ok_or("no output")?;
    let mut said = String::new();
    BufReader::new(stdout).read_line(&mut said)?;
    if said.trim() != "ready" {
        return Err(format!("the member does not start: {said}").into());
    }
    meanwhile()?;
    let pid = Pid::from_raw(process.id().try_into()?).ok_or("no process")?;
    kill_process(pid, Signal::KILL)?;
    process.wait(crate::bed::PATIENCE)?;
    // The TUN goes with its process, a moment later.
    wait_for("the link to be gone", || Ok(bed.host.index(LINK).is_err()))
}

pub(crate) fn flapping_link() -> TestResult {
    let bed = Bed::new()?;
    let host = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    bed.assert_reached(UP[1])?;
    let whole = snapshot(&bed.host)?;
    for _ in 0..3 {
        bed.host.down(LINK)?;
        for address in UP.iter().chain(&DOWN) {
            bed.assert_lost(address)?;
        }
        bed.assert_lost(&ula(2).to_string())?;
        bed.host.up(LINK)?;
        // The order in which routes are listed may differ.
        wait_for("routes to be back", || {
            let (rules, routes, ruleset) = snapshot(&bed.host)?;
            let same =
                routes.len() == whole.1.len() && routes.iter().all(|route| whole.1.contains(route));
            Ok(same && rules == whole.0 && ruleset == whole.2)
        })?;
        bed.assert_reached(UP[1])?;
        bed.assert_reached(&ula(2).to_string())?;
    }
    assert_eq!(bed.clear()?, 0, "packets in clear");
    other.close()?;
    host.close()
}

pub(crate) fn removed_by_others() -> TestResult {
    let bed = Bed::new()?;
    let host = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    bed.assert_reached(UP[1])?;
    let whole = snapshot(&bed.host)?;
    let back = || {
        let (rules, routes, ruleset) = snapshot(&bed.host)?;
        let same =
            routes.len() == whole.1.len() && routes.iter().all(|route| whole.1.contains(route));
        Ok(same && rules == whole.0 && ruleset == whole.2)
    };
    // What a firewall's reload begins with.
    for transaction in [
        "flush ruleset",
        "delete table inet ringspan",
        "flush table inet ringspan",
        "delete chain inet ringspan outgoing",
    ] {
        // Again as soon as it is back: whoever is not done with a repair must not miss it.
        for turn in 1..=3 {
            if transaction.starts_with("delete chain") {
                nft(&bed.host, "flush chain inet ringspan outgoing")?;
            }
            // A chain may have been put back between the two.
            let _ = nft(&bed.host, transaction);
            wait_for(&format!("the table after `{transaction}`, {turn}"), back)?;
        }
    }
    let mut netlink = bed.host.run(HostNetlink::open)?;
    for family in Family::ALL {
        let rules = netlink.rules(family)?;
        let rule = rules.iter().find(|rule| rule.priority == 32500);
        netlink.remove_rule(rule.ok_or("no rule")?)?;
        wait_for("the rule", back)?;
        for route in netlink.routes(family, 180)? {
            netlink.remove_route(&route)?;
            wait_for("the route", back)?;
        }
    }
    netlink.remove_address(bed.host.index(LINK)?, format!("{}/64", ula(1)).parse()?)?;
    wait_for("the address", || {
        let mesh = bed
            .host
            .run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))?;
        Ok(mesh.contains("fd123456789abc020000000000000001") && back()?)
    })?;
    bed.assert_reached(UP[1])?;
    other.close()?;
    host.close()
}

pub(crate) fn killed() -> TestResult {
    let bed = Bed::new()?;
    let before = snapshot(&bed.host)?;
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    start_and_kill(&bed, "forced", || bed.assert_reached(UP[1]))?;
    let lost = || -> Result<()> {
        for address in UP.iter().chain(&DOWN) {
            bed.assert_lost(address)?;
        }
        bed.assert_lost(&ula(2).to_string())
    };
    lost()?;
    assert_eq!(bed.clear()?, 0, "packets in clear");

    // Its successor takes over what was left, and takes it back at the end.
    let next = Member::start(&bed.host, 1, Outer::udp(), false)?;
    bed.assert_reached(UP[1])?;
    assert_eq!(bed.clear()?, 0, "packets in clear");
    next.close()?;
    assert_eq!(snapshot(&bed.host)?, before, "something was left behind");

    // One with the bypass does not keep what it would not have set.
    start_and_kill(&bed, "forced", || Ok(()))?;
    let next = Member::start(&bed.host, 1, Outer::udp(), true)?;
    // Its answer comes through the tunnel, from the wrong peer.
    bed.assert_lost(DOWN[1])?;
    assert_eq!(bed.clear()?, 2, "not in clear");
    next.close()?;
    assert_eq!(snapshot(&bed.host)?, before, "something was left behind");
    other.close()
}

pub(crate) fn killed_with_bypass() -> TestResult {
    let bed = Bed::new()?;
    start_and_kill(&bed, "bypass", || Ok(()))?;
    for address in UP.iter().chain(&DOWN) {
        bed.assert_reached(address)?;
    }
    Ok(())
}
