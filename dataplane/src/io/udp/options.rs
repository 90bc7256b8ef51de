//! Socket options with an integer value.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, socklen_t};

/// `setsockopt` with an `int`.
pub(super) fn set(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel
    // only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the firewall mark of everything that the socket sends.
pub(crate) fn set_mark(fd: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
}

/// `getsockopt` of an array of `int`; what the kernel does not know stays zero.
pub(super) fn values<const N: usize>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
) -> io::Result<[c_int; N]> {
    let mut values = [0; N];
    let mut len = size_of_val(&values) as socklen_t;
    // SAFETY: the pointer and `len` describe `values`, which outlives the call; the kernel
    // writes at most `len` bytes, and every bit pattern is a valid `int`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut values).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(values)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a buffer size in bytes: beyond the system's limit where we may (`CAP_NET_ADMIN`), else as
/// far as it goes. The kernel doubles the value to account for its own overhead.
pub(super) fn set_buffer(
    fd: BorrowedFd<'_>,
    force: c_int,
    polite: c_int,
    bytes: usize,
) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX / 2);
    set(fd, libc::SOL_SOCKET, force, bytes).or_else(|_| set(fd, libc::SOL_SOCKET, polite, bytes))
}
