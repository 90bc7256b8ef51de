//! How sessions are kept, renewed and lost: all timers at work.

use super::*;
use crate::noise::Role;
use crate::noise::constants::{REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER_MAX};

const MS: Duration = Duration::from_millis(1);

/// Sends from one end every second for `seconds`; how many packets arrived.
fn stream(world: &mut World, by_a: bool, seconds: u64) -> usize {
    world.a.inbox.clear();
    world.b.inbox.clear();
    for _ in 0..seconds {
        let node = if by_a { &mut world.a } else { &mut world.b };
        node.send_data(world.now, b"data");
        world.run(secs(1));
    }
    world.a.inbox.len() + world.b.inbox.len()
}

#[test]
fn a_lost_message_is_made_up_for_by_a_retry() {
    for (by_a, kind) in [(true, 1), (false, 2)] {
        let mut world = World::plain();
        world.a.want(world.now);
        let mut lost = 0;
        world.run_but(secs(4), &mut |from_a, flying| {
            let lose = (from_a, flying.kind()) == (by_a, kind);
            lost += usize::from(lose);
            !lose
        });
        assert_eq!(lost, 1, "no retry before its time");
        assert!(!world.has_session());
        world.run(secs(2));
        assert!(world.has_session() && world.exchange());
    }
}

#[test]
fn retries_are_spaced_fresh_and_end() {
    let mut world = World::plain();
    world.a.peer.set_endpoint(Endpoint {
        local: Some("10.0.0.7".parse().unwrap()),
        interface: 3,
        ..world.b.address
    });
    world.a.want(world.now);
    let mut times = Vec::new();
    let start = world.now.monotonic;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..130 * 20 {
        world.a.tick(world.now);
        for initiation in world.a.said.sent.drain(..) {
            times.push(world.now.monotonic);
            assert!(
                seen.insert(initiation.bytes[8..40].to_vec()),
                "a new ephemeral key"
            );
            assert!(seen.insert(initiation.bytes[4..8].to_vec()), "a new index");
            let sticky = initiation.to.local.is_some();
            assert_eq!(
                sticky,
                times.len() == 1,
                "the source address is forgotten on retry"
            );
        }
        world.pass(50 * MS);
    }
    assert_eq!(times.len(), 20, "the first, and the kernel's 19 retries");
    for pair in times.windows(2) {
        let gap = pair[1].since(pair[0]);
        assert!(gap >= REKEY_TIMEOUT && gap <= REKEY_TIMEOUT + REKEY_TIMEOUT_JITTER_MAX + 50 * MS);
    }
    let gaps: std::collections::BTreeSet<_> = times
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    assert!(gaps.len() > 2, "jitter");
    assert!(times[19].since(start) < secs(110));
    assert_eq!(world.a.said.failed, 1);
    assert!(!world.a.peer.marks.handshake_is_wanted());
    // Only the last index is left, and that not for ever.
    assert_eq!(world.a.mesh.indices.load().len(), 1);
    world.run_but(secs(541), &mut |_, _| false);
    assert_eq!(world.a.mesh.indices.load().len(), 0);
    assert_eq!(world.a.said.failed, 1);
}

#[test]
fn whoever_goes_on_asking_is_never_given_up() {
    let mut world = World::plain();
    for _ in 0..200 {
        world.a.send_data(world.now, b"data");
        world.run_but(secs(1), &mut |_, _| false);
    }
    assert_eq!(world.a.said.failed, 0);
}

#[test]
fn only_the_initiator_renews_at_120_seconds() {
    let mut world = World::connected();
    let first = world.a.current().unwrap();
    stream(&mut world, false, 119);
    assert_eq!(world.count(true, 1), 0);
    world.log.clear();
    stream(&mut world, true, 5);
    assert_eq!((world.count(true, 1), world.count(false, 1)), (1, 0));
    assert!(world.has_session());
    let second = world.a.current().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(second.role(), Role::Initiator);
}

#[test]
fn a_long_stream_loses_nothing_and_renews_just_in_time() {
    for by_a in [true, false] {
        let mut world = World::connected();
        assert_eq!(stream(&mut world, by_a, 1000), 1000, "sent by a: {by_a}");
        let (by_a_renewals, by_b_renewals) = (world.count(true, 1), world.count(false, 1));
        assert_eq!(by_b_renewals, 0, "b is the responder");
        // The initiator sends at least keepalives, so it is sending that renews.
        assert_eq!(by_a_renewals, 1000 / 120, "sent by a: {by_a}");
        // At most three sessions are alive, and their indices with them.
        assert!(world.a.mesh.indices.load().len() <= 2);
        assert!(world.b.mesh.indices.load().len() <= 2);
    }
}

#[test]
fn two_talkative_ends_that_start_at_once_make_no_needless_handshake() {
    let config = || PeerConfig {
        persistent_keepalive: NonZeroU16::new(1),
        ..PeerConfig::default()
    };
    let mut world = World::new(config(), config());
    world.run(MS);
    assert!(world.has_session());
    for _ in 0..1000 {
        assert!(world.a.send_data(world.now, b"data"));
        assert!(world.b.send_data(world.now, b"data"));
        world.run(secs(1));
    }
    assert_eq!((world.a.inbox.len(), world.b.inbox.len()), (1000, 1000));
    // The two that crossed, and one in 120 s.
    let (a, b) = (world.count(true, 1), world.count(false, 1));
    assert_eq!(a + b, 2 + 1000 / 120, "{a} by a, {b} by b");
    assert_eq!(world.count(true, 2) + world.count(false, 2), a + b);
}

