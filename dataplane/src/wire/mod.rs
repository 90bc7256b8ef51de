//! Floor 1: typed views of bytes. Parse once into a type; no I/O, no clock, no `unsafe`.

pub mod checksum;
pub mod ecn;
pub mod icmp;
pub mod ip;
pub mod message;

pub use ecn::Ecn;
pub use ip::{Ip, IpError};
pub use message::{Message, ParseError};
