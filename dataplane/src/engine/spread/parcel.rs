//! Datagrams on their way from one worker to another.

use std::sync::Arc;

use crate::engine::port::{Datagram, Ecn, MAX_BATCH};
use crate::mesh::{Endpoint, Peer};
use crate::noise::Session;

/// Room for 176 datagrams of a path of 1500 bytes, for four of the longest there are: a batch, or
/// a good part of one, small enough for a second-level cache.
const ARENA: usize = 256 << 10;

/// Transport data, copied, and what is known of it.
pub(crate) struct Parcel {
    /// The datagrams, one after another.
    pub(in crate::engine) arena: Box<[u8]>,
    used: usize,
    pub(in crate::engine) items: Vec<Item>,
    /// Whose they are: one for each run of datagrams of a session.
    pub(in crate::engine) owners: Vec<(Arc<Peer>, Arc<Session>)>,
}

/// One datagram.
pub(in crate::engine) struct Item {
    pub(in crate::engine) len: usize,
    pub(in crate::engine) from: Endpoint,
    pub(in crate::engine) ecn: Ecn,
    pub(in crate::engine) index: u32,
    pub(in crate::engine) counter: u64,
    /// Which of the owners, where the session may take it.
    pub(in crate::engine) owner: Option<usize>,
    /// How long its plaintext is, once the tag is verified. It follows the header.
    pub(in crate::engine) plaintext: Option<usize>,
}

impl Default for Parcel {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            items: Vec::with_capacity(MAX_BATCH),
            owners: Vec::with_capacity(MAX_BATCH),
        }
    }
}

impl Parcel {
    pub(in crate::engine) fn has_room(&self, len: usize) -> bool {
        self.items.len() < MAX_BATCH && len <= self.arena.len() - self.used
    }

    /// Copies a datagram, for which there is room.
    pub(in crate::engine) fn push(&mut self, datagram: &Datagram<'_>, index: u32, counter: u64) {
        let len = datagram.payload.len();
        if let Some(place) = self.arena.get_mut(self.used..self.used + len) {
            place.copy_from_slice(datagram.payload);
            self.used += len;
            self.items.push(Item {
                len,
                from: datagram.from,
                ecn: datagram.ecn,
                index,
                counter,
                owner: None,
                plaintext: None,
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Forgets everything: sessions may not outlive their time in an idle parcel.
    pub(in crate::engine) fn clear(&mut self) {
        self.used = 0;
        self.items.clear();
        self.owners.clear();
    }
}

impl core::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parcel")
            .field("datagrams", &self.items.len())
            .finish_non_exhaustive()
    }
}
