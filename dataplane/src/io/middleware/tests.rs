//! Middleware around the memory driver.

use std::net::SocketAddr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::pcap::tests::Memory;
use super::*;
use crate::engine::port::{
    Ecn, InnerRx, InnerTx, MAX_BATCH, OuterRx, OuterTx, Pollable, Sent, TxRequest,
};
use crate::io::DatagramSender;
use crate::io::memory::{inner_port, outer_link};
use crate::mesh::Endpoint;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51820))
}

fn send(tx: &mut impl OuterTx, to: SocketAddr, marks: &[u8]) -> Sent {
    let requests: Vec<_> = marks
        .iter()
        .map(|_| TxRequest {
            to: Endpoint::from(to),
            len: 20,
            tos: 2,
        })
        .collect();
    tx.send_batch(&requests, &mut |slots| {
        for slot in slots {
            slot.buffer.fill(marks[slot.request]);
        }
    })
}

fn marks(rx: &mut impl OuterRx) -> Vec<u8> {
    let mut marks = Vec::new();
    let count = rx
        .recv_batch(&mut |batch| {
            assert!(batch.len() <= MAX_BATCH);
            for datagram in batch {
                assert_eq!(datagram.payload.len(), 20);
                assert_eq!(datagram.ecn, Ecn::Ect0);
                assert_eq!(datagram.from.remote, address(1));
                marks.push(datagram.payload[0]);
            }
        })
        .unwrap();
    assert_eq!(count, marks.len());
    marks
}

fn readable(port: &impl Pollable) -> bool {
    let mut ready = false;
    port.poll_fds(&mut |fd| {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        ready |= poll(&mut fds, Some(&now)).unwrap() > 0;
    });
    ready
}

#[test]
fn faults_on_the_way_in() {
    let (mut a, b) = outer_link(address(1), address(2)).unwrap();
    let plan = FaultPlan {
        delay: 1.0,
        delay_packets: 4,
        ..FaultPlan::default()
    };
    let mut rx = FaultInjector::new(b.rx, plan).unwrap();
    let _ = send(&mut a.tx, address(2), &[0, 1, 2, 3, 4, 5]);
    assert_eq!(marks(&mut rx), [0, 1]);
    // The rest comes by calling on, to which the port invites.
    let mut late = Vec::new();
    while readable(&rx) {
        late.extend(marks(&mut rx));
    }
    assert_eq!(late, [2, 3, 4, 5]);
    assert!(rx.statistics().contains(&("fault_delayed", 6)));
    assert!(rx.info().mode.ends_with("with injected faults"));
}

#[test]
fn faults_on_the_way_out() {
    let (a, mut b) = outer_link(address(1), address(2)).unwrap();
    let plan = FaultPlan {
        duplicate: 1.0,
        ..FaultPlan::default()
    };
    let mut tx = FaultInjector::new(a.tx, plan).unwrap();
    assert!(tx.reaches(&Endpoint::from(address(2))));
    assert!(!tx.reaches(&Endpoint::from(address(9))));
    let sent = send(&mut tx, address(2), &[1, 2]);
    assert_eq!((sent.accepted, sent.dropped), (2, 0));
    assert_eq!(marks(&mut b.rx), [1, 1, 2, 2]);
    let sent = send(&mut tx, address(9), &[1, 2]);
    assert_eq!((sent.accepted, sent.dropped), (0, 2));
    let sent = send(&mut tx, address(2), &[7; MAX_BATCH + 1]);
    assert_eq!((sent.accepted, sent.dropped), (MAX_BATCH, 1));
    assert_eq!(
        marks(&mut b.rx).len() + marks(&mut b.rx).len(),
        2 * MAX_BATCH
    );
}

#[test]
fn faults_on_inner_packets() {
    let (rx, tx, user) = inner_port(64).unwrap();
    let plan = FaultPlan {
        seed: 1,
        corrupt: 1.0,
        ..FaultPlan::default()
    };
    let mut rx = FaultInjector::new(rx, plan).unwrap();
    let mut tx = FaultInjector::new(tx, plan).unwrap();
    let wrong_bits = |data: &[u8]| data.iter().map(|byte| byte.count_ones()).sum::<u32>();

    assert!(user.send(&[0; 100]));
    let mut seen = 0;
    rx.recv_batch(&mut |batch| seen = wrong_bits(batch[0].data))
        .unwrap();
    assert_eq!(seen, 1);
    let sent = tx.send_batch(&[&[0; 100], &[0; 100]]);
    assert_eq!((sent.accepted, sent.dropped), (2, 0));
    assert_eq!(user.receive(wrong_bits), Some(1));

    let lossy = FaultPlan {
        drop: 1.0,
        ..FaultPlan::default()
    };
    let mut rx = FaultInjector::new(rx, lossy).unwrap();
    assert!(user.send(&[0; 100]));
    assert_eq!(rx.recv_batch(&mut |_| unreachable!()).unwrap(), 0);
}

#[test]
fn a_tap_records_both_directions_and_changes_nothing() {
    let memory = Memory::default();
    let capture = Capture::new(memory.clone()).unwrap();
    let (a, b) = outer_link(address(1), address(2)).unwrap();
    let mut tx = PcapTap::outer(a.tx, capture.clone(), 51820);
    let mut rx = PcapTap::outer(b.rx, capture.clone(), 51820);
    let _ = send(&mut tx, address(2), &[5]);
    assert_eq!(marks(&mut rx), [5]);

    let (inner_rx, inner_tx, user) = inner_port(8).unwrap();
    let mut inner_rx = PcapTap::inner(inner_rx, capture.clone());
    let mut inner_tx = PcapTap::inner(inner_tx, capture);
    let sent = inner_tx.send_batch(&[b"\x45out"]);
    assert_eq!(sent.accepted, 1);
    assert_eq!(user.receive(<[u8]>::to_vec), Some(b"\x45out".to_vec()));
    assert!(user.send(b"\x60in"));
    assert_eq!(inner_rx.recv_batch(&mut |_| ()).unwrap(), 1);

    let [sent, received, out, into] = <[_; 4]>::try_from(memory.records()).unwrap();
    // The transmitter's endpoint names no source.
    assert_eq!(sent[12..20], [0, 0, 0, 0, 192, 0, 2, 2]);
    assert_eq!(received[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
    assert_eq!((sent[1], received[1]), (2, 2), "ECN");
    assert_eq!((&sent[28..], &received[28..]), (&[5; 20][..], &[5; 20][..]));
    assert_eq!((out, into), (b"\x45out".to_vec(), b"\x60in".to_vec()));
    assert!(rx.info().mode.ends_with("captured"));
}

/// A tap outside an injector sees what the injector leaves over, one inside what it is given.
#[test]
fn middleware_stacks() {
    let (outside, inside) = (Memory::default(), Memory::default());
    let (a, b) = outer_link(address(1), address(2)).unwrap();
    let rx = PcapTap::outer(b.rx, Capture::new(inside.clone()).unwrap(), 51820);
    let plan = FaultPlan {
        drop: 1.0,
        ..FaultPlan::default()
    };
    let rx = FaultInjector::new(rx, plan).unwrap();
    let mut rx = PcapTap::outer(rx, Capture::new(outside.clone()).unwrap(), 51820);
    a.sender()
        .send(&Endpoint::from(address(2)), 0, b"lost")
        .unwrap();
    assert!(readable(&rx));
    assert_eq!(rx.recv_batch(&mut |_| unreachable!()).unwrap(), 0);
    assert_eq!((inside.records().len(), outside.records().len()), (1, 0));
}
