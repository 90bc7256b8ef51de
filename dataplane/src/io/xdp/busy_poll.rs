//! Busy polling: the card's NAPI runs in the system calls that we make, not in interrupts
//! (`Documentation/networking/napi.rst` in the kernel's sources).

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use super::error::XdpError;
use super::socket::set_option;

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
    On(BusyPoll),
    /// It has refused this one; none is set.
    Refused(&'static str, io::Error),
}

impl BusyPolling {
    /// Sets the options on a socket that is bound.
    pub(super) fn enable(fd: BorrowedFd<'_>, wish: Option<BusyPoll>) -> Self {
        let Some(wish) = wish else {
            return Self::Off;
        };
        let options = [
            (libc::SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", 1),
            (
                libc::SO_BUSY_POLL,
                "SO_BUSY_POLL",
                wish.microseconds.cast_signed(),
            ),
            (
                libc::SO_BUSY_POLL_BUDGET,
                "SO_BUSY_POLL_BUDGET",
                i32::from(wish.budget),
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
        Self::On(wish)
    }

    pub(super) const fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }
}

/// As it is shown behind a driver's mode: empty, or with a comma in front.
impl fmt::Display for BusyPolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::On(BusyPoll {
                microseconds,
                budget,
            }) => write!(f, ", busy poll ({microseconds} µs, {budget} frames)"),
            Self::Refused(option, error) => write!(f, ", no busy poll ({option}: {error})"),
        }
    }
}

fn set(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: all three options take an integer.
    unsafe { set_option(fd, libc::SOL_SOCKET, option, &value) }
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
            let mut length = size_of_val(&value) as u32;
            // SAFETY: `value` is an integer of `length` bytes, which the option fills.
            let result = unsafe {
                libc::getsockopt(
                    std::os::fd::AsRawFd::as_raw_fd(&socket),
                    libc::SOL_SOCKET,
                    libc::SO_PREFER_BUSY_POLL,
                    (&raw mut value).cast(),
                    &raw mut length,
                )
            };
            assert_eq!(result, 0);
            value
        };
        let off = BusyPolling::enable(socket.as_fd(), None);
        assert_eq!((off.to_string().as_str(), preferred()), ("", 0));
        let wish = BusyPoll::default();
        match BusyPolling::enable(socket.as_fd(), Some(wish)) {
            on @ BusyPolling::On(_) => {
                assert_eq!(on.to_string(), ", busy poll (20 µs, 64 frames)");
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
