//! Whatever comes from the network: no panic, no answer, no change.

use super::*;
use crate::crypto::x25519::tests::low_order_points;
use crate::noise::cookie::{Holder, Macced};
use crate::wire::message::{CookieReply, Initiation, Response};
use proptest::prelude::*;
use zerocopy::FromBytes;

/// Everything about a peer that a datagram could change.
fn fingerprint(node: &Node) -> String {
    let indices = node.mesh.indices.load().len();
    format!(
        "{:?} {indices} {:?} {:?}",
        node.peer,
        node.handshakes.next_tick(),
        node.said.sent
    )
}

fn assert_untouched(node: &mut Node, now: Now, bytes: &[u8]) {
    let before = fingerprint(node);
    let from = endpoint("203.0.113.5:1");
    assert!(node.receive(now, bytes, from).is_err());
    assert_eq!(fingerprint(node), before);
}

/// A node with a session and a handshake under way, and genuine messages that it has not seen.
fn target() -> (Node, Now, [Vec<u8>; 3]) {
    let mut world = World::connected();
    world.pass(secs(130));
    world.a.send_data(world.now, b"data");
    let sent = core::mem::take(&mut world.a.said.sent);
    let initiation = sent.into_iter().find(|flying| flying.kind() == 1).unwrap();
    world
        .b
        .receive(world.now, &initiation.bytes, world.a.address)
        .unwrap();
    let response = world.b.said.sent.pop().unwrap().bytes;
    world.pass(secs(6));
    world.b.handshakes.forget_sessions();
    world.b.want(world.now);
    let theirs = world.b.said.sent.pop().unwrap().bytes;
    let mut cookie = CookieReply::new(0);
    cookie.receiver_index = Initiation::ref_from_bytes(&initiation.bytes)
        .unwrap()
        .sender_index;
    world.a.said = Said::default();
    (
        world.a,
        world.now,
        [theirs, response, cookie.as_bytes().to_vec()],
    )
}

#[test]
fn the_genuine_messages_do_have_an_effect() {
    // Otherwise the tests below would prove nothing.
    let (mut node, now, [initiation, response, _]) = target();
    let from = endpoint("192.0.2.2:51820");
    assert_eq!(node.receive(now, &response, from), Ok(()));
    assert_eq!(node.receive(now, &initiation, from), Ok(()));
    assert_eq!(node.said.sent.len(), 2);
}

#[test]
fn low_order_keys_are_never_answered() {
    let (mut node, now, [initiation, response, _]) = target();
    for point in low_order_points() {
        let mut forged = *Initiation::ref_from_bytes(&initiation).unwrap();
        forged.ephemeral = *point.as_bytes();
        remac(&mut forged);
        assert_untouched(&mut node, now, forged.as_bytes());
        let mut forged = *Response::ref_from_bytes(&response).unwrap();
        forged.ephemeral = *point.as_bytes();
        remac(&mut forged);
        assert_untouched(&mut node, now, forged.as_bytes());
    }
}

/// Sets the MACs that everyone can make who knows the node's public key.
fn remac(message: &mut impl Macced) {
    Holder::new(&public_key(1)).stamp(Instant::from_secs(1), message);
}

#[test]
fn replayed_initiations_and_responses_are_refused() {
    let (mut node, now, [initiation, response, _]) = target();
    let from = endpoint("192.0.2.2:51820");
    node.receive(now, &response, from).unwrap();
    node.receive(now, &initiation, from).unwrap();
    node.said = Said::default();
    assert_untouched(&mut node, now, &response);
    assert_untouched(&mut node, now, &initiation);
    let mut later = now;
    later.monotonic += secs(500);
    assert_untouched(&mut node, later, &initiation);
}

#[test]
fn transport_data_and_huge_datagrams_are_refused() {
    let (mut node, now, messages) = target();
    assert_untouched(&mut node, now, &[4, 0, 0, 0].repeat(8));
    for message in messages {
        let mut huge = message;
        huge.resize(65_535, 0);
        assert_untouched(&mut node, now, &huge);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any single change to a genuine message, with the MACs made right again.
    #[test]
    fn altered_messages_change_nothing(
        which in 0_usize..2,
        at: prop::sample::Index,
        flip in 1_u8..,
        fix_macs: bool,
    ) {
        let (mut node, now, messages) = target();
        let mut bytes = messages[which].clone();
        // The sender's index of an initiation alone is not authenticated (only mac1 covers it).
        let body = 8..bytes.len() - 32;
        let at = body.start + at.index(body.len());
        bytes[at] ^= flip;
        if fix_macs && which == 0 {
            let mut message = *Initiation::ref_from_bytes(&bytes).unwrap();
            remac(&mut message);
            bytes = message.as_bytes().to_vec();
        } else if fix_macs {
            let mut message = *Response::ref_from_bytes(&bytes).unwrap();
            remac(&mut message);
            bytes = message.as_bytes().to_vec();
        }
        assert_untouched(&mut node, now, &bytes);
    }

    #[test]
    fn truncated_and_extended_messages_change_nothing(
        which in 0_usize..3,
        len in 0_usize..400,
    ) {
        let (mut node, now, messages) = target();
        let mut bytes = messages[which].clone();
        prop_assume!(len != bytes.len());
        bytes.resize(len, 0);
        assert_untouched(&mut node, now, &bytes);
    }

    #[test]
    fn random_messages_change_nothing(
        kind in 0_u8..6,
        mut bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 148),
            prop::collection::vec(any::<u8>(), 92),
            prop::collection::vec(any::<u8>(), 64),
            prop::collection::vec(any::<u8>(), 0..2000),
        ],
    ) {
        let (mut node, now, _) = target();
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        assert_untouched(&mut node, now, &bytes);
    }

    /// Random life: whatever is lost, repeated or delayed, two ends that hear each other again
    /// have a session again.
    #[test]
    fn two_ends_always_find_each_other_again(
        events in prop::collection::vec((0_u8..4, 0_u64..200, 0_u32..100), 1..40),
    ) {
        let mut world = World::plain();
        for (what, span, loss) in events {
            match what {
                0 => { world.a.send_data(world.now, b"a"); }
                1 => { world.b.send_data(world.now, b"b"); }
                2 => world.a.want(world.now),
                _ => world.b.handshakes.set_load(span as usize * 10, 4096),
            }
            let mut dice = span as u32;
            world.run_but(Duration::from_millis(span * 100), &mut |_, _| {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                dice >> 16 & 127 >= loss
            });
        }
        world.b.handshakes.set_load(0, 4096);
        world.run(secs(2));
        // Data that finds no answer makes a handshake after 15 s, and that is retried.
        world.a.send_data(world.now, b"a");
        world.b.send_data(world.now, b"b");
        world.run(secs(40));
        prop_assert!(world.exchange());
        prop_assert!(world.a.mesh.indices.load().len() <= 4);
        prop_assert!(world.b.mesh.indices.load().len() <= 4);
    }
}
