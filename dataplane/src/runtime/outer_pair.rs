//! Two outer send drivers as one: AF_XDP where it knows the way, the UDP socket for the rest.

use crate::engine::port::{DriverInfo, MAX_BATCH, OuterTx, Sent, TxRequest, TxSlot};
use crate::mesh::Endpoint;
use arrayvec::ArrayVec;

/// Sends through `first` what it reaches, through `second` what it does not; and a batch with
/// datagrams that are longer than `first` has heard of, as they are for a moment after the inner
/// MTU was raised.
///
/// The order of datagrams to one endpoint is kept as long as `first` keeps its answer; when a
/// path becomes known, datagrams under way through `second` may arrive later.
pub struct OuterPair<A, B> {
    first: A,
    second: B,
    longest: usize,
}

impl<A: OuterTx, B: OuterTx> OuterPair<A, B> {
    /// The pair; `first` is made for datagrams of up to `longest` bytes.
    pub fn new(first: A, second: B, longest: usize) -> Self {
        Self {
            first,
            second,
            longest,
        }
    }
}

impl<A: OuterTx, B: OuterTx> OuterTx for OuterPair<A, B> {
    fn reaches(&mut self, endpoint: &Endpoint) -> bool {
        self.first.reaches(endpoint) || self.second.reaches(endpoint)
    }

    fn send_batch(
        &mut self,
        requests: &[TxRequest],
        fill: &mut dyn FnMut(&mut [TxSlot<'_>]),
    ) -> Sent {
        if requests.iter().any(|request| request.len > self.longest) {
            return self.second.send_batch(requests, fill);
        }
        let mut sent = Sent::default();
        let mut offset = 0;
        // Runs of requests that go the same way: almost always the whole batch is one.
        while let Some(rest) = requests.get(offset..).filter(|rest| !rest.is_empty()) {
            let (run, reached) = first_run(rest, |endpoint| self.first.reaches(endpoint));
            let (run, _) = rest.split_at(run);
            let mut shifted = |slots: &mut [TxSlot<'_>]| {
                for slot in &mut *slots {
                    slot.request += offset;
                }
                fill(slots);
            };
            sent += if reached {
                self.first.send_batch(run, &mut shifted)
            } else {
                self.second.send_batch(run, &mut shifted)
            };
            offset += run.len();
        }
        sent
    }

    fn flush(&mut self) -> bool {
        // Both, whatever the first one answers.
        self.first.flush() | self.second.flush()
    }

    fn set_longest(&mut self, bytes: usize) {
        self.longest = bytes;
        self.first.set_longest(bytes);
        self.second.set_longest(bytes);
    }

    fn info(&self) -> DriverInfo {
        let (first, second) = (self.first.info(), self.second.info());
        DriverInfo {
            mode: format!("{}; {} until a path is resolved", first.mode, second.driver),
            ..first
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.first.statistics();
        all.extend(self.second.statistics());
        all
    }
}

/// How many requests from the first on `reaches` answers alike, and that answer.
fn first_run(requests: &[TxRequest], mut reaches: impl FnMut(&Endpoint) -> bool) -> (usize, bool) {
    let mut answers: ArrayVec<(Endpoint, bool), 4> = ArrayVec::new();
    let mut ask = |endpoint: &Endpoint| {
        if let Some((_, answer)) = answers.iter().find(|(asked, _)| asked == endpoint) {
            return *answer;
        }
        let answer = reaches(endpoint);
        let _ = answers.try_push((*endpoint, answer));
        answer
    };
    let Some(reached) = requests.first().map(|request| ask(&request.to)) else {
        return (0, false);
    };
    let run = requests
        .iter()
        .take(MAX_BATCH)
        .take_while(|request| ask(&request.to) == reached)
        .count();
    (run, reached)
}
