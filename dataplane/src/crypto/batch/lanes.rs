//! Lanes: the flattened batch, as arrays that load straight into vectors.

use core::ptr;

use super::Packet;

/// Lanes of one pass: two states of sixteen.
pub(in crate::crypto) const LANES: usize = 32;

/// Up to [`LANES`] ChaCha20 blocks, any packet's, in any order.
///
/// INVARIANT: for every lane below `len`: `key` is readable for 32 bytes, `src` for `take`
/// and `dst` writable for `put` bytes; `take` ≤ `put` ≤ 64; lanes' destinations are apart
/// from each other, and from every source but the same lane's.
#[repr(C, align(64))]
pub(in crate::crypto) struct Lanes {
    /// Block number: word 12 of the state.
    pub(in crate::crypto) block: [u32; LANES],
    /// Word 13: zero in WireGuard's nonces, so that nothing here writes it; known-answer
    /// tests of ChaCha20 at large do.
    pub(in crate::crypto) prefix: [u32; LANES],
    /// The counter's low half: word 14.
    pub(in crate::crypto) low: [u32; LANES],
    /// The counter's high half: word 15.
    pub(in crate::crypto) high: [u32; LANES],
    pub(in crate::crypto) key: [*const u8; LANES],
    pub(in crate::crypto) src: [*const u8; LANES],
    pub(in crate::crypto) dst: [*mut u8; LANES],
    /// Bytes to read from `src`; the rest of `put` is sealed as zeros.
    pub(in crate::crypto) take: [u8; LANES],
    /// Bytes to write to `dst`.
    pub(in crate::crypto) put: [u8; LANES],
    len: usize,
    /// Every lane takes and puts whole blocks.
    whole: bool,
    /// Every lane has the first one's key.
    one_key: bool,
}

impl Lanes {
    pub(in crate::crypto) const fn new() -> Self {
        Self {
            block: [0; LANES],
            prefix: [0; LANES],
            low: [0; LANES],
            high: [0; LANES],
            key: [ptr::null(); LANES],
            src: [ptr::null(); LANES],
            dst: [ptr::null_mut(); LANES],
            take: [0; LANES],
            put: [0; LANES],
            len: 0,
            whole: true,
            one_key: true,
        }
    }

    pub(in crate::crypto) const fn len(&self) -> usize {
        self.len
    }

    pub(in crate::crypto) const fn is_whole(&self) -> bool {
        self.whole
    }

    pub(in crate::crypto) const fn has_one_key(&self) -> bool {
        self.one_key
    }

    pub(in crate::crypto) const fn room(&self) -> usize {
        LANES.saturating_sub(self.len)
    }

    pub(in crate::crypto) const fn clear(&mut self) {
        self.len = 0;
        self.whole = true;
        self.one_key = true;
    }

    /// Adds the block that makes a packet's one-time key; 32 bytes go to `place`.
    ///
    /// # Safety
    /// `packet`'s invariant holds, `place` is writable for 32 bytes and no other lane's, and
    /// there is [room](Self::room).
    #[inline(always)]
    pub(in crate::crypto) unsafe fn push_key_block(&mut self, packet: &Packet, place: *mut u8) {
        // SAFETY: passed on; nothing is read from `src`.
        unsafe { self.push(packet, 0, place, 0, place, 32) };
    }

    /// Adds text blocks `from..to` of a packet (counted from 0).
    ///
    /// # Safety
    /// `packet`'s invariant holds, `to` is at most its number of text blocks, and there is
    /// [room](Self::room) for all.
    #[inline(always)]
    pub(in crate::crypto) unsafe fn push_text(&mut self, packet: &Packet, from: usize, to: usize) {
        for block in from..to {
            let start = block * 64;
            let put = (packet.len - start).min(64);
            let take = packet.src_len.saturating_sub(start).min(64);
            let (src, dst) = (
                packet.src.wrapping_add(start),
                packet.dst.wrapping_add(start),
            );
            // SAFETY: the block lies within the packet, and there is room.
            unsafe { self.push(packet, block + 1, src, take, dst, put) };
        }
    }

    /// Adds a text block whose keystream is parked at `place` for later use.
    ///
    /// # Safety
    /// As for [`push_text`](Self::push_text); `place` is writable for 64 bytes and no other
    /// lane's.
    #[inline(always)]
    pub(super) unsafe fn push_parked(&mut self, packet: &Packet, block: usize, place: *mut u8) {
        // SAFETY: passed on; nothing is read from `src`.
        unsafe { self.push(packet, block + 1, place, 0, place, 64) };
    }

    /// # Safety
    /// The new lane satisfies the type's invariant, and there is [room](Self::room).
    #[inline(always)]
    unsafe fn push(
        &mut self,
        packet: &Packet,
        block: usize,
        src: *const u8,
        take: usize,
        dst: *mut u8,
        put: usize,
    ) {
        let lane = self.len;
        debug_assert!(lane < LANES && take <= put && put <= 64);
        self.one_key &= lane == 0 || packet.key == self.key[0];
        self.whole &= take == 64;
        // SAFETY: `lane` is below `LANES`, as there is room.
        unsafe {
            *self.block.get_unchecked_mut(lane) = block as u32;
            *self.low.get_unchecked_mut(lane) = packet.counter as u32;
            *self.high.get_unchecked_mut(lane) = (packet.counter >> 32) as u32;
            *self.key.get_unchecked_mut(lane) = packet.key;
            *self.src.get_unchecked_mut(lane) = src;
            *self.dst.get_unchecked_mut(lane) = dst;
            *self.take.get_unchecked_mut(lane) = take as u8;
            *self.put.get_unchecked_mut(lane) = put as u8;
        }
        self.len = lane + 1;
    }
}
