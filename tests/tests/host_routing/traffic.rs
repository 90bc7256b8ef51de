//! What goes where.

use ringspan::control::PeerState;
use ringspan::{Dataplane, HostRouting, Inner, Outer};
use ringspan_tests::harness::TestResult;
use ringspan_tests::traffic::tcp;

use crate::bed::{Bed, DOWN, LAN, LINK, MTU, Member, PATIENCE, UP, config, ula, wait_for};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Udp,
    Xdp,
}

/// The host's own address is among the allowed IPs of its peer, and the peer's among its own: only
/// marks keep the datagrams between them out of the tunnel.
pub(crate) fn through_the_tunnel(driver: Driver) -> TestResult {
    let bed = Bed::new()?;
    let outer = || match driver {
        Driver::Udp => Outer::udp(),
        Driver::Xdp => Outer::xdp(LAN),
    };
    let host = Member::start(&bed.host, 1, outer(), false)?;
    let other = Member::start(&bed.other, 2, outer(), false)?;
    for address in UP {
        let before = host.sent_to(2);
        bed.assert_reached(address)?;
        assert!(
            host.sent_to(2) >= before + 3,
            "{address} not through the tunnel"
        );
    }
    bed.assert_reached(&ula(2).to_string())?;
    // Through the socket of a program too, with the source that the kernel chooses; enough of it
    // for AF_XDP to have found its paths.
    let server = bed
        .other
        .run(|| tcp::Server::start("10.244.2.1".parse().unwrap()))?;
    let moved = bed
        .host
        .run(|| tcp::transfer(server.address(), 4 << 20, 4 << 20, PATIENCE, |_| true))?;
    assert_eq!(moved.uploaded + moved.downloaded, 8 << 20);
    assert_eq!(bed.clear()?, 0, "packets in clear");
    if driver == Driver::Xdp {
        for member in [&host, &other] {
            let drivers = member.plane.drivers();
            for (port, counter) in [("outer rx", "rx_datagrams"), ("outer tx", "tx_datagrams")] {
                let count: u64 = drivers
                    .iter()
                    .filter(|driver| driver.port == port && driver.info.driver == "xdp")
                    .flat_map(|driver| &driver.statistics)
                    .filter(|(name, _)| *name == counter)
                    .map(|(_, count)| count)
                    .sum();
                assert!(count > 1000, "{counter}: {count}: {drivers:?}");
            }
        }
    }
    other.close()?;
    host.close()
}

pub(crate) fn black_hole() -> TestResult {
    let bed = Bed::new()?;
    for address in UP.iter().chain(&DOWN) {
        bed.assert_reached(address)?;
    }
    let in_clear = bed.clear()?;
    assert!(in_clear >= 21, "the counter does not count: {in_clear}");
    // Before any peer is up, and when one is.
    let host = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let in_clear = bed.clear()?;
    for address in UP.iter().chain(&DOWN) {
        bed.assert_lost(address)?;
    }
    let mesh = ula(3).to_string();
    bed.assert_lost(&mesh)?;
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    bed.assert_reached(UP[1])?;
    for address in DOWN {
        bed.assert_lost(address)?;
    }
    bed.assert_lost(&mesh)?;
    assert_eq!(bed.clear()?, in_clear, "packets in clear");
    other.close()?;
    // What is not routed is still reached.
    host.routing.set_routed(&[])?;
    bed.assert_reached(DOWN[1])?;
    assert!(bed.clear()? > in_clear);
    host.close()
}

pub(crate) fn bypass() -> TestResult {
    let bed = Bed::new()?;
    let host = Member::start(&bed.host, 1, Outer::udp(), true)?;
    for address in UP.iter().chain(&DOWN) {
        bed.assert_reached(address)?;
    }
    assert_eq!(host.sent_to(2), 0);
    let other = Member::start(&bed.other, 2, Outer::udp(), true)?;
    // By an address that is always in the tunnel.
    bed.assert_reached(&ula(2).to_string())?;
    wait_for("both peers to be up", || {
        Ok(host.state(2) == PeerState::Up && other.state(1) == PeerState::Up)
    })?;
    host.route(true)?;
    other.route(true)?;
    let in_clear = bed.clear()?;
    for address in UP {
        bed.assert_reached(address)?;
    }
    assert_eq!(bed.clear()?, in_clear, "an up peer is passed by");
    // The answers get lost: this host's own address is in the tunnel, seen from the other host.
    for (sent, address) in (1..).zip(DOWN) {
        bed.assert_lost(address)?;
        assert_eq!(bed.clear()?, in_clear + 2 * sent, "{address} not in clear");
    }
    other.close()?;
    host.close()
}

pub(crate) fn clamped() -> TestResult {
    let bed = Bed::new()?;
    let host = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    for (address, counter) in [("10.244.2.1", "clamped4"), ("2001:db8:2::1", "clamped6")] {
        assert_eq!(bed.count(counter)?, 0);
        let server = bed
            .other
            .run(|| tcp::Server::start(address.parse().unwrap()))?;
        let moved = bed
            .host
            .run(|| tcp::transfer(server.address(), 1 << 16, 0, PATIENCE, |_| true))?;
        assert_eq!(moved.uploaded, 1 << 16);
        assert!(bed.count(counter)? > 0, "{counter}: a SYN was not clamped");
    }
    other.close()?;
    host.close()
}

pub(crate) fn strict_reverse_path() -> TestResult {
    let bed = Bed::new()?;
    for namespace in [&bed.host, &bed.other] {
        namespace.set_sysctl("ipv4/conf/default/rp_filter", "1")?;
    }
    let host = Member::start(&bed.host, 1, Outer::udp(), false)?;
    let other = Member::start(&bed.other, 2, Outer::udp(), false)?;
    bed.assert_reached("10.9.0.2")?;
    bed.assert_reached("10.244.2.1")?;
    assert_eq!(bed.clear()?, 0);
    other.close()?;
    host.close()?;

    // A setting that is not this link's alone is left alone, and told of.
    bed.host.set_sysctl("ipv4/conf/all/rp_filter", "2")?;
    let plane = bed.host.run(|| {
        Dataplane::builder([1; 32].into())
            .inner(Inner::tun(LINK).mtu(MTU))
            .start()
    })?;
    let routing = bed.host.run(|| HostRouting::start(config(1, false)))?;
    let [note] = routing.notes() else {
        return Err(format!("one note expected: {:?}", routing.notes()).into());
    };
    assert!(note.contains("net.ipv4.conf.all.rp_filter=0"), "{note}");
    routing.close()?;
    plane.shutdown()?;
    Ok(())
}
