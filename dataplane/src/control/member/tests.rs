//! Tests of the pure part, and of the files.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::node_id::{self, NODE_ID_FILE};
use super::{Member, MemberError, Membership, Settings};
use crate::control::discovery::{Change, Refusal};
use crate::control::kubespan::config::DiscoveryService;
use crate::control::kubespan::hold_down::DELETION_GRACE;
use crate::control::kubespan::identity_file;
use crate::control::kubespan::{Affiliate, ClusterId, Identity, KubeSpan, MachineConfig};
use crate::control::testing::Directory;
use crate::control::{PeerSpec, PeerState, PeerStatus};
use crate::crypto::{PresharedKey, PrivateKey, PublicKey, SeededRandom};
use crate::time::Instant;

const ID: &str = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=";

fn at(secs: u64) -> Instant {
    Instant::from_secs(1000 + secs)
}

fn config() -> MachineConfig {
    MachineConfig {
        enabled: true,
        cluster_id: ClusterId::new(ID),
        cluster_secret: Some(PresharedKey::from([7; 32])),
        discovery_enabled: true,
        discovery_services: vec![DiscoveryService {
            name: String::new(),
            endpoint: "http://192.0.2.250:3000".to_owned(),
        }],
        ..MachineConfig::default()
    }
}

fn membership(config: MachineConfig, services: usize) -> Membership {
    let cluster = config.cluster_id.clone().unwrap();
    let key = PrivateKey::from([0x42; 32]);
    let settings = Settings {
        identity: Identity::new(key, &cluster, &[2, 0, 0, 0, 0, 1]).unwrap(),
        node_id: "own".to_owned(),
        hostname: "own.example.com".to_owned(),
        node_name: "own".to_owned(),
        operating_system: "Linux".to_owned(),
        advertised_networks: Vec::new(),
        config,
    };
    Membership::new(settings, services)
}

fn affiliate(byte: u8, address: &str) -> Affiliate {
    Affiliate {
        node_id: format!("node-{byte}"),
        nodename: format!("name-{byte}"),
        addresses: vec![address.parse().unwrap()],
        kubespan: KubeSpan {
            public_key: PublicKey::from([byte; 32]).to_string(),
            address: Some(format!("fd7f:175a:b97c:5602::{byte:x}").parse().unwrap()),
            endpoints: vec![SocketAddr::new(address.parse().unwrap(), 51820)],
            ..KubeSpan::default()
        },
        ..Affiliate::default()
    }
}

fn member(byte: u8, address: &str) -> Change {
    Change::Member(Box::new(affiliate(byte, address)))
}

fn vanished(byte: u8) -> Change {
    let node_id = format!("node-{byte}");
    Change::Vanished { node_id }
}

fn removed(byte: u8) -> Change {
    let node_id = format!("node-{byte}");
    Change::Removed { node_id }
}

