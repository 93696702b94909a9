//! A download under way: the bytes that are here already, their running hash, and the lock that makes it ours.
//!
//! The `.partial` file is its own lock (flock). It vanishes by being renamed, so no lock files are left to pile up;
//! who gets the lock checks that the path still names the file, else the one before has finished or given up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::Cache;
use super::index::Stamp;
use super::manifest::place;
use super::paths::{Layout, failed, remove_file};
use crate::backend::{Progress, StoreError};
use crate::files::{self, Lock, still_names};
use crate::model::{Artifact, ArtifactKey, Location, Sha256Digest};

/// How much is read at a time when a file is hashed.
pub(super) const HASH_CHUNK: usize = 256 * 1024;

/// What a partial belongs to: its `.partial.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// Where the bytes came from, without secrets; for people.
    pub(super) url: String,
    /// The sha256 of the whole URL, to compare by.
    #[serde(default)]
    pub(super) place: Option<Sha256Digest>,
    /// The strong ETag they came with.
    #[serde(default)]
    pub(super) etag: Option<String>,
    /// What the whole must hash to.
    pub(super) sha256: Sha256Digest,
}

/// A partial file that nobody else touches while this value lives.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    sidecar_path: PathBuf,
    /// As it stands on disk.
    pub(super) sidecar: Option<Sidecar>,
    hasher: Sha256,
    /// Bytes that are written and hashed.
    pub(super) len: u64,
    /// Some of them were written by an earlier run, and may have suffered since (a power cut).
    pub(super) has_old_bytes: bool,
}

/// A place in a partial.
pub(super) struct Mark {
    hasher: Sha256,
    len: u64,
}

