//! Threads that answer on a socket: one that accepts, one for each client.

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno as OsError;
use zeroize::Zeroizing;

use super::socket::SocketFile;
use super::{Errno, Request, UapiSocket, answer};
use crate::control::{ChangeError, DeviceChange, DeviceState};

/// The longest request, in bytes: a million prefixes with some to spare.
const LONGEST_REQUEST: usize = 64 << 20;

/// Clients at a time; more are turned away.
const MAX_CLIENTS: usize = 32;

/// Pause when no client can be accepted: the process has no descriptor left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What the protocol shows and changes.
pub trait Device: Send + Sync {
    /// The device as it is now.
    fn state(&self) -> DeviceState;

    /// Changes it.
    ///
    /// # Errors
    /// [`ChangeError`]; the client is told its errno.
    fn change(&self, change: DeviceChange) -> Result<(), ChangeError>;
}

impl<D: Device + ?Sized> Device for Arc<D> {
    fn state(&self) -> DeviceState {
        (**self).state()
    }

    fn change(&self, change: DeviceChange) -> Result<(), ChangeError> {
        (**self).change(change)
    }
}

/// A running server. Dropping it turns its clients away, ends its threads, lets go of the device
/// and removes the socket.
#[derive(Debug)]
pub struct UapiServer {
    /// Closing it ends the threads.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    _file: SocketFile,
}

impl UapiServer {
    /// Answers on `socket` for `device`.
    ///
    /// # Errors
    /// Where the kernel gives no thread or descriptor.
    pub fn start(socket: UapiSocket, device: impl Device + 'static) -> io::Result<Self> {
        let UapiSocket { listener, file } = socket;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new()
            .name("uapi".to_owned())
            .spawn(move || {
                let clients = Clients::default();
                thread::scope(|scope| {
                    accept_all(scope, &listener, &stopped, &clients, &device);
                    clients.turn_away();
                });
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            _file: file,
        })
    }
}

impl Drop for UapiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the configuration socket panicked");
        }
    }
}

/// Accepts until stopped.
fn accept_all<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    listener: &UnixListener,
    stopped: &UnixStream,
    clients: &'scope Clients,
    device: &'scope dyn Device,
) {
    loop {
        let mut waiting = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut waiting, None) {
            Ok(_) | Err(OsError::INTR) => {}
            Err(error) => {
                tracing::warn!("the configuration socket is closed: poll: {error}");
                return;
            }
        }
        let [_, stop] = &waiting;
        if !stop.revents().is_empty() {
            return;
        }
        let accepted = listener
            .accept()
            .and_then(|(stream, _)| clients.admit(stream));
        match accepted {
            Ok(Some(client)) => {
                let spawned = thread::Builder::new()
                    .name("uapi client".to_owned())
                    .spawn_scoped(scope, move || {
                        if let Err(error) = serve(&client.stream, device) {
                            tracing::debug!("a client of the configuration socket left: {error}");
                        }
                    });
                if let Err(error) = spawned {
                    tracing::warn!("a client of the configuration socket got no thread: {error}");
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!("the configuration socket could not accept a client: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Clients(Mutex<BTreeMap<u64, Arc<UnixStream>>>);

/// One of them, until dropped.
struct Client<'a> {
    stream: Arc<UnixStream>,
    number: u64,
    clients: &'a Clients,
}

impl Clients {
    /// `None` where there are too many.
    fn admit(&self, stream: UnixStream) -> io::Result<Option<Client<'_>>> {
        stream.set_nonblocking(false)?;
        let stream = Arc::new(stream);
        let mut open = self.open();
        if open.len() >= MAX_CLIENTS {
            tracing::debug!("{MAX_CLIENTS} clients configure already: one more is turned away");
            return Ok(None);
        }
        let number = open.last_key_value().map_or(0, |(last, _)| last + 1);
        open.insert(number, Arc::clone(&stream));
        Ok(Some(Client {
            stream,
            number,
            clients: self,
        }))
    }

    /// Ends every connection, whatever its thread waits for.
    fn turn_away(&self) {
        for stream in self.open().values() {
            // Fails where the client has gone by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<UnixStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.clients.open().remove(&self.number);
    }
}

/// Answers one client until it has had enough, or sends what is no request.
fn serve(mut stream: &UnixStream, device: &dyn Device) -> io::Result<()> {
    let mut requests = Requests {
        stream,
        unread: Zeroizing::default(),
    };
    loop {
        let text = match requests.next() {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return stream.write_all(answer::outcome(Err(Errno::TOO_LONG)).as_bytes());
            }
            Err(error) => return Err(error),
        };
        let outcome = match Request::parse(&text, &interface_index) {
            Ok(Request::Get) => {
                stream.write_all(answer::state(&device.state()).as_bytes())?;
                continue;
            }
            Ok(Request::Set(change)) => device.change(change).map_err(|error| {
                tracing::warn!("a change over the configuration socket failed: {error}");
                Errno::from(&error)
            }),
            Err(error) => {
                tracing::warn!("the configuration socket got no request: {error}");
                Err(error.errno())
            }
        };
        stream.write_all(answer::outcome(outcome).as_bytes())?;
        if outcome == Err(Errno::PROTOCOL) {
            // Whoever speaks something else would go on with it.
            return Ok(());
        }
    }
}

fn interface_index(name: &str) -> Option<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    rustix::net::netdevice::name_to_index(socket.ok()?, name).ok()
}

/// Cuts a stream into requests. What was read is wiped: it has keys in it.
struct Requests<'a> {
    stream: &'a UnixStream,
    unread: Zeroizing<Vec<u8>>,
}

impl Requests<'_> {
    /// The next request without its closing empty line; `None` at the end of the stream. A request
    /// that the stream ends in is none.
    fn next(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut part = Zeroizing::new([0; 4096]);
        let mut searched = 0;
        loop {
            let new = self.unread.get(searched..).unwrap_or_default();
            if let Some(found) = new.windows(2).position(|pair| pair == b"\n\n") {
                let end = searched + found + 1;
                let (request, rest) = self.unread.split_at(end);
                let request = Zeroizing::new(request.to_vec());
                let rest = rest.get(1..).unwrap_or_default().to_vec();
                self.unread = Zeroizing::new(rest);
                return Ok(Some(request));
            }
            // The first of the two may be the last byte so far.
            searched = self.unread.len().saturating_sub(1);
            if self.unread.len() > LONGEST_REQUEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            match (&mut &*self.stream).read(&mut part[..]) {
                Ok(0) => return Ok(None),
                Ok(length) => self.keep(part.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A vector that grows by itself leaves what it held behind unwiped.
    fn keep(&mut self, bytes: &[u8]) {
        let length = self.unread.len() + bytes.len();
        if length > self.unread.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
            larger.extend_from_slice(&self.unread);
            self.unread = larger;
        }
        self.unread.extend_from_slice(bytes);
    }
}
