//! One tunnel, begun in one way, carrying all kinds of traffic.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::peers::{DeviceConfig, KeyPair, PeerConfig, preshared_key};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::{tcp, udp};

use crate::ends::{End, Kind, Result};

const PORTS: [u16; 2] = [51820, 51821];
/// One way, in bytes.
const TCP_BYTES: u64 = 3 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Which end knows the other's endpoint, and so has to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Initiator {
    Us,
    Peer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    us: Kind,
    peer: Kind,
    initiator: Initiator,
    outer: Family,
    psk: bool,
}

impl Scenario {
    /// Every way to begin a tunnel between `us` and `peer`.
    pub(crate) fn matrix(us: Kind, peer: Kind) -> impl Iterator<Item = Self> {
        let flags = [false, true];
        flags.into_iter().flat_map(move |by_peer| {
            flags.into_iter().flat_map(move |v6| {
                flags.into_iter().map(move |psk| Self {
                    us,
                    peer,
                    initiator: if by_peer {
                        Initiator::Peer
                    } else {
                        Initiator::Us
                    },
                    outer: if v6 { Family::V6 } else { Family::V4 },
                    psk,
                })
            })
        })
    }

    pub(crate) fn name(&self) -> String {
        format!(
            "{}::{}::begun_by_{}::over_ip{}::{}_psk",
            self.peer.name(),
            self.us.name(),
            match self.initiator {
                Initiator::Us => "us",
                Initiator::Peer => "peer",
            },
            match self.outer {
                Family::V4 => "v4",
                Family::V6 => "v6",
            },
            if self.psk { "with" } else { "without" },
        )
    }

    pub(crate) fn needs(&self) -> Vec<Need> {
        [self.us.needs(), self.peer.needs()].concat()
    }

    pub(crate) fn run(&self) -> Result<()> {
        let spaces = [Namespace::new("us")?, Namespace::new("peer")?];
        Veth::default().join(&spaces[0], "up", &spaces[1], "up")?;
        let outer = self.outer_addresses();
        for (space, address) in spaces.iter().zip(outer) {
            space.add_address("up", address)?;
        }
        let configs = self.configs(outer.map(|net| net.addr()));
        let ends = [
            self.us.start(&spaces[0], &configs[0])?,
            self.peer.start(&spaces[1], &configs[1])?,
        ];
        for at in [0, 1] {
            let link = ends[at].interface();
            for address in inner_addresses(at) {
                spaces[at].add_address(link, address)?;
            }
            spaces[at].up(link)?;
        }
        let (first, second) = match self.initiator {
            Initiator::Us => (0, 1),
            Initiator::Peer => (1, 0),
        };
        let answering = inner_addresses(second).map(|net| net.addr());
        carry(&spaces[first], &spaces[second], answering)?;
        for at in [0, 1] {
            let other = SocketAddr::new(outer[1 - at].addr(), PORTS[1 - at]);
            verify(ends[at].as_ref(), other)?;
        }
        Ok(())
    }

    fn outer_addresses(&self) -> [IpNet; 2] {
        match self.outer {
            Family::V4 => ["192.0.2.1/24", "192.0.2.2/24"],
            Family::V6 => ["2001:db8::1/64", "2001:db8::2/64"],
        }
        .map(net)
    }

    fn configs(&self, outer: [IpAddr; 2]) -> [DeviceConfig; 2] {
        let keys = [KeyPair::generate(), KeyPair::generate()];
        let psk = self.psk.then(preshared_key);
        [0, 1].map(|at| {
            let other = 1 - at;
            let begins = (at == 0) == (self.initiator == Initiator::Us);
            DeviceConfig {
                private_key: keys[at].private.clone(),
                listen_port: PORTS[at],
                peers: vec![PeerConfig {
                    public_key: keys[other].public,
                    preshared_key: psk.clone(),
                    endpoint: begins.then(|| SocketAddr::new(outer[other], PORTS[other])),
                    allowed_ips: inner_addresses(other)
                        .map(|net| IpNet::from(net.addr()))
                        .to_vec(),
                    persistent_keepalive: None,
                }],
            }
        })
    }
}

fn inner_addresses(at: usize) -> [IpNet; 2] {
    match at {
        0 => ["10.10.0.1/24", "fd10::1/64"],
        _ => ["10.10.0.2/24", "fd10::2/64"],
    }
    .map(net)
}

/// Pings, TCP both ways and UDP, all begun in `from`, to each of `addresses` in `to`.
fn carry(from: &Namespace, to: &Namespace, addresses: [IpAddr; 2]) -> Result<()> {
    for address in addresses {
        // 1372 bytes and their headers fill an MTU of 1420 with IPv6, and nearly with IPv4.
        for size in [56, 1372] {
            let options = Options {
                size,
                timeout: PATIENCE,
                ..Options::default()
            };
            let pings = from.run(|| ping(address, options))?;
            if !pings.all_answered() {
                return Err(format!("pings of {size} bytes to {address}: {pings:?}").into());
            }
        }
        let server = to.run(|| tcp::Server::start(address))?;
        let moved =
            from.run(|| tcp::transfer(server.address(), TCP_BYTES, TCP_BYTES, PATIENCE, |_| true))?;
        assert_eq!((moved.uploaded, moved.downloaded), (TCP_BYTES, TCP_BYTES));

        let echo = to.run(|| udp::Echo::start(address))?;
        let exchange =
            from.run(|| udp::exchange(echo.address(), 200, 1200, 8, PATIENCE, |_| true))?;
        if exchange.echoed != 200 {
            return Err(format!("UDP to {address}: {exchange:?}").into());
        }
    }
    Ok(())
}

/// What an end says of its peer once the traffic is through.
fn verify(end: &dyn End, endpoint: SocketAddr) -> Result<()> {
    let peer = end.peer()?;
    let least = 2 * TCP_BYTES;
    let sound = peer.handshaken
        && peer.endpoint == Some(endpoint)
        && peer.rx_bytes > least
        && peer.tx_bytes > least;
    if sound {
        Ok(())
    } else {
        Err(format!(
            "{}: its peer should be at {endpoint} and more than {least} bytes moved each way: {peer:?}",
            end.interface()
        )
        .into())
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}
