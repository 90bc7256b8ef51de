//! Two bound ports over loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::engine::port::{Datagram, Ecn, MAX_BATCH, OuterRx, OuterTx, Pollable, Sent, TxRequest};
use crate::io::DatagramSender;
use crate::mesh::Endpoint;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn port() -> UdpPort {
    UdpPort::bind(&UdpConfig::default()).unwrap()
}

fn plain() -> UdpConfig {
    UdpConfig {
        gso: false,
        gro: false,
        ..UdpConfig::default()
    }
}

fn at(ip: IpAddr, port: &UdpPort) -> Endpoint {
    Endpoint::from(SocketAddr::new(ip, port.port()))
}

/// What a test wants to know about a received datagram.
#[derive(Debug, PartialEq)]
struct Arrival {
    payload: Vec<u8>,
    from: Endpoint,
    ecn: Ecn,
}

/// Waits for `count` datagrams; fails when they do not come.
fn receive(rx: &mut UdpRx, count: usize) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    while arrivals.len() < count {
        wait(rx);
        rx.recv_batch(&mut |batch: &mut [Datagram<'_>]| {
            assert!(batch.len() <= MAX_BATCH);
            arrivals.extend(batch.iter().map(|datagram| Arrival {
                payload: datagram.payload.to_vec(),
                from: datagram.from,
                ecn: datagram.ecn,
            }));
        })
        .unwrap();
    }
    assert_eq!(arrivals.len(), count);
    arrivals
}

fn wait(rx: &UdpRx) {
    let mut fds = Vec::new();
    rx.poll_fds(&mut |fd| fds.push(fd.try_clone_to_owned().unwrap()));
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    let patience = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert!(poll(&mut fds, Some(&patience)).unwrap() > 0, "nothing came");
}

/// Sends datagrams of the given lengths, each filled with its index.
fn send(tx: &mut UdpTx, to: &[Endpoint], lengths: &[usize], tos: u8) -> Sent {
    let requests: Vec<_> = lengths
        .iter()
        .zip(to.iter().cycle())
        .map(|(&len, &to)| TxRequest { to, len, tos })
        .collect();
    tx.send_batch(&requests, &mut |slots| {
        for slot in slots {
            assert_eq!(slot.buffer.len(), lengths[slot.request]);
            slot.buffer.fill(slot.request as u8);
        }
    })
}

fn sent(accepted: usize, dropped: usize) -> Sent {
    Sent { accepted, dropped }
}

fn count(statistics: &[(&str, u64)], name: &str) -> u64 {
    let found = statistics.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no statistic {name}")).1
}

#[test]
fn both_families_with_local_address_and_ecn() {
    let (a, b) = (port(), port());
    assert!(b.has_ipv6(), "this test needs IPv6 on loopback");
    let (mut tx, mut rx) = (a.tx(), b.rx());
    for (ip, tos, ecn) in [
        (V4, 0x02, Ecn::Ect0),
        (V6, 0x01, Ecn::Ect1),
        (V4, 0x8b, Ecn::Ce),
        (V6, 0x88, Ecn::NotEct),
    ] {
        assert_eq!(send(&mut tx, &[at(ip, &b)], &[200], tos), sent(1, 0));
        let [arrival] = <[_; 1]>::try_from(receive(&mut rx, 1)).unwrap();
        assert_eq!(arrival.payload, [0; 200]);
        assert_eq!(arrival.from.remote, SocketAddr::new(ip, a.port()));
        assert_eq!(arrival.from.local, Some(ip));
        assert_eq!(arrival.from.interface, 1, "loopback is interface 1");
        assert_eq!(arrival.ecn, ecn, "{ip}, {tos:#x}");
    }
}

