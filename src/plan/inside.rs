//! What is to be inside of containers: workspaces, and the sessions that work in them.
//!
//! Nothing in a container is touched but what a state file declared: ad-hoc sessions and workspaces are left alone. What the guest
//! has changed in a workspace is no difference; a session that runs as declared is never ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::{Action, ActionKind, Note, Plan, Policy, Reason, WaitingOn, is_in_a_crash_loop, stays_ended};
use crate::backend::{InAgent, SessionStart};
use crate::model::{
    Agent, AgentName, AgentState, CanonicalSession, ContainerState, Desired, EndedBy, FailureKind, FieldChange, Health,
    HostKey, Inside, Observed, Phase, Seen, SessionName, SessionOrigin, SessionPhase, SessionRestart, SessionSpec,
    SessionState, WorkspaceName, WorkspaceSpec, WorkspaceState,
};

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    policy: &Policy,
    plan: &mut Plan,
) {
    // What cannot be seen was said of the containers.
    let Some(guest) = observed.guest.present() else { return };
    let coming = Coming::of_all(plan, policy);
    for &(name, agent) in active {
        let inside = observed.inside.get(name);
        let nothing = agent.sessions.is_empty() && agent.workspaces.is_empty() && inside.is_none();
        if nothing || agent.state != AgentState::Running {
            continue;
        }
        let container = guest.containers.get(&agent.container.name).filter(|seen| seen.owner.is_of(name));
        let at = |container: &ContainerState| InAgent {
            agent: name.clone(),
            container: container.id.clone(),
            state_dir: desired.state_dir(),
        };
        let life = container.and_then(|seen| seen.started_at);
        let wanted = Wanted { name, agent, key: &desired.key, prune: policy.prune, life };
        let coming = coming.get(name).copied().unwrap_or_default();
        let inside = inside.filter(|inside| container.is_some_and(|seen| seen.id == inside.container));
        if let (Some(seen), Some(inside), true) = (container, inside, coming.is_another()) {
            plan.notes.extend(what_goes(name, agent, seen, inside));
        }
        match container {
            Some(seen) if coming != Coming::Another && seen.phase == Phase::Running => {
                let held = not_ready(name, seen, coming == Coming::Step);
                if coming == Coming::AnotherLater {
                    wanted.keep_alive(&at(seen), inside, held.is_some(), plan);
                } else {
                    wanted.compare(&at(seen), inside, held, plan);
                }
            }
            _ => {
                let on = down(name, agent, container, coming != Coming::Nothing);
                wanted.wait_for_agent(&on, &BTreeSet::new(), plan);
            }
        }
    }
}

/// What is about to become of an agent's container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    #[default]
    Nothing,
    /// It is started or stopped.
    Step,
    /// Another one takes its place, and that waits, or failed and backs off: what there is goes on meanwhile.
    AnotherLater,
    /// Another one takes its place.
    Another,
}

impl Coming {
    fn of_all(plan: &Plan, policy: &Policy) -> BTreeMap<AgentName, Self> {
        let ready = plan.ready.iter().map(|step| (step.agent.as_ref(), step.action.kind(), false));
        let waits = plan.waiting.iter().map(|waiting| {
            let soon = matches!(waiting.on, WaitingOn::Removal { .. } | WaitingOn::UnderWay { .. });
            (waiting.agent.as_ref(), waiting.kind, !soon)
        });
        let mut all = BTreeMap::<AgentName, Self>::new();
        for (agent, kind, waits) in ready.chain(waits) {
            let Some(agent) = agent else { continue };
            let coming = match kind {
                ActionKind::ReplaceContainer if waits || policy.backing_off.contains(agent) => Self::AnotherLater,
                ActionKind::CreateContainer | ActionKind::ReplaceContainer | ActionKind::ObserveContainer => {
                    Self::Another
                }
                ActionKind::StartContainer | ActionKind::StopContainer => Self::Step,
                _ => continue,
            };
            let before = all.entry(agent.clone()).or_default();
            *before = coming.max(*before);
        }
        all
    }

