//! One AF_XDP socket: made, given its memory and rings, bound to a queue.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::XdpError;
use super::interface::Interface;
use super::metadata;
use super::mmap::Mapping;
use super::ring::{Consumer, Descriptor, Offsets, Producer};
use super::umem::{CHUNK_SIZE, Umem};

/// Option of `SOL_XDP` since Linux 6.18: how many descriptors one `sendto` may send in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// What we ask for (the kernel's default is 32). At most the size of the TX ring.
const TX_BUDGET: u32 = 256;

/// Pause between two tries to bind a queue that is still in use.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Entries of each ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingSizes {
    pub(super) fill: u32,
    pub(super) completion: u32,
    pub(super) rx: u32,
    /// None: a socket that only receives.
    pub(super) tx: Option<u32>,
}

/// Which modes to try, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    /// Zero copy; where the kernel refuses it, copy.
    #[default]
    Auto,
    /// Copy only.
    Never,
    /// Zero copy or nothing.
    Always,
}

/// What a socket got when it was bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mode {
    /// What `XDP_OPTIONS` said after the bind, whatever was asked for.
    pub(super) zero_copy: bool,
    pub(super) need_wakeup: bool,
    /// Whether a frame may lie in several chunks.
    pub(super) multi_buffer: bool,
}

/// What a socket is bound with, in every mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindOptions {
    pub(super) need_wakeup: bool,
    /// Frames of several chunks (`XDP_USE_SG`, since Linux 6.6).
    pub(super) multi_buffer: bool,
}

impl BindOptions {
    const fn flags(self) -> u16 {
        let wakeup = if self.need_wakeup {
            libc::XDP_USE_NEED_WAKEUP
        } else {
            0
        };
        let multi_buffer = if self.multi_buffer {
            libc::XDP_USE_SG
        } else {
            0
        };
        wakeup | multi_buffer
    }
}

/// Everything the kernel counts for a socket (`XDP_STATISTICS`). Kernels before 5.9 leave the
/// last three at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketStatistics {
    /// Frames dropped for other reasons than the ones below.
    pub rx_dropped: u64,
    /// Bad descriptors in the fill ring: an error of ours.
    pub rx_invalid_descs: u64,
    /// Bad descriptors in the TX ring: an error of ours.
    pub tx_invalid_descs: u64,
    /// Frames dropped because the RX ring was full: we read too slowly.
    pub rx_ring_full: u64,
    /// Times the fill ring had no frame to receive into.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the kernel looked into the TX ring and found nothing.
    pub tx_ring_empty_descs: u64,
}

/// A socket with its rings, bound or not.
#[derive(Debug)]
pub(super) struct Socket {
    // The order of the fields is the order of dropping: rings before the socket, because they
    // keep it (and with it the queue) alive, and the frames last.
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) rx: Consumer<Descriptor>,
    pub(super) tx: Option<Producer<Descriptor>>,
    /// Whether the bytes before a frame may be metadata.
    pub(super) metadata: bool,
    pub(super) handle: Arc<Handle>,
}

/// What the halves of a queue share: the descriptor and the frames.
#[derive(Debug)]
pub(super) struct Handle {
    fd: OwnedFd,
    pub(super) umem: Arc<Umem>,
}

impl Socket {
    /// A socket over `umem`, not bound yet; with room for TX `metadata` if that is wanted and the
    /// kernel knows it.
    pub(super) fn new(umem: Umem, sizes: RingSizes, metadata: bool) -> Result<Self, XdpError> {
        let fd = xdp_socket().map_err(XdpError::Socket)?;
        let metadata = register(fd.as_fd(), &umem, metadata)?;
        Self::with_rings(fd, Arc::new(umem), sizes, metadata)
    }

    /// A socket that is to share the frames of `owner`, by [`bind_shared`](Self::bind_shared).
    pub(super) fn sharing(owner: &Handle, sizes: RingSizes) -> Result<Self, XdpError> {
        let fd = xdp_socket().map_err(XdpError::Socket)?;
        Self::with_rings(fd, Arc::clone(&owner.umem), sizes, false)
    }

