//! TUN interfaces in namespaces of their own.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use ringspan::engine::port::{InnerRx, InnerTx, Pollable, Sent};
use ringspan::io::tun::{OpenError, Tun, TunConfig, TunRx};
use ringspan::io::udp::{UdpConfig, UdpPort};
use ringspan::wire::checksum::{Sum, checksum};
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::Namespace;
use ringspan_tests::traffic::tcp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::udp::{endpoint, outer_arrivals, send};
use super::wait;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

/// A namespace with an interface `tun0` of the driver: our address on it, the rest of its net
/// behind it.
fn tun(config: &TunConfig) -> Result<(Namespace, Tun), Box<dyn std::error::Error>> {
    let namespace = Namespace::new("tun")?;
    let tun = namespace.run(|| Tun::open(config))?;
    namespace.add_address(tun.name(), IpNet::new(OURS.into(), 24)?)?;
    Ok((namespace, tun))
}

/// An IPv4 packet with a UDP datagram in it.
fn packet(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(payload.len() + 8).expect("a short payload");
    let mut udp = Vec::new();
    udp.extend(from.1.to_be_bytes());
    udp.extend(to.1.to_be_bytes());
    udp.extend(udp_len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let sum = Sum::pseudo_v4(from.0, to.0, 17, udp_len).with(&udp);
    udp[6..8].copy_from_slice(&sum.finish_udp().to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((udp_len + 20).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.0.octets());
    ip.extend(to.0.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(udp);
    ip
}

/// Receives inner packets until `count` UDP datagrams to `port` came; returns their payloads.
/// Others (the host's own IPv6 chatter) are passed over.
fn inner_payloads(rx: &mut dyn InnerRx, port: u16, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        wait(&*rx)?;
        rx.recv_batch(&mut |batch| {
            for packet in batch {
                let data = &*packet.data;
                if data[0] == 0x45 && data[9] == 17 && data[22..24] == port.to_be_bytes() {
                    payloads.push(data[28..].to_vec());
                }
            }
        })?;
    }
    Ok(payloads)
}

pub(crate) fn both_ways() -> TestResult {
    let (namespace, tun) = tun(&TunConfig::new("tun0"))?;
    let mut rx = tun.rx(0).ok_or("no queue 0")?;
    let mut tx = tun.tx(0).ok_or("no queue 0")?;
    assert_eq!(rx.info().interface, "tun0");

    let host = namespace.run(|| UdpSocket::bind((OURS, 7000)))?;
    host.set_read_timeout(Some(Duration::from_secs(20)))?;
    for mark in 0..50u8 {
        host.send_to(&[mark; 1200], (THEIRS, 7001))?;
    }
    let payloads = inner_payloads(&mut rx, 7001, 50)?;
    for (mark, payload) in payloads.iter().enumerate() {
        assert_eq!(*payload, [u8::try_from(mark)?; 1200], "in order");
    }

    let packets: Vec<Vec<u8>> = (0..50u8)
        .map(|mark| packet((THEIRS, 7001), (OURS, 7000), &[mark; 1200]))
        .collect();
    let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let all = Sent {
        accepted: 50,
        dropped: 0,
    };
    assert_eq!(tx.send_batch(&slices), all);
    let mut buffer = [0; 2000];
    for mark in 0..50u8 {
        let (len, from) = host.recv_from(&mut buffer)?;
        assert_eq!(buffer[..len], [mark; 1200]);
        assert_eq!(from, SocketAddr::from((THEIRS, 7001)));
    }
    Ok(())
}

pub(crate) fn vanishes() -> TestResult {
    let (namespace, tun) = tun(&TunConfig::new("tun0"))?;
    let rx = tun.rx(0);
    drop(tun);
    assert!(
        namespace.index("tun0").is_ok(),
        "its receiver still holds it"
    );
    drop(rx);
    assert!(namespace.index("tun0").is_err());
    Ok(())
}

pub(crate) fn mtu() -> TestResult {
    let mut config = TunConfig::new("tun0");
    config.mtu = 8920;
    let (namespace, tun) = tun(&config)?;
    assert_eq!(tun.mtu()?, 8920);
    namespace.set_mtu("tun0", 1300)?;
    assert_eq!(tun.mtu()?, 1300, "an administrator's change is seen");

    // Packets that a larger MTU lets through must arrive whole.
    namespace.set_mtu("tun0", 60_000)?;
    let mut rx = tun.rx(0).ok_or("no queue 0")?;
    let host = namespace.run(|| UdpSocket::bind((OURS, 0)))?;
    host.send_to(&[5; 50_000], (THEIRS, 7001))?;
    assert_eq!(inner_payloads(&mut rx, 7001, 1)?, [vec![5; 50_000]]);

    for mtu in [67, 65_536, u32::MAX] {
        let error = tun.set_mtu(mtu).err().ok_or("accepted")?;
        assert!(matches!(error, OpenError::Mtu { mtu: bad, .. } if bad == mtu));
        assert!(
            error
                .to_string()
                .contains(&format!("MTU {mtu} of interface tun0"))
        );
    }
    Ok(())
}

pub(crate) fn queue_length() -> TestResult {
    let mut config = TunConfig::new("tun0");
    config.queue_length = Some(5000);
    let (namespace, _tun) = tun(&config)?;
    let show = ["-details", "link", "show", "tun0"];
    let shown = namespace.run(|| Command::new("ip").args(show).output())?;
    let shown = String::from_utf8(shown.stdout)?;
    assert!(shown.contains("qlen 5000"), "{shown}");
    // 45 segments: as many as one send takes.
    assert!(shown.contains("gso_max_size 61560"), "{shown}");
    Ok(())
}

pub(crate) fn names() -> TestResult {
    let (namespace, first) = tun(&TunConfig::new("wg%d"))?;
    assert_eq!(first.name(), "wg0");
    assert_eq!(first.index(), namespace.index("wg0")?);
    for taken in ["wg0", "lo"] {
        let error = namespace.run(|| Tun::open(&TunConfig::new(taken)));
        let error = error.err().ok_or("opened twice")?;
        assert!(matches!(&error, OpenError::Taken { interface } if interface == taken));
    }
    Ok(())
}

pub(crate) fn queues() -> TestResult {
    let mut config = TunConfig::new("tun0");
    config.queues = 2;
    let (namespace, tun) = tun(&config)?;
    assert_eq!(tun.queues(), 2);
    assert!(tun.rx(2).is_none());
    let mut queues = [tun.rx(0).ok_or("queue 0")?, tun.rx(1).ok_or("queue 1")?];
    assert_eq!(queues[1].info().queue, Some(1));
    // Many flows: the kernel spreads them by hash over both queues.
    let hosts: Vec<UdpSocket> = namespace.run(|| {
        let bind = |_| UdpSocket::bind((OURS, 0));
        (0..64).map(bind).collect::<io::Result<_>>()
    })?;
    for (mark, host) in (0u8..).zip(&hosts) {
        host.send_to(&[mark], (THEIRS, 7001))?;
    }
    let mut marks = BTreeSet::new();
    let mut used = [false; 2];
    for (queue, used) in queues.iter_mut().zip(&mut used) {
        // All were queued before `send_to` returned: no waiting.
        while queue.recv_batch(&mut |batch| {
            for packet in batch {
                if packet.data[0] == 0x45 {
                    *used = true;
                    marks.insert(packet.data[28]);
                }
            }
        })? > 0
        {}
    }
    assert_eq!(marks.len(), 64, "each on one of the queues");
    assert_eq!(used, [true; 2]);
    Ok(())
}

/// Two hosts with a TUN interface each; what one sends, the other gets.
struct Tunnel {
    hosts: [Namespace; 2],
    stop: Arc<AtomicBool>,
    pump: JoinHandle<io::Result<Vec<Counts>>>,
}

type Counts = Vec<(&'static str, u64)>;

impl Tunnel {
    fn start(offload: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let mut config = TunConfig::new("tun0");
        config.offload = offload;
        let hosts = [Namespace::new("left")?, Namespace::new("right")?];
        let mut ports = Vec::new();
        for (host, last) in hosts.iter().zip(1..) {
            let tun = host.run(|| Tun::open(&config))?;
            host.add_address("tun0", format!("10.66.0.{last}/24").parse::<IpNet>()?)?;
            host.add_address("tun0", format!("fd66::{last}/64").parse::<IpNet>()?)?;
            let (Some(rx), Some(tx)) = (tun.rx(0), tun.tx(0)) else {
                return Err("no queue 0".into());
            };
            assert_eq!(
                rx.info().mode != "single packets",
                offload,
                "{:?}",
                rx.info()
            );
            ports.push((rx, tx));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let running = Arc::clone(&stop);
        let pump = std::thread::spawn(move || {
            let [(left_rx, left_tx), (right_rx, right_tx)] = &mut ports[..] else {
                return Ok(Vec::new());
            };
            while !running.load(Relaxed) {
                wait_any(&[left_rx, right_rx])?;
                carry(left_rx, right_tx)?;
                carry(right_rx, left_tx)?;
            }
            Ok(vec![
                left_rx.statistics(),
                left_tx.statistics(),
                right_rx.statistics(),
                right_tx.statistics(),
            ])
        });
        Ok(Self { hosts, stop, pump })
    }

    /// Ends the pump; returns the statistics of both ports, left and right.
    fn stop(self) -> Result<Vec<Counts>, Box<dyn std::error::Error>> {
        self.stop.store(true, Relaxed);
        Ok(self.pump.join().map_err(|_| "the pump panicked")??)
    }
}

fn carry(rx: &mut dyn InnerRx, tx: &mut dyn InnerTx) -> io::Result<()> {
    rx.recv_batch(&mut |batch| {
        let packets: Vec<&[u8]> = batch.iter().map(|packet| &*packet.data).collect();
        // What the host refuses (its queue is full), TCP sends again.
        let _ = tx.send_batch(&packets);
    })?;
    Ok(())
}

/// Waits a little for any of the ports.
fn wait_any(ports: &[&mut TunRx]) -> io::Result<()> {
    let mut fds = Vec::new();
    for port in ports {
        port.poll_fds(&mut |fd| fds.push(fd.try_clone_to_owned()));
    }
    let fds = fds.into_iter().collect::<io::Result<Vec<_>>>()?;
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    poll(&mut fds, Some(&patience))?;
    Ok(())
}

fn count(counts: &Counts, name: &str) -> u64 {
    let found = counts.iter().find(|(known, _)| *known == name);
    found.map_or(0, |(_, value)| *value)
}

/// TCP over both families, both ways, checked byte by byte.
pub(crate) fn to_tun(offload: bool) -> TestResult {
    const BYTES: u64 = 8 << 20;
    let tunnel = Tunnel::start(offload)?;
    let [left, right] = &tunnel.hosts;
    for address in ["10.66.0.2", "fd66::2"] {
        let address: IpAddr = address.parse()?;
        let server = right.run(|| tcp::Server::start(address))?;
        let patience = Duration::from_secs(20);
        let to = server.address();
        let moved = left.run(|| tcp::transfer(to, BYTES, BYTES, patience, |_| true))?;
        assert_eq!(moved.uploaded + moved.downloaded, 2 * BYTES);
    }
    let counts = tunnel.stop()?;
    for counts in &counts {
        assert_eq!(count(counts, "rx_malformed"), 0);
        let packets = count(counts, "rx_packets") + count(counts, "tx_packets");
        let calls = count(counts, "rx_reads") + count(counts, "tx_writes");
        assert!(packets > 1000, "{counts:?}");
        // With offloads a call moves many packets, else one.
        assert_eq!(calls < packets / 2, offload, "{counts:?}");
    }
    Ok(())
}

/// A run of UDP datagrams sent with one call crosses as one super-packet and arrives as it was.
pub(crate) fn udp_segments() -> TestResult {
    let tunnel = Tunnel::start(true)?;
    let [left, right] = &tunnel.hosts;
    let from = left.run(|| UdpPort::bind(&UdpConfig::default()))?;
    let to = right.run(|| UdpPort::bind(&UdpConfig::default()))?;
    for ip in ["10.66.0.2", "fd66::2"] {
        let endpoint = endpoint(ip, &to)?;
        let (sent, statistics) = send(&from, endpoint, &[1300; 40]);
        assert_eq!(sent.accepted, 40, "{statistics:?}");
        for (mark, (_, payload)) in outer_arrivals(&to, 40)?.into_iter().enumerate() {
            assert_eq!(payload, vec![u8::try_from(mark)?; 1300]);
        }
    }
    let counts = tunnel.stop()?;
    let (left_rx, right_tx) = (&counts[0], &counts[3]);
    assert!(count(left_rx, "rx_packets") >= 80, "{left_rx:?}");
    if count(left_rx, "rx_reads") < 80 {
        assert!(count(right_tx, "tx_writes") < 80, "{right_tx:?}");
    }
    Ok(())
}

pub(crate) fn refusals() -> TestResult {
    let (namespace, tun) = tun(&TunConfig::new("tun0"))?;
    let mut tx = tun.tx(0).ok_or("no queue 0")?;
    let good = packet((THEIRS, 1), (OURS, 2), b"x");
    let sent = tx.send_batch(&[&good, b"\xf0no IP", b"", &good]);
    assert_eq!((sent.accepted, sent.dropped), (2, 2));
    namespace.down("tun0")?;
    let sent = tx.send_batch(&[&good, &good]);
    assert_eq!((sent.accepted, sent.dropped), (0, 2));
    assert!(tx.statistics().contains(&("tx_refused", 4)));

    let mut rx = tun.rx(0).ok_or("no queue 0")?;
    namespace.remove("tun0")?;
    assert!(rx.recv_batch(&mut |_| ()).is_err(), "the loss is reported");
    Ok(())
}
