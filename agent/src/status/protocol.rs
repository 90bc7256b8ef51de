//! The lines that go over the socket.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report::TunnelStatus;
use ringspan::control::kubespan::resource::{Kind, Resource};

/// The version both ends speak.
pub(super) const VERSION: u32 = 1;

/// Bytes of the longest request.
pub(super) const LONGEST_REQUEST: u64 = 4096;

/// Bytes of the longest answer: a thousand for each of 60,000 peers.
pub(super) const LONGEST_ANSWER: u64 = 64 << 20;

/// What a client asks.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) version: u32,
    pub(super) request: String,
    /// Of `get`: what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<Kind>,
    /// Of `get`: with the private key.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(super) with_key: bool,
}

impl Request {
    pub(super) fn status() -> Self {
        Self {
            version: VERSION,
            request: "status".into(),
            resource: None,
            with_key: false,
        }
    }

    pub(super) fn get(resource: Kind, with_key: bool) -> Self {
        Self {
            version: VERSION,
            request: "get".into(),
            resource: Some(resource),
            with_key,
        }
    }
}

/// Resources of one node.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resources {
    pub(crate) node: String,
    pub(crate) items: Vec<Resource>,
}

/// What the server answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) content: Content,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Content {
    Status(Box<TunnelStatus>),
    Resources(Resources),
    Error(String),
}

/// Writes one message and its line's end.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one message of at most `longest` bytes.
pub(super) fn receive<T: DeserializeOwned>(from: impl Read, longest: u64) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(from.take(longest)).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(serde_json::from_slice(&line)?),
        Some(_) if line.len() as u64 + 1 == longest => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line of more than {longest} bytes"),
        )),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
