//! A long file in parts, side by side, of which those that arrived are not sent again.
//!
//! What arrived is noted beside the file (`FILE.….upload`, a line for each part), for the next try after a kill. The file is hashed
//! as it is read, and the object comes to be only when the bytes are those that were wanted.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{MultipartId, PutMultipartOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::s3::{S3, attributes};
use super::{About, Condition, Local, ObjectKey, PART, Sent, StoreError, StoreErrorKind};
use crate::backend::Progress;
use crate::files::{self, Lock, regular};
use crate::model::Sha256Digest;
use crate::mutex::guard;

/// S3 knows no more parts of one object.
const MOST_PARTS: u64 = 10_000;
/// Parts of files that need larger ones are multiples of this.
const MEBIBYTE: u64 = 1024 * 1024;

impl S3 {
    /// See [`super::Store::send`].
    pub(super) async fn send(
        &self,
        key: &ObjectKey,
        file: &Local,
        about: About<'_>,
        parts: &Arc<Semaphore>,
        progress: &Arc<Progress>,
    ) -> Result<Sent, StoreError> {
        if file.size_bytes <= PART {
            let _place = parts.acquire().await;
            let mut source = Source::open(file)?;
            let bytes = source.next(file.size_bytes).await?;
            source.finish(file)?;
            progress.set(file.size_bytes);
            self.put(key, bytes, about, Condition::Always).await?;
            return Ok(Sent::Whole);
        }
        match self.send_parts(key, file, about, parts, progress).await {
            // What was begun before is gone, in full or in part: it begins anew, once.
            Err(err) if err.kind == StoreErrorKind::NoUpload => {
                tracing::debug!(%key, error = %err, "an upload that was begun is not known any more");
                let _ = std::fs::remove_file(Record::path_of(&file.path, &self.record_head(&self.path(key)?, file).to));
                self.send_parts(key, file, about, parts, progress).await
            }
            sent => sent,
        }
    }

    /// What arrived needs no record any more.
    pub(super) fn forget(&self, key: &ObjectKey, file: &Local) -> Result<(), StoreError> {
        if let Some(record) = Record::open(&file.path, &self.record_head(&self.path(key)?, file)) {
            record.remove();
        }
        Ok(())
    }

    fn record_head(&self, path: &ObjectPath, file: &Local) -> RecordHead {
        RecordHead {
            to: format!("{}/{path}", self.at),
            sha256: file.sha256,
            part_bytes: part_bytes(file.size_bytes),
            identity: Identity::of(&file.path),
            upload: String::new(),
        }
    }

    async fn send_parts(
        &self,
        key: &ObjectKey,
        file: &Local,
        about: About<'_>,
        slots: &Arc<Semaphore>,
        progress: &Arc<Progress>,
    ) -> Result<Sent, StoreError> {
        let path = self.path(key)?;
        let cannot = |err: &object_store::Error| self.failed("write", &path, err);
        let mut source = Source::open(file)?;
        let head = self.record_head(&path, file);
        let record = match Record::open(&file.path, &head) {
            Some(record) => record,
            None => {
                if let Some(stale) = Record::stale(&file.path, &head) {
                    // Its parts would lie there, and be paid for, until somebody removes them.
                    let _ = self.store.abort_multipart(&path, &stale).await;
                }
                let options = PutMultipartOptions { attributes: attributes(about, &file.sha256), ..Default::default() };
                let upload = self.store.create_multipart_opts(&path, options).await.map_err(|err| cannot(&err))?;
                Record::begin(&file.path, RecordHead { upload, ..head })
            }
        };
        let was_begun = !record.arrived().is_empty();
        let upload: &MultipartId = &record.head.upload;
        let sent = self.send_missing(&path, file, &mut source, &record, slots, progress).await;
        if let Err(err) = sent {
            // What the next try cannot know of is not left there.
            if record.file.is_none() || err.kind == StoreErrorKind::Changed {
                record.remove();
                let _ = self.store.abort_multipart(&path, upload).await;
            }
            return Err(err);
        }
        let arrived = record.arrived().into_values().map(|content_id| PartId { content_id }).collect();
        if let Err(err) = self.store.complete_multipart(&path, upload, arrived).await {
            // It may have been done, and only the answer was lost.
            if !self.head(key).await?.is_some_and(|head| head.is(file)) {
                return Err(cannot(&err));
            }
        }
        record.remove();
        Ok(if was_begun { Sent::Resumed } else { Sent::Whole })
    }

