//! What an observation tells of earlier failures and successes, and what it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::backoff::{Attempt, Cause, Failure, Schedule, What};
use super::{Checked, Core, Effect, Finding, Goal, Now, Observation};
use crate::act::ended;
use crate::backend::{EngineEvent, EventKind};
use crate::broken::Broken;
use crate::model::{
    AgentName, AgentState, ContainerName, Guest, Health, Observed, Phase, Reach, RestartPolicy, Route, Seen, Text,
    Transport,
};
use crate::plan::{Action, Lane, Plan, Policy, Reason, Step, StepKey, WaitingOn, plan, plan_down};
use crate::readiness::{AgentHealth, CheckedBy, checked_by, steady_after, unready};
use crate::reconcile::Refusal;
use crate::reconcile::run::{Event, Trigger};

/// How long Podman is reached by a lower route before an observation tries the best one.
const BETTER_ROUTE: Duration = Duration::from_secs(61);
/// A virtual machine that is about to answer is observed so often: each of these asks Lima, and tries every route.
const ANSWER_POLL: Duration = Duration::from_secs(1);
/// Where health is waited for and nothing else would wake it.
const HEALTH_POLL: Duration = Duration::from_secs(2);
/// As long as makes no difference.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Agents whose containers end all the time, as Podman tells.
#[derive(Debug, Default)]
pub(super) struct CrashLoopStops {
    /// To be stopped, and what they ended with.
    to_stop: BTreeMap<AgentName, i32>,
    /// What the containers of agents with a step in flight ended with first.
    first_ends: BTreeMap<AgentName, i32>,
}

impl CrashLoopStops {
    /// A step of this agent begins.
    pub(super) fn begins(&mut self, agent: &AgentName) {
        self.first_ends.remove(agent);
    }

    /// What its container ended with first since its step began.
    pub(super) fn first_end(&self, agent: &AgentName) -> Option<i32> {
        self.first_ends.get(agent).copied()
    }

    /// Forgets agents that are gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&AgentName) -> bool) {
        self.first_ends.retain(|agent, _| is_there(agent));
        self.to_stop.retain(|agent, _| is_there(agent));
    }
}

impl Core {
    /// What is planned for an observation: all of it, and what may be acted on while some of it is backing off.
    fn planned(&self, observed: &Observed, now: Now) -> (Plan, Option<Plan>) {
        if let Goal::Gone(what) = self.goal() {
            return (plan_down(&self.desired, observed, what), None);
        }
        if Broken::UnknownIsAbsent.is_in() && observed.guest.unknown().is_some() {
            let blind = Observed { guest: Seen::Present(Guest::default()), ..observed.clone() };
            return (plan(&self.desired, &blind, &self.policy), None);
        }
        if Broken::SessionMistaken.is_in() {
            let mut mistaken = (*self.desired).clone();
            let sessions = mistaken.agents.values_mut().flat_map(|agent| agent.sessions.values_mut());
            sessions.for_each(|spec| spec.command.push(Text::plain(self.observing.count.to_string())));
            return (plan(&mistaken, observed, &self.policy), None);
        }
        let full = plan(&self.desired, observed, &self.policy);
        let backing_off = self.replacements_backing_off(&full, now);
        if backing_off.is_empty() {
            return (full, None);
        }
        let acted = plan(&self.desired, observed, &Policy { backing_off, ..self.policy.clone() });
        (full, Some(acted))
    }

    /// An observation ended: learns from it, starts what is ready, and shows what it came to.
    pub(super) fn observed(&mut self, observation: Observation, now: Now) {
        let worth = self.observing.end(now.at);
        let Observation { observed, is_alone, cleared } = observation;
        if let Some(ending) = &self.ending {
            if ending.looks_once_more() {
                self.plan = self.planned(&observed, now).0;
                self.finish(now);
            }
            return;
        }
        if worth.outdated {
            return;
        }
        for cause in cleared {
            self.backoff.try_now(&cause, now.at);
        }
        self.policy.prune_cache = is_alone && self.terms.policy.prune_cache;
        let (full, acted) = self.planned(&observed, now);
        if self.is_refused(&full) {
            return;
        }
        let plan = acted.unwrap_or_else(|| full.clone());
        if !worth.stale.is_empty() && !Broken::StaleIsFresh.is_in() {
            // It may be older than what those steps did. For the others it is as good as any.
            self.notice_what_does_not_help(&plan, is_all_seen(&observed), &worth.stale, now);
            self.start_ready(&plan, &observed, &worth.stale, now);
            return self.answer_overdue(now);
        }
        let asked_by: Vec<_> = self.observing.take_triggers().into_iter().map(Trigger::word).collect();
        self.trigger = asked_by.join(",");
        self.effects.push(Effect::Planned {
            asked_by: self.trigger.clone(),
            ready: plan.ready.len(),
            waiting: plan.waiting.len(),
            took: self.observing.took,
        });
        self.notice_route(&observed);
        self.unready = match self.goal() {
            Goal::Wanted => unready(&self.desired, &observed, &plan, &self.policy, self.steady()),
            Goal::Gone(_) => Vec::new(),
        };
        self.observed_from = worth.began;
        self.judge_what_was_started(&observed);
        self.notice_crash_loops(now);
        self.learn(&observed, &full, &plan, now);
        let started = self.start_ready(&plan, &observed, &BTreeSet::new(), now);
        self.stop_crash_looping(&observed, now);
        self.keep_checking(&observed);
        self.plan_next_observation(&observed, &plan, now);
        self.notice_sessions(&observed, now);
        if !self.is_once() {
            self.manifest.await_offer(&self.desired, &plan, now.at);
        }
        if !self.is_once() {
            self.show(&observed, &plan, asked_by, now);
        }
        self.plan = full;
        self.answer_viewers();
        self.answer(&observed, started, now);
    }

