//! Brings a source into a container, or what of it is new.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use steadfast_keeper::message::{Word, now};
use steadfast_keeper::tree::{Entry, EntryKind, Expected, Outcome, STAGE, Stamp, Step, Task, Top};

use super::archive::{self, Item};
use super::compare::{How, Row, compare};
use super::decide::{Change, Verdict};
use super::gather::stamp_of;
use super::git::Git;
use super::guest::Tree;
use super::record::{Put, Record, Value};
use super::report::{Kept, Prepared, RepositoryOutcome};
use super::repository::{self, Made, Plan, head_commit};
use super::source::{self, Content, Source};
use super::summary::Summary;
use super::{Place, ROOT, Workspace, WorkspaceError, target_of};
use crate::backend::Engine;

/// Brings it there. What the guest changed is kept and told, unless `force`.
///
/// # Errors
/// See [`WorkspaceError`].
pub async fn prepare<E: Engine>(
    place: &Place<'_, E>,
    want: &Workspace,
    force: bool,
) -> Result<Prepared, WorkspaceError> {
    let target = target_of(&want.target)?;
    let _lock = place.records.lock(place.agent, &target, place.patience).await?;
    let record = place.records.read(place.agent, &target);
    let keeper = place.keeper();
    let owner = want.read_only.then_some(ROOT);
    let look = Tree::looked(&keeper, place.agent, owner, &target, true);
    // Who must not be able to write is asked only where that is not known yet.
    let is_proved =
        |record: &Record| record.proved && record.read_only && record.container == place.container.to_string();
    let must_prove = want.read_only && !record.as_ref().is_some_and(is_proved);
    let watcher = async {
        if !must_prove {
            return Ok(None);
        }
        let (tree, top, _) = Tree::looked(&keeper, place.agent, None, &target, false).await?;
        Ok::<_, WorkspaceError>(Some((tree, top.uid)))
    };
    // The first conversation may have to put the keeper there; the second finds it.
    let watched = async {
        let looked = look.await?;
        Ok::<_, WorkspaceError>((looked, watcher.await?))
    };
    let (source, ((tree, top, entries), watcher)) =
        tokio::try_join!(source::read(&want.source, want.dirty, &want.include), watched)?;
    if let Some((_, 0)) = watcher {
        return Err(WorkspaceError::target(
            &target,
            "cannot be read-only: the agent's user is root, who may write anywhere",
        ));
    }
    let mut preparing = Preparing::begin(place, want, target, record, source, top, tree);
    let work = preparing.decide(entries, force).await?;
    preparing.carry_out(work).await?;
    if let Some((mut watcher, _)) = watcher {
        if let Some(found) = watcher.writable().await? {
            let (agent, target) = (place.agent.to_owned(), preparing.record.target.clone());
            return Err(WorkspaceError::Writable { agent, target, found: found.text() });
        }
        preparing.record.proved = true;
    }
    preparing.end().await
}

struct Preparing<'a, E> {
    place: &'a Place<'a, E>,
    want: &'a Workspace,
    source: Source,
    record: Record,
    was: Option<Record>,
    top: Top,
    tree: Tree,
    told: Prepared,
}

/// What is to be done.
struct Work {
    steps: Vec<Step>,
    items: Vec<(usize, Content, u32)>,
    /// What stands at each path when its step is taken, and how the file here is.
    values: BTreeMap<Word, (Value, Option<Stamp>, Option<usize>)>,
    /// The repository is made, from this earlier commit on.
    make: Option<Option<String>>,
}

impl<'a, E: Engine> Preparing<'a, E> {
    fn begin(
        place: &'a Place<'a, E>,
        want: &'a Workspace,
        target: String,
        was: Option<Record>,
        source: Source,
        top: Top,
        tree: Tree,
    ) -> Self {
        let had = was.as_ref().map(|was| was.name.clone());
        let name = want.name.clone().or(had).unwrap_or_else(|| free_name(place, &target));
        let mut record = was.clone().unwrap_or_else(|| Record::new(place.agent, &target, name.clone(), &source.root));
        record.source.clone_from(&source.root);
        record.asked.clone_from(&want.source);
        record.name.clone_from(&name);
        record.proved &= record.container == place.container.to_string() && record.read_only == want.read_only;
        record.container = place.container.to_string();
        (record.read_only, record.dirty) = (want.read_only, want.dirty);
        record.include.clone_from(&want.include);
        let origin = source.origin.as_ref();
        let told = Prepared {
            agent: place.agent.to_owned(),
            target,
            source: source.root.display().to_string(),
            name,
            commit: origin.and_then(|origin| origin.commit.clone()),
            branch: origin.and_then(|origin| origin.branch.clone()),
            read_only: want.read_only,
            repository: RepositoryOutcome::None,
            files: source.wanted.values().filter(|wanted| wanted.kind != EntryKind::Dir).count(),
            put: 0,
            removed: 0,
            bytes: 0,
            dirty: source.dirty,
            kept: Vec::new(),
            added: 0,
            left_out: source.left_out.clone(),
            notes: source.notes.clone(),
            warnings: Vec::new(),
        };
        Self { place, want, source, record, was, top, tree, told }
    }

