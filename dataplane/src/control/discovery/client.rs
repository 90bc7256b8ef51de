//! The discovery client as its user sees it: a thread, a channel of events.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use tokio::sync::{Notify, mpsc, watch};

use super::cipher::{CipherError, ClusterCipher};
use super::roster::{Change, Roster};
use super::route::ServerUrl;
use super::service::CallError;
use super::session::{Order, Session};
use super::{MAX_ENDPOINTS, MAX_ID_LEN};
use crate::control::kubespan::{Affiliate, ClusterId};
use crate::crypto::PresharedKey;
use crate::runtime::wake::Waker;

/// Events that wait for their reader. When there are more, the client waits for it too, and the
/// service in the end closes the watch: that costs a new snapshot, and no memory.
const WAITING_EVENTS: usize = 4096;

/// When things happen. The defaults are Talos's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timings {
    /// How long what this node announces lives at the service; 30 minutes is the most it takes.
    pub ttl: Duration,
    /// How often it is renewed.
    pub refresh: Duration,
    /// How long a connection, and a call but for those of a refresh, may take.
    pub call: Duration,
    /// How long all calls of a refresh together may take.
    pub refresh_calls: Duration,
    /// The first wait before a connection, on average.
    pub first_wait: Duration,
    /// The longest, on average.
    pub longest_wait: Duration,
    /// How long after the service has deleted a member it is asked whether that is so. A living
    /// one uses the time to come back. Not of Talos, which believes it at once.
    pub confirm: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let (secs, millis) = (Duration::from_secs, Duration::from_millis);
        Self {
            ttl: secs(30 * 60),
            refresh: secs(15 * 60),
            call: secs(10),
            refresh_calls: secs(30),
            first_wait: millis(500),
            longest_wait: secs(60),
            confirm: secs(5),
        }
    }
}

impl Timings {
    /// How often a silent connection is tried: the service takes offence below 10 s.
    pub(super) fn keepalive(&self) -> Duration {
        (self.ttl / 10).max(Duration::from_secs(10))
    }
}

/// Which cluster, and where it meets.
#[derive(Clone, Debug)]
pub struct Config {
    /// The discovery service.
    pub server: ServerUrl,
    /// The cluster's id, up to 256 bytes.
    pub cluster_id: ClusterId,
    /// The cluster's secret: what members encrypt with, and their preshared key.
    pub secret: PresharedKey,
    /// This node's id, 1 to 256 bytes. Its entry is not reported.
    pub node_id: String,
    /// When things happen.
    pub timings: Timings,
    /// The firewall mark of the connection (`SO_MARK`), which needs `CAP_NET_ADMIN`; 0 for none. A
    /// node that leads traffic for its peers into the tunnel gives the mark that stays out of it:
    /// the service may lie behind a peer that is down.
    pub mark: u32,
}

/// What a node tells the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Announcement {
    /// What it tells of itself, its endpoints too. The node id must be the client's.
    pub affiliate: Affiliate,
    /// Endpoints that it has found of others, by their node ids (harvesting).
    pub found: BTreeMap<String, Vec<SocketAddr>>,
}

