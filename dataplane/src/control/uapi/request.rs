//! From text to requests.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use core::str::FromStr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Errno;
use crate::control::{AllowedIpChange, DeviceChange, PeerChange};
use crate::crypto::PublicKey;

/// The longest line, in bytes: the longest sensible one is a key's, with 78.
pub const LONGEST_LINE: usize = 512;

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `get=1`: show everything.
    Get,
    /// `set=1`: change something.
    Set(DeviceChange),
}

/// A text that is no request. Values are not repeated: they may be keys.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Neither of the two operations.
    #[error("a request begins with get=1 or set=1")]
    Operation,
    /// A `get` with anything else.
    #[error("get=1 is followed by an empty line, nothing else")]
    AfterGet,
    /// No `=`, or no text.
    #[error("it is not KEY=VALUE")]
    Shape,
    /// Over [`LONGEST_LINE`].
    #[error("it is longer than {LONGEST_LINE} bytes")]
    Length,
    /// There is no such key.
    #[error("there is no key {0:?} here")]
    Key(String),
    /// The key is one of a peer, and there was no `public_key` yet.
    #[error("{0} belongs after a public_key")]
    NoPeer(&'static str),
    /// The key cannot have this value.
    #[error("{key} must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

impl ParseError {
    /// How it is answered.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self.problem {
            Problem::Operation | Problem::AfterGet | Problem::Shape | Problem::Length => {
                Errno::PROTOCOL
            }
            _ => Errno::INVALID,
        }
    }
}

impl Request {
    /// Reads a request: lines up to, and without, the empty one that ends it.
    ///
    /// `interface` gives the index of an interface by its name, for link-local endpoints such as
    /// `[fe80::1%eth0]:51820`.
    ///
    /// # Errors
    /// [`ParseError`] for the first line that is wrong.
    pub fn parse(text: &[u8], interface: &dyn Fn(&str) -> Option<u32>) -> Result<Self, ParseError> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = text.split(|byte| *byte == b'\n').zip(1..);
        let at = |line: usize| move |problem| ParseError { line, problem };
        let first = lines.next().map(|(line, _)| line);
        match first {
            Some(b"get=1") => match lines.next() {
                None => Ok(Self::Get),
                Some((_, line)) => Err(at(line)(Problem::AfterGet)),
            },
            Some(b"set=1") => {
                let mut set = Set {
                    change: DeviceChange::default(),
                    interface,
                };
                for (text, line) in lines {
                    set.line(text).map_err(at(line))?;
                }
                Ok(Self::Set(set.change))
            }
            _ => Err(at(1)(Problem::Operation)),
        }
    }
}

/// A `set` that is being read.
struct Set<'a> {
    change: DeviceChange,
    interface: &'a dyn Fn(&str) -> Option<u32>,
}

const KEY: &str = "64 hexadecimal digits";
const SECONDS: &str = "0 to 65535 seconds";
const PORT: &str = "0 to 65535";
const MARK: &str = "0 to 4294967295";
const TRUE: &str = "true";
const PREFIX: &str = "an address with a prefix length, such as 10.0.0.0/8 or fd00::/64";
const ENDPOINT: &str = "an address and a port, such as 192.0.2.1:51820 or [2001:db8::1]:51820";

impl Set<'_> {
    fn line(&mut self, line: &[u8]) -> Result<(), Problem> {
        if line.len() > LONGEST_LINE {
            return Err(Problem::Length);
        }
        let line = core::str::from_utf8(line).map_err(|_| Problem::Shape)?;
        let (key, value) = line.split_once('=').ok_or(Problem::Shape)?;
        match key {
            "private_key" => {
                self.device(key)?.private_key = Some((*secret("private_key", value)?).into());
            }
            "listen_port" => {
                self.device(key)?.listen_port = Some(number("listen_port", value, PORT)?);
            }
            "fwmark" => self.device(key)?.fwmark = Some(mark(value)?),
            "replace_peers" => {
                yes("replace_peers", value)?;
                self.device(key)?.replace_peers = true;
            }
            "public_key" => {
                let public_key = PublicKey::from(*secret("public_key", value)?);
                self.change.peers.push(PeerChange::new(public_key));
            }
            _ => self.peer_line(key, value)?,
        }
        Ok(())
    }

    /// The device, whose keys come before the first peer.
    fn device(&mut self, key: &str) -> Result<&mut DeviceChange, Problem> {
        if self.change.peers.is_empty() {
            Ok(&mut self.change)
        } else {
            Err(Problem::Key(key.to_owned()))
        }
    }

    fn peer_line(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        let name = PEER_KEYS
            .into_iter()
            .find(|name| *name == key)
            .ok_or_else(|| Problem::Key(key.to_owned()))?;
        let peer = self.change.peers.last_mut().ok_or(Problem::NoPeer(name))?;
        match name {
            "remove" => {
                yes(name, value)?;
                peer.remove = true;
            }
            "update_only" => {
                yes(name, value)?;
                peer.update_only = true;
            }
            "preshared_key" => peer.preshared_key = Some((*secret(name, value)?).into()),
            "endpoint" => peer.endpoint = Some(endpoint(value, self.interface)?),
            "persistent_keepalive_interval" => {
                peer.persistent_keepalive = Some(number(name, value, SECONDS)?);
            }
            "replace_allowed_ips" => {
                yes(name, value)?;
                peer.replace_allowed_ips = true;
                // As if it had been said first: what was added before is replaced too.
                peer.allowed_ips.clear();
            }
            "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
            // The version of the WireGuard protocol, not of this one.
            _ => {
                if value != "1" {
                    return Err(wrong(name, "1"));
                }
            }
        }
        Ok(())
    }
}

