//! Whose a manifest is, and that it is no older than one that was seen: minisign signatures with a serial number.
//!
//! The signature is detached, over the manifest's literal bytes, in [minisign](https://jedisct1.github.io/minisign/)'s format
//! (prehashed). Its trusted comment carries `file=manifest.json serial=N updatedAt=… [expires=…]`, and each of them is checked. The
//! highest serial that was accepted is a [`Floor`]; [`kept`] keeps it.

mod about;
pub mod kept;

use std::fmt;
use std::io::Cursor;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::SecretKey;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::about::About;
use crate::model::ids::clean;
use crate::model::{Name, Sha256Digest};

/// The largest signature that is read (16 KiB): a comment may say more than we do.
pub const MAX_SIGNATURE_BYTES: usize = 16 * 1024;

/// What a trusted comment says that the signed file is called.
const FILE: &str = "manifest.json";

/// A key that manifests may be signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKey {
    text: String,
    id: KeyId,
    key: PublicKey,
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedKey({})", self.id)
    }
}

/// More than a public key has, and less than a secret one.
pub(crate) const LONGEST_SHOWN: usize = 80;

/// The id of a key, as minisign shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyId(u64);

impl KeyId {
    /// That of a key or a signature as it stands in its file: two bytes of an algorithm, then the id.
    fn of(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        Some(Self(u64::from_le_bytes(bytes.get(2..10)?.try_into().ok()?)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl TrustedKey {
    /// Reads a public key as minisign writes it: the line that begins with `RW`.
    ///
    /// # Errors
    /// A sentence for anything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // A secret key is longer, and is told to nobody.
        let shown = match text.len() {
            0..=LONGEST_SHOWN => format!("`{}`", clean(text, LONGEST_SHOWN)),
            longer => format!("what is there ({longer} bytes)"),
        };
        let wrong = || format!("{shown} is not a minisign public key: expected 56 characters that begin with `RW`");
        let key = PublicKey::from_base64(text).ok().filter(|_| text.starts_with("RW")).ok_or_else(wrong)?;
        Ok(Self { id: KeyId::of(text).ok_or_else(wrong)?, text: text.to_owned(), key })
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for TrustedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for TrustedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Whose signatures a state file's manifest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The state file's name: what was accepted is kept under it, so that two state files below one root do not disturb each
    /// other, and a manifest that moves to another place is still no older than what was seen.
    pub owner: Name,
    /// The keys, any of which will do. Never empty.
    pub keys: Vec<TrustedKey>,
}

/// What a signature says of a manifest that it is right for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// By which key.
    pub key: TrustedKey,
    /// Its number: a later manifest has a higher one.
    pub serial: u64,
    /// Until when it is good. `None`: for ever.
    pub expires: Option<SystemTime>,
    /// What the signed bytes hash to.
    pub sha256: Sha256Digest,
    /// What the signature's own bytes hash to.
    pub signature: Sha256Digest,
}

impl Signed {
    /// Whether it is not good any more.
    ///
    /// # Errors
    /// [`TrustError::Expired`].
    pub fn check_expiry(&self, now: SystemTime) -> Result<(), TrustError> {
        check_expiry(self.expires, now)
    }
}

/// Why a manifest is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// There is no signature beside it.
    #[error("the manifest is not signed, and `manifest.publicKeys` wants it to be")]
    Unsigned,
    /// What lies there is no signature.
    #[error("the manifest's signature cannot be read: {0}")]
    Malformed(String),
    /// It is signed by somebody else.
    #[error("the manifest is signed with key {found}, which is not among the trusted ones: {}", listed(trusted))]
    UnknownKey {
        /// The key.
        found: KeyId,
        /// Those that are trusted.
        trusted: Vec<KeyId>,
    },
    /// The signature is of other bytes.
    #[error("the manifest is not what was signed with key {0}")]
    OtherBytes(KeyId),
    /// What was signed with it is about something else.
    #[error("the manifest's signature is not about it: {0}")]
    Comment(String),
    /// It was good until a moment that is over.
    #[error("the manifest's signature expired at {at}")]
    Expired {
        /// When.
        at: String,
    },
    /// A later one was seen.
    #[error("the manifest has serial {serial}, and one with serial {floor} was seen before")]
    Older {
        /// Its serial.
        serial: u64,
        /// The highest that was accepted.
        floor: u64,
    },
    /// Another one had its serial.
    #[error("the manifest has serial {0}, as another one has that was seen before")]
    SameSerial(u64),
    /// The last good one is no longer good either.
    #[error("the signature of the last good manifest expired at {at}, and a newer one cannot be fetched: {why}")]
    Stale {
        /// When.
        at: String,
        /// Why there is none.
        why: String,
    },
    /// What is in the cache was never verified with a key that is trusted now.
    #[error(
        "the manifest in the cache was not verified with a trusted key, and the published one cannot be fetched: {0}"
    )]
    Unproved(String),
}

