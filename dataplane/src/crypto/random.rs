//! Where random bytes come from: the operating system, or in tests a seed.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};

/// The source of randomness has failed; nothing secret can be made now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the operating system has no random bytes to give (is getrandom(2) filtered by seccomp?)")]
pub struct NoRandomness;

/// A source of random bytes that an adversary cannot predict.
pub trait Random: Send {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`NoRandomness`] where the source fails; `bytes` must not be used then.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness>;

    /// A random number.
    ///
    /// # Errors
    /// As [`Random::fill`].
    fn next_u32(&mut self) -> Result<u32, NoRandomness> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A random number.
    ///
    /// # Errors
    /// As [`Random::fill`].
    fn next_u64(&mut self) -> Result<u64, NoRandomness> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The kernel's generator, asked every time: it is the one that is reseeded when a virtual
/// machine is cloned.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        getrandom::fill(bytes).map_err(|_| NoRandomness)
    }
}

/// The ChaCha20 key stream of a seed: the same bytes in every run. For tests, simulations and
/// fuzzing only; whoever knows the seed knows every key made with it.
#[derive(Clone, Debug)]
pub struct SeededRandom {
    key: [u8; 32],
    drawn: u64,
}

impl SeededRandom {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        if let Some(front) = key.first_chunk_mut() {
            *front = seed.to_le_bytes();
        }
        Self { key, drawn: 0 }
    }
}

impl Random for SeededRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        bytes.fill(0);
        let mut nonce = [0; 12];
        if let Some(front) = nonce.first_chunk_mut() {
            *front = self.drawn.to_le_bytes();
        }
        self.drawn += 1;
        ChaCha20Poly1305::new(&self.key.into())
            .encrypt_in_place_detached(&nonce.into(), &[], bytes)
            .map(|_| ())
            .map_err(|_| NoRandomness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_does_not() {
        let draw = |seed| {
            let mut random = SeededRandom::new(seed);
            (random.next_u32().unwrap(), random.next_u32().unwrap())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1).0, draw(1).1);
    }

    #[test]
    fn the_system_gives_bytes() {
        let mut bytes = [0; 64];
        OsRandom.fill(&mut bytes).unwrap();
        assert_ne!(bytes, [0; 64]);
    }
}
