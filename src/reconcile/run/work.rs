//! What a look leads to: what is learned from it, which steps are taken, and who is answered.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crashes::Verdict;
use super::health::Patient;
use super::setbacks::{Cause, Failure, LASTING, Schedule, What, schedule};
use super::view::agent_of;
use super::{BLIND, Flown, NEVER, Running, STILL_CRASH_LOOPING, TIDYING, TRANSITION, Trigger, jittered};
use crate::act::{ActError, Patience, Slot, obstacle};
use crate::backend::{Engine, EngineEvent, EventKind, Store, Vm};
use crate::model::{
    AgentName, AgentState, ContainerName, ContainerState, Desired, FailureKind, Health, Observed, Phase, Rung,
    Transport,
};
use crate::plan::{Action, Lane, Plan, Reason, Revival, Step, Waiting, WaitingOn};
use crate::readiness::{AgentHealth, CheckedBy, Unready, checked_by};
use crate::reconcile::flights::{Landed, fly};
use crate::reconcile::{ANSWER_POLL, Report, Taken, Trouble, opens_ways, report};

/// How long Podman is reached in a lower way before a look tries the best one.
const BETTER_WAY: Duration = Duration::from_secs(61);
/// A step that ended well so often, and is still wanted, does not help.
const REPEATS: u32 = 2;

impl<'a, V: Vm, E: Engine, S: Store> Running<'a, V, E, S> {
    /// What a look tells of earlier failures and successes.
    pub(super) fn learn(&mut self, observed: &Observed, plan: &Plan) {
        if observed.guest.unknown().is_some() || observed.artifacts.unknown().is_some() {
            return;
        }
        self.connected_deaths(observed);
        let ready = plan.ready.iter().map(Step::key);
        let waiting = plan.waiting.iter().map(Waiting::key);
        let wanted: BTreeSet<_> = ready.chain(waiting).map(What::Step).collect();
        let desired = self.desired.clone();
        self.setbacks.forget(|cause, _| match &cause.agent {
            Some(agent) if cause.what == What::Health => is_healthy(observed, &desired, agent),
            _ => !wanted.contains(&cause.what),
        });
        self.repeats.retain(|(key, _), _| wanted.contains(&What::Step(key.clone())));
        self.notice_what_does_not_help(plan);
    }

    fn connected_deaths(&mut self, observed: &Observed) {
        let Some(guest) = observed.guest.present() else { return };
        if self.deaths.is_none() && !self.deaths_tried {
            let runs = |container: &ContainerState| container.phase == Phase::Running;
            self.deaths_tried = guest.containers.values().any(runs);
            self.deaths = self.with.world.engine.deaths(guest);
        }
    }

    /// A step that ended well, and is wanted again for the same reason by the very next look, did not help.
    fn notice_what_does_not_help(&mut self, plan: &Plan) {
        let now = Instant::now();
        for done in std::mem::take(&mut self.done) {
            let again = plan.ready.iter().find(|step| step.key() == done.0 && step.reason.to_string() == done.1);
            // What ends as soon as it is started is the subject of `crashes`.
            let ends = |step: &&Step| matches!(step.action, Action::StartContainer { how: Revival::Start, .. });
            let Some(step) = again.filter(|step| !ends(step)) else {
                self.repeats.remove(&done);
                continue;
            };
            let times = self.repeats.entry(done).or_default();
            *times += 1;
            if *times >= REPEATS {
                let message = format!("{} succeeded, but still: {}", step.action, step.reason);
                let what = Failure::found(FailureKind::NonConvergent, message);
                self.setbacks.failed(cause(step), tried(step), what, Schedule::Lasting, now);
            }
        }
    }

