//! Brings the guest's commits back as a branch.
//!
//! The guest's repository is somebody else's word: only objects and the commit at its head are taken, into a repository of our
//! own making without configuration and hooks; git checks each object on its way from there into the source.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use steadfast_keeper::message::Word;
use steadfast_keeper::tree::Top;

use super::git::Git;
use super::guest::Tree;
use super::record::Record;
use super::repository::{head_commit, is_digest, short};
use super::{Place, ROOT, WorkspaceError, target_of};
use crate::backend::Engine;

/// Where it is in our repository.
const PULLED: &str = "refs/heads/pulled";

/// What came back.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    /// The agent.
    pub agent: String,
    /// Where the workspace is.
    pub target: String,
    /// The repository it came back to.
    pub source: String,
    /// The branch; none where the guest has committed nothing.
    pub branch: Option<String>,
    /// The guest's commit.
    pub commit: String,
    /// How many commits it has that were not put.
    pub commits: usize,
    /// Whether the branch was there and at that commit already.
    pub up_to_date: bool,
    /// The guest's other branches with something that was not put; they stay there.
    pub others: Vec<String>,
}

/// Brings them back. A branch that is there is only ever moved on.
///
/// # Errors
/// See [`WorkspaceError`].
pub async fn pull<E: Engine>(place: &Place<'_, E>, target: &str) -> Result<Pulled, WorkspaceError> {
    let target = target_of(target)?;
    let _lock = place.records.lock(place.agent, &target, place.patience).await?;
    let Some(record) = place.records.read(place.agent, &target) else {
        return Err(WorkspaceError::Unknown { agent: place.agent.to_owned(), target: Some(target) });
    };
    let refuse = |why: String| WorkspaceError::NoCommits { agent: place.agent.to_owned(), target: target.clone(), why };
    let Some(put) = &record.repository else {
        return Err(refuse(format!("went in without a repository: `{}` has none", record.source.display())));
    };
    let owner = record.read_only.then_some(ROOT);
    let (mut tree, top, _) = Tree::looked(&place.keeper(), place.agent, owner, &target, false).await?;
    if !top.repository.exists {
        return Err(refuse("has no repository in the container any more".to_owned()));
    }
    let Some(commit) = head_commit(&top.repository).filter(|commit| is_digest(commit)) else {
        return Err(refuse("has no commit at the head of its repository".to_owned()));
    };
    let mut pulled = Pulled {
        agent: place.agent.to_owned(),
        target: target.clone(),
        source: record.source.display().to_string(),
        branch: None,
        commit: commit.clone(),
        commits: 0,
        up_to_date: true,
        others: others(&top, &commit, put.commit.as_deref()),
    };
    if put.commit.as_ref() == Some(&commit) {
        return Ok(pulled);
    }
    let branch = format!("steadfast/{}/{}", place.agent, record.name);
    let source = Git::of_source(&record.source);
    let at = source.line(&["rev-parse", "--verify", "--quiet", &format!("refs/heads/{branch}^{{commit}}")]).await;
    pulled.branch = Some(branch.clone());
    if at.as_ref() != Some(&commit) {
        let dir = tempfile::tempdir().map_err(WorkspaceError::read(std::env::temp_dir()))?;
        let ours = take(&mut tree, &top, &record, &source, &dir.path().join("git"), &commit).await?;
        if let Some(at) = &at
            && !ours.says(&["merge-base", "--is-ancestor", at, &commit]).await?
        {
            let (at, commit) = (short(at).to_owned(), short(&commit).to_owned());
            return Err(WorkspaceError::Diverged { branch, source_dir: record.source.clone(), at, commit });
        }
        fetch(&source, &dir.path().join("git"), &branch).await?;
        pulled.up_to_date = false;
    }
    let not = put.commit.iter().flat_map(|put| ["--not", put]);
    let args: Vec<&str> = ["rev-list", "--count", &commit].into_iter().chain(not).collect();
    pulled.commits = source.line(&args).await.and_then(|count| count.parse().ok()).unwrap_or_default();
    Ok(pulled)
}

/// Branches beside the head with something of their own.
fn others(top: &Top, head: &str, put: Option<&str>) -> Vec<String> {
    let is_own = |commit: &Word| commit.text() != head && Some(commit.text().as_str()) != put;
    let named = top.repository.refs.iter().filter(|(_, commit)| is_own(commit));
    named.filter_map(|(name, _)| name.text().strip_prefix("refs/heads/").map(str::to_owned)).collect()
}

