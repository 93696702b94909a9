//! Brings one artifact in: proved where it is, else downloaded in as many attempts as it takes, else a typed error.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tracing::{debug, info, warn};

use super::index::Stamp;
use super::manifest::place;
use super::partial::{Partial, Sidecar, blocking, free_space, hash_into};
use super::paths::failed;
use super::{Cache, CacheOptions, Progress, StoreError};
use crate::backend::http::{Answer, Ask, Failure, Status};
use crate::model::{Artifact, ArtifactKey, Location, Sha256Digest};

/// Pieces that wait between the network and the disk. A piece has at most about 400 KiB.
const IN_FLIGHT: usize = 2;

/// An attempt that got so many bytes further was no failure: the count of retries starts anew.
const MOVED_ON: u64 = 1024 * 1024;

/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A server that asks for more patience than this is not waited for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// How many corrupt files are kept for whoever wants to look at them.
const MAX_QUARANTINED: usize = 4;

/// When to try again.
#[derive(Debug)]
pub(super) struct Retry {
    left: u32,
    done: u32,
    limit: u32,
    backoff: Duration,
}

impl Retry {
    pub(super) fn new(options: &CacheOptions) -> Self {
        Self { left: options.retries, done: 0, limit: options.retries, backoff: options.backoff }
    }

    /// How often was tried again.
    pub(super) fn count(&self) -> u32 {
        self.done
    }

    /// Starts counting anew.
    fn reset(&mut self) {
        (self.left, self.done) = (self.limit, 0);
    }

    /// How long to wait before trying again; `None` to give up.
    pub(super) fn wait(&mut self, failure: &Failure) -> Option<Duration> {
        if !failure.retryable || failure.retry_after.is_some_and(|wish| wish > MAX_RETRY_AFTER) {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let full = self.backoff.saturating_mul(1 << self.done.min(16)).min(MAX_BACKOFF);
        self.done += 1;
        // Between half and all of it, so that many clients of one broken server do not come back together.
        let jittered = full.mul_f64(0.5 + fastrand::f64() / 2.0);
        Some(jittered.max(failure.retry_after.unwrap_or_default()))
    }
}

/// How an attempt ended that did not bring everything.
enum Stop {
    /// For good.
    For(StoreError),
    /// Try again, perhaps.
    Again(Failure),
    /// The server does not resume as it should: ask for everything, from the first byte.
    FromTheStart,
}

impl From<StoreError> for Stop {
    fn from(err: StoreError) -> Self {
        Stop::For(err)
    }
}

impl Cache {
    /// See [`crate::backend::Store::fetch`].
    pub(super) async fn bring(
        &self,
        artifact: &Artifact,
        from: &Location,
        progress: Arc<Progress>,
    ) -> Result<bool, StoreError> {
        progress.set_total(artifact.size_bytes);
        let _flight = self.take_off(&artifact.key).await;
        if self.is_there(artifact).await? {
            progress.set(artifact.size_bytes);
            return Ok(false);
        }
        let partial = Partial::lock(&self.0.layout, &artifact.key, &progress).await?;
        // Whoever held the lock before us may have brought it.
        if self.is_there(artifact).await? {
            progress.set(artifact.size_bytes);
            partial.put_down()?;
            return Ok(false);
        }
        self.quarantine_what_is_there(&artifact.key).await?;
        let _slot = self.0.downloads.acquire().await;
        let partial = self.download(artifact, from, partial, &progress).await?;
        self.land(artifact, partial).await?;
        progress.set(artifact.size_bytes);
        info!(artifact = %artifact.key, bytes = artifact.size_bytes, "artifact fetched");
        Ok(true)
    }

    /// One flight per artifact within this process. Between processes the partial's own lock does the same.
    async fn take_off(&self, key: &ArtifactKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(flights.entry(key.clone()).or_default())
        };
        lock.lock_owned().await
    }

    async fn is_there(&self, artifact: &Artifact) -> Result<bool, StoreError> {
        let (cache, key) = (self.clone(), artifact.key.clone());
        Ok(blocking(move |stop| cache.digest_of(&key, false, stop)).await? == Some(artifact.sha256))
    }

