//! Having the kernel send what is in a TX ring.

use std::io;

use super::ring::{Descriptor, Producer};
use super::socket::{Handle, Mode};

/// How often a send is tried again in one call when the kernel takes a part of the ring at a
/// time (copy mode: a budget a call) or makes no progress at all.
const MOST_KICKS: usize = 64;
const FRUITLESS_KICKS: usize = 3;

/// What a kernel sends in one call at least, where there is as much. Until about Linux 6.17 it takes
/// nothing out of the ring before it has seen all of it: so many calls seem fruitless meanwhile.
const LEAST_BUDGET: usize = 32;

/// System calls made for a TX ring, and how many failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kicks {
    pub(super) wakeups: u64,
    pub(super) errors: u64,
}

impl Kicks {
    /// Has the kernel send, where it does not do so by itself. A driver that is `polled` by us does
    /// nothing between the polls.
    pub(super) fn kick(
        &mut self,
        tx: &Producer<Descriptor>,
        handle: &Handle,
        mode: Mode,
        polled: bool,
    ) {
        let asleep_unasked = mode.zero_copy && polled;
        let mut fruitless = 0;
        for _ in 0..MOST_KICKS {
            let pending = tx.pending();
            if pending == 0 || fruitless >= FRUITLESS_KICKS.max(pending as usize / LEAST_BUDGET + 1)
            {
                return;
            }
            if mode.need_wakeup && !asleep_unasked && !tx.needs_wakeup() {
                return;
            }
            self.wakeups += 1;
            match handle.kick_tx() {
                Ok(()) => {}
                // The kernel took what it wanted for one call, or the card's queue is full.
                Err(error) if busy(&error) => {}
                // The interface is down or gone: the frames stay in the ring.
                Err(_) => {
                    self.errors += 1;
                    return;
                }
            }
            // In zero-copy mode the driver goes on by itself once it is awake.
            if mode.zero_copy {
                return;
            }
            fruitless = if tx.pending() == pending {
                fruitless + 1
            } else {
                0
            };
        }
    }
}

/// Whether a send failed only for the moment.
fn busy(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR)
    )
}
