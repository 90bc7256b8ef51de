//! `ringspan join` on hosts in namespaces, through a discovery service. Needs root and nft: the
//! harness reports what cannot run here.

mod bed;

use std::fs;
use std::net::IpAddr;
use std::process::{Command, ExitCode};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use rustix::process::Signal;

use bed::{Bed, CLUSTER, Host, Member, SECRET};

const NEEDS: &[Need] = &[Need::Namespaces, Need::Tun, Need::Program("nft")];

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .test(
            "members_join_move_and_leave",
            NEEDS,
            members_join_move_and_leave,
        )
        .test("an_observer_is_not_found", NEEDS, an_observer_is_not_found)
        .test(
            "discovery_behind_a_peer_is_reached_after_a_kill",
            NEEDS,
            discovery_behind_a_peer_is_reached_after_a_kill,
        )
        .test("a_member_without_routes", NEEDS, a_member_without_routes)
        .main()
}

fn assert_reached(from: &Host, to: IpAddr) -> TestResult {
    let pings = from.namespace.run(|| ping(to, Options::default()))?;
    assert!(pings.all_answered(), "{} to {to}: {pings:?}", from.name);
    Ok(())
}

/// What would give a secret away.
fn forms(base64: &str) -> Vec<String> {
    let bytes = STANDARD.decode(base64).expect("base64");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal = format!("{bytes:?}");
    let inner = |text: &str| text[4..text.len() - 4].to_owned();
    let mut forms = vec![
        inner(base64),
        inner(&hex),
        inner(&hex.to_uppercase()),
        inner(&decimal),
    ];
    if let Ok(text) = String::from_utf8(bytes) {
        forms.push(inner(&text));
    }
    forms
}

