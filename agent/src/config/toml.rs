//! The TOML format: from text to entries.
//!
//! The tree is walked by hand, not by serde: so every error has a line, an unknown key gets a
//! suggestion, and no message repeats a secret (the parser's own messages quote the line).

use core::ops::Range;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::draft::{Draft, PeerDraft, Setting};
use super::error::{Invalid, Place, Problem, Shown};
use super::suggest::DidYouMean;

/// What a key's value must be.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Integer,
    /// Either of the two.
    Word,
    Boolean,
    TextList,
}

impl Kind {
    const fn wanted(self) -> &'static str {
        match self {
            Self::Text => "a string in quotes",
            Self::Integer => "a whole number",
            Self::Word => "a whole number or a string in quotes",
            Self::Boolean => "true or false",
            Self::TextList => "an array of strings, such as [\"a\", \"b\"]",
        }
    }
}

type Known = [(&'static str, Kind, Setting)];

const SECTIONS: &str = "[interface], [outer], [runtime] and [[peer]]";

const INTERFACE: &Known = &[
    ("name", Kind::Text, Setting::Name),
    ("private_key", Kind::Text, Setting::PrivateKey),
    ("private_key_file", Kind::Text, Setting::PrivateKeyFile),
    ("listen_port", Kind::Integer, Setting::ListenPort),
    ("addresses", Kind::TextList, Setting::Address),
    ("mtu", Kind::Integer, Setting::Mtu),
    ("fwmark", Kind::Word, Setting::FwMark),
    ("table", Kind::Word, Setting::Table),
    (
        "nested_allowed_ips",
        Kind::Boolean,
        Setting::NestedAllowedIps,
    ),
];

const OUTER: &Known = &[
    ("driver", Kind::Text, Setting::OuterDriver),
    ("interface", Kind::Text, Setting::OuterInterface),
    ("send", Kind::Text, Setting::OuterSend),
    ("mode", Kind::Text, Setting::XdpMode),
    ("busy_poll", Kind::Integer, Setting::BusyPoll),
    ("busy_poll_budget", Kind::Integer, Setting::BusyPollBudget),
    ("tx_checksum", Kind::Text, Setting::TxChecksum),
];

const RUNTIME: &Known = &[
    ("workers", Kind::Integer, Setting::Workers),
    ("spin", Kind::Integer, Setting::Spin),
    ("log", Kind::Text, Setting::Log),
];

const PEER: &Known = &[
    ("label", Kind::Text, Setting::Label),
    ("public_key", Kind::Text, Setting::PublicKey),
    ("preshared_key", Kind::Text, Setting::PresharedKey),
    ("preshared_key_file", Kind::Text, Setting::PresharedKeyFile),
    ("endpoints", Kind::TextList, Setting::Endpoint),
    ("allowed_ips", Kind::TextList, Setting::AllowedIps),
    (
        "persistent_keepalive",
        Kind::Word,
        Setting::PersistentKeepalive,
    ),
];

/// The name of every key, for the test that the manual has them all.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    [INTERFACE, OUTER, RUNTIME, PEER]
        .into_iter()
        .flatten()
        .map(|(key, ..)| *key)
}

/// Reads a TOML configuration.
pub(super) fn parse(text: &str) -> Result<Draft, Invalid> {
    let lines = Lines::new(text);
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| lines.of(&span));
        // A control character of the file may be part of the message.
        let message = error.message().escape_debug().to_string();
        Invalid::new(&Place::new(line, ""), Problem::Syntax { message })
    })?;
    let mut reader = Reader {
        lines,
        draft: Draft::default(),
    };
    reader.document(document.get_ref())?;
    Ok(reader.draft)
}

struct Reader {
    lines: Lines,
    draft: Draft,
}

