//! Listing the cache, and checking what lies in it against the last good manifest.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::index::Stamp;
use super::partial::blocking;
use super::{Cache, StoreError};
use crate::model::{ArtifactKey, CachedArtifact, Manifest, Sha256Digest};

/// What became of checking one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the manifest says.
    Good,
    /// It is not: it must be fetched again.
    Bad {
        /// What the manifest says.
        expected: Sha256Digest,
    },
    /// The manifest does not speak of it: an older version, say.
    Unlisted,
}

/// One checked file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Which.
    pub key: ArtifactKey,
    /// Its length in bytes.
    pub size: u64,
    /// What its bytes hash to.
    pub digest: Sha256Digest,
    /// How that compares.
    pub verdict: Verdict,
}

/// What [`Cache::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Every artifact file, by key.
    pub files: Vec<Checked>,
    /// Whether there is a readable local manifest to compare with.
    pub has_manifest: bool,
}

impl VerifyReport {
    /// The files that are not what they should be.
    pub fn bad(&self) -> impl Iterator<Item = &Checked> {
        self.files.iter().filter(|file| matches!(file.verdict, Verdict::Bad { .. }))
    }
}

impl Cache {
    /// Checks every artifact file against the last good manifest. Files that the index proves are not read, unless
    /// `deep`; what is hashed is remembered, so that a bad file is replaced by the next fetch. Changes no artifact.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub async fn verify(&self, deep: bool) -> Result<VerifyReport, StoreError> {
        let cache = self.clone();
        blocking(move |stop| {
            let manifests = cache.manifests();
            // Several publishers may have other bytes under one key.
            let mut expected = BTreeMap::<_, Vec<_>>::new();
            for artifact in manifests.iter().flat_map(Manifest::listed) {
                expected.entry(artifact.key_beside()).or_default().push(artifact.sha256);
                expected.entry(artifact.key).or_default().push(artifact.sha256);
            }
            let mut files = Vec::new();
            for (key, file) in cache.list_files()? {
                let Some(digest) = cache.digest_of(&key, deep, stop)? else { continue };
                let verdict = match expected.get(&key) {
                    Some(expected) if expected.contains(&digest) => Verdict::Good,
                    // The manifest that was written last comes last.
                    Some(expected) => match expected.last() {
                        Some(expected) => Verdict::Bad { expected: *expected },
                        None => Verdict::Unlisted,
                    },
                    None => Verdict::Unlisted,
                };
                files.push(Checked { key, size: file.size, digest, verdict });
            }
            Ok(VerifyReport { files, has_manifest: !manifests.is_empty() })
        })
        .await
    }

    /// See [`crate::backend::Store::list`].
    pub(super) fn list_files(&self) -> Result<BTreeMap<ArtifactKey, CachedArtifact>, StoreError> {
        let index = self.0.index.read();
        let mut files = BTreeMap::new();
        for (path, metadata) in self.0.layout.walk()? {
            let Some(key) = self.0.layout.key_of(&path) else { continue };
            let digest = index.digest(&key, &Stamp::of(&metadata));
            let image = digest.and_then(|digest| index.image(&digest).cloned());
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.insert(key, CachedArtifact { size: metadata.len(), digest, image, modified });
        }
        Ok(files)
    }
}
