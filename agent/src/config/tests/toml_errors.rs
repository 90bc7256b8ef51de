use std::num::NonZeroU16;

use super::super::{Config, LogLevel, OuterDriver, OuterSend, Routes, TxChecksum, XdpMode};
use super::{OWN_PUBLIC, PEER_A, PEER_B, PRIVATE, error, read, says};

/// A configuration whose line 5 is `line`, in section `[interface]`.
fn interface(line: &str) -> String {
    format!("# c\n\n[interface]\nprivate_key = \"{PRIVATE}\"\n{line}\n")
}

/// A configuration with two peers, whose lines follow their public keys on lines 4 and 8.
fn peers(a: &str, b: &str) -> String {
    format!(
        "[interface]\nprivate_key = \"{PRIVATE}\"\n[[peer]]\n\
         public_key = \"{PEER_A}\"\nlabel = \"node-a\"\n{a}\n\
         [[peer]]\npublic_key = \"{PEER_B}\"\n{b}\n"
    )
}

fn config(text: &str) -> Config {
    match read("wg0.toml", text) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}\n{text}"),
    }
}

#[test]
fn the_defaults() {
    let config = config(&interface(""));
    assert_eq!(config.name, "wg0", "from the file's name");
    assert_eq!(config.listen_port, 0);
    assert_eq!(config.mtu, 1420);
    assert_eq!(config.routes, Routes::Auto);
    assert_eq!(config.outer.driver, OuterDriver::Auto);
    assert_eq!(config.outer.interface, None);
    assert_eq!(config.outer.busy_poll, 0);
    assert_eq!(config.outer.busy_poll_budget, None);
    assert_eq!(config.outer.tx_checksum, TxChecksum::Auto);
    assert_eq!(config.workers, None);
    assert_eq!(config.spin, 0);
    assert_eq!(config.log, LogLevel::Info);
    assert!(config.peers.is_empty());
}

#[test]
fn values_of_every_kind() {
    let text = format!(
        r#"
        [interface]
        name = "mesh0"
        private_key = "{PRIVATE}"
        listen_port = 51820
        addresses = ["10.0.0.1/24", "fd00::1"]
        mtu = 9_000
        fwmark = 0x20
        table = 180
        [outer]
        driver = "XDP"
        interface = "eth0.7"
        send = "udp"
        mode = "generic"
        busy_poll = 20
        busy_poll_budget = 128
        tx_checksum = "device"
        [runtime]
        workers = 4
        spin = 50
        log = "debug"
        [[peer]]
        public_key = "{PEER_A}"
        endpoints = ["192.0.2.1:1", "[2001:db8::1]:2", "node-a.example.:3", "[fe80::1%lo]:4"]
        allowed_ips = ["10.0.0.77/24", "::/0"]
        persistent_keepalive = 25
        [[peer]]
        public_key = "{PEER_B}"
        persistent_keepalive = "off"
        "#
    );
    let config = config(&text);
    assert_eq!(config.name, "mesh0");
    assert_eq!(config.listen_port, 51820);
    assert_eq!(config.addresses[0].to_string(), "10.0.0.1/24");
    assert_eq!(config.addresses[1].to_string(), "fd00::1/128");
    assert_eq!(config.mtu, 9000);
    assert_eq!(config.fwmark, 0x20);
    assert_eq!(config.routes, Routes::Table(180));
    assert_eq!(config.outer.driver, OuterDriver::Xdp);
    assert_eq!(config.outer.interface.as_deref(), Some("eth0.7"));
    assert_eq!(config.outer.send, OuterSend::Udp);
    assert_eq!(config.outer.mode, XdpMode::Generic);
    assert_eq!(config.outer.busy_poll, 20);
    assert_eq!(config.outer.busy_poll_budget, NonZeroU16::new(128));
    assert_eq!(config.outer.tx_checksum, TxChecksum::Device);
    assert_eq!(config.workers.unwrap().get(), 4);
    assert_eq!(config.spin, 50);
    let a = &config.peers[0];
    let endpoints: Vec<_> = a.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(
        endpoints,
        [
            "192.0.2.1:1",
            "[2001:db8::1]:2",
            "node-a.example.:3",
            "[fe80::1%lo]:4"
        ]
    );
    assert_eq!(a.allowed_ips[0].to_string(), "10.0.0.0/24", "masked");
    assert_eq!(a.persistent_keepalive, NonZeroU16::new(25));
    assert_eq!(config.peers[1].persistent_keepalive, None);
}

