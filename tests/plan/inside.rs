//! What is inside of a container: sessions and the workspaces that they work in.

use std::path::PathBuf;
use std::time::Duration;

use steadfast::model::*;

use crate::scene::*;

const PREPARE: &str = "prepare workspace `a/repo`: it is not in the container";
const LATER: &str = "later startSession `a/pi`: it does not run, once workspace `a/repo` is prepared";
const START: &str = "start session `a/pi`: it does not run";

fn exit(code: i32) -> SessionExit {
    SessionExit { code: Some(code), ..SessionExit::default() }
}

impl Scene {
    fn container_id(&self) -> ContainerId {
        self.observed.guest.present().unwrap().containers.get(&container_name("demo-a")).unwrap().id.clone()
    }

    /// `a` was looked into, and nothing was there.
    fn looked_into(self) -> Self {
        let container = self.container_id();
        let inside = Inside { container, sessions: Seen::Present([].into()), workspaces: [].into() };
        self.seeing(|observed| drop(observed.inside.insert(agent_name("a"), inside)))
    }

    /// Its workspace is as it should be.
    fn prepared(mut self) -> Self {
        let container = self.container_id();
        let state = WorkspaceState {
            container,
            source: "/src/repo".into(),
            read_only: false,
            dirty: Dirty::Include,
            include: Vec::new(),
            name: "repo".into(),
            commit: None,
            prepared_at: None,
            kept: 0,
            prepared: "v0".into(),
            now: Some(Ok("v0".into())),
        };
        self.inside().workspaces.insert("/root/repo".into(), state);
        self
    }

    fn inside(&mut self) -> &mut Inside {
        self.observed.inside.get_mut(&agent_name("a")).unwrap()
    }

    fn workspace(mut self, how: impl FnOnce(&mut WorkspaceState)) -> Self {
        how(self.inside().workspaces.get_mut("/root/repo").unwrap());
        self
    }

    /// It has this session, started by hand or as `spec` says.
    fn session(mut self, name: &str, spec: Option<&SessionSpec>, phase: SessionPhase) -> Self {
        let declared = |spec| SessionOrigin::Declared(Some(CanonicalSession::new(spec, &self.desired.key)));
        let state = SessionState {
            id: "1".into(),
            origin: spec.map_or(SessionOrigin::AdHoc, declared),
            phase,
            pid: Some(7),
            pid_started: Some(7),
            started_at: Some(now()),
            restarts: 0,
            idle: Some(Duration::ZERO),
            waits_for_input: None,
        };
        let Seen::Present(sessions) = &mut self.inside().sessions else { panic!("it was not looked into") };
        sessions.insert(session_name(name), state);
        self
    }
}

/// `a` runs and was looked into, and is to have a session in a workspace.
fn wanting() -> Scene {
    steady(&["a"]).wants("a", at_work).looked_into()
}

fn pi() -> SessionSpec {
    session(Some("/root/repo/sub"))
}

#[test]
fn a_session_waits_for_its_workspace_and_both_for_their_agent() {
    wanting().plans(&[PREPARE, LATER]);
    wanting().prepared().plans(&[START]);
    wanting().prepared().session("pi", Some(&pi()), SessionPhase::Running).plans(&[]);
    let later = |reason| {
        [
            "later prepareWorkspace `a/repo`: it is not in the container, once agent `a` is ready".to_owned(),
            format!("later startSession `a/pi`: {reason}, once agent `a` is ready"),
        ]
    };
    let [workspace, session] = later("it does not run");
    let (workspace, session) = (workspace.as_str(), session.as_str());
    steady(&["a", "b"]).wants("a", at_work).gone("demo-a").plans(&[
        "create container `demo-a`: it does not exist",
        workspace,
        session,
    ]);
    wanting().prepared().session("pi", Some(&pi()), SessionPhase::Running).edited("a", "MODE", "two").plans(&[
        "replace container `demo-a`: container.env.MODE changed",
        workspace,
        session,
        "note: what agent `a` changed in /root/repo goes with its container, which is replaced: `steadfast workspace status a` shows what, and `steadfast workspace pull a /root/repo` brings its commits back before",
    ]);
    let mount = Mount::bind("/data", "/root", false);
    let mounted = wanting().prepared().wants("a", |agent| agent.container.mounts.push(mount));
    mounted.plans(&["replace container `demo-a`: container.mounts[/root] changed", workspace, session]);
    wanting().phase("demo-a", Phase::Paused).plans(&["unpause container `demo-a`: it is paused", workspace, session]);
    // It runs on, while its container only gets its name back.
    wanting()
        .wants("a", |agent| agent.state = AgentState::Stopped)
        .plans(&["stop container `demo-a`: its desired state is stopped"]);
}

