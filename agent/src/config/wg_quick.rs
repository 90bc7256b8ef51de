//! The `.conf` format of `wg` and `wg-quick` (wg(8) "CONFIGURATION FILE FORMAT", wg-quick(8)):
//! from text to entries.

use super::draft::{Draft, PeerDraft, Setting};
use super::error::{Invalid, Place, Problem, Shown};
use super::suggest::DidYouMean;

/// What a key of the format leads to.
#[derive(Clone, Copy)]
enum Meaning {
    /// One value; of several the last one counts, as in `wg`.
    One(Setting),
    /// A list, with commas; several lines add up.
    Many(Setting),
    /// Known, and not done; the text says what to do about it.
    NotDone(&'static str),
    /// `SaveConfig`, which matters only when true.
    SaveConfig,
}

type Known = [(&'static str, Meaning)];

const HOOK: &str = "ringspan executes no commands: this line is ignored; \
                    run it from the service manager (systemd: ExecStartPost=, ExecStopPost=)";

const INTERFACE: &Known = &[
    ("PrivateKey", Meaning::One(Setting::PrivateKey)),
    ("ListenPort", Meaning::One(Setting::ListenPort)),
    ("FwMark", Meaning::One(Setting::FwMark)),
    ("Address", Meaning::Many(Setting::Address)),
    ("MTU", Meaning::One(Setting::Mtu)),
    ("Table", Meaning::One(Setting::Table)),
    (
        "DNS",
        Meaning::NotDone("ringspan sets no DNS servers: this line is ignored"),
    ),
    ("PreUp", Meaning::NotDone(HOOK)),
    ("PostUp", Meaning::NotDone(HOOK)),
    ("PreDown", Meaning::NotDone(HOOK)),
    ("PostDown", Meaning::NotDone(HOOK)),
    ("SaveConfig", Meaning::SaveConfig),
];

const PEER: &Known = &[
    ("PublicKey", Meaning::One(Setting::PublicKey)),
    ("PresharedKey", Meaning::One(Setting::PresharedKey)),
    ("AllowedIPs", Meaning::Many(Setting::AllowedIps)),
    ("Endpoint", Meaning::One(Setting::Endpoint)),
    (
        "PersistentKeepalive",
        Meaning::One(Setting::PersistentKeepalive),
    ),
];

/// The name of every key, for the test that the manual has them all.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    [INTERFACE, PEER].into_iter().flatten().map(|(key, _)| *key)
}

/// Reads a `wg-quick` configuration.
pub(super) fn parse(text: &str) -> Result<Draft, Invalid> {
    let mut reader = Reader {
        // `wg` has always sent to the longest of nested prefixes.
        draft: Draft {
            nested_allowed_ips: true,
            ..Draft::default()
        },
        section: None,
        seen: Vec::new(),
    };
    // A byte order mark is what some editors put in front of the first section.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line)?;
    }
    Ok(reader.draft)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Interface,
    Peer,
}

impl Section {
    const fn known(self) -> &'static Known {
        match self {
            Self::Interface => INTERFACE,
            Self::Peer => PEER,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Interface => "[Interface]",
            Self::Peer => "[Peer]",
        }
    }
}

struct Reader {
    draft: Draft,
    section: Option<Section>,
    /// The keys of this section with one value, and their lines.
    seen: Vec<(&'static str, usize)>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), Invalid> {
        let (content, comment) = line.split_once('#').unwrap_or((line, ""));
        let content = content.trim();
        if content.is_empty() {
            return Ok(());
        }
        if content.starts_with('[') {
            return self.header(number, content, comment.trim());
        }
        let place = Place::new(number, "");
        let Some((name, value)) = content.split_once('=') else {
            return Err(Invalid::new(&place, Problem::NotAnAssignment));
        };
        let name = name.trim();
        // The end of a key in base64 looks like an assignment; it must not be repeated.
        if name.is_empty() || name.len() > 32 || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Invalid::new(&place, Problem::NotAnAssignment));
        }
        let place = Place::new(number, name);
        let Some(section) = self.section else {
            return Err(Invalid::new(&place, Problem::OutsideSection));
        };
        let known = section.known();
        let Some((name, meaning)) = find(known, name) else {
            return Err(Invalid::new(&place, unknown_key(section, name)));
        };
        let place = Place::new(number, *name);
        self.assign(name, *meaning, value.trim(), &place)
    }

    fn header(&mut self, number: usize, content: &str, comment: &str) -> Result<(), Invalid> {
        let name = content
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .map(str::trim);
        let place = Place::new(number, "");
        self.seen.clear();
        match name {
            Some(name) if name.eq_ignore_ascii_case("interface") => {
                if self.draft.place.line > 0 {
                    let first = self.draft.place.line;
                    return Err(Invalid::new(&place, Problem::SecondInterface { first }));
                }
                self.draft.place = Place::new(number, "[Interface]");
                self.section = Some(Section::Interface);
            }
            Some(name) if name.eq_ignore_ascii_case("peer") => {
                let place = Place::new(number, "[Peer]");
                self.draft.peers.push(PeerDraft::new(place.clone()));
                self.section = Some(Section::Peer);
                // `[Peer] # node-b`: the format has no other place for a name.
                if !comment.is_empty() {
                    self.draft.set(Setting::Label, comment, &place)?;
                }
            }
            _ => {
                let name = name.unwrap_or(content);
                return Err(Invalid::new(
                    &place,
                    Problem::UnknownSection {
                        name: Shown::new(name),
                        suggestion: DidYouMean::among(name, ["Interface", "Peer"]),
                        known: "[Interface] and [Peer]",
                    },
                ));
            }
        }
        Ok(())
    }

    fn assign(
        &mut self,
        name: &'static str,
        meaning: Meaning,
        value: &str,
        place: &Place,
    ) -> Result<(), Invalid> {
        match meaning {
            Meaning::One(key) => {
                match self.seen.iter_mut().find(|(seen, _)| *seen == name) {
                    Some((_, line)) => {
                        let text = format!("replaces line {line}: the last one counts");
                        *line = place.line;
                        self.draft.note(Some(place), text);
                        self.draft.forget(key);
                    }
                    None => self.seen.push((name, place.line)),
                }
                self.draft.set(key, value, place)
            }
            // A peer may have no prefix at all, and `wg showconf` has been seen to write so.
            Meaning::Many(Setting::AllowedIps) if value.is_empty() => Ok(()),
            Meaning::Many(key) => value
                .split(',')
                .try_for_each(|entry| self.draft.set(key, entry.trim(), place)),
            Meaning::NotDone(text) => {
                self.draft.note(Some(place), text);
                Ok(())
            }
            Meaning::SaveConfig => {
                let save =
                    super::value::boolean(value).map_err(|problem| Invalid::new(place, problem))?;
                if save {
                    let text = "ringspan never writes its configuration: this line is ignored";
                    self.draft.note(Some(place), text);
                }
                Ok(())
            }
        }
    }
}

fn find<'k>(known: &'k Known, name: &str) -> Option<&'k (&'static str, Meaning)> {
    known
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
}

fn unknown_key(section: Section, name: &str) -> Problem {
    let other = match section {
        Section::Interface => Section::Peer,
        Section::Peer => Section::Interface,
    };
    if find(other.known(), name).is_some() {
        return Problem::WrongSection {
            section: other.name(),
        };
    }
    let names = section.known().iter().map(|(known, _)| *known);
    Problem::UnknownKey {
        suggestion: DidYouMean::among(name, names.clone()),
        known: names.collect::<Vec<_>>().join(", "),
    }
}
