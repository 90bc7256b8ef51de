//! The sending side of an inner queue, used by two: by the half that sends packets, and by the
//! receiving half of an outer queue that lends it the frames to send.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kick::Kicks;
use super::ledger::{EthernetHeader, Ledger, LedgerCounters, OutletFrames, Refusal};
use super::queue::Description;
use super::rx_frames::Frame;
use super::socket::{Handle, SocketStatistics};
use super::umem::Chunk;

/// Takes one packet with its header.
pub(super) type Add<'a> = dyn FnMut(&[u8], &EthernetHeader) -> Result<(), Refusal> + 'a;

/// The TX and completion ring of an inner queue, and who has which frame.
///
/// Locked once a batch by either user. They belong to one worker, so nobody ever waits; where an
/// embedder puts them on two threads, one may.
#[derive(Debug)]
pub(super) struct Outlet {
    // Rings before the socket: see `Socket`.
    state: Mutex<State>,
    handle: Arc<Handle>,
    description: Arc<Description>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    kicks: Kicks,
}

impl Outlet {
    pub(super) fn new(ledger: Ledger, handle: Arc<Handle>, description: Arc<Description>) -> Self {
        Self {
            state: Mutex::new(State {
                ledger,
                kicks: Kicks::default(),
            }),
            handle,
            description,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every method leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kick(&self, state: &mut State) {
        state
            .kicks
            .kick(&state.ledger.tx, &self.handle, self.description.mode, false);
    }

    /// Sends a batch: `add` gives one packet after the other, with its header, to the function that
    /// it is handed. What lies in a lent frame is sent when the lender
    /// [`settle`](Self::settle)s.
    pub(super) fn send(&self, add: impl FnOnce(&mut Add<'_>)) {
        let mut state = self.lock();
        state.ledger.reap();
        let mut urged = false;
        add(&mut |packet, header| {
            if !urged && !state.ledger.has_room() {
                urged = true;
                state.ledger.tx.publish();
                self.kick(&mut state);
                state.ledger.reap();
            }
            state.ledger.add(packet, header)
        });
        if state.ledger.is_settled() {
            state.ledger.tx.publish();
            self.kick(&mut state);
        }
    }

    /// Sends on what was noted of `lent`, and gives back what was sent on before.
    pub(super) fn settle(&self, lent: &mut [Frame]) -> Back<'_> {
        let mut state = self.lock();
        if !state.ledger.is_settled() {
            state.ledger.settle(lent);
            self.kick(&mut state);
        }
        state.ledger.reap();
        Back(state)
    }

    /// Urges the kernel to send what it has not sent yet; whether something is left.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.lock();
        self.kick(&mut state);
        state.ledger.reap();
        state.ledger.tx.pending() != 0
    }

    pub(super) fn frames(&self) -> OutletFrames {
        self.lock().ledger.frames()
    }

    pub(super) fn counters(&self) -> (LedgerCounters, Kicks) {
        let state = self.lock();
        (state.ledger.counters, state.kicks)
    }

    /// What the kernel counts for the socket; all 0 if it does not tell.
    pub(super) fn socket_statistics(&self) -> SocketStatistics {
        self.handle.statistics().unwrap_or_default()
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.handle).as_fd()
    }
}

/// The lender's frames that have come back.
pub(super) struct Back<'a>(MutexGuard<'a, State>);

impl Back<'_> {
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Chunk> {
        self.0.ledger.take_returned()
    }
}
