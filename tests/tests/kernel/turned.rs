//! A node of ours whose clock the test turns: handshakes, sessions and timers as in any node, on a
//! real socket, before a peer whose time is the real one.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ringspan::crypto::PrivateKey;
use ringspan::engine::PeerConfig;
use ringspan::engine::tunnel::{Action, Tunnel};
use ringspan::runtime::clock;
use ringspan::time::Now;
use ringspan::wire::checksum::checksum;
use ringspan_tests::netns::Namespace;
use ringspan_tests::vm::UDP_PORT;

use crate::bed::{Fallible, PATIENCE, PORT, Peer, inner};

/// First bytes of messages.
pub(crate) const INITIATION: u8 = 1;
const DATA: u8 = 4;

/// What came and went.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Types of the messages sent.
    pub(crate) sent: Vec<u8>,
    /// Packets delivered.
    pub(crate) delivered: Vec<Vec<u8>>,
    /// Sessions that handshakes of ours have made.
    pub(crate) ready: usize,
    /// The receiver index of the transport data received last: it stands for a session.
    pub(crate) index: Option<[u8; 4]>,
}

pub(crate) struct Turned {
    tunnel: Tunnel,
    socket: UdpSocket,
    now: Now,
    number: u8,
    echoes: u16,
    pub(crate) log: Log,
}

impl Turned {
    /// A node in `space` with `peer`, which is at `endpoint`, or is yet to be heard of.
    pub(crate) fn new(
        space: &Namespace,
        number: u8,
        key: &PrivateKey,
        peer: &Peer,
        endpoint: Option<IpAddr>,
    ) -> Fallible<Self> {
        let socket = space.run(|| UdpSocket::bind(("0.0.0.0", PORT)))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut tunnel = Tunnel::new(key, 1420)?;
        let _ = tunnel.add_peer(
            peer.public_key(),
            PeerConfig::default(),
            endpoint.map(|ip| SocketAddr::new(ip, PORT)),
            [inner(number, 2, 4).into()],
        )?;
        Ok(Self {
            tunnel,
            socket,
            now: clock::now(),
            number,
            echoes: 0,
            log: Log::default(),
        })
    }

    /// Turns the clock forward. It stands still otherwise.
    pub(crate) fn turn(&mut self, span: Duration) {
        // The peer's time is the real one, and it takes no two initiations within 20 ms.
        std::thread::sleep(Duration::from_millis(50));
        self.now.monotonic += span;
        self.now.unix += span;
    }

    /// Sends a packet that the peer's host echoes.
    pub(crate) fn send_echo(&mut self) {
        self.echoes += 1;
        let mut packet = datagram(
            inner(self.number, 1, 4),
            inner(self.number, 2, 4),
            self.echoes,
        );
        let Self {
            tunnel,
            socket,
            now,
            log,
            ..
        } = self;
        tunnel.encapsulate(*now, &mut packet, &mut |action| act(&action, socket, log));
    }

    /// Sends a packet and waits for its echo.
    pub(crate) fn echo(&mut self) -> Fallible<()> {
        self.log.delivered.clear();
        self.send_echo();
        let number = self.echoes.to_be_bytes();
        self.until("an echo", |log| {
            log.delivered
                .iter()
                .any(|packet| packet.len() == 32 && packet[28..30] == number)
        })
    }

    /// Runs the timers that are due.
    pub(crate) fn tick(&mut self) {
        let Self {
            tunnel,
            socket,
            now,
            log,
            ..
        } = self;
        let _ = tunnel.tick(*now, &mut |action| act(&action, socket, log));
    }

    /// Takes what the socket has, until `done`.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Log) -> bool) -> Fallible<()> {
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        while !done(&self.log) {
            if Instant::now() > end {
                let log = &self.log;
                return Err(format!("{what}: not within {PATIENCE:?}: {log:?}").into());
            }
            self.tick();
            let Self {
                tunnel,
                socket,
                now,
                log,
                ..
            } = self;
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let datagram = &mut buffer[..length];
            if datagram[0] == DATA {
                log.index = datagram[4..8].try_into().ok();
            }
            tunnel.decapsulate(*now, datagram, from, &mut |action| {
                act(&action, socket, log);
            });
        }
        Ok(())
    }

    /// Transport data that came for a session past its age.
    pub(crate) fn expired(&self) -> u64 {
        self.tunnel.counters().totals().expired
    }
}

fn act(action: &Action<'_>, socket: &UdpSocket, log: &mut Log) {
    match action {
        Action::Send { to, datagram, .. } => {
            log.sent.push(datagram[0]);
            // What is lost here shows as what does not come.
            let _ = socket.send_to(datagram, to.remote);
        }
        Action::Deliver { packet } => log.delivered.push(packet.to_vec()),
        Action::SessionReady { .. } => log.ready += 1,
        _ => {}
    }
}

/// An IPv4 packet with a UDP datagram of 4 bytes to the peer's echo.
fn datagram(from: IpAddr, to: IpAddr, number: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
    for address in [from, to] {
        if let IpAddr::V4(address) = address {
            packet.extend(address.octets());
        }
    }
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    // No checksum: IPv4 allows that.
    for field in [9999, UDP_PORT, 12, 0, number, 0] {
        packet.extend(u16::to_be_bytes(field));
    }
    packet
}
