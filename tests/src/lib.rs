//! What privileged tests stand on: test networks made of namespaces, traffic that checks itself,
//! foreign WireGuard implementations as peers, a discovery
//! service, a virtual machine with the kernel's own WireGuard,
//! and a harness that reports a test that cannot run here as *ignored*, with the reason.
//!
//! Everything is made over netlink and system calls: neither `ip` nor `wg` nor `iperf3` is asked
//! for. Nothing outlives its process: namespaces are held by descriptors alone, and children die
//! with the thread that started them.

#![forbid(unsafe_code)]

pub mod child;
pub mod discovery;
pub mod harness;
pub mod netns;
pub mod peers;
pub mod privilege;
pub mod traffic;
pub mod vm;
