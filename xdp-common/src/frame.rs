//! Taking an Ethernet frame apart down to the payload of its UDP datagram.
//!
//! [`Layout::of`] is what the XDP program runs: it finds the headers and checks every length
//! against the frame. [`UdpFrame::parse`] is what user space runs: the same, and then it reads
//! the addresses. Both accept exactly the same frames:
//!
//! - Ethernet II with up to two VLAN tags (IEEE 802.1Q, 802.1ad),
//! - IPv4 with or without options, not fragmented (RFC 791 §3.1),
//! - IPv6 without extension headers (RFC 8200 §3),
//! - UDP whose length field fits into the IP packet (RFC 768).
//!
//! Lengths are checked against the frame because a card may cut a frame short without an error
//! (igb with 2048-byte chunks does). Checksums are not: a frame that a local sender put on a
//! veth has only a partial UDP checksum, and every datagram is authenticated further up.

use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4_MIN_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

/// EtherTypes (IEEE 802 numbers).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag (the customer's, or the only one).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad tag (the provider's, outermost of two).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// IPv4 flags and offset: "more fragments" and the 13 bits of the fragment's offset.
const IPV4_FRAGMENT: u16 = 0x3fff;

/// The bytes of a frame, read with every access checked.
///
/// Two sides implement it: a slice in user space, and the packet pointers in the XDP program,
/// where the check is what convinces the verifier.
pub trait Frame {
    /// The `N` bytes from `offset` on, or `None` where the frame ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Whether the frame has at least `length` bytes.
    fn holds(&self, length: usize) -> bool;
}

impl Frame for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn holds(&self, length: usize) -> bool {
        self.len() >= length
    }
}

/// Why a frame carries no datagram for us to take.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NotADatagram {
    /// Neither UDP over IPv4 nor UDP directly after the IPv6 header.
    OtherProtocol,
    /// A fragment of an IPv4 packet (an IPv6 fragment has an extension header, and so is another
    /// protocol).
    Fragment,
    /// The frame ends before its headers say, or the fields of its headers contradict each other.
    Malformed,
}

/// Which IP header a frame has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where the headers of a frame with a UDP datagram begin, in bytes from the frame's first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    /// The IP header's version.
    pub version: IpVersion,
    /// Where the IP header begins.
    pub ip: usize,
    /// Where the UDP header begins.
    pub udp: usize,
    /// Where the UDP payload begins.
    pub payload: usize,
    /// How long the UDP payload is, by the UDP header.
    pub payload_len: usize,
    /// The UDP destination port.
    pub destination_port: u16,
}

impl Layout {
    /// Finds the UDP datagram in `frame`.
    ///
    /// # Errors
    /// Why there is none; see [`NotADatagram`].
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(frame: &F) -> Result<Self, NotADatagram> {
        let (ether_type, ip) = skip_vlan_tags(frame)?;
        match ether_type {
            ETHERTYPE_IPV4 => Self::of_ipv4(frame, ip),
            ETHERTYPE_IPV6 => Self::of_ipv6(frame, ip),
            _ => Err(NotADatagram::OtherProtocol),
        }
    }

    #[inline(always)]
    fn of_ipv4<F: Frame + ?Sized>(frame: &F, ip: usize) -> Result<Self, NotADatagram> {
        let [
            version_ihl,
            _tos,
            total_hi,
            total_lo,
            _,
            _,
            frag_hi,
            frag_lo,
            _ttl,
            protocol,
        ] = read::<10, F>(frame, ip)?;
        if version_ihl >> 4 != 4 {
            return Err(NotADatagram::Malformed);
        }
        if protocol != PROTOCOL_UDP {
            return Err(NotADatagram::OtherProtocol);
        }
        if u16::from_be_bytes([frag_hi, frag_lo]) & IPV4_FRAGMENT != 0 {
            return Err(NotADatagram::Fragment);
        }
        let header = usize::from(version_ihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([total_hi, total_lo]));
        if header < IPV4_MIN_HEADER || total < header + UDP_HEADER {
            return Err(NotADatagram::Malformed);
        }
        Self::of_udp(frame, IpVersion::V4, ip, ip + header, total - header)
    }

    #[inline(always)]
    fn of_ipv6<F: Frame + ?Sized>(frame: &F, ip: usize) -> Result<Self, NotADatagram> {
        let [version_class, _, _, _, length_hi, length_lo, next_header] = read::<7, F>(frame, ip)?;
        if version_class >> 4 != 6 {
            return Err(NotADatagram::Malformed);
        }
        if next_header != PROTOCOL_UDP {
            return Err(NotADatagram::OtherProtocol);
        }
        let length = usize::from(u16::from_be_bytes([length_hi, length_lo]));
        if length < UDP_HEADER {
            return Err(NotADatagram::Malformed);
        }
        Self::of_udp(frame, IpVersion::V6, ip, ip + IPV6_HEADER, length)
    }

