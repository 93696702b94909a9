//! The layer of the agents: what of the plan and the status is not as desired, and its fix.

use serde_json::Value;

use super::Checks;
use crate::act::in_one_line;
use crate::cli::render::errors::{AGAIN, failure_hint, kind_hint};
use crate::cli::render::{self, units};
use crate::cli::status::not_ready_in;
use crate::control::{BackingOff, Run};
use crate::model::{AgentName, Desired, FailureKind};
use crate::snapshot::Snapshot;
use crate::status::{AgentStatus, Condition, ConditionReason, SyncStatus};

/// Each agent, from the very snapshot that `status` and `plan` show. `has_root` says that steps can be taken at all.
pub(super) fn agents(snapshot: &Snapshot, view: Option<&(Value, Run)>, has_root: bool, checks: &mut Checks) {
    for (name, agent) in &snapshot.status.agents {
        // What `run` knows of an agent's past, one observation cannot tell.
        let of_run = view.and_then(|(view, run)| Some((not_ready_in(view, name)?, run)));
        if let Some((said, run)) = of_run {
            let found = format!("{name}: {}, {}: {}: {}", agent.sync, said.health, said.reason, said.message);
            checks.bad("agent", found, fix_under_run(name, said.reason.known(), run));
            continue;
        }
        let state =
            format!("{name}: {}, {}", agent.sync, render::status::health_in_words(agent.health, agent.health_check));
        match agent.conditions.first() {
            _ if agent.desired.suspend && agent.ready => checks.ok("agent", format!("{state}, suspended")),
            _ if agent.desired.suspend => {
                let otherwise = snapshot.plan.if_not_suspended(name).join(", ");
                let otherwise =
                    if otherwise.is_empty() { "it is not ready".to_owned() } else { format!("otherwise: {otherwise}") };
                checks.ok("agent", format!("{name}: suspended, and left alone as the state file says; {otherwise}"));
            }
            Some(condition) if !agent.ready => {
                let fix = fix(name, agent, condition);
                let fix = if has_root {
                    fix
                } else {
                    "fix the root directory first, see above; then `steadfast apply`".to_owned()
                };
                checks.bad("agent", format!("{state}: {}: {}", condition.reason, told(agent, &condition.message)), fix);
            }
            _ => checks.ok("agent", state),
        }
    }
}

/// What may help an agent that `run` keeps and that is not ready.
pub(super) fn fix_under_run(name: &AgentName, reason: Option<ConditionReason>, run: &Run) -> String {
    let why = format!("`steadfast why {name}` tells what stopped it");
    match run.backing_off.iter().find(|off| off.agent.as_ref() == Some(name)) {
        Some(BackingOff { retry_at: Some(at), .. }) => format!("{why}; `steadfast run` tries again at {at}"),
        Some(BackingOff { retry_at: None, .. }) => {
            format!("{why}; `steadfast run` tries again once the state file changes, or at `steadfast apply`")
        }
        None => match reason {
            Some(
                ConditionReason::Pending
                | ConditionReason::Downloading
                | ConditionReason::LoadingImage
                | ConditionReason::VmStarting
                | ConditionReason::Replacing,
            ) => {
                format!("{why}; `steadfast run` is at work on it")
            }
            Some(ConditionReason::Starting | ConditionReason::Restarted) => {
                "wait a moment: `steadfast status --watch` shows when it is ready".to_owned()
            }
            _ => why,
        },
    }
}

/// What is left to do beside the agents, and whether `status` would say that all is well.
pub(super) fn whole(desired: &Desired, snapshot: &Snapshot, view: Option<&(Value, Run)>, checks: &mut Checks) {
    if let Some((_, Run { pid, state_file_error: Some(err), .. })) = view {
        let first = err.message.lines().next().unwrap_or_default();
        let fix = "fix that in the state file; its last good state is kept meanwhile";
        return checks.bad("run", format!("`steadfast run` (pid {pid}) cannot use the state file: {first}"), fix);
    }
    let Snapshot { plan, status, .. } = snapshot;
    if view.map_or(status.converged, |(view, _)| view["converged"] == true) {
        return;
    }
    let is_told = |agent: &Option<AgentName>| agent.as_ref().is_some_and(|agent| desired.agents.contains_key(agent));
    let steps = plan.steps().filter(|step| !is_told(&step.agent));
    let steps = steps.map(|step| format!("{} ({})", step.action, step.reason));
    let waits = plan.waiting.iter().filter(|waiting| !is_told(&waiting.agent) && waiting.on.is_blocked());
    let waits = waits.map(|waiting| format!("{} `{}`: {}", waiting.kind.verb(), waiting.target, waiting.on));
    let left: Vec<_> = steps.chain(waits).collect();
    let fix = if plan.refused.is_some() {
        "`steadfast apply` refuses that for a state file without agents: put them back, or give --allow-empty"
            .to_owned()
    } else if view.is_some() {
        "`steadfast run` is at work on it: `steadfast status --watch` shows how far it is".to_owned()
    } else {
        "`steadfast apply` does it; `steadfast plan` shows it first".to_owned()
    };
    match left.as_slice() {
        [] if checks.0.iter().any(|check| !check.ok) => {}
        [] => checks.bad("plan", "not converged", fix),
        [first] => checks.bad("plan", format!("to do: {first}"), fix),
        [first, more @ ..] => {
            checks.bad("plan", format!("to do: {first}, and {} more", units::count(more.len(), "step")), fix)
        }
    }
}

/// What is wrong with an agent: how it is, and what the newest try came to, each on its first line.
pub(super) fn told(agent: &AgentStatus, message: &str) -> String {
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let last = agent.last_log.as_deref().and_then(|log| log.lines().last());
    let failure = agent.last_failure.as_ref().map(|failure| in_one_line(&failure.message).to_owned());
    let failure = failure.filter(|failure| !failure.contains(message));
    let mut told = first(message);
    if let Some(failure) = failure {
        told += &format!("; the last try failed: {failure}");
    }
    if let Some(line) = last.filter(|line| !line.is_empty()) {
        told += &format!("; its last log line: {line}");
    }
    told
}

/// What may help an agent that is not ready.
pub(super) fn fix(name: &AgentName, agent: &AgentStatus, condition: &Condition) -> String {
    let container = agent.container.as_ref().map(|container| container.name.as_str());
    let apply = || "`steadfast apply` does it; `steadfast plan` shows it first".to_owned();
    match (condition.reason, &agent.last_failure) {
        (ConditionReason::Blocked | ConditionReason::RolledBack, _) => {
            format!("`steadfast why {name}` says what would help")
        }
        (ConditionReason::CrashLoop, _) => format!("`steadfast logs {name}` shows all it said"),
        (ConditionReason::Failed, _) => kind_hint(FailureKind::Failed, name, container).unwrap_or_else(apply),
        (ConditionReason::Unhealthy, _) if agent.sync == SyncStatus::OutOfSync => {
            format!("`steadfast logs {name}` shows all it said; `steadfast apply` restarts it")
        }
        (ConditionReason::Unhealthy, _) => format!("`steadfast logs {name}` shows all it said"),
        (ConditionReason::Starting | ConditionReason::Restarted, _) => {
            "wait a moment: `steadfast status --watch` shows when it is ready".to_owned()
        }
        (_, Some(failure)) if agent.sync == SyncStatus::OutOfSync => {
            let mend = || format!("fix what the last try failed at: {AGAIN}");
            failure_hint(failure, name, container).unwrap_or_else(mend)
        }
        _ if agent.sync == SyncStatus::OutOfSync => apply(),
        _ => format!("`steadfast why {name}` tells more"),
    }
}
