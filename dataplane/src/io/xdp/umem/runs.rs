//! The chunks to send from: single ones, and runs of neighbours for datagrams that one chunk does
//! not hold.
//!
//! A UMEM is one mapping, so neighbouring chunks are contiguous memory: a jumbo datagram is sealed
//! into a run as another one is into a chunk, and only described to the kernel in parts. All runs
//! are equally long, for the longest datagram, and dealt out once, so that none is ever missing
//! because its neighbourhood is in pieces.

use super::{CHUNK_SIZE, Chunk, FreeChunks, Umem};

/// The most chunks a run may have: the parts of which a packet may consist in the kernel
/// (`MAX_SKB_FRAGS`, 17 unless it was built with more).
pub(in crate::io::xdp) const MOST_RUN: usize = 17;

/// The share of the chunks that stay single where there are runs, as a divisor: for the
/// acknowledgements and handshakes beside the jumbo datagrams.
const SINGLE_SHARE: usize = 4;

/// The right to the neighbouring chunks of a run.
///
/// INVARIANT: no other run and no [`Chunk`] with one of its indices exists at the time; all are
/// of the UMEM with this id, and inside it.
#[derive(Debug)]
pub(in crate::io::xdp) struct Run {
    first: u32,
    count: u32,
    umem: u32,
}

/// The right to write a frame somewhere: one chunk, or several that are one piece of memory.
#[derive(Debug)]
pub(in crate::io::xdp) enum Place {
    One(Chunk),
    Run(Run),
}

impl Place {
    /// Its bytes from `offset`, `length` of them; `None` when they are not inside it.
    pub(in crate::io::xdp) fn bytes<'a>(
        &'a mut self,
        umem: &'a Umem,
        offset: usize,
        length: usize,
    ) -> Option<&'a mut [u8]> {
        match self {
            Self::One(chunk) => umem.bytes(chunk, offset, length),
            Self::Run(run) => umem.run_bytes(run, offset, length),
        }
    }

    /// How many chunks it has.
    pub(in crate::io::xdp) const fn chunks(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Run(run) => run.count(),
        }
    }
}

/// Chunks that wait to be used for sending.
#[derive(Debug)]
pub(in crate::io::xdp) struct SendChunks {
    singles: FreeChunks,
    /// Chunks a run; 0 where there are none.
    count: u32,
    /// The first chunk of the first run; the others follow.
    first: u32,
    umem: u32,
    /// For each run the chunks that are at home, one bit each: a bit set stands for the token.
    home: Vec<u32>,
    /// Runs of which all chunks are at home; the last one to come is used first.
    whole: Vec<u32>,
    /// Bits set in `home`.
    at_home: usize,
}

impl SendChunks {
    /// `chunks` for datagrams that take up to `longest` bytes, headers included: of those longer
    /// than a chunk as many as three quarters of `chunks` give runs.
    pub(in crate::io::xdp) fn new(mut chunks: Vec<Chunk>, longest: usize) -> Self {
        let count = longest.div_ceil(CHUNK_SIZE).min(MOST_RUN);
        let mut runs = 0;
        if count > 1 {
            chunks.sort_unstable_by_key(|chunk| chunk.index);
            runs = (chunks.len() - chunks.len() / SINGLE_SHARE) / count;
        }
        let members = chunks.split_off(chunks.len() - runs * count);
        let origin = members.first().map_or((0, 0), |c| (c.index, c.umem));
        let neighbours = members
            .iter()
            .zip(origin.0..)
            .all(|(chunk, index)| (chunk.index, chunk.umem) == (index, origin.1));
        if runs == 0 || !neighbours {
            chunks.extend(members);
            return Self {
                singles: FreeChunks::new(chunks),
                count: 0,
                first: 0,
                umem: 0,
                home: Vec::new(),
                whole: Vec::new(),
                at_home: 0,
            };
        }
        // From here on the bits stand for the tokens.
        let at_home = members.len();
        drop(members);
        let all = (1 << count) - 1;
        Self {
            singles: FreeChunks::new(chunks),
            count: count as u32,
            first: origin.0,
            umem: origin.1,
            home: vec![all; runs],
            whole: (0..runs as u32).rev().collect(),
            at_home,
        }
    }

