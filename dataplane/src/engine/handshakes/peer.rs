//! What the control side keeps of one peer, and what it does with it.

use core::net::SocketAddr;
use std::sync::Arc;

use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use super::{Output, Sink, Statistics};
use crate::crypto::{KeyPair, PrivateKey, Random, single};
use crate::mesh::{Endpoint, Mesh, Peer};
use crate::noise::constants::HANDSHAKE_TOS;
use crate::noise::cookie::Holder;
use crate::noise::handshake::{Pending, Remote};
use crate::noise::session::SessionKeys;
use crate::noise::tai64n::{Stamper, Tai64n};
use crate::noise::timers::{self, Action, Timers};
use crate::noise::{Role, Session};
use crate::time::{Instant, Now};
use crate::wire::message::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader};

/// What a peer's state needs of the node for one step.
pub(super) struct Context<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) identity: &'a KeyPair,
    pub(super) random: &'a mut dyn Random,
    pub(super) statistics: &'a mut Statistics,
    pub(super) now: Now,
    pub(super) out: Sink<'a>,
}

impl Context<'_> {
    /// A fresh ephemeral key, if there is randomness.
    pub(super) fn ephemeral(&mut self) -> Option<PrivateKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.random.fill(&mut bytes[..]).ok()?;
        Some(PrivateKey::from(*bytes))
    }

    /// Jitter may fail with the random source: it protects nothing.
    fn jitter(&mut self) -> u32 {
        self.random.next_u32().unwrap_or(0)
    }
}

/// One peer of the node.
pub(super) struct PeerState {
    pub(super) peer: Arc<Peer>,
    pub(super) remote: Remote,
    pub(super) timers: Timers,
    pub(super) cookie: Holder,
    stamper: Stamper,
    /// The initiation sent last, until it is answered.
    pub(super) pending: Option<Pending>,
    /// Of the initiation accepted last: none that is not later is accepted.
    pub(super) latest_timestamp: Tai64n,
    /// When that was.
    pub(super) initiation_accepted: Option<Instant>,
    /// Sessions whose index is in the table.
    published: Vec<Arc<Session>>,
    /// The session made as responder that the peer has not confirmed yet.
    unconfirmed: Option<Arc<Session>>,
    /// Where initiations go too, until one is answered.
    pub(super) rivals: Vec<SocketAddr>,
    /// The valid entry of the schedule.
    pub(super) scheduled: Option<Instant>,
}

impl PeerState {
    pub(super) fn new(peer: Arc<Peer>, remote: Remote) -> Self {
        Self {
            cookie: Holder::new(peer.public_key()),
            peer,
            remote,
            timers: Timers::default(),
            stamper: Stamper::default(),
            pending: None,
            latest_timestamp: Tai64n::default(),
            initiation_accepted: None,
            published: Vec::new(),
            unconfirmed: None,
            rivals: Vec::new(),
            scheduled: None,
        }
    }

