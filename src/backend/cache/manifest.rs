//! The published manifest and its local copy. What the manifest says is [`crate::model::manifest`]'s subject.

use std::io::Read;
use std::path::Path;

use tracing::warn;

use super::index::ManifestOrigin;
use super::partial::blocking;
use super::paths::failed;
use super::retry::Retry;
use super::{Cache, StoreError};
use crate::backend::http::{Answer, Ask, Failure, Status, Validators};
use crate::error::Chain;
use crate::model::manifest::{MAX_COPY_BYTES, MAX_MANIFEST_BYTES};
use crate::model::{Location, Manifest, ManifestError, Sha256Digest};
use crate::mutex::guard;

/// How often a place is tried where nobody answers at all. Offline is normal, and nobody wants to wait for it.
const MAX_KNOCKS: u32 = 1;

impl Cache {
    /// Fetches the manifest, unless the copy in the cache is known to be the published one.
    pub(super) async fn fetch_manifest(&self, at: &Location) -> Result<Manifest, StoreError> {
        let place = place(at);
        let cache = self.clone();
        let known = blocking(move |_| cache.known_copy(&place)).await;
        let ask = Ask { unless: known.as_ref().map(|(validators, _)| validators.clone()), ..Ask::default() };
        match self.ask_patiently(at, &ask, MAX_MANIFEST_BYTES).await.map_err(|failure| refused(at, &failure))? {
            Said::Same => match known {
                Some((_, manifest)) => Ok(manifest),
                None => Err(refused(at, &Failure::permanent("304"))),
            },
            Said::TooLong => Err(unusable(at)(ManifestError::TooLarge)),
            Said::Bytes(bytes, validators) => {
                let manifest = Manifest::parse(&bytes).map_err(unusable(at))?;
                self.remember_origin(&manifest, place, validators);
                Ok(manifest)
            }
        }
    }

    /// Remembers where a manifest that was fetched came from, until it is written.
    pub(super) fn remember_origin(&self, manifest: &Manifest, place: Sha256Digest, validators: Validators) {
        let Validators { etag, last_modified } = validators;
        let origin = ManifestOrigin { place, etag, last_modified, copy: manifest.copy_sha256() };
        *guard(&self.0.origin) = Some(origin);
    }

    /// Where a manifest came from, when it is the one that was fetched last.
    pub(super) fn origin_of(&self, manifest: &Manifest) -> Option<ManifestOrigin> {
        let origin = guard(&self.0.origin).clone();
        origin.filter(|origin| origin.copy == manifest.copy_sha256())
    }

