//! The lock of a state file: held by whoever changes things, so that two never do at once.
//!
//! A kernel lock (`flock`): it ends with its holder, however that one ends. What the holder writes into the file is for
//! people only.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::control::StateFiles;
use crate::files;

/// A lock that is held. It is released when this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// What stands in it; `None` where nothing can be written.
    holder: Option<Holder>,
}

impl Lock {
    /// Makes the lock anew where its file was removed or replaced meanwhile, so that whoever comes finds it held. Yields
    /// whether that was so.
    ///
    /// # Errors
    /// When somebody else got a lock there first, or the file system refuses.
    pub fn put_back(&mut self) -> Result<bool, LockError> {
        let Some(holder) = self.holder.as_ref().filter(|_| !files::still_names(&self.path, &self.file)) else {
            return Ok(false);
        };
        let mut file = open_or_make(&self.path).map_err(|err| LockError::Io { path: self.path.clone(), err })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(LockError::Held { path: self.path.clone(), holder: read_holder(&mut file) });
            }
            Err(std::fs::TryLockError::Error(err)) => return Err(LockError::Io { path: self.path.clone(), err }),
        }
        write_holder(&mut file, holder);
        self.file = file;
        Ok(true)
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// What it does, e.g. `apply`.
    pub command: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// Absolute path of the state file it works for, as [`crate::control::path_text`] tells it. Absent in the lock files
    /// of older versions, and for a file that came through a pipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Those of the files that are merged upon it, in order.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub layers: Box<[String]>,
}

impl Holder {
    /// Whether it works for these state files, where that is told.
    pub fn works_for(&self, files: &StateFiles) -> Option<bool> {
        self.file.as_deref().map(|file| files.are(file, &self.layers))
    }

    /// Whether it keeps the lock for good, so that waiting for it is in vain.
    pub fn is_run(&self) -> bool {
        self.command == RUN
    }
}

/// What `run` calls itself in the lock file.
pub const RUN: &str = "run";

/// Who wants a lock, and for which state file.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// What it does, e.g. `apply`.
    pub command: &'a str,
    /// The state files; `None` when one came through a pipe.
    pub files: Option<&'a StateFiles>,
}

impl<'a> From<&'a str> for Claim<'a> {
    /// A claim that names no file.
    fn from(command: &'a str) -> Self {
        Self { command, files: None }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`steadfast {}` (pid {}, since {})", self.command, self.pid, self.since)
    }
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("the lock `{}` is held by {}", path.display(), match holder { Some(holder) => holder.to_string(), None => "another process".to_owned() })]
    Held {
        /// The lock file.
        path: PathBuf,
        /// By whom, where that can be read.
        holder: Option<Holder>,
    },
    /// The file system refused.
    #[error("failed to lock `{}`", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        err: std::io::Error,
    },
}

const POLL: Duration = Duration::from_millis(50);
const SAY_AFTER: Duration = Duration::from_secs(1);

/// Takes the lock at `path`, waiting for as long as `patience`; `held` hears once of who holds it, after a second. For
/// `run` nobody waits: it does not release it by itself.
///
/// # Errors
/// When somebody else holds it all the time, or the file system refuses.
pub async fn take<'a>(
    path: &Path,
    claim: impl Into<Claim<'a>>,
    patience: Duration,
    on_wait: impl Fn(&LockError),
) -> Result<Lock, LockError> {
    let io = |err| LockError::Io { path: path.to_owned(), err };
    let claim = claim.into();
    let mut file = open_or_make(path).map_err(io)?;
    let began = Instant::now();
    let mut said = false;
    let (mut tried, mut last_holder) = (false, None);
    loop {
        match file.try_lock() {
            Ok(()) if files::still_names(path, &file) => break,
            // Of a file that was removed meanwhile: others lock the one that is there now.
            Ok(()) => {
                file = open_or_make(path).map_err(io)?;
                continue;
            }
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(err)) => return Err(io(err)),
        }
        let left = patience.saturating_sub(began.elapsed());
        let holder = read_holder(&mut file);
        // Twice the same: one that has just got the lock may not have written yet who it is.
        let is_run = holder.as_ref().is_some_and(Holder::is_run) && holder == last_holder;
        // Never at the first try: who only observes holds it for a moment, see `check`.
        if tried && (is_run || left.is_zero()) {
            return Err(LockError::Held { path: path.to_owned(), holder });
        }
        if !said && began.elapsed() >= SAY_AFTER {
            on_wait(&LockError::Held { path: path.to_owned(), holder: holder.clone() });
            said = true;
        }
        (tried, last_holder) = (true, holder);
        tokio::time::sleep(if left.is_zero() { POLL } else { POLL.min(left) }).await;
    }
    let holder = Holder {
        pid: std::process::id(),
        command: claim.command.to_owned(),
        since: crate::time::rfc3339(SystemTime::now()),
        file: claim.files.map(StateFiles::first_text),
        layers: claim.files.map(StateFiles::layer_texts).unwrap_or_default().into(),
    };
    write_holder(&mut file, &holder);
    Ok(Lock { file, path: path.to_owned(), holder: Some(holder) })
}

fn open_or_make(path: &Path) -> std::io::Result<File> {
    if let Some(dir) = path.parent() {
        files::make_directory(dir)?;
    }
    files::open_or_create(path)
}

fn write_holder(file: &mut File, holder: &Holder) {
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| {
        let line = serde_json::to_string(holder).unwrap_or_default();
        writeln!(file, "{line}")
    });
    if let Err(err) = written {
        tracing::warn!(error = %err, "cannot write the holder into the lock file");
    }
}

