//! What came of a preparation.

use serde::Serialize;
use steadfast_keeper::message::Word;

use super::decide::Change;
use super::source::{self, LeftOut};

/// Something of the guest's own that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Which.
    #[serde(serialize_with = "source::text")]
    pub path: Word,
    /// What the guest did.
    pub change: Change,
    /// Whether the source has something newer there, which was not put.
    pub conflict: bool,
}

/// What became of the guest's repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RepositoryOutcome {
    /// The source has none.
    None,
    /// It was put.
    Put,
    /// It got the new commits.
    Updated,
    /// It has what is wanted.
    Unchanged,
    /// It has something of its own, and stays.
    Kept,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepared {
    /// The agent.
    pub agent: String,
    /// Where in its container.
    pub target: String,
    /// From where.
    pub source: String,
    /// Its name, of which the branch is made that `pull` brings back.
    pub name: String,
    /// The commit of the source.
    pub commit: Option<String>,
    /// Its branch.
    pub branch: Option<String>,
    /// Whether the agent's user cannot write to it.
    pub read_only: bool,
    /// What became of the repository.
    pub repository: RepositoryOutcome,
    /// Files and links of the source.
    pub files: usize,
    /// How many of them were put now.
    pub put: usize,
    /// How many were removed in the guest.
    pub removed: usize,
    /// How many bytes of files were sent, the repository's among them.
    pub bytes: u64,
    /// Paths of the source that are not committed.
    pub dirty: usize,
    /// What stays as the guest has it.
    pub kept: Vec<Kept>,
    /// Files that the guest has made.
    pub added: usize,
    /// What does not go in.
    pub left_out: Vec<LeftOut>,
    /// What is worth a word.
    pub notes: Vec<String>,
    /// What could not be done.
    pub warnings: Vec<String>,
}

impl Prepared {
    /// Whether the guest has all that is wanted, but for what it changed itself.
    pub fn is_whole(&self) -> bool {
        self.repository != RepositoryOutcome::Kept
            && self.warnings.is_empty()
            && self.kept.iter().all(|kept| !kept.conflict)
    }
}
