//! What runs when: a batch's one-time keys, texts and tags as passes of a [`Kernel`].
//!
//! Sealing runs the key blocks of all packets, then their text blocks, with every pass
//! filled across packets, and authenticates sixteen packets as soon as their last text
//! block is done, while it is in the cache. Opening runs the key blocks, authenticates every
//! packet, compares all tags, and only then decrypts the authentic ones. Lanes that key
//! blocks leave idle are given text blocks whose keystream is parked until the verdict.

use core::mem::MaybeUninit;
use core::sync::atomic::{Ordering, compiler_fence};

use super::lanes::{LANES, Lanes};
use super::lone;
use super::order::{Groups, Order};
use super::{GROUP, Kernel, Message, OneTimeKey, Packet};
use crate::crypto::{OpenJob, SealJob, Verdict};

/// Packets that are scheduled together; a longer batch is taken in spans of this many.
pub(super) const SPAN: usize = 256;

/// Seals every job.
///
/// # Safety
/// The CPU has the kernel's features.
#[inline(always)]
pub(in crate::crypto) unsafe fn seal<K: Kernel>(jobs: &mut [SealJob<'_>]) {
    for jobs in jobs.chunks_mut(SPAN) {
        let mut storage = Storage::new();
        let packets = storage.packets(jobs.iter_mut().map(Packet::sealed_by));
        // SAFETY: the features are the caller's promise; the packets were made from jobs
        // that are borrowed until the end of this iteration, and jobs own their buffers.
        unsafe {
            match packets {
                [packet] if packet.len <= lone::LEN => lone::seal::<K>(packet),
                _ => seal_span::<K>(packets),
            }
        }
    }
}

/// Opens every job and sets its verdict.
///
/// # Safety
/// The CPU has the kernel's features.
#[inline(always)]
pub(in crate::crypto) unsafe fn open<K: Kernel>(jobs: &mut [OpenJob<'_>]) {
    if let [job] = jobs
        && let packet = Packet::opened_by(job)
        && packet.len <= lone::LEN
    {
        // SAFETY: as in `seal`.
        let authentic = unsafe { lone::open::<K>(&packet) };
        job.decide(verdict(authentic));
        return;
    }
    for jobs in jobs.chunks_mut(SPAN) {
        let mut storage = Storage::new();
        let packets = storage.packets(jobs.iter_mut().map(Packet::opened_by));
        let mut authentic = [false; SPAN];
        // SAFETY: as in `seal`.
        unsafe { open_span::<K>(packets, &mut authentic) };
        for (job, authentic) in jobs.iter_mut().zip(authentic) {
            job.decide(verdict(authentic));
        }
    }
}

const fn verdict(authentic: bool) -> Verdict {
    if authentic {
        Verdict::Authentic
    } else {
        Verdict::Forged
    }
}

/// # Safety
/// The CPU has the kernel's features and the packets' invariants hold.
#[inline(always)]
unsafe fn seal_span<K: Kernel>(packets: &[Packet]) {
    let order = Order::of(packets);
    let mut keys = Keys::new();
    let mut lanes = Lanes::new();
    // SAFETY: by the packets' invariants. Lanes are run before they overflow, and before
    // their results are read.
    unsafe {
        run_key_blocks::<K>(&mut lanes, packets, &mut keys);
        let mut begun = order.indices(packets).iter();
        let mut groups = Groups::new(packets, &order, K::JUMBOS);
        for (position, packet) in begun
            .by_ref()
            .filter_map(|at| packets.get(usize::from(*at)))
            .enumerate()
        {
            let (mut from, to) = (0, packet.text_blocks());
            while from < to {
                let step = (to - from).min(lanes.room());
                lanes.push_text(packet, from, from + step);
                from += step;
                if lanes.room() == 0 {
                    K::run(&mut lanes);
                    lanes.clear();
                    // Of this packet, blocks may be missing; of those before it, none.
                    let done = position + usize::from(from == to);
                    while let Some(group) = groups.next_within(done) {
                        tag_group::<K>(packets, group, &keys);
                    }
                }
            }
        }
        run_rest::<K>(&mut lanes);
        while let Some(group) = groups.next_within(packets.len()) {
            tag_group::<K>(packets, group, &keys);
        }
    }
    keys.wipe(packets.len());
}

/// # Safety
/// The CPU has the kernel's features and the packets' invariants hold.
#[inline(always)]
unsafe fn open_span<K: Kernel>(packets: &[Packet], authentic: &mut [bool; SPAN]) {
    let order = Order::of(packets);
    let mut keys = Keys::new();
    let mut lanes = Lanes::new();
    let mut parked = Parked::new();
    // SAFETY: by the packets' invariants. Lanes are run before they overflow, and before
    // their results are read.
    unsafe {
        run_key_blocks::<K>(&mut lanes, packets, &mut keys);
        parked.fill::<K>(&mut lanes, packets);
        run_rest::<K>(&mut lanes);

        let mut groups = Groups::new(packets, &order, K::JUMBOS);
        while let Some(group) = groups.next_within(packets.len()) {
            check_group::<K>(packets, group, &keys, authentic);
        }
        keys.wipe(packets.len());
        // Every tag is compared; from here on verdicts are public.

        let mut before = 0;
        for (packet, authentic) in packets.iter().zip(&*authentic) {
            let to = packet.text_blocks();
            let start = before;
            before += to;
            if !authentic {
                continue;
            }
            let mut from = parked.apply(start, packet);
            while from < to {
                let step = (to - from).min(lanes.room());
                lanes.push_text(packet, from, from + step);
                from += step;
                if lanes.room() == 0 {
                    K::run(&mut lanes);
                    lanes.clear();
                }
            }
        }
        run_rest::<K>(&mut lanes);
    }
    parked.wipe();
}

/// Lays out the key blocks of all packets and runs every full pass of them.
///
/// # Safety
/// As for [`seal_span`]; what is left in `lanes` must be run before `keys` is read.
#[inline(always)]
unsafe fn run_key_blocks<K: Kernel>(lanes: &mut Lanes, packets: &[Packet], keys: &mut Keys) {
    for (packet, place) in packets.iter().zip(&mut keys.0) {
        // SAFETY: a key's place is 32 bytes and its own; there is room, as full lanes are
        // run at once.
        unsafe {
            lanes.push_key_block(packet, place.as_mut_ptr().cast());
            if lanes.room() == 0 {
                K::run(lanes);
                lanes.clear();
            }
        }
    }
}

/// # Safety
/// As for [`seal_span`].
#[inline(always)]
unsafe fn run_rest<K: Kernel>(lanes: &mut Lanes) {
    if lanes.len() > 0 {
        // SAFETY: passed on.
        unsafe { K::run(lanes) };
        lanes.clear();
    }
}

/// Writes the tags of a group of packets behind their ciphertexts.
///
/// # Safety
/// As for [`seal_span`]; the group's keys and ciphertexts are complete.
#[inline(always)]
unsafe fn tag_group<K: Kernel>(packets: &[Packet], group: &[u8], keys: &Keys) {
    let mut messages = Messages::new();
    let mut tags = [[0; 16]; GROUP];
    // SAFETY: the packets' invariants make the messages' own, and have room for the tags.
    unsafe {
        K::tags(messages.of(packets, group, keys), &mut tags);
        for (index, tag) in group.iter().zip(tags) {
            if let Some(packet) = packets.get(usize::from(*index)) {
                packet.tag().write_unaligned(tag);
            }
        }
    }
}

/// Compares the tags of a group of packets with those they bear, without a branch on either.
///
/// # Safety
/// As for [`tag_group`].
#[inline(always)]
unsafe fn check_group<K: Kernel>(
    packets: &[Packet],
    group: &[u8],
    keys: &Keys,
    authentic: &mut [bool; SPAN],
) {
    let mut messages = Messages::new();
    let mut tags = [[0; 16]; GROUP];
    // SAFETY: the packets' invariants make the messages' own, and hold the tags.
    unsafe {
        K::tags(messages.of(packets, group, keys), &mut tags);
        for (index, tag) in group.iter().zip(tags) {
            let index = usize::from(*index);
            if let (Some(packet), Some(authentic)) = (packets.get(index), authentic.get_mut(index))
            {
                let borne = packet.tag().read_unaligned();
                *authentic = (u128::from_ne_bytes(borne) ^ u128::from_ne_bytes(tag)) == 0;
            }
        }
    }
}

/// Room for the packets of a span.
struct Storage([MaybeUninit<Packet>; SPAN]);

impl Storage {
    #[inline(always)]
    const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; SPAN])
    }

    /// Stores the first [`SPAN`] of `packets`.
    #[inline(always)]
    fn packets(&mut self, packets: impl Iterator<Item = Packet>) -> &[Packet] {
        let mut len = 0;
        for (place, packet) in self.0.iter_mut().zip(packets) {
            place.write(packet);
            len += 1;
        }
        // SAFETY: the first `len` were just written, and `len` is at most `SPAN`.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }
}

