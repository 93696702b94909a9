//! The artifact cache directory: [`Cache`], the [`Store`] of the real world.
//!
//! What is wanted is decided by the callers; here bytes are fetched, proved, kept and removed. A file's existence
//! proves nothing: it counts once its bytes were hashed, by us, and it is still the very same file.
//!
//! | file | subject |
//! |---|---|
//! | `paths` | where things lie; no path leads out through a symbolic link |
//! | `quarantine` | what lies in the wrong place is moved aside |
//! | `sweep` | what killed processes left is removed |
//! | `index` | what is known of files without reading them |
//! | `partial` | a download under way: lock, running hash, commit |
//! | `fetch` | bring one artifact in: attempts, resume |
//! | `retry` | when to ask again |
//! | `delta` | put an artifact together from what is here and ranges for the rest |
//! | `recipe` | which ranges these are |
//! | `lists` | the lists of members that are kept |
//! | `judge` | compare an answer with what was promised |
//! | `manifest` | the published manifest and its local copy |
//! | `signed` | the same where it must be signed |
//! | `import` | bring in what came over an air gap |
//! | `unpack` | read an artifact as a plain tar |
//! | `archive` | let nothing of a tarball through but the wanted image |
//! | `sync`, `verify`, `gc` | the verbs of `steadfast cache` |

mod archive;
mod delta;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gc;
pub(crate) mod import;
mod index;
mod judge;
mod lists;
mod manifest;
mod partial;
mod paths;
mod quarantine;
mod recipe;
mod retry;
mod signed;
mod sweep;
mod sync;
mod unpack;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

pub use archive::names_image;
pub use gc::{Garbage, GcReport, GcRequest, gc_candidates};
pub use sweep::sweep;
pub use sync::{SyncAgent, SyncReport, SyncRequest, SyncWanted};
pub use unpack::{damage, plain};
pub use verify::{Checked, Verdict, VerifyReport};

use self::index::{IndexFile, ManifestOrigin};
use self::partial::blocking;
use self::paths::{Layout, failed};
use super::http::Client;
use super::{ByteStream, Progress, Store, StoreError};
use crate::model::{
    Artifact, ArtifactKey, CachedArtifact, ImageId, ImageRef, LoadedImage, Location, Manifest, ManifestSource,
    Sha256Digest,
};

/// How a cache fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// How often a failed request is repeated before giving up. A download that moves on between failures starts
    /// counting anew. Default 5.
    pub retries: u32,
    /// The wait before the first repetition; doubled each time up to 30 s, and jittered. Default 500 ms.
    pub backoff: Duration,
    /// How long a connection may take to come about. Default 10 s.
    pub connect_timeout: Duration,
    /// How long an answer may go without a byte. Default 30 s. There is no limit on the whole of an artifact.
    pub stall_timeout: Duration,
    /// How long one answer with a manifest may take in all, however steadily its bytes trickle in. Default 60 s.
    pub manifest_timeout: Duration,
    /// How many artifacts are downloaded at the same time. Default 4.
    pub parallel: usize,
    /// Whether what is written is synced to the disk before it counts. Default true; false is for tests on worlds that
    /// do not outlive them.
    pub durable: bool,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            retries: 5,
            backoff: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            manifest_timeout: Duration::from_secs(60),
            parallel: 4,
            durable: true,
        }
    }
}

/// The artifact cache below `<root>/cache`. Clones share everything.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    options: CacheOptions,
    client: Client,
    index: IndexFile,
    /// One lock per artifact that is being fetched in this process.
    locks: Mutex<BTreeMap<ArtifactKey, Arc<tokio::sync::Mutex<()>>>>,
    downloads: Semaphore,
    /// Where the manifest that was fetched last came from.
    origin: Mutex<Option<ManifestOrigin>>,
    /// Lists of members that could not be fetched when it was asked what an artifact costs.
    no_lists: Mutex<BTreeMap<Sha256Digest, Instant>>,
}

impl Cache {
    /// A cache below `<root>/cache`. Touches nothing: directories are made when something is first written.
    ///
    /// # Errors
    /// When `root` is relative and the working directory is gone.
    pub fn open(root: &Path, options: CacheOptions) -> Result<Self, StoreError> {
        let layout = Layout::new(root).map_err(failed("find", root))?;
        Ok(Self(Arc::new(Inner {
            client: Client::new(options.connect_timeout, options.stall_timeout),
            index: IndexFile::new(layout.clone()),
            locks: Mutex::default(),
            downloads: Semaphore::new(options.parallel.max(1)),
            origin: Mutex::default(),
            no_lists: Mutex::default(),
            layout,
            options,
        })))
    }

