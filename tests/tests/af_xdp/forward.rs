//! RX ring of one interface → TX ring of another, in the same frame: what comes out of the tunnel
//! and goes to a pod.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringspan::engine::port::{InnerRx, InnerTx, OuterRx, Pollable, Sent};
use ringspan::io::xdp::path::{PathMarks, Paths};
use ringspan::io::xdp::program::LocalAddresses;
use ringspan::io::xdp::{
    Interface, Path, PathKey, PathTable, VethConfig, VethDriver, VethRx, VethTx, XdpConfig,
    XdpProgram, XdpRx,
};
use ringspan::wire::checksum::{Sum, checksum};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};

use crate::bed::{Bed, FAMILIES, PATIENCE, PORT, payload};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test(
            "packets_leave_in_their_frame",
            needs,
            packets_leave_in_their_frame,
        )
        .test(
            "others_are_copied_in_turn",
            needs,
            others_are_copied_in_turn,
        )
        .test("a_burst_costs_no_frame", needs, a_burst_costs_no_frame)
        .test("checksums_arrive_whole", needs, checksums_arrive_whole)
        .test(
            "the_link_stays_the_kernels",
            needs,
            the_link_stays_the_kernels,
        )
}

/// The near namespace's end of the pod's veth pair, and the pod's.
const HOST: &str = "host0";
const POD: &str = "eth0";
/// The families, as the host's, the pod's, and an address beyond the tunnel.
const INNER: [(&str, &str, &str); 2] = [
    ("10.8.0.1", "10.8.0.2", "10.7.0.9"),
    ("fd08::1", "fd08::2", "fd07::9"),
];
/// What WireGuard has before and behind a packet.
const HEADER: usize = 16;
const TAG: usize = 16;

const MANY: usize = 100_000;

/// The bed with a pod behind the near namespace, and everything open.
struct Pod {
    outer: Bed,
    pod: Namespace,
    rx: XdpRx,
    inner_rx: VethRx,
    inner_tx: VethTx,
    _programs: [XdpProgram; 2],
}

impl Pod {
    fn new(config: &VethConfig) -> Result<Self, Box<dyn Error>> {
        let outer = Bed::new(1)?;
        let pod = Namespace::new("pod")?;
        Veth::default().join(&outer.near, HOST, &pod, POD)?;
        for (host, address, beyond) in INNER {
            let length = if address.contains(':') { 64 } else { 24 };
            outer
                .near
                .add_address(HOST, ipnet::IpNet::new(host.parse()?, length)?)?;
            pod.add_address(POD, ipnet::IpNet::new(address.parse()?, length)?)?;
            pod.add_route(
                ipnet::IpNet::from(beyond.parse::<IpAddr>()?),
                POD,
                Some(host.parse()?),
            )?;
        }
        let paths = PathTable::new()?;
        paths.publish(Self::paths(&outer.near, &pod)?);
        let outer_config = XdpConfig {
            rx_ring: 256,
            rx_frames: 512,
            spare_frames: config.frames(),
            ..XdpConfig::default()
        };
        let (program, mut queues) = outer.open(&outer_config)?;
        let mac = outer.near.run(|| Interface::by_name(HOST))?.mac();
        let mut inner_program = outer.near.run(|| XdpProgram::load_inner(mac))?;
        let own: Vec<IpAddr> = INNER
            .iter()
            .map(|(host, ..)| host.parse())
            .collect::<Result<_, _>>()?;
        inner_program.set_addresses(LocalAddresses::Only(&own))?;
        let mut inner = outer
            .near
            .run(|| VethDriver::open(HOST, &mut inner_program, config, &paths, &mut queues, 1))?;
        assert!(inner[0].forwards(), "{:?}", inner[0].info());
        let (inner_rx, inner_tx) = inner.remove(0).split();
        let (rx, _) = queues.remove(0).split();
        Ok(Self {
            outer,
            pod,
            rx,
            inner_rx,
            inner_tx: inner_tx.ok_or("a sending half")?,
            _programs: [program, inner_program],
        })
    }

    fn paths(near: &Namespace, pod: &Namespace) -> Result<Paths, Box<dyn Error>> {
        let (host, eth) = (
            near.run(|| Interface::by_name(HOST))?,
            pod.run(|| Interface::by_name(POD))?,
        );
        let mut paths = Paths::new();
        for (address, remote, _) in INNER {
            let key = PathKey {
                remote: remote.parse()?,
                source: None,
                scope: 0,
            };
            let path = Path {
                interface: host.index(),
                source_mac: host.mac(),
                destination_mac: eth.mac(),
                vlan: None,
                source: address.parse()?,
                mtu: host.mtu(),
                hop_limit: 64,
                marks: PathMarks::default(),
            };
            paths.insert(key, Arc::new(path));
        }
        Ok(paths)
    }

