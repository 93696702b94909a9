//! Files of ours, among other people's: opened without following a link, believed only while nobody else could have written
//! them, and replaced whole. What stands in them is their rooms' subject.

pub(crate) mod live;
pub(crate) mod regular;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::model::labels::TEMPORARY;

/// How long to wait for whoever writes the same file now. That takes milliseconds, and a sync on a slow disk seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to take a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Why what is at a path is no file of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Who writes through it writes somewhere else.
    #[error("it is a symbolic link, and steadfast follows none here; remove it")]
    Link,
    /// A directory, a pipe, a device.
    #[error("it is not a regular file; remove it")]
    NotAFile,
    /// Somebody else's.
    #[error("it belongs to uid {0}; remove it, or `chown` it to whoever runs steadfast")]
    Foreign(u32),
}

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, unfit)
    }
}

/// What makes the file unfit, when that is why it could not be opened.
pub(crate) fn unfit(err: &io::Error) -> Option<Unfit> {
    err.get_ref()?.downcast_ref().copied()
}

/// Whether what this user owns is as good as our own: root's always is; to root under `sudo`, so is that of who called it.
pub(crate) fn is_trusted(owner: u32) -> bool {
    let called_by = || std::env::var("SUDO_UID").ok()?.parse().ok();
    trusts(rustix::process::geteuid().as_raw(), called_by, owner)
}

fn trusts(own: u32, called_by: impl FnOnce() -> Option<u32>, owner: u32) -> bool {
    owner == own || owner == 0 || (own == 0 && called_by() == Some(owner))
}

/// Whether this is a file of ours.
pub(crate) fn is_ours(found: &Metadata) -> bool {
    found.is_file() && is_trusted(found.uid())
}

/// Opens a file of ours. What is checked is what was opened, so that nobody can exchange it in between.
///
/// # Errors
/// [`Unfit`], or what the file system says.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // A pipe without a reader would keep us waiting.
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    let file = options.open(path).map_err(|err| match Errno::from_io_error(&err) {
        Some(Errno::LOOP) => Unfit::Link.into(),
        Some(Errno::ISDIR | Errno::NXIO) => Unfit::NotAFile.into(),
        _ => err,
    })?;
    let found = file.metadata()?;
    match found.is_file() {
        false => Err(Unfit::NotAFile.into()),
        true if !is_trusted(found.uid()) => Err(Unfit::Foreign(found.uid()).into()),
        true => Ok(file),
    }
}

/// Opens a file of ours to read and write it, making it (0600) when there is none.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600))
}

/// Reads a file of ours.
///
/// # Errors
/// As [`open`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, OpenOptions::new().read(true))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a directory that only we may enter, and what it lies in.
///
/// # Errors
/// What the file system says.
pub(crate) fn make_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether `path` still names this very file.
pub(crate) fn still_names(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(opened)) => (named.dev(), named.ino()) == (opened.dev(), opened.ino()),
        _ => false,
    }
}

/// What is to take the place of a file. Readers see the old or the new, never half, and a kill leaves nothing that the next
/// writer does not take: each file has one temporary name, and writing it takes the lock on the temporary file.
#[derive(Debug)]
pub(crate) struct Replacement<'a> {
    path: &'a Path,
    temporary: PathBuf,
    file: File,
    placed: bool,
}

impl<'a> Replacement<'a> {
    /// An empty one, of this mode. Waits for whoever writes the same file now.
    ///
    /// # Errors
    /// What the file system says, and [`Unfit`] for what lies in the temporary file's place.
    pub(crate) fn begin(path: &'a Path, mode: u32) -> io::Result<Self> {
        let temporary = temporary_of(path);
        let since = Instant::now();
        let own = || {
            let file = open_or_create(&temporary)?;
            // Else the one before us has put it in its place, or given up.
            let is_own = lock(&file, Lock::Alone, Duration::ZERO)? && still_names(&temporary, &file);
            Ok(is_own.then_some(file))
        };
        let file = loop {
            match live::begin(&temporary, own)? {
                Some(file) => break file,
                None if since.elapsed() < PATIENCE => std::thread::sleep(LOCK_PAUSE),
                None => return Err(io::Error::other("another process has been writing it for too long")),
            }
        };
        let begun = Self { path, temporary, file, placed: false };
        begun.file.set_len(0)?;
        begun.file.set_permissions(Permissions::from_mode(mode))?;
        Ok(begun)
    }

    /// Where it is written.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Puts it in its place; `durable`, so that a power cut cannot take it back.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn place(mut self, durable: bool) -> io::Result<()> {
        let rename = || live::end(&self.temporary, || fs::rename(&self.temporary, self.path));
        place(&self.file, self.path, durable, || rename().inspect(|()| self.placed = true))
    }
}

/// Gives a file that was written the place `to`, by `rename`; when `durable`, its bytes are on the disk before its name is, and
/// that when this returns.
///
/// # Errors
/// What the file system says.
pub(crate) fn place(file: &File, to: &Path, durable: bool, rename: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if durable {
        file.sync_all()?;
    }
    rename()?;
    if durable { sync_directory_of(to) } else { Ok(()) }
}

