//! What can be wrong with a configuration, in words that say where, what and what to do.

use core::fmt;
use std::io;
use std::path::PathBuf;

use ipnet::IpNet;
use ringspan::crypto::KeyError;
use ringspan::crypto::x25519::AgreementError;

use super::suggest::DidYouMean;

/// Why no configuration came of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// The file itself cannot be had.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    /// The file is no text of a sensible size.
    #[error("{}: {reason}", file.display())]
    NotText { file: PathBuf, reason: &'static str },
    /// Something in the file is wrong.
    #[error("{}{place}{problem}", file.display())]
    Invalid {
        file: PathBuf,
        place: Place,
        problem: Box<Problem>,
    },
}

/// Where in a file something stands. Its `Display` is the middle of an error message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    /// Counted from 1; 0: nowhere in particular.
    pub(crate) line: usize,
    /// The key, as its format names it; may be empty.
    pub(crate) key: String,
}

impl Place {
    pub(super) fn new(line: usize, key: impl Into<String>) -> Self {
        Self {
            line,
            key: key.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        Ok(())
    }
}

/// A [`Problem`] and its place, before the file's name is known.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) place: Place,
    /// Boxed: a `Problem` is large, and rare.
    pub(super) problem: Box<Problem>,
}

impl Invalid {
    pub(super) fn new(place: &Place, problem: Problem) -> Self {
        Self {
            place: place.clone(),
            problem: Box::new(problem),
        }
    }
}

/// What is wrong at a place. Values are repeated shortened and escaped ([`Shown`]); secrets are
/// never repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    #[error("{message}")]
    Syntax { message: String },
    #[error("no [Interface] or [Peer] line stands above this one: add one")]
    OutsideSection,
    #[error("neither a section nor KEY = VALUE (the line is not repeated, it may hold a secret)")]
    NotAnAssignment,
    #[error("unknown section {name}{suggestion}; there are {known}")]
    UnknownSection {
        name: Shown,
        suggestion: DidYouMean,
        known: &'static str,
    },
    #[error("unknown key{suggestion}; this section knows {known}")]
    UnknownKey {
        suggestion: DidYouMean,
        known: String,
    },
    #[error("belongs to section {section}, not here")]
    WrongSection { section: &'static str },
    #[error("[Interface] stands twice; the first is on line {first}: merge them")]
    SecondInterface { first: usize },
    #[error("is missing: {hint}")]
    Missing { hint: &'static str },
    #[error("{first} and {second} exclude each other: keep one")]
    Conflict {
        first: &'static str,
        second: &'static str,
    },
    #[error("has no value")]
    Empty,
    #[error("wants {wanted}, and this is {found}")]
    WrongType {
        wanted: &'static str,
        found: &'static str,
    },
    #[error("{value} is not a number: write {wanted}")]
    NotANumber { value: Shown, wanted: &'static str },
    #[error("{value} is out of range: {wanted}")]
    OutOfRange { value: Shown, wanted: &'static str },
    #[error("{value} is not a choice{suggestion}; choose from {choices}")]
    NotAChoice {
        value: Shown,
        suggestion: DidYouMean,
        choices: &'static str,
    },
    #[error("{source} (not repeated here, it may be a secret)")]
    SecretKey { source: KeyError },
    #[error("{value}: {source}")]
    PublicKey { value: Shown, source: KeyError },
    #[error("the public key of the private key cannot be had: {source}")]
    PublicKeyOf { source: AgreementError },
    #[error("{}: {source}", path.display())]
    SecretFile { path: PathBuf, source: io::Error },
    #[error("{}: {source} (the file's text is not repeated)", path.display())]
    SecretFileKey { path: PathBuf, source: KeyError },
    #[error("{value} is not an IP prefix: write ADDRESS/LENGTH, such as 10.0.0.0/24 or fd00::/64")]
    NotAPrefix { value: Shown },
    #[error(
        "{value} is not an endpoint ({why}): write HOST:PORT, such as 192.0.2.1:51820, \
         [2001:db8::1]:51820 or node.example:51820"
    )]
    NotAnEndpoint { value: Shown, why: &'static str },
    #[error(
        "{value} cannot be an interface's name: 1 to 15 of the characters a-z A-Z 0-9 _ = + . - {way_out}"
    )]
    InterfaceName { value: Shown, way_out: &'static str },
    #[error("peer {peer} is already on line {first_line}: merge the two")]
    DuplicatePeer { peer: String, first_line: usize },
    #[error(
        "{peer} is the public key of this very node (it belongs to the private key in this file): \
         a node cannot be its own peer; check which node's key was copied"
    )]
    OwnKey { peer: String },
    #[error(
        "{prefix} of peer {peer} is also an allowed IP of peer {other} (line {other_line}): \
         a prefix can have one peer only; remove one"
    )]
    SamePrefix {
        prefix: IpNet,
        peer: String,
        other: String,
        other_line: usize,
    },
    #[error(
        "{prefix} of peer {peer} overlaps {other_prefix} of peer {other} (line {other_line}): \
         narrow one, or set nested_allowed_ips = true in [interface] to send to the peer with \
         the longer prefix"
    )]
    NestedPrefix {
        prefix: IpNet,
        peer: String,
        other_prefix: IpNet,
        other: String,
        other_line: usize,
    },
}

/// A value as an error may repeat it: at most 80 characters, quoted, control characters escaped,
/// so that a hostile file cannot steer the operator's terminal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shown(String);

impl Shown {
    pub(super) fn new(value: impl AsRef<str>) -> Self {
        const LONGEST: usize = 80;
        let value = value.as_ref();
        let mut text: String = value.chars().take(LONGEST).collect();
        if text.len() < value.len() {
            text.push('…');
        }
        Self(text)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
