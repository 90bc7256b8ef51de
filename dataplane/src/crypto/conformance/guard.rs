//! Buffers that end, or begin, where mapped memory does: a byte read or written past either
//! edge is a fault, not luck.

use std::ptr;

use super::back_ends;
use super::batches::{LENGTHS, LONG_LENGTHS};
use crate::crypto::aead::TAG_LEN;
use crate::crypto::portable::Portable;
use crate::crypto::{AeadKey, BatchAead, OpenJob, SealJob, Verdict};

/// Pages that may be used, with one before and one behind that may not.
struct Guarded {
    map: *mut u8,
    page: usize,
    usable: usize,
}

/// Which edge a buffer touches.
#[derive(Clone, Copy, Debug)]
enum Edge {
    Beginning,
    End,
}

impl Guarded {
    fn new(least: usize) -> Self {
        // SAFETY: asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let usable = least.next_multiple_of(page).max(page);
        // SAFETY: a new private mapping; its middle is then opened.
        unsafe {
            let map = libc::mmap(
                ptr::null_mut(),
                usable + 2 * page,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert!(map != libc::MAP_FAILED, "no memory for guarded pages");
            let map: *mut u8 = map.cast();
            let open = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(map.add(page).cast(), usable, open), 0);
            Self { map, page, usable }
        }
    }

    fn slice(&mut self, len: usize, edge: Edge) -> &mut [u8] {
        assert!(len <= self.usable);
        let start = match edge {
            Edge::Beginning => 0,
            Edge::End => self.usable - len,
        };
        // SAFETY: within the opened pages, and borrowed from the mapping's only owner.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(self.page + start), len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nothing borrows from it any more.
        unsafe { libc::munmap(self.map.cast(), self.usable + 2 * self.page) };
    }
}

/// Seals and opens a batch of packets of the given lengths, all at `edge`.
fn check(back_end: &dyn BatchAead, lens: &[usize], padding: usize, edge: Edge) {
    struct Place {
        src: Guarded,
        dst: Guarded,
    }
    let key = AeadKey::from([9; 32]);
    let mut places: Vec<Place> = lens
        .iter()
        .map(|len| Place {
            src: Guarded::new(*len),
            dst: Guarded::new(len + padding + TAG_LEN),
        })
        .collect();

    let mut jobs: Vec<SealJob<'_>> = places
        .iter_mut()
        .zip(lens)
        .map(|(place, len)| {
            let src = place.src.slice(*len, edge);
            src.fill(0x3c);
            let dst = place.dst.slice(len + padding + TAG_LEN, edge);
            SealJob::new(&key, 77, src, dst).unwrap()
        })
        .collect();
    back_end.seal(&mut jobs);
    drop(jobs);

    for (place, len) in places.iter_mut().zip(lens) {
        let mut expected = vec![0; len + padding + TAG_LEN];
        let plaintext = vec![0x3c; *len];
        let job = SealJob::new(&key, 77, &plaintext, &mut expected).unwrap();
        Portable.seal(&mut [job]);
        assert!(
            place.dst.slice(expected.len(), edge) == expected,
            "{} seals {len} bytes at the {edge:?} otherwise",
            back_end.name()
        );
    }

    let mut jobs: Vec<OpenJob<'_>> = places
        .iter_mut()
        .zip(lens)
        .map(|(place, len)| {
            let buffer = place.dst.slice(len + padding + TAG_LEN, edge);
            OpenJob::new(&key, 77, buffer).unwrap()
        })
        .collect();
    back_end.open(&mut jobs);
    for (job, len) in jobs.iter().zip(lens) {
        assert_eq!(
            job.verdict(),
            Verdict::Authentic,
            "{} {len}",
            back_end.name()
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri checks bounds itself, and cannot protect pages")]
fn no_back_end_leaves_its_buffers() {
    for back_end in back_ends() {
        for edge in [Edge::Beginning, Edge::End] {
            for len in LENGTHS.into_iter().chain(LONG_LENGTHS) {
                for batch in [1, 3, 17] {
                    // Padding makes the last blocks read less than they write.
                    for padding in [0, 13]
                        .into_iter()
                        .filter(|padding| len + padding <= 65_535)
                    {
                        check(back_end, &vec![len; batch], padding, edge);
                    }
                }
            }
            check(back_end, &LENGTHS, 0, edge);
        }
    }
}

/// Every length there is up to some rows of every kernel.
#[test]
#[cfg_attr(miri, ignore = "Miri checks bounds itself, and cannot protect pages")]
fn no_back_end_leaves_its_buffers_at_any_length() {
    for back_end in back_ends() {
        for edge in [Edge::Beginning, Edge::End] {
            for len in 0..300 {
                check(back_end, &[len], 0, edge);
                check(back_end, &[len, len / 2, 300 - len, len, 64], 0, edge);
            }
        }
    }
}
