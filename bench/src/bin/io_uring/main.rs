//! What io_uring would save of the system calls that move single packets: CPU time of the calling
//! thread for each packet, in turns with what the drivers do.
//!
//! ```text
//! sudo target/release/io_uring [ROUNDS]        (cargo build --release -p ringspan-bench)
//! ```
//!
//! Each round puts 256 packets into a queue (of a TUN, of a UDP socket over a veth), and times how
//! one thread takes them out; or times how it puts them in. Filling and draining never overlap, so
//! nothing waits, and what is measured is the path through the kernel alone.

#![expect(clippy::print_stdout, reason = "a program for people")]

mod ring;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use ringspan::engine::port::Pollable as _;
use ringspan::io::tun::{Tun, TunConfig};
use ringspan_tests::netns::{Namespace, Veth};
use rustix::time::{ClockId, clock_gettime};

use ring::Ring;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Packets in one round. Below the TUN's queue of 500.
const PACKETS: usize = 256;
/// How many are asked for by one system call, where one can ask for several.
const BATCH: usize = 64;
/// Inner payloads, in bytes.
const SIZES: [usize; 2] = [64, 1372];
/// Room for one packet with its headers.
const SLOT: usize = 2048;

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// One way of moving packets, and what it took a packet in each round, in nanoseconds.
struct Way {
    name: &'static str,
    rounds: Vec<f64>,
}

