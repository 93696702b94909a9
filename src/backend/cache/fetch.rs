//! Brings one artifact in: proved where it is, else downloaded in as many attempts as it takes, else a typed error.
//!
//! Long because one download is told from its beginning to its end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tracing::{debug, info, warn};

use super::delta::Delta;
use super::index::Stamp;
use super::judge::{Judged, hash_on, judge, mismatch};
use super::manifest::place;
use super::partial::{Partial, Sidecar, blocking, free_space, hash_into};
use super::paths::failed;
use super::quarantine::found;
use super::retry::{Retry, Stop};
use super::{Cache, Progress, StoreError};
use crate::backend::Transferred;
use crate::backend::http::{Answer, Ask, Failure, Status};
use crate::model::{Artifact, ArtifactKey, Location, Sha256Digest};
use crate::mutex::guard;

/// Pieces that wait between the network and the disk. A piece has at most about 400 KiB.
const IN_FLIGHT: usize = 2;

/// An attempt that got so many bytes further was no failure: the count of retries starts anew.
const MOVED_ON: u64 = 1024 * 1024;

impl Cache {
    /// See [`crate::backend::Store::fetch`].
    pub(super) async fn fetch_locked(
        &self,
        artifact: &Artifact,
        from: &Location,
        progress: Arc<Progress>,
    ) -> Result<bool, StoreError> {
        progress.set_total(artifact.size_bytes);
        let _lock = self.lock_artifact(&artifact.key).await;
        let own = artifact;
        let Some((artifact, partial)) = self.make_room(artifact, from, &progress).await? else { return Ok(false) };
        let artifact = &artifact;
        let _slot = self.0.downloads.acquire().await;
        let partial = self.download(artifact, own, from, partial, &progress).await?;
        self.place(artifact, from, partial).await?;
        progress.set(artifact.size_bytes);
        // For the next one; this one is here.
        self.learn_list(own, from, &progress).await;
        let Transferred { received, reused } = progress.transferred();
        info!(artifact = %artifact.key, bytes = artifact.size_bytes, received, reused, "artifact fetched");
        Ok(true)
    }

    /// The artifact under the key that its file will have, and its partial, locked, with nothing in the file's place. `None` when it
    /// is there.
    pub(super) async fn make_room(
        &self,
        artifact: &Artifact,
        from: &Location,
        progress: &Arc<Progress>,
    ) -> Result<Option<(Artifact, Partial)>, StoreError> {
        let (artifact, partial) = loop {
            let placed = self.placed(artifact, from).await?;
            if self.is_there(&placed).await? {
                progress.set(artifact.size_bytes);
                return Ok(None);
            }
            let partial = Partial::lock(&self.0.layout, &placed.key, progress).await?;
            // Whoever held the lock before us may have put other bytes there.
            if self.placed(artifact, from).await? == placed {
                break (placed, partial);
            }
            partial.release()?;
        };
        // Whoever held the lock before us may have brought it.
        if self.is_there(&artifact).await? {
            progress.set(artifact.size_bytes);
            partial.release()?;
            return Ok(None);
        }
        self.quarantine_what_is_there(&artifact.key).await?;
        Ok(Some((artifact, partial)))
    }

