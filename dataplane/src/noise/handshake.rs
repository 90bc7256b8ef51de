//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (WireGuard paper §5.4).
//!
//! Every step consumes what the step before has made, so that the order cannot be got wrong, and
//! returns new values instead of changing a peer: a forged message has nothing to spoil.
//!
//! ```text
//! initiator                                 responder
//! Pending::initiate ── Initiation ────────► Claim::read      who says so?
//!                                           Claim::verify    it is that peer
//! Pending::finish ◄─── Response ─────────── Verified::respond
//! SessionKeys                               SessionKeys
//! ```

use zerocopy::byteorder::little_endian::U32;
use zeroize::Zeroize;

use super::session::{Role, SessionKeys};
use super::tai64n::Tai64n;
use crate::crypto::hash::{HASH_LEN, Secret, hash, kdf1, kdf2, kdf3};
use crate::crypto::{AgreementError, KeyPair, PresharedKey, PrivateKey, PublicKey, single};
use crate::wire::message::{Initiation, Response};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Why a handshake message cannot be made or is refused. Never told to its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// An ephemeral or static key that no X25519 agreement is possible with.
    #[error("the peer's key cannot be used: {0}")]
    Agreement(#[from] AgreementError),
    /// A field does not open: another key, another preshared key, or a forgery.
    #[error("the {field} does not open: the peers' keys or preshared keys differ, or it is forged")]
    Forged {
        /// The field that does not open.
        field: &'static str,
    },
    /// A response to something else.
    #[error("the response answers index {receiver_index:#010x}, which is not this handshake's")]
    NotOurs {
        /// The index that it answers.
        receiver_index: u32,
    },
}

/// What one end must know of the other before they can meet.
#[derive(Debug)]
pub struct Remote {
    public: PublicKey,
    /// The agreement of both static keys, made once: it is the same for every handshake.
    static_static: Secret,
    /// Mixed into the second message.
    pub preshared_key: PresharedKey,
}

impl Remote {
    /// The peer with static key `public`, as `local` sees it.
    ///
    /// # Errors
    /// [`AgreementError`] where `public` is a point of low order.
    pub fn new(
        local: &KeyPair,
        public: PublicKey,
        preshared_key: PresharedKey,
    ) -> Result<Self, AgreementError> {
        Ok(Self {
            public,
            static_static: local.agree(&public)?,
            preshared_key,
        })
    }

    /// The peer's static public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// The running hash and chaining key of a handshake. Wiped on drop.
#[derive(Clone)]
struct Transcript {
    chaining_key: Secret,
    hash: [u8; HASH_LEN],
}

impl Transcript {
    /// Both ends begin with the responder's static key.
    fn new(responder: &PublicKey) -> Self {
        let chaining_key = hash(&[CONSTRUCTION]);
        let mut this = Self {
            hash: hash(&[&chaining_key, IDENTIFIER]),
            chaining_key: Secret::new(chaining_key),
        };
        this.mix_hash(responder.as_bytes());
        this
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// `e`: an ephemeral key in the clear.
    fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.chaining_key = kdf1(&self.chaining_key, public);
    }

    /// An agreement after which something is encrypted.
    #[must_use]
    fn mix_key(&mut self, shared: &Secret) -> Secret {
        let (chaining_key, key) = kdf2(&self.chaining_key, &shared[..]);
        self.chaining_key = chaining_key;
        key
    }

    /// An agreement after which nothing is encrypted.
    fn mix_agreement(&mut self, shared: &Secret) {
        // The first output of the derivation is the same with one output or two.
        self.chaining_key = kdf1(&self.chaining_key, &shared[..]);
    }

    #[must_use]
    fn mix_psk(&mut self, psk: &PresharedKey) -> Secret {
        let (chaining_key, to_hash, key) = kdf3(&self.chaining_key, psk.as_bytes());
        self.chaining_key = chaining_key;
        self.mix_hash(&to_hash[..]);
        key
    }