    /// How long what ended must stay up before it counts as ready.
    pub(super) fn steady(&self) -> Duration {
        steady_after(self.terms.settle)
    }

    /// An edit that empties the state file is refused before it comes here; this is the file that was empty at the beginning. What
    /// it had stays. Yields whether it is over.
    fn is_refused(&mut self, plan: &Plan) -> bool {
        let Some(refused) = &plan.refused else { return false };
        let refusal = Refusal::Empty { name: self.desired.name.clone(), count: refused.count };
        if self.is_once() {
            self.effects.push(Effect::Finish(super::Verdict::Refused(refusal)));
            self.ending = Some(super::Ending::over());
            return true;
        }
        if self.file_error.is_none() {
            let why = format!("{refusal}: --allow-empty lets it");
            self.effects.push(Effect::Report(Event::FileRejected { why: why.clone() }));
            self.file_error = Some(why);
        }
        false
    }

    /// Tells of another route to Podman. That the best one answers at once is not reported.
    fn notice_route(&mut self, observed: &Observed) {
        let (now, before) = (observed.reach.clone(), std::mem::replace(&mut self.reach, observed.reach.clone()));
        let is_first = before == Reach::default();
        let went_well = now.route.is_some() && now.counts.iter().sum::<u32>() == 1;
        if now.route != before.route && !(is_first && went_well) {
            self.effects.push(Effect::Report(Event::VmReached { now, before: before.route }));
        }
    }

    /// What an observation tells of earlier failures and successes.
    fn learn(&mut self, observed: &Observed, full: &Plan, plan: &Plan, now: Now) {
        let is_all_seen = is_all_seen(observed);
        self.notice_what_does_not_help(plan, is_all_seen, &BTreeSet::new(), now);
        if !is_all_seen {
            return;
        }
        self.find_what_was_started(observed, now);
        if self.goal() == Goal::Wanted {
            self.review_rollouts(observed, full);
        }
        let ready = full.ready.iter().chain(&plan.ready).map(Step::key);
        let wanted: BTreeSet<StepKey> = ready.chain(full.waiting.iter().map(|waiting| waiting.key())).collect();
        let desired = self.desired.clone();
        self.backoff.forget(|cause| match (&cause.what, &cause.agent) {
            (What::Health, Some(agent)) => desired.agents.get(agent).is_none_or(|wanted| {
                let guest = observed.guest.present();
                let seen = guest.and_then(|guest| guest.containers.get(&wanted.container.name));
                seen.is_none_or(|seen| seen.health == Some(Health::Healthy))
            }),
            (What::Step { key, .. }, _) => !wanted.contains(key),
            (What::Health, None) => true,
        });
    }

    /// A difference that comes back although the step that removes it succeeds is not fought over.
    fn notice_what_does_not_help(&mut self, plan: &Plan, is_all_seen: bool, stale: &BTreeSet<Lane>, now: Now) {
        let again: Vec<Step> = self.drift_again.observed(plan, is_all_seen, stale).into_iter().cloned().collect();
        for step in again {
            let failure = Failure::NonConvergent { step: Box::new(step.clone()) };
            let schedule = if self.is_once() { Schedule::UntilChanged } else { Schedule::Lasting };
            self.backoff.failed(Cause::of(&step), Attempt::of(&step), failure, schedule, now);
            if self.is_once() {
                self.given_up.extend(step.agent.map(|agent| (agent, None)));
            }
        }
    }