#[test]
fn an_agent_that_is_not_well_or_has_ended_begins_nothing() {
    let sick = wanting().prepared().wants("a", |agent| agent.container.restart = RestartPolicy::No);
    let sick = {
        let one = sick.made("a");
        let id = sick.container_id();
        sick.with("demo-a", ContainerState { id, health: Some(Health::Starting), ..one })
    };
    sick.clone().plans(&["later startSession `a/pi`: it does not run, once agent `a` is ready"]);
    // What runs goes on.
    sick.clone().session("pi", Some(&pi()), SessionPhase::Running).plans(&[]);
    sick.phase("demo-a", Phase::Exited { code: 0 }).plans(&[
        "later prepareWorkspace `a/repo`: it is not in the container, agent a is not running: its container exited with code 0, and with `restart: no` it stays so",
        "later startSession `a/pi`: it does not run, agent a is not running: its container exited with code 0, and with `restart: no` it stays so",
    ]);
}

#[test]
fn a_session_that_ended_is_started_by_its_policy_unless_its_keeper_does() {
    use SessionRestart::{Always, No, OnFailure};
    let ended = |code, by| SessionPhase::Exited { exit: exit(code), by };
    let backing_off = SessionPhase::BackingOff { exit: exit(1), until: None };
    for (restart, phase, starts) in [
        (No, ended(1, EndedBy::Itself), None),
        (No, ended(0, EndedBy::Request), None),
        (No, SessionPhase::Lost, Some("it was lost: its keeper was killed, or its container was started anew")),
        (OnFailure, ended(0, EndedBy::Itself), None),
        (OnFailure, ended(1, EndedBy::Itself), Some("it exited with code 1")),
        (OnFailure, ended(0, EndedBy::Request), Some("it was stopped by request")),
        (OnFailure, ended(143, EndedBy::Idleness), None),
        (OnFailure, backing_off.clone(), None),
        (Always, ended(0, EndedBy::Itself), Some("it exited with code 0")),
        (Always, ended(0, EndedBy::Idleness), None),
        (Always, backing_off, None),
        (Always, SessionPhase::Lost, Some("it was lost: its keeper was killed, or its container was started anew")),
    ] {
        let spec = SessionSpec { restart, ..pi() };
        let wanted = spec.clone();
        let scene = wanting().prepared().wants("a", |agent| drop(agent.sessions.insert(session_name("pi"), wanted)));
        let line = starts.map(|why| format!("restart session `a/pi`: {why}"));
        let lines: Vec<_> = line.iter().map(String::as_str).collect();
        scene.session("pi", Some(&spec), phase).plans(&lines);
    }
}

#[test]
fn a_changed_session_is_restarted_alone_and_one_that_is_declared_no_more_is_stopped() {
    let other = session(None);
    wanting()
        .prepared()
        .wants("a", |agent| drop(agent.sessions.insert(session_name("other"), session(None))))
        .session("pi", Some(&SessionSpec { command: vec!["old".into()], ..pi() }), SessionPhase::Running)
        .session("other", Some(&other), SessionPhase::Running)
        .plans(&["restart session `a/pi`: sessions.pi.command changed"]);
    let gone = wanting().prepared().wants("a", |agent| agent.sessions.clear());
    let gone = gone.session("pi", Some(&pi()), SessionPhase::Running);
    gone.clone().plans(&["stop session `a/pi`: it is not in the state file any more"]);
    gone.allowing(|policy| policy.prune = false).plans(&[]);
}

#[test]
fn ad_hoc_sessions_are_left_alone() {
    wanting()
        .prepared()
        .session("pi", Some(&pi()), SessionPhase::Running)
        .session("mine", None, SessionPhase::Running)
        .session("ended", None, SessionPhase::Lost)
        .plans(&[]);
    wanting()
        .prepared()
        .session("pi", None, SessionPhase::Running)
        .plans(&["later startSession `a/pi`: it does not run, session `a/pi` was started by hand and runs"]);
    wanting()
        .prepared()
        .session("pi", None, SessionPhase::Exited { exit: exit(0), by: EndedBy::Itself })
        .plans(&["restart session `a/pi`: it does not run"]);
}

