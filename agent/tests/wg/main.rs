//! `ringspan INTERFACE` under the real `wg` and `wg-quick`: what wireguard-go can do, this can.
//! Needs root and wireguard-tools; the harness reports what cannot run here.

mod bed;
mod lifecycle;
mod protocol;

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::unique_name;
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::udp;
use rustix::process::Signal;

use bed::{Bed, KEYS, PATIENCE, PRESHARED, socket, text};

const WG: &[Need] = &[Need::Namespaces, Need::Tun, Need::Program("wg")];
const WG_GO: &[Need] = &[
    Need::Namespaces,
    Need::Tun,
    Need::Program("wg"),
    Need::Program("wireguard-go"),
];
const WG_XDP: &[Need] = &[
    Need::Namespaces,
    Need::Tun,
    Need::Bpf,
    Need::AfXdp,
    Need::Program("wg"),
];
/// Without the kernel's WireGuard: where it is there, wg-quick takes no other.
const QUICK: &[Need] = &[
    Need::Namespaces,
    Need::Tun,
    Need::Program("wg-quick"),
    Need::NoKernelWireGuard,
];
const QUICK_DEFAULT: &[Need] = &[
    Need::Namespaces,
    Need::Tun,
    Need::Program("wg-quick"),
    Need::Program("nft"),
    Need::NoKernelWireGuard,
];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .test("wg_sets_shows_and_syncs", WG, wg_sets_shows_and_syncs)
        .test(
            "the_background_process_ends_with_its_interface",
            WG,
            the_background_process_ends_with_its_interface,
        )
        .test(
            "a_wrong_environment_is_named",
            WG,
            a_wrong_environment_is_named,
        )
        .test(
            "answers_as_wireguard_go_does",
            WG_GO,
            protocol::answers_as_wireguard_go_does,
        )
        .test(
            "long_lists_are_shown_whole",
            WG,
            protocol::long_lists_are_shown_whole,
        )
        .test(
            "keys_and_prefixes_as_netns_sh_wants_them",
            WG,
            protocol::keys_and_prefixes_as_netns_sh_wants_them,
        )
        .test("ends_with_its_socket", WG, lifecycle::ends_with_its_socket)
        .test(
            "log_levels_are_wireguard_go_s",
            WG,
            lifecycle::log_levels_are_wireguard_go_s,
        )
        .test(
            "outlives_the_move_of_its_interface",
            WG,
            lifecycle::outlives_the_move_of_its_interface,
        )
        .test("wg_quick_up_and_down", QUICK, wg_quick_up_and_down)
        .test(
            "wg_quick_with_a_default_route",
            QUICK_DEFAULT,
            default_route,
        )
        .test("hot_changes_lose_nothing_over_udp", WG, || {
            hot_changes("udp")
        })
        .test("hot_changes_lose_nothing_over_xdp", WG_XDP, || {
            hot_changes("xdp")
        })
        .main()
}

