//! The lists of members that are kept: `<root>/cache/layers/<sha256>.json`, named by what they hash to. Derived: what is lost or
//! damaged costs a download, or a request for it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::info;

use super::gc::{files_in, older_than};
use super::partial::blocking;
use super::paths::{Layout, remove_file};
use super::{Cache, Progress, StoreError};
use crate::backend::http::{Ask, Failure, Status};
use crate::error::Chain;
use crate::files::regular;
use crate::model::layers::MAX_LAYERS_BYTES;
use crate::model::{LayerIndex, Layers, Location, Manifest, Sha256Digest};
use crate::mutex::guard;

/// Lists of tarballs that are not in the cache: so many, of so many bytes, and no more (64 MiB).
const MOST_SPARE: usize = 256;
const MOST_SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// How long a list may take in all, however steadily it trickles in. Without it the tarball comes as ever.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A list that could not be fetched is not asked for again so soon only to know what a tarball costs.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// One that nothing names is of a tarball that may be on its way still (1 h).
const STALE: Duration = Duration::from_secs(60 * 60);

/// A list that is larger than an eighth of its tarball saves nothing; but a small one is no burden (64 KiB).
fn most_bytes(size_bytes: u64) -> usize {
    usize::try_from(size_bytes / 8).unwrap_or(usize::MAX).clamp(64 * 1024, MAX_LAYERS_BYTES)
}

/// Whether the publisher is asked for a list that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// Whatever became of it before.
    Now,
    /// Not again so soon after it could not be fetched.
    Seldom,
    /// Not at all.
    Never,
}

impl Layout {
    pub(super) fn lists(&self) -> PathBuf {
        self.cache().join("layers")
    }

    fn list(&self, sha256: &Sha256Digest) -> PathBuf {
        self.lists().join(format!("{sha256}.json"))
    }
}

impl Cache {
    /// The list of a tarball of so many bytes as it is kept; `None` where it is not, or is not what was named.
    pub(super) fn kept_list(&self, sha256: &Sha256Digest, size_bytes: u64) -> Option<LayerIndex> {
        let file = self.0.layout.open(&self.0.layout.list(sha256)).ok()??;
        let bytes = regular::bounded(file, MAX_LAYERS_BYTES as u64).ok()??;
        read_list(&bytes, sha256, size_bytes).ok()
    }

    /// The list of a tarball: as it is kept, else as it is published at `at`, and then kept. `None` where it is unavailable, or is
    /// of no use: that is told, and is no error.
    pub(super) async fn list_at(
        &self,
        layers: &Layers,
        size_bytes: u64,
        at: &Location,
        progress: &Progress,
        asking: Asking,
    ) -> Option<LayerIndex> {
        let (cache, sha256) = (self.clone(), layers.sha256);
        if let Some(kept) = blocking(move |_| cache.kept_list(&sha256, size_bytes)).await {
            return Some(kept);
        }
        let known = || guard(&self.0.no_lists);
        let is_refused = || known().get(&sha256).is_some_and(|since| since.elapsed() < ASK_AGAIN);
        if asking == Asking::Never || asking == Asking::Seldom && is_refused() {
            return None;
        }
        let told = |why: String| {
            info!(at = %at, why, "cannot use a tarball's list of members; it is fetched whole");
            let mut refused = known();
            refused.retain(|_, since| since.elapsed() < ASK_AGAIN);
            refused.insert(sha256, Instant::now());
        };
        let bytes = match self.ask_for_list(size_bytes, at, progress).await {
            Ok(bytes) => bytes,
            Err(failure) => {
                told(failure.cause);
                return None;
            }
        };
        let index = read_list(&bytes, &sha256, size_bytes).map_err(told).ok()?;
        let (cache, durable) = (self.clone(), self.0.options.durable);
        blocking(move |_| {
            let path = cache.0.layout.list(&sha256);
            if let Err(err) = cache.0.layout.replace(&path, durable, |mut file| file.write_all(&bytes)) {
                info!(err = %Chain(&err), "cannot keep a tarball's list of members");
            }
            cache.bound_lists(&sha256);
        })
        .await;
        Some(index)
    }