    /// Starts what is ready. Yields whether anything was started.
    pub(super) fn launch(&mut self, plan: &Plan) -> bool {
        let now = Instant::now();
        self.judged_at = now;
        self.others_wait = !plan.waiting.is_empty();
        let ready: Vec<_> = plan.ready.iter().filter(|step| !self.flying.contains_key(&step.lane())).collect();
        let queue = ready.into_iter().filter(|step| self.may_take(step, now)).cloned().collect();
        self.queue = queue;
        self.launch_queue()
    }

    /// As many of the queue as may fly at once.
    pub(super) fn launch_queue(&mut self) -> bool {
        if self.with.cancel.is_cancelled() {
            return false;
        }
        let mut launched = false;
        for step in std::mem::take(&mut self.queue) {
            let lane = step.lane();
            let slot = match step.action {
                _ if self.flying.contains_key(&lane) => None,
                Action::FetchArtifact { .. } => {
                    let downloads = self.flying.keys().filter(|lane| lane.is_fetch()).count();
                    (downloads < self.with.options.downloads.max(1)).then(Slot::default)
                }
                _ => self.slots.take(),
            };
            let Some(slot) = slot else {
                self.queue.push_back(step);
                continue;
            };
            self.start(step, Patience { slot, ..self.with.options.patience.clone() });
            launched = true;
        }
        launched
    }

    fn start(&mut self, step: Step, patience: Patience) {
        let cancel = self.with.cancel.child_token();
        let outdated = CancellationToken::new();
        let flown = Flown {
            step: step.clone(),
            since: Instant::now(),
            cancel: cancel.clone(),
            outdated: outdated.clone(),
            trigger: self.trigger.clone(),
        };
        self.tell_of(&flown);
        if let Some(agent) = &step.agent {
            self.first_ends.remove(agent);
        }
        self.flying.insert(step.lane(), flown);
        let patience = Patience { cancel, outdated, ..patience };
        self.flights.push(fly(self.with.world, step, patience, self.with.reporter, self.stop));
    }

    /// Agents whose replacement is ready and left alone for now, since it failed.
    pub(super) fn held(&self, plan: &Plan) -> BTreeSet<AgentName> {
        let now = Instant::now();
        let held = plan.ready.iter().filter(|step| {
            let replaces = matches!(step.action, Action::ReplaceContainer { .. });
            replaces && !self.may_try(step, now)
        });
        held.filter_map(|step| step.agent.clone()).collect()
    }

    /// Whether the time for a step has come, or what it failed of is over: a host port that was taken, a mount source that was
    /// not there. That can be seen without trying.
    fn may_try(&self, step: &Step, now: Instant) -> bool {
        let cause = cause(step);
        let of_this_machine = |error: &ActError| {
            matches!(error, ActError::PortTaken { .. } | ActError::MountSource { .. })
                && self.with.options.patience.local
        };
        self.setbacks.may_try(&cause, &tried(step), now)
            || self.setbacks.error(&cause).is_some_and(of_this_machine) && obstacle(&step.action).is_none()
    }

    fn may_take(&mut self, step: &Step, now: Instant) -> bool {
        if !self.may_try(step, now) {
            return false;
        }
        let (Action::StartContainer { how, .. }, Some(agent)) = (&step.action, &step.agent) else { return true };
        match (how, &step.reason) {
            (Revival::Restart, _) => {
                let health = Cause { agent: Some(agent.clone()), what: What::Health, is_start: false };
                self.setbacks.may_try(&health, "", now)
            }
            (Revival::Start, Reason::NotRunning(Phase::Exited { code })) => {
                let restart =
                    self.desired.agents.get(agent).map_or_else(Default::default, |agent| agent.container.restart);
                self.crashes.down(agent, *code, restart, now) == Verdict::Start
            }
            (Revival::Start | Revival::Unpause, _) => true,
        }
    }

