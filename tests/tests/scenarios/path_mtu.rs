//! A router on the way whose next link is narrower than what the tunnel's interface allows.

use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Namespace, Veth};

use crate::bed::*;

/// Node 1, a router, node 2; the link between the latter two carries so many bytes.
struct Way {
    a: Node,
    b: Node,
    _router: Namespace,
}

const NARROW: u32 = 1400;
/// A ping that fills the inner MTU of 1420 bytes.
const FULL: [(u8, usize); 2] = [(4, 1420 - 28), (6, 1420 - 48)];
const FAR: [&str; 2] = ["198.51.100.2", "fd51::2"];

fn way(driver: Driver) -> Fallible<Way> {
    let (a, router, b) = (
        Namespace::new("node 1")?,
        Namespace::new("router")?,
        Namespace::new("node 2")?,
    );
    Veth::default().join(&a, OUTER, &router, "near0")?;
    let narrow = Veth {
        mtu: NARROW,
        ..Veth::default()
    };
    narrow.join(&b, OUTER, &router, "far0")?;
    let sides = [
        ("192.0.2.254", "198.51.100.254"),
        ("fd00::254", "fd51::254"),
    ];
    for (at, (near, far)) in sides.into_iter().enumerate() {
        let everything: IpNet = ["0.0.0.0/0", "::/0"][at].parse()?;
        router.add_address("near0", network(ip(near)))?;
        router.add_address("far0", network(ip(far)))?;
        a.add_address(OUTER, network(outer(1, [4, 6][at])))?;
        b.add_address(OUTER, network(ip(FAR[at])))?;
        a.add_route(everything, OUTER, Some(ip(near)))?;
        b.add_route(everything, OUTER, Some(ip(far)))?;
    }
    router.set_sysctl("ipv4/ip_forward", "1")?;
    router.set_sysctl("ipv6/conf/all/forwarding", "1")?;
    Ok(Way {
        a: Node::start(a, 1, driver, 1)?,
        b: Node::start(b, 2, driver, 2)?,
        _router: router,
    })
}

/// Full packets arrive both ways, over IPv4 and over IPv6. Over IPv4 the router may fragment; over
/// IPv6 it may not, and says so: the kernel learns it, and both drivers go by that.
pub(crate) fn a_narrow_link_on_the_way(driver: Driver) -> TestResult {
    for at in [0, 1] {
        let Way { a, b, _router } = way(driver)?;
        let spec: PeerSpec = b.spec_at(Some(ip(FAR[at])));
        a.apply(&[spec])?;
        b.apply(&[a.spec_at(None)])?;
        a.reaches(&b)?;
        // The driver under test is at work before anything is learnt.
        wait_for("the driver carries small packets", || {
            a.carries_by(driver, || a.reaches(&b)).is_ok()
        });
        for (family, size) in FULL {
            wait_for("full packets arrive", || {
                a.ping(b.inner(family), 1, size)
                    .is_ok_and(|pings| pings.all_answered())
            });
            for (from, to) in [(&a, &b), (&b, &a)] {
                let pings = from.ping(to.inner(family), 10, size)?;
                assert!(
                    pings.all_answered(),
                    "outside {}, IPv{family}: {pings:?} {:?}",
                    FAR[at],
                    from.counted()
                );
            }
            a.streams_to(&b, family, 1 << 20)?;
        }
    }
    Ok(())
}
