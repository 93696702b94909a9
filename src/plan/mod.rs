//! The plan: the steps that turn what is observed into what is desired.
//!
//! A pure function of its arguments. No I/O, no clock, no randomness; what it needs to know about the world stands in
//! [`Observed`], and what it decides stands in [`Plan`]. Each file here diffs one layer; this one joins them.

pub(crate) mod action;
mod artifacts;
mod containers;
mod images;
mod inside;
mod interrupts;
mod key;
mod ports;
mod prune;
mod shared;
mod under_way;
mod vm;

use std::collections::{BTreeMap, BTreeSet};

pub use action::{Action, Moved, Reason, StartMode, Step, Waiting, WaitingOn};
pub use containers::labels;
pub(crate) use containers::{is_in_a_crash_loop, stays_ended};
pub use key::{ActionKind, Lane, StepKey};
pub use under_way::look_replaced;

use crate::model::{
    Agent, AgentName, Desired, FieldChange, InstanceName, Observed, Owner, Quarantined, RolledBackTo, Seen,
};

/// What the user allows a plan to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Remove containers of agents that are gone from the state file, and what nothing needs any more.
    pub prune: bool,
    /// Remove them also where the state file has no agents at all, which is more likely a mistake than a wish.
    pub allow_empty: bool,
    /// Remove old artifacts too. Only where no other state file shares the cache: what that one needs is not seen.
    pub prune_cache: bool,
    /// Take over foreign containers that have a wanted name.
    pub adopt: bool,
    /// Only these agents; empty for all.
    pub only: BTreeSet<AgentName>,
    /// What these were to become and failed: should they still be to, they stay as they are.
    pub quarantined: BTreeMap<AgentName, Quarantined>,
    /// The replacement of these is left alone for now, since it failed: what they have is kept alive meanwhile.
    pub backing_off: BTreeSet<AgentName>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            prune: true,
            allow_empty: false,
            prune_cache: true,
            adopt: false,
            only: BTreeSet::new(),
            quarantined: BTreeMap::new(),
            backing_off: BTreeSet::new(),
        }
    }
}

impl Policy {
    /// Whether the agent is one that is planned for.
    pub fn includes(&self, agent: &AgentName) -> bool {
        self.only.is_empty() || self.only.contains(agent)
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Steps that can start now and do not depend on each other.
    pub ready: Vec<Step>,
    /// Steps that are wanted and wait.
    pub waiting: Vec<Waiting>,
    /// Steps that are refused, since nobody can have meant them. Nothing is done meanwhile but what is ready.
    pub refused: Option<Refused>,
    /// What a person should know beside.
    pub notes: Vec<Note>,
}

/// What a state file without agents would remove, and may not unless that is allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// How many containers there are.
    pub count: usize,
    /// The steps that remove them, and what is left without them.
    pub steps: Vec<Step>,
}

