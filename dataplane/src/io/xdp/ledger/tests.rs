//! Whatever the engine sends of what it was lent, and whenever the kernel sends and completes it:
//! every frame is in one place, every accepted packet leaves whole and in its turn.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::super::ring::twins::twin;
use super::super::umem::CHUNK_SIZE;
use super::*;

const LENT: u32 = 24;
const COPIES: u32 = 4;
const CAPACITY: u32 = 8;
/// Where packets lie in lent frames; `NEAR` has no room for a header before it.
const FAR: usize = 320;
const NEAR: usize = HEADER - 1;
const LENGTH: usize = 60;

#[derive(Clone, Copy, Debug)]
enum Send {
    /// The packet in the lent frame of this place (modulo how many there are).
    Lent(usize),
    /// The last bytes of the packet in it.
    Tail(usize),
    /// Something in it that has no room for a header before it.
    Start(usize),
    /// A packet that lies elsewhere, of so many bytes.
    Elsewhere(usize),
}

#[derive(Clone, Debug)]
enum Step {
    /// So many frames are lent, and these packets sent; in their midst the kernel is urged, if so.
    Lend(usize, Vec<Send>, bool),
    /// Packets of these lengths are sent that lie elsewhere, while nothing is lent.
    Elsewhere(Vec<usize>),
    /// The kernel takes so many frames from the TX ring, and says so, or not yet.
    Take(usize, bool),
    /// It completes those it has, beginning with this one.
    Complete(usize, usize),
    Reap,
}

fn send() -> impl Strategy<Value = Send> {
    prop_oneof![
        6 => any::<usize>().prop_map(Send::Lent),
        1 => any::<usize>().prop_map(Send::Tail),
        1 => any::<usize>().prop_map(Send::Start),
        2 => (1usize..2000).prop_map(Send::Elsewhere),
        1 => (3900usize..5000).prop_map(Send::Elsewhere),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..12, prop::collection::vec(send(), 0..16), any::<bool>())
            .prop_map(|(n, sends, urged)| Step::Lend(n, sends, urged)),
        1 => prop::collection::vec(1usize..300, 0..4).prop_map(Step::Elsewhere),
        3 => (0usize..10, any::<bool>()).prop_map(|(n, told)| Step::Take(n, told)),
        3 => (any::<usize>(), 0usize..10).prop_map(|(which, n)| Step::Complete(which, n)),
        2 => Just(Step::Reap),
    ]
}

/// The ledger and everybody around it.
struct World {
    umem: Arc<Umem>,
    ledger: Ledger,
    tx: Consumer<Descriptor>,
    completion: Producer<u64>,
    /// The lender's frames that are with it.
    home: VecDeque<Chunk>,
    /// With the kernel, to be completed.
    in_kernel: Vec<u64>,
    /// Accepted and not yet seen by the kernel.
    expected: VecDeque<Vec<u8>>,
    next_seed: u8,
}

impl World {
    fn new() -> Self {
        let (umem, mut chunks) = Umem::new(LENT + COPIES, false).unwrap();
        let umem = Arc::new(umem);
        let copies = chunks.split_off(LENT as usize);
        let (producer, tx) = twin(CAPACITY, u32::MAX - 2);
        let (completion, consumer) = twin(CAPACITY, 7);
        let ledger = Ledger::new(
            producer,
            consumer,
            Arc::clone(&umem),
            copies,
            LENT,
            CAPACITY,
        );
        Self {
            umem,
            ledger,
            tx,
            completion,
            home: chunks.into(),
            in_kernel: Vec::new(),
            expected: VecDeque::new(),
            next_seed: 1,
        }
    }

    fn seed(&mut self) -> u8 {
        self.next_seed = self.next_seed.wrapping_add(1);
        self.next_seed
    }

    fn add(
        ledger: &mut Ledger,
        expected: &mut VecDeque<Vec<u8>>,
        seed: u8,
        packet: &[u8],
    ) -> Result<(), Refusal> {
        let header = [seed; HEADER];
        let answer = ledger.add(packet, &header);
        if answer.is_ok() {
            expected.push_back([&header[..], packet].concat());
        }
        answer
    }

