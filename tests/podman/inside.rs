//! Sessions and workspaces as the reconciler asks for them, in a real container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use steadfast::backend::{
    Engine, ExecRequest, InAgent, Inside, InsideError, LookInside, SessionChanges, SessionStart, SessionStarted,
    WorkspaceOutcome,
};
use steadfast::model::{
    AgentName, CanonicalSession, ContainerId, Dirty, EndedBy, FailureKind, SessionName, SessionOrigin, SessionPhase,
    SessionRestart, SessionSpec, SessionState, SessionStdin, Text, WorkspaceName, WorkspaceSpec, WorkspaceState,
};

use crate::bench::{Bench, NOW, output, within};

fn coder() -> AgentName {
    "coder".parse().expect("a name")
}

fn session(name: &str) -> SessionName {
    name.parse().expect("a name")
}

fn at(container: &ContainerId, state_dir: &Path) -> InAgent {
    InAgent { agent: coder(), container: container.clone(), state_dir: state_dir.to_owned() }
}

/// A session that runs a line of the shell.
fn spec(line: &str) -> SessionSpec {
    SessionSpec {
        command: ["sh", "-c", line].map(Text::plain).into(),
        cwd: None,
        env: BTreeMap::from([("TOKEN".to_owned(), Text::sensitive("canary"))]),
        stdin: SessionStdin::Pipe,
        tty: false,
        requires: Vec::new(),
        restart: SessionRestart::No,
        user: None,
        log_max: SessionSpec::LOG,
        idle: None,
    }
}

fn start<E>(bench: &Bench<E>, name: &str, spec: SessionSpec) -> SessionStart {
    let declared = CanonicalSession::new(&spec, &bench.key).to_text();
    assert!(!declared.contains("canary"));
    SessionStart { name: session(name), spec, declared, replaces: None, life: None }
}

async fn sessions<E: Inside>(engine: &E, at: &InAgent) -> BTreeMap<SessionName, SessionState> {
    let look = LookInside { at: at.clone(), sessions: true, sources: Vec::new() };
    let found = within(Box::pin(engine.look_inside(&look))).await;
    assert_eq!(found.container, at.container);
    found.sessions.present().unwrap_or_else(|| panic!("{:?}", found.sessions)).clone()
}

async fn begin<E: Inside>(engine: &E, at: &InAgent, start: &SessionStart) -> Result<SessionStarted, InsideError> {
    within(Box::pin(engine.start_session(at, start))).await
}

async fn end<E: Inside>(engine: &E, at: &InAgent, id: &str, grace: Duration) {
    within(Box::pin(engine.end_session(at, &session("pi"), id, grace))).await.expect("it ends");
}

async fn watch<E: Inside>(engine: &E, at: &InAgent) -> Result<SessionChanges, InsideError> {
    within(Box::pin(engine.watch_sessions(at))).await
}

/// What stands where sessions are kept.
async fn directories<E: Engine>(bench: &Bench<E>, id: &ContainerId) -> String {
    let command = ["ls", "-A", "/run/steadfast/sessions"].map(str::to_owned).into();
    let request = ExecRequest { command, ..ExecRequest::default() };
    output(bench.engine.exec(id, &request).await.unwrap()).await.text().0
}