    /// A step ended.
    pub(super) fn land(&mut self, landed: Landed) {
        let opens = self.others_wait && opens_ways(&landed);
        let Landed { step, outcome, took } = landed;
        let flown = self.flying.remove(&step.lane());
        tracing::info!(
            kind = step.action.kind().as_str(),
            target = %step.action.target(),
            agent = step.agent.as_ref().map(AgentName::as_str),
            reason = %step.reason,
            error = outcome.as_ref().err().map(|err| err.kind().as_str()),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "took a step"
        );
        self.with.journal.woken_by(flown.as_ref().map_or("", |flown| &flown.trigger));
        self.with.journal.step(&step, outcome.as_ref().map_err(|err| &**err), took);
        self.with.journal.woken_by(&self.trigger);
        let now = Instant::now();
        if step.action.kind().is_vm() {
            self.vm_watch.renew();
        }
        match &outcome {
            Ok(done) => {
                self.done.insert((step.key(), step.reason.to_string()));
                self.succeeded(&step, done.started.is_some(), now);
            }
            Err(error) if matches!(**error, ActError::Interrupted) => {}
            Err(error) => {
                let message = crate::error::Chain(&**error).to_string();
                let what = Failure {
                    error: Some(error.clone()),
                    step: Some(step.action.to_string()),
                    trigger: flown.map(|flown| flown.trigger).unwrap_or_default(),
                    ..Failure::found(error.kind(), message)
                };
                let schedule = self.schedule(&step, error);
                self.setbacks.failed(cause(&step), tried(&step), what, schedule, now);
            }
        }
        for ask in &mut self.asks {
            ask.taken.push(Taken { step: step.clone(), outcome: outcome.clone(), took });
        }
        if opens || self.flights.is_empty() && self.queue.is_empty() {
            self.wake_at(Trigger::Step, now);
        } else {
            self.launch_queue();
            self.wake_soon(Trigger::Step);
        }
    }

