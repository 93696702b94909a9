//! Brings in what came over an air gap: an archive that `publish export` wrote, and that anybody may have had in hand since.
//!
//! It is read twice. First its headers alone: what may stand in it is known from the manifest in it, and anything else refuses
//! the whole. Then each wanted artifact is copied into a partial of its own, proved and placed as a download is. The manifest
//! comes last, as it does from the network.

mod packed;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tracing::info;

pub(crate) use self::packed::{ArchiveFault, MANIFEST, MAX_SIGNATURE, SIGNATURE};

use self::packed::{Broken, Span, check_names, read};
use super::judge::mismatch;
use super::manifest::place;
use super::partial::{Partial, Sidecar, blocking};
use super::paths::failed;
use super::sync::SyncWanted;
use super::{Cache, Progress, Store, StoreError};
use crate::backend::http::Validators;
use crate::files::regular;
use crate::model::{Artifact, ArtifactKey, Location, ManifestSource};

/// How much is copied at a time, and how many pieces wait for the disk.
const PIECE: usize = 256 * 1024;
const AHEAD: usize = 4;

/// What is to be brought in.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The archive.
    pub archive: PathBuf,
    /// Which of its artifacts.
    pub wanted: SyncWanted,
    /// Where the manifest is published that it stands for, and whose it must be, where a state file says so.
    pub manifest: Option<ManifestSource>,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// What was brought in.
    pub imported: Vec<ArtifactKey>,
    /// What is wanted and was in the cache already.
    pub present: Vec<ArtifactKey>,
    /// How many artifacts are in the archive that nobody here wants.
    pub others: usize,
    /// When its manifest was written.
    pub updated_at: String,
    /// Where the manifest lies now.
    pub manifest_path: PathBuf,
}

/// Why nothing, or not all, was brought in. The manifest in the cache is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It is not what `publish export` writes.
    #[error("`{}` cannot be imported: {fault}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        fault: ArchiveFault,
    },
    /// The cache, or the bytes of an artifact.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Cache {
    /// Brings in what is wanted of an archive, and then its manifest. `watch` is told of each artifact before it is looked at.
    ///
    /// # Errors
    /// When the archive holds anything that it should not, lacks what is wanted, or has other bytes than its manifest says.
    /// Artifacts that were proved before that stay; the manifest is not replaced.
    pub async fn import(
        &self,
        request: &ImportRequest,
        watch: impl Fn(&Artifact, &Arc<Progress>),
    ) -> Result<ImportReport, ImportError> {
        let path = &request.archive;
        let opened = path.clone();
        let read = blocking(move |stop| {
            let file = regular::open(&opened).map_err(io::Error::from)?;
            let packed = read(&file, stop)?;
            Ok((Arc::new(file), packed))
        });
        let wrong = |fault| ImportError::Archive { path: path.clone(), fault };
        let (file, packed) = read.await.map_err(|broken| match broken {
            Broken::Io(err) => ImportError::Unreadable { path: path.clone(), err },
            Broken::Fault(fault) => wrong(fault),
        })?;
        let at = path.display().to_string();
        let bytes = packed.manifest.as_ref().ok_or_else(|| wrong(ArchiveFault::NoManifest))?;
        let manifest = self.admit(&at, bytes, packed.signature.as_deref(), request.manifest.as_ref())?;
        check_names(&packed, &manifest).map_err(wrong)?;
        let wanted = request.wanted.select(&manifest).map_err(|err| StoreError::Manifest { at, err })?;

        let place_of = |artifact: &Artifact| match &request.manifest {
            Some(manifest) => manifest.at.artifact(&artifact.key),
            None => Location::File(path.clone()),
        };
        for artifact in &wanted {
            match packed.others.get(artifact.key.as_str()) {
                Some(span) if span.size != artifact.size_bytes => {
                    let (what, expected, got) = (artifact.key.to_string(), artifact.size_bytes, Some(span.size));
                    return Err(in_archive(path, StoreError::SizeMismatch { what, expected, got }).into());
                }
                Some(_) => {}
                None => {
                    let placed = self.placed(artifact, &place_of(artifact)).await?;
                    if !self.is_there(&placed).await? {
                        return Err(wrong(ArchiveFault::Lacks(artifact.key.clone())));
                    }
                }
            }
        }
        let (mut imported, mut present) = (Vec::new(), Vec::new());
        for artifact in &wanted {
            let progress = Progress::new(artifact.size_bytes);
            watch(artifact, &progress);
            let brought = match packed.others.get(artifact.key.as_str()) {
                Some(span) => {
                    let brought = self.take_from(artifact, &place_of(artifact), (path, &file, *span), progress).await;
                    brought.map_err(|err| in_archive(path, err))?
                }
                None => false,
            };
            if brought { imported.push(artifact.key.clone()) } else { present.push(artifact.key.clone()) }
        }
        // From now on it counts as what was published there, which nobody can be asked for.
        if let Some(from) = &request.manifest {
            self.remember_origin(&manifest, place(&from.at), Validators::default());
        }
        self.commit_manifest(&manifest, request.manifest.as_ref()).await?;
        let others = manifest.listed().filter(|artifact| {
            packed.others.contains_key(artifact.key.as_str()) && wanted.iter().all(|wanted| wanted.key != artifact.key)
        });
        Ok(ImportReport {
            imported,
            present,
            others: others.count(),
            updated_at: manifest.updated_at.clone(),
            manifest_path: self.manifest_path(),
        })
    }

    /// Brings in one artifact, by the same steps as a download: under its lock, into its partial, and placed once it is proved.
    async fn take_from(
        &self,
        artifact: &Artifact,
        from: &Location,
        (path, file, span): (&Path, &Arc<File>, Span),
        progress: Arc<Progress>,
    ) -> Result<bool, StoreError> {
        progress.set_total(artifact.size_bytes);
        let _lock = self.lock_artifact(&artifact.key).await;
        let Some((artifact, partial)) = self.make_room(artifact, from, &progress).await? else { return Ok(false) };
        let mut partial = self.resume(&artifact, partial).await?;
        loop {
            progress.resume(partial.len);
            let (url, place) = (path.display().to_string(), Some(place(from)));
            partial.label(Sidecar { url, place, etag: None, sha256: artifact.sha256 })?;
            partial = copied((path, file, span), partial, &artifact, &progress).await?;
            let got = partial.digest();
            if got == artifact.sha256 {
                break;
            }
            if !partial.has_old_bytes {
                let length = partial.len;
                partial.discard()?;
                return Err(mismatch(&artifact, got, length));
            }
            // What an earlier run left may be to blame.
            partial.start_over()?;
        }
        self.place(&artifact, from, partial).await?;
        progress.set(artifact.size_bytes);
        info!(artifact = %artifact.key, bytes = artifact.size_bytes, "artifact imported");
        Ok(true)
    }
}

