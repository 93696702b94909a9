//! How workspaces are: what changed on either side since; and how one is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{EntryKind, Top};

use super::compare::{How, Row, compare};
use super::decide::{Change, Verdict};
use super::git::{Git, parse_tracked};
use super::guest::Tree;
use super::record::Record;
use super::repository::{commit_of, head_commit, is_digest};
use super::source::{self, Content};
use super::{Place, ROOT, Records, WorkspaceError, archive, target_of};
use crate::backend::Engine;
use crate::time::rfc3339;

/// How one workspace is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The agent.
    pub agent: String,
    /// Where in its container.
    pub target: String,
    /// From where.
    pub source: String,
    /// Of the branch that `pull` makes.
    pub name: String,
    /// The commit that was put.
    pub commit: Option<String>,
    /// Whether the agent's user cannot write to it.
    pub read_only: bool,
    /// When it was put.
    pub prepared_at: String,
    /// What the guest has changed; nothing where it cannot be looked at.
    pub guest: Option<GuestState>,
    /// What has changed in the source since; nothing where it cannot be looked at.
    pub host: Option<HostState>,
    /// Why a side could not be looked at.
    pub unknown: Vec<String>,
}

/// What the guest has changed.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestState {
    /// Whether it is there.
    pub exists: bool,
    /// The commit at the head of its repository.
    pub commit: Option<String>,
    /// Its branch.
    pub branch: Option<String>,
    /// Whether it has committed something that was not put.
    pub has_commits: bool,
    /// Files that are other ones.
    pub modified: Vec<String>,
    /// Files that are gone.
    pub deleted: Vec<String>,
    /// Files that were not put.
    pub added: Vec<String>,
}

/// What has changed in the source.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostState {
    /// Its commit now.
    pub commit: Option<String>,
    /// Its branch now.
    pub branch: Option<String>,
    /// How many paths would be put or removed.
    pub changed: usize,
}

