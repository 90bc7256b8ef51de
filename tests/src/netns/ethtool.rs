//! Offload switches, over the kernel's `ethtool` family of generic netlink
//! (`Documentation/networking/ethtool-netlink.rst`).

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLMSG_ERROR: u16 = 2;

// linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// linux/ethtool_netlink.h
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// Switches features of `link` in the calling thread's namespace, by the names that `ethtool -k`
/// knows them by in the kernel (`tx-tcp-segmentation`, `rx-gro`, …).
pub(super) fn set_features(link: &str, features: &[(&str, bool)]) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut name = Attributes::default();
    name.text(CTRL_ATTR_FAMILY_NAME, "ethtool");
    let reply = request(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1, &name)?;
    let family = reply
        .and_then(|attributes| find_u16(&attributes, CTRL_ATTR_FAMILY_ID))
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no ethtool over netlink"))?;

    let mut header = Attributes::default();
    header.text(ETHTOOL_A_HEADER_DEV_NAME, link);
    let mut bits = Attributes::default();
    for (feature, on) in features {
        let mut bit = Attributes::default();
        bit.text(ETHTOOL_A_BITSET_BIT_NAME, feature);
        if *on {
            bit.bytes(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
        }
        bits.nested(ETHTOOL_A_BITSET_BITS_BIT, &bit);
    }
    let mut wanted = Attributes::default();
    wanted.nested(ETHTOOL_A_BITSET_BITS, &bits);
    let mut message = Attributes::default();
    message.nested(ETHTOOL_A_FEATURES_HEADER, &header);
    message.nested(ETHTOOL_A_FEATURES_WANTED, &wanted);
    request(&socket, family, ETHTOOL_MSG_FEATURES_SET, 1, &message).map(drop)
}

/// Sends one generic message; the attributes of its answer, if it has one besides the verdict.
fn request(
    socket: &Socket,
    family: u16,
    command: u8,
    version: u8,
    attributes: &Attributes,
) -> io::Result<Option<Vec<u8>>> {
    let length = 20 + attributes.0.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence
    message.extend(0u32.to_ne_bytes()); // port
    message.extend([command, version, 0, 0]);
    message.extend(&attributes.0);
    socket.send(&message, 0)?;

    let mut answer = None;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while let Some((header, _)) = rest.split_at_checked(16) {
            let length = u32_at(header, 0) as usize;
            let body = rest.get(16..length).unwrap_or_default();
            if u16_at(header, 4) == NLMSG_ERROR {
                return match u32_at(body, 0).cast_signed() {
                    0 => Ok(answer),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            answer = Some(body.get(4..).unwrap_or_default().to_vec());
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn find_u16(mut attributes: &[u8], wanted: u16) -> Option<u16> {
    while attributes.len() >= 4 {
        let length = usize::from(u16_at(attributes, 0)).max(4);
        if u16_at(attributes, 2) & !NLA_F_NESTED == wanted {
            return Some(u16_at(attributes, 4));
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    None
}

/// Netlink attributes being written: length, type, value, padding to four bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    fn nested(&mut self, kind: u16, inner: &Self) {
        self.bytes(kind | NLA_F_NESTED, &inner.0);
    }
}
