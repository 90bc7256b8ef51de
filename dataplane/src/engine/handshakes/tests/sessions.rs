//! How sessions come to be, and with whom.

use super::*;
use crate::noise::Role;
use crate::noise::constants::HANDSHAKE_TOS;

fn with_psk(psk: u8) -> PeerConfig {
    PeerConfig {
        preshared_key: [psk; 32].into(),
        ..PeerConfig::default()
    }
}

#[test]
fn one_handshake_makes_one_session_for_both() {
    let mut world = World::plain();
    assert!(!world.a.send_data(world.now, b"first"), "no session yet");
    let initiation = &world.a.said.sent[0];
    assert_eq!((initiation.kind(), initiation.tos), (1, HANDSHAKE_TOS));
    world.settle();
    // Initiation, response, and the empty packet that confirms.
    assert_eq!(world.log, [(true, 1), (false, 2), (true, 4)]);
    assert_eq!((world.a.said.ready, world.b.said.ready), (1, 0));
    assert!(world.has_session() && world.exchange());
    assert_eq!(world.a.current().unwrap().role(), Role::Initiator);
    assert_eq!(world.b.current().unwrap().role(), Role::Responder);
    assert!(world.a.peer.last_handshake.load().is_some());
    assert!(world.b.peer.last_handshake.load().is_some());
    // Totals: what was sent by one was received by the other.
    assert_eq!(world.a.peer.counters.tx_bytes(), 148 + 32);
    assert_eq!(world.a.peer.counters.rx_bytes(), 92);
    assert_eq!(world.b.peer.counters.tx_bytes(), 92);
}

#[test]
fn responder_sends_nothing_before_it_is_confirmed() {
    let mut world = World::plain();
    world.a.want(world.now);
    world.settle_but(&mut |by_a, flying| !(by_a && flying.kind() == 4));
    assert!(world.b.current().is_none());
    assert!(world.b.peer.sessions.load().next.is_some());
    assert!(world.exchange(), "a's first packet confirms");
}

#[test]
fn preshared_keys_must_match() {
    for (a, b, works) in [(0, 0, true), (7, 7, true), (7, 8, false), (0, 7, false)] {
        let mut world = World::new(with_psk(a), with_psk(b));
        world.a.want(world.now);
        world.settle();
        assert_eq!(world.has_session(), works, "{a} against {b}");
        assert_eq!(world.a.current().is_some(), works);
    }
}

#[test]
fn a_changed_preshared_key_is_used_at_once() {
    let mut world = World::new(with_psk(1), with_psk(2));
    let (a, b) = (public_key(1), public_key(2));
    world.a.want(world.now);
    // Changed while the initiation is under way.
    assert!(world.a.handshakes.set_preshared_key(&b, [3; 32].into()));
    assert!(world.b.handshakes.set_preshared_key(&a, [3; 32].into()));
    assert!(!world.b.handshakes.set_preshared_key(&b, [3; 32].into()));
    world.settle();
    assert!(world.has_session());
}

#[test]
fn both_ends_may_initiate_at_once() {
    for b_first in [false, true] {
        let mut world = World::plain();
        world.a.want(world.now);
        world.b.want(world.now);
        if b_first {
            core::mem::swap(&mut world.a, &mut world.b);
        }
        world.settle();
        assert!(world.has_session(), "at once, not after a retransmission");
        assert!(world.exchange());
        let roles = [&world.a, &world.b].map(|node| node.current().unwrap().role());
        assert_ne!(roles[0], roles[1], "one of them renews it");
        world.log.clear();
        world.run(secs(30));
        let handshakes = world.log.iter().filter(|(_, kind)| *kind < 4).count();
        assert_eq!(handshakes, 0, "nothing is left to retry");
    }
}

#[test]
fn initiations_that_cross_with_one_lost_still_end_in_one_session() {
    for (lose_from_a, kind) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
        let mut world = World::plain();
        world.a.want(world.now);
        world.b.want(world.now);
        let mut lost = false;
        let mut keep = |by_a: bool, flying: &Flying| {
            let lose = !lost && by_a == lose_from_a && flying.kind() == kind;
            lost |= lose;
            !lose
        };
        world.run_but(secs(12), &mut keep);
        assert!(
            world.has_session() && world.exchange(),
            "{lose_from_a} {kind}"
        );
    }
}

#[test]
fn endpoint_follows_authenticated_handshakes_alone() {
    let mut world = World::plain();
    world.a.want(world.now);
    let initiation = world.a.said.sent[0].bytes.clone();
    let roamed = endpoint("198.51.100.9:4000");

    let mut forged = initiation.clone();
    forged[100] ^= 1;
    assert_eq!(
        world.b.receive(world.now, &forged, roamed),
        Err(Refusal::Mac1)
    );
    assert_eq!(world.b.peer.endpoint(), Some(world.a.address));

    world.b.receive(world.now, &initiation, roamed).unwrap();
    assert_eq!(world.b.peer.endpoint(), Some(roamed));
    assert_eq!(
        world.b.said.sent[0].to, roamed,
        "the response goes there too"
    );

    // A replay from elsewhere moves nothing.
    let elsewhere = endpoint("203.0.113.5:1");
    assert_eq!(
        world.b.receive(world.now, &initiation, elsewhere),
        Err(Refusal::Replay)
    );
    assert_eq!(world.b.peer.endpoint(), Some(roamed));

    let response = world.b.said.sent[0].bytes.clone();
    world.a.receive(world.now, &response, roamed).unwrap();
    assert_eq!(world.a.peer.endpoint(), Some(roamed));
}

