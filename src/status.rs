//! Desired beside observed: the status of each agent and of what it stands on. A pure function of one observation.

mod condition;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub(crate) use condition::not_ready;
pub use condition::{Condition, ConditionKind, ConditionReason, ConditionStatus, HealthStatus, SyncStatus};

use crate::act::failed_check_in_words;
use crate::handles::word;
use crate::model::wanted::{effective_manifest, resolve_artifact};
use crate::model::{
    Agent, AgentName, AgentState, ContainerName, ContainerState, Desired, FailureKind, Guest, ImageSource, Name,
    Observed, Owner, Phase, Route, Seen, VmPhase,
};
use crate::plan::{ActionKind, Note, Plan, Reason, WaitingOn};
use crate::readiness::{AgentHealth, CheckedBy, checked_by, health_of};
use crate::time::rfc3339;
use crate::trust::Signed;
use crate::why::Failure;

/// The status of a state file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whose.
    pub name: Name,
    /// Nothing is left to do, and every agent is ready.
    pub converged: bool,
    /// When it was looked at (RFC 3339).
    pub observed_at: String,
    /// The manifest that counts.
    pub manifest: Option<ManifestStatus>,
    /// The virtual machine; null on a Podman of this host.
    pub vm: Option<VmStatus>,
    /// Podman.
    pub podman: PodmanStatus,
    /// The agents by name.
    pub agents: BTreeMap<AgentName, AgentStatus>,
    /// Containers of ours that belong to no agent of the file.
    pub orphans: Vec<String>,
}

/// The manifest that counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestStatus {
    /// When its publisher wrote it.
    pub updated_at: String,
    /// Where it is published, fit for showing.
    pub url: Option<String>,
    /// Why the last good one serves, when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline: Option<String>,
    /// By whom it is signed, where that is wanted and was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedStatus>,
}

/// By whom a manifest is signed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedStatus {
    /// The id of the key, as minisign shows it.
    pub key: String,
    /// Its number: a later manifest has a higher one.
    pub serial: u64,
    /// Until when the signature is good (RFC 3339). `None`: for ever.
    pub expires: Option<String>,
}

impl From<&Signed> for SignedStatus {
    fn from(signed: &Signed) -> Self {
        Self { key: signed.key.id().to_string(), serial: signed.serial, expires: signed.expires.map(rfc3339) }
    }
}

/// The virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmStatus {
    /// Its name.
    pub instance: String,
    /// Lima's word (`Running`, `Stopped`, `Broken`, …), `Starting`, `Absent` or `Unknown`.
    pub status: String,
    /// `api` or `shell`; null while Podman in it is not reached.
    pub transport: Option<&'static str>,
    /// `forward`, `reconnect`, `ssh` or `shell`: the way in use.
    #[serde(rename = "route")]
    pub route: Option<&'static str>,
    /// How often each way was tried since whoever observes began.
    pub tries: BTreeMap<&'static str, u32>,
    /// Processors, where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Size of its disk in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Podman.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PodmanStatus {
    /// Whether it answers.
    pub reachable: bool,
    /// Its version.
    pub version: Option<String>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// What is wanted.
    pub desired: DesiredStatus,
    /// Whether it is as the state file says.
    pub sync: SyncStatus,
    /// How its container is.
    pub health: HealthStatus,
    /// Where its health check comes from. Without one it counts as healthy while it runs.
    pub health_check: CheckedBy,
    /// It is as wanted, healthy where it has a check, and was not restarted lately.
    pub ready: bool,
    /// Its container.
    pub container: Option<ContainerStatus>,
    /// Its image.
    pub image: Option<ImageStatus>,
    /// Its tarball.
    pub artifact: Option<ArtifactStatus>,
    /// `Ready`, `Reconciling` and `Stalled`.
    pub conditions: Vec<Condition>,
    /// The last lines of its log, where it does not run as it should and they could be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_log: Option<String>,
    /// What the newest try to make it ready came to, where that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
}

impl AgentStatus {
    /// Takes the word of somebody who knows more of its past that it is not ready.
    pub fn doubt(&mut self, health: HealthStatus, reason: ConditionReason, message: &str, stalled: bool) {
        self.ready = false;
        self.health = health;
        condition::not_ready(&mut self.conditions, stalled, reason, message);
    }
}

/// What is wanted of an agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DesiredStatus {
    /// `running`, `stopped` or `absent`.
    pub state: String,
    /// The version as the file says it.
    pub version: String,
    /// It is only observed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `created`, `running`, `paused`, `stopping`, `exited`, `removing` or `unknown`.
    pub state: &'static str,
    /// The code it exited with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it was last started.
    pub started_at: Option<String>,
    /// How often Podman has restarted it since it was last started by hand; null where that was not looked at.
    pub restarts: Option<u32>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageStatus {
    /// Its id.
    pub id: String,
    /// The name it was created with.
    pub reference: String,
}

