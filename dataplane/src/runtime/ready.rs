//! What a worker waits for, and what came of it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

use super::wake::Waker;
use super::worker::Ports;
use crate::engine::port::Pollable;

/// Events taken from the kernel at once. More than that are ready again at the next look.
const MAX_EVENTS: usize = 16;

/// Which drivers may have something to receive: a bit for each, those from the 31st of a side on
/// share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ready(u64);

impl Ready {
    pub(super) const NONE: Self = Self(0);
    /// All drivers, not the waker.
    pub(super) const ALL: Self = Self(!Self::WAKER.0);
    const WAKER: Self = Self(1 << 63);
    /// A side's share of the bits.
    const SIDE: usize = 31;
    /// Everything inner.
    pub(super) const INNER: Self = Self(((1 << Self::SIDE) - 1) << Self::SIDE);

    pub(super) fn outer(number: usize) -> Self {
        Self(1 << number.min(Self::SIDE - 1))
    }

    fn inner(number: usize) -> Self {
        Self(1 << (Self::SIDE + number.min(Self::SIDE - 1)))
    }

    pub(super) fn has_outer(self, number: usize) -> bool {
        self.has(Self::outer(number))
    }

    pub(super) fn has_inner(self, number: usize) -> bool {
        self.has(Self::inner(number))
    }

    fn has(self, some: Self) -> bool {
        self.0 & some.0 != 0
    }
}

impl core::ops::BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// An epoll instance with everything that a worker waits for.
///
/// Descriptors are registered once: drivers keep theirs for life, and only a new listen port puts
/// other sockets behind them.
#[derive(Debug)]
pub(super) struct WaitSet(OwnedFd);

impl WaitSet {
    pub(super) fn new(ports: &Ports, waker: &Waker) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut outcome = Ok(());
        let mut add = |fd: BorrowedFd<'_>, ready: Ready| {
            let data = epoll::EventData::new_u64(ready.0);
            let added = epoll::add(&epoll, fd, data, epoll::EventFlags::IN);
            outcome = outcome.and(added);
        };
        add(std::os::fd::AsFd::as_fd(waker), Ready::WAKER);
        let visit = |driver: &dyn Pollable, ready, add: &mut dyn FnMut(BorrowedFd<'_>, Ready)| {
            driver.poll_fds(&mut |fd| add(fd, ready));
        };
        for (number, rx) in ports.outer_rx.iter().enumerate() {
            visit(&**rx, Ready::outer(number), &mut add);
        }
        for (number, rx) in ports.inner_rx.iter().enumerate() {
            visit(&**rx, Ready::inner(number), &mut add);
        }
        outcome?;
        Ok(Self(epoll))
    }

    /// Waits, at most for `timeout`; which drivers are ready. The waker's descriptor is drained
    /// on the way.
    pub(super) fn wait(&self, timeout: Option<&Timespec>, waker: &Waker) -> Ready {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; MAX_EVENTS];
        // EINTR: as if woken for nothing.
        let count = epoll::wait(&self.0, &mut events, timeout).unwrap_or(0);
        let mut ready = Ready::NONE;
        for event in events.iter().take(count) {
            ready |= Ready(event.data.u64());
        }
        if ready.has(Ready::WAKER) {
            waker.drain();
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_has_a_bit_of_its_side() {
        for number in [0, 1, 29, 30, 31, 200] {
            assert!(Ready::ALL.has_outer(number) && Ready::ALL.has_inner(number));
            assert!(Ready::INNER.has_inner(number) && !Ready::INNER.has_outer(number));
            assert!(!Ready::WAKER.has_outer(number) && !Ready::WAKER.has_inner(number));
            assert!(!Ready::outer(number).has(Ready::inner(number)));
        }
        assert!(!Ready::outer(0).has_outer(1) && !Ready::inner(1).has_inner(0));
        assert!(Ready::outer(31).has_outer(30), "the last ones share a bit");
    }
}
