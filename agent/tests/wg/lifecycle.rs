//! How the process ends, and what it outlives.

use std::fs;
use std::net::IpAddr;

use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::{Namespace, unique_name};
use ringspan_tests::traffic::ping::{Options, ping};

use crate::bed::{Bed, socket};

/// As with wireguard-go: whoever removes the socket ends the process, and the interface with it.
pub(crate) fn ends_with_its_socket() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    let mut node = bed.foreground(0, &name, "udp")?;
    // Others may come and go.
    fs::write(socket("ringspan-nobody"), "")?;
    fs::remove_file(socket("ringspan-nobody"))?;
    assert!(bed.wg(0, &["show", &name])?.contains("listening port"));
    fs::remove_file(socket(&name))?;
    assert_eq!(node.wait()?.code(), Some(0), "{}", node.log());
    assert!(
        bed.namespaces[0].index(&name).is_err(),
        "the interface is there"
    );
    Ok(())
}

/// Who asks for no log in the background gets none; who asks for it in the foreground does.
pub(crate) fn log_levels_are_wireguard_go_s() -> TestResult {
    let bed = Bed::new()?;
    for (level, talks) in [
        ("silent", false),
        ("error", false),
        ("verbose", true),
        ("debug", true),
    ] {
        let name = unique_name("rsw");
        let mut node = bed.foreground_at(0, &name, "udp", level)?;
        bed.namespaces[0].remove(&name)?;
        assert_eq!(node.wait()?.code(), Some(0), "{}", node.log());
        assert_eq!(!node.log().is_empty(), talks, "{level}: {}", node.log());
    }
    Ok(())
}

/// The usual way to give a container nothing but a tunnel: the interface is made here, and moved
/// there. The process stays, the outer side too; `ip link delete` over there ends it.
pub(crate) fn outlives_the_move_of_its_interface() -> TestResult {
    let bed = Bed::new()?;
    let names = [unique_name("rsw"), unique_name("rsw")];
    let mut nodes = bed.pair(&names, "udp")?;
    let container = Namespace::new("container")?;
    let far: IpAddr = "10.77.0.2".parse()?;
    bed.namespaces[0].move_link(&names[0], &container)?;
    container.up(&names[0])?;
    container.add_address(&names[0], "10.77.0.1/24".parse::<ipnet::IpNet>()?)?;
    for _ in 0..3 {
        let pings = container.run(|| ping(far, Options::default()))?;
        assert!(pings.all_answered(), "{pings:?} {}", nodes[0].log());
    }
    assert!(
        bed.wg(0, &["show", &names[0], "endpoints"])?
            .contains("10.9.0.2:51820")
    );
    container.remove(&names[0])?;
    assert_eq!(nodes[0].wait()?.code(), Some(0), "{}", nodes[0].log());
    assert!(!socket(&names[0]).exists());
    Ok(())
}
