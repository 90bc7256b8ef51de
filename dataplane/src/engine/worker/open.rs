//! Inwards: datagrams to inner packets.

use core::mem;
use core::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Worker;
use crate::crypto::OpenJob;
use crate::engine::counters::Totals;
use crate::engine::port::{ControlSink, Datagram, InnerTx, MAX_BATCH};
use crate::mesh::{Endpoint, IndexEntry, Indices, Peer, Table, WorkerId};
use crate::noise::Session;
use crate::noise::constants::REJECT_AFTER_MESSAGES;
use crate::time::Instant;
use crate::wire::message::{DATA_HEADER_LEN, DATA_OVERHEAD};
use crate::wire::{Ecn, Ip, Message, ParseError, ecn};

/// Transport data on its way in.
pub(super) struct Incoming<'a> {
    pub(super) peer: &'a Arc<Peer>,
    pub(super) session: &'a Arc<Session>,
    pub(super) counter: u64,
    pub(super) from: &'a Endpoint,
    pub(super) ecn: Ecn,
    /// Set once the tag is verified; cleared again for what was seen before.
    pub(super) plaintext: Option<&'a mut [u8]>,
    /// Whose the source of the packet inside is: [`accept`](Worker::accept) looks it up.
    pub(super) owner: Option<&'a Arc<Peer>>,
}

impl Worker {
    /// Opens `datagrams` in place and delivers what is in them to `inner`, in order. Handshake
    /// messages go to `control` at once.
    ///
    /// Nothing about a peer changes before a datagram of it is authenticated.
    pub fn open(
        &mut self,
        now: Instant,
        datagrams: &mut [Datagram<'_>],
        inner: &mut dyn InnerTx,
        control: &mut dyn ControlSink,
    ) {
        for batch in datagrams.chunks_mut(MAX_BATCH) {
            let mut totals = Totals::default();
            self.open_batch(now, batch, inner, control, &mut totals);
            self.confirmed |= totals.confirmed != 0;
            self.counters.add(&totals);
        }
    }

    fn open_batch(
        &self,
        now: Instant,
        datagrams: &mut [Datagram<'_>],
        inner: &mut dyn InnerTx,
        control: &mut dyn ControlSink,
        totals: &mut Totals,
    ) {
        let indices = self.mesh.indices.load();
        let table = self.mesh.table();
        let mut incoming = ArrayVec::<Incoming<'_>, MAX_BATCH>::new();
        let mut jobs = ArrayVec::<OpenJob<'_>, MAX_BATCH>::new();
        totals.datagrams += datagrams.len() as u64;
        let mut headers = ArrayVec::<Option<(u32, u64)>, MAX_BATCH>::new();
        for datagram in &*datagrams {
            let _ = headers.try_push(transport_data(datagram, control, totals));
        }
        let mut entries = [None; MAX_BATCH];
        find_sessions(&indices, &headers, &mut entries);
        for ((datagram, header), &entry) in datagrams.iter_mut().zip(&headers).zip(&entries) {
            let &Some((_, counter)) = header else {
                continue;
            };
            let Some((peer, session)) = admit(entry, counter, now, totals) else {
                continue;
            };
            let Datagram { payload, from, ecn } = datagram;
            let Some(job) = open_job(session, counter, payload, totals) else {
                continue;
            };
            // Both have room for a whole batch.
            let _ = jobs.try_push(job);
            let _ = incoming.try_push(Incoming {
                peer,
                session,
                counter,
                from,
                ecn: *ecn,
                plaintext: None,
                owner: None,
            });
        }
        if jobs.is_empty() {
            return;
        }

        self.aead.open(&mut jobs);

        // Drained where they lie: the array is too large to be moved for a lone packet.
        for (incoming, job) in incoming.iter_mut().zip(jobs.drain(..)) {
            incoming.plaintext = job.into_plaintext();
            totals.forged += u64::from(incoming.plaintext.is_none());
        }
        self.accept(now, &table, &mut incoming, inner, totals);
    }

    /// What was opened, in order: replay window, session promotion, roaming, source addresses,
    /// delivery.
    pub(super) fn accept<'a>(
        &self,
        now: Instant,
        table: &'a Table,
        incoming: &mut [Incoming<'a>],
        inner: &mut dyn InnerTx,
        totals: &mut Totals,
    ) {
        find_owners(table, incoming);
        let mut packets = ArrayVec::<&[u8], MAX_BATCH>::new();
        for run in incoming.chunk_by_mut(|a, b| Arc::ptr_eq(a.session, b.session)) {
            receive_run(now, self.id, run, &mut packets, totals);
        }
        if !packets.is_empty() {
            let sent = inner.send_batch(&packets);
            totals.delivered += sent.accepted as u64;
            totals.inner_dropped += sent.dropped as u64;
        }
    }
}

/// What the indices of `headers` stand for, looked up all at once. Sessions and peers are called
/// for from memory, so that the batch waits for them together, and while it is opened.
fn find_sessions<'a>(
    indices: &'a Indices,
    headers: &[Option<(u32, u64)>],
    found: &mut [Option<&'a IndexEntry>; MAX_BATCH],
) {
    let index = |number: usize| Some(headers.get(number).copied()??.0);
    let repeats = |number: usize| number > 0 && index(number) == index(number - 1);
    let firsts = (0..headers.len()).filter(|&number| !repeats(number));
    let firsts = firsts.filter_map(|number| Some((number, index(number)?)));
    indices.entries(firsts, |number, entry| {
        if let Some(place) = found.get_mut(number) {
            *place = entry;
        }
    });
    let mut last: Option<&IndexEntry> = None;
    for (number, place) in found.iter_mut().enumerate().take(headers.len()) {
        if repeats(number) {
            *place = last;
        } else if let Some(entry) = place {
            if let Some(session) = entry.session() {
                session.prefetch_to_open();
            }
            entry.peer().prefetch();
        }
        last = *place;
    }
}

/// The session that transport data is for, if there is one that may take it.
pub(super) fn admit<'a>(
    entry: Option<&'a IndexEntry>,
    counter: u64,
    now: Instant,
    totals: &mut Totals,
) -> Option<(&'a Arc<Peer>, &'a Arc<Session>)> {
    let Some((peer, session)) = entry.and_then(|e| Some((e.peer(), e.session()?))) else {
        totals.unknown_index += 1;
        return None;
    };
    if session.is_expired(now) {
        totals.expired += 1;
        return None;
    }
    if counter >= REJECT_AFTER_MESSAGES {
        totals.counter_exhausted += 1;
        return None;
    }
    Some((peer, session))
}

/// The job of opening `payload`, header included.
pub(super) fn open_job<'a>(
    session: &'a Session,
    counter: u64,
    payload: &'a mut [u8],
    totals: &mut Totals,
) -> Option<OpenJob<'a>> {
    let (_, ciphertext) = payload
        .split_at_mut_checked(DATA_HEADER_LEN)
        .unwrap_or_default();
    let job = OpenJob::new(session.receiving(), counter, ciphertext);
    totals.wrong_length += u64::from(job.is_err());
    job.ok()
}

