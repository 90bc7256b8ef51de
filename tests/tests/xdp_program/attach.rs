//! Attaching: native and generic, never at another program's cost, gone with its owner.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use ringspan::io::xdp::program::{AttachError, AttachedMode, Mode, XdpProgram};
use ringspan_tests::child::Role;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_xdp_common::Verdict;
use rustix::net::{AddressFamily, SocketType, socket};

use super::{PORT, count, load};

pub(super) fn add(suite: Suite, needs: &[Need]) -> Suite {
    let with_socket = [needs, &[Need::AfXdp]].concat();
    suite
        .test("steers_in_native_mode", &with_socket, || {
            steers(Mode::Native)
        })
        .test("steers_in_generic_mode", &with_socket, || {
            steers(Mode::Generic)
        })
        .test("auto_prefers_native", needs, auto_prefers_native)
        .test("auto_falls_back_to_generic", needs, auto_falls_back)
        .test("never_displaces_a_link", needs, never_displaces_a_link)
        .test("never_displaces_by_netlink", needs, never_displaces_netlink)
        .test("one_interface_a_program", needs, one_interface_a_program)
        .test("no_such_interface", needs, no_such_interface)
        .test("vanishes_with_its_owner", needs, vanishes_with_its_owner)
        .test("large_frames_reach_the_kernel", needs, large_frames)
}

/// Attaches to the interface whose index is its argument, says so, and waits to be killed.
pub(super) const OWNER: Role = Role {
    name: "owner",
    main: |arguments| {
        let attach = || -> Result<XdpProgram, Box<dyn std::error::Error>> {
            let index = arguments.first().ok_or("no interface")?.parse()?;
            let mut program = load(&[PORT])?;
            program.attach(index, Mode::Auto)?;
            Ok(program)
        };
        match attach() {
            Ok(_program) => {
                let mut out = std::io::stdout();
                let _ = out.write_all(b"attached\n").and_then(|()| out.flush());
                std::thread::sleep(Duration::from_secs(600));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    },
};

/// Two namespaces joined by a veth; the program goes on `link` in `b`.
struct Bed {
    a: Namespace,
    b: Namespace,
    link: u32,
}

const A: [u8; 4] = [10, 20, 30, 1];
const B: [u8; 4] = [10, 20, 30, 2];

impl Bed {
    fn new(mtu: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        Veth {
            mtu,
            ..Veth::default()
        }
        .join(&a, "xa", &b, "xb")?;
        for (namespace, link, address) in [(&a, "xa", A), (&b, "xb", B)] {
            namespace.add_address(link, ipnet::IpNet::new(IpAddr::from(address), 24)?)?;
        }
        let link = b.index("xb")?;
        Ok(Self { a, b, link })
    }

    fn attach(&self, program: &mut XdpProgram, mode: Mode) -> Result<AttachedMode, AttachError> {
        self.b.run(|| program.attach(self.link, mode))
    }

    fn receiver(&self, port: u16) -> std::io::Result<UdpSocket> {
        self.b.run(|| {
            let socket = UdpSocket::bind(SocketAddr::from((B, port)))?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(socket)
        })
    }

    fn sender(&self) -> std::io::Result<UdpSocket> {
        self.a.run(|| UdpSocket::bind(SocketAddr::from((A, 0))))
    }
}

fn steers(mode: Mode) -> TestResult {
    let bed = Bed::new(1500)?;
    let mut program = load(&[PORT])?;
    bed.attach(&mut program, mode)?;
    assert_eq!(
        program.attached().map(|mode| mode.to_string()),
        Some(mode.to_string())
    );

    let (ours, other) = (bed.receiver(PORT)?, bed.receiver(PORT + 1)?);
    let sender = bed.sender()?;
    let mut buffer = [0; 2000];
    let mut exchange = |to: &UdpSocket, text: &str| -> TestResult {
        sender.send_to(text.as_bytes(), to.local_addr()?)?;
        let (length, _) = to.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..length], text.as_bytes());
        Ok(())
    };
    exchange(&ours, "no socket is registered")?;
    assert_eq!(count(&program, Verdict::NoSocket)?, 1);
    exchange(&other, "another port")?;
    assert_eq!(count(&program, Verdict::OtherPort)?, 1);

    // With a socket our datagrams leave the kernel's path, and no others. The socket is not bound
    // to the queue, so they end there.
    let xdp = socket(AddressFamily::XDP, SocketType::RAW, None)?;
    program.register(0, xdp.as_fd())?;
    for _ in 0..5 {
        sender.send_to(b"for the rings", ours.local_addr()?)?;
    }
    exchange(&other, "another port still")?;
    assert_eq!(count(&program, Verdict::Redirected)?, 5);
    program.unregister(0)?;
    exchange(&ours, "back to the kernel")?;

    // Detached, it sees nothing more.
    program.detach();
    assert_eq!(program.attached(), None);
    let before = program.counters()?;
    exchange(&ours, "without the program")?;
    assert_eq!(program.counters()?, before);
    Ok(())
}

fn auto_prefers_native() -> TestResult {
    let bed = Bed::new(1500)?;
    let mut program = load(&[PORT])?;
    assert_eq!(bed.attach(&mut program, Mode::Auto)?, AttachedMode::Native);
    Ok(())
}

