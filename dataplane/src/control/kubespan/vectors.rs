//! The facts about Talos's KubeSpan, as inputs and outputs: `tests/vectors/kubespan.json`. What it
//! has of the discovery service is tested there.

use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use ipnet::IpNet;
use serde_json::Value;

use super::affiliate::{Affiliate, ControlPlane, KubeSpan, Prefix, merge_all};
use super::endpoints::{announced, harvest};
use super::peer_spec::peer_specs;
use super::rotation::{Rotation, Seen};
use super::ula::{self, Purpose};
use super::{ClusterId, Identity, annotations, routing};
use crate::control::{PeerSpec, PeerState, PeerStatus, Plan};
use crate::crypto::{KeyPair, PrivateKey, PublicKey};
use crate::time::Instant;

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../tests/vectors/kubespan.json")).unwrap()
});

/// The entries of a list; a test over none would prove nothing.
fn entries(value: &'static Value) -> &'static [Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn parse<T: FromStr<Err: core::fmt::Debug>>(value: &Value) -> T {
    text(value).parse().unwrap()
}

/// A list of texts; empty where there is none.
fn list<T: FromStr<Err: core::fmt::Debug>>(value: &Value) -> Vec<T> {
    let items = value.as_array();
    items
        .map(|items| items.iter().map(parse).collect())
        .unwrap_or_default()
}

fn cluster(value: &Value) -> ClusterId {
    ClusterId::new(text(value)).unwrap()
}

fn mac(value: &Value) -> Vec<u8> {
    let bytes = text(value).split(':');
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn state(value: &Value) -> PeerState {
    match text(value) {
        "unknown" => PeerState::Unknown,
        "up" => PeerState::Up,
        "down" => PeerState::Down,
        other => panic!("{other}"),
    }
}

fn purpose(value: &Value) -> Purpose {
    match value.as_u64() {
        Some(2) => Purpose::KubeSpan,
        Some(3) => Purpose::SideroLink,
        other => panic!("{other:?}"),
    }
}

#[test]
fn constants() {
    let constants = &VECTORS["constants"];
    let number = |name: &str| constants[name].as_u64().unwrap();
    assert_eq!(text(&constants["link_name"]), super::LINK_NAME);
    assert_eq!(
        text(&constants["identity_file"]),
        super::identity_file::FILE_NAME
    );
    let interval = |duration: Duration| duration.as_secs();
    for (name, value) in [
        ("listen_port", super::LISTEN_PORT.into()),
        ("mtu_default", super::DEFAULT_MTU.into()),
        ("mtu_min", super::MIN_MTU.into()),
        (
            "persistent_keepalive_s",
            super::PERSISTENT_KEEPALIVE.map_or(0, |s| s.get().into()),
        ),
        ("fwmark_wireguard_egress", super::FWMARK_EGRESS.into()),
        ("fwmark_force_route", super::FWMARK_FORCE_ROUTE.into()),
        ("fwmark_mask", super::FWMARK_MASK.into()),
        ("fwmark_clear_mask", (!super::FWMARK_MASK).into()),
        ("routing_table", super::ROUTING_TABLE.into()),
        ("route_metric", super::ROUTE_METRIC.into()),
        ("rule_priority", super::RULE_PRIORITY.into()),
        ("reconcile_interval_s", interval(super::RECONCILE_INTERVAL)),
        (
            "peer_down_interval_s",
            interval(crate::control::status::PEER_DOWN_INTERVAL),
        ),
        (
            "endpoint_connection_timeout_s",
            interval(crate::control::status::ENDPOINT_CONNECTION_TIMEOUT),
        ),
    ] {
        assert_eq!(number(name), value, "{name}");
    }
    for (name, value) in [
        ("unknown", Purpose::Unknown),
        ("bootstrap", Purpose::Bootstrap),
        ("kubespan", Purpose::KubeSpan),
        ("siderolink", Purpose::SideroLink),
        ("virtual_siderolink", Purpose::VirtualSideroLink),
    ] {
        assert_eq!(constants["ula_purpose"][name], value as u8);
    }
    assert_eq!(routing::mark_into_tunnel(0xffff_ffff), 0xffff_ff9f ^ 0x40);
}

#[test]
fn ula_prefixes() {
    for case in entries(&VECTORS["ula_prefix"]) {
        let prefix = ula::prefix(&cluster(&case["cluster_id"]), purpose(&case["purpose"]));
        assert_eq!(prefix.to_string(), text(&case["prefix"]));
    }
    for case in entries(&VECTORS["is_ula"]) {
        let is = ula::is_ula(parse(&case["address"]), purpose(&case["purpose"]));
        assert_eq!(is, case["expect"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn addresses() {
    for case in entries(&VECTORS["eui64"]) {
        let address = ula::eui64(parse(&case["prefix"]), &mac(&case["mac"]));
        match case.get("address") {
            Some(expected) => assert_eq!(address.unwrap().to_string(), text(expected)),
            None => assert!(address.is_err(), "{case}"),
        }
    }
    for case in entries(&VECTORS["node_address"]) {
        let key = PrivateKey::from([1; 32]);
        let id = Identity::new(key, &cluster(&case["cluster_id"]), &mac(&case["mac"])).unwrap();
        assert_eq!(format!("{}/128", id.address), text(&case["address"]));
        assert_eq!(id.subnet.to_string(), text(&case["subnet"]));
    }
}

#[test]
fn key_pairs() {
    for case in entries(&VECTORS["identity"]) {
        let pair = KeyPair::new(&parse(&case["privateKey"])).unwrap();
        assert_eq!(pair.public().to_string(), text(&case["publicKey"]));
    }
}

fn affiliate(value: &Value) -> Affiliate {
    let kubespan = value.get("kubespan").unwrap_or(value);
    let own = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let nets = |name: &str| {
        list::<IpNet>(&kubespan[name])
            .into_iter()
            .map(Prefix::from)
            .collect()
    };
    let port = value.get("controlPlanePort").and_then(Value::as_u64);
    Affiliate {
        node_id: own("nodeId"),
        addresses: list(&value["addresses"]),
        hostname: own("hostname"),
        nodename: own("nodename"),
        operating_system: String::new(),
        machine_type: value.get("machineType").map(parse).unwrap_or_default(),
        kubespan: KubeSpan {
            public_key: kubespan["publicKey"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            address: kubespan.get("address").map(parse),
            additional_addresses: nets("additionalAddresses"),
            exclude_advertised_networks: nets("excludeAdvertisedNetworks"),
            endpoints: list(&kubespan["endpoints"]),
        },
        control_plane: port.map(|port| ControlPlane {
            api_server_port: port.try_into().unwrap(),
        }),
    }
}

#[test]
fn specs_of_peers() {
    for case in entries(&VECTORS["peer_specs"]) {
        let affiliates: Vec<_> = entries(&case["affiliates"]).iter().map(affiliate).collect();
        let result = peer_specs(text(&case["local_node_id"]), &affiliates);
        let expected = case["expect"].as_object().unwrap();
        let keys: BTreeSet<_> = result.specs.keys().collect();
        assert_eq!(keys, expected.keys().collect(), "{}", case["name"]);
        for (key, expected) in expected {
            let spec = &result.specs[key];
            let nets: Vec<_> = spec.allowed_ips.iter().map(ToString::to_string).collect();
            assert_eq!(
                nets,
                list::<String>(&expected["allowedIPs"]),
                "{}",
                case["name"]
            );
            if expected.get("label").is_some() {
                assert_eq!(spec.address, parse::<IpAddr>(&expected["address"]));
                assert_eq!(spec.endpoints, list(&expected["endpoints"]));
                assert_eq!(spec.label, text(&expected["label"]));
            }
        }
    }
}

#[test]
fn states_of_peers() {
    let vectors = &VECTORS["peer_state"];
    let cases = entries(&vectors["cases"]).iter();
    for case in cases.chain(entries(&vectors["boundary_cases"]["cases"])) {
        let ago = |name: &str| Duration::from_nanos(case[name].as_u64().unwrap());
        let change = ago("since_change");
        let chosen = case["last_used_endpoint"]
            .as_bool()
            .unwrap()
            .then_some(change);
        let seen = PeerState::assess(chosen, Some(ago("since_handshake")));
        assert_eq!(seen, state(&case["expect"]), "{case}");
    }
}

#[test]
fn choice_of_endpoints() {
    let mut rotation = Rotation::default();
    let mut active = None;
    for (second, step) in (1..).zip(entries(&VECTORS["pick_endpoint"]["steps"])) {
        let endpoints: Vec<SocketAddr> = list(&step["endpoints"]);
        // Down at each step: as if nothing had ever answered.
        let now = Instant::from_secs(1000 * second);
        let next = rotation.advance(
            now,
            &Seen {
                endpoints: &endpoints,
                active,
                last_handshake: None,
                standing: true,
                initiating: true,
            },
        );
        let expected = step["expect"].as_str().map(|text| text.parse().unwrap());
        assert_eq!(next, expected, "step {second}");
        active = next.or(active);
    }
    for case in entries(&VECTORS["pick_endpoint"]["derived"]) {
        let mut rotation = Rotation::default();
        rotation.choose(Instant::from_secs(1), parse(&case["last_used_endpoint"]));
        let next = rotation.next(&list(&case["endpoints"]), Some(parse(&case["endpoint"])));
        assert_eq!(next, Some(parse(&case["expect"])));
    }
}

#[test]
fn routed_sets() {
    for case in entries(&VECTORS["routed_set"]["cases"]) {
        let peers: Vec<(PeerState, Vec<IpNet>)> = entries(&case["peers"])
            .iter()
            .map(|peer| (state(&peer["state"]), list(&peer["allowedIPs"])))
            .collect();
        let force = case["force_routing"].as_bool().unwrap();
        let routed = routing::routed(force, peers.iter().map(|(state, nets)| (*state, &nets[..])));
        assert_eq!(routed, list::<IpNet>(&case["expect"]), "{case}");
    }
}

#[test]
fn segment_sizes() {
    for case in entries(&VECTORS["mss_clamp"]["cases"]) {
        let sizes = routing::segment_sizes(case["mtu"].as_u64().unwrap().try_into().unwrap());
        assert_eq!(
            (&case["ipv4"], &case["ipv6"]),
            (&sizes.ipv4.into(), &sizes.ipv6.into())
        );
    }
}

#[test]
fn harvested_endpoints() {
    let vectors = &VECTORS["harvest"];
    let affiliates: BTreeMap<PublicKey, String> = vectors["affiliates"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, id)| (key.parse().unwrap(), text(id).to_owned()))
        .collect();
    let statuses: Vec<_> = entries(&vectors["statuses"])
        .iter()
        .map(|status| PeerStatus {
            endpoint: Some(parse(&status["endpoint"])),
            state: state(&status["state"]),
            ..PeerStatus::new(parse(&status["id"]))
        })
        .collect();
    let harvested = harvest(&statuses, &affiliates);
    let expected = entries(&vectors["expect"]);
    assert_eq!(harvested.len(), expected.len());
    for (found, expected) in harvested.iter().zip(expected) {
        assert_eq!(found.public_key, parse(&expected["id"]));
        assert_eq!(found.affiliate_id, text(&expected["affiliateID"]));
        assert_eq!(found.endpoint, parse(&expected["endpoint"]));
    }
}

#[test]
fn own_endpoints() {
    let case = &VECTORS["local_affiliate_endpoints"];
    let mut own: Vec<IpAddr> = list(&case["current_addresses"]);
    // Which addresses are the node's own networks' is for whoever lists them.
    own.retain(|&address| !ula::is_ula(address, Purpose::SideroLink));
    let filters = list(&case["filters"]);
    let extra = list(&case["extra"]);
    let endpoints = announced(
        &own,
        &list(&case["discovered_public"]),
        &filters,
        &extra,
        super::LISTEN_PORT,
    );
    assert_eq!(endpoints, list(&case["expect"]));
}

#[test]
fn merged_affiliates() {
    for case in entries(&VECTORS["affiliate_merge"]["cases"]) {
        let [mut a, mut b, mut expected] = ["a", "b", "expect"].map(|name| affiliate(&case[name]));
        let mut merged = a.clone();
        merged.merge(&b);
        assert_eq!(merged, expected);
        merged.merge(&b);
        assert_eq!(merged, expected, "twice is once");

        for node in [&mut a, &mut b, &mut expected] {
            "N".clone_into(&mut node.node_id);
        }
        let raw = BTreeMap::from([("service/N".to_owned(), b), ("k8s/N".to_owned(), a)]);
        assert_eq!(
            merge_all(&raw),
            BTreeMap::from([("N".to_owned(), expected)])
        );
    }
}

#[test]
fn kubernetes_annotations() {
    let case = &VECTORS["kubernetes_annotations"];
    let mut annotations: BTreeMap<_, _> = case["annotations"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), text(value).to_owned()))
        .collect();
    let found = annotations::affiliate(&annotations).unwrap();
    assert_eq!(found.node_id, text(&case["nodeId"]));
    let list = |items: &[Prefix]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    let kubespan = found.kubespan;
    assert_eq!(
        kubespan.public_key,
        "PLPNBddmTgHJhtw0vxltq1ZBdPP9RNOEUd5JjJZzBRY="
    );
    assert_eq!(
        kubespan.address,
        Some("fd50:8d60:4238:6302:f857:23ff:fe21:d1e0".parse().unwrap())
    );
    assert_eq!(list(&kubespan.additional_addresses), ["10.244.3.1/24"]);
    assert_eq!(
        list(&kubespan.exclude_advertised_networks),
        ["0.0.0.0/0", "::/0"]
    );
    assert_eq!(kubespan.endpoints.len(), 2);
    assert_eq!(found.addresses.len(), 2);
    assert_eq!(found.control_plane, None);

    let name = "networking.talos.dev/kubespan-endpoints".to_owned();
    annotations.insert(name, "nowhere, 10.0.0.2:51820".to_owned());
    let found = annotations::affiliate(&annotations).unwrap();
    assert_eq!(
        found.kubespan.endpoints,
        ["10.0.0.2:51820".parse().unwrap()]
    );
    annotations.remove("cluster.talos.dev/node-id");
    assert_eq!(annotations::affiliate(&annotations), None);
}

/// The outcomes that `wireguard_diff` has in words.
#[test]
fn differences() {
    let names: Vec<_> = entries(&VECTORS["wireguard_diff"]["cases"])
        .iter()
        .map(|case| text(&case["name"]))
        .collect();
    let expected = [
        "from nothing to two peers",
        "same to same",
        "second peer gone",
        "desired endpoint empty",
        "desired port 0",
    ];
    assert_eq!(names, expected, "a new case wants a new test");

    let own = PublicKey::from([9; 32]);
    let spec = |byte: u8| PeerSpec {
        endpoints: vec![SocketAddr::from(([192, 0, 2, byte], 51820))],
        allowed_ips: vec![format!("10.0.{byte}.0/24").parse().unwrap()],
        ..PeerSpec::new([byte; 32].into())
    };
    let both = [spec(1), spec(2)];
    let plan = Plan::new(&own, &BTreeMap::<_, PeerSpec>::new(), &both);
    assert_eq!(
        plan,
        Plan {
            add: both.to_vec(),
            ..Plan::default()
        }
    );

    let running = both
        .iter()
        .map(|spec| (spec.public_key, spec.clone()))
        .collect();
    let plan = Plan::new(&own, &running, &both);
    assert_eq!(
        plan,
        Plan {
            unchanged: 2,
            ..Plan::default()
        }
    );

    let plan = Plan::new(&own, &running, &both[..1]);
    let remove = vec![both[1].public_key];
    assert_eq!(
        plan,
        Plan {
            unchanged: 1,
            remove,
            ..Plan::default()
        }
    );
    // That an empty endpoint leaves the running one alone is shown where peers run:
    // `control/handle.rs`. A port is not this plan's.
}

/// Whoever adds an entry adds a test.
#[test]
fn no_entry_is_left_out() {
    let tests = [
        include_str!("vectors.rs"),
        include_str!("../discovery/vectors.rs"),
        include_str!("../member/node_id.rs"),
    ]
    .concat();
    for (name, _) in VECTORS.as_object().unwrap() {
        let about = name == "_about" || name.ends_with("_origin");
        // The service's memory is tested where it is written: in the crate of the tests.
        let elsewhere = name == "discovery_server_state";
        let tested = tests.contains(&format!("[\"{name}\"]"));
        assert!(about || elsewhere || tested, "nothing tests {name}");
    }
}