    fn is_another(self) -> bool {
        self >= Self::AnotherLater
    }
}

/// What of an agent's work goes with its container: that in workspaces which lie in no mount.
fn what_goes(name: &AgentName, agent: &Agent, container: &ContainerState, inside: &Inside) -> Option<Note> {
    let is_mounted = |target: &str| {
        let mut mounts = agent.container.mounts.iter().map(|mount| mount.target.expose());
        mounts.any(|mount| target.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    let there = inside.workspaces.iter().filter(|(_, state)| state.container == container.id && !state.read_only);
    let targets: Vec<_> = there.map(|(target, _)| target.clone()).filter(|target| !is_mounted(target)).collect();
    (!targets.is_empty()).then(|| Note::WorkspacesGo { agent: name.clone(), targets })
}

/// Why nothing is begun in a container that runs, if so.
fn not_ready(name: &AgentName, container: &ContainerState, has_step: bool) -> Option<WaitingOn> {
    let is_well = matches!(container.health, None | Some(Health::Healthy));
    (has_step || !is_well || is_in_a_crash_loop(container)).then(|| WaitingOn::AgentReady { agent: name.clone() })
}

/// What whatever is to be in a container waits for that does not run, or is about to be another one.
fn down(name: &AgentName, agent: &Agent, container: Option<&ContainerState>, has_step: bool) -> WaitingOn {
    match container.map(|seen| (seen, &seen.phase)) {
        Some((seen, Phase::Exited { code }))
            if !has_step && stays_ended(agent.container.restart, seen.restarts, *code) =>
        {
            let why = format!(
                "agent {name} is not running: its container exited with code {code}, and with `restart: {}` it stays so",
                agent.container.restart
            );
            WaitingOn::Precondition { kind: FailureKind::NotReady, why }
        }
        _ => WaitingOn::AgentReady { agent: name.clone() },
    }
}

/// What one agent is to have inside.
struct Wanted<'a> {
    name: &'a AgentName,
    agent: &'a Agent,
    key: &'a HostKey,
    prune: bool,
    /// When its container was last started.
    life: Option<SystemTime>,
}

impl Wanted<'_> {
    /// All of it waits for the agent, but these sessions.
    fn wait_for_agent(&self, on: &WaitingOn, but: &BTreeSet<&SessionName>, plan: &mut Plan) {
        let whole = |name: &str| format!("{}/{name}", self.name);
        let mut wait = |kind, name: &str, reason| self.wait(kind, whole(name), reason, on.clone(), plan);
        for name in self.agent.workspaces.keys() {
            wait(ActionKind::PrepareWorkspace, name.as_str(), Reason::WorkspaceMissing);
        }
        for name in self.agent.sessions.keys().filter(|name| !but.contains(name)) {
            wait(ActionKind::StartSession, name.as_str(), Reason::SessionMissing);
        }
    }

    fn wait(&self, kind: ActionKind, target: String, reason: Reason, on: WaitingOn, plan: &mut Plan) {
        let agent = Some(self.name.clone());
        plan.waiting.push(super::Waiting { agent, kind, target, reason, on });
    }

    /// The container goes on for a while, and then another one takes its place: a session that runs in it as declared is started
    /// again when it ended, and all else waits for the other one.
    fn keep_alive(&self, at: &InAgent, inside: Option<&Inside>, is_held: bool, plan: &mut Plan) {
        let found = inside.and_then(|inside| inside.sessions.present());
        let mut ended = BTreeSet::new();
        for (name, spec) in &self.agent.sessions {
            let state = found.and_then(|found| found.get(name));
            let verdict = session(self.name, name, spec, state, self.key);
            if let Verdict::Start(reason @ Reason::SessionEnded(_)) = verdict
                && !is_held
            {
                plan.step(self.name.clone(), self.start(at, name, spec, state), reason);
                ended.insert(name);
            }
        }
        self.wait_for_agent(&WaitingOn::AgentReady { agent: self.name.clone() }, &ended, plan);
    }

    fn start(&self, at: &InAgent, name: &SessionName, spec: &SessionSpec, replaces: Option<&SessionState>) -> Action {
        Action::StartSession {
            at: at.clone(),
            start: Box::new(SessionStart {
                name: name.clone(),
                spec: spec.clone(),
                declared: CanonicalSession::new(spec, self.key).to_text(),
                replaces: replaces.map(|state| state.id.clone()),
                life: self.life,
            }),
        }
    }

    /// The container runs: is in it what is to be? `held` is what all that is to be begun waits for.
    fn compare(&self, at: &InAgent, inside: Option<&Inside>, held: Option<WaitingOn>, plan: &mut Plan) {
        let mut take = |action: Action, reason: Reason, on: Option<WaitingOn>| match on {
            Some(on) => plan.wait(self.name.clone(), &action, reason, on),
            None => plan.step(self.name.clone(), action, reason),
        };
        let mut unprepared = BTreeSet::<&WorkspaceName>::new();
        for (name, spec) in &self.agent.workspaces {
            let state = inside.and_then(|inside| inside.workspaces.get(&spec.target));
            let Some((reason, on)) = workspace(at, name, spec, state) else { continue };
            // An agent works on with what it has while only its source moved on.
            if !matches!(reason, Reason::SourceChanged { .. } | Reason::SourceUnreadable) {
                unprepared.insert(name);
            }
            let action = Action::PrepareWorkspace { at: at.clone(), name: name.clone(), spec: Box::new(spec.clone()) };
            take(action, reason, on.or_else(|| held.clone()));
        }
        let unseen = |why: &str| Some(WaitingOn::Sight { why: format!("the sessions of {}: {why}", self.name) });
        let (found, blind) = match inside.map(|inside| &inside.sessions) {
            Some(Seen::Present(found)) => (Some(found), None),
            Some(Seen::Unknown { why }) => (None, unseen(why)),
            Some(Seen::Absent) | None => (None, unseen("nobody has looked yet")),
        };
        for (name, spec) in &self.agent.sessions {
            let start = |replaces| self.start(at, name, spec, replaces);
            let Some(found) = found else {
                take(start(None), Reason::NotSeen, blind.clone());
                continue;
            };
            let state = found.get(name);
            match session(self.name, name, spec, state, self.key) {
                Verdict::Right => {}
                Verdict::Start(reason) => {
                    let mut workspaces = self.agent.workspaces.iter();
                    let cwd = spec.cwd.as_ref().map(|cwd| cwd.expose());
                    let workspace = workspaces
                        .find(|(name, spec)| unprepared.contains(name) && cwd.is_some_and(|cwd| spec.holds(cwd)));
                    let on = workspace
                        .map(|(name, _)| WaitingOn::Workspace { agent: self.name.clone(), name: name.clone() });
                    take(start(state), reason, held.clone().or(on));
                }
                Verdict::Wait(reason, on) => take(start(state), reason, Some(on)),
            }
        }
        let declared_no_more = found.into_iter().flatten().filter(|(name, state)| {
            matches!(state.origin, SessionOrigin::Declared(_)) && !self.agent.sessions.contains_key(*name)
        });
        for (name, state) in declared_no_more.filter(|_| self.prune) {
            let action = Action::StopSession { at: at.clone(), name: name.clone(), id: state.id.clone() };
            let on = match &state.phase {
                SessionPhase::Unknown { why } => Some(WaitingOn::Sight { why: why.clone() }),
                _ => None,
            };
            take(action, Reason::SessionUndeclared, on);
        }
    }
}

