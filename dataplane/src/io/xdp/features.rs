//! What a driver declares that it does for AF_XDP: the kernel's `netdev` family of generic netlink
//! (`Documentation/netlink/specs/netdev.yaml` in its sources).
//!
//! A declaration is no promise, but its absence is one: a driver that does not declare the TX
//! checksum ignores the request for it in zero-copy mode, without a word.

use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// `linux/genetlink.h`: the family that knows the others' numbers.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// `linux/netdev.h`.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XSK_FEATURES: u16 = 6;
const NETDEV_XSK_FLAGS_TX_CHECKSUM: u64 = 1 << 1;

/// What a driver declares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Features {
    /// In zero-copy mode the card computes the checksums that TX metadata asks for.
    pub(super) tx_checksum: bool,
}

impl Features {
    /// Those of the interface with this index, in the calling thread's network namespace.
    ///
    /// # Errors
    /// `ENOENT` from a kernel without that family (before 6.3), `ENODEV` without the interface.
    pub(super) fn of(interface: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;

        let family = ask(
            &socket,
            &Generic::new(GENL_ID_CTRL, CTRL_CMD_GETFAMILY)
                .with(CTRL_ATTR_FAMILY_NAME, b"netdev\0"),
        )?;
        let family = family.value(CTRL_ATTR_FAMILY_ID).map(u16::from_ne_bytes);
        let family = family.ok_or_else(|| missing("number of the netdev family"))?;
        let device = ask(
            &socket,
            &Generic::new(family, NETDEV_CMD_DEV_GET)
                .with(NETDEV_A_DEV_IFINDEX, &interface.to_ne_bytes()),
        )?;
        // Kernels before 6.8 know no such attribute.
        let xsk = device
            .value(NETDEV_A_DEV_XSK_FEATURES)
            .map_or(0, u64::from_ne_bytes);
        Ok(Self {
            tx_checksum: xsk & NETDEV_XSK_FLAGS_TX_CHECKSUM != 0,
        })
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an answer without the {what}"),
    )
}

/// One question with one answer.
fn ask(socket: &Socket, question: &Generic) -> io::Result<Generic> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question.clone()));
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<Generic>::deserialize(&bytes).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(answer) => Ok(answer),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(missing("object asked for")),
    }
}

/// A message of generic netlink: `struct genlmsghdr`, then attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl Generic {
    const HEADER: usize = 4;

    const fn new(family: u16, command: u8) -> Self {
        Self {
            family,
            command,
            attributes: Vec::new(),
        }
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let mut bytes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        self.attributes.extend(bytes);
        self
    }

    /// The first `N` bytes of an attribute, if it is there and as long as that.
    fn value<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        NlasIterator::new(self.attributes.as_slice())
            .filter_map(Result::ok)
            .find(|attribute| attribute.kind() == kind)
            .and_then(|attribute| attribute.value().first_chunk().copied())
    }
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        Self::HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Command, version, two bytes reserved.
        let header = [self.command, 1, 0, 0];
        for (to, from) in buffer.iter_mut().zip(header.iter().chain(&self.attributes)) {
            *to = *from;
        }
    }
}

impl NetlinkDeserializable for Generic {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            family: header.message_type,
            command: payload.first().copied().unwrap_or(0),
            attributes: payload.get(Self::HEADER..).unwrap_or_default().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_kind_and_length() {
        let message = Generic::new(1, 2)
            .with(CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            .with(NETDEV_A_DEV_XSK_FEATURES, &2u64.to_ne_bytes());
        assert_eq!(message.attributes.len(), 4 + 8 + 4 + 8, "padded");
        assert_eq!(message.value(CTRL_ATTR_FAMILY_NAME), Some(*b"netdev\0"));
        let flags = message
            .value(NETDEV_A_DEV_XSK_FEATURES)
            .map(u64::from_ne_bytes);
        assert_eq!(flags, Some(NETDEV_XSK_FLAGS_TX_CHECKSUM));
        assert_eq!(message.value::<9>(NETDEV_A_DEV_XSK_FEATURES), None);
        assert_eq!(message.value::<1>(77), None);
        let mut cut = message;
        cut.attributes.truncate(5);
        assert_eq!(cut.value::<1>(CTRL_ATTR_FAMILY_NAME), None);
    }

    /// Needs no privilege. Loopback declares nothing; an interface that is not there is an error.
    #[test]
    fn the_kernel_answers() {
        match Features::of(1) {
            Ok(features) => assert_eq!(features, Features::default()),
            // A kernel without the family, or a namespace whose first interface is another.
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)),
                "{error}"
            ),
        }
        let error = Features::of(0x7fff_fff0).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)),
            "{error}"
        );
    }
}
