//! Datagrams above one chunk: frames of several buffers, both ways.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ringspan::engine::port::{OuterTx, Pollable};
use ringspan::io::xdp::{
    LARGEST_DATAGRAM, LARGEST_IN_ONE_CHUNK, Mode, XdpConfig, XdpError, XdpTx, ZeroCopy,
};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::Veth;
use ringspan_tests::privilege::Need;

use crate::bed::{
    BOTH_MODES, Bed, FAMILIES, FAR, NEAR, OpenError, PATIENCE, PORT, open, payload, receive,
    receive_each, send,
};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    let needs = &[needs, &[Need::Linux(6, 6)]].concat();
    suite
        .test("jumbo_datagrams_arrive", needs, jumbo_datagrams_arrive)
        .test("jumbo_datagrams_leave", needs, jumbo_datagrams_leave)
        .test(
            "the_largest_datagrams_pass",
            needs,
            the_largest_datagrams_pass,
        )
        .test(
            "no_receive_frame_is_lost_among_jumbos",
            needs,
            no_receive_frame_is_lost_among_jumbos,
        )
        .test(
            "no_send_frame_is_lost_among_jumbos",
            needs,
            no_send_frame_is_lost_among_jumbos,
        )
        .test(
            "jumbo_rings_talk_to_rings",
            needs,
            jumbo_rings_talk_to_rings,
        )
        .test(
            "a_full_ring_takes_jumbos_whole_or_not",
            needs,
            a_full_ring_takes_jumbos_whole_or_not,
        )
        .test(
            "ordinary_sockets_leave_jumbos_to_the_kernel",
            needs,
            ordinary_sockets_leave_jumbos_to_the_kernel,
        )
        .test(
            "a_raised_mtu_is_followed_as_far_as_frames_hold",
            needs,
            a_raised_mtu_is_followed_as_far_as_frames_hold,
        )
        .test("a_small_link_is_refused", needs, a_small_link_is_refused)
}

const MTU: u32 = 9000;
/// What a tunnel of MTU 8920 sends.
const LARGEST: u16 = 8920 + 32;
const MANY: usize = 100_000;

fn bed(mtu: u32) -> Result<Bed, Box<dyn std::error::Error>> {
    Bed::over(Veth {
        mtu,
        ..Veth::default()
    })
}

/// Lengths around every boundary: the end of a frame's first buffer and of its second, of a chunk
/// received into and sent from, and of the link.
fn lengths(largest: usize) -> Vec<usize> {
    let chunk = usize::from(LARGEST_IN_ONE_CHUNK);
    let around = [
        3400,
        3500,
        3520,
        3840,
        4096 - 128,
        4096,
        2 * 3840,
        2 * 4096 - 128,
        2 * 4096,
    ];
    let mut lengths = vec![0, 1, 32, 148, 1452, chunk, chunk + 1];
    for boundary in around {
        lengths.extend([boundary - 50, boundary - 43, boundary - 42, boundary - 1]);
        lengths.extend([boundary, boundary + 1]);
    }
    lengths.extend([largest - 1, largest]);
    lengths.retain(|length| *length <= largest);
    lengths
}

fn payloads(lengths: &[usize]) -> Vec<Vec<u8>> {
    lengths
        .iter()
        .enumerate()
        .map(|(seed, length)| payload(seed as u32, *length))
        .collect()
}

