//! Options that a card may have or not: busy polling, checksums left to whoever sends, the test of
//! the TX rings.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ringspan::engine::port::{OuterRx, OuterTx, Pollable};
use ringspan::io::xdp::{
    BusyPoll, Interface, Mode, SendTest, TxChecksum, XdpConfig, XdpDriver, XdpProgram, XdpRx,
    test_sending,
};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::Namespace;
use ringspan_tests::privilege::Need;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::bed::{
    BOTH_MODES, Bed, FAMILIES, FAR, NEAR, OpenError, PORT, open, payload, receive, send,
};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    let with = |need| [needs, &[need]].concat();
    suite
        .test(
            "busy_polling_does_the_cards_work",
            &with(Need::LinuxBefore(6, 14)),
            busy_polling_does_the_cards_work,
        )
        .test(
            "no_poll_is_made_for_nothing",
            &with(Need::Linux(6, 14)),
            no_poll_is_made_for_nothing,
        )
        .test(
            "busy_polling_that_is_refused_is_told",
            needs,
            busy_polling_that_is_refused_is_told,
        )
        .test(
            "whoever_sends_completes_checksums",
            needs,
            whoever_sends_completes_checksums,
        )
        .test(
            "a_wrong_checksum_would_be_noticed",
            needs,
            a_wrong_checksum_would_be_noticed,
        )
        .test("a_tx_ring_is_tested", needs, a_tx_ring_is_tested)
        .test(
            "a_silent_tx_ring_is_found_out",
            needs,
            a_silent_tx_ring_is_found_out,
        )
}

/// Has `link` put off its NAPI by a minute from the next frame on: what comes after that waits for a
/// timer, or for somebody who polls.
fn defer(namespace: &Namespace, link: &str) -> TestResult {
    namespace.set_link_attribute(link, "gro_flush_timeout", "60000000000")?;
    namespace.set_link_attribute(link, "napi_defer_hard_irqs", "1000")?;
    Ok(())
}

fn in_ring(rx: &XdpRx) -> u32 {
    rx.frames().rx_ring
}

/// A queue that is to be polled and has received one frame, and who sent it: by it neighbours are
/// found, and old kernels learn whose queue it is.
fn polling(bed: &Bed) -> Result<(XdpProgram, XdpRx, UdpSocket), Box<dyn Error>> {
    let config = XdpConfig {
        busy_poll: Some(BusyPoll::default()),
        ..bed.config(Mode::Native)
    };
    let (program, mut rx, _tx) = bed.open_one(&config)?;
    let socket = bed.socket(FAMILIES[0].1)?;
    socket.send_to(b"first", (FAMILIES[0].0, PORT))?;
    assert_eq!(receive(&mut rx, 1).len(), 1);
    let mode = rx.info().mode;
    assert!(mode.contains("busy poll (20 µs, 64 frames, "), "{mode}");
    Ok((program, rx, socket))
}

/// In copy mode since Linux 6.14 the kernel does not know what a socket's calls are to poll: that is
/// told, and no call is wasted.
fn no_poll_is_made_for_nothing() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, mut rx, socket) = polling(&bed)?;
    let to = (FAMILIES[0].0, PORT);
    let mode = rx.info().mode;
    assert!(mode.contains("nothing to poll"), "{mode}");
    assert!(!rx.busy_poll());
    assert_eq!(statistic(&rx, "rx_busy_polls"), 0, "calls for nothing");
    socket.send_to(b"by interrupt", to)?;
    assert_eq!(receive(&mut rx, 1)[0].payload, b"by interrupt");
    Ok(())
}

