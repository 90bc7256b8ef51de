//! TX ring → veth → kernel socket, which verifies every checksum.

use std::net::SocketAddr;
use std::sync::Arc;

use ringspan::engine::port::{OuterTx, Sent, TxRequest};
use ringspan::io::xdp::path::Paths;
use ringspan::io::xdp::{Mode, PathKey, XdpTx};
use ringspan::mesh::Endpoint;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;

use crate::bed::{BOTH_MODES, Bed, FAMILIES, NEAR, PORT, payload, send};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test("datagrams_leave_intact", needs, datagrams_leave_intact)
        .test(
            "what_cannot_be_sent_is_dropped",
            needs,
            what_cannot_be_sent_is_dropped,
        )
        .test(
            "a_path_that_changes_is_followed",
            needs,
            a_path_that_changes_is_followed,
        )
}

fn datagrams_leave_intact() -> TestResult {
    for mode in BOTH_MODES {
        for ipv4_checksum in [true, false] {
            let bed = Bed::new(1)?;
            let mut config = bed.config(mode);
            if let Some(transmit) = &mut config.transmit {
                transmit.ipv4_checksum = ipv4_checksum;
            }
            let (_program, _rx, tx) = bed.open_one(&config)?;
            let mut tx = tx.ok_or("a sending half")?;
            for (near, far) in FAMILIES {
                let socket = bed.socket(far)?;
                let to = socket.local_addr()?;
                let largest = if to.is_ipv4() { 1472 } else { 1452 };
                let lengths = [0, 1, 32, 33, 148, 999, largest - 1, largest];
                let payloads: Vec<_> = lengths
                    .into_iter()
                    .enumerate()
                    .map(|(seed, length)| payload(seed as u32, length))
                    .collect();
                assert!(tx.reaches(&Endpoint::from(to)));
                let sent = send(&mut tx, to, 0x88, &payloads);
                assert_eq!((sent.accepted, sent.dropped), (payloads.len(), 0));
                for expected in &payloads {
                    let mut buffer = [0; 2048];
                    let (length, from) = socket.recv_from(&mut buffer)?;
                    assert_eq!(&buffer[..length], expected, "{mode} {far}");
                    assert_eq!(from, SocketAddr::new(near.parse()?, PORT));
                }
            }
        }
    }
    Ok(())
}

fn what_cannot_be_sent_is_dropped() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    let socket = bed.socket(FAMILIES[0].1)?;
    let reached = Endpoint::from(socket.local_addr()?);
    let unknown = Endpoint::from("10.9.0.77:1".parse::<SocketAddr>()?);
    assert!(!tx.reaches(&unknown));
    assert_eq!(bed.paths.next_wanted(), Some(PathKey::from(&unknown)));

    let request = |to, len| TxRequest { to, len, tos: 0 };
    let requests = [
        request(unknown, 10),
        request(reached, 4),
        request(reached, 1473),
        request(reached, 70_000),
        request(reached, 4),
    ];
    let mut shown = Vec::new();
    let sent = tx.send_batch(&requests, &mut |slots| {
        for slot in slots {
            shown.push(slot.request);
            slot.buffer
                .copy_from_slice(&(slot.request as u32).to_le_bytes());
        }
    });
    assert_eq!((sent.accepted, sent.dropped), (2, 3));
    assert_eq!(shown, [1, 4]);
    for request in [1u32, 4] {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        assert_eq!(buffer[..length], request.to_le_bytes());
    }
    assert_eq!(statistic(&tx, "tx_no_path"), 1);
    assert_eq!(statistic(&tx, "tx_too_long"), 2);
    assert_eq!(statistic(&tx, "tx_datagrams"), 2);
    assert_eq!(bed.paths.next_wanted(), None, "asked for once");
    Ok(())
}

fn a_path_that_changes_is_followed() -> TestResult {
    let bed = Bed::new(1)?;
    let (_program, _rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    let mut tx = tx.ok_or("a sending half")?;
    let socket = bed.socket(FAMILIES[0].1)?;
    let to = socket.local_addr()?;
    let all = bed.paths.snapshot();
    assert!(tx.reaches(&Endpoint::from(to)));

    bed.paths.publish(Paths::new());
    assert!(!tx.reaches(&Endpoint::from(to)));
    let Sent { accepted, dropped } = send(&mut tx, to, 0, &[b"lost".to_vec()]);
    assert_eq!((accepted, dropped), (0, 1));

    // A path that cannot carry the largest datagram is left to the UDP driver, and so is one by
    // another interface.
    let changed = |mtu, interface| {
        let mut paths = Paths::new();
        for (key, path) in all.iter() {
            let path = ringspan::io::xdp::Path {
                mtu,
                interface,
                marks: ringspan::io::xdp::path::PathMarks::default(),
                ..**path
            };
            paths.insert(*key, Arc::new(path));
        }
        paths
    };
    let interface = bed.near.index(NEAR)?;
    bed.paths.publish(changed(1452 + 27, interface));
    assert!(!tx.reaches(&Endpoint::from(to)));
    bed.paths.publish(changed(1500, interface + 1));
    assert!(!tx.reaches(&Endpoint::from(to)));
    bed.paths.publish(changed(1452 + 28, interface));
    assert!(tx.reaches(&Endpoint::from(to)));

    assert_eq!(send(&mut tx, to, 0, &[b"found".to_vec()]).accepted, 1);
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    assert_eq!(&buffer[..length], b"found");
    Ok(())
}

fn statistic(tx: &XdpTx, name: &str) -> u64 {
    let all = tx.statistics();
    let found = all.iter().find(|(n, _)| *n == name);
    found.expect("a statistic of that name").1
}