    async fn ask_for_list(&self, size_bytes: u64, at: &Location, progress: &Progress) -> Result<Vec<u8>, Failure> {
        let most = most_bytes(size_bytes);
        let ask = async || {
            let answer = self.0.client.get(at, &Ask::default()).await?;
            let too_large = || Failure::permanent(format!("it is larger than {most} bytes"));
            match answer.status {
                Status::Whole if answer.length.is_some_and(|length| length > most as u64) => Err(too_large()),
                Status::Whole => answer.body.at_most(most).await?.ok_or_else(too_large),
                _ => Err(Failure::permanent("an answer to another question")),
            }
        };
        let twice = async {
            match ask().await {
                Err(failure) if failure.retryable && !failure.unreachable && failure.retry_after.is_none() => {
                    ask().await
                }
                answer => answer,
            }
        };
        let late = || Failure::passing(format!("not complete after {}", humantime::format_duration(TIMEOUT)));
        let bytes = tokio::time::timeout(TIMEOUT, twice).await.map_err(|_| late())??;
        progress.receive(bytes.len() as u64);
        Ok(bytes)
    }

    /// Lists of tarballs that never come are not let pile up: the oldest of them go. Best effort.
    fn bound_lists(&self, newest: &Sha256Digest) {
        let needed = self.0.index.read().all_layers();
        let is_spare = |name: &str, _: &std::fs::Metadata| {
            let sha256 = name.strip_suffix(".json").and_then(|name| Sha256Digest::parse(name).ok());
            sha256.is_some_and(|sha256| sha256 != *newest && !needed.contains(&sha256))
        };
        let Ok(spare) = files_in(&self.0.layout.lists(), is_spare) else { return };
        let mut left: u64 = spare.iter().map(|(_, bytes)| bytes).sum();
        let written = |path: &PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        let mut spare: Vec<_> = spare.into_iter().map(|(path, bytes)| (written(&path), path, bytes)).collect();
        spare.sort();
        for (at, (_, path, bytes)) in spare.iter().enumerate() {
            if left <= MOST_SPARE_BYTES && spare.len() - at <= MOST_SPARE {
                return;
            }
            left -= bytes;
            let _ = remove_file(path);
        }
    }

    /// Removes the list of a tarball that is gone, unless another one has it too. Best effort: `cache gc` finds it.
    pub(super) fn forget_list(&self, sha256: &Sha256Digest) {
        if !self.0.index.read().all_layers().contains(sha256) {
            let _ = remove_file(&self.0.layout.list(sha256));
        }
    }

    /// Lists that belong to no tarball that is here, or that a manifest in the cache names.
    pub(super) fn stale_lists(&self) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let mut needed: BTreeSet<_> = self.0.index.read().all_layers();
        let manifests = self.manifests();
        let listed = manifests.iter().flat_map(Manifest::listed);
        needed.extend(listed.filter_map(|artifact| artifact.layers).map(|layers| layers.sha256));
        let directory = self.0.layout.lists();
        self.0.layout.guard(&directory.join("x"))?;
        files_in(&directory, |name, metadata| {
            let sha256 = name.strip_suffix(".json").and_then(|name| Sha256Digest::parse(name).ok());
            sha256.is_some_and(|sha256| !needed.contains(&sha256)) && older_than(metadata, STALE)
        })
    }
}

fn read_list(bytes: &[u8], sha256: &Sha256Digest, size_bytes: u64) -> Result<LayerIndex, String> {
    let found = Sha256Digest::of(bytes);
    if found != *sha256 {
        return Err(format!("sha256 mismatch: expected {sha256}, got {found}"));
    }
    LayerIndex::parse(bytes, size_bytes).map_err(|err| err.to_string())
}
