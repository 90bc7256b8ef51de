//! A clock around the AEAD's back end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use ringspan::crypto::{BatchAead, OpenJob, SealJob};

/// A back end that notes how long it works.
#[derive(Debug)]
pub(crate) struct Timed {
    back_end: &'static dyn BatchAead,
    nanoseconds: AtomicU64,
}

impl Timed {
    /// One for the rest of the process's life.
    pub(crate) fn leak(back_end: &'static dyn BatchAead) -> &'static Self {
        Box::leak(Box::new(Self {
            back_end,
            nanoseconds: AtomicU64::new(0),
        }))
    }

    /// Nanoseconds since this was asked last.
    pub(crate) fn take(&self) -> f64 {
        self.nanoseconds.swap(0, Relaxed) as f64
    }

    fn note(&self, begin: Instant) {
        let time = begin.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(time, Relaxed);
    }
}

impl BatchAead for Timed {
    fn name(&self) -> &'static str {
        self.back_end.name()
    }

    fn seal(&self, jobs: &mut [SealJob<'_>]) {
        let begin = Instant::now();
        self.back_end.seal(jobs);
        self.note(begin);
    }

    fn open(&self, jobs: &mut [OpenJob<'_>]) {
        let begin = Instant::now();
        self.back_end.open(jobs);
        self.note(begin);
    }
}
