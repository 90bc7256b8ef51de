//! Every verdict, by a frame made for it and run through BPF_PROG_RUN.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use ringspan::io::xdp::program::{LocalAddresses, UpdateError, XdpProgram};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use ringspan_xdp_common::Verdict;
use ringspan_xdp_common::builder::FrameBuilder;
use ringspan_xdp_common::maps::{MAX_ADDRESSES, MAX_QUEUES};
use rustix::net::{AddressFamily, SocketType, socket};

use super::{PORT, count, load};

pub(super) const XDP_PASS: u32 = 2;
pub(super) const XDP_REDIRECT: u32 = 4;

pub(super) fn add(suite: Suite, needs: &[Need]) -> Suite {
    let with_socket = [needs, &[Need::AfXdp]].concat();
    suite
        .test("ours_without_a_socket", needs, ours_without_a_socket)
        .test("ours_with_a_socket", &with_socket, ours_with_a_socket)
        .test("other_ports", needs, other_ports)
        .test("ports_change", needs, ports_change)
        .test("other_addresses", needs, other_addresses)
        .test("address_limit", needs, address_limit)
        .test("other_protocols", needs, other_protocols)
        .test("fragments", needs, fragments)
        .test("malformed_frames", needs, malformed_frames)
        .test("every_truncation", needs, every_truncation)
        .test("first_buffer_only", needs, first_buffer_only)
        .test("several_buffers", &with_socket, several_buffers)
        .test("queue_limit", needs, queue_limit)
}

fn v4() -> FrameBuilder {
    let source = "192.0.2.1:40000".parse().expect("an address");
    let destination = format!("192.0.2.2:{PORT}").parse().expect("an address");
    FrameBuilder::new(source, destination, b"a datagram")
}

fn v6() -> FrameBuilder {
    let source = "[2001:db8::1]:40000".parse().expect("an address");
    let destination = format!("[2001:db8::2]:{PORT}").parse().expect("an address");
    FrameBuilder::new(source, destination, b"a datagram")
}

/// Well-formed datagrams to our port, of every shape that the program must know.
fn shapes() -> Vec<FrameBuilder> {
    let mut shapes = Vec::new();
    for plain in [v4(), v6()] {
        shapes.push(plain.clone());
        shapes.push(plain.clone().tag(100));
        shapes.push(plain.clone().tag(0xe064));
        shapes.push(plain.clone().tag(7).tag(100));
        shapes.push(FrameBuilder {
            padding: 40,
            ..plain.clone()
        });
        shapes.push(FrameBuilder {
            payload: Vec::new(),
            ..plain.clone()
        });
        shapes.push(FrameBuilder {
            payload: vec![3; 1452],
            ..plain
        });
    }
    for words in 1..=10 {
        shapes.push(FrameBuilder {
            options: vec![1; 4 * words],
            ..v4()
        });
    }
    shapes.push(
        FrameBuilder {
            options: vec![1; 40],
            ..v4()
        }
        .tag(1)
        .tag(2),
    );
    shapes
}

/// Runs `frame` and expects `verdict` to be counted, it alone, and the action to be `action`.
fn expect(program: &mut XdpProgram, frame: &[u8], action: u32, verdict: Verdict) -> TestResult {
    let before = program.counters()?;
    assert_eq!(
        program.test_run(frame)?,
        action,
        "{verdict:?}: {frame:02x?}"
    );
    let after = program.counters()?;
    for ((name, then), (_, now)) in before.into_iter().zip(after) {
        let raised = u64::from(name == verdict.name());
        assert_eq!(now - then, raised, "{name} for {verdict:?}: {frame:02x?}");
    }
    Ok(())
}

fn expect_pass(program: &mut XdpProgram, frame: &FrameBuilder, verdict: Verdict) -> TestResult {
    expect(program, &frame.build(), XDP_PASS, verdict)
}

fn xdp_socket() -> Result<OwnedFd, rustix::io::Errno> {
    socket(AddressFamily::XDP, SocketType::RAW, None)
}

fn ours_without_a_socket() -> TestResult {
    let mut program = load(&[PORT])?;
    for frame in shapes() {
        expect_pass(&mut program, &frame, Verdict::NoSocket)?;
    }
    Ok(())
}

/// BPF_PROG_RUN stands for queue 0 of the loopback interface.
fn ours_with_a_socket() -> TestResult {
    let mut program = load(&[PORT])?;
    let socket = xdp_socket()?;
    program.register(1, socket.as_fd())?;
    expect_pass(&mut program, &v4(), Verdict::NoSocket)?;
    program.register(0, socket.as_fd())?;
    for frame in shapes() {
        expect(
            &mut program,
            &frame.build(),
            XDP_REDIRECT,
            Verdict::Redirected,
        )?;
    }
    program.unregister(0)?;
    expect_pass(&mut program, &v4(), Verdict::NoSocket)?;
    program.unregister(0)?;

    // A socket that is closed leaves the map by itself.
    program.register(0, socket.as_fd())?;
    program.unregister(1)?;
    drop(socket);
    expect_pass(&mut program, &v4(), Verdict::NoSocket)
}

