//! TCP and UDP inside IP packets: where the headers are, and what depends on the length.

use crate::wire::checksum::{Sum, checksum};

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;

/// A transport protocol that can be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::io) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The checksum field's place in the transport header.
    pub(super) const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Where the headers of a packet end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::io) struct Layout {
    pub(super) v6: bool,
    pub(super) protocol: Protocol,
    /// Where the transport header begins.
    pub(super) transport: usize,
    /// Where its payload begins.
    pub(super) payload: usize,
}

impl Layout {
    /// For a packet whose transport header is known to begin at `transport`. Lengths in the
    /// headers are not looked at.
    pub(in crate::io) fn at(packet: &[u8], protocol: Protocol, transport: usize) -> Option<Self> {
        let v6 = match packet.first()? >> 4 {
            4 => false,
            6 => true,
            _ => return None,
        };
        if transport < if v6 { V6_HEADER } else { V4_HEADER } {
            return None;
        }
        let header = match protocol {
            Protocol::Udp => UDP_HEADER,
            Protocol::Tcp => usize::from(packet.get(transport + 12)? >> 4) * 4,
        };
        if protocol == Protocol::Tcp && header < TCP_HEADER {
            return None;
        }
        let payload = transport + header;
        (payload <= packet.len()).then_some(Self {
            v6,
            protocol,
            transport,
            payload,
        })
    }

    /// For a packet in the plainest form: whole, without IP options or extension headers, and
    /// exactly as long as its headers say. `None` for any other.
    pub(super) fn plain(packet: &[u8]) -> Option<Self> {
        let (next, transport) = match *packet.first()? {
            0x45 => {
                // More fragments, or not the first; the reserved bit is nobody's.
                let fragment = be16(packet, 6)? & !0x4000;
                if fragment != 0 || usize::from(be16(packet, 2)?) != packet.len() {
                    return None;
                }
                (*packet.get(9)?, V4_HEADER)
            }
            first if first >> 4 == 6 => {
                if usize::from(be16(packet, 4)?) + V6_HEADER != packet.len() {
                    return None;
                }
                (*packet.get(6)?, V6_HEADER)
            }
            _ => return None,
        };
        let protocol = match next {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let layout = Self::at(packet, protocol, transport)?;
        if protocol == Protocol::Udp
            && usize::from(be16(packet, transport + 4)?) != packet.len() - transport
        {
            return None;
        }
        Some(layout)
    }

    /// Whether all checksums are there and right.
    pub(super) fn verifies(&self, packet: &[u8]) -> bool {
        let header = packet.get(..self.transport).unwrap_or_default();
        let body = packet.get(self.transport..).unwrap_or_default();
        let field = be16(packet, self.transport + self.protocol.checksum_offset());
        (self.v6 || checksum(header) == 0)
            && (self.protocol == Protocol::Tcp || field != Some(0))
            && self
                .pseudo(packet, body.len())
                .is_some_and(|sum| sum.with(body).finish() == 0)
    }

    /// Makes the headers tell the packet's length as it is, with all checksums but the
    /// transport's.
    pub(super) fn set_lengths(&self, headers: &mut [u8], len: usize) -> Option<()> {
        let total = u16::try_from(len).ok()?;
        if self.v6 {
            let payload = total.checked_sub(V6_HEADER as u16)?;
            put(headers, 4, &payload.to_be_bytes())?;
        } else {
            put(headers, 2, &total.to_be_bytes())?;
            put(headers, 10, &[0, 0])?;
            let words = usize::from(headers.first()? & 0x0f);
            let sum = checksum(headers.get(..words * 4)?);
            put(headers, 10, &sum.to_be_bytes())?;
        }
        if self.protocol == Protocol::Udp {
            let udp = total.checked_sub(u16::try_from(self.transport).ok()?)?;
            put(headers, self.transport + 4, &udp.to_be_bytes())?;
        }
        Some(())
    }

    /// Computes the transport checksum of a whole packet.
    pub(in crate::io) fn set_checksum(&self, packet: &mut [u8]) -> Option<()> {
        let field = self.transport + self.protocol.checksum_offset();
        put(packet, field, &[0, 0])?;
        let body = packet.get(self.transport..)?;
        let sum = self.pseudo(packet, body.len())?.with(body);
        let sum = match self.protocol {
            Protocol::Tcp => sum.finish(),
            Protocol::Udp => sum.finish_udp(),
        };
        put(packet, field, &sum.to_be_bytes())
    }

    /// Puts the pseudo header's sum where the checksum goes: the kernel adds the rest. `len` is
    /// the length of the whole packet.
    pub(in crate::io) fn set_partial_checksum(&self, headers: &mut [u8], len: usize) -> Option<()> {
        let sum = self.pseudo(headers, len.checked_sub(self.transport)?)?;
        let field = self.transport + self.protocol.checksum_offset();
        put(headers, field, &sum.partial().to_be_bytes())
    }

    /// Whether only the pseudo header's sum is where the checksum goes: the kernel left the rest to
    /// a card.
    pub(in crate::io) fn has_partial_checksum(&self, packet: &[u8]) -> bool {
        let length = packet.len().saturating_sub(self.transport);
        let field = be16(packet, self.transport + self.protocol.checksum_offset());
        let partial = self.pseudo(packet, length).map(Sum::partial);
        field.is_some() && field == partial
    }

    /// The pseudo header for a transport header and payload of `len` bytes.
    fn pseudo(&self, headers: &[u8], len: usize) -> Option<Sum> {
        let addresses = headers.get(if self.v6 { 8..40 } else { 12..20 })?;
        let len = u32::try_from(len).ok()?;
        // Both pseudo headers are the same sum: addresses, length, protocol.
        Some(
            Sum::new()
                .with(addresses)
                .with(&len.to_be_bytes())
                .with(&[0, self.protocol.number()]),
        )
    }
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*field))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*field))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes
        .get_mut(at..at.checked_add(value.len())?)?
        .copy_from_slice(value);
    Some(())
}

