//! What a failed request is answered with.

use core::fmt;
use std::io;

use crate::control::ChangeError;
use crate::engine::handshakes::AddPeerError;
use crate::io::udp::BindError;
use crate::runtime::outer_settings::OuterError;

/// A number of `errno(3)`, as Linux numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Errno(i32);

impl Errno {
    /// A value that its key cannot have, or a key that there is not (`EINVAL`).
    pub const INVALID: Self = Self(libc::EINVAL);
    /// No request of this protocol (`EPROTO`).
    pub const PROTOCOL: Self = Self(libc::EPROTO);
    /// A request longer than any sensible one (`E2BIG`).
    pub const TOO_LONG: Self = Self(libc::E2BIG);
    /// The device is going away (`ENODEV`).
    pub const GONE: Self = Self(libc::ENODEV);

    /// The number; never 0.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    fn of(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&ChangeError> for Errno {
    fn from(error: &ChangeError) -> Self {
        match error {
            ChangeError::Outer(OuterError::Udp(bind)) => match bind {
                BindError::PortTaken { .. } => Self(libc::EADDRINUSE),
                BindError::PortDenied { .. } => Self(libc::EACCES),
                BindError::MarkDenied { .. } => Self(libc::EPERM),
                BindError::Socket { source, .. } => Self::of(source),
            },
            ChangeError::Outer(OuterError::Custom) => Self(libc::EOPNOTSUPP),
            ChangeError::Outer(OuterError::Register(source)) => Self::of(source),
            ChangeError::Outer(OuterError::Xdp(_)) => Self(libc::EIO),
            // As the kernel says when it has no room for a peer.
            ChangeError::Peer(AddPeerError::TooMany) => Self(libc::ENOMEM),
            ChangeError::Peer(_) | ChangeError::Identity(_) => Self::INVALID,
            ChangeError::Outer(OuterError::Stopped(_)) | ChangeError::Stopped(_) => Self::GONE,
        }
    }
}
