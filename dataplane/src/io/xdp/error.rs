//! What can go wrong while a driver is set up.

use std::io;
use std::time::Duration;

use super::driver::LARGEST_IN_ONE_CHUNK;
use super::program::{AttachError, UpdateError};

/// Why AF_XDP cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    /// No such interface in this network namespace.
    #[error("there is no network interface {name:?} here: {source}; see `ip link`")]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The interface does not carry Ethernet frames.
    #[error(
        "interface {name} is of hardware type {hardware}, not Ethernet (1): use the UDP driver on it"
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// Its `ARPHRD_…` number (`linux/if_arp.h`).
        hardware: u16,
    },
    /// The interface would not tell about itself.
    #[error("interface {name} does not tell its {what}: {source}")]
    Interface {
        /// The interface.
        name: String,
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A ring or frame count the kernel would not take.
    #[error("{what} is {value}: it must be a power of two from {least} to {most}")]
    Config {
        /// Which value.
        what: &'static str,
        /// The value.
        value: u32,
        /// The least allowed.
        least: u32,
        /// The most allowed.
        most: u32,
    },
    /// A value that makes no sense.
    #[error("{what} is {value}: it must be {least} to {most} {unit}")]
    Range {
        /// Which value.
        what: &'static str,
        /// The value.
        value: u32,
        /// The least allowed.
        least: u32,
        /// The most allowed.
        most: u32,
        /// What is counted.
        unit: &'static str,
    },
    /// Datagrams that no IP packet holds.
    #[error(
        "datagrams of {largest} bytes do not fit into an IP packet, which holds {most}: lower the \
         tunnel's MTU to {mtu}",
        mtu = most - 32
    )]
    LargeDatagrams {
        /// The largest UDP payload wanted, in bytes.
        largest: u16,
        /// The largest that fits.
        most: u16,
    },
    /// Datagrams above a chunk, which the link would carry only as IP fragments.
    #[error(
        "interface {interface} has MTU {mtu}, so that datagrams of {largest} bytes would travel as \
         IP fragments, which AF_XDP does not see: raise its MTU to {needed} (over IPv6 {needed_v6}), \
         lower the tunnel's MTU to {tunnel}, or use the UDP driver",
        needed = u32::from(*largest) + 28,
        needed_v6 = u32::from(*largest) + 48,
        tunnel = mtu.saturating_sub(48 + 32)
    )]
    SmallLink {
        /// The interface.
        interface: String,
        /// Its MTU, in bytes.
        mtu: u32,
        /// The largest UDP payload wanted, in bytes.
        largest: u16,
    },
    /// No frames of several chunks.
    #[error(
        "datagrams of {largest} bytes take AF_XDP frames of several buffers, which the kernel \
         refuses for queue {queue} of {interface}: {source}; lower the tunnel's MTU to {mtu}, use \
         the UDP driver, or a kernel that has them (Linux 6.6 or later)",
        mtu = LARGEST_IN_ONE_CHUNK - 32
    )]
    MultiBuffer {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The largest UDP payload wanted, in bytes.
        largest: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No socket.
    #[error(
        "cannot make an AF_XDP socket: {0}; it needs CAP_NET_RAW (run as root) and a kernel with \
         CONFIG_XDP_SOCKETS"
    )]
    Socket(#[source] io::Error),
    /// No memory for frames or rings.
    #[error(
        "cannot get {bytes} bytes of {what}: {source}; take smaller rings, or raise the limit on \
         locked memory (`ulimit -l`)"
    )]
    Memory {
        /// `frames` or a ring's name.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket option was refused.
    #[error("the kernel refuses the AF_XDP option {option}: {source}")]
    Option {
        /// Its name in `linux/if_xdp.h`.
        option: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The queue has an owner that did not go.
    #[error(
        "queue {queue} of {interface} is still in use after {waited:?}: another AF_XDP program \
         runs on it (see `ss --xdp`)"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// How long binding was tried.
        waited: Duration,
    },
    /// The queue cannot be bound.
    #[error("cannot bind queue {queue} of {interface} in {mode} mode: {source}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// `zero copy` or `copy`.
        mode: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The XDP program would not attach.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The XDP program would not take a socket.
    #[error(transparent)]
    Steer(#[from] UpdateError),
    /// The XDP program left the interface while sockets were bound.
    #[error("the XDP program was detached while its sockets were being bound: open again")]
    NotAttached,
}
