//! Under load: cookies, shares, floods.

use super::*;
use crate::noise::constants::UNDER_LOAD_FOR;

fn under_load(node: &mut Node) {
    node.handshakes.set_load(512, 4096);
}

#[test]
fn an_eighth_of_the_queue_is_load_for_a_second() {
    let mut world = World::plain();
    world.b.handshakes.set_load(511, 4096);
    let admitted = |world: &mut World| {
        world.a.handshakes.forget_sessions();
        world.a.want(world.now);
        let initiation = world.a.said.sent.pop().unwrap();
        let answer = world
            .b
            .receive(world.now, &initiation.bytes, world.a.address);
        world.pass(Duration::from_millis(100));
        answer
    };
    assert_eq!(admitted(&mut world), Ok(()));
    under_load(&mut world.b);
    assert_eq!(admitted(&mut world), Err(Refusal::CookieSent));
    world.b.handshakes.set_load(0, 4096);
    assert_eq!(admitted(&mut world), Err(Refusal::CookieSent), "sticky");
    world.pass(UNDER_LOAD_FOR);
    assert_eq!(admitted(&mut world), Ok(()));
}

#[test]
fn a_cookie_is_fetched_understood_and_used() {
    let mut world = World::plain();
    under_load(&mut world.b);
    world.a.want(world.now);
    world.settle();
    assert_eq!(world.log, [(true, 1), (false, 3)]);
    assert!(!world.has_session());
    // The next try bears the cookie; b is still under load.
    world.run(secs(6));
    assert_eq!(world.log[2..], [(true, 1), (false, 2), (true, 4)]);
    assert!(world.has_session() && world.exchange());
    let a = world.a.handshakes.statistics();
    assert_eq!((a.initiations_sent, a.cookies_accepted), (2, 1));
    assert_eq!((a.responses_accepted, a.keepalives_sent), (1, 1));
    let b = world.b.handshakes.statistics();
    assert_eq!((b.cookies_sent, b.initiations_accepted), (1, 1));
    assert_eq!(b.cookies_proved, 1);
}

#[test]
fn an_initiator_under_load_asks_for_a_cookie_too() {
    let mut world = World::plain();
    under_load(&mut world.a);
    world.a.want(world.now);
    world.settle();
    assert_eq!(world.log, [(true, 1), (false, 2), (true, 3)]);
    world.run(secs(6));
    assert!(world.has_session(), "the next response bears the cookie");
}

#[test]
fn a_cookie_reply_changes_neither_endpoint_nor_timers() {
    let mut world = World::plain();
    under_load(&mut world.b);
    world.a.want(world.now);
    let initiation = world.a.said.sent.pop().unwrap();
    let _ = world
        .b
        .receive(world.now, &initiation.bytes, world.a.address);
    let reply = world.b.said.sent.pop().unwrap();
    assert_eq!((reply.kind(), reply.tos, reply.bytes.len()), (3, 0, 64));
    let deadline = world.a.handshakes.next_tick();
    let elsewhere = endpoint("203.0.113.5:1");
    world.a.receive(world.now, &reply.bytes, elsewhere).unwrap();
    assert_eq!(world.a.peer.endpoint(), Some(world.b.address));
    assert_eq!(world.a.handshakes.next_tick(), deadline);
    assert_eq!(world.a.peer.marks.last_received.load(), None);
    // Its replay is nothing.
    let again = world.a.receive(world.now, &reply.bytes, elsewhere);
    assert_eq!(again, Err(Refusal::Cookie));
}

#[test]
fn wrong_mac1_is_never_answered_even_under_load() {
    let mut world = World::plain();
    under_load(&mut world.b);
    world.a.want(world.now);
    let mut initiation = world.a.said.sent.pop().unwrap().bytes;
    initiation[116] ^= 1;
    let answer = world.b.receive(world.now, &initiation, world.a.address);
    assert_eq!(answer, Err(Refusal::Mac1));
    assert!(world.b.said.sent.is_empty());
}

#[test]
fn one_busy_source_is_asked_for_a_cookie_and_the_others_are_not() {
    let mut world = World::plain();
    world.a.want(world.now);
    let initiation = world.a.said.sent.pop().unwrap();
    let flooder = endpoint("203.0.113.66:666");
    let mut sent = 0;
    for _ in 0..1000 {
        // Made for b, but by nobody it knows: costs b an agreement each.
        let answer = world.b.receive(world.now, &garbage_for_b(), flooder);
        sent += usize::from(answer == Err(Refusal::CookieSent));
        world.pass(Duration::from_micros(100));
    }
    assert!((700..=750).contains(&sent), "{sent}");
    world.b.said.sent.clear();
    let answer = world
        .b
        .receive(world.now, &initiation.bytes, world.a.address);
    assert_eq!(answer, Ok(()), "another source goes on as ever");
}

/// An initiation with a right mac1 and nothing else right.
fn garbage_for_b() -> Vec<u8> {
    use crate::noise::cookie::Holder;
    use crate::wire::message::Initiation;
    let mut message = Initiation::new(1);
    message.ephemeral = [9; 32];
    Holder::new(&public_key(2)).stamp(Instant::from_secs(1), &mut message);
    message.as_bytes().to_vec()
}

#[test]
fn a_proved_source_under_load_has_its_share() {
    let mut world = World::plain();
    under_load(&mut world.b);
    world.a.want(world.now);
    world.settle(); // a has a cookie now
    let mut answers = Vec::new();
    for _ in 0..8 {
        world.pass(Duration::from_millis(21));
        world.a.handshakes.forget_sessions();
        world.a.want(world.now);
        let initiation = world.a.said.sent.pop().unwrap();
        answers.push(
            world
                .b
                .receive(world.now, &initiation.bytes, world.a.address),
        );
    }
    // Five at once, and 20 a second: 168 ms give three more at most.
    assert_eq!(answers[..5], [Ok(()); 5]);
    let limited = answers
        .iter()
        .filter(|answer| **answer == Err(Refusal::RateLimited));
    assert!((1..=2).contains(&limited.count()), "{answers:?}");
}

#[test]
fn a_peer_may_initiate_fifty_times_a_second() {
    let mut world = World::plain();
    let (mut accepted, mut flooded) = (0, 0);
    for _ in 0..500 {
        world.a.handshakes.forget_sessions();
        world.a.want(world.now);
        let initiation = world.a.said.sent.pop().unwrap();
        match world
            .b
            .receive(world.now, &initiation.bytes, world.a.address)
        {
            Ok(()) => accepted += 1,
            Err(Refusal::Flood) => flooded += 1,
            other => panic!("{other:?}"),
        }
        world.b.said.sent.clear();
        world.pass(Duration::from_millis(4));
    }
    assert_eq!((accepted, flooded), (100, 400), "in two seconds");
    let statistics = world.b.handshakes.statistics();
    assert_eq!(statistics.initiations_accepted, accepted);
    assert_eq!(statistics.responses_sent, accepted);
    assert_eq!(statistics.flooded, flooded);
}
