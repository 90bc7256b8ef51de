//! A lone short packet: no lanes to fill, so no lanes. All its blocks run as rows, and the
//! integer unit computes the tag.

use core::hint::black_box;

use super::{Kernel, Packet};
use crate::crypto::poly1305::Poly1305;

/// Blocks of ChaCha20 that a lone packet takes at most, its key block among them.
pub(in crate::crypto) const BLOCKS: usize = 8;

/// Bytes of text that a lone packet has at most.
pub(super) const LEN: usize = (BLOCKS - 1) * 64;

/// Blocks of keystream, and then of text.
#[repr(C, align(64))]
pub(in crate::crypto) struct Rows(pub(in crate::crypto) [[u8; 64]; BLOCKS]);

impl Rows {
    fn wipe(&mut self, count: usize) {
        for row in self.0.iter_mut().take(count) {
            *row = [0; 64];
        }
        black_box(&self.0);
    }
}

/// Seals a packet of at most [`LEN`] bytes.
///
/// # Safety
/// The CPU has the kernel's features, and the packet's invariant holds.
#[inline(always)]
pub(super) unsafe fn seal<K: Kernel>(packet: &Packet) {
    let count = 1 + packet.text_blocks();
    let mut rows = Rows([[0; 64]; BLOCKS]);
    // SAFETY: the packet has `count` blocks, no more than there are rows; every row lies
    // within its text.
    unsafe {
        K::keystream(packet, count, &mut rows);
        let [key, texts @ ..] = &mut rows.0;
        let mut poly = Poly1305::new(first_half(key));
        for (at, row) in texts.iter_mut().take(count - 1).enumerate() {
            let (start, put, take) = place(packet, at);
            K::xor_row(row, packet.src.wrapping_add(start), take, put);
            K::store_row(row, packet.dst.wrapping_add(start), put);
        }
        take_in(&mut poly, texts, packet.len);
        packet.tag().write_unaligned(poly.finish());
    }
    rows.wipe(count);
}

/// Opens a packet of at most [`LEN`] bytes, where its tag is right, and says whether it is.
///
/// # Safety
/// The CPU has the kernel's features, and the packet's invariant holds.
#[inline(always)]
pub(super) unsafe fn open<K: Kernel>(packet: &Packet) -> bool {
    let count = 1 + packet.text_blocks();
    let mut rows = Rows([[0; 64]; BLOCKS]);
    let mut sealed = Rows([[0; 64]; BLOCKS]);
    // SAFETY: as in `seal`.
    let authentic = unsafe {
        K::keystream(packet, count, &mut rows);
        let [key, keystream @ ..] = &mut rows.0;
        let mut poly = Poly1305::new(first_half(key));
        let [texts @ .., _] = &mut sealed.0;
        for (at, row) in texts.iter_mut().take(count - 1).enumerate() {
            let (start, put, _) = place(packet, at);
            K::xor_row(row, packet.src.wrapping_add(start), put, put);
        }
        take_in(&mut poly, texts, packet.len);
        let borne = packet.tag().read_unaligned();
        let authentic = u128::from_ne_bytes(borne) ^ u128::from_ne_bytes(poly.finish()) == 0;
        if authentic {
            for (at, row) in keystream.iter_mut().take(count - 1).enumerate() {
                let (start, put, _) = place(packet, at);
                let text = packet.dst.wrapping_add(start);
                K::xor_row(row, text, put, put);
                K::store_row(row, text, put);
            }
        }
        authentic
    };
    rows.wipe(count);
    authentic
}

/// A text block's beginning, and how many bytes of it there are to write and to read.
#[inline(always)]
fn place(packet: &Packet, block: usize) -> (usize, usize, usize) {
    let start = block * 64;
    (
        start,
        (packet.len - start).min(64),
        packet.src_len.saturating_sub(start).min(64),
    )
}

/// Takes in a text of `len` bytes, zero behind its end, and the block of lengths.
#[inline(always)]
fn take_in(poly: &mut Poly1305, texts: &[[u8; 64]], len: usize) {
    let blocks = texts.iter().flat_map(|row| row.as_chunks::<16>().0);
    for block in blocks.take(len.div_ceil(16)) {
        let block = u128::from_le_bytes(*block);
        poly.block(block as u64, (block >> 64) as u64);
    }
    poly.block(0, len as u64);
}

#[inline(always)]
fn first_half(row: &[u8; 64]) -> &[u8; 32] {
    let (halves, _) = row.as_chunks();
    halves.first().unwrap_or(&[0; 32])
}