/// Whatever `wg set` is told, `wg show` tells; what `wg showconf` writes, `wg setconf` reads; and
/// `wg syncconf` makes the differences.
fn wg_sets_shows_and_syncs() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    let mut node = bed.foreground(0, &name, "udp")?;
    let (private, public) = KEYS[0];
    let peer = KEYS[1].1;
    let own = bed.file("own", private)?;
    let psk = bed.file("psk", PRESHARED)?;
    bed.wg(
        0,
        &[
            "set",
            &name,
            "private-key",
            &own,
            "listen-port",
            "51999",
            "fwmark",
            "0x1234",
            "peer",
            peer,
            "preshared-key",
            &psk,
            "endpoint",
            "[fd09::2]:7",
            "persistent-keepalive",
            "25",
            "allowed-ips",
            "10.1.2.3/16,fd00::/64",
        ],
    )?;
    // Bytes are counted as the keepalive's initiations go out: they are left out.
    let dump = |peers: &[&str]| -> Result<(), Box<dyn std::error::Error>> {
        let shown = bed.wg(0, &["show", &name, "dump"])?;
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], format!("{private}\t{public}\t51999\t0x1234"));
        let rest: Vec<_> = lines[1..]
            .iter()
            .map(|line| {
                let fields: Vec<_> = line.split('\t').collect();
                [&fields[..5], &fields[7..]].concat().join(" ")
            })
            .collect();
        assert_eq!(rest, peers, "{shown}");
        Ok(())
    };
    let first = format!("{peer} {PRESHARED} [fd09::2]:7 10.1.0.0/16,fd00::/64 0 25");
    dump(&[&first])?;
    let everything = bed.wg(0, &["show"])?;
    assert!(
        everything.contains(&format!("interface: {name}")),
        "{everything}"
    );

    let saved = bed.wg(0, &["showconf", &name])?;
    let file = bed.file("saved", &saved)?;
    bed.wg(0, &["setconf", &name, &file])?;
    dump(&[&first])?;
    assert_eq!(bed.wg(0, &["showconf", &name])?, saved);

    // One prefix and the endpoint change, a peer comes, and goes again.
    let other = "JuF9mI163eKrMTyZZs7DO+AEO71F3djv84b780gslxA=";
    let changed = saved
        .replace("10.1.0.0/16", "10.2.0.0/16")
        .replace("[fd09::2]:7", "10.9.0.2:8")
        + &format!("\n[Peer]\nPublicKey = {other}\nAllowedIPs = 10.1.0.0/16\n");
    let file = bed.file("changed", &changed)?;
    bed.wg(0, &["syncconf", &name, &file])?;
    let second = format!("{peer} {PRESHARED} 10.9.0.2:8 10.2.0.0/16,fd00::/64 0 25");
    let third = format!("{other} (none) (none) 10.1.0.0/16 0 off");
    // In the order of the keys' bytes.
    dump(&[&third, &second])?;
    bed.wg(0, &["set", &name, "peer", other, "remove"])?;
    bed.wg(
        0,
        &[
            "set",
            &name,
            "peer",
            peer,
            "persistent-keepalive",
            "off",
            "preshared-key",
            "/dev/null",
        ],
    )?;
    let quiet = format!("{peer} (none) 10.9.0.2:8 10.2.0.0/16,fd00::/64 0 off");
    dump(&[&quiet])?;

    // A port that is taken is refused, and nothing has changed.
    let taken = bed.namespaces[0].run(|| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    let port = taken.local_addr()?.port().to_string();
    let refused = bed.try_wg(0, &["set", &name, "listen-port", &port])?;
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("Address already in use"),
        "{refused:?}"
    );
    dump(&[&quiet])?;
    drop(taken);
    bed.wg(0, &["set", &name, "listen-port", &port, "fwmark", "off"])?;
    assert_eq!(bed.wg(0, &["show", &name, "listen-port"])?.trim(), port);
    assert_eq!(bed.wg(0, &["show", &name, "fwmark"])?.trim(), "off");
    bed.wg(0, &["set", &name, "private-key", "/dev/null"])?;
    assert_eq!(bed.wg(0, &["show", &name, "private-key"])?.trim(), "(none)");

    assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    assert!(!socket(&name).exists(), "the socket was left behind");
    assert!(!node.log().contains(private), "a secret was logged");
    Ok(())
}

fn the_background_process_ends_with_its_interface() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    let started = bed.background(0, &name, &[("RINGSPAN_OUTER", "udp")])?;
    assert!(started.status.success(), "{}", text(&started.stderr));
    // The process that was started has ended; what it made is there.
    bed.namespaces[0].index(&name)?;
    assert!(bed.wg(0, &["show", &name])?.contains("listening port"));
    let again = bed.background(0, &name, &[("RINGSPAN_OUTER", "udp")])?;
    assert_eq!(again.status.code(), Some(3));
    assert!(
        text(&again.stderr).contains("exists already"),
        "{}",
        text(&again.stderr)
    );
    // In another namespace the interface is not in the way, but the socket is.
    let elsewhere = bed.background(1, &name, &[("RINGSPAN_OUTER", "udp")])?;
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(
        text(&elsewhere.stderr).contains("answers already"),
        "{}",
        text(&elsewhere.stderr)
    );
    bed.namespaces[0].remove(&name)?;
    bed.wait_for_end(&name)
}

fn a_wrong_environment_is_named() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    for (variable, value) in [
        ("RINGSPAN_OUTER", "dpdk"),
        ("RINGSPAN_MTU", "9"),
        ("RINGSPAN_SPIN", "10001"),
    ] {
        let refused = bed.background(0, &name, &[(variable, value)])?;
        assert_eq!(refused.status.code(), Some(3));
        let said = text(&refused.stderr);
        assert!(said.contains(variable) && said.contains(value), "{said}");
        assert!(bed.namespaces[0].index(&name).is_err());
    }
    Ok(())
}

/// Both ends by wg-quick: addresses, routes, traffic, and all gone after `down`.
fn wg_quick_up_and_down() -> TestResult {
    let bed = Bed::new()?;
    let names = [unique_name("rsq"), unique_name("rsq")];
    let files = bed.quick_files(&names, "10.77.0.2/32, fd77::2/128, 10.78.1.0/24")?;
    for (at, file) in files.iter().enumerate() {
        bed.wg_quick(at, "up", file)?;
    }
    for to in ["10.77.0.2", "fd77::2", "10.78.1.1"] {
        let to: IpAddr = to.parse()?;
        let pings = bed.namespaces[0].run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{to}: {pings:?}");
    }
    let handshakes = bed.wg(0, &["show", &names[0], "latest-handshakes"])?;
    let at: u64 = handshakes
        .split_whitespace()
        .nth(1)
        .ok_or("no time")?
        .parse()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    assert!(at > 0 && at <= now.as_secs(), "{handshakes}");
    let transfer = bed.wg(0, &["show", &names[0], "transfer"])?;
    let counted: Vec<_> = transfer.split_whitespace().skip(1).collect();
    assert!(
        counted.len() == 2 && counted.iter().all(|bytes| *bytes != "0"),
        "{transfer}"
    );
    for (at, file) in files.iter().enumerate() {
        bed.wg_quick(at, "down", file)?;
        bed.wait_for_end(&names[at])?;
        assert!(bed.namespaces[at].index(&names[at]).is_err());
    }
    Ok(())
}

