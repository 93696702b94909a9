//! Sessions and workspaces as the reconciler asks for them: over the keeper in each container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::stream;

use crate::backend::podman::{Podman, PodmanAt};
use crate::backend::{
    Engine, InAgent, Inside, InsideError, LookInside, SessionChanges, SessionStart, SessionStarted, WorkspaceOutcome,
};
use crate::error::Chain;
use crate::files;
use crate::model::{
    AgentName, CanonicalSession, EndedBy, FailureKind, IdleAction, Inside as Found, Seen, SessionExit, SessionIdle,
    SessionName, SessionOrigin, SessionPhase, SessionRestart, SessionSpec, SessionState, SessionStdin, Text,
    WorkspaceName, WorkspaceSpec, WorkspaceState,
};
use crate::session::message::{IdleStop, Problem, ProblemKind, Restart, Spec, State, Status, Stdin, Word};
use crate::session::{FIRST_SIZE, Keeper, SessionError, Watch};
use crate::workspace::{Place, Records, Summary, Workspace, WorkspaceError, fingerprint, prepare};

/// How long a container has to say how its sessions are: by `limactl shell` a question takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// TERM.
const TERM: i32 = 15;
/// How long another steadfast that is at work on a workspace is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How much of what a session printed is told of it, in bytes.
const LAST_WORDS: usize = 4096;
/// Where agents are remembered that sessions were started in, below a state file's own directory.
const SESSIONS: &str = "sessions";

/// An engine in whose containers a keeper can be run.
pub trait RunsKeepers: Engine {}

impl RunsKeepers for Podman {}
impl RunsKeepers for PodmanAt {}

impl<E: RunsKeepers> Inside for E {
    async fn remembered(&self, state_dir: &Path) -> BTreeSet<AgentName> {
        let entries = std::fs::read_dir(state_dir.join(SESSIONS)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    async fn look_inside(&self, look: &LookInside) -> Found {
        let LookInside { at, sessions, sources } = look;
        let (sessions, workspaces) = tokio::join!(
            async { if *sessions { look_at_sessions(self, at).await } else { Seen::Present(BTreeMap::new()) } },
            look_at_workspaces(at, sources)
        );
        Found { container: at.container.clone(), sessions, workspaces }
    }

    async fn watch_sessions(&self, at: &InAgent) -> Result<SessionChanges, InsideError> {
        let watch = keeper(self, at).watch().await.map_err(|err| of_session(&err))?;
        let next = |mut watch: Watch| async move { watch.next().await.is_ok().then_some(((), watch)) };
        Ok(Box::pin(stream::unfold(watch, next)))
    }

    async fn start_session(&self, at: &InAgent, start: &SessionStart) -> Result<SessionStarted, InsideError> {
        let session = format!("{}/{}", at.agent, start.name);
        remember_sessions(at).map_err(|err| InsideError {
            kind: FailureKind::Io,
            message: format!("session `{session}` cannot be remembered in `{}`: {err}", at.state_dir.display()),
            is_retryable: true,
        })?;
        let failed = |err: &SessionError| {
            let err = of_session(err);
            // Of several that fail, each says which it is, in one line.
            let why = err.message.lines().map(str::trim).collect::<Vec<_>>().join("; ");
            InsideError { message: format!("session `{session}` cannot be started: {why}"), ..err }
        };
        let spec = keeper_spec(at, start);
        let user = start.spec.user.as_deref();
        match keeper(self, at).start(&spec, user).await {
            Ok(_) => Ok(SessionStarted::Yes),
            // All that speaks against it was told at once.
            Err(SessionError::Refused(problems)) => {
                let other = |problem: &Problem| problem.kind != ProblemKind::Exists;
                let others: Vec<_> = problems.iter().filter(|problem| other(problem)).cloned().collect();
                match others.is_empty() {
                    true => Ok(SessionStarted::InTheWay),
                    false => Err(failed(&SessionError::Refused(others))),
                }
            }
            Err(err) => Err(failed(&err)),
        }
    }

    async fn last_words(&self, at: &InAgent, name: &SessionName) -> String {
        keeper(self, at).last_words(name.as_str(), LAST_WORDS).await.unwrap_or_default()
    }

    async fn end_session(
        &self,
        at: &InAgent,
        name: &SessionName,
        id: &str,
        grace: Duration,
    ) -> Result<(), InsideError> {
        let keeper = keeper(self, at);
        let state = |looked: Result<Option<State>, SessionError>| looked.map_err(|err| of_session(&err));
        // Another one that somebody started meanwhile is not ours to end.
        let is_it = |state: &State| state.id == id;
        let Some(mut seen) = state(keeper.state(name.as_str()).await)?.filter(is_it) else { return Ok(()) };
        if matches!(seen.status, Status::Running | Status::BackingOff) {
            match keeper.stop(name.as_str(), TERM, grace).await {
                Ok(ended) => seen = ended,
                // It ended meanwhile.
                Err(err) if matches!(err.kind(), Some(ProblemKind::NotRunning | ProblemKind::NotFound)) => {}
                Err(err) => return Err(of_session(&err)),
            }
        }
        match keeper.remove(&seen).await {
            Err(err) if err.kind() != Some(ProblemKind::NotFound) => Err(of_session(&err)),
            _ => Ok(()),
        }
    }

    async fn prepare_workspace(
        &self,
        at: &InAgent,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
    ) -> Result<WorkspaceOutcome, InsideError> {
        let records = Records::new(&at.state_dir);
        let place = Place {
            engine: self,
            container: at.container.clone(),
            agent: at.agent.as_str(),
            records: &records,
            patience: LOCK_PATIENCE,
        };
        let want = Workspace { name: Some(name.to_string()), ..Workspace::from(spec) };
        let prepared = prepare(&place, &want, false).await.map_err(|err| of_workspace(at, name, &err))?;
        if !prepared.warnings.is_empty() {
            let message = format!("workspace `{}/{name}`: {}", at.agent, prepared.warnings.join("; "));
            return Err(InsideError { kind: FailureKind::Workspace, message, is_retryable: true });
        }
        let kept = prepared.kept.iter().filter(|kept| kept.conflict).count();
        Ok(WorkspaceOutcome { put: prepared.put, kept })
    }

    async fn forget_inside(&self, state_dir: &Path, agent: &AgentName) {
        forget_sessions(state_dir, agent);
        Records::new(state_dir).forget(agent.as_str());
    }
}

fn remember_sessions(at: &InAgent) -> std::io::Result<()> {
    let directory = at.state_dir.join(SESSIONS);
    files::make_directory(&directory)?;
    files::open_or_create(&directory.join(at.agent.as_str())).map(drop)
}

fn forget_sessions(state_dir: &Path, agent: &AgentName) {
    // A memory that stays costs one look.
    let _ = std::fs::remove_file(state_dir.join(SESSIONS).join(agent.as_str()));
}

fn keeper<'a, E: Engine>(engine: &'a E, at: &InAgent) -> Keeper<'a, E> {
    Keeper::new(engine, at.container.clone(), at.agent.as_str())
}

