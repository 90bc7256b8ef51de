use std::num::NonZeroU16;

use super::super::{Config, Routes};
use super::{OWN_PUBLIC, PEER_A, PEER_B, PRIVATE, error, read, says};

fn config(text: &str) -> Config {
    match read("wg0.conf", text) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}\n{text}"),
    }
}

/// Lines of `[Interface]` from line 3 on.
fn interface(lines: &str) -> String {
    format!("[Interface]\nPrivateKey = {PRIVATE}\n{lines}\n")
}

/// Lines of a `[Peer]` from line 5 on.
fn peer(lines: &str) -> String {
    interface(&format!("[Peer]\nPublicKey={PEER_A}\n{lines}"))
}

#[test]
fn a_file_as_people_write_them() {
    let text = format!(
        "\u{feff}# Server\r\n[Interface]\r\n\
         Address = 10.192.122.1/24,fd00::1/64  # two\r\nAddress = 10.10.0.1/16\r\n\
         PRIVATEKEY={PRIVATE}\r\nlistenport = 51820\r\nFwMark = 0xca6c\r\nTable=1234\r\n\r\n\
         [Peer] # node-b\r\nPublicKey = {PEER_A}\r\n\
         AllowedIPs = 10.192.122.3/32, 10.192.124.1/24\r\nallowedips = fd01::/16\r\n\
         Endpoint = [2001:db8::2]:51820\r\nPersistentKeepalive = 25\r\n\
         [ PEER ]\r\nPublicKey = {PEER_B}\r\nAllowedIPs =\r\nEndpoint=node.example:1\r\n"
    );
    let config = config(&text);
    assert_eq!(config.addresses.len(), 3);
    assert_eq!(config.listen_port, 51820);
    assert_eq!(config.fwmark, 0xca6c);
    assert_eq!(config.routes, Routes::Table(1234));
    let [b, c] = &config.peers[..] else {
        panic!("{:?}", config.peers)
    };
    assert_eq!(b.label, "node-b");
    let prefixes: Vec<_> = b.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(
        prefixes,
        ["10.192.122.3/32", "10.192.124.0/24", "fd01::/16"]
    );
    assert_eq!(b.persistent_keepalive, NonZeroU16::new(25));
    assert_eq!(c.endpoints[0].to_string(), "node.example:1");
    assert!(c.allowed_ips.is_empty() && c.label.is_empty());
}

#[test]
fn what_is_not_done_is_said() {
    let text = interface(
        "DNS = 10.0.0.1\nPreUp = a\nPostUp = b # x\nPostUp = c\nPreDown = d\nPostDown = e\n\
         SaveConfig = true",
    );
    let notes = read("wg0.conf", &text).unwrap().notes;
    let keys: Vec<_> = notes
        .iter()
        .map(|note| note.place.as_ref().unwrap().key.as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "DNS",
            "PreUp",
            "PostUp",
            "PostUp",
            "PreDown",
            "PostDown",
            "SaveConfig"
        ]
    );
    says(
        &notes[1].to_string(),
        &["line 4: PreUp: ", "executes no commands"],
    );
    let quiet = read("wg0.conf", &interface("SaveConfig = false")).unwrap();
    assert!(quiet.notes.is_empty());
}

#[test]
fn of_repeated_single_values_the_last_counts_and_that_is_said() {
    let text = peer("Endpoint = 192.0.2.1:1\nEndpoint = 192.0.2.2:2");
    let loaded = read("wg0.conf", &text).unwrap();
    let endpoints = &loaded.config.peers[0].endpoints;
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].to_string(), "192.0.2.2:2");
    says(
        &loaded.notes[0].to_string(),
        &["line 6: Endpoint: replaces line 5"],
    );
    let text = interface("MTU = 1300\nmtu = 1400");
    let loaded = read("wg0.conf", &text).unwrap();
    assert_eq!((loaded.config.mtu, loaded.notes.len()), (1400, 1));
}

#[test]
fn nested_prefixes_are_what_wg_has_always_taken() {
    let text = format!(
        "{}[Peer]\nPublicKey={PEER_B}\nAllowedIPs=10.0.0.0/8\n",
        peer("AllowedIPs = 10.1.0.0/16")
    );
    assert_eq!(config(&text).peers.len(), 2);
    let same = text.replace("10.1.0.0/16", "10.0.0.0/8");
    says(
        &error("wg0.conf", &same),
        &[
            ":8: AllowedIPs: 10.0.0.0/8 of peer ",
            PEER_B,
            PEER_A,
            "(line 5)",
        ],
    );
}

#[test]
fn bad_lines_say_line_key_value_and_way_out() {
    for (text, parts) in [
        (
            interface("MTU = 80"),
            &["wg0.conf:3: MTU: \"80\"", "576 to 65455"][..],
        ),
        (interface("mtu = x"), &[":3: MTU: \"x\" is not a number"]),
        (
            interface("ListenPort = 70000"),
            &[":3: ListenPort: \"70000\""],
        ),
        (interface("ListenPort ="), &[":3: ListenPort: has no value"]),
        (
            interface("Address = 10.0.0.1/24,"),
            &[":3: Address: has no value"],
        ),
        (
            interface("Address = 10.0.0/24"),
            &[":3: Address: \"10.0.0/24\""],
        ),
        (
            interface("PostUpp = x"),
            &[":3: PostUpp: unknown key (did you mean PostUp?)"],
        ),
        (
            interface("PublicKey = x"),
            &[":3: PublicKey: belongs to section [Peer]"],
        ),
        (
            interface("[Interface]"),
            &[":3: [Interface] stands twice", "line 1"],
        ),
        (
            interface("[Peers]"),
            &[":3: unknown section \"Peers\" (did you mean Peer?)"],
        ),
        (interface("[Peer"), &[":3: unknown section \"[Peer\""]),
        (
            interface("nonsense"),
            &[":3: neither a section nor KEY = VALUE"],
        ),
        (interface("[Peer]"), &[":3: public key: is missing"]),
        (peer("AllowedIPs = ::/129"), &[":5: AllowedIPs: \"::/129\""]),
        (
            peer("Endpoint = 10.0.0.1"),
            &[":5: Endpoint: \"10.0.0.1\"", "no port"],
        ),
        (
            peer("PersistentKeepalive = -1"),
            &[":5: PersistentKeepalive: \"-1\""],
        ),
        (
            format!("MTU = 1\n{}", interface("")),
            &[":1: MTU: no [Interface] or [Peer] line"],
        ),
        (String::new(), &["wg0.conf: private key: is missing"]),
        (
            "[Interface]".to_owned(),
            &[":1: private key: is missing", "genkey"],
        ),
    ] {
        says(&error("wg0.conf", &text), parts);
    }
    says(
        &error("a name with spaces.conf", &interface("")),
        &["\"a name with spaces\"", "--name"],
    );
    let own = peer("").replace(PEER_A, OWN_PUBLIC);
    says(&error("wg0.conf", &own), &[":4: PublicKey: ", OWN_PUBLIC]);
}

#[test]
fn no_error_repeats_a_secret() {
    let bent = &PRIVATE[..43];
    for text in [
        format!("[Interface]\nPrivateKey = {bent}"),
        format!("[Interface]\n{PRIVATE}"),
        format!("[Interface]\nPrivateKey {PRIVATE}"),
        PRIVATE.to_owned(),
        format!("{PRIVATE} = 1"),
        peer(&format!("PresharedKey = {bent}")),
    ] {
        let message = error("wg0.conf", &text);
        assert!(!message.contains(&bent[..8]), "{message}");
    }
}
