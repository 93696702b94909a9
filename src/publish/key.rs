//! The publisher's keys, in minisign's files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{ErrorKind, KeyPair, SecretKey, SecretKeyBox};

use crate::trust::TrustedKey;

/// The bytes of a secret key: algorithms, salt, limits, id, key and checksum.
const LENGTH: usize = 158;
const CHECKSUM: usize = 32;

/// A new pair of keys, as the texts of their files.
pub struct NewKeys {
    /// The public key's file.
    pub public: String,
    /// The secret key's file.
    pub secret: String,
    /// The public key itself, for `manifest.publicKeys`.
    pub key: TrustedKey,
}

/// Makes a pair of keys. With a password, the secret key is encrypted with it.
///
/// # Errors
/// When the machine has no randomness.
pub fn generate(password: Option<String>) -> Result<NewKeys, String> {
    let words = |err: minisign::PError| err.to_string();
    let KeyPair { pk, sk } = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    }
    .map_err(words)?;
    let key = TrustedKey::parse(&pk.to_base64())?;
    let public = format!("untrusted comment: minisign public key {}\n{key}\n", key.id());
    let secret = sk.to_box(Some("minisign secret key")).map_err(words)?.to_string();
    Ok(NewKeys { public, secret, key })
}

/// Reads a secret key's file. `password` is asked where it is encrypted. Nothing of it stands in an error.
///
/// # Errors
/// When it is no key, or the password is wrong.
pub fn read(text: &str, password: impl FnOnce() -> Result<String, String>) -> Result<SecretKey, String> {
    const NONE: &str = "it is not a minisign secret key: expected two lines, a comment and the key";
    let none = |_| NONE.to_owned();
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.lines().any(|line| TrustedKey::parse(line).is_ok()) {
        return Err(
            "it is a public key, and only the secret one signs: its file is named alike, without `.pub`".to_owned()
        );
    }
    let encoded = text.lines().nth(1).unwrap_or_default().trim();
    let bytes = STANDARD.decode(encoded).ok().filter(|bytes| bytes.len() == LENGTH && bytes.starts_with(b"Ed"));
    let bytes = bytes.ok_or(NONE)?;
    let boxed = SecretKeyBox::from_string(text).map_err(none)?;
    match &bytes[2..4] {
        // minisign 0.11 writes no checksum into a key that it does not encrypt, and asks for none.
        [0, 0] if bytes[LENGTH - CHECKSUM..].iter().all(|byte| *byte == 0) => {
            SecretKey::from_bytes(&bytes).map_err(none)
        }
        [0, 0] => boxed.into_unencrypted_secret_key().map_err(|_| "it is damaged: its checksum is another".to_owned()),
        _ => boxed.into_secret_key(Some(password()?)).map_err(|err| match err.kind() {
            ErrorKind::Verify => "the password is wrong".to_owned(),
            _ => NONE.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::trust::{sign, verify};

    #[test]
    fn a_key_with_a_password_and_one_without_sign_alike() {
        for password in [None, Some("a word".to_owned())] {
            let NewKeys { public, secret, key } = generate(password.clone()).unwrap();
            assert!(public.starts_with("untrusted comment: minisign public key ") && public.contains(&key.to_string()));
            assert!(public.contains(&key.id().to_string()), "{public}");
            let secret = read(&secret, || password.clone().ok_or("nobody should ask".to_owned())).unwrap();
            let signature = sign(b"x", "now", 1, None, &secret).unwrap();
            assert!(verify(b"x", "now", Some(signature.as_bytes()), &[key], SystemTime::UNIX_EPOCH).is_ok());
        }
    }

    #[test]
    fn what_is_no_key_is_said_without_showing_it() {
        let NewKeys { secret, public, .. } = generate(Some("right".to_owned())).unwrap();
        let error = |text: &str| read(text, || Ok("wrong".to_owned())).map(drop).unwrap_err();
        assert_eq!(error(&secret), "the password is wrong");
        let long = format!("c\n{}", "RW".repeat(106));
        assert_eq!(error(" \n"), "it is empty");
        for text in [public.as_str(), public.lines().last().unwrap()] {
            assert!(error(text).starts_with("it is a public key"), "{}", error(text));
        }
        for text in ["one line", &secret[..secret.len() / 2], &long, "c\nRWé"] {
            let err = error(text);
            assert!(err.starts_with("it is not a minisign secret key"), "{err}");
        }
        assert_eq!(read(&secret, || Err("no terminal".to_owned())).map(drop).unwrap_err(), "no terminal");
    }
}
