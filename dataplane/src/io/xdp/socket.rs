//! One AF_XDP socket: made, given its memory and rings, bound to a queue.

mod calls;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::XdpError;
use super::interface::Interface;
use super::ring::{Consumer, Descriptor, Offsets, Producer};
use super::umem::Umem;
use calls::{
    Ring, bind, check, map, mmap_offsets, raise_send_limits, register, set_ring_size, xdp_socket,
};
pub(super) use calls::{get_option, set_option};

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