/// Why a workspace is to be prepared, and what that waits for. `None` where it is right.
fn workspace(
    at: &InAgent,
    name: &WorkspaceName,
    spec: &WorkspaceSpec,
    state: Option<&WorkspaceState>,
) -> Option<(Reason, Option<WaitingOn>)> {
    let Some(state) = state.filter(|state| state.container == at.container && !state.prepared.is_empty()) else {
        return Some((Reason::WorkspaceMissing, None));
    };
    let changes = changes(name, spec, state);
    if !changes.is_empty() {
        return Some((Reason::Changed(changes), None));
    }
    match &state.now {
        Some(Ok(now)) if *now != state.prepared => {
            Some((Reason::SourceChanged { from: state.prepared.clone(), to: now.clone() }, None))
        }
        Some(Err(why)) => {
            let why = format!("workspace `{}/{name}`: {why}", at.agent);
            let on = WaitingOn::Precondition { kind: FailureKind::Workspace, why };
            Some((Reason::SourceUnreadable, Some(on)))
        }
        Some(Ok(_)) | None => None,
    }
}

fn changes(name: &WorkspaceName, spec: &WorkspaceSpec, state: &WorkspaceState) -> Vec<FieldChange> {
    let WorkspaceSpec { source, target: _, read_only, dirty, include } = spec;
    let listed = |paths: &[std::path::PathBuf]| {
        let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        format!("[{}]", shown.join(", "))
    };
    let fields = [
        ("name", state.name.clone(), name.to_string()),
        ("source", state.source.display().to_string(), source.display().to_string()),
        ("readOnly", state.read_only.to_string(), read_only.to_string()),
        ("dirty", state.dirty.as_str().to_owned(), dirty.as_str().to_owned()),
        ("include", listed(&state.include), listed(include)),
    ];
    let changed = fields.into_iter().filter(|(_, from, to)| from != to);
    changed
        .map(|(field, from, to)| FieldChange {
            field: format!("workspaces.{name}.{field}"),
            from: Some(from),
            to: Some(to),
        })
        .collect()
}