    /// What a step has started whose answer was lost is judged as if the answer had come.
    fn find_what_was_started(&mut self, observed: &Observed, now: Now) {
        let Some(guest) = observed.guest.present() else { return };
        for (agent, action) in std::mem::take(&mut self.unsure) {
            let (name, old, last_start) = match &action {
                Action::CreateContainer { create, .. } => (&create.name, None, None),
                Action::ReplaceContainer { create, old, .. } => (&create.name, Some(old), None),
                Action::StartContainer { name, last_start, .. } => (name, None, *last_start),
                _ => continue,
            };
            let own = guest.containers.get(name).filter(|seen| seen.owner.is_of(&agent) && Some(&seen.id) != old);
            let Some(seen) = own else { continue };
            let has_run = match seen.phase {
                Phase::Running => true,
                Phase::Exited { .. } => seen.started_at.is_some() && seen.started_at > last_start,
                _ => false,
            };
            if has_run {
                self.crash_loops.started(&agent, now.at);
                self.started.insert(agent, seen.id.clone());
                self.last_start = Some(now.at);
            }
        }
    }

    /// A container that this convergence started and that did not stay up is an error with its last words, not a thing to start
    /// over and over.
    fn judge_what_was_started(&mut self, observed: &Observed) {
        let Some(guest) =
            observed.guest.present().filter(|_| self.is_once() && self.waits() && self.settles_at().is_none())
        else {
            return;
        };
        for (agent, id) in &self.started {
            // What is about to be replaced is stopped by us.
            if self.in_flight.get(&Lane::Agent(agent.clone())).is_some() {
                continue;
            }
            let Some(wanted) = self.desired.agents.get(agent).filter(|_| !self.given_up.contains_key(agent)) else {
                continue;
            };
            let seen = guest.containers.values().find(|seen| seen.id == *id);
            // Podman has not done with it yet, and another observation tells.
            if seen.is_some_and(|seen| matches!(seen.phase, Phase::Stopping | Phase::Removing)) {
                continue;
            }
            if let Some(how) = ended(seen, wanted.container.restart) {
                let finding = Finding::Ended { agent: agent.clone(), id: id.clone(), how };
                self.given_up.insert(agent.clone(), Some(finding));
            }
        }
    }

    // ------------------------------------------------------------------------------------------------ crash loops

    /// Counts the ends that Podman tells of. What ends all the time is to be stopped after the next observation.
    pub(super) fn count_end(&mut self, event: &EngineEvent, now: Now) {
        let (Some(code), Some(name)) = (event.exit_code, &event.container) else { return };
        let Ok(name) = ContainerName::new(name.as_str()) else { return };
        if event.kind != EventKind::Died {
            return;
        }
        let mut agents = self.desired.agents.iter();
        let Some((agent, wanted)) = agents.find(|(_, agent)| agent.container.name == name) else { return };
        // Our own doing, or a successor's end.
        if self.in_flight.get(&Lane::Agent(agent.clone())).is_some() {
            self.crash_loop_stops.first_ends.entry(agent.clone()).or_insert(code);
        } else if matches!(wanted.container.restart, RestartPolicy::OnFailureAtMost(_)) {
            // Podman ends its loop by itself, and it is to stay so then.
        } else if self.crash_loops.ended(agent, code, now.at) {
            self.crash_loop_stops.to_stop.insert(agent.clone(), code);
        }
    }

    /// Whom Podman restarts again and again is to be stopped, however slowly it ends. Before that it has ended once since it was
    /// started here or this began: what went before says nothing about what it does now.
    fn notice_crash_loops(&mut self, now: Now) {
        for unready in &self.unready {
            let agent = &unready.agent;
            let loops = match unready.health {
                AgentHealth::CrashLoop(_) => true,
                AgentHealth::Restarted { .. } => self.crash_loops.is_on_probation(agent, now.at),
                _ => false,
            };
            if let Some(code) = self.crash_loops.last_end(agent).filter(|_| loops) {
                self.crash_loop_stops.to_stop.entry(agent.clone()).or_insert(code);
            }
        }
    }

    /// Stops containers in a crash loop: until they may be started again they cost nobody anything.
    fn stop_crash_looping(&mut self, observed: &Observed, now: Now) {
        for (name, code) in std::mem::take(&mut self.crash_loop_stops.to_stop) {
            let Some(agent) = self.desired.agents.get(&name) else { continue };
            let container = &agent.container.name;
            let seen = observed.guest.present().and_then(|guest| guest.containers.get(container));
            let Some(seen) = seen.filter(|seen| seen.owner.is_of(&name)) else { continue };
            let ours_to_stop = agent.state == AgentState::Running && !agent.suspend;
            if !ours_to_stop || self.in_flight.get(&Lane::Agent(name.clone())).is_some() {
                continue;
            }
            self.crash_loops.stopped(&name, code, now.at);
            match seen.phase {
                Phase::Running => {}
                // A stop between two lives does nothing.
                Phase::Stopping => {
                    self.crash_loop_stops.to_stop.insert(name, code);
                    continue;
                }
                _ => continue,
            }
            let action = Action::StopContainer { id: seen.id.clone(), name: container.clone() };
            // Killed, so that what it ends with counts as no success of its own.
            self.start(Step { agent: Some(name), action, reason: Reason::CrashLoop }, Some(Duration::ZERO));
        }
    }

