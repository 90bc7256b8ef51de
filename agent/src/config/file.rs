//! Reading files that may hold secrets.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::ConfigError;

/// Bytes a configuration may have: room for 50,000 peers, and an end for `/dev/zero`.
const LONGEST: u64 = 16 << 20;

/// A file's text, wiped on drop.
pub(super) struct Text {
    pub(super) content: Zeroizing<String>,
    /// Whether users other than owner and group may read it.
    pub(super) open_to_others: bool,
}

/// Reads a configuration file.
pub(super) fn read_text(path: &Path) -> Result<Text, ConfigError> {
    let not_text = |reason| ConfigError::NotText {
        file: path.to_owned(),
        reason,
    };
    let (bytes, open_to_others) =
        read(path, LONGEST).map_err(|source| ConfigError::Unreadable {
            file: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > LONGEST {
        return Err(not_text("is larger than 16 MiB: this is no configuration"));
    }
    match core::str::from_utf8(&bytes) {
        Ok(text) => Ok(Text {
            content: Zeroizing::new(text.to_owned()),
            open_to_others,
        }),
        Err(_) => Err(not_text("is not UTF-8 text")),
    }
}

/// Reads the first line of a key file.
pub(super) fn read_secret(path: &Path) -> io::Result<Text> {
    // A key is 44 bytes; what is longer will be refused as a key.
    let (bytes, open_to_others) = read(path, 1024)?;
    let text = core::str::from_utf8(&bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8 text"))?;
    Ok(Text {
        content: Zeroizing::new(text.trim().to_owned()),
        open_to_others,
    })
}

/// At most `longest` bytes and one more, which tells that there were more.
fn read(path: &Path, longest: u64) -> io::Result<(Zeroizing<Vec<u8>>, bool)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Reserved at once, so that growing leaves no copies behind.
    let expected = metadata.len().min(longest) as usize + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    file.take(longest + 1).read_to_end(&mut bytes)?;
    Ok((bytes, metadata.mode() & 0o004 != 0))
}
