//! The buffers that all contenders share.

use ringspan::crypto::aead::TAG_LEN;
use ringspan::crypto::{AeadKey, BatchAead as _, SealJob};

/// Bytes of packets that a timed stretch works on, about: fits a first-level data cache
/// together with what is sealed from it, where a single batch does.
const STRETCH: usize = 16 * 1024;

/// WireGuard's header of transport data lies before the ciphertext.
const HEADER: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Seal,
    Open,
}

impl Op {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
        }
    }
}

/// Lengths and keys of a batch.
pub(crate) struct Case {
    kind: &'static str,
    lens: Vec<usize>,
    keys: usize,
}

impl Case {
    pub(crate) fn uniform(len: usize, batch: usize) -> Self {
        Self {
            kind: "uniform",
            lens: vec![len; batch],
            keys: 1,
        }
    }

    /// A batch in which every packet has a key of its own.
    pub(crate) fn many_keys(len: usize, batch: usize) -> Self {
        Self {
            kind: "keys",
            lens: vec![len; batch],
            keys: batch,
        }
    }

    /// 7 × 64, 4 × 570 and 1 × 1,420 bytes, in an order as on a wire.
    pub(crate) fn imix(batch: usize) -> Self {
        const MIX: [usize; 12] = [64, 570, 64, 64, 1420, 64, 570, 64, 570, 64, 64, 570];
        Self {
            kind: "imix",
            lens: MIX.iter().copied().cycle().take(batch).collect(),
            keys: 1,
        }
    }

    /// Bytes of a packet, on average.
    pub(crate) fn mean(&self) -> f64 {
        self.lens.iter().sum::<usize>() as f64 / self.lens.len() as f64
    }

    /// Bytes of a packet, where all have the same.
    fn size(&self) -> usize {
        if self.kind == "imix" { 0 } else { self.lens[0] }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.kind, self.size(), self.lens.len())
    }
}

/// One packet's buffers.
pub(crate) struct Packet {
    pub(crate) key: usize,
    pub(crate) counter: u64,
    pub(crate) plaintext: Vec<u8>,
    frame: Vec<u8>,
    sealed: Vec<u8>,
    pub(crate) opened: bool,
}

impl Packet {
    /// Ciphertext and tag, behind the header.
    pub(crate) fn text(&mut self) -> &mut [u8] {
        &mut self.frame[HEADER..]
    }

    pub(crate) fn split(&mut self) -> (&[u8], &mut [u8]) {
        (&self.plaintext, &mut self.frame[HEADER..])
    }
}

/// A batch and the keys it uses, as numbers and as every library's objects.
pub(crate) struct Batch {
    pub(crate) packets: Vec<Packet>,
    pub(crate) keys: Vec<Keys>,
}

/// One key as every contender wants it: none makes its key object inside the timing.
pub(crate) struct Keys {
    pub(crate) ours: AeadKey,
    pub(crate) ring: ring::aead::LessSafeKey,
    pub(crate) aws_lc: aws_lc_rs::aead::LessSafeKey,
    pub(crate) rust_crypto: chacha20poly1305::ChaCha20Poly1305,
}

impl Keys {
    fn new(number: usize) -> Self {
        use chacha20poly1305::KeyInit as _;
        let mut bytes = [0x42; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let ring = ring::aead::UnboundKey::new(&ring::aead::CHACHA20_POLY1305, &bytes);
        let aws_lc = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::CHACHA20_POLY1305, &bytes);
        Self {
            ours: bytes.into(),
            ring: ring::aead::LessSafeKey::new(ring.unwrap()),
            aws_lc: aws_lc_rs::aead::LessSafeKey::new(aws_lc.unwrap()),
            rust_crypto: chacha20poly1305::ChaCha20Poly1305::new(&bytes.into()),
        }
    }
}

pub(crate) struct Pool(Vec<Batch>);

impl Pool {
    pub(crate) fn new(case: &Case) -> Self {
        let bytes: usize = case.lens.iter().sum();
        let batches = (STRETCH / bytes).clamp(1, 64);
        let mut counter = 1 << 40;
        let batch = || {
            let keys: Vec<Keys> = (0..case.keys).map(Keys::new).collect();
            let packet = |(at, len): (usize, &usize)| {
                counter += 1;
                let plaintext: Vec<u8> = (0..*len).map(|byte| (byte * 7 + at) as u8).collect();
                let mut sealed = vec![0; len + TAG_LEN];
                let key = at % case.keys;
                let job = SealJob::new(&keys[key].ours, counter, &plaintext, &mut sealed).unwrap();
                ringspan::crypto::portable::Portable.seal(&mut [job]);
                Packet {
                    key,
                    counter,
                    frame: [&[0; HEADER][..], &sealed].concat(),
                    plaintext,
                    sealed,
                    opened: false,
                }
            };
            let packets = case.lens.iter().enumerate().map(packet).collect();
            Batch { packets, keys }
        };
        Self(std::iter::repeat_with(batch).take(batches).collect())
    }

    pub(crate) fn batches(&mut self) -> &mut [Batch] {
        &mut self.0
    }

    pub(crate) fn packets(&self) -> usize {
        self.0.iter().map(|batch| batch.packets.len()).sum()
    }

    /// Puts back what a contender is to work on: plaintext for those that seal in place,
    /// ciphertext for opening.
    pub(crate) fn restore(&mut self, op: Op) {
        for packet in self.0.iter_mut().flat_map(|batch| &mut batch.packets) {
            packet.opened = false;
            match op {
                Op::Seal => {
                    let len = packet.plaintext.len();
                    packet.frame[HEADER..HEADER + len].copy_from_slice(&packet.plaintext);
                }
                Op::Open => packet.frame[HEADER..].copy_from_slice(&packet.sealed),
            }
        }
    }

    /// A contender that computes something else has no place in the table.
    pub(crate) fn check(&mut self, op: Op, name: &str) {
        for packet in self.0.iter_mut().flat_map(|batch| &mut batch.packets) {
            let right = match op {
                Op::Seal => packet.frame[HEADER..] == packet.sealed,
                Op::Open => {
                    packet.opened
                        && packet.frame[HEADER..HEADER + packet.plaintext.len()] == packet.plaintext
                }
            };
            assert!(right, "{name} is wrong in {}", op.name());
        }
    }
}
