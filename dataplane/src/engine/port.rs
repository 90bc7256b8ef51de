//! The ports of the engine: what it asks of a driver.
//!
//! Drivers (floor 6) implement these; the engine never learns which one it has. All of them
//! work on batches, lend buffers instead of giving them away (so that a frame stays in its
//! UMEM and nothing is allocated), and report loss instead of hiding it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::mesh::{Endpoint, Peer};

pub use crate::wire::Ecn;

/// The most packets that a driver hands over at once, and that the engine works on at once.
pub const MAX_BATCH: usize = 256;

/// An outer UDP payload that a driver lends for the time of one call.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// The UDP payload; opened in place.
    pub payload: &'a mut [u8],
    /// Who sent it, and to which local address.
    pub from: Endpoint,
    /// The outer header's ECN bits.
    pub ecn: Ecn,
}

/// An inner IP packet that a driver lends for the time of one call.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The IP packet, from its first header byte to its last byte.
    pub data: &'a mut [u8],
}

/// A buffer the engine asks an outer driver for.
#[derive(Clone, Copy, Debug)]
pub struct TxRequest {
    /// Where the datagram goes.
    pub to: Endpoint,
    /// Its exact length: UDP payload, in bytes.
    pub len: usize,
    /// The outer TOS or traffic-class octet (DSCP and ECN).
    pub tos: u8,
}

/// A buffer that an outer driver lends in answer to a [`TxRequest`].
#[derive(Debug)]
pub struct TxSlot<'a> {
    /// Which request it answers: an index into the slice given to
    /// [`OuterTx::send_batch`].
    pub request: usize,
    /// The datagram's place: exactly the length asked for, contents arbitrary.
    pub buffer: &'a mut [u8],
}

/// What happened to a batch that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Sent {
    /// Handed to the kernel or the card.
    pub accepted: usize,
    /// Not taken: ring full, no path, too long, refused by the kernel.
    pub dropped: usize,
}

impl core::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.dropped += other.dropped;
    }
}

/// What a driver is and does, for statuses: `xdp`, `zero copy, need-wakeup, queue 0`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DriverInfo {
    /// `xdp`, `udp`, `tun` or `memory`.
    pub driver: &'static str,
    /// The mode in use, in the words of the driver's documentation.
    pub mode: String,
    /// The network interface, where there is one.
    pub interface: String,
    /// The queue, where there are several.
    pub queue: Option<u32>,
}

/// Anything an event loop can wait for.
pub trait Pollable {
    /// Names every file descriptor that becomes readable when there is something to receive.
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>));

    /// What the driver is and does.
    fn info(&self) -> DriverInfo;

    /// The driver's own statistics, name and value: what the kernel counts for it and what it
    /// drops itself.
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Receives outer datagrams.
pub trait OuterRx: Pollable + Send {
    /// Lends what has arrived, at most [`MAX_BATCH`] at a time, to `handle`; returns how many.
    /// Never waits: 0 when there is nothing.
    ///
    /// # Errors
    /// Whatever the kernel says, except that there is nothing (`EAGAIN`, `EINTR`).
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize>;

    /// Has the kernel look for arrivals in the caller's own time, where the driver was opened so;
    /// true where some wait now. For a worker that polls instead of sleeping, because the kernel
    /// may leave it to its call alone. Never waits; does no system call where it is not for this
    /// driver.
    fn busy_poll(&mut self) -> bool {
        false
    }
}

/// Sends outer datagrams.
pub trait OuterTx: Send {
    /// Whether this driver can send to `endpoint` now (AF_XDP needs a resolved path). Cheap; for
    /// whoever chooses between drivers.
    fn reaches(&mut self, endpoint: &Endpoint) -> bool;

    /// Lends a buffer for each request it has room for, lets `fill` write the datagrams, sends
    /// them. `fill` runs once or several times, each time with other requests, in ascending
    /// order of [`TxSlot::request`]; a request that no call of it showed was dropped.
    ///
    /// At most [`MAX_BATCH`] requests; further ones are dropped.
    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent;

    /// Urges the kernel to take what it has accepted and not yet sent; true where something is
    /// left. To be called before waiting, and again soon while it is true: nothing else would
    /// send the last datagrams of a burst. Does no system call when nothing is left.
    fn flush(&mut self) -> bool {
        false
    }

    /// From now on the longest datagram of a peer may be `bytes` long (UDP payload): the inner MTU
    /// was changed. A driver that cannot send that says so by [`reaches`](Self::reaches).
    fn set_longest(&mut self, _bytes: usize) {}

    /// What the driver is and does.
    fn info(&self) -> DriverInfo;

    /// The driver's own statistics, name and value.
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Receives inner packets: what the host wants sent through the tunnel.
pub trait InnerRx: Pollable + Send {
    /// Lends what has arrived, at most [`MAX_BATCH`] at a time, to `handle`; returns how many.
    /// Never waits: 0 when there is nothing.
    ///
    /// # Errors
    /// Whatever the kernel says, except that there is nothing.
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize>;
}

/// Takes inner packets: what came out of the tunnel, in order.
pub trait InnerTx: Send {
    /// Delivers `packets` in their order. Where a packet lies in a frame that an outer driver lent, the
    /// inner one may send that very frame once the lender's call has ended: until then its bytes must
    /// stay as they are.
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent;

    /// Urges the kernel to take what it has accepted and not yet delivered; true where something is
    /// left. As [`OuterTx::flush`].
    fn flush(&mut self) -> bool {
        false
    }

    /// The longest packet that the host sends, in bytes, as it is now; `None` where the driver
    /// does not know. Not for every packet: it may ask the kernel.
    fn mtu(&self) -> Option<u16> {
        None
    }

    /// What the driver is and does.
    fn info(&self) -> DriverInfo;

    /// The driver's own statistics, name and value.
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Where the engine leaves what is not its business: the way to the control side. Bounded;
/// what does not fit is dropped and counted there, data goes on.
pub trait ControlSink {
    /// A datagram that is not transport data: initiation, response or cookie reply, already
    /// checked for type and length. Copies it. False when it was dropped.
    fn handshake_message(&mut self, datagram: &[u8], from: &Endpoint) -> bool;

    /// `peer` needs a session. Called once until a handshake has begun
    /// ([`Marks::want_handshake`](crate::noise::Marks::want_handshake)).
    fn handshake_wanted(&mut self, peer: &Arc<Peer>) -> bool;
}
