//! Which of the steps that are ready may be taken now, and what the end of one means for the next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::{Attempt, Cause, Failure, Schedule, is_bad, schedule};
use super::crash_loop;
use super::{Core, Effect, Finding, Now};
use crate::act::{ActError, Disposition, Ending};
use crate::broken::Broken;
use crate::model::{AgentName, Observed, Phase, RestartPolicy};
use crate::plan::{Action, Lane, Plan, Reason, StartMode, Step};
use crate::readiness::{AgentHealth, Unready};
use crate::reconcile::TakenStep;
use crate::reconcile::run::Trigger;

/// How long before the end of all time a successor must be healthy, so that its predecessor can be put back.
const PUT_BACK_TIME: Duration = Duration::from_millis(500);

impl Core {
    /// Agents whose replacement is ready and backing off. What they have is kept alive meanwhile.
    pub(super) fn replacements_backing_off(&self, plan: &Plan, now: Now) -> BTreeSet<AgentName> {
        let backing_off = plan
            .ready
            .iter()
            .filter(|step| matches!(step.action, Action::ReplaceContainer { .. }) && !self.may_try(step, now.at));
        backing_off.filter_map(|step| step.agent.clone()).collect()
    }

    /// Starts what is ready, but nothing in these lanes. Yields whether anything was started.
    pub(super) fn start_ready(&mut self, plan: &Plan, observed: &Observed, but: &BTreeSet<Lane>, now: Now) -> bool {
        self.judged_at = now.at;
        self.others_wait = !plan.waiting.is_empty();
        let mut ready = Vec::new();
        for step in &plan.ready {
            let lane = step.lane();
            // What was seen in a container is as old as what was seen of it.
            let is_stale = but.contains(&lane) || step.container_lane().is_some_and(|lane| but.contains(&lane));
            if !self.in_flight.is_taken(step) && !is_stale && self.may_take(step, observed, now) {
                ready.push(step.clone());
            }
        }
        self.in_flight.enqueue(ready);
        self.start_next()
    }

    /// Starts as many as there are slots for.
    pub(super) fn start_next(&mut self) -> bool {
        if self.ending.is_some() {
            return false;
        }
        let mut started = false;
        while let Some(step) = self.in_flight.next() {
            self.start(step, None);
            started = true;
        }
        started
    }

    /// Starts a step. A stop gets `grace` where that is not the usual one.
    pub(super) fn start(&mut self, step: Step, grace: Option<Duration>) {
        if let Some(agent) = &step.agent {
            self.crash_loop_stops.begins(agent);
        }
        let deadline = self.deadline().and_then(|at| at.checked_sub(PUT_BACK_TIME));
        self.in_flight.start(step.clone(), self.trigger.clone());
        self.effects.push(Effect::Start { step: Box::new(step), grace, deadline });
    }

    fn may_try(&self, step: &Step, now: Instant) -> bool {
        let all = self.backoff.iter().all(|(_, failed)| failed.retry_at.is_none_or(|at| at <= now));
        (all || !Broken::OneHoldsAll.is_in()) && self.backoff.may_try(&Cause::of(step), &Attempt::of(step), now)
    }

    fn may_take(&mut self, step: &Step, observed: &Observed, now: Now) -> bool {
        let of_agent = matches!(step.lane(), Lane::Agent(_));
        if of_agent && step.agent.as_ref().is_some_and(|agent| self.given_up.contains_key(agent)) {
            return false;
        }
        if !self.may_try(step, now.at) {
            return false;
        }
        let (Action::StartContainer { id, how, .. }, Some(agent)) = (&step.action, &step.agent) else { return true };
        // What this convergence started itself, and is down again or unhealthy, is not started over and over.
        let is_own = self.is_once() && self.started.get(agent) == Some(id);
        match (how, &step.reason) {
            (StartMode::Restart, _) if is_own => {
                let mut seen = observed.guest.present().into_iter().flat_map(|guest| guest.containers.values());
                let check = seen.find(|seen| seen.id == *id).and_then(|seen| seen.last_check.clone());
                let health = AgentHealth::Unhealthy(check);
                let unready = Unready { agent: agent.clone(), id: id.clone(), health };
                self.given_up.insert(agent.clone(), Some(Finding::Unready(unready)));
                false
            }
            (StartMode::Restart, _) => self.backoff.may_try(&Cause::health(agent), &Attempt::any(), now.at),
            (StartMode::Start, Reason::NotRunning(Phase::Exited { code })) if is_own => {
                let how = Ending::Exited(*code);
                self.given_up.insert(agent.clone(), Some(Finding::Ended { agent: agent.clone(), id: id.clone(), how }));
                false
            }
            (StartMode::Start, Reason::NotRunning(Phase::Exited { code })) => {
                let restart = self.desired.agents.get(agent);
                let restart = restart.map_or_else(RestartPolicy::default, |agent| agent.container.restart);
                self.crash_loops.down(agent, *code, restart, now.at) == crash_loop::Verdict::Start
                    || Broken::CrashLoopStarted.is_in()
            }
            (StartMode::Start | StartMode::Unpause, _) => true,
        }
    }