    /// Encrypts a field and mixes in the ciphertext. Every key is used once, with nonce zero.
    fn seal(&mut self, key: &Secret, plaintext: &[u8], out: &mut [u8]) {
        // The callers' array lengths fit; nothing else can fail.
        let sealed = single::seal(key, 0, &self.hash, plaintext, out);
        debug_assert!(sealed);
        self.mix_hash(out);
    }

    fn open(
        &mut self,
        key: &Secret,
        ciphertext: &[u8],
        out: &mut [u8],
        field: &'static str,
    ) -> Result<(), HandshakeError> {
        single::open(key, 0, &self.hash, ciphertext, out)
            .map_err(|_| HandshakeError::Forged { field })?;
        self.mix_hash(ciphertext);
        Ok(())
    }

    /// The transport keys (§5.4.5).
    fn split(self, role: Role, local_index: u32, remote_index: u32) -> SessionKeys {
        let (mut of_initiator, mut of_responder) = kdf2(&self.chaining_key, &[]);
        let initiator_s = (*of_initiator).into();
        let responder_s = (*of_responder).into();
        of_initiator.zeroize();
        of_responder.zeroize();
        let (sending, receiving) = match role {
            Role::Initiator => (initiator_s, responder_s),
            Role::Responder => (responder_s, initiator_s),
        };
        SessionKeys {
            sending,
            receiving,
            local_index,
            remote_index,
            role,
        }
    }
}

impl core::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Transcript(secret)")
    }
}

/// An initiator's handshake between its two messages.
#[derive(Debug)]
pub struct Pending {
    transcript: Transcript,
    ephemeral: KeyPair,
    local_index: u32,
}

impl Pending {
    /// Makes an initiation to `remote`, without MACs. `ephemeral` must be fresh random bytes;
    /// `local_index` is where the response is to come.
    ///
    /// # Errors
    /// [`HandshakeError::Agreement`] where the keys do not agree.
    pub fn initiate(
        local: &KeyPair,
        remote: &Remote,
        ephemeral: &PrivateKey,
        timestamp: Tai64n,
        local_index: u32,
    ) -> Result<(Self, Initiation), HandshakeError> {
        let ephemeral = KeyPair::new(ephemeral)?;
        let mut transcript = Transcript::new(&remote.public);
        let mut message = Initiation::new(local_index);

        message.ephemeral = *ephemeral.public().as_bytes();
        transcript.mix_ephemeral(&message.ephemeral);
        let key = transcript.mix_key(&ephemeral.agree(&remote.public)?);
        let public = local.public().as_bytes();
        transcript.seal(&key, public, &mut message.encrypted_static);
        let key = transcript.mix_key(&remote.static_static);
        transcript.seal(&key, timestamp.as_bytes(), &mut message.encrypted_timestamp);

        let pending = Self {
            transcript,
            ephemeral,
            local_index,
        };
        Ok((pending, message))
    }

    /// The index by which the response is expected.
    #[must_use]
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Ends the handshake with the responder's answer. The handshake can be ended by another
    /// response still when this one is refused.
    ///
    /// # Errors
    /// [`HandshakeError`] where `response` is not the peer's answer to this very initiation.
    pub fn finish(
        &self,
        local: &KeyPair,
        remote: &Remote,
        response: &Response,
    ) -> Result<SessionKeys, HandshakeError> {
        let receiver_index = response.receiver_index.get();
        if receiver_index != self.local_index {
            return Err(HandshakeError::NotOurs { receiver_index });
        }
        let theirs = PublicKey::from(response.ephemeral);
        let mut transcript = self.transcript.clone();
        transcript.mix_ephemeral(&response.ephemeral);
        transcript.mix_agreement(&self.ephemeral.agree(&theirs)?);
        transcript.mix_agreement(&local.agree(&theirs)?);
        let key = transcript.mix_psk(&remote.preshared_key);
        transcript.open(&key, &response.encrypted_nothing, &mut [], "response")?;
        let remote_index = response.sender_index.get();
        Ok(transcript.split(Role::Initiator, self.local_index, remote_index))
    }
}

/// An initiation that says from whom it is; the initiator may still be lying.
#[derive(Debug)]
pub struct Claim<'a> {
    transcript: Transcript,
    message: &'a Initiation,
    initiator: PublicKey,
}

