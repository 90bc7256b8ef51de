//! The classic capture file format (libpcap, `pcap-savefile(5)`), with nanoseconds.
//!
//! Packets begin with their IP header (`LINKTYPE_RAW`). Datagrams, which drivers handle without
//! headers, get IP and UDP headers with correct checksums, so that analysers find WireGuard in
//! them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::wire::checksum::{Sum, checksum};

/// Files with nanoseconds begin so, in the byte order of the machine that writes them.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// The longest record, in bytes: tcpdump's own default.
const SNAP_LENGTH: u32 = 262_144;
/// Packets begin with an IPv4 or IPv6 header.
const LINKTYPE_RAW: u32 = 101;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const HOP_LIMIT: u8 = 64;

/// An open capture file. Clones share it; any number of taps may write.
#[derive(Clone)]
pub struct Capture {
    file: Arc<Mutex<PcapFile>>,
}

impl core::fmt::Debug for Capture {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}

struct PcapFile {
    out: BufWriter<Box<dyn Write + Send>>,
    /// After an error nothing more is written: half a record makes the rest unreadable.
    failed: bool,
}

/// A datagram's way, as its headers tell it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) tos: u8,
}

impl Capture {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// When it cannot be created or written.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(File::create(path)?)
    }

    /// Captures into anything else: a pipe to an analyser, for instance.
    ///
    /// # Errors
    /// When the file header cannot be written.
    pub fn new(out: impl Write + Send + 'static) -> io::Result<Self> {
        let mut out: BufWriter<Box<dyn Write + Send>> = BufWriter::new(Box::new(out));
        out.write_all(&MAGIC.to_ne_bytes())?;
        for part in VERSION {
            out.write_all(&part.to_ne_bytes())?;
        }
        // Time zone and accuracy, which nobody uses.
        for part in [0, 0, SNAP_LENGTH, LINKTYPE_RAW] {
            out.write_all(&u32::to_ne_bytes(part))?;
        }
        out.flush()?;
        let file = PcapFile { out, failed: false };
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// Writes a batch: `batch` is given what it records through. Traffic goes on when the disk is
    /// full; the capture ends there, with a warning.
    pub(super) fn record(&self, batch: impl FnOnce(&mut Recorder<'_>) -> io::Result<()>) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.failed {
            return;
        }
        let mut recorder = Recorder {
            out: &mut file.out,
            now: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        };
        // Flushed each time: whoever looks on sees a packet when it comes, and a crash loses none.
        let written = batch(&mut recorder).and_then(|()| file.out.flush());
        if let Err(error) = written {
            file.failed = true;
            tracing::warn!("the capture ends here: {error}");
        }
    }
}

/// Writes records that happened at one time.
pub(super) struct Recorder<'a> {
    out: &'a mut dyn Write,
    now: Duration,
}

impl Recorder<'_> {
    /// A packet that begins with its IP header.
    pub(super) fn packet(&mut self, packet: &[u8]) -> io::Result<()> {
        self.header(packet.len())?;
        self.out.write_all(packet)
    }

    /// A datagram, under headers made from its flow. One with addresses of two families is
    /// passed over.
    pub(super) fn datagram(&mut self, flow: &Flow, payload: &[u8]) -> io::Result<()> {
        let udp_len = UDP_HEADER + payload.len();
        let udp = udp_header(flow, udp_len, payload);
        match (flow.from.ip(), flow.to.ip(), udp) {
            (IpAddr::V4(from), IpAddr::V4(to), Some(udp)) => {
                self.header(V4_HEADER + udp_len)?;
                self.out
                    .write_all(&v4_header(from, to, flow.tos, udp_len))?;
                self.out.write_all(&udp)?;
            }
            (IpAddr::V6(from), IpAddr::V6(to), Some(udp)) => {
                self.header(V6_HEADER + udp_len)?;
                self.out
                    .write_all(&v6_header(from, to, flow.tos, udp_len))?;
                self.out.write_all(&udp)?;
            }
            _ => return Ok(()),
        }
        self.out.write_all(payload)
    }

    fn header(&mut self, len: usize) -> io::Result<()> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        // Seconds since 1970 in 32 bits, as the format has it.
        let seconds = self.now.as_secs() as u32;
        for field in [seconds, self.now.subsec_nanos(), len, len] {
            self.out.write_all(&field.to_ne_bytes())?;
        }
        Ok(())
    }
}