    /// `available`: what the IP header leaves for the UDP header and its payload, in bytes.
    #[inline(always)]
    fn of_udp<F: Frame + ?Sized>(
        frame: &F,
        version: IpVersion,
        ip: usize,
        udp: usize,
        available: usize,
    ) -> Result<Self, NotADatagram> {
        if !frame.holds(udp + available) {
            return Err(NotADatagram::Malformed);
        }
        let [port_hi, port_lo, length_hi, length_lo] = read::<4, F>(frame, udp + 2)?;
        let length = usize::from(u16::from_be_bytes([length_hi, length_lo]));
        if length < UDP_HEADER || length > available {
            return Err(NotADatagram::Malformed);
        }
        Ok(Self {
            version,
            ip,
            udp,
            payload: udp + UDP_HEADER,
            payload_len: length - UDP_HEADER,
            destination_port: u16::from_be_bytes([port_hi, port_lo]),
        })
    }

    /// The destination address as a key of the map of local addresses
    /// ([`maps::ADDRESSES`](crate::maps::ADDRESSES)).
    #[must_use]
    #[inline(always)]
    pub fn destination_key<F: Frame + ?Sized>(&self, frame: &F) -> Option<[u8; 16]> {
        match self.version {
            IpVersion::V4 => frame.read(self.ip + 16).map(crate::maps::ipv4_key),
            IpVersion::V6 => frame.read(self.ip + 24),
        }
    }
}

/// The EtherType behind the VLAN tags, and where that header begins.
#[inline(always)]
fn skip_vlan_tags<F: Frame + ?Sized>(frame: &F) -> Result<(u16, usize), NotADatagram> {
    let mut header = ETHERNET_HEADER;
    let mut ether_type = u16::from_be_bytes(read(frame, header - 2)?);
    // Written out twice rather than as a loop: the verifier then knows every offset.
    if matches!(ether_type, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        header += VLAN_TAG;
        ether_type = u16::from_be_bytes(read(frame, header - 2)?);
        if ether_type == ETHERTYPE_VLAN {
            header += VLAN_TAG;
            ether_type = u16::from_be_bytes(read(frame, header - 2)?);
        }
    }
    Ok((ether_type, header))
}

#[inline(always)]
fn read<const N: usize, F: Frame + ?Sized>(
    frame: &F,
    offset: usize,
) -> Result<[u8; N], NotADatagram> {
    frame.read(offset).ok_or(NotADatagram::Malformed)
}

/// A VLAN tag as it stands in the frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VlanTag {
    /// [`ETHERTYPE_VLAN`] or [`ETHERTYPE_QINQ`].
    pub ether_type: u16,
    /// Tag control information: priority (3 bits), drop eligible (1 bit), VLAN number (12 bits).
    pub control: u16,
}

impl VlanTag {
    /// The VLAN's number, 0 to 4095; 0 is a priority tag that names no VLAN.
    #[must_use]
    pub const fn vlan(self) -> u16 {
        self.control & 0x0fff
    }
}

/// A frame that carries a UDP datagram, taken apart.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UdpFrame {
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// The VLAN tags, outermost first.
    pub vlan: [Option<VlanTag>; 2],
    /// IP source and UDP source port. The scope of a link-local address is left 0: it is the
    /// interface's index, which a frame does not know.
    pub source: SocketAddr,
    /// IP destination and UDP destination port; scope as in [`source`](Self::source).
    pub destination: SocketAddr,
    /// TOS octet (IPv4) or traffic class (IPv6): DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// Where the UDP payload lies, in bytes from the frame's first. Always within the frame that
    /// was parsed; what follows it is padding.
    pub payload: Range<usize>,
}

impl UdpFrame {
    /// Takes `frame` apart.
    ///
    /// # Errors
    /// Why it carries no UDP datagram; see [`NotADatagram`].
    pub fn parse(frame: &[u8]) -> Result<Self, NotADatagram> {
        let layout = Layout::of(frame)?;
        let Layout { version, ip, .. } = layout;
        let (tos, source, destination) = match version {
            IpVersion::V4 => (
                read::<1, _>(frame, ip + 1)?[0],
                IpAddr::from(read::<4, _>(frame, ip + 12)?),
                IpAddr::from(read::<4, _>(frame, ip + 16)?),
            ),
            IpVersion::V6 => (
                (u16::from_be_bytes(read(frame, ip)?) >> 4) as u8,
                IpAddr::from(read::<16, _>(frame, ip + 8)?),
                IpAddr::from(read::<16, _>(frame, ip + 24)?),
            ),
        };
        let source_port = u16::from_be_bytes(read(frame, layout.udp)?);
        Ok(Self {
            destination_mac: read(frame, 0)?,
            source_mac: read(frame, 6)?,
            vlan: vlan_tags(frame, ip)?,
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, layout.destination_port),
            tos,
            payload: layout.payload..layout.payload + layout.payload_len,
        })
    }
}

/// The tags between the Ethernet addresses and the IP header at `ip`.
fn vlan_tags(frame: &[u8], ip: usize) -> Result<[Option<VlanTag>; 2], NotADatagram> {
    let mut tags = [None; 2];
    for (position, tag) in tags.iter_mut().enumerate() {
        let start = ETHERNET_HEADER - 2 + position * VLAN_TAG;
        if start + VLAN_TAG < ip {
            let [type_hi, type_lo, control_hi, control_lo] = read(frame, start)?;
            *tag = Some(VlanTag {
                ether_type: u16::from_be_bytes([type_hi, type_lo]),
                control: u16::from_be_bytes([control_hi, control_lo]),
            });
        }
    }
    Ok(tags)
}

#[cfg(test)]
mod tests;
