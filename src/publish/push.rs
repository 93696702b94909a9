//! Publishing in the order in which nobody can be misled: tarballs, what lies beside them, the signature, and the manifest last.
//!
//! ```text
//!  baseline ─▶ tarballs ─▶ sidecars ─▶ [ baseline ─▶ merge ─▶ signature ─▶ manifest ] ─▶ read back ─▶ read back as the public does
//!              each checked again      again while somebody else was here
//! ```
//!
//! The manifest is put while the one that it was merged into is still there (RFC 9110, `If-Match`), so that of two who publish at
//! once the second merges into what the first wrote.

mod errors;
mod public;
mod sending;
mod signed;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use minisign::SecretKey;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::manifest::{Inputs, Tarball};
use super::store::{About, Condition, NO_CACHE, Object, ObjectKey, Put, Sent, Store};
use crate::backend::Progress;
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{Location, Manifest, Sha256Digest};
use crate::trust::{KeyId, TrustedKey};
pub use errors::PushError;

/// How often the manifest is tried while others publish.
const TRIES: u32 = 20;
/// Files that are sent side by side.
const FILES: usize = 4;
/// An ETag that no object has.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";

const MANIFEST: About<'static> = About { content_type: "application/json", cache_control: NO_CACHE };

/// What is published, where, and by whom.
#[derive(Debug)]
pub struct Push<'a> {
    /// Where to.
    pub store: &'a Store,
    /// What: a bundle's tarballs, hashed.
    pub inputs: &'a Inputs,
    /// Who signs it.
    pub signing: Option<&'a Signing>,
    /// What the manifest says of its time. `None`: now.
    pub written_at: Option<SystemTime>,
    /// Tarballs that the published manifest names may be replaced by others.
    pub replace: bool,
    /// Where the public reads the manifest, and how long it may read an old one.
    pub public: Option<(Location, Duration)>,
    /// Cancelled, nothing more is sent; a manifest that is being put in its place is put to the end.
    pub cancel: CancellationToken,
}

/// Who signs a manifest.
pub struct Signing {
    key: SecretKey,
    public: TrustedKey,
    expires: Option<Duration>,
    serial: Option<u64>,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signing({})", self.public.id())
    }
}

/// What happens meanwhile.
#[derive(Debug, Clone)]
pub enum PushEvent {
    /// A file is being sent.
    Sending(ObjectKey, Arc<Progress>),
    /// It is there.
    Sent(ObjectKey, Sent),
    /// Somebody else published meanwhile: it is merged again.
    Again(u32),
    /// The public still reads an older manifest.
    Waiting,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pushed {
    /// What was sent.
    pub uploaded: Vec<ObjectKey>,
    /// What was there.
    pub skipped: Vec<ObjectKey>,
    /// The manifest.
    pub manifest: Published,
}

/// A manifest in its place.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Its key.
    pub key: ObjectKey,
    /// What it hashes to.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What it says of its time.
    pub updated_at: String,
    /// Whether it says anything else than the one before.
    pub changed: bool,
    /// By which key it is signed.
    pub signed_by: Option<String>,
    /// Its number.
    pub serial: Option<u64>,
    /// Until when the signature is good. `None`: for ever, or there is none.
    pub expires: Option<String>,
}

/// What was put in its place.
struct Placed {
    bytes: Vec<u8>,
    changed: bool,
    signature: Option<(Vec<u8>, KeyId, u64)>,
}