impl TrustError {
    /// Whether the publisher may have replaced manifest and signature while they were fetched, one after the other.
    pub fn may_be_between(&self) -> bool {
        matches!(self, Self::OtherBytes(_) | Self::Comment(_))
    }

    /// Whether the published manifest was fetched, and is what is not trusted; else it is the last good one.
    pub fn is_of_published(&self) -> bool {
        !matches!(self, Self::Stale { .. } | Self::Unproved(_))
    }
}

fn listed(keys: &[KeyId]) -> String {
    keys.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

/// What was accepted last. Kept where nothing but a person removes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// The serial. A lower one is refused.
    pub serial: u64,
    /// What the bytes with this serial hash to. Others are refused.
    pub sha256: Sha256Digest,
}

/// Bytes that a trusted key has signed. What was signed with them is not compared yet.
#[derive(Debug)]
pub struct Proven {
    key: TrustedKey,
    comment: String,
    sha256: Sha256Digest,
    signature: Sha256Digest,
}

/// Checks a signature against the manifest's bytes alone, before anything in them is believed.
///
/// # Errors
/// When there is none, or it is not by a trusted key over these bytes.
pub fn prove(bytes: &[u8], signature: Option<&[u8]>, trusted: &[TrustedKey]) -> Result<Proven, TrustError> {
    let signed = signature.ok_or(TrustError::Unsigned)?;
    let (signature, id) = decode(signed)?;
    // Two keys may have one id, by chance or by intent: the one that fits is meant.
    let mut named = trusted.iter().filter(|trusted| trusted.id == id).peekable();
    if named.peek().is_none() {
        return Err(TrustError::UnknownKey { found: id, trusted: trusted.iter().map(TrustedKey::id).collect() });
    }
    let fits = named.find(|trusted| trusted.key.verify(bytes, &signature, false).is_ok());
    let key = fits.ok_or(TrustError::OtherBytes(id))?.clone();
    let comment = signature.trusted_comment().to_owned();
    Ok(Proven { key, comment, sha256: sha256(bytes), signature: sha256(signed) })
}

/// A signature, and the id of the key that it names.
fn decode(signed: &[u8]) -> Result<(Signature, KeyId), TrustError> {
    let malformed = |why: &dyn fmt::Display| TrustError::Malformed(clean(&why.to_string(), 200));
    if signed.len() > MAX_SIGNATURE_BYTES {
        return Err(TrustError::too_long());
    }
    let text = std::str::from_utf8(signed).map_err(|err| malformed(&err))?;
    let signature = Signature::decode(text).map_err(|err| malformed(&err))?;
    let id = text.lines().nth(1).and_then(KeyId::of).ok_or_else(|| malformed(&"it names no key"))?;
    Ok((signature, id))
}

impl TrustError {
    /// Of a signature beyond [`MAX_SIGNATURE_BYTES`].
    pub(crate) fn too_long() -> Self {
        Self::Malformed("it is larger than 16 KiB".to_owned())
    }
}

impl Proven {
    /// Checks what was signed with the bytes: about this file, not expired. `updated_at` is what the manifest says of itself.
    ///
    /// # Errors
    /// The first of these that does not hold.
    pub fn about(self, updated_at: &str, now: SystemTime) -> Result<Signed, TrustError> {
        let Self { key, comment, sha256, signature } = self;
        let About { serial, expires } = About::read(&comment, updated_at).map_err(TrustError::Comment)?;
        let signed = Signed { key, serial, expires, sha256, signature };
        signed.check_expiry(now).map(|()| signed)
    }
}

