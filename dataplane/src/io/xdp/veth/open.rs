//! Opening an inner interface.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::super::busy_poll::BusyPolling;
use super::super::driver::check_rings;
use super::super::error::XdpError;
use super::super::interface::{Interface, Queues};
use super::super::ledger::Ledger;
use super::super::outlet::Outlet;
use super::super::path::PathTable;
use super::super::program::{AttachedMode, Mode, XdpProgram};
use super::super::queue::{Description, LEAST_RING, XdpQueue, fill_all};
use super::super::rx_frames::RxSide;
use super::super::socket::{BindOptions, Mode as SocketMode, RingSizes, Socket, ZeroCopy};
use super::super::umem::{CHUNK_SIZE, Chunk, Umem};
use super::{VethRx, VethTx};
use crate::engine::port::{DriverInfo, Pollable};

/// How to open an inner interface. All rings are counted in entries, powers of two from 64 to
/// 32768.
#[derive(Clone, Debug)]
pub struct VethConfig {
    /// Let the driver sleep, and wake it when there is work. With shared memory the outer socket's
    /// choice counts.
    pub need_wakeup: bool,
    /// Put the frames on huge pages where the system has some. With shared memory the outer
    /// socket's choice counts.
    pub huge_pages: bool,
    /// Entries of the RX ring.
    pub rx_ring: u32,
    /// Frames of 4096 bytes to receive into, and entries of the fill ring.
    pub rx_frames: u32,
    /// Entries of the TX and completion rings: the most frames that are on their way at once. Not
    /// more than half of the frames that the outer queue receives into.
    pub tx_ring: u32,
    /// Frames to copy into what did not come in a frame of the outer queue.
    pub copy_frames: u32,
    /// How long to try to bind a queue that is in use.
    pub bind_patience: Duration,
}

impl Default for VethConfig {
    /// 1024 entries a ring, 2048 frames to receive into, 512 to copy into.
    fn default() -> Self {
        Self {
            need_wakeup: true,
            huge_pages: true,
            rx_ring: 1024,
            rx_frames: 2048,
            tx_ring: 1024,
            copy_frames: 512,
            bind_patience: Duration::from_millis(500),
        }
    }
}

impl VethConfig {
    /// The frames that a queue needs of its own:
    /// [`XdpConfig::spare_frames`](super::super::XdpConfig::spare_frames) of an outer queue that is
    /// to share its memory.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.rx_frames.saturating_add(self.copy_frames)
    }

    fn check(&self) -> Result<(), XdpError> {
        check_rings(&[
            ("the inner RX ring's size", self.rx_ring),
            ("the number of inner receive frames", self.rx_frames),
            ("the inner TX ring's size", self.tx_ring),
            ("the number of frames to copy into", self.copy_frames),
        ])
    }
}

/// The AF_XDP driver of an inner interface.
#[derive(Debug)]
pub enum VethDriver {}

impl VethDriver {
    /// Attaches `program`, of [`XdpProgram::load_inner`], to the interface `name`, binds a socket
    /// to every receive queue, and steers the queues into them. The first `senders` queues get a
    /// sending half.
    ///
    /// Queue *n* shares the memory of `outer`\[*n*\] where the kernel lets it, so that what the
    /// engine opens in a frame of that one leaves in the same frame. Both must then be of the same
    /// worker. A kernel that copies on one of the two interfaces and not on the other does not
    /// let it; then, and for queues without a counterpart, the memory is their own.
    ///
    /// # Errors
    /// See [`XdpError`]. Native XDP is insisted on: in generic mode the other end goes on
    /// sending super-packets, which no frame holds.
    pub fn open(
        name: &str,
        program: &mut XdpProgram,
        config: &VethConfig,
        paths: &Arc<PathTable>,
        outer: &mut [XdpQueue],
        senders: usize,
    ) -> Result<Vec<VethQueue>, XdpError> {
        config.check()?;
        let interface = Interface::by_name(name)?;
        let attached = program.attach(interface.index(), Mode::Native)?;
        let opened = open_queues(
            &Inner {
                interface,
                attached,
                config,
                paths,
            },
            program,
            outer,
            senders,
        );
        if opened.is_err() {
            program.detach();
        }
        opened
    }
}

struct Inner<'a> {
    interface: Interface,
    attached: AttachedMode,
    config: &'a VethConfig,
    paths: &'a Arc<PathTable>,
}

fn open_queues(
    inner: &Inner<'_>,
    program: &mut XdpProgram,
    outer: &mut [XdpQueue],
    senders: usize,
) -> Result<Vec<VethQueue>, XdpError> {
    let (count, certain) = match inner.interface.queues()? {
        Queues::Exactly(count) => (count, true),
        Queues::AtMost(count) => (count, false),
    };
    let mut outer = outer.iter_mut();
    let mut queues = Vec::new();
    for number in 0..count {
        let link = program.link().ok_or(XdpError::NotAttached)?;
        let sends = queues.len() < senders;
        let owner = outer.next().filter(|_| sends);
        let queue = match inner.open(number, link, owner, sends) {
            // A queue that is not there.
            Err(XdpError::Bind { source, .. })
                if !certain && number > 0 && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                break;
            }
            answer => answer?,
        };
        program.register(number, queue.as_fd())?;
        queues.push(queue);
    }
    Ok(queues)
}

/// A bound queue of an inner interface, not yet given to anybody.
#[derive(Debug)]
pub struct VethQueue {
    rx: VethRx,
    tx: Option<VethTx>,
    shares: bool,
}

impl VethQueue {
    /// Whether it sends what an outer queue received without a copy.
    #[must_use]
    pub const fn forwards(&self) -> bool {
        self.shares
    }

