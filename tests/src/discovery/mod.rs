//! A discovery service for tests and demonstrations: the five methods of Talos's, with its limits
//! and with what is odd about it. Everything is in memory, and gone with the process.
//!
//! Written from a description of how the service behaves, to be what clients have to cope with:
//! when a few endpoints of a living member expire, its watchers are told that the member is
//! deleted; endpoints are added and never replaced; any update prolongs a member's life; a watcher
//! that does not keep up is cut off.

mod grpc;
mod methods;
mod rate;
pub mod state;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use ringspan::control::discovery::messages::{AffiliateUpdateRequest, StoredAffiliate};

use rate::RateLimiter;
use state::{Failure, State};

/// How often expired members and endpoints are collected.
const COLLECTION: Duration = Duration::from_secs(60);

/// How the service is to behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// Requests a second that one address may make on average; as a burst, four times as many.
    /// None: any number, for many members behind one address.
    pub rate: Option<u32>,
    /// Whether clients are told the address they are seen by.
    pub tell_address: bool,
    /// Where clients are sent instead, `host:port`.
    pub redirect: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            rate: Some(15),
            tell_address: true,
            redirect: None,
        }
    }
}

/// Calls that have come in, by method.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Calls {
    /// Of `Hello`.
    pub hello: u64,
    /// Of `Watch`.
    pub watch: u64,
    /// Of `AffiliateUpdate`.
    pub update: u64,
    /// Of `AffiliateDelete`.
    pub delete: u64,
    /// Of `List`.
    pub list: u64,
}

/// A running service, on a thread of its own. Dropping it ends it, and breaks all connections.
#[derive(Debug)]
pub struct DiscoveryServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    started: Instant,
    tell_address: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// How far the clock was set forward.
    ahead: Duration,
    rate: Option<RateLimiter>,
    redirect: Option<String>,
    calls: Calls,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, inner: &Inner) -> Duration {
        self.started.elapsed() + inner.ahead
    }
}

impl DiscoveryServer {
    /// Starts it.
    ///
    /// # Errors
    /// The port is taken, or there is no thread to be had.
    pub fn start(options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(options.listen))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            tell_address: options.tell_address,
            inner: Mutex::new(Inner {
                state: State::default(),
                ahead: Duration::ZERO,
                rate: options.rate.map(RateLimiter::new),
                redirect: options.redirect,
                calls: Calls::default(),
            }),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("discovery-server".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        // Told to stop, or its owner is gone.
                        _ = stopped => {}
                        () = serve(&listener, &serving) => {}
                        () = collect_for_ever(&serving) => {}
                    }
                });
            })?;
        Ok(Self {
            shared,
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Calls until now.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.shared.lock().calls
    }

    /// What it has of a cluster.
    #[must_use]
    pub fn affiliates(&self, cluster_id: &str) -> Vec<StoredAffiliate> {
        self.shared.lock().state.list(cluster_id)
    }

    /// Does what an `AffiliateUpdate` does, without the limits on its rate: anybody can make one.
    ///
    /// # Errors
    /// As the method.
    pub fn update(&self, request: AffiliateUpdateRequest) -> Result<(), Failure> {
        let mut inner = self.shared.lock();
        let now = self.shared.now(&inner);
        inner.state.update(now, request)
    }

    /// Does what an `AffiliateDelete` does: anybody can make one.
    pub fn delete(&self, cluster_id: &str, affiliate_id: &str) {
        self.shared.lock().state.delete(cluster_id, affiliate_id);
    }

    /// Sets the clock forward, and collects what has expired by then.
    pub fn advance(&self, time: Duration) {
        let mut inner = self.shared.lock();
        inner.ahead += time;
        let now = self.shared.now(&inner);
        inner.state.collect(now);
    }

    /// Sends clients that come from now on elsewhere, `host:port`, or takes them again.
    pub fn redirect(&self, target: Option<String>) {
        self.shared.lock().redirect = target;
    }
}

impl Drop for DiscoveryServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(methods::connection(stream, from.ip(), Arc::clone(shared)));
            }
            // Out of descriptors, most likely: somebody may close one.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn collect_for_ever(shared: &Shared) {
    loop {
        tokio::time::sleep(COLLECTION).await;
        let mut inner = shared.lock();
        let now = shared.now(&inner);
        inner.state.collect(now);
    }
}

/// The address of a client: what a proxy before the service says, else the connection's.
fn client_ip(headers: &http::HeaderMap, connection: IpAddr) -> IpAddr {
    let header = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        value.split(',').next()?.trim().parse().ok()
    };
    header("x-real-ip")
        .or_else(|| header("x-forwarded-for"))
        .unwrap_or(connection)
}