#[test]
fn a_super_packet_is_one_message_each_way() {
    let (a, b) = (port(), port());
    let (mut tx, mut rx) = (a.tx(), b.rx());
    for ip in [V4, V6] {
        let mut lengths = [1452; 45];
        lengths[44] = 64;
        let before = count(&tx.statistics(), "tx_messages");
        assert_eq!(send(&mut tx, &[at(ip, &b)], &lengths, 2), sent(45, 0));
        assert_eq!(count(&tx.statistics(), "tx_messages"), before + 1);
        for (index, arrival) in receive(&mut rx, 45).iter().enumerate() {
            assert_eq!(arrival.payload, vec![index as u8; lengths[index]]);
            assert_eq!(arrival.ecn, Ecn::Ect0);
            assert_eq!(arrival.from.local, Some(ip));
        }
    }
    assert!(
        count(&rx.statistics(), "rx_messages") < 90,
        "GRO kept some together"
    );
    assert!(tx.info().mode.ends_with("gso"));
    assert!(rx.info().mode.ends_with("gro"));
}

#[test]
fn switched_off_offloads_stay_off() {
    let (a, b) = (
        UdpPort::bind(&plain()).unwrap(),
        UdpPort::bind(&plain()).unwrap(),
    );
    let (mut tx, mut rx) = (a.tx(), b.rx());
    assert_eq!(send(&mut tx, &[at(V4, &b)], &[500; 20], 0), sent(20, 0));
    assert_eq!(count(&tx.statistics(), "tx_messages"), 20);
    for (index, arrival) in receive(&mut rx, 20).iter().enumerate() {
        assert_eq!(arrival.payload, [index as u8; 500]);
    }
    assert_eq!(count(&rx.statistics(), "rx_messages"), 20);
    assert!(!tx.info().mode.contains("gso") && !rx.info().mode.contains("gro"));
}

#[test]
fn segmentation_that_fails_at_run_time_loses_nothing() {
    let (a, b) = (port(), port());
    let (mut tx, mut rx) = (a.tx(), b.rx());
    // What `EIO` from a device without checksum offload leads to.
    a.sockets
        .stop_gso(&std::io::Error::from_raw_os_error(libc::EIO));
    assert_eq!(send(&mut tx, &[at(V4, &b)], &[900; 30], 0), sent(30, 0));
    assert_eq!(count(&tx.statistics(), "tx_messages"), 30);
    assert_eq!(receive(&mut rx, 30).len(), 30);
    assert!(!tx.info().mode.contains("gso"));
}

#[test]
fn a_full_batch_of_long_datagrams_takes_several_rounds() {
    let (a, b) = (port(), port());
    let (mut tx, mut rx) = (a.tx(), b.rx());
    let lengths = [9000; 30];
    let mut rounds = 0;
    let requests = lengths.map(|len| TxRequest {
        to: at(V4, &b),
        len,
        tos: 0,
    });
    let result = tx.send_batch(&requests, &mut |slots| {
        rounds += 1;
        for slot in slots {
            slot.buffer.fill(slot.request as u8);
        }
    });
    assert_eq!(result, sent(30, 0));
    assert!(rounds > 1);
    for (index, arrival) in receive(&mut rx, 30).iter().enumerate() {
        assert_eq!(arrival.payload, [index as u8; 9000]);
    }
}

#[test]
fn families_and_peers_mixed_in_one_batch() {
    let (a, b, c) = (port(), port(), port());
    let (mut tx, mut to_b, mut to_c) = (a.tx(), b.rx(), c.rx());
    let to = [at(V4, &b), at(V6, &b), at(V4, &c)];
    assert_eq!(send(&mut tx, &to, &[300; 30], 0), sent(30, 0));
    let mut marks: Vec<u8> = receive(&mut to_b, 20)
        .iter()
        .map(|arrival| arrival.payload[0])
        .collect();
    marks.sort_unstable();
    assert!(marks.iter().all(|mark| mark % 3 != 2));
    let marks: Vec<u8> = receive(&mut to_c, 10)
        .iter()
        .map(|arrival| arrival.payload[0])
        .collect();
    assert_eq!(marks, [2, 5, 8, 11, 14, 17, 20, 23, 26, 29], "in order");
}

#[test]
fn too_many_and_too_long_requests_are_dropped() {
    let (a, b) = (port(), port());
    let mut tx = a.tx();
    let mut lengths = vec![32; MAX_BATCH + 5];
    lengths[3] = MAX_DATAGRAM + 1;
    assert_eq!(
        send(&mut tx, &[at(V4, &b)], &lengths, 0),
        sent(MAX_BATCH - 1, 6)
    );
    assert_eq!(count(&tx.statistics(), "tx_too_long"), 1);
    assert_eq!(receive(&mut b.rx(), MAX_BATCH - 1).len(), MAX_BATCH - 1);
}

