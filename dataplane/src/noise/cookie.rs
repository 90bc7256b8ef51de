//! The MACs that end both handshake messages, and cookies (WireGuard paper §5.3, §5.4.4, §5.4.7;
//! kernel `cookie.c`).
//!
//! mac1 proves that a sender knows the receiver's public key; whoever scans the network does not
//! and gets no answer. Under load a receiver does no key agreement for a sender that has not
//! proved, by mac2, that it can read what is sent to its address **and port**.

use core::net::{IpAddr, SocketAddr};

use subtle::ConstantTimeEq;
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use super::constants::{COOKIE_SECRET_LATENCY, COOKIE_SECRET_MAX_AGE};
use super::ratelimit::{HANDSHAKE_RATE, RateLimiter};
use crate::crypto::hash::{MacKey, Secret, hash, mac};
use crate::crypto::{NoRandomness, PublicKey, Random, single};
use crate::time::Instant;
use crate::wire::message::{CookieReply, Initiation, Macs, Response};

const LABEL_MAC1: &[u8; 8] = b"mac1----";
const LABEL_COOKIE: &[u8; 8] = b"cookie--";

/// 16 bytes that wipe themselves.
type Cookie = Zeroizing<[u8; 16]>;

/// A message that ends in [`Macs`].
pub trait Macced: IntoBytes + zerocopy::Immutable {
    /// The two MACs.
    fn macs(&self) -> &Macs;
    /// The two MACs, to be set.
    fn macs_mut(&mut self) -> &mut Macs;
    /// The index that an answer goes to.
    fn sender_index(&self) -> u32;
}

macro_rules! macced {
    ($($message:ty),*) => {$(
        impl Macced for $message {
            fn macs(&self) -> &Macs {
                &self.macs
            }
            fn macs_mut(&mut self) -> &mut Macs {
                &mut self.macs
            }
            fn sender_index(&self) -> u32 {
                self.sender_index.get()
            }
        }
    )*};
}
macced!(Initiation, Response);

fn mac1(key: &Secret, message: &impl Macced) -> [u8; 16] {
    let bytes = message.as_bytes();
    let covered = bytes
        .split_last_chunk::<32>()
        .map_or(bytes, |(front, _)| front);
    mac(MacKey::Long(key), &[covered])
}

fn mac2(cookie: &Cookie, message: &impl Macced) -> [u8; 16] {
    let bytes = message.as_bytes();
    let covered = bytes
        .split_last_chunk::<16>()
        .map_or(bytes, |(front, _)| front);
    mac(MacKey::Short(cookie), &[covered])
}

/// The two keys that follow from a receiver's public key.
struct Keys {
    mac1: Secret,
    cookie: Secret,
}

impl Keys {
    fn new(receiver: &PublicKey) -> Self {
        let derive = |label: &[u8]| Secret::new(hash(&[label, receiver.as_bytes()]));
        Self {
            mac1: derive(LABEL_MAC1),
            cookie: derive(LABEL_COOKIE),
        }
    }
}

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Keys(secret)")
    }
}

/// What a receiver under load makes of a message's cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Goes on to the key agreement.
    Admitted,
    /// There is none, or not for this source: answer with [`Checker::reply`].
    NeedsCookie,
    /// It is right, but this source has had its share.
    RateLimited,
}

/// The receiving side: checks MACs, makes cookies.
#[derive(Debug)]
pub struct Checker {
    keys: Keys,
    secret: Secret,
    secret_made: Option<Instant>,
    limiter: RateLimiter,
}

impl Checker {
    /// A checker for what is sent to `own`.
    ///
    /// # Errors
    /// [`NoRandomness`] where the rate limiter cannot be seeded.
    pub fn new(own: &PublicKey, random: &mut dyn Random) -> Result<Self, NoRandomness> {
        Ok(Self {
            keys: Keys::new(own),
            secret: Secret::default(),
            secret_made: None,
            limiter: RateLimiter::new(HANDSHAKE_RATE, [random.next_u64()?, random.next_u64()?]),
        })
    }

    /// Changes this end's public key.
    pub fn set_public_key(&mut self, own: &PublicKey) {
        self.keys = Keys::new(own);
    }

    /// Whether the mac1 of `message` is right. If not it was made for another key, or is forged,
    /// and must not be answered.
    #[must_use]
    pub fn is_for_us(&self, message: &impl Macced) -> bool {
        mac1(&self.keys.mac1, message)
            .ct_eq(&message.macs().mac1)
            .into()
    }

