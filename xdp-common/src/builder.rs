//! Writing frames for tests and fuzz targets (feature `builder`): a frame that is right in
//! every field, or wrong in the one that a test is about.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::frame::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, PROTOCOL_UDP, UdpFrame, VlanTag,
};

/// A frame with a UDP datagram, field by field. Start from [`FrameBuilder::new`], change fields,
/// [`build`](Self::build).
#[derive(Clone, Debug)]
pub struct FrameBuilder {
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// VLAN tags, outermost first.
    pub tags: Vec<VlanTag>,
    /// IP source and UDP source port. Same address family as `destination`.
    pub source: SocketAddr,
    /// IP destination and UDP destination port.
    pub destination: SocketAddr,
    /// TOS octet or traffic class.
    pub tos: u8,
    /// IPv4 options: at most 40 bytes, a multiple of 4. Ignored for IPv6.
    pub options: Vec<u8>,
    /// IPv4 flags and fragment offset as they stand in the header.
    pub fragment: u16,
    /// IP protocol, or IPv6 next header.
    pub protocol: u8,
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// Bytes of Ethernet padding behind the IP packet.
    pub padding: usize,
    /// Added to the length in the IP header (modulo 2¹⁶).
    pub ip_length_error: u16,
    /// Added to the length in the UDP header (modulo 2¹⁶).
    pub udp_length_error: u16,
}

impl FrameBuilder {
    /// A well-formed, untagged frame.
    ///
    /// # Panics
    /// If the two addresses are not of one family.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        assert_eq!(
            source.is_ipv4(),
            destination.is_ipv4(),
            "{source} and {destination} are of different families"
        );
        Self {
            destination_mac: [0x02, 0, 0, 0, 0, 0x01],
            source_mac: [0x02, 0, 0, 0, 0, 0x02],
            tags: Vec::new(),
            source,
            destination,
            tos: 0,
            options: Vec::new(),
            fragment: 0x4000, // don't fragment
            protocol: PROTOCOL_UDP,
            payload: payload.to_vec(),
            padding: 0,
            ip_length_error: 0,
            udp_length_error: 0,
        }
    }

    /// Adds an inner VLAN tag. The first of several is written as an 802.1ad tag.
    #[must_use]
    pub fn tag(mut self, control: u16) -> Self {
        if let Some(outer) = self.tags.first_mut() {
            outer.ether_type = ETHERTYPE_QINQ;
        }
        self.tags.push(VlanTag {
            ether_type: ETHERTYPE_VLAN,
            control,
        });
        self
    }

    /// The frame's bytes. The IPv4 header checksum is right, the UDP checksum is zero.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for tag in &self.tags {
            frame.extend(tag.ether_type.to_be_bytes());
            frame.extend(tag.control.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(self.ipv4_header(source.octets(), destination.octets()));
            }
            (source, destination) => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend(
                    0x6000_0000_u32
                        .wrapping_add(u32::from(self.tos) << 20)
                        .to_be_bytes(),
                );
                frame.extend(
                    self.udp_length()
                        .wrapping_add(self.ip_length_error)
                        .to_be_bytes(),
                );
                frame.extend([self.protocol, 64]);
                frame.extend(crate::maps::address_key(source));
                frame.extend(crate::maps::address_key(destination));
            }
        }
        frame.extend(self.source.port().to_be_bytes());
        frame.extend(self.destination.port().to_be_bytes());
        frame.extend(
            self.udp_length()
                .wrapping_add(self.udp_length_error)
                .to_be_bytes(),
        );
        frame.extend([0, 0]);
        frame.extend(&self.payload);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// What [`UdpFrame::parse`] must make of a frame that is right in every field.
    #[must_use]
    pub fn parsed(&self) -> UdpFrame {
        let headers = if self.source.is_ipv4() {
            20 + self.options.len() + 8
        } else {
            40 + 8
        };
        let payload = 14 + 4 * self.tags.len() + headers;
        UdpFrame {
            destination_mac: self.destination_mac,
            source_mac: self.source_mac,
            vlan: [self.tags.first().copied(), self.tags.get(1).copied()],
            source: self.source,
            destination: self.destination,
            tos: self.tos,
            payload: payload..payload + self.payload.len(),
        }
    }

    fn ipv4_header(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = (header as u16)
            .wrapping_add(self.udp_length())
            .wrapping_add(self.ip_length_error);
        let mut bytes = Vec::with_capacity(header);
        bytes.extend([0x40 | (header / 4) as u8, self.tos]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(&self.options);
        let checksum = internet_checksum(&bytes);
        for (byte, sum) in bytes.iter_mut().skip(10).zip(checksum.to_be_bytes()) {
            *byte = sum;
        }
        bytes
    }

    fn udp_length(&self) -> u16 {
        (8 + self.payload.len()) as u16
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&pair| u32::from(u16::from_be_bytes(pair)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
