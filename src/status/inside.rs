//! The sessions and workspaces of an agent.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{
    Agent, AgentName, AgentState, ContainerState, Inside, Observed, SessionExit, SessionName, SessionOrigin,
    SessionPhase, SessionState, WorkspaceName,
};
use crate::time::rfc3339;

words! {
    /// How a session is.
    pub enum SessionWord {
        /// Its command runs.
        Running = "running",
        /// Its command ended, and is started again later.
        BackingOff = "backingOff",
        /// Its command ended.
        Exited = "exited",
        /// Its keeper is gone without a word.
        Lost = "lost",
        /// It is not there.
        Absent = "absent",
        /// It cannot be observed.
        Unknown = "unknown",
    }
}

words! {
    /// How a workspace is.
    pub enum WorkspaceWord {
        /// It is in the container as its source was when that was last compared.
        Prepared = "prepared",
        /// Its source is another by now, or it is to be another one.
        Outdated = "outdated",
        /// It is not in the container.
        Absent = "absent",
        /// It cannot be observed.
        Unknown = "unknown",
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// How it is.
    pub status: SessionWord,
    /// Whether the state file declares it.
    pub declared: bool,
    /// The process of its command in the container.
    pub pid: Option<i32>,
    /// When that was last started (RFC 3339).
    pub started_at: Option<String>,
    /// How it ended, where it did.
    pub exit: Option<ExitStatus>,
    /// How often its keeper has started it again.
    pub restarts: u32,
    /// For how long it has neither printed nor been sent anything, in milliseconds.
    pub idle_ms: Option<u64>,
    /// Whether it sleeps with all input read.
    pub waiting_for_input: Option<bool>,
    /// Whether it has been idle for longer than its `idle.after`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// How it is, in words, where it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitStatus {
    /// Its exit code, where it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
}

impl From<SessionExit> for ExitStatus {
    fn from(exit: SessionExit) -> Self {
        let SessionExit { code, signal, oom_killed } = exit;
        Self { code, signal, oom_killed }
    }
}

/// A workspace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// How it is.
    pub status: WorkspaceWord,
    /// Where it is in the container.
    pub target: String,
    /// The directory of this machine that it comes from.
    pub source: String,
    /// The commit that was put.
    pub commit: Option<String>,
    /// When something was last put (RFC 3339).
    pub prepared_at: Option<String>,
    /// How many paths have something newer in the source, and stay as the agent changed them.
    pub kept: usize,
}

/// What was looked at of this container.
fn of<'o>(name: &AgentName, observed: &'o Observed, container: Option<&ContainerState>) -> Option<&'o Inside> {
    observed.inside.get(name).filter(|inside| container.is_some_and(|container| container.id == inside.container))
}

pub(super) fn sessions(
    name: &AgentName,
    agent: &Agent,
    observed: &Observed,
    container: Option<&ContainerState>,
) -> BTreeMap<SessionName, SessionStatus> {
    let inside = of(name, observed, container);
    let found = inside.and_then(|inside| inside.sessions.present());
    let is_unknown =
        observed.guest.unknown().is_some() || inside.is_some_and(|inside| inside.sessions.present().is_none());
    let wanted = agent.sessions.iter().filter(|_| agent.state != AgentState::Absent);
    let absent = |session: &SessionName| {
        let word = if is_unknown { SessionWord::Unknown } else { SessionWord::Absent };
        (session.clone(), bare(word))
    };
    let mut all: BTreeMap<_, _> = wanted.map(|(session, _)| absent(session)).collect();
    for (session, state) in found.into_iter().flatten() {
        all.insert(session.clone(), status(agent, session, state));
    }
    all
}

fn bare(status: SessionWord) -> SessionStatus {
    SessionStatus {
        status,
        declared: true,
        pid: None,
        started_at: None,
        exit: None,
        restarts: 0,
        idle_ms: None,
        waiting_for_input: None,
        idle: false,
        message: None,
    }
}

fn status(agent: &Agent, session: &SessionName, state: &SessionState) -> SessionStatus {
    let (word, exit) = match &state.phase {
        SessionPhase::Running => (SessionWord::Running, None),
        SessionPhase::BackingOff { exit, .. } => (SessionWord::BackingOff, Some(*exit)),
        SessionPhase::Exited { exit, .. } => (SessionWord::Exited, Some(*exit)),
        SessionPhase::Lost => (SessionWord::Lost, None),
        SessionPhase::Unknown { .. } => (SessionWord::Unknown, None),
    };
    let after = agent.sessions.get(session).and_then(|spec| spec.idle).map(|idle| idle.after);
    SessionStatus {
        declared: matches!(state.origin, SessionOrigin::Declared(_)),
        pid: state.pid,
        started_at: state.started_at.map(rfc3339),
        exit: exit.map(ExitStatus::from),
        restarts: state.restarts,
        idle_ms: state.idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
        waiting_for_input: state.waits_for_input,
        idle: after.is_some_and(|after| state.idle.is_some_and(|idle| idle >= after)),
        message: (word != SessionWord::Running).then(|| state.phase.to_string()),
        ..bare(word)
    }
}

pub(super) fn workspaces(
    name: &AgentName,
    agent: &Agent,
    observed: &Observed,
    container: Option<&ContainerState>,
) -> BTreeMap<WorkspaceName, WorkspaceStatus> {
    let inside = of(name, observed, container);
    let wanted = agent.workspaces.iter().filter(|_| agent.state != AgentState::Absent);
    let status = wanted.map(|(workspace, spec)| {
        let state = inside.and_then(|inside| inside.workspaces.get(&spec.target));
        let state = state.filter(|state| container.is_some_and(|container| container.id == state.container));
        let is_current = |now: &Option<Result<String, String>>, prepared: &String| match now {
            Some(Ok(now)) => now == prepared,
            Some(Err(_)) => false,
            None => !prepared.is_empty(),
        };
        let word = match state {
            None if observed.guest.unknown().is_some() => WorkspaceWord::Unknown,
            None => WorkspaceWord::Absent,
            Some(state) if state.source == spec.source && is_current(&state.now, &state.prepared) => {
                WorkspaceWord::Prepared
            }
            Some(_) => WorkspaceWord::Outdated,
        };
        let status = WorkspaceStatus {
            status: word,
            target: spec.target.clone(),
            source: spec.source.display().to_string(),
            commit: state.and_then(|state| state.commit.clone()),
            prepared_at: state.and_then(|state| state.prepared_at).map(rfc3339),
            kept: state.map_or(0, |state| state.kept),
        };
        (workspace.clone(), status)
    });
    status.collect()
}
