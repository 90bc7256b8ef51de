//! From workers to control: handshake messages and wishes for handshakes.
//!
//! Bounded, never waiting: when control falls behind (a flood of initiations), messages are
//! dropped here and counted, and data goes on.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
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

/// A mailbox that any number of workers write to, and control's end of it.
#[must_use]
pub fn mailbox() -> (Mailbox, Letters) {
    let (sender, receiver) = bounded(CAPACITY);
    let messages = Arc::new(AtomicUsize::new(0));
    let letters = Letters {
        receiver,
        messages: Arc::clone(&messages),
    };
    let mailbox = Mailbox {
        sender,
        messages,
        dropped: Arc::default(),
    };
    (mailbox, letters)
}

/// Control's end.
#[derive(Debug)]
pub struct Letters {
    receiver: Receiver<Mail>,
    messages: Arc<AtomicUsize>,
}

impl Letters {
    /// What to wait on. Every letter taken from it goes through [`took`](Self::took).
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Mail> {
        &self.receiver
    }

    /// A letter was taken out.
    pub fn took(&self, mail: &Mail) {
        if matches!(mail, Mail::Message { .. }) {
            self.messages.fetch_sub(1, Relaxed);
        }
    }

    /// Handshake messages that wait. Wishes do not count: they are this node's own, and no sign
    /// of a flood.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages.load(Relaxed)
    }
}

/// A worker's end.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Mail>,
    messages: Arc<AtomicUsize>,
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
        // Counted before it can be taken out again.
        self.messages.fetch_add(1, Relaxed);
        let fits = self.put(Mail::Message {
            datagram,
            from: *from,
        });
        if !fits {
            self.messages.fetch_sub(1, Relaxed);
        }
        fits
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
        let (mut mailbox, letters) = mailbox();
        for _ in 0..CAPACITY {
            assert!(mailbox.handshake_message(&[1; 148], &endpoint()));
        }
        assert!(!mailbox.handshake_message(&[1; 148], &endpoint()));
        assert_eq!(mailbox.dropped(), 1);
        assert_eq!(letters.messages(), CAPACITY);
        let mail = letters.receiver().recv().unwrap();
        letters.took(&mail);
        assert!(matches!(mail, Mail::Message { datagram, .. } if datagram.len() == 148));
        assert_eq!(letters.messages(), CAPACITY - 1);
        assert!(mailbox.handshake_message(&[1; 148], &endpoint()));
    }

    /// A thousand peers that want sessions at once must not have this node ask for cookies.
    #[test]
    fn wishes_are_no_load() {
        let (mut mailbox, letters) = mailbox();
        let peer = Arc::new(Peer::new([1; 32].into()));
        assert!(mailbox.handshake_wanted(&peer));
        assert_eq!((letters.receiver().len(), letters.messages()), (1, 0));
        letters.took(&letters.receiver().recv().unwrap());
        assert_eq!(letters.messages(), 0);
    }

    #[test]
    fn an_oversized_message_is_refused() {
        let (mut mailbox, letters) = mailbox();
        assert!(!mailbox.handshake_message(&[1; 149], &endpoint()));
        assert!(letters.receiver().is_empty() && letters.messages() == 0);
    }
}