/// Index and counter of transport data; anything else is dealt with.
pub(super) fn transport_data(
    datagram: &Datagram<'_>,
    control: &mut dyn ControlSink,
    totals: &mut Totals,
) -> Option<(u32, u64)> {
    match Message::parse(datagram.payload) {
        Ok(Message::Data(data)) => {
            return Some((data.header.receiver_index.get(), data.header.counter.get()));
        }
        Ok(Message::Initiation(_) | Message::Response(_) | Message::CookieReply(_)) => {
            if control.handshake_message(datagram.payload, &datagram.from) {
                totals.handshakes += 1;
            } else {
                totals.handshakes_dropped += 1;
            }
        }
        Err(ParseError::UnknownType { .. }) => totals.unknown_type += 1,
        Err(_) => totals.wrong_length += 1,
    }
    None
}

/// Looks up whose the sources of all packets are, all at once.
fn find_owners<'a>(table: &'a Table, incoming: &mut [Incoming<'a>]) {
    let mut sources = ArrayVec::<IpAddr, MAX_BATCH>::new();
    for incoming in &*incoming {
        let plaintext = incoming.plaintext.as_deref().unwrap_or_default();
        // Those of what is no packet own nothing, and are not asked for.
        let source = Ip::parse(plaintext).map(|ip| ip.source());
        let _ = sources.try_push(source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
    let mut owners = [None; MAX_BATCH];
    table.allowed_ips.lookup_many(&sources, &mut owners);
    for (incoming, owner) in incoming.iter_mut().zip(&owners) {
        incoming.owner = *owner;
    }
}

/// What one session received, in order.
fn receive_run<'a>(
    now: Instant,
    worker: Option<WorkerId>,
    run: &mut [Incoming<'a>],
    packets: &mut ArrayVec<&'a [u8], MAX_BATCH>,
    totals: &mut Totals,
) {
    let Some(&Incoming { peer, session, .. }) = run.first() else {
        return;
    };
    {
        let mut replay = session.replay();
        for incoming in run.iter_mut() {
            if incoming.plaintext.is_some() && !replay.accept(incoming.counter) {
                incoming.plaintext = None;
                totals.replayed += 1;
            }
        }
    }
    let Some(newest) = run.iter().rfind(|incoming| incoming.plaintext.is_some()) else {
        return;
    };
    // The first packet of a responder's new session makes it the current one; control notices,
    // and gives back the indices of what it replaces.
    totals.confirmed += u64::from(peer.confirm(session, now));
    peer.set_endpoint(*newest.from);

    let (mut data, mut received, mut bytes) = (0_u64, 0_u64, 0_u64);
    for incoming in run.iter_mut() {
        let Some(plaintext) = mem::take(&mut incoming.plaintext) else {
            continue;
        };
        let message_len = (plaintext.len() + DATA_OVERHEAD) as u64;
        if plaintext.is_empty() {
            totals.keepalives += 1;
            bytes += message_len;
            continue;
        }
        data += 1;
        let Ok(ip) = Ip::parse(plaintext) else {
            totals.malformed_inner += 1;
            continue;
        };
        if !incoming.owner.is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
            totals.wrong_source += 1;
            continue;
        }
        let len = ip.total_len();
        ecn::decapsulate(incoming.ecn, plaintext);
        let Some((packet, _padding)) = plaintext.split_at_checked(len) else {
            totals.malformed_inner += 1;
            continue;
        };
        received += 1;
        bytes += message_len;
        let _ = packets.try_push(packet);
    }
    peer.counters.received(worker, received, bytes);
    match data {
        0 => peer.marks.authenticated_received(now),
        1 => peer.marks.data_received(now),
        _ => {
            // The second one asks for another keepalive; more of them change nothing.
            peer.marks.data_received(now);
            peer.marks.data_received(now);
        }
    }
}
