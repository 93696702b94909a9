//! The cache of the fake world.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;

use super::{Fake, FakeFile};
use crate::backend::cache::names_image;
use crate::backend::{ByteStream, Progress, Store, StoreError};
use crate::model::{
    Artifact, ArtifactKey, CachedArtifact, ImageId, ImageRef, LoadedImage, Location, Manifest, ManifestSource,
    Sha256Digest,
};

impl Store for Fake {
    async fn published(&self, at: &ManifestSource) -> Result<Manifest, StoreError> {
        self.call("published", at.to_string(), |state| {
            state.published.clone().ok_or_else(|| StoreError::ManifestFetch {
                at: at.to_string(),
                cause: "404 Not Found".to_owned(),
                retryable: false,
            })
        })
        .await
    }

    async fn local(&self, _: Option<&ManifestSource>) -> Result<Option<Manifest>, StoreError> {
        self.call("local", "", |state| Ok(state.local.clone())).await
    }

    async fn list(&self) -> Result<BTreeMap<ArtifactKey, CachedArtifact>, StoreError> {
        self.call("list", "", |state| {
            let files = state.files.iter().map(|(key, file)| {
                let cached = CachedArtifact {
                    size: file.size,
                    digest: file.proved.then_some(file.digest),
                    image: state.remembered.get(&file.digest).filter(|_| file.proved).cloned(),
                    modified: file.modified,
                };
                (key.clone(), cached)
            });
            Ok(files.collect())
        })
        .await
    }

    async fn prove(&self, key: &ArtifactKey) -> Result<Option<Sha256Digest>, StoreError> {
        self.call("prove", key.as_str(), |state| {
            Ok(state.files.get_mut(key).map(|file| {
                file.proved = true;
                file.digest
            }))
        })
        .await
    }

    async fn fetch(&self, artifact: &Artifact, _: &Location, progress: Arc<Progress>) -> Result<bool, StoreError> {
        self.call("fetch", artifact.key.as_str(), |state| {
            progress.set(artifact.size_bytes);
            if state.files.get(&artifact.key).is_some_and(|file| file.digest == artifact.sha256) {
                return Ok(false);
            }
            let what = artifact.key.to_string();
            let got = *state.offered.get(&artifact.key).ok_or_else(|| StoreError::Download {
                at: what.clone(),
                cause: "404 Not Found".to_owned(),
                retryable: false,
            })?;
            if got != artifact.sha256 {
                return Err(StoreError::DigestMismatch { what, expected: artifact.sha256, got, lengths: None });
            }
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + state.serial());
            let file = FakeFile { digest: got, size: artifact.size_bytes, proved: true, modified };
            state.files.insert(artifact.key.clone(), file);
            state.changed("fetch", &what, None);
            Ok(true)
        })
        .await
    }

    async fn commit_manifest(&self, manifest: &Manifest, _: Option<&ManifestSource>) -> Result<(), StoreError> {
        self.call("commit_manifest", "", |state| {
            state.local = Some(manifest.clone());
            state.changed("commit_manifest", "", None);
            Ok(())
        })
        .await
    }

    async fn open_image(
        &self,
        artifact: &Artifact,
        wanted: &ImageRef,
        _: Arc<Progress>,
    ) -> Result<ByteStream, StoreError> {
        let key = &artifact.key;
        self.call("open", key.as_str(), |state| {
            let file = state.files.get(key).ok_or_else(|| StoreError::Io {
                what: "open",
                path: key.as_str().into(),
                err: std::io::ErrorKind::NotFound.into(),
            })?;
            if let Some((_, names)) = state.tarballs.get(&file.digest)
                && !names.is_empty()
                && !names.iter().any(|name| names_image(name, wanted))
            {
                let (key, wanted) = (key.clone(), wanted.clone());
                return Err(StoreError::OtherImage { key, wanted, found: names.clone() });
            }
            // The bytes of a tarball are, here, the digest they hash to.
            let bytes = Bytes::from(file.digest.to_string());
            Ok(Box::pin(stream::iter([Ok(bytes)])) as ByteStream)
        })
        .await
    }

    async fn holds_only(&self, _: &Artifact, _: &ImageRef) -> Result<Option<u64>, StoreError> {
        Ok(Some(0))
    }

    async fn loaded_images(&self) -> Result<BTreeMap<ImageId, LoadedImage>, StoreError> {
        Ok(self.state().loaded.clone())
    }

    async fn forget_image(&self, image: &ImageId) -> Result<(), StoreError> {
        self.state().loaded.remove(image);
        Ok(())
    }

    async fn remember_image(
        &self,
        digest: Sha256Digest,
        image: &ImageId,
        brought: Option<&ImageRef>,
    ) -> Result<(), StoreError> {
        self.call("remember_image", digest.to_string(), |state| {
            state.remembered.insert(digest, image.clone());
            if let Some(reference) = brought {
                let loaded = LoadedImage { artifact: digest, reference: reference.clone() };
                state.loaded.insert(image.clone(), loaded);
            }
            state.changed("remember_image", "", None);
            Ok(())
        })
        .await
    }

    async fn remove(&self, key: &ArtifactKey) -> Result<(), StoreError> {
        self.call("remove_file", key.as_str(), |state| {
            if state.files.remove(key).is_some() {
                state.changed("remove_file", key.as_str(), None);
            }
            Ok(())
        })
        .await
    }
}
