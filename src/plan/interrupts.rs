//! Whom a plan interrupts: agents that run now, and do not for a moment or for good while it is carried out.

use std::collections::BTreeSet;

use super::{Action, ActionKind, Plan, StartMode};
use crate::model::{AgentName, Boot, ContainerId, Guest, Phase, RolloutStrategy};

impl Plan {
    /// The agents that run and are stopped, restarted, replaced or removed by it. `guest` is the observation it was made from; of
    /// what was not observed, it is taken to run.
    pub fn interrupts(&self, guest: Option<&Guest>) -> BTreeSet<&AgentName> {
        let runs = |id: &ContainerId| {
            let found = guest.and_then(|guest| guest.containers.values().find(|seen| seen.id == *id));
            found.is_none_or(|seen| seen.phase == Phase::Running)
        };
        let ready = self.steps().filter(|step| match &step.action {
            // One of the two serves at every moment.
            Action::ReplaceContainer { rollout, .. } if rollout.strategy == RolloutStrategy::Overlap => false,
            Action::ReplaceContainer { old, .. } => runs(old),
            Action::StopContainer { id, .. }
            | Action::RemoveContainer { id, .. }
            | Action::StartContainer { id, how: StartMode::Restart, .. } => runs(id),
            _ => false,
        });
        // What runs in a machine that goes down goes down with it.
        let goes_down = self.ready.iter().any(|step| {
            matches!(step.action, Action::RecreateVm { .. } | Action::StartVm { how: Boot::Restart | Boot::Repair, .. })
        });
        let is_up = |agent: &AgentName| {
            guest.is_none_or(|guest| {
                guest.containers.values().any(|seen| seen.owner.is_of(agent) && seen.phase == Phase::Running)
            })
        };
        let stops = |kind: ActionKind| {
            matches!(kind, ActionKind::ReplaceContainer | ActionKind::StopContainer | ActionKind::RemoveContainer)
                || goes_down && kind.is_container()
        };
        let waiting = self.waiting.iter().filter(|waiting| stops(waiting.kind) && !waiting.on.is_blocked());
        let waiting = waiting.filter_map(|waiting| waiting.agent.as_ref()).filter(|agent| is_up(agent));
        ready.filter_map(|step| step.agent.as_ref()).chain(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerName, ContainerState, FailureKind, Owner, SPEC_VERSION};
    use crate::plan::{Reason, Step, Waiting, WaitingOn};

    fn guest(phases: &[(&str, Phase)]) -> Guest {
        let containers = phases.iter().map(|(agent, phase)| {
            let owner = Owner::Ours { agent: Some(agent.parse().unwrap()), spec: None, version: SPEC_VERSION };
            let container = ContainerState::bare(agent.parse().unwrap(), owner, phase.clone());
            (ContainerName::new(format!("demo-{agent}")).unwrap(), container)
        });
        Guest { containers: containers.collect(), ..Guest::default() }
    }

    fn names(plan: &Plan, guest: &Guest) -> Vec<String> {
        plan.interrupts(Some(guest)).into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_runs_and_is_touched_is_interrupted() {
        let name = |agent: &str| ContainerName::new(format!("demo-{agent}")).unwrap();
        let stop = |agent: &str| Action::StopContainer { id: agent.parse().unwrap(), name: name(agent) };
        let remove = |agent: &str| Action::RemoveContainer { id: agent.parse().unwrap(), name: name(agent) };
        let agents = ["run-stop", "run-remove", "down-remove"];
        let actions = [stop("run-stop"), remove("run-remove"), remove("down-remove")];
        let ready = agents.iter().zip(actions).map(|(agent, action)| Step {
            agent: Some(agent.parse().unwrap()),
            action,
            reason: Reason::Orphaned,
        });
        let waits = |agent: &str, on: WaitingOn| Waiting {
            agent: Some(agent.parse().unwrap()),
            kind: ActionKind::ReplaceContainer,
            target: name(agent).to_string(),
            reason: Reason::SpecUnreadable,
            on,
        };
        let later = || WaitingOn::Removal { name: name("x") };
        let blocked = WaitingOn::Precondition { kind: FailureKind::Conflict, why: "host port 1 is taken".into() };
        let waiting = vec![waits("run-later", later()), waits("down-later", later()), waits("run-blocked", blocked)];
        let plan = Plan { ready: ready.collect(), waiting, ..Plan::default() };
        let exited = || Phase::Exited { code: 0 };
        let seen = guest(&[
            ("run-stop", Phase::Running),
            ("run-remove", Phase::Running),
            ("down-remove", exited()),
            ("run-later", Phase::Running),
            ("down-later", exited()),
            ("run-blocked", Phase::Running),
        ]);
        assert_eq!(names(&plan, &seen), ["run-later", "run-remove", "run-stop"]);
    }
}
