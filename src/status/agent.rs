//! The status of one agent, and its conditions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    AgentStatus, ArtifactStatus, Condition, ConditionKind, ConditionReason, ConditionStatus, ContainerStatus,
    DesiredStatus, HealthStatus, ImageStatus, RollbackStatus, SyncStatus, condition::quarantined, inside,
};
use crate::act::failed_check_in_words;
use crate::handles::word;
use crate::model::redact::HIDDEN;
use crate::model::wanted::resolve_artifact;
use crate::model::{
    Agent, AgentName, AgentState, ContainerName, ContainerState, Desired, FailureKind, Guest, ImageSource, Observed,
    Owner, Phase, PortRange, Seen,
};
use crate::plan::{ActionKind, Note, Plan, Reason, Step, Waiting, WaitingOn};
use crate::readiness::{AgentHealth, agent_health, checked_by};
use crate::time::rfc3339;

/// What of a plan concerns one agent.
#[derive(Default)]
pub(super) struct Planned<'p> {
    steps: Vec<&'p Step>,
    waits: Vec<&'p Waiting>,
    /// Something would be done, were it not suspended or refused.
    is_held_back: bool,
    /// Nothing is done about the virtual machine, which all of them need.
    vm_is_blocked: bool,
}

impl<'p> Planned<'p> {
    /// That of each agent, in one pass: with each one looking for its own, ten thousand of them take seconds.
    pub(super) fn by_agent(plan: &'p Plan) -> BTreeMap<&'p AgentName, Self> {
        let vm_is_blocked =
            plan.waiting.iter().any(|waiting| waiting.on.failure() == FailureKind::Vm && waiting.on.is_blocked());
        let new = || Self { vm_is_blocked, ..Self::default() };
        let mut all = BTreeMap::new();
        for step in &plan.ready {
            step.agent.iter().for_each(|agent| all.entry(agent).or_insert_with(new).steps.push(step));
        }
        for waiting in &plan.waiting {
            waiting.agent.iter().for_each(|agent| all.entry(agent).or_insert_with(new).waits.push(waiting));
        }
        let refused = plan.refused.iter().flat_map(|refused| &refused.steps);
        for agent in refused.filter_map(|step| step.agent.as_ref()) {
            all.entry(agent).or_insert_with(new).is_held_back = true;
        }
        for note in &plan.notes {
            if let Note::Suspended { agent, pending } = note {
                all.entry(agent).or_insert_with(new).is_held_back |= !pending.is_empty();
            }
        }
        all
    }

    /// Whether no step of the plan concerns the agent.
    fn is_in_sync(&self) -> bool {
        self.steps.is_empty() && self.waits.is_empty() && !self.is_held_back
    }
}

pub(super) fn agent_status(
    name: &AgentName,
    agent: &Agent,
    desired: &Desired,
    observed: &Observed,
    planned: &Planned<'_>,
    now: &str,
    steady: Duration,
) -> AgentStatus {
    let found = observed.guest.present().and_then(|guest| serving(guest, name, agent));
    let sync = if observed.guest.unknown().is_some() {
        SyncStatus::Unknown
    } else if planned.is_in_sync() {
        SyncStatus::Synced
    } else {
        SyncStatus::OutOfSync
    };
    let judged = found.map(|(_, container)| agent_health(name, agent, container, observed, steady));
    let health = match (&observed.guest, &judged) {
        (Seen::Unknown { .. }, _) => HealthStatus::Unknown,
        (_, Some(judged)) => judged.status(),
        (_, None) if agent.state == AgentState::Absent => HealthStatus::Stopped,
        (_, None) => HealthStatus::Degraded,
    };
    let right_health = match &judged {
        Some(judged) => judged.is_as_desired(agent.state),
        None => agent.state == AgentState::Absent,
    };
    let ready = sync == SyncStatus::Synced && right_health;
    let since =
        found.filter(|_| ready).and_then(|(_, container)| container.started_at).map_or_else(|| now.to_owned(), rfc3339);
    AgentStatus {
        desired: DesiredStatus {
            state: agent.state.to_string(),
            version: agent.version.to_string(),
            rollback: agent
                .rolled_back
                .as_ref()
                .map(|back| RollbackStatus { state_file_version: back.says.to_string(), since: back.since.clone() }),
            suspend: agent.suspend,
        },
        sync,
        health,
        health_check: checked_by(agent.container.healthcheck.as_ref(), found.map(|(_, container)| container)),
        ready,
        container: found.map(|(name, container)| ContainerStatus {
            id: container.id.to_string(),
            name: name.to_string(),
            state: word(&container.phase),
            exit_code: match container.phase {
                Phase::Exited { code } => Some(code),
                _ => None,
            },
            started_at: container.started_at.map(rfc3339),
            restarts: container.restarts,
            ports: ports(agent, container),
        }),
        image: found
            .map(|(_, container)| ImageStatus { id: container.image.to_string(), reference: made_from(container) }),
        artifact: artifact(name, agent, desired, observed),
        sessions: inside::sessions(name, agent, observed, found.map(|(_, container)| container)),
        workspaces: inside::workspaces(name, agent, observed, found.map(|(_, container)| container)),
        conditions: conditions(agent, observed, planned, ready, judged.as_ref(), &since),
        last_log: None,
        last_failure: None,
    }
}

fn ports(agent: &Agent, container: &ContainerState) -> Vec<String> {
    let hidden = |range: &PortRange| {
        let mut hidden = agent.container.hidden_ports.iter();
        hidden.any(|port| range.holds(port.host_port, port.protocol) || range.host_port_of(port).is_some())
    };
    let shown = |range: &PortRange| if hidden(range) { HIDDEN.to_owned() } else { range.to_string() };
    container.ports.iter().map(shown).collect()
}

/// The container that serves an agent: its own, or amid a replacement that of its predecessor.
pub(crate) fn serving<'g>(
    guest: &'g Guest,
    name: &AgentName,
    agent: &Agent,
) -> Option<(&'g ContainerName, &'g ContainerState)> {
    let own = guest.containers.get_key_value(agent.container.name.as_str());
    let own = own.filter(|(_, container)| container.owner.is_of(name));
    let of_agent = || guest.containers.iter().filter(|(_, container)| container.owner.is_of(name));
    let running = || of_agent().find(|(_, container)| container.phase == Phase::Running);
    match own {
        Some((_, container)) if container.phase == Phase::Running => own,
        _ => running().or(own).or_else(|| of_agent().next()),
    }
}

