//! Segmentation on send (`UDP_SEGMENT`): one message that the kernel, or the card, cuts into
//! datagrams of equal length, of which only the last may be shorter.

use std::io;

use arrayvec::ArrayVec;

use super::MAX_DATAGRAM;
use crate::engine::port::{MAX_BATCH, TxRequest};

/// The most datagrams in one message: the kernel's `UDP_MAX_SEGMENTS` before it became 128.
const MAX_SEGMENTS: usize = 64;

/// Requests that lie one after another in the buffer and go as one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// Where they go, and with which TOS: the first request stands for all.
    pub(super) request: &'a TxRequest,
    /// Where the first begins in the buffer.
    pub(super) start: usize,
    /// How long they are together.
    pub(super) len: usize,
    /// How many there are.
    pub(super) count: usize,
}

impl<'a> Run<'a> {
    const fn new(request: &'a TxRequest, start: usize) -> Self {
        Self {
            request,
            start,
            len: request.len,
            count: 1,
        }
    }

    /// The length of each datagram but the last, where there are several.
    pub(super) fn segment(&self) -> Option<u16> {
        if self.count > 1 {
            u16::try_from(self.request.len).ok()
        } else {
            None
        }
    }

    /// Takes `next` in, if the kernel can send it with the others.
    fn join(&mut self, next: &TxRequest) -> bool {
        let fits = next.to == self.request.to
            && next.tos == self.request.tos
            && next.len > 0
            && next.len <= self.request.len
            && self.len == self.count * self.request.len // no shorter one ended it
            && self.count < MAX_SEGMENTS
            && self.len + next.len <= MAX_DATAGRAM;
        if fits {
            self.len += next.len;
            self.count += 1;
        }
        fits
    }
}

/// Arranges requests, given with their places in the buffer, into messages: `runs`, which is empty.
/// Datagrams of `limit` bytes or more go alone.
pub(super) fn arrange<'a>(
    staged: impl Iterator<Item = &'a TxRequest>,
    limit: usize,
    runs: &mut ArrayVec<Run<'a>, MAX_BATCH>,
) {
    let mut start = 0;
    for request in staged {
        let joined = request.len < limit && runs.last_mut().is_some_and(|run| run.join(request));
        if !joined && runs.try_push(Run::new(request, start)).is_err() {
            break;
        }
        start += request.len;
    }
}

/// What a send error says about segmentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// The way out cannot do it at all: `EIO` from a device without checksum offload, or a
    /// kernel that does not know the option.
    Always,
    /// Segments of this length do not fit the path's MTU: they must be fragmented, one by one.
    TooLong,
    /// It has another reason.
    Unrelated,
}

pub(super) fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => Refusal::Always,
        Some(libc::EINVAL | libc::EMSGSIZE) => Refusal::TooLong,
        _ => Refusal::Unrelated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Endpoint;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn request(port: u16, len: usize, tos: u8) -> TxRequest {
        TxRequest {
            to: Endpoint::from(SocketAddr::from(([127, 0, 0, 1], port))),
            len,
            tos,
        }
    }

    fn runs<'a>(
        staged: impl Iterator<Item = &'a TxRequest>,
        limit: usize,
    ) -> ArrayVec<Run<'a>, MAX_BATCH> {
        let mut runs = ArrayVec::new();
        arrange(staged, limit, &mut runs);
        runs
    }

    fn shape(requests: &[TxRequest], limit: usize) -> Vec<(usize, usize, Option<u16>)> {
        runs(requests.iter(), limit)
            .iter()
            .map(|run| (run.count, run.len, run.segment()))
            .collect()
    }

    #[test]
    fn equal_lengths_join_and_a_shorter_one_ends_the_run() {
        let requests = [100, 100, 40, 40, 41].map(|len| request(1, len, 0));
        assert_eq!(
            shape(&requests, usize::MAX),
            [(3, 240, Some(100)), (1, 40, None), (1, 41, None)]
        );
    }

    #[test]
    fn another_endpoint_or_tos_begins_a_new_run() {
        let requests = [request(1, 9, 0), request(2, 9, 0), request(2, 9, 1)];
        assert_eq!(shape(&requests, usize::MAX), [(1, 9, None); 3]);
    }

    #[test]
    fn the_kernels_limits() {
        let small = vec![request(1, 32, 0); 100];
        assert_eq!(
            shape(&small, usize::MAX),
            [(64, 2048, Some(32)), (36, 36 * 32, Some(32))]
        );
        let large = vec![request(1, 9000, 0); 9];
        assert_eq!(
            shape(&large, usize::MAX),
            [(7, 63_000, Some(9000)), (2, 18_000, Some(9000))]
        );
        assert_eq!(shape(&large, 9000).len(), 9, "too long for the path");
    }

    #[test]
    fn errors_that_blame_segmentation() {
        let of = |code| refusal(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EIO), Refusal::Always);
        assert_eq!(of(libc::EMSGSIZE), Refusal::TooLong);
        assert_eq!(of(libc::EINVAL), Refusal::TooLong);
        assert_eq!(of(libc::ENETUNREACH), Refusal::Unrelated);
        assert_eq!(of(libc::EAGAIN), Refusal::Unrelated);
    }

    proptest! {
        #[test]
        fn runs_cover_all_requests_in_order(
            shapes in proptest::collection::vec((1u16..3, 0usize..2000, 0u8..2), 0..MAX_BATCH),
            limit in 0usize..3000,
        ) {
            let requests: Vec<_> = shapes
                .into_iter()
                .map(|(port, len, tos)| request(port, len, tos))
                .collect();
            let mut rest = requests.as_slice();
            let mut end = 0;
            for run in runs(requests.iter(), limit) {
                prop_assert_eq!(run.start, end);
                end += run.len;
                let (members, after) = rest.split_at(run.count);
                rest = after;
                prop_assert_eq!(members.iter().map(|member| member.len).sum::<usize>(), run.len);
                prop_assert!(run.len <= MAX_DATAGRAM && run.count <= MAX_SEGMENTS);
                let (last, equal) = members.split_last().unwrap();
                for member in equal {
                    prop_assert_eq!(member.len, run.request.len);
                }
                prop_assert!(last.len <= run.request.len);
                for member in members {
                    prop_assert_eq!(member.to, run.request.to);
                    prop_assert_eq!(member.tos, run.request.tos);
                }
                if run.count > 1 {
                    prop_assert!(run.request.len < limit || members[1].len < limit);
                }
            }
            prop_assert!(rest.is_empty());
        }
    }
}