#[test]
fn what_cannot_be_seen_is_neither_started_nor_ended() {
    let blind = |scene: Scene| {
        scene.seeing(|observed| {
            let inside = observed.inside.get_mut(&agent_name("a")).unwrap();
            inside.sessions = Seen::Unknown { why: "no answer".into() };
        })
    };
    let unknown = "later startSession `a/pi`: it cannot be observed, unknown until it can be observed: ";
    blind(wanting().prepared()).plans(&[&format!("{unknown}the sessions of a: no answer")]);
    blind(wanting().prepared()).wants("a", |agent| agent.sessions.clear()).plans(&[]);
    let why = || SessionPhase::Unknown { why: "EPERM".into() };
    let scene = wanting().prepared().session("pi", Some(&pi()), why());
    scene.clone().plans(&[&format!("{unknown}session a/pi: EPERM")]);
    scene.wants("a", |agent| agent.sessions.clear()).plans(&[
        "later stopSession `a/pi`: it is not in the state file any more, unknown until it can be observed: EPERM",
    ]);
    // Of a container that went meanwhile.
    let other = wanting().prepared().seeing(|observed| {
        observed.inside.get_mut(&agent_name("a")).unwrap().container = ContainerId::new("other").unwrap();
    });
    other.plans(&[PREPARE, &format!("{unknown}the sessions of a: nobody has looked yet")]);
}

#[test]
fn a_workspace_is_prepared_again_for_what_changed_here_and_for_another_container() {
    let runs = || wanting().prepared().session("pi", Some(&pi()), SessionPhase::Running);
    let again = "prepare workspace `a/repo`: its source changed";
    runs().workspace(|state| state.now = Some(Ok("v1".into()))).plans(&[again]);
    // A session does not wait for that.
    wanting().prepared().workspace(|state| state.now = Some(Ok("v1".into()))).plans(&[again, START]);
    runs().workspace(|state| state.now = None).plans(&[]);
    runs().workspace(|state| state.kept = 3).plans(&[]);
    runs().workspace(|state| state.now = Some(Err("source `/src/repo` is not a directory".into()))).plans(&[
        "later prepareWorkspace `a/repo`: whether its source changed cannot be told, workspace `a/repo`: source `/src/repo` is not a directory",
    ]);
    runs().workspace(|state| state.prepared.clear()).plans(&[PREPARE]);
    runs().workspace(|state| state.container = ContainerId::new("former").unwrap()).plans(&[PREPARE]);
    type Edit = fn(&mut WorkspaceState);
    let edits: [(Edit, &str); 5] = [
        (|state| state.source = "/old".into(), "source"),
        (|state| state.read_only = true, "readOnly"),
        (|state| state.dirty = Dirty::Refuse, "dirty"),
        (|state| state.include = vec![PathBuf::from(".env")], "include"),
        (|state| state.name = "old".into(), "name"),
    ];
    for (edit, field) in edits {
        let line = format!("prepare workspace `a/repo`: workspaces.repo.{field} changed");
        runs().workspace(edit).plans(&[&line]);
    }
}

#[test]
fn what_runs_is_kept_alive_while_its_replacement_waits_or_backs_off() {
    let runs = || wanting().prepared().session("pi", Some(&pi()), SessionPhase::Running);
    let lost = || wanting().prepared().session("pi", Some(&pi()), SessionPhase::Lost);
    let workspace = "later prepareWorkspace `a/repo`: it is not in the container, once agent `a` is ready";
    let session = "later startSession `a/pi`: it does not run, once agent `a` is ready";
    let again = "restart session `a/pi`: it was lost: its keeper was killed, or its container was started anew";
    let edited = |scene: Scene| {
        let scene = scene.edited("a", "MODE", "two").allowing(|policy| policy.backing_off = [agent_name("a")].into());
        let lines = lines(&scene.plan()).into_iter().filter(|line| !line.starts_with("note"));
        lines.collect::<Vec<_>>()
    };
    let replace = "replace container `demo-a`: container.env.MODE changed";
    assert_eq!(edited(runs()), [replace, workspace, session]);
    assert_eq!(edited(lost()), [replace, again, workspace]);
    // One that is to be another is left as it is until then.
    let other =
        |scene: Scene| scene.wants("a", |agent| agent.sessions.get_mut("pi").unwrap().command = vec!["other".into()]);
    assert_eq!(edited(other(lost())), [replace, workspace, session]);
}

#[test]
fn of_a_suspended_agent_it_is_only_told() {
    wanting().wants("a", |agent| agent.suspend = true).plans(&[
        "note: agent `a` is suspended; otherwise: prepare workspace `a/repo` (it is not in the container), start session `a/pi` (it does not run)",
    ]);
}