#[test]
fn bad_values_say_line_key_value_and_way_out() {
    for (line, parts) in [
        (
            "mtu = 575",
            &[
                "wg0.toml:5: interface.mtu: ",
                "\"575\"",
                "576 to 65455 bytes",
            ][..],
        ),
        ("mtu = 65456", &[":5: interface.mtu: ", "\"65456\""]),
        (
            "mtu = -1",
            &[":5: interface.mtu: ", "\"-1\"", "out of range"],
        ),
        ("mtu = 99999999999999999999", &[":5: ", "out of range"]),
        (
            "mtu = \"big\"",
            &[":5: interface.mtu: ", "whole number", "a string"],
        ),
        ("mtu = 1420.0", &[":5: interface.mtu: ", "fraction"]),
        (
            "listen_port = 65536",
            &[":5: interface.listen_port: ", "\"65536\"", "1 to 65535"],
        ),
        (
            "fwmark = \"0xzz\"",
            &[":5: interface.fwmark: ", "\"0xzz\"", "firewall mark"],
        ),
        (
            "table = \"vpn\"",
            &[":5: interface.table: ", "\"vpn\"", "off"],
        ),
        ("table = 0", &[":5: interface.table: ", "\"0\""]),
        (
            "name = \"much-too-long-name\"",
            &[":5: interface.name: ", "\"much-too-long-name\""],
        ),
        ("name = \"../../etc\"", &[":5: interface.name: "]),
        ("name = \"\"", &[":5: interface.name: ", "no value"]),
        (
            "addresses = [\"10.0.0.1/33\"]",
            &[":5: interface.addresses: ", "\"10.0.0.1/33\""],
        ),
        (
            "addresses = \"10.0.0.1\"",
            &[":5: interface.addresses: ", "array of strings"],
        ),
        (
            "addresses = [1]",
            &[":5: interface.addresses: ", "array of strings"],
        ),
        (
            "listn_port = 1",
            &[
                ":5: interface.listn_port: ",
                "unknown key",
                "did you mean listen_port?",
            ],
        ),
        (
            "zebra = 1",
            &[":5: interface.zebra: unknown key; this section knows name, "],
        ),
        (
            "driver = \"udp\"",
            &[":5: interface.driver: ", "belongs to section [outer]"],
        ),
        (
            "[outer]\ndriver = \"xpd\"",
            &[":6: outer.driver: ", "\"xpd\"", "auto, xdp and udp"],
        ),
        (
            "[outer]\nsend = \"gso\"",
            &[":6: outer.send: ", "\"gso\"", "auto, xdp and udp"],
        ),
        (
            "[outer]\nmode = \"zero-copy\"",
            &[":6: outer.mode: ", "auto, copy and generic"],
        ),
        (
            "[outer]\nbusy_poll = 10001",
            &[":6: outer.busy_poll: ", "\"10001\"", "1 to 10000"],
        ),
        (
            "[outer]\nbusy_poll_budget = 0",
            &[":6: outer.busy_poll_budget: ", "\"0\"", "1 to 65535"],
        ),
        (
            "[outer]\ntx_checksum = \"card\"",
            &[":6: outer.tx_checksum: ", "auto, software and device"],
        ),
        (
            "[runtime]\nlog = \"inof\"",
            &[":6: runtime.log: ", "\"inof\""],
        ),
        (
            "[runtime]\nworkers = 257",
            &[":6: runtime.workers: ", "\"257\"", "256"],
        ),
        (
            "[runtime]\nspin = 10001",
            &[":6: runtime.spin: ", "\"10001\"", "10000"],
        ),
        (
            "[peers]\n",
            &[
                ":5: unknown section \"peers\" (did you mean peer?)",
                "[[peer]]",
            ],
        ),
        (
            "[peer]\n",
            &[":5: peer: wants a section with double brackets", "[[peer]]"],
        ),
        ("[[peer]]\nlabel = \"x\"", &[":5: public key: is missing"]),
        (
            "[[peer]]\npublic_key = \"short\"",
            &[":6: peer 1.public_key: ", "\"short\"", "44 characters"],
        ),
    ] {
        says(&error("wg0.toml", &interface(line)), parts);
    }
}

