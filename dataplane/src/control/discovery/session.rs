//! What the client's thread does: connect, watch, renew; again after every failure.

use core::time::Duration;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::client::{Config, Event, Sealed};
use super::roster::{Change, Roster};
use super::route::Route;
use super::service::{CallError, Service, Watch, public_ip};
use crate::crypto::OsRandom;
use crate::runtime::wake::Waker;

/// How often a reader that does not keep up is looked after.
const READER_WAIT: Duration = Duration::from_millis(10);
/// The client's version, as the service counts them.
const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// What the client's owner wants of its thread.
#[derive(Debug)]
pub(super) enum Order {
    /// End.
    Stop,
    /// Take this node's entry away, say how that went, and end.
    Leave {
        /// How long that may take.
        limit: Duration,
        /// Who is told.
        answer: Sender<Result<(), CallError>>,
    },
}

/// The state of the client's thread.
pub(super) struct Session {
    config: Config,
    roster: Roster,
    announced: watch::Receiver<Option<Arc<Sealed>>>,
    reports: Sender<Event>,
    /// Woken with each report.
    bell: Arc<Waker>,
    /// Told when the connection is to be given up.
    moved: Arc<Notify>,
    route: Route,
    backoff: Backoff,
    /// The connection, while there is one.
    service: Option<Service>,
    /// The announcement that the service has last confirmed.
    confirmed: Option<Arc<Sealed>>,
    /// Which of the found endpoints comes first at the next refresh.
    found_first: usize,
    /// When the roster's time began.
    started: Instant,
}

impl Session {
    pub(super) fn new(
        config: Config,
        roster: Roster,
        announced: watch::Receiver<Option<Arc<Sealed>>>,
        (reports, bell): (Sender<Event>, Arc<Waker>),
        moved: Arc<Notify>,
    ) -> Self {
        let timings = &config.timings;
        Self {
            route: Route::new(config.server.clone()),
            backoff: Backoff::new(timings.first_wait, timings.longest_wait),
            config,
            roster,
            announced,
            reports,
            bell,
            moved,
            service: None,
            confirmed: None,
            found_first: 0,
            started: Instant::now(),
        }
    }