/// What becomes of a session.
enum Verdict {
    Right,
    Start(Reason),
    Wait(Reason, WaitingOn),
}

fn session(
    agent: &AgentName,
    name: &SessionName,
    spec: &SessionSpec,
    state: Option<&SessionState>,
    key: &HostKey,
) -> Verdict {
    let Some(state) = state else { return Verdict::Start(Reason::SessionMissing) };
    if let SessionPhase::Unknown { why } = &state.phase {
        return Verdict::Wait(Reason::NotSeen, WaitingOn::Sight { why: format!("session {agent}/{name}: {why}") });
    }
    let runs = matches!(state.phase, SessionPhase::Running | SessionPhase::BackingOff { .. });
    match &state.origin {
        SessionOrigin::AdHoc if runs => {
            let session = format!("{agent}/{name}");
            Verdict::Wait(Reason::SessionMissing, WaitingOn::AdHocSession { session })
        }
        SessionOrigin::AdHoc => Verdict::Start(Reason::SessionMissing),
        SessionOrigin::Declared(None) => Verdict::Start(Reason::SpecUnreadable),
        SessionOrigin::Declared(Some(canonical)) => {
            let changes = canonical.changes(name.as_str(), spec, key);
            match changes.is_empty() {
                true if stays(spec.restart, &state.phase) => Verdict::Right,
                true => Verdict::Start(Reason::SessionEnded(state.phase.clone())),
                false => Verdict::Start(Reason::Changed(changes)),
            }
        }
    }
}

/// Whether a session that is as declared is left as it is.
fn stays(restart: SessionRestart, phase: &SessionPhase) -> bool {
    match phase {
        SessionPhase::Running | SessionPhase::BackingOff { .. } | SessionPhase::Unknown { .. } => true,
        SessionPhase::Exited { by: EndedBy::Idleness, .. } => true,
        SessionPhase::Exited { exit, by } => match restart {
            SessionRestart::No => true,
            SessionRestart::OnFailure => *by == EndedBy::Itself && exit.is_success(),
            SessionRestart::Always => false,
        },
        // It has had no end of its own.
        SessionPhase::Lost => false,
    }
}
