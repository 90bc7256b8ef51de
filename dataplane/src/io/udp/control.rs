//! Ancillary data (`cmsg`): local address and interface, TOS, and segment sizes, both ways.
//!
//! The layout is the kernel's (`struct cmsghdr`, `CMSG_ALIGN`), written and read as bytes, so
//! that nothing here needs `unsafe`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libc::c_int;

use crate::mesh::Endpoint;

/// `sizeof(struct cmsghdr)`: a length of the machine's word size, level, type.
const HEADER: usize = size_of::<libc::cmsghdr>();
const WORD: usize = size_of::<usize>();
const _: () = assert!(HEADER == WORD + 8 && HEADER.is_multiple_of(WORD));

/// A buffer that holds everything we ask for or send: at most packet information (20 bytes),
/// traffic class (4) and segment size (4), with their headers.
const CAPACITY: usize = 128;

/// One message's ancillary data.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CAPACITY],
    len: usize,
}

/// What a received message's ancillary data said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ancillary {
    pub(super) local: Option<IpAddr>,
    pub(super) interface: u32,
    pub(super) tos: u8,
    /// The length of the datagrams that GRO put together, all but the last.
    pub(super) segment: Option<usize>,
}

impl Control {
    pub(super) const EMPTY: Self = Self {
        bytes: [0; CAPACITY],
        len: 0,
    };

    pub(super) const fn capacity() -> usize {
        CAPACITY
    }

    /// What goes with a datagram to `to`. `sticky` says whether to ask for the source address
    /// that the endpoint names; `segment` is the GSO segment size.
    pub(super) fn outgoing(to: &Endpoint, sticky: bool, tos: u8, segment: Option<u16>) -> Self {
        let mut control = Self::EMPTY;
        match (to.remote, to.local.filter(|_| sticky)) {
            (SocketAddr::V4(_), Some(IpAddr::V4(local))) => {
                control.push_source_v4(local);
            }
            (SocketAddr::V6(_), Some(IpAddr::V6(local))) => {
                control.push_source_v6(local, to.interface);
            }
            _ => {}
        }
        if tos != 0 {
            let (level, kind) = match to.remote {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            };
            control.push(level, kind, &c_int::from(tos).to_ne_bytes());
        }
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        control
    }

    /// `struct in_pktinfo`: interface, source to use, destination (not used on send). The
    /// interface stays 0: naming one would override the routing table (docs/decisions/0030).
    fn push_source_v4(&mut self, local: Ipv4Addr) {
        let mut info = [0; 12];
        if let Some(place) = info.get_mut(4..8) {
            place.copy_from_slice(&local.octets());
        }
        self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
    }

    /// `struct in6_pktinfo`: source to use, interface. Only a link-local source needs the
    /// interface, and is refused without it.
    fn push_source_v6(&mut self, local: Ipv6Addr, interface: u32) {
        let mut info = [0; 20];
        let interface = if local.is_unicast_link_local() {
            interface
        } else {
            0
        };
        if let Some((source, index)) = info.split_first_chunk_mut::<16>() {
            *source = local.octets();
            index.copy_from_slice(&interface.to_ne_bytes());
        }
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }

    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let end = HEADER + data.len();
        let Some(place) = self
            .bytes
            .get_mut(self.len..)
            .and_then(|rest| rest.get_mut(..align(end)))
        else {
            debug_assert!(false, "CAPACITY covers all that we send");
            return;
        };
        let header = end
            .to_ne_bytes()
            .into_iter()
            .chain(level.to_ne_bytes())
            .chain(kind.to_ne_bytes());
        let message = header.chain(data.iter().copied());
        for (byte, value) in place.iter_mut().zip(message) {
            *byte = value;
        }
        self.len += align(end);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The whole buffer, for the kernel to fill.
    pub(super) fn buffer_mut(&mut self) -> &mut [u8; CAPACITY] {
        &mut self.bytes
    }

    /// How much of it the kernel filled.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(CAPACITY);
    }

    /// Reads what the kernel delivered. Unknown kinds are passed over, a malformed rest ends it.
    pub(super) fn parse(&self) -> Ancillary {
        let mut said = Ancillary::default();
        let mut rest = self.bytes();
        while let Some((len, level, kind)) = header(rest) {
            let Some(data) = rest.get(HEADER..len) else {
                break;
            };
            said.take(level, kind, data);
            rest = rest.get(align(len)..).unwrap_or_default();
        }
        said
    }
}

