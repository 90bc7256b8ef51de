//! What happens to peers, told to whoever wants to hear it.
//!
//! Events are found by comparing: what is there now with what was there at the last look. So
//! nothing on the path of packets knows of them, and a subscriber that does not keep up loses
//! events, never holds anybody up, and is told how many it has lost.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::handle::{Control, Running};
use super::plan::Applied;
use super::spec::RejectReason;
use super::status::PeerState;
use crate::crypto::PublicKey;
use crate::runtime::wake::Waker;

/// Something that has happened to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A source, or the API, has changed the set of peers or their specs: prefixes may have changed
    /// hands.
    Applied {
        /// Peers added.
        added: usize,
        /// Peers changed.
        changed: usize,
        /// Peers removed.
        removed: usize,
    },
    /// It is a peer now.
    Added {
        /// Who.
        public_key: PublicKey,
        /// Its name; may be empty.
        label: String,
    },
    /// It is no peer any more.
    Removed {
        /// Who.
        public_key: PublicKey,
    },
    /// Its spec was refused, for a reason that is new.
    Rejected {
        /// Who.
        public_key: PublicKey,
        /// Why.
        reason: RejectReason,
    },
    /// It can be reached, or no longer, or nobody knows.
    State {
        /// Who.
        public_key: PublicKey,
        /// Before.
        from: PeerState,
        /// From now on.
        to: PeerState,
    },
    /// It is reached elsewhere: another endpoint was chosen, or it has roamed.
    Endpoint {
        /// Who.
        public_key: PublicKey,
        /// Where.
        endpoint: Option<SocketAddr>,
    },
}

impl PeerEvent {
    /// The peer that it is about, if it is about one.
    #[must_use]
    pub fn public_key(&self) -> Option<&PublicKey> {
        match self {
            Self::Applied { .. } => None,
            Self::Added { public_key, .. }
            | Self::Removed { public_key }
            | Self::Rejected { public_key, .. }
            | Self::State { public_key, .. }
            | Self::Endpoint { public_key, .. } => Some(public_key),
        }
    }
}

/// Hears of what happens to peers; see [`Control::subscribe`](super::Control::subscribe). Readable
/// in `poll` ([`AsFd`]) when there may be something. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<PeerEvent>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bell: Waker,
    lost: AtomicU64,
}

impl Subscription {
    /// The events, in order, for whoever waits for them one by one.
    #[must_use]
    pub const fn events(&self) -> &Receiver<PeerEvent> {
        &self.events
    }

    /// What has happened and was not read yet.
    #[must_use]
    pub fn take(&self) -> Vec<PeerEvent> {
        self.shared.bell.drain();
        self.shared.bell.take();
        self.events.try_iter().collect()
    }

    /// How many events were lost since this was last asked, because nobody read them in time. The
    /// statuses tell what is the case now.
    #[must_use]
    pub fn take_lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

/// One peer, at a look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sight {
    pub(super) label: String,
    pub(super) state: PeerState,
    pub(super) endpoint: Option<SocketAddr>,
}

/// Tells all subscribers.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// Whether there is any: looking costs something.
    watched: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribers: Vec<(Sender<PeerEvent>, Arc<Shared>)>,
    seen: BTreeMap<PublicKey, Sight>,
    rejected: Vec<(PublicKey, RejectReason)>,
}

impl Publisher {
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// A new subscriber, with room for `capacity` events, that knows of `present`.
    pub(super) fn subscribe(
        &self,
        capacity: usize,
        present: BTreeMap<PublicKey, Sight>,
    ) -> io::Result<Subscription> {
        let shared = Arc::new(Shared {
            bell: Waker::new()?,
            lost: AtomicU64::new(0),
        });
        let (sender, events) = bounded(capacity.max(1));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // The others hear of it first, and what is to be compared is the same for all.
        inner.compare(present);
        inner.subscribers.push((sender, Arc::clone(&shared)));
        self.watched.store(true, Ordering::Release);
        Ok(Subscription { events, shared })
    }

    /// Compares with the last look.
    pub(super) fn look(&self, now: BTreeMap<PublicKey, Sight>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.compare(now);
        if inner.subscribers.is_empty() {
            self.watched.store(false, Ordering::Release);
        }
    }

    /// Takes what applying a whole set of specs has done.
    pub(super) fn applied(&self, applied: &Applied) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tell_applied(applied);
        inner.rejected.clone_from(&applied.rejected);
    }

    /// Takes what single changes have done.
    pub(super) fn also_applied(&self, applied: &Applied) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tell_applied(applied);
        for one in &applied.rejected {
            if !inner.rejected.contains(one) {
                inner.rejected.push(one.clone());
            }
        }
    }
}

impl Inner {
    fn compare(&mut self, now: BTreeMap<PublicKey, Sight>) {
        let mut events = Vec::new();
        if !self.subscribers.is_empty() {
            let gone = self.seen.keys().filter(|key| !now.contains_key(key));
            events.extend(gone.map(|&public_key| PeerEvent::Removed { public_key }));
            for (&public_key, sight) in &now {
                let before = self.seen.get(&public_key);
                if before.is_none() {
                    let label = sight.label.clone();
                    events.push(PeerEvent::Added { public_key, label });
                }
                let (from, at) = before.map_or((PeerState::Unknown, None), |seen| {
                    (seen.state, seen.endpoint)
                });
                if at != sight.endpoint {
                    let endpoint = sight.endpoint;
                    events.push(PeerEvent::Endpoint {
                        public_key,
                        endpoint,
                    });
                }
                let to = sight.state;
                if from != to {
                    events.push(PeerEvent::State {
                        public_key,
                        from,
                        to,
                    });
                }
            }
        }
        self.seen = now;
        self.tell(&events);
    }

