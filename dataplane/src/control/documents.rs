//! YAML and JSON as talosctl prints and Talos reads them: streams of documents, and the values in
//! them by name.

use core::fmt;
use core::str::FromStr;

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroize;

/// Most bytes that are read as one stream: far more than 1,024 peers with 64 endpoints each need.
pub const MAX_LEN: usize = 16 << 20;

/// Most brackets that may be open at once, counted without regard to quotes.
const MAX_DEPTH: usize = 1000;

/// A text that is no stream of documents.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
    /// No YAML.
    #[error("no YAML: {0}")]
    Yaml(String),
    /// No JSON.
    #[error("no JSON: {0}")]
    Json(String),
    /// Brackets within brackets, far beyond anything meant: reading them takes the square of their
    /// number.
    #[error("more than {MAX_DEPTH} brackets are open at once")]
    TooDeep,
    /// Too much of it.
    #[error("{len} bytes are too many: there may be {MAX_LEN}")]
    TooLong {
        /// Its length.
        len: usize,
    },
}

/// A value of the wrong kind, by its place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {found} is not {expected}")]
pub struct ValueError {
    /// Where it is: `machine.network.kubespan.mtu`.
    pub path: String,
    /// The value, shortened; of a secret only that there is one.
    pub found: String,
    /// What it should be.
    pub expected: String,
}

/// The documents of a stream. They may hold secrets: `Debug` shows their number, and their texts
/// are wiped on drop.
pub struct Documents(Vec<Value>);

impl Documents {
    /// Reads a stream: JSON where it begins like that (values one after another), else YAML
    /// (documents between `---`). Empty documents are left out.
    ///
    /// # Errors
    /// [`SyntaxError`]: nothing of it can be used.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let len = text.len();
        if len > MAX_LEN {
            return Err(SyntaxError::TooLong { len });
        }
        if open_brackets(text) > MAX_DEPTH {
            return Err(SyntaxError::TooDeep);
        }
        let mut documents = Self(Vec::new());
        let text = text.trim_start_matches('\u{feff}');
        if text.trim_start().starts_with(['{', '[']) {
            documents.read_json(text)?;
        } else {
            documents.read_yaml(text)?;
        }
        documents.0.retain(|document| !document.is_null());
        Ok(documents)
    }

    /// The documents, each as the root of its tree.
    pub fn iter(&self) -> impl Iterator<Item = Node<'_>> {
        self.0.iter().map(|value| Node {
            value,
            path: String::new(),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn read_json(&mut self, text: &str) -> Result<(), SyntaxError> {
        for value in serde_json::Deserializer::from_str(text).into_iter() {
            self.0
                .push(value.map_err(|error| SyntaxError::Json(error.to_string()))?);
        }
        Ok(())
    }

    fn read_yaml(&mut self, text: &str) -> Result<(), SyntaxError> {
        for document in serde_norway::Deserializer::from_str(text) {
            let value = Value::deserialize(document);
            self.0
                .push(value.map_err(|error| SyntaxError::Yaml(error.to_string()))?);
        }
        Ok(())
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Documents({})", self.0.len())
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(wipe);
    }
}

/// The most brackets open at once.
fn open_brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => continue,
        }
        most = most.max(open);
    }
    most
}