/// Takes the lock at `path` where nothing can be written: without saying who holds it, and without any lock where there
/// is no file to lock. Yields whether there was one.
///
/// # Errors
/// When somebody else holds it.
pub fn take_read_only(path: &Path) -> Result<Option<Lock>, LockError> {
    let Ok(mut file) = open(path) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { file, path: path.to_owned(), holder: None })),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(LockError::Held { path: path.to_owned(), holder: read_holder(&mut file) })
        }
        Err(std::fs::TryLockError::Error(_)) => Ok(None),
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    files::open(path, OpenOptions::new().read(true))
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    // A path has at most 4096 bytes, each six in JSON.
    file.take(32 * 1024).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Checks that nobody holds the lock at `path`, without taking it for oneself and without writing.
///
/// # Errors
/// [`LockError::Held`] with its holder, or what the file system says.
pub fn check(path: &Path) -> Result<(), LockError> {
    let io = |err| LockError::Io { path: path.to_owned(), err };
    let mut file = match open(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(io)?,
    };
    // Released at once, for whoever comes meanwhile.
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map_err(io),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(LockError::Held { path: path.to_owned(), holder: read_holder(&mut file) })
        }
        Err(std::fs::TryLockError::Error(err)) => Err(io(err)),
    }
}

/// The `run` that holds the lock at `path`. What is written there tells the rest apart, so that the lock itself is tried
/// only when it says `run`, and nobody who wants it is disturbed.
pub fn kept_by(path: &Path) -> Option<Holder> {
    let mut file = open(path).ok()?;
    let holder = read_holder(&mut file).filter(Holder::is_run)?;
    match check(path) {
        Err(LockError::Held { .. }) => Some(holder),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_then_names_the_first_and_gets_it_once_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/demo/lock");
        let first = take(&path, "apply", Duration::ZERO, |_| {}).await.unwrap();
        let err = take(&path, "apply", Duration::from_millis(120), |_| {}).await.unwrap_err().to_string();
        assert!(err.contains(&format!("`steadfast apply` (pid {}, since ", std::process::id())), "{err}");
        let looked = check(&path).unwrap_err().to_string();
        assert_eq!(looked, err);
        drop(first);
        let before = std::fs::read(&path).unwrap();
        check(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), before, "a look writes nothing");
        take(&path, "down", Duration::ZERO, |_| {}).await.unwrap();
    }
    #[tokio::test]
    async fn nobody_waits_for_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let claim = Claim { command: RUN, files: Some(&Path::new("/etc/a.yaml").into()) };
        let run = take(&path, claim, Duration::ZERO, |_| {}).await.unwrap();
        let hour = Duration::from_secs(3600);
        let Err(LockError::Held { holder: Some(holder), .. }) = take(&path, "apply", hour, |_| {}).await else {
            panic!("it is held")
        };
        assert_eq!(holder.file.as_deref(), Some("/etc/a.yaml"));
        assert_eq!(kept_by(&path), Some(holder));
        assert!(take(&path, RUN, hour, |_| {}).await.is_err(), "not even another `run`");
        drop(run);
        drop(take(&path, RUN, Duration::ZERO, |_| {}).await.unwrap());
        assert_eq!(kept_by(&path), None, "what was written stays, and nobody holds it");
        let apply = take(&path, "apply", Duration::ZERO, |_| {}).await.unwrap();
        assert_eq!(kept_by(&path), None);
        drop(apply);
        // An older version's.
        let text = r#"{"pid":7,"command":"run","since":"2026-01-01T00:00:00Z"}"#;
        std::fs::write(&path, text).unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        assert_eq!(kept_by(&path).unwrap().file, None);
    }

    #[tokio::test]
    async fn a_lock_whose_file_was_removed_is_put_back_unless_another_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/demo/lock");
        let claim = Claim { command: "apply", files: Some(&Path::new("/etc/a.yaml").into()) };
        let mut held = take(&path, claim, Duration::ZERO, |_| {}).await.unwrap();
        assert!(!held.put_back().unwrap(), "it is in place");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { take(&path, RUN, Duration::from_secs(3600), |_| {}).await }
        });
        tokio::task::yield_now().await;
        std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        assert!(held.put_back().unwrap());
        let found = check(&path).unwrap_err();
        assert!(matches!(found, LockError::Held { holder: Some(by), .. } if by.file.as_deref() == Some("/etc/a.yaml")));
        tokio::time::sleep(4 * POLL).await;
        assert!(!waiting.is_finished(), "a lock of the removed file is worth nothing");
        drop(held);
        let mut next = waiting.await.unwrap().unwrap();

        std::fs::remove_file(&path).unwrap();
        let other = take(&path, "apply", Duration::ZERO, |_| {}).await.unwrap();
        let err = next.put_back().unwrap_err();
        assert!(matches!(err, LockError::Held { holder: Some(holder), .. } if holder.command == "apply"));
        drop(other);
        assert!(next.put_back().unwrap());
    }

    #[tokio::test]
    async fn who_only_looks_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let looking = File::create(&path).unwrap();
        looking.lock_shared().unwrap();
        let taking = tokio::spawn({
            let path = path.clone();
            async move { take(&path, RUN, Duration::ZERO, |_| {}).await }
        });
        tokio::task::yield_now().await;
        drop(looking);
        taking.await.unwrap().unwrap();
    }
}
