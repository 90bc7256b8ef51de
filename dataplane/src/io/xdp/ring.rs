//! The four rings that a socket shares with the kernel (`include/uapi/linux/if_xdp.h`).
//!
//! Each is a power of two of entries between a producer and a consumer index, both free-running
//! 32-bit counters. One side is ours, the other the kernel's: fill and TX are ours to produce,
//! RX and completion ours to consume. Whoever reads an index of the other side reads it with
//! *acquire*; whoever publishes its own stores it with *release*: an entry is written before its
//! producer index says so, and read before its consumer index gives the place back.
//!
//! Nothing the kernel writes into the indices can lead out of the ring: places are masked, and
//! counts are clamped to the capacity.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::mmap::Mapping;

/// An entry of the RX and TX rings: `struct xdp_desc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes)]
#[repr(C)]
pub(super) struct Descriptor {
    /// Where the frame begins, in bytes from the start of the UMEM.
    pub(super) address: u64,
    /// Its length in bytes.
    pub(super) length: u32,
    /// `XDP_PKT_CONTD`, `XDP_TX_METADATA`.
    pub(super) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());
const _: () = assert!(align_of::<Descriptor>() == align_of::<libc::xdp_desc>());

/// Where the parts of a ring lie in its mapping, in bytes: `struct xdp_ring_offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

impl Offsets {
    /// The bytes that a ring of `capacity` entries of `size` bytes each takes.
    pub(super) const fn length(&self, size: usize, capacity: u32) -> usize {
        self.entries + capacity as usize * size
    }
}