/// The name a container's image was asked for by. Podman's own word for it is the first name the image has had.
pub(super) fn made_from(container: &ContainerState) -> String {
    let asked = match &container.owner {
        Owner::Ours { spec: Some(spec), .. } => spec.image().map(str::to_owned),
        Owner::Ours { .. } | Owner::Foreign(_) => None,
    };
    asked.unwrap_or_else(|| container.image_name.clone())
}

pub(super) fn artifact(
    name: &AgentName,
    agent: &Agent,
    desired: &Desired,
    observed: &Observed,
) -> Option<ArtifactStatus> {
    if agent.source != ImageSource::Manifest || agent.state == AgentState::Absent {
        return None;
    }
    let artifact = resolve_artifact(name, agent, agent.run_arch(desired.host_arch), observed).ok()?;
    Some(ArtifactStatus {
        key: artifact.key.to_string(),
        present: observed.artifacts.present().is_some_and(|files| artifact.is_in(files)),
        sha256: artifact.sha256.to_string(),
        bytes: artifact.size_bytes,
    })
}

fn conditions(
    agent: &Agent,
    observed: &Observed,
    planned: &Planned<'_>,
    ready: bool,
    health: Option<&AgentHealth>,
    since: &str,
) -> Vec<Condition> {
    let Planned { steps, waits, vm_is_blocked, .. } = planned;
    let blocked = waits.iter().find(|waiting| waiting.on.is_blocked());
    let failed = waits.iter().find(|waiting| matches!(waiting.on, WaitingOn::Quarantine { .. }));
    let (reason, message) = if ready {
        (ConditionReason::Converged, "as the state file says".to_owned())
    } else if let Some(waiting) = waits.iter().find(|waiting| matches!(waiting.on, WaitingOn::Vm { .. })) {
        let reason = if *vm_is_blocked { ConditionReason::Blocked } else { ConditionReason::VmStarting };
        (reason, waiting.on.to_string())
    } else if let Some(why) = observed.guest.unknown() {
        (ConditionReason::SocketUnreachable, why.to_owned())
    } else if agent.suspend {
        (ConditionReason::Suspended, "the agent is suspended: nothing is changed".to_owned())
    } else if let Some(waiting) = waits.iter().find(|waiting| matches!(waiting.on, WaitingOn::UnderWay { .. })) {
        let why = &waiting.reason;
        let what = if matches!(why, Reason::BeingReplaced) { String::new() } else { format!(" ({why})") };
        (ConditionReason::Replacing, format!("its container is being replaced{what}: {}", waiting.on))
    } else if let Some(waiting) = failed {
        let WaitingOn::Quarantine { why, .. } = &waiting.on else { unreachable!("it is the one that was looked for") };
        (ConditionReason::RolledBack, format!("its successor failed, and it goes on with its predecessor: {why}"))
    } else if let Some(waiting) = blocked {
        (ConditionReason::Blocked, waiting.on.to_string())
    } else if let (Some(health), Some(step)) = (health, steps.iter().find(|step| step.reason == Reason::Unhealthy)) {
        let (reason, message) = in_words(agent, health);
        (reason, format!("{message}; to do: {}", step.action))
    } else if let Some(step) = steps.first() {
        let reason = match step.action.kind() {
            ActionKind::FetchArtifact => ConditionReason::Downloading,
            ActionKind::LoadImage | ActionKind::PullImage => ConditionReason::LoadingImage,
            _ => ConditionReason::Pending,
        };
        (reason, format!("to do: {} ({})", step.action, step.reason))
    } else if let Some(waiting) = waits.first() {
        (ConditionReason::Pending, waiting.on.to_string())
    } else {
        match health {
            Some(health) => in_words(agent, health),
            None => (ConditionReason::Pending, "it has no container".to_owned()),
        }
    };
    let is_to_do =
        matches!(reason, ConditionReason::Pending | ConditionReason::Downloading | ConditionReason::LoadingImage);
    let to_do = steps.first().filter(|_| is_to_do).map(|step| step.key());
    let condition = |kind, status| Condition {
        kind,
        status,
        reason,
        message: message.clone(),
        last_transition_time: since.to_owned(),
        to_do: to_do.clone(),
    };
    let seen = observed.guest.unknown().is_none();
    let mut conditions = vec![
        condition(ConditionKind::Ready, if seen { ready.into() } else { ConditionStatus::Unknown }),
        condition(
            ConditionKind::Reconciling,
            (!ready && blocked.is_none() && !(steps.is_empty() && waits.is_empty())).into(),
        ),
        condition(ConditionKind::Stalled, (!ready && blocked.is_some()).into()),
    ];
    if let (ConditionReason::RolledBack, Some(failed)) = (reason, failed) {
        quarantined(&mut conditions, &failed.on.to_string());
    }
    conditions
}