    /// Opens an artifact as a plain tar with all that is in it: decompressed (gzip, zstd or not at all, told by its first
    /// bytes) while it is read. `progress` counts compressed bytes.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn open_plain(&self, key: &ArtifactKey, progress: Arc<Progress>) -> Result<ByteStream, StoreError> {
        let (cache, key) = (self.clone(), key.clone());
        blocking(move |_| cache.unpack(&key, progress)).await
    }

    /// Path of the last good manifest: `<root>/cache/vm/manifest.json`.
    pub fn manifest_path(&self) -> PathBuf {
        self.0.layout.manifest()
    }

    /// Path at which an artifact lies, or would.
    pub fn artifact_path(&self, key: &ArtifactKey) -> PathBuf {
        self.0.layout.artifact(key)
    }
}

impl Store for Cache {
    async fn published(&self, from: &ManifestSource) -> Result<Manifest, StoreError> {
        match &from.trust {
            Some(trust) => self.fetch_signed(&from.at, trust).await,
            None => self.fetch_manifest(&from.at).await,
        }
    }

    async fn accept(&self, manifest: &Manifest, from: &ManifestSource) -> Result<(), StoreError> {
        let Some(trust) = from.trust.clone() else { return Ok(()) };
        let (cache, manifest, at) = (self.clone(), manifest.clone(), from.at.clone());
        blocking(move |_| cache.accept_signed(&manifest, &at, &trust)).await
    }

    async fn local(&self, from: Option<&ManifestSource>) -> Result<Option<Manifest>, StoreError> {
        let (cache, from) = (self.clone(), from.cloned());
        let read = move |_: &_| match from {
            Some(ManifestSource { at, trust: Some(trust) }) => cache.read_signed(&at, &trust),
            from => cache.read_manifest(from.map(|from| manifest::place(&from.at)).as_ref()),
        };
        Ok(blocking(read).await)
    }

    async fn list(&self) -> Result<BTreeMap<ArtifactKey, CachedArtifact>, StoreError> {
        let cache = self.clone();
        blocking(move |_| cache.list_files()).await
    }

    async fn prove(&self, key: &ArtifactKey) -> Result<Option<Sha256Digest>, StoreError> {
        let (cache, key) = (self.clone(), key.clone());
        blocking(move |stop| cache.digest_of(&key, false, stop)).await
    }

    async fn transfer(&self, artifact: &Artifact, from: &Location, ask: bool) -> u64 {
        self.bytes_to_fetch(artifact, from, ask).await
    }

    async fn fetch(&self, artifact: &Artifact, from: &Location, progress: Arc<Progress>) -> Result<bool, StoreError> {
        self.fetch_locked(artifact, from, progress).await
    }

    async fn commit_manifest(&self, manifest: &Manifest, from: Option<&ManifestSource>) -> Result<(), StoreError> {
        let (cache, manifest, from) = (self.clone(), manifest.clone(), from.cloned());
        let write = move |_: &_| match from {
            Some(ManifestSource { at, trust: Some(trust) }) => cache.write_signed(&manifest, &at, &trust),
            from => cache.write_manifest(&manifest, from.map(|from| manifest::place(&from.at)).as_ref()),
        };
        blocking(write).await
    }

    fn file(&self, artifact: &Artifact) -> Option<PathBuf> {
        Some(self.0.layout.artifact(&self.key_of(artifact)))
    }

    async fn open_image(
        &self,
        artifact: &Artifact,
        wanted: &ImageRef,
        progress: Arc<Progress>,
    ) -> Result<ByteStream, StoreError> {
        self.only_image(artifact, wanted, progress).await
    }

    async fn holds_only(&self, artifact: &Artifact, wanted: &ImageRef) -> Result<Option<u64>, StoreError> {
        self.has_no_other_image(artifact, wanted).await
    }

    async fn remember_image(
        &self,
        digest: Sha256Digest,
        image: &ImageId,
        brought: Option<&ImageRef>,
    ) -> Result<(), StoreError> {
        let (cache, image, brought) = (self.clone(), image.clone(), brought.cloned());
        blocking(move |_| {
            if brought.is_some() || cache.0.index.read().image(&digest) != Some(&image) {
                cache.0.index.try_update(|index| {
                    index.put_image(digest, &image);
                    if let Some(reference) = &brought {
                        index.put_loaded(&image, digest, reference);
                    }
                });
            }
        })
        .await;
        Ok(())
    }

    async fn loaded_images(&self) -> Result<BTreeMap<ImageId, LoadedImage>, StoreError> {
        let cache = self.clone();
        Ok(blocking(move |_| cache.0.index.read().loaded()).await)
    }

    async fn forget_image(&self, image: &ImageId) -> Result<(), StoreError> {
        let (cache, image) = (self.clone(), image.clone());
        blocking(move |_| cache.0.index.update(|index| index.forget_loaded(&image))).await
    }

    async fn remove(&self, key: &ArtifactKey) -> Result<(), StoreError> {
        let (cache, key) = (self.clone(), key.clone());
        blocking(move |_| cache.remove_artifact(&key)).await.map(drop)
    }
}