/// A tarball.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArtifactStatus {
    /// Its key.
    pub key: String,
    /// Whether its bytes are in the cache.
    pub present: bool,
    /// What they must hash to.
    pub sha256: String,
    /// How many.
    pub bytes: u64,
}

/// The status that one observation shows. `plan` is the plan made from it; `now` is when it was taken; `steady` says how long what
/// ended must stay up ([`crate::readiness::steady_after`]).
pub fn status(desired: &Desired, observed: &Observed, plan: &Plan, now: SystemTime, steady: Duration) -> Status {
    let observed_at = rfc3339(now);
    let agents: BTreeMap<_, _> = desired
        .agents
        .iter()
        .map(|(name, agent)| (name.clone(), agent_status(name, agent, desired, observed, plan, &observed_at, steady)))
        .collect();
    let orphans = match observed.guest.present() {
        None => Vec::new(),
        Some(guest) => guest
            .containers
            .iter()
            .filter(|(_, container)| match &container.owner {
                Owner::Ours { agent, .. } => !agent.as_ref().is_some_and(|agent| desired.agents.contains_key(agent)),
                Owner::Foreign(_) => false,
            })
            .map(|(name, _)| name.to_string())
            .collect(),
    };
    Status {
        name: desired.name.clone(),
        converged: plan.is_empty() && agents.values().all(|agent| agent.ready || agent.desired.suspend),
        observed_at,
        manifest: effective_manifest(observed).map(|manifest| ManifestStatus {
            updated_at: manifest.updated_at.clone(),
            url: desired.manifest.as_ref().map(ToString::to_string),
            offline: observed.published.unknown().map(ToOwned::to_owned),
            signed: manifest.signed.as_deref().map(SignedStatus::from),
        }),
        vm: vm_status(desired, observed),
        podman: PodmanStatus {
            reachable: observed.guest.present().is_some(),
            version: observed.guest.present().map(|guest| guest.version.clone()),
            error: observed.guest.unknown().map(ToOwned::to_owned),
        },
        agents,
        orphans,
    }
}

impl Status {
    /// Podman does not answer any more: what was seen last is not said to be so now.
    pub fn unsee(&mut self, why: &str) {
        self.converged = false;
        self.podman = PodmanStatus { reachable: false, version: None, error: Some(why.to_owned()) };
        for agent in self.agents.values_mut() {
            (agent.sync, agent.health, agent.ready) = (SyncStatus::Unknown, HealthStatus::Unknown, false);
            for condition in &mut agent.conditions {
                condition.status = match condition.kind {
                    ConditionKind::Ready => ConditionStatus::Unknown,
                    ConditionKind::Reconciling | ConditionKind::Stalled => ConditionStatus::False,
                };
                condition.reason = ConditionReason::SocketUnreachable;
                condition.to_do = None;
                why.clone_into(&mut condition.message);
            }
        }
    }
}

/// Gives conditions that are as they were `before` the time they had then: one observation cannot tell since when.
pub fn carry_over(status: &mut Status, before: &Status) {
    for (name, agent) in &mut status.agents {
        let Some(before) = before.agents.get(name) else { continue };
        for condition in &mut agent.conditions {
            let same = |old: &&Condition| {
                (old.kind, old.status, old.reason) == (condition.kind, condition.status, condition.reason)
            };
            if let Some(old) = before.conditions.iter().find(same) {
                condition.last_transition_time.clone_from(&old.last_transition_time);
            }
        }
    }
}

fn vm_status(desired: &Desired, observed: &Observed) -> Option<VmStatus> {
    let spec = desired.vm()?;
    let (vm, reach) = (observed.vm.present(), &observed.reach);
    let (status, error) = match &observed.vm {
        Seen::Present(vm) => {
            let broken = match &vm.phase {
                VmPhase::Broken(why) => Some(why.clone()),
                _ => None,
            };
            // That it is not ours is the first thing to be known about it.
            (vm.phase.word(), vm.foreign_to(&desired.ownership()).map(|whose| format!("it {whose}")).or(broken))
        }
        Seen::Absent => ("Absent", None),
        Seen::Unknown { why } => ("Unknown", Some(why.clone())),
    };
    Some(VmStatus {
        instance: spec.instance.to_string(),
        status: status.to_owned(),
        transport: reach.route.map(Route::transport),
        route: reach.route.map(Route::word),
        tries: reach.tries(),
        cpus: vm.map(|vm| vm.cpus),
        memory: vm.map(|vm| vm.memory),
        disk: vm.map(|vm| vm.disk),
        error,
    })
}

