//! ICMP echo, over a raw socket of the calling thread's namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pings {
    /// Echo requests sent.
    pub sent: usize,
    /// Round-trip time of each answered one.
    pub round_trips: Vec<Duration>,
}

impl Pings {
    /// Whether every request was answered.
    #[must_use]
    pub fn all_answered(&self) -> bool {
        self.sent > 0 && self.round_trips.len() == self.sent
    }

    /// The round-trip time that `share` of the answers (0 to 1) did not exceed; `None` when nothing
    /// came back.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut sorted = self.round_trips.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((share * last as f64).round() as usize).copied()
    }
}

/// How to ping.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Echo requests.
    pub count: usize,
    /// Bytes of ICMP payload, 8 or more.
    pub size: usize,
    /// How long to wait for each answer.
    pub timeout: Duration,
    /// The pause between an answer and the next request.
    pub interval: Duration,
}

impl Default for Options {
    /// Three requests of 56 bytes, as `ping` sends them; 5 seconds for each; no pause.
    fn default() -> Self {
        Self {
            count: 3,
            size: 56,
            timeout: Duration::from_secs(5),
            interval: Duration::ZERO,
        }
    }
}

/// Pings `to` from the calling thread's namespace, one request after the other; an answer counts
/// when its payload is the one sent.
///
/// # Errors
/// Without `CAP_NET_RAW`, or when the kernel has no route.
pub fn ping(to: IpAddr, options: Options) -> io::Result<Pings> {
    let socket = match to {
        IpAddr::V4(_) => socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?,
        IpAddr::V6(_) => socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?,
    };
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(257, Relaxed));
    let mut pings = Pings::default();
    for sequence in 0..options.count {
        let request = echo_request(to, id, sequence as u16, options.size.max(8));
        let began = Instant::now();
        sendto(
            &socket,
            &request,
            SendFlags::empty(),
            &SocketAddr::new(to, 0),
        )?;
        pings.sent += 1;
        if answered(&socket, to, &request, began + options.timeout)? {
            pings.round_trips.push(began.elapsed());
        }
        thread::sleep(options.interval);
    }
    Ok(pings)
}

fn echo_request(to: IpAddr, id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend((0..size).map(|at| at as u8 ^ sequence as u8));
    if to.is_ipv4() {
        // The kernel computes the sum of ICMPv6, not of ICMP.
        let sum = internet_checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Waits for the answer to `request`; false when there was none by `end`.
fn answered(socket: &OwnedFd, from: IpAddr, request: &[u8], end: Instant) -> io::Result<bool> {
    let mut buffer = vec![0; 65536];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        // A raw IPv4 socket delivers the IP header too.
        let header = if from.is_ipv4() {
            usize::from(buffer[0] & 15) * 4
        } else {
            0
        };
        let message = buffer.get(header..length).unwrap_or_default();
        let reply = if from.is_ipv4() { 0 } else { 129 };
        if message.first() == Some(&reply) && message.get(4..) == request.get(4..) {
            return Ok(true);
        }
    }
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        let request = echo_request(IpAddr::from([127, 0, 0, 1]), 7, 3, 57);
        assert_eq!(internet_checksum(&request), 0);
        assert_eq!(request.len(), 8 + 57);
    }
}
