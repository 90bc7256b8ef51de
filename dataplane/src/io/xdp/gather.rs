//! Frames of several buffers, put together.
//!
//! A frame longer than a chunk comes as a chain of descriptors, all but the last marked
//! `XDP_PKT_CONTD`. The engine opens a datagram in place and so needs it in one piece: the parts are
//! copied, once, behind one another into an arena that is as old as the socket. Their chunks can go
//! back to the kernel at once.

use core::ops::Range;

/// The longest frame: Ethernet, two VLAN tags, and the longest IP packet (IPv6: a header and 65535
/// bytes).
const MOST_FRAME: usize = 14 + 8 + 40 + 65535;

/// Frames of the length asked for that the arena takes in one batch, at least.
const BATCH: usize = 64;

/// Frames begin on cache lines.
const LINE: usize = 64;

/// Puts frames together, those of one batch behind one another.
#[derive(Debug)]
pub(super) struct Gather {
    arena: Box<[u8]>,
    /// Bytes of whole frames, rounded up to [`LINE`], and of the open chain.
    used: usize,
    chain: Option<Chain>,
    gathered: u64,
    broken: u64,
}

/// A frame whose end has not come yet, which may be in the next batch.
#[derive(Clone, Copy, Debug)]
struct Chain {
    start: usize,
    /// A part was missing or too much: the rest is swallowed.
    broken: bool,
}

impl Gather {
    /// For frames that are mostly at most `longest` bytes long. Longer ones are put together too,
    /// fewer of them a batch.
    pub(super) fn new(longest: usize) -> Self {
        let arena = longest.next_multiple_of(LINE) * BATCH + MOST_FRAME;
        Self {
            arena: vec![0; arena].into_boxed_slice(),
            used: 0,
            chain: None,
            gathered: 0,
            broken: 0,
        }
    }

    /// Forgets the frames of the last batch. What has come of a frame whose end has not, stays.
    pub(super) fn begin_batch(&mut self) {
        match &mut self.chain {
            None => self.used = 0,
            Some(chain) => {
                self.arena.copy_within(chain.start..self.used, 0);
                self.used -= chain.start;
                chain.start = 0;
            }
        }
    }

    /// Whether one more frame fits, whatever its length.
    pub(super) fn has_room(&self) -> bool {
        let start = self.chain.map_or(self.used, |chain| chain.start);
        self.arena.len() - start >= MOST_FRAME
    }

    /// Whether a part belongs to a chain: it is followed by another one (`more`), or follows one.
    pub(super) const fn concerns(&self, more: bool) -> bool {
        more || self.chain.is_some()
    }

    /// Adds a frame's next part; `None` for one that cannot be read, which breaks the frame. With
    /// the last part (`more` is false) the frame's place is returned, if it is whole.
    pub(super) fn add(&mut self, part: Option<&[u8]>, more: bool) -> Option<Range<usize>> {
        let mut chain = self.chain.take().unwrap_or(Chain {
            start: self.used,
            broken: false,
        });
        let copied = part.and_then(|part| {
            let end = self.used + part.len();
            if chain.broken || end - chain.start > MOST_FRAME {
                return None;
            }
            self.arena.get_mut(self.used..end)?.copy_from_slice(part);
            Some(end)
        });
        match copied {
            Some(end) => self.used = end,
            None => {
                chain.broken = true;
                self.used = chain.start;
            }
        }
        if more {
            self.chain = Some(chain);
            return None;
        }
        if chain.broken {
            self.broken += 1;
            return None;
        }
        self.gathered += 1;
        let frame = chain.start..self.used;
        self.used = self.used.next_multiple_of(LINE).min(self.arena.len());
        Some(frame)
    }

    /// Lends the frames of this batch.
    pub(super) fn frames(&mut self) -> Frames<'_> {
        Frames {
            rest: &mut self.arena,
            taken: 0,
        }
    }

    /// Frames put together so far.
    pub(super) const fn gathered(&self) -> u64 {
        self.gathered
    }

    /// Frames that ended without having been whole.
    pub(super) const fn broken(&self) -> u64 {
        self.broken
    }
}

/// The frames of one batch, to be lent all at once.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    rest: &'a mut [u8],
    /// Where in the arena `rest` begins.
    taken: usize,
}

impl<'a> Frames<'a> {
    /// No frames.
    pub(super) const fn none() -> Self {
        Self {
            rest: &mut [],
            taken: 0,
        }
    }

