//! A client of the cross-platform userspace configuration protocol
//! (<https://www.wireguard.com/xplatform/>), as `wg` is for these devices.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{DeviceConfig, PeerStatus};
use crate::child::Process;

/// The socket of the device `name`.
#[must_use]
pub fn socket(name: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{name}.sock"))
}

/// A userspace device in a process of its own, configured over its socket.
#[derive(Debug)]
pub struct Device {
    name: String,
    process: Process,
}

impl Device {
    /// Waits until the device `name` of `process` answers, and configures it.
    ///
    /// # Errors
    /// When the process ends, refuses the configuration, or is not there after 10 seconds.
    pub fn configure(name: String, process: Process, config: &DeviceConfig) -> io::Result<Self> {
        let mut device = Self {
            process: process.leaving(socket(&name)),
            name,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while let Err(error) = UnixStream::connect(socket(&device.name)) {
            if let Some(status) = device.process.try_wait()? {
                return Err(io::Error::other(format!(
                    "{} ended before it was configured: {status}",
                    device.name
                )));
            }
            if Instant::now() > end {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(10));
        }
        device.request(&set(config))?;
        Ok(device)
    }

    /// The device's interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.name
    }

    /// What the device says of its peers.
    ///
    /// # Errors
    /// When the device does not answer, or not in the protocol.
    pub fn peers(&self) -> io::Result<Vec<PeerStatus>> {
        parse(&self.request("get=1\n\n")?)
    }

    /// Sends a request; the answer without its closing `errno=0`.
    fn request(&self, text: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(socket(&self.name))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        // Some devices close after an answer, some wait for the next request.
        while !answer.ends_with(b"\n\n") {
            match stream.read(&mut part)? {
                0 => break,
                length => answer.extend_from_slice(&part[..length]),
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        let answer = String::from_utf8_lossy(&answer);
        match answer.trim_end().rsplit_once("errno=") {
            Some((body, "0")) => Ok(body.to_owned()),
            _ => Err(io::Error::other(format!(
                "{} answers {:?}",
                self.name,
                answer.trim_end()
            ))),
        }
    }
}

fn set(config: &DeviceConfig) -> String {
    let mut text = format!(
        "set=1\nprivate_key={}\nlisten_port={}\nreplace_peers=true\n",
        hex(config.private_key.as_bytes()),
        config.listen_port
    );
    for peer in &config.peers {
        let _ = writeln!(text, "public_key={}", hex(peer.public_key.as_bytes()));
        if let Some(key) = &peer.preshared_key {
            let _ = writeln!(text, "preshared_key={}", hex(key.as_bytes()));
        }
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        if let Some(seconds) = peer.persistent_keepalive {
            let _ = writeln!(text, "persistent_keepalive_interval={seconds}");
        }
        for prefix in &peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={prefix}");
        }
    }
    text.push('\n');
    text
}

fn parse(answer: &str) -> io::Result<Vec<PeerStatus>> {
    let malformed =
        |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("answer line {line:?}"));
    let mut peers: Vec<PeerStatus> = Vec::new();
    for line in answer.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').ok_or_else(|| malformed(line))?;
        if key == "public_key" {
            peers.push(PeerStatus {
                public_key: unhex(value).ok_or_else(|| malformed(line))?.into(),
                endpoint: None,
                rx_bytes: 0,
                tx_bytes: 0,
                handshaken: false,
            });
        }
        let Some(peer) = peers.last_mut() else {
            continue;
        };
        let number = || value.parse::<u64>().map_err(|_| malformed(line));
        match key {
            "endpoint" => peer.endpoint = Some(value.parse().map_err(|_| malformed(line))?),
            "rx_bytes" => peer.rx_bytes = number()?,
            "tx_bytes" => peer.tx_bytes = number()?,
            "last_handshake_time_sec" | "last_handshake_time_nsec" => {
                peer.handshaken |= number()? != 0;
            }
            _ => {}
        }
    }
    Ok(peers)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{KeyPair, PeerConfig, preshared_key};

    #[test]
    fn a_configuration_has_a_line_for_each_setting() {
        let (own, peer) = (KeyPair::generate(), KeyPair::generate());
        let text = set(&DeviceConfig {
            private_key: own.private,
            listen_port: 51820,
            peers: vec![PeerConfig {
                public_key: peer.public,
                preshared_key: Some(preshared_key()),
                endpoint: "[fd00::1]:7".parse().ok(),
                allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
                persistent_keepalive: Some(25),
            }],
        });
        assert!(text.starts_with("set=1\nprivate_key="));
        assert!(text.ends_with("\nallowed_ip=10.0.0.0/8\n\n"));
        assert!(text.contains("\nendpoint=[fd00::1]:7\n"));
        let line = text.lines().find_map(|l| l.strip_prefix("public_key="));
        assert_eq!(line.and_then(unhex), Some(*peer.public.as_bytes()));
    }

    #[test]
    fn statuses_are_read_and_nonsense_is_refused() {
        let key = "ab".repeat(32);
        let peers = parse(&format!(
            "listen_port=1\npublic_key={key}\nendpoint=1.2.3.4:5\nlast_handshake_time_sec=0\n\
             last_handshake_time_nsec=9\ntx_bytes=3\nrx_bytes=4\n"
        ))
        .unwrap();
        assert_eq!(peers.len(), 1);
        assert!(peers[0].handshaken);
        assert_eq!((peers[0].tx_bytes, peers[0].rx_bytes), (3, 4));
        assert!(parse(&format!("public_key={key}\nrx_bytes=x\n")).is_err());
        assert!(parse("public_key=short\n").is_err());
        assert!(parse("no equals sign\n").is_err());
    }
}
