//! The vectors of `tests/vectors/kubespan.json` that are about discovery.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use serde_json::Value;

use super::cipher::{ClusterCipher, EndpointError, endpoint_of, padded};
use super::messages::StoredAffiliate;
use super::payload::{decode_affiliate, encode_affiliate, encode_endpoint, ip_of};
use super::roster::{Change, Roster};
use super::route::ServerUrl;
use crate::control::kubespan::{Affiliate, ControlPlane, KubeSpan, Prefix};
use crate::crypto::{NoRandomness, Random, SeededRandom};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/kubespan.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"))
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = text(value).as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn ip(value: &Value) -> IpAddr {
    ip_of(&hex(value)).unwrap()
}

fn cipher(crypto: &Value) -> ClusterCipher {
    let key: [u8; 32] = hex(&crypto["key_hex"]).try_into().unwrap();
    ClusterCipher::new(&key.into()).unwrap()
}

/// Draws what it is given.
struct Fixed(Vec<u8>);

impl Random for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

#[test]
fn endpoints() {
    let crypto = &vectors()["discovery_crypto"];
    let cipher = cipher(crypto);
    let cases = list(&crypto["endpoints"]);
    assert_eq!(cases.len(), 5);
    for case in cases {
        let endpoint: SocketAddr = text(&case["endpoint"]).parse().unwrap();
        assert_eq!(encode_endpoint(endpoint), hex(&case["protobuf_hex"]));
        assert_eq!(padded(endpoint), hex(&case["padded_hex"]));
        let blob = cipher.seal_endpoint(endpoint).unwrap();
        assert_eq!(blob, hex(&case["aes256_ecb_hex"]));
        assert_eq!(Some(blob.len() as u64), case["wire_len"].as_u64());
        assert_eq!(cipher.open_endpoint(&blob), Ok(endpoint));
    }
}

#[test]
fn hostile_endpoints() {
    let crypto = &vectors()["discovery_crypto"];
    let cipher = cipher(crypto);
    let cases = list(&crypto["hostile_endpoints"]);
    assert_eq!(cases.len(), 4);
    for case in cases {
        if let Some(length) = case["ciphertext_len"].as_u64() {
            let length = usize::try_from(length).unwrap();
            let error = cipher.open_endpoint(&vec![0; length]);
            assert_eq!(error, Err(EndpointError::Length { length }));
        } else {
            let plain = hex(&case["plaintext_hex"]);
            assert_eq!(endpoint_of(&plain), Err(EndpointError::Noise));
        }
    }
}

#[test]
fn affiliate() {
    let crypto = &vectors()["discovery_crypto"];
    let cipher = cipher(crypto);
    let (case, message) = (&crypto["affiliate"], &crypto["affiliate"]["message"]);
    let kubespan = &message["kubespan"];
    let prefix = |value: &Value| Prefix {
        address: ip(&value["ip_hex"]),
        bits: value["bits"].as_u64().unwrap().try_into().unwrap(),
    };
    let port = message["control_plane"]["api_server_port"]
        .as_u64()
        .unwrap();
    let affiliate = Affiliate {
        node_id: text(&message["node_id"]).into(),
        addresses: list(&message["addresses_hex"]).iter().map(ip).collect(),
        hostname: text(&message["hostname"]).into(),
        nodename: text(&message["nodename"]).into(),
        operating_system: text(&message["operating_system"]).into(),
        machine_type: text(&message["machine_type"]).parse().unwrap(),
        kubespan: KubeSpan {
            public_key: text(&kubespan["public_key"]).into(),
            address: Some(ip(&kubespan["address_hex"])),
            additional_addresses: list(&kubespan["additional_addresses"])
                .iter()
                .map(prefix)
                .collect(),
            ..KubeSpan::default()
        },
        control_plane: Some(ControlPlane {
            api_server_port: port.try_into().unwrap(),
        }),
    };
    assert_eq!(encode_affiliate(&affiliate), hex(&case["protobuf_hex"]));
    assert_eq!(
        decode_affiliate(&hex(&case["protobuf_hex"])).as_ref(),
        Ok(&affiliate)
    );
    let mut nonce = Fixed(hex(&case["nonce_hex"]));
    let data = cipher.seal_affiliate(&affiliate, &mut nonce).unwrap();
    assert_eq!(data, hex(&case["data_hex"]));
    assert_eq!(cipher.open_affiliate(&data), Ok(affiliate));
}