    /// Whether this is the container that it was put into, and its tree is there.
    fn was_there(&self) -> bool {
        self.top.exists && self.was.as_ref().is_some_and(|was| was.container == self.record.container)
    }

    async fn decide(&mut self, entries: Vec<Entry>, force: bool) -> Result<Work, WorkspaceError> {
        let how = How { was_there: self.was_there(), force };
        let foreign = self.top.exists && self.top.uid != 0 && self.top.owner != self.top.uid;
        if foreign && (self.top.repository.exists || !entries.is_empty()) {
            let why = format!(
                "belongs to user {} in the container, and the agent's user is {}",
                self.top.owner, self.top.uid
            );
            return Err(WorkspaceError::target(&self.record.target, why));
        }
        let wanted = Some(&self.source.wanted);
        let rows = compare(&mut self.tree, self.was.as_ref(), wanted, entries, self.want.read_only, how).await?;
        let mut work = Work { steps: Vec::new(), items: Vec::new(), values: BTreeMap::new(), make: None };
        // What goes, the deepest first; then what comes, each directory before what is in it.
        for row in rows.iter().rev().filter(|row| row.verdict == Verdict::Remove) {
            work.steps.push(Step { path: row.path.0.clone(), expected: expected(row), task: Task::Remove });
        }
        for row in rows {
            self.take(row, &mut work);
        }
        self.decide_repository(force, &mut work).await?;
        Ok(work)
    }

    fn take(&mut self, row: Row, work: &mut Work) {
        match (row.verdict, &row.want) {
            (Verdict::Keep { change: Change::Added, conflict: false }, _) => {
                if row.seen.as_ref().is_some_and(|entry| entry.kind != EntryKind::Dir) {
                    self.told.added += 1;
                }
            }
            (Verdict::Keep { change, conflict }, _) => self.told.kept.push(Kept { path: row.path, change, conflict }),
            (Verdict::Adopt, Some((wanted, value))) => {
                let guest = row.seen.map(|entry| entry.stamp);
                self.record
                    .put
                    .insert(row.path, Put { value: value.clone(), host: host_stamp(&wanted.content), guest });
            }
            (Verdict::Place, Some((wanted, value))) => {
                let (task, number) = match wanted.kind {
                    EntryKind::Dir => (Task::Dir(value.mode), None),
                    EntryKind::Link => (Task::Link(wanted.link.clone()), None),
                    EntryKind::File | EntryKind::Other => {
                        let number = work.items.len();
                        work.items.push((number, wanted.content.clone(), value.mode));
                        (Task::File(number as u64), Some(number))
                    }
                };
                work.steps.push(Step { path: row.path.0.clone(), expected: expected(&row), task });
                work.values.insert(row.path, (value.clone(), host_stamp(&wanted.content), number));
            }
            (Verdict::Forget, _) => {
                self.record.put.remove(&row.path);
            }
            (Verdict::Adopt | Verdict::Place | Verdict::Remove, _) => {}
        }
    }

    async fn decide_repository(&mut self, force: bool, work: &mut Work) -> Result<(), WorkspaceError> {
        let Some(origin) = &self.source.origin else { return Ok(()) };
        let was = self.was.as_ref();
        let puts: Vec<_> = was.iter().flat_map(|was| [&was.repository, &was.pending_repository]).flatten().collect();
        let holds = holds(&self.source.root, head_commit(&self.top.repository), origin.commit.clone()).await;
        let plan = repository::decide(&puts, Some(origin), &self.top.repository, holds, force);
        let from = match plan {
            Plan::None => return Ok(()),
            Plan::Unchanged => {
                let (branch, commit) = (origin.branch.clone(), origin.commit.clone());
                let had = puts.iter().find(|put| put.branch == branch && put.commit == commit);
                let packs = puts.first().map(|put| put.packs.clone()).unwrap_or_default();
                let put = had.map_or_else(
                    || super::record::PutRepository { branch, commit, packs, index: None },
                    |put| (*put).clone(),
                );
                self.record.repository = Some(put);
                self.told.repository = RepositoryOutcome::Unchanged;
                return Ok(());
            }
            Plan::Kept(why) => {
                self.told.repository = RepositoryOutcome::Kept;
                self.told.notes.push(why);
                return Ok(());
            }
            Plan::Put => None,
            Plan::Update { from } => Some(from),
        };
        self.told.repository = if from.is_some() { RepositoryOutcome::Updated } else { RepositoryOutcome::Put };
        if self.top.repository.exists {
            // What was staged there and never committed is in its index alone.
            let index = Word::from(".git/index");
            let digest = self.tree.digests(std::slice::from_ref(&index)).await?.remove(&index);
            let is_ours = puts.iter().any(|put| put.index.is_some() && put.index == digest);
            if digest.is_some() && !is_ours {
                let task = Task::Rename(b".git/index.steadfast-before".to_vec());
                work.steps.push(Step { path: index.0, expected: Expected::Anything, task });
            }
        }
        work.make = Some(from);
        Ok(())
    }

