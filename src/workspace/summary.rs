//! What the reconciler asks of a workspace at each observation, beside its record, which has a line for each file.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{Record, Records};
use super::source::Dirty;
use super::{Workspace, WorkspaceError, source};
use crate::files;

/// How summaries are written now.
const VERSION: u32 = 1;
/// The ending of their files.
const ENDING: &str = "summary";

/// A workspace as it was last prepared to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    version: u32,
    /// The agent.
    pub agent: String,
    /// Where in its container.
    pub target: String,
    /// Of the branch that its commits come back as.
    pub name: String,
    /// From where.
    pub source: PathBuf,
    /// Whether the agent's user may not write to it.
    pub read_only: bool,
    /// What became of what was not committed.
    pub dirty: Dirty,
    /// What went in although it is ignored.
    pub include: Vec<PathBuf>,
    /// In which container.
    pub container: String,
    /// The commit that was put.
    pub commit: Option<String>,
    /// When something was last put, in milliseconds since 1970.
    pub at: u64,
    /// How many of the guest's own changes stand in the way of something newer.
    pub kept: usize,
    /// What [`fingerprint`] yielded of its source; empty where not all of it could be put.
    pub fingerprint: String,
}

impl Summary {
    pub(super) fn of(record: &Record, kept: usize, fingerprint: String) -> Self {
        Self {
            version: VERSION,
            agent: record.agent.clone(),
            target: record.target.clone(),
            name: record.name.clone(),
            source: record.asked.clone(),
            read_only: record.read_only,
            dirty: record.dirty,
            include: record.include.clone(),
            container: record.container.clone(),
            commit: record.repository.as_ref().and_then(|put| put.commit.clone()),
            at: record.at,
            kept,
            fingerprint,
        }
    }
}

/// A digest of a source as it would be put now: names, kinds, modes, stamps and commits. No file of it is read.
///
/// # Errors
/// A source that cannot be read, or does not go in as it is.
pub async fn fingerprint(want: &Workspace) -> Result<String, WorkspaceError> {
    Ok(source::read(&want.source, want.dirty, &want.include).await?.fingerprint())
}

impl Records {
    /// The summaries of an agent's workspaces.
    pub fn summaries(&self, agent: &str) -> Vec<Summary> {
        let entries = std::fs::read_dir(self.dir()).into_iter().flatten().flatten().map(|entry| entry.path());
        let begins = |path: &Path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(agent.as_bytes()));
        let files = entries.filter(|path| begins(path) && path.extension().is_some_and(|ending| ending == ENDING));
        let read = files.filter_map(|path| serde_json::from_slice::<Summary>(&files::read(&path).ok()?).ok());
        read.filter(|summary| summary.version == VERSION && summary.agent == agent).collect()
    }

    pub(super) fn summarise(&self, summary: &Summary) -> Result<(), WorkspaceError> {
        let path = self.path(&summary.agent, &summary.target).with_extension(ENDING);
        let text = serde_json::to_vec(summary)
            .map_err(|err| WorkspaceError::Record { path: path.clone(), err: io::Error::other(err) })?;
        if files::read(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        files::replace(&path, false, |mut file| file.write_all(&text))
            .map_err(|err| WorkspaceError::Record { path, err })
    }

    /// What was last prepared to its end is not so any more.
    pub(super) fn unsummarise(&self, agent: &str, target: &str) {
        let _ = std::fs::remove_file(self.path(agent, target).with_extension(ENDING));
    }

    /// Forgets the workspaces of an agent whose container is gone for good.
    pub fn forget(&self, agent: &str) {
        for record in self.all(Some(agent)) {
            self.unsummarise(agent, &record.target);
            let _ = self.remove(agent, &record.target);
        }
    }
}
