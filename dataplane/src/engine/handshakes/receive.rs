//! Handshake messages that come in.
//!
//! The order of the checks is the order of their cost, and nothing about a peer changes before
//! the last of them: mac1, load, then the key agreements, then replay and flood.

use core::time::Duration;

use zerocopy::IntoBytes;

use super::peer::{Context, PeerState};
use super::{Handshakes, Output, Sink};
use crate::crypto::{NoRandomness, PublicKey};
use crate::mesh::Endpoint;
use crate::noise::constants::{HANDSHAKE_TOS, INITIATIONS_PER_SECOND, UNDER_LOAD_FOR};
use crate::noise::cookie::{Admission, Macced};
use crate::noise::handshake::{Claim, HandshakeError};
use crate::time::{Instant, Now};
use crate::wire::message::{CookieReply, Initiation, Response};
use crate::wire::{Message, ParseError};

/// The least time between two initiations of one peer.
const INITIATION_INTERVAL: Duration =
    Duration::from_nanos(1_000_000_000 / INITIATIONS_PER_SECOND as u64);

/// Why a datagram has had no effect. For counting: its sender learns nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No WireGuard message.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// Transport data, which workers open.
    #[error("transport data is not for the control side")]
    Data,
    /// Not made for this node's public key.
    #[error("mac1 is wrong: the message is for another key, or forged")]
    Mac1,
    /// A cookie was sent in place of an answer.
    #[error("under load: a cookie was sent")]
    CookieSent,
    /// The source has a cookie but too many handshakes.
    #[error("the source has sent more handshakes than its share")]
    RateLimited,
    /// A handshake message that does not open.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// An initiation by a key that is no peer's.
    #[error("the initiator is not a peer")]
    UnknownPeer,
    /// An index that is no handshake's (any more).
    #[error("index {0:#010x} is not that of a handshake under way")]
    UnknownIndex(u32),
    /// An initiation that is not later than the last one.
    #[error("the initiation is a replay, or was overtaken by a later one")]
    Replay,
    /// An initiation too soon after the last one.
    #[error("the peer initiates more than {INITIATIONS_PER_SECOND} times a second")]
    Flood,
    /// A cookie reply to nothing that was sent, or not made by the peer.
    #[error("the cookie reply does not answer the message sent last")]
    Cookie,
    /// This node lacks randomness or indices.
    #[error("out of randomness or receiver indices")]
    Resources,
}

impl From<NoRandomness> for Refusal {
    fn from(_: NoRandomness) -> Self {
        Self::Resources
    }
}

/// Whether the node is busy with handshakes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    filled: bool,
    last: Option<Instant>,
}

impl Load {
    pub(super) fn set(&mut self, queued: usize, capacity: usize) {
        self.filled = queued > 0 && queued >= capacity / 8;
    }

    fn is_high(&mut self, now: Instant) -> bool {
        if self.filled {
            self.last = Some(now);
        }
        self.last
            .is_some_and(|last| now.since(last) < UNDER_LOAD_FOR)
    }
}

impl Handshakes {
    /// Takes a handshake message or cookie reply from `from`.
    ///
    /// # Errors
    /// [`Refusal`] where it has changed nothing; a cookie may have been sent.
    pub fn receive(
        &mut self,
        now: Now,
        datagram: &[u8],
        from: &Endpoint,
        out: Sink<'_>,
    ) -> Result<(), Refusal> {
        let result = self.receive_message(now, datagram, from, out);
        if let Err(refusal) = result {
            self.statistics.count_refusal(refusal);
        }
        result
    }

    fn receive_message(
        &mut self,
        now: Now,
        datagram: &[u8],
        from: &Endpoint,
        out: Sink<'_>,
    ) -> Result<(), Refusal> {
        match Message::parse(datagram)? {
            Message::Initiation(message) => {
                self.admit(now, message, from, out)?;
                self.initiation(now, message, from, out)
            }
            Message::Response(message) => {
                self.admit(now, message, from, out)?;
                self.response(now, message, from, out)
            }
            Message::CookieReply(message) => self.cookie_reply(now, message),
            Message::Data(_) => Err(Refusal::Data),
        }
    }