fn keeper_spec(at: &InAgent, start: &SessionStart) -> Spec {
    let SessionStart { name, spec, declared, replaces: _, life: _ } = start;
    let SessionSpec { command, cwd, env, stdin, tty, requires, restart, user: _, log_max, idle } = spec;
    let word = |text: &Text| Word::from(text.expose());
    Spec {
        name: name.to_string(),
        agent: at.agent.to_string(),
        id: format!("{:032x}", fastrand::u128(..)),
        command: command.iter().map(word).collect(),
        cwd: cwd.as_ref().map(word),
        env: env.iter().map(|(name, value)| (Word::from(name.as_str()), word(value))).collect(),
        stdin: match stdin {
            SessionStdin::Pipe => Stdin::Pipe,
            SessionStdin::Closed => Stdin::Closed,
        },
        tty: tty.then_some(FIRST_SIZE),
        requires: requires.iter().map(|program| Word::from(program.as_str())).collect(),
        restart: match restart {
            SessionRestart::No => Restart::No,
            SessionRestart::OnFailure => Restart::OnFailure,
            SessionRestart::Always => Restart::Always,
        },
        log_max: *log_max,
        idle_stop: match idle {
            Some(SessionIdle { after, action: IdleAction::Stop }) => {
                Some(IdleStop { after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX) })
            }
            Some(SessionIdle { action: IdleAction::Notify, .. }) | None => None,
        },
        declared: Some(declared.clone()),
        replace_ended: true,
    }
}

async fn look_at_sessions<E: Engine>(engine: &E, at: &InAgent) -> Seen<BTreeMap<SessionName, SessionState>> {
    let mut keeper = keeper(engine, at);
    // Where nothing was ever begun, looking leaves nothing behind.
    let is_remembered = at.state_dir.join(SESSIONS).join(at.agent.as_str()).exists();
    if !is_remembered {
        keeper = keeper.only_if_there();
    }
    let listed = match tokio::time::timeout(PATIENCE, keeper.list()).await {
        Ok(Ok(listed)) => listed,
        Ok(Err(SessionError::NoPlace { .. })) if !is_remembered => Vec::new(),
        Ok(Err(err)) => return Seen::Unknown { why: Chain(&err).to_string() },
        Err(_) => {
            let why = format!("no answer within {}", humantime::format_duration(PATIENCE));
            return Seen::Unknown { why };
        }
    };
    let sessions: BTreeMap<_, _> =
        listed.into_iter().filter_map(|state| Some((state.name.parse().ok()?, seen(state)))).collect();
    let is_declared = |state: &SessionState| matches!(state.origin, SessionOrigin::Declared(_));
    match sessions.values().any(is_declared) {
        // One may have begun after this memory was last found to be of no use, or without it: the root was removed.
        true if at.state_dir.is_dir() => drop(remember_sessions(at)),
        true => {}
        false => forget_sessions(&at.state_dir, &at.agent),
    }
    Seen::Present(sessions)
}

