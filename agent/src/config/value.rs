//! The values of both formats, from text to type.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::num::{NonZeroU16, NonZeroUsize};
use core::str::FromStr;

use ipnet::IpNet;
use ringspan::crypto::PublicKey;

use super::error::{Problem, Shown};
use super::suggest::DidYouMean;
use super::{
    LogLevel, MAX_BUSY_POLL_MICROS, MAX_SPIN_MICROS, OuterDriver, OuterSend, Routes, TxChecksum,
    XdpMode,
};

/// Where a peer may be reached, before names are looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndpointName {
    Address(SocketAddr),
    Host { name: String, port: u16 },
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            // A link-local address and its interface.
            Self::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// `HOST:PORT`, with an IPv6 host in brackets; a link-local one may name its interface, whose
/// index only the machine knows, so that it is looked up as a name is.
pub(super) fn endpoint(text: &str) -> Result<EndpointName, Problem> {
    let wrong = |why| Problem::NotAnEndpoint {
        value: Shown::new(text),
        why,
    };
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(wrong("an IPv6 address takes brackets and a port"));
    }
    let (host, port) = text.rsplit_once(':').ok_or(wrong("it has no port"))?;
    let port = match port.parse::<u16>() {
        Ok(0) | Err(_) => return Err(wrong("the port is a number from 1 to 65535")),
        Ok(port) => port,
    };
    if let Ok(address) = text.parse() {
        return Ok(EndpointName::Address(address));
    }
    let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if let Some((address, scope)) = inside.and_then(|inside| inside.split_once('%'))
        && address.parse::<Ipv6Addr>().is_ok()
        && interface_name(scope, "").is_ok()
    {
        return Ok(EndpointName::Host {
            name: format!("{address}%{scope}"),
            port,
        });
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(wrong("an IPv6 address takes brackets"));
    }
    if host.starts_with('[') || host.contains([':', ']']) {
        return Err(wrong("what stands before the port is no IPv6 address"));
    }
    if !is_host_name(host) {
        return Err(wrong("what stands before the port is no host name"));
    }
    Ok(EndpointName::Host {
        name: host.to_owned(),
        port,
    })
}

/// RFC 1123 §2.1, with the underscore that practice knows. What looks like an IPv4 address must
/// be one: `10.0.0.256` is a mistake, not a name.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !numeric
}

/// `ADDRESS/LENGTH`, or an address alone, which means all of its bits.
pub(super) fn prefix(text: &str) -> Result<IpNet, Problem> {
    IpNet::from_str(text)
        .or_else(|_| IpAddr::from_str(text).map(IpNet::from))
        .map_err(|_| Problem::NotAPrefix {
            value: Shown::new(text),
        })
}

/// A public key: no secret, so an error repeats it.
pub(super) fn public_key(text: &str) -> Result<PublicKey, Problem> {
    text.parse().map_err(|source| Problem::PublicKey {
        value: Shown::new(text),
        source,
    })
}

/// A UDP port; 0 lets the kernel choose.
pub(super) fn listen_port(text: &str) -> Result<u16, Problem> {
    number(
        text,
        0,
        u64::from(u16::MAX),
        "a UDP port is 1 to 65535, or 0 to let the kernel choose",
    )
    .map(|port| port as u16)
}

/// The inner MTU: from what every IPv4 host must accept (RFC 791 §3.2) to what a datagram can
/// hold, 80 bytes of headers taken off. The data plane has the same limits.
pub(super) fn mtu(text: &str) -> Result<u16, Problem> {
    number(
        text,
        576,
        65455,
        "the MTU is 576 to 65455 bytes; 1420 suits a network of 1500",
    )
    .map(|mtu| mtu as u16)
}

/// `off`, or seconds.
pub(super) fn keepalive(text: &str) -> Result<Option<NonZeroU16>, Problem> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    number(
        text,
        0,
        u64::from(u16::MAX),
        "a keepalive is 1 to 65535 seconds, or 0 or \"off\" for none; 25 suits most NATs",
    )
    .map(|seconds| NonZeroU16::new(seconds as u16))
}

/// `off`, or a mark, decimal or `0x…`.
pub(super) fn fwmark(text: &str) -> Result<u32, Problem> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    number(
        text,
        0,
        u64::from(u32::MAX),
        "a firewall mark is 1 to 0xffffffff, or 0 or \"off\" for none",
    )
    .map(|mark| mark as u32)
}

/// `off`, `auto`, or a routing table.
pub(super) fn table(text: &str) -> Result<Routes, Problem> {
    const WANTED: &str = "\"auto\", \"off\", \"main\" or a table's number from 1 to 4294967295";
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(Routes::Off),
        "auto" | "main" => Ok(Routes::Auto),
        "default" => Ok(Routes::Table(253)),
        _ => number(text, 1, u64::from(u32::MAX), WANTED).map(|table| match table {
            254 => Routes::Auto,
            table => Routes::Table(table as u32),
        }),
    }
}

