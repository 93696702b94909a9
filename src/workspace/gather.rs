//! Names as they come, and what becomes of each: what it is on the disk or in the commit, or why it is left out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{EntryKind, STAGE, Stamp};

use super::WorkspaceError;
use super::error::{count, some};
use super::git::Git;
use super::source::{Content, Dirty, LeftOut, Wanted};

/// A name that may go in.
#[derive(Debug)]
pub(super) struct Name {
    /// Its mode, checkout and object, where it is tracked.
    pub(super) blob: Option<(u32, Arc<Path>, String)>,
    /// As it is in the commit, not on the disk.
    pub(super) in_commit: bool,
}

/// Names as they come, and what became of them.
pub(super) struct Gathered {
    pub(super) root: PathBuf,
    pub(super) choice: Dirty,
    pub(super) names: BTreeMap<Word, Name>,
    pub(super) directories: BTreeSet<Word>,
    pub(super) lfs: BTreeSet<Word>,
    pub(super) dirty: Vec<Word>,
    pub(super) wanted: BTreeMap<Word, Wanted>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) notes: Vec<String>,
}

impl Gathered {
    pub(super) fn new(root: &Path, choice: Dirty) -> Self {
        Self {
            root: root.to_owned(),
            choice,
            names: BTreeMap::new(),
            directories: BTreeSet::new(),
            lfs: BTreeSet::new(),
            dirty: Vec::new(),
            wanted: BTreeMap::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn leave_out(&mut self, path: Word, why: impl Into<String>) {
        self.left_out.push(LeftOut { path, why: why.into() });
    }

    pub(super) fn untracked(&mut self, prefix: &[u8], path: &[u8]) {
        if path.is_empty() {
            return;
        }
        let whole = Word([prefix, path].concat());
        if path.ends_with(b"/") {
            self.leave_out(whole, "is a git repository of its own; prepare it by itself");
        } else {
            self.names.insert(whole, Name { blob: None, in_commit: false });
        }
    }

    /// A path that goes in though it is ignored, with all below it.
    pub(super) fn include(&mut self, path: &Path) -> Result<(), WorkspaceError> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let is_below = below.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let refuse = |why: &str| {
            WorkspaceError::source(self.root.clone(), format!("cannot include `{}`: {why}", path.display()))
        };
        let below: PathBuf = below.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if !is_below || below.as_os_str().is_empty() {
            return Err(refuse("it is not below the source"));
        }
        if !self
            .root
            .join(&below)
            .symlink_metadata()
            .is_ok_and(|_| plain_parents(&self.root, &below, &mut HashSet::new()))
        {
            return Err(refuse("there is no such file"));
        }
        let mut todo = vec![below];
        while let Some(below) = todo.pop() {
            let whole = self.root.join(&below);
            let name = Word(below.clone().into_os_string().into_vec());
            match whole.symlink_metadata() {
                Ok(found) if found.is_dir() => {
                    if let Some(why) = never(&name) {
                        self.leave_out(name, why);
                        continue;
                    }
                    self.directories.insert(name);
                    for entry in std::fs::read_dir(&whole).map_err(WorkspaceError::read(&whole))? {
                        let entry = entry.map_err(WorkspaceError::read(&whole))?;
                        todo.push(below.join(entry.file_name()));
                    }
                }
                _ => {
                    self.names.insert(name, Name { blob: None, in_commit: false });
                }
            }
        }
        Ok(())
    }

    /// Directories with nothing in them: git knows none.
    pub(super) fn empty_directories(&mut self, ignored: &BTreeSet<Vec<u8>>) {
        let mut todo = vec![PathBuf::new()];
        while let Some(below) = todo.pop() {
            let mut is_empty = true;
            for entry in std::fs::read_dir(self.root.join(&below)).into_iter().flatten().flatten() {
                is_empty = false;
                let path = below.join(entry.file_name());
                let is_left_out =
                    ignored.contains(path.as_os_str().as_bytes()) || self.root.join(&path).join(".git").exists();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != ".git" && !is_left_out {
                    todo.push(path);
                }
            }
            if is_empty && !below.as_os_str().is_empty() {
                self.directories.insert(Word(below.into_os_string().into_vec()));
            }
        }
    }

    /// Looks at each name.
    pub(super) fn resolve(&mut self) -> Result<(), WorkspaceError> {
        let mut plain = HashSet::new();
        for (path, name) in std::mem::take(&mut self.names) {
            if let Some(why) = never(&path) {
                self.leave_out(path, why);
                continue;
            }
            let on_disk = || self.root.join(path.os());
            let found = match plain_parents(&self.root, Path::new(path.os()), &mut plain) && !name.in_commit {
                true => on_disk().symlink_metadata().ok(),
                false => None,
            };
            let wanted = match (found, &name.blob) {
                (Some(found), _) => self.of_disk(&path, &found)?,
                (None, Some((mode, checkout, oid))) if self.choice == Dirty::Ignore => {
                    Some(of_commit(*mode, checkout, oid)?)
                }
                // It was removed, and so it is wanted.
                (None, _) => None,
            };
            let Some(wanted) = wanted else { continue };
            if wanted.kind == EntryKind::Link && leaves(&path, &wanted.link) {
                let to = String::from_utf8_lossy(&wanted.link).into_owned();
                self.leave_out(path, format!("is a symbolic link out of the tree, to `{to}`"));
                continue;
            }
            self.wanted.insert(path, wanted);
        }
        self.parents();
        let pointers: Vec<_> =
            self.lfs.iter().filter(|path| is_pointer(self.wanted.get(*path))).map(Word::text).collect();
        let fetched = self.lfs.iter().filter(|path| self.wanted.contains_key(*path)).count() - pointers.len();
        if !pointers.is_empty() {
            let names = some(&pointers);
            self.notes.push(format!(
                "of Git LFS only the pointers go in, as on this machine: {names}; `git lfs pull` fetches them"
            ));
        }
        if fetched > 0 {
            let files = count(fetched, "file");
            self.notes.push(format!("{files} of Git LFS with their contents: a git without LFS calls them changed"));
        }
        Ok(())
    }

    fn of_disk(&mut self, path: &Word, found: &std::fs::Metadata) -> Result<Option<Wanted>, WorkspaceError> {
        let whole = self.root.join(path.os());
        let mode = found.mode() & 0o777;
        let kind = found.file_type();
        if kind.is_symlink() {
            let link = std::fs::read_link(&whole).map_err(WorkspaceError::read(&whole))?.into_os_string().into_vec();
            return Ok(Some(Wanted { kind: EntryKind::Link, mode: 0o777, link, content: Content::None }));
        }
        if kind.is_file() {
            let content = Content::Disk(whole, stamp_of(found));
            return Ok(Some(Wanted { kind: EntryKind::File, mode, link: Vec::new(), content }));
        }
        // A directory in a file's place: what is in it is untracked, and comes by its own names.
        if !kind.is_dir() {
            self.leave_out(path.clone(), "is a pipe, a socket or a device");
        }
        Ok(None)
    }

    /// The directories that all this lies in.
    fn parents(&mut self) {
        let mut parents: BTreeSet<Word> = std::mem::take(&mut self.directories);
        parents.retain(|path| never(path).is_none());
        for path in self.wanted.keys().chain(&parents.clone()) {
            let mut below = Path::new(path.os());
            while let Some(parent) = below.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                if !parents.insert(Word(parent.as_os_str().as_bytes().to_vec())) {
                    break;
                }
                below = parent;
            }
        }
        for path in parents {
            let found = self.root.join(path.os()).symlink_metadata().ok().filter(std::fs::Metadata::is_dir);
            // Its owner must be able to work in it.
            let mode = found.map_or(0o755, |found| found.mode() & 0o777 | 0o700);
            let dir = Wanted { kind: EntryKind::Dir, mode, link: Vec::new(), content: Content::None };
            self.wanted.entry(path).or_insert(dir);
        }
    }
}

