//! Floor 1: typed views of bytes. Parse once into a type; no I/O, no clock, no `unsafe`.

pub mod checksum;
pub mod message;

pub use message::{Message, ParseError};
