//! Busy polling: the card's NAPI runs in the system calls that we make, not in interrupts
//! (`Documentation/networking/napi.rst` in the kernel's sources).

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::io;
use std::os::fd::BorrowedFd;

use super::error::XdpError;
use super::socket::{get_option, set_option};

/// How the sockets are to busy-poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusyPoll {
    /// How long a system call that waits may poll, in microseconds: 1 to 10,000
    /// (`SO_BUSY_POLL`). AF_XDP's calls do not wait, each of them polls once; so this matters only
    /// in that it is not 0.
    pub microseconds: u32,
    /// How many frames one poll may take from the card: 1 to 65535 (`SO_BUSY_POLL_BUDGET`; the
    /// kernel's own is 8).
    pub budget: u16,
}

/// The longest that makes sense, in microseconds.
pub const MAX_BUSY_POLL_MICROS: u32 = 10_000;

impl Default for BusyPoll {
    fn default() -> Self {
        Self {
            microseconds: 20,
            budget: 64,
        }
    }
}

impl BusyPoll {
    /// Whether the kernel could take it.
    ///
    /// # Errors
    /// [`XdpError::Range`].
    pub fn check(self) -> Result<(), XdpError> {
        let value = |what, value, most, unit| XdpError::Range {
            what,
            value,
            least: 1,
            most,
            unit,
        };
        if !(1..=MAX_BUSY_POLL_MICROS).contains(&self.microseconds) {
            let what = "the time of busy polling";
            return Err(value(what, self.microseconds, MAX_BUSY_POLL_MICROS, "µs"));
        }
        if self.budget == 0 {
            return Err(value(
                "the budget of busy polling",
                0,
                u16::MAX.into(),
                "frames",
            ));
        }
        Ok(())
    }
}

/// What became of the wish.
#[derive(Debug)]
pub(super) enum BusyPolling {
    /// Nobody asked for it.
    Off,
    /// The kernel has taken all options.
    On {
        /// As it was wished.
        how: BusyPoll,
        /// What our system calls poll; 0 while the kernel knows no NAPI for the socket.
        napi: AtomicU32,
    },
    /// It has refused this one; none is set.
    Refused(&'static str, io::Error),
}

impl BusyPolling {
    /// Sets the options on a socket that is bound.
    pub(super) fn enable(fd: BorrowedFd<'_>, wish: Option<BusyPoll>) -> Self {
        let Some(how) = wish else {
            return Self::Off;
        };
        let microseconds = how.microseconds.cast_signed();
        let options = [
            (libc::SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", 1),
            (libc::SO_BUSY_POLL, "SO_BUSY_POLL", microseconds),
            (
                libc::SO_BUSY_POLL_BUDGET,
                "SO_BUSY_POLL_BUDGET",
                i32::from(how.budget),
            ),
        ];
        for (option, name, value) in options {
            if let Err(source) = set(fd, option, value) {
                // Half of it would defer interrupts for a poll that does not come. Lowering a value
                // needs no privilege.
                let _ = set(fd, libc::SO_PREFER_BUSY_POLL, 0);
                let _ = set(fd, libc::SO_BUSY_POLL, 0);
                return Self::Refused(name, source);
            }
        }
        Self::On {
            how,
            napi: AtomicU32::new(napi_id(fd)),
        }
    }

    /// Whether a system call on the socket polls anything.
    pub(super) fn polls(&self) -> bool {
        match self {
            Self::On { napi, .. } => napi.load(Relaxed) != 0,
            Self::Off | Self::Refused(..) => false,
        }
    }

    /// To be called after the first frame: kernels before 6.14 learn from that what there is to
    /// poll. Later ones know it since the bind, in zero-copy mode, or never, in copy mode.
    pub(super) fn learn(&self, fd: BorrowedFd<'_>) {
        if let Self::On { napi, .. } = self {
            napi.store(napi_id(fd), Relaxed);
        }
    }
}

/// As it is shown behind a driver's mode: empty, or with a comma in front.
impl fmt::Display for BusyPolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::On { how, napi } => {
                let BusyPoll {
                    microseconds,
                    budget,
                } = how;
                write!(f, ", busy poll ({microseconds} µs, {budget} frames")?;
                match napi.load(Relaxed) {
                    0 => f.write_str(", nothing to poll: the kernel knows no NAPI for it)"),
                    napi => write!(f, ", NAPI {napi})"),
                }
            }
            Self::Refused(option, error) => write!(f, ", no busy poll ({option}: {error})"),
        }
    }
}

fn set(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: all three options take an integer.
    unsafe { set_option(fd, libc::SOL_SOCKET, option, &value) }
}

/// The NAPI that a socket's system calls poll; 0 while the kernel knows none.
fn napi_id(fd: BorrowedFd<'_>) -> u32 {
    let mut id = 0u32;
    // SAFETY: the option is an integer.
    let answer = unsafe { get_option(fd, libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID, &mut id) };
    answer.map_or(0, |()| id)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        assert!(BusyPoll::default().check().is_ok());
        let with = |microseconds, budget| BusyPoll {
            microseconds,
            budget,
        };
        for (wish, parts) in [
            (with(0, 64), ["time of busy polling is 0", "1 to 10000 µs"]),
            (with(10_001, 64), ["is 10001", "1 to 10000 µs"]),
            (
                with(20, 0),
                ["budget of busy polling is 0", "1 to 65535 frames"],
            ),
        ] {
            let message = wish.check().unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{message}");
            }
        }
    }

    /// The options are the socket layer's, so that any socket shows what the kernel makes of them:
    /// all with CAP_NET_ADMIN, none without.
    #[test]
    fn all_options_are_set_or_none() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let preferred = || {
            let mut value: libc::c_int = -1;
            // SAFETY: the option is an integer.
            let answer = unsafe {
                get_option(
                    socket.as_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_PREFER_BUSY_POLL,
                    &mut value,
                )
            };
            answer.unwrap();
            value
        };
        let off = BusyPolling::enable(socket.as_fd(), None);
        assert_eq!((off.to_string().as_str(), preferred()), ("", 0));
        let wish = BusyPoll::default();
        match BusyPolling::enable(socket.as_fd(), Some(wish)) {
            on @ BusyPolling::On { .. } => {
                let text = on.to_string();
                assert!(
                    text.starts_with(", busy poll (20 µs, 64 frames, nothing to poll"),
                    "{text}"
                );
                assert!(!on.polls(), "a socket that has received nothing");
                assert_eq!(preferred(), 1);
            }
            refused => {
                let text = refused.to_string();
                assert!(text.starts_with(", no busy poll (SO_"), "{text}");
                assert_eq!(preferred(), 0);
            }
        }
    }
}