    /// What the file hashes to: by the index where it proves that, else (or when `afresh`) by reading it. `None` when
    /// there is no file.
    pub(super) fn digest_of(
        &self,
        key: &ArtifactKey,
        afresh: bool,
        stop: &AtomicBool,
    ) -> Result<Option<Sha256Digest>, StoreError> {
        let path = self.0.layout.artifact(key);
        let Some(mut file) = self.0.layout.open(&path)? else { return Ok(None) };
        let stamp = || file.metadata().map(|found| Stamp::of(&found)).map_err(failed("look at", &path));
        let mut before = stamp()?;
        if !afresh && let Some(digest) = self.0.index.read().digest(key, &before) {
            return Ok(Some(digest));
        }
        if let Some(wait) = before.unsettled_for(SystemTime::now()) {
            std::thread::sleep(wait);
            before = stamp()?;
        }
        debug!(artifact = %key, "hashing a file that the index does not prove");
        let mut hasher = Sha256::new();
        hash_into(&mut hasher, &mut file, stop).map_err(failed("read", &path))?;
        let digest = Sha256Digest::from_bytes(hasher.finalize().into());
        let after = file.metadata().map(|found| Stamp::of(&found)).map_err(failed("look at", &path))?;
        if before == after {
            self.0.index.try_update(|index| index.put(key.clone(), after, digest));
        }
        Ok(Some(digest))
    }

    /// Moves a wrong file aside. Called under the partial's lock, after a look that found it wrong under that lock.
    async fn quarantine_what_is_there(&self, key: &ArtifactKey) -> Result<(), StoreError> {
        let (cache, key) = (self.clone(), key.clone());
        blocking(move |_| {
            let path = cache.0.layout.artifact(&key);
            if !path.try_exists().map_err(failed("look at", &path))? {
                return Ok(());
            }
            let to = cache.0.layout.quarantine().join(format!("{}.{:016x}", key.file_name(), fastrand::u64(..)));
            cache.0.layout.make_room_for(&to)?;
            fs::rename(&path, &to).map_err(failed("move aside", &path))?;
            warn!(artifact = %key, moved_to = %to.display(), "the file is not the published artifact; moved aside");
            cache.trim_quarantine(MAX_QUARANTINED);
            Ok(())
        })
        .await
    }