/// What the client reports, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// There is a connection.
    Connected {
        /// The address that the service sees this node by, where it says so: it may be of use to
        /// others as an endpoint.
        public_ip: Option<IpAddr>,
    },
    /// All members of now have been reported.
    Synchronized,
    /// A member is there, or has changed, or is no more.
    Change(Change),
    /// What this node tells is with the service.
    Announced,
    /// The connection is lost, or could not be made. The client goes on trying. Members stay.
    Disconnected {
        /// Why.
        reason: CallError,
        /// When it tries again.
        retry_in: Duration,
    },
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The service would refuse the cluster's id.
    #[error(
        "the cluster id has {length} bytes, and the discovery service takes {MAX_ID_LEN} at most"
    )]
    ClusterId {
        /// Its bytes.
        length: usize,
    },
    /// The service would refuse the node's id.
    #[error("the node id has {length} bytes, and the discovery service takes 1 to {MAX_ID_LEN}")]
    NodeId {
        /// Its bytes.
        length: usize,
    },
    /// It could not be announced.
    #[error(transparent)]
    Announcement(#[from] BadAnnouncement),
    /// No encryption.
    #[error(transparent)]
    Cipher(#[from] CipherError),
    /// No thread, or no event loop.
    #[error("the discovery client's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Why something is not announced. What was announced before stays.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnnouncement {
    /// An observer tells nothing.
    #[error("this discovery client only observes: start it as a member to announce something")]
    Observer,
    /// Another node's.
    #[error("the affiliate to announce is `{given}`, and this node is `{own}`")]
    NodeId {
        /// The announced id.
        given: String,
        /// The client's.
        own: String,
    },
    /// More than the service takes.
    #[error("{count} endpoints are more than the {MAX_ENDPOINTS} that the discovery service takes")]
    TooManyEndpoints {
        /// How many.
        count: usize,
    },
    /// It cannot be encrypted.
    #[error(transparent)]
    Cipher(#[from] CipherError),
}

/// An announcement as it is sent: encrypted once, so that renewing it changes nothing.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) data: Vec<u8>,
    pub(super) endpoints: Vec<Vec<u8>>,
    /// By node id.
    pub(super) found: Vec<(String, Vec<Vec<u8>>)>,
}

/// A running discovery client. Dropping it ends it; a member's entry then stays with the service
/// until its time runs out. [`leave`](Self::leave) takes it away.
#[derive(Debug)]
pub struct Client {
    events: Receiver<Event>,
    /// Woken with each event.
    bell: Arc<Waker>,
    announcements: watch::Sender<Option<Arc<Sealed>>>,
    orders: mpsc::UnboundedSender<Order>,
    moved: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    cipher: ClusterCipher,
    node_id: String,
    member: bool,
    /// How long a call may take.
    call: Duration,
}

impl Client {
    /// Starts a client that only looks: other members do not see it.
    ///
    /// # Errors
    /// [`StartError`]. That the service cannot be reached is none: the client tries until it can.
    pub fn observe(config: Config) -> Result<Self, StartError> {
        Self::start(config, false)
    }

    /// Starts a client that looks and announces this node.
    ///
    /// # Errors
    /// [`StartError`]. That the service cannot be reached is none: the client tries until it can.
    pub fn join(config: Config, announcement: &Announcement) -> Result<Self, StartError> {
        let client = Self::start(config, true)?;
        client.announce(announcement)?;
        Ok(client)
    }

    /// What happens, to be read by one reader.
    #[must_use]
    pub const fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// What has happened and was not read yet. For whoever waits in `poll`: the client ([`AsFd`])
    /// is readable when there may be something.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.bell.drain();
        self.bell.take();
        self.events.try_iter().collect()
    }

    /// Connects anew, without waiting for the present connection to fail: this host has lost the
    /// address that it was made from, say. Nothing where there is no connection.
    pub fn reconnect(&self) {
        self.moved.notify_one();
    }

    /// Announces something else. The same again is not sent before its time.
    ///
    /// # Errors
    /// [`BadAnnouncement`].
    pub fn announce(&self, announcement: &Announcement) -> Result<(), BadAnnouncement> {
        if !self.member {
            return Err(BadAnnouncement::Observer);
        }
        let sealed = self.seal(announcement)?;
        self.announcements.send_replace(Some(Arc::new(sealed)));
        Ok(())
    }

    /// Ends the client, and takes this node's entry away, so that others need not wait until its
    /// time runs out. Waits for the service's answer, twice the time of a call at most.
    ///
    /// # Errors
    /// [`CallError`]: the entry stays with the service until its time runs out.
    pub fn leave(self) -> Result<(), CallError> {
        let limit = 2 * self.call;
        self.leave_within(limit)
    }

    /// As [`leave`](Self::leave), but waits no longer than `limit`.
    ///
    /// # Errors
    /// [`CallError`]: the entry stays with the service until its time runs out.
    pub fn leave_within(mut self, limit: Duration) -> Result<(), CallError> {
        let (answer, answered) = bounded(1);
        let order = Order::Leave { limit, answer };
        if self.member
            && self.orders.send(order).is_ok()
            && let Ok(result) = answered.recv()
        {
            self.join_thread();
            return result;
        }
        Ok(())
    }

    fn start(config: Config, member: bool) -> Result<Self, StartError> {
        let length = config.cluster_id.as_str().len();
        if length > MAX_ID_LEN {
            return Err(StartError::ClusterId { length });
        }
        let node_id = config.node_id.clone();
        if node_id.is_empty() || node_id.len() > MAX_ID_LEN {
            let length = node_id.len();
            return Err(StartError::NodeId { length });
        }
        let cipher = ClusterCipher::new(&config.secret)?;
        let own_cipher = ClusterCipher::new(&config.secret)?;
        let roster = Roster::new(own_cipher, node_id.clone(), config.timings.confirm);
        let (reports, events) = bounded(WAITING_EVENTS);
        let (announcements, announced) = watch::channel(None);
        let (orders, ordered) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let bell = Arc::new(Waker::new()?);
        let call = config.timings.call;
        let moved = Arc::new(Notify::new());
        let session = Session::new(
            config,
            roster,
            announced,
            (reports, Arc::clone(&bell)),
            Arc::clone(&moved),
        );
        let thread = std::thread::Builder::new()
            .name("discovery".into())
            .spawn(move || {
                runtime.block_on(session.run(ordered));
                // A name look-up that hangs must not hold this up.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            events,
            bell,
            call,
            announcements,
            orders,
            moved,
            thread: Some(thread),
            cipher,
            node_id,
            member,
        })
    }

    fn seal(&self, announcement: &Announcement) -> Result<Sealed, BadAnnouncement> {
        let Announcement { affiliate, found } = announcement;
        if affiliate.node_id != self.node_id {
            return Err(BadAnnouncement::NodeId {
                given: affiliate.node_id.clone(),
                own: self.node_id.clone(),
            });
        }
        let count = affiliate.kubespan.endpoints.len();
        if count > MAX_ENDPOINTS {
            return Err(BadAnnouncement::TooManyEndpoints { count });
        }
        let seal_all = |endpoints: &[SocketAddr]| -> Result<Vec<Vec<u8>>, CipherError> {
            let seal = |endpoint: &SocketAddr| self.cipher.seal_endpoint(*endpoint);
            endpoints.iter().map(seal).collect()
        };
        let mut others = Vec::new();
        for (node_id, endpoints) in found {
            let of_another = !node_id.is_empty() && *node_id != self.node_id;
            if of_another && node_id.len() <= MAX_ID_LEN && !endpoints.is_empty() {
                let some = endpoints.get(..MAX_ENDPOINTS).unwrap_or(endpoints);
                others.push((node_id.clone(), seal_all(some)?));
            }
        }
        Ok(Sealed {
            data: self
                .cipher
                .seal_affiliate(affiliate, &mut crate::crypto::OsRandom)?,
            endpoints: seal_all(&affiliate.kubespan.endpoints)?,
            found: others,
        })
    }

    fn join_thread(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the discovery client's thread has panicked");
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Refused where it has ended already.
        let _ = self.orders.send(Order::Stop);
        self.join_thread();
    }
}