/// One-time keys, by packet. Wiped after use.
struct Keys([MaybeUninit<OneTimeKey>; SPAN]);

impl Keys {
    const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; SPAN])
    }

    /// Wipes the first `count`.
    fn wipe(&mut self, count: usize) {
        for key in self.0.iter_mut().take(count) {
            key.write(OneTimeKey([0; 32]));
        }
        keep_writes(&self.0);
    }
}

/// The messages of a group, with copies of their one-time keys. Wiped on drop.
struct Messages([MaybeUninit<Message>; GROUP], usize);

impl Messages {
    const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; GROUP], 0)
    }

    /// # Safety
    /// The keys of the group's packets are complete.
    #[inline(always)]
    unsafe fn of(&mut self, packets: &[Packet], group: &[u8], keys: &Keys) -> &[Message] {
        let mut len = 0;
        for (place, index) in self.0.iter_mut().zip(group) {
            let index = usize::from(*index);
            if let (Some(packet), Some(key)) = (packets.get(index), keys.0.get(index)) {
                place.write(Message {
                    text: packet.dst,
                    len: packet.len,
                    last: [0, packet.len as u64],
                    // SAFETY: the caller says it was written.
                    key: unsafe { key.assume_init() },
                });
                len += 1;
            }
        }
        self.1 = len;
        // SAFETY: the first `len` were just written: every index is of a packet.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        for message in self.0.iter_mut().take(self.1) {
            message.write(Message::EMPTY);
        }
        keep_writes(&self.0);
    }
}

