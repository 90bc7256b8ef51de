//! Inwards in three steps, for when one worker cannot keep up: gather, open elsewhere, deliver in
//! order ([`spread`](crate::engine::spread)).

use core::mem;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Worker;
use super::open::{Incoming, admit, open_job, transport_data};
use crate::crypto::OpenJob;
use crate::engine::counters::Totals;
use crate::engine::port::{ControlSink, Datagram, InnerTx, MAX_BATCH};
use crate::engine::spread::{Entrance, Parcel};
use crate::time::Instant;
use crate::wire::message::DATA_HEADER_LEN;

impl Worker {
    /// Hands `datagrams` off to be opened by any worker. What finds no parcel is dropped and counted.
    /// Handshake messages go to `control` at once. Returns how many parcels there are to open.
    pub(crate) fn spread(
        &self,
        entrance: &mut Entrance,
        datagrams: &[Datagram<'_>],
        control: &mut dyn ControlSink,
    ) -> usize {
        let mut rest = datagrams;
        let mut parcels = 0;
        while !rest.is_empty() {
            let Some(mut parcel) = entrance.parcel() else {
                self.counters.add(&Totals {
                    datagrams: rest.len() as u64,
                    spread_dropped: rest.len() as u64,
                    ..Totals::default()
                });
                break;
            };
            // The longest datagram fits an empty parcel, so every round makes progress.
            let done = self.gather(rest, &mut parcel, control);
            rest = rest.get(done.max(1)..).unwrap_or_default();
            if parcel.is_empty() {
                entrance.give_back(parcel);
            } else {
                entrance.hand_off(parcel);
                parcels += 1;
            }
        }
        parcels
    }

    /// Delivers the next parcel in order, if it has been opened.
    pub(crate) fn deliver_spread(
        &mut self,
        now: Instant,
        entrance: &mut Entrance,
        inner: &mut dyn InnerTx,
    ) -> bool {
        let Some(mut parcel) = entrance.next_done() else {
            return false;
        };
        self.deliver_parcel(now, &mut parcel, inner);
        entrance.give_back(parcel);
        true
    }

    /// Copies the first of `datagrams` into `parcel`, as many as find room; returns how many are
    /// done with.
    fn gather(
        &self,
        datagrams: &[Datagram<'_>],
        parcel: &mut Parcel,
        control: &mut dyn ControlSink,
    ) -> usize {
        let mut totals = Totals::default();
        for datagram in datagrams {
            if !parcel.has_room(datagram.payload.len()) {
                break;
            }
            totals.datagrams += 1;
            if let Some((index, counter)) = transport_data(datagram, control, &mut totals) {
                parcel.push(datagram, index, counter);
                totals.spread += 1;
            }
        }
        self.counters.add(&totals);
        totals.datagrams as usize
    }

    /// Opens what is in `parcel`. Changes nothing of any peer: that is for
    /// [`deliver_spread`](Self::deliver_spread), in order.
    pub(crate) fn open_parcel(&self, now: Instant, parcel: &mut Parcel) {
        let mut totals = Totals::default();
        let indices = self.mesh.indices.load();
        parcel.owners.clear();
        let mut last: Option<(u32, Option<usize>)> = None;
        for item in &mut parcel.items {
            let entry = || indices.entry(item.index);
            item.owner = match last {
                // Expiry and counters are looked at one by one, as without parcels.
                Some((index, Some(owner))) if index == item.index => {
                    admit(entry(), item.counter, now, &mut totals).map(|_| owner)
                }
                _ => admit(entry(), item.counter, now, &mut totals).map(|(peer, session)| {
                    // Kept, because control may take them from the tables before delivery.
                    parcel.owners.push((Arc::clone(peer), Arc::clone(session)));
                    parcel.owners.len() - 1
                }),
            };
            last = Some((item.index, item.owner));
        }
        let mut jobs = ArrayVec::<OpenJob<'_>, MAX_BATCH>::new();
        let mut opened = ArrayVec::<usize, MAX_BATCH>::new();
        let mut rest: &mut [u8] = &mut parcel.arena;
        for (number, item) in parcel.items.iter_mut().enumerate() {
            let Some((payload, after)) = mem::take(&mut rest).split_at_mut_checked(item.len) else {
                break;
            };
            rest = after;
            let owner = item.owner.and_then(|owner| parcel.owners.get(owner));
            let job = owner
                .and_then(|(_, session)| open_job(session, item.counter, payload, &mut totals));
            if let Some(job) = job {
                // Both have room for a whole batch.
                let _ = jobs.try_push(job);
                let _ = opened.try_push(number);
            }
        }
        self.aead.open(&mut jobs);
        for (job, number) in jobs.drain(..).zip(opened) {
            let plaintext = job.into_plaintext().map(|plaintext| plaintext.len());
            totals.forged += u64::from(plaintext.is_none());
            if let Some(item) = parcel.items.get_mut(number) {
                item.plaintext = plaintext;
            }
        }
        self.counters.add(&totals);
    }

    /// Does in order what is left: replay window, promotion, roaming, source addresses, delivery.
    fn deliver_parcel(&mut self, now: Instant, parcel: &mut Parcel, inner: &mut dyn InnerTx) {
        let table = self.mesh.table();
        let mut totals = Totals::default();
        let mut incoming = ArrayVec::<Incoming<'_>, MAX_BATCH>::new();
        let mut rest: &mut [u8] = &mut parcel.arena;
        for item in &parcel.items {
            let Some((payload, after)) = mem::take(&mut rest).split_at_mut_checked(item.len) else {
                break;
            };
            rest = after;
            let owner = item.owner.and_then(|owner| parcel.owners.get(owner));
            let (Some((peer, session)), Some(len)) = (owner, item.plaintext) else {
                continue;
            };
            let _ = incoming.try_push(Incoming {
                peer,
                session,
                counter: item.counter,
                from: &item.from,
                ecn: item.ecn,
                plaintext: payload.get_mut(DATA_HEADER_LEN..DATA_HEADER_LEN + len),
                owner: None,
            });
        }
        self.accept(now, &table, &mut incoming, inner, &mut totals);
        drop(incoming);
        parcel.clear();
        self.confirmed |= totals.confirmed != 0;
        self.counters.add(&totals);
    }
}
