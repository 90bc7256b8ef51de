//! The XDP program: hands datagrams for WireGuard's ports to the AF_XDP socket of the queue they
//! came in on, and passes every other frame to the kernel untouched.
//!
//! It takes a frame apart with the decoder that user space uses too, looks the UDP destination
//! port and the destination address up, redirects, and counts the verdict. It keeps no state and
//! drops nothing. docs/xdp-program.md describes maps and verdicts.

#![no_std]
#![no_main]

mod inner;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_xdp_get_buff_len;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use ringspan_xdp_common::{Frame, Layout, Verdict, maps};

// The names are those in `ringspan_xdp_common::maps`; the loader refuses an object without them.
#[map]
static RS_PORTS: Array<u64> = Array::with_max_entries(maps::PORT_WORDS, 0);
#[map]
static RS_ADDRESSES: HashMap<[u8; 16], u8> = HashMap::with_max_entries(maps::MAX_ADDRESSES, 0);
#[map]
static RS_SETTINGS: Array<u32> = Array::with_max_entries(maps::SETTING_COUNT, 0);
#[map]
static RS_SOCKETS: XskMap = XskMap::with_max_entries(maps::MAX_QUEUES, 0);
#[map]
static RS_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);

/// `frags`: frames of more than one buffer (large MTU, aggregated packets on a veth) reach the
/// program too, instead of being dropped or barring it from the interface. It reads the headers in
/// their first buffer. Where the sockets take frames of several buffers
/// ([`maps::SETTING_MULTI_BUFFER`]), the lengths are held against the whole frame; else a datagram
/// that does not lie in the first buffer whole is passed on as malformed.
#[xdp(frags)]
pub fn ringspan_steer(context: XdpContext) -> u32 {
    let (action, verdict) = match steer(&context) {
        Ok(()) => redirect(&context),
        Err(verdict) => (xdp_action::XDP_PASS, verdict),
    };
    count(verdict);
    action
}

#[inline(always)]
fn count(verdict: Verdict) {
    if let Some(counter) = RS_COUNTERS.get_ptr_mut(verdict.index()) {
        // SAFETY: the pointer is to this CPU's own slot, and XDP does not preempt itself there.
        unsafe { *counter += 1 };
    }
}

/// Whether the frame is ours; the verdict if it is not.
#[inline(always)]
fn steer(context: &XdpContext) -> Result<(), Verdict> {
    let frame = Packet::of(context);
    let layout = Layout::of(&frame)?;
    let port = layout.destination_port;
    match RS_PORTS.get(maps::port_word(port)) {
        Some(word) if word & maps::port_bit(port) != 0 => {}
        _ => return Err(Verdict::OtherPort),
    }
    if RS_SETTINGS.get(maps::SETTING_ANY_ADDRESS) == Some(&1) {
        return Ok(());
    }
    let address = layout.destination_key(&frame).ok_or(Verdict::Malformed)?;
    match RS_ADDRESSES.get_ptr(address) {
        Some(_) => Ok(()),
        None => Err(Verdict::OtherAddress),
    }
}

/// To the socket of the frame's receive queue; where there is none, to the kernel.
#[inline(always)]
fn redirect(context: &XdpContext) -> (u32, Verdict) {
    // The flags hold the action for want of a socket, and that is what comes back as the error.
    match RS_SOCKETS.redirect(context.rx_queue_index(), u64::from(xdp_action::XDP_PASS)) {
        Ok(action) => (action, Verdict::Redirected),
        Err(action) => (action, Verdict::NoSocket),
    }
}

/// The frame's bytes, by the pointers that the kernel handed over.
struct Packet<'a> {
    context: &'a XdpContext,
    start: usize,
    end: usize,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    fn of(context: &'a XdpContext) -> Self {
        Self {
            context,
            start: context.data(),
            end: context.data_end(),
        }
    }
}

/// An offset beyond any frame. The verifier follows a variable offset only below 2¹⁶.
const OFFSET_LIMIT: usize = 0xffff;

impl Frame for Packet<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > OFFSET_LIMIT - N || self.start + offset + N > self.end {
            return None;
        }
        // SAFETY: the `N` bytes end before `end`, and the packet is mapped between `start` and
        // `end` for as long as the program runs.
        Some(unsafe { *((self.start + offset) as *const [u8; N]) })
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        // Read anew, so that the compiler cannot conclude from this answer that a later `read` is
        // within bounds and leave its check out: the verifier would not come to that conclusion.
        // SAFETY: the kernel's context is valid for as long as the program runs.
        let end = unsafe { (&raw const (*self.context.ctx).data_end).read_volatile() };
        // Bounded by a mask that the compiler takes for needed, since it cannot see through the
        // read: the verifier of Linux 6.1 knows no bounds of a byte-swapped number, and refuses to
        // add one to a packet pointer. No length comes near the mask.
        // SAFETY: reads a local variable.
        let length = unsafe { (&raw const length).read_volatile() } & 0x1_ffff;
        self.start + length <= end as usize || self.holds_in_all(length)
    }
}

impl Packet<'_> {
    /// Whether all buffers of the frame together have `length` bytes, and may be looked at. Asked
    /// for no frame of one buffer that is whole.
    #[inline(always)]
    fn holds_in_all(&self, length: usize) -> bool {
        RS_SETTINGS.get(maps::SETTING_MULTI_BUFFER) == Some(&1)
            // SAFETY: the kernel's context is valid for as long as the program runs.
            && length as u64 <= unsafe { bpf_xdp_get_buff_len(self.context.ctx) }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse a program that loops.
    loop {}
}