    /// Checks the mac2 of `message`, which came from `from`, and takes from the source's share if
    /// it is right. To be asked under load alone, and only of what [is for
    /// us](Self::is_for_us).
    ///
    /// # Errors
    /// [`NoRandomness`] where a new secret is due and cannot be made; the message is to be dropped.
    pub fn check_cookie(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        message: &impl Macced,
        from: SocketAddr,
    ) -> Result<Admission, NoRandomness> {
        let cookie = self.cookie(now, random, from)?;
        if !bool::from(mac2(&cookie, message).ct_eq(&message.macs().mac2)) {
            return Ok(Admission::NeedsCookie);
        }
        Ok(if self.limiter.allow(now, from.ip()) {
            Admission::Admitted
        } else {
            Admission::RateLimited
        })
    }

    /// The cookie reply to `message`, which came from `from`.
    ///
    /// # Errors
    /// [`NoRandomness`] where nonce or secret cannot be made.
    pub fn reply(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        message: &impl Macced,
        from: SocketAddr,
    ) -> Result<CookieReply, NoRandomness> {
        let cookie = self.cookie(now, random, from)?;
        let mut reply = CookieReply::new(message.sender_index());
        random.fill(&mut reply.nonce)?;
        let sealed = single::seal_x(
            &self.keys.cookie,
            &reply.nonce,
            &message.macs().mac1,
            &cookie[..],
            &mut reply.encrypted_cookie,
        );
        debug_assert!(sealed);
        Ok(reply)
    }

    /// The cookie of `from`: a MAC of address and port under a secret that is replaced every two
    /// minutes.
    fn cookie(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        from: SocketAddr,
    ) -> Result<Cookie, NoRandomness> {
        let fresh = |made: Instant| now.since(made) < COOKIE_SECRET_MAX_AGE;
        if !self.secret_made.is_some_and(fresh) {
            random.fill(&mut self.secret[..])?;
            self.secret_made = Some(now);
        }
        let key = MacKey::Long(&self.secret);
        let port = from.port().to_be_bytes();
        Ok(Cookie::new(match from.ip().to_canonical() {
            IpAddr::V4(address) => mac(key, &[&address.octets(), &port]),
            IpAddr::V6(address) => mac(key, &[&address.octets(), &port]),
        }))
    }
}

/// The sending side: sets MACs, keeps the cookie that one peer has given.
#[derive(Debug)]
pub struct Holder {
    keys: Keys,
    /// mac1 of the message sent last, until one cookie reply has answered it.
    answerable: Option<[u8; 16]>,
    cookie: Option<(Cookie, Instant)>,
}

impl Holder {
    /// For messages to `peer`.
    #[must_use]
    pub fn new(peer: &PublicKey) -> Self {
        Self {
            keys: Keys::new(peer),
            answerable: None,
            cookie: None,
        }
    }

    /// Sets both MACs of `message`, which is otherwise complete.
    pub fn stamp(&mut self, now: Instant, message: &mut impl Macced) {
        let mac1 = mac1(&self.keys.mac1, message);
        message.macs_mut().mac1 = mac1;
        self.answerable = Some(mac1);
        // Some grace, or the cookie would expire under way.
        let max_age = COOKIE_SECRET_MAX_AGE - COOKIE_SECRET_LATENCY;
        self.cookie = self
            .cookie
            .take()
            .filter(|(_, got)| now.since(*got) < max_age);
        message.macs_mut().mac2 = match &self.cookie {
            Some((cookie, _)) => mac2(cookie, message),
            None => [0; 16],
        };
    }

