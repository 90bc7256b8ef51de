//! The engine's ports on an embedder's behalf.

use core::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Action, Actions};
use crate::crypto::PublicKey;
use crate::engine::port::{
    ControlSink, DriverInfo, InnerTx, MAX_BATCH, OuterTx, Sent, TxRequest, TxSlot,
};
use crate::mesh::{Endpoint, Peer};

/// Lends slots of one buffer and puts them out as actions.
pub(super) struct Lend<'a> {
    pub(super) buffer: &'a mut Vec<u8>,
    pub(super) out: Actions<'a>,
}

impl OuterTx for Lend<'_> {
    fn reaches(&mut self, _: &Endpoint) -> bool {
        true
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        let batch = requests.get(..MAX_BATCH).unwrap_or(requests);
        let total = batch.iter().map(|request| request.len).sum();
        if self.buffer.len() < total {
            self.buffer.resize(total, 0);
        }
        let mut rest = self.buffer.as_mut_slice();
        let mut slots = ArrayVec::<TxSlot<'_>, MAX_BATCH>::new();
        for (request, TxRequest { len, .. }) in batch.iter().enumerate() {
            let Some((buffer, after)) = rest.split_at_mut_checked(*len) else {
                break;
            };
            rest = after;
            let _ = slots.try_push(TxSlot { request, buffer });
        }
        fill(&mut slots);
        for (slot, request) in slots.iter().zip(batch) {
            (self.out)(Action::Send {
                to: request.to,
                tos: request.tos,
                datagram: slot.buffer,
            });
        }
        Sent {
            accepted: slots.len(),
            dropped: requests.len() - slots.len(),
        }
    }

    fn info(&self) -> DriverInfo {
        embedder()
    }
}

/// Puts packets out as actions.
pub(super) struct Receive<'a> {
    pub(super) out: Actions<'a>,
}

impl InnerTx for Receive<'_> {
    fn send_batch(&mut self, packets: &[&[u8]]) -> Sent {
        for packet in packets {
            (self.out)(Action::Deliver { packet });
        }
        Sent {
            accepted: packets.len(),
            dropped: 0,
        }
    }

    fn info(&self) -> DriverInfo {
        embedder()
    }
}

fn embedder() -> DriverInfo {
    DriverInfo {
        driver: "embedder",
        ..DriverInfo::default()
    }
}

/// Keeps what is for the handshakes until the batch is done. Its room is used again and again.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    bytes: Vec<u8>,
    messages: Vec<(Range<usize>, Endpoint)>,
    wishes: Vec<PublicKey>,
}

impl Mailbox {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.wishes.is_empty()
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = (&[u8], &Endpoint)> {
        self.messages
            .iter()
            .filter_map(|(range, from)| Some((self.bytes.get(range.clone())?, from)))
    }

    pub(super) fn wishes(&self) -> impl Iterator<Item = &PublicKey> {
        self.wishes.iter()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
        self.wishes.clear();
    }
}

impl ControlSink for Mailbox {
    fn handshake_message(&mut self, datagram: &[u8], from: &Endpoint) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.messages.push((start..self.bytes.len(), *from));
        true
    }

    fn handshake_wanted(&mut self, peer: &Arc<Peer>) -> bool {
        self.wishes.push(*peer.public_key());
        true
    }
}