/// Keystream of text blocks that ran beside key blocks, until their packets' verdicts: that
/// of the first `len` text blocks of the span.
struct Parked {
    rows: [MaybeUninit<[u8; 64]>; LANES],
    len: usize,
}

impl Parked {
    const fn new() -> Self {
        Self {
            rows: [const { MaybeUninit::uninit() }; LANES],
            len: 0,
        }
    }

    /// Gives the idle lanes of the last pass of key blocks to the first text blocks.
    ///
    /// # Safety
    /// The packets' invariants hold; `lanes` is run before [`apply`](Self::apply).
    #[inline(always)]
    unsafe fn fill<K: Kernel>(&mut self, lanes: &mut Lanes, packets: &[Packet]) {
        if lanes.len() == 0 {
            return;
        }
        // Where one pass takes everything, it does; else what costs nothing.
        let total: usize = packets.iter().map(Packet::text_blocks).sum();
        let room = if lanes.len() + total <= LANES {
            total
        } else {
            lanes.len().next_multiple_of(K::STATE) - lanes.len()
        };
        let blocks = packets
            .iter()
            .flat_map(|packet| (0..packet.text_blocks()).map(move |block| (packet, block)));
        for (row, (packet, block)) in self.rows.iter_mut().take(room).zip(blocks) {
            // SAFETY: rows are 64 bytes and apart; there is room.
            unsafe { lanes.push_parked(packet, block, row.as_mut_ptr().cast()) };
            self.len += 1;
        }
    }

    /// Decrypts the blocks of `packet` whose keystream is parked, and says how many;
    /// `before` counts the text blocks of all packets before it in the span.
    ///
    /// # Safety
    /// The packet's invariant holds, and the rows were run.
    #[inline(always)]
    unsafe fn apply(&self, before: usize, packet: &Packet) -> usize {
        let blocks = self.len.saturating_sub(before).min(packet.text_blocks());
        let rows = self.rows.iter().skip(before).take(blocks);
        for (block, row) in rows.enumerate() {
            let start = block * 64;
            let len = (packet.len - start).min(64);
            // SAFETY: the block lies within the packet's buffer, which nothing else refers
            // to meanwhile; the row was run.
            let (text, row) = unsafe {
                (
                    core::slice::from_raw_parts_mut(packet.dst.wrapping_add(start), len),
                    row.assume_init_ref(),
                )
            };
            if let Ok(text) = <&mut [u8; 64]>::try_from(&mut *text) {
                for (byte, key) in text.iter_mut().zip(row) {
                    *byte ^= key;
                }
            } else {
                for (byte, key) in text.iter_mut().zip(row) {
                    *byte ^= key;
                }
            }
        }
        blocks
    }

    fn wipe(&mut self) {
        for row in self.rows.iter_mut().take(self.len) {
            row.write([0; 64]);
        }
        keep_writes(&self.rows);
    }
}

/// Keeps the optimizer from dropping writes to `memory` that nothing reads: wipes.
#[inline(always)]
fn keep_writes<T: ?Sized>(memory: &T) {
    core::hint::black_box(core::ptr::from_ref(memory).cast::<u8>());
    compiler_fence(Ordering::SeqCst);
}
