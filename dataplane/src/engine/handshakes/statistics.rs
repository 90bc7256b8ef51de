//! What has been sent, accepted and refused.

use super::Refusal;

/// Totals of a node's handshakes since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Initiations sent, retries among them.
    pub initiations_sent: u64,
    /// Responses sent: sessions made as responder.
    pub responses_sent: u64,
    /// Cookie replies sent.
    pub cookies_sent: u64,
    /// Empty packets sent.
    pub keepalives_sent: u64,
    /// Initiations accepted.
    pub initiations_accepted: u64,
    /// Responses accepted: sessions made as initiator.
    pub responses_accepted: u64,
    /// Cookies accepted.
    pub cookies_accepted: u64,
    /// Messages let through because they bore a right cookie of this node's.
    pub cookies_proved: u64,
    /// Handshakes given up after all retries.
    pub given_up: u64,
    /// Datagrams that are no handshake message.
    pub malformed: u64,
    /// Messages for another key, or forged.
    pub wrong_mac1: u64,
    /// Messages of a source beyond its share.
    pub rate_limited: u64,
    /// Messages that do not open: other keys, other preshared keys, or forged.
    pub not_authentic: u64,
    /// Initiations of keys that are no peer's.
    pub unknown_peer: u64,
    /// Answers to what is not under way (any more).
    pub unknown_index: u64,
    /// Initiations not later than the last one.
    pub replayed: u64,
    /// Initiations too soon after the last one.
    pub flooded: u64,
    /// How often all sessions were forgotten because the machine was suspended or cloned.
    pub interruptions: u64,
    /// Messages dropped for lack of randomness or receiver indices.
    pub out_of_resources: u64,
}

impl Statistics {
    pub(super) fn count_refusal(&mut self, refusal: Refusal) {
        let total = match refusal {
            Refusal::Malformed(_) | Refusal::Data => &mut self.malformed,
            Refusal::Mac1 => &mut self.wrong_mac1,
            Refusal::CookieSent => &mut self.cookies_sent,
            Refusal::RateLimited => &mut self.rate_limited,
            Refusal::Handshake(_) | Refusal::Cookie => &mut self.not_authentic,
            Refusal::UnknownPeer => &mut self.unknown_peer,
            Refusal::UnknownIndex(_) => &mut self.unknown_index,
            Refusal::Replay => &mut self.replayed,
            Refusal::Flood => &mut self.flooded,
            Refusal::Resources => &mut self.out_of_resources,
        };
        *total += 1;
    }

    /// Every total with its name, for metrics and statuses.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 19] {
        [
            ("initiations_sent", self.initiations_sent),
            ("responses_sent", self.responses_sent),
            ("cookies_sent", self.cookies_sent),
            ("keepalives_sent", self.keepalives_sent),
            ("initiations_accepted", self.initiations_accepted),
            ("responses_accepted", self.responses_accepted),
            ("cookies_accepted", self.cookies_accepted),
            ("cookies_proved", self.cookies_proved),
            ("given_up", self.given_up),
            ("malformed", self.malformed),
            ("wrong_mac1", self.wrong_mac1),
            ("rate_limited", self.rate_limited),
            ("not_authentic", self.not_authentic),
            ("unknown_peer", self.unknown_peer),
            ("unknown_index", self.unknown_index),
            ("replayed", self.replayed),
            ("flooded", self.flooded),
            ("interruptions", self.interruptions),
            ("out_of_resources", self.out_of_resources),
        ]
    }
}