fn other_ports() -> TestResult {
    let mut program = load(&[PORT])?;
    let socket = xdp_socket();
    if let Ok(socket) = &socket {
        program.register(0, socket.as_fd())?;
    }
    for frame in shapes() {
        for port in [
            0,
            1,
            PORT - 1,
            PORT + 1,
            PORT ^ 64,
            PORT.swap_bytes(),
            u16::MAX,
        ] {
            let mut frame = frame.clone();
            frame.destination.set_port(port);
            // Our port as the source is no reason to take it.
            frame.source.set_port(PORT);
            expect_pass(&mut program, &frame, Verdict::OtherPort)?;
        }
    }
    Ok(())
}

fn ports_change() -> TestResult {
    let mut program = load(&[])?;
    let check = |program: &mut XdpProgram, ours: &[u16]| -> TestResult {
        for port in [0, 1, 63, 64, 51820, 51821, 51884, 65535] {
            let mut frame = v6();
            frame.destination.set_port(port);
            let verdict = if ours.contains(&port) {
                Verdict::NoSocket
            } else {
                Verdict::OtherPort
            };
            expect_pass(program, &frame, verdict)?;
        }
        Ok(())
    };
    check(&mut program, &[])?;
    for ours in [
        &[51820, 51821, 0, 65535][..],
        &[51821, 64],
        &[51820, 51820],
        &[],
        &[63, 64],
    ] {
        program.set_ports(ours)?;
        check(&mut program, ours)?;
    }
    Ok(())
}

fn other_addresses() -> TestResult {
    let mut program = load(&[PORT])?;
    let (ours4, ours6) = (v4().destination.ip(), v6().destination.ip());
    let [other4, other6]: [IpAddr; 2] = ["192.0.2.3".parse()?, "2001:db8::3".parse()?];
    let to = |frame: FrameBuilder, ip: IpAddr| {
        let mut frame = FrameBuilder {
            options: frame.options.clone(),
            ..frame
        };
        frame.destination.set_ip(ip);
        frame
    };
    for (ours, verdicts) in [
        (
            LocalAddresses::Only(&[ours4, ours6]),
            [Verdict::NoSocket, Verdict::NoSocket],
        ),
        (
            LocalAddresses::Only(&[ours6]),
            [Verdict::OtherAddress, Verdict::NoSocket],
        ),
        (
            LocalAddresses::Only(&[ours4]),
            [Verdict::NoSocket, Verdict::OtherAddress],
        ),
        (
            LocalAddresses::Only(&[]),
            [Verdict::OtherAddress, Verdict::OtherAddress],
        ),
    ] {
        program.set_addresses(ours)?;
        for frame in shapes() {
            let verdict = verdicts[usize::from(frame.destination.is_ipv6())];
            expect_pass(&mut program, &frame, verdict)?;
        }
        expect_pass(&mut program, &to(v4(), other4), Verdict::OtherAddress)?;
        expect_pass(&mut program, &to(v6(), other6), Verdict::OtherAddress)?;
    }
    program.set_addresses(LocalAddresses::Any)?;
    expect_pass(&mut program, &to(v4(), other4), Verdict::NoSocket)?;
    expect_pass(&mut program, &to(v6(), other6), Verdict::NoSocket)
}

fn address_limit() -> TestResult {
    let mut program = load(&[PORT])?;
    let block = |second: u8, count: u32| -> Vec<IpAddr> {
        (0..count)
            .map(|n| IpAddr::from([10, second, (n >> 8) as u8, n as u8]))
            .collect()
    };
    let too_many = block(1, MAX_ADDRESSES + 1);
    let refused = program.set_addresses(LocalAddresses::Only(&too_many));
    assert!(
        matches!(refused, Err(UpdateError::TooManyAddresses { count, .. })
        if count == too_many.len())
    );
    expect_pass(&mut program, &v4(), Verdict::NoSocket)?;

    // A full map gives way to another full set.
    for second in [1, 2] {
        let full = block(second, MAX_ADDRESSES);
        program.set_addresses(LocalAddresses::Only(&full))?;
        for (address, verdict) in [
            (full[0], Verdict::NoSocket),
            (full[full.len() - 1], Verdict::NoSocket),
            ("10.3.0.0".parse()?, Verdict::OtherAddress),
        ] {
            let mut frame = v4();
            frame.destination.set_ip(address);
            expect_pass(&mut program, &frame, verdict)?;
        }
    }
    Ok(())
}

fn other_protocols() -> TestResult {
    let mut program = load(&[PORT])?;
    for protocol in [0, 1, 6, 47, 58, 44, 255] {
        for frame in shapes() {
            let frame = FrameBuilder { protocol, ..frame };
            expect_pass(&mut program, &frame, Verdict::OtherProtocol)?;
        }
    }
    for ether_type in [0x0806_u16, 0x8847, 0x88cc, 46] {
        let mut frame = v4().build();
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        expect(&mut program, &frame, XDP_PASS, Verdict::OtherProtocol)?;
    }
    expect_pass(
        &mut program,
        &v4().tag(1).tag(2).tag(3),
        Verdict::OtherProtocol,
    )
}