    /// Asks until there is an answer of at most `most` bytes, or it is no use to ask on.
    pub(super) async fn ask_patiently(&self, at: &Location, ask: &Ask, most: usize) -> Result<Said, Failure> {
        let mut retry = Retry::new(&self.0.options);
        loop {
            let limit = self.0.options.manifest_timeout;
            // Whoever is so slow once is not asked again: an observation has waited long enough.
            let Ok(said) = tokio::time::timeout(limit, self.ask(at, ask, most)).await else {
                let cause = format!("not complete after {}", humantime::format_duration(limit));
                return Err(Failure::passing(cause));
            };
            let failure = match said {
                Err(failure) => failure,
                said => return said,
            };
            let give_up = failure.unreachable && retry.count() >= MAX_KNOCKS;
            let Some(wait) = retry.wait(&failure).filter(|_| !give_up) else { return Err(failure) };
            warn!(cause = %failure.cause, at = %at, "manifest fetch failed; trying again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask(&self, at: &Location, ask: &Ask, most: usize) -> Result<Said, Failure> {
        let Answer { status, length, validators, body, .. } = self.0.client.get(at, ask).await?;
        match status {
            Status::NotModified => return Ok(Said::Same),
            Status::Whole => {}
            Status::Part { .. } => return Err(Failure::permanent("206")),
            Status::PastTheEnd { .. } => return Err(Failure::permanent("416")),
        }
        if length.is_some_and(|length| length > most as u64) {
            return Ok(Said::TooLong);
        }
        Ok(match body.at_most(most).await? {
            Some(bytes) => Said::Bytes(bytes, validators),
            None => Said::TooLong,
        })
    }

    /// The copy in the cache with what a server may compare it by, when it came from `place` and nobody has changed it
    /// since.
    fn known_copy(&self, place: &Sha256Digest) -> Option<(Validators, Manifest)> {
        let origin = self.0.index.read().manifest.clone().filter(|origin| origin.place == *place)?;
        let validators = Validators { etag: origin.etag, last_modified: origin.last_modified };
        let bytes = self.manifest_bytes().ok()??;
        if validators.is_empty() || sha256(&bytes) != origin.copy {
            return None;
        }
        Some((validators, Manifest::parse_copy(&bytes).ok()?))
    }

    /// The local manifest that came from `place`. One that cannot be read is as good as none: it is only ever a copy.
    pub(super) fn read_manifest(&self, place: Option<&Sha256Digest>) -> Option<Manifest> {
        let read = |path: &Path| {
            self.bytes_of(path).unwrap_or_else(|err| {
                warn!(err = %Chain(&err), "cannot read the manifest in the cache; going on without it");
                None
            })
        };
        let mut bytes = read(&self.0.layout.manifest())?;
        // Another state file with another manifest wrote it last. What is not known to come from elsewhere is taken.
        let origin = self.0.index.read().manifest.clone().filter(|origin| origin.copy == sha256(&bytes));
        if let (Some(place), Some(origin)) = (place, origin)
            && origin.place != *place
        {
            bytes = read(&self.0.layout.manifest_of(place))?;
        }
        Manifest::parse_copy(&bytes)
            .inspect_err(|err| warn!(err = %err, "the manifest in the cache is not valid; going on without it"))
            .ok()
    }

    /// The last good manifests of all places, the one that was written last at the end.
    pub(super) fn manifests(&self) -> Vec<Manifest> {
        let copies = self.manifest_copies(false).unwrap_or_default().into_iter();
        let parsed = copies.filter_map(|(path, _)| Manifest::parse_copy(&self.bytes_of(&path).ok()??).ok());
        parsed.chain(self.read_manifest(None)).collect()
    }

    fn manifest_bytes(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes_of(&self.0.layout.manifest())
    }

    pub(super) fn bytes_of(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.0.layout.open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_COPY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
        Ok(Some(bytes))
    }

    /// Writes the local manifest that came from `place`, and remembers which published version it is.
    pub(super) fn write_manifest(&self, manifest: &Manifest, place: Option<&Sha256Digest>) -> Result<(), StoreError> {
        if let Some(place) = place {
            self.write_copy_of(manifest, place)?;
        }
        self.replace_copy(manifest, &self.0.layout.manifest())?;
        let origin = self.origin_of(manifest);
        if origin.is_some() && self.0.index.read().manifest != origin {
            self.0.index.try_update(|index| index.manifest = origin);
        }
        Ok(())
    }

    /// Writes the copy of `place` alone.
    pub(super) fn write_copy_of(&self, manifest: &Manifest, place: &Sha256Digest) -> Result<(), StoreError> {
        self.replace_copy(manifest, &self.0.layout.manifest_of(place))
    }

    fn replace_copy(&self, manifest: &Manifest, path: &Path) -> Result<(), StoreError> {
        let there = self.bytes_of(path).ok().flatten();
        if there.is_none_or(|there| sha256(&there) != manifest.copy_sha256()) {
            self.0.layout.replace(path, self.0.options.durable, |file| manifest.write_copy(file))?;
        }
        Ok(())
    }
}

/// An answer.
pub(super) enum Said {
    /// It is what is known.
    Same,
    /// More than was asked for.
    TooLong,
    /// All of it.
    Bytes(Vec<u8>, Validators),
}

pub(super) fn unusable(at: &Location) -> impl FnOnce(ManifestError) -> StoreError {
    let at = at.to_string();
    move |err| StoreError::Manifest { at, err }
}

pub(super) fn refused(at: &Location, failure: &Failure) -> StoreError {
    StoreError::ManifestFetch { at: at.to_string(), cause: failure.cause.clone(), retryable: failure.retryable }
}

/// A name for a place that gives no secret away.
pub(super) fn place(at: &Location) -> Sha256Digest {
    match at {
        Location::Http(url) => sha256(url.as_str().as_bytes()),
        Location::File(path) => sha256(path.as_os_str().as_encoded_bytes()),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::of(bytes)
}
