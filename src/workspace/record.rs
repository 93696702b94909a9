//! What was put into a workspace, kept on this machine: to know what the guest changed, and to move the difference only.
//!
//! It may be lost: then nothing in the guest is known to be ours, and all that differs from the source is the guest's own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{EntryKind, Stamp};

use super::source::Dirty;
use super::{WorkspaceError, hex, sha256};
use crate::files::{self, Lock};

/// How records are written now.
const VERSION: u32 = 1;

/// What stands at a path, without when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Value {
    #[serde(rename = "k")]
    pub(super) kind: EntryKind,
    #[serde(rename = "m")]
    pub(super) mode: u32,
    /// Of a file, the sha256 in hex.
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub(super) digest: String,
    /// Of a link, where to.
    #[serde(rename = "l", default, skip_serializing_if = "is_empty")]
    pub(super) link: Word,
}

fn is_empty(word: &Word) -> bool {
    word.0.is_empty()
}

impl Value {
    /// Whether the two are the same to whoever works with them. Modes of directories and links are nobody's concern.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.kind == other.kind
            && match self.kind {
                EntryKind::File => self.mode == other.mode && self.digest == other.digest && !self.digest.is_empty(),
                EntryKind::Link => self.link == other.link,
                EntryKind::Dir => true,
                EntryKind::Other => false,
            }
    }
}

/// What was put at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Put {
    #[serde(rename = "v")]
    pub(super) value: Value,
    /// How the file on this machine was then: while it is so, it need not be read again.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<Stamp>,
    /// How it stood in the guest then.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<Stamp>,
}

/// The guest's repository as it was put.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PutRepository {
    pub(super) branch: Option<String>,
    pub(super) commit: Option<String>,
    /// Names of packs that went in.
    pub(super) packs: Vec<String>,
    /// The digest of its index.
    pub(super) index: Option<String>,
}

/// One workspace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    version: u32,
    pub(super) agent: String,
    pub(super) target: String,
    /// Of the branch that its commits come back as.
    pub(super) name: String,
    pub(super) source: PathBuf,
    /// The source as it was asked for: what links it goes through is not resolved.
    #[serde(default)]
    pub(super) asked: PathBuf,
    pub(super) read_only: bool,
    pub(super) dirty: Dirty,
    pub(super) include: Vec<PathBuf>,
    /// In which container.
    pub(super) container: String,
    /// Whether it was found not to be writable there.
    #[serde(default)]
    pub(super) proved: bool,
    /// When it was last put, in milliseconds since 1970.
    pub(super) at: u64,
    #[serde(default)]
    pub(super) repository: Option<PutRepository>,
    /// As `pending`.
    #[serde(default)]
    pub(super) pending_repository: Option<PutRepository>,
    /// What was on its way when this was written: it may be there or not.
    #[serde(default)]
    pub(super) pending: Vec<(Word, Value)>,
    entries: Vec<(Word, Put)>,
    #[serde(skip)]
    pub(super) put: BTreeMap<Word, Put>,
}

impl Record {
    pub(super) fn new(agent: &str, target: &str, name: String, source: &Path) -> Self {
        Self {
            version: VERSION,
            agent: agent.to_owned(),
            target: target.to_owned(),
            name,
            source: source.to_owned(),
            asked: PathBuf::new(),
            read_only: false,
            dirty: Dirty::default(),
            include: Vec::new(),
            container: String::new(),
            proved: false,
            at: 0,
            repository: None,
            pending_repository: None,
            pending: Vec::new(),
            entries: Vec::new(),
            put: BTreeMap::new(),
        }
    }

    /// Whether it says the same, whenever it was written.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let facts =
            |record: &Self| (record.name.clone(), record.source.clone(), record.read_only, record.dirty, record.proved);
        facts(self) == facts(other)
            && self.include == other.include
            && self.container == other.container
            && self.repository == other.repository
            && self.pending_repository == other.pending_repository
            && self.pending == other.pending
            && self.put == other.put
    }
}