/// Something a plan leaves as it is, and says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The manifest could not be fetched; the last good one serves.
    Offline {
        /// Why.
        why: String,
    },
    /// The agent is suspended, and nothing is done about it.
    Suspended {
        /// Which.
        agent: AgentName,
        /// What would be done otherwise, a phrase each.
        pending: Vec<String>,
    },
    /// Somebody went back to an earlier version of the agent than the state file says.
    RolledBack {
        /// Which.
        agent: AgentName,
        /// The version it runs at.
        version: String,
        /// The version that the state file says.
        says: String,
        /// Since when (RFC 3339).
        since: String,
    },
    /// The state file has no agents, and nothing of what it had is removed unless that is allowed.
    Empty {
        /// How many containers there are.
        count: usize,
    },
    /// The container belongs to an agent that is gone, and stays since pruning is off.
    OrphanKept {
        /// Its name.
        name: crate::model::ContainerName,
    },
    /// A container with workspaces is replaced, and what its agent changed in them goes with it.
    WorkspacesGo {
        /// Of which agent.
        agent: AgentName,
        /// Where they are, but for those that lie in a mount.
        targets: Vec<String>,
    },
    /// The virtual machine was made from another template than the one there is now, and is kept.
    TemplateChanged {
        /// Which.
        instance: InstanceName,
    },
    /// The disk of the virtual machine is larger than what is wanted.
    DiskLarger {
        /// Which.
        instance: InstanceName,
        /// The size it has.
        has: String,
        /// The size that is wanted.
        wanted: String,
    },
    /// What takes effect only when the virtual machine is next started.
    VmRestartNeeded {
        /// Which.
        instance: InstanceName,
        /// What.
        changes: Vec<FieldChange>,
    },
    /// The manifest has no tarball for an architecture that is only kept in the cache.
    ArchMissing {
        /// Which agent.
        agent: AgentName,
        /// What is missing.
        why: String,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::Offline { why } => write!(f, "going on with the last good manifest: {why}"),
            Note::Suspended { agent, pending } if pending.is_empty() => {
                write!(f, "agent `{agent}` is suspended, and as it should be")
            }
            Note::Suspended { agent, pending } => {
                write!(f, "agent `{agent}` is suspended; otherwise: {}", pending.join(", "))
            }
            Note::RolledBack { agent, version, says, since } => write!(
                f,
                "agent `{agent}` is kept at version {version} since {since} (`steadfast rollback`), until the state file says of it \
                 something else than version {says}; `steadfast rollback {agent} --to {says}` ends it now"
            ),
            Note::Empty { count } => {
                let count = if *count == 1 { "1 container".to_owned() } else { format!("{count} containers") };
                write!(
                    f,
                    "the state file has no agents: `apply` refuses to remove {count} unless --allow-empty is given"
                )
            }
            Note::OrphanKept { name } => {
                write!(f, "container `{name}` belongs to no agent of the state file and is kept (--no-prune)")
            }
            Note::WorkspacesGo { agent, targets } => write!(
                f,
                "what agent `{agent}` changed in {} goes with its container, which is replaced: `steadfast workspace status {agent}` \
                 shows what, and `steadfast workspace pull {agent} {}` brings its commits back before",
                targets.join(", "),
                targets.first().map(String::as_str).unwrap_or_default()
            ),
            Note::TemplateChanged { instance } => write!(
                f,
                "VM `{instance}` was made from another version of its template and is kept; `onTemplateChange: recreate` makes it \
                 anew, and its images and containers, and what they keep on its disk, are lost"
            ),
            Note::DiskLarger { instance, has, wanted } => write!(
                f,
                "the disk of VM `{instance}` has {has} and cannot shrink to {wanted}: only a recreated VM can be smaller"
            ),
            Note::VmRestartNeeded { instance, changes } => {
                let said = |change: &FieldChange| match (&change.from, &change.to) {
                    (Some(from), Some(to)) => format!("{} {from} → {to}", change.field),
                    (_, to) => format!("{} {}", change.field, to.as_deref().unwrap_or_default()),
                };
                let said = changes.iter().map(said).collect::<Vec<_>>().join(", ");
                write!(
                    f,
                    "takes effect when VM `{instance}` is next started (`steadfast vm restart`, once no `run` keeps it): {said}"
                )
            }
            Note::ArchMissing { agent, why } => write!(f, "agent `{agent}`: {why}"),
        }
    }
}

/// Counts of a plan's steps, ready and waiting together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Containers to create.
    pub create: usize,
    /// Containers to replace.
    pub replace: usize,
    /// Containers to rename.
    pub rename: usize,
    /// Containers to start.
    pub start: usize,
    /// Containers to stop.
    pub stop: usize,
    /// Containers to remove.
    pub remove: usize,
    /// Sessions to start, or to start anew.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_sessions: usize,
    /// Sessions to stop.
    #[serde(skip_serializing_if = "is_zero")]
    pub stop_sessions: usize,
    /// Workspaces to prepare.
    #[serde(skip_serializing_if = "is_zero")]
    pub prepare_workspaces: usize,
    /// Artifacts to fetch.
    pub fetch: usize,
    /// Their bytes.
    pub fetch_bytes: u64,
    /// Those of their bytes that will travel, where that is less: the others are in the cache already, in other artifacts or from
    /// an earlier try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_bytes: Option<u64>,
    /// Steps hidden by something that could not be seen.
    pub unknown: usize,
    /// Agents (and steps of none) that neither this plan nor patience will help: a person must.
    pub blocked: usize,
}