/// Makes what was renamed to or removed from this path last.
///
/// # Errors
/// What the file system says.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        None => Ok(()),
        // A name alone lies in the working directory.
        Some(dir) if dir.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(dir) => File::open(dir)?.sync_all(),
    }
}

/// Beside whom a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Beside others who read it.
    Shared,
    /// Beside nobody.
    Alone,
}

/// Takes the lock of an open file (`flock`), which ends with it. Waits so long for whoever has it; `false` when somebody has it
/// still.
///
/// # Errors
/// What the file system says.
pub(crate) fn lock(file: &File, how: Lock, patience: Duration) -> io::Result<bool> {
    let since = Instant::now();
    loop {
        let taken = match how {
            Lock::Shared => file.try_lock_shared(),
            Lock::Alone => file.try_lock(),
        };
        match taken {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if since.elapsed() < patience => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(err)) => return Err(err),
        }
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        // The lock goes only after this.
        if !self.placed {
            let _ = live::end(&self.temporary, || fs::remove_file(&self.temporary));
        }
    }
}

/// Puts what `write` writes in the place of a file, of mode 0600, in a directory that is made where there is none.
///
/// # Errors
/// What the file system or `write` says.
pub(crate) fn replace(path: &Path, durable: bool, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        make_directory(dir)?;
    }
    let replacement = Replacement::begin(path, 0o600)?;
    write(replacement.file())?;
    replacement.place(durable)
}

/// The one name under which a file's successor is written.
pub(crate) fn temporary_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(TEMPORARY);
    name.push(path.file_name().unwrap_or_default());
    // Service managers read every file of a directory whose name ends as theirs do.
    name.push("~");
    path.with_file_name(name)
}

/// Removes what a killed process left of a replacement of this file. Nothing is in the way of the next one: so a failure is
/// none.
pub(crate) fn sweep(path: &Path) {
    remove_abandoned(&temporary_of(path));
}

/// As [`sweep`], for every file of a directory.
pub(crate) fn sweep_directory(dir: &Path) {
    sweep_where(dir, |name| name.starts_with(TEMPORARY.as_bytes()));
}

/// As [`sweep_directory`], with what earlier versions left, which gave their temporary files random names. For a directory
/// in which nobody else keeps files.
pub(crate) fn sweep_own_directory(dir: &Path) {
    sweep_where(dir, |name| name.starts_with(TEMPORARY.as_bytes()) || is_of_earlier_version(name));
}

fn sweep_where(dir: &Path, is_temporary: impl Fn(&[u8]) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if is_temporary(entry.file_name().as_encoded_bytes()) {
            remove_abandoned(&entry.path());
        }
    }
}

/// `.tmp` and six letters or digits.
fn is_of_earlier_version(name: &[u8]) -> bool {
    name.strip_prefix(b".tmp").is_some_and(|rest| rest.len() == 6 && rest.iter().all(u8::is_ascii_alphanumeric))
}

fn remove_abandoned(path: &Path) {
    // Who holds the lock is writing; who has not got it yet sees that the name is gone, and begins anew.
    let Ok(file) = open(path, OpenOptions::new().read(true).write(true)) else { return };
    if lock(&file, Lock::Alone, Duration::ZERO).unwrap_or(false)
        && still_names(path, &file)
        && let Err(err) = fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), error = %err, "cannot remove an abandoned temporary file");
    }
}

/// A directory that somebody else could change under our hands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refusing `{}` (owner {}, mode {mode:04o}): {fault}", path.display(), who(*owner))]
pub struct Untrusted {
    /// The directory, or the link to it.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: u32,
    /// Who may do what with it.
    pub mode: u32,
    /// What is wrong with that.
    pub fault: Fault,
}

/// What is wrong with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It belongs to somebody else.
    #[error("it belongs to another user, who could change what steadfast does")]
    Owner,
    /// Others may write to it.
    #[error("group or others can write to it, and could change what steadfast does")]
    Writable,
}

fn who(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

impl Untrusted {
    /// What makes it fit for use.
    pub fn way_out(&self) -> String {
        let path = self.path.display();
        match self.fault {
            Fault::Owner => {
                let own = rustix::process::geteuid().as_raw();
                format!(
                    "if nothing in it is to be distrusted, `chown -h {own} '{path}'` makes it yours; else choose another root"
                )
            }
            Fault::Writable => format!("if nothing in it is to be distrusted, `chmod go-w '{path}'` closes it"),
        }
    }
}

/// Refuses a directory that somebody else could change under our hands, as ssh refuses keys. One that is not there, or may
/// not be looked at, is fine: nothing can be done there.
///
/// # Errors
/// When it, or the link to it, belongs to somebody else, or group or others can write to it.
pub(crate) fn check_directory(path: &Path) -> Result<(), Untrusted> {
    let untrusted = |found: &Metadata, fault| {
        Err(Untrusted { path: path.to_owned(), owner: found.uid(), mode: found.mode() & 0o7777, fault })
    };
    for found in [fs::symlink_metadata(path), fs::metadata(path)].into_iter().flatten() {
        if !is_trusted(found.uid()) {
            return untrusted(&found, Fault::Owner);
        }
        // What the mode of a link says is nothing.
        if !found.is_symlink() && found.mode() & 0o022 != 0 {
            return untrusted(&found, Fault::Writable);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
