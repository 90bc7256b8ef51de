//! Every back end against the portable one, over random batches and forgeries in them.

use proptest::prelude::*;

use super::back_ends;
use super::batches::{LENGTHS, LONG_LENGTHS, Packet, batch, jumbo_batch, long_batch, open, seal};
use crate::crypto::Verdict;
use crate::crypto::aead::TAG_LEN;
use crate::crypto::portable::Portable;

/// What is wrong with a packet that was authentic.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    None,
    /// A bit of the tag is flipped: this one of 128.
    Tag(u8),
    /// A bit of the ciphertext is flipped, at this share of its length (of 256).
    Text(u8, u8),
    /// The receiver takes another counter.
    Counter(u64),
    /// The receiver takes another key.
    Key(u8),
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        3 => Just(Forgery::None),
        1 => (0..128_u8).prop_map(Forgery::Tag),
        1 => any::<(u8, u8)>().prop_map(|(at, bit)| Forgery::Text(at, bit % 8)),
        1 => (1..=u64::MAX).prop_map(Forgery::Counter),
        1 => (0..32_u8).prop_map(Forgery::Key),
    ]
}

/// Applies a forgery; whether the packet is one now.
fn forge(forgery: Forgery, packet: &mut Packet, sealed: &mut [u8]) -> bool {
    let text_len = sealed.len() - TAG_LEN;
    match forgery {
        Forgery::None => return false,
        Forgery::Tag(bit) => sealed[text_len + usize::from(bit / 8)] ^= 1 << (bit % 8),
        Forgery::Text(..) if text_len == 0 => return false,
        Forgery::Text(at, bit) => sealed[text_len * usize::from(at) / 256] ^= 1 << bit,
        Forgery::Counter(by) => packet.counter = packet.counter.wrapping_add(by),
        Forgery::Key(at) => packet.key[usize::from(at)] ^= 1,
    }
    true
}

/// Seals and opens one batch with every back end.
fn check(packets: &[Packet], forgeries: &[Forgery]) -> Result<(), TestCaseError> {
    let expected = seal(&Portable, packets);
    let (mut claimed, mut received) = (packets.to_vec(), expected.clone());
    let forged: Vec<bool> = forgeries
        .iter()
        .zip(claimed.iter_mut().zip(&mut received))
        .map(|(forgery, (packet, sealed))| forge(*forgery, packet, sealed))
        .collect();

    for back_end in back_ends() {
        let name = back_end.name();
        prop_assert!(
            seal(back_end, packets) == expected,
            "{} seals otherwise",
            name
        );
        let opened = open(back_end, &claimed, &received);
        for (at, (buffer, verdict)) in opened.iter().enumerate() {
            let text = &buffer[..buffer.len() - TAG_LEN];
            if forged.get(at) == Some(&true) {
                prop_assert_eq!(*verdict, Verdict::Forged, "{}, packet {}", name, at);
                let untouched = *buffer == received[at];
                let wiped = text.iter().all(|byte| *byte == 0);
                prop_assert!(untouched || wiped, "{} released packet {}", name, at);
            } else {
                prop_assert_eq!(*verdict, Verdict::Authentic, "{}, packet {}", name, at);
                let (plaintext, padding) = text.split_at(packets[at].plaintext.len());
                prop_assert!(
                    plaintext == packets[at].plaintext,
                    "{}, packet {}",
                    name,
                    at
                );
                prop_assert!(
                    padding.iter().all(|byte| *byte == 0),
                    "{}, packet {}",
                    name,
                    at
                );
            }
        }
    }
    Ok(())
}

fn forgeries(count: usize) -> impl Strategy<Value = Vec<Forgery>> {
    prop_oneof![
        1 => Just(vec![Forgery::None; count]),
        2 => prop::collection::vec(forgery(), count),
    ]
}

fn with_forgeries(
    batch: impl Strategy<Value = Vec<Packet>>,
) -> impl Strategy<Value = (Vec<Packet>, Vec<Forgery>)> {
    batch.prop_flat_map(|packets| {
        let count = packets.len();
        (Just(packets), forgeries(count))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    #[test]
    fn back_ends_agree((packets, forgeries) in with_forgeries(batch())) {
        check(&packets, &forgeries)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 8 }))]

    #[test]
    fn back_ends_agree_on_long_batches((packets, forgeries) in with_forgeries(long_batch())) {
        check(&packets, &forgeries)?;
    }

    #[test]
    fn back_ends_agree_on_jumbo_packets((packets, forgeries) in with_forgeries(jumbo_batch())) {
        check(&packets, &forgeries)?;
    }
}

/// Every listed length in every small batch, and beside a packet of any other listed length:
/// random choice may miss a pair.
#[test]
#[cfg_attr(
    miri,
    ignore = "hours under Miri; the random batches cover the same code"
)]
fn back_ends_agree_on_every_listed_length() {
    let packet = |len: usize, at: usize| Packet {
        key: [7; 32],
        counter: at as u64,
        plaintext: vec![at as u8; len],
        padding: 0,
        offset: (len + at) % 64,
    };
    for len in LENGTHS {
        for batch in (1..=9).chain([15, 16, 17, 32, 33]) {
            let packets: Vec<Packet> = (0..batch).map(|at| packet(len, at)).collect();
            check(&packets, &[]).unwrap();
        }
        for (at, other) in LENGTHS.iter().enumerate() {
            check(&[packet(len, at), packet(*other, 1)], &[]).unwrap();
        }
    }
    for len in LONG_LENGTHS {
        for batch in [1, 3, 17] {
            let packets: Vec<Packet> = (0..batch).map(|at| packet(len, at)).collect();
            check(&packets, &[]).unwrap();
        }
    }
}

#[test]
fn an_empty_batch_is_nothing() {
    for back_end in back_ends() {
        back_end.seal(&mut []);
        back_end.open(&mut []);
    }
}

/// A verdict of one packet must not lean on its neighbours': every single one of a full
/// batch is forged in turn.
#[test]
#[cfg_attr(
    miri,
    ignore = "hours under Miri; the random batches cover the same code"
)]
fn each_place_of_a_batch_is_judged_alone() {
    let packets: Vec<Packet> = (0..40)
        .map(|at| Packet {
            key: [3; 32],
            counter: at,
            plaintext: vec![at as u8; 64 + at as usize % 3],
            padding: 0,
            offset: 0,
        })
        .collect();
    for at in 0..packets.len() {
        let mut forgeries = vec![Forgery::None; packets.len()];
        forgeries[at] = Forgery::Tag(at as u8);
        check(&packets, &forgeries).unwrap();
    }
}
