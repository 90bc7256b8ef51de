//! The discovery client against a discovery service, over loopback.

#[path = "../common/discovery.rs"]
mod common;

mod hostile;
mod redirects;
mod service;

use ringspan::control::discovery::{BadAnnouncement, CallError, Change, Client, Event};
use ringspan_tests::discovery::{Calls, DiscoveryServer, Options};

use common::{announcement, client_config, endpoint, next, observer, server, until_member};

#[test]
fn a_member_comes_changes_and_leaves() {
    let server = server();
    let observer = observer(&server);
    let seen = next(&observer, |event| match event {
        Event::Connected { public_ip } => Some(public_ip),
        _ => None,
    });
    assert_eq!(seen, Some([127, 0, 0, 1].into()));
    next(&observer, |event| {
        (event == Event::Synchronized).then_some(())
    });

    let mut told = announcement("a", "one", &[endpoint(1)]);
    let a = Client::join(client_config(&server, "a"), &told).unwrap();
    next(&a, |event| (event == Event::Announced).then_some(()));
    assert_eq!(until_member(&observer, "a"), told.affiliate);

    told.affiliate.hostname = "two".into();
    told.affiliate.kubespan.endpoints.push(endpoint(2));
    a.announce(&told).unwrap();
    assert_eq!(until_member(&observer, "a"), told.affiliate);

    a.leave().unwrap();
    let gone = next(&observer, |event| match event {
        Event::Change(change) => Some(change),
        _ => None,
    });
    assert_eq!(
        gone,
        Change::Removed {
            node_id: "a".into()
        }
    );
    assert_eq!(server.affiliates(common::CLUSTER), []);
    let Calls { update, delete, .. } = server.calls();
    assert_eq!((update, delete), (2, 1));
}

#[test]
fn members_find_each_other_and_not_themselves() {
    let server = server();
    let names = ["a", "b", "c"];
    let clients = names.map(|name| {
        let told = announcement(name, name, &[]);
        Client::join(client_config(&server, name), &told).unwrap()
    });
    for (client, own) in clients.iter().zip(names) {
        let mut others: Vec<_> = names.iter().filter(|&&name| name != own).collect();
        while !others.is_empty() {
            let member = next(client, |event| match event {
                Event::Change(Change::Member(affiliate)) => Some(affiliate.node_id),
                _ => None,
            });
            assert_ne!(member, own);
            others.retain(|name| **name != member);
        }
    }
}

#[test]
fn an_observer_tells_nothing() {
    let server = server();
    let observer = observer(&server);
    next(&observer, |event| {
        (event == Event::Synchronized).then_some(())
    });
    let told = announcement("observer", "", &[]);
    assert_eq!(observer.announce(&told), Err(BadAnnouncement::Observer));
    observer.leave().unwrap();
    let calls = Calls {
        hello: 1,
        watch: 1,
        ..Calls::default()
    };
    assert_eq!(server.calls(), calls);
    assert_eq!(server.affiliates(common::CLUSTER), []);
}

#[test]
fn another_nodes_affiliate_is_not_announced() {
    let server = server();
    let error = Client::join(client_config(&server, "a"), &announcement("b", "", &[]));
    assert!(error.unwrap_err().to_string().contains("`b`"));
}

#[test]
fn what_was_found_of_others_reaches_them() {
    let server = server();
    let a = Client::join(
        client_config(&server, "a"),
        &announcement("a", "", &[endpoint(1)]),
    )
    .unwrap();
    let observer = observer(&server);
    until_member(&observer, "a");
    let mut told = announcement("b", "", &[]);
    told.found.insert("a".into(), vec![endpoint(9)]);
    let _b = Client::join(client_config(&server, "b"), &told).unwrap();
    let endpoints = next(&observer, |event| match event {
        Event::Change(Change::Member(member)) if member.node_id == "a" => {
            Some(member.kubespan.endpoints)
        }
        _ => None,
    });
    assert_eq!(endpoints, [endpoint(1), endpoint(9)]);
    drop(a);
}

#[test]
fn tls_is_not_done_without() {
    let server = DiscoveryServer::start(Options::default()).unwrap();
    let mut config = client_config(&server, "observer");
    config.server = format!("https://{}", server.address()).parse().unwrap();
    let client = Client::observe(config).unwrap();
    let reason = next(&client, |event| match event {
        Event::Disconnected { reason, .. } => Some(reason),
        _ => None,
    });
    assert!(matches!(reason, CallError::Connect { .. }), "{reason}");
    assert_eq!(server.calls(), Calls::default());
}
