//! The workers of a node as a team: who wakes whom, who opens what another one received.

use std::io;
use std::sync::Arc;

use super::wake::Waker;
use crate::engine::Worker;
use crate::engine::port::{ControlSink, Datagram, InnerTx, MAX_BATCH};
use crate::engine::spread::{Entrance, Helper};
use crate::time::Instant;

/// Datagrams of one turn that show that a worker is behind: half a batch.
const BEHIND: usize = MAX_BATCH / 2;

/// So many turns in a row: a burst that is over soon is not worth handing off.
const STREAK: u32 = 16;

/// All workers of a node.
#[derive(Debug)]
pub(super) struct Team {
    wakers: Vec<Arc<Waker>>,
    queue: Helper,
}

impl Team {
    /// A team of `workers`.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn new(workers: usize) -> io::Result<Self> {
        let wakers = (0..workers).map(|_| Waker::new().map(Arc::new));
        Ok(Self {
            wakers: wakers.collect::<io::Result<_>>()?,
            queue: Helper::new(workers.max(1)),
        })
    }

    pub(super) fn wakers(&self) -> &[Arc<Waker>] {
        &self.wakers
    }

    /// The place of worker `number`, who `receives` datagrams or only helps. `None` for one that
    /// is alone.
    pub(super) fn place(&self, number: usize, receives: bool) -> Option<Place> {
        let waker = Arc::clone(self.wakers.get(number)?);
        if self.wakers.len() == 1 {
            return None;
        }
        let others = self.wakers.iter().enumerate();
        let others = others.filter(|(other, _)| *other != number);
        Some(Place {
            entrance: receives.then(|| Entrance::new(&self.queue, move || waker.wake())),
            queue: self.queue.clone(),
            others: others.map(|(_, waker)| Arc::clone(waker)).collect(),
            next: 0,
            streak: 0,
        })
    }
}

/// What a worker does for others, and they for it.
#[derive(Debug)]
pub(super) struct Place {
    entrance: Option<Entrance>,
    queue: Helper,
    others: Vec<Arc<Waker>>,
    /// Whom to wake next.
    next: usize,
    /// Turns in a row in which this worker was behind.
    streak: u32,
}

impl Place {
    /// Whether to receive at all: not while all parcels are under way.
    pub(super) fn may_receive(&self) -> bool {
        // A receiver may lend several batches at once.
        self.entrance
            .as_ref()
            .is_none_or(|entrance| !entrance.is_busy() || entrance.room() >= 2)
    }

    /// Hands `datagrams` off, if this worker is behind or others are still at work on what came
    /// before; false where they are to be opened here and now.
    pub(super) fn hand_off(
        &mut self,
        engine: &Worker,
        datagrams: &[Datagram<'_>],
        control: &mut dyn ControlSink,
    ) -> bool {
        let Some(entrance) = &mut self.entrance else {
            return false;
        };
        if !entrance.is_busy() && self.streak < STREAK {
            return false;
        }
        for _ in 0..engine.spread(entrance, datagrams, control) {
            if let Some(waker) = self.others.get(self.next) {
                waker.wake();
            }
            self.next = (self.next + 1) % self.others.len().max(1);
        }
        true
    }

    /// So many datagrams came this turn.
    pub(super) fn received(&mut self, datagrams: usize) {
        self.streak = if datagrams >= BEHIND {
            self.streak.saturating_add(1)
        } else {
            0
        };
    }

    /// Delivers what others have opened, in order; whether anything.
    pub(super) fn deliver(
        &mut self,
        engine: &mut Worker,
        now: Instant,
        inner: &mut dyn InnerTx,
    ) -> bool {
        let Some(entrance) = &mut self.entrance else {
            return false;
        };
        let mut any = false;
        while engine.deliver_spread(now, entrance, inner) {
            any = true;
        }
        any
    }

    /// Opens a parcel, whoever received it; whether there was one.
    pub(super) fn help(&self, engine: &Worker, now: Instant) -> bool {
        let Some(mut task) = self.queue.next() else {
            return false;
        };
        if let Some(parcel) = task.parcel() {
            engine.open_parcel(now, parcel);
        }
        true
    }
}
