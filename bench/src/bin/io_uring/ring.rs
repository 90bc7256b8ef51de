//! A ring with registered buffers and one registered file.

use std::io;
use std::os::fd::RawFd;

use io_uring::types::{BufRingEntry, Fixed, RecvMsgOut};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::Result;

/// The group of the buffers that multishot receives choose from.
const GROUP: u16 = 7;
/// The sender's address: `sockaddr_in`.
const NAME: u32 = 16;

/// One ring, on one descriptor.
pub(crate) struct Ring {
    // The kernel writes into what follows while requests are under way; it is dropped after the
    // ring, whose closing ends them.
    ring: IoUring,
    arena: Box<[u8]>,
    slot: usize,
    batch: usize,
    names: Box<[[u8; NAME as usize]]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::msghdr]>,
    buffers: BufferRing,
}

/// Buffers that the kernel takes one of for each message of a multishot receive.
struct BufferRing {
    entries: Box<[Entry]>,
    arena: Box<[u8]>,
    slot: usize,
    tail: u16,
}

/// A page of buffer entries, which the kernel reads.
#[repr(align(4096))]
struct Entry(#[expect(dead_code, reason = "written through a pointer")] [u8; 4096]);

impl Ring {
    /// On `fd`, with `batch` buffers of `slot` bytes.
    pub(crate) fn new(fd: RawFd, batch: usize, slot: usize) -> Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(1024)
            .build(batch as u32)?;
        ring.submitter().register_files(&[fd])?;
        let mut arena = vec![0_u8; batch * slot].into_boxed_slice();
        let registered: Vec<libc::iovec> = slots(&mut arena, slot);
        // SAFETY: the arena lives as long as the ring, on the heap: it does not move.
        unsafe { ring.submitter().register_buffers(&registered)? };
        let mut names = vec![[0; NAME as usize]; batch].into_boxed_slice();
        let mut vectors = slots(&mut arena, slot).into_boxed_slice();
        let headers = vectors
            .iter_mut()
            .zip(&mut names)
            .map(|(vector, name)| {
                let mut header = empty();
                header.msg_name = name.as_mut_ptr().cast();
                header.msg_namelen = NAME;
                header.msg_iov = vector;
                header.msg_iovlen = 1;
                header
            })
            .collect();
        let mut buffers = BufferRing::new(256, slot);
        // SAFETY: page-aligned, 256 entries of 16 bytes, alive as long as the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                256,
                GROUP,
                0,
            )?;
        }
        for number in 0..256 {
            buffers.offer(number);
        }
        buffers.publish();
        Ok(Self {
            ring,
            arena,
            slot,
            batch,
            names,
            vectors,
            headers,
            buffers,
        })
    }

    /// Fills every buffer with `packet`.
    pub(crate) fn set_contents(&mut self, packet: &[u8]) {
        for slot in self.arena.chunks_exact_mut(self.slot) {
            slot[..packet.len()].copy_from_slice(packet);
        }
    }

    /// Reads until there is nothing left; how many packets.
    pub(crate) fn read_all(&mut self) -> Result<usize> {
        let len = self.slot as u32;
        self.until_empty(|_, number, place| {
            opcode::ReadFixed::new(Fixed(0), place, len, number)
                .rw_flags(libc::RWF_NOWAIT)
                .build()
        })
    }

    /// Writes `count` packets of `len` bytes.
    pub(crate) fn write_all(&mut self, len: usize, count: usize) -> Result<usize> {
        let mut done = 0;
        for _ in 0..count / self.batch {
            done += self.round(&mut |_, number, place| {
                opcode::WriteFixed::new(Fixed(0), place, len as u32, number).build()
            })?;
        }
        Ok(done)
    }

    /// Receives until there is nothing left; how many datagrams.
    pub(crate) fn recvmsg_all(&mut self) -> Result<usize> {
        self.until_empty(|ring, number, _| {
            let header = &mut ring.headers[usize::from(number)];
            header.msg_namelen = NAME;
            opcode::RecvMsg::new(Fixed(0), header)
                .flags(libc::MSG_DONTWAIT as u32)
                .build()
        })
    }

    fn until_empty(
        &mut self,
        mut request: impl FnMut(&mut Self, u16, *mut u8) -> squeue::Entry,
    ) -> Result<usize> {
        let mut count = 0;
        loop {
            let done = self.round(&mut request)?;
            count += done;
            if done < self.batch {
                return Ok(count);
            }
        }
    }

    /// One request for each buffer, submitted and completed by one system call; how many moved
    /// something.
    fn round(
        &mut self,
        request: &mut dyn FnMut(&mut Self, u16, *mut u8) -> squeue::Entry,
    ) -> Result<usize> {
        for number in 0..self.batch {
            let at = number * self.slot;
            let place = self.arena[at..at + self.slot].as_mut_ptr();
            let entry = request(self, number as u16, place);
            // SAFETY: buffers, names and headers live as long as the ring, and each request has
            // its own; all are completed before this returns.
            unsafe { self.ring.submission().push(&entry)? };
        }
        self.ring.submit_and_wait(self.batch)?;
        let mut moved = 0;
        for completion in self.ring.completion() {
            match completion.result() {
                1.. => moved += 1,
                code if code == -libc::EAGAIN => {}
                code => return Err(io::Error::from_raw_os_error(-code).into()),
            }
        }
        debug_assert!(!self.names.is_empty() && !self.vectors.is_empty());
        Ok(moved)
    }

    /// One receive that goes on by itself, until `count` datagrams have come; then ends it.
    pub(crate) fn multishot(&mut self, count: usize) -> Result<usize> {
        let mut header = empty();
        header.msg_namelen = NAME;
        let receive = opcode::RecvMsgMulti::new(Fixed(0), &raw const header, GROUP)
            .build()
            .user_data(1);
        // SAFETY: the kernel copies the header when the request is prepared; buffers are ours.
        unsafe { self.ring.submission().push(&receive)? };
        let (mut got, mut ended) = (0, false);
        while got < count && !ended {
            self.ring.submit_and_wait(1)?;
            for completion in self.ring.completion() {
                ended |= !cqueue::more(completion.flags());
                if let Some(number) = cqueue::buffer_select(completion.flags()) {
                    got += usize::from(self.buffers.parses(number, &header));
                    self.buffers.offer(number);
                }
            }
            self.buffers.publish();
        }
        if !ended {
            let cancel = opcode::AsyncCancel::new(1).build().user_data(2);
            // SAFETY: no memory of ours.
            unsafe { self.ring.submission().push(&cancel)? };
            self.ring.submit_and_wait(2)?;
            self.ring.completion().for_each(drop);
        }
        Ok(got)
    }
}