    /// What the queue is and does.
    #[must_use]
    pub fn info(&self) -> DriverInfo {
        self.rx.info()
    }

    /// The receiving half, and the sending one if there is one.
    #[must_use]
    pub fn split(self) -> (VethRx, Option<VethTx>) {
        (self.rx, self.tx)
    }
}

impl AsFd for VethQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rx.as_fd()
    }
}

/// A bound socket, the frames for its two sides, and how many of the UMEM's first are lent to it.
struct Bound {
    socket: Socket,
    mode: SocketMode,
    copy: Vec<Chunk>,
    lent: u32,
}

impl Inner<'_> {
    fn open(
        &self,
        number: u32,
        program: Arc<OwnedFd>,
        owner: Option<&mut XdpQueue>,
        sends: bool,
    ) -> Result<VethQueue, XdpError> {
        let shared = match owner {
            Some(owner) => self.share(number, owner)?.map(|bound| (bound, owner)),
            None => None,
        };
        let (bound, owner) = match shared {
            Some((bound, owner)) => (bound, Some(owner)),
            None => (self.bind_alone(number, sends)?, None),
        };
        let Bound {
            socket,
            mode,
            copy,
            lent,
        } = bound;
        let Socket {
            fill,
            completion,
            rx,
            tx,
            handle,
            ..
        } = socket;
        let description = Arc::new(Description {
            interface: self.interface.index(),
            interface_name: self.interface.name().to_owned(),
            queue: number,
            mode,
            attached: self.attached,
            huge_pages: handle.umem.huge_pages(),
            busy_poll: BusyPolling::Off,
            shares: owner.is_some(),
            _program: program,
        });
        let shares = owner.is_some();
        let tx = match tx {
            None => None,
            Some(tx) => {
                let umem = Arc::clone(&handle.umem);
                let ledger = Ledger::new(tx, completion, umem, copy, lent, self.config.tx_ring);
                let outlet = Outlet::new(ledger, Arc::clone(&handle), Arc::clone(&description));
                let outlet = Arc::new(outlet);
                if let Some(owner) = owner {
                    owner.lend_to(Arc::clone(&outlet));
                }
                let interface = self.interface.try_clone().map_err(XdpError::Socket)?;
                let paths = self.paths.reader();
                Some(VethTx::new(
                    outlet,
                    Arc::clone(&description),
                    interface,
                    paths,
                ))
            }
        };
        let side = RxSide::new(fill, rx, handle, mode.need_wakeup, self.config.rx_frames);
        Ok(VethQueue {
            rx: VethRx::new(side, description, self.paths.reader()),
            tx,
            shares,
        })
    }

    fn sizes(&self, sends: bool) -> RingSizes {
        let config = self.config;
        RingSizes {
            // As outside.
            fill: 2 * config.rx_frames,
            // The kernel asks for a completion ring also where nothing is sent.
            completion: if sends { config.tx_ring } else { LEAST_RING },
            rx: config.rx_ring,
            tx: sends.then_some(config.tx_ring),
        }
    }

    /// Binds with the memory of `owner`; `None` where that cannot be.
    fn share(&self, number: u32, owner: &mut XdpQueue) -> Result<Option<Bound>, XdpError> {
        let config = self.config;
        let lent = owner.rx_frames();
        // The program of the inner side takes no frames of several buffers, which a socket over
        // such memory would be bound for.
        if owner.spare().len() < config.frames() as usize || owner.socket().1.multi_buffer {
            return Ok(None);
        }
        if config.tx_ring > lent / 2 {
            // All could be on their way out, and nothing would come in that urged them on.
            return Err(XdpError::Config {
                what: "the inner TX ring's size",
                value: config.tx_ring,
                least: LEAST_RING,
                most: lent / 2,
            });
        }
        let mut socket = Socket::sharing(owner.socket().0, self.sizes(true))?;
        let patience = config.bind_patience;
        let bound = socket.bind_shared(owner.socket(), &self.interface, number, patience);
        let mode = match bound {
            Ok(mode) => mode,
            // Bound in zero copy, the memory is for cards that have it.
            Err(XdpError::Bind { source, .. }) => {
                tracing::info!(
                    interface = self.interface.name(),
                    queue = number,
                    zero_copy_outside = owner.zero_copy(),
                    %source,
                    "the outer socket's memory cannot be shared: packets are copied"
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // Only now, when the frames cannot be lost with the socket any more.
        let mut frames: Vec<Chunk> = owner.spare().drain(..).collect();
        let mut copy = frames.split_off(config.rx_frames as usize);
        copy.truncate(config.copy_frames as usize);
        fill_all(&mut socket.fill, frames);
        Ok(Some(Bound {
            socket,
            mode,
            copy,
            lent,
        }))
    }

    fn bind_alone(&self, number: u32, sends: bool) -> Result<Bound, XdpError> {
        let config = self.config;
        let count = if sends {
            config.frames()
        } else {
            config.rx_frames
        };
        let memory = |source| XdpError::Memory {
            what: "frames",
            bytes: u64::from(count) * CHUNK_SIZE as u64,
            source,
        };
        let (umem, mut frames) = Umem::new(count, config.huge_pages).map_err(memory)?;
        let copy = frames.split_off(config.rx_frames as usize);
        let mut socket = Socket::new(umem, self.sizes(sends), false)?;
        fill_all(&mut socket.fill, frames);
        let mode = socket.bind(
            &self.interface,
            number,
            ZeroCopy::Auto,
            BindOptions {
                need_wakeup: config.need_wakeup,
                multi_buffer: false,
            },
            config.bind_patience,
        )?;
        Ok(Bound {
            socket,
            mode,
            copy,
            lent: 0,
        })
    }
}