    async fn send_missing(
        &self,
        path: &ObjectPath,
        file: &Local,
        source: &mut Source,
        record: &Record,
        slots: &Arc<Semaphore>,
        progress: &Arc<Progress>,
    ) -> Result<(), StoreError> {
        let before = record.arrived();
        let part_bytes = record.head.part_bytes;
        let length = |at: u64| part_bytes.min(file.size_bytes - at * part_bytes);
        progress.resume(before.keys().map(|at| length(*at)).sum());
        let done = |sent: Result<Part, JoinError>| {
            let what = |at: u64| self.cannot(&format!("write part {} of", at + 1), path);
            let (at, size, part) =
                sent.map_err(|err| StoreError::new(StoreErrorKind::Other, what(0), err.to_string()))?;
            let part = part.map_err(|err| StoreError::from_server(what(at), &err, &self.at))?;
            record.add(at, part.content_id);
            progress.add(size);
            Ok::<_, StoreError>(())
        };
        // Each is a task: while one part is signed, the next is read and hashed.
        let mut under_way = JoinSet::new();
        let sent = async {
            for at in 0..file.size_bytes.div_ceil(part_bytes) {
                // A slot is acquired before the part is in memory.
                let slot = Arc::clone(slots).acquire_owned().await;
                while let Some(sent) = under_way.try_join_next() {
                    done(sent)?;
                }
                let bytes = source.next(length(at)).await?;
                if before.contains_key(&at) {
                    source.spare.put(bytes);
                    continue;
                }
                let (store, path, upload) = (self.store.clone(), path.clone(), record.head.upload.clone());
                let spare = source.spare.clone();
                under_way.spawn(async move {
                    let _slot = slot;
                    let (index, size) = (usize::try_from(at).unwrap_or(usize::MAX), bytes.len() as u64);
                    let part = store.put_part(&path, &upload, index, bytes.clone().into()).await;
                    spare.put(bytes);
                    (at, size, part)
                });
            }
            source.finish(file)
        };
        let mut sent = sent.await;
        // What is on its way arrives, whatever became of the rest: it is not sent again next time.
        while let Some(one) = under_way.join_next().await {
            sent = sent.and(done(one));
        }
        sent
    }
}

/// What became of a part: which, its length, and what the store says.
type Part = (u64, u64, object_store::Result<PartId>);

/// The memory of parts that were sent, for those that come: what is freed by one thread and had by another piles up.
#[derive(Clone, Default)]
struct BufferPool(Arc<Mutex<Vec<BytesMut>>>);

impl BufferPool {
    fn put(&self, bytes: Bytes) {
        // Whoever still holds it frees it.
        if let Ok(bytes) = bytes.try_into_mut() {
            guard(&self.0).push(bytes);
        }
    }

    fn take(&self) -> BytesMut {
        guard(&self.0).pop().unwrap_or_default()
    }
}

/// All parts of a file are equally long (R2 wants that), and not too many.
fn part_bytes(size: u64) -> u64 {
    PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(MEBIBYTE))
}

/// A file as it is read and hashed, once, from its beginning to its end.
struct Source {
    path: PathBuf,
    reader: Option<(File, Sha256)>,
    hashed: Option<Sha256Digest>,
    spare: BufferPool,
}

impl Source {
    fn open(file: &Local) -> Result<Self, StoreError> {
        let opened = regular::open(&file.path).map_err(|err| StoreError::io("read", &file.path, &err.into()))?;
        Ok(Self {
            path: file.path.clone(),
            reader: Some((opened, Sha256::new())),
            hashed: None,
            spare: BufferPool::default(),
        })
    }

    async fn next(&mut self, length: u64) -> Result<Bytes, StoreError> {
        let gone = || StoreError::io("read", &self.path, &io::Error::other("it was given up"));
        let (mut file, mut hasher) = self.reader.take().ok_or_else(gone)?;
        let mut bytes = self.spare.take();
        let reading = tokio::task::spawn_blocking(move || {
            bytes.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            file.read_exact(&mut bytes)?;
            hasher.update(&bytes);
            Ok((file, hasher, bytes))
        });
        let read = reading.await.map_err(io::Error::other).flatten();
        let (file, hasher, bytes) = read.map_err(|err: io::Error| match err.kind() {
            io::ErrorKind::UnexpectedEof => {
                let what = format!("`{}` changed", self.path.display());
                StoreError::new(StoreErrorKind::Changed, what, "it is shorter than it was")
            }
            _ => StoreError::io("read", &self.path, &err),
        })?;
        self.reader = Some((file, hasher));
        Ok(bytes.freeze())
    }

