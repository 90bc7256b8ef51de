//! Writes configurations in both formats, so that tests can read them back.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Config, OuterSend, Routes, TxChecksum, XdpMode};

fn secret(bytes: &[u8; 32]) -> String {
    STANDARD.encode(bytes)
}

fn quoted(text: &str) -> String {
    ::toml::Value::from(text).to_string()
}

fn list<T: ToString>(values: &[T]) -> String {
    let values: Vec<_> = values.iter().map(|v| quoted(&v.to_string())).collect();
    format!("[{}]", values.join(", "))
}

/// The configuration as TOML, every key written.
pub(super) fn toml(config: &Config) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").unwrap();
    line("[interface]".into());
    line(format!("name = {}", quoted(&config.name)));
    line(format!(
        "private_key = \"{}\"",
        secret(config.private_key.as_bytes())
    ));
    line(format!("listen_port = {}", config.listen_port));
    line(format!("addresses = {}", list(&config.addresses)));
    line(format!("mtu = {:#x}", config.mtu));
    line(format!("fwmark = \"{:#x}\"", config.fwmark));
    line(match config.routes {
        Routes::Auto => "table = \"auto\"".into(),
        Routes::Off => "table = \"off\"".into(),
        Routes::Table(table) => format!("table = {table}"),
    });
    line("nested_allowed_ips = true".into());
    line(format!("[outer]\ndriver = \"{}\"", config.outer.driver));
    if let Some(interface) = &config.outer.interface {
        line(format!("interface = {}", quoted(interface)));
    }
    line(match config.outer.send {
        OuterSend::Auto => "send = \"auto\"".into(),
        OuterSend::Xdp => "send = \"xdp\"".into(),
        OuterSend::Udp => "send = \"udp\"".into(),
    });
    line(match config.outer.mode {
        XdpMode::Auto => "mode = \"auto\"".into(),
        XdpMode::Copy => "mode = \"copy\"".into(),
        XdpMode::Generic => "mode = \"generic\"".into(),
    });
    line(format!("busy_poll = {}", config.outer.busy_poll));
    if let Some(budget) = config.outer.busy_poll_budget {
        line(format!("busy_poll_budget = {budget}"));
    }
    line(match config.outer.tx_checksum {
        TxChecksum::Auto => "tx_checksum = \"auto\"".into(),
        TxChecksum::Software => "tx_checksum = \"software\"".into(),
        TxChecksum::Device => "tx_checksum = \"device\"".into(),
    });
    line("[runtime]".into());
    line(format!(
        "workers = {}",
        config.workers.map_or(0, usize::from)
    ));
    line(format!("spin = {}", config.spin));
    line(format!("log = \"{}\"", config.log.as_str()));
    for peer in &config.peers {
        line("[[peer]]".into());
        if !peer.label.is_empty() {
            line(format!("label = {}", quoted(&peer.label)));
        }
        line(format!("public_key = \"{}\"", peer.public_key));
        if let Some(key) = &peer.preshared_key {
            line(format!("preshared_key = \"{}\"", secret(key.as_bytes())));
        }
        line(format!("endpoints = {}", list(&peer.endpoints)));
        line(format!("allowed_ips = {}", list(&peer.allowed_ips)));
        line(format!(
            "persistent_keepalive = {}",
            peer.persistent_keepalive.map_or(0, u16::from)
        ));
    }
    out
}

/// The configuration in the format of `wg-quick`, as far as that goes: no drivers, workers, polling,
/// log level or name.
pub(super) fn conf(config: &Config, line_end: &str) -> String {
    let mut out = String::new();
    let mut line = |text: String| write!(out, "{text}{line_end}").unwrap();
    line("# a comment".into());
    line("[Interface]".into());
    line(format!(
        "PrivateKey = {} # not shown",
        secret(config.private_key.as_bytes())
    ));
    line(format!("listenport={}", config.listen_port));
    for address in &config.addresses {
        line(format!("Address = {address}"));
    }
    line(format!("MTU = {}", config.mtu));
    line(format!("FwMark = {:#x}", config.fwmark));
    line(match config.routes {
        Routes::Auto => "Table = auto".into(),
        Routes::Off => "TABLE = off".into(),
        Routes::Table(table) => format!("Table = {table}"),
    });
    for peer in &config.peers {
        line(String::new());
        line(format!("[peer]  # {}", peer.label));
        line(format!("PublicKey = {}", peer.public_key));
        if let Some(key) = &peer.preshared_key {
            line(format!("PresharedKey = {}", secret(key.as_bytes())));
        }
        for endpoint in &peer.endpoints {
            line(format!("Endpoint = {endpoint}"));
        }
        let prefixes: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        line(format!("AllowedIPs = {}", prefixes.join(" ,  ")));
        line(match peer.persistent_keepalive {
            None => "PersistentKeepalive = off".into(),
            Some(seconds) => format!("PersistentKeepalive = {seconds}"),
        });
    }
    out
}
