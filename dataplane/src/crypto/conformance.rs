//! One suite for every back end: known answers, and agreement with the portable one.

use proptest::prelude::*;

use super::aead::TAG_LEN;
use super::backend::supported;
use super::portable::Portable;
use super::{AeadKey, BatchAead, OpenJob, SealJob, Verdict};

/// One packet of a generated batch.
#[derive(Clone, Debug)]
struct Packet {
    key: [u8; 32],
    counter: u64,
    plaintext: Vec<u8>,
    padding: usize,
}

fn seal(back_end: &dyn BatchAead, packets: &[Packet]) -> Vec<Vec<u8>> {
    let keys: Vec<AeadKey> = packets.iter().map(|packet| packet.key.into()).collect();
    let mut sealed: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| vec![0xa5; packet.plaintext.len() + packet.padding + TAG_LEN])
        .collect();
    let mut jobs: Vec<SealJob<'_>> = packets
        .iter()
        .zip(&keys)
        .zip(&mut sealed)
        .map(|((packet, key), dst)| {
            SealJob::new(key, packet.counter, &packet.plaintext, dst).unwrap()
        })
        .collect();
    back_end.seal(&mut jobs);
    sealed
}

fn open(back_end: &dyn BatchAead, packets: &[Packet], sealed: &mut [Vec<u8>]) -> Vec<Verdict> {
    let keys: Vec<AeadKey> = packets.iter().map(|packet| packet.key.into()).collect();
    let mut jobs: Vec<OpenJob<'_>> = packets
        .iter()
        .zip(&keys)
        .zip(sealed)
        .map(|((packet, key), buffer)| OpenJob::new(key, packet.counter, buffer).unwrap())
        .collect();
    back_end.open(&mut jobs);
    jobs.iter().map(OpenJob::verdict).collect()
}

fn packet() -> impl Strategy<Value = Packet> {
    (
        any::<[u8; 32]>(),
        any::<u64>(),
        prop::collection::vec(any::<u8>(), 0..300),
        0..40_usize,
    )
        .prop_map(|(key, counter, plaintext, padding)| Packet {
            key,
            counter,
            plaintext,
            padding,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_back_end_agrees_with_the_portable_one(
        packets in prop::collection::vec(packet(), 1..20),
    ) {
        let expected = seal(&Portable, &packets);
        for back_end in supported() {
            let mut sealed = seal(back_end, &packets);
            prop_assert_eq!(&sealed, &expected, "{}", back_end.name());
            let verdicts = open(back_end, &packets, &mut sealed);
            for ((packet, verdict), opened) in packets.iter().zip(verdicts).zip(&sealed) {
                prop_assert_eq!(verdict, Verdict::Authentic);
                let (text, padding) = opened[..opened.len() - TAG_LEN]
                    .split_at(packet.plaintext.len());
                prop_assert_eq!(text, &packet.plaintext[..]);
                prop_assert!(padding.iter().all(|byte| *byte == 0));
            }
        }
    }
}
