//! Memory mappings: the UMEM and the rings.

use core::ptr::NonNull;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The size of a huge page that a UMEM asks for.
const HUGE_PAGE: usize = 2 << 20;

/// A mapping that is unmapped on drop.
///
/// INVARIANT: `start` and `length` describe one live mapping, readable and writable, that
/// nothing else unmaps.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    huge: bool,
}

// SAFETY: a mapping is plain memory of the process; it belongs to no thread. What is read and
// written through it is governed by the rings and the UMEM, which hand out the pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above: `&Mapping` gives out nothing but a pointer and a length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory of at least `length` bytes, on huge pages where the system has some to
    /// give, else on ordinary ones (which the kernel may still merge).
    pub(super) fn anonymous(length: usize, try_huge: bool) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        if try_huge {
            let rounded = length.next_multiple_of(HUGE_PAGE);
            let huge = flags | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
            if let Ok(start) = map(rounded, huge, -1, 0) {
                return Ok(Self {
                    start,
                    length: rounded,
                    huge: true,
                });
            }
        }
        Ok(Self {
            start: map(length, flags, -1, 0)?,
            length,
            huge: false,
        })
    }

    /// Keeps the mapping from child processes: after a fork, a write could otherwise move it to
    /// fresh pages, away from those that the kernel has pinned.
    pub(super) fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: the invariant of `Mapping`; this advice changes nothing for this process.
        let result =
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_DONTFORK) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// `length` bytes of what `fd` offers at `offset`, shared with the kernel.
    pub(super) fn shared(fd: BorrowedFd<'_>, length: usize, offset: i64) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Ok(Self {
            start: map(length, flags, fd.as_raw_fd(), offset)?,
            length,
            huge: false,
        })
    }

    /// The first byte.
    pub(super) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes mapped.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// Whether the mapping stands on huge pages.
    pub(super) const fn huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the invariant of `Mapping`: this range is mapped, and ours to unmap. The result
        // is of no use: it can only say that the range was wrong.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn map(length: usize, flags: i32, fd: i32, offset: i64) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: without MAP_FIXED the kernel chooses an unused range, so no memory of the process
    // changes; the kernel checks all arguments.
    let start =
        unsafe { libc::mmap64(core::ptr::null_mut(), length, protection, flags, fd, offset) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}