/// A bridge has no native XDP.
fn auto_falls_back() -> TestResult {
    let namespace = Namespace::new("bridged")?;
    namespace.add_bridge("br")?;
    let bridge = namespace.index("br")?;
    let mut program = load(&[PORT])?;
    let refused = namespace.run(|| program.attach(bridge, Mode::Native));
    assert!(
        matches!(&refused, Err(AttachError::Refused { interface, mode: Mode::Native, .. })
            if interface == "br"),
        "{refused:?}"
    );
    let mode = namespace.run(|| program.attach(bridge, Mode::Auto))?;
    assert_eq!(mode, AttachedMode::Generic);
    Ok(())
}

/// Every way of attaching is refused, and the error names the program that is there.
fn assert_refused(bed: &Bed, id: u32) -> TestResult {
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let mut program = load(&[PORT])?;
        match bed.attach(&mut program, mode) {
            Err(AttachError::Occupied {
                interface,
                occupant,
            }) => {
                assert_eq!(interface, "xb");
                assert_eq!(occupant.id, Some(id));
                assert_eq!(occupant.name.as_deref(), Some("ringspan_steer"));
            }
            other => panic!("{mode}: {other:?}"),
        }
        assert_eq!(program.attached(), None);
    }
    Ok(())
}

/// Traffic still runs through `program`.
fn assert_at_work(bed: &Bed, program: &XdpProgram) -> TestResult {
    let before = count(program, Verdict::NoSocket)?;
    let receiver = bed.receiver(PORT)?;
    bed.sender()?.send_to(b"x", receiver.local_addr()?)?;
    receiver.recv_from(&mut [0; 8])?;
    assert_eq!(count(program, Verdict::NoSocket)?, before + 1);
    Ok(())
}

fn never_displaces_a_link() -> TestResult {
    for mode in [Mode::Native, Mode::Generic] {
        let bed = Bed::new(1500)?;
        let mut stranger = load(&[PORT])?;
        bed.attach(&mut stranger, mode)?;
        assert_refused(&bed, program_id(&stranger)?)?;
        assert_at_work(&bed, &stranger)?;
        drop(stranger);
        let mut program = load(&[PORT])?;
        bed.attach(&mut program, Mode::Auto)?;
    }
    Ok(())
}

/// The same for a program that was attached as `ip link set dev xb xdp` does it.
fn never_displaces_netlink() -> TestResult {
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    for flags in [XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE] {
        let bed = Bed::new(1500)?;
        let stranger = load(&[PORT])?;
        let fd = stranger.as_fd().as_raw_fd();
        bed.b.run(|| set_xdp(bed.link, fd, flags))?;
        assert_refused(&bed, program_id(&stranger)?)?;
        assert_at_work(&bed, &stranger)?;
    }
    Ok(())
}

/// RTM_SETLINK with IFLA_XDP.
fn set_xdp(link: u32, program: i32, flags: u32) -> std::io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.attributes = vec![LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program),
        LinkXdp::Flags(flags),
    ])];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::SetLink(message).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(std::io::Error::other)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

/// The kernel's number for a loaded program, from its descriptor.
fn program_id(program: &XdpProgram) -> Result<u32, Box<dyn std::error::Error>> {
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path)?;
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
    Ok(id.ok_or("no prog_id")?.trim().parse()?)
}

fn one_interface_a_program() -> TestResult {
    let bed = Bed::new(1500)?;
    let mut program = load(&[PORT])?;
    bed.attach(&mut program, Mode::Native)?;
    let again = bed.attach(&mut program, Mode::Native);
    assert!(matches!(&again, Err(AttachError::Attached(name)) if name == "xb"));
    program.detach();
    bed.attach(&mut program, Mode::Generic)?;
    Ok(())
}

fn no_such_interface() -> TestResult {
    let mut program = load(&[PORT])?;
    let namespace = Namespace::new("empty")?;
    let refused = namespace.run(|| program.attach(4711, Mode::Auto));
    assert!(
        matches!(refused, Err(AttachError::NoInterface(4711))),
        "{refused:?}"
    );
    Ok(())
}

/// A process that is killed has no chance to clean up; the kernel does.
fn vanishes_with_its_owner() -> TestResult {
    let bed = Bed::new(1500)?;
    let index = bed.link.to_string();
    let mut owner = bed.b.spawn_role(&OWNER, &[&index], |command| {
        command.stdout(Stdio::piped());
    })?;
    let mut line = String::new();
    let stdout = owner.streams().stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    assert_eq!(line, "attached\n");

    let mut program = load(&[PORT])?;
    let refused = bed.attach(&mut program, Mode::Auto);
    assert!(
        matches!(refused, Err(AttachError::Occupied { .. })),
        "{refused:?}"
    );
    owner.streams().kill()?;
    owner.streams().wait()?;
    // The kernel frees the link of a dead process after the wait returns, not before.
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match bed.attach(&mut program, Mode::Auto) {
            Ok(_) => return Ok(()),
            Err(AttachError::Occupied { .. }) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The program does not stand in the way of jumbo frames: it attaches, and what does not fit into
/// one buffer reaches the kernel's socket.
fn large_frames() -> TestResult {
    let bed = Bed::new(9000)?;
    let mut program = load(&[PORT])?;
    bed.attach(&mut program, Mode::Native)?;
    let receiver = bed.receiver(PORT)?;
    let sent = vec![0x5a; 8900];
    bed.sender()?.send_to(&sent, receiver.local_addr()?)?;
    let mut buffer = vec![0; 10000];
    let (length, _) = receiver.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], &sent);
    assert_eq!(count(&program, Verdict::Malformed)?, 1);
    Ok(())
}
