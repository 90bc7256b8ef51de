//! The socket's file.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

/// Where `wg` looks for sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// The longest name of a network interface, in bytes (`IFNAMSIZ` less its zero).
const LONGEST_NAME: usize = 15;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// No name of an interface.
    #[error(
        "{name:?} cannot name an interface: give 1 to {LONGEST_NAME} bytes without slash and space"
    )]
    Name {
        /// The refused name.
        name: String,
    },
    /// Somebody answers there.
    #[error("{} answers already: another WireGuard runs under this name; stop it or choose another name", path.display())]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{} is in the way and is no socket: remove it", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A socket that listens and is not served yet: it keeps the name. Its owner alone may connect
/// (mode 0600). Dropping it removes the file.
#[derive(Debug)]
pub struct UapiSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

impl UapiSocket {
    /// Makes the socket of interface `name` in [`DIRECTORY`].
    ///
    /// # Errors
    /// [`SocketError`]. The socket of a process that is gone is replaced, not an error.
    pub fn bind(name: &str) -> Result<Self, SocketError> {
        Self::bind_in(Path::new(DIRECTORY), name)
    }

    /// The same in another directory, where `wg` does not look.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_in(directory: &Path, name: &str) -> Result<Self, SocketError> {
        let plain = |byte: u8| byte != b'/' && byte.is_ascii_graphic();
        let reserved = matches!(name, "" | "." | "..");
        if reserved || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
            let name = name.to_owned();
            return Err(SocketError::Name { name });
        }
        let path = directory.join(format!("{name}.sock"));
        let failed = |source| SocketError::Io {
            path: path.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(failed)?;
        make_way(&path)?;
        let listener = listen_at(&path).map_err(failed)?;
        let inode = fs::symlink_metadata(&path).map_err(failed)?.ino();
        Ok(Self {
            listener,
            file: SocketFile { path, inode },
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// A listener whose file has mode 0600 from its first moment: on Linux the file takes the mode of
/// the unbound socket, so no other thread's umask is touched.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    listen(&fd, BACKLOG)?;
    Ok(fd.into())
}

/// Removes a socket on which nobody answers.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let path = path.to_owned();
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { path, source }),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::Occupied { path }),
        Ok(_) => {}
    }
    match UnixStream::connect(&path) {
        Ok(_) => Err(SocketError::Running { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(|source| SocketError::Io { path, source })
        }
        Err(source) => Err(SocketError::Io { path, source }),
    }
}

/// The file, removed on drop if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("{} was left behind: {error}", self.path.display());
        }
    }
}