    /// Refusals that are new, then that something was done.
    fn tell_applied(&mut self, applied: &Applied) {
        let Applied {
            added,
            changed,
            removed,
            ref rejected,
            ..
        } = *applied;
        let mut new: Vec<PeerEvent> = rejected
            .iter()
            .filter(|one| !self.rejected.contains(one))
            .map(|(public_key, reason)| PeerEvent::Rejected {
                public_key: *public_key,
                reason: reason.clone(),
            })
            .collect();
        if added + changed + removed > 0 {
            new.push(PeerEvent::Applied {
                added,
                changed,
                removed,
            });
        }
        self.tell(&new);
    }

    fn tell(&mut self, events: &[PeerEvent]) {
        if events.is_empty() {
            return;
        }
        self.subscribers.retain(|(sender, shared)| {
            let mut alive = true;
            for event in events {
                match sender.try_send(event.clone()) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => {
                        shared.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(TrySendError::Disconnected(_)) => alive = false,
                }
            }
            shared.bell.wake();
            alive
        });
    }
}

impl Control {
    /// Tells from now on what happens to peers; at most `capacity` events wait to be read, and
    /// those beyond are lost and counted. State and endpoint are looked at ten times a second
    /// while anybody listens.
    ///
    /// # Errors
    /// Whatever `eventfd(2)` says: no descriptors left.
    pub fn subscribe(&self, capacity: usize) -> io::Result<Subscription> {
        self.events.subscribe(capacity, self.sights())
    }

    /// Whether anybody listens to events.
    pub(crate) fn is_watched(&self) -> bool {
        self.events.is_watched()
    }

    /// Finds what has happened to peers, if anybody listens.
    pub(crate) fn look(&self) {
        if self.is_watched() {
            self.events.look(self.sights());
        }
    }

    fn sights(&self) -> BTreeMap<PublicKey, Sight> {
        let now = (self.clock)();
        let registry = self.registry();
        let sight = |running: &Running| Sight {
            label: running.spec.label.clone(),
            state: running.state(now),
            endpoint: running.active(),
        };
        let peers = registry.peers.iter();
        peers.map(|(key, running)| (*key, sight(running))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        [byte; 32].into()
    }

    fn sight(state: PeerState, port: u16) -> Sight {
        Sight {
            label: "node".to_owned(),
            state,
            endpoint: (port > 0).then(|| ([192, 0, 2, 1], port).into()),
        }
    }

    fn peers<const N: usize>(sights: [(u8, Sight); N]) -> BTreeMap<PublicKey, Sight> {
        let peers = sights.into_iter().map(|(byte, sight)| (key(byte), sight));
        peers.collect()
    }

    #[test]
    fn differences_are_told_in_order() {
        let publisher = Publisher::default();
        let here = sight(PeerState::Unknown, 1);
        let heard = publisher
            .subscribe(16, peers([(1, here.clone()), (2, here)]))
            .unwrap();
        assert!(heard.take().is_empty(), "what is there is no news");
        publisher.look(peers([
            (1, sight(PeerState::Up, 2)),
            (3, sight(PeerState::Unknown, 0)),
        ]));
        let (from, to) = (PeerState::Unknown, PeerState::Up);
        let label = "node".to_owned();
        let expected = [
            PeerEvent::Removed { public_key: key(2) },
            PeerEvent::Endpoint {
                public_key: key(1),
                endpoint: sight(to, 2).endpoint,
            },
            PeerEvent::State {
                public_key: key(1),
                from,
                to,
            },
            PeerEvent::Added {
                public_key: key(3),
                label,
            },
        ];
        assert_eq!(heard.take(), expected);
    }

    #[test]
    fn a_subscriber_that_does_not_read_loses_events_and_holds_nobody_up() {
        let publisher = Publisher::default();
        let slow = publisher.subscribe(2, BTreeMap::new()).unwrap();
        let other = publisher.subscribe(100, BTreeMap::new()).unwrap();
        for byte in 1..=10 {
            publisher.look(peers([(byte, sight(PeerState::Unknown, 0))]));
        }
        assert_eq!(slow.take().len(), 2);
        assert_eq!(slow.take_lost(), 17);
        assert_eq!(slow.take_lost(), 0);
        assert_eq!(other.take().len(), 19);
    }

    #[test]
    fn the_same_refusal_is_told_once() {
        let publisher = Publisher::default();
        let heard = publisher.subscribe(16, BTreeMap::new()).unwrap();
        let refused = Applied {
            rejected: vec![(key(1), RejectReason::OwnKey(key(1)))],
            ..Applied::default()
        };
        publisher.applied(&refused);
        publisher.applied(&refused);
        assert_eq!(heard.take().len(), 1);
        publisher.applied(&Applied::default());
        publisher.applied(&refused);
        assert_eq!(heard.take().len(), 1, "it was accepted in between");
    }

    #[test]
    fn nobody_looks_for_subscribers_that_are_gone() {
        let publisher = Publisher::default();
        assert!(!publisher.is_watched());
        drop(publisher.subscribe(1, BTreeMap::new()).unwrap());
        assert!(publisher.is_watched());
        publisher.look(peers([(1, sight(PeerState::Up, 1))]));
        assert!(!publisher.is_watched());
    }
}
