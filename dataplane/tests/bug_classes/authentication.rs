//! What may happen before, and because of, a verified tag.

use std::thread;
use std::time::Duration;

use ringspan::crypto::{PresharedKey, PublicKey};
use ringspan::engine::Refusal;
use ringspan::engine::port::{Datagram, Ecn};
use ringspan::noise::ReplayWindow;
use ringspan::noise::constants::REJECT_AFTER_MESSAGES;
use ringspan::noise::cookie::Holder;
use ringspan::wire::message::{Initiation, Response};

use zerocopy::{FromBytes, IntoBytes};

use crate::node::*;

/// Class 3. Messages were sealed and opened beyond the last counter that a key may have (gotatun
/// before 0.7.2; no limit was found in boringtun and NepTUN). Here a counter is reserved from the
/// session, which has none to give beyond the limit, and refused on receipt before the AEAD runs.
#[test]
fn class_03_nonce_limit_on_send_and_receive() {
    let mut pair = Pair::connected();
    let session = pair.b_of_a.sessions.load().current.clone().unwrap();
    let next = session.reserve_counters(1).unwrap();
    session
        .reserve_counters(REJECT_AFTER_MESSAGES - next - 2)
        .unwrap();
    pair.a.seal(pair.now, &[a_to_b(1)]);
    let last = pair.a.sent().remove(0);
    assert_eq!(counter(&last), REJECT_AFTER_MESSAGES - 1);
    pair.a.seal(pair.now, &[a_to_b(2)]);
    assert!(pair.a.worker.has_staged(), "it waits for another session");
    let sent = pair.a.sent();
    assert!(sent.iter().all(|datagram| datagram[0] != DATA), "{sent:?}");

    let mut beyond = last.clone();
    beyond[8..16].copy_from_slice(&REJECT_AFTER_MESSAGES.to_le_bytes());
    pair.b.open_data(pair.now, A, &[beyond, last]);
    assert_eq!(pair.b.totals().counter_exhausted, 1);
    assert_eq!(pair.b.received(), [a_to_b(1)]);
}

/// Class 4. Counters were as wide as a pointer: on 32-bit machines they wrapped after 4 billion
/// messages, and the replay window with them (boringtun PR 468, gotatun 0.4.1, firezone PR 174).
/// Here they are `u64` from the session to the wire; the window's positions are taken modulo its
/// size before they become an index.
#[test]
fn class_04_counter_as_wide_as_a_pointer() {
    let mut pair = Pair::connected();
    let session = pair.b_of_a.sessions.load().current.clone().unwrap();
    let next = session.reserve_counters(1).unwrap();
    session.reserve_counters((1 << 32) - next - 2).unwrap();
    let packets = [a_to_b(1), a_to_b(2), a_to_b(3)];
    pair.a.seal(pair.now, &packets);
    let sent = pair.a.sent();
    let counters: Vec<_> = sent.iter().map(|datagram| counter(datagram)).collect();
    assert_eq!(counters, [(1 << 32) - 1, 1 << 32, (1 << 32) + 1]);
    pair.b.open(pair.now, A, &sent);
    assert_eq!(pair.b.received(), packets);
    pair.b.open(pair.now, A, &sent);
    assert_eq!(pair.b.totals().replayed, 3);

    let mut window = ReplayWindow::default();
    assert!(window.accept(7) && window.accept((1 << 32) + 7) && window.accept((1 << 40) + 7));
    assert!(!window.accept((1 << 32) + 7) && !window.accept(7));
}

/// Class 10. The endpoint followed messages that prove nothing or can be replayed, cookie replies
/// above all (gotatun before 0.8.0; boringtun and NepTUN), or did not follow data (gotatun 0.4.0).
/// Here it is set after the tag and the replay window have accepted, and a cookie reply never
/// comes near it.
#[test]
fn class_10_endpoint_moved_without_authentication() {
    let mut pair = Pair::connected();
    let elsewhere = "203.0.113.7:7";
    pair.a.seal(pair.now, &[a_to_b(1)]);
    let data = pair.a.sent().remove(0);
    let mut forged = data.clone();
    *forged.last_mut().unwrap() ^= 1;
    pair.b.open(pair.now, elsewhere, &[forged]);
    assert_eq!(pair.a_of_b.endpoint(), Some(at(A)));
    pair.b.open(pair.now, A, std::slice::from_ref(&data));
    pair.b.open(pair.now, elsewhere, &[data]);
    assert_eq!(pair.a_of_b.endpoint(), Some(at(A)), "a replay");
    pair.a.seal(pair.now, &[a_to_b(2)]);
    let fresh = pair.a.sent();
    pair.b.open(pair.now, elsewhere, &fresh);
    assert_eq!(pair.a_of_b.endpoint(), Some(at(elsewhere)), "data moves it");

    pair.pass(Duration::from_secs(10));
    let initiation = pair.initiation();
    pair.b.handshakes.set_load(4096, 4096);
    pair.b.open(pair.now, A, &[initiation]);
    let reply = pair.b.sent().remove(0);
    assert_eq!(reply[0], COOKIE);
    assert_eq!(pair.a.open(pair.now, elsewhere, &[reply]), [Ok(())]);
    assert_eq!(pair.b_of_a.endpoint(), Some(at(B)), "a cookie does not");
}