pub(super) fn stamp_of(found: &std::fs::Metadata) -> Stamp {
    let nanos = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Stamp {
        size: found.size(),
        mtime: nanos(found.mtime(), found.mtime_nsec()),
        ctime: nanos(found.ctime(), found.ctime_nsec()),
        ino: found.ino(),
    }
}

/// What stands in the commit, where the disk does not count.
fn of_commit(mode: u32, checkout: &Arc<Path>, oid: &str) -> Result<Wanted, WorkspaceError> {
    if mode == 0o120000 {
        let git = Git::of_source(checkout);
        let args = ["cat-file", "blob", oid];
        let told = git.command(&args).output().map_err(|err| git.failed(&args, err.to_string()))?;
        if !told.status.success() {
            return Err(git.failed(&args, String::from_utf8_lossy(&told.stderr).trim()));
        }
        return Ok(Wanted { kind: EntryKind::Link, mode: 0o777, link: told.stdout, content: Content::None });
    }
    let content = Content::Blob(checkout.clone(), oid.to_owned());
    let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
    Ok(Wanted { kind: EntryKind::File, mode, link: Vec::new(), content })
}

/// Why this name never goes in.
fn never(path: &Word) -> Option<&'static str> {
    let mut parts = path.0.split(|byte| *byte == b'/');
    if parts.clone().any(|part| part.eq_ignore_ascii_case(b".git")) {
        return Some("is a git directory");
    }
    if parts.any(|part| matches!(part, b"" | b"." | b"..")) {
        return Some("is no path of a tree");
    }
    path.0.starts_with(STAGE).then_some("has a name that steadfast uses itself")
}

