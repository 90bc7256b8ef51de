//! A NAT between the ends that soon forgets: whoever is behind it stays reachable by persistent
//! keepalives.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege;
use ringspan_tests::vm::Room;

use crate::bed::{
    Bed, Driver, Fallible, Kind, Node, OUTER, PATIENCE, PORT, Peer, bridge, network, number, outer,
    wait_for,
};

/// The NAT, on its inner and on its outer side.
const INSIDE: u8 = 254;
const OUTSIDE: u8 = 253;
/// An empty packet's datagram.
const KEEPALIVE: u64 = 32;

/// We are behind the NAT; they, outside, reach us whenever they like.
pub(crate) fn we_are_behind_it(kind: Kind, driver: Driver) -> TestResult {
    let number = number();
    let (nat, us) = (Namespace::new("nat")?, Namespace::new("us")?);
    let peer = Peer::start(kind, number)?;
    Veth::default().join(&us, OUTER, &nat, "in0")?;
    bridge(&nat, "out0", peer.room.guest())?;
    us.add_address(OUTER, network(private(1)))?;
    masquerade(&nat, number)?;
    us.add_route("0.0.0.0/0".parse::<IpNet>()?, OUTER, Some(private(INSIDE)))?;
    peer.add_outer(&[outer(number, 2, 4)])?;
    let bed = Bed {
        us: Node::start(us, number, driver)?,
        peer,
        number,
        secret: None,
    };
    bed.tell_them(None, None)?;
    let mut spec = bed.spec(Some(outer(number, 2, 4)));
    spec.persistent_keepalive = NonZeroU16::new(1);
    bed.us.apply(&[spec])?;
    wait_for("the way opens by itself", PATIENCE, || {
        Ok(bed.peer.peer()?.handshaken)
    })?;
    let seen = bed.peer.peer()?;
    at_the_nat(seen.endpoint, number)?;
    bed.peer.reaches()?;
    let (sent, heard) = (bed.us.counter("keepalives_sent"), bed.peer.peer()?.rx_bytes);
    wait_for("four more keepalives", PATIENCE, || {
        Ok(bed.us.counter("keepalives_sent") >= sent + 4)
    })?;
    // boringtun counts what is in a datagram: of an empty packet, nothing.
    if kind != Kind::Boringtun {
        wait_for("four keepalives to be heard", PATIENCE, || {
            Ok(bed.peer.peer()?.rx_bytes >= heard + 4 * KEEPALIVE)
        })?;
    }
    bed.peer.reaches()
}

/// They are behind the NAT; we, outside, reach them whenever we like.
pub(crate) fn they_are_behind_it(kind: Kind, driver: Driver) -> TestResult {
    let number = number();
    let (nat, us) = (Namespace::new("nat")?, Namespace::new("us")?);
    let peer = Peer::start(kind, number)?;
    Veth::default().join(&us, OUTER, &nat, "out0")?;
    bridge(&nat, "in0", peer.room.guest())?;
    us.add_address(OUTER, network(outer(number, 1, 4)))?;
    masquerade(&nat, number)?;
    peer.add_outer(&[private(2)])?;
    peer.room.shell(&format!(
        "ip route add default via {} dev {}",
        private(INSIDE),
        Room::LINK
    ))?;
    let bed = Bed {
        us: Node::start(us, number, driver)?,
        peer,
        number,
        secret: None,
    };
    bed.tell_us(None)?;
    bed.tell_them(Some(outer(number, 1, 4)), Some(1))?;
    wait_for("the way opens by itself", PATIENCE, || {
        Ok(bed.us.peer()?.last_handshake.is_some())
    })?;
    at_the_nat(bed.us.peer()?.endpoint, number)?;
    bed.us.reaches()?;
    let heard = bed.us.counter("keepalives");
    wait_for("four more keepalives", PATIENCE, || {
        Ok(bed.us.counter("keepalives") >= heard + 4)
    })?;
    bed.us.reaches()
}

fn private(host: u8) -> IpAddr {
    IpAddr::from([192, 168, 9, host])
}

/// Makes `nat` hide the network of `in0` behind its address on `out0`, for 2 seconds of silence.
fn masquerade(nat: &Namespace, number: u8) -> Fallible<()> {
    nat.add_address("in0", network(private(INSIDE)))?;
    nat.add_address("out0", network(outer(number, OUTSIDE, 4)))?;
    nat.set_sysctl("ipv4/ip_forward", "1")?;
    let nft = privilege::program("nft").ok_or("nft is gone")?;
    let rules = "table ip n { chain p { type nat hook postrouting priority 100; \
                 oifname out0 masquerade random; }; }";
    let mut child = nat.spawn(nft, |command| {
        command.arg(rules);
    })?;
    if !child.wait(Duration::from_secs(10))?.success() {
        return Err(format!("nft refuses {rules}").into());
    }
    for name in ["udp_timeout", "udp_timeout_stream"] {
        nat.set_sysctl(&format!("netfilter/nf_conntrack_{name}"), "2")?;
    }
    Ok(())
}

/// Whoever is behind the NAT is seen at its address, at a port of its choice.
fn at_the_nat(endpoint: Option<SocketAddr>, number: u8) -> Fallible<()> {
    match endpoint {
        Some(at) if at.ip() == outer(number, OUTSIDE, 4) && at.port() != PORT => Ok(()),
        other => Err(format!("the NAT's address was expected: {other:?}").into()),
    }
}
