//! A configuration while it is being read: single values are right, the whole is not judged yet.

use core::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;

use ipnet::IpNet;
use ringspan::crypto::{PresharedKey, PrivateKey, PublicKey};

use super::error::{Invalid, Place, Problem, Shown};
use super::{
    EndpointName, LogLevel, Note, OuterDriver, OuterSend, Overrides, Routes, TxChecksum, XdpMode,
    value,
};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// Every value that either format can set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Setting {
    Name,
    PrivateKey,
    PrivateKeyFile,
    ListenPort,
    Address,
    Mtu,
    FwMark,
    Table,
    NestedAllowedIps,
    OuterDriver,
    OuterInterface,
    OuterSend,
    XdpMode,
    BusyPoll,
    BusyPollBudget,
    TxChecksum,
    Workers,
    Spin,
    Log,
    Label,
    PublicKey,
    PresharedKey,
    PresharedKeyFile,
    Endpoint,
    AllowedIps,
    PersistentKeepalive,
}

/// What a file has said so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Where the interface's section begins.
    pub(super) place: Place,
    pub(super) name: Option<Located<String>>,
    pub(super) private_key: Option<Located<PrivateKey>>,
    pub(super) private_key_file: Option<Located<PathBuf>>,
    pub(super) listen_port: u16,
    pub(super) addresses: Vec<Located<IpNet>>,
    pub(super) mtu: Option<Located<u16>>,
    pub(super) fwmark: u32,
    pub(super) routes: Routes,
    pub(super) nested_allowed_ips: bool,
    pub(super) driver: OuterDriver,
    pub(super) outer_interface: Option<String>,
    pub(super) send: OuterSend,
    pub(super) xdp_mode: XdpMode,
    pub(super) busy_poll: u16,
    pub(super) busy_poll_budget: Option<NonZeroU16>,
    pub(super) tx_checksum: TxChecksum,
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) spin: u16,
    pub(super) log: LogLevel,
    pub(super) peers: Vec<PeerDraft>,
    pub(super) notes: Vec<Note>,
}

/// What a file has said about one peer.
#[derive(Debug, Default)]
pub(super) struct PeerDraft {
    /// Where its section begins.
    pub(super) place: Place,
    pub(super) label: String,
    pub(super) public_key: Option<Located<PublicKey>>,
    pub(super) preshared_key: Option<Located<PresharedKey>>,
    pub(super) preshared_key_file: Option<Located<PathBuf>>,
    pub(super) endpoints: Vec<Located<EndpointName>>,
    pub(super) allowed_ips: Vec<Located<IpNet>>,
    pub(super) persistent_keepalive: Option<NonZeroU16>,
}

impl Draft {
    /// Sets `key` of the interface, or of the newest peer, to what `text` says; keys that hold
    /// lists gain an entry.
    pub(super) fn set(&mut self, key: Setting, text: &str, place: &Place) -> Result<(), Invalid> {
        self.try_set(key, text, place)
            .map_err(|problem| Invalid::new(place, problem))
    }

    fn try_set(&mut self, key: Setting, text: &str, place: &Place) -> Result<(), Problem> {
        if text.is_empty() {
            return Err(Problem::Empty);
        }
        match key {
            Setting::Name => {
                let name = value::interface_name(text, "")?;
                self.name = Some(at(name, place));
            }
            Setting::PrivateKey => {
                let key = text
                    .parse()
                    .map_err(|source| Problem::SecretKey { source })?;
                self.private_key = Some(at(key, place));
            }
            Setting::PrivateKeyFile => self.private_key_file = Some(at(text.into(), place)),
            Setting::ListenPort => self.listen_port = value::listen_port(text)?,
            Setting::Address => self.addresses.push(at(value::prefix(text)?, place)),
            Setting::Mtu => self.mtu = Some(at(value::mtu(text)?, place)),
            Setting::FwMark => self.fwmark = value::fwmark(text)?,
            Setting::Table => self.routes = value::table(text)?,
            Setting::NestedAllowedIps => self.nested_allowed_ips = value::boolean(text)?,
            Setting::OuterDriver => self.driver = value::driver(text)?,
            Setting::OuterInterface => {
                self.outer_interface = Some(value::interface_name(text, "")?);
            }
            Setting::OuterSend => self.send = value::outer_send(text)?,
            Setting::XdpMode => self.xdp_mode = value::xdp_mode(text)?,
            Setting::BusyPoll => self.busy_poll = value::busy_poll(text)?,
            Setting::BusyPollBudget => {
                self.busy_poll_budget = Some(value::busy_poll_budget(text)?);
            }
            Setting::TxChecksum => self.tx_checksum = value::tx_checksum(text)?,
            Setting::Workers => self.workers = value::workers(text)?,
            Setting::Spin => self.spin = value::spin(text)?,
            Setting::Log => self.log = value::log_level(text)?,
            _ => {
                let peer = self.peers.last_mut().ok_or(Problem::OutsideSection)?;
                peer.try_set(key, text, place)?;
            }
        }
        Ok(())
    }

