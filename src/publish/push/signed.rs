//! The signature beside the manifest: two objects that cannot be written at once.
//!
//! It is put before its manifest, and only in the place of the one that was there when the manifest was merged. Where two publish at
//! once, the manifest of one may stand beside the signature of the other for a moment, and readers keep what they have.

use std::time::{Duration, SystemTime};

use minisign::SecretKey;

use super::{PushError, Signing};
use crate::model::Manifest;
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::publish::store::{About, Condition, NO_CACHE, Object, ObjectKey, Put, Store, StoreError};
use crate::trust::{self, KeyId, MAX_SIGNATURE_BYTES, Signed, TrustedKey};

const ABOUT: About<'static> = About { content_type: "text/plain; charset=utf-8", cache_control: NO_CACHE };
/// How long somebody else's signature is given to become that of somebody else's manifest.
const PATIENCE: Duration = Duration::from_secs(1);
/// A number is a time in milliseconds, unless somebody wants another; this far ahead it is none.
const AHEAD: Duration = Duration::from_secs(366 * 24 * 3600);
/// How often it is looked.
const LOOKS: u32 = 5;

impl Signing {
    /// Signs with this key. `expires`: how long it is good. `serial`: its number, instead of one that rises by itself.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn new(key: SecretKey, expires: Option<Duration>, serial: Option<u64>) -> Result<Self, String> {
        let public = minisign::PublicKey::from_secret_key(&key).map_err(|err| err.to_string())?;
        Ok(Self { public: TrustedKey::parse(&public.to_base64())?, key, expires, serial })
    }

    /// Its public half.
    pub fn public(&self) -> &TrustedKey {
        &self.public
    }

    /// What a signature of ours says, expired or not. `None`: it is not ours, or not of these bytes.
    pub(super) fn signed(&self, bytes: &[u8], signature: &Object) -> Option<Signed> {
        let updated_at = Manifest::parse(bytes).ok()?.updated_at;
        let trusted = std::slice::from_ref(&self.public);
        trust::verify(bytes, &updated_at, Some(&signature.bytes), trusted, SystemTime::UNIX_EPOCH).ok()
    }

    /// Whether a signature is as good as a new one.
    pub(super) fn is_settled(&self, previous: &Signed) -> bool {
        self.expires.is_none()
            && previous.expires.is_none()
            && self.serial.is_none_or(|serial| serial == previous.serial)
    }

    /// The number that the next one must be above: whoever trusts several keys takes none that is lower, whoever signed it.
    pub(super) fn last_serial(
        &self,
        previous: Option<&Signed>,
        there: Option<&Object>,
    ) -> Result<Option<u64>, PushError> {
        let claimed = there.and_then(|there| trust::claimed_serial(&there.bytes));
        let ahead = SystemTime::now() + AHEAD;
        let latest = ahead.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        match (previous, claimed) {
            (Some(previous), _) => Ok(Some(previous.serial)),
            // Nobody is to drive the numbers up to where none is left, by a signature that proves nothing.
            (None, Some(claimed)) if u128::from(claimed) > latest && self.serial.is_none() => {
                Err(PushError::SerialAhead(claimed))
            }
            (None, claimed) => Ok(claimed),
        }
    }

    /// Signs, with a number above the last one.
    pub(super) fn sign(&self, bytes: &[u8], last: Option<u64>) -> Result<(Vec<u8>, KeyId, u64), PushError> {
        let updated_at = Manifest::parse(bytes).map_err(|err| PushError::Signing(err.to_string()))?.updated_at;
        let own = trust::serial_of(&updated_at).map_err(PushError::Signing)?;
        let next = last.map_or(own, |last| own.max(last.saturating_add(1)));
        let serial = self.serial.unwrap_or(next);
        let expires = self.expires.map(|after| SystemTime::now() + after);
        let text = trust::sign(bytes, &updated_at, serial, expires, &self.key).map_err(PushError::Signing)?;
        Ok((text.into_bytes(), self.public.id(), serial))
    }
}

/// The one that is there.
pub(super) async fn there(store: &Store) -> Result<Option<Object>, StoreError> {
    store.get(&ObjectKey::signature(), MAX_SIGNATURE_BYTES).await
}

/// Puts one in the place of another.
pub(super) async fn put(store: &Store, text: &[u8], before: Option<&Object>) -> Result<Put, StoreError> {
    let when = before.map_or(Condition::Absent, |before| Condition::Unchanged(&before.etag));
    let put = store.put(&ObjectKey::signature(), text, ABOUT, when).await;
    if let Ok(Put::Done(etag)) = put {
        return Ok(Put::Done(etag));
    }
    // An answer may have been lost, and a try again found our own there.
    match there(store).await {
        Ok(Some(now)) if now.bytes == text => Ok(Put::Done(now.etag)),
        _ => put,
    }
}

/// Puts the old one back, unless somebody else has put another.
pub(super) async fn restore(store: &Store, ours: &str, before: &[u8]) {
    let put = store.put(&ObjectKey::signature(), before, ABOUT, Condition::Unchanged(ours)).await;
    if let Err(err) = put {
        tracing::debug!(error = %err, "a signature was not taken back");
    }
}

/// Our manifest is there: so is our signature, or will be. Somebody else who has put one and no manifest yet is waited for.
pub(super) async fn settle(store: &Store, bytes: &[u8], text: &[u8]) -> Result<(), PushError> {
    for look in 0..LOOKS {
        let signature = there(store).await?;
        let manifest = store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await?;
        match &signature {
            // Somebody else's turn.
            _ if manifest.is_none_or(|manifest| manifest.bytes != bytes) => return Ok(()),
            Some(signature) if signature.bytes == text => return Ok(()),
            _ if look == 0 => tokio::time::sleep(PATIENCE + PATIENCE.mul_f64(fastrand::f64())).await,
            signature => {
                let Put::Done(ours) = put(store, text, signature.as_ref()).await? else { continue };
                let manifest = store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await?;
                if manifest.is_some_and(|manifest| manifest.bytes == bytes) {
                    return Ok(());
                }
                // Theirs came in the same moment, and with it belongs what stood there.
                if let Some(signature) = signature {
                    restore(store, &ours, &signature.bytes).await;
                }
                return Ok(());
            }
        }
    }
    Err(PushError::SignatureLost)
}
