//! Light load generators: threads inside the namespaces that move bytes and count them, and do
//! nothing else. (What arrives is verified elsewhere: by the tests.)

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketType, sendmmsg, socket,
    sockopt as options,
};
use std::sync::Arc;

use super::bed::Pair;
use crate::Result;

/// One read or write of TCP, in bytes.
const CHUNK: usize = 256 * 1024;
/// How long a stream may stand still.
const PATIENCE: Duration = Duration::from_secs(5);
/// Datagrams of one `sendmmsg`.
const BATCH: usize = 64;
/// A sender that was kept from the CPU makes up for no more datagrams than these: a burst beyond
/// any queue would measure the scheduler.
const CATCH_UP: u64 = 256;
/// Room for datagrams that the sink has not read yet, in bytes.
const SINK_BUFFER: usize = 16 << 20;

/// Threads that go on until they are told to stop, which dropping does.
#[derive(Default)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    /// Bytes that arrived.
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// TCP streams from the sender to the receiver.
    pub(super) fn tcp(pair: &Pair, streams: usize) -> Result<Self> {
        let mut load = Self::default();
        let listener = pair
            .receiver()
            .run(|| TcpListener::bind((pair.target(), 0)))?;
        let address = listener.local_addr()?;
        for _ in 0..streams {
            let up = pair.sender().run(|| connect(address))?;
            let (down, _) = listener.accept()?;
            down.set_read_timeout(Some(PATIENCE))?;
            let stop = load.stop.clone();
            load.threads
                .push(thread::spawn(move || write_until(up, &stop)));
            let received = load.received.clone();
            load.threads
                .push(thread::spawn(move || count_reads(down, &received)));
        }
        Ok(load)
    }

    /// Datagrams of `size` bytes of payload from the sender to the receiver, `rate` a second.
    pub(super) fn udp(pair: &Pair, size: usize, rate: f64) -> Result<Self> {
        let mut load = Self::default();
        let sink = pair.receiver().run(|| sink(pair.target()))?;
        let address = sink.local_addr()?;
        let source = pair.sender().run(|| source(address))?;
        let (stop, received) = (load.stop.clone(), load.received.clone());
        load.threads.push(thread::spawn(move || {
            count_datagrams(&sink, &stop, &received);
        }));
        let stop = load.stop.clone();
        load.threads.push(thread::spawn(move || {
            send_paced(&source, size, rate, &stop);
        }));
        Ok(load)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

/// What became of datagrams at one rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// Datagrams sent in a second.
    pub(super) offered: f64,
    /// Share of them that did not arrive.
    pub(super) loss: f64,
}

/// Sends for `time`, then waits for the last ones.
pub(super) fn udp_trial(pair: &Pair, size: usize, rate: f64, time: Duration) -> Result<Trial> {
    let sink = pair.receiver().run(|| sink(pair.target()))?;
    let source = {
        let address = sink.local_addr()?;
        pair.sender().run(|| source(address))?
    };
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let received = AtomicU64::new(0);
    let (sent, elapsed) = thread::scope(|scope| {
        scope.spawn(|| count_datagrams(&sink, &done, &received));
        let sender = scope.spawn(|| {
            let began = Instant::now();
            let sent = send_paced(&source, size, rate, &stop);
            (sent, began.elapsed())
        });
        thread::sleep(time);
        stop.store(true, Relaxed);
        let outcome = sender.join();
        // What is on its way arrives within a few times the latency.
        let mut last = u64::MAX;
        while received.load(Relaxed) != last {
            last = received.load(Relaxed);
            thread::sleep(Duration::from_millis(40));
        }
        done.store(true, Relaxed);
        outcome
    })
    .map_err(|_| "the sending thread panicked")?;
    let received = received.into_inner() / size as u64;
    Ok(Trial {
        offered: sent as f64 / elapsed.as_secs_f64(),
        loss: 1.0 - received as f64 / (sent.max(1)) as f64,
    })
}

/// A stream with the congestion control `cubic`. The machine's default may pace, and a connection
/// that has begun so goes on pacing whatever it is given later.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    options::set_tcp_congestion(&socket, "cubic")?;
    let stream = TcpStream::from(socket);
    // Neither end may wait for ever for a tunnel that is stuck: this one goes for the connection
    // too.
    stream.set_write_timeout(Some(PATIENCE))?;
    rustix::net::connect(&stream, &to)?;
    Ok(stream)
}

fn write_until(mut stream: TcpStream, stop: &AtomicBool) {
    let chunk = vec![0; CHUNK];
    while !stop.load(Relaxed) {
        if stream.write_all(&chunk).is_err() {
            return;
        }
    }
}

fn count_reads(mut stream: TcpStream, received: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    // The end of the stream, or of patience, ends it.
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        received.fetch_add(length as u64, Relaxed);
    }
}

fn sink(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    options::set_socket_recv_buffer_size_force(&socket, SINK_BUFFER)?;
    // Datagrams that come as one are read as one.
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    Ok(socket)
}

fn source(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn count_datagrams(sink: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) {
    let mut buffer = vec![0; 65536];
    while !stop.load(Relaxed) {
        if let Ok(length) = sink.recv(&mut buffer) {
            received.fetch_add(length as u64, Relaxed);
        }
    }
}

/// Returns how many were sent.
fn send_paced(source: &UdpSocket, size: usize, rate: f64, stop: &AtomicBool) -> u64 {
    let payload = vec![0; size];
    let parts = [IoSlice::new(&payload)];
    let mut ancillary: Vec<_> = (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = ancillary
        .iter_mut()
        .map(|ancillary| MMsgHdr::new(&parts, ancillary))
        .collect();
    let began = Instant::now();
    // Datagrams that were due and are not sent any more.
    let mut skipped = 0;
    let mut total = 0;
    while !stop.load(Relaxed) {
        let planned = (began.elapsed().as_secs_f64() * rate) as u64;
        let due = planned.saturating_sub(total + skipped);
        if due == 0 {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        skipped += due.saturating_sub(CATCH_UP);
        let count = due.min(BATCH as u64) as usize;
        // What a full queue refuses was sent and lost, like any other.
        let accepted = sendmmsg(source, &mut messages[..count], SendFlags::empty());
        total += accepted.unwrap_or(count) as u64;
    }
    total
}