fn keys(specs: &[PeerSpec]) -> Vec<u8> {
    let mut keys: Vec<_> = specs
        .iter()
        .map(|spec| spec.public_key.as_bytes()[0])
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_peer_has_the_clusters_secret_and_its_own_prefixes() {
    let mut own = membership(config(), 1);
    assert!(own.observe(0, member(2, "10.0.0.2")));
    let specs = own.peers(at(0));
    let spec = &specs[0];
    assert_eq!(spec.preshared_key, Some(PresharedKey::from([7; 32])));
    assert_eq!(spec.persistent_keepalive.unwrap().get(), 25);
    assert_eq!(spec.label, "name-2");
    let prefixes: Vec<String> = spec.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.2/32", "fd7f:175a:b97c:5602::2/128"]);
    assert_eq!(own.peer_specs()[0].endpoints, spec.endpoints);
}

#[test]
fn who_has_left_goes_and_who_has_vanished_is_held() {
    let mut own = membership(config(), 1);
    for byte in [2, 3, 4] {
        own.observe(0, member(byte, &format!("10.0.0.{byte}")));
    }
    assert_eq!(keys(&own.peers(at(0))), [2, 3, 4]);
    own.observe(0, removed(2));
    own.observe(0, vanished(3));
    assert_eq!(keys(&own.peers(at(1))), [3, 4]);
    assert_eq!(own.peer_specs().len(), 2, "a held one is shown");
    assert_eq!(own.next_expiry(), Some(at(1) + DELETION_GRACE));
    // Somebody else takes its address over: it keeps its mesh address.
    own.observe(0, member(5, "10.0.0.3"));
    let specs = own.peers(at(2));
    assert_eq!(keys(&specs), [3, 4, 5]);
    let held = specs.iter().find(|spec| spec.public_key.as_bytes()[0] == 3);
    assert_eq!(held.unwrap().allowed_ips.len(), 1);
    let late = at(1) + DELETION_GRACE;
    assert_eq!(keys(&own.peers(late)), [4, 5]);
    assert_eq!(own.next_expiry(), None);
}

#[test]
fn a_vanished_one_that_turns_out_to_have_left_is_held_no_longer() {
    let mut own = membership(config(), 1);
    own.observe(0, member(2, "10.0.0.2"));
    own.peers(at(0));
    own.observe(0, vanished(2));
    assert_eq!(keys(&own.peers(at(1))), [2]);
    own.observe(0, removed(2));
    assert_eq!(keys(&own.peers(at(2))), [0_u8; 0]);
}

#[test]
fn a_new_key_replaces_the_old_one_at_once() {
    let mut own = membership(config(), 1);
    own.observe(0, member(2, "10.0.0.2"));
    own.peers(at(0));
    let mut renewed = affiliate(3, "10.0.0.2");
    renewed.node_id = "node-2".to_owned();
    own.observe(0, Change::Member(Box::new(renewed)));
    assert_eq!(keys(&own.peers(at(1))), [3]);
}

#[test]
fn several_services_are_one_mesh() {
    let mut own = membership(config(), 2);
    own.observe(0, member(2, "10.0.0.2"));
    let mut second = affiliate(2, "10.0.0.2");
    second.kubespan.endpoints = vec!["192.0.2.2:51820".parse().unwrap()];
    own.observe(1, Change::Member(Box::new(second)));
    let specs = own.peers(at(0));
    assert_eq!(specs.len(), 1);
    assert_eq!(specs[0].endpoints.len(), 2);
    // One service lost its memory: the other one still knows.
    own.observe(1, vanished(2));
    assert_eq!(own.peers(at(1))[0].endpoints.len(), 1);
    assert_eq!(own.next_expiry(), None);
    // It has left one of them only.
    own.observe(1, removed(2));
    assert_eq!(keys(&own.peers(at(2))), [2]);
    own.observe(0, removed(2));
    assert_eq!(keys(&own.peers(at(3))), [0_u8; 0]);
}

#[test]
fn a_key_that_is_none_costs_that_peer_alone() {
    let mut own = membership(config(), 1);
    let mut bad = affiliate(2, "10.0.0.2");
    bad.kubespan.public_key = "AAAA".to_owned();
    own.observe(0, Change::Member(Box::new(bad)));
    own.observe(0, member(3, "10.0.0.3"));
    assert_eq!(keys(&own.peers(at(0))), [3]);
    assert_eq!(own.refused()[0].id, "AAAA");
    let reason = Refusal::Replayed;
    let affiliate_id = "node-9".to_owned();
    let refused = Change::Refused {
        affiliate_id,
        reason,
    };
    assert!(!own.observe(0, refused), "nothing to be looked at anew");
    assert_eq!(own.refused().len(), 2);
}

#[test]
fn what_is_announced_passes_the_filters() {
    let mut config = config();
    config.endpoint_filters = ["0.0.0.0/0", "!192.168.0.0/16", "::/0"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    config.exclude_advertised_networks = vec!["192.168.1.0/24".parse().unwrap()];
    config.extra_announced_endpoints = vec!["198.51.100.9:4000".parse().unwrap()];
    config.cluster_subnets = vec!["10.244.0.0/16".parse().unwrap()];
    let mut own = membership(config, 1);
    let mesh = own.settings().identity.address;
    let addresses = ["192.168.1.5", "10.0.0.5", "10.244.3.1", "2001:db8::5"];
    let mut given: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    given.push(mesh.into());
    assert!(own.set_addresses(given.clone()));
    assert!(!own.set_addresses(given));
    assert!(own.set_public_ip(0, Some("203.0.113.5".parse().unwrap())));
    assert!(!own.set_public_ip(0, Some("203.0.113.5".parse().unwrap())));
    own.set_listen_port(4711);
    let told = own.announcement(&[]).affiliate;
    let addresses: Vec<String> = told.addresses.iter().map(ToString::to_string).collect();
    // The pods' address is not the node's, the public one is nobody's to route to.
    let own_address = mesh.to_string();
    assert_eq!(
        addresses,
        ["192.168.1.5", "10.0.0.5", "2001:db8::5", &own_address]
    );
    let endpoints: Vec<String> = told
        .kubespan
        .endpoints
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        endpoints,
        [
            "10.0.0.5:4711",
            "203.0.113.5:4711",
            "[2001:db8::5]:4711",
            "198.51.100.9:4000"
        ]
    );
    assert_eq!(told.kubespan.exclude_advertised_networks.len(), 1);
    assert_eq!(told.kubespan.address, Some(mesh.into()));
    let local = own.local_endpoints();
    assert!(!local.admits(&"10.0.0.5:4711".parse().unwrap()), "our own");
    assert!(local.admits(&"10.0.0.5:4712".parse().unwrap()));
    assert!(!local.admits(&SocketAddr::new(mesh.into(), 1)));
    assert!(!local.admits(&"[fd7f:175a:b97c:5602::99]:51820".parse().unwrap()));
}

#[test]
fn of_too_many_endpoints_those_that_were_named_stay() {
    let mut config = config();
    config.extra_announced_endpoints = vec!["198.51.100.9:4000".parse().unwrap()];
    let mut own = membership(config, 1);
    own.set_addresses((0..100).map(|n| IpAddr::from([10, 0, 0, n])).collect());
    let endpoints = own.announcement(&[]).affiliate.kubespan.endpoints;
    assert_eq!(endpoints.len(), 64);
    assert_eq!(endpoints[63].port(), 4000);
    assert_eq!(endpoints[62], "10.0.0.62:51820".parse().unwrap());
}

#[test]
fn peer_endpoints_filter_and_tunnel_keep_out() {
    let mut config = config();
    config.peer_endpoint_filters = ["0.0.0.0/0", "!192.168.0.0/16"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let mut own = membership(config, 1);
    let mut peer = affiliate(2, "10.0.0.2");
    let pods: ipnet::IpNet = "10.244.2.0/24".parse().unwrap();
    peer.kubespan.additional_addresses = vec![pods.into()];
    own.observe(0, Change::Member(Box::new(peer)));
    own.peers(at(0));
    let local = own.local_endpoints();
    for (endpoint, admitted) in [
        ("10.0.0.2:51820", true),
        ("192.168.0.2:51820", false),
        ("10.244.2.7:51820", false),
        ("[2001:db8::1]:51820", false),
    ] {
        assert_eq!(
            local.admits(&endpoint.parse().unwrap()),
            admitted,
            "{endpoint}"
        );
    }
}

#[test]
fn working_endpoints_are_told_only_where_that_is_wanted() {
    let mut status = PeerStatus::new([2; 32].into());
    status.state = PeerState::Up;
    status.endpoint = Some("203.0.113.2:4000".parse().unwrap());
    for harvest in [false, true] {
        let mut config = config();
        config.harvest_extra_endpoints = harvest;
        let mut own = membership(config, 1);
        own.observe(0, member(2, "10.0.0.2"));
        own.peers(at(0));
        let found = own.announcement(std::slice::from_ref(&status)).found;
        assert_eq!(found.contains_key("node-2"), harvest);
    }
}

#[test]
fn key_and_id_are_made_once_and_kept() {
    let directory = Directory::new();
    let state = directory.path().join("state");
    let build = || {
        Member::builder(&config())
            .state_dir(&state)
            .build()
            .unwrap()
    };
    let (first, second) = (build().handle(), build().handle());
    assert_eq!(first.identity(), second.identity());
    assert_eq!(first.node_id(), second.node_id());
    assert_eq!(first.node_id().len(), 43);
    for name in [identity_file::FILE_NAME, NODE_ID_FILE] {
        let mode = fs::metadata(state.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let other = Member::builder(&config()).build().unwrap().handle();
    assert_ne!(other.identity().public_key, first.identity().public_key);

    for bad in [
        "",
        "nodeId:\n",
        "nodeId: [1]\n",
        "other: x\n",
        "nodeId: ''\n",
    ] {
        fs::write(state.join(NODE_ID_FILE), bad).unwrap();
        let error = Member::builder(&config()).state_dir(&state).build();
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(NODE_ID_FILE) && error.contains("restore it"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(state.join(NODE_ID_FILE)).unwrap(), bad);
    }
}

#[test]
fn ids_differ() {
    let ids = [1, 2].map(|seed| node_id::generate(&mut SeededRandom::new(seed)).unwrap());
    assert_ne!(ids[0], ids[1]);
    assert!(ids[0].chars().all(|char| char.is_ascii_alphanumeric()));
}

#[test]
fn what_is_missing_is_named() {
    let without = |change: fn(&mut MachineConfig)| {
        let mut config = config();
        change(&mut config);
        Member::builder(&config).check().unwrap_err()
    };
    let disabled = without(|config| config.enabled = false);
    assert!(
        disabled.to_string().contains("kubespan.enabled"),
        "{disabled}"
    );
    let id = without(|config| config.cluster_id = None);
    assert!(matches!(id, MemberError::NoClusterId), "{id}");
    let secret = without(|config| config.cluster_secret = None);
    assert!(secret.to_string().contains("cluster.secret"), "{secret}");
    let none = without(|config| config.discovery_services.clear());
    assert!(
        none.to_string().contains("DiscoveryServiceConfig"),
        "{none}"
    );
    let url = without(|config| config.discovery_services[0].endpoint = "ftp://x".to_owned());
    assert!(url.to_string().contains("`ftp://x` is no URL"), "{url}");
}

#[test]
fn no_secret_is_in_debug() {
    let key = PrivateKey::from([0x42; 32]);
    let builder = Member::builder(&config()).identity(key, "own");
    let mut shown = format!("{builder:?}");
    let member = builder.build().unwrap();
    shown += &format!(
        "{member:?} {:?} {:?}",
        member.handle(),
        member.handle().state()
    );
    let mut own = membership(config(), 1);
    own.observe(0, self::member(2, "10.0.0.2"));
    shown += &format!("{:?} {own:?}", own.peers(at(0)));
    // Of the private key, of the secret: as numbers, as hexadecimal digits, as base64.
    for tell in [
        "66, 66, 66",
        "424242",
        "QkJC",
        "7, 7, 7",
        "070707",
        "BwcH",
        ID,
    ] {
        assert!(!shown.contains(tell), "{tell} is in {shown}");
    }
}

proptest! {
    /// Whatever services report, in whatever order: a peer runs once, no prefix has two owners,
    /// and who is present somewhere runs.
    #[test]
    fn peers_are_disjoint_whatever_is_reported(
        steps in prop::collection::vec((0..2_usize, 2..8_u8, 0..3_u8, 0..4_u8, 0..600_u64), 1..60),
    ) {
        let mut own = membership(config(), 2);
        let mut present = [[false; 8]; 2];
        let mut now = 0;
        for (service, byte, what, address, pause) in steps {
            now += pause;
            let change = match what {
                0 => member(byte, &format!("10.0.0.{address}")),
                1 => vanished(byte),
                _ => removed(byte),
            };
            present[service][usize::from(byte)] = what == 0;
            own.observe(service, change);
            let specs = own.peers(at(now));
            let found = keys(&specs);
            let mut unique = found.clone();
            unique.dedup();
            prop_assert_eq!(&found, &unique);
            let mut prefixes: Vec<_> = specs.iter().flat_map(|spec| &spec.allowed_ips).collect();
            let count = prefixes.len();
            prefixes.sort_unstable();
            prefixes.dedup();
            prop_assert_eq!(prefixes.len(), count);
            for byte in 2..8_u8 {
                let there = present.iter().any(|service| service[usize::from(byte)]);
                prop_assert!(!there || found.contains(&byte));
            }
        }
        now += DELETION_GRACE.as_secs() + Duration::from_secs(1).as_secs();
        let left = keys(&own.peers(at(now)));
        for byte in 2..8_u8 {
            let there = present.iter().any(|service| service[usize::from(byte)]);
            prop_assert_eq!(there, left.contains(&byte), "in the end only who is present");
        }
    }
}
