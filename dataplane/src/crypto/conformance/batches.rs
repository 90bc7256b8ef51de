//! Batches to try, and how a back end does on them.

use proptest::prelude::*;

use crate::crypto::aead::TAG_LEN;
use crate::crypto::{AeadKey, BatchAead, OpenJob, SealJob, Verdict};

/// One packet of a batch.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) key: [u8; 32],
    pub(super) counter: u64,
    pub(super) plaintext: Vec<u8>,
    /// Zero bytes sealed behind the plaintext.
    pub(super) padding: usize,
    /// How far the buffers' beginnings are from an aligned address.
    pub(super) offset: usize,
}

impl Packet {
    pub(super) fn sealed_len(&self) -> usize {
        self.plaintext.len() + self.padding + TAG_LEN
    }
}

/// What marks bytes around a buffer, which nothing may write.
const MARK: u8 = 0xa5;

/// A buffer that begins `offset` bytes off an aligned address.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub(super) fn new(offset: usize, content: &[u8]) -> Self {
        let mut bytes = vec![MARK; content.len() + 64 + offset + 64];
        let start = bytes.as_ptr().align_offset(64).min(64) + offset;
        bytes[start..start + content.len()].copy_from_slice(content);
        Self {
            bytes,
            start,
            len: content.len(),
        }
    }

    pub(super) fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// The content, where nothing around it was written.
    pub(super) fn into_content(mut self) -> Vec<u8> {
        let content = self.get().to_vec();
        self.get().fill(MARK);
        assert!(
            self.bytes.iter().all(|byte| *byte == MARK),
            "bytes outside of the buffer were written"
        );
        content
    }
}

/// What `back_end` makes of the packets.
pub(super) fn seal(back_end: &dyn BatchAead, packets: &[Packet]) -> Vec<Vec<u8>> {
    let keys: Vec<AeadKey> = packets.iter().map(|packet| packet.key.into()).collect();
    let mut sources: Vec<Buffer> = packets
        .iter()
        .map(|packet| Buffer::new(packet.offset / 3, &packet.plaintext))
        .collect();
    let mut sealed: Vec<Buffer> = packets
        .iter()
        .map(|packet| Buffer::new(packet.offset, &vec![0x5a; packet.sealed_len()]))
        .collect();
    let mut jobs: Vec<SealJob<'_>> = packets
        .iter()
        .zip(&keys)
        .zip(&mut sources)
        .zip(&mut sealed)
        .map(|(((packet, key), src), dst)| {
            SealJob::new(key, packet.counter, src.get(), dst.get()).unwrap()
        })
        .collect();
    back_end.seal(&mut jobs);
    sealed.into_iter().map(Buffer::into_content).collect()
}

/// Opens what claims to be `packets`; buffers and verdicts afterwards.
pub(super) fn open(
    back_end: &dyn BatchAead,
    packets: &[Packet],
    sealed: &[Vec<u8>],
) -> Vec<(Vec<u8>, Verdict)> {
    let keys: Vec<AeadKey> = packets.iter().map(|packet| packet.key.into()).collect();
    let mut buffers: Vec<Buffer> = packets
        .iter()
        .zip(sealed)
        .map(|(packet, sealed)| Buffer::new(packet.offset, sealed))
        .collect();
    let mut jobs: Vec<OpenJob<'_>> = packets
        .iter()
        .zip(&keys)
        .zip(&mut buffers)
        .map(|((packet, key), buffer)| OpenJob::new(key, packet.counter, buffer.get()).unwrap())
        .collect();
    back_end.open(&mut jobs);
    let verdicts: Vec<Verdict> = jobs.iter().map(OpenJob::verdict).collect();
    buffers
        .into_iter()
        .map(Buffer::into_content)
        .zip(verdicts)
        .collect()
}

/// Lengths on either side of what code paths turn on.
pub(super) const LENGTHS: [usize; 32] = [
    0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257,
    511, 512, 513, 1023, 1024, 1025, 1420, 1421, 1440, 1452,
];

/// Lengths too long for every batch.
pub(super) const LONG_LENGTHS: [usize; 5] = [1984, 2048, 8920, 9000, 65_535];

pub(super) fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => prop::sample::select(&LENGTHS[..]),
        2 => 0..200_usize,
        1 => 0..1500_usize,
        1 => 1420..=1452_usize,
    ]
}

/// A batch under one key or a few or many, of lengths alike or not.
pub(super) fn batch() -> impl Strategy<Value = Vec<Packet>> {
    let count = prop_oneof![
        Just(1_usize),
        2..9_usize,
        9..40_usize,
        prop::sample::select(vec![15_usize, 16, 17, 31, 32, 33, 63, 64, 65]),
    ];
    (count, any::<bool>(), length()).prop_flat_map(|(count, alike, length)| {
        prop::collection::vec(packet(alike.then_some(length)), count)
    })
}

/// A batch longer than what is scheduled at once.
pub(super) fn long_batch() -> impl Strategy<Value = Vec<Packet>> {
    (250..=300_usize).prop_flat_map(|count| prop::collection::vec(packet_of(0..150_usize), count))
}

/// A few packets, one of them long.
pub(super) fn jumbo_batch() -> impl Strategy<Value = Vec<Packet>> {
    let long = packet_of(prop_oneof![
        prop::sample::select(&LONG_LENGTHS[..]),
        1500..65_536_usize
    ]);
    (
        long,
        prop::collection::vec(packet(None), 0..18),
        0..18_usize,
    )
        .prop_map(|(long, mut others, at)| {
            others.insert(at.min(others.len()), long);
            others
        })
}

fn packet(length_of_all: Option<usize>) -> impl Strategy<Value = Packet> {
    match length_of_all {
        Some(length) => packet_of(Just(length)).boxed(),
        None => packet_of(length()).boxed(),
    }
}

fn packet_of(length: impl Strategy<Value = usize>) -> impl Strategy<Value = Packet> {
    let key = prop_oneof![
        3 => Just([0x42; 32]),
        1 => any::<[u8; 32]>(),
        1 => any::<bool>().prop_map(|bit| [u8::from(bit); 32]),
    ];
    let counter = prop_oneof![
        any::<u64>(),
        0..3_u64,
        Just(u64::from(u32::MAX)),
        Just(u64::MAX)
    ];
    let padding = prop_oneof![3 => Just(0_usize), 1 => 0..80_usize];
    (key, counter, length, any::<u8>(), padding, 0..64_usize).prop_map(
        |(key, counter, length, seed, padding, offset)| Packet {
            key,
            counter,
            plaintext: (0..length)
                .map(|at| (at * 31 + at / 251) as u8 ^ seed)
                .collect(),
            padding: padding.min(65_535 - length),
            offset,
        },
    )
}
