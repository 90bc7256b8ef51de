//! The batched AEAD: ChaCha20-Poly1305 (RFC 8439) over many packets at once.
//!
//! Transport data has no associated data and a nonce of four zero bytes followed by the
//! little-endian 64-bit counter (WireGuard paper §5.4.6), so a job holds just key, counter
//! and buffers. Jobs of one batch may have any mix of lengths, keys and counters.

use super::AeadKey;

/// Bytes that sealing adds: the Poly1305 tag.
pub const TAG_LEN: usize = 16;

/// The longest plaintext of a job, in bytes.
pub const MAX_PLAINTEXT: usize = 65_535;

/// What became of an [`OpenJob`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No back end has looked at it yet. Treat as [`Verdict::Forged`].
    Pending,
    /// The tag is right; the buffer begins with the plaintext.
    Authentic,
    /// The tag is wrong; the buffer holds no plaintext.
    Forged,
}

/// A length that no job can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{source_len} bytes of input do not fit {buffer_len} bytes of buffer ({MAX_PLAINTEXT} bytes of plaintext at most, {TAG_LEN} of tag)"
)]
pub struct LengthError {
    source_len: usize,
    buffer_len: usize,
}

/// One packet to seal, from `src` into `dst`.
///
/// `dst` may be longer than `src` and the tag need: the difference is sealed as zero bytes
/// after the plaintext (WireGuard's padding), so that no caller has to pad in the source.
#[derive(Debug)]
pub struct SealJob<'a> {
    key: &'a AeadKey,
    counter: u64,
    src: &'a [u8],
    dst: &'a mut [u8],
}

impl<'a> SealJob<'a> {
    /// A job that fills the whole of `dst` with the ciphertext of `src`, zero padding, and tag.
    ///
    /// # Errors
    /// [`LengthError`] where `dst` cannot hold `src` and a tag, or would hold more than
    /// [`MAX_PLAINTEXT`] bytes of plaintext.
    pub fn new(
        key: &'a AeadKey,
        counter: u64,
        src: &'a [u8],
        dst: &'a mut [u8],
    ) -> Result<Self, LengthError> {
        match dst.len().checked_sub(TAG_LEN) {
            Some(room) if room >= src.len() && room <= MAX_PLAINTEXT => Ok(Self {
                key,
                counter,
                src,
                dst,
            }),
            _ => Err(LengthError {
                source_len: src.len(),
                buffer_len: dst.len(),
            }),
        }
    }

    /// Key, counter, source and destination, for back ends. The destination is longer than
    /// the source by at least [`TAG_LEN`] bytes.
    pub fn parts(&mut self) -> (&AeadKey, u64, &[u8], &mut [u8]) {
        (self.key, self.counter, self.src, self.dst)
    }

    /// Key, counter and the destination less its tag, filled with plaintext and padding: for
    /// back ends that seal in place.
    pub(crate) fn fill_plaintext(&mut self) -> (&AeadKey, u64, &mut [u8]) {
        let (plaintext, _) = split_tag(self.dst);
        let (text, padding) = plaintext.split_at_mut(self.src.len());
        text.copy_from_slice(self.src);
        padding.fill(0);
        (self.key, self.counter, plaintext)
    }

    /// Writes the tag, for back ends.
    pub(crate) fn set_tag(&mut self, tag: &[u8; TAG_LEN]) {
        let (_, place) = split_tag(self.dst);
        place.copy_from_slice(tag);
    }

    /// Zeroes the destination: no packet may carry plaintext because sealing failed.
    pub(crate) fn wipe(&mut self) {
        self.dst.fill(0);
    }
}

/// A buffer of at least [`TAG_LEN`] bytes as text and tag.
fn split_tag(buffer: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    buffer.split_at_mut(buffer.len().saturating_sub(TAG_LEN))
}

/// The nonce of transport data: four zero bytes and the counter (WireGuard paper §5.4.6).
pub(crate) fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(place) = nonce.last_chunk_mut() {
        *place = counter.to_le_bytes();
    }
    nonce
}

/// One packet to open in place: ciphertext and tag in, plaintext out at the buffer's beginning.
#[derive(Debug)]
pub struct OpenJob<'a> {
    key: &'a AeadKey,
    counter: u64,
    buffer: &'a mut [u8],
    verdict: Verdict,
}

impl<'a> OpenJob<'a> {
    /// A job over `buffer`: ciphertext with its tag at the end.
    ///
    /// # Errors
    /// [`LengthError`] where `buffer` is shorter than a tag or longer than
    /// [`MAX_PLAINTEXT`] and a tag.
    pub fn new(key: &'a AeadKey, counter: u64, buffer: &'a mut [u8]) -> Result<Self, LengthError> {
        match buffer.len().checked_sub(TAG_LEN) {
            Some(plain) if plain <= MAX_PLAINTEXT => Ok(Self {
                key,
                counter,
                buffer,
                verdict: Verdict::Pending,
            }),
            _ => Err(LengthError {
                source_len: buffer.len(),
                buffer_len: buffer.len(),
            }),
        }
    }

    /// Key, counter and buffer, for back ends.
    pub fn parts(&mut self) -> (&AeadKey, u64, &mut [u8]) {
        (self.key, self.counter, self.buffer)
    }

    /// Key, counter, ciphertext and tag, for back ends.
    pub(crate) fn split(&mut self) -> (&AeadKey, u64, &mut [u8], &[u8; TAG_LEN]) {
        const NONE: &[u8; TAG_LEN] = &[0; TAG_LEN];
        let (ciphertext, tag) = split_tag(self.buffer);
        // `new` refused buffers shorter than a tag.
        let tag = tag.first_chunk().unwrap_or(NONE);
        (self.key, self.counter, ciphertext, tag)
    }

    /// Sets the verdict, for back ends.
    pub fn decide(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// What the back end found.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The plaintext, where the tag was right.
    #[must_use]
    pub fn into_plaintext(self) -> Option<&'a mut [u8]> {
        let Self {
            buffer, verdict, ..
        } = self;
        let len = buffer.len().checked_sub(TAG_LEN)?;
        (verdict == Verdict::Authentic).then(|| buffer.get_mut(..len))?
    }
}

/// A batched ChaCha20-Poly1305.
///
/// Back ends compare all tags of a batch in constant time before they act on any of them.
pub trait BatchAead: Send + Sync + core::fmt::Debug {
    /// The name that `RINGSPAN_CRYPTO` knows it by.
    fn name(&self) -> &'static str;

    /// Seals every job.
    fn seal(&self, jobs: &mut [SealJob<'_>]);

    /// Opens every job and sets its verdict. The buffer of a forged packet is left without
    /// plaintext (untouched or wiped).
    fn open(&self, jobs: &mut [OpenJob<'_>]);
}