    /// A step ended.
    pub(super) fn step_ended(&mut self, taken: TakenStep, now: Now) {
        let TakenStep { step, outcome, .. } = &taken;
        let opens = self.others_wait && opens_ways(&taken);
        let lane = step.lane();
        let running = self.in_flight.end(&lane);
        self.observing.step_ended(&lane);
        match outcome {
            Ok(done) => {
                self.drift_again.succeeded(step);
                self.backoff.forget(|cause| *cause == Cause::of(step));
                if matches!(step.reason, Reason::CrashLoop) {
                    step.agent.iter().for_each(|agent| self.crash_loops.backoff_begins(agent, now.at));
                }
                if let (Some(agent), Some(id)) = (&step.agent, &done.started) {
                    if !done.settled {
                        self.last_start = Some(now.at);
                    }
                    self.started.insert(agent.clone(), id.clone());
                    self.crash_loops.started(agent, now.at);
                    self.was_restarted(step, agent, now);
                }
            }
            Err(error) if matches!(**error, ActError::Interrupted) => {}
            Err(error) => self.failed(step, error, running.map(|running| running.trigger).unwrap_or_default(), now),
        }
        self.waiters.taken(&taken);
        if let Some(ending) = &mut self.ending {
            ending.step_ended();
            return self.end_by_now(now);
        }
        if opens || self.in_flight.is_idle() {
            self.observing.ask(Trigger::Step, now.at);
        } else {
            self.start_next();
            self.observing.ask_soon(Trigger::Step, now.at);
        }
    }

    fn failed(&mut self, step: &Step, error: &Arc<ActError>, trigger: String, now: Now) {
        if let (Disposition::Retry, Some(agent)) = (error.disposition(), &step.agent) {
            self.unsure.insert(agent.clone(), step.action.clone());
        }
        // What is left of it is for a person to look at, the predecessor above all.
        let is_lost =
            matches!(**error, ActError::RollBackFailed { .. }) && error.disposition() == Disposition::NeedsUser;
        if self.is_once() && is_lost {
            self.given_up.extend(step.agent.clone().map(|agent| (agent, None)));
        }
        let (cause, attempt) = (Cause::of(step), Attempt::of(step));
        let restart = match &step.action {
            Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } => {
                Some(create.spec.restart)
            }
            Action::StartContainer { spec, .. } => Some(spec.restart),
            _ => None,
        };
        let first_end = step.agent.as_ref().and_then(|agent| self.crash_loop_stops.first_end(agent));
        let failures = self.backoff.failures(&cause, &attempt);
        if is_bad(error, restart, first_end, failures) {
            self.quarantine(step, error, now);
        }
        let schedule = match schedule(error, restart, first_end, failures) {
            // A single convergence does not wait for what only somebody else ends.
            Schedule::Lasting if self.is_once() => Schedule::UntilChanged,
            schedule => schedule,
        };
        let failure = Failure::Step { step: Box::new(step.clone()), error: error.clone(), trigger };
        self.backoff.failed(cause, attempt, failure, schedule, now);
    }

    /// One that was restarted for want of health is given time before that is done once more.
    fn was_restarted(&mut self, step: &Step, agent: &AgentName, now: Now) {
        if let Action::StartContainer { how: StartMode::Restart, name, .. } = &step.action {
            let failure = Failure::Unhealthy { container: name.to_string() };
            self.backoff.failed(Cause::health(agent), Attempt::any(), failure, Schedule::Lasting, now);
        }
    }
}

/// Whether what ended may have opened the way for a step that waits.
fn opens_ways(taken: &TakenStep) -> bool {
    taken.outcome.is_ok()
        && !matches!(taken.step.action, Action::CreateContainer { .. } | Action::StartContainer { .. })
}