    /// The frame at `place`. Places must ascend, as [`Gather::add`] returned them; `None` where they
    /// do not.
    pub(super) fn take(&mut self, place: Range<usize>) -> Option<&'a mut [u8]> {
        let skip = place.start.checked_sub(self.taken)?;
        let end = skip.checked_add(place.len())?;
        if end > self.rest.len() {
            return None;
        }
        let (front, rest) = core::mem::take(&mut self.rest).split_at_mut_checked(end)?;
        self.rest = rest;
        self.taken = place.end;
        front.get_mut(skip..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `length` bytes that tell one frame from another.
    fn content(seed: usize, length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + seed * 7) as u8).collect()
    }

    fn add_all(gather: &mut Gather, frame: &[u8], part: usize) -> Option<Range<usize>> {
        let parts = frame.chunks(part).len();
        let mut place = None;
        for (i, part) in frame.chunks(part).enumerate() {
            assert!(gather.has_room());
            place = gather.add(Some(part), i + 1 < parts);
        }
        place
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A frame of this length, in parts of that length.
        Frame(usize, usize),
        /// A frame of that many parts, of which one cannot be read.
        Broken(usize, usize),
        /// A frame that does not end before more than any frame holds has come.
        Endless,
        NextBatch,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1..MOST_FRAME, 1000..4097usize).prop_map(|(l, p)| Step::Frame(l, p)),
            6 => (1..9100usize, 1000..4097usize).prop_map(|(l, p)| Step::Frame(l, p)),
            2 => (1..6usize, 0..6usize).prop_map(|(n, at)| Step::Broken(n, at % n)),
            1 => Just(Step::Endless),
            2 => Just(Step::NextBatch),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whole frames come out as they were, all of a batch at once, whatever stands between
        /// them and wherever a batch ends; broken ones are counted and take nothing along.
        #[test]
        fn whole_frames_come_out_whole(
            steps in prop::collection::vec(step(), 1..40),
            cut in any::<usize>(),
        ) {
            let mut gather = Gather::new(9014);
            let mut batch: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
            let (mut gathered, mut broken) = (0, 0);
            let check = |gather: &mut Gather, batch: &mut Vec<(Range<usize>, Vec<u8>)>| {
                let mut frames = gather.frames();
                let lent: Vec<_> = batch
                    .iter()
                    .map(|(place, _)| frames.take(place.clone()))
                    .collect();
                for (lent, (_, expected)) in lent.into_iter().zip(batch.drain(..)) {
                    assert_eq!(lent.map(|bytes| bytes.to_vec()), Some(expected));
                }
                gather.begin_batch();
            };
            for (seed, step) in steps.into_iter().enumerate() {
                if !gather.has_room() {
                    check(&mut gather, &mut batch);
                }
                prop_assert!(gather.has_room());
                match step {
                    Step::Frame(length, part) => {
                        let frame = content(seed, length);
                        let parts: Vec<_> = frame.chunks(part).collect();
                        let cut = (cut.wrapping_add(seed)) % (2 * parts.len());
                        for (i, part) in parts.iter().enumerate() {
                            if i == cut && i > 0 {
                                // The batch ends in the middle of the frame.
                                check(&mut gather, &mut batch);
                            }
                            let more = i + 1 < parts.len();
                            let place = gather.add(Some(part), more);
                            prop_assert_eq!(place.is_none(), more);
                            prop_assert_eq!(gather.concerns(false), more);
                            if let Some(place) = place {
                                batch.push((place, frame.clone()));
                            }
                        }
                        gathered += 1;
                    }
                    Step::Broken(parts, at) => {
                        for i in 0..parts {
                            let part = (i != at).then_some(&[9u8; 3000][..]);
                            prop_assert_eq!(gather.add(part, i + 1 < parts), None);
                        }
                        broken += 1;
                    }
                    Step::Endless => {
                        for _ in 0..40 {
                            prop_assert_eq!(gather.add(Some(&[8; 4096]), true), None);
                        }
                        prop_assert_eq!(gather.add(Some(&[8; 1]), false), None);
                        broken += 1;
                    }
                    Step::NextBatch => check(&mut gather, &mut batch),
                }
            }
            check(&mut gather, &mut batch);
            prop_assert_eq!((gather.gathered(), gather.broken()), (gathered, broken));
        }
    }

    #[test]
    fn a_batch_takes_what_it_promises() {
        let mut gather = Gather::new(9014);
        let mut frames = 0;
        while gather.has_room() {
            assert!(add_all(&mut gather, &content(frames, 9014), 3840).is_some());
            frames += 1;
        }
        assert!((BATCH..=BATCH + 8).contains(&frames), "{frames}");
        gather.begin_batch();
        assert!(gather.has_room());
    }

    #[test]
    fn places_out_of_turn_are_refused() {
        let mut gather = Gather::new(100);
        let first = add_all(&mut gather, &content(1, 200), 150).unwrap();
        let second = add_all(&mut gather, &content(2, 200), 150).unwrap();
        let mut frames = gather.frames();
        assert!(frames.take(second).is_some());
        assert!(frames.take(first).is_none());
        assert!(frames.take(usize::MAX - 1..usize::MAX).is_none());
        assert!(Frames::none().take(0..1).is_none());
    }
}
