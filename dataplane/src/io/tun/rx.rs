//! Reading: what the host sends through the tunnel.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::io::{Errno, readv, retry_on_intr};

use super::split::Split;
use super::vnet::{self, VnetHeader};
use crate::engine::port::{DriverInfo, InnerRx, MAX_BATCH, Packet, Pollable};

/// The most reads for one batch. Each is a system call of about a microsecond: more would keep
/// the first packet waiting. Few packets have fewer: a lone one goes before the interface is asked
/// for a second.
const MAX_READS: usize = 64;

/// Once super-packets were among the reads, so many packets are batch enough: what is read
/// together is sealed and sent together.
const SUPER_PACKET: usize = 16;

/// Any IP packet, super-packets included. The MTU may be raised under way, and the kernel cuts
/// off silently what does not fit.
const LONGEST: usize = 65_536;

/// Where packets are cut to: room for four super-packets with their headers repeated. Larger than
/// [`LONGEST`], so that every round makes progress.
const ARENA: usize = 320 << 10;
const _: () = assert!(ARENA >= LONGEST);

/// Receives from one queue of a [`Tun`](super::Tun).
#[derive(Debug)]
pub struct TunRx {
    source: Source,
    info: DriverInfo,
    arena: Box<[u8]>,
    /// How many reads the next batch may have: as many as the last one found packets for, twice as
    /// many when there were more.
    limit: usize,
    packets: u64,
}

/// What is read, before it is cut.
#[derive(Debug)]
struct Source {
    fd: Arc<OwnedFd>,
    buffer: Box<[u8]>,
    reads: u64,
    malformed: u64,
}

impl Source {
    /// Reads a packet or super-packet; `None` when there is none.
    fn read(&mut self) -> io::Result<Option<(usize, Split)>> {
        loop {
            let mut header = [0; vnet::HEADER];
            let mut vectors = [
                IoSliceMut::new(&mut header),
                IoSliceMut::new(&mut self.buffer),
            ];
            let len = match retry_on_intr(|| readv(&self.fd, &mut vectors)) {
                Ok(len) => len.saturating_sub(vnet::HEADER),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            self.reads += 1;
            let packet = self.buffer.get(..len).unwrap_or_default();
            let split = VnetHeader::decode(header).and_then(|header| Split::new(packet, &header));
            match split {
                Some(split) => return Ok(Some((len, split))),
                None => self.malformed += 1,
            }
        }
    }
}

impl TunRx {
    pub(super) fn new(fd: Arc<OwnedFd>, info: DriverInfo) -> Self {
        Self {
            source: Source {
                fd,
                buffer: vec![0; LONGEST].into_boxed_slice(),
                reads: 0,
                malformed: 0,
            },
            info,
            arena: vec![0; ARENA].into_boxed_slice(),
            limit: 1,
            packets: 0,
        }
    }
}

impl Pollable for TunRx {
    fn poll_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(self.source.fd.as_fd());
    }

    fn info(&self) -> DriverInfo {
        self.info.clone()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rx_packets", self.packets),
            ("rx_reads", self.source.reads),
            ("rx_malformed", self.source.malformed),
        ]
    }
}

impl InnerRx for TunRx {
    fn recv_batch(&mut self, handle: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let mut lent = 0;
        let mut reads = 0;
        let mut current: Option<(usize, Split)> = None;
        // Each round fills the arena once.
        loop {
            let mut batch: ArrayVec<Packet<'_>, MAX_BATCH> = ArrayVec::new();
            let mut room: &mut [u8] = &mut self.arena;
            let mut end: Option<io::Result<()>> = None;
            while !batch.is_full() {
                let Some((packet, split)) = &mut current else {
                    let packets = lent + batch.len();
                    let super_packet = packets > reads && packets >= SUPER_PACKET;
                    if reads == self.limit || super_packet {
                        self.limit = (self.limit * 2).min(MAX_READS);
                        end = Some(Ok(()));
                        break;
                    }
                    match self.source.read() {
                        Ok(Some(read)) => {
                            reads += 1;
                            current = Some(read);
                        }
                        Ok(None) => {
                            self.limit = reads.max(1);
                            end = Some(Ok(()));
                        }
                        Err(error) => end = Some(Err(error)),
                    }
                    if end.is_some() {
                        break;
                    }
                    continue;
                };
                let Some(len) = split.next_len() else {
                    current = None;
                    continue;
                };
                let Some((data, rest)) = room.split_at_mut_checked(len) else {
                    break;
                };
                room = rest;
                let packet = self.source.buffer.get(..*packet).unwrap_or_default();
                if split.write_next(packet, data).is_some() {
                    batch.push(Packet { data });
                } else {
                    self.source.malformed += 1;
                }
            }
            if !batch.is_empty() {
                handle(&mut batch);
                lent += batch.len();
            }
            match end {
                None => {}
                // An error that lasts will come again with the next call.
                Some(Err(error)) if lent == 0 => return Err(error),
                Some(_) => break,
            }
        }
        self.packets += lent as u64;
        Ok(lent)
    }
}
