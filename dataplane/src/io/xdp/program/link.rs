//! The bpf_link that holds the program on its interface.
//!
//! Made by the system call itself: the library's `attach` falls back to netlink when the kernel
//! answers EINVAL, and an attachment by netlink displaces whoever is there and outlives its maker
//! (docs/decisions/0010).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `enum bpf_cmd` in `linux/bpf.h`.
const BPF_LINK_CREATE: libc::c_int = 28;
/// `enum bpf_attach_type` in `linux/bpf.h`.
const BPF_XDP: u32 = 37;

/// `XDP_FLAGS_SKB_MODE` in `linux/if_link.h`.
pub(super) const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE` in `linux/if_link.h`.
pub(super) const NATIVE: u32 = 1 << 2;

/// The beginning of `bpf_attr.link_create`; the kernel takes what is missing as zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches `program` to the interface with index `interface` until the link is closed, by
/// dropping it or by the end of the process.
///
/// # Errors
/// `EBUSY` or `EEXIST` if another program is attached; `ENODEV` if there is no such interface;
/// whatever the driver says.
pub(super) fn create(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface,
        attach_type: BPF_XDP,
        flags,
    };
    // SAFETY: the kernel reads `size_of::<LinkCreate>()` bytes of `attributes`, which outlives the
    // call, and writes nothing.
    let link = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attributes,
            size_of::<LinkCreate>(),
        )
    };
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative answer is a new file descriptor that nobody else has; it fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(link as libc::c_int) })
}