/// Everything through the tunnel: wg-quick sets a mark, and policy rules that the outer datagrams
/// must escape by it.
fn default_route() -> TestResult {
    let bed = Bed::new()?;
    let names = [unique_name("rsq"), unique_name("rsq")];
    let files = bed.quick_files(&names, "0.0.0.0/0")?;
    for (at, file) in files.iter().enumerate() {
        bed.wg_quick(at, "up", file)?;
    }
    assert_ne!(bed.wg(0, &["show", &names[0], "fwmark"])?.trim(), "off");
    // An address that only the tunnel leads to, and no route but the default one.
    for to in ["10.78.1.1", "10.77.0.2"] {
        let to: IpAddr = to.parse()?;
        let pings = bed.namespaces[0].run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{to}: {pings:?}");
    }
    for (at, file) in files.iter().enumerate() {
        bed.wg_quick(at, "down", file)?;
        bed.wait_for_end(&names[at])?;
    }
    Ok(())
}

/// While datagrams go to one peer and back, others come, change and go: every datagram is
/// answered. Then the port moves, and the session goes on.
fn hot_changes(driver: &str) -> TestResult {
    const DATAGRAMS: u64 = 5_000;
    let bed = Bed::new()?;
    let names = [unique_name("rsw"), unique_name("rsw")];
    let mut nodes = bed.pair(&names, driver)?;
    let far: IpAddr = "10.77.0.2".parse()?;
    let pings = bed.namespaces[0].run(|| ping(far, Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");

    let echo = bed.namespaces[1].run(|| udp::Echo::start(far))?;
    let psk = bed.file("psk", PRESHARED)?;
    let ended = AtomicBool::new(false);
    let (exchange, rounds) = thread::scope(|scope| {
        let churn = scope.spawn(|| -> Result<u32, String> {
            let strangers = [
                "JuF9mI163eKrMTyZZs7DO+AEO71F3djv84b780gslxA=",
                "KuF9mI163eKrMTyZZs7DO+AEO71F3djv84b780gslxA=",
            ];
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                // A stranger with a prefix around the peer's, which then goes to another one.
                for stranger in strangers {
                    let arguments = [
                        "set",
                        &names[0],
                        "peer",
                        stranger,
                        "allowed-ips",
                        "10.77.0.0/24",
                        "endpoint",
                        "10.9.0.2:9",
                        "preshared-key",
                        &psk,
                    ];
                    bed.wg(0, &arguments).map_err(|error| error.to_string())?;
                }
                for stranger in strangers {
                    let arguments = ["set", &names[0], "peer", stranger, "remove"];
                    bed.wg(0, &arguments).map_err(|error| error.to_string())?;
                }
                rounds += 1;
            }
            Ok(rounds)
        });
        let exchange = bed.namespaces[0]
            .run(|| udp::exchange(echo.address(), DATAGRAMS, 1200, 8, PATIENCE, |_| true));
        ended.store(true, Ordering::Relaxed);
        (exchange, churn.join())
    });
    let exchange = exchange?;
    let rounds = rounds.map_err(|_| "the changes panicked")??;
    assert_eq!(
        (exchange.sent, exchange.echoed),
        (DATAGRAMS, DATAGRAMS),
        "{exchange:?}"
    );
    assert!(rounds > 0, "nothing was changed meanwhile");

    let received = |driver: &str| -> Result<u64, Box<dyn std::error::Error>> {
        let status: serde_json::Value = serde_json::from_str(&bed.status(&names[0])?)?;
        let drivers = status[0]["drivers"].as_array().ok_or("no drivers")?;
        let ours = drivers
            .iter()
            .filter(|one| one["driver"] == driver && one["port"] == "outer rx");
        Ok(ours
            .filter_map(|one| one["statistics"]["rx_datagrams"].as_u64())
            .sum())
    };
    bed.wg(0, &["set", &names[0], "listen-port", "51821"])?;
    let before = received(driver)?;
    let pings = bed.namespaces[0].run(|| ping(far, Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");
    let endpoint = bed.wg(1, &["show", &names[1], "endpoints"])?;
    assert!(endpoint.trim().ends_with("10.9.0.1:51821"), "{endpoint}");
    if driver == "xdp" {
        assert!(received("xdp")? > before, "XDP does not steer the new port");
    }
    for node in &mut nodes {
        assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    }
    for (at, name) in names.iter().enumerate() {
        let program = bed.namespaces[at].xdp_program(&format!("veth{at}"));
        assert!(
            matches!(program, Ok(None)),
            "XDP was left behind: {program:?}"
        );
        assert!(fs::symlink_metadata(socket(name)).is_err());
    }
    Ok(())
}
