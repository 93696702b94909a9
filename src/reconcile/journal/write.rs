//! Whole lines into a file of bounded size that other processes write too.
//!
//! Each line is appended under a lock on the very file, and only while the path still leads to that file. So a line never
//! goes into a file that another process has just put aside for the second time, lines never mix, and of two processes
//! that find the file full, one puts it aside and the other goes on in the new one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files;

/// How often a lock that somebody holds is tried again. Locks are held for microseconds; whoever holds one for longer has
/// been stopped, and must not stop us.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// How often the file may be put aside under our hands before the line is written all the same.
const OPEN_TRIES: u32 = 8;

/// The file that was put aside: `journal.jsonl` → `journal.1.jsonl`.
pub(super) fn older(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}.1.{extension}"))
}

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    most: u64,
    file: Option<File>,
}

impl Writer {
    pub(super) fn new(path: &Path, most: u64) -> Self {
        Self { path: path.to_owned(), most, file: None }
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut last = None;
        for _ in 0..OPEN_TRIES {
            // It may have been put aside or removed.
            let file = match self.file.take().filter(|file| files::still_names(&self.path, file)) {
                Some(file) => file,
                None => self.open()?,
            };
            let locked = lock(&file);
            // Another process may have put it aside before we had the lock.
            if !files::still_names(&self.path, &file) {
                last = Some(file);
                continue;
            }
            let size = file.metadata()?.len();
            if locked && size > 0 && size + lines.len() as u64 > self.most {
                std::fs::rename(&self.path, older(&self.path))?;
                last = Some(file);
                continue;
            }
            let written = write(&file, size, lines);
            let _ = file.unlock();
            self.file = Some(file);
            return written;
        }
        // Somebody puts it aside as fast as we can open it: the line stands where it can still be found.
        let Some(file) = last else { return Err(io::Error::other("it cannot be opened")) };
        write(&file, file.metadata()?.len(), lines)
    }

    fn open(&self) -> io::Result<File> {
        if let Some(dir) = self.path.parent() {
            files::make_directory(dir)?;
        }
        files::open(&self.path, OpenOptions::new().create(true).append(true).read(true).mode(0o600))
    }
}

/// Whether the lock was acquired. A file system without locks, or a holder that was stopped, costs us the putting aside only.
fn lock(file: &File) -> bool {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return true,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(_)) => return false,
        }
    }
    false
}

/// One write for all of it. Where a kill or a full disk left half a line, it begins on a fresh one.
fn write(mut file: &File, size: u64, lines: &[u8]) -> io::Result<()> {
    let mut end = [b'\n'];
    if size > 0 {
        file.read_exact_at(&mut end, size - 1)?;
    }
    if end == *b"\n" {
        return file.write_all(lines);
    }
    file.write_all(&[b"\n", lines].concat())
}