fn seen(state: State) -> SessionState {
    let moment = |millis: u64| UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    let exit = state.exit.unwrap_or_default();
    let exit = SessionExit { code: exit.code, signal: exit.signal, oom_killed: exit.oom_killed };
    let phase = match state.status {
        Status::Running => SessionPhase::Running,
        Status::BackingOff => SessionPhase::BackingOff { exit, until: state.restart_at.and_then(moment) },
        Status::Exited => {
            let by = match (state.idle_stopped, state.stopped) {
                (true, _) => EndedBy::Idleness,
                (false, true) => EndedBy::Request,
                (false, false) => EndedBy::Itself,
            };
            SessionPhase::Exited { exit, by }
        }
        Status::Lost => SessionPhase::Lost,
        Status::Unknown | Status::Other => {
            SessionPhase::Unknown { why: state.why.unwrap_or_else(|| "its keeper does not say how it is".to_owned()) }
        }
    };
    SessionState {
        id: state.id,
        origin: match state.declared {
            Some(text) => SessionOrigin::Declared(CanonicalSession::from_text(&text)),
            None => SessionOrigin::AdHoc,
        },
        phase,
        pid: state.pid,
        pid_started: state.pid_start,
        started_at: Some(state.started_at).filter(|at| *at > 0).and_then(moment),
        restarts: state.restarts,
        idle: state.idle_ms.map(Duration::from_millis),
        waits_for_input: state.waiting_for_input,
    }
}

async fn look_at_workspaces(at: &InAgent, sources: &[WorkspaceSpec]) -> BTreeMap<String, WorkspaceState> {
    let mut workspaces = BTreeMap::new();
    for summary in Records::new(&at.state_dir).summaries(at.agent.as_str()) {
        let compared = sources.iter().find(|spec| spec.target == summary.target && spec.source == summary.source);
        let now = match compared {
            Some(spec) => Some(fingerprint(&Workspace::from(spec)).await.map_err(|err| Chain(&err).to_string())),
            None => None,
        };
        let Summary {
            target, name, source, read_only, dirty, include, container, commit, at, kept, fingerprint, ..
        } = summary;
        let Ok(container) = container.parse() else { continue };
        let prepared_at = UNIX_EPOCH.checked_add(Duration::from_millis(at));
        let prepared = fingerprint;
        workspaces.insert(
            target,
            WorkspaceState {
                container,
                source,
                read_only,
                dirty,
                include,
                name,
                commit,
                prepared_at,
                kept,
                prepared,
                now,
            },
        );
    }
    workspaces
}

impl From<&WorkspaceSpec> for Workspace {
    fn from(spec: &WorkspaceSpec) -> Self {
        let WorkspaceSpec { source, target, read_only, dirty, include } = spec.clone();
        Self { name: None, source, target, read_only, dirty, include }
    }
}

fn of_session(err: &SessionError) -> InsideError {
    let kind = match err {
        SessionError::Engine(err) => err.kind.into(),
        SessionError::Broken { .. } => FailureKind::TransportUnavailable,
        SessionError::AgentDown { .. } => FailureKind::NotFound,
        SessionError::Refused(_)
        | SessionError::NoKeeper { .. }
        | SessionError::NoPlace { .. }
        | SessionError::Garbled { .. } => FailureKind::Session,
    };
    let is_retryable = match err {
        SessionError::AgentDown { .. } => true,
        // The container is another one by now.
        SessionError::Engine(err) => err.kind.is_retryable() || err.kind == crate::backend::EngineErrorKind::NotFound,
        err => err.is_of_transport(),
    };
    InsideError { kind, message: Chain(err).to_string(), is_retryable }
}

fn of_workspace(at: &InAgent, name: &WorkspaceName, err: &WorkspaceError) -> InsideError {
    let (kind, is_retryable) = match err {
        WorkspaceError::Guest(err) => {
            let err = of_session(err);
            (err.kind, err.is_retryable)
        }
        WorkspaceError::Engine(err) => {
            (err.kind.into(), err.kind.is_retryable() || err.kind == crate::backend::EngineErrorKind::NotFound)
        }
        WorkspaceError::Locked { .. } => (FailureKind::Conflict, true),
        WorkspaceError::Record { .. } => (FailureKind::Io, true),
        _ => (FailureKind::Workspace, false),
    };
    let message = format!("workspace `{}/{name}`: {}", at.agent, Chain(err));
    InsideError { kind, message, is_retryable }
}