impl Partial {
    /// Takes the lock, waiting for whoever holds it. Meanwhile `progress` shows how far the holder has come.
    /// Dropping the future gives up waiting.
    pub(super) async fn lock(layout: &Layout, key: &ArtifactKey, progress: &Progress) -> Result<Self, StoreError> {
        let (path, sidecar_path) = (layout.partial(key), layout.sidecar(key));
        loop {
            let file = layout.open_or_create(&path)?;
            let mut pause = Duration::from_millis(2);
            let mut waited = Duration::ZERO;
            loop {
                if files::lock(&file, Lock::Alone, Duration::ZERO).map_err(failed("lock", &path))? {
                    break;
                }
                if let Ok(metadata) = file.metadata() {
                    if waited.is_zero() { progress.resume(metadata.len()) } else { progress.set(metadata.len()) }
                }
                tokio::time::sleep(pause).await;
                if waited < Duration::from_secs(1) && waited + pause >= Duration::from_secs(1) {
                    info!(artifact = %key, "waiting for another process that fetches this artifact");
                }
                waited += pause;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            if still_names(&path, &file) {
                layout.clear_for_file(&sidecar_path)?;
                let sidecar = read_sidecar(layout, &sidecar_path);
                return Ok(Self {
                    file,
                    path,
                    sidecar_path,
                    sidecar,
                    hasher: Sha256::new(),
                    len: 0,
                    has_old_bytes: false,
                });
            }
        }
    }

    /// Takes up the bytes of an earlier run: reads them back once, for their hash. Nothing is kept of a partial that
    /// belongs to other bytes, is longer than `size`, or does not say what it belongs to.
    pub(super) fn resume(&mut self, sha256: &Sha256Digest, size: u64, stop: &AtomicBool) -> Result<(), StoreError> {
        let there = self.file.metadata().map_err(failed("inspect", &self.path))?.len();
        let ours = self.sidecar.as_ref().is_some_and(|sidecar| sidecar.sha256 == *sha256);
        if !ours || there > size {
            if there > 0 {
                debug!(path = %self.path.display(), "the unfinished download belongs to other bytes; starting over");
            }
            return self.start_over();
        }
        self.file.seek(SeekFrom::Start(0)).map_err(failed("read", &self.path))?;
        self.hasher = Sha256::new();
        self.len = hash_into(&mut self.hasher, &mut self.file, stop).map_err(failed("read", &self.path))?;
        self.has_old_bytes = self.len > 0;
        Ok(())
    }

    /// Back to no bytes at all.
    pub(super) fn start_over(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(failed("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed("truncate", &self.path))?;
        self.hasher = Sha256::new();
        self.len = 0;
        self.has_old_bytes = false;
        Ok(())
    }

    /// Says what the bytes that come next belong to.
    pub(super) fn label(&mut self, sidecar: Sidecar) -> Result<(), StoreError> {
        if self.sidecar.as_ref() == Some(&sidecar) {
            return Ok(());
        }
        let text =
            serde_json::to_vec(&sidecar).map_err(|err| failed("write", &self.sidecar_path)(io::Error::from(err)))?;
        remove_file(&self.sidecar_path)?;
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(&self.sidecar_path);
        made.and_then(|mut file| file.write_all(&text)).map_err(failed("write", &self.sidecar_path))?;
        self.sidecar = Some(sidecar);
        Ok(())
    }

    /// Hashes and writes pieces until there are no more. Each is on its way to the disk before the next is taken, so a
    /// kill loses no more than what waits in the channel. Runs on a thread of its own; both costs are hidden behind the
    /// network that way. (Nudging the kernel to write back early, with `posix_fadvise`, was measured: it costs more
    /// system time than the sync at the end gets shorter.)
    pub(super) fn absorb(
        mut self,
        mut pieces: mpsc::Receiver<Bytes>,
        size: u64,
        progress: &Progress,
    ) -> Result<Self, StoreError> {
        while let Some(piece) = pieces.blocking_recv() {
            self.hasher.update(&piece);
            self.file.write_all(&piece).map_err(|err| self.no_room(err, size))?;
            self.len += piece.len() as u64;
            progress.set(self.len);
            progress.receive(piece.len() as u64);
        }
        Ok(self)
    }

    /// Where the file lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes that were here already, in another file: they may have suffered since they were proved.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|err| self.no_room(err, self.len + bytes.len() as u64))?;
        self.len += bytes.len() as u64;
        self.has_old_bytes = true;
        Ok(())
    }

    /// Where it stands now, to come back to.
    pub(super) fn mark(&self) -> Mark {
        Mark { hasher: self.hasher.clone(), len: self.len }
    }

    /// Forgets what came after a mark.
    pub(super) fn back_to(&mut self, mark: Mark) -> Result<(), StoreError> {
        self.file.set_len(mark.len).map_err(failed("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(mark.len)).map_err(failed("truncate", &self.path))?;
        (self.hasher, self.len) = (mark.hasher, mark.len);
        Ok(())
    }

    /// As [`Partial::label`], before the server has said anything: what it said of the bytes that are here still holds.
    pub(super) fn label_for(&mut self, artifact: &Artifact, from: &Location) -> Result<(), StoreError> {
        let (url, place, sha256) = (from.to_string(), Some(place(from)), artifact.sha256);
        let known = self.sidecar.as_ref().filter(|sidecar| sidecar.place == place && sidecar.sha256 == sha256);
        let etag = known.filter(|_| self.len > 0).and_then(|sidecar| sidecar.etag.clone());
        self.label(Sidecar { url, place, etag, sha256 })
    }

    fn no_room(&self, err: io::Error, size: u64) -> StoreError {
        match err.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let path = self.path.parent().unwrap_or(&self.path).to_owned();
                let free = free_space(&path).unwrap_or_default();
                StoreError::NoSpace { path, need: size.saturating_sub(self.len), free }
            }
            _ => failed("write", &self.path)(err),
        }
    }

    /// The hash of the bytes so far, to go on with.
    pub(super) fn hasher(&self) -> Sha256 {
        self.hasher.clone()
    }

    /// What the bytes hash to.
    pub(super) fn digest(&self) -> Sha256Digest {
        Sha256Digest::from(self.hasher.clone())
    }

    /// Makes the bytes the artifact: sync, rename, sync of the directory. The lock is held until the value returned is
    /// dropped. No stamp when somebody wrote to the file meanwhile: then it is not proved what is in it.
    pub(super) fn commit(self, to: &Path, durable: bool) -> Result<(File, Option<Stamp>), StoreError> {
        let stamp = || self.file.metadata().map(|found| Stamp::of(&found)).map_err(failed("inspect", to));
        let before = stamp()?;
        files::place(&self.file, to, durable, || fs::rename(&self.path, to)).map_err(failed("commit", &self.path))?;
        remove_file(&self.sidecar_path)?;
        let after = stamp()?;
        let ours = before.size() == self.len && after.has_bytes_of(&before);
        Ok((self.file, ours.then_some(after)))
    }

    /// Removes it, with its sidecar.
    pub(super) fn discard(self) -> Result<(), StoreError> {
        remove_file(&self.sidecar_path)?;
        remove_file(&self.path)
    }

    /// Gives the lock back. What has been written stays, to be taken up later.
    pub(super) fn release(self) -> Result<(), StoreError> {
        match self.file.metadata() {
            Ok(metadata) if metadata.len() > 0 => Ok(()),
            _ => self.discard(),
        }
    }
}

/// Takes the lock of a partial if nobody holds it; `None` when somebody does.
pub(super) fn try_hold(layout: &Layout, path: &Path) -> Result<Option<File>, StoreError> {
    let Some(file) = layout.open(path)? else { return Ok(None) };
    let is_ours = files::lock(&file, Lock::Alone, Duration::ZERO).map_err(failed("lock", path))?;
    Ok((is_ours && still_names(path, &file)).then_some(file))
}

impl Cache {
    /// How many bytes of an artifact an earlier run left, as far as can be told without reading them.
    pub(super) fn unfinished(&self, artifact: &Artifact) -> u64 {
        let layout = &self.0.layout;
        let there = |key: &ArtifactKey| {
            read_sidecar(layout, &layout.sidecar(key)).filter(|sidecar| sidecar.sha256 == artifact.sha256)?;
            let there = layout.open(&layout.partial(key)).ok()??.metadata().ok()?.len();
            Some(there).filter(|there| *there <= artifact.size_bytes)
        };
        there(&artifact.key).or_else(|| there(&artifact.key_beside())).unwrap_or_default()
    }
}

fn read_sidecar(layout: &Layout, path: &Path) -> Option<Sidecar> {
    let file = layout.open(path).ok()??;
    let mut text = Vec::new();
    file.take(64 * 1024).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Hashes a reader to its end in constant memory, unless told to stop. Yields how many bytes there were.
pub(super) fn hash_into(hasher: &mut Sha256, from: &mut impl Read, stop: &AtomicBool) -> io::Result<u64> {
    let mut chunk = vec![0; HASH_CHUNK];
    let mut total = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("hashing was cancelled"));
        }
        match from.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                total += read as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Bytes that this user may still write on the file system of `path`.
pub(super) fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Runs blocking work on a thread of its own. When the future is dropped the work is told to stop.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> T {
    struct StopOnDrop(Arc<AtomicBool>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let guard = StopOnDrop(Arc::clone(&stop));
    let done = tokio::task::spawn_blocking(move || work(&stop)).await;
    drop(guard);
    match done {
        Ok(value) => value,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down; whoever waits here is dropped with it.
            Err(_) => std::future::pending().await,
        },
    }
}
