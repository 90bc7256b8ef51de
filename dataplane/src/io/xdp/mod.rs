//! AF_XDP: the XDP program that steers datagrams into rings, and the rings.
//!
//! | file | kernel concept |
//! | --- | --- |
//! | [`program`] | the XDP program, its maps, its link to the interface |
//! | `interface` | queues, link state, hardware address (ethtool, ioctl) |
//! | `umem` | the frames, and who owns which; runs of them for jumbo frames |
//! | `gather` | received frames of several buffers, put together |
//! | `ring` | fill, completion, RX and TX ring |
//! | `socket` | making, binding and asking an AF_XDP socket |
//! | `header`, `metadata` | what is written in front of a datagram |
//! | `busy_poll`, `features` | socket options; what a driver declares |
//! | `self_test` | whether a TX ring sends at all |
//! | `too_big` | what routers say of the path MTU |
//! | [`path`] | where to send: read here, resolved by the runtime |
//! | `rx`, `tx` | the halves of a queue, behind the engine's ports |
//! | `rx_frames`, `kick` | what both kinds of queue do alike: frames received, sends urged |
//! | `ledger`, `outlet` | sending on a frame by another socket, without a copy |
//! | `veth` | inner packets over an Ethernet interface |
//! | `queue`, `driver` | putting it together |
//!
//! docs/af-xdp.md has the picture: which frame is whose when, and who wakes whom.

mod busy_poll;
mod driver;
mod error;
mod features;
mod gather;
mod header;
mod interface;
mod kick;
mod ledger;
mod metadata;
mod mmap;
mod outlet;
pub mod path;
pub mod program;
mod queue;
mod ring;
mod rx;
mod rx_frames;
mod self_test;
mod socket;
mod too_big;
mod tx;
mod umem;
mod veth;

pub use busy_poll::{BusyPoll, MAX_BUSY_POLL_MICROS};
pub use driver::{LARGEST_DATAGRAM, LARGEST_IN_ONE_CHUNK, Transmit, XdpConfig, XdpDriver};
pub use error::XdpError;
pub use interface::{Interface, Queues};
pub use ledger::OutletFrames;
pub use metadata::TxChecksum;
pub use path::{Path, PathKey, PathTable};
pub use program::{AttachedMode, Mode, XdpProgram};
pub use queue::XdpQueue;
pub use rx::XdpRx;
pub use rx_frames::RxFrames;
pub use self_test::{SendTest, test_sending};
pub use socket::{SocketStatistics, ZeroCopy};
pub use too_big::TooBigWatch;
pub use tx::{TxFrames, XdpTx};
pub use umem::CHUNK_SIZE;
pub use veth::{VethConfig, VethDriver, VethQueue, VethRx, VethTx};
