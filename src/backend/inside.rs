//! What is kept inside of containers: sessions and workspaces.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::Stream;

use crate::model::{
    AgentName, ContainerId, FailureKind, Inside as Found, SessionName, SessionSpec, WorkspaceName, WorkspaceSpec,
};

/// The container of an agent, and what is remembered of it on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InAgent {
    /// The agent.
    pub agent: AgentName,
    /// Its container, which runs.
    pub container: ContainerId,
    /// Where this machine remembers what it put there: the state file's own directory.
    pub state_dir: PathBuf,
}

/// How closely a container is looked into.
#[derive(Debug, Clone)]
pub struct LookInside {
    /// Which.
    pub at: InAgent,
    /// Whether its sessions are wanted.
    pub sessions: bool,
    /// The sources that are compared with what was put; those of no workspace where only what was put is of interest.
    pub sources: Vec<WorkspaceSpec>,
}

/// A session to start.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionStart {
    /// Its name.
    pub name: SessionName,
    /// What it is to be.
    pub spec: SessionSpec,
    /// What its keeper is to hold of that ([`crate::model::CanonicalSession`]).
    pub declared: String,
    /// What is in its place: that start of it is ended first, and what is left of it removed.
    pub replaces: Option<String>,
    /// When its container was last started: what became of a session in another life of that says nothing.
    pub life: Option<SystemTime>,
}

/// What came of starting a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStarted {
    /// It runs.
    Yes,
    /// It would, were it not for the one in its place, which runs.
    InTheWay,
}

/// What came of preparing a workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkspaceOutcome {
    /// How many files were put now.
    pub put: usize,
    /// How many of the guest's own changes stand in the way of something newer, and are kept.
    pub kept: usize,
}

/// Why something inside of a container could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InsideError {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// A sentence, with the way out where there is one.
    pub message: String,
    /// Whether trying again later may help by itself.
    pub is_retryable: bool,
}

/// Changes of sessions, as they happen.
pub type SessionChanges = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// Keeps sessions and workspaces in containers.
pub trait Inside: Send + Sync {
    /// The agents that something declared was once started or put into, as far as this machine remembers. It only says where to look.
    fn remembered(&self, state_dir: &Path) -> impl Future<Output = BTreeSet<AgentName>> + Send;

    /// Looks into a container. Cannot fail as a whole.
    fn look_inside(&self, look: &LookInside) -> impl Future<Output = Found> + Send;

    /// Watches the sessions in a container: each item says that something about one of them changed since. Ends when the watch does.
    fn watch_sessions(&self, at: &InAgent) -> impl Future<Output = Result<SessionChanges, InsideError>> + Send;

    /// Starts a session; back once its keeper says that it runs. What has ended in its place is removed; what runs there and is
    /// to be replaced has to be ended first, which it yields once nothing else speaks against the start.
    fn start_session(
        &self,
        at: &InAgent,
        start: &SessionStart,
    ) -> impl Future<Output = Result<SessionStarted, InsideError>> + Send;

    /// The last lines of what a session printed. Best effort: empty when they cannot be had soon.
    fn last_words(&self, at: &InAgent, name: &SessionName) -> impl Future<Output = String> + Send;

    /// Ends that start of a session, its signal first and KILL after `grace`, and removes what is left of it. Fine when it is gone.
    fn end_session(
        &self,
        at: &InAgent,
        name: &SessionName,
        id: &str,
        grace: Duration,
    ) -> impl Future<Output = Result<(), InsideError>> + Send;

    /// Brings a workspace there, or what of it is new. What the guest changed is kept.
    fn prepare_workspace(
        &self,
        at: &InAgent,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
    ) -> impl Future<Output = Result<WorkspaceOutcome, InsideError>> + Send;

    /// Forgets what this machine remembers of an agent, whose container is gone for good.
    fn forget_inside(&self, state_dir: &Path, agent: &AgentName) -> impl Future<Output = ()> + Send;
}
