//! The header in front of each packet (`struct virtio_net_hdr`): what is left to do to it, or may
//! be left to the kernel.

use super::transport::{Layout, Protocol};

/// `sizeof(struct virtio_net_hdr)`.
pub(super) const HEADER: usize = 10;

/// The checksum field holds the pseudo header's sum; the rest is to be added.
const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside another type: the first segment alone has CWR set.
const GSO_ECN: u8 = 0x80;

/// The header, parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct VnetHeader {
    /// Where the checksum to be completed begins, and the place of its field from there.
    pub(super) checksum: Option<(u16, u16)>,
    /// What to segment, if anything.
    pub(super) segments: Option<Segments>,
    /// The length of all headers. The kernel's word for it is not always right.
    pub(super) headers: u16,
}

/// Into what the packet is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segments {
    pub(super) v6: Option<bool>,
    pub(super) protocol: Protocol,
    /// The payload of each segment but the last, in bytes; not 0.
    pub(super) size: u16,
}

impl VnetHeader {
    /// For a super-packet of ours.
    pub(super) fn super_packet(layout: &Layout, size: u16) -> Option<Self> {
        Some(Self {
            checksum: Some((
                u16::try_from(layout.transport).ok()?,
                layout.protocol.checksum_offset() as u16,
            )),
            segments: Some(Segments {
                v6: Some(layout.v6),
                protocol: layout.protocol,
                size,
            }),
            headers: u16::try_from(layout.payload).ok()?,
        })
    }

    /// Reads the kernel's; `None` for what we never asked for.
    pub(super) fn decode(bytes: [u8; HEADER]) -> Option<Self> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = bytes;
        let size = u16::from_ne_bytes([s0, s1]);
        let (v6, protocol) = match kind & !GSO_ECN {
            GSO_NONE => (None, None),
            GSO_TCPV4 => (Some(false), Some(Protocol::Tcp)),
            GSO_TCPV6 => (Some(true), Some(Protocol::Tcp)),
            GSO_UDP_L4 => (None, Some(Protocol::Udp)),
            _ => return None,
        };
        let segments = match protocol {
            None => None,
            Some(_) if size == 0 => return None,
            Some(protocol) => Some(Segments { v6, protocol, size }),
        };
        let checksum = (u16::from_ne_bytes([c0, c1]), u16::from_ne_bytes([o0, o1]));
        Some(Self {
            checksum: (flags & NEEDS_CSUM != 0).then_some(checksum),
            segments,
            headers: u16::from_ne_bytes([h0, h1]),
        })
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let (kind, size) = match self.segments {
            None => (GSO_NONE, 0),
            Some(Segments { v6, protocol, size }) => {
                let kind = match (protocol, v6) {
                    (Protocol::Udp, _) => GSO_UDP_L4,
                    (Protocol::Tcp, Some(true)) => GSO_TCPV6,
                    (Protocol::Tcp, _) => GSO_TCPV4,
                };
                (kind, size)
            }
        };
        let flags = if self.checksum.is_some() {
            NEEDS_CSUM
        } else {
            0
        };
        let (start, offset) = self.checksum.unwrap_or_default();
        let [h0, h1] = self.headers.to_ne_bytes();
        let [s0, s1] = size.to_ne_bytes();
        let [c0, c1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_to_do_is_all_zero() {
        assert_eq!(VnetHeader::default().encode(), [0; HEADER]);
        assert_eq!(VnetHeader::decode([0; HEADER]), Some(VnetHeader::default()));
    }

    #[test]
    fn the_kernels_layout() {
        let layout = Layout {
            v6: true,
            protocol: Protocol::Tcp,
            transport: 40,
            payload: 72,
        };
        let header = VnetHeader::super_packet(&layout, 1348).unwrap();
        let mut expected = vec![NEEDS_CSUM, GSO_TCPV6];
        for field in [72u16, 1348, 40, 16] {
            expected.extend(field.to_ne_bytes());
        }
        assert_eq!(header.encode(), *expected);
        assert_eq!(VnetHeader::decode(header.encode()), Some(header));
    }

    proptest! {
        #[test]
        fn any_header_decodes_or_not(bytes in any::<[u8; HEADER]>()) {
            if let Some(header) = VnetHeader::decode(bytes) {
                prop_assert!(header.segments.is_none_or(|segments| segments.size > 0));
                let again = VnetHeader::decode(header.encode()).unwrap();
                prop_assert_eq!(again.segments.map(|s| (s.protocol, s.size)),
                    header.segments.map(|s| (s.protocol, s.size)));
            }
        }
    }
}
