//! What the tests of the discovery client share.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringspan::control::discovery::messages::AffiliateUpdateRequest;
use ringspan::control::discovery::{
    Announcement, Change, Client, ClusterCipher, Config, Event, Timings,
};
use ringspan::control::kubespan::{Affiliate, ClusterId, KubeSpan};
use ringspan::crypto::OsRandom;
use ringspan_tests::discovery::{DiscoveryServer, Options};

pub(crate) const CLUSTER: &str = "a cluster id that nobody should read";
pub(crate) const SECRET: [u8; 32] = *b"A secret, just 32 bytes of text.";

/// How long something that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn server() -> DiscoveryServer {
    // All of a test's clients have one address.
    let options = Options {
        rate: None,
        ..Options::default()
    };
    DiscoveryServer::start(options).expect("a server")
}

pub(crate) fn client_config(server: &DiscoveryServer, node_id: &str) -> Config {
    Config {
        server: server.url().parse().expect("a URL"),
        cluster_id: ClusterId::new(CLUSTER).expect("an id"),
        secret: SECRET.into(),
        node_id: node_id.into(),
        timings: Timings {
            first_wait: Duration::from_millis(2),
            longest_wait: Duration::from_millis(20),
            confirm: Duration::from_millis(20),
            ..Timings::default()
        },
        mark: 0,
    }
}

pub(crate) fn observer(server: &DiscoveryServer) -> Client {
    Client::observe(client_config(server, "observer")).expect("a client")
}

pub(crate) fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51820))
}

pub(crate) fn announcement(
    node_id: &str,
    hostname: &str,
    endpoints: &[SocketAddr],
) -> Announcement {
    let affiliate = Affiliate {
        node_id: node_id.into(),
        hostname: hostname.into(),
        addresses: vec!["192.0.2.200".parse().expect("an address")],
        kubespan: KubeSpan {
            public_key: format!("public key of {node_id}"),
            endpoints: endpoints.to_vec(),
            ..KubeSpan::default()
        },
        ..Affiliate::default()
    };
    Announcement {
        affiliate,
        ..Announcement::default()
    }
}

/// What a member leaves with the service.
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) data: Vec<u8>,
    pub(crate) endpoints: Vec<Vec<u8>>,
}

impl Stored {
    pub(crate) fn into_request(self) -> AffiliateUpdateRequest {
        request(&self.id, Some(self.data), self.endpoints)
    }
}

pub(crate) fn seal(affiliate: &Affiliate) -> Stored {
    let cipher = ClusterCipher::new(&SECRET.into()).expect("a cipher");
    let seal = |endpoint: &SocketAddr| cipher.seal_endpoint(*endpoint).expect("a blob");
    Stored {
        id: affiliate.node_id.clone(),
        data: cipher
            .seal_affiliate(affiliate, &mut OsRandom)
            .expect("data"),
        endpoints: affiliate.kubespan.endpoints.iter().map(seal).collect(),
    }
}

/// A member that has no client.
pub(crate) fn stored(node_id: &str) -> Stored {
    seal(&announcement(node_id, "", &[endpoint(100)]).affiliate)
}

pub(crate) fn request(
    affiliate_id: &str,
    affiliate_data: Option<Vec<u8>>,
    affiliate_endpoints: Vec<Vec<u8>>,
) -> AffiliateUpdateRequest {
    AffiliateUpdateRequest {
        cluster_id: CLUSTER.into(),
        affiliate_id: affiliate_id.into(),
        affiliate_data,
        affiliate_endpoints,
        ttl: Some(Duration::from_secs(30 * 60).into()),
    }
}

/// The first event from now on that `wanted` takes.
pub(crate) fn next<T>(client: &Client, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = client.events().recv_deadline(deadline);
        if let Some(found) = wanted(event.expect("an event in time")) {
            return found;
        }
    }
}

/// The next word about a member, which must be there.
pub(crate) fn until_member(client: &Client, node_id: &str) -> Affiliate {
    next(client, |event| match event {
        Event::Change(Change::Member(member)) => (member.node_id == node_id).then_some(*member),
        Event::Change(Change::Removed { node_id: gone }) if gone == node_id => {
            panic!("{gone} was removed")
        }
        _ => None,
    })
}

/// Waits for something that must happen.
pub(crate) fn until(mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "it has not happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}
