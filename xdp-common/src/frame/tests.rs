//! The decoder against the builder: round trips, every refusal, and random bytes.

use std::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::builder::FrameBuilder;

fn v4() -> FrameBuilder {
    let source = "192.0.2.1:40000".parse().unwrap();
    let destination = "192.0.2.2:51820".parse().unwrap();
    FrameBuilder::new(source, destination, b"payload")
}

fn v6() -> FrameBuilder {
    let source = "[2001:db8::1]:40000".parse().unwrap();
    let destination = "[2001:db8::2]:51820".parse().unwrap();
    FrameBuilder::new(source, destination, b"payload")
}

fn refusal(frame: &FrameBuilder) -> NotADatagram {
    UdpFrame::parse(&frame.build()).expect_err("must be refused")
}

#[test]
fn fragments_are_named_as_such() {
    for fragment in [0x2000, 0x0001, 0x1fff, 0x2001] {
        let frame = FrameBuilder { fragment, ..v4() };
        assert_eq!(refusal(&frame), NotADatagram::Fragment, "{fragment:#x}");
    }
    for whole in [0x0000, 0x4000, 0x8000] {
        let frame = FrameBuilder {
            fragment: whole,
            ..v4()
        };
        assert!(UdpFrame::parse(&frame.build()).is_ok(), "{whole:#x}");
    }
}

