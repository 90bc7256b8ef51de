//! Waking a worker that waits in `epoll_wait`.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

/// An `eventfd` with a flag beside it, so that a busy worker learns of a wake-up without a
/// system call and a sleeping one learns of it by epoll.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl Waker {
    /// A waker that nobody has woken yet.
    ///
    /// # Errors
    /// Whatever `eventfd(2)` says: no descriptors left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            fd,
            pending: AtomicBool::new(false),
        })
    }

    /// Wakes the worker, now or at its next look. Many calls before that look count as one.
    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // Full (EAGAIN) cannot be: one write a pending flag. Anything else would be a closed
            // descriptor, which the type excludes.
            let _ = write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the wake-up, if there is one. No system call; one load when there is none.
    pub fn take(&self) -> bool {
        self.pending.load(Ordering::Relaxed) && self.pending.swap(false, Ordering::AcqRel)
    }

    /// Makes the descriptor unreadable again. To be called when epoll found it readable, and
    /// *before* [`take`](Self::take): a wake-up in between then either is taken or leaves the
    /// descriptor readable.
    pub fn drain(&self) {
        let mut count = [0; 8];
        let _ = read(&self.fd, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn readable(waker: &Waker) -> bool {
        let mut fds = [PollFd::new(waker, PollFlags::IN)];
        poll(
            &mut fds,
            Some(&rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            == 1
    }

    #[test]
    fn wakes_add_up_to_one() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take() && !readable(&waker));
        waker.wake();
        waker.wake();
        assert!(readable(&waker));
        waker.drain();
        assert!(waker.take());
        assert!(!waker.take() && !readable(&waker));
    }

    #[test]
    fn no_wake_is_lost() {
        let waker = Arc::new(Waker::new().unwrap());
        let sent = Arc::new(core::sync::atomic::AtomicU64::new(0));
        let waking = thread::spawn({
            let (waker, sent) = (Arc::clone(&waker), Arc::clone(&sent));
            move || {
                for _ in 0..10_000 {
                    sent.fetch_add(1, Ordering::SeqCst);
                    waker.wake();
                }
            }
        });
        // Sleeps in poll between looks: a lost wake-up would leave it there for good.
        let mut seen = 0;
        while seen < 10_000 {
            let mut fds = [PollFd::new(&*waker, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            waker.drain();
            if waker.take() {
                seen = sent.load(Ordering::SeqCst);
            }
        }
        waking.join().unwrap();
    }
}
