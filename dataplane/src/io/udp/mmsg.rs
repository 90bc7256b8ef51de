//! `recvmmsg` and `sendmmsg`: many datagrams a system call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;
use libc::{c_int, c_uint, iovec, mmsghdr, msghdr};

use super::MAX_MESSAGES;
use super::address::RawAddress;
use super::control::Control;

/// A message to send.
pub(super) struct Outgoing<'a> {
    pub(super) to: &'a RawAddress,
    pub(super) control: &'a Control,
    pub(super) payload: &'a [u8],
}

/// A place for a message, and what came to lie in it.
pub(super) struct Incoming<'a> {
    pub(super) buffer: &'a mut [u8],
    pub(super) from: &'a mut RawAddress,
    pub(super) control: &'a mut Control,
    /// How much of the buffer holds payload.
    pub(super) len: usize,
    /// Whether the datagram was longer than the buffer.
    pub(super) truncated: bool,
}

/// Sends the first of `messages`, at most [`MAX_MESSAGES`]; returns how many went. An error is
/// that of the very first message.
pub(super) fn send(fd: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let messages = messages.get(..MAX_MESSAGES).unwrap_or(messages);
    // Extended in place, here and below: a collected array is moved, all of it.
    let mut vectors = ArrayVec::<iovec, MAX_MESSAGES>::new();
    vectors.extend(messages.iter().map(|message| iovec {
        iov_base: message.payload.as_ptr().cast_mut().cast(),
        iov_len: message.payload.len(),
    }));
    let mut headers = ArrayVec::<mmsghdr, MAX_MESSAGES>::new();
    headers.extend(
        messages
            .iter()
            .zip(vectors.iter_mut())
            .map(|(message, vector)| {
                let mut header = empty_header();
                header.msg_name = message.to.bytes.as_ptr().cast_mut().cast();
                header.msg_namelen = message.to.len;
                header.msg_iov = vector;
                header.msg_iovlen = 1;
                let control = message.control.bytes();
                if !control.is_empty() {
                    header.msg_control = control.as_ptr().cast_mut().cast();
                    header.msg_controllen = control.len() as _;
                }
                mmsghdr {
                    msg_hdr: header,
                    msg_len: 0,
                }
            }),
    );
    if let [header] = headers.as_slice() {
        // A lone datagram takes the shorter way through the kernel.
        let message = &raw const header.msg_hdr;
        return retry(|| {
            // SAFETY: as below; `sendmsg` reads the header too, and writes nothing.
            let sent = unsafe {
                libc::sendmsg(
                    fd.as_raw_fd(),
                    message,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if sent < 0 { -1 } else { 1 }
        });
    }
    retry(|| {
        // SAFETY: `headers` holds as many entries as said; their pointers, taken above, describe
        // `vectors`, and names, controls and payloads that `messages` borrows for longer than
        // this call. On send the kernel reads them all and writes only `msg_len`.
        unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        }
    })
}

/// Fills the first of `slots`, at most [`MAX_MESSAGES`]; returns how many.
pub(super) fn receive(fd: BorrowedFd<'_>, slots: &mut [Incoming<'_>]) -> io::Result<usize> {
    let mut vectors = ArrayVec::<iovec, MAX_MESSAGES>::new();
    vectors.extend(slots.iter_mut().take(MAX_MESSAGES).map(|slot| iovec {
        iov_base: slot.buffer.as_mut_ptr().cast(),
        iov_len: slot.buffer.len(),
    }));
    let mut headers = ArrayVec::<mmsghdr, MAX_MESSAGES>::new();
    headers.extend(
        slots
            .iter_mut()
            .zip(vectors.iter_mut())
            .map(|(slot, vector)| {
                let mut header = empty_header();
                header.msg_name = slot.from.bytes.as_mut_ptr().cast();
                header.msg_namelen = RawAddress::CAPACITY;
                header.msg_iov = vector;
                header.msg_iovlen = 1;
                header.msg_control = slot.control.buffer_mut().as_mut_ptr().cast();
                header.msg_controllen = Control::capacity() as _;
                mmsghdr {
                    msg_hdr: header,
                    msg_len: 0,
                }
            }),
    );
    let received = retry(|| {
        // SAFETY: `headers` holds as many entries as said; their pointers, taken above, describe
        // `vectors`, and distinct buffers that `slots` borrows mutably for longer than this
        // call. The kernel writes within the given lengths; any bytes are valid there.
        unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as c_uint,
                libc::MSG_DONTWAIT as _,
                core::ptr::null_mut(),
            )
        }
    })?;
    for (slot, header) in slots.iter_mut().zip(&headers).take(received) {
        slot.from.len = header.msg_hdr.msg_namelen.min(RawAddress::CAPACITY);
        #[allow(clippy::unnecessary_cast)] // musl counts in `u32`
        slot.control.set_len(header.msg_hdr.msg_controllen as usize);
        slot.len = (header.msg_len as usize).min(slot.buffer.len());
        slot.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    }
    Ok(received)
}

fn empty_header() -> msghdr {
    // SAFETY: `msghdr` consists of integers and raw pointers, for which zero is a valid value.
    // (Not a literal: some C libraries have private padding fields in it.)
    unsafe { core::mem::zeroed() }
}

/// Calls again when a signal came between.
fn retry(mut call: impl FnMut() -> c_int) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