#[test]
fn other_protocols_are_named_as_such() {
    // TCP, ICMP, GRE; for IPv6 also hop-by-hop options and the fragment header.
    for protocol in [6, 1, 47] {
        let frame = FrameBuilder { protocol, ..v4() };
        assert_eq!(refusal(&frame), NotADatagram::OtherProtocol);
    }
    for protocol in [6, 58, 0, 44] {
        let frame = FrameBuilder { protocol, ..v6() };
        assert_eq!(refusal(&frame), NotADatagram::OtherProtocol);
    }
    let mut arp = v4().build();
    arp[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
    assert_eq!(UdpFrame::parse(&arp), Err(NotADatagram::OtherProtocol));
    let three_tags = v4().tag(1).tag(2).tag(3);
    assert_eq!(refusal(&three_tags), NotADatagram::OtherProtocol);
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    for frame in [v4(), v6()] {
        let wrong = [
            // The IP packet claims more than the frame has: a card cut it short.
            FrameBuilder {
                ip_length_error: 1,
                ..frame.clone()
            },
            // The IP packet ends inside the UDP payload, or before the UDP header does.
            FrameBuilder {
                ip_length_error: 0_u16.wrapping_sub(1),
                ..frame.clone()
            },
            FrameBuilder {
                ip_length_error: 0_u16.wrapping_sub(8),
                ..frame.clone()
            },
            // UDP claims more than IP has, or less than its own header.
            FrameBuilder {
                udp_length_error: 1,
                ..frame.clone()
            },
            FrameBuilder {
                udp_length_error: 0_u16.wrapping_sub(8),
                ..frame.clone()
            },
            FrameBuilder {
                udp_length_error: 0_u16.wrapping_sub(15),
                ..frame
            },
        ];
        for frame in wrong {
            assert_eq!(refusal(&frame), NotADatagram::Malformed, "{frame:?}");
        }
    }
}

#[test]
fn a_header_of_the_wrong_version_or_too_short_is_malformed() {
    for first in [0x65, 0x55, 0x05, 0x44, 0x40] {
        let mut frame = v4().build();
        frame[14] = first;
        assert_eq!(
            UdpFrame::parse(&frame),
            Err(NotADatagram::Malformed),
            "{first:#x}"
        );
    }
    let mut frame = v6().build();
    frame[14] = 0x45;
    assert_eq!(UdpFrame::parse(&frame), Err(NotADatagram::Malformed));
}

#[test]
fn udp_may_be_shorter_than_ip_says() {
    let frame = FrameBuilder {
        udp_length_error: 0_u16.wrapping_sub(3),
        ..v4()
    };
    let parsed = UdpFrame::parse(&frame.build()).unwrap();
    assert_eq!(parsed.payload.len(), frame.payload.len() - 3);
}

#[test]
fn the_largest_datagram_fits() {
    let frame = FrameBuilder {
        payload: std::vec![7; 65507],
        ..v4()
    };
    assert_eq!(UdpFrame::parse(&frame.build()), Ok(frame.parsed()));
    let frame = FrameBuilder {
        payload: std::vec![7; 65527],
        ..v6()
    };
    assert_eq!(UdpFrame::parse(&frame.build()), Ok(frame.parsed()));
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<([u8; 4], u16, [u8; 4], u16)>()
        .prop_map(|(s, sp, d, dp)| ((s, sp).into(), (d, dp).into()));
    let v6 = any::<([u8; 16], u16, [u8; 16], u16)>()
        .prop_map(|(s, sp, d, dp)| ((s, sp).into(), (d, dp).into()));
    prop_oneof![v4, v6]
}

prop_compose! {
    /// Any frame that is right in every field.
    fn well_formed()(
        (source, destination) in addresses(),
        macs in any::<([u8; 6], [u8; 6])>(),
        tags in vec(any::<u16>(), 0..=2),
        tos in any::<u8>(),
        option_words in 0_usize..=10,
        fragment in prop_oneof![Just(0x4000), Just(0), Just(0x8000)],
        payload in vec(any::<u8>(), 0..200),
        padding in 0_usize..64,
    ) -> FrameBuilder {
        let frame = FrameBuilder {
            destination_mac: macs.0,
            source_mac: macs.1,
            tos,
            options: if source.is_ipv4() { std::vec![1; option_words * 4] } else { Vec::new() },
            fragment,
            padding,
            ..FrameBuilder::new(source, destination, &payload)
        };
        tags.into_iter().fold(frame, FrameBuilder::tag)
    }
}

proptest! {
    #[test]
    fn what_is_built_is_parsed(frame in well_formed()) {
        let bytes = frame.build();
        let parsed = UdpFrame::parse(&bytes);
        prop_assert_eq!(parsed.as_ref(), Ok(&frame.parsed()));
        prop_assert_eq!(&bytes[parsed.unwrap().payload], &frame.payload[..]);
    }

    #[test]
    fn a_frame_cut_anywhere_before_its_padding_is_refused(
        frame in well_formed(),
        cut in any::<prop::sample::Index>(),
    ) {
        let frame = FrameBuilder { padding: 0, ..frame };
        let mut bytes = frame.build();
        bytes.truncate(cut.index(bytes.len()));
        prop_assert_eq!(UdpFrame::parse(&bytes), Err(NotADatagram::Malformed));
    }

    #[test]
    fn random_bytes_never_panic_and_payloads_lie_within(bytes in vec(any::<u8>(), 0..256)) {
        if let Ok(parsed) = UdpFrame::parse(&bytes) {
            prop_assert!(parsed.payload.end <= bytes.len());
        }
    }

    #[test]
    fn damaged_frames_never_panic_and_payloads_lie_within(
        frame in well_formed(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = frame.build();
        for (place, value) in damage {
            let place = place.index(bytes.len().min(70));
            bytes[place] = value;
        }
        bytes.truncate(length.index(bytes.len()) + 1);
        if let Ok(parsed) = UdpFrame::parse(&bytes) {
            prop_assert!(parsed.payload.start <= parsed.payload.end);
            prop_assert!(parsed.payload.end <= bytes.len());
            let layout = Layout::of(&bytes[..]).unwrap();
            prop_assert_eq!(layout.destination_port, parsed.destination.port());
            prop_assert_eq!(
                layout.destination_key(&bytes[..]),
                Some(crate::maps::address_key(parsed.destination.ip()))
            );
        }
    }
}