    /// One fetch per artifact within this process. Between processes the partial's own lock does the same.
    pub(super) async fn lock_artifact(&self, key: &ArtifactKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = guard(&self.0.locks);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(key.clone()).or_default())
        };
        lock.lock_owned().await
    }

    /// The artifact under the key that its file has, or will have. That is its own, unless bytes lie there that another
    /// publisher has under the same key: where several state files share the cache, both have room.
    pub(super) async fn placed(&self, artifact: &Artifact, from: &Location) -> Result<Artifact, StoreError> {
        let (cache, artifact, place) = (self.clone(), artifact.clone(), place(from));
        blocking(move |stop| {
            let beside = Artifact { key: artifact.key_beside(), ..artifact.clone() };
            let own = cache.0.layout.artifact(&artifact.key);
            let Some(file) = cache.0.layout.open(&own)? else { return Ok(artifact) };
            let stamp = file.metadata().map(|found| Stamp::of(&found)).map_err(failed("inspect", &own))?;
            let origin = cache.0.index.read().place(&artifact.key, &stamp);
            let is_others = origin.is_some_and(|origin| origin != place) && cache.0.layout.is_shared();
            if cache.digest_of(&artifact.key, false, stop)? == Some(artifact.sha256) {
                return Ok(artifact);
            }
            let has_room = is_others || cache.digest_of(&beside.key, false, stop)? == Some(artifact.sha256);
            Ok(if has_room { beside } else { artifact })
        })
        .await
    }

    /// The key of the file that holds an artifact, as far as the index tells.
    pub(super) fn key_of(&self, artifact: &Artifact) -> ArtifactKey {
        let beside = artifact.key_beside();
        let holds = |key: &ArtifactKey| {
            let found = self.0.layout.artifact(key).symlink_metadata().ok()?;
            self.0.index.read().digest(key, &Stamp::of(&found)).filter(|digest| *digest == artifact.sha256)
        };
        if holds(&artifact.key).is_none() && holds(&beside).is_some() { beside } else { artifact.key.clone() }
    }

    pub(super) async fn is_there(&self, artifact: &Artifact) -> Result<bool, StoreError> {
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
        let stamp = || file.metadata().map(|found| Stamp::of(&found)).map_err(failed("inspect", &path));
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
        let digest = Sha256Digest::from(hasher);
        let after = file.metadata().map(|found| Stamp::of(&found)).map_err(failed("inspect", &path))?;
        if before == after {
            self.0.index.try_update(|index| index.put(key.clone(), after, digest, None));
        }
        Ok(Some(digest))
    }

    /// Moves a wrong file aside. Called under the partial's lock, after an observation that found it wrong under that lock.
    pub(super) async fn quarantine_what_is_there(&self, key: &ArtifactKey) -> Result<(), StoreError> {
        let (cache, key) = (self.clone(), key.clone());
        blocking(move |_| {
            let layout = &cache.0.layout;
            let path = layout.artifact(&key);
            if found(&path)?.is_some() { layout.move_aside(&path) } else { Ok(()) }
        })
        .await
    }

    /// `own` is the artifact as its publisher names it.
    async fn download(
        &self,
        artifact: &Artifact,
        own: &Artifact,
        from: &Location,
        partial: Partial,
        progress: &Arc<Progress>,
    ) -> Result<Partial, StoreError> {
        let mut partial = self.resume(artifact, partial).await?;
        progress.resume(partial.len);
        let mut from_before = partial.has_old_bytes;
        let mut may_resume = true;
        let mut retry = Retry::new(&self.0.options);
        let mut delta = self.delta_for(own, from, &mut partial, progress).await?;
        let mut had_parts = delta.is_some();
        loop {
            if let Some(parts) = delta.take() {
                (partial, delta) = self.copy_on(parts, partial, artifact, progress).await?;
            }
            if partial.len == artifact.size_bytes {
                let got = partial.digest();
                if got == artifact.sha256 {
                    return Ok(partial);
                }
                if !partial.has_old_bytes {
                    let partial_len = partial.len;
                    partial.discard()?;
                    return Err(mismatch(artifact, got, partial_len));
                }
                warn!(artifact = %artifact.key, "the assembled tarball has the wrong digest; starting over");
                partial.start_over()?;
                progress.reuse_nothing();
                // Where neither an earlier run's bytes nor another tarball's are to blame, the server is: then in one piece, so
                // that it is the last try.
                may_resume &= std::mem::take(&mut from_before) | had_parts;
                (delta, had_parts) = (None, false);
            }
            let began_with = partial.len;
            let (returned, end) = self.attempt(artifact, from, partial, may_resume, &mut delta, progress).await?;
            partial = returned;
            match end {
                Ok(()) => {}
                Err(Stop::For(err)) => {
                    match err {
                        StoreError::SizeMismatch { .. } | StoreError::DigestMismatch { .. } => partial.discard()?,
                        _ => partial.release()?,
                    }
                    return Err(err);
                }
                Err(Stop::FromTheStart) => {
                    info!(artifact = %artifact.key, "the server does not resume; starting over");
                    partial.start_over()?;
                    progress.reuse_nothing();
                    (delta, may_resume) = (None, false);
                }
                Err(Stop::Again(failure)) => {
                    if partial.len >= began_with + MOVED_ON {
                        retry.reset();
                    }
                    let Some(wait) = retry.wait(&failure) else {
                        partial.release()?;
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
    pub(super) async fn resume(&self, artifact: &Artifact, mut partial: Partial) -> Result<Partial, StoreError> {
        let (cache, artifact) = (self.clone(), artifact.clone());
        blocking(move |stop| {
            partial.resume(&artifact.sha256, artifact.size_bytes, stop)?;
            let path = cache.0.layout.artifact(&artifact.key);
            let directory = path.parent().unwrap_or(&path).to_owned();
            let need = artifact.size_bytes - partial.len;
            let free = free_space(&directory).map_err(failed("inspect", &directory))?;
            if need > free {
                partial.release()?;
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
    /// written. With `delta` it is for the range that comes next; a server that sends everything ends that.
    async fn attempt(
        &self,
        artifact: &Artifact,
        from: &Location,
        mut partial: Partial,
        may_resume: bool,
        delta: &mut Option<Delta>,
        progress: &Arc<Progress>,
    ) -> Result<(Partial, Result<(), Stop>), StoreError> {
        let place = Some(place(from));
        let known = partial.sidecar.clone().filter(|sidecar| sidecar.place == place);
        let upto = delta.as_ref().and_then(|delta| delta.fetched_upto(partial.len));
        let ask = Ask {
            from: if may_resume { partial.len } else { 0 },
            // What goes to the end is asked for like any other rest.
            upto: upto.filter(|upto| *upto < artifact.size_bytes),
            if_range: known.and_then(|sidecar| sidecar.etag),
            unless: None,
        };
        let answer = match self.0.client.get(from, &ask).await {
            Ok(answer) => answer,
            Err(failure) => return Ok((partial, Err(Stop::Again(failure)))),
        };
        // All that there is has come already.
        if answer.status == (Status::PastTheEnd { total: Some(partial.len) })
            && partial.len < artifact.size_bytes
            && !partial.has_old_bytes
        {
            let wrong = mismatch(artifact, partial.digest(), partial.len);
            return Ok((partial, Err(Stop::For(wrong))));
        }
        match judge(artifact, &ask, &answer) {
            Ok(Judged::Fits) => {}
            Ok(Judged::WrongLength) => {
                let hashed = hash_on(Sha256::new(), 0, artifact, answer).await;
                return Ok((partial, Err(hashed.map_or_else(Stop::Again, Stop::For))));
            }
            Err(stop) => return Ok((partial, Err(stop))),
        }
        let mut etag = answer.validators.etag.clone().filter(|etag| !etag.starts_with("W/"));
        if answer.status == Status::Whole {
            if partial.len > 0 {
                info!(artifact = %artifact.key, "the server sends everything; starting over");
                partial.start_over()?;
                progress.reuse_nothing();
            }
            *delta = None;
        } else if delta.is_some() {
            if ask.if_range.is_some() && etag.is_some() && ask.if_range != etag {
                debug!(artifact = %artifact.key, "the server has another version than before");
                return Ok((partial, Err(Stop::FromTheStart)));
            }
            // Who does not repeat it has agreed to it.
            etag = etag.or(ask.if_range);
        }
        // What comes now may be of another file than what is there, whatever its validators say.
        partial.has_old_bytes |= partial.len > 0;
        partial.label(Sidecar { url: from.to_string(), place, etag, sha256: artifact.sha256 })?;
        let end = ask.upto.filter(|_| answer.status != Status::Whole).unwrap_or(artifact.size_bytes);
        self.pump(artifact, partial, answer, end, progress).await
    }

    /// Moves the body into the partial, up to the byte `size`. The thread that hashes and writes keeps the file, and with it the lock, until
    /// it has written what it was given, even when this future is dropped.
    async fn pump(
        &self,
        artifact: &Artifact,
        partial: Partial,
        mut answer: Answer,
        size: u64,
        progress: &Arc<Progress>,
    ) -> Result<(Partial, Result<(), Stop>), StoreError> {
        let mut received = partial.len;
        let mut surplus = None;
        let (pieces, inbox) = mpsc::channel(IN_FLIGHT);
        let shown = Arc::clone(progress);
        let writer = tokio::task::spawn_blocking(move || partial.absorb(inbox, size, &shown));
        let end = loop {
            match answer.body.chunk().await {
                Ok(None) => break Ok(()),
                Ok(Some(piece)) => {
                    received += piece.len() as u64;
                    if received > size {
                        surplus = Some(piece);
                        break Ok(());
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
        if let Some(piece) = surplus {
            if partial.has_old_bytes || answer.status != Status::Whole {
                return Ok((partial, Err(Stop::FromTheStart)));
            }
            let mut hasher = partial.hasher();
            hasher.update(&piece);
            let hashed = hash_on(hasher, received, artifact, answer).await;
            return Ok((partial, Err(hashed.map_or_else(Stop::Again, Stop::For))));
        }
        if end.is_ok() && partial.len < size && answer.marks_its_end && answer.status == Status::Whole {
            let wrong = mismatch(artifact, partial.digest(), partial.len);
            return Ok((partial, Err(Stop::For(wrong))));
        }
        let end = end.and_then(|()| match partial.len == size {
            true => Ok(()),
            false => Err(Stop::Again(Failure::passing(format!("ended early, after {} of {size} bytes", partial.len)))),
        });
        Ok((partial, end))
    }

    /// Makes the download the artifact. The index learns of it before the lock is given back.
    pub(super) async fn place(&self, artifact: &Artifact, from: &Location, partial: Partial) -> Result<(), StoreError> {
        let (cache, artifact, place) = (self.clone(), artifact.clone(), place(from));
        blocking(move |_| {
            let to = cache.0.layout.artifact(&artifact.key);
            cache.0.layout.clear_for_file(&to)?;
            let (_lock, stamp) = partial.commit(&to, cache.0.options.durable)?;
            if let Some(stamp) = stamp {
                cache.0.index.try_update(|index| {
                    index.put(artifact.key.clone(), stamp, artifact.sha256, Some(place));
                    if let Some(layers) = &artifact.layers {
                        index.put_layers(&artifact.key, layers.sha256);
                    }
                });
            }
            Ok(())
        })
        .await
    }
}
