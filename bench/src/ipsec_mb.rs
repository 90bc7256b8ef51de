//! Intel's multi-buffer library (VPP's engine), where its header and library were found when
//! this crate was built.

use std::ffi::c_int;
use std::ptr::NonNull;

/// One packet, sealed or opened from `src` to `dst`, which may be the same.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Job {
    key: *const u8,
    nonce: *const u8,
    src: *const u8,
    dst: *mut u8,
    len: u64,
    tag: *mut u8,
}

impl Job {
    /// A job in place; the tag that belongs to the ciphertext goes to `tag`.
    ///
    /// The job holds its arguments' addresses: it may be run while they live, and only once.
    pub fn in_place(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8], tag: &mut [u8; 16]) -> Self {
        Self {
            key: key.as_ptr(),
            nonce: nonce.as_ptr(),
            src: text.as_ptr(),
            dst: text.as_mut_ptr(),
            len: text.len() as u64,
            tag: tag.as_mut_ptr(),
        }
    }
}

#[repr(C)]
struct Handle {
    opaque: [u8; 0],
}

unsafe extern "C" {
    fn ringspan_mb_new() -> *mut Handle;
    fn ringspan_mb_free(manager: *mut Handle);
    fn ringspan_mb_run(manager: *mut Handle, jobs: *const Job, count: usize, seal: c_int) -> usize;
}

/// The library's multi-buffer manager.
#[derive(Debug)]
pub struct Manager(NonNull<Handle>);

impl Manager {
    /// A manager of the fastest kind that the CPU can run.
    #[must_use]
    pub fn new() -> Option<Self> {
        // SAFETY: no arguments; null is refused.
        NonNull::new(unsafe { ringspan_mb_new() }).map(Self)
    }

    /// Runs all jobs; whether every one was completed.
    ///
    /// # Safety
    /// What the jobs were made from is alive, and nothing else refers to it.
    pub unsafe fn run(&mut self, jobs: &[Job], seal: bool) -> bool {
        // SAFETY: the manager is alive; the jobs' buffers are by the caller's promise.
        let done = unsafe {
            ringspan_mb_run(
                self.0.as_ptr(),
                jobs.as_ptr(),
                jobs.len(),
                c_int::from(seal),
            )
        };
        done == jobs.len()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { ringspan_mb_free(self.0.as_ptr()) };
    }
}