/// Lengths beyond 65535 bytes do not exist in UDP; they would be shown as the largest.
fn short(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

fn udp_header(flow: &Flow, len: usize, payload: &[u8]) -> Option<[u8; UDP_HEADER]> {
    let [from_high, from_low] = flow.from.port().to_be_bytes();
    let [to_high, to_low] = flow.to.port().to_be_bytes();
    let [len_high, len_low] = short(len);
    let header = [from_high, from_low, to_high, to_low, len_high, len_low];
    let [sum_high, sum_low] = Sum::pseudo(flow.from.ip(), flow.to.ip(), UDP, len)?
        .with(&header)
        .with(payload)
        .finish_udp()
        .to_be_bytes();
    Some([
        from_high, from_low, to_high, to_low, len_high, len_low, sum_high, sum_low,
    ])
}

fn v4_header(from: Ipv4Addr, to: Ipv4Addr, tos: u8, payload: usize) -> [u8; V4_HEADER] {
    let [len_high, len_low] = short(V4_HEADER + payload);
    let [a, b, c, d] = from.octets();
    let [e, f, g, h] = to.octets();
    let header = |sum: [u8; 2]| {
        let [sum_high, sum_low] = sum;
        [
            0x45, tos, len_high, len_low, 0, 0, 0, 0, HOP_LIMIT, UDP, sum_high, sum_low, a, b, c,
            d, e, f, g, h,
        ]
    };
    header(checksum(&header([0, 0])).to_be_bytes())
}

fn v6_header(from: Ipv6Addr, to: Ipv6Addr, tos: u8, payload: usize) -> [u8; V6_HEADER] {
    let [len_high, len_low] = short(payload);
    let start = [
        0x60 | (tos >> 4),
        tos << 4,
        0,
        0,
        len_high,
        len_low,
        UDP,
        HOP_LIMIT,
    ];
    let mut header = [0; V6_HEADER];
    let bytes = start.into_iter().chain(from.octets()).chain(to.octets());
    for (place, byte) in header.iter_mut().zip(bytes) {
        *place = byte;
    }
    header
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file in memory that a test can look into.
    #[derive(Clone, Default)]
    pub(crate) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        pub(crate) fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap().clone()
        }

        /// The records' contents.
        pub(crate) fn records(&self) -> Vec<Vec<u8>> {
            let bytes = self.bytes();
            let mut rest = &bytes[24..];
            let mut records = Vec::new();
            while !rest.is_empty() {
                let field = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
                assert!(field(0) > 1_600_000_000, "seconds");
                assert!(field(4) < 1_000_000_000, "nanoseconds");
                assert_eq!(field(8), field(12), "nothing is cut off");
                let len = field(8) as usize;
                records.push(rest[16..16 + len].to_vec());
                rest = &rest[16 + len..];
            }
            records
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn flow(from: &str, to: &str) -> Flow {
        Flow {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            tos: 0x8a,
        }
    }

    #[test]
    fn the_file_header_is_as_the_format_says() {
        let memory = Memory::default();
        Capture::new(memory.clone()).unwrap();
        let mut expected = Vec::new();
        expected.extend(0xa1b2_3c4d_u32.to_ne_bytes());
        expected.extend(2u16.to_ne_bytes());
        expected.extend(4u16.to_ne_bytes());
        expected.extend([0; 8]);
        expected.extend(262_144u32.to_ne_bytes());
        expected.extend(101u32.to_ne_bytes());
        assert_eq!(memory.bytes(), expected);
    }

    #[test]
    fn datagrams_get_headers_that_verify() {
        let memory = Memory::default();
        let capture = Capture::new(memory.clone()).unwrap();
        capture.record(|recorder| {
            recorder.datagram(&flow("192.0.2.1:51820", "192.0.2.2:9"), b"odd")?;
            recorder.datagram(&flow("[2001:db8::1]:51820", "[2001:db8::2]:9"), b"even")?;
            recorder.datagram(&flow("192.0.2.1:51820", "[2001:db8::2]:9"), b"mixed")
        });
        let [v4, v6] = <[_; 2]>::try_from(memory.records()).unwrap();

        assert_eq!(v4.len(), 20 + 8 + 3);
        assert_eq!(v4[..4], [0x45, 0x8a, 0, 31]);
        assert_eq!(checksum(&v4[..20]), 0);
        let pseudo = Sum::pseudo_v4([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 17, 11);
        assert_eq!(pseudo.with(&v4[20..]).finish(), 0);
        assert_eq!(v4[20..26], [0xca, 0x6c, 0, 9, 0, 11]);
        assert_eq!(&v4[28..], b"odd");

        assert_eq!(v6[..8], [0x68, 0xa0, 0, 0, 0, 12, 17, 64]);
        let [from, to] = ["2001:db8::1", "2001:db8::2"].map(|ip| ip.parse().unwrap());
        let pseudo = Sum::pseudo_v6(from, to, 17, 12);
        assert_eq!(pseudo.with(&v6[40..]).finish(), 0);
        assert_eq!(&v6[48..], b"even");
    }

    #[test]
    fn a_full_disk_ends_the_capture_not_the_traffic() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let room = self.0.min(bytes.len());
                self.0 -= room;
                if room == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                Ok(room)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let capture = Capture::new(Full(40)).unwrap();
        let mut runs = 0;
        for _ in 0..3 {
            capture.record(|recorder| {
                runs += 1;
                recorder.packet(&[0x45; 100])
            });
        }
        assert_eq!(runs, 1);
    }
}