    /// When the peer's timers must run, as far as is known.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline(&self.peer.marks)
    }

    /// A session is wanted, unless there is a good one.
    pub(super) fn request(&mut self, context: &mut Context<'_>) {
        if self.needs_session(context.now.monotonic) {
            self.timers.restart_attempts();
            self.initiate(context, false);
        } else {
            self.peer.marks.handshake_begun();
        }
    }

    /// A new session is wanted in any case.
    pub(super) fn renew(&mut self, context: &mut Context<'_>) {
        self.timers.restart_attempts();
        self.initiate(context, true);
    }

    /// Runs every timer that is due, and takes up what workers have done.
    pub(super) fn run_timers(&mut self, context: &mut Context<'_>) {
        let now = context.now.monotonic;
        self.notice_confirmation(context.mesh);
        // This runs for every peer every second: randomness is drawn for those alone that need it.
        if self.deadline().is_some_and(|at| at <= now) {
            let jitter = context.jitter();
            while let Some(action) = self.timers.expired(now, &self.peer.marks, jitter) {
                self.act(action, context);
            }
        }
        let sessions = self.peer.sessions.load();
        let wants_fresh = self.timers.wants_fresh(&sessions, &self.peer.marks);
        drop(sessions);
        if wants_fresh {
            self.renew(context);
        }
        // A wish that got lost on its way here.
        if self.peer.marks.handshake_is_wanted() && !self.timers.is_initiating() {
            self.request(context);
        }
    }

    fn act(&mut self, action: Action, context: &mut Context<'_>) {
        match action {
            Action::RetryHandshake => {
                self.peer.forget_source();
                // Whoever still has something to send asks again, and so restarts the attempts.
                self.peer.marks.handshake_begun();
                self.initiate(context, true);
            }
            Action::DeferredHandshake { in_any_case: true } => self.renew(context),
            Action::DeferredHandshake { in_any_case: false } => self.request(context),
            Action::NewHandshake => {
                self.peer.forget_source();
                self.renew(context);
            }
            Action::GiveUp => {
                self.peer.marks.handshake_begun();
                context.statistics.given_up += 1;
                (context.out)(Output::HandshakeFailed { peer: &self.peer });
            }
            Action::SendKeepalive => self.send_keepalive(context),
            Action::ZeroKeyMaterial => self.forget_keys(context.mesh),
        }
    }

    /// Sends an initiation, now or as soon as one may be sent: then `in_any_case`, or if there is no
    /// good session.
    fn initiate(&mut self, context: &mut Context<'_>, in_any_case: bool) {
        let now = context.now.monotonic;
        if !self.timers.may_initiate(now) {
            self.timers.defer_initiation(in_any_case);
            return;
        }
        if self.peer.endpoint().is_none() {
            // Nothing to wait for: whoever sets an endpoint, or has something to send, asks again.
            self.peer.marks.handshake_begun();
            return;
        }
        // Whatever fails below is tried again with the next retransmission.
        let jitter = context.jitter();
        self.timers.initiation_sent(now, jitter);
        let Some(ephemeral) = context.ephemeral() else {
            return;
        };
        let Ok(index) = context.mesh.indices.reserve(&self.peer) else {
            return;
        };
        let timestamp = self.stamper.stamp(context.now.unix);
        let made = Pending::initiate(context.identity, &self.remote, &ephemeral, timestamp, index);
        let Ok((pending, mut message)) = made else {
            context.mesh.indices.remove(index);
            return;
        };
        self.drop_pending(context.mesh);
        self.pending = Some(pending);
        self.cookie.stamp(now, &mut message);
        context.statistics.initiations_sent += 1;
        self.send(context, message.as_bytes(), HANDSHAKE_TOS);
        for &rival in &self.rivals {
            self.peer
                .counters
                .sent(None, 0, message.as_bytes().len() as u64);
            (context.out)(Output::Send {
                to: Endpoint::from(rival),
                datagram: message.as_bytes(),
                tos: HANDSHAKE_TOS,
                peer: Some(&self.peer),
            });
        }
    }

    /// Sends an empty packet, or asks for the session that it needs.
    pub(super) fn send_keepalive(&mut self, context: &mut Context<'_>) {
        let now = context.now.monotonic;
        let current = self.peer.sessions.load().current.clone();
        let sealed = current
            .filter(|session| !session.is_expired(now))
            .and_then(|session| seal_keepalive(&session));
        match sealed {
            Some(datagram) => {
                context.statistics.keepalives_sent += 1;
                self.send(context, &datagram, 0);
                timers::keepalive_sent(now, &self.peer.marks);
                // Sending, even nothing, is what renews a session.
                if self.needs_session(now) {
                    self.request(context);
                }
            }
            None => self.request(context),
        }
    }

    /// Sends an authenticated message to where the peer is.
    pub(super) fn send(&self, context: &mut Context<'_>, datagram: &[u8], tos: u8) {
        let Some(to) = self.peer.endpoint() else {
            return;
        };
        self.peer.marks.authenticated_sent(context.now.monotonic);
        self.peer.counters.sent(None, 0, datagram.len() as u64);
        (context.out)(Output::Send {
            to,
            datagram,
            tos,
            peer: Some(&self.peer),
        });
    }

    /// Makes a session of `keys` and publishes it; false where its index is gone.
    pub(super) fn install(&mut self, keys: SessionKeys, mesh: &Mesh, now: Instant) -> bool {
        let session = Arc::new(Session::new(keys, now));
        if !mesh.indices.publish(&session) {
            return false;
        }
        self.notice_confirmation(mesh);
        self.peer.sessions.install(&session);
        self.timers.session_derived(now);
        self.unconfirmed = match session.role() {
            Role::Initiator => None,
            Role::Responder => Some(Arc::clone(&session)),
        };
        self.published.push(session);
        self.withdraw_dead(mesh);
        true
    }

    /// A handshake has ended with a session to send with.
    pub(super) fn handshake_complete(&mut self) {
        self.timers.handshake_complete();
        self.peer.marks.handshake_begun();
        self.rivals = Vec::new();
    }

    /// Forgets the initiation that waits for a response.
    pub(super) fn drop_pending(&mut self, mesh: &Mesh) {
        if let Some(pending) = self.pending.take() {
            mesh.indices.remove(pending.local_index());
        }
    }

    /// Forgets every session and handshake.
    pub(super) fn forget_keys(&mut self, mesh: &Mesh) {
        self.drop_pending(mesh);
        self.unconfirmed = None;
        self.peer.sessions.clear();
        self.withdraw_dead(mesh);
    }

    /// Ends sending and all handshakes, but goes on receiving.
    pub(super) fn expire(&mut self, mesh: &Mesh) {
        self.drop_pending(mesh);
        self.unconfirmed = None;
        self.peer.sessions.retire();
        self.withdraw_dead(mesh);
        self.timers.reset();
        self.peer.marks.handshake_begun();
        // What still opens is wiped in the end; `reset` has forgotten when.
        if let Some(newest) = self.published.last() {
            self.timers.session_derived(newest.established());
        }
    }

    /// Whether nothing can be sent, or not for long.
    fn needs_session(&self, now: Instant) -> bool {
        self.peer
            .sessions
            .load()
            .current
            .as_ref()
            .is_none_or(|session| session.is_expired(now) || session.wants_rekey_on_send(now))
    }

    /// Ends the handshake that this end has answered, once a worker has seen the first packet of
    /// its session.
    fn notice_confirmation(&mut self, mesh: &Mesh) {
        let Some(session) = &self.unconfirmed else {
            return;
        };
        let sessions = self.peer.sessions.load();
        let waits = sessions
            .next
            .as_ref()
            .is_some_and(|next| Arc::ptr_eq(next, session));
        if waits {
            return;
        }
        let confirmed = sessions.contains(session);
        drop(sessions);
        self.unconfirmed = None;
        if confirmed {
            self.handshake_complete();
            self.withdraw_dead(mesh);
        }
    }

    /// Takes the indices of sessions that are no longer in use out of the table.
    fn withdraw_dead(&mut self, mesh: &Mesh) {
        let sessions = self.peer.sessions.load();
        let mut dead = Vec::new();
        self.published.retain(|session| {
            let alive = sessions.contains(session);
            if !alive {
                dead.push(session.local_index());
            }
            alive
        });
        if !dead.is_empty() {
            mesh.indices.remove_all(dead);
        }
    }
}

/// An empty packet of `session`; `None` once it has no counters left.
fn seal_keepalive(session: &Session) -> Option<[u8; DATA_OVERHEAD]> {
    let counter = session.reserve_counters(1)?;
    let mut datagram = [0; DATA_OVERHEAD];
    let (header, tag) = datagram.split_first_chunk_mut::<DATA_HEADER_LEN>()?;
    header.copy_from_slice(DataHeader::new(session.remote_index(), counter).as_bytes());
    single::seal(session.sending().as_bytes(), counter, &[], &[], tag).then_some(datagram)
}
