//! The two texts of `wg` that a kernel device is driven by: the file of `wg setconf`, and the
//! answer of `wg show DEVICE dump`.

use std::fmt::Write as _;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{DeviceConfig, PeerStatus};

/// The configuration file of `wg setconf`.
#[must_use]
pub fn setconf(config: &DeviceConfig) -> String {
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {}\n",
        STANDARD.encode(config.private_key.as_bytes()),
        config.listen_port
    );
    for peer in &config.peers {
        let _ = writeln!(text, "[Peer]\nPublicKey = {}", peer.public_key);
        if let Some(key) = &peer.preshared_key {
            let _ = writeln!(text, "PresharedKey = {}", STANDARD.encode(key.as_bytes()));
        }
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "Endpoint = {endpoint}");
        }
        if let Some(seconds) = peer.persistent_keepalive {
            let _ = writeln!(text, "PersistentKeepalive = {seconds}");
        }
        let prefixes: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "AllowedIPs = {}", prefixes.join(", "));
    }
    text
}

/// The peers in the answer of `wg show DEVICE dump`.
///
/// # Errors
/// When a line is not what wg(8) says it is.
pub fn parse_dump(text: &str) -> io::Result<Vec<PeerStatus>> {
    text.lines().skip(1).map(parse_peer).collect()
}

fn parse_peer(line: &str) -> io::Result<PeerStatus> {
    let malformed = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("wg show dump: {line:?}"),
        )
    };
    let fields: Vec<_> = line.split('\t').collect();
    let &[key, _psk, endpoint, _allowed, handshake, rx, tx, _keepalive] = fields.as_slice() else {
        return Err(malformed());
    };
    let number = |field: &str| field.parse::<u64>().map_err(|_| malformed());
    Ok(PeerStatus {
        public_key: key.parse().map_err(|_| malformed())?,
        endpoint: match endpoint {
            "(none)" => None,
            text => Some(text.parse().map_err(|_| malformed())?),
        },
        rx_bytes: number(rx)?,
        tx_bytes: number(tx)?,
        handshaken: number(handshake)? != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::KeyPair;

    #[test]
    fn a_dump_is_read_and_nonsense_is_refused() {
        let key = KeyPair::generate().public;
        let line = format!("{key}\t(none)\t192.0.2.1:7\t10.0.0.1/32\t1700000000\t5\t6\toff");
        let peers = parse_dump(&format!("own\tkeys\t51820\toff\n{line}\n")).unwrap();
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].public_key, key);
        assert_eq!(peers[0].endpoint, "192.0.2.1:7".parse().ok());
        assert_eq!((peers[0].rx_bytes, peers[0].tx_bytes), (5, 6));
        assert!(peers[0].handshaken);
        assert!(parse_dump(&format!("head\n{key}\tshort\n")).is_err());
    }
}
