//! A request on the configuration socket is read: any bytes give a request or an error with an
//! errno, and what a request sets is shown again in a way that can be set.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringspan::control::uapi::{Request, answer};
use ringspan::control::{AllowedIpChange, DeviceChange, DeviceState, PeerChange, PeerSettings};

fuzz_target!(|text: &[u8]| {
    let interfaces = |name: &str| (name == "eth0").then_some(2);
    match Request::parse(text, &interfaces) {
        Ok(Request::Get) => assert!(text.starts_with(b"get=1")),
        Ok(Request::Set(change)) => show_and_set(&change),
        Err(error) => {
            assert!(error.errno().raw() > 0);
            assert!(!error.to_string().is_empty());
        }
    }
});

/// What of a change a device can show, shown, read again: it must be the same.
fn show_and_set(change: &DeviceChange) {
    let device = DeviceState {
        private_key: change.private_key.clone(),
        listen_port: change.listen_port.unwrap_or(0),
        fwmark: change.fwmark.unwrap_or(0),
        peers: change.peers.iter().map(settings).collect(),
    };
    let shown = answer::state(&device);
    let read_only = ["errno=", "rx_bytes=", "tx_bytes=", "last_handshake_time_"];
    let settable = shown
        .lines()
        .filter(|line| !line.is_empty() && !read_only.iter().any(|key| line.starts_with(key)));
    let text: String = std::iter::once("set=1")
        .chain(settable)
        .flat_map(|line| [line, "\n"])
        .collect();
    let Ok(Request::Set(again)) = Request::parse(text.as_bytes(), &|_| None) else {
        panic!("what is shown cannot be set: {text}");
    };
    assert_eq!(again.private_key, change.private_key);
    let peers: Vec<PeerSettings> = again.peers.iter().map(settings).collect();
    assert_eq!(peers, device.peers);
}

fn settings(peer: &PeerChange) -> PeerSettings {
    let added = peer.allowed_ips.iter().filter_map(|change| match change {
        AllowedIpChange::Add(prefix) => Some(*prefix),
        AllowedIpChange::Remove(_) => None,
    });
    PeerSettings {
        public_key: peer.public_key,
        preshared_key: peer
            .preshared_key
            .clone()
            .filter(|key| key.as_bytes() != &[0; 32]),
        endpoint: peer.endpoint,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        persistent_keepalive: peer
            .persistent_keepalive
            .and_then(std::num::NonZeroU16::new),
        allowed_ips: added.collect(),
    }
}