    /// Takes the cookie from `reply`, if it answers the message sent last; tells whether it does.
    pub fn accept(&mut self, now: Instant, reply: &CookieReply) -> bool {
        let Some(mac1) = self.answerable else {
            return false;
        };
        let mut cookie = Cookie::default();
        let opened = single::open_x(
            &self.keys.cookie,
            &reply.nonce,
            &mac1,
            &reply.encrypted_cookie,
            &mut cookie[..],
        );
        if opened.is_err() {
            return false;
        }
        self.answerable = None;
        self.cookie = Some((cookie, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededRandom;
    use core::time::Duration;

    struct Fixture {
        checker: Checker,
        holder: Holder,
        random: SeededRandom,
    }

    fn fixture() -> Fixture {
        let public = PublicKey::from([7; 32]);
        let mut random = SeededRandom::new(1);
        Fixture {
            checker: Checker::new(&public, &mut random).unwrap(),
            holder: Holder::new(&public),
            random,
        }
    }

    impl Fixture {
        fn message(&mut self, now: Instant) -> Initiation {
            let mut message = Initiation::new(5);
            self.holder.stamp(now, &mut message);
            message
        }

        fn check(&mut self, now: Instant, message: &Initiation, from: &str) -> Admission {
            assert!(self.checker.is_for_us(message));
            let from = from.parse().unwrap();
            self.checker
                .check_cookie(now, &mut self.random, message, from)
                .unwrap()
        }

        /// One round of message, cookie reply, and the peer's taking it.
        fn get_cookie(&mut self, now: Instant, from: &str) {
            let message = self.message(now);
            let from = from.parse().unwrap();
            let reply = self
                .checker
                .reply(now, &mut self.random, &message, from)
                .unwrap();
            assert_eq!(reply.receiver_index.get(), 5);
            assert!(self.holder.accept(now, &reply));
        }
    }

    const T: Instant = Instant::from_secs(100);
    const A: &str = "192.0.2.1:1000";

    #[test]
    fn mac1_proves_knowledge_of_the_receiver_s_key() {
        let mut f = fixture();
        let message = f.message(T);
        assert_eq!(message.macs.mac2, [0; 16]);
        assert!(f.checker.is_for_us(&message));
        for spoil in [
            (|m: &mut Initiation| m.macs.mac1[3] ^= 1) as fn(&mut Initiation),
            |m| m.ephemeral[0] ^= 1,
            |m| m.sender_index = 6.into(),
        ] {
            let mut spoilt = message;
            spoil(&mut spoilt);
            assert!(!f.checker.is_for_us(&spoilt));
        }
        f.checker.set_public_key(&PublicKey::from([8; 32]));
        assert!(!f.checker.is_for_us(&message));
    }

    #[test]
    fn under_load_a_cookie_decides() {
        let mut f = fixture();
        let message = f.message(T);
        assert_eq!(f.check(T, &message, A), Admission::NeedsCookie);
        f.get_cookie(T, A);
        let message = f.message(T);
        assert_ne!(message.macs.mac2, [0; 16]);
        assert_eq!(f.check(T, &message, A), Admission::Admitted);
    }

    #[test]
    fn a_cookie_is_for_one_address_and_port() {
        for (from, other) in [
            (A, "192.0.2.2:1000"),
            (A, "192.0.2.1:1001"),
            ("[2001:db8::1]:7", "[2001:db8::2]:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:8"),
        ] {
            let mut f = fixture();
            f.get_cookie(T, from);
            let message = f.message(T);
            assert_eq!(f.check(T, &message, other), Admission::NeedsCookie);
            assert_eq!(f.check(T, &message, from), Admission::Admitted);
        }
    }

    #[test]
    fn holder_drops_a_cookie_before_the_checker_does() {
        let mut f = fixture();
        f.get_cookie(T, A);
        let message = f.message(T + Duration::from_millis(114_999));
        assert_eq!(
            f.check(T + Duration::from_secs(119), &message, A),
            Admission::Admitted
        );
        assert_eq!(
            f.check(T + Duration::from_secs(120), &message, A),
            Admission::NeedsCookie
        );
        let message = f.message(T + Duration::from_secs(115));
        assert_eq!(message.macs.mac2, [0; 16]);
    }

    #[test]
    fn a_proved_source_is_rate_limited() {
        let mut f = fixture();
        f.get_cookie(T, A);
        let message = f.message(T);
        for _ in 0..5 {
            assert_eq!(f.check(T, &message, A), Admission::Admitted);
        }
        assert_eq!(f.check(T, &message, A), Admission::RateLimited);
    }

    #[test]
    fn a_cookie_reply_answers_one_message_once() {
        let mut f = fixture();
        let from = A.parse().unwrap();
        assert!(
            !f.holder.accept(T, &CookieReply::new(5)),
            "nothing was sent yet"
        );
        let first = f.message(T);
        let to_first = f.checker.reply(T, &mut f.random, &first, from).unwrap();
        let mut second = first;
        second.ephemeral[0] ^= 1;
        f.holder.stamp(T, &mut second);
        assert!(!f.holder.accept(T, &to_first), "a later message was sent");
        let to_second = f.checker.reply(T, &mut f.random, &second, from).unwrap();
        let mut forged = to_second;
        forged.encrypted_cookie[0] ^= 1;
        assert!(!f.holder.accept(T, &forged));
        assert!(f.holder.accept(T, &to_second), "a forgery changes nothing");
        assert!(!f.holder.accept(T, &to_second), "a replay");
    }
}