impl Ancillary {
    fn take(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The second field is the local address, even where the third, the header's
                // destination, is a broadcast one.
                if let Some((index, rest)) = data.split_first_chunk::<4>()
                    && let Some((local, _)) = rest.split_first_chunk::<4>()
                {
                    self.interface = u32::from_ne_bytes(*index);
                    self.local = Some(Ipv4Addr::from(*local).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((local, rest)) = data.split_first_chunk::<16>()
                    && let Some((index, _)) = rest.split_first_chunk::<4>()
                {
                    self.interface = u32::from_ne_bytes(*index);
                    self.local = Some(Ipv6Addr::from(*local).into());
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => self.tos = data.first().copied().unwrap_or(0),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.tos = int(data).and_then(|tos| tos.try_into().ok()).unwrap_or(0);
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment = int(data)
                    .and_then(|segment| usize::try_from(segment).ok())
                    .filter(|segment| *segment > 0);
            }
            _ => {}
        }
    }
}

/// Length (header included), level and type of the first message in `bytes`.
fn header(bytes: &[u8]) -> Option<(usize, c_int, c_int)> {
    let (len, rest) = bytes.split_first_chunk::<WORD>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk::<4>()?;
    let len = usize::from_ne_bytes(*len);
    (len >= HEADER).then_some((
        len,
        c_int::from_ne_bytes(*level),
        c_int::from_ne_bytes(*kind),
    ))
}

fn int(data: &[u8]) -> Option<c_int> {
    data.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes))
}

/// `CMSG_ALIGN`.
const fn align(len: usize) -> usize {
    len.saturating_add(WORD - 1) & !(WORD - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(remote: &str, local: &str, interface: u32) -> Endpoint {
        Endpoint {
            remote: remote.parse().unwrap(),
            local: Some(local.parse().unwrap()),
            interface,
        }
    }

    #[test]
    fn says_what_it_was_told() {
        let to = endpoint("[2001:db8::2]:1", "2001:db8::1", 7);
        let said = Control::outgoing(&to, true, 0x8a, None).parse();
        assert_eq!(said.local, to.local);
        assert_eq!(said.tos, 0x8a);
        assert_eq!(said.interface, 0, "routing stays the kernel's");

        let link_local = endpoint("[fe80::2%7]:1".replace("%7", "").as_str(), "fe80::1", 7);
        let said = Control::outgoing(&link_local, true, 0, None).parse();
        assert_eq!(said.interface, 7);
        assert_eq!(said.local, link_local.local);
    }

    #[test]
    fn a_source_is_left_out_when_refused_or_of_the_other_family() {
        let to = endpoint("192.0.2.1:1", "192.0.2.9", 7);
        let sticky = Control::outgoing(&to, true, 0, None);
        assert_eq!(sticky.parse().local, to.local);
        assert!(Control::outgoing(&to, false, 0, None).bytes().is_empty());
        let mixed = endpoint("192.0.2.1:1", "::1", 0);
        assert!(Control::outgoing(&mixed, true, 0, None).bytes().is_empty());
    }

    #[test]
    fn the_fullest_message_fits() {
        let to = endpoint("[fe80::2]:1", "fe80::1", 7);
        let full = Control::outgoing(&to, true, 0xff, Some(1452));
        assert_eq!(full.len, 2 * align(HEADER + 4) + align(HEADER + 20));
        let (len, level, kind) = header(full.bytes()).unwrap();
        assert_eq!(
            (len, level, kind),
            (HEADER + 20, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
        );
    }

    proptest! {
        /// Whatever stands in the buffer: parsing ends, without a panic.
        #[test]
        fn any_bytes_parse(bytes in proptest::collection::vec(any::<u8>(), 0..=CAPACITY)) {
            let mut control = Control::EMPTY;
            control.buffer_mut()[..bytes.len()].copy_from_slice(&bytes);
            control.set_len(bytes.len());
            let said = control.parse();
            prop_assert!(said.segment != Some(0));
        }
    }
}
