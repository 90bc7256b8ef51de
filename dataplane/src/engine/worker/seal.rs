//! Outwards: inner packets to datagrams.

use core::net::IpAddr;
use core::ops::{Deref, Range};
use std::sync::Arc;

use arrayvec::ArrayVec;
use zerocopy::IntoBytes;

use super::routing_loop::is_own;
use super::{Worker, want_handshake};
use crate::crypto::{AeadKey, BatchAead, SealJob};
use crate::engine::counters::Totals;
use crate::engine::port::{ControlSink, MAX_BATCH, OuterTx, Packet, TxRequest, TxSlot};
use crate::mesh::endpoint::NOWHERE;
use crate::mesh::{Endpoint, IndexEntry, Indices, Peer};
use crate::noise::Session;
use crate::noise::constants::PADDING_MULTIPLE;
use crate::noise::session::SessionSet;
use crate::time::Instant;
use crate::wire::icmp::Problem;
use crate::wire::message::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader};
use crate::wire::{Ecn, Ip};

/// The longest UDP payload that IPv4 carries, in bytes.
const MAX_DATAGRAM: usize = 65_535 - 20 - 8;

/// An inner packet and whose it is.
struct Outgoing<'a> {
    peer: &'a Arc<Peer>,
    data: &'a [u8],
    ecn: Ecn,
}

/// Consecutive packets to one peer.
struct Run<'a> {
    peer: &'a Arc<Peer>,
    session: Option<Current<'a>>,
    to: Endpoint,
    /// Whether it can be sealed now, and has counters.
    ready: bool,
    first_counter: u64,
    /// Which packets of the batch.
    packets: Range<usize>,
}

/// The session that a peer's packets are sealed under.
enum Current<'a> {
    /// Found by its index in the table that is loaded once a batch.
    Published(&'a Session),
    /// Taken from the peer, where its index does not lead to it: it has just been replaced.
    Kept(Arc<Session>),
}

impl Deref for Current<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        match self {
            Self::Published(session) => session,
            Self::Kept(session) => session,
        }
    }
}

/// What was sealed of a run.
#[derive(Clone, Copy, Default)]
struct Tally {
    messages: u64,
    bytes: u64,
}

/// Why a peer's packets cannot be sealed now.
enum Unready {
    NoEndpoint,
    NoSession,
}

impl Run<'_> {
    /// Takes what it takes to seal: where to, a session, and a counter for each packet.
    fn prepare(&mut self, now: Instant) -> Result<(), Unready> {
        if !self.peer.endpoint_into(&mut self.to) {
            return Err(Unready::NoEndpoint);
        }
        let session = self
            .session
            .as_deref()
            .filter(|session| !session.is_expired(now))
            .ok_or(Unready::NoSession)?;
        self.first_counter = session
            .reserve_counters(self.packets.len() as u64)
            .ok_or(Unready::NoSession)?;
        self.ready = true;
        Ok(())
    }
}

/// The runs of `outgoing`. In steady state their sessions cost no reference count and are only
/// called for from memory, not looked at: they come together.
///
/// They are put where they stay: arrays for a whole batch are too large to be moved.
fn find_runs<'a>(
    outgoing: &[Outgoing<'a>],
    indices: &'a Indices,
    runs: &mut ArrayVec<Run<'a>, MAX_BATCH>,
) {
    let mut wanted = ArrayVec::<(usize, u32), MAX_BATCH>::new();
    let mut start = 0;
    for packets in outgoing.chunk_by(|a, b| Arc::ptr_eq(a.peer, b.peer)) {
        let end = start + packets.len();
        if let Some(&Outgoing { peer, .. }) = packets.first() {
            let index = peer.sessions.current_index();
            wanted.extend(index.map(|index| (runs.len(), index)));
            let _ = runs.try_push(Run {
                peer,
                session: None,
                to: NOWHERE,
                ready: false,
                first_counter: 0,
                packets: start..end,
            });
        }
        start = end;
    }
    indices.entries(wanted.iter().copied(), |number, entry| {
        let Some(run) = runs.get_mut(number) else {
            return;
        };
        let entry = entry.filter(|entry| Arc::ptr_eq(entry.peer(), run.peer));
        if let Some(session) = entry.and_then(IndexEntry::session) {
            session.prefetch_to_seal();
            run.session = Some(Current::Published(session));
        }
    });
    for run in runs.iter_mut().filter(|run| run.session.is_none()) {
        run.session = run.peer.sessions.load().current.clone().map(Current::Kept);
    }
}

/// One message to seal.
struct Message<'a> {
    run: usize,
    key: &'a AeadKey,
    header: DataHeader,
    counter: u64,
    data: &'a [u8],
}

