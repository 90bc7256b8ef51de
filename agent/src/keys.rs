//! `ringspan genkey`, `ringspan genpsk` and `ringspan pubkey`.

use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringspan::crypto::random::{NoRandomness, OsRandom, Random as _};
use ringspan::crypto::x25519::{AgreementError, KeyPair};
use ringspan::crypto::{KeyError, PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// Why no key was printed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeysError {
    #[error(transparent)]
    Random(#[from] NoRandomness),
    #[error("standard input: {0}")]
    Input(io::Error),
    #[error("standard input: {0} (not repeated here, it may be a secret)")]
    NoKey(#[from] KeyError),
    #[error(transparent)]
    Library(#[from] AgreementError),
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// The public key that belongs to a private one.
pub(crate) fn public_key(private: &PrivateKey) -> Result<PublicKey, AgreementError> {
    KeyPair::new(private).map(|pair| *pair.public())
}

/// Prints a new private key.
pub(crate) fn generate(out: impl Write) -> Result<(), KeysError> {
    let mut key = random()?;
    // RFC 7748 §5, as `wg genkey` does: the same scalar in every implementation.
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    print(out, &key)
}

/// Prints a new preshared key.
pub(crate) fn generate_preshared(out: impl Write) -> Result<(), KeysError> {
    print(out, &*random()?)
}

/// Reads a private key, prints its public key.
pub(crate) fn derive(input: impl Read, mut out: impl Write) -> Result<(), KeysError> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    // Room for a key and blanks; more is no key.
    let mut input = input.take(1023);
    input.read_to_string(&mut text).map_err(KeysError::Input)?;
    let private: PrivateKey = text.trim().parse()?;
    writeln!(out, "{}", public_key(&private)?).map_err(KeysError::Output)
}

fn random() -> Result<Zeroizing<[u8; 32]>, NoRandomness> {
    let mut key = Zeroizing::new([0; 32]);
    OsRandom.fill(key.as_mut())?;
    Ok(key)
}

fn print(mut out: impl Write, key: &[u8; 32]) -> Result<(), KeysError> {
    let text = Zeroizing::new(STANDARD.encode(key));
    writeln!(out, "{}", *text).map_err(KeysError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_of_wg_quicks_manual() {
        let mut out = Vec::new();
        let private = b" yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\r\n";
        derive(&private[..], &mut out).unwrap();
        assert_eq!(out, b"HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\n");
    }

    #[test]
    fn keys_are_new_clamped_and_parse() {
        let key = || {
            let mut out = Vec::new();
            generate(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (a, b) = (key(), key());
        assert_ne!(a, b);
        let a: PrivateKey = a.trim_end().parse().unwrap();
        assert_eq!(a.as_bytes()[0] & 7, 0);
        assert_eq!(a.as_bytes()[31] & 0xc0, 0x40);
        let mut out = Vec::new();
        generate_preshared(&mut out).unwrap();
        assert_eq!(out.len(), 45);
    }

    #[test]
    fn a_text_that_is_no_key_is_not_repeated() {
        let error = derive(&b"hunter2"[..], io::sink()).unwrap_err().to_string();
        assert!(
            error.contains("44 characters") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
