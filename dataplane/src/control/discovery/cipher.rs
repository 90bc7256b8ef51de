//! The encryption under the cluster's secret.

use core::fmt;
use core::net::SocketAddr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};

use super::payload::{self, PayloadError};
use super::{MAX_DATA_LEN, MAX_ENDPOINT_LEN};
use crate::control::kubespan::Affiliate;
use crate::crypto::{PresharedKey, Random};

/// Bytes of the nonce before the ciphertext.
pub(super) const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const BLOCK: usize = 16;

/// Why data or endpoints cannot be encrypted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CipherError {
    /// The library has no AES.
    #[error("AES-256 cannot be used here: the cryptography library refuses it")]
    Unavailable,
    /// No randomness for a nonce.
    #[error(transparent)]
    Random(#[from] crate::crypto::NoRandomness),
    /// The service would refuse it.
    #[error(
        "what this node tells of itself takes {length} bytes encrypted, and the discovery service takes {MAX_DATA_LEN}: advertise fewer addresses or networks"
    )]
    TooLong {
        /// Bytes, encrypted.
        length: usize,
    },
}

/// Why an affiliate's data are not what a member of the cluster has written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no room for nonce and tag.
    #[error("{length} bytes are too few for encrypted data: they have 28 at least")]
    TooShort {
        /// Bytes there are.
        length: usize,
    },
    /// Damaged, forged, or another cluster's.
    #[error("not encrypted under this cluster's secret, or damaged")]
    NotAuthentic,
    /// A member has written it, but not as it should.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// Why a blob is not an endpoint that a member of the cluster has written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not one or two whole blocks.
    #[error("an encrypted endpoint has 16 or 32 bytes, not {length}")]
    Length {
        /// Bytes there are.
        length: usize,
    },
    /// What comes out is nothing that a member puts in.
    #[error("not an endpoint under this cluster's secret")]
    Noise,
    /// No datagram can be sent there.
    #[error("endpoint {0} is not one host's")]
    NotAHost(SocketAddr),
}

/// The two ways in which members encrypt what they leave with the service, under the cluster's
/// secret (the same that is every peer's preshared key).
///
/// Data: AES-256-GCM (NIST SP 800-38D) with a random nonce before and the tag behind, without
/// associated data. Endpoints: AES-256 block by block (ECB), so that equal ones stay equal and the
/// service can drop duplicates. Those are not authenticated: that what comes out is exactly what a
/// member would have put in is all that tells them from noise, and whoever has seen two IPv6
/// endpoints can cut their blocks and make a third.
pub struct ClusterCipher {
    data: LessSafeKey,
    to_blocks: EncryptingKey,
    from_blocks: DecryptingKey,
}

impl ClusterCipher {
    /// The cipher of the cluster with `secret`.
    ///
    /// # Errors
    /// [`CipherError::Unavailable`].
    pub fn new(secret: &PresharedKey) -> Result<Self, CipherError> {
        let unavailable = |_| CipherError::Unavailable;
        let key = secret.as_bytes();
        let block_key = || UnboundCipherKey::new(&AES_256, key).map_err(unavailable);
        Ok(Self {
            data: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(unavailable)?),
            to_blocks: EncryptingKey::ecb(block_key()?).map_err(unavailable)?,
            from_blocks: DecryptingKey::ecb(block_key()?).map_err(unavailable)?,
        })
    }

    /// `nonce | ciphertext | tag` of what a member tells; its endpoints are not in it.
    ///
    /// # Errors
    /// [`CipherError`].
    pub fn seal_affiliate(
        &self,
        affiliate: &Affiliate,
        random: &mut dyn Random,
    ) -> Result<Vec<u8>, CipherError> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce)?;
        let mut message = payload::encode_affiliate(affiliate);
        let length = NONCE_LEN + message.len() + TAG_LEN;
        if length > MAX_DATA_LEN {
            return Err(CipherError::TooLong { length });
        }
        let unavailable = |_| CipherError::Unavailable;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.data
            .seal_in_place_append_tag(unique, Aad::empty(), &mut message)
            .map_err(unavailable)?;
        Ok([&nonce[..], &message].concat())
    }

    /// What a member has told. Its endpoints are not in it.
    ///
    /// # Errors
    /// [`OpenError`]: forged, damaged, another cluster's, or malformed.
    pub fn open_affiliate(&self, data: &[u8]) -> Result<Affiliate, OpenError> {
        let too_short = OpenError::TooShort { length: data.len() };
        let Some((nonce, sealed)) = data.split_first_chunk::<NONCE_LEN>() else {
            return Err(too_short);
        };
        if sealed.len() < TAG_LEN {
            return Err(too_short);
        }
        let mut message = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let message = self
            .data
            .open_in_place(nonce, Aad::empty(), &mut message)
            .map_err(|_| OpenError::NotAuthentic)?;
        Ok(payload::decode_affiliate(message)?)
    }

    /// The blocks of an endpoint: 16 bytes for IPv4, 32 for IPv6. An IPv6 scope is not told.
    ///
    /// # Errors
    /// [`CipherError::Unavailable`].
    pub fn seal_endpoint(&self, endpoint: SocketAddr) -> Result<Vec<u8>, CipherError> {
        let mut blocks = padded(endpoint);
        self.to_blocks
            .encrypt(&mut blocks)
            .map_err(|_| CipherError::Unavailable)?;
        Ok(blocks)
    }

    /// The endpoint in some blocks.
    ///
    /// # Errors
    /// [`EndpointError`]: everything that [`seal_endpoint`](Self::seal_endpoint) does not make.
    pub fn open_endpoint(&self, blob: &[u8]) -> Result<SocketAddr, EndpointError> {
        let length = blob.len();
        if length == 0 || length > MAX_ENDPOINT_LEN || !length.is_multiple_of(BLOCK) {
            return Err(EndpointError::Length { length });
        }
        let mut blocks = blob.to_vec();
        let plain = self
            .from_blocks
            .decrypt(&mut blocks, DecryptionContext::None)
            .map_err(|_| EndpointError::Noise)?;
        endpoint_of(plain)
    }
}

