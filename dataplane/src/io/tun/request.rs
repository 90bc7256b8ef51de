//! The ioctls: those that take a `struct ifreq`, and two that take a number.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{IFNAMSIZ, Ioctl, c_int, c_ulong};

/// `struct ifreq`: a name and up to 24 bytes of something else.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Request {
    name: [u8; IFNAMSIZ],
    data: [u8; 24],
}

const _: () = assert!(size_of::<Request>() >= size_of::<libc::ifreq>());

impl Request {
    /// For the interface `name`, which is at most 15 bytes long; the rest of a longer one is lost.
    pub(super) fn new(name: &str) -> Self {
        let mut request = Self {
            name: [0; IFNAMSIZ],
            data: [0; 24],
        };
        for (place, byte) in request.name.iter_mut().take(IFNAMSIZ - 1).zip(name.bytes()) {
            *place = byte;
        }
        request
    }

    /// With a number as its other part.
    pub(super) fn with_int(mut self, value: i32) -> Self {
        self.put(&value.to_ne_bytes());
        self
    }

    /// With flags as its other part.
    pub(super) fn with_flags(mut self, flags: i16) -> Self {
        self.put(&flags.to_ne_bytes());
        self
    }

    fn put(&mut self, value: &[u8]) {
        for (place, byte) in self.data.iter_mut().zip(value) {
            *place = *byte;
        }
    }

    /// The name, as the kernel may have completed it.
    pub(super) fn name(&self) -> String {
        let used = self.name.split(|byte| *byte == 0).next();
        String::from_utf8_lossy(used.unwrap_or_default()).into_owned()
    }

    pub(super) fn int(&self) -> i32 {
        let bytes = self.data.first_chunk().copied();
        i32::from_ne_bytes(bytes.unwrap_or_default())
    }

    pub(super) fn flags(&self) -> i16 {
        let bytes = self.data.first_chunk().copied();
        i16::from_ne_bytes(bytes.unwrap_or_default())
    }

    /// Hands the request to the kernel, which may write its answer into it. `code` must be an
    /// ioctl that takes a `struct ifreq` without pointers in it; the private callers in this
    /// folder use no other.
    pub(super) fn submit(&mut self, fd: BorrowedFd<'_>, code: Ioctl) -> io::Result<()> {
        // SAFETY: the pointer is to a structure at least as large and as strictly aligned as
        // `struct ifreq`, exclusively ours during the call; any bytes the kernel writes there
        // are valid. None of the codes used makes the kernel follow a pointer in it.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), code, &raw mut *self) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// An ioctl that takes a number: `TUNSETOFFLOAD`.
pub(super) fn set_number(fd: BorrowedFd<'_>, code: Ioctl, value: c_ulong) -> io::Result<()> {
    // SAFETY: the argument is a number, not a pointer; the kernel accesses no memory of ours.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), code, value) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// An ioctl that reads an `int`: `TUNSETVNETHDRSZ`.
pub(super) fn set_int(fd: BorrowedFd<'_>, code: Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer is to an `int` that outlives the call; the kernel only reads it.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), code, &raw const value) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_a_name_and_a_value() {
        let request = Request::new("kubespan").with_int(1420);
        assert_eq!(request.name(), "kubespan");
        assert_eq!(request.int(), 1420);
        assert_eq!(Request::new("x").with_flags(-3).flags(), -3);
        assert_eq!(Request::new("0123456789abcdefg").name(), "0123456789abcde");
    }
}
