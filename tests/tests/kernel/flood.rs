//! An attacker who knows a node's public key: initiations from addresses that are not his.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ringspan::crypto::{OsRandom, PublicKey, Random};
use ringspan::noise::cookie::Holder;
use ringspan::runtime::clock::monotonic;
use ringspan::wire::checksum::checksum;
use ringspan::wire::message::Initiation;
use ringspan_tests::netns::Namespace;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use zerocopy::{FromBytes, IntoBytes};

use crate::bed::Fallible;

/// A cookie reply: its length on the wire, and its type.
const COOKIE_REPLY: (usize, u8) = (64, 3);
/// Forged initiations at a time, and how long the probe behind them may take. When it is lost, or
/// answered by nothing, the next burst follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) burst: usize,
    pub(crate) patience: Duration,
}

/// What a flood has come to.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    stop: AtomicBool,
    /// Forged initiations sent.
    pub(crate) sent: AtomicU64,
    /// Probes, from the attacker's own address, that a cookie came back for: the victim was under
    /// load then.
    pub(crate) cookies: AtomicU64,
}

impl Flood {
    /// Floods until [`stop`](Self::stop). Each burst ends with one initiation from the attacker's
    /// own address, and the next one follows when that was answered: the victim's queue is kept
    /// filled, whatever its speed, and not overflowing for ever.
    pub(crate) fn run(
        &self,
        from: &Namespace,
        victim: SocketAddr,
        key: &PublicKey,
        pace: Pace,
    ) -> Fallible<()> {
        let IpAddr::V4(address) = victim.ip() else {
            return Err("floods are of IPv4".into());
        };
        let (raw, own) = from.run(|| -> io::Result<(OwnedFd, UdpSocket)> {
            let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
            Ok((raw, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))
        })?;
        own.connect(victim)?;
        own.set_read_timeout(Some(pace.patience))?;
        let mut forger = Forger::new(key);
        // Made beforehand: to make one takes longer than to refuse it.
        let packets: Vec<_> = (0..pace.burst)
            .map(|_| forger.packet(address, victim.port()))
            .collect();
        while !self.stop.load(Relaxed) {
            for packet in &packets {
                // A full queue of the link loses some.
                let _ = sendto(&raw, packet, SendFlags::empty(), &victim);
                self.sent.fetch_add(1, Relaxed);
            }
            own.send(forger.initiation().as_bytes())?;
            let mut answer = [0; 256];
            if let Ok(length) = own.recv(&mut answer) {
                if (length, answer[0]) != COOKIE_REPLY {
                    return Err(format!("{length} bytes of type {}", answer[0]).into());
                }
                self.cookies.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// Makes initiations of which nothing is right but mac1.
struct Forger {
    holder: Holder,
    random: OsRandom,
    source: u32,
}

impl Forger {
    fn new(victim: &PublicKey) -> Self {
        Self {
            holder: Holder::new(victim),
            random: OsRandom,
            source: u32::from(Ipv4Addr::new(100, 64, 0, 1)),
        }
    }

    fn initiation(&mut self) -> Initiation {
        let mut bytes = [0; size_of::<Initiation>()];
        let seed = self.random.next_u64().unwrap_or_default().to_le_bytes();
        bytes[0] = 1;
        for (byte, random) in bytes[8..].iter_mut().zip(seed.iter().cycle()) {
            *byte = *random;
        }
        let mut message = Initiation::read_from_bytes(&bytes).expect("its very length");
        self.holder.stamp(monotonic(), &mut message);
        message
    }

    /// The IP packet of another initiation, by another sender.
    fn packet(&mut self, to: Ipv4Addr, port: u16) -> Vec<u8> {
        self.source += 1;
        let message = self.initiation();
        let payload = message.as_bytes();
        let length = 28 + payload.len() as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        packet.extend(self.source.to_be_bytes());
        packet.extend(to.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        for field in [4500 + (self.source as u16 % 1000), port, length - 20, 0] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(payload);
        packet
    }
}
