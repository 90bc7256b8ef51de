//! Coalescing on receive (`UDP_GRO`): the kernel puts datagrams of one sender and equal length
//! together and says in ancillary data where to cut.

use std::io;
use std::os::fd::BorrowedFd;

use super::options;

/// Asks the kernel to coalesce what this socket receives.
pub(super) fn enable(fd: BorrowedFd<'_>) -> io::Result<()> {
    options::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Cuts what was received into its datagrams: `segment` bytes each, the last as long as it is.
/// Without `segment` it is one.
pub(super) fn split(payload: &mut [u8], segment: Option<usize>) -> impl Iterator<Item = &mut [u8]> {
    let segment = segment.unwrap_or(payload.len()).max(1);
    payload.chunks_mut(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(len: usize, segment: Option<usize>) -> Vec<usize> {
        let mut payload = vec![0; len];
        split(&mut payload, segment)
            .map(|part| part.len())
            .collect()
    }

    #[test]
    fn cuts_where_the_kernel_says() {
        assert_eq!(lengths(250, Some(100)), [100, 100, 50]);
        assert_eq!(lengths(200, Some(100)), [100, 100]);
        assert_eq!(lengths(250, None), [250]);
        assert_eq!(lengths(50, Some(100)), [50]);
        assert!(lengths(0, None).is_empty());
    }
}
