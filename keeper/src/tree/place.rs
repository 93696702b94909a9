//! Steps: each is taken only while what stands at its path is still what was seen there, and takes effect at once or not at all.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::STAGE;
use super::look::{entry_of, kind_of, stamp_of};
use super::wire::{EntryKind, Expected, Outcome, Step, Task};

/// A list of steps under way.
pub(super) struct Placing<'a> {
    target: &'a Path,
    stage: PathBuf,
    /// Directories on the way that are known to be none but that.
    plain: HashSet<PathBuf>,
}

impl<'a> Placing<'a> {
    pub(super) fn new(target: &'a Path, stage: &str) -> Self {
        // A name, not a path.
        let stage = Path::new(stage).file_name().unwrap_or(OsStr::new(".steadfast-incoming-none"));
        Self { target, stage: target.join(stage), plain: HashSet::new() }
    }

    /// Takes one step.
    pub(super) fn take(&mut self, step: &Step) -> Outcome {
        match self.attempt(step) {
            Ok(true) => {
                let path = PathBuf::from(OsStr::from_bytes(&step.path));
                match std::fs::symlink_metadata(self.target.join(&path)) {
                    Ok(found) => Outcome::Placed(entry_of(self.target, path, &found)),
                    Err(_) => Outcome::Gone(step.path.clone()),
                }
            }
            Ok(false) => Outcome::Kept(step.path.clone(), "it changed meanwhile".to_owned()),
            Err(err) => Outcome::Kept(step.path.clone(), err.to_string()),
        }
    }

    /// `false` when something else stands there than what was seen.
    fn attempt(&mut self, step: &Step) -> io::Result<bool> {
        let path = self.plain_path(&step.path)?;
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => Some(found),
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            Err(err) => return Err(err),
        };
        let as_seen = match (step.expected, &found) {
            (Expected::Anything, _) | (Expected::Absent, None) => true,
            // A directory that came to be meanwhile is as good.
            (Expected::Absent, Some(found)) => found.is_dir() && matches!(step.task, Task::Dir(_)),
            (Expected::Seen(..), None) => matches!(step.task, Task::Remove),
            (Expected::Seen(EntryKind::Dir, _), Some(found)) => found.is_dir(),
            (Expected::Seen(kind, stamp), Some(found)) => kind_of(found) == kind && stamp_of(found) == stamp,
        };
        if !as_seen {
            return Ok(false);
        }
        let is_dir = found.as_ref().is_some_and(std::fs::Metadata::is_dir);
        match &step.task {
            Task::File(number) => {
                if is_dir {
                    std::fs::remove_dir(&path)?;
                }
                std::fs::rename(self.stage.join(number.to_string()), &path)?;
            }
            Task::Link(leads) => {
                if is_dir {
                    std::fs::remove_dir(&path)?;
                }
                let made = self.stage.join("link");
                match std::os::unix::fs::symlink(OsStr::from_bytes(leads), &made) {
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {
                        DirBuilder::new().mode(0o700).create(&self.stage)?;
                        std::os::unix::fs::symlink(OsStr::from_bytes(leads), &made)?;
                    }
                    made => made?,
                }
                std::fs::rename(&made, &path)?;
            }
            Task::Dir(mode) => {
                if !is_dir {
                    if found.is_some() {
                        std::fs::remove_file(&path)?;
                    }
                    DirBuilder::new().mode(*mode).create(&path)?;
                    std::fs::set_permissions(&path, Permissions::from_mode(*mode))?;
                }
            }
            Task::Remove if found.is_none() => {}
            Task::Remove if is_dir => {
                self.plain.remove(&path);
                match std::fs::remove_dir(&path) {
                    // Something of the guest's own is in it.
                    Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    removed => removed?,
                }
            }
            Task::Remove => std::fs::remove_file(&path)?,
            Task::Rename(name) => {
                let other = self.plain_path(name)?;
                if found.is_some() {
                    std::fs::rename(&path, other)?;
                }
            }
        }
        Ok(true)
    }

    /// The path in the tree: no way out of it, and no link on the way.
    fn plain_path(&mut self, path: &[u8]) -> io::Result<PathBuf> {
        let below = Path::new(OsStr::from_bytes(path));
        let is_plain = !path.is_empty() && below.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path in the tree"));
        }
        let mut way = self.target.to_owned();
        for part in below.parent().into_iter().flat_map(Path::components) {
            way.push(part);
            if !self.plain.contains(&way) {
                if !std::fs::symlink_metadata(&way)?.is_dir() {
                    let why = format!("{} is not a directory", way.display());
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
                }
                self.plain.insert(way.clone());
            }
        }
        Ok(self.target.join(below))
    }

    /// Clears away what came.
    pub(super) fn finish(self) {
        let _ = std::fs::remove_dir_all(&self.stage);
    }
}

/// Clears away what killed preparations left.
pub(super) fn clear(target: &Path) {
    for entry in std::fs::read_dir(target).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(STAGE) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes the tree with all that is in it. Its directory may stay, empty, where it is a mount or its parent is not ours.
pub(super) fn remove_all(target: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(target) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    let _ = std::fs::remove_dir(target);
    Ok(())
}
