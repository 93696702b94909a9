//! What is shown: the status of the newest observation with what only the one who keeps it up knows, and the events in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::backing_off::BackingOff;
use super::backoff::{Cause, Failed, Failure};
use super::crash_loop::Waiting;
use super::in_flight::Running;
use super::{Core, Effect, Now};
use crate::act::LastWords;
use crate::model::{AgentName, ContainerId, FailureKind, Observed};
use crate::plan::{Lane, Plan};
use crate::readiness::{AgentHealth, SessionTrouble, agent_health};
use crate::reconcile::run::{Event, Trigger};
use crate::reconcile::{Awaited, Problem, report};
use crate::status::{
    AgentStatus, ConditionReason, HealthStatus, Status, SyncStatus, carry_over, in_words, not_ready, status,
};
use crate::why::Failure as PastFailure;
use crate::words::Word;

/// A log that was read so recently is not read again.
const FRESH_LOG: Duration = Duration::from_secs(2);

/// What `run` sees and does.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Desired beside observed.
    pub status: Status,
    /// What woke it for the newest observation, in fixed words.
    pub woken_by: Vec<&'static str>,
    /// When it looked last.
    pub looked_at: SystemTime,
    /// How often it has looked.
    pub passes: u64,
    /// What is wrong with the state file as it is, when the last good one goes on.
    pub file_error: Option<String>,
    /// What is left alone for now because it failed.
    pub backing_off: Vec<BackingOff>,
    /// Whether Podman's events are heard.
    pub hears_podman: bool,
    /// Why the handles cannot be written, if so.
    pub not_recorded: Option<String>,
}

/// What has been reported, so that each thing is told once.
#[derive(Debug, Default)]
pub(super) struct Reported {
    view: Option<Arc<View>>,
    problems: BTreeMap<(Option<AgentName>, Subject), ProblemText>,
    podman_lost: bool,
    converged: bool,
    ids: BTreeSet<ContainerId>,
    logs: BTreeMap<AgentName, Log>,
    /// Whom a single convergence was last said to wait for.
    pub awaited: Awaited,
}

/// What of an agent is reported once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Off(FailureKind),
    Unready,
    Blocked,
}

/// What was reported of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProblemText {
    why: String,
    /// The failure alone.
    cause: String,
}

/// The last lines of the log of an agent's container.
#[derive(Debug)]
struct Log {
    id: ContainerId,
    /// When they were last asked for.
    asked: Instant,
    is_reading: bool,
    lines: Option<String>,
}

impl Reported {
    /// Whether the container was there at the newest observation.
    pub(super) fn knows(&self, id: &ContainerId) -> bool {
        self.ids.contains(id)
    }

    /// Whether logs are still being read.
    pub(super) fn is_reading(&self) -> bool {
        self.logs.values().any(|log| log.is_reading)
    }

    fn log_of(&self, agent: &AgentName) -> Option<&str> {
        self.logs.get(agent)?.lines.as_deref()
    }
}

impl Core {
    /// Shows what an observation came to, and tells what is new in it.
    pub(super) fn show(&mut self, observed: &Observed, plan: &Plan, asked_by: Vec<&'static str>, now: Now) {
        let backing_off = self.backing_off(now);
        let mut shown = plan.clone();
        let in_flight = |name: &&AgentName| self.in_flight.get(&Lane::Agent((*name).clone())).is_some();
        let agents = self.desired.agents.keys().filter(in_flight).cloned().collect();
        shown.mark_under_way(&agents, &self.desired, "`steadfast run`");
        let mut status = status(&self.desired, observed, &shown, now.wall, self.steady());
        self.doubt_those_on_probation(&mut status, now);
        // Whatever it looks like: what is under way has not proved itself.
        status.converged &= self.in_flight.is_empty();
        // What is quarantined says so by itself.
        let is_known = |off: &BackingOff| off.agent.as_ref().is_some_and(|agent| self.is_quarantined(agent, plan));
        for agent in backing_off.iter().filter(|off| !self.is_tried_now(off) && !is_known(off)) {
            annotate(&mut status, agent);
        }
        self.tell_what_is_under_way(&mut status);
        self.tell_of_the_past(&mut status, observed, now);
        if let Some(before) = &self.reported.view {
            carry_over(&mut status, &before.status);
        }
        self.tell_podman(observed);
        self.report_problems(plan, &status, now);
        self.tell_converged(&status);
        if let Some(guest) = observed.guest.present() {
            self.reported.ids = guest.containers.values().map(|container| container.id.clone()).collect();
        }
        self.publish(View {
            status,
            woken_by: asked_by,
            looked_at: now.wall,
            passes: self.observing.count,
            file_error: self.file_error.clone(),
            backing_off: backing_off.into_iter().filter(|off| !self.is_tried_now(off)).collect(),
            hears_podman: self.connected,
            not_recorded: None,
        });
    }