    /// The most bytes that a datagram and its headers can take.
    pub(in crate::io::xdp) const fn longest(&self) -> usize {
        if self.count == 0 {
            CHUNK_SIZE
        } else {
            self.count as usize * CHUNK_SIZE
        }
    }

    /// A single chunk.
    fn take(&mut self) -> Option<Chunk> {
        self.singles.take()
    }

    /// A run.
    fn take_run(&mut self) -> Option<Run> {
        let number = self.whole.pop()?;
        let home = self.home.get_mut(number as usize)?;
        self.at_home -= home.count_ones() as usize;
        *home = 0;
        Some(Run {
            first: self.first + number * self.count,
            count: self.count,
            umem: self.umem,
        })
    }

    /// Takes a chunk back, of a run too. Never allocates: there is room for all that were there at
    /// the beginning.
    pub(in crate::io::xdp) fn put(&mut self, chunk: Chunk) {
        let place = chunk.index.wrapping_sub(self.first);
        if self.count == 0 || place >= self.home.len() as u32 * self.count {
            self.singles.put(chunk);
        } else {
            self.settle(place / self.count, 1 << (place % self.count));
        }
    }

    /// A place for `bytes` bytes: a chunk that holds them, else a run.
    pub(in crate::io::xdp) fn take_place(&mut self, bytes: usize) -> Option<Place> {
        if bytes <= CHUNK_SIZE
            && let Some(chunk) = self.take()
        {
            return Some(Place::One(chunk));
        }
        self.take_run().map(Place::Run)
    }

    /// Takes a place back that was not used.
    pub(in crate::io::xdp) fn put_place(&mut self, place: Place) {
        match place {
            Place::One(chunk) => self.put(chunk),
            Place::Run(run) => self.put_run(run),
        }
    }

    /// Takes a run back that was not used.
    fn put_run(&mut self, run: Run) {
        let (first, count, umem) = run.give_up();
        if umem == self.umem && count == self.count && count > 0 {
            self.settle(first.wrapping_sub(self.first) / count, (1 << count) - 1);
        }
    }

    /// Gives the chunks of a place away, to be put into the TX ring, that hold `length` bytes from
    /// `offset` on: their parts, in order. Those of a run that hold none are at home again.
    pub(in crate::io::xdp) fn surrender(
        &mut self,
        place: Place,
        offset: usize,
        length: usize,
    ) -> Parts {
        match place {
            Place::One(chunk) => Parts {
                address: chunk.surrender(offset) as usize,
                left: length.min(CHUNK_SIZE.saturating_sub(offset)),
            },
            Place::Run(run) => self.surrender_run(run, offset, length),
        }
    }

    fn surrender_run(&mut self, run: Run, offset: usize, length: usize) -> Parts {
        let (first, count, _) = run.give_up();
        let used = (offset + length).div_ceil(CHUNK_SIZE).min(count as usize);
        let number = first.wrapping_sub(self.first) / self.count.max(1);
        self.settle(number, ((1u32 << count) - 1) & !((1 << used) - 1));
        Parts {
            address: first as usize * CHUNK_SIZE + offset,
            left: length.min((used * CHUNK_SIZE).saturating_sub(offset)),
        }
    }

    /// The chunks `bits` of a run come home.
    fn settle(&mut self, number: u32, bits: u32) {
        let Some(home) = self.home.get_mut(number as usize) else {
            return;
        };
        debug_assert!(*home & bits == 0, "a chunk came back twice");
        let new = bits & !*home;
        *home |= new;
        self.at_home += new.count_ones() as usize;
        if new != 0 && *home == (1 << self.count) - 1 {
            self.whole.push(number);
        }
    }

    /// Chunks that wait.
    pub(in crate::io::xdp) const fn len(&self) -> usize {
        self.singles.len() + self.at_home
    }

    /// All chunks.
    pub(in crate::io::xdp) const fn total(&self) -> usize {
        self.singles.total() + self.home.len() * self.count as usize
    }
}

