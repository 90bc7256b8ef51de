//! The serving end, in `ringspan up`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;

use ringspan::control::kubespan::resource::Kind;

use super::protocol::{self, Answer, Content, LONGEST_REQUEST, Request, Resources, VERSION};
use super::report::TunnelStatus;

/// How long a client may take over its line.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no status socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ServerError {
    #[error(
        "tunnel {name} is running already ({} answers): stop it, or pick another --name",
        path.display()
    )]
    Running { name: String, path: PathBuf },
    #[error(
        "{} is in the way and is no socket: remove it, or choose another --run-dir",
        path.display()
    )]
    Occupied { path: PathBuf },
    #[error("{}: {source}; a directory of your own can be given with --run-dir", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Who answers for a tunnel.
pub(crate) trait Answers: Send + 'static {
    /// How it is.
    fn status(&self) -> TunnelStatus;

    /// Its resources, if it is a member of a KubeSpan mesh; else why there are none.
    fn resources(&self, kind: Kind, with_key: bool) -> Result<Resources, String>;
}

impl<F: Fn() -> TunnelStatus + Send + 'static> Answers for F {
    fn status(&self) -> TunnelStatus {
        self()
    }

    fn resources(&self, _: Kind, _: bool) -> Result<Resources, String> {
        Err("it is no member of a KubeSpan mesh (`ringspan join` makes one): `ringspan status` shows its peers".to_owned())
    }
}

/// The socket of a tunnel that is still starting: it keeps the name, and answers later. Dropping
/// it removes the socket.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl StatusSocket {
    /// Makes the socket of tunnel `name`.
    ///
    /// Call it while the process has one thread: the file's mode comes from the process-wide
    /// umask, which alone leaves no moment in which others could connect.
    pub(crate) fn bind(run_dir: &Path, name: &str) -> Result<Self, ServerError> {
        let path = run_dir.join(format!("{name}.sock"));
        let failed = |source| ServerError::Io {
            path: path.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir)
            .map_err(failed)?;
        remove_stale(&path, name)?;
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let listener = UnixListener::bind(&path);
        umask(before);
        let listener = listener.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let inode = fs::symlink_metadata(&path).map_err(failed)?.ino();
        Ok(Self {
            listener,
            file: SocketFile { path, inode },
        })
    }

    /// Answers with what `answers` says, from a thread of its own.
    pub(crate) fn serve(self, answers: impl Answers) -> io::Result<StatusServer> {
        let (stop, stopped) = UnixStream::pair()?;
        let Self { listener, file } = self;
        let thread = thread::Builder::new()
            .name("status".into())
            .spawn(move || serve(&listener, &stopped, &answers))?;
        Ok(StatusServer {
            stop: Some(stop),
            thread: Some(thread),
            _file: file,
        })
    }
}

/// A thread that answers on a socket. Dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub(crate) struct StatusServer {
    /// Closing it ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    _file: SocketFile,
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there; here it changes nothing.
            let _ = thread.join();
        }
    }
}

/// The socket's file, removed on drop, if it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("{} was left behind: {error}", self.path.display());
        }
    }
}

/// Makes way for a socket, unless somebody answers on the present one.
fn remove_stale(path: &Path, name: &str) -> Result<(), ServerError> {
    let path = path.to_owned();
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ServerError::Io { path, source }),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::Occupied { path });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(&path) {
        Ok(_) => {
            let name = name.to_owned();
            Err(ServerError::Running { name, path })
        }
        // Nobody listens: who made it is gone, and did not clean up.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(|source| ServerError::Io { path, source })?;
            tracing::info!("the status socket of an earlier process was removed");
            Ok(())
        }
        Err(source) => Err(ServerError::Io { path, source }),
    }
}

fn serve(listener: &UnixListener, stopped: &UnixStream, answers: &dyn Answers) {
    loop {
        let mut waiting = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!("the status socket is closed: poll: {error}");
                return;
            }
        }
        let [_, stop] = &waiting;
        if !stop.revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((client, _)) => {
                if let Err(error) = answer(&client, answers) {
                    tracing::debug!("a status client left: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors, say: it may pass, and must not spin.
                tracing::warn!("the status socket could not accept a client: {error}");
                thread::sleep(PATIENCE);
            }
        }
    }
}

fn answer(client: &UnixStream, answers: &dyn Answers) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let content = match protocol::receive::<Request>(client, LONGEST_REQUEST) {
        Ok(ask) if ask.version != VERSION => Content::Error(format!(
            "version {} is not spoken here, {VERSION} is: use the ringspan that runs the tunnel",
            ask.version
        )),
        Ok(ask) => match (ask.request.as_str(), ask.resource) {
            ("status", _) => Content::Status(Box::new(answers.status())),
            ("get", Some(kind)) => match answers.resources(kind, ask.with_key) {
                Ok(resources) => Content::Resources(resources),
                Err(reason) => Content::Error(reason),
            },
            _ => Content::Error("unknown request: there are \"status\" and \"get\"".into()),
        },
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => Content::Error(format!("no request could be read: {error}")),
    };
    protocol::send(
        client,
        &Answer {
            version: VERSION,
            content,
        },
    )
}
