//! What of a directory of this machine goes in: names, kinds and modes, and what is left out and why. Nothing is read but what
//! git tells, and what the file system tells of each name.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{EntryKind, Stamp};

use super::WorkspaceError;
use super::gather::{Gathered, Name};
use super::git::{Git, Status, parse_status, parse_tracked};
pub use crate::model::Dirty;
use crate::model::hashing::hex;

/// Where the content of a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A directory, or a link, which is told whole.
    None,
    /// On the disk.
    Disk(PathBuf, Stamp),
    /// In the repository of this checkout.
    Blob(Arc<Path>, String),
}

/// One thing that is to be in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) link: Vec<u8>,
    pub(super) content: Content,
}

/// The repository of a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) commit: Option<String>,
    pub(super) branch: Option<String>,
    pub(super) sha256: bool,
    pub(super) shallow: bool,
    /// The directory that all its checkouts share.
    pub(super) common: PathBuf,
}

/// Something that does not go in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Which.
    #[serde(serialize_with = "text")]
    pub path: Word,
    /// As the rest of a sentence.
    pub why: String,
}

pub(super) fn text<S: serde::Serializer>(path: &Word, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.text())
}

/// A directory as it goes in.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) root: PathBuf,
    pub(super) origin: Option<Origin>,
    pub(super) wanted: BTreeMap<Word, Wanted>,
    pub(super) left_out: Vec<LeftOut>,
    /// What is not committed.
    pub(super) dirty: usize,
    /// What is worth a word.
    pub(super) notes: Vec<String>,
}

impl Source {
    /// A digest of it: names, kinds, modes, stamps and commits. The same as long as nothing of it changes.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(self.root.as_os_str().as_bytes());
        let origin = self.origin.as_ref();
        for text in [origin.and_then(|origin| origin.commit.as_ref()), origin.and_then(|origin| origin.branch.as_ref())]
        {
            add(text.map(String::as_bytes).unwrap_or_default());
        }
        for (path, Wanted { kind, mode, link, content }) in &self.wanted {
            add(&path.0);
            add(format!("{kind:?} {mode:o}").as_bytes());
            add(link);
            match content {
                Content::None => add(&[]),
                Content::Disk(_, stamp) => add(format!("{stamp:?}").as_bytes()),
                Content::Blob(_, oid) => add(oid.as_bytes()),
            }
        }
        hex(&hash.finalize())
    }
}

/// A checkout whose names are to be gathered: the source, or a submodule in it.
struct Checkout {
    dir: PathBuf,
    prefix: Vec<u8>,
}

/// Reads what goes in.
pub(super) async fn read(dir: &Path, dirty: Dirty, include: &[PathBuf]) -> Result<Source, WorkspaceError> {
    let root = std::fs::canonicalize(dir).map_err(WorkspaceError::read(dir))?;
    if !root.is_dir() {
        return Err(WorkspaceError::source(root, "is not a directory"));
    }
    if ["HEAD", "objects", "refs"].iter().all(|name| root.join(name).exists()) {
        return Err(WorkspaceError::source(root, "is a git repository without a checkout; give a checkout of it"));
    }
    let mut gathered = Gathered::new(&root, dirty);
    let origin = match root.ancestors().find(|dir| dir.join(".git").symlink_metadata().is_ok()) {
        None => {
            plain(&root, &mut gathered).await?;
            None
        }
        Some(top) if top != root => {
            let why = format!("lies in the checkout `{}`; prepare that", top.display());
            return Err(WorkspaceError::source(root, why));
        }
        Some(_) => Some(checkout(&root, &mut gathered).await?),
    };
    if dirty == Dirty::Refuse && !gathered.dirty.is_empty() {
        let names = gathered.dirty.iter().map(Word::text).collect();
        return Err(WorkspaceError::Dirty { path: root, names });
    }
    let include = include.to_vec();
    let gather = move || -> Result<Gathered, WorkspaceError> {
        for path in &include {
            gathered.include(path)?;
        }
        gathered.resolve()?;
        Ok(gathered)
    };
    let gathered = tokio::task::spawn_blocking(gather)
        .await
        .map_err(|err| WorkspaceError::source(root.clone(), format!("cannot be read: {err}")))??;
    let Gathered { wanted, left_out, dirty, notes, .. } = gathered;
    Ok(Source { root, origin, wanted, left_out, dirty: dirty.len(), notes })
}

