//! Socket addresses as the kernel lays them out (`sockaddr_in`, `sockaddr_in6`).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const V4_LEN: usize = size_of::<libc::sockaddr_in>();
const V6_LEN: usize = size_of::<libc::sockaddr_in6>();
const _: () = assert!(V4_LEN == 16 && V6_LEN == 28);

/// Room for either, and how much of it is in use.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct RawAddress {
    pub(super) bytes: [u8; V6_LEN],
    pub(super) len: u32,
}

impl RawAddress {
    pub(super) const CAPACITY: u32 = V6_LEN as u32;

    pub(super) const EMPTY: Self = Self {
        bytes: [0; V6_LEN],
        len: 0,
    };

    /// The address, if it is one of the Internet's.
    pub(super) fn decode(&self) -> Option<SocketAddr> {
        let bytes = self.bytes.get(..self.len as usize)?;
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let (ip, _) = rest.split_first_chunk::<4>()?;
                Some(SocketAddrV4::new(Ipv4Addr::from(*ip), port).into())
            }
            libc::AF_INET6 => {
                let (flow, rest) = rest.split_first_chunk::<4>()?;
                let (ip, rest) = rest.split_first_chunk::<16>()?;
                let (scope, _) = rest.split_first_chunk::<4>()?;
                let flow = u32::from_be_bytes(*flow);
                let scope = u32::from_ne_bytes(*scope);
                Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; V6_LEN];
        let mut put = |at: usize, part: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        };
        put(2, &address.port().to_be_bytes());
        let len = match address {
            SocketAddr::V4(v4) => {
                put(0, &(libc::AF_INET as u16).to_ne_bytes());
                put(4, &v4.ip().octets());
                V4_LEN
            }
            SocketAddr::V6(v6) => {
                put(0, &(libc::AF_INET6 as u16).to_ne_bytes());
                put(4, &v6.flowinfo().to_be_bytes());
                put(8, &v6.ip().octets());
                put(24, &v6.scope_id().to_ne_bytes());
                V6_LEN
            }
        };
        Self {
            bytes,
            len: len as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_v4(ip in any::<[u8; 4]>(), port in any::<u16>()) {
            let address = SocketAddr::from((ip, port));
            prop_assert_eq!(RawAddress::from(address).decode(), Some(address));
        }

        #[test]
        fn round_trip_v6(
            ip in any::<[u8; 16]>(),
            port in any::<u16>(),
            flow in 0u32..1 << 20,
            scope in any::<u32>(),
        ) {
            let address = SocketAddr::from(SocketAddrV6::new(ip.into(), port, flow, scope));
            prop_assert_eq!(RawAddress::from(address).decode(), Some(address));
        }

        #[test]
        fn nonsense_is_no_address(bytes in any::<[u8; V6_LEN]>(), len in 0u32..16) {
            let raw = RawAddress { bytes, len: len.min(8) };
            if len < 8 {
                prop_assert_eq!(raw.decode(), None);
            }
        }
    }
}
