use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::collections::HashSet;
use std::thread;

use super::*;
use crate::engine::testing::{MTU, Node, Sealed, connect, endpoint, packet};
use crate::noise::constants::{REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME};
use crate::time::Instant;
use crate::wire::Ecn;

const A: &str = "192.0.2.1:51820";
const B: &str = "192.0.2.2:51820";
const START: Instant = Instant::from_secs(1000);

/// Two nodes that know each other: `a` owns 10.0.1.0/24 and fd00:1::/32, `b` 10.0.2.0/24 and
/// fd00:2::/32. No session yet.
struct Pair {
    a: Node,
    b: Node,
    /// `b` as `a` knows it.
    b_of_a: Arc<Peer>,
    a_of_b: Arc<Peer>,
}

impl Pair {
    fn new() -> Self {
        let (a, b) = (Node::new(), Node::new());
        Self {
            b_of_a: a.peer(2, &["10.0.2.0/24", "fd00:2::/32"], B),
            a_of_b: b.peer(1, &["10.0.1.0/24", "fd00:1::/32"], A),
            a,
            b,
        }
    }

    /// With a session that `a` has made and `b` has heard of.
    fn connected() -> Self {
        let mut pair = Self::new();
        pair.connect(1, START);
        let sealed = pair.a.seal(START, &[a_to_b(0)]);
        pair.b.open(START, A, &sealed);
        pair.b.received();
        pair
    }

    fn connect(&self, seed: u8, now: Instant) {
        connect(seed, now, (&self.a, &self.b_of_a), (&self.b, &self.a_of_b));
    }
}

fn a_to_b(n: usize) -> Vec<u8> {
    packet("10.0.1.1", "10.0.2.1", 0, 40 + n)
}

