//! A service with limits, oddities and restarts.

use std::time::Duration;

use ringspan::control::discovery::messages::StoredAffiliate;
use ringspan::control::discovery::{CallError, Change, Client, Event, MAX_AFFILIATES};
use ringspan_tests::discovery::{DiscoveryServer, Options};

use crate::common::{
    CLUSTER, announcement, client_config, endpoint, next, observer, request, seal, server, stored,
    until, until_member,
};

fn code(event: &Event) -> Option<String> {
    match event {
        Event::Disconnected {
            reason: CallError::Refused { code, .. },
            ..
        } => Some(format!("{code:?}")),
        _ => None,
    }
}

#[test]
fn a_restart_costs_no_member() {
    let server = server();
    let told = announcement("a", "", &[endpoint(1)]);
    let a = Client::join(client_config(&server, "a"), &told).unwrap();
    next(&a, |event| (event == Event::Announced).then_some(()));
    let observer = observer(&server);
    until_member(&observer, "a");

    let listen = server.address();
    drop(server);
    next(&observer, |event| {
        matches!(event, Event::Disconnected { .. }).then_some(())
    });
    // It comes back without memory.
    let server = DiscoveryServer::start(Options {
        listen,
        ..Options::default()
    })
    .unwrap();
    // Well before the 15 minutes of a refresh.
    next(&a, |event| (event == Event::Announced).then_some(()));
    assert_eq!(server.affiliates(CLUSTER).len(), 1);
    // It was never gone, or it is told again after it was missed.
    let mut missed = false;
    next(&observer, |event| match event {
        Event::Change(Change::Vanished { .. }) => {
            missed = true;
            None
        }
        Event::Change(Change::Member(_)) => missed.then_some(()),
        Event::Change(other) => panic!("{other:?}"),
        Event::Synchronized => (!missed).then_some(()),
        _ => None,
    });
}

/// A member that does not put itself back, as Talos's nodes do not.
#[test]
fn a_member_that_gives_up_an_endpoint_stays() {
    let server = server();
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let old = announcement("a", "", &[endpoint(1)]).affiliate;
    let new = announcement("a", "", &[endpoint(2)]).affiliate;
    server.update(seal(&old).into_request()).unwrap();
    let observer = observer(&server);
    assert_eq!(until_member(&observer, "a"), old);
    server.advance(minutes(20));
    server.update(seal(&new).into_request()).unwrap();
    let endpoints = until_member(&observer, "a").kubespan.endpoints;
    assert_eq!(endpoints, [endpoint(1), endpoint(2)]);
    // The old one expires, and watchers are told that the member does.
    server.advance(minutes(15));
    let change = next(&observer, |event| match event {
        Event::Change(change) => Some(change),
        _ => None,
    });
    assert_eq!(change, Change::Member(Box::new(new)));
    assert_eq!(server.calls().list, 1);
}

#[test]
fn a_deleted_member_comes_back_by_itself() {
    let server = server();
    let told = announcement("a", "", &[endpoint(1)]);
    let a = Client::join(client_config(&server, "a"), &told).unwrap();
    next(&a, |event| (event == Event::Announced).then_some(()));
    let mut config = client_config(&server, "observer");
    // It has all the time to.
    config.timings.confirm = Duration::from_secs(60);
    let observer = Client::observe(config).unwrap();
    until_member(&observer, "a");
    for _ in 0..3 {
        server.delete(CLUSTER, "a");
        until(|| server.affiliates(CLUSTER).len() == 1);
    }
    server.update(stored("b").into_request()).unwrap();
    let change = next(&observer, |event| match event {
        Event::Change(change) => Some(change),
        _ => None,
    });
    assert!(
        matches!(&change, Change::Member(member) if member.node_id == "b"),
        "{change:?}"
    );
}

#[test]
fn a_watch_that_overflows_is_opened_again() {
    const MANY: usize = 1000;
    let server = server();
    for n in 0..MANY {
        let mut request = stored(&n.to_string()).into_request();
        request.ttl = Some(Duration::from_secs(60).into());
        server.update(request).unwrap();
    }
    let observer = observer(&server);
    next(&observer, |event| {
        (event == Event::Synchronized).then_some(())
    });
    // Far more at once than a watcher may leave unread, however fast it reads.
    server.advance(Duration::from_secs(120));
    server.update(stored("b").into_request()).unwrap();
    assert_eq!(next(&observer, |event| code(&event)), "Aborted");
    let mut vanished = 0;
    next(&observer, |event| match event {
        Event::Change(Change::Vanished { .. }) => {
            vanished += 1;
            None
        }
        Event::Change(Change::Member(member)) => (member.node_id == "b").then_some(()),
        Event::Change(other) => panic!("{other:?}"),
        _ => None,
    });
    assert_eq!(vanished, MANY);
}

#[test]
fn a_refresh_that_fails_is_tried_again_at_once() {
    let server = server();
    for n in 0..MAX_AFFILIATES {
        let mut request = request(&n.to_string(), None, Vec::new());
        request.affiliate_endpoints = vec![vec![1; 16]];
        server.update(request).unwrap();
    }
    let told = announcement("a", "", &[endpoint(1)]);
    let a = Client::join(client_config(&server, "a"), &told).unwrap();
    assert_eq!(next(&a, |event| code(&event)), "ResourceExhausted");
    server.delete(CLUSTER, "0");
    // And not at the next refresh, 15 minutes later.
    next(&a, |event| (event == Event::Announced).then_some(()));
    let ids: Vec<StoredAffiliate> = server.affiliates(CLUSTER);
    assert!(ids.iter().any(|stored| stored.id == "a"));
}

#[test]
fn what_is_announced_lives_on() {
    let server = server();
    let mut config = client_config(&server, "a");
    config.timings.refresh = Duration::from_millis(20);
    let told = announcement("a", "", &[endpoint(1)]);
    let _a = Client::join(config, &told).unwrap();
    for _ in 0..5 {
        let before = server.calls().update;
        until(|| server.calls().update > before + 1);
        server.advance(Duration::from_secs(29 * 60));
        assert_eq!(server.affiliates(CLUSTER).len(), 1);
    }
}
