//! AF_XDP: the XDP program that steers datagrams into rings, and the rings.
//!
//! | file | kernel concept |
//! | --- | --- |
//! | [`program`] | the XDP program, its maps, its link to the interface |
//! | `interface` | queues, link state, hardware address (ethtool, ioctl) |
//! | `umem` | the frames, and who owns which |
//! | `ring` | fill, completion, RX and TX ring |
//! | `socket` | making, binding and asking an AF_XDP socket |
//! | `header` | what is written in front of a datagram |
//! | `too_big` | what routers say of the path MTU |
//! | [`path`] | where to send: read here, resolved by the runtime |
//! | `rx`, `tx` | the halves of a queue, behind the engine's ports |
//! | `rx_frames`, `kick` | what both kinds of queue do alike: frames received, sends urged |
//! | `ledger`, `outlet` | sending on a frame by another socket, without a copy |
//! | `veth` | inner packets over an Ethernet interface |
//! | `queue`, `driver` | putting it together |
//!
//! docs/af-xdp.md has the picture: which frame is whose when, and who wakes whom.

mod driver;
mod error;
mod header;
mod interface;
mod kick;
mod ledger;
mod mmap;
mod outlet;
pub mod path;
pub mod program;
mod queue;
mod ring;
mod rx;
mod rx_frames;
mod socket;
mod too_big;
mod tx;
mod umem;
mod veth;

pub use driver::{LARGEST_DATAGRAM, Transmit, XdpConfig, XdpDriver};
pub use error::XdpError;
pub use interface::{Interface, Queues};
pub use ledger::OutletFrames;
pub use path::{Path, PathKey, PathTable};
pub use program::{AttachedMode, Mode, XdpProgram};
pub use queue::XdpQueue;
pub use rx::XdpRx;
pub use rx_frames::RxFrames;
pub use socket::{SocketStatistics, ZeroCopy};
pub use too_big::TooBigWatch;
pub use tx::{TxFrames, XdpTx};
pub use umem::CHUNK_SIZE;
pub use veth::{VethConfig, VethDriver, VethQueue, VethRx, VethTx};
