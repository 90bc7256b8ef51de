//! Datagrams that nobody honest sends: none may panic, be delivered, or change a peer.

use proptest::prelude::*;

use super::*;

/// What an attacker does to a datagram seen on the wire.
#[derive(Clone, Debug)]
enum Tamper {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
    /// To the size of the largest UDP payload and beyond.
    Inflate(u16),
}

fn tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Tamper::Flip { at, bit }),
        2 => any::<prop::sample::Index>().prop_map(Tamper::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..64).prop_map(Tamper::Extend),
        1 => (0..600_u16).prop_map(Tamper::Inflate),
    ]
}

impl Tamper {
    /// Never changes `spare`, the bytes that nobody checks.
    fn apply(&self, datagram: &mut Vec<u8>, spare: core::ops::Range<usize>) {
        match self {
            Self::Flip { at, bit } => {
                let at = at.index(datagram.len() - spare.len());
                let at = if at >= spare.start {
                    at + spare.len()
                } else {
                    at
                };
                datagram[at] ^= 1 << bit;
            }
            Self::Cut(len) => datagram.truncate(len.index(datagram.len())),
            Self::Extend(more) => datagram.extend_from_slice(more),
            Self::Inflate(more) => datagram.resize(65_000 + usize::from(*more), 0x5a),
        }
    }
}

/// Anything at all, with a preference for what looks like a message.
fn random_datagram() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        0..200_usize,
        Just(148),
        Just(92),
        Just(64),
        Just(32),
        65_000..66_000_usize
    ];
    (len, 0..6_u8, any::<u64>()).prop_map(|(len, kind, seed)| {
        let mut datagram = vec![0; len];
        Random::fill(&mut SeededRandom::new(seed), &mut datagram).unwrap();
        if let Some(front) = datagram.first_chunk_mut() {
            *front = u32::from(kind).to_le_bytes();
        }
        datagram
    })
}

fn attacker() -> SocketAddr {
    "198.51.100.66:666".parse().unwrap()
}

/// Opens `datagrams` at `b` and checks that nothing has come of it.
fn assert_ignored(pair: &mut Pair, datagrams: &[Flying]) {
    let before = snapshot(&pair.b, &pair.a_of_b);
    pair.b.open(pair.now, datagrams);
    assert_eq!(snapshot(&pair.b, &pair.a_of_b), before);
    assert!(pair.b.delivered.is_empty() && pair.b.sent.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_datagrams_change_nothing(datagrams in prop::collection::vec(random_datagram(), 1..20)) {
        let mut pair = Pair::connected();
        let datagrams: Vec<_> = datagrams.into_iter().map(|d| (attacker(), d)).collect();
        assert_ignored(&mut pair, &datagrams);
    }

    #[test]
    fn random_data_for_a_real_session_changes_nothing(
        contents in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..90)), 1..20),
    ) {
        let mut pair = Pair::connected();
        let index = pair.a_of_b.sessions.load().current.as_ref().unwrap().local_index();
        let datagrams: Vec<_> = contents
            .into_iter()
            .map(|(counter, rest)| {
                let mut datagram = vec![4, 0, 0, 0];
                datagram.extend(index.to_le_bytes());
                datagram.extend(counter.to_le_bytes());
                datagram.extend(rest);
                (attacker(), datagram)
            })
            .collect();
        assert_ignored(&mut pair, &datagrams);
    }

    #[test]
    fn tampered_data_changes_nothing(tampers in prop::collection::vec(tamper(), 1..40), len in 0..1392_usize) {
        let mut pair = Pair::connected();
        let packets: Vec<_> = tampers.iter().map(|_| a_to_b(len)).collect();
        pair.a.seal(pair.now, &packets);
        let mut flying = pair.a.fly();
        let honest = flying.clone();
        for ((from, datagram), tamper) in flying.iter_mut().zip(&tampers) {
            tamper.apply(datagram, 0..0);
            *from = attacker();
        }
        assert_ignored(&mut pair, &flying);
        // And has not used up the counters of what was meant.
        pair.b.open(pair.now, &honest);
        prop_assert_eq!(pair.b.received(), packets);
    }

    #[test]
    fn tampered_handshakes_change_nothing(tampers in prop::collection::vec(tamper(), 1..12)) {
        let mut pair = Pair::new();
        pair.a.seal(pair.now, &[a_to_b(0)]);
        let initiation = pair.a.sent.pop_front().unwrap();
        let tampered = |message: &Vec<u8>| {
            tampers.iter().map(|tamper| {
                let mut message = message.clone();
                // The last 16 bytes are mac2, which counts only under load.
                let len = message.len();
                tamper.apply(&mut message, len - 16..len);
                (attacker(), message)
            }).collect::<Vec<_>>()
        };
        assert_ignored(&mut pair, &tampered(&initiation));
        pair.b.open(pair.now, &[(pair.a.address, initiation)]);
        let response = pair.b.sent.pop_front().unwrap();
        let before = snapshot(&pair.a, &pair.b_of_a);
        pair.a.open(pair.now, &tampered(&response));
        prop_assert_eq!(snapshot(&pair.a, &pair.b_of_a), before);
        prop_assert!(pair.a.news.is_empty());
        // The true one still completes the handshake.
        pair.a.open(pair.now, &[(pair.b.address, response)]);
        pair.settle();
        prop_assert_eq!(pair.b.received(), [a_to_b(0)]);
    }
}

#[test]
fn a_replayed_initiation_changes_nothing() {
    let mut pair = Pair::new();
    pair.a.seal(pair.now, &[a_to_b(0)]);
    let initiation = pair.a.sent.front().unwrap().clone();
    pair.settle();
    pair.b.received();
    pair.pass(Duration::from_secs(10));
    assert_ignored(&mut pair, &[(attacker(), initiation)]);
}

#[test]
fn an_authentic_packet_from_a_foreign_address_is_counted_and_not_delivered() {
    let mut pair = Pair::connected();
    pair.a
        .seal(pair.now, &[packet("10.0.9.9", "10.0.2.1", 0, 64)]);
    pair.settle();
    assert!(pair.b.received().is_empty());
    assert_eq!(pair.b.tunnel.counters().totals().wrong_source, 1);
}
