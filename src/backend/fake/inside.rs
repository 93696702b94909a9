//! Sessions and workspaces of the fake world, with the keeper's manners: a name is claimed by one, what runs is not replaced, and
//! nothing outlives its container's life but what the host remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::{Call, Fake, State};
use crate::backend::{
    EngineError, InAgent, Inside, InsideError, LookInside, SessionChanges, SessionStart, SessionStarted,
    WorkspaceOutcome,
};
use crate::model::{
    AgentName, CanonicalSession, ContainerId, EndedBy, FailureKind, Inside as Found, Phase, Seen, SessionExit,
    SessionName, SessionOrigin, SessionPhase, SessionState, Text, WorkspaceName, WorkspaceSpec, WorkspaceState,
};

/// A session.
#[derive(Debug, Clone)]
pub struct FakeSession {
    /// Of this one start of it.
    pub id: String,
    /// What its keeper holds; `None` for an ad-hoc one.
    pub declared: Option<String>,
    /// How it ended, and who ended it; `None` while it runs.
    pub ended: Option<(SessionExit, EndedBy)>,
    /// Its keeper was killed.
    pub is_lost: bool,
    /// The life of its container that it was started in.
    life: Option<Instant>,
    /// When something was last printed or sent.
    pub active: Instant,
}

impl FakeSession {
    /// Whether it runs in this container.
    pub fn runs_in(&self, state: &State, container: &ContainerId) -> bool {
        state.life(container).is_ok_and(|life| State::phase_of(self, life) == SessionPhase::Running)
    }
}

impl FakeWorkspace {
    /// Whether it is in this container, as this version of its source.
    pub fn is(&self, container: &ContainerId, version: u64) -> bool {
        self.container == *container && self.version == version
    }
}

/// A workspace, as this machine remembers it.
#[derive(Debug, Clone)]
pub struct FakeWorkspace {
    container: ContainerId,
    name: WorkspaceName,
    spec: WorkspaceSpec,
    /// The version of its source that was put.
    version: u64,
}

/// What is inside of containers, and remembered of that.
#[derive(Debug, Clone, Default)]
pub struct FakeInside {
    /// Sessions by container and name.
    pub sessions: BTreeMap<(ContainerId, SessionName), FakeSession>,
    /// Workspaces by agent and target.
    pub workspaces: BTreeMap<(AgentName, String), FakeWorkspace>,
    /// Versions of sources that are not 0.
    pub sources: BTreeMap<PathBuf, u64>,
    /// Agents that sessions were started in.
    pub remembered: BTreeSet<AgentName>,
    /// Sessions that were started in a workspace that was not there.
    pub too_early: Vec<Call>,
    /// Sessions that run and were ended, with what they were.
    pub ended: Vec<(Call, FakeSession)>,
    watchers: Vec<tokio::sync::mpsc::UnboundedSender<()>>,
}

fn refused(why: String) -> InsideError {
    InsideError { kind: FailureKind::Session, message: why, is_retryable: false }
}

impl super::faults::Broken for InsideError {
    fn broken(what: &str, transient: bool) -> Self {
        let EngineError { kind, message, .. } = EngineError::broken(what, transient);
        InsideError { kind: kind.into(), is_retryable: kind.is_retryable(), message }
    }
}

impl State {
    /// The life of a container that runs.
    fn life(&self, container: &ContainerId) -> Result<Option<Instant>, InsideError> {
        match self.containers.get(container) {
            Some(one) if one.phase == Phase::Running => Ok(one.started),
            _ => Err(InsideError {
                kind: FailureKind::NotFound,
                message: "the agent is not running".to_owned(),
                is_retryable: true,
            }),
        }
    }

    fn phase_of(session: &FakeSession, life: Option<Instant>) -> SessionPhase {
        match session.ended {
            Some((exit, by)) => SessionPhase::Exited { exit, by },
            None if session.is_lost || session.life != life => SessionPhase::Lost,
            None => SessionPhase::Running,
        }
    }

    /// Whoever watches sessions hears that something changed.
    pub fn tell_of_sessions(&mut self) {
        self.inside.watchers.retain(|watcher| watcher.send(()).is_ok());
    }

    /// Starts a session as somebody would by hand.
    pub fn start_by_hand(&mut self, container: &ContainerId, name: &SessionName) {
        let Ok(life) = self.life(container) else { return };
        let key = (container.clone(), name.clone());
        if !self.inside.sessions.contains_key(&key) {
            let session = self.new_session(None, life);
            self.inside.sessions.insert(key, session);
        }
    }

    fn new_session(&mut self, declared: Option<String>, life: Option<Instant>) -> FakeSession {
        let id = format!("{:032x}", self.serial());
        FakeSession { id, declared, ended: None, is_lost: false, life, active: Instant::now() }
    }

    fn found(&self, container: &ContainerId) -> Result<BTreeMap<SessionName, SessionState>, InsideError> {
        let life = self.life(container)?;
        let theirs = self.inside.sessions.iter().filter(|((id, _), _)| id == container);
        let found = theirs.map(|((_, name), session)| {
            let state = SessionState {
                id: session.id.clone(),
                origin: match &session.declared {
                    Some(text) => SessionOrigin::Declared(CanonicalSession::from_text(text)),
                    None => SessionOrigin::AdHoc,
                },
                phase: Self::phase_of(session, life),
                pid: Some(7),
                pid_started: Some(7),
                started_at: None,
                restarts: 0,
                idle: Some(session.active.elapsed()),
                waits_for_input: None,
            };
            (name.clone(), state)
        });
        Ok(found.collect())
    }
}

