//! What can go wrong with the XDP program, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;

use super::{Mode, privilege};

/// The XDP program could not be loaded into the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The process may not load XDP programs.
    #[error("loading the XDP program {}", Needs(missing))]
    NotPermitted {
        /// The capabilities that are missing; empty if that is not why.
        missing: String,
    },
    /// The kernel refused the program or one of its maps.
    #[error(
        "the kernel refused the XDP program: {}; it needs Linux 5.18 or later with \
         CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS",
        Chain(.0)
    )]
    Refused(#[source] Box<aya::EbpfError>),
    /// The object lacks a part that the loader needs: not an object of this release.
    #[error("the XDP object has no {0}: it does not belong to this release of ringspan")]
    Incomplete(&'static str),
    /// Filling the maps failed.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

impl From<aya::EbpfError> for LoadError {
    fn from(error: aya::EbpfError) -> Self {
        match (errno(&error), privilege::missing()) {
            (Some(Errno::PERM), missing) => Self::NotPermitted { missing },
            // EACCES is how the verifier says no, which may be for want of a capability too.
            (Some(Errno::ACCESS), missing) if !missing.is_empty() => Self::NotPermitted { missing },
            _ => Self::Refused(Box::new(error)),
        }
    }
}

/// The XDP program could not be attached to an interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Another XDP program is on the interface already.
    #[error(
        "{interface} already runs {occupant}, which ringspan will not displace: stop the \
         process that attached it (`bpftool link`), or unload it (`ip link set dev {interface} \
         xdp off`)"
    )]
    Occupied {
        /// The interface's name.
        interface: String,
        /// The program that is there.
        occupant: Occupant,
    },
    /// The process may not attach XDP programs.
    #[error("attaching the XDP program to {interface} {}", Needs(missing))]
    NotPermitted {
        /// The interface's name.
        interface: String,
        /// The capabilities that are missing; empty if that is not why.
        missing: String,
    },
    /// There is no such interface in this network namespace.
    #[error("there is no network interface with index {0} in this network namespace")]
    NoInterface(u32),
    /// This program is attached already; load another one for another interface.
    #[error("this XDP program is attached to {0} already; load one program an interface")]
    Attached(String),
    /// The kernel or the driver refused.
    #[error("{interface} refused the XDP program in {mode} mode: {source}")]
    Refused {
        /// The interface's name.
        interface: String,
        /// The mode that was asked for; generic if both were tried.
        mode: Mode,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An XDP program on an interface, as far as the kernel tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occupant {
    /// The kernel's number for the program; `None` if it left before it could be asked.
    pub id: Option<u32>,
    /// Its name, at most 15 bytes; `None` if it has none or this process may not ask.
    pub name: Option<String>,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.id) {
            (Some(name), Some(id)) => write!(f, "the XDP program \"{name}\" (id {id})"),
            (None, Some(id)) => write!(f, "an unnamed XDP program (id {id})"),
            (_, None) => f.write_str("another XDP program"),
        }
    }
}

/// Reading or changing one of the program's maps failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The queue is beyond the map of sockets.
    #[error("queue {queue} is beyond the {limit} receive queues that ringspan serves")]
    NoSuchQueue {
        /// The queue asked for.
        queue: u32,
        /// How many there may be.
        limit: u32,
    },
    /// More local addresses than the program can hold.
    #[error(
        "{count} local addresses are more than the {limit} that the XDP program can tell apart"
    )]
    TooManyAddresses {
        /// How many were given.
        count: usize,
        /// How many there may be.
        limit: u32,
    },
    /// The kernel refused the change.
    #[error("the XDP program's {map}: {}", Chain(.source))]
    Kernel {
        /// Which map.
        map: &'static str,
        /// The kernel's answer.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl UpdateError {
    /// For `map_err`: a failed operation on `map`.
    pub(super) fn on<E: Error + Send + Sync + 'static>(map: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Kernel {
            map,
            source: Box::new(source),
        }
    }
}

/// What permission takes, and which part of it is missing.
struct Needs<'a>(&'a str);

impl fmt::Display for Needs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "needs CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON in the initial user namespace: run as \
             root, or grant them (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON \
             CAP_NET_RAW)",
        )?;
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "; missing here: {}", self.0)
        }
    }
}

/// An error with all its causes on one line. For errors whose messages leave their causes out.
struct Chain<'a, E: ?Sized>(&'a E);

impl<E: Error + ?Sized> fmt::Display for Chain<'_, Box<E>>
where
    Box<E>: fmt::Display,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The system's error number at the bottom of `error`.
fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io_error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(io_error);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_privilege_is_found_at_the_bottom_of_the_chain() {
        let refused = |errno: Errno| {
            LoadError::from(aya::EbpfError::MapError(aya::maps::MapError::CreateError {
                name: "RS_PORTS".to_owned(),
                io_error: errno.into(),
            }))
        };
        assert!(matches!(
            refused(Errno::PERM),
            LoadError::NotPermitted { .. }
        ));
        let message = refused(Errno::NOMEM).to_string();
        assert!(message.contains("RS_PORTS"), "{message}");
        assert!(message.contains("os error 12"), "{message}");
    }

    #[test]
    fn a_missing_capability_is_named_with_the_way_out() {
        let message = AttachError::NotPermitted {
            interface: "eth0".to_owned(),
            missing: "CAP_BPF".to_owned(),
        }
        .to_string();
        for part in [
            "eth0",
            "CAP_NET_ADMIN",
            "run as root",
            "missing here: CAP_BPF",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_occupied_interface_is_reported_with_name_and_id() {
        let error = AttachError::Occupied {
            interface: "eth0".to_owned(),
            occupant: Occupant {
                id: Some(42),
                name: Some("xdp_filter".to_owned()),
            },
        };
        let message = error.to_string();
        for part in [
            "eth0",
            "\"xdp_filter\"",
            "id 42",
            "ip link set dev eth0 xdp off",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