fn agent_status(
    name: &AgentName,
    agent: &Agent,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    now: &str,
    steady: Duration,
) -> AgentStatus {
    let found = observed.guest.present().and_then(|guest| serving(guest, name, agent));
    let sync = if observed.guest.unknown().is_some() {
        SyncStatus::Unknown
    } else if in_sync(name, plan) {
        SyncStatus::Synced
    } else {
        SyncStatus::OutOfSync
    };
    let looked_at = observed.guest.present().and_then(|guest| guest.looked_at);
    let judged = found.map(|(_, container)| health_of(agent, container, looked_at, steady));
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
        }),
        image: found
            .map(|(_, container)| ImageStatus { id: container.image.to_string(), reference: made_from(container) }),
        artifact: artifact(name, agent, desired, observed),
        conditions: conditions(name, agent, observed, plan, ready, judged.as_ref(), &since),
        last_log: None,
        last_failure: None,
    }
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
fn made_from(container: &ContainerState) -> String {
    let asked = match &container.owner {
        Owner::Ours { spec: Some(spec), .. } => spec.image().map(str::to_owned),
        Owner::Ours { .. } | Owner::Foreign(_) => None,
    };
    asked.unwrap_or_else(|| container.image_name.clone())
}

fn artifact(name: &AgentName, agent: &Agent, desired: &Desired, observed: &Observed) -> Option<ArtifactStatus> {
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

/// Whether no step of the plan concerns the agent.
fn in_sync(name: &AgentName, plan: &Plan) -> bool {
    !plan.concerns(name)
        && !plan
            .notes
            .iter()
            .any(|note| matches!(note, Note::Suspended { agent, pending } if agent == name && !pending.is_empty()))
}

fn conditions(
    name: &AgentName,
    agent: &Agent,
    observed: &Observed,
    plan: &Plan,
    ready: bool,
    health: Option<&AgentHealth>,
    since: &str,
) -> Vec<Condition> {
    let steps: Vec<_> = plan.ready.iter().filter(|step| step.agent.as_ref() == Some(name)).collect();
    let waits: Vec<_> = plan.waiting.iter().filter(|waiting| waiting.agent.as_ref() == Some(name)).collect();
    let blocked = waits.iter().find(|waiting| waiting.on.is_blocked());
    let (reason, message) = if ready {
        (ConditionReason::Converged, "as the state file says".to_owned())
    } else if let Some(waiting) = waits.iter().find(|waiting| matches!(waiting.on, WaitingOn::Vm { .. })) {
        let reason =
            if plan.waiting.iter().any(|waiting| waiting.on.failure() == FailureKind::Vm && waiting.on.is_blocked()) {
                ConditionReason::Blocked
            } else {
                ConditionReason::VmStarting
            };
        (reason, waiting.on.to_string())
    } else if let Some(why) = observed.guest.unknown() {
        (ConditionReason::SocketUnreachable, why.to_owned())
    } else if agent.suspend {
        (ConditionReason::Suspended, "the agent is suspended: nothing is changed".to_owned())
    } else if let Some(waiting) = waits.iter().find(|waiting| matches!(waiting.on, WaitingOn::UnderWay { .. })) {
        let why = &waiting.reason;
        let what = if matches!(why, Reason::BeingReplaced) { String::new() } else { format!(" ({why})") };
        (ConditionReason::Replacing, format!("its container is being replaced{what}: {}", waiting.on))
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
    vec![
        condition(ConditionKind::Ready, if seen { ready.into() } else { ConditionStatus::Unknown }),
        condition(
            ConditionKind::Reconciling,
            (!ready && blocked.is_none() && !(steps.is_empty() && waits.is_empty())).into(),
        ),
        condition(ConditionKind::Stalled, (!ready && blocked.is_some()).into()),
    ]
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
        AgentHealth::Unknown(word) => (ConditionReason::Unknown, format!("Podman reports `{word}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(status: ConditionStatus, reason: ConditionReason, time: &str) -> Status {
        let condition = Condition {
            kind: ConditionKind::Ready,
            status,
            reason,
            message: String::new(),
            last_transition_time: time.to_owned(),
            to_do: None,
        };
        let agent = AgentStatus {
            desired: DesiredStatus { state: "running".into(), version: "1".into(), suspend: false },
            sync: SyncStatus::OutOfSync,
            health: HealthStatus::Degraded,
            health_check: CheckedBy::None,
            ready: false,
            container: None,
            image: None,
            artifact: None,
            conditions: vec![condition],
            last_log: None,
            last_failure: None,
        };
        Status {
            name: "demo".parse().unwrap(),
            converged: false,
            observed_at: time.to_owned(),
            manifest: None,
            vm: None,
            podman: PodmanStatus { reachable: true, version: None, error: None },
            agents: BTreeMap::from([("a".parse().unwrap(), agent)]),
            orphans: Vec::new(),
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_or_reason_changes() {
        use ConditionReason::{Pending, Unhealthy};
        use ConditionStatus::{False, True};
        let before = with(False, Pending, "t1");
        let cases = [((False, Pending), "t1"), ((False, Unhealthy), "t2"), ((True, Pending), "t2")];
        for ((status, reason), wanted) in cases {
            let mut now = with(status, reason, "t2");
            carry_over(&mut now, &before);
            let agent = now.agents.values().next().unwrap();
            assert_eq!(agent.conditions[0].last_transition_time, wanted, "{status} {reason}");
            assert_eq!(now.observed_at, "t2");
        }
    }
}
