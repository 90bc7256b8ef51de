//! Outer headers: Ethernet, VLAN tag, IPv4 or IPv6, UDP, written from a template that is made
//! once for an endpoint.

use core::net::{IpAddr, SocketAddr};

use ringspan_xdp_common::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, PROTOCOL_UDP};

use super::metadata;
use super::path::Path;
use crate::wire::checksum::Sum;

const ETHERNET: usize = 14;
const ETHER_TYPE: usize = 2;
const VLAN_TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// The longest headers: Ethernet, one VLAN tag, IPv6, UDP.
pub(super) const MOST_HEADERS: usize = ETHERNET + VLAN_TAG + IPV6 + UDP;

/// The headers of every datagram to one endpoint, except for lengths, TOS, IPv4
/// identification and checksums.
#[derive(Clone, Debug)]
pub(super) struct HeaderTemplate {
    bytes: [u8; MOST_HEADERS],
    /// Where the IP header begins: behind the Ethernet header and the VLAN tag.
    ip: usize,
    length: usize,
    version: Version,
    /// Over the pseudo-header without the length.
    pseudo: Sum,
    /// Over pseudo-header and ports: the part of the UDP checksum that no datagram changes.
    udp_sum: Sum,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    /// With the sum over the header's words that no datagram changes.
    V4 {
        sum: Sum,
    },
    V6,
}

/// What one datagram adds to the template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    /// UDP payload in bytes; with the headers below 64 KiB.
    pub(super) payload: u16,
    /// TOS octet or traffic class.
    pub(super) tos: u8,
    /// IPv4 identification: the packet may be fragmented on its way.
    pub(super) identification: u16,
}

impl HeaderTemplate {
    /// `None` when the path's source address is of another family than `remote`.
    pub(super) fn new(path: &Path, source_port: u16, remote: SocketAddr) -> Option<Self> {
        let mut writer = Writer {
            bytes: [0; MOST_HEADERS],
            length: 0,
        };
        writer.put(&path.destination_mac);
        writer.put(&path.source_mac);
        if let Some(vlan) = path.vlan {
            writer.put(&ETHERTYPE_VLAN.to_be_bytes());
            writer.put(&(vlan & 0x0fff).to_be_bytes());
        }
        let destination = remote.ip().to_canonical();
        let ip = writer.length + ETHER_TYPE;
        let version = match (path.source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                writer.put(&ETHERTYPE_IPV4.to_be_bytes());
                // Version 4, 5 words; TOS, length, identification: later. No flags: as the
                // kernel's WireGuard, we let routers fragment.
                writer.put(&[0x45, 0, 0, 0, 0, 0, 0, 0]);
                writer.put(&[path.hop_limit, PROTOCOL_UDP, 0, 0]);
                writer.put(&source.octets());
                writer.put(&destination.octets());
                Version::V4 {
                    sum: Sum::new().with(writer.bytes.get(ip..ip + IPV4)?),
                }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                writer.put(&ETHERTYPE_IPV6.to_be_bytes());
                writer.put(&[0x60, 0, 0, 0, 0, 0, PROTOCOL_UDP, path.hop_limit]);
                writer.put(&source.octets());
                writer.put(&destination.octets());
                Version::V6
            }
            _ => return None,
        };
        let ports = [source_port.to_be_bytes(), remote.port().to_be_bytes()];
        writer.put(ports.as_flattened());
        writer.put(&[0; 4]);
        let pseudo = Sum::pseudo(path.source, destination, PROTOCOL_UDP, 0)?;
        Some(Self {
            bytes: writer.bytes,
            ip,
            length: writer.length,
            version,
            pseudo,
            udp_sum: pseudo.with(ports.as_flattened()),
        })
    }

    /// Bytes of all headers.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// Bytes of the IP and UDP headers: what counts against an MTU.
    pub(super) const fn ip_length(&self) -> usize {
        self.length - self.ip
    }

    /// Whether the UDP checksum must be there (RFC 8200 §8.1; for IPv4, RFC 768 lets it be 0).
    pub(super) fn must_checksum(&self) -> bool {
        self.version == Version::V6
    }

    /// Writes the headers to `out`, which is as long as they are; the UDP checksum is left 0.
    pub(super) fn write(&self, out: &mut [u8], fields: Fields) {
        debug_assert_eq!(out.len(), self.length);
        for (to, from) in out.iter_mut().zip(&self.bytes) {
            *to = *from;
        }
        let udp_length = fields.payload + UDP as u16;
        match self.version {
            Version::V4 { sum } => {
                let total = udp_length + IPV4 as u16;
                put(out, self.ip + 1, [fields.tos]);
                put(out, self.ip + 2, total.to_be_bytes());
                put(out, self.ip + 4, fields.identification.to_be_bytes());
                let sum = sum
                    .with(&[0, fields.tos])
                    .with(&total.to_be_bytes())
                    .with(&fields.identification.to_be_bytes());
                put(out, self.ip + 10, sum.finish().to_be_bytes());
            }
            Version::V6 => {
                let class = 0x6000 | u16::from(fields.tos) << 4;
                put(out, self.ip, class.to_be_bytes());
                put(out, self.ip + 4, udp_length.to_be_bytes());
            }
        }
        put(out, self.length - 4, udp_length.to_be_bytes());
    }

    /// The part of the UDP checksum that is known before the payload is; `payload` is its length
    /// in bytes. Go on with the payload and [`finish_udp`](Sum::finish_udp).
    pub(super) fn checksum_begin(&self, payload: u16) -> Sum {
        // The length counts twice: in the pseudo-header and in the UDP header.
        let length = (payload + UDP as u16).to_be_bytes();
        self.udp_sum.with(&length).with(&length)
    }

    /// The pseudo-header's sum, for a UDP payload of this length in bytes.
    pub(super) fn pseudo_sum(&self, payload: u16) -> Sum {
        self.pseudo.with(&(payload + UDP as u16).to_be_bytes())
    }
}