/// One ring's memory.
///
/// INVARIANT: the pointers lie in `_mapping`, are aligned for their types, and `entries` has
/// room for `mask + 1` values, a power of two.
#[derive(Debug)]
struct Area<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    _mapping: Arc<Mapping>,
    _entry: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Copy> Area<T> {
    /// `None` where the offsets do not fit the mapping or the capacity is no power of two.
    fn new(mapping: Arc<Mapping>, offsets: &Offsets, capacity: u32) -> Option<Self> {
        let fits = capacity.is_power_of_two()
            && offsets.length(size_of::<T>(), capacity) <= mapping.length()
            && offsets.entries.is_multiple_of(align_of::<T>())
            && [offsets.producer, offsets.consumer, offsets.flags]
                .iter()
                .all(|at| at.is_multiple_of(4) && at + 4 <= mapping.length());
        if !fits {
            return None;
        }
        let start = mapping.start();
        // SAFETY: all four offsets were just checked to lie, with what they point to, in the
        // mapping, whose start is page-aligned, so that aligned offsets make aligned pointers.
        unsafe {
            Some(Self {
                producer: start.byte_add(offsets.producer).cast(),
                consumer: start.byte_add(offsets.consumer).cast(),
                flags: start.byte_add(offsets.flags).cast(),
                entries: start.byte_add(offsets.entries).cast(),
                mask: capacity - 1,
                _mapping: mapping,
                _entry: PhantomData,
            })
        }
    }

    const fn capacity(&self) -> u32 {
        self.mask + 1
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: the invariant of `Area`; the kernel accesses this word atomically too.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// The place that the free-running `index` stands for.
    fn place(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked, the index is below the capacity, for which `entries` has room.
        unsafe { self.entries.add((index & self.mask) as usize) }
    }
}

// SAFETY: the pointers lead into `_mapping`, which is `Send`; whoever holds the `Producer` or
// `Consumer` is the only one on our side that moves its index.
unsafe impl<T: Send> Send for Area<T> {}

/// Our side of a ring that the kernel consumes: fill and TX.
#[derive(Debug)]
pub(super) struct Producer<T> {
    area: Area<T>,
    /// Entries written, published or not.
    written: u32,
    /// The kernel's consumer index as last read.
    consumed: u32,
}

impl<T: FromBytes + IntoBytes + Copy> Producer<T> {
    /// The producer's side of the ring at `offsets` in `mapping`; `None` where they do not fit.
    ///
    /// # Safety
    /// There may be one producer for the ring, ever, and nobody but it and one consumer (which
    /// keeps to the ring protocol) may touch the ring's memory.
    pub(super) unsafe fn new(
        mapping: Arc<Mapping>,
        offsets: &Offsets,
        capacity: u32,
    ) -> Option<Self> {
        let area = Area::new(mapping, offsets, capacity)?;
        let written = area.producer().load(Ordering::Relaxed);
        let consumed = area.consumer().load(Ordering::Acquire);
        Some(Self {
            area,
            written,
            consumed,
        })
    }

    /// Entries that the ring has.
    pub(super) const fn capacity(&self) -> u32 {
        self.area.capacity()
    }

    /// Entries that can be pushed now; asks the other side only when fewer than `wanted` are
    /// known to be free.
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        let known = self.known_room();
        if known >= wanted {
            return known;
        }
        self.consumed = self.area.consumer().load(Ordering::Acquire);
        self.known_room()
    }

    fn known_room(&self) -> u32 {
        let used = self.written.wrapping_sub(self.consumed);
        self.area.capacity().saturating_sub(used)
    }

    /// Writes the next entry; the kernel sees it after [`publish`](Self::publish). False when
    /// the ring is full.
    #[must_use]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: `place` is in the ring. The place is ours: fewer than `capacity` entries are
        // ahead of the consumer, whose index was read with acquire, so it has read what stood
        // here and will not look again before `publish`.
        unsafe { self.area.place(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the kernel all entries pushed so far.
    pub(super) fn publish(&mut self) {
        self.area.producer().store(self.written, Ordering::Release);
    }

    /// Whether the kernel sleeps and wants a system call to go on with this ring.
    pub(super) fn needs_wakeup(&self) -> bool {
        // The flag must be read after our index is visible, or both sides could conclude that
        // the other one will act.
        fence(Ordering::SeqCst);
        self.area.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// Entries published that the kernel has not taken yet.
    pub(super) fn pending(&self) -> u32 {
        let consumed = self.area.consumer().load(Ordering::Acquire);
        let published = self.area.producer().load(Ordering::Relaxed);
        published.wrapping_sub(consumed).min(self.area.capacity())
    }
}

/// Our side of a ring that the kernel produces: RX and completion.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    area: Area<T>,
    /// Entries read, given back or not.
    read: u32,
    /// The kernel's producer index as last read.
    produced: u32,
}

impl<T: FromBytes + IntoBytes + Copy> Consumer<T> {
    /// The consumer's side of the ring at `offsets` in `mapping`; `None` where they do not fit.
    ///
    /// # Safety
    /// As for [`Producer::new`], with the sides exchanged.
    pub(super) unsafe fn new(
        mapping: Arc<Mapping>,
        offsets: &Offsets,
        capacity: u32,
    ) -> Option<Self> {
        let area = Area::new(mapping, offsets, capacity)?;
        let read = area.consumer().load(Ordering::Relaxed);
        Some(Self {
            area,
            read,
            produced: read,
        })
    }

    /// The next entry, if there is one. Its place stays ours until
    /// [`release`](Self::release).
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.produced == self.read {
            let produced = self.area.producer().load(Ordering::Acquire);
            let ahead = produced.wrapping_sub(self.read).min(self.area.capacity());
            if ahead == 0 {
                return None;
            }
            self.produced = self.read.wrapping_add(ahead);
        }
        // SAFETY: `place` is in the ring, and the entry was written before the producer index
        // that was read with acquire said so. Any bytes are a valid `T` (`FromBytes`).
        let entry = unsafe { self.area.place(self.read).read() };
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of all entries read so far back to the kernel.
    pub(super) fn release(&mut self) {
        self.area.consumer().store(self.read, Ordering::Release);
    }

    /// Entries that wait to be read.
    pub(super) fn waiting(&self) -> u32 {
        let produced = self.area.producer().load(Ordering::Acquire);
        produced.wrapping_sub(self.read).min(self.area.capacity())
    }
}

/// Rings in ordinary memory, for tests.
#[cfg(test)]
pub(super) mod twins {
    use super::*;

    pub(crate) const OFFSETS: Offsets = Offsets {
        producer: 0,
        consumer: 64,
        flags: 128,
        entries: 192,
    };

    /// Both sides of a ring whose indices start at `origin`.
    pub(crate) fn twin<T: FromBytes + IntoBytes + Copy>(
        capacity: u32,
        origin: u32,
    ) -> (Producer<T>, Consumer<T>) {
        let length = OFFSETS.length(size_of::<T>(), capacity);
        let mapping = Arc::new(Mapping::anonymous(length, false).unwrap());
        let area = Area::<T>::new(Arc::clone(&mapping), &OFFSETS, capacity).unwrap();
        area.producer().store(origin, Ordering::Relaxed);
        area.consumer().store(origin, Ordering::Relaxed);
        // SAFETY: one producer and one consumer on fresh memory; `area` is not used again.
        unsafe {
            (
                Producer::new(Arc::clone(&mapping), &OFFSETS, capacity).unwrap(),
                Consumer::new(mapping, &OFFSETS, capacity).unwrap(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::twins::{self, OFFSETS};
    use super::*;

    /// Both sides of a ring of numbers.
    fn twin(capacity: u32, origin: u32) -> (Producer<u64>, Consumer<u64>) {
        twins::twin(capacity, origin)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Publish,
        Pop(u8),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..12u8).prop_map(Step::Push),
            Just(Step::Publish),
            (1..12u8).prop_map(Step::Pop),
            Just(Step::Release),
        ]
    }

    proptest! {
        /// Against a model: what is pushed comes out once, in order, not before it is published;
        /// and a place is not reused before it is released.
        #[test]
        fn behaves_like_a_bounded_queue(
            steps in prop::collection::vec(step(), 0..200),
            bits in 0..4u32,
            origin in prop_oneof![Just(0u32), Just(u32::MAX - 3), any::<u32>()],
        ) {
            let capacity = 1 << bits;
            let (mut producer, mut consumer) = twin(capacity, origin);
            let (mut hidden, mut visible) = (VecDeque::new(), VecDeque::new());
            let (mut next, mut unreleased) = (0u64, 0usize);
            for step in steps {
                match step {
                    Step::Push(n) => for _ in 0..n {
                        let full =
                            hidden.len() + visible.len() + unreleased == capacity as usize;
                        prop_assert_eq!(producer.push(next), !full);
                        if !full {
                            hidden.push_back(next);
                            next += 1;
                        }
                    },
                    Step::Publish => {
                        producer.publish();
                        visible.append(&mut hidden);
                    }
                    Step::Pop(n) => for _ in 0..n {
                        let expected = visible.pop_front();
                        prop_assert_eq!(consumer.pop(), expected);
                        unreleased += usize::from(expected.is_some());
                    },
                    Step::Release => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                prop_assert_eq!(consumer.waiting() as usize, visible.len());
                prop_assert_eq!(producer.pending() as usize, visible.len() + unreleased);
                prop_assert_eq!(
                    producer.room(capacity) as usize,
                    capacity as usize - hidden.len() - visible.len() - unreleased
                );
            }
        }

        /// Whatever the other side writes into its index, a side stays inside the ring.
        #[test]
        fn survives_any_index(origin in any::<u32>(), foreign in any::<u32>()) {
            let (mut producer, mut consumer) = twin(8, origin);
            consumer.area.producer().store(foreign, Ordering::Relaxed);
            let mut popped = 0;
            while popped < 32 && consumer.pop().is_some() {
                popped += 1;
            }
            prop_assert!(consumer.waiting() <= 8);
            producer.area.consumer().store(foreign, Ordering::Relaxed);
            prop_assert!(producer.room(8) <= 8);
            prop_assert!(producer.pending() <= 8);
        }
    }

    #[test]
    fn two_threads_exchange_everything_in_order() {
        const COUNT: u64 = 200_000;
        let (mut producer, mut consumer) = twin(64, u32::MAX - 1000);
        let sender = std::thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                let burst = (next % 7 + 1).min(COUNT - next);
                let mut pushed = 0;
                while pushed < burst && producer.push(next.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                    next += 1;
                    pushed += 1;
                }
                producer.publish();
                if pushed < burst {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0u64;
        while expected < COUNT {
            let before = expected;
            while let Some(value) = consumer.pop() {
                assert_eq!(value, expected.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                expected += 1;
                if expected.is_multiple_of(5) {
                    break;
                }
            }
            consumer.release();
            if expected == before {
                std::thread::yield_now();
            }
        }
        sender.join().unwrap();
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn rejects_what_does_not_fit_its_mapping() {
        let mapping = Arc::new(Mapping::anonymous(4096, false).unwrap());
        let new = |offsets: &Offsets, capacity| {
            Area::<u64>::new(Arc::clone(&mapping), offsets, capacity).is_some()
        };
        assert!(new(&OFFSETS, 256));
        assert!(!new(&OFFSETS, 512), "4288 bytes in 4096");
        assert!(!new(&OFFSETS, 3), "no power of two");
        assert!(
            !new(
                &Offsets {
                    producer: 2,
                    ..OFFSETS
                },
                8
            ),
            "unaligned"
        );
        assert!(
            !new(
                &Offsets {
                    flags: 4096,
                    ..OFFSETS
                },
                8
            ),
            "beyond the end"
        );
    }

    #[test]
    fn wakeup_flag_is_read_live() {
        let (producer, _consumer) = twin(8, 0);
        assert!(!producer.needs_wakeup());
        producer
            .area
            .flags()
            .store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}
