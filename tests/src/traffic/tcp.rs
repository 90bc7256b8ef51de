//! TCP transfers, both ways, whose content is verified.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Pattern;

/// One write or read.
const CHUNK: usize = 128 * 1024;

/// The end that listens: takes what a client uploads, verifies it, and sends what it asks for.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `ip` in the calling thread's namespace, on a port of the kernel's choice.
    ///
    /// # Errors
    /// When the address is not this host's.
    pub fn start(ip: IpAddr) -> io::Result<Self> {
        Self::start_at(super::any(ip))
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address is not this host's, or the port is taken.
    pub fn start_at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        listener.set_nonblocking(true)?;
        let thread = thread::Builder::new()
            .name("tcp server".into())
            .spawn(move || serve(&listener, &stopped))?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = stop.clone();
                connections.push(thread::spawn(move || {
                    // A failure shows at the client, which misses its answer.
                    let _ = answer(stream, &stop);
                }));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// Serves one connection: two lengths, the upload, a verdict, the download.
fn answer(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    patient(&stream, Duration::from_secs(30))?;
    let mut request = [0; 16];
    stream.read_exact(&mut request)?;
    let (upload, download) = request.split_at(8);
    let length = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let go_on = |_| !stop.load(Ordering::Relaxed);
    let intact = receive(&mut stream, length(upload), go_on)?;
    stream.write_all(&[u8::from(intact)])?;
    send(&mut stream, length(download), go_on)?;
    Ok(())
}

/// A finished transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Transfer {
    /// Bytes sent and found intact at the server.
    pub uploaded: u64,
    /// Bytes received and found intact.
    pub downloaded: u64,
    /// How long it took, connection set-up included.
    pub elapsed: Duration,
}

/// Uploads and downloads so many bytes from the calling thread's namespace. `progress` is told the
/// bytes of each step, and ends the transfer early by returning false.
///
/// # Errors
/// `TimedOut` or `WouldBlock` when nothing moves for `patience`; `InvalidData` when content was
/// changed on the way; `Interrupted` when `progress` said so; whatever the kernel says.
pub fn transfer(
    server: SocketAddr,
    upload: u64,
    download: u64,
    patience: Duration,
    mut progress: impl FnMut(u64) -> bool,
) -> io::Result<Transfer> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    patient(&stream, patience)?;
    let mut request = [0; 16];
    request[..8].copy_from_slice(&upload.to_le_bytes());
    request[8..].copy_from_slice(&download.to_le_bytes());
    stream.write_all(&request)?;
    send(&mut stream, upload, &mut progress)?;
    let mut intact = [0];
    stream.read_exact(&mut intact)?;
    let changed = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if intact != [1] {
        return changed("the upload arrived changed");
    }
    if !receive(&mut stream, download, &mut progress)? {
        return changed("the download arrived changed");
    }
    Ok(Transfer {
        uploaded: upload,
        downloaded: download,
        elapsed: began.elapsed(),
    })
}

fn patient(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)
}

fn send(
    stream: &mut TcpStream,
    length: u64,
    mut progress: impl FnMut(u64) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        let part = (length - done).min(CHUNK as u64) as usize;
        Pattern::at(done).fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part])?;
        done += part as u64;
        if !progress(part as u64) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

/// Receives `length` bytes; false when they are not the pattern.
fn receive(
    stream: &mut TcpStream,
    length: u64,
    mut progress: impl FnMut(u64) -> bool,
) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let mut intact = true;
    let mut done = 0;
    while done < length {
        let part = (length - done).min(CHUNK as u64) as usize;
        stream.read_exact(&mut buffer[..part])?;
        Pattern::at(done).fill(&mut expected[..part]);
        intact &= buffer[..part] == expected[..part];
        done += part as u64;
        if !progress(part as u64) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(intact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_carried_and_counted() {
        let server = Server::start(IpAddr::from([127, 0, 0, 1])).unwrap();
        let mut moved = 0;
        let transfer = transfer(
            server.address(),
            300_001,
            200_003,
            Duration::from_secs(10),
            |bytes| {
                moved += bytes;
                true
            },
        )
        .unwrap();
        assert_eq!((transfer.uploaded, transfer.downloaded), (300_001, 200_003));
        assert_eq!(moved, 500_004);
    }

    #[test]
    fn changed_content_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let forger = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 16];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&[1]).unwrap();
            stream.write_all(&[0x55; 1000]).unwrap();
        });
        let error = transfer(address, 0, 1000, Duration::from_secs(10), |_| true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        forger.join().unwrap();
    }
}
