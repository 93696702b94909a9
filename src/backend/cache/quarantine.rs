//! What lies in the wrong place is moved aside, never followed and never written through, so that the next fetch works.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::paths::{Layout, failed, remove_file};
use crate::backend::StoreError;
use crate::files;

/// How many files are kept there for whoever wants to look at them.
const MAX_QUARANTINED: usize = 4;

impl Layout {
    pub(super) fn quarantine(&self) -> PathBuf {
        self.cache().join("quarantine")
    }

    /// Moves away what is in the place of a file of ours and is none: a directory, a link, a foreign file.
    pub(super) fn clear_for_file(&self, path: &Path) -> Result<(), StoreError> {
        self.guard(path)?;
        match found(path)? {
            Some(found) if !files::is_ours(&found) => self.move_aside(path),
            _ => Ok(()),
        }
    }

    /// Moves away what is in the place of the directory that `path` is to lie in, or of one above it.
    pub(super) fn clear_for_directories(&self, path: &Path) -> Result<(), StoreError> {
        let cache = self.cache();
        let mut above: Vec<_> =
            path.ancestors().skip(1).take_while(|dir| *dir != cache && dir.starts_with(&cache)).collect();
        above.reverse();
        for dir in above {
            self.guard(&dir.join("x"))?;
            match found(dir)? {
                // The guard has followed the links: they stay within.
                Some(found) if !found.is_dir() && !found.is_symlink() => return self.move_aside(dir),
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Moves whatever is at `path` into the quarantine, of which the newest stay.
    pub(super) fn move_aside(&self, path: &Path) -> Result<(), StoreError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let directory = self.quarantine();
        self.guard(&directory.join("x"))?;
        // In its own place there is nowhere else to go.
        if found(&directory)?.is_some_and(|found| !found.is_dir()) {
            let beside = self.cache().join(format!("quarantine.{:016x}", fastrand::u64(..)));
            fs::rename(&directory, &beside).map_err(failed("move aside", &directory))?;
            warn!(path = %directory.display(), moved_to = %beside.display(), "not the quarantine's directory; moved aside");
        }
        files::make_directory(&directory).map_err(failed("create", &directory))?;
        if path != directory {
            let to = directory.join(format!("{name}.{:016x}", fastrand::u64(..)));
            fs::rename(path, &to).map_err(failed("move aside", path))?;
            warn!(path = %path.display(), moved_to = %to.display(), "not what belongs there; moved aside");
            self.trim_quarantine(MAX_QUARANTINED);
        }
        Ok(())
    }

    /// Removes the files that were moved there first, beyond the newest `keep`. What is in a directory may be wanted: that is
    /// left to `cache gc`. Best effort.
    fn trim_quarantine(&self, keep: usize) {
        let entries = fs::read_dir(self.quarantine()).into_iter().flatten().flatten();
        let mut there: Vec<_> = entries
            .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
            .filter(|(found, _)| !found.is_dir())
            // A rename changes this time alone.
            .map(|(found, path)| ((found.ctime(), found.ctime_nsec()), path))
            .collect();
        there.sort();
        let surplus = there.len().saturating_sub(keep);
        for (_, path) in there.into_iter().take(surplus) {
            let _ = remove_file(&path);
        }
    }
}

/// Removes a file, or a directory with all that is in it; fine when it is gone already.
pub(super) fn remove_all(path: &Path) -> Result<(), StoreError> {
    let removed = match found(path)? {
        Some(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    match removed {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(err)),
        _ => Ok(()),
    }
}

/// What is at a path, no link followed.
pub(super) fn found(path: &Path) -> Result<Option<fs::Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(err) => Err(failed("inspect", path)(err)),
    }
}
