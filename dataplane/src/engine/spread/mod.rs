//! One receiver's datagrams opened by several workers, in order.
//!
//! A worker runs to completion: it receives, opens, delivers. Where it cannot keep up, it becomes
//! an [`Entrance`]: it copies what it receives into [`Parcel`]s, each with a number, and puts them
//! into one queue, from which any worker takes them ([`Helper`]), itself included. Opening changes
//! nothing of any peer. Opened parcels come back, are sorted by number, and the entrance alone does
//! what depends on order, in order: replay window, promotion, roaming, delivery. So the order of
//! everything that one receiver brings is kept, whatever workers do.
//!
//! There is a fixed number of parcels, and every queue has room for all of them: nothing waits for
//! room, nobody holds a lock while another waits. When all are under way, the receiver is left
//! alone, so that its own queue (socket, ring) drops at the entrance and counts; what it has lent
//! already and finds no parcel is dropped and counted as `spread_dropped`.

mod parcel;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

pub(crate) use parcel::Parcel;

/// Called when a parcel has come home: wakes the entrance's worker.
type Notify = Box<dyn Fn() + Send + Sync>;

/// A queue of parcels to open, that all workers of a node share.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    todo: Receiver<Task>,
    put: Sender<Task>,
    /// How many parcels each entrance may have under way.
    parcels: usize,
}

impl Helper {
    /// For `workers` workers, each of which may be an entrance too.
    pub(crate) fn new(workers: usize) -> Self {
        // Two for each: one that it works on, one that waits for it.
        let parcels = 2 * workers + 2;
        let (put, todo) = bounded(parcels * workers);
        Self { todo, put, parcels }
    }

    /// A parcel to open, if one waits.
    pub(crate) fn next(&self) -> Option<Task> {
        self.todo.try_recv().ok()
    }
}

/// Where parcels of one entrance come back to.
struct Home {
    done: Sender<(u64, Parcel)>,
    notify: Notify,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").finish_non_exhaustive()
    }
}

/// A parcel to open. Dropping it is finishing it: it comes home even if its worker fails.
#[derive(Debug)]
pub(crate) struct Task {
    number: u64,
    parcel: Option<Parcel>,
    home: Arc<Home>,
}

impl Task {
    /// What is to be opened.
    pub(crate) fn parcel(&mut self) -> Option<&mut Parcel> {
        self.parcel.as_mut()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(parcel) = self.parcel.take() {
            // There is room for all. Without the entrance nobody waits for it any more.
            let _ = self.home.done.try_send((self.number, parcel));
            (self.home.notify)();
        }
    }
}

/// One receiver's side: where parcels begin and end.
#[derive(Debug)]
pub(crate) struct Entrance {
    queue: Helper,
    home: Arc<Home>,
    done: Receiver<(u64, Parcel)>,
    free: Vec<Parcel>,
    /// How many parcels were made.
    made: usize,
    /// Under way, oldest first; those that came home before their turn.
    under_way: VecDeque<Option<Parcel>>,
    /// The number of the oldest one under way.
    oldest: u64,
}

impl Entrance {
    /// Its parcels go into `queue`. `notify` is called, on any thread, when one has come home.
    pub(crate) fn new(queue: &Helper, notify: impl Fn() + Send + Sync + 'static) -> Self {
        let (done_put, done) = bounded(queue.parcels);
        Self {
            queue: queue.clone(),
            home: Arc::new(Home {
                done: done_put,
                notify: Box::new(notify),
            }),
            done,
            free: Vec::with_capacity(queue.parcels),
            made: 0,
            under_way: VecDeque::with_capacity(queue.parcels),
            oldest: 0,
        }
    }

    /// Whether anything is under way: what is received then must follow it.
    pub(crate) fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// How many parcels can be had.
    pub(crate) fn room(&self) -> usize {
        self.free.len() + (self.queue.parcels - self.made)
    }

    /// An empty parcel; `None` when all are under way. They are made when first needed.
    pub(crate) fn parcel(&mut self) -> Option<Parcel> {
        self.free.pop().or_else(|| {
            (self.made < self.queue.parcels).then(|| {
                self.made += 1;
                Parcel::default()
            })
        })
    }

    /// Has somebody open it.
    pub(crate) fn hand_off(&mut self, parcel: Parcel) {
        let task = Task {
            number: self.oldest + self.under_way.len() as u64,
            parcel: Some(parcel),
            home: Arc::clone(&self.home),
        };
        self.under_way.push_back(None);
        // There is room for all. If not, dropping it brings it home.
        let _ = self.queue.put.try_send(task);
    }

    /// The next parcel in order, if it has come home.
    pub(crate) fn next_done(&mut self) -> Option<Parcel> {
        while let Ok((number, parcel)) = self.done.try_recv() {
            let place = (number - self.oldest) as usize;
            if let Some(place) = self.under_way.get_mut(place) {
                *place = Some(parcel);
            }
        }
        self.under_way.front()?.as_ref()?;
        self.oldest += 1;
        self.under_way.pop_front()?
    }

    /// Takes an emptied parcel back.
    pub(crate) fn give_back(&mut self, parcel: Parcel) {
        self.free.push(parcel);
    }
}
