//! Traffic of every kind, and what is left when it ends.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use ringspan_tests::harness::TestResult;

use crate::bed::*;

/// Pings, TCP and UDP of both families, inside either outer family.
pub(crate) fn streams_of_both_families(driver: Driver) -> TestResult {
    let (a, b) = strangers(driver)?;
    for outside in [4, 6] {
        a.apply(&[])?;
        b.apply(&[a.spec_at(None)])?;
        // Two initiations within 20 ms are a flood.
        std::thread::sleep(std::time::Duration::from_millis(50));
        a.apply(&[b.spec(outside)])?;
        a.reaches(&b)?;
        b.reaches(&a)?;
        a.carries_by(driver, || {
            for inside in [4, 6] {
                a.streams_to(&b, inside, 1 << 20)?;
            }
            Ok(())
        })?;
        let endpoint = b.peer().endpoint.expect("it has heard of a");
        assert_eq!(endpoint.ip(), a.outer(outside));
    }
    Ok(())
}

/// 4, 5 and 50 streams of TCP at once.
pub(crate) fn streams_at_once(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    a.carries_by(driver, || {
        for (streams, bytes) in [(4, 512 << 10), (5, 512 << 10), (50, 64 << 10)] {
            for family in [4, 6] {
                a.tcp_streams_to(&b, family, bytes, streams)?;
            }
        }
        Ok(())
    })
}

/// The inner MTU of `netns.sh`: packets of 34,816 bytes, in two dozen fragments outside.
pub(crate) fn streams_with_a_huge_mtu(driver: Driver) -> TestResult {
    const MTU: u32 = 34_816;
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    for node in [&a, &b] {
        node.namespace.set_mtu(TUNNEL, MTU)?;
    }
    for (family, headers) in [(4, 28), (6, 48)] {
        let pings = a.ping(b.inner(family), 5, MTU as usize - headers)?;
        assert!(pings.all_answered(), "{pings:?} {:?}", a.counted());
        a.streams_to(&b, family, 2 << 20)?;
    }
    Ok(())
}

/// The time of the last handshake is told, as one of the clock on the wall.
pub(crate) fn handshakes_have_a_time(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    let told = |node: &Node| node.plane.control().device().peers[0].last_handshake;
    for node in [&a, &b] {
        assert_eq!(told(node), None, "there was none yet");
    }
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?;
    a.reaches(&b)?;
    let after = SystemTime::now().duration_since(UNIX_EPOCH)?;
    for node in [&a, &b] {
        let at = told(node).ok_or("no time of a handshake")?;
        // The clock may be set a little between its readings.
        let slack = std::time::Duration::from_millis(100);
        assert!(at + slack >= before && at <= after + slack, "{at:?}");
    }
    Ok(())
}

/// Nodes come, work and go: no thread, descriptor, interface, port or XDP program stays.
pub(crate) fn nothing_is_left(driver: Driver) -> TestResult {
    let (mut left, mut right) = joined()?;
    let mut held = None;
    for _ in 0..4 {
        let (a, b) = (
            Node::start(left, 1, driver, 1)?,
            Node::start(right, 2, driver, 2)?,
        );
        a.apply(&[b.spec(4)])?;
        b.apply(&[a.spec(4)])?;
        a.reaches(&b)?;
        left = a.end(driver)?;
        right = b.end(driver)?;
        // What the process makes once and keeps is there after the first round.
        match held {
            None => held = Some(holds()?),
            Some(first) => wait_for(&format!("no more than {first:?} are held"), || {
                holds().is_ok_and(|now| now.0 <= first.0 && now.1 <= first.1)
            }),
        }
    }
    Ok(())
}

/// Descriptors and threads of this process.
fn holds() -> Fallible<(usize, usize)> {
    let count = |path| fs::read_dir(path).map(Iterator::count);
    Ok((count("/proc/self/fd")?, count("/proc/self/task")?))
}