    async fn carry_out(&mut self, mut work: Work) -> Result<(), WorkspaceError> {
        if work.steps.is_empty() && work.make.is_none() && (self.top.exists || self.source.wanted.is_empty()) {
            return Ok(());
        }
        let stage = format!("{}{:016x}", String::from_utf8_lossy(STAGE), fastrand::u64(..));
        let (digests, made) = self.send(&stage, &mut work).await?;
        let value_of = |path: &Word| {
            let (value, host, number) = work.values.get(path)?;
            let digest = number.and_then(|number| digests.get(&number).cloned()).unwrap_or_default();
            Some((Value { digest, ..value.clone() }, *host))
        };
        // From here on it may be there or not, and is ours in either case.
        let pending = work.values.keys().filter_map(|path| Some((path.clone(), value_of(path)?.0)));
        let made = made.map(|made| made.put);
        let mut meanwhile = self.record.clone();
        meanwhile.pending.extend(pending);
        meanwhile.pending_repository = made.clone().or(meanwhile.pending_repository);
        self.place.records.write(&meanwhile)?;
        let mut refused = BTreeSet::new();
        for outcome in self.tree.place(&stage, &work.steps).await? {
            match outcome {
                Outcome::Placed(entry) => {
                    let path = Word(entry.path);
                    match value_of(&path) {
                        Some((value, host)) => {
                            self.told.put += usize::from(value.kind != EntryKind::Dir);
                            self.record.put.insert(path, Put { value, host, guest: Some(entry.stamp) });
                        }
                        // A directory that is not empty stays, as the guest's own.
                        None => drop(self.record.put.remove(&path)),
                    }
                }
                Outcome::Gone(path) => {
                    let was = self.record.put.remove(&Word(path));
                    self.told.removed += usize::from(was.is_some_and(|was| was.value.kind != EntryKind::Dir));
                }
                Outcome::Kept(path, why) => {
                    let path = Word(path);
                    self.told.warnings.push(format!("`{}` was not put: {why}", path.text()));
                    refused.insert(path);
                }
            }
        }
        let is_git = |path: &Word| path.0 == b".git" || path.0.starts_with(b".git/");
        if let Some(put) = made.filter(|_| !refused.iter().any(is_git)) {
            let earlier = self.record.repository.take().map(|earlier| earlier.packs).unwrap_or_default();
            let packs = earlier.into_iter().chain(put.packs).collect::<BTreeSet<_>>().into_iter().collect();
            self.record.repository = Some(super::record::PutRepository { packs, ..put });
        }
        Ok(())
    }

    /// Sends the files into a directory in the tree, and makes that first where there is none. The repository is made meanwhile.
    /// Yields their digests.
    async fn send(
        &mut self,
        stage: &str,
        work: &mut Work,
    ) -> Result<(BTreeMap<usize, String>, Option<Made>), WorkspaceError> {
        let base = Path::new(self.top.base.os());
        let is_foreign = self.top.exists && self.top.owner != self.top.uid;
        let (directory, names) = match (base.parent(), base.file_name()) {
            // It is empty, and becomes its user's.
            (Some(parent), Some(name)) if is_foreign => (parent, vec![Word::from(name.to_owned())]),
            _ => (base, self.top.missing.clone()),
        };
        let (mut items, mut way) = (Vec::new(), String::new());
        let not_text = || WorkspaceError::target(&self.record.target, "leads through a name that is no text");
        for name in names.iter().map(Word::os).chain([std::ffi::OsStr::new(stage)]) {
            way += &format!("{}/", name.to_str().ok_or_else(not_text)?);
            let mode = if name == stage { 0o700 } else { 0o755 };
            items.push(Item::Dir { path: way.clone(), mode });
        }
        items.extend(work.items.iter().map(|(number, content, mode)| Item::File {
            path: format!("{way}{number}"),
            mode: *mode,
            content: content.clone(),
            number: *number,
        }));
        let (later, rest) = std::sync::mpsc::channel();
        let rest = work.make.is_some().then_some(rest);
        let (archive, sent) = archive::stream(items, rest, (self.top.uid, self.top.gid));
        let directory = directory.to_str().ok_or_else(not_text)?;
        let make = async {
            let (Some(from), Some(origin)) = (&work.make, &self.source.origin) else { return Ok(None) };
            let made = repository::make(&self.source.root, origin, from.as_deref()).await?;
            let (items, steps) = parts(&made, work.items.len(), &way)?;
            // Who does not take it has broken off, and says why.
            let _ = later.send(items);
            drop(later);
            Ok::<_, WorkspaceError>(Some((made, steps)))
        };
        let (made, put) = tokio::join!(make, self.place.engine.put(&self.place.container, directory, archive));
        let made = made?;
        put?;
        let made = made.map(|(made, steps)| {
            work.steps.extend(steps);
            made
        });
        let sent = std::mem::take(&mut *crate::mutex::guard(&sent));
        self.told.bytes = sent.bytes;
        Ok((sent.digests.into_iter().collect(), made))
    }