fn b_to_a(n: usize) -> Vec<u8> {
    packet("fd00:2::1", "fd00:1::1", 0, 60 + n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn data_goes_both_ways_in_order() {
    let mut pair = Pair::connected();
    let there: Vec<_> = (0..600).map(|n| a_to_b(n * 3)).collect();
    let back: Vec<_> = (0..300).map(b_to_a).collect();
    let sealed = pair.a.seal(START, &there);
    assert!(sealed.iter().all(|s| s.to == endpoint(B)));
    pair.b.open(START, A, &sealed);
    assert!(pair.b.received() == there);
    let sealed = pair.b.seal(START, &back);
    pair.a.open(START, B, &sealed);
    assert!(pair.a.received() == back);
    let totals = pair.a.totals();
    assert_eq!((totals.sealed, totals.delivered), (601, 300));
    assert_eq!(pair.b.totals().delivered, 601);
    assert!(pair.a.control.wanted.is_empty());
}

#[test]
fn padding_ends_at_the_mtu_and_is_taken_off() {
    let mut pair = Pair::connected();
    for (len, datagram) in [(41, 32 + 48), (1409, 32 + 1420), (1420, 32 + 1420)] {
        let packet = packet("10.0.1.1", "10.0.2.1", 0, len);
        let sealed = pair.a.seal(START, std::slice::from_ref(&packet));
        assert_eq!(sealed[0].payload.len(), datagram);
        pair.b.open(START, A, &sealed);
        assert_eq!(pair.b.received(), [packet]);
    }
}

#[test]
fn counters_of_a_peer_are_bytes_of_datagrams() {
    let mut pair = Pair::connected();
    let (tx, rx) = (&pair.b_of_a.counters, &pair.a_of_b.counters);
    let before = tx.tx_bytes();
    let sealed = pair.a.seal(START, &[a_to_b(0), a_to_b(100)]);
    pair.b.open(START, A, &sealed);
    let bytes: usize = sealed.iter().map(|s| s.payload.len()).sum();
    assert_eq!(tx.tx_bytes() - before, bytes as u64);
    assert_eq!(rx.rx_bytes(), tx.tx_bytes());
    assert_eq!(rx.rx_packets(), 3);
    assert_eq!(tx.tx_packets(), 3);
}

#[test]
fn what_was_seen_is_not_delivered_again() {
    let mut pair = Pair::connected();
    let sent: Vec<_> = (0..20).map(a_to_b).collect();
    let sealed = pair.a.seal(START, &sent);
    let mut twice = sealed.clone();
    twice.extend_from_slice(&sealed[3..9]);
    pair.b.open(START, A, &twice);
    pair.b.open(START, A, &sealed);
    assert_eq!(pair.b.received(), sent);
    assert_eq!(pair.b.totals().replayed, 26);
}

#[test]
fn a_replayed_datagram_moves_no_endpoint() {
    let mut pair = Pair::connected();
    let sealed = pair.a.seal(START, &[a_to_b(0)]);
    pair.b.open(START, A, &sealed);
    pair.b.open(START, "198.51.100.66:666", &sealed);
    assert_eq!(pair.a_of_b.endpoint(), Some(endpoint(A)));
}

#[test]
fn the_newest_authentic_datagram_moves_the_endpoint() {
    let mut pair = Pair::connected();
    let sealed = pair.a.seal(START, &[a_to_b(0)]);
    let moved = "[2001:db8::7]:4500";
    pair.b.open(START, moved, &sealed);
    assert_eq!(pair.a_of_b.endpoint(), Some(endpoint(moved)));
    let sealed = pair.b.seal(START, &[b_to_a(0)]);
    assert_eq!(sealed[0].to, endpoint(moved));
}

#[test]
fn sessions_rotate_under_traffic_without_a_loss() {
    let mut pair = Pair::connected();
    let mut now = START;
    for round in 0..20_usize {
        now += secs(1);
        // Under way with the old session while the new one is made.
        let old = pair.a.seal(now, &[a_to_b(round), a_to_b(round + 1)]);
        pair.connect(2 + round as u8, now);
        // The responder goes on with its current session until it hears of the new one.
        let back = pair.b.seal(now, &[b_to_a(round)]);
        let new = pair.a.seal(now, &[a_to_b(round + 2)]);
        let mixed = [old[0].clone(), new[0].clone(), old[1].clone()];
        pair.b.open(now, A, &mixed);
        pair.a.open(now, B, &back);
        let sent = [round, round + 2, round + 1].map(a_to_b);
        assert_eq!(pair.b.received(), sent);
        assert_eq!(pair.a.received(), [b_to_a(round)]);
        let sessions = pair.a_of_b.sessions.load();
        assert!(sessions.next.is_none());
        let established = sessions.current.as_ref().unwrap().established();
        assert_eq!(established, now, "promoted");
        assert_eq!(pair.a_of_b.last_handshake.load(), Some(now));
    }
}

#[test]
fn an_unheard_session_is_not_used_and_a_forged_datagram_does_not_promote_it() {
    let mut pair = Pair::new();
    pair.connect(1, START);
    let mut sealed = pair.a.seal(START, &[a_to_b(0)]);
    *sealed[0].payload.last_mut().unwrap() ^= 1;
    pair.b.open(START, A, &sealed);
    assert_eq!(pair.b.totals().forged, 1);
    assert!(pair.a_of_b.sessions.load().current.is_none());
    assert!(pair.b.seal(START, &[b_to_a(0)]).is_empty());
    assert_eq!(pair.b.control.wanted.len(), 1);
    assert!(!pair.b.worker.wants_release());
    *sealed[0].payload.last_mut().unwrap() ^= 1;
    pair.b.open(START, A, &sealed);
    assert!(pair.b.worker.wants_release());
    assert_eq!(pair.b.totals().confirmed, 1);
    assert_eq!(pair.b.release(START).len(), 1);
    assert!(!pair.b.worker.wants_release());
}

#[test]
fn packets_wait_for_the_handshake_and_leave_in_order() {
    let mut pair = Pair::new();
    let sent: Vec<_> = (0..200).map(a_to_b).collect();
    for part in sent.chunks(9) {
        assert!(pair.a.seal(START, part).is_empty());
    }
    assert!(pair.a.worker.has_staged());
    assert_eq!(pair.a.control.wanted.len(), 1, "asked for once");
    assert!(pair.a.release(START).is_empty());
    pair.connect(1, START);
    let mut sealed = pair.a.release(START);
    assert!(!pair.a.worker.has_staged());
    sealed.extend(pair.a.seal(START, &[a_to_b(200)]));
    pair.b.open(START, A, &sealed);
    let expected: Vec<_> = (72..=200).map(a_to_b).collect();
    assert!(pair.b.received() == expected);
    let totals = pair.a.totals();
    assert_eq!(
        (totals.staged, totals.staged_dropped, totals.sealed),
        (200, 72, 129)
    );
}

#[test]
fn a_new_packet_does_not_overtake_those_that_waited() {
    let mut pair = Pair::new();
    pair.a.seal(START, &[a_to_b(0), a_to_b(1)]);
    pair.connect(1, START);
    let sealed = pair.a.seal(START, &[a_to_b(2), a_to_b(3)]);
    pair.b.open(START, A, &sealed);
    assert_eq!(pair.b.received(), [0, 1, 2, 3].map(a_to_b));
    assert!(!pair.a.worker.has_staged());
}

#[test]
fn packets_that_waited_as_long_as_a_handshake_is_tried_are_dropped() {
    let mut pair = Pair::new();
    pair.a.seal(START, &[a_to_b(0)]);
    let later = START + REKEY_ATTEMPT_TIME;
    assert!(pair.a.release(later).is_empty());
    assert!(!pair.a.worker.has_staged());
    assert_eq!(pair.a.totals().staged_expired, 1);
}

#[test]
fn packets_for_a_handshake_that_failed_are_dropped() {
    let mut pair = Pair::new();
    pair.a.seal(START, &[a_to_b(0), a_to_b(1)]);
    assert_eq!(pair.a.worker.discard_staged(pair.b_of_a.public_key()), 2);
    assert!(!pair.a.worker.has_staged());
    assert_eq!(pair.a.worker.discard_staged(pair.b_of_a.public_key()), 0);
    assert_eq!(pair.a.totals().staged_expired, 2);
}

#[test]
fn a_wish_that_control_could_not_take_is_made_again() {
    let mut pair = Pair::new();
    pair.a.control.full = true;
    pair.a.seal(START, &[a_to_b(0)]);
    pair.a.control.full = false;
    pair.a.seal(START, &[a_to_b(0)]);
    assert_eq!(pair.a.control.wanted.len(), 1);
}

#[test]
fn the_initiator_renews_by_age_and_nobody_uses_an_expired_session() {
    let mut pair = Pair::connected();
    let old = START + REKEY_AFTER_TIME;
    assert_eq!(
        pair.a
            .seal(old - Duration::from_nanos(1), &[a_to_b(0)])
            .len(),
        1
    );
    assert!(pair.a.control.wanted.is_empty());
    let last = pair.a.seal(old, &[a_to_b(0)]);
    assert_eq!(last.len(), 1, "and goes on sending");
    assert_eq!(pair.a.control.wanted.len(), 1);
    assert_eq!(pair.b.seal(old, &[b_to_a(0)]).len(), 1);
    assert!(pair.b.control.wanted.is_empty(), "the responder does not");

    let expired = START + REJECT_AFTER_TIME;
    pair.b.open(expired, A, &last);
    assert_eq!(pair.b.totals().expired, 1);
    assert!(pair.b.received().is_empty());
    assert!(pair.b.seal(expired, &[b_to_a(0)]).is_empty());
    assert!(pair.b.worker.has_staged());
    assert_eq!(pair.b.control.wanted.len(), 1);
}

#[test]
fn a_source_must_map_back_to_the_very_peer_by_longest_prefix() {
    let mut pair = Pair::connected();
    // One of a's addresses now belongs to someone else, more specifically.
    let other = pair.b.peer(3, &["10.0.1.66/32"], "192.0.2.3:1");
    let packets = ["10.0.1.66", "10.9.9.9", "10.0.1.67"];
    let packets = packets.map(|source| packet(source, "10.0.2.1", 0, 64));
    let before = pair.a_of_b.counters.rx_bytes();
    let sealed = pair.a.seal(START, &packets);
    pair.b.open(START, A, &sealed);
    assert_eq!(pair.b.received(), [packets[2].clone()]);
    assert_eq!(pair.b.totals().wrong_source, 2);
    assert_eq!(pair.a_of_b.counters.rx_bytes() - before, 96);
    assert_eq!(other.counters.rx_packets(), 0);
}

#[test]
fn ecn_crosses_the_tunnel_both_ways() {
    let mut pair = Pair::connected();
    let ecn = |tos: u8| packet("10.0.1.1", "10.0.2.1", 0xb8 | tos, 64);
    let mut sealed = pair.a.seal(START, &[0, 1, 2, 3].map(ecn));
    let outer: Vec<_> = sealed.iter().map(|s| s.tos).collect();
    assert_eq!(outer, [0, 1, 2, 2], "DSCP stays inside");
    for sealed in &mut sealed {
        sealed.tos = Ecn::Ce as u8;
    }
    pair.b.open(START, A, &sealed);
    assert_eq!(pair.b.received(), [0, 3, 3, 3].map(ecn));
}

#[test]
fn handshake_messages_go_to_control_at_once() {
    let mut pair = Pair::connected();
    let message = |kind: u8, len: usize| {
        let mut payload = vec![0; len];
        payload.iter_mut().take(1).for_each(|first| *first = kind);
        Sealed {
            to: endpoint(B),
            tos: 0,
            payload,
        }
    };
    let good = [message(1, 148), message(2, 92), message(3, 64)];
    let bad = [
        message(1, 147),
        message(4, 31),
        message(4, 3),
        message(5, 148),
        message(0, 0),
    ];
    pair.b.open(START, A, &good);
    pair.b.open(START, A, &bad);
    assert_eq!(pair.b.control.messages.len(), 3);
    let totals = pair.b.totals();
    assert_eq!(
        (totals.handshakes, totals.wrong_length, totals.unknown_type),
        (3, 4, 1)
    );
    pair.b.control.full = true;
    pair.b.open(START, A, &good);
    assert_eq!(pair.b.totals().handshakes_dropped, 3);
}

#[test]
fn what_cannot_be_sent_is_counted_by_its_reason() {
    let mut pair = Pair::connected();
    let homeless = pair.a.peer(4, &["10.0.4.0/24"], B);
    assert!(homeless.endpoint().is_some());
    let unknown = Arc::new(Peer::new([5; 32].into()));
    pair.a
        .mesh
        .update(|update| update.allow(&"10.0.5.0/24".parse().unwrap(), &unknown));
    let sealed = pair.a.seal(
        START,
        &[
            vec![],
            vec![0x45; 10],
            packet("10.0.1.1", "10.0.3.1", 0, 64),
            packet("10.0.1.1", "10.0.4.1", 0, 64),
            packet("10.0.1.1", "10.0.5.1", 0, 64),
            packet("10.0.1.1", "10.0.2.1", 0, 65_500),
            a_to_b(0),
        ],
    );
    assert_eq!(sealed.len(), 1);
    let totals = pair.a.totals();
    assert_eq!(
        (totals.malformed, totals.no_peer, totals.no_endpoint),
        (2, 1, 1)
    );
    assert_eq!((totals.oversized, totals.staged), (1, 1));
    pair.a.outer.room = 1;
    assert_eq!(pair.a.seal(START, &[a_to_b(0), a_to_b(1)]).len(), 1);
    assert_eq!(pair.a.totals().outer_dropped, 1);
}

#[test]
fn marks_tell_the_timers_what_happened() {
    let mut pair = Pair::connected();
    let later = START + secs(3);
    pair.b_of_a.marks.unanswered_since.clear();
    let sealed = pair.a.seal(later, &[a_to_b(0), a_to_b(1)]);
    assert_eq!(pair.b_of_a.marks.unanswered_since.load(), Some(later));
    assert_eq!(pair.b_of_a.marks.last_traversal.load(), Some(later));
    pair.a_of_b.marks.unacknowledged_since.clear();
    pair.a_of_b.marks.another_keepalive.store(false, Relaxed);
    pair.b.open(later, A, &sealed);
    assert_eq!(pair.a_of_b.marks.unacknowledged_since.load(), Some(later));
    assert!(pair.a_of_b.marks.another_keepalive.load(Relaxed));
    assert_eq!(pair.a_of_b.marks.last_received.load(), Some(later));
    let sealed = pair.b.seal(later, &[b_to_a(0)]);
    assert_eq!(pair.a_of_b.marks.unacknowledged_since.load(), None);
    pair.a.open(later, B, &sealed);
    assert_eq!(pair.b_of_a.marks.unanswered_since.load(), None);
}

/// Two workers seal with one session and two open with it, all at once, on datagrams that they
/// see in part both: every packet comes out exactly once, and one worker confirms the session.
#[test]
fn workers_share_a_session_without_reusing_a_counter_or_delivering_twice() {
    let pair = Pair::new();
    pair.connect(1, START);
    let (a, b) = (&pair.a.mesh, &pair.b.mesh);
    let wire: Vec<Sealed> = thread::scope(|scope| {
        let sealing = [0, 1].map(|id| {
            scope.spawn(move || {
                let mut node = Node::on(Arc::clone(a));
                let batches = (0..40).map(|n| vec![a_to_b(id * 600 + n); 25]);
                batches
                    .flat_map(|batch| node.seal(START, &batch))
                    .collect::<Vec<_>>()
            })
        });
        sealing
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let wire = &wire;
    let heard = thread::scope(|scope| {
        let opening = [0, 1].map(|id| {
            scope.spawn(move || {
                let mut node = Node::on(Arc::clone(b));
                // Each sees three quarters of it.
                let (from, to) = (id * wire.len() / 4, (id + 3) * wire.len() / 4);
                for batch in wire[from..to].chunks(64) {
                    node.open(START, A, batch);
                }
                (node.received(), node.totals())
            })
        });
        opening.map(|thread| thread.join().unwrap())
    });
    let counters: HashSet<_> = wire.iter().map(|s| s.payload[8..16].to_vec()).collect();
    assert_eq!((wire.len(), counters.len()), (2000, 2000));
    let [(one, totals), (other, more)] = heard;
    assert_eq!(one.len() + other.len(), 2000);
    assert_eq!(totals.replayed + more.replayed, 1000);
    assert_eq!(totals.confirmed + more.confirmed, 1);
    assert_eq!(pair.a_of_b.counters.rx_packets(), 2000);
    assert_eq!(pair.b_of_a.counters.tx_packets(), 2000);
}

#[test]
fn senders_of_what_goes_nowhere_are_told() {
    let mut pair = Pair::connected();
    let homeless = Arc::new(Peer::new([5; 32].into()));
    pair.a
        .mesh
        .update(|update| update.allow(&"fd00:5::/32".parse().unwrap(), &homeless));
    let nowhere = [
        packet("10.0.1.1", "10.0.3.1", 0, 64),
        packet("fd00:1::1", "fd00:5::1", 0, 80),
        packet("10.0.1.1", "10.0.2.1", 0, 65_500),
    ];
    assert!(pair.a.seal(START, &nowhere).is_empty());
    let errors = pair.a.errors();
    // Type and code: host unreachable, fragmentation needed with the MTU; for IPv6, which is
    // looked at later, address unreachable.
    let said = |error: &[u8]| (error[0] >> 4, error.get(20..28).map(<[u8]>::to_vec));
    assert_eq!(errors.len(), 3);
    assert_eq!((said(&errors[0]).0, &errors[0][20..22]), (4, &[3, 1][..]));
    assert_eq!((said(&errors[1]).0, &errors[1][20..22]), (4, &[3, 4][..]));
    assert_eq!(errors[1][26..28], MTU.to_be_bytes());
    assert_eq!((said(&errors[2]).0, &errors[2][40..42]), (6, &[1, 3][..]));
    assert_eq!(errors[0][28..], nowhere[0]);
    assert!(pair.a.errors().is_empty(), "told once");
    assert_eq!(pair.a.totals().errors_delivered, 3);

    // What waits for a handshake is not lost yet, and what is no packet has no sender.
    let mut alone = Pair::new();
    alone.a.seal(START, &[a_to_b(0), vec![0x45; 10], vec![]]);
    assert!(alone.a.errors().is_empty());
    // An error is not answered by an error.
    pair.a.seal(START, &errors[..1]);
    assert_eq!(pair.a.totals().no_peer, 2);
    assert!(pair.a.errors().is_empty());
}

#[test]
fn errors_have_a_rate_for_each_sender_and_for_all() {
    let mut pair = Pair::new();
    let lost = |host: usize| {
        packet(
            &format!("10.1.{}.{}", host / 200, host % 200 + 1),
            "10.0.3.1",
            0,
            64,
        )
    };
    let mut count = |now, packets: &[Vec<u8>]| {
        let mut told = 0;
        for packet in packets {
            pair.a.seal(now, std::slice::from_ref(packet));
            told += pair.a.errors().len();
        }
        told
    };
    assert_eq!(count(START, &vec![lost(0); 100]), 6);
    let crowd: Vec<_> = (1..400).map(lost).collect();
    assert_eq!(count(START, &crowd), 50 - 6);
    assert_eq!(count(START + secs(2), &vec![lost(0); 100]), 6);
    // One batch leaves no more than it has room for.
    pair.a.seal(START + secs(4), &crowd[..100]);
    assert_eq!(pair.a.errors().len(), 16);
}

#[test]
fn padding_follows_a_changed_mtu() {
    let mut pair = Pair::connected();
    for (mtu, len, datagram) in [
        (1300, 1297, 32 + 1300),
        (1299, 1297, 32 + 1299),
        (0, 1297, 32 + 1312),
    ] {
        pair.a.worker.set_mtu(mtu);
        let packet = packet("10.0.1.1", "10.0.2.1", 0, len);
        let sealed = pair.a.seal(START, std::slice::from_ref(&packet));
        assert_eq!(sealed[0].payload.len(), datagram, "MTU {mtu}");
        pair.b.open(START, A, &sealed);
        assert_eq!(pair.b.received(), [packet]);
    }
}

/// The host routes the endpoint into the tunnel: a datagram comes back as a packet.
fn come_back(sealed: &Sealed, from: &str, fragment: bool) -> Vec<u8> {
    let to = sealed.to.remote;
    let v6 = to.is_ipv6();
    let headers = if v6 { 40 } else { 20 };
    let mut back = packet(
        from,
        &to.ip().to_string(),
        0,
        headers + 8 + sealed.payload.len(),
    );
    back[headers..headers + 2].copy_from_slice(&51820_u16.to_be_bytes());
    back[headers + 2..headers + 4].copy_from_slice(&to.port().to_be_bytes());
    back[headers + 8..].copy_from_slice(&sealed.payload);
    if fragment {
        back[6] = 0x20;
    }
    back
}

#[test]
fn a_routing_loop_ends_at_the_first_turn() {
    for (endpoint, from, prefix) in [
        (B, "192.0.2.1", "192.0.2.0/24"),
        ("[2001:db8::2]:51820", "2001:db8::1", "2001:db8::/32"),
    ] {
        let mut pair = Pair::connected();
        pair.b_of_a.set_endpoint(self::endpoint(endpoint));
        pair.a
            .mesh
            .update(|update| update.allow(&prefix.parse().unwrap(), &pair.b_of_a));
        let sealed = pair.a.seal(START, &[a_to_b(0), a_to_b(1000)]);
        let fragment = !endpoint.starts_with('[');
        let back = [
            come_back(&sealed[0], from, false),
            come_back(&sealed[1], from, fragment),
        ];
        assert!(pair.a.seal(START, &back).is_empty());
        assert_eq!(pair.a.totals().looped, 2);
        // Others may speak to the same address, even to the same port, even WireGuard.
        let mut other = back[0].clone();
        let index = other.len() - sealed[0].payload.len() + 4;
        other[index] ^= 1;
        let mut port = back[0].clone();
        let udp = other.len() - sealed[0].payload.len() - 8;
        port[udp + 3] ^= 1;
        assert_eq!(pair.a.seal(START, &[other, port]).len(), 2);
        assert_eq!(pair.a.totals().looped, 2);
    }
}