/// Where the parts of a frame lie in the UMEM: address and length, and whether another one follows.
#[derive(Clone, Copy, Debug)]
pub(in crate::io::xdp) struct Parts {
    address: usize,
    left: usize,
}

impl Iterator for Parts {
    type Item = (u64, u32, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let address = self.address;
        let length = self.left.min(CHUNK_SIZE - address % CHUNK_SIZE);
        self.address += length;
        self.left -= length;
        Some((address as u64, length as u32, self.left > 0))
    }
}

impl Run {
    /// Ends the right: first chunk, how many, of which UMEM.
    const fn give_up(self) -> (u32, u32, u32) {
        (self.first, self.count, self.umem)
    }

    /// How many chunks it has.
    pub(in crate::io::xdp) const fn count(&self) -> usize {
        self.count as usize
    }
}

impl Umem {
    /// The bytes of `run` from `offset`, `length` of them; `None` when they are not inside it, or
    /// it is another UMEM's.
    pub(in crate::io::xdp) fn run_bytes<'a>(
        &'a self,
        run: &'a mut Run,
        offset: usize,
        length: usize,
    ) -> Option<&'a mut [u8]> {
        let inside = offset.checked_add(length)? <= run.count() * CHUNK_SIZE;
        if run.umem != self.id || !inside {
            return None;
        }
        let start = run.first as usize * CHUNK_SIZE + offset;
        // SAFETY: as in `Umem::bytes`, for the neighbouring chunks of a run: the invariant of `Run`
        // says that they lie in this mapping and that no other token for any of them exists, and
        // the range does not leave them. The run is borrowed mutably for as long as the slice lives.
        unsafe {
            let first = self.mapping.start().add(start);
            Some(core::slice::from_raw_parts_mut(first.as_ptr(), length))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        TakeRun,
        /// Gives back what was taken, unused.
        Put(usize),
        /// Sends so many bytes from what was taken.
        Send(usize, usize),
        /// The kernel gives one back.
        Complete(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let any = any::<usize>;
        prop_oneof![
            Just(Step::Take),
            Just(Step::TakeRun),
            any().prop_map(Step::Put),
            (any(), any()).prop_map(|(which, length)| Step::Send(which, length)),
            any().prop_map(Step::Complete),
            any().prop_map(Step::Complete),
        ]
    }

    fn indices(place: &Place) -> Vec<u32> {
        match place {
            Place::One(chunk) => vec![chunk.index],
            Place::Run(run) => (run.first..run.first + run.count).collect(),
        }
    }

    proptest! {
        /// Whatever is taken, given back, sent and completed in whatever order: no two tokens of a
        /// chunk, none lost, all there in the end.
        #[test]
        fn every_chunk_has_one_owner(
            total in 0..80u32,
            longest in 1..20 * CHUNK_SIZE,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let (umem, mut chunks) = Umem::new(total + 8, false).unwrap();
            // As in a queue: the first ones are the receiving half's.
            let chunks = chunks.split_off(8);
            let mut free = SendChunks::new(chunks, longest);
            let mut taken: Vec<Place> = Vec::new();
            let mut sent: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Take => taken.extend(free.take().map(Place::One)),
                    Step::TakeRun => {
                        let run = free.take_run();
                        if let Some(run) = &run {
                            prop_assert_eq!(run.count() * CHUNK_SIZE, free.longest());
                            prop_assert!(free.longest() >= longest.min(MOST_RUN * CHUNK_SIZE));
                        }
                        taken.extend(run.map(Place::Run));
                    }
                    Step::Put(which) if !taken.is_empty() => {
                        free.put_place(taken.swap_remove(which % taken.len()));
                    }
                    Step::Send(which, length) if !taken.is_empty() => {
                        let place = taken.swap_remove(which % taken.len());
                        let length = 1 + length % (place.chunks() * CHUNK_SIZE - 100);
                        let mut next = u64::from(indices(&place)[0]) * CHUNK_SIZE as u64 + 100;
                        let parts: Vec<_> = free.surrender(place, 100, length).collect();
                        for (i, (address, part, more)) in parts.iter().enumerate() {
                            prop_assert_eq!(*address, next);
                            let within = *address as usize % CHUNK_SIZE;
                            prop_assert!(within + *part as usize <= CHUNK_SIZE);
                            prop_assert_eq!(*more, i + 1 < parts.len());
                            next += u64::from(*part);
                            sent.push(*address);
                        }
                        let all: u32 = parts.iter().map(|(_, part, _)| part).sum();
                        prop_assert_eq!(all as usize, length);
                    }
                    Step::Complete(which) if !sent.is_empty() => {
                        let address = sent.swap_remove(which % sent.len());
                        // SAFETY: it was surrendered when it was pushed there, and is gone now.
                        let (chunk, _) = unsafe { umem.reclaim(address) }.unwrap();
                        free.put(chunk);
                    }
                    Step::Put(_) | Step::Send(..) | Step::Complete(_) => {}
                }
                let mut seen = HashSet::new();
                let mut owned = 0;
                for index in taken.iter().flat_map(indices).chain(
                    sent.iter().map(|address| (address / CHUNK_SIZE as u64) as u32),
                ) {
                    prop_assert!(seen.insert(index), "two owners of chunk {}", index);
                    prop_assert!((8..total + 8).contains(&index));
                    owned += 1;
                }
                prop_assert_eq!(free.total(), total as usize);
                prop_assert_eq!(free.len() + owned, total as usize);
            }
            // Everything comes back, and can be taken again: once.
            for place in taken {
                free.put_place(place);
            }
            for address in sent {
                // SAFETY: as above.
                let (chunk, _) = unsafe { umem.reclaim(address) }.unwrap();
                free.put(chunk);
            }
            prop_assert_eq!(free.len(), total as usize);
            let mut all = HashSet::new();
            while let Some(place) = free
                .take_run()
                .map(Place::Run)
                .or_else(|| free.take().map(Place::One))
            {
                for index in indices(&place) {
                    prop_assert!(all.insert(index));
                }
            }
            prop_assert_eq!((all.len(), free.len()), (total as usize, 0));
        }
    }

    #[test]
    fn a_run_is_one_piece_of_memory() {
        let (umem, chunks) = Umem::new(16, false).unwrap();
        let mut free = SendChunks::new(chunks, 3 * CHUNK_SIZE);
        assert_eq!((free.total(), free.longest()), (16, 3 * CHUNK_SIZE));
        let mut runs: Vec<_> = core::iter::from_fn(|| free.take_run()).collect();
        assert_eq!(runs.len(), 4);
        for (i, run) in runs.iter_mut().enumerate() {
            let bytes = umem.run_bytes(run, 0, 3 * CHUNK_SIZE).unwrap();
            bytes.fill(i as u8);
        }
        for (i, run) in runs.iter_mut().enumerate() {
            let bytes = umem.run_bytes(run, 5, 3 * CHUNK_SIZE - 5).unwrap();
            assert!(bytes.iter().all(|byte| *byte == i as u8));
        }
        let run = &mut runs[0];
        assert!(umem.run_bytes(run, 1, 3 * CHUNK_SIZE).is_none());
        assert!(umem.run_bytes(run, usize::MAX, 2).is_none());
        let (other, _) = Umem::new(16, false).unwrap();
        assert!(other.run_bytes(run, 0, 1).is_none());
    }

    #[test]
    fn ordinary_datagrams_have_no_runs() {
        let (_umem, chunks) = Umem::new(16, false).unwrap();
        let mut free = SendChunks::new(chunks, CHUNK_SIZE);
        assert!(free.take_run().is_none());
        assert_eq!((free.longest(), free.len()), (CHUNK_SIZE, 16));
        assert_eq!(core::iter::from_fn(|| free.take()).count(), 16);
    }

    #[test]
    fn chunks_that_are_no_neighbours_stay_single() {
        let (_umem, mut chunks) = Umem::new(16, false).unwrap();
        let _lost = chunks.remove(12);
        let mut free = SendChunks::new(chunks, 2 * CHUNK_SIZE);
        assert!(free.take_run().is_none());
        assert_eq!(
            (free.longest(), free.len(), free.total()),
            (CHUNK_SIZE, 15, 15)
        );
    }
}