    fn lend(&mut self, count: usize, sends: &[Send], urged: bool) -> Result<(), TestCaseError> {
        let mut lent: Vec<Frame> = Vec::new();
        for _ in 0..count.min(self.home.len()) {
            let seed = self.seed();
            let mut chunk = self.home.pop_front().unwrap();
            let frame = self.umem.bytes(&mut chunk, 0, CHUNK_SIZE).unwrap();
            frame.fill(seed);
            lent.push(Frame::InPlace {
                chunk: Some(chunk),
                offset: 0,
                length: CHUNK_SIZE,
            });
        }
        let seeds: Vec<u8> = sends.iter().map(|_| self.seed()).collect();
        let mut frames: Vec<&mut [u8]> = Vec::new();
        for frame in &mut lent {
            frames.push(frame.bytes(&self.umem).unwrap());
        }
        let elsewhere = [0xee; 5000];
        for (number, (send, seed)) in sends.iter().zip(seeds).enumerate() {
            if urged && number == sends.len() / 2 {
                // As the outlet does when there is no room left.
                self.ledger.tx.publish();
                for address in self.in_kernel.drain(..) {
                    prop_assert!(self.completion.push(address));
                }
                self.completion.publish();
                self.ledger.reap();
            }
            let of = |place: usize| frames.get(place % frames.len().max(1));
            let packet = match *send {
                Send::Lent(place) => of(place).map(|frame| &frame[FAR..FAR + LENGTH]),
                Send::Tail(place) => of(place).map(|frame| &frame[FAR + 40..FAR + LENGTH]),
                Send::Start(place) => of(place).map(|frame| &frame[NEAR..NEAR + 20]),
                Send::Elsewhere(length) => Some(&elsewhere[..length]),
            };
            let Some(packet) = packet else { continue };
            let answer = Self::add(&mut self.ledger, &mut self.expected, seed, packet);
            if packet.len() > CHUNK_SIZE - COPY_OFFSET {
                prop_assert!(answer.is_err());
            }
        }
        self.ledger.settle(&mut lent);
        self.home
            .extend(lent.iter_mut().filter_map(Frame::take_chunk));
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Lend(count, sends, urged) => self.lend(count, &sends, urged)?,
            Step::Elsewhere(lengths) => {
                for length in lengths {
                    let seed = self.seed();
                    let packet = vec![seed; length];
                    let _ = Self::add(&mut self.ledger, &mut self.expected, seed, &packet);
                }
                self.ledger.tx.publish();
            }
            Step::Take(count, told) => self.take(count, told)?,
            Step::Complete(which, count) => {
                for _ in 0..count.min(self.in_kernel.len()) {
                    let which = which % self.in_kernel.len();
                    prop_assert!(self.completion.push(self.in_kernel.swap_remove(which)));
                }
                self.completion.publish();
            }
            Step::Reap => {
                self.ledger.reap();
                self.home.extend(self.ledger.take_returned());
            }
        }
        self.count()
    }

    /// The kernel sends: what was accepted, in its turn, as it was when it was accepted.
    fn take(&mut self, count: usize, told: bool) -> Result<(), TestCaseError> {
        for _ in 0..count {
            let Some(descriptor) = self.tx.pop() else {
                break;
            };
            self.in_kernel.push(descriptor.address);
            let index = descriptor.address / CHUNK_SIZE as u64;
            let offset = (descriptor.address % CHUNK_SIZE as u64) as usize;
            // A look at the kernel's frame: the token is given up again at once.
            // SAFETY: the frame was surrendered to the TX ring, so there is no other token.
            let (mut chunk, _) = unsafe { self.umem.reclaim(index * CHUNK_SIZE as u64) }.unwrap();
            let sent = self
                .umem
                .bytes(&mut chunk, offset, descriptor.length as usize);
            let expected = self.expected.pop_front();
            prop_assert_eq!(sent.as_deref(), expected.as_deref());
        }
        if told {
            self.tx.release();
        }
        Ok(())
    }

    /// Every frame is somewhere, none is twice.
    fn count(&mut self) -> Result<(), TestCaseError> {
        let frames = self.ledger.frames();
        prop_assert!(self.ledger.is_settled());
        prop_assert_eq!(
            self.home.len() + frames.returned + frames.free + frames.under_way,
            (LENT + COPIES) as usize
        );
        prop_assert!(frames.under_way <= CAPACITY as usize);
        let mut seen = BTreeMap::new();
        for chunk in &self.home {
            *seen.entry(chunk.index()).or_insert(0) += 1;
        }
        for address in &self.in_kernel {
            *seen
                .entry((address / CHUNK_SIZE as u64) as u32)
                .or_insert(0) += 1;
        }
        prop_assert!(seen.values().all(|times| *times == 1), "{:?}", seen);
        Ok(())
    }

    /// Everything comes home.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.take(CAPACITY as usize, true)?;
        prop_assert!(self.expected.is_empty(), "accepted, and not sent");
        let all = self.in_kernel.len();
        self.step(Step::Complete(0, all))?;
        self.step(Step::Reap)?;
        let mut home: Vec<u32> = self.home.iter().map(Chunk::index).collect();
        home.sort_unstable();
        prop_assert_eq!(home, (0..LENT).collect::<Vec<_>>());
        let frames = self.ledger.frames();
        prop_assert_eq!(
            (frames.free, frames.total),
            (COPIES as usize, COPIES as usize)
        );
        prop_assert_eq!((frames.under_way, frames.returned), (0, 0));
        let counters = self.ledger.counters;
        prop_assert_eq!((counters.abandoned, counters.foreign), (0, 0));
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_frame_is_accounted_for(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        world.end()?;
    }
}