    /// Drops what the newest peer's list `key` has, where the format has one value and a list
    /// holds it.
    pub(super) fn forget(&mut self, key: Setting) {
        if let (Setting::Endpoint, Some(peer)) = (key, self.peers.last_mut()) {
            peer.endpoints.clear();
        }
    }

    /// Lets the command line have its way.
    pub(super) fn apply(&mut self, overrides: &Overrides) -> Result<(), Invalid> {
        let named = |option: &str, name: &str| {
            let place = Place::new(0, option);
            value::interface_name(name, "")
                .map(|name| at(name, &place))
                .map_err(|problem| Invalid::new(&place, problem))
        };
        if let Some(name) = &overrides.name {
            self.name = Some(named("--name", name)?);
        }
        if let Some(interface) = &overrides.interface {
            self.outer_interface = Some(named("--interface", interface)?.value);
        }
        if let Some(spin) = overrides.spin {
            self.spin = spin;
        }
        if let Some(busy_poll) = overrides.busy_poll {
            self.busy_poll = busy_poll;
        }
        if let Some(driver) = overrides.driver {
            self.driver = driver;
        }
        Ok(())
    }

    /// Whether the file itself holds a key that others must not read.
    pub(super) fn holds_secrets(&self) -> bool {
        self.private_key.is_some() || self.peers.iter().any(|peer| peer.preshared_key.is_some())
    }

    pub(super) fn note(&mut self, place: Option<&Place>, text: impl Into<String>) {
        self.notes.push(Note {
            place: place.cloned(),
            text: text.into(),
        });
    }
}

impl PeerDraft {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    fn try_set(&mut self, key: Setting, text: &str, place: &Place) -> Result<(), Problem> {
        match key {
            Setting::Label => self.label = label(text)?,
            Setting::PublicKey => self.public_key = Some(at(value::public_key(text)?, place)),
            Setting::PresharedKey => {
                let key = text
                    .parse()
                    .map_err(|source| Problem::SecretKey { source })?;
                self.preshared_key = Some(at(key, place));
            }
            Setting::PresharedKeyFile => self.preshared_key_file = Some(at(text.into(), place)),
            Setting::Endpoint => self.endpoints.push(at(value::endpoint(text)?, place)),
            // The host bits mean nothing in an allowed IP: `10.0.0.5/24` is `10.0.0.0/24`.
            Setting::AllowedIps => self
                .allowed_ips
                .push(at(value::prefix(text)?.trunc(), place)),
            Setting::PersistentKeepalive => self.persistent_keepalive = value::keepalive(text)?,
            _ => {
                return Err(Problem::WrongSection {
                    section: "interface",
                });
            }
        }
        Ok(())
    }

    /// The peer's name in messages: its label where it has one, else its key.
    pub(super) fn name(&self) -> String {
        match (&self.public_key, self.label.as_str()) {
            (Some(key), "") => key.value.to_string(),
            (_, label) => label.to_owned(),
        }
    }
}

fn at<T>(value: T, place: &Place) -> Located<T> {
    Located {
        value,
        place: place.clone(),
    }
}

/// Labels end up in tables and logs: one line of at most 253 characters (a DNS name's length).
fn label(text: &str) -> Result<String, Problem> {
    if text.chars().count() <= 253 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(Problem::OutOfRange {
            value: Shown::new(text),
            wanted: "a label is at most 253 characters without control characters",
        })
    }
}
