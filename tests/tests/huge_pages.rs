//! The UMEM on huge pages: with some to be had, and with none. The machine's number of huge pages is
//! changed for that, and put back.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use ringspan::engine::port::{OuterRx, Pollable};
use ringspan::io::xdp::{XdpConfig, XdpDriver, XdpProgram};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use rustix::fs::{FlockOperation, flock};

const NEEDS: &[Need] = &[Need::Namespaces, Need::Bpf, Need::AfXdp, Need::HugePages];
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const PORT: u16 = 51820;
/// More than this test needs: a tunnel that runs beside it may take twelve.
const RESERVED: u64 = 32;

fn main() -> ExitCode {
    Suite::new()
        .test("huge_pages_are_used", NEEDS, || opens_with(RESERVED))
        .test("ordinary_pages_serve_too", NEEDS, || opens_with(0))
        .serial()
        .main()
}

fn number(file: &str) -> Result<u64, Box<dyn Error>> {
    Ok(fs::read_to_string(format!("{POOL}/{file}"))?
        .trim()
        .parse()?)
}

/// The machine's huge pages, as they were before; for one process at a time.
struct Pool {
    before: u64,
    _alone: File,
}

impl Pool {
    fn set(pages: u64) -> Result<Self, Box<dyn Error>> {
        let alone = File::create(std::env::temp_dir().join("ringspan-huge-pages.lock"))?;
        flock(&alone, FlockOperation::LockExclusive)?;
        let pool = Self {
            before: number("nr_hugepages")?,
            _alone: alone,
        };
        fs::write(format!("{POOL}/nr_hugepages"), pages.to_string())?;
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = fs::write(format!("{POOL}/nr_hugepages"), self.before.to_string()) {
            eprintln!("{} huge pages could not be put back: {error}", self.before);
        }
    }
}

fn opens_with(pages: u64) -> TestResult {
    let _pool = Pool::set(pages)?;
    let free = number("free_hugepages")?;
    assert_eq!(
        free > 0,
        pages > 0,
        "{free} free of {pages}: the machine has no memory for them"
    );
    let (near, far) = (Namespace::new("huge near")?, Namespace::new("huge far")?);
    Veth::default().join(&near, "near0", &far, "far0")?;
    near.add_address("near0", "10.9.0.1/24".parse::<ipnet::IpNet>()?)?;
    far.add_address("far0", "10.9.0.2/24".parse::<ipnet::IpNet>()?)?;
    let config = XdpConfig {
        rx_ring: 64,
        rx_frames: 64,
        ..XdpConfig::default()
    };
    let opened = near.run(|| {
        let mut program = XdpProgram::load(&[PORT]).map_err(io::Error::other)?;
        let queues = XdpDriver::open("near0", &mut program, &config).map_err(io::Error::other)?;
        Ok::<_, io::Error>((program, queues))
    });
    let (_program, mut queues) = opened?;
    let (mut rx, _) = queues.pop().ok_or("a queue")?.split();
    let mode = rx.info().mode;
    assert_eq!(mode.contains("huge pages"), pages > 0, "{mode}");
    assert_eq!(
        number("free_hugepages")? < free,
        pages > 0,
        "they are in use"
    );

    // On either, a datagram arrives.
    let socket = far.run(|| std::net::UdpSocket::bind("10.9.0.2:0"))?;
    socket.send_to(b"hello", ("10.9.0.1", PORT))?;
    let end = Instant::now() + Duration::from_secs(10);
    let mut received = Vec::new();
    while received.is_empty() && Instant::now() < end {
        rx.recv_batch(&mut |datagrams| {
            received.extend(datagrams.iter().map(|datagram| datagram.payload.to_vec()));
        })?;
        thread::yield_now();
    }
    assert_eq!(received, [b"hello"]);
    Ok(())
}