impl BufferRing {
    fn new(count: usize, slot: usize) -> Self {
        Self {
            entries: vec![Entry([0; 4096])].into_boxed_slice(),
            arena: vec![0; count * slot].into_boxed_slice(),
            slot,
            tail: 0,
        }
    }

    /// Whether buffer `number` holds a message.
    fn parses(&self, number: u16, header: &libc::msghdr) -> bool {
        let at = usize::from(number) * self.slot;
        RecvMsgOut::parse(&self.arena[at..at + self.slot], header).is_ok()
    }

    /// Gives buffer `number` to the kernel, with the next [`publish`](Self::publish).
    fn offer(&mut self, number: u16) {
        let at = usize::from(number) * self.slot;
        let place = self.arena[at..at + self.slot].as_mut_ptr();
        let first = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the page holds 256 entries, and the index is below that.
        let entry = unsafe { &mut *first.add(usize::from(self.tail) % 256) };
        entry.set_addr(place as u64);
        entry.set_len(self.slot as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        let first = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the tail lies in the first entry, 16-bit aligned; the kernel only reads it.
        unsafe {
            let tail = BufRingEntry::tail(first).cast::<core::sync::atomic::AtomicU16>();
            (*tail).store(self.tail, core::sync::atomic::Ordering::Release);
        }
    }
}

fn slots(arena: &mut [u8], slot: usize) -> Vec<libc::iovec> {
    arena
        .chunks_exact_mut(slot)
        .map(|slot| libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        })
        .collect()
}

fn empty() -> libc::msghdr {
    // SAFETY: integers and pointers, for which zero is a value.
    unsafe { core::mem::zeroed() }
}