/// One that most plans have none of.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Plan {
    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty() && self.refused.is_none()
    }

    /// The steps that nothing but leave stands in the way of: those that are ready, and those that are refused.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.ready.iter().chain(self.refused.iter().flat_map(|refused| &refused.steps))
    }

    /// The agents that a step of it, now or later, is for.
    pub fn concerned(&self) -> BTreeSet<&AgentName> {
        let steps = self.steps().map(|step| &step.agent);
        steps.chain(self.waiting.iter().map(|waiting| &waiting.agent)).flatten().collect()
    }

    /// What would be done about an agent that is suspended, a phrase each.
    pub fn if_not_suspended(&self, agent: &AgentName) -> &[String] {
        let pending = self.notes.iter().find_map(|note| match note {
            Note::Suspended { agent: whose, pending } if whose == agent => Some(pending.as_slice()),
            _ => None,
        });
        pending.unwrap_or_default()
    }

    /// Counts by kind.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        let steps = self.steps().map(|step| step.action.kind());
        let (hidden, known): (Vec<_>, Vec<_>) = self.waiting.iter().partition(|waiting| waiting.hides());
        let (blocked, waiting): (Vec<_>, Vec<_>) = known.into_iter().partition(|waiting| waiting.on.is_blocked());
        for kind in steps.chain(waiting.iter().map(|waiting| waiting.kind)) {
            match kind {
                ActionKind::CreateContainer => summary.create += 1,
                ActionKind::ReplaceContainer => summary.replace += 1,
                ActionKind::RenameContainer => summary.rename += 1,
                ActionKind::StartContainer => summary.start += 1,
                ActionKind::StopContainer => summary.stop += 1,
                ActionKind::RemoveContainer => summary.remove += 1,
                ActionKind::FetchArtifact => summary.fetch += 1,
                ActionKind::StartSession => summary.start_sessions += 1,
                ActionKind::StopSession => summary.stop_sessions += 1,
                ActionKind::PrepareWorkspace => summary.prepare_workspaces += 1,
                _ => {}
            }
        }
        let fetches = || self.ready.iter().filter(|step| matches!(step.action, Action::FetchArtifact { .. }));
        summary.fetch_bytes = fetches().filter_map(|step| step.action.bytes()).sum();
        let transfer = fetches().filter_map(|step| step.action.transfer()).sum();
        summary.transfer_bytes = Some(transfer).filter(|transfer| *transfer < summary.fetch_bytes);
        summary.unknown = hidden.len();
        let agents: BTreeSet<_> = blocked.iter().filter_map(|waiting| waiting.agent.as_ref()).collect();
        summary.blocked = agents.len() + blocked.iter().filter(|waiting| waiting.agent.is_none()).count();
        summary
    }

    fn step(&mut self, agent: impl Into<Option<AgentName>>, action: Action, reason: Reason) {
        self.ready.push(Step { agent: agent.into(), action, reason });
    }

    pub(crate) fn wait(&mut self, agent: impl Into<Option<AgentName>>, action: &Action, reason: Reason, on: WaitingOn) {
        let (kind, target) = (action.kind(), action.target());
        self.waiting.push(Waiting { agent: agent.into(), kind, target, reason, on });
    }
}