impl fmt::Debug for ClusterCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterCipher(secret)")
    }
}

/// The blocks of an endpoint before encryption: length byte, message, zeros.
#[must_use]
pub fn padded(endpoint: SocketAddr) -> Vec<u8> {
    let message = payload::encode_endpoint(endpoint);
    // Never more than 22 bytes.
    let mut plain = vec![u8::try_from(message.len()).unwrap_or_default()];
    plain.extend_from_slice(&message);
    plain.resize(plain.len().next_multiple_of(BLOCK), 0);
    plain
}

/// The endpoint of decrypted blocks.
///
/// # Errors
/// [`EndpointError`]: everything that [`padded`] does not make, and what is not one host's.
pub fn endpoint_of(plain: &[u8]) -> Result<SocketAddr, EndpointError> {
    let (&length, rest) = plain.split_first().ok_or(EndpointError::Noise)?;
    let endpoint = rest
        .get(..length.into())
        .and_then(payload::decode_endpoint)
        .ok_or(EndpointError::Noise)?;
    if padded(endpoint) != plain {
        return Err(EndpointError::Noise);
    }
    let address = endpoint.ip().to_canonical();
    let broadcast = address == core::net::IpAddr::V4(core::net::Ipv4Addr::BROADCAST);
    if endpoint.port() == 0 || address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(EndpointError::NotAHost(endpoint));
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::SeededRandom;

    fn cipher(byte: u8) -> ClusterCipher {
        ClusterCipher::new(&[byte; 32].into()).unwrap()
    }

    fn affiliate(node_id: &str) -> Affiliate {
        Affiliate {
            node_id: node_id.into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            hostname: "host".into(),
            ..Affiliate::default()
        }
    }

    #[test]
    fn every_bit_of_the_data_counts() {
        let cipher = cipher(1);
        let sealed = cipher
            .seal_affiliate(&affiliate("node"), &mut SeededRandom::new(1))
            .unwrap();
        assert_eq!(cipher.open_affiliate(&sealed).unwrap(), affiliate("node"));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = cipher.open_affiliate(&damaged).unwrap_err();
            assert_eq!(error, OpenError::NotAuthentic, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(cipher.open_affiliate(&sealed[..length]).is_err());
        }
        let other = ClusterCipher::new(&[2; 32].into()).unwrap();
        assert_eq!(other.open_affiliate(&sealed), Err(OpenError::NotAuthentic));
    }

    #[test]
    fn what_the_service_would_refuse_is_not_sealed() {
        let mut big = affiliate("node");
        big.addresses = vec!["2001:db8::1".parse().unwrap(); 200];
        let error = cipher(1)
            .seal_affiliate(&big, &mut SeededRandom::new(1))
            .unwrap_err();
        assert!(error.to_string().contains("2048"), "{error}");
        // 2,020 bytes of message are what fits.
        let mut fits = affiliate("node");
        let room = 2020 - payload::encode_affiliate(&fits).len();
        fits.hostname = "h".repeat(fits.hostname.len() + room - 1);
        let sealed = cipher(1).seal_affiliate(&fits, &mut SeededRandom::new(1));
        assert_eq!(sealed.unwrap().len(), MAX_DATA_LEN);
    }

    proptest! {
        #[test]
        fn endpoints_come_back(address: core::net::IpAddr, port in 1_u16..) {
            let endpoint = SocketAddr::new(address, port);
            let blob = cipher(1).seal_endpoint(endpoint).unwrap();
            prop_assert_eq!(blob.len(), if address.is_ipv4() { 16 } else { 32 });
            match cipher(1).open_endpoint(&blob) {
                Ok(opened) => prop_assert_eq!(opened, endpoint),
                Err(error) => prop_assert_eq!(error, EndpointError::NotAHost(endpoint)),
            }
            prop_assert_eq!(cipher(2).open_endpoint(&blob), Err(EndpointError::Noise));
        }

        #[test]
        fn noise_is_no_endpoint(blob in proptest::collection::vec(any::<u8>(), 0..70)) {
            prop_assert!(cipher(1).open_endpoint(&blob).is_err());
        }

        #[test]
        fn one_way_of_writing_alone_is_read(plain in proptest::collection::vec(any::<u8>(), 0..33)) {
            if let Ok(endpoint) = endpoint_of(&plain) {
                prop_assert_eq!(padded(endpoint), plain);
            }
        }
    }
}
