//! After the steps: did what was started stay up, and did it become healthy?

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::memory::Memory;
use super::{Awaited, Reconciler, Trouble};
use crate::act::{ActError, Ending, become_healthy, ended, inspect_settled, last_lines};
use crate::backend::{Engine, Store, Vm};
use crate::model::{AgentName, AgentState, ContainerId, ContainerState, Health, Observed, Phase};
use crate::plan::{Action, Plan, Reason, is_in_a_crash_loop};
use crate::readiness::AgentHealth;

impl<V: Vm, E: Engine, S: Store> Reconciler<'_, V, E, S> {
    /// A container that this convergence started and that is down again is an error with its last words, not a thing to
    /// start over and over.
    pub(super) async fn judge_deaths(&self, run: &mut Memory, observed: &Observed, plan: &Plan) {
        let dead: Vec<_> = plan
            .ready
            .iter()
            .filter_map(|step| match (&step.action, &step.reason, &step.agent) {
                (Action::StartContainer { id, .. }, Reason::NotRunning(Phase::Exited { code }), Some(agent))
                    if run.started.get(agent) == Some(id) =>
                {
                    Some((agent.clone(), id.clone(), Ending::Exited(*code)))
                }
                _ => None,
            })
            .collect();
        for (agent, id, how) in dead {
            self.give_up(run, observed, &agent, &id, how).await;
        }
    }

    async fn give_up(&self, run: &mut Memory, observed: &Observed, agent: &AgentName, id: &ContainerId, how: Ending) {
        if !run.given_up.insert(agent.clone()) {
            return;
        }
        let wanted =
            || self.desired.agents.get(agent).map_or_else(|| agent.to_string(), |a| a.container.name.to_string());
        let container = container_of(observed, id).map_or_else(wanted, |(name, _)| name);
        let log = match self.desired.agents.get(agent) {
            Some(agent) => last_lines(&self.world.engine, id, &agent.container).await,
            None => String::new(),
        };
        let error = Arc::new(ActError::EndedAtOnce { container, how, log });
        run.troubles.push(Trouble::Failed { agent: Some(agent.clone()), error });
    }

    /// Looks once more at what was started. Yields whether there was anything to wait for.
    pub(super) async fn settle(&self, run: &mut Memory, observed: &Observed, deadline: Instant) -> bool {
        let Some(last) = run.last_start.take() else { return false };
        self.pause((last + self.options.patience.settle).min(deadline)).await;
        let started = run.started.clone().into_iter();
        let unsettled: Vec<_> =
            started.filter(|(agent, id)| !run.given_up.contains(agent) && !run.settled.contains(id)).collect();
        let looks = join_all(unsettled.iter().map(|(_, id)| inspect_settled(&self.world.engine, id))).await;
        for ((agent, id), seen) in unsettled.into_iter().zip(looks) {
            let Some(wanted) = self.desired.agents.get(&agent) else { continue };
            let seen = match seen {
                Ok(seen) => seen,
                // It is taken again by the next pass.
                Err(err) => {
                    run.last_start = err.kind.is_retryable().then(Instant::now);
                    continue;
                }
            };
            if let Some(how) = ended(seen.as_ref(), wanted.container.restart) {
                self.give_up(run, observed, &agent, &id, how).await;
            }
        }
        true
    }

    /// Waits for the health of every agent that has a check. Yields whether there was anything to wait for.
    pub(super) async fn await_health(
        &self,
        run: &mut Memory,
        observed: &Observed,
        plan: &Plan,
        deadline: Instant,
    ) -> bool {
        let Some(guest) = observed.guest.present() else { return false };
        let waiting: Vec<_> = self
            .desired
            .agents
            .iter()
            .filter(|(name, agent)| {
                self.options.policy.includes(name)
                    && !agent.suspend
                    && agent.state == AgentState::Running
                    && !run.given_up.contains(*name)
                    && !is_pending(plan, name)
            })
            .filter_map(|(name, agent)| {
                let container = guest.containers.get(&agent.container.name)?;
                // A stranger that holds the name is not asked how he is: that would run our command in his container.
                let ours = container.owner.is_of(name);
                let check = agent.container.healthcheck.as_ref().or(container.check.as_ref())?;
                let pending = ours
                    && !is_in_a_crash_loop(container)
                    && container.phase == Phase::Running
                    && container.health != Some(Health::Healthy)
                    && !run.healthy.contains(&container.id);
                let named = (name.clone(), agent.container.name.to_string());
                pending.then(|| (named, container.id.clone(), &agent.container, check.clone()))
            })
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let names: Vec<_> = waiting.iter().map(|((name, _), ..)| name.clone()).collect();
        self.reporter.awaiting(&Awaited { health: names, ..Awaited::default() });
        let patience = deadline.saturating_duration_since(Instant::now());
        let waits = waiting.into_iter().map(async |((agent, container), id, spec, check)| {
            let outcome = become_healthy(&self.world.engine, &id, &container, spec, Some(&check), patience).await;
            (agent, id, outcome)
        });
        let all = join_all(waits);
        let outcomes = tokio::select! {
            outcomes = all => Some(outcomes),
            () = self.cancel.cancelled() => None,
        };
        self.reporter.awaiting(&Awaited::default());
        let Some(outcomes) = outcomes else { return true };
        for (agent, id, outcome) in outcomes {
            match outcome {
                Ok(()) => {
                    run.healthy.insert(id);
                }
                Err(error) => {
                    run.given_up.insert(agent.clone());
                    run.troubles.push(Trouble::Failed { agent: Some(agent), error: Arc::new(error) });
                }
            }
        }
        true
    }
}