/// Runs `ways` in turns, `rounds` times each, and prints them. `prepare` goes before each.
fn compare(
    title: &str,
    rounds: usize,
    prepare: &mut dyn FnMut() -> Result<()>,
    ways: &mut [(&'static str, &mut dyn FnMut() -> Result<usize>)],
) -> Result<()> {
    let mut results: Vec<Way> = ways
        .iter()
        .map(|(name, _)| Way {
            name,
            rounds: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for ((_, run), way) in ways.iter_mut().zip(&mut results) {
            prepare()?;
            let began = cpu();
            let moved = run()?;
            let took = cpu() - began;
            // The host may have had a word of its own to say.
            if moved < PACKETS {
                return Err(format!("{title}, {}: {moved} packets of {PACKETS}", way.name).into());
            }
            way.rounds.push(took.as_nanos() as f64 / moved as f64);
        }
    }
    let mut first = None;
    for way in &mut results {
        way.rounds.sort_by(f64::total_cmp);
        let at = |share: f64| way.rounds[(way.rounds.len() - 1) * (share * 100.0) as usize / 100];
        let median = at(0.5);
        let base = *first.get_or_insert(median);
        println!(
            "{title:<22} {:<28} {median:>7.0} ns  [{:.0} to {:.0}]  {:.2}",
            way.name,
            at(0.1),
            at(0.9),
            median / base
        );
    }
    Ok(())
}

/// Takes packets from a descriptor one by one until there are none.
fn read_all(fd: RawFd, buffer: &mut [u8]) -> usize {
    let mut count = 0;
    // SAFETY: the buffer is borrowed mutably, and as long as said.
    while unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {
        count += 1;
    }
    count
}

fn write_all(fd: RawFd, packet: &[u8]) -> usize {
    (0..PACKETS)
        // SAFETY: the packet is borrowed, and as long as said.
        .filter(|_| unsafe { libc::write(fd, packet.as_ptr().cast(), packet.len()) } > 0)
        .count()
}

/// As the UDP driver does: `BATCH` messages a call, with the sender's address.
fn recvmmsg_all(socket: &UdpSocket, arena: &mut [u8]) -> usize {
    let mut count = 0;
    loop {
        let mut names = [[0_u8; 16]; BATCH];
        let mut vectors: Vec<libc::iovec> = arena
            .chunks_exact_mut(SLOT)
            .take(BATCH)
            .map(|slot| libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut names)
            .map(|(vector, name)| {
                // SAFETY: integers and pointers, for which zero is a value.
                let mut header: libc::mmsghdr = unsafe { core::mem::zeroed() };
                header.msg_hdr.msg_name = name.as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = 16;
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        // SAFETY: all pointers are to what lives until after the call, with true lengths.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                core::ptr::null_mut(),
            )
        };
        if got <= 0 {
            return count;
        }
        count += got as usize;
    }
}

fn tun(rounds: usize, size: usize) -> Result<()> {
    let space = Namespace::new("uring")?;
    let tun = space.run(|| Tun::open(&TunConfig::new("tun0")))?;
    space.add_address("tun0", "10.66.0.1/24".parse::<ipnet::IpNet>()?)?;
    let rx = tun.rx(0).ok_or("no queue")?;
    let mut fd = -1;
    rx.poll_fds(&mut |queue: BorrowedFd<'_>| fd = queue.as_raw_fd());
    let source = space.run(|| UdpSocket::bind("10.66.0.1:0"))?;
    source.connect("10.66.0.2:9")?;
    let payload = vec![0_u8; size];
    let mut arena = vec![0_u8; SLOT * BATCH];
    let mut ring = Ring::new(fd, BATCH, SLOT)?;
    // What the host says on its own when the interface appears.
    let mut settle = vec![0_u8; SLOT];
    read_all(fd, &mut settle);
    let mut fill = || -> Result<()> {
        read_all(fd, &mut settle);
        for _ in 0..PACKETS {
            source.send(&payload)?;
        }
        Ok(())
    };
    compare(
        &format!("TUN read, {size} B"),
        rounds,
        &mut fill,
        &mut [
            ("read, one by one", &mut || {
                Ok(read_all(fd, &mut arena[..SLOT]))
            }),
            ("io_uring, 64 fixed reads", &mut || ring.read_all()),
        ],
    )?;

    // A packet for a port where nobody listens for it: the host takes it up to the socket lookup.
    let sink = space.run(|| UdpSocket::bind("10.66.0.1:0"))?;
    let packet = udp_packet(sink.local_addr()?.port(), size);
    ring.set_contents(&packet);
    sink.set_nonblocking(true)?;
    let mut drain = vec![0_u8; SLOT];
    compare(
        &format!("TUN write, {size} B"),
        rounds,
        &mut || {
            while sink.recv(&mut drain).is_ok() {}
            Ok(())
        },
        &mut [
            ("write, one by one", &mut || Ok(write_all(fd, &packet))),
            ("io_uring, 64 fixed writes", &mut || {
                ring.write_all(packet.len(), PACKETS)
            }),
        ],
    )
}

/// A vnet header that asks for nothing, IPv4 and UDP headers, `size` bytes.
fn udp_packet(port: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![0_u8; 10 + 28 + size];
    let ip = &mut packet[10..];
    ip[..2].copy_from_slice(&[0x45, 0]);
    ip[2..4].copy_from_slice(&((28 + size) as u16).to_be_bytes());
    ip[8..10].copy_from_slice(&[64, 17]);
    ip[12..16].copy_from_slice(&[10, 66, 0, 2]);
    ip[16..20].copy_from_slice(&[10, 66, 0, 1]);
    let sum: u32 = ip[..20]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[20..22].copy_from_slice(&9_u16.to_be_bytes());
    ip[22..24].copy_from_slice(&port.to_be_bytes());
    ip[24..26].copy_from_slice(&((8 + size) as u16).to_be_bytes());
    packet
}

fn udp(rounds: usize, size: usize) -> Result<()> {
    let spaces = [Namespace::new("uring-a")?, Namespace::new("uring-b")?];
    Veth::default().join(&spaces[0], "cable", &spaces[1], "cable")?;
    let address = |at: usize| IpAddr::from(Ipv4Addr::new(192, 0, 2, 1 + at as u8));
    for (at, space) in spaces.iter().enumerate() {
        space.add_address("cable", ipnet::IpNet::new(address(at), 24)?)?;
    }
    let sink = spaces[1].run(|| UdpSocket::bind((address(1), 0)))?;
    sink.set_nonblocking(true)?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&sink, 8 << 20)?;
    let source = spaces[0].run(|| UdpSocket::bind((address(0), 0)))?;
    source.connect(sink.local_addr()?)?;
    let payload = vec![0_u8; size];
    let mut arena = vec![0_u8; SLOT * BATCH];
    let mut ring = Ring::new(sink.as_raw_fd(), BATCH, SLOT)?;
    let mut multishot = Ring::new(sink.as_raw_fd(), BATCH, SLOT)?;
    let mut fill = || -> Result<()> {
        for _ in 0..PACKETS {
            source.send(&payload)?;
        }
        Ok(())
    };
    fill()?;
    recvmmsg_all(&sink, &mut arena);
    compare(
        &format!("UDP receive, {size} B"),
        rounds,
        &mut fill,
        &mut [
            ("recvmmsg of 64", &mut || {
                Ok(recvmmsg_all(&sink, &mut arena))
            }),
            ("io_uring, 64 recvmsg", &mut || ring.recvmsg_all()),
            ("io_uring, multishot recvmsg", &mut || {
                multishot.multishot(PACKETS)
            }),
        ],
    )
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    println!("CPU time a packet: median [10 % to 90 %], share of the first way; {rounds} rounds");
    for size in SIZES {
        tun(rounds, size)?;
        udp(rounds, size)?;
    }
    Ok(())
}
