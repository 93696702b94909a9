//! The guest's own repository, made here from the commits: nothing of the source's configuration, hooks or remotes is in it,
//! nothing of its other branches, and nothing that was only staged or thrown away.

use std::path::{Path, PathBuf};

use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{EntryKind, Repository};

use super::WorkspaceError;
use super::git::Git;
use super::record::PutRepository;
use super::source::Origin;

/// The branch where the source has none: its head is detached, or has a name that is none.
const NO_BRANCH: &str = "main";

impl Git {
    /// Makes an empty repository without a template, and so without hooks.
    pub(super) async fn init(&self, git_dir: &Path, branch: Option<&str>, sha256: bool) -> Result<(), WorkspaceError> {
        let branch = format!("--initial-branch={}", branch.unwrap_or(NO_BRANCH));
        let format = if sha256 { "--object-format=sha256" } else { "--object-format=sha1" };
        let dir = git_dir.display().to_string();
        // Not by `--git-dir`, which it would make a repository of.
        let here = Git::of_source(git_dir.parent().unwrap_or(git_dir));
        here.run(&["init", "--quiet", "--bare", "--template=", &branch, format, "--", &dir]).await.map(drop)
    }
}

/// What is to be done about the guest's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// The source has none.
    None,
    /// It has what is wanted.
    Unchanged,
    /// There is none, or it is to be as if there were none.
    Put,
    /// It has an earlier commit, and nothing of its own on that branch.
    Update {
        /// The commit that it has.
        from: String,
    },
    /// It has something of its own.
    Kept(String),
}

/// Decides by what was put, what is wanted, and what is there.
/// `holds` tells whether the wanted commit builds on what is at the guest's head.
pub(super) fn decide(
    puts: &[&PutRepository],
    want: Option<&Origin>,
    seen: &Repository,
    holds: bool,
    force: bool,
) -> Plan {
    let Some(want) = want else { return Plan::None };
    // What a killed preparation left has no head yet: it is written last.
    if !seen.exists || (seen.head.0.is_empty() && seen.refs.is_empty()) {
        return Plan::Put;
    }
    if is_at(want.branch.as_deref(), want.commit.as_deref(), seen) {
        return Plan::Unchanged;
    }
    if let Some(put) = puts.iter().find(|put| is_at(put.branch.as_deref(), put.commit.as_deref(), seen)) {
        return match &put.commit {
            Some(from) => Plan::Update { from: from.clone() },
            None => Plan::Put,
        };
    }
    // What it committed has come back, and is in what is wanted now.
    let is_on = want.branch.as_ref().is_some_and(|branch| seen.head.text() == format!("ref: refs/heads/{branch}"));
    if let Some(from) = head_commit(seen).filter(|_| holds && is_on) {
        return Plan::Update { from };
    }
    if force {
        return Plan::Put;
    }
    let head = seen.head.text();
    let at = match head.strip_prefix("ref: refs/heads/") {
        Some(branch) => match commit_of(&format!("refs/heads/{branch}"), seen) {
            Some(commit) => format!("branch {branch} at {}", short(&commit)),
            None => format!("branch {branch}, without a commit"),
        },
        None => format!("{}, on no branch", short(&head)),
    };
    let was = match puts.first() {
        Some(put) => format!("and was put at {}", put.commit.as_deref().map_or("none", short)),
        None => "and was not put from here".to_owned(),
    };
    Plan::Kept(format!("its repository is at {at}, {was}"))
}

/// Whether head and branch are there.
fn is_at(branch: Option<&str>, commit: Option<&str>, seen: &Repository) -> bool {
    match branch {
        Some(branch) => {
            let reference = format!("refs/heads/{branch}");
            seen.head.text() == format!("ref: {reference}") && commit_of(&reference, seen).as_deref() == commit
        }
        None => commit == Some(seen.head.text().as_str()),
    }
}

/// Where a reference points to.
pub(super) fn commit_of(reference: &str, seen: &Repository) -> Option<String> {
    let reference = Word::from(reference);
    seen.refs.iter().find(|(name, _)| *name == reference).map(|(_, commit)| commit.text())
}

/// The commit at the head.
pub(super) fn head_commit(seen: &Repository) -> Option<String> {
    let head = seen.head.text();
    match head.strip_prefix("ref: ") {
        Some(reference) => commit_of(reference, seen),
        None => Some(head),
    }
}

