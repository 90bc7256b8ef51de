//! One tunnel, begun in one way, carrying all kinds of traffic.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ringspan_tests::netns::{Namespace, Veth, unique_name};
use ringspan_tests::peers::{DeviceConfig, KeyPair, PeerConfig, PeerStatus, preshared_key};
use ringspan_tests::privilege::Need;
use ringspan_tests::vm::Guest;

use crate::ends::{End, Kind, Result};
use crate::place::Place;

const PORTS: [u16; 2] = [51820, 51821];
/// One way, in bytes.
const TCP_BYTES: u64 = 3 << 20;

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

/// What the two ends share besides their keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Secret {
    None,
    Shared,
    /// Each end has another one: there must be no session.
    Different,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    us: Kind,
    peer: Kind,
    initiator: Initiator,
    outer: Family,
    secret: Secret,
}

impl Scenario {
    /// Every way to begin a tunnel between `us` and `peer`.
    pub(crate) fn matrix(us: Kind, peer: Kind) -> impl Iterator<Item = Self> {
        let initiators = [Initiator::Us, Initiator::Peer];
        let families = [Family::V4, Family::V6];
        initiators.into_iter().flat_map(move |initiator| {
            families.into_iter().flat_map(move |outer| {
                [Secret::None, Secret::Shared].map(|secret| Self {
                    us,
                    peer,
                    initiator,
                    outer,
                    secret,
                })
            })
        })
    }

    /// Two ends whose preshared keys differ.
    pub(crate) fn estranged(us: Kind, peer: Kind) -> impl Iterator<Item = Self> {
        [Initiator::Us, Initiator::Peer]
            .into_iter()
            .map(move |initiator| Self {
                us,
                peer,
                initiator,
                outer: Family::V4,
                secret: Secret::Different,
            })
    }

    pub(crate) fn name(&self) -> String {
        format!(
            "{}::{}::begun_by_{}::over_ip{}::{}",
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
            match self.secret {
                Secret::None => "without_psk",
                Secret::Shared => "with_psk",
                Secret::Different => "not_with_another_psk",
            },
        )
    }

    pub(crate) fn needs(&self) -> Vec<Need> {
        [self.us.needs(), self.peer.needs()].concat()
    }

    pub(crate) fn run(&self) -> Result<()> {
        let us = Namespace::new("us")?;
        let peer = self.peer.place()?;
        match &peer {
            Place::Space(space) => Veth::default().join(&us, "up", space, "up")?,
            Place::Guest(guest) => {
                let bridged = guest.namespace();
                // The last test's link may still be on its way out.
                let port = unique_name("port");
                Veth::default().join(&us, "up", bridged, &port)?;
                bridged.attach(&port, Guest::BRIDGE)?;
                // The last test's neighbours had these addresses.
                let card = Guest::CARD;
                guest.shell(&format!(
                    "ip link set {card} up; ip -4 neigh flush dev {card}; ip -6 neigh flush dev {card}"
                ))?;
            }
        }
        let places = [Place::Space(us), peer];
        let outer = self.outer_addresses();
        for (place, address) in places.iter().zip(outer) {
            place.add_address(place.outer_link(), address)?;
        }
        let configs = self.configs(outer.map(|net| net.addr()));
        let ends = [
            self.us.start(&places[0], &configs[0])?,
            self.peer.start(&places[1], &configs[1])?,
        ];
        for at in [0, 1] {
            let link = ends[at].interface();
            for address in inner_addresses(at) {
                places[at].add_address(link, address)?;
            }
            places[at].up(link)?;
        }
        let (first, second) = match self.initiator {
            Initiator::Us => (0, 1),
            Initiator::Peer => (1, 0),
        };
        let answering = inner_addresses(second).map(|net| net.addr());
        if self.secret == Secret::Different {
            return refused(&places, &ends, first, answering[0]);
        }
        carry(&places[first], &places[second], answering)?;
        for at in [0, 1] {
            let other = SocketAddr::new(outer[1 - at].addr(), PORTS[1 - at]);
            verify(&ends[at].peer(&places[at])?, other)?;
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
        let secret = preshared_key();
        let secrets = match self.secret {
            Secret::None => [None, None],
            Secret::Shared => [Some(secret.clone()), Some(secret)],
            Secret::Different => [Some(secret), Some(preshared_key())],
        };
        [0, 1].map(|at| {
            let other = 1 - at;
            let begins = (at == 0) == (self.initiator == Initiator::Us);
            DeviceConfig {
                private_key: keys[at].private.clone(),
                listen_port: PORTS[at],
                peers: vec![PeerConfig {
                    public_key: keys[other].public,
                    preshared_key: secrets[at].clone(),
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

/// Nothing gets through, though the ends hear each other, and neither believes in a session.
fn refused(places: &[Place; 2], ends: &[Box<dyn End>; 2], from: usize, to: IpAddr) -> Result<()> {
    let pings = places[from].ping_briefly(to)?;
    if !pings.round_trips.is_empty() {
        return Err(format!("an answer without a common secret: {pings:?}").into());
    }
    for at in [0, 1] {
        let peer = ends[at].peer(&places[at])?;
        // The responder learns the endpoint from the initiation: that one is sound, with any secret.
        if peer.handshaken || peer.endpoint.is_none() {
            return Err(format!("no session, but an initiation, was expected: {peer:?}").into());
        }
    }
    Ok(())
}

/// Pings, TCP both ways and UDP, all begun in `from`, to each of `addresses` in `to`.
fn carry(from: &Place, to: &Place, addresses: [IpAddr; 2]) -> Result<()> {
    let _servers = to.serve()?;
    for address in addresses {
        // 1372 bytes and their headers fill an MTU of 1420 with IPv6, and nearly with IPv4.
        for size in [56, 1372] {
            let pings = from.ping(address, size)?;
            if !pings.all_answered() {
                return Err(format!("pings of {size} bytes to {address}: {pings:?}").into());
            }
        }
        from.transfer(address, TCP_BYTES)?;
        let exchange = from.exchange(address, 200, 1200)?;
        if exchange.echoed != 200 {
            return Err(format!("UDP to {address}: {exchange:?}").into());
        }
    }
    Ok(())
}

/// What an end says of its peer once the traffic is through.
fn verify(peer: &PeerStatus, endpoint: SocketAddr) -> Result<()> {
    let least = 2 * TCP_BYTES;
    let sound = peer.handshaken
        && peer.endpoint == Some(endpoint)
        && peer.rx_bytes > least
        && peer.tx_bytes > least;
    if sound {
        Ok(())
    } else {
        Err(format!(
            "the peer should be at {endpoint} and more than {least} bytes moved each way: {peer:?}"
        )
        .into())
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}