pub async fn a_declared_session_is_begun_and_ended_and_nothing_else_is_touched<E: Engine + Inside>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let (engine, memory) = (&bench.engine, tempfile::tempdir().unwrap());
    let at = at(&id, memory.path());
    assert!(sessions(engine, &at).await.is_empty());
    assert_eq!(engine.remembered(memory.path()).await, BTreeSet::new());

    let first = start(bench, "pi", spec("echo $TOKEN; sleep 1000"));
    assert_eq!(begin(engine, &at, &first).await.unwrap(), SessionStarted::Yes);
    assert_eq!(engine.remembered(memory.path()).await, BTreeSet::from([coder()]));
    let seen = sessions(engine, &at).await.remove(&session("pi")).expect("it is there");
    let SessionOrigin::Declared(Some(canonical)) = &seen.origin else { panic!("{seen:?}") };
    assert!(canonical.changes("pi", &first.spec, &bench.key).is_empty());
    assert_eq!((&seen.phase, seen.restarts), (&SessionPhase::Running, 0));
    assert!(seen.pid.is_some() && seen.pid_started.is_some() && seen.started_at.is_some() && seen.idle.is_some());
    assert_eq!(engine.last_words(&at, &session("pi")).await, "canary\n");

    // What is lost here is remembered by the next look.
    std::fs::remove_dir_all(memory.path().join("sessions")).unwrap();
    sessions(engine, &at).await;
    assert_eq!(engine.remembered(memory.path()).await, BTreeSet::from([coder()]));

    // Another one: in the way, once nothing else speaks against it.
    let other = start(bench, "pi", spec("exit 3"));
    assert_eq!(begin(engine, &at, &other).await.unwrap(), SessionStarted::InTheWay);
    let wrong = SessionSpec {
        cwd: Some(Text::plain("/no/where")),
        requires: ["git", "sh", "pi"].map(str::to_owned).into(),
        ..spec("exit 3")
    };
    let err = begin(engine, &at, &start(bench, "pi", wrong)).await.unwrap_err();
    assert_eq!((err.kind, err.is_retryable), (FailureKind::Session, false));
    let why = "cwd /no/where does not exist in coder; not on the PATH in coder: git, pi";
    assert_eq!(err.message, format!("session `coder/pi` cannot be started: {why}"));
    // Another start of it is nobody's to end.
    end(engine, &at, "another", NOW).await;
    assert_eq!(sessions(engine, &at).await[&session("pi")].id, seen.id);

    let mut changes = watch(engine, &at).await.unwrap();
    tokio::time::timeout(Duration::from_millis(300), changes.next()).await.expect_err("nothing happens");
    end(engine, &at, &seen.id, Duration::from_secs(5)).await;
    within(changes.next()).await.expect("it is told");
    end(engine, &at, &seen.id, NOW).await;
    assert_eq!(directories(bench, &id).await, "");
    assert!(sessions(engine, &at).await.is_empty());
    assert_eq!(engine.remembered(memory.path()).await, BTreeSet::new());

    // One that has ended is in nobody's way.
    for _ in 0..2 {
        assert_eq!(begin(engine, &at, &other).await.unwrap(), SessionStarted::Yes);
        let began = std::time::Instant::now();
        while sessions(engine, &at).await[&session("pi")].phase == SessionPhase::Running {
            assert!(began.elapsed() < Duration::from_secs(20), "it runs on");
        }
    }
    let seen = sessions(engine, &at).await.remove(&session("pi")).expect("it is there");
    let SessionPhase::Exited { exit, by: EndedBy::Itself } = seen.phase else { panic!("{seen:?}") };
    assert_eq!(exit.code, Some(3));

    // Of a container that is down nothing is known, and nothing is begun.
    engine.stop(&id, NOW).await.unwrap();
    let look = LookInside { at: at.clone(), sessions: true, sources: Vec::new() };
    let found = within(Box::pin(engine.look_inside(&look))).await;
    assert!(found.sessions.unknown().is_some_and(|why| why.contains("is not running")), "{found:?}");
    assert_eq!(engine.remembered(memory.path()).await, BTreeSet::from([coder()]), "what is unknown is not forgotten");
    let err = begin(engine, &at, &first).await.unwrap_err();
    assert!(err.is_retryable && err.message.ends_with("agent coder is not running"), "{err:?}");
    assert!(watch(engine, &at).await.is_err());
    engine.forget_inside(memory.path(), &coder()).await;
    assert_eq!(engine.remembered(memory.path()).await, BTreeSet::new());
}

