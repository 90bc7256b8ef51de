//! Reading: what the host sends through the tunnel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::io::Errno;

use crate::engine::port::{DriverInfo, InnerRx, Packet, Pollable};

/// The most packets read for one batch. Each is a system call of about a microsecond: more would
/// keep the first of them waiting.
const SLOTS: usize = 64;

/// A slot holds any IP packet: the MTU may be raised under way, and the kernel cuts off silently
/// what does not fit.
const SLOT: usize = 65_536;

/// Each slot begins 25 cache lines further into its page than the one before: else all packets
/// would compete for the same few cache sets.
const STRIDE: usize = SLOT + 25 * 64;

/// Receives from one queue of a [`Tun`](super::Tun).
#[derive(Debug)]
pub struct TunRx {
    fd: Arc<OwnedFd>,
    interface: String,
    queue: Option<u32>,
    arena: Box<[u8]>,
    packets: u64,
}

impl TunRx {
    pub(super) fn new(fd: Arc<OwnedFd>, interface: String, queue: Option<u32>) -> Self {
        Self {
            fd,
            interface,
            queue,
            arena: vec![0; STRIDE * SLOTS].into_boxed_slice(),
            packets: 0,
        }
    }
}

impl Pollable for TunRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(self.fd.as_fd());
    }

    fn info(&self) -> DriverInfo {
        info(&self.interface, self.queue)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("rx_packets", self.packets)]
    }
}

impl InnerRx for TunRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let mut batch: ArrayVec<Packet<'_>, SLOTS> = ArrayVec::new();
        let mut end = Ok(());
        for slot in self.arena.chunks_exact_mut(STRIDE) {
            let slot = slot.get_mut(..SLOT).unwrap_or_default();
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *slot)) {
                Ok(len) => batch.extend(slot.get_mut(..len).map(|data| Packet { data })),
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    end = Err(error.into());
                    break;
                }
            }
        }
        let count = batch.len();
        if count == 0 {
            return end.map(|()| 0);
        }
        // An error that lasts will come again with the next call.
        handle(&mut batch);
        self.packets += count as u64;
        Ok(count)
    }
}

pub(super) fn info(interface: &str, queue: Option<u32>) -> DriverInfo {
    DriverInfo {
        driver: "tun",
        mode: "single packets".to_owned(),
        interface: interface.to_owned(),
        queue,
    }
}
