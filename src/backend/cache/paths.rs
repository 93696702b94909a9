//! Where things lie below `<root>/cache`, and the guard that no path leads out of it.
//!
//! Files are opened through here: never through a symbolic link, and private to the user when they are made.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};

use tracing::debug;

use super::quarantine::found;
use crate::backend::StoreError;
use crate::files;
use crate::model::labels::{PARTIAL, PARTIAL_SIDECAR, TEMPORARY};
use crate::model::{ArtifactKey, Sha256Digest};
use crate::trust::kept::is_only_trust;

/// How deep keys may nest. No manifest seen goes deeper than `vm/images/`.
const MAX_DEPTH: usize = 16;

/// The layout of one cache directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// Whether several state files keep their state below the same root, and so share the cache.
    pub(super) fn is_shared(&self) -> bool {
        let owners = fs::read_dir(self.root.join("state")).into_iter().flatten().flatten();
        owners.map(|owner| owner.path()).filter(|owner| owner.is_dir() && !is_only_trust(owner)).nth(1).is_some()
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// `<root>/cache`. May itself be a symbolic link: that is its owner's choice.
    pub(super) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.cache().join("vm/manifest.json")
    }

    /// The last good manifest of one published place, where several share the cache.
    pub(super) fn manifest_of(&self, place: &Sha256Digest) -> PathBuf {
        self.manifests().join(format!("{place}.json"))
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.cache().join("manifests")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.cache().join("index.json")
    }

    pub(super) fn index_lock(&self) -> PathBuf {
        self.cache().join("index.lock")
    }

    pub(super) fn artifact(&self, key: &ArtifactKey) -> PathBuf {
        key.path_in(&self.cache())
    }

    pub(super) fn partial(&self, key: &ArtifactKey) -> PathBuf {
        self.cache().join(format!("{key}{PARTIAL}"))
    }

    pub(super) fn sidecar(&self, key: &ArtifactKey) -> PathBuf {
        self.cache().join(format!("{key}{PARTIAL_SIDECAR}"))
    }

    /// The key of a partial's path; `None` when it is not one.
    pub(super) fn key_of_partial(&self, path: &Path) -> Option<ArtifactKey> {
        let text = path.strip_prefix(self.cache()).ok()?.to_str()?;
        let key = text.strip_suffix(PARTIAL).or_else(|| text.strip_suffix(PARTIAL_SIDECAR))?;
        ArtifactKey::new(key).ok()
    }

    /// The key of an artifact's path; `None` when it cannot be one.
    pub(super) fn key_of(&self, path: &Path) -> Option<ArtifactKey> {
        ArtifactKey::new(path.strip_prefix(self.cache()).ok()?.to_str()?).ok()
    }

    /// Refuses a path below the cache that leads out of it through a symbolic link. What is at its end is not looked at:
    /// nothing is opened there that is a link.
    pub(super) fn guard(&self, path: &Path) -> Result<(), StoreError> {
        let cache = self.cache();
        let escapes = |path: &Path| Err(StoreError::Escapes { path: path.to_owned() });
        let Ok(below) = path.strip_prefix(&cache) else { return escapes(path) };
        let mut here = cache.clone();
        for part in below.components() {
            let Component::Normal(part) = part else { return escapes(path) };
            here.push(part);
            if here == path {
                break;
            }
            match found(&here)? {
                Some(found) if found.is_symlink() => match (here.canonicalize(), cache.canonicalize()) {
                    (Ok(to), Ok(cache)) if to.starts_with(&cache) => {}
                    _ => return escapes(&here),
                },
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Makes the directory that `path` is to lie in, private to the user.
    fn make_room_for(&self, path: &Path) -> Result<(), StoreError> {
        self.clear_for_directories(path)?;
        let directory = path.parent().unwrap_or(path);
        files::make_directory(directory).map_err(failed("create", directory))
    }

    /// Opens an existing file to read it. `None` when there is none of ours: whatever else is there is moved aside when one
    /// is made.
    pub(super) fn open(&self, path: &Path) -> Result<Option<File>, StoreError> {
        self.guard(path)?;
        match files::open(path, OpenOptions::new().read(true)) {
            Ok(file) => Ok(Some(file)),
            Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(err) if files::unfit(&err).is_some() => {
                debug!(path = %path.display(), %err, "not a regular file of the cache; treated as absent");
                Ok(None)
            }
            Err(err) => Err(failed("open", path)(err)),
        }
    }

    /// Opens a file to read and write it, making it, and its directory, when there is none.
    pub(super) fn open_or_create(&self, path: &Path) -> Result<File, StoreError> {
        self.make_room_for(path)?;
        self.clear_for_file(path)?;
        files::open_or_create(path).map_err(failed("create", path))
    }

    /// Puts what `write` writes in the place of `path`: all of it or nothing.
    pub(super) fn replace(
        &self,
        path: &Path,
        durable: bool,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        self.make_room_for(path)?;
        self.clear_for_file(path)?;
        self.clear_for_file(&files::temporary_of(path))?;
        files::replace(path, durable, write).map_err(failed("write", path))
    }

    /// Every file of ours below `cache/vm` that is not temporary. Symbolic links are not followed.
    pub(super) fn walk(&self) -> Result<Vec<(PathBuf, Metadata)>, StoreError> {
        let mut found = Vec::new();
        let top = self.cache().join("vm");
        self.guard(&top.join("images/x"))?;
        walk(&top, 0, &mut found)?;
        Ok(found)
    }
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<(PathBuf, Metadata)>) -> Result<(), StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(failed("list", directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        // The entry's own metadata: of a link, not of what it leads to.
        let metadata = match entry.metadata() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(failed("inspect", &path))?,
        };
        if metadata.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, found)?;
        } else if files::is_ours(&metadata) {
            found.push((path, metadata));
        } else {
            debug!(path = %path.display(), "not a regular file of the cache; left alone");
        }
    }
    Ok(())
}

/// Wraps an I/O error with what was tried on which path.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |err| StoreError::Io { what, path, err }
}

/// Removes a file; fine when it is gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(err)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_link_out_is_refused_and_a_link_within_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        let vm = layout.cache().join("vm");
        fs::create_dir_all(vm.join("real")).unwrap();
        symlink(outside.path(), vm.join("out")).unwrap();
        symlink("real", vm.join("in")).unwrap();
        symlink(outside.path().join("x"), vm.join("last")).unwrap();
        symlink("nowhere", vm.join("dangling")).unwrap();
        let refused = |path: &str| matches!(layout.guard(&vm.join(path)), Err(StoreError::Escapes { .. }));
        assert!(refused("out/a"));
        assert!(refused("dangling/a"));
        assert!(layout.open(&vm.join("last")).unwrap().is_none());
        assert!(!refused("in/a"));
        assert!(!refused("not/there/yet"));
        assert!(matches!(layout.open_or_create(&vm.join("out/a")), Err(StoreError::Escapes { .. })));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was written outside");
    }

    #[test]
    fn what_is_made_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("new")).unwrap();
        layout.replace(&layout.manifest(), true, |mut file| file.write_all(b"{}")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&layout.manifest()), 0o600);
        assert_eq!(mode(&layout.cache().join("vm")), 0o700);
        assert_eq!(fs::read_dir(layout.cache().join("vm")).unwrap().count(), 1, "no temporary file is left");
    }
}
