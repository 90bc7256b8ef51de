//! The system calls that make an AF_XDP socket, one function each.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::super::error::XdpError;
use super::super::metadata;
use super::super::mmap::Mapping;
use super::super::ring::{Descriptor, Offsets};
use super::super::umem::{CHUNK_SIZE, Umem};

/// Option of `SOL_XDP` since Linux 6.18: how many descriptors one `sendto` may send in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// What we ask for (the kernel's default is 32). At most the size of the TX ring.
const TX_BUDGET: u32 = 256;

/// The rings by name, with the numbers that belong to each.
#[derive(Clone, Copy)]
pub(super) enum Ring {
    Fill,
    Completion,
    Rx,
    Tx,
}

impl Ring {
    const fn option(self) -> libc::c_int {
        match self {
            Self::Fill => libc::XDP_UMEM_FILL_RING,
            Self::Completion => libc::XDP_UMEM_COMPLETION_RING,
            Self::Rx => libc::XDP_RX_RING,
            Self::Tx => libc::XDP_TX_RING,
        }
    }

    const fn option_name(self) -> &'static str {
        match self {
            Self::Fill => "XDP_UMEM_FILL_RING",
            Self::Completion => "XDP_UMEM_COMPLETION_RING",
            Self::Rx => "XDP_RX_RING",
            Self::Tx => "XDP_TX_RING",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill ring",
            Self::Completion => "completion ring",
            Self::Rx => "RX ring",
            Self::Tx => "TX ring",
        }
    }

    const fn entry_size(self) -> usize {
        match self {
            Self::Fill | Self::Completion => size_of::<u64>(),
            Self::Rx | Self::Tx => size_of::<Descriptor>(),
        }
    }

    const fn page_offset(self) -> i64 {
        match self {
            Self::Fill => libc::XDP_UMEM_PGOFF_FILL_RING.cast_signed(),
            Self::Completion => libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed(),
            Self::Rx => libc::XDP_PGOFF_RX_RING,
            Self::Tx => libc::XDP_PGOFF_TX_RING,
        }
    }
}

impl From<&libc::xdp_ring_offset> for Offsets {
    fn from(raw: &libc::xdp_ring_offset) -> Self {
        // The target is 64-bit or the ring's check of the mapping's length fails.
        let offset = |value: u64| usize::try_from(value).unwrap_or(usize::MAX / 4);
        Self {
            producer: offset(raw.producer),
            consumer: offset(raw.consumer),
            flags: offset(raw.flags),
            entries: offset(raw.desc),
        }
    }
}

pub(super) fn xdp_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative answer is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Registers the UMEM; whether with room for metadata.
pub(super) fn register(fd: BorrowedFd<'_>, umem: &Umem, metadata: bool) -> Result<bool, XdpError> {
    if metadata {
        match register_with(fd, umem, metadata::LENGTH as u32) {
            // A kernel before 6.8 has no such flag.
            Err(XdpError::Memory { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            }
            answer => return answer.map(|()| true),
        }
    }
    register_with(fd, umem, 0).map(|()| false)
}

fn register_with(fd: BorrowedFd<'_>, umem: &Umem, metadata: u32) -> Result<(), XdpError> {
    let registration = libc::xdp_umem_reg {
        addr: umem.start(),
        len: umem.length(),
        chunk_size: CHUNK_SIZE as u32,
        headroom: 0,
        flags: if metadata == 0 {
            0
        } else {
            libc::XDP_UMEM_TX_METADATA_LEN
        },
        tx_metadata_len: metadata,
    };
    // SAFETY: the structure is what the option takes; the memory it names is the UMEM's, which
    // lives at least as long as the socket (`Handle` owns both), and which we only touch chunk
    // by chunk as ownership allows.
    unsafe { set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration) }.map_err(|source| {
        XdpError::Memory {
            what: "frames",
            bytes: umem.length(),
            source,
        }
    })
}

pub(super) fn set_ring_size(fd: BorrowedFd<'_>, ring: Ring, entries: u32) -> Result<(), XdpError> {
    // SAFETY: the option takes an integer.
    unsafe { set_option(fd, libc::SOL_XDP, ring.option(), &entries) }.map_err(|source| {
        XdpError::Option {
            option: ring.option_name(),
            source,
        }
    })
}

/// In copy mode each frame on its way counts as a socket buffer. The TX ring is to be the limit,
/// not the socket's buffer limit, and a system call is to send a whole batch. Both only make it
/// faster, so a refusal (no CAP_NET_ADMIN, an older kernel) changes nothing.
pub(super) fn raise_send_limits(fd: BorrowedFd<'_>, tx: u32) {
    // The kernel counts about 2.3 KiB for a frame of 1500 bytes, and doubles what is asked for.
    let bytes = tx.saturating_mul(CHUNK_SIZE as u32).cast_signed().max(0);
    // SAFETY: both options take an integer.
    unsafe {
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);
        let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET.min(tx));
    }
}

pub(super) fn mmap_offsets(fd: BorrowedFd<'_>) -> Result<libc::xdp_mmap_offsets, XdpError> {
    const NONE: libc::xdp_ring_offset = libc::xdp_ring_offset {
        producer: 0,
        consumer: 0,
        desc: 0,
        flags: 0,
    };
    let mut offsets = libc::xdp_mmap_offsets {
        rx: NONE,
        tx: NONE,
        fr: NONE,
        cr: NONE,
    };
    // SAFETY: `xdp_mmap_offsets` is integers only.
    unsafe { get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets) }.map_err(
        |source| XdpError::Option {
            option: "XDP_MMAP_OFFSETS",
            source,
        },
    )?;
    Ok(offsets)
}

pub(super) fn map(
    fd: BorrowedFd<'_>,
    ring: Ring,
    offsets: &Offsets,
    entries: u32,
) -> Result<Arc<Mapping>, XdpError> {
    let length = offsets.length(ring.entry_size(), entries);
    Mapping::shared(fd, length, ring.page_offset())
        .map(Arc::new)
        .map_err(|source| XdpError::Memory {
            what: ring.name(),
            bytes: length as u64,
            source,
        })
}

pub(super) fn bind(
    fd: BorrowedFd<'_>,
    interface: u32,
    queue: u32,
    flags: u16,
    owner: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        // Not looked at without XDP_SHARED_UMEM.
        sxdp_shared_umem_fd: owner.map_or(0, |owner| owner.as_raw_fd().cast_unsigned()),
    };
    // SAFETY: `address` is a whole `sockaddr_xdp`, which bind only reads.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    check(result as isize)
}

/// # Safety
/// `T` must be the structure that the option takes, and what it points to must be fit for what
/// the option does with it.
pub(in crate::io::xdp) unsafe fn set_option<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`; the rest is the caller's word.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    };
    check(result as isize)
}

/// # Safety
/// Any bytes must be a valid `T`.
pub(in crate::io::xdp) unsafe fn get_option<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut length = size_of::<T>() as u32;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which has that many, and the
    // caller vouches that they make a valid `T`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    };
    check(result as isize)
}

pub(super) fn check(result: isize) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