    /// Lets a message with the right MACs pass; answers with a cookie where one is due.
    fn admit(
        &mut self,
        now: Now,
        message: &impl Macced,
        from: &Endpoint,
        out: &mut dyn FnMut(Output<'_>),
    ) -> Result<(), Refusal> {
        let (at, remote) = (now.monotonic, from.remote);
        // Only who knows this node's key may use up a source's share.
        if !self.checker.is_for_us(message) {
            return Err(Refusal::Mac1);
        }
        if !self.load.is_high(at) && self.unproved.allow(at, remote.ip()) {
            return Ok(());
        }
        let random = &mut *self.random;
        let admission = self.checker.check_cookie(at, random, message, remote)?;
        match admission {
            Admission::Admitted => {
                self.statistics.cookies_proved += 1;
                Ok(())
            }
            Admission::RateLimited => Err(Refusal::RateLimited),
            Admission::NeedsCookie => {
                let reply = self.checker.reply(at, random, message, remote)?;
                out(Output::Send {
                    to: *from,
                    datagram: reply.as_bytes(),
                    tos: 0,
                    peer: None,
                });
                Err(Refusal::CookieSent)
            }
        }
    }

    fn initiation(
        &mut self,
        now: Now,
        message: &Initiation,
        from: &Endpoint,
        out: Sink<'_>,
    ) -> Result<(), Refusal> {
        let claim = Claim::read(&self.identity, message)?;
        let own = *self.public_key();
        let key = *claim.initiator();
        let Some((state, mut context)) = self.enter(&key, now, out) else {
            return Err(Refusal::UnknownPeer);
        };
        let verified = claim.verify(&state.remote)?;
        let at = now.monotonic;
        if verified.timestamp() <= state.latest_timestamp {
            return Err(Refusal::Replay);
        }
        if state
            .initiation_accepted
            .is_some_and(|last| at.since(last) < INITIATION_INTERVAL)
        {
            return Err(Refusal::Flood);
        }
        let ephemeral = context.ephemeral().ok_or(Refusal::Resources)?;
        let index = context.mesh.indices.reserve(&state.peer);
        let index = index.map_err(|_| Refusal::Resources)?;

        state.latest_timestamp = verified.timestamp();
        state.initiation_accepted = Some(at);
        let (mut response, keys) = match verified.respond(&state.remote, &ephemeral, index) {
            Ok(answer) => answer,
            Err(error) => {
                context.mesh.indices.remove(index);
                return Err(error.into());
            }
        };
        heard(state, &context, message.as_bytes(), from);
        // Both ends have initiated at once. The kernel forgets its own initiation then, so two
        // kernels wait for a retransmission. Here the end with the lower key holds on to its own,
        // so that exactly one handshake is completed.
        if own > key {
            state.drop_pending(context.mesh);
        }
        if !state.install(keys, context.mesh, at) {
            return Err(Refusal::Resources);
        }
        state.cookie.stamp(at, &mut response);
        state.timers.response_sent(at);
        context.statistics.initiations_accepted += 1;
        context.statistics.responses_sent += 1;
        state.send(&mut context, response.as_bytes(), HANDSHAKE_TOS);
        self.leave(&key);
        Ok(())
    }

    fn response(
        &mut self,
        now: Now,
        message: &Response,
        from: &Endpoint,
        out: Sink<'_>,
    ) -> Result<(), Refusal> {
        let index = message.receiver_index.get();
        let key = self.peer_of(index).ok_or(Refusal::UnknownIndex(index))?;
        let Some((state, mut context)) = self.enter(&key, now, out) else {
            return Err(Refusal::UnknownIndex(index));
        };
        let pending = state.pending.as_ref();
        let pending = pending.ok_or(Refusal::UnknownIndex(index))?;
        let keys = pending.finish(context.identity, &state.remote, message)?;

        let at = now.monotonic;
        state.pending = None;
        heard(state, &context, message.as_bytes(), from);
        if !state.install(keys, context.mesh, at) {
            return Err(Refusal::Resources);
        }
        context.statistics.responses_accepted += 1;
        state.handshake_complete();
        state.peer.last_handshake.store(at);
        // The responder may not send before it has heard from this session.
        state.send_keepalive(&mut context);
        (context.out)(Output::SessionReady { peer: &state.peer });
        self.leave(&key);
        Ok(())
    }

    fn cookie_reply(&mut self, now: Now, message: &CookieReply) -> Result<(), Refusal> {
        let index = message.receiver_index.get();
        let key = self.peer_of(index).ok_or(Refusal::UnknownIndex(index))?;
        let state = self.peers.get_mut(&key).ok_or(Refusal::UnknownPeer)?;
        // It is authentic, but anyone on the path may have sent it: the endpoint stays, and no
        // timer hears of it.
        if state.cookie.accept(now.monotonic, message) {
            self.statistics.cookies_accepted += 1;
            Ok(())
        } else {
            Err(Refusal::Cookie)
        }
    }

    /// The peer that a receiver index belongs to, be it a handshake's or a session's.
    fn peer_of(&self, index: u32) -> Option<PublicKey> {
        let indices = self.mesh.indices.load();
        indices.entry(index).map(|entry| *entry.peer().public_key())
    }
}

/// An authenticated handshake message has come: the peer is where it came from.
fn heard(state: &PeerState, context: &Context<'_>, datagram: &[u8], from: &Endpoint) {
    state.peer.set_endpoint(*from);
    state.peer.counters.received(None, 0, datagram.len() as u64);
    state
        .peer
        .marks
        .authenticated_received(context.now.monotonic);
}