/// Packets for the tests of this folder.
#[cfg(test)]
pub(in crate::io) mod samples {
    use super::*;

    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const FIN: u8 = 0x01;

    /// A packet with correct lengths and checksums; `seq` is TCP's, and the IPv4 ID.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Sample {
        pub(crate) v6: bool,
        pub(crate) protocol: Protocol,
        pub(crate) port: u16,
        pub(crate) id: u16,
        pub(crate) seq: u32,
        pub(crate) flags: u8,
        pub(crate) options: bool,
    }

    impl Sample {
        pub(crate) fn tcp(v6: bool) -> Self {
            Self {
                v6,
                protocol: Protocol::Tcp,
                port: 443,
                id: 7,
                seq: u32::MAX - 2000,
                flags: ACK,
                options: true,
            }
        }

        pub(crate) fn udp(v6: bool) -> Self {
            Self {
                protocol: Protocol::Udp,
                ..Self::tcp(v6)
            }
        }

        pub(crate) fn build(&self, payload: &[u8]) -> Vec<u8> {
            let mut packet = if self.v6 {
                let mut header = vec![0x60, 0x12, 0x34, 0x56, 0, 0, 0, 61];
                header[6] = self.protocol.number();
                header.extend([0x20; 16]);
                header.extend([0x21; 16]);
                header
            } else {
                let [id0, id1] = self.id.to_be_bytes();
                let protocol = self.protocol.number();
                vec![
                    0x45, 2, 0, 0, id0, id1, 0x40, 0, 61, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
                ]
            };
            let transport = packet.len();
            packet.extend(5001u16.to_be_bytes());
            packet.extend(self.port.to_be_bytes());
            match self.protocol {
                Protocol::Udp => packet.extend([0; 4]),
                Protocol::Tcp => {
                    packet.extend(self.seq.to_be_bytes());
                    packet.extend(77u32.to_be_bytes());
                    let words = if self.options { 8 } else { 5 };
                    packet.extend([words << 4, self.flags, 0x12, 0x34, 0, 0, 0, 0]);
                    if self.options {
                        packet.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
                    }
                }
            }
            packet.extend(payload);
            let layout = Layout::at(&packet, self.protocol, transport).unwrap();
            let len = packet.len();
            layout.set_lengths(&mut packet, len).unwrap();
            layout.set_checksum(&mut packet).unwrap();
            packet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::Sample;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn samples_are_plain_and_verify() {
        for v6 in [false, true] {
            for sample in [Sample::tcp(v6), Sample::udp(v6)] {
                let mut packet = sample.build(b"payload");
                let layout = Layout::plain(&packet).unwrap();
                assert_eq!(&packet[layout.payload..], b"payload");
                assert!(layout.verifies(&packet));
                *packet.last_mut().unwrap() ^= 1;
                assert!(!layout.verifies(&packet));
            }
        }
    }

    #[test]
    fn the_pseudo_headers_are_the_rfcs() {
        let packet = Sample::udp(true).build(b"x");
        let layout = Layout::plain(&packet).unwrap();
        let rfc = Sum::pseudo_v6([0x20; 16].into(), [0x21; 16].into(), 17, 9);
        assert_eq!(layout.pseudo(&packet, 9).unwrap().finish(), rfc.finish());
        let packet = Sample::tcp(false).build(b"x");
        let layout = Layout::plain(&packet).unwrap();
        let rfc = Sum::pseudo_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, 33);
        assert_eq!(layout.pseudo(&packet, 33).unwrap().finish(), rfc.finish());
    }

    #[test]
    fn other_forms_are_not_plain() {
        let good = Sample::udp(false).build(b"payload");
        for (at, value) in [(0, 0x46), (6, 0x20), (7, 1), (9, 1), (3, 0), (25, 0)] {
            let mut packet = good.clone();
            packet[at] = value;
            assert_eq!(Layout::plain(&packet), None, "byte {at} = {value:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..120), at in 0usize..200) {
            let _ = Layout::plain(&bytes).map(|layout| layout.verifies(&bytes));
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                if let Some(layout) = Layout::at(&bytes, protocol, at) {
                    prop_assert!(layout.payload <= bytes.len());
                    let mut bytes = bytes.clone();
                    let len = bytes.len();
                    let _ = layout.set_lengths(&mut bytes, len);
                    let _ = layout.set_checksum(&mut bytes);
                    let _ = layout.set_partial_checksum(&mut bytes, at);
                }
            }
        }
    }
}