/// The names in a directory that belongs to no repository, by the same rules: what its `.gitignore` says is left out.
async fn plain(root: &Path, gathered: &mut Gathered) -> Result<(), WorkspaceError> {
    let empty = tempfile::tempdir().map_err(WorkspaceError::read(std::env::temp_dir()))?;
    let git_dir = empty.path().join("git");
    Git::of_ours(empty.path()).init(&git_dir, None, false).await?;
    let git = Git::of_plain(root, &git_dir);
    for path in git.run(&["ls-files", "-z", "--others", "--exclude-standard"]).await?.split(|byte| *byte == 0) {
        gathered.untracked(&[], path);
    }
    let ignored = git.run(&["ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]).await?;
    let ignored =
        ignored.split(|byte| *byte == 0).map(|path| path.strip_suffix(b"/").unwrap_or(path).to_vec()).collect();
    gathered.empty_directories(&ignored);
    Ok(())
}

/// The names in a checkout and in its submodules.
async fn checkout(root: &Path, gathered: &mut Gathered) -> Result<Origin, WorkspaceError> {
    let git = Git::of_source(root);
    let facts = ["rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir", "--show-object-format"];
    let facts = [facts.as_slice(), &["--is-shallow-repository"]].concat();
    let (facts, status) =
        tokio::try_join!(git.run(&facts), names(Checkout { dir: root.into(), prefix: vec![] }, gathered))?;
    let lines: Vec<&[u8]> = facts.split(|byte| *byte == b'\n').collect();
    let [top, common, format, shallow, ..] = lines.as_slice() else {
        return Err(git.failed(&["rev-parse"], "it did not say where the repository is"));
    };
    if Path::new(OsStr::from_bytes(top)) != root {
        let why = format!("belongs to the checkout `{}`; prepare that", String::from_utf8_lossy(top));
        return Err(WorkspaceError::source(root, why));
    }
    Ok(Origin {
        commit: status.commit,
        branch: status.branch,
        sha256: *format == b"sha256",
        shallow: *shallow == b"true",
        common: PathBuf::from(OsStr::from_bytes(common)),
    })
}

async fn names(first: Checkout, gathered: &mut Gathered) -> Result<Status, WorkspaceError> {
    let mut of_first = None;
    let mut todo = vec![first];
    while let Some(checkout) = todo.pop() {
        let git = Git::of_source(&checkout.dir);
        // Changes in submodules are found there.
        let status = ["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames"];
        let status = [status.as_slice(), &["--ignore-submodules=dirty"]].concat();
        let (status, index) = tokio::try_join!(git.run(&status), git.run(&["ls-files", "--stage", "-z"]))?;
        let garbled = |verb| git.failed(&[verb], "what it printed cannot be read");
        let status = parse_status(&status).ok_or_else(|| garbled("status"))?;
        let tracked = match (&status.commit, gathered.choice) {
            (Some(commit), Dirty::Ignore) => git.run(&["ls-tree", "-r", "-z", "--full-tree", commit]).await?,
            (None, Dirty::Ignore) => Vec::new(),
            _ => index,
        };
        let tracked = parse_tracked(&tracked).ok_or_else(|| garbled("ls-files"))?;
        let changed: HashSet<&Word> = status.changed.iter().collect();
        let dir: Arc<Path> = checkout.dir.clone().into();
        let mut has_lfs = false;
        for one in &tracked {
            let path = Word([checkout.prefix.as_slice(), &one.path.0].concat());
            if one.mode == 0o160000 {
                let sub = gathered.root.join(path.os());
                if sub.join(".git").symlink_metadata().is_ok() {
                    let note = "goes in as plain files, without its history";
                    gathered.notes.push(format!("submodule `{}` {note}", path.text()));
                    todo.push(Checkout { dir: sub, prefix: [path.0.as_slice(), b"/"].concat() });
                }
                gathered.directories.insert(path);
                continue;
            }
            has_lfs |= one.path.0.ends_with(b".gitattributes") && says_lfs(&checkout.dir.join(one.path.os()));
            let blob = (one.mode, dir.clone(), one.oid.clone());
            let in_commit = gathered.choice == Dirty::Ignore && (changed.contains(&one.path));
            gathered.names.insert(path, Name { blob: Some(blob), in_commit });
        }
        for path in &status.changed {
            gathered.dirty.push(Word([checkout.prefix.as_slice(), &path.0].concat()));
        }
        for path in &status.untracked {
            if gathered.choice != Dirty::Ignore {
                gathered.untracked(&checkout.prefix, &path.0);
            }
            gathered.dirty.push(Word([checkout.prefix.as_slice(), &path.0].concat()));
        }
        if has_lfs {
            let listed = git.run(&["ls-files", "-z", ":(attr:filter=lfs)"]).await?;
            let listed = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty());
            gathered.lfs.extend(listed.map(|path| Word([checkout.prefix.as_slice(), path].concat())));
        }
        of_first.get_or_insert(status);
    }
    Ok(of_first.unwrap_or_default())
}

fn says_lfs(attributes: &Path) -> bool {
    std::fs::read(attributes).is_ok_and(|text| text.windows(10).any(|window| window == b"filter=lfs"))
}