/// How long a container that was restarted is left alone before it is looked at again: one that ends meanwhile is in a crash
/// loop, and is told as such so much later at the most.
const STEADY_POLL: Duration = Duration::from_secs(2);

impl<V: Vm, E: Engine, S: Store> Reconciler<'_, V, E, S> {
    /// Waits for agents that were restarted a moment ago to show that they stay up, and takes those in a crash loop, and
    /// those that failed, for what they are. Yields whether there was anything to wait for.
    pub(super) async fn await_steadiness(&self, run: &mut Memory, observed: &Observed, deadline: Instant) -> bool {
        let unready: Vec<_> =
            run.unready.iter().filter(|unready| !run.given_up.contains(&unready.agent)).cloned().collect();
        let (progressing, rest): (Vec<_>, Vec<_>) =
            unready.into_iter().partition(|unready| unready.health.is_progressing());
        for unready in rest {
            run.given_up.insert(unready.agent.clone());
            let trouble = Trouble::of_unready(&self.world.engine, self.desired, unready).await;
            run.troubles.push(trouble);
        }
        if progressing.is_empty() {
            return false;
        }
        let mut awaited = Awaited::default();
        for unready in &progressing {
            match unready.health {
                AgentHealth::Restarted { steady, .. } => {
                    awaited.steadiness.push(unready.agent.clone());
                    awaited.steady = awaited.steady.max(steady);
                }
                _ => awaited.health.push(unready.agent.clone()),
            }
        }
        if run.awaited != awaited {
            self.reporter.awaiting(&awaited);
            run.awaited = awaited;
        }
        let looked_at = observed.guest.present().and_then(|guest| guest.looked_at);
        let left = progressing.iter().filter_map(|unready| unready.health.until()?.duration_since(looked_at?).ok());
        let pause = left.min().unwrap_or(STEADY_POLL).clamp(STEADY_POLL / 10, STEADY_POLL);
        self.pause((Instant::now() + pause).min(deadline)).await;
        true
    }
}

/// Whether the container of an agent is yet another than what is wanted, and so may not have its check.
fn is_pending(plan: &Plan, name: &AgentName) -> bool {
    plan.ready.iter().any(|step| step.agent.as_ref() == Some(name) && step.action.kind().is_container())
        || plan.waiting.iter().any(|waiting| waiting.agent.as_ref() == Some(name) && waiting.kind.is_container())
}

fn container_of<'a>(observed: &'a Observed, id: &ContainerId) -> Option<(String, &'a ContainerState)> {
    let guest = observed.guest.present()?;
    guest.containers.iter().find(|(_, container)| container.id == *id).map(|(name, seen)| (name.to_string(), seen))
}