/// The keys of a peer, besides `public_key`.
const PEER_KEYS: [&str; 8] = [
    "remove",
    "update_only",
    "preshared_key",
    "endpoint",
    "persistent_keepalive_interval",
    "replace_allowed_ips",
    "allowed_ip",
    "protocol_version",
];

const fn wrong(key: &'static str, expected: &'static str) -> Problem {
    Problem::Value { key, expected }
}

fn yes(key: &'static str, value: &str) -> Result<(), Problem> {
    if value == TRUE {
        Ok(())
    } else {
        Err(wrong(key, TRUE))
    }
}

/// A decimal number. No sign: `FromStr` would take a plus.
fn number<T: FromStr>(
    key: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, Problem> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or(wrong(key, expected))
}

/// A number, which some clients write in hexadecimal.
fn mark(value: &str) -> Result<u32, Problem> {
    match value.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).map_err(|_| wrong("fwmark", MARK))
        }
        _ => number("fwmark", value, MARK),
    }
}

/// 32 bytes in hexadecimal. The time it takes tells nothing but whether all digits are good.
fn secret(key: &'static str, value: &str) -> Result<Zeroizing<[u8; 32]>, Problem> {
    let mut bytes = Zeroizing::new([0; 32]);
    let mut bad = value.len() != 64;
    for (byte, pair) in bytes.iter_mut().zip(value.as_bytes().chunks(2)) {
        let (high, low) = match pair {
            [high, low] => (nibble(*high), nibble(*low)),
            _ => (0xff, 0xff),
        };
        bad |= (high | low) > 0xf;
        *byte = high << 4 | low & 0xf;
    }
    if bad { Err(wrong(key, KEY)) } else { Ok(bytes) }
}

/// The value of a hexadecimal digit, 0xff for none; without branches or look-ups that depend on it.
const fn nibble(digit: u8) -> u8 {
    let decimal = digit.wrapping_sub(b'0');
    let letter = (digit | 0x20).wrapping_sub(b'a');
    // All ones where the subtraction borrows: where the digit lies in the range.
    let is_decimal = ((decimal as u16).wrapping_sub(10) >> 8) as u8;
    let is_letter = ((letter as u16).wrapping_sub(6) >> 8) as u8;
    (is_decimal & decimal) | (is_letter & letter.wrapping_add(10)) | !(is_decimal | is_letter)
}

fn endpoint(value: &str, interface: &dyn Fn(&str) -> Option<u32>) -> Result<SocketAddr, Problem> {
    let problem = || wrong("endpoint", ENDPOINT);
    let (host, port) = value.rsplit_once(':').ok_or_else(problem)?;
    let port = number("endpoint", port, ENDPOINT)?;
    let Some(host) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    else {
        let address: Ipv4Addr = host.parse().map_err(|_| problem())?;
        return Ok((address, port).into());
    };
    let (address, zone) = host.split_once('%').unwrap_or((host, ""));
    let address: Ipv6Addr = address.parse().map_err(|_| problem())?;
    let scope = match zone {
        "" => 0,
        _ => interface(zone)
            .or_else(|| number("endpoint", zone, ENDPOINT).ok())
            .ok_or_else(problem)?,
    };
    Ok(SocketAddrV6::new(address, port, 0, scope).into())
}

