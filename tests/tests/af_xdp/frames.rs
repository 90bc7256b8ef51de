//! Where do the frames go? After any amount of traffic all of them must be found again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringspan::engine::port::{OuterRx, OuterTx};
use ringspan::io::xdp::{Mode, XdpConfig};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;

use crate::bed::{
    BOTH_MODES, Bed, FAMILIES, FAR, PATIENCE, PORT, open, payload, receive, receive_each, send,
};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test("no_receive_frame_is_lost", needs, no_receive_frame_is_lost)
        .test("no_send_frame_is_lost", needs, no_send_frame_is_lost)
        .test(
            "a_full_ring_reports_its_drops",
            needs,
            a_full_ring_reports_its_drops,
        )
        .test("rings_talk_to_rings", needs, rings_talk_to_rings)
}

const MANY: usize = 100_000;

fn no_receive_frame_is_lost() -> TestResult {
    for mode in BOTH_MODES {
        let bed = Bed::new(1)?;
        let config = XdpConfig {
            attach: mode,
            rx_ring: 256,
            rx_frames: 512,
            ..XdpConfig::default()
        };
        let (_program, mut rx, _tx) = bed.open_one(&config)?;
        let socket = bed.socket(FAMILIES[0].1)?;
        let to = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
        let mut expected = 0u32;
        while (expected as usize) < MANY {
            // Fewer at a time than the ring takes, so that each must arrive.
            let burst = 200;
            for seed in expected..expected + burst {
                socket.send_to(&seed.to_le_bytes(), to)?;
            }
            let received = receive_each(&mut rx, burst as usize, |received| {
                assert_eq!(received.payload, expected.to_le_bytes(), "{mode}");
                expected += 1;
            });
            assert_eq!(received, burst as usize, "{mode}");
        }
        let frames = rx.frames();
        assert_eq!((frames.total, frames.rx_ring, frames.lent), (512, 0, 0));
        assert!(frames.in_kernel() <= 1, "{mode}: {frames:?}");
        let kernel = rx.socket_statistics();
        assert_eq!(kernel, Default::default(), "{mode}");
    }
    Ok(())
}

fn no_send_frame_is_lost() -> TestResult {
    let bed = Bed::new(1)?;
    let mut config = bed.config(Mode::Native);
    config.tx_ring = 128;
    let (_program, _rx, tx) = bed.open_one(&config)?;
    let mut tx = tx.ok_or("a sending half")?;
    // Two families, so that frames with and without room for the longer header change places.
    let (four, six) = (bed.socket(FAMILIES[0].1)?, bed.socket(FAMILIES[1].1)?);
    let mut accepted = 0;
    let mut batch = 0usize;
    while accepted < MANY {
        let to = if batch.is_multiple_of(2) { &four } else { &six };
        let payloads: Vec<_> = (0..1 + batch % 200)
            .map(|i| payload(i as u32, (batch * 7 + i) % 1400))
            .collect();
        let sent = send(&mut tx, to.local_addr()?, 0, &payloads);
        assert_eq!(sent.accepted + sent.dropped, payloads.len());
        // More than the ring holds: the rest is dropped, and the ring taken whole.
        assert!(sent.accepted >= payloads.len().min(64), "{sent:?}");
        accepted += sent.accepted;
        batch += 1;
    }
    let deadline = Instant::now() + PATIENCE;
    while tx.frames().free < 128 && Instant::now() < deadline {
        tx.flush();
        // Frames come back when the receiver's socket buffer lets go of them.
        let mut buffer = [0; 2048];
        for socket in [&four, &six] {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut buffer).is_ok() {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let frames = tx.frames();
    assert_eq!((frames.total, frames.free), (128, 128), "{frames:?}");
    assert_eq!(tx.socket_statistics().tx_invalid_descs, 0);
    Ok(())
}

fn a_full_ring_reports_its_drops() -> TestResult {
    for mode in BOTH_MODES {
        let bed = Bed::new(1)?;
        let config = XdpConfig {
            attach: mode,
            rx_ring: 64,
            rx_frames: 128,
            ..XdpConfig::default()
        };
        let (_program, mut rx, _tx) = bed.open_one(&config)?;
        let socket = bed.socket(FAMILIES[0].1)?;
        let to = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
        for seed in 0..500u32 {
            socket.send_to(&seed.to_le_bytes(), to)?;
        }
        // The first that fit are there, in order; the rest is counted.
        let received = receive(&mut rx, 64);
        for (seed, received) in received.iter().enumerate() {
            assert_eq!(received.payload, (seed as u32).to_le_bytes());
        }
        let kernel = rx.socket_statistics();
        assert_eq!(
            kernel.rx_ring_full + kernel.rx_dropped,
            500 - 64,
            "{mode}: {kernel:?}"
        );
        assert!(kernel.rx_ring_full > 0, "{mode}: {kernel:?}");

        // And it goes on.
        socket.send_to(b"afterwards", to)?;
        assert_eq!(receive(&mut rx, 1)[0].payload, b"afterwards");
        assert!(rx.frames().in_kernel() <= 1, "{:?}", rx.frames());
    }
    Ok(())
}

/// Both ends are ours: XDP on both ends of the veth.
fn rings_talk_to_rings() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    let (_far_program, queues) = bed.far.run(|| open(FAR, &XdpConfig::default()))?;
    let (mut rx, _) = queues.into_iter().next().ok_or("a queue")?.split();
    let to = SocketAddr::new(FAMILIES[1].1.parse()?, PORT);
    for round in 0..200u32 {
        let payloads: Vec<_> = (0..100)
            .map(|i| payload(round * 100 + i, 1452 - (i as usize % 7)))
            .collect();
        let sent = send(&mut tx, to, 0, &payloads);
        assert_eq!(sent.accepted, 100);
        let mut expected = payloads.iter();
        let count = receive_each(&mut rx, 100, |received| {
            assert_eq!(Some(&received.payload), expected.next());
        });
        assert_eq!(count, 100, "round {round}");
    }
    assert_eq!(rx.recv_batch(&mut |_| ())?, 0);
    Ok(())
}