    fn publish(&mut self, view: View) {
        let view = Arc::new(view);
        self.reported.view = Some(view.clone());
        self.effects.push(Effect::Publish(view));
    }

    /// Changes what is shown, where anything is.
    fn amend(&mut self, change: impl FnOnce(&mut View)) {
        let Some(before) = &self.reported.view else { return };
        let mut view = View::clone(before);
        change(&mut view);
        if view != **before {
            self.publish(view);
        }
    }

    /// What failed and is left alone for now.
    fn backing_off(&self, now: Now) -> Vec<BackingOff> {
        let failed = self.backoff.iter().map(|(cause, failed)| BackingOff::of(cause, failed, now));
        failed.chain(self.crash_looping(now)).collect()
    }

    /// Those in a crash loop that may be started again later.
    pub(super) fn crash_looping(&self, now: Now) -> impl Iterator<Item = BackingOff> {
        self.crash_loops.waiting(now.at).map(move |waiting| BackingOff {
            agent: Some(waiting.agent.clone()),
            kind: FailureKind::CrashLoop,
            cause: self.how_it_ends(&waiting),
            failures: waiting.failures,
            retry_at: Some(now.wall_at(waiting.until)),
            is_a_step: false,
            step: None,
        })
    }

    /// What fails again and again, as a problem.
    pub(super) fn recurring(&self, cause: &Cause, failed: &Failed, now: Now) -> Problem {
        BackingOff::of(cause, failed, now).as_problem()
    }

    /// One that was in a crash loop and that we started again is ready only once it has stayed up for as long as any that was
    /// restarted. Podman does not tell: a start by hand is a beginning to it.
    fn doubt_those_on_probation(&mut self, status: &mut Status, now: Now) {
        let steady = self.steady();
        for (name, agent) in &mut status.agents {
            let Some(left) = self.crash_loops.must_stay_up_for(name, steady, now.at).filter(|_| agent.ready) else {
                continue;
            };
            let steady = steady.as_secs();
            let message =
                format!("it was in a crash loop and was started again; ready once it has stayed up for {steady} s");
            agent.doubt(HealthStatus::Progressing, ConditionReason::Restarted, &message, false);
            status.converged = false;
            self.observing.ask(Trigger::Retry, now.at + left);
        }
    }

    /// Whether it is being tried once more: then it has not failed yet.
    fn is_tried_now(&self, off: &BackingOff) -> bool {
        let Some(cause) = &off.step else { return false };
        let same = |running: &Running| running.step.agent == cause.agent && Some(&running.step.key()) == cause.key();
        self.in_flight.iter().any(|(_, running)| same(running))
    }

    /// A step in flight is not still to be done.
    fn tell_what_is_under_way(&self, status: &mut Status) {
        for (_, Running { step, .. }) in self.in_flight.iter() {
            let key = Some(step.key());
            let conditions = status.agents.values_mut().flat_map(|agent| &mut agent.conditions);
            for condition in conditions.filter(|one| one.to_do == key) {
                condition.message = format!("under way: {} ({})", step.action, step.reason);
            }
        }
    }