/// Leaves the UDP checksum to whoever sends the frame: `bytes` are its metadata and headers, `pseudo`
/// is its [`pseudo_sum`](HeaderTemplate::pseudo_sum), which goes where the checksum will stand.
pub(super) fn request_checksum(bytes: &mut [u8], pseudo: Sum) {
    let Some((request, headers)) = bytes.split_at_mut_checked(metadata::LENGTH) else {
        return;
    };
    let at = checksum_offset(headers.len());
    put(headers, at, pseudo.partial().to_be_bytes());
    // The headers end with UDP's; both offsets fit, as headers have at most MOST_HEADERS bytes.
    let start = headers.len() - UDP;
    let words = metadata::checksum_request(start as u16, (at - start) as u16);
    put(request, 0, words);
}

/// Where the UDP checksum stands in headers of `length` bytes.
pub(super) const fn checksum_offset(length: usize) -> usize {
    length - 2
}

struct Writer {
    bytes: [u8; MOST_HEADERS],
    length: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        }
    }
}

fn put<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = out.get_mut(at..at + N) {
        place.copy_from_slice(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringspan_xdp_common::{UdpFrame, VlanTag};

    use super::super::path::PathMarks;
    use super::*;

    fn path(source: IpAddr, vlan: Option<u16>) -> Path {
        Path {
            interface: 1,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlan,
            source,
            mtu: 1500,
            hop_limit: 61,
            marks: PathMarks::default(),
        }
    }

    /// RFC 1071 as it is written down there.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<([u16; 8], [u16; 8])>().prop_map(|(mut a, mut b)| {
                a[0] |= 0x2000;
                b[0] |= 0x2000;
                (a.into(), b.into())
            }),
        ]
    }

    proptest! {
        /// The decoder that the XDP program uses reads back what was written, and both checksums
        /// verify by the book.
        #[test]
        fn frames_read_back((source, destination) in addresses(),
            ports in any::<(u16, u16)>(), vlan in prop::option::of(1..4095u16),
            payload in prop::collection::vec(any::<u8>(), 0..1600),
            tos in any::<u8>(), identification in any::<u16>())
        {
            let path = path(source, vlan);
            let remote = SocketAddr::new(destination, ports.1);
            let template = HeaderTemplate::new(&path, ports.0, remote).unwrap();
            let mut frame = vec![0xa5; template.length()];
            let fields = Fields { payload: payload.len() as u16, tos, identification };
            template.write(&mut frame, fields);
            let at = checksum_offset(template.length());
            let checksum = template.checksum_begin(payload.len() as u16).with(&payload);
            frame[at..at + 2].copy_from_slice(&checksum.finish_udp().to_be_bytes());
            frame.extend_from_slice(&payload);

            let read = UdpFrame::parse(&frame).unwrap();
            prop_assert_eq!(read.source, SocketAddr::new(source, ports.0));
            prop_assert_eq!(read.destination, remote);
            prop_assert_eq!(read.tos, tos);
            prop_assert_eq!(read.source_mac, path.source_mac);
            prop_assert_eq!(read.destination_mac, path.destination_mac);
            prop_assert_eq!(read.vlan[0].map(VlanTag::vlan), vlan);
            prop_assert_eq!(&frame[read.payload], &payload[..]);

            let ip = &frame[template.ip..];
            let mut pseudo = Vec::new();
            let udp = match (source, destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    prop_assert_eq!(slow_sum(&ip[..20]), 0xffff);
                    prop_assert_eq!(ip[8], 61);
                    pseudo.extend(s.octets());
                    pseudo.extend(d.octets());
                    &ip[20..]
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    prop_assert_eq!(ip[7], 61);
                    pseudo.extend(s.octets());
                    pseudo.extend(d.octets());
                    &ip[40..]
                }
                _ => unreachable!(),
            };
            pseudo.extend([0, PROTOCOL_UDP]);
            pseudo.extend((udp.len() as u16).to_be_bytes());
            pseudo.extend(udp);
            prop_assert_eq!(slow_sum(&pseudo), 0xffff);
            prop_assert_ne!(&udp[6..8], &[0, 0]);
        }
    }

    #[test]
    fn families_do_not_mix() {
        let template = HeaderTemplate::new(
            &path(IpAddr::from([192, 0, 2, 1]), None),
            1,
            "[2001:db8::1]:1".parse().unwrap(),
        );
        assert!(template.is_none());
    }
}
