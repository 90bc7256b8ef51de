//! Resources as `talosctl get -o yaml` and `-o json` print them.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize as _;
use serde_json::{Value, json};

use super::{NAMESPACE, Resource};

impl Resource {
    /// A YAML document, without the line between documents. `event` is what has happened to it,
    /// for those who watch.
    #[must_use]
    pub fn to_yaml(&self, node: &str, event: Option<&str>) -> String {
        let metadata = &self.metadata;
        let mut text = format!("node: {}\n", scalar(node));
        if let Some(event) = event {
            let _ = writeln!(text, "event: {event}");
        }
        let _ = write!(
            text,
            "metadata:\n    namespace: {NAMESPACE}\n    type: {}\n    id: {}\n    version: {}\n    owner: {}\n    phase: running\n    created: {}\n    updated: {}\nspec:\n",
            metadata.kind.resource_type(),
            scalar(&metadata.id),
            metadata.version,
            metadata.kind.owner(),
            metadata.created,
            metadata.updated,
        );
        for (name, value) in &self.spec {
            let _ = match value {
                Value::Array(items) if items.is_empty() => writeln!(text, "    {name}: []"),
                Value::Array(items) => {
                    let _ = writeln!(text, "    {name}:");
                    for item in items {
                        let item = item.as_str().unwrap_or_default();
                        let _ = writeln!(text, "        - {}", scalar(item));
                    }
                    Ok(())
                }
                Value::String(value) if is_timestamp(name) => writeln!(text, "    {name}: {value}"),
                Value::String(value) => writeln!(text, "    {name}: {}", scalar(value)),
                value => writeln!(text, "    {name}: {value}"),
            };
        }
        text
    }

    /// A JSON object with a line's end. `event` is what has happened to it, for those who watch.
    #[must_use]
    pub fn to_json(&self, node: &str, event: Option<&str>) -> String {
        let metadata = &self.metadata;
        let spec: serde_json::Map<String, Value> = self.spec.iter().cloned().collect();
        let mut whole = json!({
            "node": node,
            "metadata": {
                "namespace": NAMESPACE,
                "type": metadata.kind.resource_type(),
                "id": metadata.id,
                "version": metadata.version,
                "owner": metadata.kind.owner(),
                "phase": "running",
                "created": metadata.created,
                "updated": metadata.updated,
            },
            "spec": spec,
        });
        if let (Some(event), Some(object)) = (event, whole.as_object_mut()) {
            object.insert("event".to_owned(), event.into());
        }
        let mut text = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, indented);
        // Neither can fail: a value of texts and numbers, written to memory.
        let _ = whole.serialize(&mut serializer);
        text.push(b'\n');
        String::from_utf8(text).unwrap_or_default()
    }
}

fn is_timestamp(field: &str) -> bool {
    matches!(field, "lastHandshakeTime" | "lastEndpointChange")
}

/// A text as a YAML scalar: plain where it can only be read as that text, else in quotes.
fn scalar(text: &str) -> String {
    let first = text.chars().next();
    let plain_first =
        first.is_some_and(|char| char.is_ascii_alphanumeric() || "(/+".contains(char));
    let plain = text
        .chars()
        .all(|char| char.is_ascii_alphanumeric() || "./:+=-_()".contains(char));
    let ends_a_key = text.ends_with(':');
    // What other types look like: numbers, dates, truth values, nothing.
    let lower = text.to_ascii_lowercase();
    let word = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan",
    ];
    let number = text.starts_with(|char: char| char.is_ascii_digit() || char == '+')
        && text.chars().all(|char| {
            char.is_ascii_hexdigit() || "xo_.-+:tz".contains(char.to_ascii_lowercase())
        })
        && text.parse::<core::net::SocketAddr>().is_err()
        && text.parse::<core::net::IpAddr>().is_err();
    match text {
        _ if plain && plain_first && !ends_a_key && !number && !word.contains(&lower.as_str()) => {
            text.to_owned()
        }
        // JSON's form is one of YAML's.
        _ => Value::from(text).to_string(),
    }
}

/// A moment as Talos writes it: RFC 3339, UTC; with what is below the second where `fine` and there
/// is any. Nothing is Go's zero time.
#[must_use]
pub fn timestamp(moment: Option<SystemTime>, fine: bool) -> String {
    let since = moment.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let Some(since) = since else {
        return "0001-01-01T00:00:00Z".to_owned();
    };
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fine && since.subsec_nanos() > 0 {
        let fraction = format!("{:09}", since.subsec_nanos());
        let _ = write!(text, ".{}", fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// The date so many days after 1970-01-01, in the Gregorian calendar.
const fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have the leap day last; 400 of them have 146,097 days.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use proptest::prelude::*;

    use super::super::{Kind, Metadata};
    use super::*;
    use crate::control::documents::Documents;

    fn at(secs: u64, nanos: u32) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::new(secs, nanos))
    }

    #[test]
    fn moments() {
        for (secs, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (1_798_761_600, "2027-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(at(secs, 5), false), expected);
        }
        assert_eq!(
            timestamp(at(1, 120_000_000), true),
            "1970-01-01T00:00:01.12Z"
        );
        assert_eq!(timestamp(at(1, 0), true), "1970-01-01T00:00:01Z");
        assert_eq!(timestamp(None, true), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn texts_stay_texts() {
        for (text, expected) in [
            ("10.0.0.2:51820", "10.0.0.2:51820"),
            ("10.0.0.0/24", "10.0.0.0/24"),
            ("[2001:db8::4]:51820", "\"[2001:db8::4]:51820\""),
            ("fd00::1", "fd00::1"),
            ("", "\"\""),
            ("yes", "\"yes\""),
            ("123", "\"123\""),
            ("1e3", "\"1e3\""),
            ("2024-01-02", "\"2024-01-02\""),
            ("node-1", "node-1"),
            ("a: b", "\"a: b\""),
        ] {
            assert_eq!(scalar(text), expected);
        }
    }

    proptest! {
        /// Whatever a node is called: it comes out of YAML and JSON as it went in.
        #[test]
        fn any_label_survives(label in any::<String>()) {
            let resource = Resource {
                metadata: Metadata {
                    kind: Kind::PeerStatus,
                    id: "key".to_owned(),
                    version: 1,
                    created: timestamp(None, false),
                    updated: timestamp(None, false),
                },
                spec: vec![("label".to_owned(), label.as_str().into())],
            };
            for text in [resource.to_yaml("n", None), resource.to_json("n", None)] {
                let documents = Documents::parse(&text).unwrap();
                let document = documents.iter().next().unwrap();
                let read = document.at("spec.label");
                prop_assert_eq!(read.text().unwrap(), Some(label.as_str()), "{}", text);
            }
        }
    }
}
