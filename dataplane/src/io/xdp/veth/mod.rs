//! Inner packets over AF_XDP, on an Ethernet interface: a veth whose other end is a pod's or a
//! router namespace's.
//!
//! | file | what |
//! | --- | --- |
//! | `open` | the program on the interface, a socket on every queue, the memory shared or not |
//! | `rx` | frames that the other end sends |
//! | `tx` | packets for the other end, forwarded in the frame they came in, or copied |
//! | `partial` | checksums that the other end's kernel left to a card |

mod open;
mod partial;
mod rx;
mod tx;

pub use open::{VethConfig, VethDriver, VethQueue};
pub use rx::VethRx;
pub use tx::VethTx;
