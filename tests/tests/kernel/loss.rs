//! A path that loses, overtakes and repeats datagrams: netem in the machine, both ways.

use std::net::SocketAddr;

use ringspan_tests::harness::TestResult;
use ringspan_tests::traffic::{tcp, udp};
use ringspan_tests::vm::{Room, TCP_PORT, UDP_PORT};

use crate::bed::{Bed, Driver, Fallible, Kind, PATIENCE, inner};

/// One way, in bytes.
const TCP_BYTES: u64 = 1 << 20;

/// 2 % of all datagrams are lost and a quarter overtake others: TCP's content arrives intact both
/// ways, nothing that is merely late is refused, and what netem dropped is what is missing.
pub(crate) fn losses_and_overtaking(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::acquainted(kind, driver)?;
    bed.us.reaches()?;
    impair(&bed, "delay 5ms 2ms reorder 25% 50% loss 2%")?;
    transfer(&bed)?;
    for dropped in dropped(&bed)? {
        if dropped == 0 {
            return Err("netem has lost nothing: the path was not what it should be".into());
        }
    }
    nothing_refused(&bed)?;
    // Without losses every datagram that was overtaken has to come through.
    impair(&bed, "delay 5ms 2ms reorder 25% 50%")?;
    let exchange = exchange(&bed, 500)?;
    if exchange.echoed != 500 || exchange.damaged > 0 || exchange.repeated > 0 {
        return Err(format!("all 500 were expected once: {exchange:?}").into());
    }
    if exchange.overtaken == 0 {
        return Err(format!("nothing was overtaken: {exchange:?}").into());
    }
    nothing_refused(&bed)
}

/// A tenth of all datagrams comes twice: each packet is delivered once, at either end, and we count
/// the second copies.
pub(crate) fn repetition(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::acquainted(kind, driver)?;
    bed.us.reaches()?;
    impair(&bed, "duplicate 10%")?;
    let exchange = exchange(&bed, 500)?;
    if exchange.echoed != 500 || exchange.damaged > 0 || exchange.repeated > 0 {
        return Err(format!("all 500 were expected once: {exchange:?}").into());
    }
    if bed.us.counter("replayed") == 0 {
        return Err(format!("no copy was counted: {:?}", bed.us.counted()).into());
    }
    transfer(&bed)
}

/// Puts netem on both ends of the room's link: on the way to us, and on the way to them.
fn impair(bed: &Bed, how: &str) -> TestResult {
    let room = &bed.peer.room;
    // A queue that drops nothing by itself, also not while the machine is busy.
    let netem = format!("root netem limit 10000 {how}");
    room.shell(&format!("tc qdisc replace dev {} {netem}", Room::LINK))?;
    room.guest()
        .shell(&format!("tc qdisc replace dev {} {netem}", room.port()))?;
    Ok(())
}

/// What netem has dropped on the way to us, and to them.
fn dropped(bed: &Bed) -> Fallible<[u64; 2]> {
    let room = &bed.peer.room;
    let show = |link: &str| format!("tc -s qdisc show dev {link}");
    Ok([
        count(&room.shell(&show(Room::LINK))?)?,
        count(&room.guest().shell(&show(room.port()))?)?,
    ])
}

fn count(statistics: &str) -> Fallible<u64> {
    let number = statistics
        .split_once("(dropped ")
        .and_then(|(_, rest)| rest.split_once(','))
        .ok_or_else(|| format!("tc says: {statistics}"))?
        .0;
    Ok(number.parse()?)
}

/// What is late is not what was seen before.
fn nothing_refused(bed: &Bed) -> TestResult {
    for name in ["replayed", "forged", "malformed_inner", "wrong_source"] {
        if bed.us.counter(name) > 0 {
            return Err(format!("{name}: {:?}", bed.us.counted()).into());
        }
    }
    Ok(())
}

/// TCP both ways, its content compared at both ends.
fn transfer(bed: &Bed) -> TestResult {
    let server = SocketAddr::new(inner(bed.number, 2, 4), TCP_PORT);
    let moved = bed
        .us
        .namespace
        .run(|| tcp::transfer(server, TCP_BYTES, TCP_BYTES, PATIENCE, |_| true))?;
    if (moved.uploaded, moved.downloaded) != (TCP_BYTES, TCP_BYTES) {
        return Err(format!("not all was moved: {moved:?}").into());
    }
    Ok(())
}

fn exchange(bed: &Bed, datagrams: u64) -> Fallible<udp::Exchange> {
    let echo = SocketAddr::new(inner(bed.number, 2, 6), UDP_PORT);
    Ok(bed
        .us
        .namespace
        .run(|| udp::exchange(echo, datagrams, 800, 16, PATIENCE, |_| true))?)
}