#[test]
fn a_lent_packet_leaves_in_its_own_frame() {
    let mut world = World::new();
    world.lend(3, &[0, 1, 2].map(Send::Lent), false).unwrap();
    let counters = world.ledger.counters;
    assert_eq!((counters.forwarded, counters.copied), (3, 0));
    for place in 0..3 {
        let descriptor = world.tx.pop().unwrap();
        let start = place * CHUNK_SIZE + FAR - HEADER;
        assert_eq!(descriptor.address, start as u64);
        assert_eq!(descriptor.length as usize, HEADER + LENGTH);
    }
}

#[test]
fn a_full_ring_costs_no_frame() {
    let mut world = World::new();
    let all: Vec<Send> = (0..12).map(Send::Lent).collect();
    world.lend(12, &all, false).unwrap();
    assert_eq!(world.expected.len(), CAPACITY as usize);
    assert_eq!(world.home.len(), LENT as usize - CAPACITY as usize);
    world.end().unwrap();
}

/// Frames come back while others wait, and the kernel has not said yet that it took them: those that
/// wait find their place in the ring all the same.
#[test]
fn frames_that_come_back_early_cost_no_frame() {
    let mut world = World::new();
    let four: Vec<Send> = (0..4).map(Send::Lent).collect();
    world.lend(4, &four, false).unwrap();
    world.step(Step::Take(2, false)).unwrap();
    let twelve: Vec<Send> = (0..12).map(Send::Lent).collect();
    world.lend(12, &twelve, true).unwrap();
    world.count().unwrap();
    world.end().unwrap();
}

/// A frame can be given away once: what is sent of it again is copied.
#[test]
fn the_same_frame_twice_is_copied() {
    let mut world = World::new();
    let sends = [Send::Lent(0), Send::Lent(0), Send::Tail(0)];
    world.lend(1, &sends, false).unwrap();
    let counters = world.ledger.counters;
    assert_eq!((counters.forwarded, counters.copied), (1, 2));
    world.end().unwrap();
}

/// The engine panicked, and its frames went back to the kernel: nothing is sent of them.
#[test]
fn a_note_without_its_frame_is_void() {
    let mut world = World::new();
    let mut chunk = world.home.pop_front().unwrap();
    let packet = world.umem.bytes(&mut chunk, FAR, LENGTH).unwrap();
    world.ledger.add(packet, &[0; HEADER]).unwrap();
    world.ledger.settle(&mut []);
    assert_eq!(world.ledger.counters.abandoned, 1);
    assert!(world.tx.pop().is_none());
    // And it can be noted again.
    let packet = world.umem.bytes(&mut chunk, FAR, LENGTH).unwrap();
    world.ledger.add(packet, &[0; HEADER]).unwrap();
    assert_eq!(world.ledger.counters.copied, 0);
}