    fn schedule(&self, step: &Step, error: &ActError) -> Schedule {
        let restart = match &step.action {
            Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } => {
                Some(create.spec.restart)
            }
            Action::StartContainer { spec, .. } => Some(spec.restart),
            _ => None,
        };
        let first_end = step.agent.as_ref().and_then(|agent| self.first_ends.get(agent)).copied();
        schedule(error, restart, first_end, self.setbacks.failures(&cause(step), &tried(step)))
    }

    fn succeeded(&mut self, step: &Step, started: bool, now: Instant) {
        let what = cause(step);
        self.setbacks.forget(|cause, _| *cause == what);
        if let (Reason::KeepsEnding, Some(agent)) = (&step.reason, &step.agent) {
            self.crashes.rests(agent, now);
        }
        let Some(agent) = step.agent.as_ref().filter(|_| started) else { return };
        self.last_start = Some(now);
        self.crashes.started(agent, now);
        if matches!(step.action, Action::StartContainer { how: Revival::Restart, .. }) {
            let health = Cause { agent: Some(agent.clone()), what: What::Health, is_start: false };
            let message = format!("container `{}` was restarted since it is unhealthy", step.action.target());
            let failure = Failure::found(FailureKind::Unhealthy, message);
            self.setbacks.failed(health, String::new(), failure, Schedule::Lasting, now);
        }
    }

    // ------------------------------------------------------------------------------------- what keeps ending

    /// Counts the ends that Podman tells of. What ends all the time is to be stopped by the next pass.
    pub(super) fn count_end(&mut self, event: &EngineEvent) {
        let (Some(code), Some(name)) = (event.exit_code, &event.container) else { return };
        let Ok(name) = ContainerName::new(name.as_str()) else { return };
        if event.kind != EventKind::Died {
            return;
        }
        let Some(agent) = agent_of(&self.desired, &name).cloned() else { return };
        // Our own doing, or a successor's end.
        if self.flying.contains_key(&Lane::Agent(agent.clone())) {
            self.first_ends.entry(agent).or_insert(code);
            return;
        }
        if self.crashes.ended(&agent, code, Instant::now()) {
            self.storming.insert(agent, code);
        }
    }

    /// Whom Podman restarts again and again is to be stopped, however slowly it ends. Before that it has ended once since we
    /// started it or were started: what went before says nothing about what it does now.
    pub(super) fn notice_crash_loops(&mut self) {
        let now = Instant::now();
        for unready in &self.unready {
            let agent = &unready.agent;
            let loops = match unready.health {
                AgentHealth::CrashLoop(_) => true,
                AgentHealth::Restarted { .. } => self.crashes.is_on_probation(agent, now),
                _ => false,
            };
            if let Some(code) = self.crashes.last_end(agent).filter(|_| loops) {
                self.storming.entry(agent.clone()).or_insert(code);
            }
        }
    }

    /// Stops containers that Podman restarts all the time: until they may be started again they cost nobody anything.
    pub(super) fn hold_what_storms(&mut self, observed: &Observed) {
        for (name, code) in std::mem::take(&mut self.storming) {
            let Some(agent) = self.desired.agents.get(&name) else { continue };
            let container = &agent.container.name;
            let seen = observed.guest.present().and_then(|guest| guest.containers.get(container));
            let Some(seen) = seen.filter(|seen| seen.owner.is_of(&name)) else { continue };
            let ours_to_stop = agent.state == AgentState::Running && !agent.suspend;
            if !ours_to_stop || self.flying.contains_key(&Lane::Agent(name.clone())) {
                continue;
            }
            self.crashes.held(&name, code, Instant::now());
            match seen.phase {
                Phase::Running => {}
                // A stop between two lives does nothing.
                Phase::Stopping => {
                    self.storming.insert(name, code);
                    continue;
                }
                _ => continue,
            }
            let action = Action::StopContainer { id: seen.id.clone(), name: container.clone() };
            // Killed, so that what it ends with counts as no success of its own.
            let patience = Patience { grace: Duration::ZERO, ..self.with.options.patience.clone() };
            self.start(Step { agent: Some(name), action, reason: Reason::KeepsEnding }, patience);
        }
    }

    // ---------------------------------------------------------------------------------------------- afterwards

    /// Checks the health of those, and only those, that run and have a check.
    pub(super) fn keep_checking(&mut self, observed: &Observed) {
        let Some(guest) = observed.guest.present() else { return };
        let running = self.desired.agents.iter().filter_map(|(name, agent)| {
            let seen = guest.containers.get(&agent.container.name)?;
            let by = checked_by(agent.container.healthcheck.as_ref(), Some(seen));
            if by == CheckedBy::None {
                return None;
            }
            let check = agent.container.healthcheck.as_ref().or(seen.check.as_ref());
            let checked = seen.owner.is_of(name) && seen.phase == Phase::Running && agent.state == AgentState::Running;
            // A step that is under way does its own.
            let busy = self.flying.contains_key(&Lane::Agent(name.clone()));
            (checked && !busy).then_some(Patient {
                id: &seen.id,
                started_at: seen.started_at,
                check,
                health: seen.health.as_ref(),
            })
        });
        let patients: Vec<_> = running.collect();
        self.checks.keep(&patients);
    }

    /// When to look again if nothing happens.
    pub(super) fn plan_next_look(&mut self, observed: &Observed, plan: &Plan) {
        let now = Instant::now();
        self.resync_at = now + jittered(self.with.resync);
        let before = std::mem::take(&mut self.moving);
        let moves = plan.waiting.iter().filter(|waiting| matches!(waiting.on, WaitingOn::Transition { .. }));
        self.moving = moves
            .map(|waiting| (waiting.target.clone(), before.get(&waiting.target).copied().unwrap_or(now)))
            .collect();
        let tidied = self.moving.values().map(|since| *since + TIDYING);
        let (late, due): (Vec<_>, Vec<_>) = tidied.partition(|at| *at <= now);
        if late.is_empty() {
            self.transitions = 0;
        } else {
            self.transitions = self.transitions.saturating_add(1);
            self.wake_at(Trigger::Podman, now + TRANSITION.delay(self.transitions));
        }
        if let Some(first) = due.into_iter().min() {
            self.wake_at(Trigger::Podman, first);
        }
        // Those that are to stay up for a while are looked at once they have, if nothing is heard of them before.
        let looked_at = observed.guest.present().and_then(|guest| guest.looked_at);
        // In a crash loop that moment is put off again and again, so that is done ever more rarely: Podman tells of each end.
        let loops = |unready: &&Unready| matches!(unready.health, AgentHealth::CrashLoop(_));
        self.crash_looping =
            if self.unready.iter().any(|unready| loops(&unready)) { self.crash_looping + 1 } else { 0 };
        let not_before = STILL_CRASH_LOOPING.delay(self.crash_looping.max(1));
        let steady = self.unready.iter().filter_map(|unready| {
            let left = unready.health.until()?.duration_since(looked_at?).ok()?.min(NEVER);
            Some(if loops(&unready) { left.max(not_before) } else { left })
        });
        if let Some(first) = steady.min() {
            self.wake_at(Trigger::Retry, now + first);
        }
        if plan.waiting.iter().any(|waiting| matches!(waiting.on, WaitingOn::Answer { .. })) {
            self.wake_at(Trigger::Retry, now + ANSWER_POLL);
        }
        // Nothing tells when the best way into the machine is there again.
        let is_low = self.reach.rung.is_some_and(Rung::is_low);
        let has_better = observed.vm.present().is_some_and(|vm| vm.socket.is_some())
            && self.desired.vm().is_some_and(|vm| vm.transport != Transport::Shell);
        if is_low && has_better {
            self.wake_at(Trigger::Retry, now + BETTER_WAY);
        }
        // Where it is neither seen nor heard, the listener says when it is back. What is seen and not heard may go at any moment,
        // and nobody would tell: the listener has said already that it hears nothing.
        let is_seen = observed.guest.present().is_some();
        if self.connected != is_seen {
            self.blind = self.blind.saturating_add(1);
            self.wake_at(Trigger::Retry, now + BLIND.delay(self.blind));
        } else {
            self.blind = 0;
        }
        if let (false, Some(started)) = (self.asks.is_empty(), self.last_start) {
            let settled = started + self.with.options.patience.settle;
            if settled > now {
                self.wake_at(Trigger::Retry, settled);
            }
        }
    }

    /// Answers those who asked, once nothing is left that could be done or waited for.
    pub(super) async fn answer(&mut self, plan: &Plan, launched: bool) {
        if self.asks.is_empty() {
            return;
        }
        let now = Instant::now();
        let settle = self.with.options.patience.settle;
        let busy = launched
            || !self.flights.is_empty()
            || !self.queue.is_empty()
            || self.fetching.is_some()
            || plan.waiting.iter().any(|waiting| matches!(waiting.on, WaitingOn::Transition { .. }))
            || self.last_start.is_some_and(|started| started + settle > now)
            || self.unready.iter().any(|unready| unready.health.is_progressing())
            || self
                .desired
                .agents
                .keys()
                .any(|agent| self.crashes.must_stay_up_for(agent, self.steady(), now).is_some())
            || plan.ready.iter().any(|step| self.setbacks.is_due_by(&cause(step), now + LASTING.first / 4));
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.asks)
            .into_iter()
            .partition(|ask| !ask.reply.is_closed() && (!busy || ask.since + ask.timeout <= now));
        self.asks = rest.into_iter().filter(|ask| !ask.reply.is_closed()).collect();
        if over.is_empty() {
            return;
        }
        let (world, desired) = (self.with.world, self.desired.clone());
        let degraded = self.unready.iter().filter(|unready| !unready.health.is_progressing()).cloned().collect();
        let not_ready = not_ready(&world.engine, &desired, degraded).await;
        for ask in over {
            let report = self.report(plan, not_ready.clone(), ask.taken, busy, now.duration_since(ask.since));
            let _ = ask.reply.send(report);
        }
    }

    fn report(
        &self,
        plan: &Plan,
        not_ready: Vec<Trouble>,
        taken: Vec<Taken>,
        timed_out: bool,
        took: Duration,
    ) -> Report {
        let failed = self.setbacks.iter().filter_map(|(cause, setback)| {
            Some(Trouble::Failed { agent: cause.agent.clone(), error: setback.error.clone()? })
        });
        let off = self.backing_off().into_iter().filter(|off| !off.is_a_step);
        let recurring = off.map(|off| {
            let message = off.to_string();
            Trouble::Recurring { agent: off.agent, kind: off.kind, cause: off.cause, message }
        });
        let known: Vec<_> = failed.chain(recurring).chain(report::blocked(plan)).collect();
        let is_new = |trouble: &Trouble| !known.iter().any(|other| other.agent() == trouble.agent());
        let not_ready: Vec<_> = not_ready.into_iter().filter(is_new).collect();
        let troubles: Vec<_> = known.into_iter().chain(not_ready).collect();
        let converged = plan.is_empty() && troubles.is_empty() && !timed_out;
        let fault = self.published.fault.clone();
        Report {
            name: self.desired.name.clone(),
            converged,
            taken,
            troubles: report::refused(fault.as_ref()).into_iter().chain(troubles).collect(),
            not_waited_for: Vec::new(),
            residual: plan.clone(),
            manifest_fault: fault,
            timed_out,
            interrupted: false,
            took,
        }
    }
}

