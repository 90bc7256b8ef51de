//! What the SIMD back ends share: a batch as lanes, and the order in which lanes are run.
//!
//! A batch is flattened into *lanes*: each is one 64-byte ChaCha20 block of one packet. A
//! back end's [`Kernel`] runs lanes by the vectorful without knowing which packets they
//! belong to, and computes Poly1305 tags of several packets side by side; [`schedule`]
//! decides what runs when.

mod lanes;
mod lone;
mod order;
pub(super) mod schedule;

pub(super) use lanes::{LANES, Lanes};
pub(super) use lone::{BLOCKS, Rows};

use core::ptr;

use super::aead::{OpenJob, SealJob, TAG_LEN};
use super::poly1305::Poly1305;

/// A one-time Poly1305 key: `r` (not yet clamped) and `s` (RFC 8439 §2.6).
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct OneTimeKey(pub(super) [u8; 32]);

/// Messages that are authenticated side by side.
const GROUP: usize = 16;

/// A Poly1305 tag.
pub(super) type Tag = [u8; TAG_LEN];

/// One packet of a batch, as its job described it.
///
/// INVARIANT: `key` is readable for 32 bytes, `src` for `src_len`, and `dst` is writable for
/// `len` + [`TAG_LEN`] bytes, for as long as the job that it was made from is borrowed; no
/// other packet's `dst` overlaps any of these, and `src` is either `dst` (opening) or apart
/// from it (sealing). `src_len` ≤ `len` ≤ 65,535.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    pub(super) key: *const u8,
    pub(super) counter: u64,
    pub(super) src: *const u8,
    pub(super) dst: *mut u8,
    pub(super) src_len: usize,
    pub(super) len: usize,
}

impl Packet {
    fn sealed_by(job: &mut SealJob<'_>) -> Self {
        let (key, counter, src, dst) = job.parts();
        Self {
            key: key.as_bytes().as_ptr(),
            counter,
            src: src.as_ptr(),
            src_len: src.len(),
            len: dst.len().saturating_sub(TAG_LEN),
            dst: dst.as_mut_ptr(),
        }
    }

    fn opened_by(job: &mut OpenJob<'_>) -> Self {
        let (key, counter, buffer) = job.parts();
        let (key, len) = (
            key.as_bytes().as_ptr(),
            buffer.len().saturating_sub(TAG_LEN),
        );
        let dst = buffer.as_mut_ptr();
        Self {
            key,
            counter,
            src: dst,
            src_len: len,
            len,
            dst,
        }
    }

    /// Blocks of 64 bytes that the text takes.
    const fn text_blocks(&self) -> usize {
        self.len.div_ceil(64)
    }

    /// The tag's place, behind the text.
    fn tag(&self) -> *mut Tag {
        // Within `dst` by the type's invariant; wrapping arithmetic needs no proof here.
        self.dst.wrapping_add(self.len).cast()
    }
}

/// A ciphertext to authenticate.
///
/// INVARIANT: `text` is readable for `len` bytes.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) text: *const u8,
    pub(super) len: usize,
    /// What follows the padded text: the block of lengths, 0 (of associated data) and `len`
    /// in WireGuard's packets.
    pub(super) last: [u64; 2],
    pub(super) key: OneTimeKey,
}

impl Message {
    /// No text, and the key of zeros.
    pub(super) const EMPTY: Self = Self {
        text: ptr::null(),
        len: 0,
        last: [0; 2],
        key: OneTimeKey([0; 32]),
    };

    /// Blocks of 16 bytes that Poly1305 takes in: the padded text and the block of lengths.
    pub(super) const fn blocks(&self) -> usize {
        self.len.div_ceil(16) + 1
    }
}

/// A SIMD instruction set's way to run lanes and tags.
pub(super) trait Kernel {
    /// Lanes that cost the same as fewer: a pass of any number is rounded up to this.
    const STATE: usize;

    /// Very long messages that are best authenticated together.
    const JUMBOS: usize;

    /// Runs all lanes: XORs each one's keystream onto its source, into its destination.
    ///
    /// # Safety
    /// The CPU has the kernel's features, and the lanes' invariants hold.
    unsafe fn run(lanes: &mut Lanes);

    /// Computes the tags of `messages`, of which there are 16 at most.
    ///
    /// # Safety
    /// The CPU has the kernel's features, and the messages' invariants hold.
    unsafe fn tags(messages: &[Message], tags: &mut [Tag; GROUP]);

    /// Makes the first `count` blocks of a packet's keystream, from block 0, the one-time
    /// key's.
    ///
    /// # Safety
    /// The CPU has the kernel's features, and the packet's invariant holds.
    unsafe fn keystream(packet: &Packet, count: usize, rows: &mut Rows);

    /// XORs `take` bytes of `src` onto a row and zeroes what stands behind its first `put`.
    ///
    /// # Safety
    /// The CPU has the kernel's features, `src` is readable for `take` bytes, and `take` ≤
    /// `put` ≤ 64.
    unsafe fn xor_row(row: &mut [u8; 64], src: *const u8, take: usize, put: usize);

    /// Writes the first `put` bytes of a row.
    ///
    /// # Safety
    /// The CPU has the kernel's features, `dst` is writable for `put` bytes, and `put` ≤ 64.
    unsafe fn store_row(row: &[u8; 64], dst: *mut u8, put: usize);
}

/// The tag of one message, on the integer unit.
///
/// # Safety
/// The message's invariant holds.
#[inline(always)]
pub(super) unsafe fn tag_one(message: &Message) -> Tag {
    let mut poly = Poly1305::new(&message.key.0);
    let mut text = message.text;
    for _ in 0..message.len / 16 {
        // SAFETY: 16 bytes of text are left.
        let [low, high] = unsafe { text.cast::<[u64; 2]>().read_unaligned() };
        poly.block(u64::from_le(low), u64::from_le(high));
        text = text.wrapping_add(16);
    }
    let rest = message.len % 16;
    if rest > 0 {
        let mut last = [0; 16];
        // SAFETY: `rest` bytes of text are left.
        unsafe { ptr::copy_nonoverlapping(text, last.as_mut_ptr(), rest) };
        let last = u128::from_le_bytes(last);
        poly.block(last as u64, (last >> 64) as u64);
    }
    let [low, high] = message.last;
    poly.block(low, high);
    poly.finish()
}