fn statistic(all: &[(&'static str, u64)], name: &str) -> u64 {
    let found = all.iter().find(|(n, _)| *n == name);
    found.expect("a statistic of that name").1
}

fn jumbo_datagrams_arrive() -> TestResult {
    for mode in BOTH_MODES {
        // Also where a peer sends more than this end was opened for.
        for largest_datagram in [LARGEST, 4000] {
            let bed = bed(MTU)?;
            let config = XdpConfig {
                largest_datagram,
                ..bed.config(mode)
            };
            let (program, mut rx, _tx) = bed.open_one(&config)?;
            assert!(rx.info().mode.contains("multi-buffer"), "{:?}", rx.info());
            for (near, far) in FAMILIES {
                let socket = bed.socket(far)?;
                let to = SocketAddr::new(near.parse()?, PORT);
                let headers = if to.is_ipv4() { 28 } else { 48 };
                let payloads = payloads(&lengths(MTU as usize - headers));
                for payload in &payloads {
                    socket.send_to(payload, to)?;
                }
                let received = receive(&mut rx, payloads.len());
                assert_eq!(received.len(), payloads.len(), "{mode} {far}");
                for (received, expected) in received.iter().zip(&payloads) {
                    assert!(received.payload == *expected, "{mode}: {}", expected.len());
                    assert_eq!(received.from.remote, socket.local_addr()?);
                }
            }
            let counted = rx.statistics();
            assert!(statistic(&counted, "rx_gathered") > 20, "{counted:?}");
            assert_eq!(statistic(&counted, "rx_broken_chains"), 0);
            assert_eq!(statistic(&counted, "rx_malformed"), 0);
            let malformed = program.counters()?.into_iter().find(|c| c.0 == "malformed");
            assert_eq!(malformed, Some(("malformed", 0)));
            assert!(rx.frames().in_kernel() <= 1, "{:?}", rx.frames());
        }
    }
    Ok(())
}

fn jumbo_datagrams_leave() -> TestResult {
    for mode in BOTH_MODES {
        let bed = bed(MTU)?;
        let config = XdpConfig {
            largest_datagram: LARGEST,
            ..bed.config(mode)
        };
        let (_program, _rx, tx) = bed.open_one(&config)?;
        let mut tx = tx.ok_or("a sending half")?;
        for (near, far) in FAMILIES {
            let socket = bed.socket(far)?;
            let to = socket.local_addr()?;
            let payloads = payloads(&lengths(LARGEST.into()));
            for payloads in payloads.chunks(8) {
                let sent = send(&mut tx, to, 0, payloads);
                assert_eq!((sent.accepted, sent.dropped), (payloads.len(), 0));
                for expected in payloads {
                    let mut buffer = [0; 10_000];
                    let (length, from) = socket.recv_from(&mut buffer)?;
                    assert!(buffer[..length] == *expected, "{mode}: {}", expected.len());
                    assert_eq!(from, SocketAddr::new(near.parse()?, PORT));
                }
            }
        }
        all_come_back(&mut tx, &[])?;
        // One byte more than a frame holds: dropped, and nothing else with it.
        let socket = bed.socket(FAMILIES[0].1)?;
        let run = 3 * 4096 - 128;
        let sent = send(
            &mut tx,
            socket.local_addr()?,
            0,
            &[payload(1, run + 1), payload(2, 9000 - 27), payload(3, 8000)],
        );
        assert_eq!((sent.accepted, sent.dropped), (1, 2));
        assert_eq!(statistic(&tx.statistics(), "tx_too_long"), 2);
        let mut buffer = [0; 10_000];
        assert_eq!(socket.recv(&mut buffer)?, 8000);
    }
    Ok(())
}

/// Waits until every frame is free again, emptying `sockets`, whose buffers hold some.
fn all_come_back(tx: &mut XdpTx, sockets: &[&UdpSocket]) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 1 << 16];
    while tx.frames().free < tx.frames().total && Instant::now() < deadline {
        tx.flush();
        for socket in sockets {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut buffer).is_ok() {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let frames = tx.frames();
    assert_eq!(frames.free, frames.total, "{frames:?}");
    assert_eq!(tx.socket_statistics().tx_invalid_descs, 0);
    Ok(())
}

/// As much as an IP packet holds: 17 chunks to send from, 18 to receive into.
fn the_largest_datagrams_pass() -> TestResult {
    let bed = bed(65535)?;
    let config = XdpConfig {
        largest_datagram: LARGEST_DATAGRAM,
        ..bed.config(Mode::Native)
    };
    let (_program, mut rx, tx) = bed.open_one(&config)?;
    let mut tx = tx.ok_or("a sending half")?;
    for (near, far) in FAMILIES {
        let socket = bed.socket(far)?;
        for length in [LARGEST_DATAGRAM, LARGEST_DATAGRAM - 1, 60_000, 40_000, 100] {
            let expected = payload(7, length.into());
            socket.send_to(&expected, (near, PORT))?;
            let received = receive(&mut rx, 1);
            assert!(received[0].payload == expected, "{far}: {length}");

            let sent = send(
                &mut tx,
                socket.local_addr()?,
                0,
                std::slice::from_ref(&expected),
            );
            assert_eq!(sent.accepted, 1);
            let mut buffer = vec![0; 1 << 16];
            let length = socket.recv(&mut buffer)?;
            assert!(buffer[..length] == expected, "{far}: {length}");
        }
    }
    all_come_back(&mut tx, &[])?;
    assert!(rx.frames().in_kernel() <= 1, "{:?}", rx.frames());
    Ok(())
}

/// A length for packet `number`: small, one chunk, two and three, in no order.
fn mixed(number: usize) -> usize {
    const LENGTHS: [usize; 8] = [8952, 60, 3700, 5000, 1452, 8952, 7700, 100];
    LENGTHS[number * 5 / 3 % LENGTHS.len()] - number % 11
}

fn no_receive_frame_is_lost_among_jumbos() -> TestResult {
    for mode in BOTH_MODES {
        let bed = bed(MTU)?;
        let config = XdpConfig {
            attach: mode,
            rx_ring: 256,
            rx_frames: 512,
            largest_datagram: LARGEST,
            ..XdpConfig::default()
        };
        let (_program, mut rx, _tx) = bed.open_one(&config)?;
        let socket = bed.socket(FAMILIES[0].1)?;
        let to = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
        let noise = payload(1, 9000);
        let mut buffer = vec![0; 9000];
        let mut expected = 0;
        while expected < MANY {
            // Fewer descriptors at a time than the ring takes, so that each must arrive.
            let burst = 80;
            for number in expected..expected + burst {
                let length = mixed(number);
                buffer[..length].copy_from_slice(&noise[number % 40..][..length]);
                buffer[..8].copy_from_slice(&(number as u64).to_le_bytes());
                socket.send_to(&buffer[..length], to)?;
            }
            let received = receive_each(&mut rx, burst, |received| {
                let length = mixed(expected);
                assert_eq!(received.payload.len(), length, "{mode}");
                assert_eq!(received.payload[..8], (expected as u64).to_le_bytes());
                assert!(received.payload[8..] == noise[expected % 40..][8..length]);
                expected += 1;
            });
            assert_eq!(received, burst, "{mode}");
        }
        let frames = rx.frames();
        assert_eq!((frames.total, frames.rx_ring, frames.lent), (512, 0, 0));
        assert!(frames.in_kernel() <= 1, "{mode}: {frames:?}");
        assert_eq!(rx.socket_statistics(), Default::default(), "{mode}");
        let counted = rx.statistics();
        assert!(statistic(&counted, "rx_gathered") > 50_000, "{counted:?}");
        assert_eq!(statistic(&counted, "rx_broken_chains"), 0);
    }
    Ok(())
}

fn no_send_frame_is_lost_among_jumbos() -> TestResult {
    let bed = bed(MTU)?;
    let config = XdpConfig {
        tx_ring: 128,
        largest_datagram: LARGEST,
        ..bed.config(Mode::Native)
    };
    let (_program, _rx, tx) = bed.open_one(&config)?;
    let mut tx = tx.ok_or("a sending half")?;
    let (four, six) = (bed.socket(FAMILIES[0].1)?, bed.socket(FAMILIES[1].1)?);
    let noise: Vec<_> = (0..200).map(|i| payload(i as u32, mixed(i))).collect();
    let mut buffer = vec![0; 10_000];
    let mut accepted = 0;
    let mut batch = 0usize;
    while accepted < MANY {
        let to = if batch.is_multiple_of(2) { &four } else { &six };
        let payloads = &noise[..1 + batch % noise.len()];
        let sent = send(&mut tx, to.local_addr()?, 0, payloads);
        assert_eq!(sent.accepted + sent.dropped, payloads.len());
        // More than the runs hold is sent in several turns, as far as the receiver lets go of them.
        assert!(sent.accepted >= payloads.len().min(16), "{sent:?}");
        accepted += sent.accepted;
        batch += 1;
        for socket in [&four, &six] {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut buffer).is_ok() {}
        }
    }
    all_come_back(&mut tx, &[&four, &six])?;
    let counted = tx.statistics();
    assert!(
        statistic(&counted, "tx_multi_buffer") > 30_000,
        "{counted:?}"
    );
    Ok(())
}

/// Both ends are ours: XDP on both ends of the veth.
fn jumbo_rings_talk_to_rings() -> TestResult {
    let bed = bed(MTU)?;
    let config = XdpConfig {
        largest_datagram: LARGEST,
        ..bed.config(Mode::Native)
    };
    let (_program, _rx, tx) = bed.open_one(&config)?;
    let mut tx = tx.ok_or("a sending half")?;
    let far = XdpConfig {
        largest_datagram: LARGEST,
        ..XdpConfig::default()
    };
    let (_far_program, queues) = bed.far.run(|| open(FAR, &far))?;
    let (mut rx, _) = queues.into_iter().next().ok_or("a queue")?.split();
    let to = SocketAddr::new(FAMILIES[1].1.parse()?, PORT);
    for round in 0..100 {
        let payloads: Vec<_> = (0..100)
            .map(|i| payload((round * 100 + i) as u32, mixed(round + i)))
            .collect();
        let sent = send(&mut tx, to, 0, &payloads);
        assert_eq!(sent.accepted, 100);
        let mut expected = payloads.iter();
        let count = receive_each(&mut rx, 100, |received| {
            assert!(Some(&received.payload) == expected.next());
        });
        assert_eq!(count, 100, "round {round}");
    }
    all_come_back(&mut tx, &[])
}

/// Where the rings have no room for all parts of a frame, none of them comes.
fn a_full_ring_takes_jumbos_whole_or_not() -> TestResult {
    for mode in BOTH_MODES {
        let bed = bed(MTU)?;
        let config = XdpConfig {
            attach: mode,
            rx_ring: 64,
            rx_frames: 64,
            largest_datagram: LARGEST,
            ..XdpConfig::default()
        };
        let (_program, mut rx, _tx) = bed.open_one(&config)?;
        let socket = bed.socket(FAMILIES[0].1)?;
        let to = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
        for _ in 0..3 {
            for seed in 0..200 {
                socket.send_to(&payload(seed, 8952), to)?;
            }
            // 21 frames of three parts fill the ring.
            let received = receive(&mut rx, 21);
            for (seed, received) in received.iter().enumerate() {
                assert!(received.payload == payload(seed as u32, 8952), "{mode}");
            }
            assert_eq!(received.len(), 21, "{mode}");
            assert!(rx.frames().in_kernel() <= 1, "{mode}: {:?}", rx.frames());
        }
        assert_eq!(statistic(&rx.statistics(), "rx_broken_chains"), 0);
    }
    Ok(())
}

/// A tunnel with an ordinary MTU on a link with a large one.
fn ordinary_sockets_leave_jumbos_to_the_kernel() -> TestResult {
    let bed = bed(MTU)?;
    let (_program, mut rx, _tx) = bed.open_one(&bed.config(Mode::Native))?;
    assert!(!rx.info().mode.contains("multi-buffer"), "{:?}", rx.info());
    let to = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
    let kernel = bed.near.run(|| UdpSocket::bind(to))?;
    kernel.set_read_timeout(Some(PATIENCE))?;
    let socket = bed.socket(FAMILIES[0].1)?;
    socket.send_to(&payload(1, 8000), to)?;
    socket.send_to(&payload(2, 1452), to)?;
    let mut buffer = [0; 10_000];
    let length = kernel.recv(&mut buffer)?;
    assert!(buffer[..length] == payload(1, 8000));
    assert!(receive(&mut rx, 1)[0].payload == payload(2, 1452));
    Ok(())
}

/// The tunnel's MTU is raised at run time: what the frames cannot hold is the UDP socket's.
fn a_raised_mtu_is_followed_as_far_as_frames_hold() -> TestResult {
    for (opened_for, reached, beyond) in [(1452, 3968, 3969), (LARGEST, 8972, 8973)] {
        let bed = bed(MTU)?;
        let config = XdpConfig {
            largest_datagram: opened_for,
            ..bed.config(Mode::Native)
        };
        let (_program, _rx, tx) = bed.open_one(&config)?;
        let mut tx = tx.ok_or("a sending half")?;
        let socket = bed.socket(FAMILIES[0].1)?;
        let to = socket.local_addr()?;
        for (longest, expected) in [(reached, true), (beyond, false), (1452, true)] {
            tx.set_longest(longest);
            assert_eq!(tx.reaches(&to.into()), expected, "{longest}");
        }
        tx.set_longest(reached);
        assert_eq!(send(&mut tx, to, 0, &[payload(1, reached)]).accepted, 1);
        let mut buffer = [0; 10_000];
        let length = socket.recv(&mut buffer)?;
        assert!(buffer[..length] == payload(1, reached));
    }
    Ok(())
}

fn a_small_link_is_refused() -> TestResult {
    let bed = bed(MTU)?;
    let config = |largest_datagram| XdpConfig {
        largest_datagram,
        zero_copy: ZeroCopy::Never,
        ..XdpConfig::default()
    };
    let error = bed.open(&config(9000 - 27)).expect_err("beyond the link");
    assert!(
        matches!(
            &error,
            OpenError::Open(XdpError::SmallLink { mtu: 9000, .. })
        ),
        "{error}"
    );
    let message = error.to_string();
    for part in [NEAR, "MTU 9000", "8973", "9001", "UDP driver"] {
        assert!(message.contains(part), "{message}");
    }
    bed.open_one(&config(9000 - 28))?;
    Ok(())
}
