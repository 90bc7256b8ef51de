//! What routers say of the path MTU: ICMP "fragmentation needed", ICMPv6 "packet too big".
//!
//! The kernel takes them in by itself, for any datagram of a socket of ours, and the UDP socket goes
//! by what it has learnt. It announces nothing, though: whoever sends beside the kernel must listen
//! as well, and then ask it (docs/decisions/0131).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, ipproto, recv, socket_with,
};

/// Level and name of the filters (`linux/icmp.h`, `linux/icmpv6.h`).
const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;

/// ICMP types: destination unreachable (of which code 4 is "fragmentation needed"), packet too big.
const UNREACHABLE: u32 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u32 = 2;

/// Raw sockets on which nothing but these messages arrives.
#[derive(Debug)]
pub struct TooBigWatch {
    v4: OwnedFd,
    /// `None` where the kernel has no IPv6.
    v6: Option<OwnedFd>,
}

impl TooBigWatch {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, which AF_XDP needs too.
    pub fn open() -> io::Result<Self> {
        // A bit that is set keeps that type out.
        let v4 = raw(AddressFamily::INET, ipproto::ICMP)?;
        let only_unreachable = [!(1_u32 << UNREACHABLE)];
        filter(v4.as_fd(), SOL_RAW, ICMP_FILTER, &only_unreachable)?;
        let v6 = match raw(AddressFamily::INET6, ipproto::ICMPV6) {
            Ok(v6) => Some(v6),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        if let Some(v6) = &v6 {
            let mut only_too_big = [u32::MAX; 8];
            only_too_big[0] = !(1 << PACKET_TOO_BIG);
            let level = libc::IPPROTO_ICMPV6;
            filter(v6.as_fd(), level, ICMPV6_FILTER, &only_too_big)?;
        }
        Ok(Self { v4, v6 })
    }

    /// The sockets, to be waited for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        core::iter::once(&self.v4).chain(&self.v6).map(AsFd::as_fd)
    }

    /// Takes all that has come; true when some router has found a packet too big. Whose packet, and
    /// whether that is true, is for the kernel to judge.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut any = false;
        // An IPv4 header of any length, and the beginning of the message.
        let mut buffer = [0; 64];
        while let Some(length) = next(self.v4.as_fd(), &mut buffer) {
            any |= buffer
                .get(..length)
                .is_some_and(|packet| code(packet) == Some(FRAGMENTATION_NEEDED));
        }
        if let Some(v6) = &self.v6 {
            while next(v6.as_fd(), &mut buffer).is_some() {
                any = true;
            }
        }
        any
    }
}

/// The code of the ICMP message in an IPv4 packet.
fn code(packet: &[u8]) -> Option<u8> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(header + 1).copied()
}

/// The next message's length, as far as there is room.
fn next(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match recv(fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => return Some(length),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn raw(family: AddressFamily, protocol: Protocol) -> io::Result<OwnedFd> {
    Ok(socket_with(
        family,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(protocol),
    )?)
}

fn filter(fd: BorrowedFd<'_>, level: i32, name: i32, words: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `words`, which outlive the call; the kernel
    // only reads them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            words.as_ptr().cast(),
            size_of_val(words) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_stands_behind_a_header_of_any_length() {
        for words in [5_usize, 7, 15] {
            let mut packet = vec![0; words * 4];
            packet[0] = 0x40 | words as u8;
            packet.extend([3, 4, 0, 0]);
            assert_eq!(code(&packet), Some(FRAGMENTATION_NEEDED));
            packet.truncate(words * 4 + 1);
            assert_eq!(code(&packet), None);
        }
        assert_eq!(code(&[]), None);
    }
}