/// Class 13. A packet changed state before its tag was verified: it confirmed a session, counted as
/// activity, or spoilt the handshake (gotatun before 0.4.0; VPP as read; snow RUSTSEC-2024-0011).
/// Here promotion, marks, counters and endpoint come after the AEAD's verdict, and a handshake
/// message is worked on in a copy of the state.
#[test]
fn class_13_state_changed_before_the_tag_is_verified() {
    let mut pair = Pair::new();
    pair.a.seal(pair.now, &[a_to_b(0)]);
    let initiation = pair.a.sent().remove(0);
    pair.b.open(pair.now, A, &[initiation]);
    let response = pair.b.sent().remove(0);
    let mut spoilt = Response::read_from_bytes(&response).unwrap();
    spoilt.encrypted_nothing[3] ^= 1;
    Holder::new(&public_key(1)).stamp(pair.now.monotonic, &mut spoilt);
    let spoilt = spoilt.as_bytes().to_vec();
    pair.a.open(pair.now, B, &[spoilt]);
    assert_eq!(
        pair.a.open(pair.now, B, &[response]),
        [Ok(())],
        "still good"
    );
    let data = pair.a.sent();

    let state = |pair: &Pair| {
        let sessions = pair.a_of_b.sessions.load();
        format!(
            "{} {} {:?} {:?} {:?}",
            sessions.current.is_some(),
            sessions.next.is_some(),
            pair.a_of_b.marks,
            pair.a_of_b.counters,
            pair.a_of_b.last_handshake,
        )
    };
    let before = state(&pair);
    let mut forged = data.clone();
    forged.iter_mut().for_each(|datagram| datagram[20] ^= 1);
    pair.b.open(pair.now, A, &forged);
    assert_eq!(state(&pair), before);
    pair.b.open(pair.now, A, &data);
    assert_ne!(state(&pair), before);
    assert!(pair.a_of_b.sessions.load().current.is_some());
}

/// Class 14. The caller did not look at what the AEAD said, and delivered what had not been
/// authenticated (FreeBSD SA-26:52, CVE-2026-58085). Here a job gives its plaintext out only where
/// the verdict is good: there is no other way to it.
#[test]
fn class_14_verdict_of_the_aead_ignored() {
    let mut pair = Pair::connected();
    pair.a.seal(pair.now, &[a_to_b(3)]);
    let data = pair.a.sent().remove(0);
    let flipped: Vec<_> = (16 * 8..data.len() * 8)
        .map(|bit| {
            let mut datagram = data.clone();
            datagram[bit / 8] ^= 1 << (bit % 8);
            datagram
        })
        .collect();
    // Among good ones, so that lanes of one batch have both verdicts.
    let good: Vec<_> = (0..flipped.len() / 16).map(a_to_b).collect();
    pair.a.seal(pair.now, &good);
    let mut mixed = Vec::new();
    for (bad, good) in flipped.chunks(16).zip(pair.a.sent()) {
        mixed.extend_from_slice(bad);
        mixed.push(good);
    }
    pair.b.open(pair.now, A, &mixed);
    assert_eq!(pair.b.received(), good);
    assert_eq!(pair.b.totals().forged as usize, mixed.len() - good.len());
}