    async fn end(mut self) -> Result<Prepared, WorkspaceError> {
        let has_repository = self.source.origin.is_some();
        if self.want.read_only
            && has_repository
            && !self.was.as_ref().is_some_and(|was| was.proved && self.record.proved)
        {
            // git of the agent's user refuses what belongs to somebody else.
            if let Some(why) = self.tree.safe(true).await? {
                let target = &self.record.target;
                self.told.notes.push(format!(
                    "git in the container could not be told that {target} is safe ({why}): `git -c safe.directory={target} …` there"
                ));
            }
        }
        (self.record.pending, self.record.pending_repository) = (Vec::new(), None);
        let is_news = self.was.as_ref().is_none_or(|was| !was.is_same(&self.record));
        if is_news {
            self.record.at = now();
            self.place.records.write(&self.record)?;
        }
        let kept = self.told.kept.iter().filter(|kept| kept.conflict).count();
        let fingerprint = if self.told.warnings.is_empty() { self.source.fingerprint() } else { String::new() };
        self.place.records.summarise(&Summary::of(&self.record, kept, fingerprint))?;
        Ok(self.told)
    }
}

/// Whether the wanted commit builds on what the guest's head is at.
async fn holds(root: &Path, theirs: Option<String>, ours: Option<String>) -> bool {
    let (Some(theirs), Some(ours)) = (theirs, ours) else { return false };
    if !repository::is_digest(&theirs) || theirs == ours {
        return false;
    }
    // One that is not known here is none that it builds on.
    Git::of_source(root).says(&["merge-base", "--is-ancestor", &theirs, &ours]).await.unwrap_or(false)
}

/// What of a repository is sent, from this number on, and its steps.
fn parts(made: &Made, first: usize, way: &str) -> Result<(Vec<Item>, Vec<Step>), WorkspaceError> {
    let (mut items, mut steps) = (Vec::new(), Vec::new());
    for part in &made.parts {
        let task = match part.kind {
            EntryKind::Dir => Task::Dir(part.mode),
            _ => {
                let number = first + items.len();
                let found = part.file.symlink_metadata().map_err(WorkspaceError::read(&part.file))?;
                let content = Content::Disk(part.file.clone(), stamp_of(&found));
                items.push(Item::File { path: format!("{way}{number}"), mode: part.mode, content, number });
                Task::File(number as u64)
            }
        };
        steps.push(Step { path: part.path.0.clone(), expected: Expected::Anything, task });
    }
    Ok((items, steps))
}

fn host_stamp(content: &Content) -> Option<Stamp> {
    match content {
        Content::Disk(_, stamp) => Some(*stamp),
        _ => None,
    }
}

fn expected(row: &Row) -> Expected {
    row.seen.as_ref().map_or(Expected::Absent, |entry| Expected::Seen(entry.kind, entry.stamp))
}

/// The target's last name, as far as a branch may be called so, and no other workspace of the agent is.
fn free_name<E: Engine>(place: &Place<'_, E>, target: &str) -> String {
    let last = target.rsplit('/').next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let plain: String = last.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let plain = if plain.is_empty() { "workspace" } else { plain };
    let taken: Vec<_> = place.records.all(Some(place.agent)).into_iter().map(|record| record.name).collect();
    match taken.iter().any(|name| name == plain) {
        false => plain.to_owned(),
        true => format!("{plain}-{}", super::hex(&super::sha256(target.as_bytes())).get(..6).unwrap_or_default()),
    }
}
