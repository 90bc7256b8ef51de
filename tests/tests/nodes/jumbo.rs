//! Nodes with an inner MTU of 8920 on a link of 9000: the outer datagrams take AF_XDP frames of
//! several buffers.

use std::error::Error;
use std::time::Instant;

use ringspan::runtime::wishes::XdpSend;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options as PingOptions, ping};
use ringspan_tests::traffic::tcp;

use super::{NEEDS, Node, OUTER, PATIENCE, TUNNEL, clean_end, seen, statistic};

const LINK: u32 = 9000;
const MTU: u16 = 8920;
/// Bytes of TCP each way: some thousand packets of full size.
const TRANSFER: u64 = 16 << 20;

pub(super) fn add(mut suite: Suite) -> Suite {
    let needs = [&NEEDS[..], &[Need::Linux(6, 6)]].concat();
    let xdp = || Outer::xdp(OUTER);
    let udp = || Outer::udp();
    let generic = || Outer::xdp(OUTER).generic_only();
    let receive = || Outer::xdp(OUTER).send(XdpSend::ReceiveOnly);
    type Make = fn() -> Outer;
    let pairs: [(&str, Make, Make, u32); 5] = [
        ("xdp", xdp, xdp, 1),
        ("xdp_on_three_queues", xdp, xdp, 3),
        ("xdp_beside_udp", xdp, udp, 1),
        ("xdp_generic", generic, xdp, 1),
        ("xdp_in_udp_out", receive, receive, 1),
    ];
    for (name, a, b, queues) in pairs {
        for (outside, family) in [("ipv4", 0), ("ipv6", 1)] {
            suite = suite.test(
                format!("jumbo_{name}_over_{outside}_carries_traffic"),
                &needs,
                move || carries_traffic([a(), b()], family, queues),
            );
        }
    }
    suite
        .test("auto_takes_xdp_for_jumbos", &needs, auto_takes_xdp)
        .test(
            "auto_takes_udp_where_jumbos_do_not_fit",
            &needs,
            auto_takes_udp,
        )
}

fn link(mtu: u32, queues: u32) -> Result<[Namespace; 2], Box<dyn Error>> {
    let ends = [Namespace::new("node a")?, Namespace::new("node b")?];
    let veth = Veth { queues, mtu };
    veth.join(&ends[0], OUTER, &ends[1], OUTER)?;
    Ok(ends)
}

fn carries_traffic(outer: [Outer; 2], family: usize, queues: u32) -> TestResult {
    let [a, b] = link(LINK, queues)?;
    let [outer_a, outer_b] = outer;
    let a = Node::start_with(a, 1, outer_a, Inner::tun(TUNNEL).mtu(MTU))?;
    let b = Node::start_with(b, 2, outer_b, Inner::tun(TUNNEL).mtu(MTU))?;
    a.plane.control().apply(&[b.spec(family)])?;
    b.plane.control().apply(&[a.spec(family)])?;

    for inner in 0..2 {
        for (from, to) in [(&a, &b), (&b, &a)] {
            // Small ones, all that changes the number of chunks, and what fills the MTU.
            let full = usize::from(MTU) - if inner == 0 { 28 } else { 48 };
            for size in [56, 1400, 3600, 3800, 3900, 7600, 7700, full - 1, full] {
                let options = PingOptions {
                    size,
                    ..PingOptions::default()
                };
                let pings = from.namespace.run(|| ping(to.inner[inner], options))?;
                assert!(pings.all_answered(), "{size} bytes: {pings:?}");
            }
        }
        let server = b.namespace.run(|| tcp::Server::start(b.inner[inner]))?;
        let transfer = a
            .namespace
            .run(|| tcp::transfer(server.address(), TRANSFER, TRANSFER, PATIENCE, |_| true))
            .map_err(|error| format!("{error}\na: {}\nb: {}", seen(&a.plane), seen(&b.plane)))?;
        assert_eq!(
            (transfer.uploaded, transfer.downloaded),
            (TRANSFER, TRANSFER)
        );
    }
    for node in [&a, &b] {
        used_several_buffers(&node.plane);
        every_frame_is_found(&node.plane)?;
    }
    let (a, b) = (clean_end(a)?, clean_end(b)?);
    drop((a, b));
    Ok(())
}

/// That AF_XDP, where it is there, carried what is larger than a chunk.
fn used_several_buffers(plane: &Dataplane) {
    for (port, name) in [("outer rx", "rx_gathered"), ("outer tx", "tx_multi_buffer")] {
        let xdp: Vec<_> = plane
            .drivers()
            .into_iter()
            .filter(|report| report.port == port && report.info.driver == "xdp")
            .collect();
        if xdp.is_empty() {
            continue;
        }
        for report in &xdp {
            assert!(report.info.mode.contains("multi-buffer"), "{report:?}");
        }
        // Two transfers of 16 MiB each way in packets of 8920 bytes.
        let count = statistic(plane, port, "xdp", name);
        assert!(count > 3000, "{name} is {count}: {}", seen(plane));
    }
}

/// That none of AF_XDP's frames is lost once it is quiet.
fn every_frame_is_found(plane: &Dataplane) -> TestResult {
    let receivers = plane
        .drivers()
        .iter()
        .filter(|report| report.port == "outer rx" && report.info.driver == "xdp")
        .count() as u64;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rx = |name| statistic(plane, "outer rx", "xdp", name);
        let tx = |name| statistic(plane, "outer tx", "xdp", name);
        // The kernel may have taken one frame ahead for each queue.
        let received = rx("rx_frames") - rx("rx_frames_fill_ring") <= receivers;
        let sent = tx("tx_frames") == tx("tx_frames_free");
        if received && sent {
            assert_eq!(rx("rx_broken_chains") + rx("rx_foreign_descs"), 0);
            assert_eq!(tx("tx_invalid_descs") + tx("tx_foreign_descs"), 0);
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("frames are missing: {}", seen(plane)).into());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The outer drivers and the notes of a node of `mtu` that chooses by itself on a link of `link`.
fn chosen(link_mtu: u32, mtu: u16) -> Result<(Vec<&'static str>, String), Box<dyn Error>> {
    let [a, _b] = link(link_mtu, 1)?;
    let node = Node::start_with(a, 1, Outer::auto(OUTER), Inner::tun(TUNNEL).mtu(mtu))?;
    let receivers = node.plane.drivers().into_iter();
    let mut receivers: Vec<_> = receivers
        .filter(|report| report.port == "outer rx")
        .map(|report| report.info.driver)
        .collect();
    receivers.sort_unstable();
    let notes = node.plane.notes().join("; ");
    node.plane.shutdown()?;
    Ok((receivers, notes))
}

fn auto_takes_xdp() -> TestResult {
    let (receivers, notes) = chosen(LINK, MTU)?;
    assert_eq!(receivers, ["udp", "xdp"], "{notes}");
    Ok(())
}

fn auto_takes_udp() -> TestResult {
    let (receivers, notes) = chosen(1500, MTU)?;
    assert_eq!(receivers, ["udp"], "{notes}");
    assert!(
        notes.contains("MTU 1500") && notes.contains("8952"),
        "{notes}"
    );
    Ok(())
}
