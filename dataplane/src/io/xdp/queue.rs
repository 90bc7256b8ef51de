//! One queue of the interface: its socket, bound, with the frames dealt out to its halves.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::busy_poll::BusyPolling;
use super::driver::{MOST_RECEIVED_HEADERS, XdpConfig};
use super::error::XdpError;
use super::features::Features;
use super::gather::Gather;
use super::interface::Interface;
use super::metadata::TxChecksum;
use super::outlet::Outlet;
use super::program::AttachedMode;
use super::ring::Producer;
use super::rx::XdpRx;
use super::rx_frames::RxSide;
use super::socket::{BindOptions, Handle, Mode, RingSizes, Socket, ZeroCopy};
use super::tx::{TxSettings, XdpTx};
use super::umem::{Chunk, Umem};
use crate::engine::port::DriverInfo;

/// What a queue's halves say of themselves.
#[derive(Debug)]
pub(super) struct Description {
    /// The interface's index.
    pub(super) interface: u32,
    pub(super) interface_name: String,
    pub(super) queue: u32,
    pub(super) mode: Mode,
    pub(super) attached: AttachedMode,
    pub(super) huge_pages: bool,
    pub(super) busy_poll: BusyPolling,
    /// Whether the UMEM is another socket's too.
    pub(super) shares: bool,
    /// Keeps the XDP program on the interface until the last socket is closed: in the other
    /// order the kernel may warn, and a card in zero-copy mode reset. Dropped after the socket
    /// because the halves drop their handle first.
    pub(super) _program: Arc<OwnedFd>,
}

impl Description {
    pub(super) fn info(&self) -> DriverInfo {
        let copy = if self.mode.zero_copy {
            "zero copy"
        } else {
            "copy"
        };
        let mut mode = format!("{copy}, {}", self.attached);
        if self.mode.need_wakeup {
            mode.push_str(", need-wakeup");
        }
        if self.mode.multi_buffer {
            mode.push_str(", multi-buffer");
        }
        if self.huge_pages {
            mode.push_str(", huge pages");
        }
        mode.push_str(&self.busy_poll.to_string());
        if self.shares {
            mode.push_str(", shared memory");
        }
        DriverInfo {
            driver: "xdp",
            mode,
            interface: self.interface_name.clone(),
            queue: Some(self.queue),
        }
    }
}

/// A bound queue, not yet given to anybody.
#[derive(Debug)]
pub struct XdpQueue {
    rx: XdpRx,
    tx: Option<XdpTx>,
    queue: u32,
    mode: Mode,
    lacks: Vec<String>,
    handle: Arc<Handle>,
    /// Of the same UMEM, for an inner queue.
    spare: Vec<Chunk>,
    rx_frames: u32,
}