/// Those of an agent, or of all. `at` yields where an agent's container is, or why it cannot be looked into.
///
/// # Errors
/// None of one workspace: those are told with it.
pub async fn status<'a, E: Engine + 'a>(
    records: &Records,
    agent: Option<&str>,
    at: impl AsyncFn(&str) -> Result<(&'a E, crate::model::ContainerId), String>,
) -> Vec<State> {
    let mut states = Vec::new();
    for record in records.all(agent) {
        let place = at(&record.agent).await;
        let place = place.map(|(engine, container)| Place {
            engine,
            container,
            agent: &record.agent,
            records,
            patience: Duration::ZERO,
        });
        states.push(one(&record, place).await);
    }
    states
}

async fn one<E: Engine>(record: &Record, place: Result<Place<'_, E>, String>) -> State {
    let mut state = State {
        agent: record.agent.clone(),
        target: record.target.clone(),
        source: record.source.display().to_string(),
        name: record.name.clone(),
        commit: record.repository.as_ref().and_then(|put| put.commit.clone()),
        read_only: record.read_only,
        prepared_at: rfc3339(UNIX_EPOCH.checked_add(Duration::from_millis(record.at)).unwrap_or(UNIX_EPOCH)),
        guest: None,
        host: None,
        unknown: Vec::new(),
    };
    let read = source::read(
        &record.source,
        match record.dirty {
            // It says what there is; nothing goes in.
            source::Dirty::Refuse => source::Dirty::Include,
            dirty => dirty,
        },
        &record.include,
    );
    let looked = async {
        match &place {
            Ok(place) => look(record, place).await.map_err(|err| crate::error::Chain(&err).to_string()),
            Err(why) => Err(why.clone()),
        }
    };
    let (read, looked) = tokio::join!(read, looked);
    let source = read.map_err(|err| state.unknown.push(crate::error::Chain(&err).to_string())).ok();
    if let Some(origin) = source.as_ref().and_then(|source| source.origin.as_ref()) {
        state.host = Some(HostState { commit: origin.commit.clone(), branch: origin.branch.clone(), changed: 0 });
    } else if source.is_some() {
        state.host = Some(HostState::default());
    }
    let (mut tree, top, entries, was_there) = match looked {
        Ok(looked) => looked,
        Err(why) => {
            state.unknown.push(why);
            return state;
        }
    };
    let wanted = source.as_ref().map(|source| &source.wanted);
    let how = How { was_there, force: false };
    match compare(&mut tree, Some(record), wanted, entries, record.read_only, how).await {
        Ok(rows) => {
            if let Some(host) = &mut state.host {
                host.changed = rows.iter().filter(|row| is_news(row)).count();
            }
            state.guest = Some(guest_state(record, &top, &rows));
        }
        Err(err) => state.unknown.push(crate::error::Chain(&err).to_string()),
    }
    state
}

fn is_news(row: &Row) -> bool {
    let is_dir = row.want.as_ref().is_some_and(|(wanted, _)| wanted.kind == EntryKind::Dir);
    !is_dir && matches!(row.verdict, Verdict::Place | Verdict::Remove | Verdict::Keep { conflict: true, .. })
}

type Looked = (Tree, Top, Vec<steadfast_keeper::tree::Entry>, bool);

async fn look<E: Engine>(record: &Record, place: &Place<'_, E>) -> Result<Looked, WorkspaceError> {
    let keeper = place.keeper();
    let owner = record.read_only.then_some(ROOT);
    let (tree, top, entries) = Tree::looked(&keeper, place.agent, owner, &record.target, false).await?;
    let was_there = top.exists && record.container == place.container.to_string();
    Ok((tree, top, entries, was_there))
}

fn guest_state(record: &Record, top: &Top, rows: &[Row]) -> GuestState {
    let head = top.repository.head.text();
    let commit = head_commit(&top.repository).filter(|commit| is_digest(commit));
    let mut state = GuestState {
        exists: top.exists,
        has_commits: !own_commits(record, top).is_empty(),
        branch: head.strip_prefix("ref: refs/heads/").map(str::to_owned),
        commit,
        ..GuestState::default()
    };
    for row in rows {
        let Verdict::Keep { change, .. } = row.verdict else { continue };
        let path = row.path.text();
        match change {
            Change::Modified => state.modified.push(path),
            Change::Deleted => state.deleted.push(path),
            Change::Added if row.seen.as_ref().is_some_and(|entry| entry.kind != EntryKind::Dir) => {
                state.added.push(path)
            }
            Change::Added => {}
        }
    }
    state
}

/// The commits of its references that were not put.
fn own_commits(record: &Record, top: &Top) -> Vec<String> {
    let puts = [&record.repository, &record.pending_repository];
    let is_put = |commit: &String| puts.into_iter().flatten().any(|put| put.commit.as_ref() == Some(commit));
    let refs = top.repository.refs.iter().map(|(name, _)| name.text());
    let commits = refs.filter_map(|name| commit_of(&name, &top.repository)).chain(head_commit(&top.repository));
    let mut commits: Vec<_> = commits.filter(|commit| is_digest(commit) && !is_put(commit)).collect();
    commits.sort();
    commits.dedup();
    commits
}

/// Removes a workspace: what was put into the container, and the record. Whatever is nowhere else keeps it, unless `force`.
///
/// # Errors
/// See [`WorkspaceError`].
pub async fn remove<E: Engine>(place: &Place<'_, E>, target: &str, force: bool) -> Result<(), WorkspaceError> {
    let target = target_of(target)?;
    let _lock = place.records.lock(place.agent, &target, place.patience).await?;
    let Some(record) = place.records.read(place.agent, &target) else {
        return Err(WorkspaceError::Unknown { agent: place.agent.to_owned(), target: Some(target) });
    };
    let (mut tree, top, entries, was_there) = look(&record, place).await?;
    if top.exists {
        if !force {
            let how = How { was_there, force: false };
            let rows = compare(&mut tree, Some(&record), None, entries, record.read_only, how).await?;
            let own: Vec<Word> = rows.iter().filter_map(only_there).cloned().collect();
            let came_back = committed(&mut tree, &record, &top, &own).await?;
            let mut what: Vec<_> = own.iter().filter(|path| !came_back.contains(path)).map(Word::text).collect();
            for commit in own_commits(&record, &top) {
                let git = Git::of_source(&record.source);
                if git.run(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).await.is_err() {
                    what.push(format!("commit {}", super::repository::short(&commit)));
                }
            }
            if !what.is_empty() {
                return Err(WorkspaceError::WouldLose { agent: place.agent.to_owned(), target, what });
            }
        }
        if record.read_only {
            tree.safe(false).await?;
        }
        tree.remove().await?;
        // Whose parent is root's, root alone can take away; where even that fails, an empty directory stays.
        if !record.read_only {
            let mut root = Tree::open(&place.keeper(), place.agent, Some(ROOT), &target).await?;
            let _ = root.remove().await;
        }
    }
    place.records.remove(place.agent, &target)
}

/// What of a path is in the guest alone.
fn only_there(row: &Row) -> Option<&Word> {
    let is_own = matches!(row.verdict, Verdict::Keep { change: Change::Modified | Change::Added, .. });
    (is_own && row.seen.as_ref().is_some_and(|entry| entry.kind != EntryKind::Dir)).then_some(&row.path)
}

/// Which of these are, as they are, in the guest's commit, where that has come back.
async fn committed(
    tree: &mut Tree,
    record: &Record,
    top: &Top,
    own: &[Word],
) -> Result<BTreeSet<Word>, WorkspaceError> {
    let git = Git::of_source(&record.source);
    let known = match head_commit(&top.repository).filter(|commit| is_digest(commit) && !own.is_empty()) {
        Some(commit) => git.run(&["ls-tree", "-r", "-z", "--full-tree", &commit]).await.ok(),
        None => None,
    };
    let Some(listed) = known.and_then(|printed| parse_tracked(&printed)) else { return Ok(BTreeSet::new()) };
    let blobs: BTreeMap<Word, String> = listed.into_iter().map(|one| (one.path, one.oid)).collect();
    let asked: Vec<Word> = own.iter().filter(|path| blobs.contains_key(path)).cloned().collect();
    let there = tree.digests(&asked).await?;
    let checkout: Arc<Path> = record.source.clone().into();
    let compare = move || {
        let is_same = |path: &Word| {
            let blob = Content::Blob(checkout.clone(), blobs.get(path)?.clone());
            Some(archive::digest(&blob).ok()? == *there.get(path)?)
        };
        asked.into_iter().filter(|path| is_same(path) == Some(true)).collect()
    };
    Ok(tokio::task::spawn_blocking(compare).await.unwrap_or_default())
}