/// Why a container that is as wanted is not ready: a fixed word and a sentence. It tells no age, so that it stays the same
/// until something happens.
pub(crate) fn in_words(agent: &Agent, health: &AgentHealth) -> (ConditionReason, String) {
    match health {
        AgentHealth::Running | AgentHealth::Completed | AgentHealth::Stopped => {
            (ConditionReason::Pending, format!("its container is {}", health.status().as_str().to_lowercase()))
        }
        AgentHealth::Starting => (ConditionReason::Starting, "its health check has not passed yet".to_owned()),
        AgentHealth::Restarted { code, until, steady } => {
            let how = code.map_or_else(|| "ended".to_owned(), |code| format!("exited with code {code}"));
            let (until, steady) = (rfc3339(*until), steady.as_secs());
            (
                ConditionReason::Restarted,
                format!("it {how} and was started again; ready at {until}, once it has stayed up for {steady} s"),
            )
        }
        AgentHealth::Moving(phase) => (ConditionReason::Pending, format!("its container {phase}")),
        AgentHealth::CrashLoop(crash_loop) => (ConditionReason::CrashLoop, format!("its container {crash_loop}")),
        AgentHealth::Unhealthy(check) => {
            (ConditionReason::Unhealthy, failed_check_in_words(&agent.container, check.as_ref()))
        }
        AgentHealth::Failed { code } => {
            let policy = agent.container.restart;
            (
                ConditionReason::Failed,
                format!("its container exited with code {code}, and with `restart: {policy}` it stays so"),
            )
        }
        AgentHealth::Down(phase) => (ConditionReason::Pending, format!("its container {phase}")),
        AgentHealth::Session(trouble) => (ConditionReason::Session, trouble.to_string()),
        AgentHealth::Unknown(word) => (ConditionReason::Unknown, format!("Podman reports `{word}`")),
    }
}
