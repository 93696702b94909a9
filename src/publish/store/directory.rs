//! A directory that something else serves.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Condition, Head, Local, Object, ObjectKey, Put, Sent, StoreError, StoreErrorKind};
use crate::backend::Progress;
use crate::files::regular;
use crate::model::{Sha256Digest, hashing};
use crate::publish::place;

/// A directory, whose files' paths are their keys.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.0.join(key.as_str())
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> Result<Option<Head>, StoreError> {
        let path = self.path(key);
        blocking(move || {
            let Some(mut file) = open(&path)? else { return Ok(None) };
            let read = hashing::copy(&mut file, &mut io::sink(), |_| {});
            let (sha256, size_bytes) = read.map_err(|err| StoreError::io("read", &path, &err))?;
            Ok(Some(Head { size_bytes, sha256: Some(sha256) }))
        })
        .await
    }

    pub(super) async fn get(&self, key: &ObjectKey, limit: usize) -> Result<Option<Object>, StoreError> {
        let path = self.path(key);
        blocking(move || read(&path, limit)).await
    }

    pub(super) async fn put(&self, key: &ObjectKey, bytes: &[u8], when: Condition<'_>) -> Result<Put, StoreError> {
        let (path, bytes) = (self.path(key), bytes.to_owned());
        let wanted = match when {
            Condition::Always => None,
            Condition::Absent => Some(None),
            Condition::Unchanged(etag) => Some(Some(etag.to_owned())),
        };
        blocking(move || {
            let cannot = |err: io::Error| StoreError::io("write", &path, &err);
            let dir = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(dir).map_err(cannot)?;
            // Between the look and the write, nobody else who publishes writes here.
            let lock = File::open(dir).map_err(cannot)?;
            lock.lock().map_err(cannot)?;
            if let Some(wanted) = wanted {
                let now = read(&path, usize::MAX)?.map(|object| object.etag);
                if now != wanted {
                    return Ok(Put::Refused);
                }
            }
            place::write(&path, &bytes).map_err(cannot)?;
            Ok(Put::Done(etag(&bytes)))
        })
        .await
    }

    pub(super) async fn send(
        &self,
        key: &ObjectKey,
        file: &Local,
        progress: &Arc<Progress>,
    ) -> Result<Sent, StoreError> {
        let (to, from) = (self.path(key), file.path.clone());
        let (wanted, progress) = (file.sha256, Arc::clone(progress));
        blocking(move || {
            let mut file =
                open(&from)?.ok_or_else(|| StoreError::io("read", &from, &io::Error::from(io::ErrorKind::NotFound)))?;
            let cannot = |err: io::Error| StoreError::io("write", &to, &err);
            let replacement = place::begin(&to).map_err(cannot)?;
            let (sha256, _) =
                hashing::copy(&mut file, &mut replacement.file(), |length| progress.set(length)).map_err(cannot)?;
            if sha256 != wanted {
                let why = format!("its bytes hash to {sha256} now, and did to {wanted} before");
                return Err(StoreError::new(StoreErrorKind::Changed, format!("`{}` changed", from.display()), why));
            }
            replacement.place(true).map_err(cannot)?;
            Ok(Sent::Whole)
        })
        .await
    }

    pub(super) async fn fetch(
        &self,
        key: &ObjectKey,
        out: &Path,
        progress: &Arc<Progress>,
    ) -> Result<(Sha256Digest, u64), StoreError> {
        let (from, to, progress) = (self.path(key), out.to_owned(), Arc::clone(progress));
        blocking(move || {
            let mut file = open(&from)?.ok_or_else(|| {
                let what = format!("cannot read `{}`", from.display());
                StoreError::new(StoreErrorKind::NotFound, what, "there is no such file")
            })?;
            let cannot = |err: io::Error| StoreError::io("write", &to, &err);
            let replacement = place::begin(&to).map_err(cannot)?;
            progress.set_total(file.metadata().map_err(cannot)?.len());
            let copied =
                hashing::copy(&mut file, &mut replacement.file(), |length| progress.set(length)).map_err(cannot)?;
            replacement.place(true).map_err(cannot)?;
            Ok(copied)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|err| Err(StoreError::new(StoreErrorKind::Other, "cannot use the directory", err.to_string())))
}

/// `None` where there is none.
fn open(path: &Path) -> Result<Option<File>, StoreError> {
    match regular::open(path).map_err(io::Error::from) {
        Ok(file) => Ok(Some(file)),
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(err) => Err(StoreError::io("read", path, &err)),
    }
}

fn read(path: &Path, limit: usize) -> Result<Option<Object>, StoreError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let read = regular::bounded(file, limit as u64).map_err(|err| StoreError::io("read", path, &err))?;
    let Some(bytes) = read else {
        let what = format!("cannot read `{}`", path.display());
        let why = format!("it is larger than {}", crate::sizes::limit(limit));
        return Err(StoreError::new(StoreErrorKind::Other, what, why));
    };
    let etag = etag(&bytes);
    Ok(Some(Object { bytes, etag }))
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", Sha256Digest::of(bytes))
}