impl Worker {
    /// Seals `packets` straight into buffers of `outer` and sends them, each to the peer that its
    /// destination belongs to. Packets of a peer without a session wait for a handshake, for
    /// which `control` is asked; those of a peer that is to renew its session do not wait.
    pub fn seal(
        &mut self,
        now: Instant,
        packets: &mut [Packet<'_>],
        outer: &mut dyn OuterTx,
        control: &mut dyn ControlSink,
    ) {
        for batch in packets.chunks(MAX_BATCH) {
            let mut totals = Totals::default();
            self.seal_batch(now, batch, outer, control, &mut totals);
            self.counters.add(&totals);
        }
    }

    /// Sends what waited for a handshake that has ended meanwhile, in order, and drops what waited
    /// in vain. Returns how many packets were sealed.
    ///
    /// To be called when control says that sessions came, when [`Worker::wants_release`], and about
    /// once a second while [`Worker::has_staged`].
    pub fn release_staged(
        &mut self,
        now: Instant,
        outer: &mut dyn OuterTx,
        control: &mut dyn ControlSink,
    ) -> usize {
        self.confirmed = false;
        let mut totals = Totals {
            staged_expired: self.staged.expire(now),
            ..Totals::default()
        };
        let ready: Vec<Arc<Peer>> = self
            .staged
            .peers()
            .filter(|peer| usable(&peer.sessions.load(), now).is_some())
            .cloned()
            .collect();
        for peer in &ready {
            self.release_peer(now, peer, outer, control, &mut totals);
        }
        self.counters.add(&totals);
        totals.sealed as usize
    }

    fn seal_batch(
        &mut self,
        now: Instant,
        batch: &[Packet<'_>],
        outer: &mut dyn OuterTx,
        control: &mut dyn ControlSink,
        totals: &mut Totals,
    ) {
        totals.packets += batch.len() as u64;
        let table = self.mesh.table();
        let mut parsed = ArrayVec::<(&[u8], Ecn), MAX_BATCH>::new();
        let mut destinations = ArrayVec::<IpAddr, MAX_BATCH>::new();
        for packet in batch {
            let Ok(ip) = Ip::parse(packet.data) else {
                totals.malformed += 1;
                continue;
            };
            let _ = parsed.try_push((packet.data, ip.ecn().encapsulate()));
            let _ = destinations.try_push(ip.destination());
        }
        let mut peers = [None; MAX_BATCH];
        table.allowed_ips.lookup_many(&destinations, &mut peers);
        let mut outgoing = ArrayVec::<Outgoing<'_>, MAX_BATCH>::new();
        for (&(data, ecn), &peer) in parsed.iter().zip(&peers) {
            let Some(peer) = peer else {
                totals.no_peer += 1;
                self.errors.answer(now, data, Problem::Unreachable);
                continue;
            };
            if self.datagram_len(data.len()) > MAX_DATAGRAM {
                totals.oversized += 1;
                let mtu = self.longest_packet();
                self.errors.answer(now, data, Problem::TooBig { mtu });
                continue;
            }
            peer.prefetch();
            let _ = outgoing.try_push(Outgoing { peer, data, ecn });
        }
        if !self.staged.is_empty() {
            for packet in &outgoing {
                // What waited goes first.
                let usable = || usable(&packet.peer.sessions.load(), now).is_some();
                if self.staged.holds(packet.peer.public_key()) && usable() {
                    self.release_peer(now, packet.peer, outer, control, totals);
                }
            }
        }
        self.send(now, &outgoing, outer, control, totals);
    }

    /// Sends what waits for `peer`, which has a session.
    fn release_peer(
        &mut self,
        now: Instant,
        peer: &Arc<Peer>,
        outer: &mut dyn OuterTx,
        control: &mut dyn ControlSink,
        totals: &mut Totals,
    ) {
        let Some(queue) = self.staged.take(peer.public_key()) else {
            return;
        };
        let outgoing: ArrayVec<Outgoing<'_>, MAX_BATCH> = queue
            .packets
            .iter()
            .map(|packet| Outgoing {
                peer: &queue.peer,
                data: &packet.data,
                ecn: packet.ecn,
            })
            .take(MAX_BATCH)
            .collect();
        self.send(now, &outgoing, outer, control, totals);
    }

    fn send(
        &mut self,
        now: Instant,
        outgoing: &[Outgoing<'_>],
        outer: &mut dyn OuterTx,
        control: &mut dyn ControlSink,
        totals: &mut Totals,
    ) {
        let indices = self.mesh.indices.load();
        let mut runs = ArrayVec::<Run<'_>, MAX_BATCH>::new();
        find_runs(outgoing, &indices, &mut runs);
        for run in &mut runs {
            let Err(unready) = run.prepare(now) else {
                continue;
            };
            let packets = outgoing.get(run.packets.clone()).unwrap_or_default();
            match unready {
                Unready::NoEndpoint => {
                    totals.no_endpoint += packets.len() as u64;
                    for packet in packets {
                        self.errors.answer(now, packet.data, Problem::Unreachable);
                    }
                }
                Unready::NoSession => {
                    totals.staged += packets.len() as u64;
                    for packet in packets {
                        totals.staged_dropped +=
                            self.staged.push(now, run.peer, packet.data, packet.ecn);
                    }
                    want_handshake(run.peer, control);
                }
            }
        }

        let mut messages = ArrayVec::<Message<'_>, MAX_BATCH>::new();
        let mut requests = ArrayVec::<TxRequest, MAX_BATCH>::new();
        for (number, run) in runs.iter().enumerate() {
            let Some(session) = run.session.as_deref().filter(|_| run.ready) else {
                continue;
            };
            let packets = outgoing.get(run.packets.clone()).unwrap_or_default();
            for (packet, counter) in packets.iter().zip(run.first_counter..) {
                if is_own(packet.data, &run.to.remote, session.remote_index()) {
                    totals.looped += 1;
                    continue;
                }
                let _ = messages.try_push(Message {
                    run: number,
                    key: session.sending(),
                    header: DataHeader::new(session.remote_index(), counter),
                    counter,
                    data: packet.data,
                });
                let _ = requests.try_push(TxRequest {
                    to: run.to,
                    len: self.datagram_len(packet.data.len()),
                    tos: packet.ecn as u8,
                });
            }
        }
        if requests.is_empty() {
            return;
        }

        let mut tallies = ArrayVec::<Tally, MAX_BATCH>::new();
        tallies.extend(runs.iter().map(|_| Tally::default()));
        let sent = outer.send_batch(&requests, &mut |slots| {
            seal_slots(self.aead, &messages, slots, &mut tallies);
        });
        totals.sealed += sent.accepted as u64;
        totals.outer_dropped += sent.dropped as u64;

        for (run, tally) in runs.iter().zip(&tallies) {
            if tally.messages == 0 {
                continue;
            }
            run.peer.counters.sent(self.id, tally.messages, tally.bytes);
            run.peer.marks.data_sent(now);
            let session = run.session.as_deref();
            if session.is_some_and(|session| session.wants_rekey_on_send(now)) {
                want_handshake(run.peer, control);
            }
        }
    }

    /// The longest packet that a sender is told to send.
    fn longest_packet(&self) -> u16 {
        match self.config.mtu {
            0 => (MAX_DATAGRAM - DATA_OVERHEAD - PADDING_MULTIPLE) as u16,
            mtu => mtu,
        }
    }

    /// Length of the datagram for a packet of `len` bytes.
    fn datagram_len(&self, len: usize) -> usize {
        DATA_OVERHEAD + padded_len(len, self.config.mtu.into())
    }
}

/// Writes the messages that `slots` ask for, through the AEAD all at once.
fn seal_slots(
    aead: &dyn BatchAead,
    messages: &[Message<'_>],
    slots: &mut [TxSlot<'_>],
    tallies: &mut [Tally],
) {
    for slots in slots.chunks_mut(MAX_BATCH) {
        let mut jobs = ArrayVec::<SealJob<'_>, MAX_BATCH>::new();
        for slot in slots {
            let len = slot.buffer.len() as u64;
            let Some(message) = messages.get(slot.request) else {
                continue;
            };
            let Some((header, rest)) = slot.buffer.split_at_mut_checked(DATA_HEADER_LEN) else {
                continue;
            };
            header.copy_from_slice(message.header.as_bytes());
            let Ok(job) = SealJob::new(message.key, message.counter, message.data, rest) else {
                continue;
            };
            let _ = jobs.try_push(job);
            if let Some(tally) = tallies.get_mut(message.run) {
                tally.messages += 1;
                tally.bytes += len;
            }
        }
        aead.seal(&mut jobs);
    }
}

/// The session that seals what is sent, unless there is none or it is too old.
fn usable(sessions: &SessionSet, now: Instant) -> Option<&Session> {
    sessions
        .current
        .as_deref()
        .filter(|session| !session.is_expired(now))
}

/// The length that a packet of `len` bytes is padded to: a multiple of 16, but not beyond the MTU
/// (kernel `calculate_skb_padding`, which takes a packet beyond the MTU for segments to come).
fn padded_len(len: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return len.next_multiple_of(PADDING_MULTIPLE);
    }
    let last = if len > mtu { len % mtu } else { len };
    len - last + last.next_multiple_of(PADDING_MULTIPLE).min(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_the_kernels() {
        for (len, mtu, padded) in [
            (1, 1420, 16),
            (16, 1420, 16),
            (17, 1420, 32),
            (1408, 1420, 1408),
            (1409, 1420, 1420),
            (1420, 1420, 1420),
            (1421, 1420, 1436),
            (2840, 1420, 2840),
            (1500, 0, 1504),
            (30, 20, 36),
        ] {
            assert_eq!(padded_len(len, mtu), padded, "{len} bytes, MTU {mtu}");
        }
    }
}
