//! Where a node's key is kept: the file that Talos calls `kubespan-identity.yaml`.
//!
//! The only part of the pure core that touches a disk. The file is the owner's alone (mode 0600)
//! and is replaced whole, so that a crash leaves the old key or the new one, never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tracing::warn;
use zeroize::Zeroizing;

use super::identity::{IdentityError, generate_key};
use crate::control::documents::{Documents, SyntaxError, ValueError};
use crate::crypto::{KeyPair, PrivateKey, PublicKey, Random};

/// The file's usual name.
pub const FILE_NAME: &str = "kubespan-identity.yaml";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFileError {
    /// The file could not be read.
    #[error("cannot read the identity {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write the identity {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no YAML.
    #[error("the identity {path} cannot be read: {source}; restore it, or remove it for a new one")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SyntaxError,
    },
    /// A key is missing or none.
    #[error("the identity {path} cannot be read: {source}; restore it, or remove it for a new one")]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ValueError,
    },
    /// The private key is all zero, or not that of the public key.
    #[error(
        "the identity {path} is damaged: its keys do not belong together; restore it, or remove it for a new one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// No new key could be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Loads the key, or makes a new one and stores it where there is no file.
///
/// # Errors
/// [`IdentityFileError`]; a file that cannot be read is never overwritten.
pub fn load_or_create(
    path: &Path,
    random: &mut dyn Random,
) -> Result<PrivateKey, IdentityFileError> {
    match load(path) {
        Err(IdentityFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = generate_key(random).map_err(IdentityError::from)?;
            store(path, &key)?;
            Ok(key)
        }
        result => result,
    }
}

/// Loads the key.
///
/// # Errors
/// [`IdentityFileError`].
pub fn load(path: &Path) -> Result<PrivateKey, IdentityFileError> {
    let read = |source| IdentityFileError::Read {
        path: path.to_owned(),
        source,
    };
    let text = Zeroizing::new(fs::read_to_string(path).map_err(read)?);
    let mode = fs::metadata(path).map_err(read)?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        warn!(
            "{path} has mode {:o}: others may read the node's key; set 600",
            mode & 0o777
        );
    }
    let documents = Documents::parse(&text).map_err(|source| IdentityFileError::Syntax {
        path: path.to_owned(),
        source,
    })?;
    let damaged = || IdentityFileError::Damaged {
        path: path.to_owned(),
    };
    let document = documents.iter().next().ok_or_else(damaged)?;
    let (private, public) = keys(&document).map_err(|source| IdentityFileError::Value {
        path: path.to_owned(),
        source,
    })?;
    let pair = KeyPair::new(&private).map_err(IdentityError::from)?;
    let zero = private == PrivateKey::from([0; 32]);
    if zero || public.is_some_and(|public| public != *pair.public()) {
        return Err(damaged());
    }
    Ok(private)
}

/// Stores the key in place of what is there.
///
/// # Errors
/// [`IdentityFileError::Write`]; what was there still is then.
pub fn store(path: &Path, key: &PrivateKey) -> Result<(), IdentityFileError> {
    let public = *KeyPair::new(key).map_err(IdentityError::from)?.public();
    let private = Zeroizing::new(STANDARD.encode(key.as_bytes()));
    // The addresses are made anew at every start.
    let text = Zeroizing::new(format!(
        "address: \"\"\nsubnet: \"\"\nprivateKey: {}\npublicKey: {public}\n",
        *private
    ));
    replace(path, text.as_bytes()).map_err(|source| IdentityFileError::Write {
        path: path.to_owned(),
        source,
    })
}

fn keys(
    document: &crate::control::documents::Node<'_>,
) -> Result<(PrivateKey, Option<PublicKey>), ValueError> {
    // A resource as talosctl prints it has the same fields under `spec`.
    let spec = document.field("spec");
    let keys = if spec.is_object() {
        spec
    } else {
        document.clone()
    };
    Ok((
        keys.field("privateKey").secret("a private key in base64")?,
        keys.field("publicKey").parse("a public key in base64")?,
    ))
}

/// Makes `contents` the whole file, for its owner alone.
pub(in crate::control) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = directory.join(name);
    let written = write_new(&new, contents).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // Half a file of a secret is nobody's. That there may be none is no second error.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    // Left by a process with this number that had crashed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::Directory;
    use crate::crypto::SeededRandom;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let directory = Directory::new();
        let path = directory.path().join("state").join(FILE_NAME);
        let key = load_or_create(&path, &mut SeededRandom::new(1)).unwrap();
        assert_eq!(
            load_or_create(&path, &mut SeededRandom::new(2)).unwrap(),
            key
        );
        assert_eq!(key.as_bytes()[0] & 7, 0, "clamped");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        store(&path, &PrivateKey::from([8; 32])).unwrap();
        assert_eq!(load(&path).unwrap(), PrivateKey::from([8; 32]));
        assert_eq!(mode(&path), 0o600);
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn the_file_of_a_talos_node_is_read() {
        let directory = Directory::new();
        let path = directory.path().join(FILE_NAME);
        let private = "sF45u5ePau58WeeCUY3T8D9foEKaQ8Opx4cGC8g4XE4=";
        let public = "Oak2fBEWngBhwslBxDVgnRNHXs88OAp4kjroSX0uqUE=";
        for text in [
            format!("address: \"\"\nsubnet: \"\"\nprivateKey: {private}\npublicKey: {public}\n"),
            format!("node: a\nmetadata: {{}}\nspec:\n  privateKey: {private}\n"),
        ] {
            fs::write(&path, text).unwrap();
            let key = load(&path).unwrap();
            assert_eq!(KeyPair::new(&key).unwrap().public().to_string(), public);
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_that_keeps_the_secret() {
        let directory = Directory::new();
        let path = directory.path().join(FILE_NAME);
        let secret = "sF45u5ePau58WeeCUY3T8D9foEKaQ8Opx4cGC8g4XE4";
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        for text in [
            String::new(),
            format!("privateKey: {secret}"),
            format!("privateKey: [{secret}=]"),
            format!("privateKey: {secret}=\npublicKey: {zero}"),
            format!("privateKey: {secret}=\n  publicKey: x"),
            format!("privateKey: {zero}"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = load_or_create(&path, &mut SeededRandom::new(1)).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains(FILE_NAME) && !shown.contains(secret),
                "{shown}"
            );
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                text,
                "it is not overwritten"
            );
        }
    }
}
