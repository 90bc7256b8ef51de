//! What the XDP program decides about a frame.

use crate::frame::NotADatagram;

/// What the XDP program decided about a frame, and the index of the per-CPU counter that it
/// raised by one. Only [`Redirected`](Self::Redirected) frames leave the kernel's usual path; all
/// others are passed on (`XDP_PASS`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// Ours, and handed to the AF_XDP socket of its queue.
    Redirected = 0,
    /// Ours, but no AF_XDP socket is registered for its queue: the kernel's UDP socket has it.
    NoSocket = 1,
    /// A UDP datagram to a port that is not ours.
    OtherPort = 2,
    /// A UDP datagram to our port at an address that is not ours: to be routed or bridged on.
    OtherAddress = 3,
    /// Neither UDP over IPv4 nor UDP directly after the IPv6 header.
    OtherProtocol = 4,
    /// A fragment of an IPv4 packet; the kernel reassembles it.
    Fragment = 5,
    /// The frame ends before its headers say, or the fields of its headers contradict each other.
    Malformed = 6,
}

impl Verdict {
    /// Every verdict, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Redirected,
        Self::NoSocket,
        Self::OtherPort,
        Self::OtherAddress,
        Self::OtherProtocol,
        Self::Fragment,
        Self::Malformed,
    ];

    /// How many verdicts, and so counters, there are.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The index of this verdict's counter.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The counter's name for statuses and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::NoSocket => "no-socket",
            Self::OtherPort => "other-port",
            Self::OtherAddress => "other-address",
            Self::OtherProtocol => "other-protocol",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
        }
    }
}

impl From<NotADatagram> for Verdict {
    #[inline(always)]
    fn from(reason: NotADatagram) -> Self {
        match reason {
            NotADatagram::OtherProtocol => Self::OtherProtocol,
            NotADatagram::Fragment => Self::Fragment,
            NotADatagram::Malformed => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    #[test]
    fn counters_are_numbered_without_gaps_and_named_apart() {
        for (position, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict.index() as usize, position);
            let same_name = Verdict::ALL
                .into_iter()
                .filter(|v| v.name() == verdict.name());
            assert_eq!(same_name.count(), 1, "{}", verdict.name());
        }
    }
}