impl<'a> Claim<'a> {
    /// Reads the initiator's static key from `message`.
    ///
    /// # Errors
    /// [`HandshakeError`] where its ephemeral key is unusable or the static key does not open.
    pub fn read(local: &KeyPair, message: &'a Initiation) -> Result<Self, HandshakeError> {
        let mut transcript = Transcript::new(local.public());
        transcript.mix_ephemeral(&message.ephemeral);
        let key = transcript.mix_key(&local.agree(&message.ephemeral.into())?);
        let mut initiator = [0; 32];
        transcript.open(
            &key,
            &message.encrypted_static,
            &mut initiator,
            "static key",
        )?;
        Ok(Self {
            transcript,
            message,
            initiator: initiator.into(),
        })
    }

    /// Who the initiator says it is.
    #[must_use]
    pub fn initiator(&self) -> &PublicKey {
        &self.initiator
    }

    /// Verifies that the message is from `remote`, which must be the peer that
    /// [`initiator`](Self::initiator) names.
    ///
    /// # Errors
    /// [`HandshakeError::Forged`] where it is not.
    pub fn verify(mut self, remote: &Remote) -> Result<Verified, HandshakeError> {
        let key = self.transcript.mix_key(&remote.static_static);
        let mut timestamp = [0; 12];
        self.transcript.open(
            &key,
            &self.message.encrypted_timestamp,
            &mut timestamp,
            "timestamp",
        )?;
        Ok(Verified {
            transcript: self.transcript,
            ephemeral: self.message.ephemeral.into(),
            remote_index: self.message.sender_index,
            timestamp: timestamp.into(),
        })
    }
}

/// An initiation that the peer has made; perhaps long ago (see [`Verified::timestamp`]).
#[derive(Debug)]
pub struct Verified {
    transcript: Transcript,
    ephemeral: PublicKey,
    remote_index: U32,
    timestamp: Tai64n,
}

impl Verified {
    /// When the peer made it. One that is not later than the last accepted one is a replay.
    #[must_use]
    pub fn timestamp(&self) -> Tai64n {
        self.timestamp
    }

