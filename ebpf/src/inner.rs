//! The program of an inner interface: packets for the tunnel to its AF_XDP sockets, everything
//! else to the kernel.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use ringspan_xdp_common::{Verdict, inner, maps};

use crate::{Packet, RS_ADDRESSES, RS_SETTINGS, count, redirect};

/// Without `frags`: the interface's other end then sends no frame of more than one buffer, which
/// no socket could take whole.
#[xdp]
pub fn ringspan_inner(context: XdpContext) -> u32 {
    let (action, verdict) = match steer(&context) {
        Ok(()) => redirect(&context),
        Err(verdict) => (xdp_action::XDP_PASS, verdict),
    };
    count(verdict);
    action
}

/// Whether the frame is the tunnel's; the verdict if it is not.
#[inline(always)]
fn steer(context: &XdpContext) -> Result<(), Verdict> {
    let [high, low] = maps::SETTING_MAC;
    let (Some(&high), Some(&low)) = (RS_SETTINGS.get(high), RS_SETTINGS.get(low)) else {
        return Err(Verdict::Malformed);
    };
    let destination = inner::destination(&Packet::of(context), maps::settings_mac([high, low]))?;
    // What is addressed to this machine is the kernel's.
    if RS_SETTINGS.get(maps::SETTING_ANY_ADDRESS) != Some(&1)
        && RS_ADDRESSES.get_ptr(destination).is_some()
    {
        return Err(Verdict::OtherAddress);
    }
    Ok(())
}
