//! The program in the kernel against the decoder in user space: the same frames, the same
//! verdicts.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use ringspan::io::xdp::program::{LocalAddresses, XdpProgram};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use ringspan_xdp_common::builder::FrameBuilder;
use ringspan_xdp_common::{UdpFrame, Verdict};

use super::verdicts::XDP_PASS;
use super::{PORT, load};

pub(super) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test("same_verdict_as_user_space", needs, same_verdict)
        .test(
            "same_verdict_on_jumbo_frames",
            needs,
            same_verdict_on_jumbo_frames,
        )
        .test(
            "same_verdict_on_random_bytes",
            needs,
            same_verdict_on_random_bytes,
        )
}

const OURS: [u16; 2] = [PORT, 443];

fn our_addresses() -> [IpAddr; 2] {
    [[192, 0, 2, 2].into(), [0x20; 16].into()]
}

/// What the program must decide, by the decoder of user space.
fn expected(frame: &[u8]) -> Verdict {
    match UdpFrame::parse(frame) {
        Err(reason) => reason.into(),
        Ok(frame) if !OURS.contains(&frame.destination.port()) => Verdict::OtherPort,
        Ok(frame) if !our_addresses().contains(&frame.destination.ip()) => Verdict::OtherAddress,
        Ok(_) => Verdict::NoSocket,
    }
}

prop_compose! {
    fn address(v6: bool)(
        ours in any::<bool>(),
        near in any::<u8>(),
        port in prop_oneof![Just(PORT), Just(443), any::<u16>()],
    ) -> SocketAddr {
        let ip = match (our_addresses()[usize::from(v6)], ours) {
            (ip, true) => ip,
            (IpAddr::V4(_), false) => [192, 0, 2, near].into(),
            (IpAddr::V6(_), false) => {
                let mut octets = [0x20; 16];
                octets[15] = near;
                octets.into()
            }
        };
        (ip, port).into()
    }
}

prop_compose! {
    fn frame(least: usize, most: usize)(v6 in any::<bool>())(
        source in address(v6),
        destination in address(v6),
        tags in vec(any::<u16>(), 0..=3),
        option_words in 0_usize..=10,
        fragment in prop_oneof![8 => Just(0x4000), 1 => any::<u16>()],
        protocol in prop_oneof![8 => Just(17), 1 => any::<u8>()],
        payload in vec(any::<u8>(), least..most),
        padding in 0_usize..20,
        ip_length_error in prop_oneof![8 => Just(0), 1 => 0_u16..40, 1 => any::<u16>()],
        udp_length_error in prop_oneof![8 => Just(0), 1 => 0_u16..40, 1 => any::<u16>()],
        damage in vec((0_usize..70, any::<u8>()), 0..3),
        cut in prop_oneof![4 => Just(0_usize), 1 => 0_usize..80],
    ) -> Vec<u8> {
        let builder = FrameBuilder {
            options: vec![1; option_words * 4],
            fragment,
            protocol,
            padding,
            ip_length_error,
            udp_length_error,
            ..FrameBuilder::new(source, destination, &payload)
        };
        let mut bytes = tags.into_iter().fold(builder, FrameBuilder::tag).build();
        for (place, value) in damage {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        // BPF_PROG_RUN takes no less than an Ethernet header.
        let length = bytes.len().saturating_sub(cut).max(14);
        bytes.truncate(length);
        bytes
    }
}

/// Runs every frame of `frames` through both; returns how often each verdict came up.
fn compare(cases: u32, frames: impl Strategy<Value = Vec<u8>>) -> Result<[u64; 7], String> {
    let program = prepared().map_err(|error| error.to_string())?;
    let program = std::cell::RefCell::new(program);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&frames, |frame| {
            let program = &mut *program.borrow_mut();
            let failed = |error| TestCaseError::fail(format!("{error}"));
            let before = program.counters().map_err(failed)?;
            let action = program.test_run(&frame).map_err(failed)?;
            let after = program.counters().map_err(failed)?;
            prop_assert_eq!(action, XDP_PASS);
            let raised: Vec<_> = before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before.1 != after.1)
                .map(|(before, _)| before.0)
                .collect();
            prop_assert_eq!(raised, [expected(&frame).name()]);
            Ok(())
        })
        .map_err(|error| error.to_string())?;
    let counters = program
        .borrow()
        .counters()
        .map_err(|error| error.to_string())?;
    Ok(counters.map(|(_, count)| count))
}

fn prepared() -> Result<XdpProgram, Box<dyn std::error::Error>> {
    let mut program = load(&OURS)?;
    program.set_addresses(LocalAddresses::Only(&our_addresses()))?;
    program.set_multi_buffer(true)?;
    Ok(program)
}

fn same_verdict() -> TestResult {
    come_to_every_verdict(compare(4000, frame(0, 100))?);
    Ok(())
}

/// Frames of one buffer and of two or three.
fn same_verdict_on_jumbo_frames() -> TestResult {
    come_to_every_verdict(compare(1000, frame(2800, 9000))?);
    Ok(())
}

fn come_to_every_verdict(counts: [u64; 7]) {
    // The frames are of use only if they come to every verdict that there is without a socket.
    for verdict in Verdict::ALL {
        let count = counts[verdict.index() as usize];
        assert!(
            verdict == Verdict::Redirected || count > 10,
            "only {count} frames were {verdict:?}"
        );
    }
}

fn same_verdict_on_random_bytes() -> TestResult {
    // Random bytes behind an EtherType and a version that let them get somewhere.
    let frames = (vec(any::<u8>(), 24..200), any::<bool>()).prop_map(|(mut bytes, v6)| {
        let (ether_type, version) = if v6 {
            (0x86dd_u16, 0x60)
        } else {
            (0x0800, 0x45)
        };
        bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
        bytes[14] = version;
        bytes[if v6 { 20 } else { 23 }] = 17;
        bytes
    });
    compare(2000, frames)?;
    Ok(())
}