fn workspace(source: &Path) -> WorkspaceSpec {
    WorkspaceSpec {
        source: source.to_owned(),
        target: "/work/repo".to_owned(),
        read_only: false,
        dirty: Dirty::Include,
        include: Vec::new(),
    }
}

async fn brought<E: Inside>(
    engine: &E,
    at: &InAgent,
    name: &WorkspaceName,
    spec: &WorkspaceSpec,
) -> Result<WorkspaceOutcome, InsideError> {
    within(Box::pin(engine.prepare_workspace(at, name, spec))).await
}

async fn looked<E: Inside>(engine: &E, at: &InAgent, sources: &[WorkspaceSpec]) -> Option<WorkspaceState> {
    let look = LookInside { at: at.clone(), sessions: false, sources: sources.to_vec() };
    within(Box::pin(engine.look_inside(&look))).await.workspaces.remove("/work/repo")
}

pub async fn a_workspace_is_brought_and_compared_with_its_source<E: Engine + Inside>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let (engine, memory, source) = (&bench.engine, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (at, name) = (at(&id, memory.path()), "repo".parse::<WorkspaceName>().expect("a name"));
    let write = |file: &str, content: &str| std::fs::write(source.path().join(file), content).unwrap();
    let spec = workspace(source.path());
    let guest = async |line: &str| {
        let command = ["sh", "-c", line].map(str::to_owned).into();
        let request = ExecRequest { command, ..ExecRequest::default() };
        output(engine.exec(&id, &request).await.unwrap()).await.text().0
    };
    write("one", "1");
    write("two", "2");
    assert_eq!(looked(engine, &at, std::slice::from_ref(&spec)).await, None);
    let prepare = async |spec: &WorkspaceSpec| brought(engine, &at, &name, spec).await;
    let outcome = prepare(&spec).await.unwrap();
    assert_eq!((outcome.put, outcome.kept), (2, 0));
    let state = looked(engine, &at, std::slice::from_ref(&spec)).await.expect("it is there");
    assert_eq!((&state.container, state.name.as_str(), state.kept), (&id, "repo", 0));
    assert_eq!(state.now, Some(Ok(state.prepared.clone())));
    // Nobody asked for its source.
    assert_eq!(looked(engine, &at, &[]).await.expect("it is there").now, None);

    write("two", "more");
    let changed = looked(engine, &at, std::slice::from_ref(&spec)).await.expect("it is there");
    assert_ne!(changed.now, Some(Ok(changed.prepared)));
    assert_eq!(prepare(&spec).await.unwrap().put, 1);
    assert_eq!(guest("cat /work/repo/one /work/repo/two; echo mine >/work/repo/one").await, "1more");
    write("one", "other");
    let outcome = prepare(&spec).await.unwrap();
    assert_eq!((outcome.put, outcome.kept), (0, 1));
    let state = looked(engine, &at, std::slice::from_ref(&spec)).await.expect("it is there");
    assert_eq!((state.kept, state.now), (1, Some(Ok(state.prepared))));
    assert_eq!(guest("cat /work/repo/one").await, "mine\n");

    let err = prepare(&WorkspaceSpec { read_only: true, ..spec.clone() }).await.unwrap_err();
    assert_eq!((err.kind, err.is_retryable), (FailureKind::Workspace, false));
    assert!(err.message.starts_with("workspace `coder/repo`: ") && err.message.contains("root"), "{err}");
    let gone = workspace(&source.path().join("nowhere"));
    let err = prepare(&gone).await.unwrap_err();
    assert!(err.message.contains("/nowhere`") && !err.is_retryable, "{err}");
    std::fs::remove_dir_all(source.path()).unwrap();
    let state = looked(engine, &at, std::slice::from_ref(&spec)).await.expect("it is there");
    assert!(matches!(&state.now, Some(Err(why)) if why.contains("cannot read")), "{state:?}");
    engine.forget_inside(memory.path(), &coder()).await;
    assert_eq!(looked(engine, &at, &[]).await, None);
}
