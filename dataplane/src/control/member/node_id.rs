//! A node's id in its cluster, and the file that keeps it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::control::discovery::MAX_ID_LEN;
use crate::control::documents::{Documents, SyntaxError, ValueError};
use crate::control::kubespan::identity_file::replace;
use crate::crypto::{NoRandomness, Random};

/// The file's usual name: Talos's.
pub const NODE_ID_FILE: &str = "node-identity.yaml";

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Digits of a new id: as many bits as 32 bytes have.
const LENGTH: usize = 43;

/// Why a node has no id.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeIdError {
    /// The file could not be read.
    #[error("cannot read the node's id {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write the node's id {path}: {source}; choose another state directory")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no YAML.
    #[error(
        "the node's id {path} cannot be read: {source}; restore it, or remove it for a new one"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SyntaxError,
    },
    /// There is no id in it.
    #[error(
        "the node's id {path} cannot be read: {source}; restore it, or remove it for a new one"
    )]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ValueError,
    },
    /// No new id could be made.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// A new id: opaque to everybody, and long enough that no two nodes have the same.
pub(super) fn generate(random: &mut dyn Random) -> Result<String, NoRandomness> {
    let mut id = String::with_capacity(LENGTH);
    while id.len() < LENGTH {
        let mut bytes = [0; 64];
        random.fill(&mut bytes)?;
        // Six bits each; what is no digit is drawn again, so that all are equally likely.
        let digits = bytes
            .iter()
            .filter_map(|byte| DIGITS.get(usize::from(byte & 63)));
        id.extend(
            digits
                .take(LENGTH - id.len())
                .map(|digit| char::from(*digit)),
        );
    }
    Ok(id)
}

/// Loads the id, or makes a new one and stores it where there is no file.
pub(super) fn load_or_create(path: &Path, random: &mut dyn Random) -> Result<String, NodeIdError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = generate(random)?;
            replace(path, format!("nodeId: {id}\n").as_bytes()).map_err(|source| {
                NodeIdError::Write {
                    path: path.to_owned(),
                    source,
                }
            })?;
            return Ok(id);
        }
        text => text.map_err(|source| NodeIdError::Read {
            path: path.to_owned(),
            source,
        })?,
    };
    let documents = Documents::parse(&text).map_err(|source| NodeIdError::Syntax {
        path: path.to_owned(),
        source,
    })?;
    let value = |source| NodeIdError::Value {
        path: path.to_owned(),
        source,
    };
    let expected = format!("a text of 1 to {MAX_ID_LEN} bytes");
    let missing = || ValueError {
        path: "nodeId".to_owned(),
        found: "nothing".to_owned(),
        expected: expected.clone(),
    };
    let document = documents.iter().next().ok_or_else(missing).map_err(value)?;
    let field = document.field("nodeId");
    let id: String = field.required(&expected).map_err(value)?;
    if id.is_empty() || id.len() > MAX_ID_LEN {
        return Err(value(field.wrong(expected)));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::Directory;
    use crate::crypto::SeededRandom;

    /// Talos's ids are taken, and ours look like them.
    #[test]
    fn ids_are_such_as_talos_makes() {
        let vectors = include_str!("../../../tests/vectors/kubespan.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let directory = Directory::new();
        for case in vectors["node_id"].as_array().unwrap() {
            let range = |end: usize| case["length_range"][end].as_u64().unwrap() as usize;
            let theirs = case["node_id"].as_str().unwrap();
            let path = directory.path().join(NODE_ID_FILE);
            fs::write(&path, format!("nodeId: {theirs}\n")).unwrap();
            let mut random = SeededRandom::new(1);
            assert_eq!(load_or_create(&path, &mut random).unwrap(), theirs);
            for own in [theirs.to_owned(), generate(&mut random).unwrap()] {
                assert!((range(0)..=range(1)).contains(&own.len()), "{own}");
                assert!(own.bytes().all(|byte| DIGITS.contains(&byte)), "{own}");
            }
        }
    }
}