    /// Makes the response, without MACs, and the session. `ephemeral` must be fresh random
    /// bytes; `local_index` is where the peer's data is to come.
    ///
    /// # Errors
    /// [`HandshakeError::Agreement`] where the keys do not agree.
    pub fn respond(
        self,
        remote: &Remote,
        ephemeral: &PrivateKey,
        local_index: u32,
    ) -> Result<(Response, SessionKeys), HandshakeError> {
        let ephemeral = KeyPair::new(ephemeral)?;
        let mut transcript = self.transcript;
        let mut message = Response::new(local_index, self.remote_index.get());

        message.ephemeral = *ephemeral.public().as_bytes();
        transcript.mix_ephemeral(&message.ephemeral);
        transcript.mix_agreement(&ephemeral.agree(&self.ephemeral)?);
        transcript.mix_agreement(&ephemeral.agree(&remote.public)?);
        let key = transcript.mix_psk(&remote.preshared_key);
        transcript.seal(&key, &[], &mut message.encrypted_nothing);

        let keys = transcript.split(Role::Responder, local_index, self.remote_index.get());
        Ok((message, keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::x25519::tests::low_order_points;
    use core::time::Duration;
    use proptest::prelude::*;
    use zerocopy::{FromBytes, IntoBytes};

    struct Side {
        local: KeyPair,
        remote: Remote,
    }

    fn sides(psk: [PresharedKey; 2]) -> [Side; 2] {
        let keys = [1, 2].map(|seed| KeyPair::new(&PrivateKey::from([seed; 32])).unwrap());
        let publics = [*keys[1].public(), *keys[0].public()];
        let mut publics = publics.into_iter();
        let mut psk = psk.into_iter();
        keys.map(|local| {
            let remote = Remote::new(&local, publics.next().unwrap(), psk.next().unwrap()).unwrap();
            Side { local, remote }
        })
    }

    fn initiate(side: &Side) -> (Pending, Initiation) {
        let stamp = super::super::tai64n::Stamper::default().stamp(Duration::from_secs(1));
        Pending::initiate(&side.local, &side.remote, &[3; 32].into(), stamp, 7).unwrap()
    }

    fn respond(
        side: &Side,
        message: &Initiation,
    ) -> Result<(Response, SessionKeys), HandshakeError> {
        let claim = Claim::read(&side.local, message)?;
        assert_eq!(claim.initiator(), side.remote.public());
        claim
            .verify(&side.remote)?
            .respond(&side.remote, &[4; 32].into(), 9)
    }

    fn assert_paired(ours: &SessionKeys, theirs: &SessionKeys) {
        assert!(ours.sending == theirs.receiving && ours.receiving == theirs.sending);
        assert!(ours.sending != ours.receiving);
        assert_eq!(ours.local_index, theirs.remote_index);
        assert_eq!(ours.remote_index, theirs.local_index);
        assert_ne!(ours.role, theirs.role);
    }

    #[test]
    fn both_ends_derive_the_same_keys() {
        for psk in [[0; 32], [5; 32]] {
            let [a, b] = sides([psk.into(), psk.into()]);
            let (pending, initiation) = initiate(&a);
            let (response, theirs) = respond(&b, &initiation).unwrap();
            let ours = pending.finish(&a.local, &a.remote, &response).unwrap();
            assert_paired(&ours, &theirs);
            assert_eq!((ours.local_index, ours.remote_index), (7, 9));
            assert_eq!(ours.role, Role::Initiator);
        }
    }

    #[test]
    fn another_preshared_key_fails_at_the_initiator() {
        let [a, b] = sides([[5; 32].into(), [6; 32].into()]);
        let (pending, initiation) = initiate(&a);
        let (response, _) = respond(&b, &initiation).unwrap();
        assert_eq!(
            pending.finish(&a.local, &a.remote, &response).unwrap_err(),
            HandshakeError::Forged { field: "response" }
        );
    }

    #[test]
    fn a_response_to_another_index_is_refused_early() {
        let [a, b] = sides(Default::default());
        let (pending, initiation) = initiate(&a);
        let (mut response, _) = respond(&b, &initiation).unwrap();
        response.receiver_index = 8.into();
        assert_eq!(
            pending.finish(&a.local, &a.remote, &response).unwrap_err(),
            HandshakeError::NotOurs { receiver_index: 8 }
        );
    }

    #[test]
    fn low_order_keys_are_refused_everywhere() {
        let [a, b] = sides(Default::default());
        let refused = HandshakeError::Agreement(AgreementError::LowOrder);
        let (pending, initiation) = initiate(&a);
        let (response, _) = respond(&b, &initiation).unwrap();
        for point in low_order_points() {
            assert!(Remote::new(&a.local, point, PresharedKey::default()).is_err());
            let mut forged = initiation;
            forged.ephemeral = *point.as_bytes();
            assert_eq!(respond(&b, &forged).unwrap_err(), refused);
            let mut forged = response;
            forged.ephemeral = *point.as_bytes();
            let finished = pending.finish(&a.local, &a.remote, &forged);
            assert_eq!(finished.unwrap_err(), refused);
        }
    }

    proptest! {
        /// Every bit between the indices and the MACs is authenticated.
        #[test]
        fn no_bit_can_be_flipped(at in 8_usize..116, bit in 0_u32..8) {
            let [a, b] = sides(Default::default());
            let (pending, initiation) = initiate(&a);
            let mut bytes = initiation.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let forged = Initiation::ref_from_bytes(&bytes).unwrap();
            // The one bit that X25519 ignores is authenticated by the transcript.
            prop_assert!(respond(&b, forged).is_err());

            let (response, _) = respond(&b, &initiation).unwrap();
            let mut bytes = response.as_bytes().to_vec();
            let at = 8 + at % (60 - 8);
            bytes[at] ^= 1 << bit;
            let forged = Response::ref_from_bytes(&bytes).unwrap();
            prop_assert!(pending.finish(&a.local, &a.remote, forged).is_err());
            // And the handshake is still open to the real answer.
            prop_assert!(pending.finish(&a.local, &a.remote, &response).is_ok());
        }
    }
}