    fn with_rings(
        fd: OwnedFd,
        umem: Arc<Umem>,
        sizes: RingSizes,
        metadata: bool,
    ) -> Result<Self, XdpError> {
        set_ring_size(fd.as_fd(), Ring::Fill, sizes.fill)?;
        set_ring_size(fd.as_fd(), Ring::Completion, sizes.completion)?;
        set_ring_size(fd.as_fd(), Ring::Rx, sizes.rx)?;
        if let Some(tx) = sizes.tx {
            set_ring_size(fd.as_fd(), Ring::Tx, tx)?;
            raise_send_limits(fd.as_fd(), tx);
        }
        let offsets = mmap_offsets(fd.as_fd())?;

        let map_ring = |ring, raw, entries| map(fd.as_fd(), ring, &Offsets::from(raw), entries);

        let fill = map_ring(Ring::Fill, &offsets.fr, sizes.fill)?;
        // SAFETY: this ring of this new socket is mapped here and nowhere else, and we take one
        // side of it once; the other one is the kernel's, which keeps to the protocol.
        let fill = unsafe { Producer::new(fill, &(&offsets.fr).into(), sizes.fill) };
        let completion = map_ring(Ring::Completion, &offsets.cr, sizes.completion)?;
        // SAFETY: as for the fill ring.
        let completion =
            unsafe { Consumer::new(completion, &(&offsets.cr).into(), sizes.completion) };
        let rx = map_ring(Ring::Rx, &offsets.rx, sizes.rx)?;
        // SAFETY: as for the fill ring.
        let rx = unsafe { Consumer::new(rx, &(&offsets.rx).into(), sizes.rx) };
        let tx = match sizes.tx {
            None => None,
            Some(size) => {
                let tx = map_ring(Ring::Tx, &offsets.tx, size)?;
                // SAFETY: as for the fill ring.
                let tx = unsafe { Producer::new(tx, &(&offsets.tx).into(), size) };
                Some(tx.ok_or_else(misfit)?)
            }
        };
        Ok(Self {
            fill: fill.ok_or_else(misfit)?,
            completion: completion.ok_or_else(misfit)?,
            rx: rx.ok_or_else(misfit)?,
            tx,
            metadata,
            handle: Arc::new(Handle { fd, umem }),
        })
    }

    /// Binds to `queue` of `interface`, in the best mode of `zero_copy` that the kernel grants.
    ///
    /// A queue whose last socket has just been closed stays in use for some tens of
    /// milliseconds; `patience` is how long to try again.
    pub(super) fn bind(
        &self,
        interface: &Interface,
        queue: u32,
        zero_copy: ZeroCopy,
        options: BindOptions,
        patience: Duration,
    ) -> Result<Mode, XdpError> {
        let bind = |mode| self.bind_in(mode, interface, queue, options, patience);
        match zero_copy {
            ZeroCopy::Never => bind(COPY)?,
            ZeroCopy::Always => bind(ZERO_COPY)?,
            ZeroCopy::Auto => match bind(ZERO_COPY) {
                Err(XdpError::Bind { source, .. }) if refuses_mode(&source) => {
                    tracing::info!(
                        interface = interface.name(),
                        queue,
                        %source,
                        multi_buffer = options.multi_buffer,
                        "no zero copy: going on in copy mode"
                    );
                    bind(COPY)?;
                }
                answer => answer?,
            },
        }
        Ok(Mode {
            zero_copy: self.handle.is_zero_copy()?,
            need_wakeup: options.need_wakeup,
            multi_buffer: options.multi_buffer,
        })
    }

    /// Binds to `queue` of `interface` with the frames of `owner`, which is bound to another queue
    /// in `mode`. The kernel takes over that mode: a zero-copy one is refused by interfaces that
    /// only copy.
    pub(super) fn bind_shared(
        &self,
        owner: (&Handle, Mode),
        interface: &Interface,
        queue: u32,
        patience: Duration,
    ) -> Result<Mode, XdpError> {
        let (owner, mode) = owner;
        let shared = (libc::XDP_SHARED_UMEM, "shared memory");
        self.bind_with(shared, Some(owner.as_fd()), interface, queue, patience)?;
        Ok(Mode {
            zero_copy: self.handle.is_zero_copy()?,
            need_wakeup: mode.need_wakeup,
            multi_buffer: mode.multi_buffer,
        })
    }

