//! Which addresses are ours: told to the XDP program, so that it leaves alone what the machine
//! routes or bridges on (docs/decisions/0012).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use netlink_packet_route::RouteNetlinkMessage as Message;
use ringspan_xdp_common::maps::MAX_ADDRESSES;
use rustix::event::{PollFd, PollFlags, poll};

use super::netlink::Questions;
use super::view::own_address;
use crate::io::xdp::XdpProgram;
use crate::io::xdp::program::{LocalAddresses, UpdateError};
use crate::runtime::rtnetlink::Events;
use crate::runtime::wake::Waker;

/// Multicast groups (`enum rtnetlink_groups`): addresses of both families.
const GROUPS: [u32; 2] = [5, 9];

/// Knows the addresses of a network namespace, and notices when they change.
#[derive(Debug)]
pub struct LocalAddressWatch {
    events: Events,
    questions: Questions,
}

impl LocalAddressWatch {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            // Events first: what happens during the first listing is then noticed.
            events: Events::open(&GROUPS)?,
            questions: Questions::open()?,
        })
    }

    /// Tells `program` all addresses that there are now.
    ///
    /// # Errors
    /// When they cannot be listed, or not be told; the program then goes by the old ones.
    pub fn tell(&mut self, program: &mut XdpProgram) -> io::Result<()> {
        let addresses: BTreeSet<IpAddr> = self
            .questions
            .addresses()?
            .iter()
            .filter_map(|message| match message {
                Message::NewAddress(address) => own_address(address),
                _ => None,
            })
            .collect();
        if addresses.len() > MAX_ADDRESSES as usize {
            tracing::warn!(
                addresses = addresses.len(),
                limit = MAX_ADDRESSES,
                "more local addresses than the XDP program can hold: \
                 datagrams to the others take the UDP socket"
            );
        }
        let told: Vec<IpAddr> = addresses.into_iter().take(MAX_ADDRESSES as usize).collect();
        program
            .set_addresses(LocalAddresses::Only(&told))
            .map_err(io::Error::other)
    }

    /// Keeps `program` told from now on, on a thread of its own.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn keep(self, program: XdpProgram) -> io::Result<LocalAddressKeeper> {
        let stop = Arc::new(Waker::new()?);
        let stopped = Arc::clone(&stop);
        let program = Arc::new(Mutex::new(program));
        let kept = Arc::clone(&program);
        let thread = std::thread::Builder::new()
            .name("addresses".to_owned())
            .spawn(move || self.run(&kept, &stopped))?;
        Ok(LocalAddressKeeper {
            stop,
            thread: Some(thread),
            program,
        })
    }

    fn run(mut self, program: &Mutex<XdpProgram>, stop: &Waker) {
        while !stop.take() {
            let mut fds = [
                PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            ];
            // Fails on a signal; then there is nothing to read.
            let _ = poll(&mut fds, None);
            if self.events.drain()
                && let Err(error) = self.tell(&mut lock(program))
            {
                tracing::warn!(%error, "the XDP program could not be told the local addresses");
            }
        }
    }
}

/// The thread that keeps an XDP program told, and the program. Dropping it ends both.
#[derive(Debug)]
pub struct LocalAddressKeeper {
    stop: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    program: Arc<Mutex<XdpProgram>>,
}

impl LocalAddressKeeper {
    /// Makes `port` the UDP port that the program steers.
    ///
    /// # Errors
    /// When the kernel refuses; then it may steer neither port, and the UDP socket has all.
    pub fn set_port(&self, port: u16) -> Result<(), UpdateError> {
        lock(&self.program).set_ports(&[port])
    }
}

fn lock(program: &Mutex<XdpProgram>) -> MutexGuard<'_, XdpProgram> {
    // A thread that panicked in between left the maps as the kernel has them.
    program.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for LocalAddressKeeper {
    fn drop(&mut self) {
        self.stop.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that followed the local addresses panicked");
        }
    }
}
