//! From states to text.

use core::fmt::Write as _;
use core::num::NonZeroU16;

use zeroize::Zeroizing;

use super::Errno;
use crate::control::{DeviceState, PeerSettings};
use crate::crypto::PresharedKey;

/// The answer to a `get`, `errno=0` and the closing empty line included. It has the device's
/// secrets in it.
#[must_use]
pub fn state(device: &DeviceState) -> Zeroizing<String> {
    let mut text = Text(Zeroizing::new(String::with_capacity(length(device))));
    if let Some(key) = &device.private_key {
        text.key("private_key", key.as_bytes());
    }
    text.line("listen_port", device.listen_port);
    if device.fwmark != 0 {
        text.line("fwmark", device.fwmark);
    }
    for peer in &device.peers {
        text.peer(peer);
    }
    text.line("errno", 0);
    text.0.push('\n');
    text.0
}

/// The answer to a `set`, or to what is no request. Numbers are negative, as the kernel's are:
/// `wg` takes them so.
#[must_use]
pub fn outcome(outcome: Result<(), Errno>) -> String {
    let errno = outcome.map_or_else(|errno| -errno.raw(), |()| 0);
    format!("errno={errno}\n\n")
}

/// At least as long as the text: a string that grows leaves secrets behind where it was.
pub(super) fn length(device: &DeviceState) -> usize {
    const DEVICE: usize = 200;
    /// Ten lines with their longest values come to 560 bytes.
    const PEER: usize = 640;
    /// `allowed_ip=`, 39 characters of address, `/128` and the line's end.
    const PREFIX: usize = 56;
    let peers = device.peers.iter();
    DEVICE
        + peers
            .map(|peer| PEER + PREFIX * peer.allowed_ips.len())
            .sum::<usize>()
}

struct Text(Zeroizing<String>);

impl Text {
    fn line(&mut self, key: &str, value: impl core::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{key}={value}");
    }

    fn key(&mut self, name: &str, bytes: &[u8; 32]) {
        let _ = write!(self.0, "{name}=");
        for byte in bytes {
            self.0.push(digit(byte >> 4));
            self.0.push(digit(byte & 0xf));
        }
        self.0.push('\n');
    }

    fn peer(&mut self, peer: &PeerSettings) {
        self.key("public_key", peer.public_key.as_bytes());
        let none = [0; 32];
        let preshared_key = peer.preshared_key.as_ref().map(PresharedKey::as_bytes);
        self.key("preshared_key", preshared_key.unwrap_or(&none));
        self.line("protocol_version", 1);
        if let Some(endpoint) = peer.endpoint {
            self.line("endpoint", endpoint);
        }
        let last = peer.last_handshake.unwrap_or_default();
        self.line("last_handshake_time_sec", last.as_secs());
        self.line("last_handshake_time_nsec", last.subsec_nanos());
        self.line("tx_bytes", peer.tx_bytes);
        self.line("rx_bytes", peer.rx_bytes);
        let seconds = peer.persistent_keepalive.map_or(0, NonZeroU16::get);
        self.line("persistent_keepalive_interval", seconds);
        for prefix in &peer.allowed_ips {
            self.line("allowed_ip", prefix);
        }
    }
}

/// A hexadecimal digit, without a branch or a look-up that depends on it.
const fn digit(nibble: u8) -> char {
    // 0xff from 10 on: there the borrow sets all upper bits of the difference.
    let letter = (9_u16.wrapping_sub(nibble as u16) >> 8) as u8;
    (b'0' + nibble + (letter & (b'a' - b'0' - 10))) as char
}