    /// Binds in one mode with frames of its own.
    fn bind_in(
        &self,
        (flag, mode): (u16, &'static str),
        interface: &Interface,
        queue: u32,
        options: BindOptions,
        patience: Duration,
    ) -> Result<(), XdpError> {
        self.bind_with(
            (flag | options.flags(), mode),
            None,
            interface,
            queue,
            patience,
        )
    }

    /// Binds; tries again for `patience` while the queue is in use.
    fn bind_with(
        &self,
        (flags, mode): (u16, &'static str),
        owner: Option<BorrowedFd<'_>>,
        interface: &Interface,
        queue: u32,
        patience: Duration,
    ) -> Result<(), XdpError> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = bind(
                self.handle.fd.as_fd(),
                interface.index(),
                queue,
                flags,
                owner,
            );
            let Err(source) = answer else {
                return Ok(());
            };
            let name = interface.name().to_owned();
            if source.raw_os_error() != Some(libc::EBUSY) {
                return Err(XdpError::Bind {
                    interface: name,
                    queue,
                    mode,
                    source,
                });
            }
            if Instant::now() >= deadline {
                return Err(XdpError::Busy {
                    interface: name,
                    queue,
                    waited: patience,
                });
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }
}

const ZERO_COPY: (u16, &str) = (libc::XDP_ZEROCOPY, "zero copy");
const COPY: (u16, &str) = (libc::XDP_COPY, "copy");

/// A driver that cannot do zero copy says EOPNOTSUPP; one that could, but not with this card or
/// this configuration, says EINVAL, though its feature flag is set.
pub(super) fn refuses_mode(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// The kernel told offsets that do not fit what it mapped.
fn misfit() -> XdpError {
    XdpError::Option {
        option: "XDP_MMAP_OFFSETS",
        source: io::Error::new(io::ErrorKind::InvalidData, "offsets outside of the ring"),
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Handle {
    /// Has the kernel send what is in the TX ring: in copy mode it does so in this call (a
    /// bounded number: `EAGAIN` says that there is more), in zero copy it wakes the driver.
    pub(super) fn kick_tx(&self) -> io::Result<()> {
        // SAFETY: an empty message; no pointer is read.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                core::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                core::ptr::null(),
                0,
            )
        };
        check(sent)
    }

    /// Wakes a driver that went to sleep because the fill ring was empty.
    pub(super) fn kick_rx(&self) -> io::Result<()> {
        // SAFETY: an empty buffer; no pointer is written.
        let received = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                core::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
            )
        };
        check(received)
    }

    /// What the kernel counts for this socket.
    pub(super) fn statistics(&self) -> Result<SocketStatistics, XdpError> {
        let mut raw = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        // SAFETY: `xdp_statistics` is integers only.
        unsafe { get_option(self.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, &mut raw) }
            .map_err(|source| XdpError::Option {
                option: "XDP_STATISTICS",
                source,
            })?;
        Ok(SocketStatistics {
            rx_dropped: raw.rx_dropped,
            rx_invalid_descs: raw.rx_invalid_descs,
            tx_invalid_descs: raw.tx_invalid_descs,
            rx_ring_full: raw.rx_ring_full,
            rx_fill_ring_empty_descs: raw.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: raw.tx_ring_empty_descs,
        })
    }

    fn is_zero_copy(&self) -> Result<bool, XdpError> {
        let mut options = libc::xdp_options { flags: 0 };
        // SAFETY: `xdp_options` is one integer.
        unsafe { get_option(self.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS, &mut options) }
            .map_err(|source| XdpError::Option {
                option: "XDP_OPTIONS",
                source,
            })?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }
}

/// The rings by name, with the numbers that belong to each.
#[derive(Clone, Copy)]
enum Ring {
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

fn xdp_socket() -> io::Result<OwnedFd> {
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
fn register(fd: BorrowedFd<'_>, umem: &Umem, metadata: bool) -> Result<bool, XdpError> {
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

fn set_ring_size(fd: BorrowedFd<'_>, ring: Ring, entries: u32) -> Result<(), XdpError> {
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
fn raise_send_limits(fd: BorrowedFd<'_>, tx: u32) {
    // The kernel counts about 2.3 KiB for a frame of 1500 bytes, and doubles what is asked for.
    let bytes = tx.saturating_mul(CHUNK_SIZE as u32).cast_signed().max(0);
    // SAFETY: both options take an integer.
    unsafe {
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);
        let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET.min(tx));
    }
}

fn mmap_offsets(fd: BorrowedFd<'_>) -> Result<libc::xdp_mmap_offsets, XdpError> {
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

fn map(
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

fn bind(
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
pub(super) unsafe fn set_option<T>(
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
pub(super) unsafe fn get_option<T>(
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

fn check(result: isize) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