/// Takes the guest's objects into a repository of ours, in which the source's are known too.
async fn take(
    tree: &mut Tree,
    top: &Top,
    record: &Record,
    source: &Git,
    git_dir: &Path,
    commit: &str,
) -> Result<Git, WorkspaceError> {
    let common = source.run(&["rev-parse", "--path-format=absolute", "--git-common-dir"]).await?;
    let common = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(common.trim_ascii_end()));
    let here = Git::of_ours(git_dir.parent().unwrap_or(git_dir));
    here.init(git_dir, None, commit.len() == 64).await?;
    let ours = Git::of_ours(git_dir);
    let write = |name: &str, text: &[u8]| {
        let path = git_dir.join(name);
        let parent = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        parent.and_then(|()| std::fs::write(&path, text)).map_err(WorkspaceError::read(&path))
    };
    let objects = common.join("objects");
    write("objects/info/alternates", &[std::os::unix::ffi::OsStrExt::as_bytes(objects.as_os_str()), b"\n"].concat())?;
    if let Ok(shallow) = std::fs::read(common.join("shallow")) {
        write("shallow", &shallow)?;
    }
    let known = record.repository.as_ref().map(|put| put.packs.as_slice()).unwrap_or_default();
    let wanted: Vec<Word> =
        top.repository.objects.iter().map(|(path, _)| path).filter(|path| is_object(path, known)).cloned().collect();
    let paths: Vec<Word> = wanted.iter().map(|path| Word([b".git/", path.0.as_slice()].concat())).collect();
    let mut file: Option<File> = None;
    tree.read(&paths, |number, piece| {
        if piece.is_empty() {
            // Its name was checked: it leads nowhere else.
            let path = wanted.get(number).map(|path| git_dir.join(path.os())).ok_or(std::io::ErrorKind::InvalidData)?;
            std::fs::create_dir_all(path.parent().unwrap_or(git_dir))?;
            file = Some(File::create(path)?);
        } else if let Some(file) = &mut file {
            file.write_all(piece)?;
        }
        Ok(())
    })
    .await?;
    drop(file);
    for pack in wanted.iter().filter(|path| path.0.ends_with(b".pack")) {
        let path = git_dir.join(pack.os()).display().to_string();
        // Its index is made anew, and each object read for it.
        ours.work(&["index-pack", "--", &path], b"").await?;
    }
    ours.run(&["update-ref", PULLED, commit]).await?;
    Ok(ours)
}

/// Whether a file is an object or a pack of objects by its name, and not one that was put.
fn is_object(path: &Word, known: &[String]) -> bool {
    let Some(below) = std::str::from_utf8(&path.0).ok().and_then(|path| path.strip_prefix("objects/")) else {
        return false;
    };
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match below.split_once('/') {
        Some(("pack", name)) => {
            let Some(stem) = name.strip_suffix(".pack") else { return false };
            stem.strip_prefix("pack-").is_some_and(is_hex) && !known.iter().any(|known| known == stem)
        }
        Some((first, rest)) => first.len() == 2 && is_hex(first) && matches!(rest.len(), 38 | 62) && is_hex(rest),
        None => false,
    }
}

/// Moves them on into the source. Without a plus, git itself refuses what is no descendant.
async fn fetch(source: &Git, from: &Path, branch: &str) -> Result<(), WorkspaceError> {
    let options =
        ["-c", "transfer.fsckObjects=true", "-c", "fetch.fsckObjects=true", "-c", "protocol.file.allow=always"];
    let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-prune"];
    let (from, refs) = (from.display().to_string(), format!("{PULLED}:refs/heads/{branch}"));
    let end = ["--refmap=", "--update-shallow", "--", &from, &refs];
    source.work(&[options.as_slice(), &fetch, &end].concat(), b"").await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_taken() {
        let known = ["pack-aa".to_owned()];
        let object = format!("objects/ab/{}", "c".repeat(38));
        for taken in [object.as_str(), "objects/pack/pack-bb.pack"] {
            assert!(is_object(&taken.into(), &known), "{taken}");
        }
        for left in [
            "objects/info/alternates",
            "objects/pack/pack-aa.pack",
            "objects/pack/pack-bb.idx",
            "objects/pack/../../config.pack",
            "objects/ab/../../hooks/post-update",
            "objects/ab",
            "hooks/post-checkout",
            "config",
            "../objects/ab/cd",
        ] {
            assert!(!is_object(&left.into(), &known), "{left}");
        }
    }
}
