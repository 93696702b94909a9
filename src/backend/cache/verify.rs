//! Listing the cache, and checking what lies in it against the last good manifest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::debug;

use super::index::Stamp;
use super::partial::blocking;
use super::paths::failed;
use super::{Cache, StoreError};
use crate::model::ids::TEMPORARY;
use crate::model::{Artifact, ArtifactKey, CachedArtifact, Manifest, Sha256Digest};

/// How deep keys may nest. No manifest seen goes deeper than `vm/images/`.
const MAX_DEPTH: usize = 16;

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
            for artifact in manifests.iter().flat_map(listed) {
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
        for (path, metadata) in self.walk()? {
            let Some(key) = self.0.layout.key_of(&path) else { continue };
            let digest = index.digest(&key, &Stamp::of(&metadata));
            let image = digest.and_then(|digest| index.image(&digest).cloned());
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.insert(key, CachedArtifact { size: metadata.len(), digest, image, modified });
        }
        Ok(files)
    }

    /// Every regular file below `cache/vm` that is not temporary. Symbolic links are not followed.
    pub(super) fn walk(&self) -> Result<Vec<(PathBuf, fs::Metadata)>, StoreError> {
        let mut found = Vec::new();
        let top = self.0.layout.cache().join("vm");
        self.0.layout.guard(&top.join("images"))?;
        walk(&top, 0, &mut found)?;
        Ok(found)
    }
}

/// What the manifest says of every artifact whose entry is good.
pub(super) fn listed(manifest: &Manifest) -> Vec<Artifact> {
    let agents = manifest.agents.keys();
    agents
        .flat_map(|agent| manifest.arches(agent).into_iter().filter_map(|arch| manifest.artifact(agent, arch).ok()))
        .collect()
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<(PathBuf, fs::Metadata)>) -> Result<(), StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        // The entry's own metadata: of a link, not of what it leads to.
        let metadata = match entry.metadata() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(failed("look at", &path))?,
        };
        if metadata.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, found)?;
        } else if metadata.is_file() {
            found.push((path, metadata));
        } else {
            debug!(path = %path.display(), "not a file of the cache; left alone");
        }
    }
    Ok(())
}