#[test]
fn source_address_is_kept_with_the_endpoint() {
    let mut world = World::plain();
    world.a.want(world.now);
    let initiation = world.a.said.sent[0].bytes.clone();
    let from = Endpoint {
        local: Some("10.0.0.7".parse().unwrap()),
        interface: 3,
        ..world.a.address
    };
    world.b.receive(world.now, &initiation, from).unwrap();
    assert_eq!(world.b.said.sent[0].to, from);
}

#[test]
fn strangers_and_own_key_are_refused() {
    let mut world = World::plain();
    let mut stranger = Node::new(3, 2, PeerConfig::default());
    stranger.want(world.now);
    let initiation = stranger.said.sent[0].bytes.clone();
    let refused = world.b.receive(world.now, &initiation, stranger.address);
    assert_eq!(refused, Err(Refusal::UnknownPeer));
    assert!(world.b.said.sent.is_empty(), "and not answered");

    let itself = Arc::new(Peer::new(public_key(1)));
    let added = world.a.handshakes.add_peer(itself, PeerConfig::default());
    assert_eq!(added, Err(AddPeerError::OwnKey(public_key(1))));
    let again = Arc::new(Peer::new(public_key(2)));
    let added = world.a.handshakes.add_peer(again, PeerConfig::default());
    assert_eq!(added, Err(AddPeerError::Exists(public_key(2))));
    let zero = Arc::new(Peer::new([0; 32].into()));
    let added = world.a.handshakes.add_peer(zero, PeerConfig::default());
    assert!(matches!(added, Err(AddPeerError::UnusableKey { .. })));
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut world = World::connected();
    world.pass(secs(150));
    world.a.want(world.now); // a handshake under way as well
    assert_eq!(world.a.mesh.indices.load().len(), 2);
    let peer = Arc::clone(&world.a.peer);
    assert!(world.a.handshakes.remove_peer(peer.public_key()));
    assert!(!world.a.handshakes.remove_peer(peer.public_key()));
    assert!(world.a.mesh.indices.load().is_empty());
    assert!(peer.sessions.load().current.is_none());
    world.a.said.sent.clear();
    world.run(secs(30));
    assert_eq!(world.count(true, 1) + world.count(true, 4), 0);
}

#[test]
fn a_new_private_key_ends_sending_but_not_receiving() {
    let mut world = World::connected();
    assert!(world.exchange());
    let removed = world.a.handshakes.set_private_key(&private_key(9)).unwrap();
    assert!(removed.is_none());
    assert_eq!(world.a.handshakes.public_key(), &public_key(9));
    assert!(world.a.current().is_none());
    assert!(world.b.send_data(world.now, b"late"));
    world.settle();
    assert_eq!(world.a.inbox.last().unwrap(), b"late");
    // b learns the new key: a session comes about again.
    let peer = Arc::new(Peer::new(public_key(9)));
    peer.set_endpoint(world.a.address);
    world.b.handshakes.remove_peer(&public_key(1));
    world
        .b
        .handshakes
        .add_peer(Arc::clone(&peer), PeerConfig::default())
        .unwrap();
    world.b.peer = peer;
    world.a.want(world.now);
    world.settle();
    assert!(world.has_session());
    assert!(world.exchange());
}

#[test]
fn a_peer_that_becomes_this_node_is_removed() {
    let mut world = World::plain();
    let removed = world.a.handshakes.set_private_key(&private_key(2)).unwrap();
    assert_eq!(removed.unwrap().public_key(), &public_key(2));
    world.a.want(world.now);
    assert!(world.a.said.sent.is_empty());
}

#[test]
fn after_suspend_everything_is_made_anew() {
    let mut world = World::connected();
    world.a.handshakes.forget_sessions();
    assert!(world.a.current().is_none());
    assert!(world.a.mesh.indices.load().is_empty());
    world.a.send_data(world.now, b"again");
    assert_eq!(
        world.a.said.sent.len(),
        1,
        "without waiting for the last handshake's pause"
    );
    world.pass(Duration::from_millis(20));
    world.settle();
    assert!(world.has_session() && world.exchange());
}

#[test]
fn without_an_endpoint_nothing_is_tried() {
    let mut world = World::plain();
    let mute = Arc::new(Peer::new(public_key(5)));
    let config = PeerConfig {
        persistent_keepalive: NonZeroU16::new(5),
        ..PeerConfig::default()
    };
    world
        .a
        .handshakes
        .add_peer(Arc::clone(&mute), config)
        .unwrap();
    assert!(mute.marks.want_handshake());
    world.run(secs(30));
    assert_eq!(world.a.mesh.indices.load().len(), 0);
    assert!(!mute.marks.handshake_is_wanted(), "workers may ask again");
    mute.set_endpoint(endpoint("192.0.2.5:1"));
    world.run(secs(5));
    assert_eq!(world.a.mesh.indices.load().len(), 1);
}

#[test]
fn a_renewal_is_made_whatever_there_is() {
    let mut world = World::connected();
    world.pass(secs(1));
    let first = world.a.current().unwrap();
    let key = public_key(2);
    let said = &mut world.a.said;
    world
        .a
        .handshakes
        .renew(world.now, &key, &mut |output| said.hear(&output));
    assert!(
        world.a.said.sent.is_empty(),
        "not sooner than 5 s after the last initiation"
    );
    world.run(secs(3));
    assert!(world.log.is_empty());
    world.run(secs(2));
    assert_eq!(world.count(true, 1), 1);
    assert!(!Arc::ptr_eq(&first, &world.a.current().unwrap()));
    assert!(world.exchange());
}

#[test]
fn it_can_be_given_to_a_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Handshakes>();
}
