//! The UMEM: the frames that we share with the kernel, and who owns which.
//!
//! Memory is cut into [`CHUNK_SIZE`] chunks, one frame each. A chunk belongs either to us, then
//! exactly one [`Chunk`] token for it exists, or to the kernel, then none does. The token is given
//! up when the chunk's address goes into the fill or TX ring ([`Chunk::surrender`]) and made anew
//! when the address comes back from the RX or completion ring ([`Umem::reclaim`]). So two owners
//! of one frame would need two tokens, and the borrow checker guards the rest.

mod runs;

use core::sync::atomic::{AtomicU32, Ordering};
use std::io;

use super::mmap::Mapping;
pub(super) use runs::{MOST_RUN, Place, SendChunks};

/// Bytes of a chunk. Not 2048, though that is enough for Ethernet: igb then cuts frames to
/// 1024 bytes in zero-copy mode, without a word. More is not supported by the kernel (one page).
pub const CHUNK_SIZE: usize = 4096;

/// The frames of one socket, or of several that share them.
#[derive(Debug)]
pub(super) struct Umem {
    mapping: Mapping,
    chunks: u32,
    id: u32,
}

/// The right to one chunk of one [`Umem`].
///
/// INVARIANT: no two tokens with the same index and UMEM exist at a time; a [`Place`] counts as one for
/// each of its chunks.
#[derive(Debug)]
pub(super) struct Chunk {
    index: u32,
    /// The UMEM's id: a token is worth nothing with another one.
    umem: u32,
}

impl Chunk {
    /// Gives the chunk away, to be put into a ring: the UMEM address of its byte `offset`.
    /// Whoever drops the address loses the frame for the life of the UMEM.
    #[must_use]
    pub(super) const fn surrender(self, offset: usize) -> u64 {
        self.index as u64 * CHUNK_SIZE as u64 + offset as u64
    }

    /// Which chunk of its UMEM it is, counted from 0.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }
}

impl Umem {
    /// A UMEM of `count` chunks, and the right to each.
    pub(super) fn new(count: u32, huge_pages: bool) -> io::Result<(Self, Vec<Chunk>)> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let length = count as usize * CHUNK_SIZE;
        let mapping = Mapping::anonymous(length, huge_pages)?;
        mapping.keep_from_children()?;
        let umem = Self {
            mapping,
            chunks: count,
            id,
        };
        let chunks = (0..count).map(|index| Chunk { index, umem: id });
        Ok((umem, chunks.collect()))
    }

    /// Takes back the chunk that contains `address`, and the offset of `address` in it; `None`
    /// when `address` is not in this UMEM.
    ///
    /// # Safety
    /// `address` must come from a ring by which the kernel returns frames of this UMEM, and be
    /// taken from it once: the chunk was surrendered, and no token for it exists.
    pub(super) unsafe fn reclaim(&self, address: u64) -> Option<(Chunk, usize)> {
        let index = u32::try_from(address / CHUNK_SIZE as u64).ok()?;
        let offset = (address % CHUNK_SIZE as u64) as usize;
        let chunk = Chunk {
            index,
            umem: self.id,
        };
        (index < self.chunks).then_some((chunk, offset))
    }

    /// The bytes of `chunk` from `offset`, `length` of them; `None` when they are not inside it,
    /// or it is another UMEM's.
    pub(super) fn bytes<'a>(
        &'a self,
        chunk: &'a mut Chunk,
        offset: usize,
        length: usize,
    ) -> Option<&'a mut [u8]> {
        if chunk.umem != self.id || offset.checked_add(length)? > CHUNK_SIZE {
            return None;
        }
        let start = chunk.index as usize * CHUNK_SIZE + offset;
        // SAFETY: a token of this UMEM has an index below `chunks` (`new` and `reclaim` make no
        // other), and the range does not leave the chunk, so it lies in the mapping, which lives
        // as long as `self`. It is initialised (the mapping began as zeroes). Nobody else touches it:
        // the token is the only one for this chunk, it is borrowed mutably for as long as the slice
        // lives, and the kernel does not own the chunk while the token exists.
        unsafe {
            let first = self.mapping.start().add(start);
            Some(core::slice::from_raw_parts_mut(first.as_ptr(), length))
        }
    }

    /// The chunk in which all of `bytes` lie, and their offset in it; `None` when they lie elsewhere.
    pub(super) fn locate(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let start = bytes.as_ptr().addr();
        let place = start.checked_sub(self.mapping.start().as_ptr().addr())?;
        let index = u32::try_from(place / CHUNK_SIZE).ok()?;
        let offset = place % CHUNK_SIZE;
        let inside = index < self.chunks && bytes.len() <= CHUNK_SIZE - offset;
        inside.then_some((index, offset))
    }

    /// The first byte's address, for `XDP_UMEM_REG`.
    pub(super) fn start(&self) -> u64 {
        self.mapping.start().as_ptr() as u64
    }

    /// Bytes in use by chunks.
    pub(super) const fn length(&self) -> u64 {
        self.chunks as u64 * CHUNK_SIZE as u64
    }

    /// Whether the chunks lie on huge pages.
    pub(super) const fn huge_pages(&self) -> bool {
        self.mapping.huge()
    }
}

