//! The four WireGuard messages (WireGuard paper §5.4.2 to §5.4.7; kernel `messages.h`).
//!
//! [`Message::parse`] checks type and exact length and lends typed views of the bytes; nothing is
//! copied and nothing is believed. All integers are little-endian.

use core::mem::size_of;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the tag that ends every encrypted field.
const TAG_LEN: usize = 16;

/// The message types, as the little-endian word of type octet and three reserved zeros that
/// begins every message.
pub mod kind {
    /// Handshake initiation.
    pub const INITIATION: u32 = 1;
    /// Handshake response.
    pub const RESPONSE: u32 = 2;
    /// Cookie reply.
    pub const COOKIE_REPLY: u32 = 3;
    /// Transport data.
    pub const DATA: u32 = 4;
}

/// Length of an [`Initiation`], in bytes.
pub const INITIATION_LEN: usize = size_of::<Initiation>();
/// Length of a [`Response`], in bytes.
pub const RESPONSE_LEN: usize = size_of::<Response>();
/// Length of a [`CookieReply`], in bytes.
pub const COOKIE_REPLY_LEN: usize = size_of::<CookieReply>();
/// Length of a [`DataHeader`], in bytes.
pub const DATA_HEADER_LEN: usize = size_of::<DataHeader>();
/// Bytes that transport data has beside its plaintext: header and tag. The length of a keepalive.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

const _: () = {
    assert!(size_of::<Initiation>() == 148);
    assert!(size_of::<Response>() == 92);
    assert!(size_of::<CookieReply>() == 64);
    assert!(size_of::<DataHeader>() == 16);
};

/// The first message of a handshake, from initiator to responder (§5.4.2).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct Initiation {
    kind: U32,
    /// The index by which the initiator wants to be answered.
    pub sender_index: U32,
    /// The initiator's ephemeral public key.
    pub ephemeral: [u8; 32],
    /// The initiator's static public key, encrypted.
    pub encrypted_static: [u8; 32 + TAG_LEN],
    /// A TAI64N timestamp, encrypted.
    pub encrypted_timestamp: [u8; 12 + TAG_LEN],
    /// Proof of knowing the responder's public key, and of a cookie.
    pub macs: Macs,
}

/// The second message of a handshake, from responder to initiator (§5.4.3).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct Response {
    kind: U32,
    /// The index by which the responder wants to be written to.
    pub sender_index: U32,
    /// The initiator's [`Initiation::sender_index`].
    pub receiver_index: U32,
    /// The responder's ephemeral public key.
    pub ephemeral: [u8; 32],
    /// The tag over an empty plaintext.
    pub encrypted_nothing: [u8; TAG_LEN],
    /// Proof of knowing the initiator's public key, and of a cookie.
    pub macs: Macs,
}

/// The last two fields of both handshake messages (§5.4.4).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct Macs {
    /// Over everything before it, with a key that follows from the receiver's public key.
    pub mac1: [u8; 16],
    /// Over everything before it, with the cookie; all zero where there is none.
    pub mac2: [u8; 16],
}

/// What a responder under load sends in place of an answer (§5.4.7).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct CookieReply {
    kind: U32,
    /// The `sender_index` of the message that it answers.
    pub receiver_index: U32,
    /// The nonce of the encryption: random.
    pub nonce: [u8; 24],
    /// The cookie, encrypted with the mac1 of the message answered as associated data.
    pub encrypted_cookie: [u8; 16 + TAG_LEN],
}

/// What precedes the ciphertext in transport data (§5.4.6).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct DataHeader {
    kind: U32,
    /// The receiver's index for the session.
    pub receiver_index: U32,
    /// The counter that the ciphertext was sealed with.
    pub counter: U64,
}

impl Initiation {
    /// An initiation with every other field zero.
    #[must_use]
    pub fn new(sender_index: u32) -> Self {
        Self {
            kind: kind::INITIATION.into(),
            sender_index: sender_index.into(),
            ephemeral: [0; 32],
            encrypted_static: [0; 48],
            encrypted_timestamp: [0; 28],
            macs: Macs::default(),
        }
    }
}

