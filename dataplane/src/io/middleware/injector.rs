//! Faults around a driver.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use rustix::event::{EventfdFlags, eventfd};

use super::faults::{FaultPlan, Lane, Meta};
use crate::engine::port::{
    Datagram, DriverInfo, Ecn, InnerRx, InnerTx, MAX_BATCH, OuterRx, OuterTx, Packet, Pollable,
    Sent, TxRequest, TxSlot,
};
use crate::mesh::Endpoint;

/// Wraps a driver and does to its packets what a [`FaultPlan`] says.
///
/// Around a receiver, packets that are held back come out with later packets or, in their
/// absence, with later calls; meanwhile the port is readable, so that an event loop does call.
/// Around a transmitter they wait for later packets. A dropped packet counts as accepted, as one
/// does that a network loses.
#[derive(Debug)]
pub struct FaultInjector<D> {
    driver: D,
    lane: Lane,
    /// Readable while a receiver holds something back.
    waiting: OwnedFd,
    /// Where a transmitter's datagrams are written first.
    staging: Vec<u8>,
}

impl<D> FaultInjector<D> {
    /// Wraps `driver`.
    ///
    /// # Errors
    /// When no eventfd can be had.
    pub fn new(driver: D, plan: FaultPlan) -> io::Result<Self> {
        Ok(Self {
            driver,
            lane: Lane::new(plan),
            waiting: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            staging: Vec::new(),
        })
    }

    /// Makes the eventfd readable exactly while something is held.
    fn signal(&self) {
        // Neither can fail in a way that matters: an overflowing counter is readable, an empty
        // one unreadable.
        let _ = rustix::io::read(&self.waiting, &mut [0u8; 8]);
        if self.lane.holds() {
            let _ = rustix::io::write(&self.waiting, &1u64.to_ne_bytes());
        }
    }

    fn describe(mut info: DriverInfo) -> DriverInfo {
        info.mode.push_str(", with injected faults");
        info
    }

    fn count(&self, mut statistics: Vec<(&'static str, u64)>) -> Vec<(&'static str, u64)> {
        let counts = &self.lane.counts;
        statistics.extend([
            ("fault_dropped", counts.dropped),
            ("fault_duplicated", counts.duplicated),
            ("fault_corrupted", counts.corrupted),
            ("fault_reordered", counts.reordered),
            ("fault_delayed", counts.delayed),
        ]);
        statistics
    }
}

impl<D: Pollable> Pollable for FaultInjector<D> {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.driver.poll_fds(visit);
        visit(self.waiting.as_fd());
    }

    fn info(&self) -> DriverInfo {
        Self::describe(self.driver.info())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.count(self.driver.statistics())
    }
}

impl<D: OuterRx> OuterRx for FaultInjector<D> {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Datagram<'_>])) -> io::Result<usize> {
        let lane = &mut self.lane;
        let received = self.driver.recv_batch(&mut |batch| {
            for datagram in batch {
                let meta = Meta {
                    endpoint: datagram.from,
                    tos: datagram.ecn as u8,
                };
                lane.pass(meta, datagram.payload);
            }
        })?;
        if received == 0 {
            lane.tick();
        }
        let lent = lane.out.len();
        for parcels in lane.out.chunks_mut(MAX_BATCH) {
            let mut batch: ArrayVec<Datagram<'_>, MAX_BATCH> = parcels
                .iter_mut()
                .map(|parcel| Datagram {
                    payload: &mut parcel.data,
                    from: parcel.meta.endpoint,
                    ecn: Ecn::from(parcel.meta.tos),
                })
                .collect();
            handle(&mut batch);
        }
        lane.clear_out();
        self.signal();
        Ok(lent)
    }

    fn busy_poll(&mut self) -> bool {
        self.driver.busy_poll()
    }
}

impl<D: InnerRx> InnerRx for FaultInjector<D> {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let lane = &mut self.lane;
        let received = self.driver.recv_batch(&mut |batch| {
            for packet in batch {
                lane.pass(Meta::inner(), packet.data);
            }
        })?;
        if received == 0 {
            lane.tick();
        }
        let lent = lane.out.len();
        for parcels in lane.out.chunks_mut(MAX_BATCH) {
            let mut batch: ArrayVec<Packet<'_>, MAX_BATCH> = parcels
                .iter_mut()
                .map(|parcel| Packet {
                    data: &mut parcel.data,
                })
                .collect();
            handle(&mut batch);
        }
        lane.clear_out();
        self.signal();
        Ok(lent)
    }
}

impl<D: OuterTx> OuterTx for FaultInjector<D> {
    fn set_longest(&mut self, bytes: usize) {
        self.driver.set_longest(bytes);
    }

    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        self.driver.reaches(endpoint)
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        let batch = requests.get(..MAX_BATCH).unwrap_or(requests);
        let total = batch.iter().map(|request| request.len).sum();
        if self.staging.len() < total {
            self.staging.resize(total, 0);
        }
        let mut room = self.staging.as_mut_slice();
        let mut slots: ArrayVec<TxSlot<'_>, MAX_BATCH> = ArrayVec::new();
        for (index, request) in batch.iter().enumerate() {
            if let Some((buffer, rest)) = room.split_at_mut_checked(request.len) {
                slots.push(TxSlot {
                    request: index,
                    buffer,
                });
                room = rest;
            } else {
                break; // cannot be: there is room for all
            }
        }
        if !slots.is_empty() {
            fill(&mut slots);
        }
        for (slot, request) in slots.iter().zip(batch) {
            let meta = Meta {
                endpoint: request.to,
                tos: request.tos,
            };
            self.lane.pass(meta, slot.buffer);
        }
        let mut refused = 0;
        for parcels in self.lane.out.chunks(MAX_BATCH) {
            let requests: ArrayVec<TxRequest, MAX_BATCH> = parcels
                .iter()
                .map(|parcel| TxRequest {
                    to: parcel.meta.endpoint,
                    len: parcel.data.len(),
                    tos: parcel.meta.tos,
                })
                .collect();
            let sent = self.driver.send_batch(&requests, &mut |slots| {
                for slot in slots {
                    if let Some(parcel) = parcels.get(slot.request) {
                        slot.buffer.copy_from_slice(&parcel.data);
                    }
                }
            });
            refused += sent.dropped;
        }
        self.lane.clear_out();
        // Duplicates and packets held earlier may be among those refused.
        let refused = refused.min(batch.len());
        Sent {
            accepted: batch.len() - refused,
            dropped: requests.len() - batch.len() + refused,
        }
    }

    fn flush(&mut self) -> bool {
        self.driver.flush()
    }

    fn info(&self) -> DriverInfo {
        Self::describe(self.driver.info())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.count(self.driver.statistics())
    }
}

impl<D: InnerTx> InnerTx for FaultInjector<D> {
    fn mtu(&self) -> Option<u16> {
        self.driver.mtu()
    }

    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        for packet in packets {
            self.lane.pass(Meta::inner(), packet);
        }
        let mut refused = 0;
        for parcels in self.lane.out.chunks(MAX_BATCH) {
            let batch: ArrayVec<&[u8], MAX_BATCH> =
                parcels.iter().map(|parcel| &*parcel.data).collect();
            refused += self.driver.send_batch(&batch).dropped;
        }
        self.lane.clear_out();
        let refused = refused.min(packets.len());
        Sent {
            accepted: packets.len() - refused,
            dropped: refused,
        }
    }

    fn flush(&mut self) -> bool {
        self.driver.flush()
    }

    fn info(&self) -> DriverInfo {
        Self::describe(self.driver.info())
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.count(self.driver.statistics())
    }
}