/// The records of one state file.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// Below the state directory of that file.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("workspaces") }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, agent: &str, target: &str) -> PathBuf {
        let digest = hex(&sha256(target.as_bytes()));
        self.dir.join(format!("{agent}-{}.json", digest.get(..12).unwrap_or_default()))
    }

    /// Keeps others from working on it, for as long as what this yields lives.
    pub(super) async fn lock(&self, agent: &str, target: &str, patience: Duration) -> Result<File, WorkspaceError> {
        let path = self.path(agent, target).with_extension("lock");
        let failed = |err| WorkspaceError::Record { path: path.clone(), err };
        files::make_directory(&self.dir).map_err(failed)?;
        let file = files::open_or_create(&path).map_err(failed)?;
        let taken =
            tokio::task::spawn_blocking(move || files::lock(&file, Lock::Alone, patience).map(|had| (had, file)));
        match taken.await.unwrap_or_else(|err| Err(io::Error::other(err))) {
            Ok((true, file)) => Ok(file),
            Ok((false, _)) => Err(WorkspaceError::Locked { agent: agent.to_owned(), target: target.to_owned() }),
            Err(err) => Err(failed(err)),
        }
    }

    /// The record; `None` where there is none, or none that can be read: it is a memory, and what it does not know is looked up.
    pub(super) fn read(&self, agent: &str, target: &str) -> Option<Record> {
        read(&self.path(agent, target)).filter(|record| record.agent == agent && record.target == target)
    }

    /// Those of this agent, or all, ordered by target.
    pub(super) fn all(&self, agent: Option<&str>) -> Vec<Record> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let records = entries.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        let mut records: Vec<_> = records.filter_map(|path| read(&path)).collect();
        records.retain(|record| agent.is_none_or(|agent| record.agent == agent));
        records.sort_by(|one, other| (&one.agent, &one.target).cmp(&(&other.agent, &other.target)));
        records
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), WorkspaceError> {
        let path = self.path(&record.agent, &record.target);
        let entries = record.put.iter().map(|(path, put)| (path.clone(), put.clone())).collect();
        let record = Record { entries, put: BTreeMap::new(), ..record.clone() };
        // Losing it costs a comparison, not a change: it need not be on the disk when this returns.
        files::replace(&path, false, |file| {
            let mut buffered = io::BufWriter::with_capacity(1 << 20, file);
            serde_json::to_writer(&mut buffered, &record)?;
            buffered.flush()
        })
        .map_err(|err| WorkspaceError::Record { path, err })
    }

    pub(super) fn remove(&self, agent: &str, target: &str) -> Result<(), WorkspaceError> {
        self.unsummarise(agent, target);
        let path = self.path(agent, target);
        match std::fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(WorkspaceError::Record { path, err }),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Option<Record> {
    let bytes = match files::read(path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
        Err(err) => {
            tracing::warn!(path = %path.display(), error = %err, "cannot read the record of a workspace; going on without");
            return None;
        }
    };
    match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) if record.version == VERSION => {
            let mut record = record;
            record.put = std::mem::take(&mut record.entries).into_iter().collect();
            Some(record)
        }
        Ok(_) | Err(_) => {
            tracing::warn!(path = %path.display(), "cannot understand the record of a workspace; going on without");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_garbage_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        std::fs::create_dir(dir.path().join("workspaces")).unwrap();
        let mut record = Record::new("coder", "/root/repo", "repo".into(), Path::new("/src"));
        let value = Value { kind: EntryKind::File, mode: 0o644, digest: "ab".into(), link: Word::default() };
        let stamp = Stamp { size: 1, mtime: 2, ctime: 3, ino: 4 };
        let put = Put { value: value.clone(), host: Some(stamp), guest: None };
        record.put.insert(Word(b"new\nline\xff".to_vec()), put);
        record.pending.push(("p".into(), value));
        records.write(&record).unwrap();
        let read = records.read("coder", "/root/repo").unwrap();
        assert_eq!((&read.put, &read.pending), (&record.put, &record.pending));
        assert!(records.read("coder", "/root/other").is_none());
        assert_eq!(records.all(None).len(), 1);
        assert!(records.all(Some("other")).is_empty());
        std::fs::write(records.path("coder", "/root/repo"), "{").unwrap();
        assert!(records.read("coder", "/root/repo").is_none());
        records.remove("coder", "/root/repo").unwrap();
        records.remove("coder", "/root/repo").unwrap();
    }
}
