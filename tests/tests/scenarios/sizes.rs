//! Lengths: counted, padded, fragmented.

use std::cell::Cell;

use ringspan_tests::harness::TestResult;

use crate::bed::*;

/// An initiation, a response, and transport data with its header and tag.
const INITIATION: u64 = 148;
const RESPONSE: u64 = 92;
const DATA: u64 = 32;

/// Every byte of every datagram is counted, on both ends alike, and nothing else is.
pub(crate) fn bytes_are_counted_exactly(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    let pings = a.ping(b.inner(4), 1, 56)?;
    assert!(pings.all_answered(), "{pings:?}");
    // 20 + 8 + 56 bytes, padded to a multiple of 16.
    let ping = DATA + 96;
    // The initiator confirms the session by an empty packet of its own.
    let (there, back) = (INITIATION + DATA + ping, RESPONSE + ping);
    // A datagram is counted just after it was sent: its answer may be there before.
    counts(&a, there, back);
    counts(&b, back, there);
    let pings = b.ping(a.inner(6), 5, 100)?;
    assert!(pings.all_answered(), "{pings:?}");
    // 40 + 8 + 100 bytes.
    let pings = 5 * (DATA + 160);
    counts(&a, there + pings, back + pings);
    counts(&b, back + pings, there + pings);
    Ok(())
}

fn counts(node: &Node, sent: u64, received: u64) {
    let counted = || (node.peer().transmit_bytes, node.peer().receive_bytes);
    let last = Cell::new(counted());
    let what = format!("{sent} bytes sent and {received} received are counted");
    wait_for(&what, || {
        last.set(counted());
        assert!(
            last.get().0 <= sent && last.get().1 <= received,
            "{what}: {last:?}"
        );
        last.get() == (sent, received)
    });
}

/// The MTU is changed while the node runs. Padding goes up to it and not beyond: a packet of 1297
/// bytes makes a datagram of 1331, where a multiple of 16 would make one of 1344.
pub(crate) fn padding_follows_the_mtu(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    for (mtu, padded) in [(1299, 1299), (1300, 1300), (1500, 1312)] {
        for node in [&a, &b] {
            node.namespace.set_mtu(TUNNEL, mtu)?;
        }
        // Workers ask four times a second.
        std::thread::sleep(std::time::Duration::from_millis(400));
        let (sent, received) = (a.peer().transmit_bytes, a.peer().receive_bytes);
        let pings = a.ping(b.inner(4), 1, 1269)?;
        assert!(pings.all_answered(), "{pings:?}");
        counts(&a, sent + DATA + padded, received + DATA + padded);
    }
    Ok(())
}

/// The inner MTU is raised beyond what the outer path carries in one piece: the kernel fragments
/// the datagrams, nothing is lost.
pub(crate) fn packets_longer_than_the_path(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    for node in [&a, &b] {
        node.namespace.set_mtu(TUNNEL, 9000)?;
    }
    std::thread::sleep(std::time::Duration::from_millis(400));
    for (family, size) in [(4, 2000), (6, 2000), (4, 8900), (6, 8900)] {
        let pings = a.ping(b.inner(family), 3, size)?;
        assert!(
            pings.all_answered(),
            "{size} bytes: {pings:?} {:?}",
            a.counted()
        );
    }
    Ok(())
}
