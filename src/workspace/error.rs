//! What can go wrong with a workspace, in sentences.

use std::io;
use std::path::PathBuf;

use crate::backend::EngineError;
use crate::session::SessionError;

/// Why a workspace could not be prepared, looked at, pulled or removed.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The source is nothing that goes in.
    #[error("source `{}` {why}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// As the rest of a sentence.
        why: String,
    },
    /// There are changes that are not committed, and they are not wanted.
    #[error("source `{}` has {} that {} not committed: {}", path.display(), count(names.len(), "change"), if names.len() == 1 { "is" } else { "are" }, some(names))]
    Dirty {
        /// The source.
        path: PathBuf,
        /// What is changed or untracked.
        names: Vec<String>,
    },
    /// git failed.
    #[error("`git {verb}` failed in `{}`: {said}", dir.display())]
    Git {
        /// What was asked of it.
        verb: String,
        /// Where.
        dir: PathBuf,
        /// What it said.
        said: String,
    },
    /// The source cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The record cannot be read or written.
    #[error("cannot keep the record of the workspace in `{}`", path.display())]
    Record {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Somebody else is at work on it.
    #[error("another steadfast is at work on workspace {target} of {agent}")]
    Locked {
        /// The agent.
        agent: String,
        /// Where it is.
        target: String,
    },
    /// The target is no place for it.
    #[error("target `{target}` {why}")]
    Target {
        /// Where.
        target: String,
        /// As the rest of a sentence.
        why: String,
    },
    /// The container's side refused or could not be reached.
    #[error(transparent)]
    Guest(#[from] SessionError),
    /// Podman refused, or cannot be reached.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It is writable, and must not be.
    #[error("workspace {target} of {agent} is not read-only: the agent's user can write `{found}`")]
    Writable {
        /// The agent.
        agent: String,
        /// Where it is.
        target: String,
        /// What can be written.
        found: String,
    },
    /// There is no such workspace.
    #[error("agent {agent} has no workspace{}", target.as_ref().map(|target| format!(" at {target}")).unwrap_or_default())]
    Unknown {
        /// The agent.
        agent: String,
        /// Where it would be.
        target: Option<String>,
    },
    /// Something of the guest's own would be lost.
    #[error("workspace {target} of {agent} holds what is nowhere else: {}", some(what))]
    WouldLose {
        /// The agent.
        agent: String,
        /// Where it is.
        target: String,
        /// What.
        what: Vec<String>,
    },
    /// There are no commits to bring back.
    #[error("workspace {target} of {agent} {why}")]
    NoCommits {
        /// The agent.
        agent: String,
        /// Where it is.
        target: String,
        /// As the rest of a sentence.
        why: String,
    },
    /// The branch holds what the guest's commits do not build on.
    #[error("branch `{branch}` of `{}` is at {at}, which the guest's {commit} does not build on", source_dir.display())]
    Diverged {
        /// Its name.
        branch: String,
        /// The repository.
        source_dir: PathBuf,
        /// Where it is.
        at: String,
        /// Where it would go.
        commit: String,
    },
}

impl WorkspaceError {
    pub(super) fn source(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::Source { path: path.into(), why: why.into() }
    }

    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::Read { path, err }
    }

    pub(super) fn target(target: &str, why: impl Into<String>) -> Self {
        Self::Target { target: target.to_owned(), why: why.into() }
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The first of many.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