/// Worker threads; 0 leaves the choice to the data plane.
pub(super) fn workers(text: &str) -> Result<Option<NonZeroUsize>, Problem> {
    number(
        text,
        0,
        256,
        "1 to 256 worker threads, or 0 to let ringspan choose",
    )
    .map(|workers| NonZeroUsize::new(workers as usize))
}

/// Microseconds of polling before sleep.
pub(super) fn spin(text: &str) -> Result<u16, Problem> {
    number(
        text,
        0,
        MAX_SPIN_MICROS.into(),
        "0 to 10000 microseconds of polling before sleep; 0 is none",
    )
    .map(|micros| micros as u16)
}

/// Microseconds of a busy poll.
pub(super) fn busy_poll(text: &str) -> Result<u16, Problem> {
    number(
        text,
        0,
        MAX_BUSY_POLL_MICROS.into(),
        "1 to 10000 microseconds of a busy poll, or 0 for none",
    )
    .map(|micros| micros as u16)
}

/// Frames of a busy poll.
pub(super) fn busy_poll_budget(text: &str) -> Result<NonZeroU16, Problem> {
    const WANTED: &str = "1 to 65535 frames of a busy poll; 64 suits most cards";
    let frames = number(text, 1, u64::from(u16::MAX), WANTED)?;
    NonZeroU16::new(frames as u16).ok_or_else(|| Problem::OutOfRange {
        value: Shown::new(text),
        wanted: WANTED,
    })
}

/// Who computes checksums.
pub(super) fn tx_checksum(text: &str) -> Result<TxChecksum, Problem> {
    let known = [
        ("auto", TxChecksum::Auto),
        ("software", TxChecksum::Software),
        ("device", TxChecksum::Device),
    ];
    choice(text, "auto, software and device", &known)
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, Problem> {
    choice(text, "true or false", &[("true", true), ("false", false)])
}

/// The outer driver.
pub(super) fn driver(text: &str) -> Result<OuterDriver, Problem> {
    choice(
        text,
        "auto, xdp and udp",
        &[
            ("auto", OuterDriver::Auto),
            ("xdp", OuterDriver::Xdp),
            ("udp", OuterDriver::Udp),
        ],
    )
}

/// Who sends.
pub(super) fn outer_send(text: &str) -> Result<OuterSend, Problem> {
    let known = [
        ("auto", OuterSend::Auto),
        ("xdp", OuterSend::Xdp),
        ("udp", OuterSend::Udp),
    ];
    choice(text, "auto, xdp and udp", &known)
}

/// How AF_XDP is tried.
pub(super) fn xdp_mode(text: &str) -> Result<XdpMode, Problem> {
    choice(
        text,
        "auto, copy and generic",
        &[
            ("auto", XdpMode::Auto),
            ("copy", XdpMode::Copy),
            ("generic", XdpMode::Generic),
        ],
    )
}

/// The log level.
pub(super) fn log_level(text: &str) -> Result<LogLevel, Problem> {
    choice(
        text,
        "off, error, warn, info, debug and trace",
        &[
            ("off", LogLevel::Off),
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ],
    )
}

/// What Linux and `wg-quick` both take for an interface's name. It also becomes part of a path.
pub(super) fn interface_name(text: &str, way_out: &'static str) -> Result<String, Problem> {
    let legal = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_=+.-".contains(&b));
    if legal {
        Ok(text.to_owned())
    } else {
        Err(Problem::InterfaceName {
            value: Shown::new(text),
            way_out,
        })
    }
}

fn choice<T: Copy>(
    text: &str,
    choices: &'static str,
    known: &[(&'static str, T)],
) -> Result<T, Problem> {
    known
        .iter()
        .find(|(word, _)| text.eq_ignore_ascii_case(word))
        .map(|(_, choice)| *choice)
        .ok_or_else(|| Problem::NotAChoice {
            value: Shown::new(text),
            suggestion: DidYouMean::among(text, known.iter().map(|(word, _)| *word)),
            choices,
        })
}

/// A whole number, decimal or `0x…`. `wanted` says what would have been right.
fn number(text: &str, least: u64, most: u64, wanted: &'static str) -> Result<u64, Problem> {
    let digits =
        |text: &str, radix: u32| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let hex = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"));
    let parsed = match hex {
        Some(hex) if digits(hex, 16) => u64::from_str_radix(hex, 16),
        None if digits(unsigned, 10) => unsigned.parse(),
        _ => {
            return Err(Problem::NotANumber {
                value: Shown::new(text),
                wanted,
            });
        }
    };
    // What does not fit 64 bits is a number still, and out of every range.
    match parsed {
        Ok(number) if unsigned == text && (least..=most).contains(&number) => Ok(number),
        _ => Err(Problem::OutOfRange {
            value: Shown::new(text),
            wanted,
        }),
    }
}