impl Response {
    /// A response with every other field zero.
    #[must_use]
    pub fn new(sender_index: u32, receiver_index: u32) -> Self {
        Self {
            kind: kind::RESPONSE.into(),
            sender_index: sender_index.into(),
            receiver_index: receiver_index.into(),
            ephemeral: [0; 32],
            encrypted_nothing: [0; 16],
            macs: Macs::default(),
        }
    }
}

impl CookieReply {
    /// A cookie reply with every other field zero.
    #[must_use]
    pub fn new(receiver_index: u32) -> Self {
        Self {
            kind: kind::COOKIE_REPLY.into(),
            receiver_index: receiver_index.into(),
            nonce: [0; 24],
            encrypted_cookie: [0; 32],
        }
    }
}

impl DataHeader {
    /// The header of a packet sealed with `counter` for the session that its receiver knows as
    /// `receiver_index`.
    #[must_use]
    pub fn new(receiver_index: u32, counter: u64) -> Self {
        Self {
            kind: kind::DATA.into(),
            receiver_index: receiver_index.into(),
            counter: counter.into(),
        }
    }
}

/// Transport data, not yet opened.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// Index and counter.
    pub header: &'a DataHeader,
    /// The ciphertext with its tag: at least 16 bytes.
    pub ciphertext: &'a [u8],
}

/// A datagram of a known type and of that type's length. Nothing in it is authenticated.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Handshake initiation.
    Initiation(&'a Initiation),
    /// Handshake response.
    Response(&'a Response),
    /// Cookie reply.
    CookieReply(&'a CookieReply),
    /// Transport data.
    Data(Data<'a>),
}

/// A datagram that is no WireGuard message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not even a type.
    #[error("{len} bytes are no WireGuard message: its type alone takes 4")]
    NoType {
        /// The datagram's length, in bytes.
        len: usize,
    },
    /// A type that does not exist, or reserved bytes that are not zero.
    #[error("message type {kind:#010x} is unknown: 1 to 4 with three zero bytes are expected")]
    UnknownType {
        /// The datagram's first four bytes, little-endian.
        kind: u32,
    },
    /// A length that the type cannot have.
    #[error(
        "a message of type {kind} cannot have {len} bytes: 148 for 1, 92 for 2, 64 for 3, 32 or more for 4"
    )]
    Length {
        /// The message's type.
        kind: u32,
        /// The datagram's length, in bytes.
        len: usize,
    },
}

