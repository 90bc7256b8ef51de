//! UDP exchanges: datagrams sent, echoed, verified and counted.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Pattern;

/// Sends every datagram back to where it came from.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
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
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("udp echo".into())
            .spawn(move || {
                let mut buffer = vec![0; 65536];
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        // What cannot be sent is missed, and counted, by the other end.
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            })?;
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

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What became of an exchange.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Exchange {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that came back intact.
    pub echoed: u64,
    /// Datagrams that came back changed.
    pub damaged: u64,
    /// Datagrams that came back after a later one.
    pub overtaken: u64,
    /// Datagrams that came back once more.
    pub repeated: u64,
    /// Time from the first datagram sent to the last one received.
    pub elapsed: Duration,
}

/// Sends `count` datagrams of `size` bytes (8 or more) to an [`Echo`], at most `window` of them
/// unanswered. A datagram that is not back `patience` after the last sign of life counts as lost.
/// `progress` is told of each datagram echoed, and ends the exchange by returning false.
///
/// # Errors
/// Whatever the kernel says of sending (too long, unreachable).
pub fn exchange(
    echo: SocketAddr,
    count: u64,
    size: usize,
    window: u64,
    patience: Duration,
    mut progress: impl FnMut(u64) -> bool,
) -> io::Result<Exchange> {
    let socket = UdpSocket::bind(super::any(match echo {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0u16; 8]),
    }))?;
    socket.connect(echo)?;
    socket.set_read_timeout(Some(patience))?;
    let size = size.max(8);
    let mut buffer = vec![0; size];
    let mut answer = vec![0; 65536];
    let mut result = Exchange::default();
    let (mut lost, mut newest, mut seen) = (0, 0, HashSet::new());
    let began = Instant::now();
    while result.echoed + result.damaged + lost < count {
        while result.sent < count && result.sent - result.echoed - result.damaged - lost < window {
            datagram(result.sent, &mut buffer);
            socket.send(&buffer)?;
            result.sent += 1;
        }
        match socket.recv(&mut answer) {
            Ok(length) => {
                let got = answer.get(..length).unwrap_or_default();
                let number = got
                    .first_chunk()
                    .map_or(u64::MAX, |n| u64::from_le_bytes(*n));
                datagram(number, &mut buffer);
                if number < result.sent && got == buffer {
                    if !seen.insert(number) {
                        result.repeated += 1;
                        continue;
                    }
                    result.overtaken += u64::from(number < newest);
                    newest = newest.max(number);
                    result.echoed += 1;
                    if !progress(length as u64) {
                        break;
                    }
                } else {
                    result.damaged += 1;
                }
                result.elapsed = began.elapsed();
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                lost = result.sent - result.echoed - result.damaged;
            }
            // An ICMP error of an earlier datagram: that one is lost.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
    Ok(result)
}

/// Datagram `number`: its number, then the pattern from there on.
fn datagram(number: u64, buffer: &mut [u8]) {
    let (head, rest) = buffer.split_at_mut(8);
    head.copy_from_slice(&number.to_le_bytes());
    Pattern::at(number.wrapping_mul(4)).fill(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_comes_back() {
        let echo = Echo::start(IpAddr::from([127, 0, 0, 1])).unwrap();
        let result = exchange(echo.address(), 500, 333, 16, Duration::from_secs(5), |_| {
            true
        })
        .unwrap();
        assert_eq!((result.sent, result.echoed, result.damaged), (500, 500, 0));
    }

    #[test]
    fn order_and_repetition_are_told() {
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = echo.local_addr().unwrap();
        let swapping = thread::spawn(move || {
            let mut pair = [[0; 64]; 2];
            let mut from = address;
            for buffer in &mut pair {
                from = echo.recv_from(buffer).unwrap().1;
            }
            for at in [1, 1, 0] {
                echo.send_to(&pair[at], from).unwrap();
            }
        });
        let result = exchange(address, 2, 64, 2, Duration::from_secs(5), |_| true).unwrap();
        swapping.join().unwrap();
        assert_eq!(
            (result.echoed, result.overtaken, result.repeated),
            (2, 1, 1)
        );
    }

    #[test]
    fn silence_counts_as_loss() {
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        let result = exchange(
            deaf.local_addr().unwrap(),
            5,
            64,
            2,
            Duration::from_millis(30),
            |_| true,
        )
        .unwrap();
        assert_eq!((result.sent, result.echoed), (5, 0));
    }
}
