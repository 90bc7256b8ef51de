use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51820))
}

fn request(to: SocketAddr, len: usize) -> TxRequest {
    TxRequest {
        to: Endpoint::from(to),
        len,
        tos: 0,
    }
}

/// Sends one datagram for each byte of `marks`: its only content.
fn send(tx: &mut MemoryOuterTx, to: SocketAddr, marks: &[u8]) -> Sent {
    let requests = vec![request(to, 1); marks.len()];
    tx.send_batch(&requests, &mut |slots| {
        for slot in slots {
            slot.buffer[0] = marks[slot.request];
        }
    })
}

fn receive(rx: &mut MemoryOuterRx) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    let count = rx
        .recv_batch(&mut |batch| {
            for datagram in batch {
                all.push((datagram.from.remote, datagram.payload.to_vec()));
            }
        })
        .unwrap();
    assert_eq!(count, all.len());
    all
}

fn readable(rx: &MemoryOuterRx) -> bool {
    let mut ready = false;
    rx.poll_fds(&mut |fd| {
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
fn carries_datagrams_in_order_both_ways() {
    let (mut a, mut b) = outer_link(address(1), address(2)).unwrap();
    let sent = send(&mut a.tx, address(2), &[1, 2, 3]);
    assert_eq!((sent.accepted, sent.dropped), (3, 0));
    let marks: Vec<_> = receive(&mut b.rx);
    let from_a = |mark| (address(1), vec![mark]);
    assert_eq!(marks, [from_a(1), from_a(2), from_a(3)]);

    let _ = send(&mut b.tx, address(1), &[9]);
    assert_eq!(receive(&mut a.rx), [(address(2), vec![9])]);
    assert!(receive(&mut a.rx).is_empty());
}

#[test]
fn ecn_and_local_address_arrive() {
    let (a, mut b) = outer_link(address(1), address(2)).unwrap();
    a.sender()
        .send(&Endpoint::from(address(2)), 0x8b, b"hello")
        .unwrap();
    let mut seen = None;
    b.rx.recv_batch(&mut |batch| seen = Some((batch[0].ecn, batch[0].from)))
        .unwrap();
    let (ecn, from) = seen.unwrap();
    assert_eq!(ecn, Ecn::Ce);
    assert_eq!(from.local, Some(address(2).ip()));
    assert_eq!(from.remote, address(1));
}

#[test]
fn readable_exactly_while_something_waits() {
    let (mut a, mut b) = outer_link(address(1), address(2)).unwrap();
    assert!(!readable(&b.rx));
    for _ in 0..2 {
        let _ = send(&mut a.tx, address(2), &[0; MAX_BATCH]);
    }
    assert!(readable(&b.rx));
    assert_eq!(receive(&mut b.rx).len(), MAX_BATCH);
    assert!(readable(&b.rx), "half of it still waits");
    assert_eq!(receive(&mut b.rx).len(), MAX_BATCH);
    assert!(!readable(&b.rx));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let network = Network::new();
    let mut a = network.attach(address(1), 4).unwrap();
    let mut b = network.attach(address(2), 4).unwrap();
    let sent = send(&mut a.tx, address(2), &[1, 2, 3, 4, 5, 6]);
    assert_eq!((sent.accepted, sent.dropped), (4, 2));
    assert!(b.rx.statistics().contains(&("queue_full", 2)));
    assert_eq!(receive(&mut b.rx).len(), 4);
    let sent = send(&mut a.tx, address(2), &[7]);
    assert_eq!((sent.accepted, sent.dropped), (1, 0));
    assert_eq!(receive(&mut b.rx), [(address(1), vec![7])]);
}

#[test]
fn requests_beyond_a_batch_or_a_datagram_are_dropped() {
    let (mut a, _b) = outer_link(address(1), address(2)).unwrap();
    let mut requests = vec![request(address(2), 1); MAX_BATCH + 3];
    requests[0].len = MAX_DATAGRAM + 1;
    let mut shown = Vec::new();
    let sent = a.tx.send_batch(&requests, &mut |slots| {
        shown.extend(slots.iter().map(|slot| (slot.request, slot.buffer.len())));
    });
    assert_eq!((sent.accepted, sent.dropped), (MAX_BATCH - 1, 4));
    assert_eq!(shown.len(), MAX_BATCH - 1);
    assert!(shown.iter().all(|&(request, len)| request > 0 && len == 1));
}

#[test]
fn nobody_there() {
    let network = Network::new();
    let mut a = network.attach(address(1), 4).unwrap();
    assert!(!a.tx.reaches(&Endpoint::from(address(2))));
    assert_eq!(send(&mut a.tx, address(2), &[1]).dropped, 1);
    let refused = a.sender().send(&Endpoint::from(address(2)), 0, b"x");
    assert_eq!(
        refused.unwrap_err().kind(),
        io::ErrorKind::NetworkUnreachable
    );
    assert!(a.tx.statistics().contains(&("unroutable", 2)));
}

#[test]
fn an_address_is_taken_once_and_given_back() {
    let network = Network::new();
    let a = network.attach(address(1), 4).unwrap();
    let second = network.attach(address(1), 4);
    assert!(matches!(second, Err(AttachError::AddressTaken(taken)) if taken == address(1)));
    drop(a);
    assert!(network.attach(address(1), 4).is_ok());
}

#[test]
fn a_moved_end_sends_and_receives_at_its_new_address() {
    let (mut a, mut b) = outer_link(address(1), address(2)).unwrap();
    a.move_to(address(7)).unwrap();
    let _ = send(&mut a.tx, address(2), &[1]);
    assert_eq!(receive(&mut b.rx), [(address(7), vec![1])]);
    assert_eq!(send(&mut b.tx, address(1), &[2]).dropped, 1);
    assert_eq!(send(&mut b.tx, address(7), &[3]).accepted, 1);
    assert_eq!(receive(&mut a.rx), [(address(2), vec![3])]);
}

#[test]
fn a_longer_datagram_reuses_a_short_ones_buffer() {
    let network = Network::new();
    let a = network.attach(address(1), 1).unwrap();
    let mut b = network.attach(address(2), 1).unwrap();
    for len in [10, 1000, 3] {
        let datagram = vec![len as u8; len];
        a.sender()
            .send(&Endpoint::from(address(2)), 0, &datagram)
            .unwrap();
        assert_eq!(receive(&mut b.rx), [(address(1), datagram)]);
    }
}

#[test]
fn wakes_a_waiting_thread() {
    let (a, mut b) = outer_link(address(1), address(2)).unwrap();
    let waiter = std::thread::spawn(move || {
        b.rx.poll_fds(&mut |fd| {
            let limit = Timespec::try_from(Duration::from_secs(20)).unwrap();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
        });
        receive(&mut b.rx)
    });
    a.sender()
        .send(&Endpoint::from(address(2)), 0, b"wake")
        .unwrap();
    assert_eq!(waiter.join().unwrap(), [(address(1), b"wake".to_vec())]);
}
