//! Lengths: counted, padded, fragmented.

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
    let counted = |node: &Node| (node.peer().transmit_bytes, node.peer().receive_bytes);
    assert_eq!(counted(&a), (there, back), "{:?}", a.counted());
    assert_eq!(counted(&b), (back, there), "{:?}", b.counted());
    let pings = b.ping(a.inner(6), 5, 100)?;
    assert!(pings.all_answered(), "{pings:?}");
    // 40 + 8 + 100 bytes.
    let pings = 5 * (DATA + 160);
    assert_eq!(counted(&a), (there + pings, back + pings));
    assert_eq!(counted(&b), (back + pings, there + pings));
    Ok(())
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
        let before = a.peer().transmit_bytes;
        let pings = a.ping(b.inner(4), 1, 1269)?;
        assert!(pings.all_answered(), "{pings:?}");
        assert_eq!(a.peer().transmit_bytes - before, DATA + padded, "MTU {mtu}");
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