/// Where the kernel knows what a socket's calls are to poll, they do what the card's interrupt
/// would have done.
fn busy_polling_does_the_cards_work() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, mut rx, socket) = polling(&bed)?;
    let to = (FAMILIES[0].0, PORT);
    let mode = rx.info().mode;
    assert!(mode.contains(", NAPI "), "{mode}");
    defer(&bed.near, NEAR)?;
    socket.send_to(b"second", to)?;
    assert_eq!(receive(&mut rx, 1).len(), 1);
    let before = statistic(&rx, "rx_busy_polls");
    for round in 0..3 {
        assert!(!rx.busy_poll(), "nothing was sent in round {round}");
        socket.send_to(b"held", to)?;
        assert_eq!(in_ring(&rx), 0, "nobody has looked at the card");
        assert!(rx.busy_poll());
        assert_eq!(in_ring(&rx), 1);
        assert_eq!(receive(&mut rx, 1)[0].payload, b"held");
        // A worker that has work does so by receiving.
        socket.send_to(b"held too", to)?;
        let mut received = Vec::new();
        rx.recv_batch(&mut |datagrams| {
            received.extend(datagrams.iter().map(|datagram| datagram.payload.to_vec()));
        })?;
        assert_eq!(received, [b"held too"]);
    }
    assert_eq!(statistic(&rx, "rx_busy_polls"), before + 9);
    Ok(())
}

/// The kernel's version.
fn linux() -> io::Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

fn statistic(rx: &XdpRx, name: &str) -> u64 {
    let all = rx.statistics();
    let found = all.iter().find(|(n, _)| *n == name);
    found.expect("a statistic of that name").1
}

/// Without CAP_NET_ADMIN the kernel refuses the first option already.
fn busy_polling_that_is_refused_is_told() -> TestResult {
    let bed = Bed::new(1)?;
    let index = bed.near.index(NEAR)?;
    let (_program, queues) = bed.near.run(|| {
        let mut program = XdpProgram::load(&[PORT])?;
        program.attach(index, Mode::Native)?;
        // This thread's alone.
        let mut sets = capabilities(None).expect("own capabilities");
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).expect("fewer capabilities");
        let config = XdpConfig {
            busy_poll: Some(BusyPoll::default()),
            ..XdpConfig::default()
        };
        let queues = XdpDriver::open(NEAR, &mut program, &config)?;
        Ok::<_, OpenError>((program, queues))
    })?;
    let mut queues = queues;
    let queue = queues.pop().ok_or("a queue")?;
    let [lack] = queue.lacks() else {
        return Err(format!("one lack expected: {:?}", queue.lacks()).into());
    };
    assert!(
        lack.contains("SO_PREFER_BUSY_POLL") && lack.contains(NEAR) && lack.contains("permitted"),
        "{lack}"
    );
    let mode = queue.info().mode;
    assert!(mode.contains("no busy poll (SO_PREFER_BUSY_POLL"), "{mode}");
    // And it works all the same.
    let (mut rx, _) = queue.split();
    let socket = bed.socket(FAMILIES[0].1)?;
    socket.send_to(b"hello", (FAMILIES[0].0, PORT))?;
    assert_eq!(receive(&mut rx, 1)[0].payload, b"hello");
    assert!(!rx.busy_poll());
    Ok(())
}

/// Datagrams whose checksum is left to the kernel, which leaves it to the veth's other end, or, where
/// the offload is switched off, computes it.
fn whoever_sends_completes_checksums() -> TestResult {
    for mode in BOTH_MODES {
        for offload in [true, false] {
            let bed = Bed::new(1)?;
            bed.near
                .set_offloads(NEAR, &[("tx-checksum-ip-generic", offload)])?;
            let wire = bed.far.run(Wire::open)?;
            let config = XdpConfig {
                tx_checksum: TxChecksum::Device,
                ..bed.config(mode)
            };
            let (_program, _rx, tx) = bed.open_one(&config)?;
            let mut tx = tx.ok_or("a sending half")?;
            let info = tx.info().mode;
            let by_kernel = info.ends_with("checksums by the kernel");
            // Below 6.8 the kernel has no metadata: nothing else than the checksum's author changes.
            assert_eq!(by_kernel, linux()? >= (6, 8), "{info}");
            assert!(
                by_kernel || info.ends_with("checksums in software"),
                "{info}"
            );
            for (near, far) in FAMILIES {
                let socket = bed.socket(far)?;
                let to = socket.local_addr()?;
                let payloads: Vec<_> = [0, 1, 32, 33, 148, 999, 1451, 1452]
                    .into_iter()
                    .enumerate()
                    .map(|(seed, length)| payload(seed as u32, length))
                    .collect();
                let errors = checksum_errors(&bed.far)?;
                assert_eq!(send(&mut tx, to, 0, &payloads).accepted, payloads.len());
                for expected in &payloads {
                    let mut buffer = [0; 2048];
                    let (length, from) = socket.recv_from(&mut buffer)?;
                    assert_eq!(&buffer[..length], expected, "{mode} {far}");
                    assert_eq!(from, SocketAddr::new(near.parse()?, PORT));
                    let udp = wire.next(to)?;
                    assert_eq!(udp.datagram.len(), 8 + expected.len());
                    let (whole, partial) = udp.sums();
                    if by_kernel && offload {
                        assert_eq!(udp.checksum(), partial, "the sum of the pseudo-header");
                    } else {
                        assert_eq!(whole, 0xffff, "{mode} {far}: wrong on the wire");
                    }
                }
                assert_eq!(checksum_errors(&bed.far)?, errors);
            }
        }
    }
    // Left to the driver's choice, a veth's checksums come from here.
    let bed = Bed::new(1)?;
    let wire = bed.far.run(Wire::open)?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    let info = tx.info().mode;
    assert!(info.ends_with("checksums in software"), "{info}");
    let socket = bed.socket(FAMILIES[1].1)?;
    let to = socket.local_addr()?;
    assert_eq!(send(&mut tx, to, 0, &[payload(7, 100)]).accepted, 1);
    assert_eq!(wire.next(to)?.sums().0, 0xffff);
    Ok(())
}