impl<'a> Message<'a> {
    /// Takes a UDP payload for what its type says it is.
    ///
    /// # Errors
    /// [`ParseError`] where the first four bytes are no type, or where the length is not exactly
    /// that of the type (transport data: at least [`DATA_OVERHEAD`]).
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let len = datagram.len();
        let Ok((kind, _)) = U32::ref_from_prefix(datagram) else {
            return Err(ParseError::NoType { len });
        };
        let kind = kind.get();
        let wrong_length = ParseError::Length { kind, len };
        match kind {
            kind::DATA if len < DATA_OVERHEAD => Err(wrong_length),
            kind::DATA => match DataHeader::ref_from_prefix(datagram) {
                Ok((header, ciphertext)) => Ok(Self::Data(Data { header, ciphertext })),
                Err(_) => Err(wrong_length),
            },
            kind::INITIATION => match Initiation::ref_from_bytes(datagram) {
                Ok(message) => Ok(Self::Initiation(message)),
                Err(_) => Err(wrong_length),
            },
            kind::RESPONSE => match Response::ref_from_bytes(datagram) {
                Ok(message) => Ok(Self::Response(message)),
                Err(_) => Err(wrong_length),
            },
            kind::COOKIE_REPLY => match CookieReply::ref_from_bytes(datagram) {
                Ok(message) => Ok(Self::CookieReply(message)),
                Err(_) => Err(wrong_length),
            },
            kind => Err(ParseError::UnknownType { kind }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of_kind(kind: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn fields_lie_where_the_paper_puts_them() {
        let mut bytes = of_kind(1, 148);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[8] = 0xe0;
        bytes[40] = 0xe1;
        bytes[88] = 0xe2;
        bytes[116] = 0xe3;
        bytes[132] = 0xe4;
        let Ok(Message::Initiation(message)) = Message::parse(&bytes) else {
            panic!("no initiation");
        };
        assert_eq!(message.sender_index.get(), 0x0403_0201);
        assert_eq!(message.ephemeral[0], 0xe0);
        assert_eq!(message.encrypted_static[0], 0xe1);
        assert_eq!(message.encrypted_timestamp[0], 0xe2);
        assert_eq!(message.macs.mac1[0], 0xe3);
        assert_eq!(message.macs.mac2[0], 0xe4);

        let mut bytes = of_kind(2, 92);
        bytes[8..12].copy_from_slice(&[1, 2, 3, 4]);
        bytes[12] = 0xe0;
        bytes[44] = 0xe1;
        bytes[60] = 0xe2;
        let Ok(Message::Response(message)) = Message::parse(&bytes) else {
            panic!("no response");
        };
        assert_eq!(message.receiver_index.get(), 0x0403_0201);
        assert_eq!(message.ephemeral[0], 0xe0);
        assert_eq!(message.encrypted_nothing[0], 0xe1);
        assert_eq!(message.macs.mac1[0], 0xe2);

        let mut bytes = of_kind(3, 64);
        bytes[8] = 0xe0;
        bytes[32] = 0xe1;
        let Ok(Message::CookieReply(message)) = Message::parse(&bytes) else {
            panic!("no cookie reply");
        };
        assert_eq!(message.nonce[0], 0xe0);
        assert_eq!(message.encrypted_cookie[0], 0xe1);

        let mut bytes = of_kind(4, 40);
        bytes[8..16].copy_from_slice(&7_u64.to_le_bytes());
        bytes[16] = 0xe0;
        let Ok(Message::Data(data)) = Message::parse(&bytes) else {
            panic!("no data");
        };
        assert_eq!(data.header.counter.get(), 7);
        assert_eq!((data.ciphertext.len(), data.ciphertext[0]), (24, 0xe0));
    }

    #[test]
    fn what_is_built_parses_to_the_same() {
        let data = [DataHeader::new(5, 6).as_bytes(), &[0; 16][..]].concat();
        assert!(matches!(Message::parse(&data), Ok(Message::Data(d))
            if d.header.receiver_index.get() == 5 && d.header.counter.get() == 6));
        assert!(
            matches!(Message::parse(Initiation::new(9).as_bytes()), Ok(Message::Initiation(m))
            if m.sender_index.get() == 9)
        );
        assert!(
            matches!(Message::parse(Response::new(1, 2).as_bytes()), Ok(Message::Response(m))
            if m.sender_index.get() == 1 && m.receiver_index.get() == 2)
        );
        assert!(
            matches!(Message::parse(CookieReply::new(3).as_bytes()), Ok(Message::CookieReply(m))
            if m.receiver_index.get() == 3)
        );
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        let bytes = of_kind(0x0001_0001, 148);
        assert_eq!(
            Message::parse(&bytes).unwrap_err(),
            ParseError::UnknownType { kind: 0x0001_0001 }
        );
    }

    proptest! {
        /// Type and length alone decide, whatever the rest holds.
        #[test]
        fn parses_exactly_the_legal_lengths(kind in 0_u32..6, len in 0_usize..300, fill: u8) {
            let mut bytes = vec![fill; len];
            if let Some(front) = bytes.get_mut(..4) {
                front.copy_from_slice(&kind.to_le_bytes());
            }
            let legal = match kind {
                1 => len == 148,
                2 => len == 92,
                3 => len == 64,
                4 => len >= 32,
                _ => false,
            };
            prop_assert_eq!(Message::parse(&bytes).is_ok(), legal);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Message::parse(&bytes);
        }
    }
}
