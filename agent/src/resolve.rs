//! Endpoints with host names: looked up in the background, again and again until they are known,
//! so that a node may start before its DNS server can be reached.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use ringspan::control::PeerSpec;

use crate::config::{EndpointName, PeerConfig};

/// Time between two rounds of questions, for names that had no answer.
const RETRY: Duration = Duration::from_secs(30);

/// A host and a port, to be looked up together.
type Name = (String, u16);

/// The addresses known so far, by name.
pub(crate) type Known = BTreeMap<Name, Vec<SocketAddr>>;

/// What control is to be told of the peers: endpoints in the order of the configuration, those
/// that are not known yet left out.
pub(crate) fn specs(peers: &[PeerConfig], known: &Known) -> Vec<PeerSpec> {
    let addresses = |endpoint: &EndpointName| match endpoint {
        EndpointName::Address(address) => vec![*address],
        EndpointName::Host { name, port } => known
            .get(&(name.clone(), *port))
            .cloned()
            .unwrap_or_default(),
    };
    peers
        .iter()
        .map(|peer| {
            let mut spec = PeerSpec::new(peer.public_key);
            spec.preshared_key.clone_from(&peer.preshared_key);
            spec.endpoints = peer.endpoints.iter().flat_map(addresses).collect();
            spec.allowed_ips.clone_from(&peer.allowed_ips);
            spec.persistent_keepalive = peer.persistent_keepalive;
            spec.label.clone_from(&peer.label);
            spec
        })
        .collect()
}

/// A thread that looks names up.
pub(crate) struct Resolver {
    answers: Receiver<(Name, Vec<SocketAddr>)>,
    wake: UnixStream,
}

impl Resolver {
    /// Starts to look up every host name of `peers`; none: there is nothing to look up.
    pub(crate) fn start(peers: &[PeerConfig]) -> io::Result<Option<Self>> {
        let mut names: Vec<Name> = peers
            .iter()
            .flat_map(|peer| &peer.endpoints)
            .filter_map(|endpoint| match endpoint {
                EndpointName::Host { name, port } => Some((name.clone(), *port)),
                EndpointName::Address(_) => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(None);
        }
        let (sender, answers) = channel();
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        // Not joined at the end: a question cannot be called back, and holds nothing.
        thread::Builder::new()
            .name("resolver".into())
            .spawn(move || look_up(names, &sender, waker))?;
        Ok(Some(Self { answers, wake }))
    }

    /// Adds what was found since the last call; tells whether that was anything.
    pub(crate) fn collect(&self, known: &mut Known) -> bool {
        let _ = io::Read::read(&mut &self.wake, &mut [0; 64]);
        let before = known.len();
        known.extend(self.answers.try_iter());
        known.len() > before
    }
}

impl AsFd for Resolver {
    /// Becomes readable when there is something to collect.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Ends when all names are known, or nobody listens any more.
fn look_up(mut names: Vec<Name>, answers: &Sender<(Name, Vec<SocketAddr>)>, mut waker: UnixStream) {
    loop {
        let mut failed = Vec::new();
        for name in names {
            match (name.0.as_str(), name.1).to_socket_addrs() {
                Ok(found) => {
                    let found: Vec<_> = found.collect();
                    tracing::debug!("{}: {found:?}", name.0);
                    if answers.send((name, found)).is_err() || waker.write_all(&[0]).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!("{}: {error}", name.0);
                    failed.push(name);
                }
            }
        }
        if failed.is_empty() {
            return;
        }
        tracing::warn!(
            "{} endpoint name(s) could not be looked up: asked again in {} s (RINGSPAN_LOG=debug \
             names them)",
            failed.len(),
            RETRY.as_secs()
        );
        thread::sleep(RETRY);
        names = failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(endpoints: Vec<EndpointName>) -> PeerConfig {
        PeerConfig {
            label: "b".into(),
            public_key: [1; 32].into(),
            preshared_key: Some([2; 32].into()),
            endpoints,
            allowed_ips: vec!["10.0.0.0/24".parse().unwrap()],
            persistent_keepalive: None,
        }
    }

    fn host(name: &str, port: u16) -> EndpointName {
        EndpointName::Host {
            name: name.into(),
            port,
        }
    }

    #[test]
    fn names_fill_their_places_in_the_list() {
        let literal: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let found: SocketAddr = "192.0.2.2:2".parse().unwrap();
        let peers = [peer(vec![
            host("a.example", 2),
            EndpointName::Address(literal),
        ])];
        let mut known = Known::new();
        assert_eq!(specs(&peers, &known)[0].endpoints, [literal]);
        known.insert(("a.example".into(), 2), vec![found]);
        let spec = &specs(&peers, &known)[0];
        assert_eq!(spec.endpoints, [found, literal]);
        assert_eq!(spec.label, "b");
        assert_eq!(spec.preshared_key, Some([2; 32].into()));
        assert_eq!(spec.allowed_ips.len(), 1);
    }

    #[test]
    fn literals_need_no_thread() {
        let literal = "192.0.2.1:1".parse().unwrap();
        let peers = [peer(vec![EndpointName::Address(literal)])];
        assert!(Resolver::start(&peers).unwrap().is_none());
    }

    #[test]
    fn localhost_and_scoped_addresses_are_found() {
        let scoped = host("fe80::1%lo", 8);
        let peers = [peer(vec![
            host("localhost", 7),
            host("localhost", 7),
            scoped,
        ])];
        let resolver = Resolver::start(&peers).unwrap().unwrap();
        let mut known = Known::new();
        let readable = rustix::event::PollFlags::IN;
        let mut wait = [rustix::event::PollFd::new(&resolver, readable)];
        let patience = Duration::from_secs(20).try_into().unwrap();
        while known.len() < 2 {
            assert_ne!(rustix::event::poll(&mut wait, Some(&patience)), Ok(0));
            resolver.collect(&mut known);
        }
        assert!(!resolver.collect(&mut known), "nothing is found twice");
        let scoped = known[&("fe80::1%lo".to_owned(), 8)][0];
        assert!(
            matches!(scoped, SocketAddr::V6(a) if a.scope_id() == 1),
            "{scoped}"
        );
        let found = &known[&("localhost".to_owned(), 7)];
        assert!(
            found.iter().all(|a| a.ip().is_loopback() && a.port() == 7),
            "{found:?}"
        );
    }
}
