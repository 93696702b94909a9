//! How a tree is. Links are never followed; what lies in `.git` is told as a repository, not as files.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::wire::{Entry, EntryKind, Repository, Sheet, Stamp, Top};
use super::{STAGE, place};
use crate::message::Word;

/// The git directory of a tree.
pub(super) const GIT: &[u8] = b".git";
/// The largest file of references that is read, in bytes.
const REFS_LIMIT: u64 = 8 << 20;
/// So many references, and files with objects, are told at most.
const MANY: usize = 100_000;
/// How deep a tree is looked at.
const DEEPEST: usize = 1000;

fn word(path: &Path) -> Word {
    Word(path.as_os_str().as_bytes().to_vec())
}

/// Where the tree is, and whose. What killed preparations left in it is cleared away, if `clear`.
pub(super) fn top(target: &Path, clear: bool) -> io::Result<Top> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut top = Top { uid, gid, ..Top::default() };
    let mut base = target;
    loop {
        match std::fs::canonicalize(base) {
            Ok(found) => {
                let is = std::fs::metadata(&found)?;
                if !is.is_dir() {
                    let why = format!("{} is not a directory", base.display());
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
                }
                (top.exists, top.base, top.owner) = (base == target, word(&found), is.uid());
                break;
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(base).is_ok() {
                    let why = format!("{} is a symbolic link that leads nowhere", base.display());
                    return Err(io::Error::new(io::ErrorKind::NotFound, why));
                }
                let (Some(name), Some(parent)) = (base.file_name(), base.parent()) else { return Err(err) };
                top.missing.insert(0, Word(name.as_bytes().to_vec()));
                base = parent;
            }
            Err(err) => return Err(err),
        }
    }
    if top.exists {
        if clear {
            place::clear(target);
        }
        top.repository = repository(&target.join(".git"));
    }
    Ok(top)
}

/// Tells everything in the tree, each directory before what is in it.
pub(super) fn walk(target: &Path, sheet: &mut Sheet<'_, impl Write>) -> io::Result<()> {
    let mut todo = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = todo.pop() {
        let entries = match std::fs::read_dir(target.join(&below)) {
            Ok(entries) => entries,
            // It was removed meanwhile.
            Err(err) if err.kind() == io::ErrorKind::NotFound && depth > 0 => continue,
            Err(err) => return Err(err),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if depth == 0 && (name.as_bytes() == GIT || name.as_bytes().starts_with(STAGE)) {
                continue;
            }
            let path = below.join(&name);
            let found = match entry.metadata() {
                Ok(found) => found,
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(err) => return Err(err),
            };
            let told = entry_of(target, path.clone(), &found);
            let is_dir = told.kind == EntryKind::Dir;
            sheet.add(&told)?;
            if is_dir && depth < DEEPEST {
                todo.push((path, depth + 1));
            }
        }
    }
    Ok(())
}

/// What stands at a path of the tree, as it is told.
pub(super) fn entry_of(target: &Path, path: PathBuf, found: &Metadata) -> Entry {
    let kind = kind_of(found);
    let link = match kind {
        EntryKind::Link => std::fs::read_link(target.join(&path)).unwrap_or_default().into_os_string().into_vec(),
        _ => Vec::new(),
    };
    let path = path.into_os_string().into_vec();
    Entry { path, kind, mode: found.mode() & 0o777, stamp: stamp_of(found), link, digest: None }
}

pub(super) fn kind_of(found: &Metadata) -> EntryKind {
    let kind = found.file_type();
    match () {
        () if kind.is_file() => EntryKind::File,
        () if kind.is_dir() => EntryKind::Dir,
        () if kind.is_symlink() => EntryKind::Link,
        () => EntryKind::Other,
    }
}

pub(super) fn stamp_of(found: &Metadata) -> Stamp {
    let nanos = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Stamp {
        size: found.size(),
        mtime: nanos(found.mtime(), found.mtime_nsec()),
        ctime: nanos(found.ctime(), found.ctime_nsec()),
        ino: found.ino(),
    }
}

/// Opens a regular file, and nothing else.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// The sha256 of a file.
pub(super) fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(piece.get(..read).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// What is known of the repository without git. What cannot be read is left out: it differs from what was put, then.
fn repository(git: &Path) -> Repository {
    let mut told = Repository { exists: std::fs::symlink_metadata(git).is_ok(), ..Repository::default() };
    if !std::fs::symlink_metadata(git).is_ok_and(|found| found.is_dir()) {
        return told;
    }
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        open(path).ok()?.take(REFS_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let line = |bytes: &[u8]| Word(bytes.trim_ascii().iter().copied().filter(|byte| *byte != 0).collect());
    told.head = read(&git.join("HEAD")).map(|head| line(&head)).unwrap_or_default();
    let packed = read(&git.join("packed-refs")).unwrap_or_default();
    for packed in packed.split(|byte| *byte == b'\n') {
        if let Some(space) = packed.iter().position(|byte| *byte == b' ').filter(|_| !packed.starts_with(b"#")) {
            let (commit, name) = packed.split_at(space);
            told.refs.push((line(name), line(commit)));
        }
    }
    files(&git.join("refs"), &mut |path| {
        let name = path.strip_prefix(git).unwrap_or(path);
        let Some(bytes) = read(path) else { return };
        let name = word(name);
        // The loose one counts.
        told.refs.retain(|(packed, _)| *packed != name);
        told.refs.push((name, line(&bytes)));
    });
    told.refs.truncate(MANY);
    files(&git.join("objects"), &mut |path| {
        let length = std::fs::symlink_metadata(path).map_or(0, |found| found.len());
        if told.objects.len() < MANY {
            told.objects.push((word(path.strip_prefix(git).unwrap_or(path)), length));
        }
    });
    told
}

/// Each regular file below a directory.
fn files(dir: &Path, told: &mut impl FnMut(&Path)) {
    let mut todo = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < 64 => todo.push((entry.path(), depth + 1)),
                Ok(kind) if kind.is_file() => told(&entry.path()),
                _ => {}
            }
        }
    }
}