    fn socket(&self, family: usize) -> Result<UdpSocket, Box<dyn Error>> {
        let address: IpAddr = INNER[family].1.parse()?;
        let socket = self
            .pod
            .run(|| UdpSocket::bind(SocketAddr::new(address, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Receives outer datagrams until `count` have come, and hands the packets in them to `send`,
    /// as the engine does.
    fn forward(
        &mut self,
        count: usize,
        mut send: impl FnMut(&mut VethTx, &[&[u8]]) -> Sent,
    ) -> Result<Sent, Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        let (mut received, mut sent) = (0, Sent::default());
        while received < count && Instant::now() < deadline {
            let tx = &mut self.inner_tx;
            received += self.rx.recv_batch(&mut |datagrams| {
                let packets: Vec<&[u8]> = datagrams
                    .iter()
                    .map(|datagram| &datagram.payload[HEADER..datagram.payload.len() - TAG])
                    .collect();
                sent += send(tx, &packets);
            })?;
        }
        assert_eq!(received, count);
        Ok(sent)
    }

    /// Waits until all frames are where they were at the beginning.
    fn settled(&mut self) -> TestResult {
        let deadline = Instant::now() + PATIENCE;
        while self.rx.frames().forwarded > 0 || self.inner_tx.frames().under_way > 0 {
            assert!(
                Instant::now() < deadline,
                "{:?} {:?}",
                self.rx.frames(),
                self.inner_tx.frames()
            );
            self.inner_tx.flush();
            self.rx.recv_batch(&mut |_| ())?;
            std::thread::sleep(Duration::from_millis(1));
        }
        let frames = self.rx.frames();
        assert_eq!((frames.total, frames.rx_ring, frames.lent), (512, 0, 0));
        assert!(frames.in_kernel() <= 1, "{frames:?}");
        let frames = self.inner_tx.frames();
        assert_eq!((frames.free, frames.returned), (frames.total, 0));
        assert_eq!(self.inner_tx.socket_statistics().tx_invalid_descs, 0);
        assert_eq!(self.rx.socket_statistics(), Default::default());
        Ok(())
    }

    fn statistic(&self, name: &str) -> u64 {
        let all = self.inner_tx.statistics();
        let found = all.iter().find(|(n, _)| *n == name);
        found.expect("a statistic of that name").1
    }
}

fn config() -> VethConfig {
    VethConfig {
        rx_ring: 128,
        rx_frames: 128,
        tx_ring: 128,
        copy_frames: 64,
        ..VethConfig::default()
    }
}

/// A packet from beyond the tunnel to a socket in the pod.
fn packet(family: usize, to: SocketAddr, data: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let from: IpAddr = INNER[family].2.parse()?;
    let length = 8 + data.len() as u16;
    let mut udp = 4000u16.to_be_bytes().to_vec();
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    let sum = Sum::pseudo(from, to.ip(), 17, udp.len()).ok_or("one family")?;
    let check = sum.with(&udp).finish_udp();
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    let mut packet = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, 20 + length),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, length),
        _ => return Err("one family".into()),
    };
    packet.extend(udp);
    Ok(packet)
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, total: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let check = checksum(&header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    header
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, length: u16) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([17, 64]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// `packet` as it comes by the tunnel, were it not encrypted.
fn wrapped(packet: &[u8]) -> Vec<u8> {
    [&[4; HEADER][..], packet, &[0xaa; TAG][..]].concat()
}

fn packets_leave_in_their_frame() -> TestResult {
    let mut pod = Pod::new(&config())?;
    let far = pod.outer.socket(FAMILIES[0].1)?;
    let near = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
    let sockets = [pod.socket(0)?, pod.socket(1)?];
    let burst = 50;
    let mut sent = 0usize;
    let mut buffer = [0; 2048];
    while sent < MANY {
        let family = sent / burst % 2;
        let to = sockets[family].local_addr()?;
        let datas: Vec<_> = (sent..sent + burst)
            .map(|seed| payload(seed as u32, 4 + seed % 1300))
            .collect();
        for data in &datas {
            far.send_to(&wrapped(&packet(family, to, data)?), near)?;
        }
        let answer = pod.forward(burst, InnerTx::send_batch)?;
        assert_eq!((answer.accepted, answer.dropped), (burst, 0));
        for data in &datas {
            let (length, from) = sockets[family].recv_from(&mut buffer)?;
            assert_eq!(&buffer[..length], data, "packet {sent}");
            assert_eq!(from.ip(), INNER[family].2.parse::<IpAddr>()?);
        }
        sent += burst;
    }
    assert_eq!(pod.statistic("tx_forwarded_frames"), MANY as u64);
    assert_eq!(pod.statistic("tx_packets"), MANY as u64);
    assert_eq!(pod.statistic("tx_copied"), 0);
    pod.settled()?;
    let info = pod.inner_tx.info();
    assert!(info.mode.contains("shared memory"), "{info:?}");
    Ok(())
}

/// What lies elsewhere is copied, and overtakes nothing.
fn others_are_copied_in_turn() -> TestResult {
    let mut pod = Pod::new(&config())?;
    let far = pod.outer.socket(FAMILIES[0].1)?;
    let near = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
    let socket = pod.socket(0)?;
    let to = socket.local_addr()?;
    for number in [0u32, 2, 4] {
        far.send_to(&wrapped(&packet(0, to, &number.to_be_bytes())?), near)?;
    }
    let elsewhere = [1u32, 3].map(|number| packet(0, to, &number.to_be_bytes()));
    let [one, three] = elsewhere;
    let (one, three) = (one?, three?);
    let mut next = [one.as_slice(), three.as_slice()].into_iter();
    let sent = pod.forward(3, |tx, packets| {
        let mut mixed = Vec::new();
        for packet in packets {
            mixed.push(*packet);
            mixed.extend(next.next());
        }
        // Too long for the link, and nobody's neighbour.
        let long = vec![0; 1501];
        let mut stranger = one.clone();
        stranger[19] = 77;
        let refused = tx.send_batch(&[&long, &stranger, b"no packet"]);
        assert_eq!((refused.accepted, refused.dropped), (0, 3));
        tx.send_batch(&mixed)
    })?;
    assert_eq!((sent.accepted, sent.dropped), (5, 0));
    for number in 0..5u32 {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        assert_eq!(buffer[..length], number.to_be_bytes());
    }
    assert_eq!(pod.statistic("tx_forwarded_frames"), 3);
    assert_eq!(pod.statistic("tx_copied"), 2);
    assert_eq!(pod.statistic("tx_no_path"), 1);
    assert_eq!(pod.statistic("tx_malformed"), 2);
    pod.settled()
}

/// More than the TX ring takes: the rest is dropped and counted, the frames are the kernel's again.
fn a_burst_costs_no_frame() -> TestResult {
    let mut pod = Pod::new(&VethConfig {
        tx_ring: 64,
        ..config()
    })?;
    let far = pod.outer.socket(FAMILIES[0].1)?;
    let near = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
    let socket = pod.socket(1)?;
    let to = socket.local_addr()?;
    for round in 0..20u32 {
        for number in 0..200u32 {
            let data = (round * 1000 + number).to_be_bytes();
            far.send_to(&wrapped(&packet(1, to, &data)?), near)?;
        }
        let mut batches = 0;
        let sent = pod.forward(200, |tx, packets| {
            batches += 1;
            tx.send_batch(packets)
        })?;
        assert!(
            sent.accepted >= 64 && sent.accepted + sent.dropped == 200,
            "{sent:?}"
        );
        if batches == 1 {
            assert_eq!(sent.accepted, 64);
        }
        let mut last = None;
        for _ in 0..sent.accepted {
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            let number = u32::from_be_bytes(buffer[..length].try_into()?);
            assert!(last < Some(number), "{last:?} before {number}");
            last = Some(number);
        }
        pod.settled()?;
    }
    assert_eq!(pod.statistic("tx_copied"), 0);
    assert!(pod.statistic("tx_ring_full") > 0);
    Ok(())
}

/// A kernel leaves checksums to a card, and there is none.
fn checksums_arrive_whole() -> TestResult {
    let mut pod = Pod::new(&config())?;
    for (family, (_, _, beyond)) in INNER.into_iter().enumerate() {
        let socket = pod.socket(family)?;
        let to = SocketAddr::new(beyond.parse()?, 4000);
        for length in [0, 1, 2, 700, 1400] {
            let data = payload(length as u32, length);
            socket.send_to(&data, to)?;
            let mut seen = Vec::new();
            let deadline = Instant::now() + PATIENCE;
            while seen.is_empty() && Instant::now() < deadline {
                pod.inner_rx.recv_batch(&mut |packets| {
                    seen.extend(packets.iter().map(|packet| packet.data.to_vec()));
                })?;
            }
            assert_eq!(seen.len(), 1, "IPv4 or 6: {family}, {length} bytes");
            let packet = &seen[0];
            let header = if family == 0 { 20 } else { 40 };
            assert_eq!(packet[header + 8..], data);
            let from = socket.local_addr()?.ip();
            let udp = &packet[header..];
            let sum = Sum::pseudo(from, to.ip(), 17, udp.len()).ok_or("one family")?;
            assert_eq!(sum.with(udp).finish(), 0, "the checksum is right");
        }
    }
    let statistics = pod.inner_rx.statistics();
    let (_, completed) = statistics
        .iter()
        .find(|(name, _)| *name == "rx_checksums_completed")
        .ok_or("a statistic of that name")?;
    assert_eq!(*completed, 10, "all of them were left to a card");
    let frames = pod.inner_rx.frames();
    assert_eq!((frames.lent, frames.rx_ring), (0, 0));
    assert!(frames.in_kernel() <= 1, "{frames:?}");
    Ok(())
}

/// ARP, neighbour discovery and the host's own addresses.
fn the_link_stays_the_kernels() -> TestResult {
    let mut pod = Pod::new(&config())?;
    for (host, address, _) in INNER {
        let to: IpAddr = host.parse()?;
        let pings = pod.pod.run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{host}: {pings:?}");
        let to: IpAddr = address.parse()?;
        let pings = pod.outer.near.run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{address}: {pings:?}");
    }
    assert_eq!(pod.inner_rx.recv_batch(&mut |_| ())?, 0);
    Ok(())
}