/// Whether every directory on the way to it is none but that: through a link it would be read from elsewhere.
fn plain_parents(root: &Path, below: &Path, known: &mut HashSet<PathBuf>) -> bool {
    let Some(parent) = below.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return true };
    if known.contains(parent) {
        return true;
    }
    let is_plain =
        plain_parents(root, parent, known) && root.join(parent).symlink_metadata().is_ok_and(|dir| dir.is_dir());
    if is_plain {
        known.insert(parent.to_owned());
    }
    is_plain
}

/// Whether a link may lead out of the tree. Going up is told only where it begins with that: after a name, `..` leads up from
/// wherever that name leads to.
fn leaves(path: &Word, link: &[u8]) -> bool {
    let mut depth = path.0.iter().filter(|byte| **byte == b'/').count();
    let mut went_down = false;
    if link.is_empty() || link.starts_with(b"/") {
        return true;
    }
    for part in link.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if went_down || depth == 0 => return true,
            b".." => depth -= 1,
            _ => went_down = true,
        }
    }
    false
}

/// Whether a file of Git LFS is only what stands for it.
fn is_pointer(wanted: Option<&Wanted>) -> bool {
    const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";
    match wanted.map(|wanted| &wanted.content) {
        Some(Content::Disk(path, stamp)) if stamp.size < 1024 => {
            let mut bytes = Vec::new();
            let read = std::fs::File::open(path).and_then(|file| file.take(1024).read_to_end(&mut bytes));
            read.is_ok() && bytes.starts_with(BEGINNING)
        }
        Some(Content::Blob(..)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_may_not_leave_the_tree() {
        let path = |text: &str| Word::from(text);
        for (at, to) in [("l", "a"), ("l", "./a/b"), ("d/l", "../a"), ("d/e/l", "../../a/b"), ("d/l", "..")] {
            assert!(!leaves(&path(at), to.as_bytes()), "{at} -> {to}");
        }
        for (at, to) in
            [("l", "/etc/passwd"), ("l", "../a"), ("d/l", "../../a"), ("l", "a/../.."), ("l", "a/../b"), ("l", "")]
        {
            assert!(leaves(&path(at), to.as_bytes()), "{at} -> {to}");
        }
    }

    #[test]
    fn a_git_directory_never_goes_in() {
        for name in [".git", "a/.git", "a/.GIT/config", ".git/config", "a//b", "../a", ".steadfast-incoming-x"] {
            assert!(never(&Word::from(name)).is_some(), "{name}");
        }
        for name in [".gitignore", "a/.github/x", "git", "a/..b"] {
            assert!(never(&Word::from(name)).is_none(), "{name}");
        }
    }
}
