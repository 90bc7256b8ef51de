//! The program of an inner interface: what is the tunnel's, and what stays the kernel's.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ringspan::io::xdp::program::LocalAddresses;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use ringspan_xdp_common::Verdict;
use ringspan_xdp_common::builder::FrameBuilder;
use ringspan_xdp_common::inner::destination;
use rustix::net::{AddressFamily, SocketType, socket};

use super::verdicts::XDP_PASS;
use super::{count, load_inner};

pub(super) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test(
            "inner_frames_stay_without_a_socket",
            needs,
            without_a_socket,
        )
        .test(
            "inner_decisions_are_user_spaces",
            needs,
            as_user_space_decides,
        )
}

/// A frame to `to`, from some other host, and the hardware address that it is sent to.
fn frame(to: IpAddr) -> (Vec<u8>, [u8; 6]) {
    let from: IpAddr = match to {
        IpAddr::V4(_) => [10, 8, 0, 2].into(),
        IpAddr::V6(_) => [0xfd08, 0, 0, 0, 0, 0, 0, 2].into(),
    };
    let frame = FrameBuilder::new((from, 4000).into(), (to, 53).into(), b"a query").build();
    let mac = *frame.first_chunk().expect("an Ethernet header");
    (frame, mac)
}

fn addresses() -> Result<Vec<IpAddr>, std::net::AddrParseError> {
    [
        "10.7.0.9",
        "10.8.0.1",
        "224.0.0.5",
        "169.254.1.1",
        "fd07::9",
        "fd08::1",
        "ff02::1",
        "fe80::1",
    ]
    .iter()
    .map(|text| text.parse())
    .collect()
}

fn without_a_socket() -> TestResult {
    let (frame, mac) = frame("10.7.0.9".parse()?);
    let mut program = load_inner(mac)?;
    assert_eq!(program.test_run(&frame)?, XDP_PASS);
    assert_eq!(count(&program, Verdict::NoSocket)?, 1);
    // Only a bound AF_XDP socket may be registered.
    let other = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    assert!(program.register(0, other.as_fd()).is_err());
    Ok(())
}

/// Frame by frame, also damaged in every byte of the headers and cut at every length.
fn as_user_space_decides() -> TestResult {
    let own: IpAddr = "10.8.0.1".parse()?;
    let own6: IpAddr = "fd08::1".parse()?;
    for address in addresses()? {
        let (whole, mac) = frame(address);
        let mut program = load_inner(mac)?;
        program.set_addresses(LocalAddresses::Only(&[own, own6]))?;
        let mut frames = vec![whole.clone()];
        frames.extend((14..whole.len()).map(|length| whole[..length].to_vec()));
        for at in 0..whole.len().min(60) {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut frame = whole.clone();
                frame[at] ^= change;
                frames.push(frame);
            }
        }
        for frame in frames {
            let expected = match destination(&frame[..], mac) {
                Ok(key)
                    if [own, own6]
                        .map(ringspan_xdp_common::maps::address_key)
                        .contains(&key) =>
                {
                    Verdict::OtherAddress
                }
                // Ours, if there were a socket.
                Ok(_) => Verdict::NoSocket,
                Err(verdict) => verdict,
            };
            let before = count(&program, expected)?;
            assert_eq!(program.test_run(&frame)?, XDP_PASS);
            assert_eq!(
                count(&program, expected)?,
                before + 1,
                "{expected:?}: {frame:x?}"
            );
        }
    }
    Ok(())
}
