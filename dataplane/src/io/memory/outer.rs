//! The outer side: datagrams routed by destination address.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;

use super::DEFAULT_CAPACITY;
use super::queue::{Parcel, Queue};
use crate::engine::port::{
    Datagram, DriverInfo, Ecn, MAX_BATCH, OuterRx, OuterTx, Pollable, Sent, TxRequest, TxSlot,
};
use crate::io::DatagramSender;
use crate::mesh::Endpoint;

/// The longest UDP payload over IPv4.
const MAX_DATAGRAM: usize = 65_507;

#[derive(Clone, Copy, Debug)]
struct Header {
    from: SocketAddr,
    to: SocketAddr,
    tos: u8,
}

impl Default for Header {
    fn default() -> Self {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            from: nobody,
            to: nobody,
            tos: 0,
        }
    }
}

type Routes = BTreeMap<SocketAddr, Arc<Queue<Header>>>;

/// A network in memory: datagrams go to the end that has their destination address; those to
/// nobody are dropped, as a network does.
#[derive(Clone, Debug, Default)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    routes: ArcSwap<Routes>,
    /// Held while the routes change; senders never take it.
    changing: Mutex<()>,
}

/// An address that cannot be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Another end has it.
    #[error("{0} is already attached to this network: choose another address or port")]
    AddressTaken(SocketAddr),
    /// No eventfd could be had.
    #[error("cannot make an eventfd for {address}: {source}")]
    Event {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Network {
    /// A network without ends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new end at `address`, with room for `capacity` datagrams on their way to it.
    ///
    /// # Errors
    /// When the address is taken or no eventfd can be had.
    pub fn attach(&self, address: SocketAddr, capacity: usize) -> Result<MemoryEnd, AttachError> {
        let queue = Arc::new(
            Queue::new(capacity).map_err(|source| AttachError::Event { address, source })?,
        );
        self.route(address, Arc::clone(&queue))?;
        Ok(MemoryEnd {
            rx: MemoryOuterRx {
                queue,
                held: ArrayVec::new_const(),
                received: 0,
                detach: Detach {
                    network: self.clone(),
                    address,
                },
            },
            tx: MemoryOuterTx {
                sender: MemorySender {
                    network: self.clone(),
                    from: address,
                    unroutable: Arc::default(),
                },
            },
        })
    }

    fn route(&self, address: SocketAddr, queue: Arc<Queue<Header>>) -> Result<(), AttachError> {
        let _changing = self.change();
        let mut routes = Routes::clone(&self.shared.routes.load());
        if routes.contains_key(&address) {
            return Err(AttachError::AddressTaken(address));
        }
        routes.insert(address, queue);
        self.shared.routes.store(Arc::new(routes));
        Ok(())
    }

    fn unroute(&self, address: &SocketAddr) {
        let _changing = self.change();
        let mut routes = Routes::clone(&self.shared.routes.load());
        routes.remove(address);
        self.shared.routes.store(Arc::new(routes));
    }

    fn change(&self) -> impl Drop + '_ {
        // The guard protects no data that a panic could leave half done.
        self.shared
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two ends at `a` and `b` on a network of their own.
///
/// # Errors
/// When the addresses are equal or no eventfd can be had.
pub fn outer_link(a: SocketAddr, b: SocketAddr) -> Result<(MemoryEnd, MemoryEnd), AttachError> {
    let network = Network::new();
    Ok((
        network.attach(a, DEFAULT_CAPACITY)?,
        network.attach(b, DEFAULT_CAPACITY)?,
    ))
}

/// One end of a [`Network`]: the ports for one node.
#[derive(Debug)]
pub struct MemoryEnd {
    /// Receives what is sent to the end's address. The address is free again when this goes.
    pub rx: MemoryOuterRx,
    /// Sends from the end's address. Cloneable: one for each worker.
    pub tx: MemoryOuterTx,
}

impl MemoryEnd {
    /// The end's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.rx.detach.address
    }

    /// A sender of single datagrams from this end's address.
    #[must_use]
    pub fn sender(&self) -> MemorySender {
        self.tx.sender.clone()
    }

    /// Moves the end to another address, as a roaming peer does: both its halves, but not the
    /// clones already made of the sending one.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn move_to(&mut self, address: SocketAddr) -> Result<(), AttachError> {
        let network = &self.rx.detach.network;
        network.route(address, Arc::clone(&self.rx.queue))?;
        network.unroute(&self.rx.detach.address);
        self.rx.detach.address = address;
        self.tx.sender.from = address;
        Ok(())
    }
}

/// Gives the address back.
#[derive(Debug)]
struct Detach {
    network: Network,
    address: SocketAddr,
}

impl Drop for Detach {
    fn drop(&mut self) {
        self.network.unroute(&self.address);
    }
}