/// What is wrong with those that nothing is to be done about, with the last lines of their logs.
async fn not_ready<E: Engine>(engine: &E, desired: &Desired, degraded: Vec<Unready>) -> Vec<Trouble> {
    join_all(degraded.into_iter().map(|unready| Trouble::of_unready(engine, desired, unready))).await
}

fn is_healthy(observed: &Observed, desired: &Desired, agent: &AgentName) -> bool {
    let Some(wanted) = desired.agents.get(agent) else { return true };
    let seen = observed.guest.present().and_then(|guest| guest.containers.get(&wanted.container.name));
    seen.is_none_or(|seen| seen.health == Some(Health::Healthy))
}

pub(super) fn cause(step: &Step) -> Cause {
    let is_start = matches!(step.action, Action::StartContainer { .. });
    Cause { agent: step.agent.clone(), what: What::Step(step.key()), is_start }
}

/// What tells a step from another one with the same cause.
fn tried(step: &Step) -> String {
    let kind = step.action.kind();
    match &step.action {
        Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } => {
            let spec = create.labels.get("steadfast.spec").map_or("", String::as_str);
            // The same words may come to mean another image.
            let image = step.reason.changes().iter().find(|change| change.field == "image.id");
            let image = image.and_then(|change| change.to.as_deref()).unwrap_or_default();
            format!("{kind} {} {image} {spec}", create.image)
        }
        Action::FetchArtifact { artifact, .. } | Action::LoadImage { artifact, .. } => {
            format!("{kind} {}", artifact.sha256)
        }
        // Made anew where it cannot start, it has another id each time.
        Action::StartContainer { how, remake: Some(create), .. } => {
            let spec = create.labels.get("steadfast.spec").map_or("", String::as_str);
            format!("{kind} {how:?} {spec}")
        }
        Action::StartContainer { id, how, .. } => format!("{kind} {how:?} {id}"),
        Action::CreateVm { make } | Action::StartVm { make, .. } | Action::RecreateVm { make } => {
            let spec = &make.spec;
            format!("{kind} {} {:?} {:?} {:?}", spec.template.digest, spec.cpus, spec.memory, spec.disk)
        }
        _ if step.action.kind().is_container() => kind.to_string(),
        _ => String::new(),
    }
}