fn private_key(host: &Host) -> Result<String, Box<dyn std::error::Error>> {
    let text = fs::read_to_string(host.state_dir().join("kubespan-identity.yaml"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("privateKey: "));
    Ok(line.ok_or("no key")?.to_owned())
}

/// Three hosts at a site, a fourth in a cloud that nobody knew; it moves, another one leaves and
/// comes back.
fn members_join_move_and_leave() -> TestResult {
    let bed = Bed::new()?;
    let mut hosts = Vec::new();
    for number in 1..=3 {
        let address = format!("10.9.0.{number}/24");
        hosts.push(bed.host(&format!("metal-{number}"), "site", &address)?);
    }
    let config = bed.config();
    // Behind the second one is a network.
    let net: ipnet::IpNet = "10.80.2.1/32".parse()?;
    hosts[1].namespace.add_address("lo", net)?;
    let mut members = vec![
        hosts[0].join(&config, &[])?,
        hosts[1].join(&config, &["--advertise", "10.80.2.0/24"])?,
        hosts[2].join(&config, &[])?,
    ];
    members[0].until("two peers", |one| one.up() == ["metal-2", "metal-3"])?;
    members[1].until("two peers", |one| one.up() == ["metal-1", "metal-3"])?;
    assert_reached(&hosts[0], members[1].mesh_address()?)?;
    assert_reached(&hosts[0], "10.9.0.3".parse()?)?;
    assert_reached(&hosts[0], "10.80.2.1".parse()?)?;

    hosts.push(bed.host("cloud-1", "cloud", "198.51.100.4/24")?);
    members.push(hosts[3].join(&config, &[])?);
    members[3].until("three peers", |one| {
        one.up() == ["metal-1", "metal-2", "metal-3"]
    })?;
    members[0].until("the fourth", |one| {
        one.up() == ["cloud-1", "metal-2", "metal-3"]
    })?;
    let cloud = members[3].mesh_address()?;
    assert_reached(&hosts[0], cloud)?;
    assert_reached(&hosts[3], "10.80.2.1".parse()?)?;

    // It moves without a word: it is heard from its new address, and announces it.
    let old: ipnet::IpNet = "198.51.100.4/24".parse()?;
    hosts[3].namespace.remove_address("eth0", old)?;
    hosts[3].take_address("198.51.100.44/24")?;
    let spec_of = |one: &Member, kind: &str| {
        let all = one.resources(kind);
        all.into_iter()
            .find(|one| one["spec"]["label"] == "cloud-1")
            .map(|one| one["spec"].clone())
            .unwrap_or_default()
    };
    members[0].until("a new endpoint", |one| {
        let endpoints = spec_of(one, "peerspecs")["endpoints"].clone();
        let list = endpoints.as_array().cloned().unwrap_or_default();
        list.contains(&"198.51.100.44:51820".into())
    })?;
    members[0].until("roaming", |one| {
        let _ = hosts[3]
            .namespace
            .run(|| ping(members_address(one), Options::default()));
        spec_of(one, "peerstatuses")["endpoint"] == "198.51.100.44:51820"
    })?;
    assert_reached(&hosts[0], cloud)?;
    let told = "the discovery service has ended";
    assert!(
        !hosts[3].log().contains(told),
        "it has waited for the lost connection"
    );

    // One leaves: the others drop it, its host is as before, its key stays.
    let key = private_key(&hosts[2])?;
    let public = members[2].resources("identity")[0]["spec"]["publicKey"].clone();
    let ended = members[2].end(Signal::INT)?;
    assert_eq!(ended.code(), Some(0), "{}", members[2].tail());
    let expected = ["cloud-1", "metal-2"];
    members[0].until("one less", |one| {
        one.up() == expected && one.resources("peerspecs").len() == 2
    })?;
    assert!(
        hosts[2].namespace.index("kubespan").is_err(),
        "the interface is gone"
    );
    let rules = hosts[2]
        .namespace
        .run(|| Command::new("nft").args(["list", "ruleset"]).output())?;
    assert_eq!(
        String::from_utf8_lossy(&rules.stdout),
        "",
        "nftables are as before"
    );
    assert_eq!(private_key(&hosts[2])?, key);
    members[2] = hosts[2].join(&config, &[])?;
    members[0].until("it is back", |one| {
        one.up() == ["cloud-1", "metal-2", "metal-3"]
    })?;
    let same = members[2].resources("identity")[0]["spec"]["publicKey"].clone();
    assert_eq!(same, public);

    what_is_printed(&hosts, &members)?;
    for (member, host) in members.iter_mut().zip(&hosts) {
        let ended = member.end(Signal::TERM)?;
        assert_eq!(ended.code(), Some(0), "{}: {}", host.name, member.tail());
    }
    assert_eq!(
        bed.server.affiliates(CLUSTER).len(),
        0,
        "all entries are taken away"
    );
    let mut tells = forms(SECRET);
    tells.push(CLUSTER.to_owned());
    for host in &hosts {
        let log = host.log();
        assert!(log.contains("TRACE"), "the finest level");
        for tell in tells.iter().chain(&forms(&private_key(host)?)) {
            assert!(
                !log.contains(tell.as_str()),
                "{tell} is in the log of {}",
                host.name
            );
        }
    }
    Ok(())
}

fn members_address(member: &Member) -> IpAddr {
    member.mesh_address().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

/// `get` has talosctl's forms, and no secret unless it is asked for.
fn what_is_printed(hosts: &[Host], members: &[Member]) -> TestResult {
    let key = private_key(&hosts[0])?;
    let text = |arguments: &[&str]| {
        let output = members[0].get(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for kind in ["identity", "peerspecs", "peerstatuses"] {
        for form in ["table", "yaml", "json"] {
            let shown = text(&[kind, "-o", form]);
            for tell in forms(SECRET).iter().chain(&forms(&key)) {
                assert!(!shown.contains(tell.as_str()), "{tell} is in\n{shown}");
            }
        }
    }
    assert!(text(&["identity", "-o", "yaml"]).contains("privateKey: (hidden)"));
    assert!(text(&["identity", "-o", "yaml", "--show-private-key"]).contains(&key));
    let table = text(&["KubeSpanPeerStatuses.kubespan.talos.dev", "kubespan"]);
    let heading = table.lines().next().unwrap_or_default();
    let words: Vec<_> = heading.split_whitespace().collect();
    let expected = "NODE NAMESPACE TYPE ID VERSION LABEL ENDPOINT STATE RX TX";
    assert_eq!(words.join(" "), expected);
    assert_eq!(table.lines().count(), 4, "{table}");
    let error = members[0].get(&["identity", "other"]);
    assert_eq!(error.status.code(), Some(1));
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(error.contains("there are: kubespan"), "{error}");
    Ok(())
}

fn an_observer_is_not_found() -> TestResult {
    let bed = Bed::new()?;
    let hosts = [
        bed.host("metal-1", "site", "10.9.0.1/24")?,
        bed.host("metal-2", "site", "10.9.0.2/24")?,
    ];
    let mut member = hosts[0].join(&bed.config(), &[])?;
    let mut observer = hosts[1].join(&bed.config(), &["--observe"])?;
    observer.until("a peer", |one| one.resources("peerspecs").len() == 1)?;
    assert_eq!(bed.server.affiliates(CLUSTER).len(), 1);
    assert_eq!(member.resources("peerspecs").len(), 0);
    for one in [&mut member, &mut observer] {
        assert_eq!(one.end(Signal::TERM)?.code(), Some(0), "{}", one.tail());
    }
    Ok(())
}

/// What a killed run has left black-holes the peers' prefixes. The discovery service may be in one
/// of them: it alone can bring the peers back.
fn discovery_behind_a_peer_is_reached_after_a_kill() -> TestResult {
    let bed = Bed::new()?;
    let hosts = [
        bed.host("metal-1", "site", "10.9.0.1/24")?,
        bed.host("metal-2", "site", "10.9.0.2/24")?,
    ];
    let mut first = hosts[0].join(&bed.config(), &[])?;
    let mut second = hosts[1].join(&bed.config(), &["--advertise", "10.9.0.254/32"])?;
    let routed = || -> Result<bool, Box<dyn std::error::Error>> {
        let list = || Command::new("nft").args(["list", "ruleset"]).output();
        let rules = hosts[0].namespace.run(list)?;
        Ok(String::from_utf8_lossy(&rules.stdout).contains("10.9.0.254"))
    };
    first.until("the service is behind a peer", |one| {
        one.up() == ["metal-2"] && routed().unwrap_or_default()
    })?;
    first.end(Signal::KILL)?;
    assert!(routed()?, "the prefixes of the killed run stay routed");
    let mut first = hosts[0].join(&bed.config(), &[])?;
    first.until("its peer again", |one| one.up() == ["metal-2"])?;
    for one in [&mut first, &mut second] {
        assert_eq!(one.end(Signal::TERM)?.code(), Some(0), "{}", one.tail());
    }
    assert!(!routed()?, "nothing is left at the end");
    Ok(())
}

/// Mesh addresses are reached over the link's own prefix; nothing else of the host is touched.
fn a_member_without_routes() -> TestResult {
    let bed = Bed::new()?;
    let hosts = [
        bed.host("metal-1", "site", "10.9.0.1/24")?,
        bed.host("metal-2", "site", "10.9.0.2/24")?,
    ];
    let more = ["--no-routes", "--listen-port", "4711", "--name", "mesh7"];
    let mut first = hosts[0].join(&bed.config(), &more)?;
    let mut second = hosts[1].join(&bed.config(), &["--no-routes"])?;
    second.until("a peer", |one| one.up() == ["metal-1"])?;
    let status = second.resources("peerstatuses").remove(0);
    assert_eq!(status["spec"]["endpoint"], "10.9.0.1:4711");
    assert_reached(&hosts[0], second.mesh_address()?)?;
    hosts[0].namespace.index("mesh7")?;
    let rules = hosts[0]
        .namespace
        .run(|| Command::new("nft").args(["list", "ruleset"]).output())?;
    assert_eq!(String::from_utf8_lossy(&rules.stdout), "");
    for one in [&mut first, &mut second] {
        assert_eq!(one.end(Signal::TERM)?.code(), Some(0), "{}", one.tail());
    }
    Ok(())
}