#[test]
fn bad_endpoints_say_why() {
    for (endpoint, why) in [
        ("192.0.2.1", "no port"),
        ("2001:db8::1", "brackets"),
        ("2001:db8::1:51820", "brackets"),
        ("192.0.2.1:0", "1 to 65535"),
        ("192.0.2.1:65536", "1 to 65535"),
        ("192.0.2.256:1", "no host name"),
        (":51820", "no host name"),
        ("a b:1", "no host name"),
        ("-a.example:1", "no host name"),
        ("[2001:db8::g]:1", "no IPv6 address"),
        ("x[::1]:1", "no IPv6 address"),
        ("[fe80::1%a b]:1", "no IPv6 address"),
    ] {
        let text = peers(&format!("endpoints = [\n\"{endpoint}\"]"), "");
        let quoted = format!("{endpoint:?}");
        says(
            &error("wg0.toml", &text),
            &[":7: peer 1.endpoints: ", &quoted, why],
        );
    }
}

#[test]
fn a_missing_or_doubled_private_key() {
    says(
        &error("wg0.toml", ""),
        &["wg0.toml: private key: is missing", "genkey"],
    );
    says(
        &error("wg0.toml", &interface("private_key_file = \"k\"")),
        &[":5: interface.private_key_file: private_key and private_key_file exclude"],
    );
    let absent = "[interface]\nprivate_key_file = \"/nonexistent/key\"";
    says(
        &error("wg0.toml", absent),
        &[":2: interface.private_key_file: /nonexistent/key: No such file"],
    );
}

#[test]
fn overlapping_prefixes_name_both_peers() {
    let same = peers(
        "allowed_ips = [\"10.1.0.0/16\"]",
        "allowed_ips = [\"10.1.2.3/16\"]",
    );
    says(
        &error("wg0.toml", &same),
        &[
            ":9: peer 2.allowed_ips: 10.1.0.0/16 of peer ",
            PEER_B,
            "peer node-a (line 6)",
        ],
    );
    let nested = peers(
        "allowed_ips = [\"10.1.2.0/24\"]",
        "allowed_ips = [\"10.0.0.0/8\"]",
    );
    says(
        &error("wg0.toml", &nested),
        &[
            ":9: ",
            "10.0.0.0/8 of peer ",
            "overlaps 10.1.2.0/24 of peer node-a (line 6)",
            "nested_allowed_ips = true",
        ],
    );
    let wanted = nested.replace("[interface]\n", "[interface]\nnested_allowed_ips = true\n");
    assert_eq!(config(&wanted).peers.len(), 2);
    let same_is_never_wanted =
        same.replace("[interface]\n", "[interface]\nnested_allowed_ips = true\n");
    says(&error("wg0.toml", &same_is_never_wanted), &["10.1.0.0/16"]);
    let one_peer_may_nest = peers(
        "allowed_ips = [\"10.0.0.0/8\", \"10.1.0.0/16\", \"10.0.0.0/8\"]",
        "allowed_ips = [\"11.0.0.0/8\", \"::a00:0/8\"]",
    );
    assert_eq!(config(&one_peer_may_nest).peers[0].allowed_ips.len(), 2);
}

