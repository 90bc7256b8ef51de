//! A tunnel without a cipher: what the drivers move when nothing is sealed or opened.
//!
//! A TUN interface with super-packets and a UDP socket with GSO and GRO, as `ringspan` has them, and
//! between the two a copy into a datagram that is as long as WireGuard's. No handshake, no peers,
//! no checks: one fixed endpoint, and whatever it sends is delivered. `cargo xtask compare` runs it
//! beside the others, as the share of it that they reach. Good for nothing else.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use arrayvec::ArrayVec;
use clap::Parser;
use ringspan::engine::port::{
    InnerRx, InnerTx as _, MAX_BATCH, OuterRx, OuterTx, Packet, Pollable, TxRequest,
};
use ringspan::io::tun::{Tun, TunConfig, TunRx};
use ringspan::io::udp::{UdpConfig, UdpPort, UdpTx};
use ringspan::wire::message::{DATA_HEADER_LEN, DATA_OVERHEAD};
use rustix::event::{PollFd, PollFlags, poll};

/// What WireGuard puts behind a packet, in bytes.
const TAG_LEN: usize = DATA_OVERHEAD - DATA_HEADER_LEN;

/// A tunnel without a cipher, to measure beside: NOTHING that passes it is protected
#[derive(Parser)]
#[command(name = "reference", version)]
struct Args {
    /// The TUN interface to create, at most 15 bytes
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// The UDP port to receive on
    #[arg(long, value_name = "PORT")]
    listen_port: u16,
    /// Where the other end is
    #[arg(long, value_name = "ADDRESS:PORT")]
    peer: SocketAddr,
    /// MTU of the interface, in bytes, 68 to 65535
    #[arg(long, value_name = "BYTES", default_value_t = 1420)]
    mtu: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ends with an error or a signal; the interface goes with the process.
fn run(args: &Args) -> Result<core::convert::Infallible, Box<dyn std::error::Error>> {
    let tun = Tun::open(&TunConfig {
        mtu: args.mtu,
        ..TunConfig::new(&args.interface)
    })?;
    let port = UdpPort::bind(&UdpConfig {
        port: args.listen_port,
        ..UdpConfig::default()
    })?;
    let (mut inner_rx, mut inner_tx) = tun.rx(0).zip(tun.tx(0)).ok_or("the TUN has no queue")?;
    let (mut outer_rx, mut outer_tx) = (port.rx(), port.tx());
    let mut waited = fds(&inner_rx)?;
    waited.extend(fds(&outer_rx)?);
    loop {
        let sent = send(&mut inner_rx, &mut outer_tx, args.peer)?;
        let received = outer_rx.recv_batch(&mut |datagrams| {
            let packets: ArrayVec<&[u8], MAX_BATCH> = datagrams
                .iter()
                .filter_map(|datagram| {
                    let end = datagram.payload.len().checked_sub(TAG_LEN)?;
                    datagram.payload.get(DATA_HEADER_LEN..end)
                })
                .collect();
            // What is lost is lost.
            let _ = inner_tx.send_batch(&packets);
        })?;
        if sent == 0 && received == 0 {
            wait(&waited)?;
        }
    }
}

/// What the host wants sent, as datagrams.
fn send(inner: &mut TunRx, outer: &mut UdpTx, peer: SocketAddr) -> io::Result<usize> {
    inner.recv_batch(&mut |packets: &mut [Packet<'_>]| {
        let requests: ArrayVec<TxRequest, MAX_BATCH> = packets
            .iter()
            .map(|packet| TxRequest {
                to: peer.into(),
                len: packet.data.len() + DATA_OVERHEAD,
                tos: 0,
            })
            .collect();
        let _ = outer.send_batch(&requests, &mut |slots| {
            for slot in slots {
                let packet = packets.get(slot.request).map_or(&[][..], |p| &*p.data);
                let end = DATA_HEADER_LEN + packet.len();
                if let Some(place) = slot.buffer.get_mut(DATA_HEADER_LEN..end) {
                    place.copy_from_slice(packet);
                }
            }
        });
    })
}

/// Copies of the descriptors that `port` waits on.
fn fds(port: &dyn Pollable) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    port.poll_fds(&mut |fd| all.push(fd.try_clone_to_owned()));
    all.into_iter().collect()
}

/// Waits until one of `fds` has something.
fn wait(fds: &[OwnedFd]) -> io::Result<()> {
    let mut polled: ArrayVec<_, 8> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    match poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
