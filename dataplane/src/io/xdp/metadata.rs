//! TX metadata: what a frame asks of whoever sends it, in the bytes right before it.
//!
//! Of all that can be asked only the checksum is used. In copy mode the kernel sees to it like to a
//! socket's own (the card's offload, or in software where it has none). In zero-copy mode the
//! driver has to, and one that does not know how sends the frame as it is: so nothing is asked of a
//! driver that does not declare it ([`Features`](super::features::Features)).

use zerocopy::{Immutable, IntoBytes};

/// Who computes the UDP checksums of what AF_XDP sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TxChecksum {
    /// The card, where it has zero copy and its driver declares that it can; else this program.
    #[default]
    Auto,
    /// This program, with SIMD.
    Software,
    /// Whoever sends: in copy mode the kernel, which is slower than this program unless the card
    /// takes the work; in zero-copy mode the card, if its driver declares that it can.
    Device,
}

impl TxChecksum {
    /// Whether the UMEM is to be registered with room for metadata. To be known before the bind,
    /// which tells whether there is zero copy: `may_zero_copy` is whether it will be tried.
    pub(super) const fn wants_room(self, may_zero_copy: bool, declared: bool) -> bool {
        match self {
            Self::Auto => may_zero_copy && declared,
            Self::Software => false,
            Self::Device => true,
        }
    }

    /// Whether frames ask for their checksum, in a UMEM with `room` for that.
    pub(super) const fn asks(self, room: bool, zero_copy: bool, declared: bool) -> bool {
        room && match self {
            Self::Auto => zero_copy && declared,
            Self::Software => false,
            Self::Device => !zero_copy || declared,
        }
    }
}

/// Bytes of the metadata, which the kernel takes off each frame's address (`tx_metadata_len`).
pub(super) const LENGTH: usize = size_of::<TxMetadata>();
const _: () = assert!(LENGTH.is_multiple_of(8));

/// The descriptor's option that says that metadata stands before the frame: `XDP_TX_METADATA`.
pub(super) const OPTION: u32 = 1 << 1;

/// `struct xsk_tx_metadata` with a request in its union (`linux/if_xdp.h`). Kernels before 6.14
/// end it behind the offsets; a longer one does no harm.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct TxMetadata {
    flags: u64,
    checksum_start: u16,
    checksum_offset: u16,
    _padding: u32,
    launch_time: u64,
}

/// The bytes that ask for a checksum over the frame from its byte `start` on, put `offset` bytes
/// behind that, where the sum over the pseudo-header stands already.
///
/// Drivers and kernel read it where it lies, 24 bytes before the frame, which is not aligned to 8
/// (Ethernet's 14 bytes see to that): no matter for the machines that this runs on.
pub(super) fn checksum_request(start: u16, offset: u16) -> [u8; LENGTH] {
    zerocopy::transmute!(TxMetadata {
        flags: libc::XDP_TXMD_FLAGS_CHECKSUM as u64,
        checksum_start: start,
        checksum_offset: offset,
        _padding: 0,
        launch_time: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_lies_as_the_kernel_reads_it() {
        let bytes = checksum_request(34, 6);
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..8], 2u64.to_ne_bytes());
        assert_eq!(bytes[8..10], 34u16.to_ne_bytes());
        assert_eq!(bytes[10..12], 6u16.to_ne_bytes());
        assert_eq!(bytes[12..], [0; 12]);
    }

    /// Nothing may be asked of a driver in zero-copy mode that declares nothing: virtio_net and igb
    /// would send the frame with a wrong checksum.
    #[test]
    fn an_undeclared_offload_is_never_asked_for() {
        use TxChecksum::{Auto, Device, Software};
        for (who, zero_copy, declared, expected) in [
            (Auto, false, false, false),
            (Auto, false, true, false),
            (Auto, true, false, false),
            (Auto, true, true, true),
            (Software, true, true, false),
            (Software, false, true, false),
            (Device, false, false, true),
            (Device, true, false, false),
            (Device, true, true, true),
        ] {
            let room = who.wants_room(true, declared);
            let asks = who.asks(room, zero_copy, declared);
            assert_eq!(asks, expected, "{who:?} {zero_copy} {declared}");
            assert!(!who.asks(false, zero_copy, declared), "without room");
        }
        assert!(!Auto.wants_room(false, true), "copy mode, known beforehand");
    }
}
