//! An Ethernet frame is taken apart by the code that the XDP program shares: what it finds lies
//! within the frame, and both of its views agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringspan_xdp_common::frame::{Layout, UdpFrame};

fuzz_target!(|frame: &[u8]| {
    let layout = Layout::of(frame);
    match UdpFrame::parse(frame) {
        Ok(parsed) => {
            let layout = layout.expect("a layout, where there is a datagram");
            assert!(frame.get(parsed.payload.clone()).is_some());
            assert_eq!(parsed.payload.len(), layout.payload_len);
            assert_eq!(parsed.destination.port(), layout.destination_port);
        }
        Err(error) => assert_eq!(layout.expect_err("an error, where there is none"), error),
    }
});