#[test]
fn the_topmost_overlap_is_the_one_reported() {
    let text = peers(
        "allowed_ips = [\"10.0.0.0/8\",\n\"9.0.0.0/8\"]",
        "allowed_ips = [\"10.0.0.0/8\",\n\"9.0.0.0/8\"]",
    );
    says(&error("wg0.toml", &text), &[":10: ", "10.0.0.0/8 of peer "]);
}

#[test]
fn a_peer_cannot_come_twice_or_be_oneself() {
    let twice = peers("", "").replace(PEER_B, PEER_A);
    says(
        &error("wg0.toml", &twice),
        &[":8: peer 2.public_key: ", PEER_A, "already on line 4"],
    );
    let own = peers("", "").replace(PEER_B, OWN_PUBLIC);
    says(
        &error("wg0.toml", &own),
        &[":8: peer 2.public_key: ", OWN_PUBLIC, "this very node"],
    );
}

#[test]
fn default_routes_are_taken_and_catch_no_endpoint() {
    let text = peers(
        "allowed_ips = [\"0.0.0.0/0\"]\nendpoints = [\"192.0.2.1:51820\"]",
        "",
    );
    for table in ["\"auto\"", "\"off\"", "51820"] {
        let text = text.replace("[interface]\n", &format!("[interface]\ntable = {table}\n"));
        let loaded = read("wg0.toml", &text).unwrap();
        assert_eq!(loaded.config.peers[0].allowed_ips.len(), 1);
        assert_eq!(loaded.notes.len(), 0, "{table}");
    }
}

#[test]
fn ipv6_needs_1280_bytes() {
    let text = interface("mtu = 1279\naddresses = [\"fd00::1/64\"]");
    says(
        &error("wg0.toml", &text),
        &[":5: interface.mtu: \"1279\"", "1280"],
    );
    assert_eq!(config(&interface("mtu = 1279")).mtu, 1279);
}

#[test]
fn an_endpoint_inside_the_tunnel_is_noted() {
    let text = peers(
        "allowed_ips = [\"192.0.2.0/24\"]\nendpoints = [\"192.0.2.7:1\"]",
        "",
    );
    let notes = read("wg0.toml", &text).unwrap().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    says(
        &notes[0].to_string(),
        &["line 7: peer 1.endpoints: ", "allowed IP on line 6"],
    );
    let marked = text.replace("[interface]\n", "[interface]\nfwmark = 1\n");
    assert!(read("wg0.toml", &marked).unwrap().notes.is_empty());
}

#[test]
fn syntax_errors_have_a_line_and_show_no_secret() {
    let text = format!("[interface]\nprivate_key = {PRIVATE}\n");
    let message = error("wg0.toml", &text);
    says(&message, &["wg0.toml:2: "]);
    assert!(!message.contains(&PRIVATE[..8]), "{message}");
    let twice = format!("[interface]\nprivate_key = \"{PRIVATE}\"\nprivate_key = \"x\"\n");
    says(&error("wg0.toml", &twice), &["wg0.toml:3: "]);
}

#[test]
fn no_error_repeats_a_secret() {
    let bent = &PRIVATE[..43];
    for line in [
        format!("private_key = \"{bent}\""),
        format!("private_key = [\"{PRIVATE}\"]"),
        format!("\"{PRIVATE}\" = 1"),
        format!("[[peer]]\npublic_key = \"{PEER_A}\"\npreshared_key = \"{bent}\""),
    ] {
        let message = error("wg0.toml", &format!("[interface]\n{line}\n"));
        assert!(!message.contains(&bent[..8]), "{message}");
    }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let message = error("wg0.toml", &interface("name = \"\\u001b[2Jx\""));
    assert!(!message.contains('\u{1b}'), "{message:?}");
    let long = "x".repeat(100_000);
    assert!(error("wg0.toml", &interface(&format!("name = \"{long}\""))).len() < 500);
}