/// Checks a signature against the manifest's bytes: by a trusted key, over these bytes, about this file, not expired.
/// `updated_at` is what the manifest says of itself.
///
/// # Errors
/// The first of these that does not hold.
pub fn verify(
    bytes: &[u8],
    updated_at: &str,
    signature: Option<&[u8]>,
    trusted: &[TrustedKey],
    now: SystemTime,
) -> Result<Signed, TrustError> {
    prove(bytes, signature, trusted)?.about(updated_at, now)
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(<sha2::Sha256 as sha2::Digest>::digest(bytes).into())
}

/// Whether a manifest may follow what was accepted before. Yields the floor from now on.
///
/// # Errors
/// When it is older, or another one had its serial.
pub fn admit(signed: &Signed, floor: Option<&Floor>) -> Result<Floor, TrustError> {
    match floor {
        Some(floor) if signed.serial < floor.serial => {
            Err(TrustError::Older { serial: signed.serial, floor: floor.serial })
        }
        Some(floor) if signed.serial == floor.serial && signed.sha256 != floor.sha256 => {
            Err(TrustError::SameSerial(signed.serial))
        }
        _ => Ok(Floor { serial: signed.serial, sha256: signed.sha256 }),
    }
}

/// The number of a manifest that is given none: its `updatedAt` in milliseconds since 1970.
///
/// # Errors
/// When that is no time.
pub fn serial_of(updated_at: &str) -> Result<u64, String> {
    let updated =
        crate::time::parse(updated_at).map_err(|err| format!("its updatedAt is `{}`: {err}", clean(updated_at, 40)))?;
    let since = updated.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The number that a signature says it has, whoever made it. Proves nothing.
pub fn claimed_serial(signature: &[u8]) -> Option<u64> {
    claim(signature, "serial=")?.parse().ok()
}

/// Until when a signature says it is good, as it stands there. Proves nothing.
pub fn claimed_expiry(signature: &[u8]) -> Option<String> {
    claim(signature, "expires=").map(|text| clean(text, 40))
}

fn claim<'a>(signature: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(signature).ok()?;
    let comment = text.lines().find_map(|line| line.strip_prefix("trusted comment: "))?;
    comment.split_whitespace().find_map(|word| word.strip_prefix(name))
}

/// Whether a signature may be that of the manifest with this `updatedAt`, by what it says of itself. Proves nothing: for whoever has
/// no key to verify it with.
///
/// # Errors
/// When it says that it is of something else, or over.
pub fn check_claims(signature: &[u8], updated_at: &str, now: SystemTime) -> Result<(), TrustError> {
    let (signature, _) = decode(signature)?;
    let about = About::read(signature.trusted_comment(), updated_at).map_err(TrustError::Comment)?;
    check_expiry(about.expires, now)
}

fn check_expiry(expires: Option<SystemTime>, now: SystemTime) -> Result<(), TrustError> {
    match expires.filter(|at| *at <= now) {
        Some(at) => Err(TrustError::Expired { at: crate::time::rfc3339(at) }),
        None => Ok(()),
    }
}

/// Signs a manifest.
///
/// # Errors
/// When the key is still encrypted, or the machine has no randomness.
pub fn sign(
    bytes: &[u8],
    updated_at: &str,
    serial: u64,
    expires: Option<SystemTime>,
    key: &SecretKey,
) -> Result<String, String> {
    let expires = expires.map(|at| format!(" expires={}", crate::time::rfc3339(at))).unwrap_or_default();
    let comment = format!("file={FILE} serial={serial} updatedAt={updated_at}{expires}");
    let untrusted = format!("signature of {FILE} by steadfast");
    // Checked at once: a key that is damaged signs what nobody can verify.
    let public = minisign::PublicKey::from_secret_key(key).map_err(|err| err.to_string())?;
    let signed = minisign::sign(Some(&public), key, Cursor::new(bytes), Some(&comment), Some(&untrusted));
    signed.map(|signature| signature.into_string()).map_err(|err| err.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
