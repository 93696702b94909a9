//! A directory that something else serves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Condition, Head, Local, Object, ObjectKey, Put, Sent, StoreError, StoreErrorKind};
use crate::backend::Progress;
use crate::files::{Replacement, regular};
use crate::model::Sha256Digest;
use crate::publish::place;

/// How much is copied at a time.
const PIECE: usize = 1024 * 1024;

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
            let read = copy(&mut file, &mut io::sink(), None);
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
            if let Some(dir) = to.parent() {
                std::fs::create_dir_all(dir).map_err(cannot)?;
            }
            let replacement = Replacement::begin(&to, place::MODE).map_err(cannot)?;
            let (sha256, _) = copy(&mut file, &mut replacement.file(), Some(&progress)).map_err(cannot)?;
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
            if let Some(dir) = to.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                std::fs::create_dir_all(dir).map_err(cannot)?;
            }
            let replacement = Replacement::begin(&to, place::MODE).map_err(cannot)?;
            progress.set_total(file.metadata().map_err(cannot)?.len());
            let copied = copy(&mut file, &mut replacement.file(), Some(&progress)).map_err(cannot)?;
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
    let mut bytes = Vec::new();
    let cannot = |err: io::Error| StoreError::io("read", path, &err);
    file.take((limit as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > limit {
        let what = format!("cannot read `{}`", path.display());
        return Err(StoreError::new(StoreErrorKind::Other, what, format!("it is larger than {limit} bytes")));
    }
    let etag = etag(&bytes);
    Ok(Some(Object { bytes, etag }))
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", Sha256Digest::from_bytes(Sha256::digest(bytes).into()))
}

/// Copies and hashes in one pass.
pub(super) fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    progress: Option<&Progress>,
) -> io::Result<(Sha256Digest, u64)> {
    let (mut piece, mut hasher, mut length) = (vec![0; PIECE], Sha256::new(), 0);
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok((Sha256Digest::from_bytes(hasher.finalize().into()), length)),
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        };
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        length += read as u64;
        if let Some(progress) = progress {
            progress.set(length);
        }
    }
}