impl XdpQueue {
    pub(super) fn open(
        interface: &Interface,
        queue: u32,
        attached: AttachedMode,
        program: Arc<OwnedFd>,
        features: Features,
        config: &XdpConfig,
    ) -> Result<Self, XdpError> {
        let tx_frames = if config.transmit.is_some() {
            config.tx_ring
        } else {
            0
        };
        let rx_frames = config.rx_frames;
        let memory = |source| XdpError::Memory {
            what: "frames",
            bytes: u64::from(rx_frames + tx_frames + config.spare_frames)
                * super::CHUNK_SIZE as u64,
            source,
        };
        let (umem, mut chunks) = Umem::new(
            rx_frames + tx_frames + config.spare_frames,
            config.huge_pages,
        )
        .map_err(memory)?;
        let huge_pages = umem.huge_pages();
        let spare = chunks.split_off((rx_frames + tx_frames) as usize);
        let tx_chunks = chunks.split_off(rx_frames as usize);

        // A program in generic mode sees copies only, whatever the driver could do.
        let zero_copy = match attached {
            AttachedMode::Native => config.zero_copy,
            AttachedMode::Generic => ZeroCopy::Never,
        };
        // Before the UMEM is registered, and so before anybody knows the mode. Every buffer of a jumbo
        // frame would need the room, and they begin with their chunks.
        let room_for_metadata = tx_frames > 0
            && !config.multi_buffer()
            && config
                .tx_checksum
                .wants_room(zero_copy != ZeroCopy::Never, features.tx_checksum);
        let mut socket = Socket::new(
            umem,
            RingSizes {
                // Giving a frame back cannot fail: there are entries for all of them, and again as
                // many because the kernel hands received frames out before it frees their entries.
                fill: 2 * rx_frames,
                // The kernel asks for a completion ring also where nothing is sent.
                completion: tx_frames.max(LEAST_RING),
                rx: config.rx_ring,
                tx: (tx_frames > 0).then_some(tx_frames),
            },
            room_for_metadata,
        )?;
        // Before the bind: a zero-copy driver takes its first frames during it.
        fill_all(&mut socket.fill, chunks);
        let mode = socket.bind(
            interface,
            queue,
            zero_copy,
            BindOptions {
                need_wakeup: config.need_wakeup,
                multi_buffer: config.multi_buffer(),
            },
            config.bind_patience,
        )?;

        let Socket {
            fill,
            completion,
            rx,
            tx,
            metadata,
            handle,
        } = socket;
        let busy_poll = BusyPolling::enable((*handle).as_fd(), config.busy_poll);
        let mut lacks = Vec::new();
        if let BusyPolling::Refused(option, error) = &busy_poll {
            lacks.push(format!(
                "no busy polling on {}: the kernel refuses {option}: {error}",
                interface.name()
            ));
        }
        let metadata = config
            .tx_checksum
            .asks(metadata, mode.zero_copy, features.tx_checksum);
        if config.tx_checksum == TxChecksum::Device && tx.is_some() && !metadata {
            lacks.push(format!(
                "checksums of what {} sends are computed in software: {}",
                interface.name(),
                if config.multi_buffer() {
                    "jumbo frames have no room for the request"
                } else if mode.zero_copy && !features.tx_checksum {
                    "its driver does not declare that the card can"
                } else {
                    "the kernel has no TX metadata (Linux 6.8 has)"
                }
            ));
        }
        let description = Arc::new(Description {
            interface: interface.index(),
            interface_name: interface.name().to_owned(),
            queue,
            mode,
            attached,
            huge_pages,
            busy_poll,
            shares: false,
            _program: program,
        });
        let tx = tx.zip(config.transmit.as_ref()).map(|(tx, transmit)| {
            XdpTx::new(
                tx,
                completion,
                tx_chunks,
                Arc::clone(&handle),
                Arc::clone(&description),
                TxSettings {
                    source_port: Arc::clone(&transmit.source_port),
                    ipv4_checksum: transmit.ipv4_checksum,
                    largest_datagram: config.largest_datagram,
                    metadata,
                },
                transmit.paths.reader(),
            )
        });
        let gather = config
            .multi_buffer()
            .then(|| Gather::new(usize::from(config.largest_datagram) + MOST_RECEIVED_HEADERS));
        Ok(Self {
            rx: XdpRx::new(
                RxSide::new(fill, rx, Arc::clone(&handle), mode.need_wakeup, rx_frames)
                    .gathering(gather),
                description,
                config.transmit.as_ref().map(|t| t.paths.reader()),
            ),
            tx,
            queue,
            mode,
            lacks,
            handle,
            spare,
            rx_frames,
        })
    }

    /// The socket, with the mode that it is bound in.
    pub(super) fn socket(&self) -> (&Handle, Mode) {
        (&self.handle, self.mode)
    }

    /// The frames of the same UMEM that are still nobody's.
    pub(super) const fn spare(&mut self) -> &mut Vec<Chunk> {
        &mut self.spare
    }

    /// How many frames it receives into: the first ones of its UMEM.
    pub(super) const fn rx_frames(&self) -> u32 {
        self.rx_frames
    }

    /// From now on `outlet` may send on what is received.
    pub(super) fn lend_to(&mut self, outlet: Arc<Outlet>) {
        self.rx.lend_to(outlet);
    }

    /// The queue's number on its interface.
    #[must_use]
    pub const fn queue(&self) -> u32 {
        self.queue
    }

    /// The sending half, for its test.
    pub(super) fn sender(&mut self) -> Option<&mut XdpTx> {
        self.tx.as_mut()
    }

    /// Whether the card reads and writes our frames itself.
    #[must_use]
    pub const fn zero_copy(&self) -> bool {
        self.mode.zero_copy
    }

    /// What was asked for and is not to be had, each with the reason.
    #[must_use]
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// What the queue is and does.
    #[must_use]
    pub fn info(&self) -> DriverInfo {
        use crate::engine::port::Pollable;
        self.rx.info()
    }

    /// The receiving half, and the sending one if it was asked for. They share the socket and the
    /// memory, but no frame and no lock, and may go to different threads. The queue is free for
    /// others some tens of milliseconds after both have been dropped.
    #[must_use]
    pub fn split(self) -> (XdpRx, Option<XdpTx>) {
        (self.rx, self.tx)
    }
}

impl AsFd for XdpQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.handle).as_fd()
    }
}

/// The least entries a ring may have.
pub(super) const LEAST_RING: u32 = 64;

/// Gives all of `chunks` to the kernel.
pub(super) fn fill_all(fill: &mut Producer<u64>, chunks: Vec<Chunk>) {
    for chunk in chunks {
        let pushed = fill.push(chunk.surrender(0));
        debug_assert!(pushed, "more frames than fill ring entries");
    }
    fill.publish();
}