    /// What the newest try came to, and the last log lines of those that do not run as they should.
    fn tell_of_the_past(&mut self, status: &mut Status, observed: &Observed, now: Now) {
        let (desired, steady) = (self.desired.clone(), self.steady());
        let mut silent = Vec::new();
        for (name, agent) in &mut status.agents {
            let Some(wanted) = desired.agents.get(name).filter(|_| !agent.ready) else { continue };
            let container = observed.guest.present().and_then(|guest| guest.containers.get(&wanted.container.name));
            if let Some(container) = container.filter(|seen| has_last_words(agent) && seen.owner.is_of(name)) {
                let health = agent_health(name, wanted, container, observed, steady);
                silent.push((name, LastWords::of(&desired, name, wanted, &container.id, &health)));
            }
            if agent.sync != SyncStatus::Synced && !agent.desired.suspend {
                agent.last_failure = self.backoff.newest_of(name).map(in_the_journal);
            }
        }
        self.keep_logs(silent, now);
        self.put_logs(status);
    }

    fn put_logs(&self, status: &mut Status) {
        for (name, agent) in status.agents.iter_mut().filter(|(_, agent)| !agent.ready && has_last_words(agent)) {
            agent.last_log = self.reported.log_of(name).map(str::to_owned);
        }
    }

    /// Of these, and of no others, the last log lines are shown. They are read beside: an engine that is slow to tell them holds
    /// nothing up.
    fn keep_logs(&mut self, wanted: Vec<(&AgentName, LastWords)>, now: Now) {
        let logs = &mut self.reported.logs;
        logs.retain(|agent, log| wanted.iter().any(|(name, words)| (*name, words.container()) == (agent, &log.id)));
        for (agent, words) in wanted {
            let read = logs.get(agent);
            if read.is_some_and(|log| log.is_reading || now.at.duration_since(log.asked) < FRESH_LOG) {
                continue;
            }
            let lines = logs.remove(agent).and_then(|log| log.lines);
            logs.insert(agent.clone(), Log { id: words.container().clone(), asked: now.at, is_reading: true, lines });
            self.effects.push(Effect::ReadLog { agent: agent.clone(), words: Box::new(words) });
        }
    }

    /// Log lines came after the observation.
    pub(super) fn log_read(&mut self, agent: &AgentName, id: &ContainerId, lines: String) {
        if let Some(log) = self.reported.logs.get_mut(agent).filter(|log| log.id == *id) {
            log.lines = Some(lines);
            log.is_reading = false;
        }
        if let Some(mut view) = self.reported.view.as_deref().cloned() {
            self.put_logs(&mut view.status);
            self.amend(|shown| *shown = view);
        }
        self.answer_viewers();
    }

    /// Shows that Podman does not answer.
    pub(super) fn show_silence(&mut self, why: &str) {
        self.amend(|view| view.status.unsee(why));
    }

    /// Shows what is wrong with the state file: whoever reads the event finds it in the status.
    pub(super) fn show_file_error(&mut self, error: Option<&String>) {
        self.amend(|view| view.file_error = error.cloned());
    }

    fn how_it_ends(&self, waiting: &Waiting<'_>) -> String {
        let Waiting { agent, code, .. } = waiting;
        match self.desired.agents.get(*agent) {
            Some(wanted) => format!("container `{}` is in a crash loop (exit code {code})", wanted.container.name),
            None => format!("agent `{agent}` is in a crash loop (exit code {code})"),
        }
    }

    fn tell_podman(&mut self, observed: &Observed) {
        let why = observed.guest.unknown();
        match (why, self.reported.podman_lost) {
            (Some(why), false) => self.effects.push(Effect::Report(Event::PodmanLost { why: why.to_owned() })),
            (None, true) => self.effects.push(Effect::Report(Event::PodmanBack)),
            (Some(_), true) | (None, false) => {}
        }
        self.reported.podman_lost = why.is_some();
    }