/// That the other end verifies: a datagram with a wrong checksum does not reach its socket.
fn a_wrong_checksum_would_be_noticed() -> TestResult {
    let bed = Bed::new(1)?;
    for (number, (_, far)) in FAMILIES.into_iter().enumerate() {
        let socket = bed.socket(far)?;
        let to = socket.local_addr()?;
        let before = checksum_errors(&bed.far)?;
        bed.near.run(|| {
            let family = [AddressFamily::INET, AddressFamily::INET6][number];
            let udp = Protocol::from_raw(core::num::NonZero::new(17).expect("not 0"));
            let raw = rustix::net::socket(family, SocketType::RAW, Some(udp))?;
            let mut datagram = Vec::new();
            datagram.extend(PORT.to_be_bytes());
            datagram.extend(to.port().to_be_bytes());
            datagram.extend(12u16.to_be_bytes());
            datagram.extend([0xba, 0xad]);
            datagram.extend(b"evil");
            // A raw socket takes no port.
            let to = SocketAddr::new(to.ip(), 0);
            rustix::net::sendto(&raw, &datagram, SendFlags::empty(), &to)?;
            let good =
                UdpSocket::bind(SocketAddr::new(FAMILIES[number].0.parse().expect("one"), 0))?;
            good.send_to(b"good", socket.local_addr()?)?;
            Ok::<_, io::Error>(())
        })?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        assert_eq!(&buffer[..length], b"good", "the first to arrive");
        let (errors, name) = (checksum_errors(&bed.far)?, ["Udp", "Udp6"][number]);
        assert_eq!(errors[name], before[name] + 1);
    }
    Ok(())
}

fn a_tx_ring_is_tested() -> TestResult {
    for mode in BOTH_MODES {
        let bed = Bed::new(2)?;
        let wire = bed.far.run(Wire::open)?;
        let (program, mut queues) = bed.open(&bed.config(mode))?;
        assert_eq!(queues.len(), 2);
        let interface = bed.near.run(|| Interface::by_name(NEAR))?;
        let test = test_sending(&interface, &mut queues, Duration::from_secs(10));
        assert_eq!(test, SendTest::Works);
        // One frame a queue has left, for nobody but ourselves.
        for _ in 0..2 {
            let frame = wire.frame(|frame| frame[12..14] == [0x88, 0xb5])?;
            assert_eq!(
                (&frame[..6], &frame[6..12]),
                (&interface.mac()[..], &interface.mac()[..])
            );
        }
        for queue in queues {
            let (_rx, tx) = queue.split();
            let tx = tx.ok_or("a sending half")?;
            assert_eq!(tx.frames().free, tx.frames().total);
            let sent = tx
                .statistics()
                .iter()
                .any(|(name, n)| *name == "tx_datagrams" && *n != 0);
            assert!(!sent, "it is no datagram");
        }

        drop(program);
        let (_program, mut queues) = bed.open(&bed.config(mode))?;
        bed.far.down(FAR)?;
        let test = test_sending(&interface, &mut queues, Duration::from_secs(10));
        assert_eq!(test, SendTest::Unknown(format!("{NEAR} has no link")));
    }
    Ok(())
}

