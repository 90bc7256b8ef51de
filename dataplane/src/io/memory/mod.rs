//! The memory driver: twins of all four ports that carry packets over bounded queues instead of
//! a kernel. For tests, fuzzing, benchmarks, and embedders who bring their own I/O.
//!
//! [`Network`] is the outer side: any number of ends, each with an address, datagrams routed by
//! destination. [`outer_link`] makes the common case of two ends. [`inner_port`] is the inner
//! side: a driver for the engine and a handle for whoever plays the host's IP stack.
//!
//! Everything waits like the real thing: each receiving end has an eventfd that is readable
//! while something is queued. Buffers circulate between the two sides of a queue; once each has
//! grown to the largest packet it met, nothing is allocated.

mod inner;
mod outer;
mod queue;

pub use inner::{InnerUser, MemoryInnerRx, MemoryInnerTx, inner_port};
pub use outer::{
    AttachError, MemoryEnd, MemoryOuterRx, MemoryOuterTx, MemorySender, Network, outer_link,
};

/// How many packets a queue holds when its maker has no better number.
pub const DEFAULT_CAPACITY: usize = 1024;
