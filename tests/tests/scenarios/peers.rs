//! Who is a peer, and with which key.

use std::time::Duration;

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use netlink_sys::{Socket, SocketAddr};
use ringspan::control::PeerSpec;
use ringspan::crypto::PublicKey;
use ringspan_tests::harness::TestResult;

use crate::bed::*;

/// An address is believed of the peer that owns it by the longest prefix, and of no other.
pub(crate) fn a_source_needs_the_longest_prefix(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let mut wide = a.spec(4);
    wide.allowed_ips = vec!["10.7.0.0/24".parse()?, "fd07::/64".parse()?];
    let other = PeerSpec {
        allowed_ips: vec![a.inner(4).into(), a.inner(6).into()],
        ..PeerSpec::new(PublicKey::from([9; 32]))
    };
    b.apply(&[wide.clone(), other])?;
    for family in [4, 6] {
        a.is_ignored_by(b.inner(family))?;
    }
    wait_for("b refuses six packets", || b.counter("wrong_source") >= 6);
    b.apply(&[wide])?;
    a.reaches(&b)
}

/// A node comes back with another key: its peer is told, and the next packet arrives.
pub(crate) fn a_new_key_carries_traffic(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let Node {
        namespace, plane, ..
    } = a;
    plane.shutdown()?;
    let a = Node::start(namespace, 1, driver, 77)?;
    a.apply(&[b.spec(4)])?;
    a.is_ignored_by(b.inner(4))?;
    assert!(b.counter("unknown_peer") >= 1, "{:?}", b.counted());
    b.apply(&[a.spec(4)])?;
    b.reaches(&a)?;
    a.reaches(&b)
}

/// The points of low order that `netns.sh` tries; the first bytes in hexadecimal, the middle
/// repeated, the last one.
fn low_order_points() -> [PublicKey; 7] {
    let of = |first: &[u8], middle: u8, last: u8| {
        let mut point = [middle; 32];
        point[..first.len()].copy_from_slice(first);
        point[31] = last;
        PublicKey::from(point)
    };
    let e0 = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8,
    ];
    let f5 = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11,
    ];
    [
        of(&[0], 0, 0),
        of(&[1], 0, 0),
        of(&e0, 0, 0),
        of(&f5, 0, 0x57),
        of(&[0xec], 0xff, 0x7f),
        of(&[0xed], 0xff, 0x7f),
        of(&[0xee], 0xff, 0x7f),
    ]
}

/// A key with which no secret can be made causes nothing to be sent, whatever is sent to it.
pub(crate) fn low_order_points_never_send(driver: Driver) -> TestResult {
    let (a, b) = strangers(driver)?;
    for key in low_order_points() {
        let spec = PeerSpec {
            public_key: key,
            persistent_keepalive: std::num::NonZeroU16::new(1),
            ..b.spec(4)
        };
        let applied = a.plane.control().apply(&[spec])?;
        assert_eq!((applied.added, applied.rejected.len()), (0, 1), "{key}");
        a.is_ignored_by(b.inner(4))?;
    }
    assert_eq!(a.counter("initiations_sent"), 0);
    assert_eq!(b.counter("datagrams"), 0, "{:?}", b.counted());
    // The way itself is good.
    a.apply(&[b.spec(4)])?;
    b.apply(&[a.spec(4)])?;
    a.reaches(&b)
}

/// The kernel says that this machine has a new generation id: it is a copy. All sessions end, and
/// new ones are made.
pub(crate) fn keys_are_forgotten_when_cloned(driver: Driver) -> TestResult {
    let (a, b) = nodes(driver)?;
    a.reaches(&b)?;
    let before = a.counter("initiations_sent") + a.counter("responses_sent");
    // In a's namespace alone, and by the kernel: it forwards what a privileged process gives it.
    a.namespace.run(announce_new_generation)?;
    wait_for("a forgets", || a.counter("interruptions") == 1);
    assert_eq!(b.counter("interruptions"), 0);
    // Initiations to a peer are five seconds apart, and so far b may still use the old session.
    wait_for("a has another session", || {
        a.knock(b.inner(4));
        a.counter("initiations_sent") + a.counter("responses_sent") > before
    });
    std::thread::sleep(Duration::from_millis(100));
    a.reaches(&b)?;
    b.reaches(&a)
}

fn announce_new_generation() -> std::io::Result<()> {
    const HEADER: usize = 16;
    let event = b"change@/devices/virtual/test\0ACTION=change\0DEVPATH=/devices/virtual/test\0NEW_VMGENID=1\0";
    let mut message = Vec::new();
    message.extend(((HEADER + event.len()) as u32).to_ne_bytes());
    // Type beyond the control messages; a request.
    message.extend(0x10_u16.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(event);
    let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.bind_auto()?;
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    Ok(())
}