    /// Runs until an order ends it.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        // An order interrupts whatever is being waited for.
        let order = tokio::select! {
            order = orders.recv() => order,
            never = self.serve_for_ever() => match never {},
        };
        if let Some(Order::Leave { limit, answer }) = order {
            let method = "AffiliateDelete";
            let timeout = limit;
            let left = tokio::time::timeout(limit, self.leave()).await;
            // Nobody waits any more where this is refused.
            let _ = answer.send(left.unwrap_or(Err(CallError::Timeout { method, timeout })));
        }
    }

    async fn serve_for_ever(&mut self) -> core::convert::Infallible {
        let mut wait = self.backoff.wait(&mut OsRandom);
        loop {
            sleep(wait).await;
            let reason = match self.serve().await {
                Ok(never) => match never {},
                Err(reason) => reason,
            };
            // Without a connection: the next one reads the root certificates anew.
            self.service = None;
            if !matches!(
                reason,
                CallError::Redirected { .. } | CallError::Redirect(_) | CallError::Moved
            ) {
                self.route.failed();
            }
            wait = self.backoff.wait(&mut OsRandom);
            tracing::info!(%reason, ?wait, "discovery interrupted");
            let retry_in = wait;
            self.report(Event::Disconnected { reason, retry_in }).await;
        }
    }

    /// One connection, until it fails.
    async fn serve(&mut self) -> Result<core::convert::Infallible, CallError> {
        let timings = self.config.timings;
        let mut service = Service::connect(self.route.current(), &self.config).await?;
        let hello = service.hello(VERSION, timings.call).await?;
        if let Some(redirect) = &hello.redirect {
            self.route.redirect(&redirect.endpoint)?;
            let url = self.route.current().to_string();
            return Err(CallError::Redirected { url });
        }
        self.service = Some(service.clone());
        tracing::info!(server = %self.route.current(), "discovery connected");
        let public_ip = public_ip(&hello);
        self.report(Event::Connected { public_ip }).await;
        let (stored, watch) = service.watch(timings.call).await?;
        let changes = self.roster.snapshot(&stored);
        self.report_changes(changes).await;
        self.report(Event::Synchronized).await;
        self.route.worked();
        if self.announcement().is_none() {
            self.backoff.reset();
        }
        self.follow(service, watch).await
    }

    async fn follow(
        &mut self,
        mut service: Service,
        mut watch: Watch,
    ) -> Result<core::convert::Infallible, CallError> {
        let timings = self.config.timings;
        let mut refresh_at = Instant::now();
        let moved = Arc::clone(&self.moved);
        // What was asked for before this connection began is done.
        tokio::select! {
            biased;
            () = moved.notified() => {}
            () = core::future::ready(()) => {}
        }
        // Just told: what the snapshot lacked is about to be sent.
        self.roster.take_own_missing();
        loop {
            let ask_at = self.roster.ask_at().map(|at| self.clock(at));
            tokio::select! {
                change = watch.next() => {
                    let change = change?;
                    if change.deleted {
                        self.roster.deleted(self.now(), &change.affiliates);
                    } else {
                        let changes = self.roster.updated(&change.affiliates);
                        self.report_changes(changes).await;
                    }
                    if self.roster.take_own_missing() {
                        // Not at once: whoever deletes it again and again must not be answered
                        // at that rate.
                        refresh_at = refresh_at.min(Instant::now() + timings.confirm / 2);
                    }
                }
                () = moved.notified() => return Err(CallError::Moved),
                Ok(()) = self.announced.changed() => refresh_at = Instant::now(),
                () = sleep_until(refresh_at), if self.announcement().is_some() => {
                    // What it may lose is that it was announced, which the next one tells.
                    tokio::select! {
                        refreshed = self.refresh(&mut service) => refreshed?,
                        () = moved.notified() => return Err(CallError::Moved),
                    }
                    refresh_at = Instant::now() + timings.refresh;
                }
                () = sleep_until(ask_at.unwrap_or(refresh_at)), if ask_at.is_some() => {
                    let asked = self.now();
                    let stored = service.list(timings.call).await?;
                    let changes = self.roster.listed(asked, &stored);
                    self.report_changes(changes).await;
                }
            }
        }
    }

    /// Tells the service what this node announces: of itself first.
    async fn refresh(&mut self, service: &mut Service) -> Result<(), CallError> {
        let timings = self.config.timings;
        let Some(sealed) = self.announced.borrow_and_update().clone() else {
            return Ok(());
        };
        let end = Instant::now() + timings.refresh_calls;
        let (data, endpoints) = (Some(sealed.data.clone()), sealed.endpoints.clone());
        let id = &self.config.node_id;
        let timeout = timings.refresh_calls;
        service
            .update(id, data, endpoints, timings.ttl, timeout)
            .await?;
        self.backoff.reset();
        self.confirmed = Some(Arc::clone(&sealed));
        self.report(Event::Announced).await;
        // The service lets so many through a second. Those that time has run out for come first
        // when it is renewed.
        let count = sealed.found.len();
        let first = self.found_first.checked_rem(count).unwrap_or_default();
        let (behind, ahead) = sealed.found.split_at_checked(first).unwrap_or_default();
        self.found_first = 0;
        for (done, (id, endpoints)) in ahead.iter().chain(behind).enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let call = service.update(id, None, endpoints.clone(), timings.ttl, left);
            match call.await {
                Ok(()) => {}
                // One that the service does not like is no reason to lose the connection.
                Err(CallError::Refused {
                    code: tonic::Code::InvalidArgument | tonic::Code::ResourceExhausted,
                    message,
                    ..
                }) => tracing::debug!(node = id, message, "found endpoints not taken"),
                Err(CallError::Timeout { .. }) => {
                    self.found_first = first + done;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes this node's entry away, over the connection that is there or a new one.
    async fn leave(&mut self) -> Result<(), CallError> {
        if self.confirmed.is_none() && self.announcement().is_none() {
            return Ok(());
        }
        let timings = self.config.timings;
        let mut service = match self.service.take() {
            Some(service) => service,
            None => Service::connect(self.route.current(), &self.config).await?,
        };
        service.delete(&self.config.node_id, timings.call).await
    }

    fn announcement(&self) -> Option<Arc<Sealed>> {
        self.announced.borrow().clone()
    }

    async fn report_changes(&self, changes: Vec<Change>) {
        for change in changes {
            match &change {
                Change::Refused {
                    affiliate_id,
                    reason,
                } => tracing::debug!(node = affiliate_id, %reason, "affiliate refused"),
                Change::Member(affiliate) => {
                    tracing::debug!(node = affiliate.node_id, "affiliate updated");
                }
                Change::Vanished { node_id } => tracing::info!(node = node_id, "member vanished"),
                Change::Removed { node_id } => tracing::info!(node = node_id, "member left"),
            }
            self.report(Event::Change(change)).await;
        }
    }

    /// The roster's time.
    fn now(&self) -> crate::time::Instant {
        crate::time::Instant::ZERO + self.started.elapsed()
    }

    /// Its time in the clock of the event loop.
    fn clock(&self, at: crate::time::Instant) -> Instant {
        self.started + at.since(crate::time::Instant::ZERO)
    }

    /// Hands an event over, however long the reader takes.
    async fn report(&self, mut event: Event) {
        while let Err(TrySendError::Full(back)) = self.reports.try_send(event) {
            event = back;
            sleep(READER_WAIT).await;
        }
        self.bell.wake();
    }
}
