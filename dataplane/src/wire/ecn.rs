//! Explicit congestion notification through a tunnel (RFC 6040), as the kernel's WireGuard does it
//! (`include/net/inet_ecn.h`).

use super::checksum;
use super::ip::{Ip, IpMut};

/// The two ECN bits of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Ecn {
    /// The transport is not ECN-capable.
    #[default]
    NotEct = 0,
    /// ECN-capable, ECT(1).
    Ect1 = 1,
    /// ECN-capable, ECT(0).
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

impl From<u8> for Ecn {
    /// From a TOS or traffic-class octet.
    fn from(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

impl Ecn {
    /// What the outer header bears for an inner one that bears `self` (`INET_ECN_encapsulate`).
    ///
    /// Inner CE goes out as ECT(0): the inner header keeps its mark anyway, and the far end can
    /// tell what this path added.
    #[must_use]
    pub fn encapsulate(self) -> Self {
        match self {
            Self::Ce => Self::Ect0,
            other => other,
        }
    }
}

/// Brings what the path told the outer header into the inner packet (`INET_ECN_decapsulate`):
/// CE, and ECT(1) over ECT(0). An inner packet that is not ECN-capable stays as it is.
///
/// `packet` begins with an IP header; anything else is left alone.
pub fn decapsulate(outer: Ecn, packet: &mut [u8]) {
    if matches!(outer, Ecn::NotEct | Ecn::Ect0) {
        return;
    }
    let Ok(inner) = Ip::parse(packet) else { return };
    let ecn = match (outer, inner.ecn()) {
        (Ecn::Ce, Ecn::Ect0 | Ecn::Ect1) => Ecn::Ce,
        (Ecn::Ect1, Ecn::Ect0) => Ecn::Ect1,
        _ => return,
    };
    match IpMut::of(packet) {
        Some(IpMut::V4(header)) => {
            let old = [header.version_ihl, header.tos];
            header.tos = header.tos & !3 | ecn as u8;
            let new = [header.version_ihl, header.tos];
            let sum = checksum::update(
                header.checksum.get(),
                u16::from_be_bytes(old),
                u16::from_be_bytes(new),
            );
            header.checksum.set(sum);
        }
        Some(IpMut::V6(header)) => {
            let bits = header.version_class_flow.get() & !(3 << 20);
            header
                .version_class_flow
                .set(bits | u32::from(ecn as u8) << 20);
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    const ALL: [Ecn; 4] = [NotEct, Ect1, Ect0, Ce];

    fn v4(tos: u8) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[..4].copy_from_slice(&[0x45, tos, 0, 20]);
        packet[8..20].copy_from_slice(&[64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn v6(tos: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[..4].copy_from_slice(&[0x60 | tos >> 4, tos << 4 | 0x5, 0x12, 0x34]);
        packet[7] = 64;
        packet
    }

    /// The table of `INET_ECN_decapsulate`, of which the tunnel ignores the verdict "drop".
    fn expected(outer: Ecn, inner: Ecn) -> Ecn {
        match (inner, outer) {
            (NotEct, _) => NotEct,
            (_, Ce) | (Ce, _) => Ce,
            (_, Ect1) => Ect1,
            (inner, _) => inner,
        }
    }

    #[test]
    fn every_pair_comes_out_as_the_kernel_has_it() {
        for outer in ALL {
            for inner in ALL {
                // DSCP bits all around, which must stay.
                let tos = 0xb8 | inner as u8;
                for mut packet in [v4(tos), v6(tos)] {
                    decapsulate(outer, &mut packet);
                    let after = Ip::parse(&packet).unwrap();
                    assert_eq!(after.tos() & !3, 0xb8);
                    assert_eq!(
                        after.ecn(),
                        expected(outer, inner),
                        "{outer:?} over {inner:?}"
                    );
                    match after {
                        Ip::V4(_) => assert_eq!(checksum::checksum(&packet), 0),
                        Ip::V6(_) => assert_eq!(packet[1..4], [packet[1] & 0xf0 | 5, 0x12, 0x34]),
                    }
                }
            }
        }
    }

    #[test]
    fn congestion_marks_do_not_leave_the_host() {
        assert_eq!(ALL.map(Ecn::encapsulate), [NotEct, Ect1, Ect0, Ect0]);
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        for mut junk in [vec![], vec![0x45], vec![0x60; 39], vec![0; 60]] {
            let before = junk.clone();
            decapsulate(Ce, &mut junk);
            assert_eq!(junk, before);
        }
    }
}
