//! The store of artifacts.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ByteStream, Progress};
use crate::model::ids::clean;
use crate::model::{
    Artifact, ArtifactKey, CachedArtifact, FailureKind, ImageId, ImageRef, LoadedImage, Location, Manifest,
    ManifestError, ManifestSource, Sha256Digest,
};
use crate::trust::TrustError;
use crate::trust::kept::KeptError;

/// Holds artifacts and the manifest. Implemented by the cache directory.
pub trait Store: Send + Sync {
    /// The manifest at its published place (conditional GET where there is an earlier copy), verified where that is wanted.
    fn published(&self, from: &ManifestSource) -> impl Future<Output = Result<Manifest, StoreError>> + Send;

    /// From now on nothing older than this published manifest is accepted, where it was verified. To be called before
    /// anything is done because of it.
    fn accept(
        &self,
        _manifest: &Manifest,
        _from: &ManifestSource,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// The last good manifest of this place. `None` when there is none, when what is there cannot be read as one, and when it
    /// was not verified with a key that is trusted now.
    fn local(&self, from: Option<&ManifestSource>)
    -> impl Future<Output = Result<Option<Manifest>, StoreError>> + Send;

    /// Every artifact file, with what the index proves of it. Costs a `stat` each.
    fn list(&self) -> impl Future<Output = Result<BTreeMap<ArtifactKey, CachedArtifact>, StoreError>> + Send;

    /// Hashes a file the index does not prove, and remembers the result. `None` when it is gone.
    fn prove(&self, key: &ArtifactKey) -> impl Future<Output = Result<Option<Sha256Digest>, StoreError>> + Send;

    /// Brings an artifact into the cache: nothing to do when its bytes are there already; otherwise resumed, verified,
    /// synced and renamed. A wrong file in its place is moved aside first. `progress` counts bytes of the artifact.
    /// Yields whether bytes had to be fetched.
    fn fetch(
        &self,
        artifact: &Artifact,
        from: &Location,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// How many bytes of an artifact that is not here would travel from `from`: less than its size where a part of it is here
    /// already. `ask` says whether its publisher may be asked for the list of its parts.
    fn transfer(&self, artifact: &Artifact, _from: &Location, _ask: bool) -> impl Future<Output = u64> + Send {
        let size = artifact.size_bytes;
        async move { size }
    }

    /// Writes the manifest that came from this place into the cache, atomically.
    fn commit_manifest(
        &self,
        manifest: &Manifest,
        from: Option<&ManifestSource>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The file on this host that holds an artifact, where one does.
    fn file(&self, _artifact: &Artifact) -> Option<PathBuf> {
        None
    }

    /// Opens an artifact as a plain tar that holds the wanted image, without a name, and nothing else an engine could take
    /// for one: decompressed (gzip, zstd or not at all, told by its first bytes) and filtered while it is read. `progress`
    /// counts compressed bytes. A tarball that does not hold the image is refused, at the latest when its end is read, and
    /// from then on at once.
    fn open_image(
        &self,
        artifact: &Artifact,
        wanted: &ImageRef,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Result<ByteStream, StoreError>> + Send;

    /// Whether an artifact could be loaded as it is: it holds one image, and no name but the wanted one. Yields to how many
    /// bytes it unpacks then. Reads it whole.
    fn holds_only(
        &self,
        artifact: &Artifact,
        wanted: &ImageRef,
    ) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;

    /// Remembers which image the artifact with this digest yields. `brought` says that it was not in the engine before, and
    /// for which name it was loaded: then it is ours to remove.
    fn remember_image(
        &self,
        digest: Sha256Digest,
        image: &ImageId,
        brought: Option<&ImageRef>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The images that are ours to remove.
    fn loaded_images(&self) -> impl Future<Output = Result<BTreeMap<ImageId, LoadedImage>, StoreError>> + Send;

    /// From now on an image is not ours to remove.
    fn forget_image(&self, image: &ImageId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes an artifact file. Fine when it is gone already; never one that is being written or read.
    fn remove(&self, key: &ArtifactKey) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The manifest could not be fetched.
    #[error("manifest fetch failed: {at} ({cause})")]
    ManifestFetch {
        /// Where, fit for showing.
        at: String,
        /// HTTP status or cause.
        cause: String,
        /// Whether trying again later may help by itself.
        retryable: bool,
    },
    /// The manifest was fetched and is not usable.
    #[error("{at}: {err}")]
    Manifest {
        /// Where, fit for showing.
        at: String,
        /// What is wrong with it.
        err: ManifestError,
    },
    /// The manifest was fetched and is not trusted.
    #[error("{}", refusal(at, err))]
    Untrusted {
        /// Where, fit for showing.
        at: String,
        /// Why.
        err: TrustError,
    },
    /// It is not known which manifests were accepted before.
    #[error(transparent)]
    Accepted(#[from] KeptError),
    /// An artifact could not be fetched.
    #[error("download failed: {at} ({cause})")]
    Download {
        /// Where, fit for showing.
        at: String,
        /// HTTP status or cause.
        cause: String,
        /// Whether trying again later may help by itself.
        retryable: bool,
    },
    /// The bytes are not the promised ones.
    #[error("sha256 mismatch for {what}: expected {expected}, got {got}{}", lengths.map(told).unwrap_or_default())]
    DigestMismatch {
        /// Path or key.
        what: String,
        /// As the manifest says.
        expected: Sha256Digest,
        /// As hashed.
        got: Sha256Digest,
        /// How many bytes came and how many were promised, where that differs.
        lengths: Option<(u64, u64)>,
    },
    /// The length is not the promised one, and either so far from it that the bytes were not read to their end, or the
    /// digest is right all the same.
    #[error("size mismatch for {what}: expected {expected} bytes, got {}", match got { Some(got) => got.to_string(), None => "more".to_owned() })]
    SizeMismatch {
        /// Path or key.
        what: String,
        /// As the manifest says.
        expected: u64,
        /// As offered. `None` when far more came than was promised, and was not waited for.
        got: Option<u64>,
    },
    /// Not enough room.
    #[error("not enough space in {}: {need} bytes needed, {free} free", path.display())]
    NoSpace {
        /// The file system's directory.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// The tarball cannot be decompressed.
    #[error("artifact `{key}` is damaged: {why}")]
    Damaged {
        /// The artifact.
        key: ArtifactKey,
        /// What the decompressor says.
        why: String,
    },
    /// The tarball holds another image than its manifest says.
    #[error("tarball `{key}` holds {}, not `{wanted}`", names(found))]
    OtherImage {
        /// The artifact.
        key: ArtifactKey,
        /// The image it should hold.
        wanted: ImageRef,
        /// The names it carries.
        found: Vec<String>,
    },
    /// A path below the cache leads elsewhere.
    #[error("refusing `{}`: it leaves the cache through a symbolic link", path.display())]
    Escapes {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What was tried, as a verb: "read", "write", "rename".
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        err: std::io::Error,
    },
}

/// How many names of a tarball an error lists.
const MAX_LISTED: usize = 10;

fn told((got, expected): (u64, u64)) -> String {
    format!(" ({got} bytes instead of {expected})")
}

fn names(found: &[String]) -> String {
    if found.is_empty() {
        return "no image of that name".to_owned();
    }
    let shown =
        found.iter().take(MAX_LISTED).map(|name| format!("`{}`", clean(name, 200))).collect::<Vec<_>>().join(", ");
    match found.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What could not be fetched is not said to be refused.
fn refusal(at: &str, err: &TrustError) -> String {
    if err.is_of_published() { format!("{at} is refused: {err}") } else { err.to_string() }
}

impl StoreError {
    /// Whether trying again later may help by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ManifestFetch { retryable, .. } | Self::Download { retryable, .. } => *retryable,
            Self::Io { .. } | Self::Accepted(KeptError::Io { .. }) => true,
            Self::Manifest { .. }
            | Self::Untrusted { .. }
            | Self::Accepted(_)
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::NoSpace { .. }
            | Self::Damaged { .. }
            | Self::OtherImage { .. }
            | Self::Escapes { .. } => false,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::ManifestFetch { .. } => FailureKind::ManifestFetch,
            Self::Manifest { err: ManifestError::Pinned { .. }, .. } => FailureKind::DigestMismatch,
            Self::Manifest { .. } => FailureKind::ManifestInvalid,
            Self::Untrusted { .. } => FailureKind::Untrusted,
            Self::Accepted(_) => FailureKind::TrustRecord,
            Self::Download { .. } => FailureKind::Download,
            Self::DigestMismatch { .. } => FailureKind::DigestMismatch,
            Self::SizeMismatch { .. } => FailureKind::SizeMismatch,
            Self::NoSpace { .. } => FailureKind::NoSpace,
            Self::Damaged { .. } => FailureKind::Damaged,
            Self::OtherImage { .. } => FailureKind::OtherImage,
            Self::Escapes { .. } => FailureKind::Escapes,
            Self::Io { .. } => FailureKind::Io,
        }
    }
}
