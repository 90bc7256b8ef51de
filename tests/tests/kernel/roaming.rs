//! Addresses that change: each end follows the other's authentic datagrams, and nothing else.

use std::net::{IpAddr, SocketAddr};

use ringspan_tests::harness::TestResult;
use ringspan_tests::vm::Room;

use crate::bed::{Bed, Driver, Fallible, Kind, OUTER, PATIENCE, PORT, network, outer, wait_for};

/// Our address goes and another one comes: the other end follows our next datagram, and reaches us
/// there by itself.
pub(crate) fn they_follow_us(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::acquainted(kind, driver)?;
    bed.us.reaches()?;
    // Else the second address goes with the first.
    bed.us
        .namespace
        .set_sysctl("ipv4/conf/all/promote_secondaries", "1")?;
    let mut last = outer(bed.number, 1, 4);
    for host in [11, 12] {
        let next = outer(bed.number, host, 4);
        bed.us.namespace.add_address(OUTER, network(next))?;
        bed.us.namespace.remove_address(OUTER, network(last))?;
        // The first datagrams may still go by what was known of the old address.
        wait_for("a way out from the new address", PATIENCE, || {
            Ok(bed.us.knock(4))
        })?;
        bed.us.reaches()?;
        they_see_us_at(&bed, next)?;
        bed.peer.reaches()?;
        last = next;
    }
    sound(&bed)
}

/// The other end's address goes and another one comes.
pub(crate) fn we_follow_them(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::acquainted(kind, driver)?;
    bed.peer.reaches()?;
    let mut last = outer(bed.number, 2, 4);
    for host in [21, 22] {
        let next = outer(bed.number, host, 4);
        bed.peer.room.shell(&format!(
            "echo 1 > /proc/sys/net/ipv4/conf/all/promote_secondaries
             ip address add {} dev {link}; ip address del {} dev {link}",
            network(next),
            network(last),
            link = Room::LINK
        ))?;
        wait_for("a way out from their new address", PATIENCE, || {
            Ok(bed.peer.knock(4))
        })?;
        we_see_them_at(&bed, next)?;
        bed.us.reaches()?;
        bed.peer.reaches()?;
        last = next;
    }
    sound(&bed)
}

/// Each end in turn goes over to the other family; the one that was not told follows, in the
/// session that there is.
pub(crate) fn from_one_family_to_the_other(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::acquainted(kind, driver)?;
    bed.us.reaches()?;
    // boringtun takes no other endpoint for a peer that it has.
    let told: &[u8] = match kind {
        Kind::Boringtun => &[],
        _ => &[6, 4],
    };
    for &family in told {
        let (ours, theirs) = (outer(bed.number, 1, family), outer(bed.number, 2, family));
        let at = SocketAddr::new(ours, PORT);
        bed.peer
            .set(bed.us.plane.public_key(), &format!("endpoint {at}"))?;
        wait_for("they reach us over the other family", PATIENCE, || {
            Ok(bed.peer.knock(4))
        })?;
        we_see_them_at(&bed, theirs)?;
        bed.us.reaches()?;
        they_see_us_at(&bed, ours)?;
    }
    sound(&bed)?;
    // And led by us: told of another endpoint, we begin anew.
    for family in [6, 4] {
        bed.us.apply(&[])?;
        bed.tell_us(Some(outer(bed.number, 2, family)))?;
        wait_for("we reach them over the other family", PATIENCE, || {
            Ok(bed.us.knock(6))
        })?;
        they_see_us_at(&bed, outer(bed.number, 1, family))?;
        bed.peer.reaches()?;
        we_see_them_at(&bed, outer(bed.number, 2, family))?;
    }
    Ok(())
}

fn they_see_us_at(bed: &Bed, address: IpAddr) -> Fallible<()> {
    let peer = bed.peer.peer()?;
    if peer.endpoint != Some(SocketAddr::new(address, PORT)) {
        return Err(format!("they should see us at {address}: {peer:?}").into());
    }
    Ok(())
}

fn we_see_them_at(bed: &Bed, address: IpAddr) -> Fallible<()> {
    let peer = bed.us.peer()?;
    if peer.endpoint != Some(SocketAddr::new(address, PORT)) {
        return Err(format!("we should see them at {address}: {peer:?}").into());
    }
    Ok(())
}

/// Roaming takes no new handshake. (Other implementations than the kernel may begin anew, though.)
fn sound(bed: &Bed) -> TestResult {
    let made = bed.us.counter("responses_accepted") + bed.us.counter("initiations_accepted");
    if made != 1 && bed.peer.kind.is_kernel() {
        return Err(format!("{made} handshakes, not one: {:?}", bed.us.counted()).into());
    }
    Ok(())
}