/// Whether it is the name of an object, and nothing else.
pub(super) fn is_digest(commit: &str) -> bool {
    matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first digits of a commit.
pub(super) fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// A file or directory that goes into the guest's `.git`.
#[derive(Debug)]
pub(super) struct Part {
    /// Below the tree.
    pub(super) path: Word,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    /// Where it is here, when it is a file.
    pub(super) file: PathBuf,
}

/// A repository that was made here, in the order in which it goes in: what refers to something comes after it, the head last.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) parts: Vec<Part>,
    pub(super) put: PutRepository,
    _dir: tempfile::TempDir,
}

/// Makes it, with what the guest does not have from before. `from` is the commit it has.
pub(super) async fn make(source: &Path, origin: &Origin, from: Option<&str>) -> Result<Made, WorkspaceError> {
    let dir = tempfile::tempdir().map_err(WorkspaceError::read(std::env::temp_dir()))?;
    let git_dir = dir.path().join("git");
    let here = Git::of_ours(dir.path());
    here.init(&git_dir, origin.branch.as_deref(), origin.sha256).await?;
    let ours = Git::of_ours(&git_dir);
    let mut packs = Vec::new();
    if let Some(commit) = &origin.commit {
        packs = pack(source, &git_dir, commit, from).await?;
        let shallow = origin.common.join("shallow");
        if origin.shallow {
            std::fs::copy(&shallow, git_dir.join("shallow")).map_err(WorkspaceError::read(&shallow))?;
        }
        write_head(&git_dir, origin.branch.as_deref(), commit)?;
        index(source, &git_dir, commit).await?;
    }
    ours.run(&["config", "core.bare", "false"]).await?;
    ours.run(&["config", "core.logAllRefUpdates", "true"]).await?;
    let read = |path: &Path| std::fs::read(path).map_err(WorkspaceError::read(path));
    let index = git_dir.join("index");
    let index = if index.exists() { Some(super::hex(&super::sha256(&read(&index)?))) } else { None };
    let put = PutRepository { branch: origin.branch.clone(), commit: origin.commit.clone(), packs, index };
    Ok(Made { parts: parts(&git_dir, from.is_some())?, put, _dir: dir })
}

/// Packs the commits with all that belongs to them.
async fn pack(source: &Path, git_dir: &Path, commit: &str, from: Option<&str>) -> Result<Vec<String>, WorkspaceError> {
    let from_source = Git::of_source(source);
    // The earlier one may be gone from here.
    let from = match from {
        Some(from) => {
            let known = from_source.run(&["cat-file", "-e", &format!("{from}^{{commit}}")]).await;
            known.ok().map(|_| from)
        }
        None => None,
    };
    let base = git_dir.join("objects/pack/pack").display().to_string();
    // Deltas that are there are used; to look for more costs more than they save. The head is a commit and no option.
    let args = ["-c", "pack.compression=1", "pack-objects", "--quiet", "--revs", "--delta-base-offset", "--window=0"];
    let revisions = match from {
        Some(from) => format!("{commit}\n^{from}\n"),
        None => format!("{commit}\n"),
    };
    let printed = from_source.work(&[args.as_slice(), &[&base]].concat(), revisions.as_bytes()).await?;
    let printed = String::from_utf8_lossy(&printed);
    Ok(printed.lines().map(|digest| format!("pack-{}", digest.trim())).collect())
}

/// Writes the branch and the head as git would: their objects are there already.
fn write_head(git_dir: &Path, branch: Option<&str>, commit: &str) -> Result<(), WorkspaceError> {
    let write = |path: PathBuf, text: String| {
        let parent = path.parent().unwrap_or(git_dir);
        std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text)).map_err(WorkspaceError::read(&path))
    };
    match branch {
        Some(branch) => write(git_dir.join("refs/heads").join(branch), format!("{commit}\n")),
        None => write(git_dir.join("HEAD"), format!("{commit}\n")),
    }
}

/// The index of that commit. The tree may have been packed for an earlier preparation: the source's objects are looked at too.
async fn index(source: &Path, git_dir: &Path, commit: &str) -> Result<(), WorkspaceError> {
    let from_source = Git::of_source(source);
    let file = git_dir.join("index");
    let mut command = from_source.command(&["-c", "core.splitIndex=false", "read-tree", commit]);
    command.env("GIT_INDEX_FILE", &file);
    let told = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let told = told.map_err(WorkspaceError::read(&file))?;
    if told.status.success() {
        return Ok(());
    }
    Err(from_source.failed(&["read-tree"], String::from_utf8_lossy(&told.stderr).trim()))
}

