//! Where peer specs come from: any number of sources at once, whose sets become one.
//!
//! A source runs on a thread of its own and publishes its whole set whenever it changes, or the
//! changes. While it has trouble it says so, and what it published last stays.

mod file;
mod resources;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use crossbeam_channel::Sender;

use super::handle::Control;
use super::kubespan::LocalEndpoints;
use super::spec::{PeerSpec, SpecChange};
use super::status::PeerStatus;
use crate::crypto::PublicKey;
use crate::runtime::wake::Waker;

pub use file::FileSource;
pub use resources::{ResourceError, peer_specs};

/// Something that knows peers: a file, a discovery service, an embedder's own.
pub trait Source: Send + fmt::Debug {
    /// Its name in logs and statuses: `file /etc/ringspan/peers.yaml`.
    fn name(&self) -> String;

    /// Publishes its peers in `feed`, at first and whenever they change, until the feed is
    /// stopped: the node waits for that when it shuts down. What was published last stays when
    /// this returns earlier.
    fn run(self: Box<Self>, feed: &Feed);
}

/// How a source is heard.
pub struct Feed {
    number: usize,
    news: Sender<(usize, News)>,
    stop: Arc<Stop>,
    /// None in tests of sources alone.
    control: Option<Arc<Control>>,
}

/// What a source has to say.
#[derive(Debug)]
pub(super) enum News {
    Specs(Vec<PeerSpec>),
    Changes(Vec<SpecChange>),
    Restrict(LocalEndpoints),
    Problem(String),
}

impl Feed {
    pub(super) fn new(number: usize, news: Sender<(usize, News)>, stop: Arc<Stop>) -> Self {
        Self {
            number,
            news,
            stop,
            control: None,
        }
    }

    /// For a source that looks at what runs.
    pub(super) fn with_control(mut self, control: Arc<Control>) -> Self {
        self.control = Some(control);
        self
    }

    /// Makes `specs` the whole set of this source's peers; its problem, if it had one, is over.
    pub fn publish(&self, specs: Vec<PeerSpec>) {
        // Nobody listens: the node is being shut down.
        let _ = self.news.send((self.number, News::Specs(specs)));
    }

    /// Changes this source's peers, and leaves those that are not mentioned; its problem, if it had
    /// one, is over. What that costs depends on the changes, not on how many peers there are.
    pub fn update(&self, changes: Vec<SpecChange>) {
        let _ = self.news.send((self.number, News::Changes(changes)));
    }

    /// Restricts which endpoints of peers are tried, of all sources: as
    /// [`Control::set_local_endpoints`], before what is published next.
    pub fn restrict(&self, local: LocalEndpoints) {
        let _ = self.news.send((self.number, News::Restrict(local)));
    }

    /// The node's peers as they are now.
    #[must_use]
    pub fn statuses(&self) -> Vec<PeerStatus> {
        let control = self.control.as_ref();
        control
            .map(|control| control.statuses())
            .unwrap_or_default()
    }

    /// The UDP port that the node listens on now; 0 where it has none.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        let control = self.control.as_ref();
        control.map_or(0, |control| control.listen_port())
    }

    /// Says what is wrong; what was published last stays. The text must hold no secret.
    pub fn problem(&self, text: impl Into<String>) {
        let _ = self.news.send((self.number, News::Problem(text.into())));
    }

    /// Whether the source must end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_set()
    }

    /// Readable once the source must end, for whoever waits in `poll`. Not to be read from.
    #[must_use]
    pub fn stopped(&self) -> BorrowedFd<'_> {
        self.stop.waker.as_fd()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Tells any number of threads to end, whether they look or wait.
#[derive(Debug)]
pub(super) struct Stop {
    flag: AtomicBool,
    /// Never drained: it stays readable.
    waker: Waker,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            flag: AtomicBool::new(false),
            waker: Waker::new()?,
        })
    }

    pub(super) fn set(&self) {
        self.flag.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

/// One set of several, the first of which counts most. A peer that several have is one peer:
/// endpoints and prefixes of all, otherwise what the first says that says anything. Entries of one
/// set are not merged with each other.
#[must_use]
#[expect(single_use_lifetimes, reason = "`impl Trait` cannot elide it yet")]
pub fn merge<'a>(
    sets: impl IntoIterator<Item: IntoIterator<Item = &'a PeerSpec>>,
) -> Vec<PeerSpec> {
    let mut merged: Vec<PeerSpec> = Vec::new();
    let mut known: HashMap<PublicKey, usize> = HashMap::new();
    for set in sets {
        let before = merged.len();
        for spec in set {
            let place = known.get(&spec.public_key).copied();
            match place.filter(|&place| place < before) {
                Some(place) => merged[place].add(spec),
                None => {
                    known.entry(spec.public_key).or_insert(merged.len());
                    merged.push(spec.clone());
                }
            }
        }
    }
    merged
}

impl PeerSpec {
    /// Takes over what `other`, which tells of the same peer, has and this one has not.
    pub(super) fn add(&mut self, other: &Self) {
        for endpoint in &other.endpoints {
            if !self.endpoints.contains(endpoint) {
                self.endpoints.push(*endpoint);
            }
        }
        for prefix in &other.allowed_ips {
            if !self.allowed_ips.contains(prefix) {
                self.allowed_ips.push(*prefix);
            }
        }
        if self.preshared_key.is_none() {
            self.preshared_key.clone_from(&other.preshared_key);
        }
        self.persistent_keepalive = self.persistent_keepalive.or(other.persistent_keepalive);
        if self.label.is_empty() {
            self.label.clone_from(&other.label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sources_know_of_a_peer_is_put_together() {
        let spec = |byte: u8, label: &str, port: u16| PeerSpec {
            endpoints: vec![([192, 0, 2, byte], port).into()],
            label: label.to_owned(),
            ..PeerSpec::new([byte; 32].into())
        };
        let first = [spec(1, "", 1), spec(2, "two", 1), spec(2, "again", 2)];
        let second = [spec(2, "other", 3), spec(3, "three", 1), spec(1, "one", 1)];
        let merged = merge([&first[..], &second[..]]);
        let seen: Vec<_> = merged
            .iter()
            .map(|spec| {
                let ports = spec.endpoints.iter().map(std::net::SocketAddr::port);
                (
                    spec.public_key.as_bytes()[0],
                    spec.label.as_str(),
                    ports.collect::<Vec<_>>(),
                )
            })
            .collect();
        let expected = [
            (1, "one", vec![1]),
            (2, "two", vec![1, 3]),
            // A set that contradicts itself is shown to whoever judges it.
            (2, "again", vec![2]),
            (3, "three", vec![1]),
        ];
        assert_eq!(seen, expected);
        assert_eq!(merge([&first[..]]), first);
    }
}
