//! The configuration of one tunnel: what it holds, and how files become one.
//!
//! Two formats lead to the same [`Config`]: TOML ([`toml`]) and the `.conf` of `wg-quick`
//! ([`wg_quick`]). Each only splits its text into located entries; [`draft`] reads the values,
//! and [`check`] judges the whole. A file has one error at a time, the first: with its line, its
//! key, the offending value (unless that is a secret) and the way out.

mod check;
mod draft;
mod error;
mod file;
#[cfg(test)]
mod render;
mod suggest;
#[cfg(test)]
mod tests;
mod toml;
mod value;
mod wg_quick;

use core::fmt;
use core::num::{NonZeroU16, NonZeroUsize};
use std::path::Path;

use ipnet::IpNet;
use ringspan::crypto::{PresharedKey, PrivateKey, PublicKey};

pub(crate) use error::{ConfigError, Place};
pub(crate) use value::EndpointName;

/// Bytes of the largest inner packet, where nothing else is said: 1500 less the 80 bytes that
/// WireGuard over IPv6 takes.
pub(crate) const DEFAULT_MTU: u16 = 1420;

/// The longest polling before sleep that can be asked for, in microseconds.
pub(crate) const MAX_SPIN_MICROS: u16 = 10_000;
/// The longest time of a busy poll, in microseconds.
pub(crate) const MAX_BUSY_POLL_MICROS: u16 = 10_000;
const _: () = assert!(MAX_BUSY_POLL_MICROS as u32 == ringspan::io::xdp::MAX_BUSY_POLL_MICROS);

const _: () = assert!(MAX_SPIN_MICROS as u128 == ringspan::runtime::spin::MAX_SPIN.as_micros());

/// Everything that `ringspan up` has to know. Only [`load`] makes one, so it has passed every
/// check that needs no network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    /// The tunnel's interface, and the name of its status socket.
    pub(crate) name: String,
    pub(crate) private_key: PrivateKey,
    /// The UDP port; 0: the kernel chooses one.
    pub(crate) listen_port: u16,
    /// Addresses for the interface, host bits kept.
    pub(crate) addresses: Vec<IpNet>,
    /// Bytes of the largest inner packet.
    pub(crate) mtu: u16,
    /// Firewall mark of outgoing datagrams; 0: none.
    pub(crate) fwmark: u32,
    pub(crate) routes: Routes,
    pub(crate) outer: OuterChoice,
    /// Worker threads; `None`: the data plane decides.
    pub(crate) workers: Option<NonZeroUsize>,
    /// For how long at most workers poll before they sleep, in microseconds.
    pub(crate) spin: u16,
    pub(crate) log: LogLevel,
    pub(crate) peers: Vec<PeerConfig>,
}

/// One peer, its endpoints still names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerConfig {
    /// A name for people; empty: none was given.
    pub(crate) label: String,
    pub(crate) public_key: PublicKey,
    pub(crate) preshared_key: Option<PresharedKey>,
    pub(crate) endpoints: Vec<EndpointName>,
    /// Host bits cleared, no prefix twice.
    pub(crate) allowed_ips: Vec<IpNet>,
    /// In seconds.
    pub(crate) persistent_keepalive: Option<NonZeroU16>,
}

/// Where routes to the allowed IPs go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Routes {
    /// The main table.
    #[default]
    Auto,
    /// The numbered table.
    Table(u32),
    /// Nowhere: the operator sets them.
    Off,
}

/// Who carries the datagrams.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct OuterChoice {
    pub(crate) driver: OuterDriver,
    /// The network card; `None`: the one with the default route.
    pub(crate) interface: Option<String>,
    pub(crate) send: OuterSend,
    pub(crate) mode: XdpMode,
    /// Microseconds of a busy poll; 0: the card's interrupts are waited for.
    pub(crate) busy_poll: u16,
    /// Frames that one busy poll may take; `None`: the data plane's own number.
    pub(crate) busy_poll_budget: Option<NonZeroU16>,
    pub(crate) tx_checksum: TxChecksum,
}

/// Who sends where AF_XDP receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum OuterSend {
    /// AF_XDP where it has zero copy, else the UDP socket.
    #[default]
    Auto,
    /// AF_XDP too.
    Xdp,
    /// The UDP socket, which sends runs of datagrams as one (GSO).
    Udp,
}

/// How AF_XDP is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum XdpMode {
    /// Zero copy, then copy.
    #[default]
    Auto,
    /// Copy at once.
    Copy,
    /// Behind the card's driver, copying.
    Generic,
}

/// Who computes the checksums of what AF_XDP sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum TxChecksum {
    /// The card where it can, else this program.
    #[default]
    Auto,
    /// This program.
    Software,
    /// Whoever sends: the card, or in copy mode the kernel.
    Device,
}

/// The outer driver asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum OuterDriver {
    /// AF_XDP zero copy, else AF_XDP copy, else the UDP socket, found by probing.
    #[default]
    Auto,
    /// AF_XDP or nothing.
    Xdp,
    /// The kernel's UDP socket alone.
    Udp,
}

impl fmt::Display for OuterDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Udp => "udp",
        })
    }
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The word for it, in files and filters.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Something in a file that is legal but will not do what its author may expect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    pub(crate) place: Option<Place>,
    pub(crate) text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "line {}: {}: {}", place.line, place.key, self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) name: Option<String>,
    pub(crate) driver: Option<OuterDriver>,
    pub(crate) interface: Option<String>,
    pub(crate) spin: Option<u16>,
    pub(crate) busy_poll: Option<u16>,
}

/// A configuration, and what its author should know about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) notes: Vec<Note>,
}

/// An interface's name on the command line.
#[cfg(feature = "discovery")]
pub(crate) fn interface_name(text: &str) -> Result<String, String> {
    value::interface_name(text, "").map_err(|problem| problem.to_string().trim_end().to_owned())
}

/// Reads and checks the file at `path`: `wg-quick` format when it ends in `.conf`, else TOML.
pub(crate) fn load(path: &Path, overrides: &Overrides) -> Result<Loaded, ConfigError> {
    let text = file::read_text(path)?;
    let located = |invalid: error::Invalid| ConfigError::Invalid {
        file: path.to_owned(),
        place: invalid.place,
        problem: invalid.problem,
    };
    let mut draft = if path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("conf"))
    {
        wg_quick::parse(&text.content).map_err(located)?
    } else {
        toml::parse(&text.content).map_err(located)?
    };
    draft.apply(overrides).map_err(located)?;
    if text.open_to_others && draft.holds_secrets() {
        draft.note(
            None,
            "it holds a secret key and every user of this machine can read it: chmod 600 it"
                .to_owned(),
        );
    }
    check::finish(draft, path).map_err(located)
}