/// What of it goes in. Of a later preparation only what is new.
fn parts(git_dir: &Path, is_later: bool) -> Result<Vec<Part>, WorkspaceError> {
    let (mut dirs, mut files) = (Vec::new(), Vec::new());
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let whole = git_dir.join(&below);
        for entry in std::fs::read_dir(&whole).map_err(WorkspaceError::read(&whole))? {
            let entry = entry.map_err(WorkspaceError::read(&whole))?;
            let path = below.join(entry.file_name());
            let is_dir = entry.file_type().map_err(WorkspaceError::read(&whole))?.is_dir();
            match is_dir {
                true => {
                    todo.push(path.clone());
                    dirs.push(path);
                }
                false => files.push(path),
            }
        }
    }
    let rank = |path: &Path| match path {
        _ if path.starts_with("objects") && path.extension().is_some_and(|ending| ending == "pack") => 0,
        _ if path.starts_with("objects") => 1,
        _ if path.starts_with("refs") => 3,
        _ if path == Path::new("HEAD") => 4,
        _ => 2,
    };
    files.retain(|path| !is_later || path != Path::new("config"));
    files.sort_by_key(|path| (rank(path), path.clone()));
    dirs.sort();
    let part = |path: &Path, kind, mode| Part {
        path: Word::from(Path::new(".git").join(path).into_os_string()),
        kind,
        mode,
        file: git_dir.join(path),
    };
    let mut parts = vec![part(Path::new(""), EntryKind::Dir, 0o755)];
    if let Some(first) = parts.first_mut() {
        first.path = Word::from(".git");
    }
    parts.extend(dirs.iter().map(|path| part(path, EntryKind::Dir, 0o755)));
    parts.extend(files.iter().map(|path| part(path, EntryKind::File, if rank(path) < 2 { 0o444 } else { 0o644 })));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn seen(head: &str, refs: &[(&str, &str)]) -> Repository {
        let refs = refs.iter().map(|(name, commit)| (Word::from(*name), Word::from(*commit))).collect();
        Repository { exists: true, head: head.into(), refs, objects: Vec::new() }
    }

    fn want(branch: Option<&str>, commit: &str) -> Origin {
        let (branch, commit) = (branch.map(str::to_owned), Some(commit.to_owned()));
        Origin { commit, branch, sha256: false, shallow: false, common: PathBuf::new() }
    }

    fn put(commit: &str) -> PutRepository {
        PutRepository { branch: Some("main".into()), commit: Some(commit.into()), packs: Vec::new(), index: None }
    }

    #[test]
    fn what_the_guest_committed_is_kept() {
        let main = want(Some("main"), TWO);
        let at = |commit| seen("ref: refs/heads/main", &[("refs/heads/main", commit)]);
        let nothing = Repository::default();
        assert_eq!(decide(&[], None, &at(ONE), false, false), Plan::None);
        assert_eq!(decide(&[], Some(&main), &nothing, false, false), Plan::Put);
        assert_eq!(decide(&[&put(ONE)], Some(&main), &seen("", &[]), false, false), Plan::Put);
        assert_eq!(decide(&[], Some(&main), &at(TWO), false, false), Plan::Unchanged);
        assert_eq!(decide(&[&put(ONE)], Some(&main), &at(ONE), false, false), Plan::Update { from: ONE.into() });
        for own in [at("3"), seen("ref: refs/heads/topic", &[("refs/heads/main", ONE)]), seen(ONE, &[])] {
            assert!(matches!(decide(&[&put(ONE)], Some(&main), &own, false, false), Plan::Kept(_)), "{own:?}");
            assert_eq!(decide(&[&put(ONE)], Some(&main), &own, false, true), Plan::Put);
        }
        assert_eq!(decide(&[&put(ONE)], Some(&main), &at("3"), true, false), Plan::Update { from: "3".into() });
        // Without a record nothing of it is known to be ours.
        let Plan::Kept(why) = decide(&[], Some(&main), &at(ONE), false, false) else { panic!() };
        assert_eq!(why, "its repository is at branch main at 1111111111, and was not put from here");
        assert_eq!(decide(&[], Some(&want(None, ONE)), &seen(ONE, &[]), false, false), Plan::Unchanged);
    }
}
