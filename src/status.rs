//! Desired beside observed: the status of each agent and of what it stands on. A pure function of one observation.

mod agent;
mod condition;
mod inside;

use agent::*;
pub(crate) use agent::{in_words, serving};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub(crate) use condition::not_ready;
pub use condition::{Condition, ConditionKind, ConditionReason, ConditionStatus, HealthStatus, SyncStatus};
pub use inside::{ExitStatus, SessionStatus, SessionWord, WorkspaceStatus, WorkspaceWord};

use crate::model::wanted::effective_manifest;
use crate::model::{
    Agent, AgentName, Desired, Name, Observed, Owner, Route, Seen, SessionName, VmPhase, WorkspaceName,
};
use crate::plan::Plan;
use crate::readiness::CheckedBy;
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
    #[serde(rename = "rung")]
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
    /// Its sessions by name: those that it declares, and ad-hoc ones where somebody looked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<SessionName, SessionStatus>,
    /// Its workspaces by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub workspaces: BTreeMap<WorkspaceName, WorkspaceStatus>,
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
    /// The version: the state file's, or the one that somebody went back to.
    pub version: String,
    /// That somebody went back to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackStatus>,
    /// It is only observed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// That somebody went back to an earlier version than the state file says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackStatus {
    /// The version that the state file says.
    pub state_file_version: String,
    /// Since when (RFC 3339).
    pub since: String,
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
    /// The ports it publishes, as `127.0.0.1:8080:80/tcp`; what came from the environment is hidden.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
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
    let (planned, nothing) = (Planned::by_agent(plan), Planned::default());
    let status = |(name, agent): (&AgentName, &Agent)| {
        let planned = planned.get(name).unwrap_or(&nothing);
        (name.clone(), agent_status(name, agent, desired, observed, planned, &observed_at, steady))
    };
    let agents: BTreeMap<_, _> = desired.agents.iter().map(status).collect();
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

#[cfg(test)]
mod tests;