/// Names the archive that holds what is wrong.
fn in_archive(path: &Path, err: StoreError) -> StoreError {
    let inside = |what: String| format!("{what} in `{}`", path.display());
    match err {
        StoreError::DigestMismatch { what, expected, got, lengths } => {
            StoreError::DigestMismatch { what: inside(what), expected, got, lengths }
        }
        StoreError::SizeMismatch { what, expected, got } => {
            StoreError::SizeMismatch { what: inside(what), expected, got }
        }
        err => err,
    }
}

/// Copies what is left of an artifact into its partial. Dropped, it stops, and what was copied stays.
async fn copied(
    (path, file, span): (&Path, &Arc<File>, Span),
    partial: Partial,
    artifact: &Artifact,
    progress: &Arc<Progress>,
) -> Result<Partial, StoreError> {
    let (size, mut at) = (artifact.size_bytes, partial.len);
    let (pieces, inbox) = mpsc::channel(AHEAD);
    let shown = Arc::clone(progress);
    let writer = tokio::task::spawn_blocking(move || partial.absorb(inbox, size, &shown));
    let (path, file) = (path.to_owned(), Arc::clone(file));
    let read = blocking(move |stop| {
        while at < size {
            if stop.load(Ordering::Relaxed) {
                return Err(failed("read", &path)(io::Error::other("given up")));
            }
            let length = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            let mut piece = BytesMut::zeroed(length);
            file.read_exact_at(&mut piece, span.offset + at).map_err(failed("read", &path))?;
            at += length as u64;
            // The writer has failed, and says so below.
            if pieces.blocking_send(Bytes::from(piece)).is_err() {
                break;
            }
        }
        Ok(())
    })
    .await;
    let partial = match writer.await {
        Ok(written) => written?,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    };
    match read {
        Ok(()) => Ok(partial),
        Err(err) => {
            partial.release()?;
            Err(err)
        }
    }
}

#[cfg(test)]
mod tests;