fn fragments() -> TestResult {
    let mut program = load(&[PORT])?;
    for fragment in [0x2000, 0x0001, 0x00b9, 0x20b9, 0x1fff, 0xa000] {
        for options in [0, 40] {
            let frame = FrameBuilder {
                fragment,
                options: vec![0; options],
                ..v4()
            };
            expect_pass(&mut program, &frame, Verdict::Fragment)?;
        }
    }
    Ok(())
}

fn malformed_frames() -> TestResult {
    let mut program = load(&[PORT])?;
    for frame in shapes() {
        // The IP packet claims more than the frame has (a card cut it short), or too little for
        // the UDP header; UDP claims more than the IP packet has, or less than its own header.
        let beyond_frame = frame.padding as u16 + 1;
        let below_udp = 0_u16.wrapping_sub(frame.payload.len() as u16 + 1);
        for wrong in [
            FrameBuilder {
                ip_length_error: beyond_frame,
                ..frame.clone()
            },
            FrameBuilder {
                ip_length_error: below_udp,
                ..frame.clone()
            },
            FrameBuilder {
                udp_length_error: 1,
                ..frame.clone()
            },
            FrameBuilder {
                udp_length_error: below_udp,
                ..frame.clone()
            },
        ] {
            expect_pass(&mut program, &wrong, Verdict::Malformed)?;
        }
    }
    for first in [0x44, 0x40, 0x35, 0x65, 0x05, 0x4f] {
        let mut frame = v4().build();
        frame[14] = first;
        expect(&mut program, &frame, XDP_PASS, Verdict::Malformed)?;
    }
    Ok(())
}

fn every_truncation() -> TestResult {
    let mut program = load(&[PORT])?;
    for frame in [v4(), v6(), v4().tag(1), v6().tag(1).tag(2)] {
        let bytes = frame.build();
        // 14: BPF_PROG_RUN takes no less than an Ethernet header.
        for length in 14..bytes.len() {
            expect(&mut program, &bytes[..length], XDP_PASS, Verdict::Malformed)?;
        }
        expect_pass(&mut program, &frame, Verdict::NoSocket)?;
    }
    Ok(())
}

/// Where the sockets take no frames of several buffers, what is not whole in the first is the kernel's.
fn first_buffer_only() -> TestResult {
    let mut program = load(&[PORT])?;
    for frame in [v4(), v6()] {
        let small = FrameBuilder {
            payload: vec![1; 3000],
            ..frame.clone()
        };
        expect_pass(&mut program, &small, Verdict::NoSocket)?;
        let large = FrameBuilder {
            payload: vec![1; 8000],
            ..frame
        };
        expect_pass(&mut program, &large, Verdict::Malformed)?;
    }
    Ok(())
}

/// Where the sockets take frames of several buffers, all buffers count.
fn several_buffers() -> TestResult {
    let mut program = load(&[PORT])?;
    program.set_multi_buffer(true)?;
    let socket = xdp_socket()?;
    for plain in [v4(), v6(), v4().tag(1), v6().tag(1).tag(2)] {
        for length in [10, 3000, 3400, 3500, 3800, 4096, 8000, 8952, 20_000, 60_000] {
            let frame = FrameBuilder {
                payload: vec![1; length],
                ..plain.clone()
            };
            expect_pass(&mut program, &frame, Verdict::NoSocket)?;
            program.register(0, socket.as_fd())?;
            expect(
                &mut program,
                &frame.build(),
                XDP_REDIRECT,
                Verdict::Redirected,
            )?;
            program.unregister(0)?;
            let mut other = frame.clone();
            other.destination.set_port(PORT + 1);
            expect_pass(&mut program, &other, Verdict::OtherPort)?;
            // One byte is missing at the end of the last buffer, or claimed beyond it.
            let mut cut = frame.build();
            cut.pop();
            expect(&mut program, &cut, XDP_PASS, Verdict::Malformed)?;
            for wrong in [
                FrameBuilder {
                    ip_length_error: 1,
                    ..frame.clone()
                },
                FrameBuilder {
                    udp_length_error: 1,
                    ..frame.clone()
                },
            ] {
                expect_pass(&mut program, &wrong, Verdict::Malformed)?;
            }
        }
    }
    program.set_multi_buffer(false)?;
    let large = FrameBuilder {
        payload: vec![1; 8000],
        ..v4()
    };
    expect_pass(&mut program, &large, Verdict::Malformed)
}

fn queue_limit() -> TestResult {
    let mut program = load(&[PORT])?;
    let stdin = std::io::stdin();
    for queue in [MAX_QUEUES, u32::MAX] {
        let refused = program.register(queue, stdin.as_fd());
        assert!(matches!(refused, Err(UpdateError::NoSuchQueue { queue: q, .. }) if q == queue));
        assert!(program.unregister(queue).is_err());
    }
    // Not an AF_XDP socket.
    let refused = program.register(0, stdin.as_fd());
    assert!(
        matches!(refused, Err(UpdateError::Kernel { .. })),
        "{refused:?}"
    );
    assert_eq!(count(&program, Verdict::Redirected)?, 0);
    Ok(())
}
