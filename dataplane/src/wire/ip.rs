//! IPv4 and IPv6 headers (RFC 791 §3.1, RFC 8200 §3), as far as a tunnel looks into them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ecn::Ecn;

/// An IPv4 header without options.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4) and header length in words of four bytes.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload, in bytes.
    pub total_len: U16,
    /// Identification of a datagram's fragments.
    pub id: U16,
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Hop limit.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// An IPv6 header without extensions.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (6), traffic class (DSCP and ECN), flow label.
    pub version_class_flow: U32,
    /// Length of what follows the header, in bytes.
    pub payload_len: U16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

const _: () = {
    assert!(size_of::<Ipv4Header>() == 20);
    assert!(size_of::<Ipv6Header>() == 40);
};

/// Bytes that are no IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpError {
    /// Neither version, or nothing at all.
    #[error("the first byte of an IP packet says 4 or 6, not {version}")]
    Version {
        /// The first four bits; 0 where there are none.
        version: u8,
    },
    /// Ends within the header, or the header says it does.
    #[error("{len} bytes are too few for an IPv{version} header")]
    HeaderLength {
        /// The version.
        version: u8,
        /// Bytes that are there, or that the header admits.
        len: usize,
    },
    /// Says that it is longer than it is.
    #[error("an IP packet of {total_len} bytes was cut to {len}")]
    Truncated {
        /// The length in the header.
        total_len: usize,
        /// The bytes that are there.
        len: usize,
    },
}

/// The header of an IP packet that is whole: its length fits what is there. Checksums and options
/// are not looked at.
#[derive(Clone, Copy, Debug)]
pub enum Ip<'a> {
    /// IPv4.
    V4(&'a Ipv4Header),
    /// IPv6.
    V6(&'a Ipv6Header),
}

impl<'a> Ip<'a> {
    /// Looks at the packet at the beginning of `bytes`. More bytes may follow (padding).
    ///
    /// # Errors
    /// [`IpError`] where the version is unknown or the lengths contradict each other.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IpError> {
        let version = bytes.first().map_or(0, |first| first >> 4);
        let cut = |len| IpError::HeaderLength { version, len };
        let ip = match version {
            4 => {
                let (header, _) =
                    Ipv4Header::ref_from_prefix(bytes).map_err(|_| cut(bytes.len()))?;
                let header_len = usize::from(header.version_ihl & 0xf) * 4;
                let least = header_len.min(usize::from(header.total_len.get()));
                if least < size_of::<Ipv4Header>() || header_len > least {
                    return Err(cut(least));
                }
                Self::V4(header)
            }
            6 => {
                let (header, _) =
                    Ipv6Header::ref_from_prefix(bytes).map_err(|_| cut(bytes.len()))?;
                Self::V6(header)
            }
            _ => return Err(IpError::Version { version }),
        };
        let (total_len, len) = (ip.total_len(), bytes.len());
        if total_len > len {
            return Err(IpError::Truncated { total_len, len });
        }
        Ok(ip)
    }

    /// The packet's length, header included, in bytes.
    #[must_use]
    pub fn total_len(&self) -> usize {
        match self {
            Self::V4(header) => usize::from(header.total_len.get()),
            Self::V6(header) => size_of::<Ipv6Header>() + usize::from(header.payload_len.get()),
        }
    }

    /// The source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(header) => Ipv4Addr::from(header.source).into(),
            Self::V6(header) => Ipv6Addr::from(header.source).into(),
        }
    }

    /// The destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(header) => Ipv4Addr::from(header.destination).into(),
            Self::V6(header) => Ipv6Addr::from(header.destination).into(),
        }
    }

    /// The TOS or traffic-class octet: DSCP and ECN.
    #[must_use]
    pub fn tos(&self) -> u8 {
        match self {
            Self::V4(header) => header.tos,
            Self::V6(header) => (header.version_class_flow.get() >> 20) as u8,
        }
    }

    /// The ECN bits.
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        self.tos().into()
    }
}

/// A header to be changed.
#[derive(Debug)]
pub(super) enum IpMut<'a> {
    V4(&'a mut Ipv4Header),
    V6(&'a mut Ipv6Header),
}

impl<'a> IpMut<'a> {
    /// The header of a packet that [`Ip::parse`] has accepted.
    pub(super) fn of(packet: &'a mut [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Ipv4Header::mut_from_prefix(packet)
                .ok()
                .map(|(header, _)| Self::V4(header)),
            6 => Ipv6Header::mut_from_prefix(packet)
                .ok()
                .map(|(header, _)| Self::V6(header)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[..4].copy_from_slice(&[0x45, 0xb9, (len >> 8) as u8, len as u8]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet
    }

    #[test]
    fn fields_of_both_versions() {
        let bytes = v4(60);
        let ip = Ip::parse(&bytes).unwrap();
        assert_eq!((ip.total_len(), ip.tos(), ip.ecn()), (60, 0xb9, Ecn::Ect1));
        assert_eq!(ip.source(), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(ip.destination(), "10.0.0.2".parse::<IpAddr>().unwrap());

        let mut bytes = vec![0; 50];
        bytes[..6].copy_from_slice(&[0x6b, 0x9f, 0xff, 0xff, 0, 8]);
        (bytes[23], bytes[39]) = (1, 2);
        let ip = Ip::parse(&bytes).unwrap();
        assert_eq!((ip.total_len(), ip.tos(), ip.ecn()), (48, 0xb9, Ecn::Ect1));
        assert_eq!(ip.source(), "::1".parse::<IpAddr>().unwrap());
        assert_eq!(ip.destination(), "::2".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let mut bytes = v4(60);
        let truncated = IpError::Truncated {
            total_len: 60,
            len: 59,
        };
        assert_eq!(Ip::parse(&bytes[..59]).unwrap_err(), truncated);
        let short = |len| IpError::HeaderLength { version: 4, len };
        assert_eq!(Ip::parse(&bytes[..19]).unwrap_err(), short(19));
        bytes[0] = 0x44;
        assert_eq!(Ip::parse(&bytes).unwrap_err(), short(16));
        (bytes[0], bytes[3]) = (0x45, 19);
        assert_eq!(Ip::parse(&bytes).unwrap_err(), short(19));
        (bytes[0], bytes[3]) = (0x46, 20);
        assert_eq!(Ip::parse(&bytes).unwrap_err(), short(20));
        assert_eq!(Ip::parse(&[]).unwrap_err(), IpError::Version { version: 0 });
        assert_eq!(
            Ip::parse(&[0x50; 64]).unwrap_err(),
            IpError::Version { version: 5 }
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_whole(mut bytes in prop::collection::vec(any::<u8>(), 0..80), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0xf | if v6 { 0x60 } else { 0x40 };
            }
            if let Ok(ip) = Ip::parse(&bytes) {
                prop_assert!(ip.total_len() <= bytes.len());
                let least = if v6 { 40 } else { 20 };
                prop_assert!(ip.total_len() >= least);
            }
        }
    }
}