fn allowed_ip(value: &str) -> Result<AllowedIpChange, Problem> {
    let problem = || wrong("allowed_ip", PREFIX);
    let (value, add) = match value.strip_prefix('-') {
        Some(rest) => (rest, false),
        None => (value, true),
    };
    let (address, length) = value.split_once('/').ok_or_else(problem)?;
    let address: IpAddr = address.parse().map_err(|_| problem())?;
    let length = number("allowed_ip", length, PREFIX)?;
    let prefix = IpNet::new(address, length).map_err(|_| problem())?.trunc();
    Ok(if add {
        AllowedIpChange::Add(prefix)
    } else {
        AllowedIpChange::Remove(prefix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::uapi::answer;
    use crate::control::{DeviceState, PeerSettings};
    use core::num::NonZeroU16;
    use core::time::Duration;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Request, ParseError> {
        Request::parse(text.as_bytes(), &|name| (name == "eth0").then_some(7))
    }

    fn set(lines: &str) -> Result<DeviceChange, ParseError> {
        match parse(&format!("set=1\n{lines}"))? {
            Request::Set(change) => Ok(change),
            Request::Get => panic!("a set was read as a get"),
        }
    }

    /// The request that wg(8) makes of all its options at once, and what it means.
    #[test]
    fn every_key_is_read() {
        let (own, one, two) = ("0a".repeat(32), "0b".repeat(32), "0C".repeat(32));
        let change = set(&format!(
            "private_key={own}\nlisten_port=51820\nfwmark=4660\nreplace_peers=true\n\
             public_key={one}\nupdate_only=true\npreshared_key={two}\n\
             endpoint=192.0.2.1:7\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.1.2.3/8\nallowed_ip=-fd00::1/64\nprotocol_version=1\n\
             public_key={two}\nremove=true\n"
        ))
        .unwrap();
        let mut first = PeerChange::new([0x0b; 32].into());
        first.update_only = true;
        first.preshared_key = Some([0x0c; 32].into());
        first.endpoint = "192.0.2.1:7".parse().ok();
        first.persistent_keepalive = Some(25);
        first.replace_allowed_ips = true;
        first.allowed_ips = vec![
            AllowedIpChange::Add("10.0.0.0/8".parse().unwrap()),
            AllowedIpChange::Remove("fd00::/64".parse().unwrap()),
        ];
        let mut second = PeerChange::new([0x0c; 32].into());
        second.remove = true;
        let expected = DeviceChange {
            private_key: Some([0x0a; 32].into()),
            listen_port: Some(51820),
            fwmark: Some(4660),
            replace_peers: true,
            peers: vec![first, second],
        };
        assert_eq!(change, expected);
        assert_eq!(parse("get=1\n"), Ok(Request::Get));
    }

    #[test]
    fn endpoints_have_ports_and_zones() {
        let read = |value: &str| {
            let lines = format!("public_key={}\nendpoint={value}\n", "00".repeat(32));
            set(&lines).map(|change| change.peers[0].endpoint.unwrap().to_string())
        };
        for (value, shown) in [
            ("1.2.3.4:65535", "1.2.3.4:65535"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("[fe80::1%eth0]:2", "[fe80::1%7]:2"),
            ("[fe80::1%3]:2", "[fe80::1%3]:2"),
        ] {
            assert_eq!(read(value).unwrap(), shown);
        }
        for bad in [
            "",
            ":",
            "1.2.3.4",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "1.2.3.4:+1",
            "host:1",
            "::1:1",
            "[1.2.3.4]:1",
            "[::1]",
            "[::1%wlan9]:1",
            "[::1]1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_name_the_line_and_answer_as_wireguard_go_does() {
        let key = "00".repeat(32);
        for (text, line, errno) in [
            ("".to_owned(), 1, libc::EPROTO),
            ("set=2\n".to_owned(), 1, libc::EPROTO),
            ("get=1\nx=1\n".to_owned(), 2, libc::EPROTO),
            ("set=1\nlisten_port\n".to_owned(), 2, libc::EPROTO),
            (
                format!("set=1\nfwmark={}\n", "1".repeat(600)),
                2,
                libc::EPROTO,
            ),
            ("set=1\nlisten_port=65536\n".to_owned(), 2, libc::EINVAL),
            ("set=1\nlisten_port=+1\n".to_owned(), 2, libc::EINVAL),
            ("set=1\nreplace_peers=false\n".to_owned(), 2, libc::EINVAL),
            ("set=1\nendpoint=1.2.3.4:5\n".to_owned(), 2, libc::EINVAL),
            ("set=1\nunheard_of=1\n".to_owned(), 2, libc::EINVAL),
            (
                format!("set=1\npublic_key={key}\nfwmark=1\n"),
                3,
                libc::EINVAL,
            ),
            (
                format!("set=1\npublic_key={key}\nprotocol_version=2\n"),
                3,
                libc::EINVAL,
            ),
            (format!("set=1\npublic_key={key}0\n"), 2, libc::EINVAL),
            (
                format!("set=1\npublic_key={}g\n", &key[1..]),
                2,
                libc::EINVAL,
            ),
            (
                format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.1\n"),
                3,
                libc::EINVAL,
            ),
            (
                format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.1/33\n"),
                3,
                libc::EINVAL,
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(
                (error.line, error.errno().raw()),
                (line, errno),
                "{text}: {error}"
            );
        }
        let secret = format!("set=1\nprivate_key={}x\n", "7".repeat(63));
        assert!(!parse(&secret).unwrap_err().to_string().contains("777"));
    }

    #[test]
    fn hexadecimal_digits_are_those_and_no_others() {
        for byte in 0..=u8::MAX {
            let expected = char::from(byte)
                .to_digit(16)
                .map_or(0xff, |value| value as u8);
            assert_eq!(nibble(byte), expected, "{byte:#x}");
        }
    }

    prop_compose! {
        fn peer()(
            key in any::<[u8; 32]>(),
            secret in any::<Option<[u8; 32]>>(),
            endpoint in any::<Option<SocketAddr>>(),
            keepalive in any::<u16>(),
            handshake in any::<u32>(),
            bytes in any::<(u64, u64)>(),
            prefixes in proptest::collection::vec((any::<IpAddr>(), 0..=32_u8), 0..4),
        ) -> PeerSettings {
            PeerSettings {
                public_key: key.into(),
                preshared_key: secret.filter(|key| *key != [0; 32]).map(Into::into),
                endpoint: endpoint.map(|mut address| {
                    if let SocketAddr::V6(v6) = &mut address {
                        v6.set_flowinfo(0);
                    }
                    address
                }),
                last_handshake: Some(Duration::from_millis(handshake.into())),
                rx_bytes: bytes.0,
                tx_bytes: bytes.1,
                persistent_keepalive: NonZeroU16::new(keepalive),
                allowed_ips: prefixes
                    .into_iter()
                    .map(|(ip, length)| IpNet::new(ip, length).unwrap().trunc())
                    .collect(),
            }
        }
    }

    prop_compose! {
        fn device()(
            key in any::<Option<[u8; 32]>>(),
            listen_port in any::<u16>(),
            fwmark in any::<u32>(),
            peers in proptest::collection::vec(peer(), 0..4),
        ) -> DeviceState {
            DeviceState { private_key: key.map(Into::into), listen_port, fwmark, peers }
        }
    }

    /// What a state, read as a request, asks for.
    fn as_change(device: &DeviceState) -> DeviceChange {
        DeviceChange {
            private_key: device.private_key.clone(),
            listen_port: Some(device.listen_port),
            fwmark: (device.fwmark != 0).then_some(device.fwmark),
            replace_peers: false,
            peers: device
                .peers
                .iter()
                .map(|peer| PeerChange {
                    preshared_key: Some(peer.preshared_key.clone().unwrap_or_default()),
                    endpoint: peer.endpoint,
                    persistent_keepalive: Some(
                        peer.persistent_keepalive.map_or(0, NonZeroU16::get),
                    ),
                    allowed_ips: peer
                        .allowed_ips
                        .iter()
                        .map(|prefix| AllowedIpChange::Add(*prefix))
                        .collect(),
                    ..PeerChange::new(peer.public_key)
                })
                .collect(),
        }
    }

    proptest! {
        /// Whatever comes in, there is an answer and no panic.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&bytes, &|_| None);
        }

        /// So too where every line begins well.
        #[test]
        fn any_values_are_read(
            lines in proptest::collection::vec((0..14_usize, "[ -~]{0,70}"), 0..12),
        ) {
            let device = ["private_key", "listen_port", "fwmark", "replace_peers", "public_key"];
            let keys: Vec<_> = device.into_iter().chain(PEER_KEYS).chain([""]).collect();
            let mut text = String::from("set=1\n");
            for (key, value) in lines {
                text += &format!("{}={value}\n", keys[key]);
            }
            if let Err(error) = parse(&text) {
                prop_assert!(error.errno().raw() > 0 && !error.to_string().is_empty());
            }
        }

        /// What is shown can be set, and means the same.
        #[test]
        fn what_is_shown_can_be_set(device in device()) {
            let shown = answer::state(&device);
            prop_assert!(shown.ends_with("\nerrno=0\n\n"));
            let read_only = ["errno=", "rx_bytes=", "tx_bytes=", "last_handshake_time_"];
            let lines: String = shown
                .lines()
                .filter(|line| !line.is_empty())
                .filter(|line| !read_only.iter().any(|key| line.starts_with(key)))
                .map(|line| format!("{line}\n"))
                .collect();
            prop_assert_eq!(set(&lines).unwrap(), as_change(&device));
        }

        /// Room is made before anything secret is written.
        #[test]
        fn the_answer_never_grows(device in device()) {
            let text = answer::state(&device);
            prop_assert!(text.len() <= answer::length(&device));
        }
    }
}