/// Class 15. Two CPUs raced on the receive counter, a listing of peers met one that was being
/// removed, a device was taken from a stale context (CVE-2024-26861, -26951, -26950). Here the
/// window is behind the session's own lock, and everybody reads whole generations that stay alive
/// while they are looked at.
#[test]
fn class_15_races_on_the_receive_counter() {
    let mut pair = Pair::connected();
    let packets: Vec<_> = (0..200).map(a_to_b).collect();
    pair.a.seal(pair.now, &packets);
    let wire = pair.a.sent();
    let (mesh, now, peer) = (&pair.b.mesh, pair.now, &pair.a_of_b);
    let heard: usize = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut node = Node::new(2);
                    node.worker = ringspan::engine::Worker::new(
                        std::sync::Arc::clone(mesh),
                        ringspan::crypto::backend().unwrap(),
                        ringspan::engine::WorkerConfig { mtu: MTU },
                    );
                    for batch in wire.chunks(8) {
                        let mut payloads = batch.to_vec();
                        let mut datagrams: Vec<_> = payloads
                            .iter_mut()
                            .map(|payload| Datagram {
                                payload,
                                from: at(A),
                                ecn: Ecn::NotEct,
                            })
                            .collect();
                        let (inbox, mail) = (&mut node.inbox, &mut node.mail);
                        node.worker.open(now.monotonic, &mut datagrams, inbox, mail);
                    }
                    node.received().len()
                })
            })
            .collect();
        // Meanwhile prefixes come and go, and the peer's state is looked at.
        for _ in 0..200 {
            mesh.update(|update| update.allow(&"10.7.0.0/16".parse().unwrap(), peer));
            let _ = (mesh.prefixes_of(peer.public_key()), peer.sessions.load());
            mesh.update(|update| {
                update.disallow(&"10.7.0.0/16".parse().unwrap(), peer.public_key())
            });
        }
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    assert_eq!(heard, wire.len(), "each once, whoever was first");
}

/// The seven points of low order that the kernel's `netns.sh` tries, and one of them with the bit
/// set that X25519 ignores.
const LOW_ORDER: [[u8; 32]; 8] = {
    let mut points = [[0; 32]; 8];
    points[1][0] = 1;
    points[2] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    points[3] = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ];
    points[4] = [0xff; 32];
    points[4][0] = 0xec;
    points[4][31] = 0x7f;
    points[5] = points[4];
    points[5][0] = 0xed;
    points[6] = points[4];
    points[6][0] = 0xee;
    points[7] = points[1];
    points[7][31] = 0x80;
    points
};

/// Class 17. An agreement whose result is zero, whatever the private key, was accepted
/// (wireguard-go before `c7b76d3`; no check was found in boringtun, NepTUN and gotatun). Here every
/// agreement returns an error for it, so such a key is no peer's, and such an ephemeral is
/// answered by nobody.
#[test]
fn class_17_low_order_points() {
    for point in LOW_ORDER {
        let mut node = Node::new(1);
        let key = PublicKey::from(point);
        let peer = std::sync::Arc::new(ringspan::mesh::Peer::new(key));
        let added = node.handshakes.add_peer(peer, Default::default());
        assert!(added.is_err(), "{key}");

        // As an ephemeral key, with a right mac1.
        let mut pair = Pair::new();
        let mut message = Initiation::new(7);
        message.ephemeral = point;
        let mut holder = Holder::new(&public_key(2));
        holder.stamp(pair.now.monotonic, &mut message);
        let bytes = message.as_bytes().to_vec();
        let answer = pair.b.open(pair.now, A, &[bytes]);
        assert!(
            matches!(answer[..], [Err(Refusal::Handshake(_))]),
            "{answer:?}"
        );
        assert!(pair.b.sent().is_empty(), "{key}");
    }
}

/// Class 11. A changed preshared key was stored and never used, because the handshake state kept a
/// copy (gotatun before 0.7.2; kernel `ccff8b7`). Here there is one place for it, read when a
/// response is made or verified.
#[test]
fn class_11_preshared_key_changed_but_not_used() {
    let mut pair = Pair::connected();
    let other = || PresharedKey::from([0x99; 32]);
    let key_of_a = *pair.a_of_b.public_key();
    assert!(pair.b.handshakes.set_preshared_key(&key_of_a, other()));
    pair.pass(Duration::from_secs(10));
    let initiation = pair.initiation();
    assert_eq!(pair.b.open(pair.now, A, &[initiation]), [Ok(())]);
    let response = pair.b.sent();
    let answer = pair.a.open(pair.now, B, &response);
    assert!(
        matches!(answer[..], [Err(Refusal::Handshake(_))]),
        "{answer:?}"
    );

    // Changed on the other end while a handshake is under way: this one already uses it.
    pair.pass(Duration::from_secs(10));
    let initiation = pair.initiation();
    let key_of_b = *pair.b_of_a.public_key();
    assert!(pair.a.handshakes.set_preshared_key(&key_of_b, other()));
    pair.b.open(pair.now, A, &[initiation]);
    let response = pair.b.sent();
    assert_eq!(pair.a.open(pair.now, B, &response), [Ok(())]);
}