impl Inside for Fake {
    async fn remembered(&self, _state_dir: &Path) -> BTreeSet<AgentName> {
        self.state().inside.remembered.clone()
    }

    async fn look_inside(&self, look: &LookInside) -> Found {
        let LookInside { at, sessions, sources } = look;
        let looked = match sessions {
            true => self.call("sessions", at.agent.as_str(), |state| state.found(&at.container)).await,
            false => Ok(BTreeMap::new()),
        };
        let sessions = match looked {
            Ok(found) => Seen::Present(found),
            Err(err) => Seen::Unknown { why: err.message },
        };
        let mut state = self.state();
        if let Seen::Present(found) = &sessions
            && !found.values().any(|state| matches!(state.origin, SessionOrigin::Declared(_)))
        {
            state.inside.remembered.remove(&at.agent);
        }
        let inside = &state.inside;
        let theirs = inside.workspaces.iter().filter(|((agent, _), _)| *agent == at.agent);
        let workspaces = theirs.map(|((_, target), one)| {
            let is_compared = sources.iter().any(|spec| spec.target == *target);
            let version = inside.sources.get(&one.spec.source).copied().unwrap_or_default();
            let WorkspaceSpec { source, target, read_only, dirty, include } = one.spec.clone();
            let found = WorkspaceState {
                container: one.container.clone(),
                source,
                read_only,
                dirty,
                include,
                name: one.name.to_string(),
                commit: None,
                prepared_at: None,
                kept: 0,
                prepared: format!("v{}", one.version),
                now: is_compared.then(|| Ok(format!("v{version}"))),
            };
            (target, found)
        });
        let workspaces = workspaces.collect();
        Found { container: at.container.clone(), sessions, workspaces }
    }

    async fn watch_sessions(&self, at: &InAgent) -> Result<SessionChanges, InsideError> {
        self.call("watch_sessions", at.agent.as_str(), |state| {
            state.life(&at.container)?;
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            state.inside.watchers.push(sender);
            let next = |mut receiver: tokio::sync::mpsc::UnboundedReceiver<()>| async move {
                receiver.recv().await.map(|()| ((), receiver))
            };
            Ok(Box::pin(futures_util::stream::unfold(receiver, next)) as SessionChanges)
        })
        .await
    }

    async fn start_session(&self, at: &InAgent, start: &SessionStart) -> Result<SessionStarted, InsideError> {
        let target = format!("{}/{}", at.agent, start.name);
        self.call("start_session", target.clone(), |state| {
            let life = state.life(&at.container)?;
            let key = (at.container.clone(), start.name.clone());
            if start.spec.env.get("MISSING").is_some_and(|value| value.expose() == "yes") {
                return Err(refused(format!("not on the PATH in {}: pi", at.agent)));
            }
            if let Some(there) = state.inside.sessions.get(&key)
                && State::phase_of(there, life) == SessionPhase::Running
            {
                return Ok(SessionStarted::InTheWay);
            }
            let cwd = start.spec.cwd.as_ref().map(Text::expose);
            let mut theirs = state.inside.workspaces.values().filter(|one| one.container == at.container);
            if let Some(cwd) = cwd
                && !theirs.any(|one| one.spec.holds(cwd))
            {
                let call = Call { word: "start_session", target: target.clone(), at: Instant::now() };
                state.inside.too_early.push(call);
            }
            state.inside.remembered.insert(at.agent.clone());
            let session = state.new_session(Some(start.declared.clone()), life);
            state.inside.sessions.insert(key, session);
            state.tell_of_sessions();
            state.changed("start_session", &target, None);
            Ok(SessionStarted::Yes)
        })
        .await
    }

    async fn last_words(&self, _at: &InAgent, _name: &SessionName) -> String {
        String::new()
    }

    async fn end_session(
        &self,
        at: &InAgent,
        name: &SessionName,
        id: &str,
        _grace: Duration,
    ) -> Result<(), InsideError> {
        let target = format!("{}/{name}", at.agent);
        self.call("end_session", target.clone(), |state| {
            let life = state.life(&at.container)?;
            let key = (at.container.clone(), name.clone());
            let is_it = state.inside.sessions.get(&key).is_some_and(|session| session.id == id);
            if let Some(session) = state.inside.sessions.remove(&key).filter(|_| is_it) {
                if State::phase_of(&session, life) == SessionPhase::Running {
                    let call = Call { word: "end_session", target: target.clone(), at: Instant::now() };
                    state.inside.ended.push((call, session));
                }
                state.changed("end_session", &target, None);
            }
            Ok(())
        })
        .await
    }

    async fn prepare_workspace(
        &self,
        at: &InAgent,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
    ) -> Result<WorkspaceOutcome, InsideError> {
        let target = format!("{}/{name}", at.agent);
        self.call("prepare_workspace", target.clone(), |state| {
            state.life(&at.container)?;
            let version = state.inside.sources.get(&spec.source).copied().unwrap_or_default();
            let one =
                FakeWorkspace { container: at.container.clone(), name: name.clone(), spec: spec.clone(), version };
            state.inside.workspaces.insert((at.agent.clone(), spec.target.clone()), one);
            state.changed("prepare_workspace", &target, None);
            Ok(WorkspaceOutcome { put: 1, kept: 0 })
        })
        .await
    }

    async fn forget_inside(&self, _state_dir: &Path, agent: &AgentName) {
        let mut state = self.state();
        state.inside.remembered.remove(agent);
        state.inside.workspaces.retain(|(whose, _), _| whose != agent);
    }
}
