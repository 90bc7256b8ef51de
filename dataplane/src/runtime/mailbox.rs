//! From workers to control: handshake messages and wishes for handshakes.
//!
//! Bounded, never waiting: when control falls behind (a flood of initiations), messages are
//! dropped here and counted, and data goes on.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::engine::port::ControlSink;
use crate::mesh::{Endpoint, Peer};

/// Messages that may wait for control, as the kernel's `MAX_QUEUED_INCOMING_HANDSHAKES`.
pub const CAPACITY: usize = 4096;

/// The longest message that is not transport data: an initiation.
pub const MAX_MESSAGE: usize = 148;

/// One letter to control.
#[derive(Debug)]
pub enum Mail {
    /// An initiation, a response or a cookie reply.
    Message {
        /// The datagram.
        datagram: ArrayVec<u8, MAX_MESSAGE>,
        /// Who sent it.
        from: Endpoint,
    },
    /// A peer has packets to send and no session to send them with.
    Wanted(Arc<Peer>),
}

/// A mailbox that any number of workers write to; returns control's end.
#[must_use]
pub fn mailbox() -> (Mailbox, Receiver<Mail>) {
    let (sender, receiver) = bounded(CAPACITY);
    (
        Mailbox {
            sender,
            dropped: Arc::default(),
        },
        receiver,
    )
}

/// A worker's end.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Mail>,
    dropped: Arc<AtomicU64>,
}

impl Mailbox {
    /// Letters that found the box full, of all workers together.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn put(&self, mail: Mail) -> bool {
        let fits = self.sender.try_send(mail).is_ok();
        if !fits {
            self.dropped.fetch_add(1, Relaxed);
        }
        fits
    }
}

impl ControlSink for Mailbox {
    fn handshake_message(&mut self, datagram: &[u8], from: &Endpoint) -> bool {
        let Ok(datagram) = ArrayVec::try_from(datagram) else {
            return false;
        };
        self.put(Mail::Message {
            datagram,
            from: *from,
        })
    }

    fn handshake_wanted(&mut self, peer: &Arc<Peer>) -> bool {
        self.put(Mail::Wanted(Arc::clone(peer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::from(core::net::SocketAddr::from(([192, 0, 2, 1], 51820)))
    }

    #[test]
    fn a_full_box_drops_and_counts() {
        let (mut mailbox, receiver) = mailbox();
        for _ in 0..CAPACITY {
            assert!(mailbox.handshake_message(&[1; 148], &endpoint()));
        }
        assert!(!mailbox.handshake_message(&[1; 148], &endpoint()));
        assert_eq!(mailbox.dropped(), 1);
        assert!(
            matches!(receiver.recv().unwrap(), Mail::Message { datagram, .. } if datagram.len() == 148)
        );
        assert!(mailbox.handshake_message(&[1; 148], &endpoint()));
    }

    #[test]
    fn an_oversized_message_is_refused() {
        let (mut mailbox, receiver) = mailbox();
        assert!(!mailbox.handshake_message(&[1; 149], &endpoint()));
        assert!(receiver.is_empty());
    }
}
