//! Two namespaces joined by a veth pair: the driver on one end, kernel sockets on the other.

use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringspan::engine::port::{OuterRx, OuterTx, Sent, TxRequest};
use ringspan::io::xdp::path::{PathMarks, Paths};
use ringspan::io::xdp::program::{AttachError, LoadError};
use ringspan::io::xdp::{
    Interface, Mode, Path, PathKey, PathTable, Transmit, XdpConfig, XdpDriver, XdpError,
    XdpProgram, XdpQueue, XdpRx, XdpTx,
};
use ringspan::mesh::Endpoint;
use ringspan_tests::netns::{Namespace, Veth};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The driver's port.
pub(crate) const PORT: u16 = 51820;
/// How long any datagram may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The driver's end of the veth pair, and the other.
pub(crate) const NEAR: &str = "near0";
pub(crate) const FAR: &str = "far0";

pub(crate) const BOTH_MODES: [Mode; 2] = [Mode::Native, Mode::Generic];

/// The families, as the driver's and the other end's addresses.
pub(crate) const FAMILIES: [(&str, &str); 2] = [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")];

pub(crate) struct Bed {
    pub(crate) near: Namespace,
    pub(crate) far: Namespace,
    pub(crate) paths: Arc<PathTable>,
}

impl Bed {
    pub(crate) fn new(queues: u32) -> Result<Self, Box<dyn Error>> {
        Self::over(Veth {
            queues,
            ..Veth::default()
        })
    }

    pub(crate) fn over(veth: Veth) -> Result<Self, Box<dyn Error>> {
        let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
        veth.join(&near, NEAR, &far, FAR)?;
        for (address, peer) in FAMILIES {
            let length = if address.contains(':') { 64 } else { 24 };
            near.add_address(NEAR, ipnet::IpNet::new(address.parse()?, length)?)?;
            far.add_address(FAR, ipnet::IpNet::new(peer.parse()?, length)?)?;
        }
        let bed = Self {
            near,
            far,
            paths: PathTable::new()?,
        };
        bed.publish_paths()?;
        Ok(bed)
    }

    /// Paths to the other end's addresses, as a resolver would find them.
    fn publish_paths(&self) -> Result<(), Box<dyn Error>> {
        let near = self.near.run(|| Interface::by_name(NEAR))?;
        let far = self.far.run(|| Interface::by_name(FAR))?;
        let mut paths = Paths::new();
        for (address, peer) in FAMILIES {
            let key = PathKey {
                remote: peer.parse()?,
                source: None,
                scope: 0,
            };
            let path = Path {
                interface: near.index(),
                source_mac: near.mac(),
                destination_mac: far.mac(),
                vlan: None,
                source: address.parse()?,
                mtu: near.mtu(),
                hop_limit: 64,
                marks: PathMarks::default(),
            };
            paths.insert(key, Arc::new(path));
        }
        self.paths.publish(paths);
        Ok(())
    }

    /// Receives and sends; attached in `mode`.
    pub(crate) fn config(&self, mode: Mode) -> XdpConfig {
        XdpConfig {
            attach: mode,
            transmit: Some(Transmit::new(PORT, Arc::clone(&self.paths))),
            ..XdpConfig::default()
        }
    }

    pub(crate) fn open(
        &self,
        config: &XdpConfig,
    ) -> Result<(XdpProgram, Vec<XdpQueue>), OpenError> {
        self.near.run(|| open(NEAR, config))
    }

    /// The halves of the only queue, and the program.
    pub(crate) fn open_one(
        &self,
        config: &XdpConfig,
    ) -> Result<(XdpProgram, XdpRx, Option<XdpTx>), OpenError> {
        let (program, mut queues) = self.open(config)?;
        assert_eq!(queues.len(), 1);
        let (rx, tx) = queues.pop().expect("one queue").split();
        Ok((program, rx, tx))
    }

    /// A kernel socket on the other end.
    pub(crate) fn socket(&self, address: &str) -> Result<UdpSocket, Box<dyn Error>> {
        let address: IpAddr = address.parse()?;
        let socket = self
            .far
            .run(|| UdpSocket::bind(SocketAddr::new(address, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }
}

/// Loads a program and opens the driver with it, in the calling thread's namespace.
pub(crate) fn open(
    name: &str,
    config: &XdpConfig,
) -> Result<(XdpProgram, Vec<XdpQueue>), OpenError> {
    let mut program = XdpProgram::load(&[PORT])?;
    let queues = XdpDriver::open(name, &mut program, config)?;
    Ok((program, queues))
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Open(#[from] XdpError),
}

/// A datagram as it was lent.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) payload: Vec<u8>,
    pub(crate) from: Endpoint,
    pub(crate) ecn: u8,
}

/// Receives until `count` datagrams have come or `PATIENCE` is over, looking at each.
pub(crate) fn receive_each(rx: &mut XdpRx, count: usize, mut each: impl FnMut(Received)) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let mut received = 0;
    while received < count && Instant::now() < deadline {
        wait_readable(rx, Duration::from_millis(100));
        received += rx
            .recv_batch(&mut |datagrams| {
                for datagram in datagrams {
                    each(Received {
                        payload: datagram.payload.to_vec(),
                        from: datagram.from,
                        ecn: datagram.ecn as u8,
                    });
                    // As the engine does, which opens in place: the next frame in this chunk
                    // must not show any of it.
                    datagram.payload.fill(0xdd);
                }
            })
            .expect("a socket on a live interface");
    }
    received
}

pub(crate) fn receive(rx: &mut XdpRx, count: usize) -> Vec<Received> {
    let mut all = Vec::new();
    receive_each(rx, count, |received| all.push(received));
    all
}

fn wait_readable(rx: &XdpRx, limit: Duration) {
    use ringspan::engine::port::Pollable;
    rx.poll_fds(&mut |fd| {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("a short time");
        let _ = poll(&mut fds, Some(&limit));
    });
}

/// Sends `payloads` to `to` as one batch.
pub(crate) fn send(tx: &mut XdpTx, to: SocketAddr, tos: u8, payloads: &[Vec<u8>]) -> Sent {
    let requests: Vec<_> = payloads
        .iter()
        .map(|payload| TxRequest {
            to: Endpoint::from(to),
            len: payload.len(),
            tos,
        })
        .collect();
    tx.send_batch(&requests, &mut |slots| {
        for slot in slots {
            slot.buffer.copy_from_slice(&payloads[slot.request]);
        }
    })
}

/// `length` bytes that differ with `seed` and position.
pub(crate) fn payload(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b1) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}