    async fn download(
        &self,
        artifact: &Artifact,
        from: &Location,
        partial: Partial,
        progress: &Arc<Progress>,
    ) -> Result<Partial, StoreError> {
        let mut partial = self.take_up(artifact, partial).await?;
        progress.set(partial.len);
        let mut may_resume = true;
        let mut retry = Retry::new(&self.0.options);
        loop {
            if partial.len == artifact.size_bytes {
                let got = partial.digest();
                if got == artifact.sha256 {
                    return Ok(partial);
                }
                if !partial.has_old_bytes {
                    partial.discard()?;
                    let what = artifact.key.to_string();
                    return Err(StoreError::DigestMismatch { what, expected: artifact.sha256, got });
                }
                warn!(artifact = %artifact.key, "the resumed download has the wrong digest; starting over");
                partial.start_over()?;
            }
            let began_with = partial.len;
            let (held, end) = self.attempt(artifact, from, partial, may_resume, progress).await?;
            partial = held;
            match end {
                Ok(()) => {}
                Err(Stop::For(err)) => {
                    match err {
                        StoreError::SizeMismatch { .. } => partial.discard()?,
                        _ => partial.put_down()?,
                    }
                    return Err(err);
                }
                Err(Stop::FromTheStart) => {
                    info!(artifact = %artifact.key, "the server does not resume; starting over");
                    partial.start_over()?;
                    may_resume = false;
                }
                Err(Stop::Again(failure)) => {
                    if partial.len >= began_with + MOVED_ON {
                        retry.reset();
                    }
                    let Some(wait) = retry.wait(&failure) else {
                        partial.put_down()?;
                        let Failure { cause, retryable, .. } = failure;
                        return Err(StoreError::Download { at: from.to_string(), cause, retryable });
                    };
                    warn!(cause = %failure.cause, at = %from, have = partial.len, "download broke off; trying again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Takes up what an earlier run left, and makes sure that there is room for the rest.
    async fn take_up(&self, artifact: &Artifact, mut partial: Partial) -> Result<Partial, StoreError> {
        let (cache, artifact) = (self.clone(), artifact.clone());
        blocking(move |stop| {
            partial.take_up(&artifact.sha256, artifact.size_bytes, stop)?;
            let path = cache.0.layout.artifact(&artifact.key);
            let directory = path.parent().unwrap_or(&path).to_owned();
            let need = artifact.size_bytes - partial.len;
            let free = free_space(&directory).map_err(failed("look at", &directory))?;
            if need > free {
                partial.put_down()?;
                return Err(StoreError::NoSpace { path: directory, need, free });
            }
            if partial.len > 0 {
                info!(artifact = %artifact.key, have = partial.len, of = artifact.size_bytes, "resuming a download");
            }
            Ok(partial)
        })
        .await
    }

    /// One request. Whatever comes of it, the partial comes back with the bytes that arrived, unless they could not be
    /// written.
    async fn attempt(
        &self,
        artifact: &Artifact,
        from: &Location,
        mut partial: Partial,
        may_resume: bool,
        progress: &Arc<Progress>,
    ) -> Result<(Partial, Result<(), Stop>), StoreError> {
        let place = Some(place(from));
        let known = partial.sidecar.clone().filter(|sidecar| sidecar.place == place);
        let ask = Ask {
            from: if may_resume { partial.len } else { 0 },
            if_range: known.and_then(|sidecar| sidecar.etag),
            unless: None,
        };
        let answer = match self.0.client.get(from, &ask).await {
            Ok(answer) => answer,
            Err(failure) => return Ok((partial, Err(Stop::Again(failure)))),
        };
        if let Err(stop) = judge(artifact, &ask, &answer) {
            return Ok((partial, Err(stop)));
        }
        if answer.status == Status::Whole && partial.len > 0 {
            debug!(artifact = %artifact.key, "the server sends everything; starting over");
            partial.start_over()?;
        }
        let etag = answer.validators.etag.clone().filter(|etag| !etag.starts_with("W/"));
        partial.label(Sidecar { url: from.to_string(), place, etag, sha256: artifact.sha256 })?;
        self.pump(artifact, partial, answer, progress).await
    }

    /// Moves the body into the partial. The thread that hashes and writes keeps the file, and with it the lock, until
    /// it has written what it was given, even when this future is dropped.
    async fn pump(
        &self,
        artifact: &Artifact,
        partial: Partial,
        mut answer: Answer,
        progress: &Arc<Progress>,
    ) -> Result<(Partial, Result<(), Stop>), StoreError> {
        let size = artifact.size_bytes;
        let mut received = partial.len;
        let (pieces, inbox) = mpsc::channel(IN_FLIGHT);
        let shown = Arc::clone(progress);
        let writer = tokio::task::spawn_blocking(move || partial.absorb(inbox, size, &shown));
        let end = loop {
            match answer.body.chunk().await {
                Ok(None) => break Ok(()),
                Ok(Some(piece)) => {
                    received += piece.len() as u64;
                    if received > size {
                        let what = artifact.key.to_string();
                        break Err(Stop::For(StoreError::SizeMismatch { what, expected: size, got: None }));
                    }
                    if pieces.send(piece).await.is_err() {
                        break Ok(()); // the writer has failed, and says so below
                    }
                }
                Err(failure) => break Err(Stop::Again(failure)),
            }
        };
        drop(pieces);
        let partial = match writer.await {
            Ok(written) => written?,
            Err(err) => match err.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        };
        let end = end.and_then(|()| match partial.len == size {
            true => Ok(()),
            false => Err(Stop::Again(Failure::passing(format!("ended early, after {} of {size} bytes", partial.len)))),
        });
        Ok((partial, end))
    }

    /// Makes the download the artifact. The index learns of it before the lock is given back.
    async fn land(&self, artifact: &Artifact, partial: Partial) -> Result<(), StoreError> {
        let (cache, artifact) = (self.clone(), artifact.clone());
        blocking(move |_| {
            let to = cache.0.layout.artifact(&artifact.key);
            cache.0.layout.guard(&to)?;
            let (_lock, stamp) = partial.commit(&to, cache.0.options.durable)?;
            if let Some(stamp) = stamp {
                cache.0.index.try_update(|index| index.put(artifact.key, stamp, artifact.sha256));
            }
            Ok(())
        })
        .await
    }
}

/// Whether the answer's head fits what was asked and what the manifest promised.
fn judge(artifact: &Artifact, ask: &Ask, answer: &Answer) -> Result<(), Stop> {
    let expected = artifact.size_bytes;
    let wrong_size =
        |got| Stop::For(StoreError::SizeMismatch { what: artifact.key.to_string(), expected, got: Some(got) });
    match answer.status {
        Status::Whole => match answer.length {
            Some(got) if got != expected => Err(wrong_size(got)),
            _ => Ok(()),
        },
        Status::NotModified => Err(Stop::Again(Failure::permanent("304"))),
        Status::Part { .. } if ask.from == 0 => Err(Stop::Again(Failure::permanent("206"))),
        Status::PastTheEnd { .. } if ask.from == 0 => Err(Stop::Again(Failure::permanent("416"))),
        Status::Part { total: Some(got), .. } | Status::PastTheEnd { total: Some(got) } if got != expected => {
            Err(wrong_size(got))
        }
        Status::Part { start, .. } => {
            let fits = start == Some(ask.from) && answer.length.is_none_or(|length| length == expected - ask.from);
            if fits { Ok(()) } else { Err(Stop::FromTheStart) }
        }
        Status::PastTheEnd { .. } => Err(Stop::FromTheStart),
    }
}