/// A veth whose other end does not look into its queue: frames are taken and not sent.
fn a_silent_tx_ring_is_found_out() -> TestResult {
    let bed = Bed::new(1)?;
    let (_far_program, _far_queues) = bed.far.run(|| open(FAR, &XdpConfig::default()))?;
    let (_program, mut queues) = bed.open(&bed.config(Mode::Native))?;
    let interface = bed.near.run(|| Interface::by_name(NEAR))?;
    let patience = Duration::from_millis(50);
    let mut test = || test_sending(&interface, &mut queues, patience);
    defer(&bed.far, FAR)?;
    // The queue is looked at for this one, and from then on put off.
    let found = (0..100)
        .map(|_| test())
        .find(|found| *found != SendTest::Works);
    assert_eq!(
        found.ok_or("a hundred frames were sent")?,
        SendTest::Silent {
            queue: 0,
            waited: patience
        }
    );
    Ok(())
}

/// `InCsumErrors` of UDP over IPv4 and IPv6.
fn checksum_errors(namespace: &Namespace) -> io::Result<BTreeMap<&'static str, u64>> {
    namespace.run(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
        let mut lines = v4.lines().filter(|line| line.starts_with("Udp:"));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let v4 = names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(name, _)| *name == "InCsumErrors")
            .and_then(|(_, value)| value.parse().ok());
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
        let v6 = v6
            .lines()
            .find_map(|line| line.strip_prefix("Udp6InCsumErrors"))
            .and_then(|value| value.trim().parse().ok());
        let missing = || io::Error::other("the kernel counts no checksum errors");
        Ok(BTreeMap::from([
            ("Udp", v4.ok_or_else(missing)?),
            ("Udp6", v6.ok_or_else(missing)?),
        ]))
    })
}

/// All frames that a namespace's links receive, as they came.
struct Wire(OwnedFd);

/// A UDP datagram as it was on the wire.
struct Udp {
    /// Both addresses.
    addresses: Vec<u8>,
    /// Header and payload.
    datagram: Vec<u8>,
}

impl Wire {
    fn open() -> io::Result<Self> {
        // ETH_P_ALL, in network byte order.
        let all = core::num::NonZero::new(u32::from(3u16.to_be())).expect("not 0");
        let protocol = Some(Protocol::from_raw(all));
        let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, protocol)?;
        let patience = Some(crate::bed::PATIENCE);
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            patience,
        )?;
        Ok(Self(socket))
    }

    /// The next frame that is `wanted`.
    fn frame(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        loop {
            let mut buffer = [0; 4096];
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let frame = &buffer[..length];
            if frame.len() >= 42 && wanted(frame) {
                return Ok(frame.to_vec());
            }
        }
    }

    /// The next UDP datagram to `to`.
    fn next(&self, to: SocketAddr) -> io::Result<Udp> {
        let (udp, addresses) = if to.is_ipv4() {
            (34, 26..34)
        } else {
            (54, 22..54)
        };
        let kind = if to.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        };
        let frame = self.frame(|frame| {
            frame[12..14] == kind && frame.get(udp + 2..udp + 4) == Some(&to.port().to_be_bytes())
        })?;
        let length = u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]);
        Ok(Udp {
            addresses: frame[addresses].to_vec(),
            datagram: frame[udp..udp + usize::from(length)].to_vec(),
        })
    }
}

impl Udp {
    fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.datagram[6], self.datagram[7]])
    }

    /// The sums (RFC 1071, as it is written there) over everything, 0xffff where the checksum is
    /// right, and over the pseudo-header alone.
    fn sums(&self) -> (u16, u16) {
        let mut pseudo = self.addresses.clone();
        pseudo.extend([0, 17]);
        pseudo.extend((self.datagram.len() as u16).to_be_bytes());
        let partial = sum(&pseudo);
        pseudo.extend(&self.datagram);
        (sum(&pseudo), partial)
    }
}

fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0u32, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let sum = sum + u32::from(word);
        (sum & 0xffff) + (sum >> 16)
    }) as u16
}