/// Plans.
pub fn plan(desired: &Desired, observed: &Observed, policy: &Policy) -> Plan {
    let mut plan = Plan::default();
    if let (Seen::Unknown { why }, Seen::Present(_)) = (&observed.published, &observed.local) {
        plan.notes.push(Note::Offline { why: why.clone() });
    }
    let hidden = vm::plan(desired, observed, policy, &mut plan);
    // What a machine that is about to go, or to be made, has in it says nothing.
    let blinded =
        hidden.as_ref().map(|on| Observed { guest: Seen::Unknown { why: on.to_string() }, ..observed.clone() });
    let observed = blinded.as_ref().unwrap_or(observed);
    let agents: Vec<_> = desired.agents.iter().filter(|(name, _)| policy.includes(name)).collect();
    for (name, agent) in &agents {
        if let Some(RolledBackTo { says, since }) = &agent.rolled_back {
            let (version, says, since) = (agent.version.to_string(), says.to_string(), since.clone());
            plan.notes.push(Note::RolledBack { agent: (*name).clone(), version, says, since });
        }
    }
    let (suspended, active): (Vec<_>, Vec<_>) = agents.into_iter().partition(|(_, agent)| agent.suspend);
    layers(desired, observed, &active, policy, hidden.as_ref(), &mut plan);
    // What would be done about the suspended ones is found out the same way, and only told.
    let mut would = Plan::default();
    if !suspended.is_empty() {
        layers(desired, observed, &suspended, policy, hidden.as_ref(), &mut would);
    }
    for (name, _) in suspended {
        let ready = would.ready.iter().filter(|step| step.agent.as_ref() == Some(name));
        let waiting = would.waiting.iter().filter(|waiting| waiting.agent.as_ref() == Some(name));
        let pending = ready
            .map(|step| format!("{} ({})", step.action, step.reason))
            .chain(waiting.map(|waiting| format!("{} `{}` ({})", waiting.kind.verb(), waiting.target, waiting.reason)))
            .collect();
        plan.notes.push(Note::Suspended { agent: name.clone(), pending });
    }
    if policy.prune && policy.prune_cache && policy.only.is_empty() {
        prune::plan(desired, observed, &mut plan);
    }
    if desired.agents.is_empty() && policy.prune && !policy.allow_empty {
        refuse_removals(observed, &mut plan);
    }
    plan
}

/// A state file without agents removes nothing where there is something: more likely its agents got lost on the way.
fn refuse_removals(observed: &Observed, plan: &mut Plan) {
    let containers = observed.guest.present().into_iter().flat_map(|guest| guest.containers.values());
    let count = containers.filter(|container| matches!(container.owner, Owner::Ours { .. })).count();
    if count == 0 {
        return;
    }
    let removes = |step: &Step| {
        matches!(step.action, Action::RemoveContainer { .. } | Action::PruneArtifact { .. } | Action::PruneImage { .. })
    };
    let (steps, ready) = std::mem::take(&mut plan.ready).into_iter().partition(removes);
    plan.ready = ready;
    plan.refused = Some(Refused { count, steps });
    plan.notes.push(Note::Empty { count });
}

/// `hidden` is what stands before Podman, when its containers are known to be out of sight.
fn layers(
    desired: &Desired,
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    policy: &Policy,
    hidden: Option<&WaitingOn>,
    plan: &mut Plan,
) {
    let fetched = artifacts::plan(desired, observed, active, plan);
    let images = images::plan(observed, active, &fetched, policy, hidden, plan);
    let shared = shared::plan(desired, observed, active, hidden, plan);
    let needed = containers::Needed { images: &images, shared: &shared };
    containers::plan(desired, observed, active, needed, policy, hidden, plan);
    inside::plan(desired, observed, active, policy, plan);
}

/// What goes with the containers when a state file is taken down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Takedown {
    /// The virtual machine too, and with it all that is in it.
    pub vm: bool,
    /// Volumes with what is in them, and networks.
    pub volumes: bool,
}

/// Plans the removal of everything the state file owns.
pub fn plan_down(desired: &Desired, observed: &Observed, what: Takedown) -> Plan {
    let mut plan = Plan::default();
    if what.vm {
        vm::plan_down(desired, observed, &mut plan);
    } else {
        let vm = desired.vm().zip(observed.vm.present());
        let hidden = vm.and_then(|(spec, vm)| vm::foreign(desired, spec, vm).or_else(|| vm::down(spec, vm)));
        containers::plan_down(observed, hidden, &mut plan);
        if what.volumes {
            shared::plan_down(desired, observed, &mut plan);
        }
    }
    plan
}