    /// Each problem when it comes or is another (not each time that it comes again), and its agent once it has none any more.
    fn report_problems(&mut self, plan: &Plan, status: &Status, now: Now) {
        let backing_off = self.backing_off(now);
        let mut problems = BTreeMap::new();
        // What went away just when it was to be touched is seen by the next observation; it is not reported unless that goes on.
        let passing = |off: &&BackingOff| off.kind == FailureKind::NotFound && off.failures == 1;
        for one in backing_off.iter().filter(|off| !passing(off)) {
            let why = BackingOff { failures: 1, ..one.clone() }.to_string();
            problems.insert((one.agent.clone(), Subject::Off(one.kind)), ProblemText { why, cause: one.cause.clone() });
        }
        for unready in self.unready.iter().filter(|unready| !unready.health.is_progressing()) {
            let Some(agent) = self.desired.agents.get(&unready.agent) else { continue };
            // How often is left out: it is one and the same problem while it goes on.
            let why = match &unready.health {
                AgentHealth::CrashLoop(_) => format!("container `{}` is in a crash loop", agent.container.name),
                AgentHealth::Session(trouble) => SessionTrouble { restarts: 0, ..trouble.clone() }.to_string(),
                health => in_words(agent, health).1,
            };
            let key = (Some(unready.agent.clone()), Subject::Unready);
            problems.entry(key).or_insert(ProblemText { cause: why.clone(), why });
        }
        for problem in report::blocked(plan) {
            let told = (problem.agent().cloned(), Subject::Off(FailureKind::RolledBack));
            let is_told = problem.kind() == FailureKind::Quarantined && problems.contains_key(&told);
            let hidden = is_told || self.reported.podman_lost && problem.is_unseen();
            if !hidden {
                let (why, cause) = (problem.to_string(), problem.cause());
                problems.insert((problem.agent().cloned(), Subject::Blocked), ProblemText { why, cause });
            }
        }
        // What cannot be seen now has not gone away, nor has what is being tried once more.
        for (key, problem) in &self.reported.problems {
            let over = match &key.0 {
                _ if self.reported.podman_lost => false,
                Some(agent) => status.agents.get(agent).is_none_or(|seen| {
                    (seen.ready || seen.desired.suspend) && !self.crash_loops.is_on_probation(agent, now.at)
                }),
                None => true,
            };
            if !over && !problems.keys().any(|(agent, _)| *agent == key.0) {
                problems.insert(key.clone(), problem.clone());
            }
        }
        let mut events = Vec::new();
        for (key, problem) in &problems {
            if self.reported.problems.get(key) != Some(problem) {
                let ProblemText { why, cause } = problem.clone();
                events.push(Event::Problem { agent: key.0.clone(), why, cause });
            }
        }
        let had: BTreeSet<_> = self.reported.problems.keys().map(|(agent, _)| agent.clone()).collect();
        let has: BTreeSet<_> = problems.keys().map(|(agent, _)| agent.clone()).collect();
        events.extend(had.difference(&has).map(|agent| Event::Recovered { agent: agent.clone() }));
        self.reported.problems = problems;
        self.effects.extend(events.into_iter().map(Effect::Report));
    }

    fn tell_converged(&mut self, status: &Status) {
        if status.converged && !self.reported.converged {
            self.effects.push(Effect::Report(Event::Converged { agents: status.agents.len() }));
        }
        self.reported.converged = status.converged;
    }
}

/// Whether an agent's container ended or fails its check, and so may have said why.
fn has_last_words(agent: &AgentStatus) -> bool {
    matches!(agent.health, HealthStatus::Degraded | HealthStatus::Failed) && agent.container.is_some()
}

/// A failure as the journal tells it.
fn in_the_journal(failed: &Failed) -> PastFailure {
    let (step, trigger) = match &failed.failure {
        Failure::Step { step, trigger, .. } => (Some(step.action.to_string()), trigger.clone()),
        Failure::NonConvergent { .. } | Failure::Unhealthy { .. } => (None, String::new()),
    };
    PastFailure {
        first: crate::time::rfc3339(failed.first),
        last: crate::time::rfc3339(failed.last),
        times: failed.failures,
        trigger,
        step,
        done: None,
        pull: failed.failure.error().and_then(|err| err.pull().cloned()),
        kind: Word::Known(failed.failure.kind()),
        message: failed.failure.to_string(),
    }
}

/// Says in an agent's conditions that it is left alone for now.
fn annotate(status: &mut Status, off: &BackingOff) {
    let Some(agent) = off.agent.as_ref().and_then(|name| status.agents.get_mut(name)) else { return };
    if agent.ready {
        return;
    }
    let stalled = off.retry_at.is_none() || off.kind == FailureKind::NonConvergent;
    not_ready(&mut agent.conditions, stalled, off.reason(), &off.to_string());
}

#[cfg(test)]
mod tests;
