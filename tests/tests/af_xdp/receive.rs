//! Kernel socket → veth → XDP → RX ring.

use std::net::SocketAddr;

use ringspan::engine::port::Pollable;
use ringspan::io::xdp::{Mode, XdpConfig};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use rustix::net::sockopt::{set_ip_tos, set_ipv6_tclass};

use crate::bed::{BOTH_MODES, Bed, FAMILIES, PORT, payload, receive};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test("datagrams_arrive_intact", needs, datagrams_arrive_intact)
        .test("ecn_is_reported", needs, ecn_is_reported)
        .test("every_queue_receives", needs, every_queue_receives)
        .test(
            "others_stay_with_the_kernel",
            needs,
            others_stay_with_the_kernel,
        )
}

fn datagrams_arrive_intact() -> TestResult {
    for mode in BOTH_MODES {
        let bed = Bed::new(1)?;
        let (_program, mut rx, _tx) = bed.open_one(&bed.config(mode))?;
        let index = bed.near.index(crate::bed::NEAR)?;
        for (near, far) in FAMILIES {
            let socket = bed.socket(far)?;
            let to = SocketAddr::new(near.parse()?, PORT);
            // Up to a full frame: 1500 bytes less IP and UDP header.
            let largest = if to.is_ipv4() { 1472 } else { 1452 };
            let lengths = [0, 1, 31, 32, 33, 148, 1000, largest - 1, largest];
            for (seed, length) in lengths.into_iter().enumerate() {
                socket.send_to(&payload(seed as u32, length), to)?;
            }
            let received = receive(&mut rx, lengths.len());
            assert_eq!(received.len(), lengths.len(), "{mode} {far}");
            for (seed, (received, length)) in received.iter().zip(lengths).enumerate() {
                assert_eq!(
                    received.payload,
                    payload(seed as u32, length),
                    "{mode} {far}"
                );
                assert_eq!(received.from.remote, socket.local_addr()?);
                assert_eq!(received.from.local, Some(near.parse()?));
                assert_eq!(received.from.interface, index);
            }
        }
        let info = rx.info();
        let expected = format!("copy, {mode}, need-wakeup");
        assert!(info.mode.starts_with(&expected), "{info:?}");
        assert_eq!((info.driver, info.queue), ("xdp", Some(0)));
    }
    Ok(())
}

fn ecn_is_reported() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, mut rx, _tx) = bed.open_one(&bed.config(Mode::Native))?;
    for (near, far) in FAMILIES {
        let socket = bed.socket(far)?;
        for ecn in 0..4u8 {
            let tos = 0x88 | ecn;
            if near.contains(':') {
                set_ipv6_tclass(&socket, tos.into())?;
            } else {
                set_ip_tos(&socket, tos)?;
            }
            socket.send_to(b"marked", SocketAddr::new(near.parse()?, PORT))?;
            let received = receive(&mut rx, 1);
            assert_eq!(received[0].ecn, ecn, "{far}");
        }
    }
    Ok(())
}

fn every_queue_receives() -> TestResult {
    const QUEUES: u32 = 2;
    const FLOWS: usize = 32;
    for mode in BOTH_MODES {
        let bed = Bed::new(QUEUES)?;
        let (_program, queues) = bed.open(&bed.config(mode))?;
        assert_eq!(queues.len(), QUEUES as usize);
        let to = SocketAddr::new(FAMILIES[0].0.parse()?, PORT);
        let sockets: Vec<_> = (0..FLOWS)
            .map(|_| bed.socket(FAMILIES[0].1))
            .collect::<Result<_, _>>()?;
        for (seed, socket) in sockets.iter().enumerate() {
            socket.send_to(&payload(seed as u32, 100), to)?;
        }
        let mut left = FLOWS;
        let mut busy = 0;
        for (number, queue) in queues.into_iter().enumerate() {
            assert_eq!(queue.queue(), number as u32);
            let (mut rx, _tx) = queue.split();
            assert_eq!(rx.info().queue, Some(number as u32));
            // The sender's stack has delivered them when `send_to` returned, or nearly so.
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut here = 0;
            loop {
                use ringspan::engine::port::OuterRx;
                match rx.recv_batch(&mut |datagrams| {
                    for datagram in datagrams {
                        let seed = sockets.iter().position(|socket| {
                            socket.local_addr().is_ok_and(|a| a == datagram.from.remote)
                        });
                        let seed = seed.expect("one of the flows") as u32;
                        assert_eq!(datagram.payload, payload(seed, 100));
                    }
                })? {
                    0 => break,
                    count => here += count,
                }
            }
            busy += u32::from(here > 0);
            left -= here;
        }
        assert_eq!(left, 0, "{mode}");
        // A veth picks the queue by the flow's hash in native mode; 32 flows miss one of two
        // queues once in 2^31 runs.
        if mode == Mode::Native {
            assert_eq!(busy, QUEUES);
        }
    }
    Ok(())
}

fn others_stay_with_the_kernel() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, mut rx, _tx) = bed.open_one(&XdpConfig::default())?;
    for (near, far) in FAMILIES {
        let ours = SocketAddr::new(near.parse()?, PORT);
        let theirs = SocketAddr::new(near.parse()?, PORT + 1);
        let kernel = bed.near.run(|| std::net::UdpSocket::bind(theirs))?;
        kernel.set_read_timeout(Some(crate::bed::PATIENCE))?;
        let socket = bed.socket(far)?;
        socket.send_to(b"for the kernel", theirs)?;
        socket.send_to(b"for the ring", ours)?;
        let mut buffer = [0; 64];
        let length = kernel.recv(&mut buffer)?;
        assert_eq!(&buffer[..length], b"for the kernel");
        let received = receive(&mut rx, 1);
        assert_eq!(received[0].payload, b"for the ring");
    }
    Ok(())
}
