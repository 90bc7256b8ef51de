//! Sending: datagrams filled side by side in one buffer, so that runs of them go as one message.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::address::RawAddress;
use super::bind::Sockets;
use super::control::Control;
use super::gso::{self, Refusal, Run};
use super::mmsg::{self, Outgoing};
use super::rx::info;
use super::sender::source_refused;
use super::{MAX_DATAGRAM, MAX_MESSAGES};
use crate::engine::port::{DriverInfo, MAX_BATCH, OuterTx, Sent, TxRequest, TxSlot};
use crate::mesh::Endpoint;

/// Room for four super-packets: large enough to feed the batched AEAD, small enough for the
/// second-level cache. At least [`MAX_DATAGRAM`], so that every round makes progress.
const ARENA: usize = 256 << 10;
const _: () = assert!(ARENA >= MAX_DATAGRAM);

/// After so many batches, segment lengths that were too long are tried again: paths change.
const FORGET_LIMIT: u32 = 4096;

/// Sends through the sockets of a [`UdpPort`](super::UdpPort).
#[derive(Debug)]
pub struct UdpTx {
    sockets: Arc<Sockets>,
    arena: Box<[u8]>,
    /// Datagrams of this length and longer go singly, because the kernel refused to segment
    /// them for a path.
    segment_limit: usize,
    batches: u32,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    datagrams: u64,
    messages: u64,
    queue_full: u64,
    too_long: u64,
    no_family: u64,
    refused: u64,
    source_cleared: u64,
    unsegmented: u64,
    last_error: Option<i32>,
}

impl UdpTx {
    pub(super) fn new(sockets: Arc<Sockets>) -> Self {
        Self {
            sockets,
            arena: vec![0; ARENA].into_boxed_slice(),
            segment_limit: usize::MAX,
            batches: 0,
            counts: Counts::default(),
        }
    }

    /// Lends buffers for the first of `requests`, as many as fit; adds their indices to `staged`,
    /// and returns how many requests are done with.
    fn stage(
        &mut self,
        requests: &[TxRequest],
        first: usize,
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
        staged: &mut ArrayVec<usize, MAX_BATCH>,
    ) -> usize {
        let mut slots: ArrayVec<TxSlot<'_>, MAX_BATCH> = ArrayVec::new();
        let mut room: &mut [u8] = &mut self.arena;
        let mut next = first;
        for (index, request) in requests.iter().enumerate().skip(first) {
            if request.len > MAX_DATAGRAM {
                self.counts.too_long += 1;
            } else if self.sockets.towards(&request.to.remote).is_none() {
                self.counts.no_family += 1;
            } else {
                let Some((buffer, after)) = room.split_at_mut_checked(request.len) else {
                    break;
                };
                room = after;
                slots.push(TxSlot {
                    request: index,
                    buffer,
                });
            }
            next = index + 1;
        }
        if !slots.is_empty() {
            fill(&mut slots);
        }
        staged.extend(slots.iter().map(|slot| slot.request));
        next
    }
}

impl OuterTx for UdpTx {
    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        self.sockets.towards(&endpoint.remote).is_some()
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        self.batches = self.batches.wrapping_add(1);
        if self.batches.is_multiple_of(FORGET_LIMIT) {
            self.segment_limit = usize::MAX;
        }
        let batch = requests.get(..MAX_BATCH).unwrap_or(requests);
        let mut accepted = 0;
        let mut next = 0;
        while next < batch.len() {
            let mut staged = ArrayVec::new();
            next = self.stage(batch, next, fill, &mut staged);
            let limit = if self.sockets.gso() {
                self.segment_limit
            } else {
                0
            };
            let requests = staged.iter().filter_map(|index| batch.get(*index));
            let mut runs = ArrayVec::new();
            gso::arrange(requests, limit, &mut runs);
            let mut post = Post {
                sockets: &self.sockets,
                arena: &self.arena,
                segment_limit: &mut self.segment_limit,
                counts: &mut self.counts,
                accepted: 0,
            };
            for runs in
                runs.chunk_by(|a, b| a.request.to.remote.is_ipv4() == b.request.to.remote.is_ipv4())
            {
                post.send_runs(runs);
            }
            accepted += post.accepted;
        }
        self.counts.datagrams += accepted as u64;
        Sent {
            accepted,
            dropped: requests.len() - accepted,
        }
    }

    fn info(&self) -> DriverInfo {
        let gso = if self.sockets.gso() { ", gso" } else { "" };
        info(&self.sockets, gso)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("tx_datagrams", self.counts.datagrams),
            ("tx_messages", self.counts.messages),
            ("tx_queue_full", self.counts.queue_full),
            ("tx_too_long", self.counts.too_long),
            ("tx_no_family", self.counts.no_family),
            ("tx_refused", self.counts.refused),
            ("tx_source_cleared", self.counts.source_cleared),
            ("tx_unsegmented", self.counts.unsegmented),
        ]
    }
}

/// Hands filled datagrams to the kernel.
struct Post<'a> {
    sockets: &'a Sockets,
    arena: &'a [u8],
    segment_limit: &'a mut usize,
    counts: &'a mut Counts,
    accepted: usize,
}