/// A member's own endpoints and those that others have found come out as one.
#[test]
fn messages() {
    let vectors = vectors();
    let cases = list(&vectors["discovery_messages"]["cases"]);
    assert_eq!(cases.len(), 1);
    for case in cases {
        let kubespan = &case["kubespan"];
        let prefixes = |value: &Value| {
            let prefix = |text: &str| {
                let (address, bits) = text.split_once('/').unwrap();
                Prefix {
                    address: address.parse().unwrap(),
                    bits: bits.parse().unwrap(),
                }
            };
            list(value).iter().map(|one| prefix(text(one))).collect()
        };
        let endpoint = |value: &Value| text(value).parse::<SocketAddr>().unwrap();
        let sent = Affiliate {
            node_id: text(&case["node_id"]).into(),
            addresses: list(&case["addresses_hex"]).iter().map(ip).collect(),
            hostname: text(&case["hostname"]).into(),
            nodename: text(&case["nodename"]).into(),
            operating_system: text(&case["operating_system"]).into(),
            machine_type: text(&case["machine_type"]).parse().unwrap(),
            kubespan: KubeSpan {
                public_key: text(&kubespan["public_key"]).into(),
                address: Some(text(&kubespan["address"]).parse().unwrap()),
                additional_addresses: prefixes(&kubespan["additional"]),
                exclude_advertised_networks: prefixes(&kubespan["exclude"]),
                endpoints: Vec::new(),
            },
            control_plane: None,
        };
        let cipher = || ClusterCipher::new(&[9; 32].into()).unwrap();
        let found = endpoint(&case["endpoint_pushed_by_another_member"]);
        let mut endpoints: Vec<_> = list(&case["own_endpoints"]).iter().map(endpoint).collect();
        endpoints.push(found);
        let stored = StoredAffiliate {
            id: sent.node_id.clone(),
            data: cipher()
                .seal_affiliate(&sent, &mut SeededRandom::new(1))
                .unwrap(),
            endpoints: endpoints
                .iter()
                .map(|endpoint| cipher().seal_endpoint(*endpoint).unwrap())
                .collect(),
        };
        let mut expected = sent;
        expected.kubespan.endpoints = list(&case["expect_endpoints"])
            .iter()
            .map(endpoint)
            .collect();
        let changes = Roster::new(cipher(), String::new(), Duration::ZERO).snapshot(&[stored]);
        assert_eq!(changes, [Change::Member(Box::new(expected))]);
    }
}

#[test]
fn urls() {
    let vectors = vectors();
    let cases = list(&vectors["discovery_endpoint_url"]["cases"]);
    assert_eq!(cases.len(), 7);
    for case in cases {
        let url: ServerUrl = text(&case["url"]).parse().unwrap();
        assert_eq!(url.authority(), text(&case["addr"]));
        assert_eq!(Some(!url.tls()), case["insecure"].as_bool());
    }
}

#[test]
fn constants() {
    let vectors = vectors();
    let constants = &vectors["constants"];
    assert_eq!(
        text(&constants["discovery_default_endpoint"]),
        super::DEFAULT_URL
    );
    let limits = &constants["server_limits"];
    for (name, value) in [
        ("affiliate_data_bytes_max", super::MAX_DATA_LEN),
        ("affiliate_endpoint_bytes_max", super::MAX_ENDPOINT_LEN),
        ("affiliates_per_cluster_max", super::MAX_AFFILIATES),
        ("endpoints_per_affiliate_max", super::MAX_ENDPOINTS),
    ] {
        assert_eq!(limits[name].as_u64(), Some(value as u64), "{name}");
    }
    for name in ["cluster_id_bytes", "affiliate_id_bytes"] {
        assert_eq!(
            limits[name][1].as_u64(),
            Some(super::MAX_ID_LEN as u64),
            "{name}"
        );
    }
}

#[cfg(feature = "discovery")]
#[test]
fn timings() {
    let vectors = vectors();
    let constants = &vectors["constants"];
    let timings = super::Timings::default();
    for (name, value) in [
        ("discovery_ttl_s", timings.ttl),
        ("discovery_refresh_s", timings.refresh),
        ("hello_timeout_s", timings.call),
        ("refresh_timeout_s", timings.refresh_calls),
        ("grpc_keepalive_s", timings.keepalive()),
    ] {
        assert_eq!(constants[name].as_u64(), Some(value.as_secs()), "{name}");
    }
    let backoff = &constants["backoff"];
    let millis = |time: Duration| u64::try_from(time.as_millis()).ok();
    assert_eq!(backoff["initial_ms"].as_u64(), millis(timings.first_wait));
    assert_eq!(
        backoff["max_interval_s"].as_u64(),
        Some(timings.longest_wait.as_secs())
    );
}