/// The receiving half of a [`MemoryEnd`].
#[derive(Debug)]
pub struct MemoryOuterRx {
    queue: Arc<Queue<Header>>,
    held: ArrayVec<Parcel<Header>, MAX_BATCH>,
    received: u64,
    detach: Detach,
}

impl Pollable for MemoryOuterRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(self.queue.event());
    }

    fn info(&self) -> DriverInfo {
        info(self.detach.address)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("received", self.received),
            ("queue_full", self.queue.refused()),
        ]
    }
}

impl OuterRx for MemoryOuterRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize> {
        self.queue.acknowledge();
        while !self.held.is_full()
            && let Some(parcel) = self.queue.pop()
        {
            self.held.push(parcel);
        }
        if self.held.is_empty() {
            return Ok(0);
        }
        if !self.queue.is_empty() {
            self.queue.announce();
        }
        let mut batch: ArrayVec<Datagram<'_>, MAX_BATCH> = self
            .held
            .iter_mut()
            .map(|parcel| {
                let Header { from, to, tos } = parcel.meta;
                Datagram {
                    payload: parcel.bytes_mut(),
                    from: Endpoint {
                        remote: from,
                        local: Some(to.ip()),
                        interface: 0,
                    },
                    ecn: Ecn::from(tos),
                }
            })
            .collect();
        let count = batch.len();
        handle(&mut batch);
        drop(batch);
        for parcel in self.held.drain(..) {
            self.queue.recycle(parcel);
        }
        self.received += count as u64;
        Ok(count)
    }
}

/// The sending half of a [`MemoryEnd`].
#[derive(Clone, Debug)]
pub struct MemoryOuterTx {
    sender: MemorySender,
}

impl OuterTx for MemoryOuterTx {
    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        self.sender
            .network
            .shared
            .routes
            .load()
            .contains_key(&endpoint.remote)
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        let routes = self.sender.network.shared.routes.load();
        let mut staged: ArrayVec<(usize, &Queue<Header>, Parcel<Header>), MAX_BATCH> =
            ArrayVec::new();
        for (index, request) in requests.iter().take(MAX_BATCH).enumerate() {
            let Some(queue) = routes.get(&request.to.remote) else {
                self.sender.unroutable.fetch_add(1, Relaxed);
                continue;
            };
            let header = self.sender.header(&request.to, request.tos);
            if request.len <= MAX_DATAGRAM
                && let Some(parcel) = queue.take(request.len, header)
            {
                staged.push((index, queue, parcel));
            }
        }
        let mut slots: ArrayVec<TxSlot<'_>, MAX_BATCH> = staged
            .iter_mut()
            .map(|(request, _, parcel)| TxSlot {
                request: *request,
                buffer: parcel.bytes_mut(),
            })
            .collect();
        let accepted = slots.len();
        if accepted > 0 {
            fill(&mut slots);
        }
        drop(slots);
        let mut last: Option<&Queue<Header>> = None;
        for (_, queue, parcel) in staged {
            queue.push(parcel);
            if let Some(before) = last
                && !core::ptr::eq(before, queue)
            {
                before.announce();
            }
            last = Some(queue);
        }
        if let Some(queue) = last {
            queue.announce();
        }
        Sent {
            accepted,
            dropped: requests.len() - accepted,
        }
    }

    fn info(&self) -> DriverInfo {
        info(self.sender.from)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("unroutable", self.sender.unroutable.load(Relaxed))]
    }
}

/// Sends single datagrams from one address of a [`Network`].
#[derive(Clone, Debug)]
pub struct MemorySender {
    network: Network,
    from: SocketAddr,
    unroutable: Arc<AtomicU64>,
}

impl MemorySender {
    fn header(&self, to: &Endpoint, tos: u8) -> Header {
        let mut from = self.from;
        // The sticky source address, where one is given: what the UDP driver would do.
        if let Some(local) = to.local.filter(|local| local.is_ipv4() == from.is_ipv4()) {
            from.set_ip(local);
        }
        Header {
            from,
            to: to.remote,
            tos,
        }
    }
}

impl DatagramSender for MemorySender {
    /// # Errors
    /// `NetworkUnreachable` where nobody has the address, `WouldBlock` where the queue is full,
    /// `EMSGSIZE` above 65507 bytes.
    fn send(&self, to: &Endpoint, tos: u8, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let routes = self.network.shared.routes.load();
        let Some(queue) = routes.get(&to.remote) else {
            self.unroutable.fetch_add(1, Relaxed);
            return Err(io::ErrorKind::NetworkUnreachable.into());
        };
        let Some(mut parcel) = queue.take(datagram.len(), self.header(to, tos)) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        parcel.bytes_mut().copy_from_slice(datagram);
        queue.push(parcel);
        queue.announce();
        Ok(())
    }
}

fn info(address: SocketAddr) -> DriverInfo {
    DriverInfo {
        driver: "memory",
        mode: format!("channel at {address}"),
        ..DriverInfo::default()
    }
}

#[cfg(test)]
mod tests;