/// Once a way to crash other implementations: a datagram larger than a receive slot.
#[test]
fn oversized_datagrams_are_counted_and_dropped() {
    for gro in [false, true] {
        let config = UdpConfig {
            gro,
            max_datagram: 2048,
            ..UdpConfig::default()
        };
        let (a, b) = (port(), UdpPort::bind(&config).unwrap());
        let (mut tx, mut rx) = (a.tx(), b.rx());
        for len in [MAX_DATAGRAM, 2049, 2048] {
            assert_eq!(send(&mut tx, &[at(V4, &b)], &[len], 0), sent(1, 0));
        }
        assert_eq!(receive(&mut rx, 1)[0].payload.len(), 2048);
        assert_eq!(count(&rx.statistics(), "rx_oversized"), 2, "gro {gro}");
    }
}

#[test]
fn the_source_address_sticks_while_it_is_ours() {
    let (a, b) = (port(), port());
    let (mut tx, mut rx) = (a.tx(), b.rx());
    let mut to = at(V4, &b);
    to.local = Some([127, 0, 0, 5].into());
    to.interface = 1;
    assert_eq!(send(&mut tx, &[to], &[10, 10], 0), sent(2, 0));
    a.sender().send(&to, 0, b"handshake").unwrap();
    for arrival in receive(&mut rx, 3) {
        assert_eq!(arrival.from.remote.ip(), IpAddr::from([127, 0, 0, 5]));
    }
    assert_eq!(count(&tx.statistics(), "tx_source_cleared"), 0);

    // An address of nobody's here: the kernel chooses another, nothing is lost.
    to.local = Some([203, 0, 113, 5].into());
    assert_eq!(send(&mut tx, &[to], &[10, 10], 0), sent(2, 0));
    a.sender().send(&to, 0, b"handshake").unwrap();
    for arrival in receive(&mut rx, 3) {
        assert_eq!(arrival.from.remote.ip(), V4);
    }
    assert_eq!(count(&tx.statistics(), "tx_source_cleared"), 1);
}

#[test]
fn what_the_kernel_refuses_is_counted_and_the_rest_goes() {
    let (a, b) = (port(), port());
    let (mut tx, mut rx) = (a.tx(), b.rx());
    // Port 0 is no destination: EINVAL.
    let nowhere = Endpoint::from(SocketAddr::new(V4, 0));
    let to = [nowhere, at(V4, &b)];
    assert_eq!(send(&mut tx, &to, &[50; 6], 0), sent(3, 3));
    assert_eq!(receive(&mut rx, 3).len(), 3);
    assert_eq!(count(&tx.statistics(), "tx_refused"), 3);
    assert!(a.sender().send(&nowhere, 0, b"x").is_err());

    // One such peer does not cost the others their segmentation.
    assert_eq!(send(&mut tx, &[nowhere], &[50; 6], 0), sent(0, 6));
    let before = count(&tx.statistics(), "tx_messages");
    assert_eq!(send(&mut tx, &[at(V4, &b)], &[50; 6], 0), sent(6, 0));
    assert_eq!(count(&tx.statistics(), "tx_messages"), before + 1);
    assert_eq!(receive(&mut rx, 6).len(), 6);
}

#[test]
fn a_taken_port_is_named() {
    let a = port();
    let config = UdpConfig {
        port: a.port(),
        ..UdpConfig::default()
    };
    let error = UdpPort::bind(&config).unwrap_err();
    assert!(matches!(error, BindError::PortTaken { port } if port == a.port()));
    drop(a);
    assert!(UdpPort::bind(&config).is_ok(), "closed with its last user");
}

#[test]
fn drivers_keep_the_port_open() {
    let a = port();
    let mut rx = a.rx();
    let to = at(V4, &a);
    drop(a);
    let b = port();
    b.sender().send(&to, 0, b"still there").unwrap();
    assert_eq!(receive(&mut rx, 1)[0].payload, b"still there");
}