    /// Nothing else is what was wanted.
    fn finish(&mut self, file: &Local) -> Result<(), StoreError> {
        let hashed = self.reader.take().map(|(_, hasher)| Sha256Digest::from(hasher));
        self.hashed = hashed.or(self.hashed);
        match self.hashed {
            Some(found) if found != file.sha256 => {
                let why = format!("its bytes hash to {found} now, and did to {} before", file.sha256);
                Err(StoreError::new(StoreErrorKind::Changed, format!("`{}` changed", self.path.display()), why))
            }
            _ => Ok(()),
        }
    }
}

/// What an upload is of. The first line of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordHead {
    to: String,
    sha256: Sha256Digest,
    part_bytes: u64,
    identity: Option<Identity>,
    upload: MultipartId,
}

/// Tells a file from the same file after somebody has written into it: parts of other bytes may have arrived meanwhile, which were
/// not yet known to be others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    inode: u64,
    changed: i64,
    nanos: i64,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self { inode: found.ino(), changed: found.ctime(), nanos: found.ctime_nsec() })
    }
}

/// A part that arrived. A line of its record.
#[derive(Debug, Serialize, Deserialize)]
struct Arrived {
    part: u64,
    etag: String,
}

/// What arrived of a file. Another process that sends the same file does without: one upload has one sender.
#[derive(Debug)]
struct Record {
    path: PathBuf,
    head: RecordHead,
    file: Option<File>,
    arrived: Mutex<BTreeMap<u64, String>>,
}

impl Record {
    /// Each place that a file is sent to has a record of its own.
    fn path_of(file: &Path, to: &str) -> PathBuf {
        let of = Sha256Digest::of(to).to_string();
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}.upload", &of[..8]));
        name.into()
    }

    /// What was begun before, of the same bytes to the same place.
    fn open(of: &Path, wanted: &RecordHead) -> Option<Self> {
        let path = Self::path_of(of, &wanted.to);
        let mut file = files::open(&path, OpenOptions::new().read(true).append(true)).ok()?;
        files::lock(&file, Lock::Alone, Duration::ZERO).ok().filter(|taken| *taken)?;
        let mut lines = BufReader::new(Read::by_ref(&mut file)).lines().map_while(Result::ok);
        let head: RecordHead = serde_json::from_str(&lines.next()?).ok()?;
        if (RecordHead { upload: String::new(), ..head.clone() }) != *wanted || head.upload.is_empty() {
            return None;
        }
        // A line that was torn by a kill tells of nothing.
        let arrived = lines.filter_map(|line| serde_json::from_str::<Arrived>(&line).ok());
        let arrived = Mutex::new(arrived.map(|Arrived { part, etag }| (part, etag)).collect());
        // Nor does it spoil the next.
        let _ = file.write_all(b"\n");
        Some(Self { path, head, file: Some(file), arrived })
    }

    /// The upload to the same place that was begun of other bytes, and that nobody is at.
    fn stale(of: &Path, wanted: &RecordHead) -> Option<MultipartId> {
        let mut file = files::open(&Self::path_of(of, &wanted.to), OpenOptions::new().read(true)).ok()?;
        files::lock(&file, Lock::Alone, Duration::ZERO).ok().filter(|taken| *taken)?;
        let mut lines = BufReader::new(Read::by_ref(&mut file)).lines().map_while(Result::ok);
        let head: RecordHead = serde_json::from_str(&lines.next()?).ok()?;
        (head.to == wanted.to && !head.upload.is_empty()).then_some(head.upload)
    }

    /// Begins one. Where none can be kept, the upload goes on without.
    fn begin(of: &Path, head: RecordHead) -> Self {
        let path = Self::path_of(of, &head.to);
        let make = || {
            let mut file = files::open_or_create(&path)?;
            if !files::lock(&file, Lock::Alone, Duration::ZERO)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            file.set_len(0)?;
            writeln!(file, "{}", serde_json::to_string(&head)?)?;
            Ok(file)
        };
        let file = make().map_err(|err: io::Error| {
            tracing::warn!(path = %path.display(), error = %err, "what arrives cannot be noted: broken off, it begins anew");
        });
        Self { path, head, file: file.ok(), arrived: Mutex::default() }
    }

    fn arrived(&self) -> BTreeMap<u64, String> {
        guard(&self.arrived).clone()
    }

    fn add(&self, part: u64, etag: String) {
        if let Some(mut file) = self.file.as_ref() {
            let line = serde_json::to_string(&Arrived { part, etag: etag.clone() }).unwrap_or_default();
            // Without the line, the part is sent again.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
        guard(&self.arrived).insert(part, etag);
    }

    fn remove(&self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