#[test]
fn an_initiator_that_only_receives_renews_at_165_seconds() {
    for (at, renewals) in [(164, 0), (165, 1)] {
        let mut world = World::connected();
        let made = world.a.current().unwrap().established();
        let idle = (made + secs(at)).since(world.now.monotonic);
        world.run(idle);
        assert!(world.log.is_empty());
        world.b.send_data(world.now, b"late");
        world.run(secs(2));
        assert_eq!((world.count(true, 1), world.count(false, 1)), (renewals, 0));
        // Once a session, even if nothing comes of it: the responder's data does not repeat it.
        assert!(world.exchange());
    }
}

#[test]
fn an_idle_session_expires_and_is_wiped() {
    let mut world = World::connected();
    world.run(secs(179));
    assert!(world.log.is_empty(), "idle is silent");
    assert!(!world.a.current().unwrap().is_expired(world.now.monotonic));
    world.run(secs(1));
    assert!(world.a.current().unwrap().is_expired(world.now.monotonic));
    let weak = [&world.a, &world.b].map(|node| Arc::downgrade(&node.current().unwrap()));
    world.run(secs(359));
    assert!(weak.iter().all(|session| session.upgrade().is_some()));
    world.run(secs(2));
    assert!(
        weak.iter().all(|session| session.upgrade().is_none()),
        "keys are wiped at 540 s"
    );
    assert!(world.a.mesh.indices.load().is_empty() && world.b.mesh.indices.load().is_empty());
    assert!(world.log.is_empty());
    // And all begins anew.
    world.a.send_data(world.now, b"wake");
    world.settle();
    assert!(world.exchange());
}

#[test]
fn received_data_is_acknowledged_once_after_ten_seconds() {
    let mut world = World::connected();
    world.b.send_data(world.now, b"hello");
    world.run(secs(10) - MS);
    assert_eq!(world.count(true, 4), 0);
    world.run(2 * MS);
    assert_eq!(world.count(true, 4), 1);
    // Neither the keepalive nor its absence causes anything further (no ping-pong).
    world.run(secs(60));
    assert_eq!((world.count(true, 4), world.count(false, 4)), (1, 1));
    assert_eq!(world.count(true, 1) + world.count(false, 1), 0);
}

#[test]
fn more_data_while_a_keepalive_is_due_makes_another() {
    let mut world = World::connected();
    world.b.send_data(world.now, b"one");
    world.run(secs(5));
    world.b.send_data(world.now, b"two");
    world.run(secs(40));
    assert_eq!(world.count(true, 4), 2, "at 10 s and at 20 s");
}

#[test]
fn silence_after_data_makes_a_new_handshake() {
    let mut world = World::connected();
    world.a.send_data(world.now, b"anyone?");
    let deaf = &mut |by_a: bool, _: &Flying| by_a;
    // b hears and acknowledges at 10 s, but nothing of it arrives.
    world.run_but(secs(15) - MS, deaf);
    assert_eq!(world.count(true, 1), 0);
    world.run_but(REKEY_TIMEOUT_JITTER_MAX + 2 * MS, deaf);
    assert_eq!(world.count(true, 1), 1);
    world.run(secs(6));
    assert!(world.has_session() && world.exchange());
}

#[test]
fn persistent_keepalive_opens_and_holds_the_way() {
    let config = PeerConfig {
        persistent_keepalive: NonZeroU16::new(25),
        ..PeerConfig::default()
    };
    let mut world = World::new(config, PeerConfig::default());
    world.run(MS);
    assert!(world.has_session(), "without any traffic");
    world.log.clear();
    world.run(secs(100));
    assert_eq!(world.count(true, 4), 4, "one in 25 s");
    assert_eq!(world.count(false, 4), 0, "and no answer");
    // It renews its sessions by itself, for good.
    world.run(secs(900));
    assert!(world.has_session() && world.exchange());
    let key = public_key(2);
    assert!(world.a.handshakes.set_persistent_keepalive(&key, None));
    world.run(secs(20));
    world.log.clear();
    world.run(secs(100));
    assert!(world.log.is_empty());
}

#[test]
fn persistent_keepalive_survives_a_dead_peer() {
    let config = PeerConfig {
        persistent_keepalive: NonZeroU16::new(25),
        ..PeerConfig::default()
    };
    let mut world = World::new(config, PeerConfig::default());
    world.run_but(secs(1000), &mut |_, _| false);
    assert!(!world.has_session());
    world.run(secs(31));
    assert!(world.has_session(), "still trying after all attempts");
}

#[test]
fn a_restarted_peer_is_found_again() {
    let mut world = World::connected();
    let address = world.b.address;
    world.b = Node::new(2, 1, PeerConfig::default());
    world.b.address = address;
    world.pass(secs(10));
    world.a.send_data(world.now, b"lost");
    world.run(secs(16));
    assert!(world.has_session() && world.exchange());
}

#[test]
fn a_wish_lost_in_the_queue_is_found() {
    let mut world = World::plain();
    world.run(secs(3));
    assert!(world.a.peer.marks.want_handshake()); // and nobody calls `request`
    world.run(secs(2));
    assert!(world.has_session());
    assert!(!world.a.peer.marks.handshake_is_wanted());
}

#[test]
fn a_clock_that_goes_back_does_not_lock_the_peer_out() {
    let mut world = World::connected();
    world.pass(secs(200));
    world.now.unix -= secs(100_000);
    world.a.send_data(world.now, b"data");
    world.settle();
    assert!(world.has_session() && world.exchange());
}