/// No deeper than the parsers let it be: 128 levels.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A value and where it stands. What is absent is null.
#[derive(Clone)]
pub struct Node<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    /// The value of a field; null where there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        let value = self.value.get(name).unwrap_or(&Value::Null);
        Self { value, path }
    }

    /// The value at the end of a path of fields: `machine.network`.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        path.split('.')
            .fold(self.clone(), |node, name| node.field(name))
    }

    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// Whether there is a field of this name, be it null.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    /// Whether it has fields.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.value.is_object()
    }

    /// The items of a list; none where there is nothing.
    ///
    /// # Errors
    /// [`ValueError`] where it is no list.
    pub fn items(&self) -> Result<Vec<Self>, ValueError> {
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, value)| Self {
                    value,
                    path: format!("{}[{index}]", self.path),
                })
                .collect()),
            _ => Err(self.wrong("a list")),
        }
    }

    /// A text; `None` where there is nothing.
    ///
    /// # Errors
    /// [`ValueError`] where it is no text.
    pub fn text(&self) -> Result<Option<&'a str>, ValueError> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(self.wrong("a text")),
        }
    }

    /// A truth value; false where there is nothing.
    ///
    /// # Errors
    /// [`ValueError`] where it is none.
    pub fn flag(&self) -> Result<bool, ValueError> {
        match self.value {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// A whole number within `range`; `None` where there is nothing.
    ///
    /// # Errors
    /// [`ValueError`] where it is none.
    pub fn number(&self, range: core::ops::RangeInclusive<u16>) -> Result<Option<u16>, ValueError> {
        if self.value.is_null() {
            return Ok(None);
        }
        let number = self
            .value
            .as_u64()
            .and_then(|number| u16::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        let (least, most) = range.into_inner();
        number
            .map(Some)
            .ok_or_else(|| self.wrong(format!("a number from {least} to {most}")))
    }

    /// A text that is read further; `None` where there is nothing.
    ///
    /// # Errors
    /// [`ValueError`] where that fails: it is not `expected`.
    pub fn parse<T: FromStr>(&self, expected: &str) -> Result<Option<T>, ValueError> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(self.wrong(expected)),
            },
            _ => Err(self.wrong(expected)),
        }
    }

    /// A list of texts that are read further; empty where there is nothing.
    ///
    /// # Errors
    /// [`ValueError`] names the first item that is not `expected`.
    pub fn list<T: FromStr>(&self, expected: &str) -> Result<Vec<T>, ValueError> {
        self.items()?
            .iter()
            .map(|item| item.parse(expected)?.ok_or_else(|| item.wrong(expected)))
            .collect()
    }

    /// As [`Node::parse`], for what must be there.
    ///
    /// # Errors
    /// [`ValueError`] where it is missing too.
    pub fn required<T: FromStr>(&self, expected: &str) -> Result<T, ValueError> {
        self.parse(expected)?.ok_or_else(|| self.wrong(expected))
    }

    /// As [`Node::required`], for a secret: an error does not repeat it.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn secret<T: FromStr>(&self, expected: &str) -> Result<T, ValueError> {
        self.required(expected).map_err(|error| ValueError {
            found: match self.value {
                Value::Null => error.found,
                _ => "the secret (not shown)".to_owned(),
            },
            ..error
        })
    }

    /// The error that it is not `expected`.
    #[must_use]
    pub fn wrong(&self, expected: impl Into<String>) -> ValueError {
        ValueError {
            path: match self.path.as_str() {
                "" => "document".to_owned(),
                path => path.to_owned(),
            },
            found: match self.value {
                Value::Null => "nothing".to_owned(),
                Value::Array(_) => "a list".to_owned(),
                Value::Object(_) => "a mapping".to_owned(),
                Value::String(text) => format!("`{}`", shortened(text)),
                Value::Bool(_) | Value::Number(_) => format!("`{}`", self.value),
            },
            expected: expected.into(),
        }
    }
}

impl fmt::Debug for Node<'_> {
    /// Not the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.path)
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let documents = Documents::parse(text).unwrap();
        let names = documents
            .iter()
            .map(|node| node.field("a").required("a text").unwrap());
        names.collect()
    }

    #[test]
    fn streams_of_both_kinds_are_read() {
        assert_eq!(names("---\na: x\n---\n---\na: y\n"), ["x", "y"]);
        assert_eq!(names("{\"a\":\"x\"}\n{\n\"a\": \"y\"}"), ["x", "y"]);
        assert_eq!(names("# nothing\n"), [""; 0]);
        assert_eq!(names(""), [""; 0]);
    }

    #[test]
    fn half_a_stream_is_an_error() {
        for text in [
            "{\"a\":\"x\"}\n{\"a\":",
            "a: x\n---\na: [y,",
            "a: x\n---\na: \"y",
            "{} x",
        ] {
            let error = Documents::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("no "), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place() {
        let documents = Documents::parse("a:\n  b: [1, x]\n  key: hunter2\n").unwrap();
        let root = documents.iter().next().unwrap();
        let error = root.at("a.b").list::<u8>("a port").unwrap_err();
        assert_eq!(error.to_string(), "a.b[0]: `1` is not a port");
        let error = root.at("a.key").secret::<u8>("a key").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a.key: the secret (not shown) is not a key"
        );
        let error = root.at("a.c").secret::<u8>("a key").unwrap_err();
        assert_eq!(error.to_string(), "a.c: nothing is not a key");
        assert_eq!(root.at("a.c.d").number(1..=2), Ok(None));
        assert!(!format!("{root:?} {documents:?}").contains("hunter2"));
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(","));
        }
        assert!(Documents::parse(&bomb).is_err());
        assert!(Documents::parse(&"[".repeat(100_000)).is_err());
        assert!(Documents::parse(&format!("a: {}", "[".repeat(100_000))).is_err());
    }
}
