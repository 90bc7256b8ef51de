//! Middleware: wraps any driver, implements the same ports, and may be wrapped again.
//!
//! [`FaultInjector`] loses, repeats, alters and reorders; [`PcapTap`] records into a capture file.
//! What is outermost sees the engine's view: a tap around an injector records what the injector
//! let through on the way in, and what it was given on the way out.

mod faults;
mod injector;
mod pcap;
mod tap;

pub use faults::FaultPlan;
pub use injector::FaultInjector;
pub use pcap::Capture;
pub use tap::PcapTap;

#[cfg(test)]
mod tests;