impl Post<'_> {
    /// Sends runs of one family. Each is tried in its full form; one that the kernel refuses is
    /// tried in lesser ones, and dropped last.
    fn send_runs(&mut self, runs: &[Run<'_>]) {
        let Some(fd) = runs
            .first()
            .and_then(|run| self.sockets.towards(&run.request.to.remote))
        else {
            return;
        };
        let mut pending = runs;
        while let Some((first, others)) = pending.split_first() {
            match self.send_some(fd, pending) {
                Ok(sent) => {
                    let (done, rest) = pending.split_at_checked(sent).unwrap_or((pending, &[]));
                    self.accepted += done.iter().map(|run| run.count).sum::<usize>();
                    pending = rest;
                }
                Err(error) => {
                    pending = others;
                    let Err(error) = self.send_lesser(fd, first, error) else {
                        continue;
                    };
                    self.note(&error, first.count);
                    // What failed for this endpoint will fail for its other runs, unless it was
                    // too long; and a full queue is full for all.
                    let full = error.kind() == io::ErrorKind::WouldBlock;
                    let unreachable = error.raw_os_error() != Some(libc::EMSGSIZE);
                    while let Some((next, others)) = pending.split_first()
                        && (full || (unreachable && next.request.to == first.request.to))
                    {
                        self.note(&error, next.count);
                        pending = others;
                    }
                }
            }
        }
    }

    /// One `sendmmsg` with the first of `runs`.
    fn send_some(&mut self, fd: BorrowedFd<'_>, runs: &[Run<'_>]) -> io::Result<usize> {
        let mut heads = ArrayVec::<(RawAddress, Control), MAX_MESSAGES>::new();
        heads.extend(runs.iter().take(MAX_MESSAGES).map(|run| {
            let TxRequest { to, tos, .. } = run.request;
            let control = Control::outgoing(to, true, *tos, run.segment());
            (RawAddress::from(to.remote), control)
        }));
        let mut messages = ArrayVec::<Outgoing<'_>, MAX_MESSAGES>::new();
        messages.extend(
            runs.iter()
                .zip(&heads)
                .map(|(run, (to, control))| Outgoing {
                    to,
                    control,
                    payload: bytes(self.arena, run),
                }),
        );
        let sent = mmsg::send(fd, &messages)?;
        self.counts.messages += sent as u64;
        Ok(sent)
    }

    /// Tries a run that was refused with `error` again: without its source address if that may
    /// be the cause, then datagram by datagram if segmentation may be. Returns the error that
    /// remains.
    fn send_lesser(
        &mut self,
        fd: BorrowedFd<'_>,
        run: &Run<'_>,
        error: io::Error,
    ) -> io::Result<()> {
        let TxRequest { to, tos, len } = run.request;
        let mut error = error;
        let mut sticky = true;
        let name = RawAddress::from(to.remote);
        if to.local.is_some() && source_refused(&error) {
            sticky = false;
            let message = Outgoing {
                to: &name,
                control: &Control::outgoing(to, false, *tos, run.segment()),
                payload: bytes(self.arena, run),
            };
            self.counts.source_cleared += 1;
            match mmsg::send(fd, &[message]) {
                Ok(_) => {
                    self.counts.messages += 1;
                    self.accepted += run.count;
                    return Ok(());
                }
                Err(second) => error = second,
            }
        }
        if run.count == 1 {
            return Err(error);
        }
        let refusal = gso::refusal(&error);
        if refusal == Refusal::Unrelated {
            return Err(error);
        }
        let control = Control::outgoing(to, sticky, *tos, None);
        let before = self.accepted;
        self.send_singly(fd, &name, &control, bytes(self.arena, run), *len);
        // Only if they went singly was segmentation to blame: one peer with an impossible address
        // must not slow down the others.
        if self.accepted > before {
            self.counts.unsegmented += 1;
            if refusal == Refusal::Always {
                self.sockets.stop_gso(&error);
            } else {
                *self.segment_limit = (*self.segment_limit).min(*len);
            }
        }
        Ok(())
    }

    fn send_singly(
        &mut self,
        fd: BorrowedFd<'_>,
        to: &RawAddress,
        control: &Control,
        payload: &[u8],
        len: usize,
    ) {
        let messages: ArrayVec<Outgoing<'_>, MAX_MESSAGES> = payload
            .chunks(len.max(1))
            .take(MAX_MESSAGES)
            .map(|payload| Outgoing {
                to,
                control,
                payload,
            })
            .collect();
        let mut pending = messages.as_slice();
        while let Some((_, others)) = pending.split_first() {
            match mmsg::send(fd, pending) {
                Ok(sent) => {
                    self.counts.messages += sent as u64;
                    self.accepted += sent;
                    pending = pending.get(sent..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.note(&error, pending.len());
                    return;
                }
                Err(error) => {
                    self.note(&error, 1);
                    pending = others;
                }
            }
        }
    }

    /// Counts datagrams that the kernel did not take; logs a cause when it is not the last one's.
    fn note(&mut self, error: &io::Error, datagrams: usize) {
        let datagrams = datagrams as u64;
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => self.counts.queue_full += datagrams,
            Some(libc::EMSGSIZE) => self.counts.too_long += datagrams,
            code => {
                self.counts.refused += datagrams;
                if code != self.counts.last_error {
                    self.counts.last_error = code;
                    tracing::debug!("a datagram was not sent: {error}");
                }
            }
        }
    }
}

fn bytes<'a>(arena: &'a [u8], run: &Run<'_>) -> &'a [u8] {
    arena
        .get(run.start..run.start + run.len)
        .unwrap_or_default()
}