impl Reader {
    fn document(&mut self, document: &DeTable<'_>) -> Result<(), Invalid> {
        for (name, value) in in_file_order(document) {
            let place = self.place(&name.span(), name.get_ref());
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("interface", DeValue::Table(table)) => {
                    self.draft.place = place;
                    self.section("interface", INTERFACE, table)?;
                }
                ("outer", DeValue::Table(table)) => self.section("outer", OUTER, table)?,
                ("runtime", DeValue::Table(table)) => self.section("runtime", RUNTIME, table)?,
                ("peer", DeValue::Array(peers)) => {
                    for (index, peer) in peers.iter().enumerate() {
                        self.peer(index, peer)?;
                    }
                }
                ("interface" | "outer" | "runtime", other) => {
                    return Err(wrong_type(&place, "a section, such as [interface]", other));
                }
                ("peer", other) => {
                    let wanted = "a section with double brackets, [[peer]], for each peer";
                    return Err(wrong_type(&place, wanted, other));
                }
                (name, _) => return Err(self.unknown_section(&place, name)),
            }
        }
        Ok(())
    }

    fn peer(&mut self, index: usize, peer: &Spanned<DeValue<'_>>) -> Result<(), Invalid> {
        let section = format!("peer {}", index + 1);
        let place = self.place(&peer.span(), &section);
        let DeValue::Table(table) = peer.get_ref() else {
            return Err(wrong_type(&place, "a table", peer.get_ref()));
        };
        self.draft.peers.push(PeerDraft::new(place));
        self.section(&section, PEER, table)
    }

    fn section(
        &mut self,
        section: &str,
        known: &Known,
        table: &DeTable<'_>,
    ) -> Result<(), Invalid> {
        for (name, value) in in_file_order(table) {
            let found = known.iter().find(|(key, ..)| *key == name.get_ref());
            let Some((name, kind, key)) = found else {
                return Err(self.unknown_key(section, known, name));
            };
            self.entry(&format!("{section}.{name}"), *kind, *key, value)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &str,
        kind: Kind,
        key: Setting,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), Invalid> {
        let place = self.place(&value.span(), name);
        match (kind, value.get_ref()) {
            (Kind::Text | Kind::Word, DeValue::String(text)) => {
                self.draft.set(key, text.trim(), &place)
            }
            (Kind::Integer | Kind::Word, DeValue::Integer(number)) => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix())
                    .map_or_else(|_| number.to_string(), |number| number.to_string());
                self.draft.set(key, &decimal, &place)
            }
            (Kind::Boolean, DeValue::Boolean(truth)) => {
                self.draft.set(key, &truth.to_string(), &place)
            }
            (Kind::TextList, DeValue::Array(entries)) => {
                for entry in entries {
                    let place = self.place(&entry.span(), name);
                    let DeValue::String(text) = entry.get_ref() else {
                        return Err(wrong_type(&place, kind.wanted(), entry.get_ref()));
                    };
                    self.draft.set(key, text.trim(), &place)?;
                }
                Ok(())
            }
            (_, other) => Err(wrong_type(&place, kind.wanted(), other)),
        }
    }

    fn unknown_section(&self, place: &Place, name: &str) -> Invalid {
        // A key above every section: tell where it belongs rather than call it a section.
        let home = home(name);
        let problem = match home {
            Some(section) => Problem::WrongSection { section },
            None => Problem::UnknownSection {
                name: Shown::new(name),
                suggestion: DidYouMean::among(name, ["interface", "outer", "runtime", "peer"]),
                known: SECTIONS,
            },
        };
        let place = Place::new(place.line, if home.is_some() { name } else { "" });
        Invalid::new(&place, problem)
    }

    fn unknown_key(
        &self,
        section: &str,
        known: &Known,
        name: &Spanned<::toml::de::DeString<'_>>,
    ) -> Invalid {
        let text = name.get_ref();
        let place = self.place(&name.span(), &format!("{section}.{}", shown_key(text)));
        let problem = match home(text) {
            Some(section) => Problem::WrongSection { section },
            None => Problem::UnknownKey {
                suggestion: DidYouMean::among(text, known.iter().map(|(key, ..)| *key)),
                known: known
                    .iter()
                    .map(|(key, ..)| *key)
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        };
        Invalid::new(&place, problem)
    }

    fn place(&self, span: &Range<usize>, key: &str) -> Place {
        Place::new(self.lines.of(span), key)
    }
}

/// The section that a key of this name belongs to.
fn home(name: &str) -> Option<&'static str> {
    [
        ("[interface]", INTERFACE),
        ("[outer]", OUTER),
        ("[runtime]", RUNTIME),
        ("[[peer]]", PEER),
    ]
    .into_iter()
    .find(|(_, known)| known.iter().any(|(key, ..)| *key == name))
    .map(|(section, _)| section)
}

/// The entries as the author wrote them, so that "the first error" is the topmost.
fn in_file_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(
    &'t Spanned<::toml::de::DeString<'i>>,
    &'t Spanned<DeValue<'i>>,
)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn wrong_type(place: &Place, wanted: &'static str, found: &DeValue<'_>) -> Invalid {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Invalid::new(place, Problem::WrongType { wanted, found })
}

/// A mistyped key is repeated only if it looks like one: it could be a secret on its own.
fn shown_key(key: &str) -> &str {
    let word = (1..=32).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if word {
        key
    } else {
        "(a key not repeated here)"
    }
}

/// Finds the line of a byte.
struct Lines {
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            starts: core::iter::once(0).chain(after_breaks).collect(),
        }
    }

    /// Counted from 1.
    fn of(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start)
    }
}
