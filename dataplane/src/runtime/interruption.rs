//! Whether the machine was suspended, or is a copy of another one.
//!
//! Session keys do not outlive either (kernel `wg_pm_notification`, `wg_vm_notification`): a
//! machine that slept may have been read out meanwhile, and of two copies of a machine both would
//! seal with the same counters.
//!
//! Suspension shows in two clocks: `CLOCK_BOOTTIME` counts it, `CLOCK_MONOTONIC` does not. A copy
//! shows in the virtual machine's generation id; the kernel (6.10 and later, driver `vmgenid`)
//! announces its change by a uevent with `NEW_VMGENID=1`.

use core::time::Duration;
use std::io;

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use netlink_sys::{Socket, SocketAddr};
use rustix::time::{ClockId, clock_gettime};
use tracing::debug;

/// The multicast group in which the kernel itself speaks.
const KERNEL_GROUP: u32 = 1;

/// Events taken at one look. What is left then waits for the next one.
const MAX_EVENTS: usize = 64;

const NEW_GENERATION: &[u8] = b"NEW_VMGENID=1";

/// Why all session keys are to be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interruption {
    /// The machine slept.
    Suspended,
    /// The machine was cloned or restored from a snapshot; or events were lost, so that it may
    /// have been.
    Cloned,
}

/// Looks for interruptions since it looked last.
#[derive(Debug)]
pub struct Watch {
    clocks: Clocks,
    events: Option<Socket>,
}

impl Watch {
    /// Begins in the calling thread's network namespace: the kernel announces a new generation id
    /// in those of the initial user namespace. Without it only suspension is seen.
    #[must_use]
    pub fn begin() -> Self {
        let events = open()
            .map_err(|error| debug!("no announcements of a cloned machine: {error}"))
            .ok();
        let mut clocks = Clocks::default();
        let _ = clocks.suspended(Reading::take());
        Self { clocks, events }
    }

    /// What has happened since the last call. Three clock readings, and one system call that finds
    /// nothing.
    pub fn look(&mut self) -> Option<Interruption> {
        let suspended = self.clocks.suspended(Reading::take());
        let cloned = self.events.as_ref().is_some_and(cloned);
        if cloned {
            Some(Interruption::Cloned)
        } else {
            suspended.then_some(Interruption::Suspended)
        }
    }
}

/// The time since boot, and the time awake just before and just after it was read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    awake_before: Duration,
    boot: Duration,
    awake_after: Duration,
}

impl Reading {
    fn take() -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
        };
        Self {
            awake_before: read(ClockId::Monotonic),
            boot: read(ClockId::Boottime),
            awake_after: read(ClockId::Monotonic),
        }
    }
}

/// How long the machine has slept since boot: between two bounds, so that a thread that is
/// interrupted between two readings is not taken for a machine that was.
#[derive(Debug, Default)]
struct Clocks {
    slept_at_most: Option<Duration>,
}

impl Clocks {
    /// Whether the machine has slept between the readings before and this one.
    fn suspended(&mut self, reading: Reading) -> bool {
        let at_least = reading.boot.saturating_sub(reading.awake_after);
        let at_most = reading.boot.saturating_sub(reading.awake_before);
        match self.slept_at_most {
            Some(known) if at_least > known => {
                self.slept_at_most = Some(at_most);
                true
            }
            known => {
                self.slept_at_most = Some(known.map_or(at_most, |known| known.min(at_most)));
                false
            }
        }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.bind(&SocketAddr::new(0, KERNEL_GROUP))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Whether a new generation was announced.
fn cloned(events: &Socket) -> bool {
    for _ in 0..MAX_EVENTS {
        match events.recv_from_full() {
            Ok((event, from)) if from.port_number() == 0 && announces(&event) => return true,
            Ok(_) => {}
            // Too many events for the socket's buffer: the one may have been among them.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// Whether an event (`ACTION@PATH`, then `NAME=VALUE`s, each ended by a zero) tells of a new
/// generation id.
fn announces(event: &[u8]) -> bool {
    event
        .split(|&byte| byte == 0)
        .any(|field| field == NEW_GENERATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(awake: u64, boot: u64, gap: u64) -> Reading {
        Reading {
            awake_before: Duration::from_millis(awake),
            boot: Duration::from_millis(boot),
            awake_after: Duration::from_millis(awake + gap),
        }
    }

    #[test]
    fn only_sleep_counts_never_a_slow_reading() {
        let mut clocks = Clocks::default();
        assert!(!clocks.suspended(reading(1000, 5001, 2)));
        assert!(!clocks.suspended(reading(2000, 6000, 0)));
        // Interrupted for a minute before, then after the clock since boot was read.
        assert!(!clocks.suspended(reading(3000, 67_000, 60_000)));
        assert!(!clocks.suspended(reading(70_000, 74_000, 60_000)));
        assert!(!clocks.suspended(reading(140_000, 144_000, 0)));
        // Ten milliseconds of sleep are enough.
        assert!(clocks.suspended(reading(141_000, 145_010, 0)));
        assert!(!clocks.suspended(reading(142_000, 146_010, 0)));
        assert!(clocks.suspended(reading(143_000, 150_000, 1)));
    }

    #[test]
    fn a_machine_that_was_not_interrupted_says_nothing() {
        let mut clocks = Clocks::default();
        assert!((0..1000).all(|_| !clocks.suspended(Reading::take())));
    }

    #[test]
    fn the_announcement_is_one_whole_field() {
        assert!(announces(
            b"change@/devices/x\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=7\0"
        ));
        for other in [
            &b"change@/devices/NEW_VMGENID=1x\0ACTION=change\0"[..],
            b"",
            b"\0\0",
            b"add@/x\0OLD_NEW_VMGENID=1\0",
        ] {
            assert!(!announces(other));
        }
    }
}
