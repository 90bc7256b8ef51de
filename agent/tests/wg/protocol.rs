//! The configuration protocol: the answers of `wireguard-go`, request by request, and what `netns.sh`
//! asks of `wg`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::unique_name;
use ringspan_tests::peers::{DeviceConfig, KeyPair, wireguard_go};
use rustix::process::Signal;

use crate::bed::{Answer, Bed, KEYS, PATIENCE, socket};

/// One request over a connection of its own; all that is answered until the end of the answer, or
/// of the connection.
fn ask(name: &str, request: &str) -> Answer<String> {
    let mut client = UnixStream::connect(socket(name))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(b"\n\n") {
        match client.read(&mut part)? {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    Ok(String::from_utf8(answer)?)
}

/// What a `get` shows, without what time and chance decide: in the order of keys and prefixes.
fn shown(name: &str) -> Answer<BTreeSet<String>> {
    let text = ask(name, "get=1\n\n")?;
    let mut parts = BTreeSet::new();
    let mut part: Vec<&str> = Vec::new();
    let close = |part: &mut Vec<&str>, parts: &mut BTreeSet<String>| {
        part.sort_unstable();
        parts.insert(part.join(" "));
        part.clear();
    };
    for line in text.lines() {
        let changes = ["listen_port=", "tx_bytes=", "rx_bytes="];
        if changes.iter().any(|key| line.starts_with(key)) {
            continue;
        }
        if line.starts_with("public_key=") || line.starts_with("errno=") {
            close(&mut part, &mut parts);
        }
        part.push(line);
    }
    close(&mut part, &mut parts);
    Ok(parts)
}

const A: &str = "public_key=0101010101010101010101010101010101010101010101010101010101010101\n";
const B: &str = "public_key=0202020202020202020202020202020202020202020202020202020202020202\n";
const NOBODY: &str =
    "public_key=0303030303030303030303030303030303030303030303030303030303030303\n";
const SECRET: &str = "4141414141414141414141414141414141414141414141414141414141414141";
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Bodies of `set` requests, made one after the other. What both refuse is refused by its first
/// line, because wireguard-go applies those before the wrong one.
fn requests() -> Vec<String> {
    let mut all = vec![
        format!("private_key={SECRET}\n"),
        "fwmark=4660\n".to_owned(),
        format!(
            "{A}preshared_key={SECRET}\nendpoint=192.0.2.9:51820\n\
             persistent_keepalive_interval=25\nprotocol_version=1\n\
             allowed_ip=10.1.0.0/16\nallowed_ip=fd00:1::/64\n"
        ),
        format!("{A}endpoint=[2001:db8::9]:7\npersistent_keepalive_interval=0\n"),
        format!("{B}update_only=true\nallowed_ip=10.2.0.0/16\n"),
        format!("{B}allowed_ip=10.2.3.4/16\nallowed_ip=10.2.0.0/24\n"),
        // Prefixes move: the same one, and not the one around it.
        format!("{B}update_only=true\nallowed_ip=10.1.0.0/16\n"),
        format!("{A}allowed_ip=10.2.0.0/24\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n"),
        format!("{A}replace_allowed_ips=true\nallowed_ip=10.9.0.0/16\n"),
        format!("{A}allowed_ip=10.8.0.0/16\nreplace_allowed_ips=true\n"),
        // Two peers in one request, and one of them twice.
        format!(
            "{A}allowed_ip=10.3.0.0/16\n{B}allowed_ip=10.3.0.0/16\n{A}allowed_ip=10.4.0.0/16\n"
        ),
        format!("{A}preshared_key={ZERO}\n"),
        format!("{NOBODY}remove=true\n"),
        format!("{B}remove=true\n"),
        format!("{B}remove=true\nallowed_ip=10.5.0.0/16\n"),
        "fwmark=0\n".to_owned(),
        format!("private_key={ZERO}\n"),
        format!("private_key={SECRET}\n"),
        String::new(),
    ];
    for line in [
        "private_key=41",
        "private_key=zz",
        "listen_port=65536",
        "listen_port=x",
        "fwmark=4294967296",
        "fwmark=-1",
        "replace_peers=false",
        "public_key=41",
        "endpoint=192.0.2.1:5",
        "unknown=1",
        "nonsense",
    ] {
        all.push(format!("{line}\n"));
    }
    for line in [
        "update_only=false",
        "remove=1",
        "preshared_key=41",
        "endpoint=192.0.2.1",
        "endpoint=192.0.2.1:65536",
        "endpoint=host:5",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=-1",
        "replace_allowed_ips=no",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0",
        "allowed_ip=fd00::/129",
        "protocol_version=2",
        "unknown=1",
        "listen_port=1",
        "nonsense",
    ] {
        all.push(format!("{A}{line}\n"));
    }
    all.push("replace_peers=true\n".to_owned());
    all
}

/// The same requests to `wireguard-go` and to us: the same numbers, and the same state after each.
pub(crate) fn answers_as_wireguard_go_does() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    let _ours = bed.foreground(0, &name, "udp")?;
    let theirs = wireguard_go::start(
        &bed.namespaces[1],
        &DeviceConfig {
            private_key: KeyPair::generate().private,
            listen_port: 0,
            peers: Vec::new(),
        },
    )?;
    let mut differences = String::new();
    for body in requests() {
        let request = format!("set=1\n{body}\n");
        let (we, they) = (ask(&name, &request)?, ask(theirs.interface(), &request)?);
        if we != they {
            writeln!(differences, "{body}  we: {we:?}, they: {they:?}")?;
        }
        let (we, they) = (shown(&name)?, shown(theirs.interface())?);
        if we != they {
            let (ours, theirs) = (we.difference(&they), they.difference(&we));
            let (ours, theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
            writeln!(
                differences,
                "after {body}  we: {ours:#?}\n  they: {theirs:#?}"
            )?;
        }
    }
    assert!(differences.is_empty(), "{differences}");
    Ok(())
}

/// 255 × 256 prefixes of each family for one peer are shown again, every one of them; and so are
/// 200 peers with 200 prefixes each. The kernel answers these in many messages.
pub(crate) fn long_lists_are_shown_whole() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    let mut node = bed.foreground(0, &name, "udp")?;
    let mut text = format!("[Interface]\n[Peer]\nPublicKey = {}\n", KEYS[1].1);
    let mut expected = BTreeSet::new();
    for high in 0..255 {
        text.push_str("AllowedIPs = ");
        for low in 0..=255 {
            let (v4, v6) = (
                format!("{high}.{low}.0.0/24"),
                format!("fd00:{high:x}:{low:x}::/64"),
            );
            write!(text, "{}{v4},{v6}", if low == 0 { "" } else { "," })?;
            expected.extend([v4, v6.parse::<ipnet::IpNet>()?.to_string()]);
        }
        text.push('\n');
    }
    let file = bed.file("prefixes", &text)?;
    bed.wg(0, &["setconf", &name, &file])?;
    let prefixes = |shown: &str| -> BTreeSet<String> {
        let words = shown
            .lines()
            .flat_map(|line| line.split_whitespace().skip(1));
        words.map(str::to_owned).collect()
    };
    let shown = bed.wg(0, &["show", &name, "allowed-ips"])?;
    assert_eq!(expected.len(), 255 * 256 * 2);
    assert!(prefixes(&shown) == expected, "some prefixes are not shown");

    let mut text = "[Interface]\n".to_owned();
    let mut expected = BTreeSet::new();
    for peer in 0..200 {
        writeln!(text, "[Peer]\nPublicKey = {}", KeyPair::generate().public)?;
        for low in 0..200 {
            writeln!(text, "AllowedIPs = 10.{peer}.{low}.0/24")?;
            expected.insert(format!("10.{peer}.{low}.0/24"));
        }
    }
    let file = bed.file("peers", &text)?;
    bed.wg(0, &["setconf", &name, &file])?;
    let shown = bed.wg(0, &["show", &name, "allowed-ips"])?;
    assert_eq!(shown.lines().count(), 200);
    assert!(prefixes(&shown) == expected, "some prefixes are not shown");
    node.end(Signal::TERM)?;
    Ok(())
}

/// The checks that `netns.sh` makes of `wg` alone: keys are reset, and clamped; who becomes this node
/// is no peer; a prefix belongs to whoever was given it last.
pub(crate) fn keys_and_prefixes_as_netns_sh_wants_them() -> TestResult {
    let bed = Bed::new()?;
    let name = unique_name("rsw");
    let mut node = bed.foreground(0, &name, "udp")?;
    let file = |name: &str, key: &str| bed.file(name, key);
    let show = |what: &str| bed.wg(0, &["show", &name, what]);
    let [(private, public), (_, other)] = KEYS;

    let own = file("own", private)?;
    bed.wg(0, &["set", &name, "private-key", &own, "peer", other])?;
    let psk = file("psk", crate::bed::PRESHARED)?;
    bed.wg(0, &["set", &name, "peer", other, "preshared-key", &psk])?;
    assert!(show("preshared-keys")?.contains(crate::bed::PRESHARED));
    let arguments = ["set", &name, "peer", other, "preshared-key", "/dev/null"];
    bed.wg(0, &arguments)?;
    assert!(show("preshared-keys")?.trim().ends_with("(none)"));
    bed.wg(0, &["set", &name, "private-key", "/dev/null"])?;
    assert_eq!(show("private-key")?.trim(), "(none)");
    assert_eq!(show("public-key")?.trim(), "(none)");

    // All bits set: what is shown is what counts.
    let ones = file("ones", "//////////////////////////////////////////8=")?;
    bed.wg(0, &["set", &name, "private-key", &ones])?;
    let clamped = "+P///////////////////////////////////////38=";
    assert_eq!(show("private-key")?.trim(), clamped);

    // The peer whose key becomes the node's own goes; and cannot be added.
    bed.wg(0, &["set", &name, "peer", other, "remove", "peer", public])?;
    assert_eq!(show("peers")?.trim(), public);
    bed.wg(0, &["set", &name, "private-key", &own])?;
    assert_eq!(show("peers")?.trim(), "");
    bed.wg(
        0,
        &["set", &name, "peer", public, "allowed-ips", "10.0.0.0/8"],
    )?;
    assert_eq!(show("peers")?.trim(), "");

    // Prefixes move one by one, and whole.
    let [a, b] = [KeyPair::generate(), KeyPair::generate()].map(|pair| pair.public.to_string());
    let give = |peer: &str, prefixes: &str| {
        bed.wg(0, &["set", &name, "peer", peer, "allowed-ips", prefixes])
    };
    let of = |peer: &str| -> Answer<BTreeSet<String>> {
        let shown = show("allowed-ips")?;
        let line = shown
            .lines()
            .find(|line| line.starts_with(peer))
            .ok_or("no such peer")?;
        Ok(line.split_whitespace().skip(1).map(str::to_owned).collect())
    };
    let set = |words: &str| -> BTreeSet<String> { words.split(' ').map(str::to_owned).collect() };
    give(&a, "10.0.0.0/8,192.168.4.0/24,fd00::/64")?;
    assert_eq!(of(&a)?, set("10.0.0.0/8 192.168.4.0/24 fd00::/64"));
    give(&b, "192.168.4.0/24,10.0.0.0/9")?;
    assert_eq!(of(&a)?, set("10.0.0.0/8 fd00::/64"));
    assert_eq!(of(&b)?, set("10.0.0.0/9 192.168.4.0/24"));
    give(&b, "10.0.0.0/8,fd00::/64")?;
    assert_eq!(of(&a)?, set("(none)"));
    assert_eq!(of(&b)?, set("10.0.0.0/8 fd00::/64"));
    give(&a, "10.0.0.0/8")?;
    give(&b, "")?;
    assert_eq!((of(&a)?, of(&b)?), (set("10.0.0.0/8"), set("(none)")));
    node.end(Signal::TERM)?;
    Ok(())
}
