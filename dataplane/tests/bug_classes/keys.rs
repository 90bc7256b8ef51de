//! Indices, padding, and what becomes of secrets.

use std::collections::BTreeSet;
use std::time::Duration;

use ringspan::crypto::{AeadKey, OsRandom, PresharedKey};
use ringspan::engine::Handshakes;

use crate::node::*;

/// Class 9. Session indices that can be foretold, packets that are not padded, secrets that are not
/// wiped (audit of gotatun, findings 3.2 to 3.7; indices from an LFSR in boringtun and NepTUN, from
/// a clock-seeded generator in VPP). Here an index is 32 random bits for every handshake, packets
/// are padded to 16 bytes, key types wipe themselves and do not print. (That they wipe themselves
/// is a matter of `ZeroizeOnDrop`, which is asked for here by type.)
#[test]
fn class_09_predictable_indices_missing_padding_secrets_shown() {
    let mut indices = Vec::new();
    for _ in 0..4 {
        // The same key, and the system's randomness: as after a restart.
        let mut pair = Pair::new();
        let random = Box::new(OsRandom);
        let mesh = std::sync::Arc::clone(&pair.a.mesh);
        pair.a.handshakes = Handshakes::new(&private_key(1), mesh, random).unwrap();
        pair.a
            .handshakes
            .add_peer(std::sync::Arc::clone(&pair.b_of_a), Default::default())
            .unwrap();
        for _ in 0..32 {
            let initiation = pair.initiation();
            indices.push(u32::from_le_bytes(initiation[4..8].try_into().unwrap()));
            pair.pass(Duration::from_secs(6));
        }
    }
    let distinct: BTreeSet<_> = indices.iter().collect();
    assert_eq!(distinct.len(), indices.len());
    // Neither they nor their distances repeat, and every bit takes both values.
    let distances: BTreeSet<_> = indices
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    assert_eq!(distances.len(), indices.len() - 1);
    let (ones, zeros) = indices.iter().fold((0, 0), |(ones, zeros), index| {
        (ones | index, zeros | !index)
    });
    assert_eq!((ones, zeros), (u32::MAX, u32::MAX));

    let mut pair = Pair::connected();
    for len in 40..=72 {
        pair.a
            .seal(pair.now, &[packet([10, 0, 1, 1], [10, 0, 2, 1], len)]);
        assert_eq!(
            pair.a.sent()[0].len(),
            32 + len.next_multiple_of(16),
            "{len}"
        );
    }

    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<ringspan::crypto::PrivateKey>();
    wiped::<PresharedKey>();
    wiped::<AeadKey>();
    let secret = [0xd7; 32];
    let shown = [
        format!("{:?}", ringspan::crypto::PrivateKey::from(secret)),
        format!("{:?}", PresharedKey::from(secret)),
        format!("{:?}", AeadKey::from(secret)),
        format!("{:?} {:?}", pair.a.handshakes, pair.b_of_a.sessions.load()),
    ];
    for shown in shown {
        let lower = shown.to_lowercase();
        for trace in ["d7d7", "215, 215", "19fx", "0x77", "119, 119"] {
            assert!(!lower.contains(trace), "{shown}");
        }
    }
}

/// Class 22. A machine that was suspended, cloned or restored from a snapshot went on with counters
/// that its copy uses too (kernel `wg_vm_notification`; nobody in user space). Here the runtime
/// watches both clocks and the kernel's announcement of a new generation (`runtime/interruption.rs`)
/// and has all sessions forgotten: nothing is sealed or opened under them again.
#[test]
fn class_22_nonce_reuse_after_clone_or_suspend() {
    let mut pair = Pair::connected();
    pair.a.seal(pair.now, &[a_to_b(1)]);
    let before = pair.a.sent();
    pair.b.seal(pair.now, &[b_to_a(1)]);
    let late = pair.b.sent();
    pair.a.handshakes.forget_sessions();
    pair.a.seal(pair.now, &[a_to_b(2)]);
    let after = pair.a.sent();
    assert!(
        after.iter().all(|datagram| datagram[0] == INITIATION),
        "{after:?}"
    );
    pair.a.open(pair.now, B, &late);
    assert!(pair.a.received().is_empty());
    assert_eq!(pair.a.totals().unknown_index, 1);
    assert_eq!(pair.a.handshakes.statistics().interruptions, 1);
    // A new session with other keys, and what waited arrives.
    pair.pass(Duration::from_secs(6));
    pair.b.open(pair.now, A, &after);
    pair.settle();
    for _ in 0..6 {
        pair.second();
    }
    assert_eq!(pair.b.received(), [a_to_b(2)]);
    pair.b.open(pair.now, A, &before);
    assert!(
        pair.b.received().len() <= 1,
        "the other end may still open what was under way"
    );
}
