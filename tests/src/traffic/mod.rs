//! Traffic that checks itself: pings, TCP transfers and UDP exchanges from threads inside
//! namespaces. Every byte received is compared with what was sent.

pub mod ping;
pub mod tcp;
pub mod udp;

pub use ping::{Pings, ping};

/// The test pattern: a stream of bytes that every offset of it can be checked against.
///
/// A counter in every fourth byte's place would survive the swap of two segments only where the
/// pattern repeats: after 2^32 words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pattern(u64);

impl Pattern {
    /// The pattern from byte `offset` on, a multiple of four.
    pub(crate) fn at(offset: u64) -> Self {
        Self(offset / 4)
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(4) {
            let value = (self.0 as u32).wrapping_mul(0x9e37_79b1).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
            self.0 += 1;
        }
    }
}

/// A socket address, for either family.
pub(crate) fn any(ip: std::net::IpAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip, 0)
}