impl Push<'_> {
    /// Publishes.
    ///
    /// # Errors
    /// When anything does not arrive. Then the manifest is the one that was there, or one that names what is there.
    pub async fn run(&self, said: &(dyn Fn(PushEvent) + Send + Sync)) -> Result<Pushed, PushError> {
        // The store is asked before anything is sent: whoever may not read it learns that now.
        if self.signing.is_none() && signed::there(self.store).await?.is_some() {
            return Err(PushError::Signed);
        }
        let baseline = self.store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await?;
        if let Some(baseline) = &baseline {
            self.inputs.manifest(Some((&self.at(), &baseline.bytes)), SystemTime::UNIX_EPOCH)?;
            self.keeps_what_is_named(&baseline.bytes)?;
        }
        let (mut uploaded, mut skipped) = (Vec::new(), Vec::new());
        let sending = async {
            let sent = self.send_all(said).await?;
            self.send_sidecars().await?;
            Ok::<_, PushError>(sent)
        };
        let sent = tokio::select! {
            sent = sending => sent?,
            () = self.cancel.cancelled() => return Err(PushError::Interrupted),
        };
        for (key, sent) in sent {
            match sent {
                Sent::AlreadyThere => skipped.push(key),
                Sent::Whole | Sent::Resumed => uploaded.push(key),
            }
        }
        // From here on to the end: a manifest whose signature is another's helps nobody.
        let placed = self.place(said).await?;
        self.read_back(&placed).await?;
        if let Some((at, patience)) = &self.public {
            tokio::select! {
                read = public::read_back(self, &placed, at, *patience, said) => read?,
                () = self.cancel.cancelled() => return Err(PushError::Interrupted),
            }
        }
        Ok(Pushed { uploaded, skipped, manifest: placed.told()? })
    }

    /// Where the manifest lies, in words.
    fn at(&self) -> String {
        format!("`{}{}`", self.store.to(), ObjectKey::manifest())
    }

    /// Whoever reads the manifest that is there must find what it names.
    fn keeps_what_is_named(&self, baseline: &[u8]) -> Result<(), PushError> {
        // What no fetcher reads, none is misled by.
        let Ok(named) = Manifest::parse(baseline) else { return Ok(()) };
        for Tarball { arch, key, hashed, .. } in self.inputs.tarballs() {
            let mut artifacts = named.agents.keys().filter_map(|agent| named.artifact(agent, *arch).ok());
            match artifacts.find(|artifact| artifact.key == *key && artifact.sha256 != hashed.sha256) {
                Some(there) if !self.replace => {
                    return Err(PushError::Replaces { key: key.clone(), there: there.sha256, new: hashed.sha256 });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Merges and puts, until nobody else was here in between.
    async fn place(&self, said: &(dyn Fn(PushEvent) + Send + Sync)) -> Result<Placed, PushError> {
        for tried in 1..=TRIES {
            // First the signature: whoever replaces it later is noticed when ours is put.
            let signature = signed::there(self.store).await?;
            let baseline = self.store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await?;
            if let (Some(_), None) = (&signature, self.signing) {
                return Err(PushError::Signed);
            }
            if self.cancel.is_cancelled() {
                return Err(PushError::Interrupted);
            }
            if let Some(baseline) = &baseline {
                self.keeps_what_is_named(&baseline.bytes)?;
            }
            self.all_are_there().await?;
            let merged = baseline.as_ref().map(|baseline| &*baseline.bytes);
            let at = self.at();
            let written_at = self.written_at.unwrap_or_else(SystemTime::now);
            let bytes = self.inputs.manifest(merged.map(|bytes| (at.as_str(), bytes)), written_at)?;
            let previous = merged.zip(signature.as_ref()).zip(self.signing);
            let previous = previous.and_then(|((bytes, signature), signing)| signing.signed(bytes, signature));
            if let Some(there) = baseline.as_ref().filter(|there| says_the_same(&there.bytes, &bytes)) {
                let settled = match (self.signing, &previous, &signature) {
                    (None, ..) => Some(None),
                    (Some(signing), Some(previous), Some(signature)) if signing.is_settled(previous) => {
                        Some(Some((signature.bytes.clone(), previous.key.id(), previous.serial)))
                    }
                    _ => None,
                };
                if let Some(signature) = settled {
                    return Ok(Placed { bytes: there.bytes.clone(), changed: false, signature });
                }
            }
            let signed = match self.signing {
                Some(signing) => {
                    Some(signing.sign(&bytes, signing.last_serial(previous.as_ref(), signature.as_ref())?)?)
                }
                None => None,
            };
            if self.try_to_place(&bytes, signed.as_ref().map(|(text, ..)| &**text), &baseline, &signature).await? {
                return Ok(Placed { bytes, changed: true, signature: signed });
            }
            said(PushEvent::Again(tried));
            let most = 50_u64 << tried.min(6);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..most))).await;
        }
        Err(PushError::Contended(TRIES))
    }

    /// Whether nobody else was here in between. A signature that was put for nothing is taken back.
    async fn try_to_place(
        &self,
        bytes: &[u8],
        signature: Option<&[u8]>,
        baseline: &Option<Object>,
        before: &Option<Object>,
    ) -> Result<bool, PushError> {
        let mut ours = None;
        if let Some(text) = signature {
            match signed::put(self.store, text, before.as_ref()).await? {
                Put::Done(etag) => ours = Some(etag),
                Put::Refused => return Ok(false),
            }
        }
        let when = baseline.as_ref().map_or(Condition::Absent, |there| Condition::Unchanged(&there.etag));
        let put = self.store.put(&ObjectKey::manifest(), bytes, MANIFEST, when).await;
        if matches!(put, Ok(Put::Done(_))) {
            return Ok(true);
        }
        // An answer that was lost, and a try again that found our own there, look like somebody else.
        let now = self.store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await;
        if matches!(&now, Ok(Some(now)) if now.bytes == bytes) {
            return Ok(true);
        }
        // Where it cannot be told which manifest is there, the signature stays: it is that of the one that may be.
        if let (Some(ours), Some(before), Ok(_)) = (&ours, before, &now) {
            signed::restore(self.store, ours, &before.bytes).await;
        }
        put?;
        Ok(false)
    }

    /// What was written is what is read, unless somebody else has merged into it meanwhile.
    async fn read_back(&self, placed: &Placed) -> Result<(), PushError> {
        self.all_are_there().await?;
        let there = self.store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await?;
        let is_ours = |there: &Object| there.bytes == placed.bytes;
        let stands =
            |there: &Object| Manifest::parse(&there.bytes).is_ok_and(|manifest| self.inputs.stand_in(&manifest));
        match there {
            Some(there) if is_ours(&there) => match &placed.signature {
                Some((text, ..)) => signed::settle(self.store, &placed.bytes, text).await,
                None => Ok(()),
            },
            Some(there) if stands(&there) => Ok(()),
            _ => Err(PushError::Lost),
        }
    }
}

impl Placed {
    fn told(self) -> Result<Published, PushError> {
        let read = Manifest::parse(&self.bytes).map_err(super::manifest::PublishError::from)?;
        Ok(Published {
            key: ObjectKey::manifest(),
            sha256: Sha256Digest::from_bytes(<sha2::Sha256 as sha2::Digest>::digest(&self.bytes).into()),
            size_bytes: self.bytes.len() as u64,
            updated_at: read.updated_at,
            changed: self.changed,
            signed_by: self.signature.as_ref().map(|(_, key, _)| key.to_string()),
            expires: self.signature.as_ref().and_then(|(text, ..)| crate::trust::claimed_expiry(text)),
            serial: self.signature.map(|(.., serial)| serial),
        })
    }
}

/// Whether two manifests differ in nothing but their time.
fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    let read = |bytes: &[u8]| -> Option<Value> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        value.as_object_mut()?.remove("updatedAt");
        Some(value)
    };
    read(one).is_some_and(|one| read(other) == Some(one))
}