    // ------------------------------------------------------------------------------------------------- what is next

    /// Checks the health of those, and only those, that run and have a check. A single convergence checks those alone whose
    /// verdict it waits for.
    fn keep_checking(&mut self, observed: &Observed) {
        let Some(guest) = observed.guest.present().filter(|_| self.goal() == Goal::Wanted) else { return };
        let awaited = |name: &AgentName| {
            let mut unready = self.unready.iter();
            unready.any(|one| one.agent == *name && one.health == AgentHealth::Starting)
        };
        let checked = self.desired.agents.iter().filter_map(|(name, agent)| {
            let seen = guest.containers.get(&agent.container.name)?;
            let by = checked_by(agent.container.healthcheck.as_ref(), Some(seen));
            let runs = seen.owner.is_of(name) && seen.phase == Phase::Running && agent.state == AgentState::Running;
            // A step that is under way does its own.
            let is_busy = self.in_flight.get(&Lane::Agent(name.clone())).is_some();
            if by == CheckedBy::None || !runs || is_busy || self.is_once() && !(self.waits() && awaited(name)) {
                return None;
            }
            let check = agent.container.healthcheck.as_ref().or(seen.check.as_ref()).cloned();
            let (id, health) = (seen.id.clone(), seen.health.clone());
            Some(Checked { id, started_at: seen.started_at, check, health })
        });
        let checked = checked.collect();
        self.effects.push(Effect::CheckHealth(checked));
    }

    /// When to observe again if nothing happens.
    fn plan_next_observation(&mut self, observed: &Observed, plan: &Plan, now: Now) {
        let moves = plan.waiting.iter().filter(|waiting| matches!(waiting.on, WaitingOn::Transition { .. }));
        self.observing.keep_moving(moves.map(|waiting| waiting.target.clone()), now.at);
        self.observe_once_steady(observed, now);
        if plan.waiting.iter().any(|waiting| matches!(waiting.on, WaitingOn::Answer { .. })) {
            self.observing.ask(Trigger::Retry, now.at + ANSWER_POLL);
        }
        // Nothing tells when the best route into the machine is there again.
        let is_low = self.reach.route.is_some_and(Route::is_low);
        let has_better = observed.vm.present().is_some_and(|vm| vm.socket.is_some())
            && self.desired.vm().is_some_and(|vm| vm.transport != Transport::Shell);
        if is_low && has_better && !self.is_once() {
            self.observing.ask(Trigger::Retry, now.at + BETTER_ROUTE);
        }
        // Where it is neither seen nor heard, whoever listens says when it is back. What is seen and not heard may go at any
        // moment, and nobody would tell. A single convergence does not listen.
        let is_seen = observed.guest.present().is_some();
        let is_blind = if self.is_once() { self.is_hiccup(observed) } else { self.connected != is_seen };
        self.observing.is_blind(is_blind, now.at);
        if Broken::HotLoop.is_in() {
            self.observing.ask(Trigger::Retry, now.at + Duration::from_millis(50));
        }
        if let Some(settled) = self.settles_at() {
            self.observing.ask(Trigger::Retry, settled);
        }
    }

    /// Those that are to stay up for a while are looked at once they have, if nothing is heard of them before.
    fn observe_once_steady(&mut self, observed: &Observed, now: Now) {
        let looked_at = observed.guest.present().and_then(|guest| guest.looked_at);
        let loops = |health: &AgentHealth| matches!(health, AgentHealth::CrashLoop(_));
        let not_before = self.observing.crash_looping(self.unready.iter().any(|unready| loops(&unready.health)));
        let steady = self.unready.iter().filter_map(|unready| {
            let left = unready.health.until()?.duration_since(looked_at?).ok()?.min(NEVER);
            Some(if loops(&unready.health) { left.max(not_before) } else { left })
        });
        let mut first = steady.min();
        if self.is_once() && self.waits() && self.unready.iter().any(|unready| unready.health.is_progressing()) {
            // No event would tell of an end meanwhile.
            first = Some(first.map_or(HEALTH_POLL, |first| first.min(HEALTH_POLL)));
        }
        if let Some(first) = first {
            self.observing.ask(Trigger::Retry, now.at + first);
        }
    }

    /// When what was started last has been up for long enough to be checked once more, where somebody waits for that.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        let settled = self.last_start.filter(|_| self.waits())? + self.terms.settle;
        (settled > self.observed_from).then_some(settled)
    }
}

fn is_all_seen(observed: &Observed) -> bool {
    observed.guest.unknown().is_none() && observed.artifacts.unknown().is_none()
}