/// The chunks that wait to be used for sending; the last one freed, still warm in the cache,
/// is used first.
#[derive(Debug)]
pub(super) struct FreeChunks {
    free: Vec<Chunk>,
    total: usize,
}

impl FreeChunks {
    pub(super) fn new(chunks: Vec<Chunk>) -> Self {
        let total = chunks.len();
        Self {
            free: chunks,
            total,
        }
    }

    pub(super) fn take(&mut self) -> Option<Chunk> {
        self.free.pop()
    }

    /// Never allocates: there is room for all that were there at the beginning.
    pub(super) fn put(&mut self, chunk: Chunk) {
        debug_assert!(self.free.len() < self.total, "a chunk came back twice");
        self.free.push(chunk);
    }

    pub(super) const fn len(&self) -> usize {
        self.free.len()
    }

    pub(super) const fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_disjoint_and_keep_what_is_written() {
        let (umem, mut chunks) = Umem::new(8, false).unwrap();
        for (i, chunk) in chunks.iter_mut().enumerate() {
            umem.bytes(chunk, 0, CHUNK_SIZE).unwrap().fill(i as u8);
        }
        for (i, chunk) in chunks.iter_mut().enumerate() {
            let bytes = umem.bytes(chunk, 0, CHUNK_SIZE).unwrap();
            assert!(bytes.iter().all(|b| *b == i as u8));
        }
    }

    #[test]
    fn a_chunk_comes_back_by_any_address_in_it() {
        let (umem, mut chunks) = Umem::new(4, false).unwrap();
        let mut chunk = chunks.remove(2);
        umem.bytes(&mut chunk, 300, 4)
            .unwrap()
            .copy_from_slice(b"here");
        let address = chunk.surrender(300);
        assert_eq!(address, 2 * 4096 + 300);
        // SAFETY: this very chunk was surrendered one line above.
        let (mut chunk, offset) = unsafe { umem.reclaim(address) }.unwrap();
        assert_eq!(umem.bytes(&mut chunk, offset, 4).unwrap(), b"here");
    }

    #[test]
    fn nothing_outside_is_handed_out() {
        let (umem, mut chunks) = Umem::new(4, false).unwrap();
        let chunk = &mut chunks[3];
        assert!(umem.bytes(chunk, 0, CHUNK_SIZE + 1).is_none());
        assert!(umem.bytes(chunk, CHUNK_SIZE, 1).is_none());
        assert!(umem.bytes(chunk, usize::MAX, 2).is_none());
        let (_other, mut foreign) = Umem::new(1, false).unwrap();
        assert!(umem.bytes(&mut foreign[0], 0, 1).is_none());
        // SAFETY: no chunk is at these addresses, so no token can be doubled.
        unsafe {
            assert!(umem.reclaim(4 * 4096).is_none());
            assert!(umem.reclaim(u64::MAX).is_none());
        }
    }

    #[test]
    fn bytes_are_found_again_by_where_they_lie() {
        let (umem, mut chunks) = Umem::new(4, false).unwrap();
        for chunk in &mut chunks {
            let index = chunk.index();
            let bytes = umem.bytes(chunk, 300, 1000).unwrap();
            assert_eq!(umem.locate(bytes), Some((index, 300)));
            assert_eq!(umem.locate(&bytes[700..]), Some((index, 1000)));
            assert_eq!(umem.locate(&bytes[..0]), Some((index, 300)));
        }
        let (other, mut foreign) = Umem::new(4, false).unwrap();
        assert_eq!(
            umem.locate(other.bytes(&mut foreign[1], 0, 10).unwrap()),
            None
        );
        assert_eq!(umem.locate(b"on no chunk"), None);
    }

    #[test]
    fn free_chunks_are_a_stack() {
        let (_umem, chunks) = Umem::new(2, false).unwrap();
        let mut free = FreeChunks::new(chunks);
        let first = free.take().unwrap();
        let second = free.take().unwrap();
        assert!(free.take().is_none());
        let warm = first.index;
        free.put(second);
        free.put(first);
        assert_eq!(free.take().unwrap().index, warm);
        assert_eq!((free.len(), free.total()), (1, 2));
    }
}
