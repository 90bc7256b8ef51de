use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::super::{
    Config, EndpointName, LogLevel, OuterChoice, OuterDriver, OuterSend, PeerConfig, Routes,
    TxChecksum, XdpMode, render,
};
use super::{PRIVATE, read};

/// Lines that get past the first checks more often than random characters do.
fn plausible_line() -> impl Strategy<Value = String> {
    let section = prop::sample::select(vec![
        "[Interface]",
        "[Peer]",
        "[interface]",
        "[outer]",
        "[runtime]",
        "[[peer]]",
        "[peer",
    ])
    .prop_map(str::to_owned);
    let key = prop::sample::select(vec![
        "PrivateKey",
        "ListenPort",
        "Address",
        "MTU",
        "FwMark",
        "Table",
        "DNS",
        "PostUp",
        "SaveConfig",
        "PublicKey",
        "PresharedKey",
        "AllowedIPs",
        "Endpoint",
        "PersistentKeepalive",
        "name",
        "private_key",
        "listen_port",
        "addresses",
        "mtu",
        "fwmark",
        "table",
        "nested_allowed_ips",
        "driver",
        "interface",
        "busy_poll",
        "busy_poll_budget",
        "tx_checksum",
        "workers",
        "spin",
        "log",
        "label",
        "public_key",
        "preshared_key",
        "endpoints",
        "allowed_ips",
        "persistent_keepalive",
        "private_ky",
    ]);
    let value = prop_oneof![
        Just(format!("\"{PRIVATE}\"")),
        Just(PRIVATE.to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u16>().prop_map(|n| format!("{n:#x}")),
        any::<(IpAddr, u8)>().prop_map(|(a, l)| format!("{a}/{l}")),
        any::<(IpAddr, u8)>().prop_map(|(a, l)| format!("[\"{a}/{l}\"]")),
        any::<SocketAddr>().prop_map(|a| format!("[\"{a}\"]")),
        any::<bool>().prop_map(|b| b.to_string()),
        ".*",
    ];
    prop_oneof![
        1 => section,
        4 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => ".*",
    ]
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let v4 = any::<([u8; 4], u8)>().prop_map(|(a, l)| IpNet::new(a.into(), 1 + l % 32).unwrap());
    let v6 = any::<([u8; 16], u8)>().prop_map(|(a, l)| IpNet::new(a.into(), 1 + l % 128).unwrap());
    btree_set(prop_oneof![v4, v6], 0..6).prop_map(|set| set.into_iter().collect())
}

fn endpoint() -> impl Strategy<Value = EndpointName> {
    let address = any::<(IpAddr, NonZeroU16)>()
        .prop_map(|(ip, port)| EndpointName::Address(SocketAddr::new(ip, port.get())));
    let host = (
        "[a-z][a-z0-9]{0,10}(\\.[a-z][a-z0-9_]{0,10}){0,3}",
        any::<NonZeroU16>(),
    )
        .prop_map(|(name, port)| EndpointName::Host {
            name,
            port: port.get(),
        });
    prop_oneof![address, host]
}

fn peer() -> impl Strategy<Value = PeerConfig> {
    (
        "[a-z]([a-z .-]{0,20}[a-z])?",
        proptest::option::of(any::<[u8; 32]>()),
        vec(endpoint(), 0..3),
        prefixes(),
        any::<u16>(),
    )
        .prop_map(
            |(label, psk, endpoints, allowed_ips, keepalive)| PeerConfig {
                label,
                public_key: [0; 32].into(),
                preshared_key: psk.map(Into::into),
                endpoints,
                allowed_ips,
                persistent_keepalive: NonZeroU16::new(keepalive),
            },
        )
}

/// Configurations with what both formats can express, but for the fields of `outer` and below.
fn config() -> impl Strategy<Value = Config> {
    let routes = prop_oneof![
        Just(Routes::Auto),
        Just(Routes::Off),
        (1..254u32).prop_map(Routes::Table),
    ];
    let driver = prop::sample::select(vec![OuterDriver::Auto, OuterDriver::Xdp, OuterDriver::Udp]);
    let interface = proptest::option::of("[a-z][a-z0-9.]{0,14}");
    let send = prop::sample::select(vec![OuterSend::Auto, OuterSend::Xdp, OuterSend::Udp]);
    let mode = prop::sample::select(vec![XdpMode::Auto, XdpMode::Copy, XdpMode::Generic]);
    let tx_checksum = prop::sample::select(vec![
        TxChecksum::Auto,
        TxChecksum::Software,
        TxChecksum::Device,
    ]);
    let polling = (0..=10_000u16, any::<u16>(), tx_checksum);
    let outer = (driver, interface, send, mode, polling).prop_map(
        |(driver, interface, send, mode, (busy_poll, budget, tx_checksum))| OuterChoice {
            driver,
            interface,
            send,
            mode,
            busy_poll,
            busy_poll_budget: NonZeroU16::new(budget),
            tx_checksum,
        },
    );
    let log = prop::sample::select(vec![LogLevel::Off, LogLevel::Warn, LogLevel::Trace]);
    (
        (
            any::<[u8; 32]>(),
            any::<u16>(),
            prefixes(),
            1280..=65455u16,
            any::<u32>(),
        ),
        (routes, outer, 0usize..=256, 0..=10_000u16, log),
        btree_map(any::<[u8; 32]>(), peer(), 0..5),
    )
        .prop_map(|(one, two, peers)| {
            let (private_key, listen_port, addresses, mtu, fwmark) = one;
            let (routes, outer, workers, spin, log) = two;
            let mut taken = std::collections::BTreeSet::new();
            let peers = peers
                .into_iter()
                .map(|(key, mut peer)| {
                    peer.public_key = key.into();
                    for prefix in &mut peer.allowed_ips {
                        *prefix = prefix.trunc();
                    }
                    peer.allowed_ips.retain(|prefix| taken.insert(*prefix));
                    peer
                })
                .collect();
            Config {
                name: "wg0".into(),
                private_key: private_key.into(),
                listen_port,
                addresses,
                mtu,
                fwmark,
                routes,
                outer,
                workers: NonZeroUsize::new(workers),
                spin,
                log,
                peers,
            }
        })
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "(?s).{0,400}") {
        let _ = read("wg0.toml", &text);
        let _ = read("wg0.conf", &text);
    }

    #[test]
    fn plausible_text_never_panics_and_errors_are_one_line(lines in vec(plausible_line(), 0..12)) {
        let text = lines.join("\n");
        for name in ["wg0.toml", "wg0.conf"] {
            if let Err(error) = read(name, &text) {
                let message = error.to_string();
                prop_assert!(!message.chars().any(char::is_control), "{message:?}");
            }
        }
    }

    #[test]
    fn toml_reads_back(config in config()) {
        let text = render::toml(&config);
        match read("wg0.toml", &text) {
            Ok(loaded) => prop_assert_eq!(loaded.config, config),
            Err(error) => prop_assert!(false, "{error}\n{text}"),
        }
    }

    #[test]
    fn wg_quick_reads_back(config in config(), crlf: bool) {
        let mut config = config;
        config.outer = OuterChoice::default();
        config.workers = None;
        config.spin = 0;
        config.log = LogLevel::default();
        for peer in &mut config.peers {
            peer.endpoints.truncate(1);
        }
        let text = render::conf(&config, if crlf { "\r\n" } else { "\n" });
        match read("wg0.conf", &text) {
            Ok(loaded) => prop_assert_eq!(loaded.config, config),
            Err(error) => prop_assert!(false, "{error}\n{text}"),
        }
    }
}
