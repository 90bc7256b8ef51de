//! UDP ports: marks, paths, source addresses; and captures of what they send.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use ipnet::IpNet;
use ringspan::engine::port::{OuterRx, OuterTx, Sent, TxRequest};
use ringspan::io::middleware::{Capture, PcapTap};
use ringspan::io::udp::{UdpConfig, UdpPort};
use ringspan::mesh::Endpoint;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Namespace, Veth};

use super::wait;

/// Two namespaces joined by a veth: 10.9.0.1 and 10.9.0.2, with a UDP port each.
fn ports() -> Result<(Namespace, Namespace, UdpPort, UdpPort), Box<dyn std::error::Error>> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    Veth::default().join(&a, "ab", &b, "ba")?;
    a.add_address("ab", "10.9.0.1/24".parse::<IpNet>()?)?;
    b.add_address("ba", "10.9.0.2/24".parse::<IpNet>()?)?;
    let config = UdpConfig::default();
    let port_a = a.run(|| UdpPort::bind(&config))?;
    let port_b = b.run(|| UdpPort::bind(&config))?;
    Ok((a, b, port_a, port_b))
}

pub(crate) fn send(
    port: &UdpPort,
    to: Endpoint,
    lengths: &[usize],
) -> (Sent, Vec<(&'static str, u64)>) {
    let mut tx = port.tx();
    let requests: Vec<_> = lengths
        .iter()
        .map(|&len| TxRequest { to, len, tos: 0 })
        .collect();
    let sent = tx.send_batch(&requests, &mut |slots| {
        for slot in slots {
            slot.buffer.fill(slot.request as u8);
        }
    });
    (sent, tx.statistics())
}

/// Receives `count` datagrams; returns senders and payloads.
pub(crate) fn outer_arrivals(
    port: &UdpPort,
    count: usize,
) -> io::Result<Vec<(SocketAddr, Vec<u8>)>> {
    let mut rx = port.rx();
    let mut arrivals = Vec::new();
    while arrivals.len() < count {
        wait(&rx)?;
        rx.recv_batch(&mut |batch| {
            for datagram in batch {
                arrivals.push((datagram.from.remote, datagram.payload.to_vec()));
            }
        })?;
    }
    Ok(arrivals)
}

pub(crate) fn endpoint(ip: &str, port: &UdpPort) -> Result<Endpoint, std::net::AddrParseError> {
    Ok(Endpoint::from(SocketAddr::new(
        ip.parse::<IpAddr>()?,
        port.port(),
    )))
}

/// With a routing rule against the mark, only what bears it fails.
pub(crate) fn mark() -> TestResult {
    let (a, _b, port_a, port_b) = ports()?;
    let rule = ["rule", "add", "fwmark", "0x20", "prohibit"];
    let added = a.run(|| Command::new("ip").args(rule).status())?;
    assert!(added.success());
    let to = endpoint("10.9.0.2", &port_b)?;
    for (mark, accepted) in [(0, 1), (0x20, 0), (0x21, 1)] {
        port_a.set_fwmark(mark)?;
        let (sent, statistics) = send(&port_a, to, &[100]);
        assert_eq!(sent.accepted, accepted, "mark {mark:#x}: {statistics:?}");
    }
    let config = UdpConfig {
        fwmark: 0x20,
        ..UdpConfig::default()
    };
    let marked = a.run(|| UdpPort::bind(&config))?;
    assert_eq!(send(&marked, to, &[100]).0.dropped, 1);
    assert_eq!(outer_arrivals(&port_b, 2)?.len(), 2);
    Ok(())
}

pub(crate) fn small_mtu() -> TestResult {
    let (a, b, port_a, port_b) = ports()?;
    a.set_mtu("ab", 1300)?;
    b.set_mtu("ba", 1300)?;
    let to = endpoint("10.9.0.2", &port_b)?;
    // 1452 bytes do not fit: no segmentation, but IP fragments of each.
    let (sent, statistics) = send(&port_a, to, &[1452; 10]);
    assert_eq!(sent.accepted, 10, "{statistics:?}");
    assert!(
        statistics.contains(&("tx_unsegmented", 1)),
        "{statistics:?}"
    );
    for (mark, (_, payload)) in outer_arrivals(&port_b, 10)?.into_iter().enumerate() {
        assert_eq!(payload, vec![u8::try_from(mark)?; 1452]);
    }
    // Shorter ones still go in one message.
    let (sent, statistics) = send(&port_a, to, &[1200; 10]);
    assert_eq!(sent.accepted, 10);
    assert!(statistics.contains(&("tx_messages", 1)), "{statistics:?}");
    assert_eq!(outer_arrivals(&port_b, 10)?.len(), 10);
    Ok(())
}

/// The sticky source goes away: what is sent with it still arrives.
pub(crate) fn source_gone() -> TestResult {
    let (a, _b, port_a, port_b) = ports()?;
    a.add_address("ab", "10.9.0.7/24".parse::<IpNet>()?)?;
    let mut to = endpoint("10.9.0.2", &port_b)?;
    to.local = Some("10.9.0.7".parse()?);
    let (sent, _) = send(&port_a, to, &[100, 100]);
    assert_eq!(sent.accepted, 2);
    for (from, _) in outer_arrivals(&port_b, 2)? {
        assert_eq!(Some(from.ip()), to.local);
    }
    to.local = Some("10.9.0.8".parse()?);
    let (sent, statistics) = send(&port_a, to, &[100, 100]);
    assert_eq!(sent.accepted, 2, "{statistics:?}");
    for (from, _) in outer_arrivals(&port_b, 2)? {
        assert_eq!(from.ip(), "10.9.0.1".parse::<IpAddr>()?);
    }
    assert!(statistics.contains(&("tx_source_cleared", 1)));
    Ok(())
}

/// Another program's opinion of our capture files.
pub(crate) fn tcpdump_reads_captures() -> TestResult {
    let (out, mut file) = io::pipe()?;
    let (capture, local) = (Capture::new(file.try_clone()?)?, 51820);
    let port = UdpPort::bind(&UdpConfig::default())?;
    let mut tx = PcapTap::outer(port.tx(), capture, local);
    for ip in ["127.0.0.1", "::1"] {
        let mut to = endpoint(ip, &port)?;
        to.local = Some(to.remote.ip());
        let request = TxRequest {
            to,
            len: 32,
            tos: 2,
        };
        let sent = tx.send_batch(&[request], &mut |slots| {
            // A keepalive's shape.
            slots[0].buffer.fill(0);
            slots[0].buffer[0] = 4;
        });
        assert_eq!(sent.accepted, 1);
    }
    file.flush()?;
    drop((tx, file));
    let read = Command::new("tcpdump")
        .args(["-nvv", "-r", "-"])
        .stdin(out)
        .output()?;
    let shown = String::from_utf8(read.stdout)?;
    let port = port.port();
    for expected in [
        format!("127.0.0.1.51820 > 127.0.0.1.{port}: [udp sum ok]"),
        format!("::1.51820 > ::1.{port}: [udp sum ok]"),
        "tos 0x2,ECT(0)".to_owned(),
    ] {
        assert!(shown.contains(&expected), "{expected}:\n{shown}");
    }
    assert!(!shown.contains("bad cksum"), "{shown}");
    Ok(())
}
