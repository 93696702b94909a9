//! What `run` shows: the status of the newest look with what only `run` knows, and the news in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::crashes::Waiting;
use super::setbacks::{Cause, Setback, What};
use super::work::cause;
use super::{Flown, News, Runner, Running};
use crate::act::in_one_line;
use crate::backend::{Engine, Store, Vm};
use crate::model::{AgentName, ContainerId, ContainerName, FailureKind, Observed};
use crate::plan::{Lane, Plan};
use crate::readiness::AgentHealth;
use crate::status::{
    AgentStatus, ConditionReason, HealthStatus, Status, SyncStatus, carry_over, in_words, not_ready, status,
};
use crate::why::Failure;
use crate::words::Word;

/// What `run` sees and does.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Desired beside observed.
    pub status: Status,
    /// What woke it for the newest look, in fixed words.
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

/// Something that failed and is left alone for now.
#[derive(Debug, Clone, PartialEq)]
pub struct BackingOff {
    /// Which agent.
    pub agent: Option<AgentName>,
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// The failure in a sentence.
    pub cause: String,
    /// How often in a row.
    pub failures: u32,
    /// When it is tried again; `None`: not before what is wanted changes.
    pub retry_at: Option<SystemTime>,
    /// It is a step that failed, rather than one that did not help.
    pub is_a_step: bool,
    /// What fails, as the loop tells steps apart.
    what: Option<What>,
}

impl BackingOff {
    /// The reason of the conditions of its agent.
    fn reason(&self) -> ConditionReason {
        match self.kind {
            FailureKind::RolledBack => ConditionReason::RolledBack,
            FailureKind::CrashLoop => ConditionReason::CrashLoop,
            FailureKind::NonConvergent => ConditionReason::NonConvergent,
            _ => ConditionReason::BackingOff,
        }
    }
}

impl std::fmt::Display for BackingOff {
    /// Without the times: it is the same until it fails again. A log stays at the end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cause, log) = self.cause.split_at(in_one_line(&self.cause).len());
        f.write_str(cause)?;
        match (self.retry_at, self.failures) {
            (None, _) => f.write_str("; not tried again before what is wanted changes")?,
            (Some(_), 1) => f.write_str("; tried again later")?,
            (Some(_), failures) => write!(f, "; tried again later, after {failures} failures")?,
        }
        f.write_str(log)
    }
}

/// What has been told, so that each thing is told once.
#[derive(Debug, Default)]
pub(super) struct Told {
    status: Option<Status>,
    troubles: BTreeMap<(Option<AgentName>, Subject), Problem>,
    podman_lost: bool,
    converged: bool,
    ids: BTreeSet<ContainerId>,
}

/// What of an agent is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Off(FailureKind),
    Unready,
    Blocked,
}

/// What was told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    why: String,
    /// The failure alone.
    cause: String,
}

impl Told {
    /// Whether the container was there at the last look.
    pub fn knows(&self, id: &ContainerId) -> bool {
        self.ids.contains(id)
    }
}

/// Tells whoever listens, and the journal.
pub(super) fn tell<V, E, S>(with: &Runner<'_, V, E, S>, news: &News) {
    with.reporter.news(news);
    news.write(with.journal);
}

impl<V: Vm, E: Engine, S: Store> Running<'_, V, E, S> {
    /// Shows what a look came to, and tells what is new in it.
    pub(super) fn show(&mut self, observed: &Observed, plan: &Plan, woken_by: &[&'static str]) {
        let now = SystemTime::now();
        let backing_off = self.backing_off();
        let mut shown = plan.clone();
        let in_flight = |name: &&AgentName| self.flying.contains_key(&Lane::Agent((*name).clone()));
        let agents = self.desired.agents.keys().filter(in_flight).cloned().collect();
        shown.mark_under_way(&agents, &self.desired, "`steadfast run`");
        let mut status = status(&self.desired, observed, &shown, now, self.steady());
        self.doubt_those_on_probation(&mut status);
        // Whatever it looks like: what is under way has not proved itself.
        status.converged &= self.flying.is_empty();
        for agent in backing_off.iter().filter(|off| !self.is_tried_now(off)) {
            annotate(&mut status, agent);
        }
        self.tell_what_is_under_way(&mut status);
        self.tell_of_the_past(&mut status, observed);
        if let Some(before) = &self.told.status {
            carry_over(&mut status, before);
        }
        self.told.status = Some(status.clone());
        self.tell_podman(observed);
        self.tell_troubles(plan, &status);
        self.tell_converged(&status);
        if let Some(guest) = observed.guest.present() {
            self.told.ids = guest.containers.values().map(|container| container.id.clone()).collect();
        }
        self.with.view.send_replace(Some(Arc::new(View {
            status,
            woken_by: woken_by.to_vec(),
            looked_at: now,
            passes: self.passes,
            file_error: self.file_error.clone(),
            backing_off: backing_off.into_iter().filter(|off| !self.is_tried_now(off)).collect(),
            hears_podman: self.connected,
            not_recorded: self.with.scratch.trouble(),
        })));
    }

    /// What failed and is left alone for now.
    pub(super) fn backing_off(&self) -> Vec<BackingOff> {
        let now = Instant::now();
        let of_setback = |(cause, setback): (&Cause, &Setback)| BackingOff {
            agent: cause.agent.clone(),
            kind: setback.kind,
            cause: setback.message.clone(),
            failures: setback.failures,
            retry_at: setback.retry_at.map(wall),
            is_a_step: setback.error.is_some(),
            what: Some(cause.what.clone()),
        };
        let setbacks = self.setbacks.iter().map(of_setback);
        let crashes = self.crashes.waiting(now).map(|waiting| BackingOff {
            agent: Some(waiting.agent.clone()),
            kind: FailureKind::CrashLoop,
            cause: self.how_it_ends(&waiting),
            failures: waiting.failures,
            retry_at: Some(wall(waiting.until)),
            is_a_step: false,
            what: None,
        });
        setbacks.chain(crashes).collect()
    }

    /// One that was in a crash loop and that we started again is ready only once it has stayed up for as long as any that was
    /// restarted. Podman does not tell: a start by hand is a beginning to it.
    fn doubt_those_on_probation(&mut self, status: &mut Status) {
        let steady = self.steady();
        for (name, agent) in &mut status.agents {
            let Some(left) = self.crashes.must_stay_up_for(name, steady, Instant::now()).filter(|_| agent.ready) else {
                continue;
            };
            let steady = steady.as_secs();
            let message =
                format!("it was in a crash loop and was started again; ready once it has stayed up for {steady} s");
            agent.doubt(HealthStatus::Progressing, ConditionReason::Restarted, &message, false);
            status.converged = false;
            self.wake_at(super::Trigger::Retry, Instant::now() + left);
        }
    }

    /// Whether it is being tried once more: then it has not failed yet.
    fn is_tried_now(&self, off: &BackingOff) -> bool {
        let same = |flown: &Flown| {
            let cause = cause(&flown.step);
            cause.agent == off.agent && Some(&cause.what) == off.what.as_ref()
        };
        self.flying.values().any(same)
    }

    /// A step in flight is not still to be done.
    fn tell_what_is_under_way(&self, status: &mut Status) {
        for Flown { step, .. } in self.flying.values() {
            let key = Some(step.key());
            let conditions = status.agents.values_mut().flat_map(|agent| &mut agent.conditions);
            for condition in conditions.filter(|one| one.to_do == key) {
                condition.message = format!("under way: {} ({})", step.action, step.reason);
            }
        }
    }

    /// What the newest try came to, and the last log lines of those that do not run as they should.
    fn tell_of_the_past(&mut self, status: &mut Status, observed: &Observed) {
        let desired = self.desired.clone();
        let mut silent = Vec::new();
        for (name, agent) in &mut status.agents {
            let Some(wanted) = desired.agents.get(name).filter(|_| !agent.ready) else { continue };
            let container = observed.guest.present().and_then(|guest| guest.containers.get(&wanted.container.name));
            if let Some(container) = container.filter(|seen| has_last_words(agent) && seen.owner.is_of(name)) {
                silent.push((name, &container.id, &wanted.container));
            }
            if agent.sync != SyncStatus::Synced && !agent.desired.suspend {
                agent.last_failure = self.setbacks.newest_of(name).map(in_the_journal);
            }
        }
        self.logs.keep(silent);
        self.put_logs(status);
    }

    fn put_logs(&self, status: &mut Status) {
        for (name, agent) in status.agents.iter_mut().filter(|(_, agent)| !agent.ready && has_last_words(agent)) {
            agent.last_log = self.logs.of(name).map(str::to_owned);
        }
    }

    /// Shows log lines that came after the look.
    pub(super) fn show_logs(&mut self) {
        self.with.view.send_if_modified(|view| {
            let Some(view) = view else { return false };
            let before = view.status.clone();
            let status = &mut Arc::make_mut(view).status;
            self.put_logs(status);
            *status != before
        });
    }

    /// Shows that Podman does not answer.
    pub(super) fn show_silence(&self, why: &str) {
        self.with.view.send_if_modified(|view| {
            let Some(view) = view else { return false };
            Arc::make_mut(view).status.unsee(why);
            true
        });
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
        match (why, self.told.podman_lost) {
            (Some(why), false) => self.tell(News::PodmanLost { why: why.to_owned() }),
            (None, true) => self.tell(News::PodmanBack),
            (Some(_), true) | (None, false) => {}
        }
        self.told.podman_lost = why.is_some();
    }

    /// Each trouble when it comes or is another (not each time that it comes again), and its agent once it has none any more.
    fn tell_troubles(&mut self, plan: &Plan, status: &Status) {
        let backing_off = self.backing_off();
        let mut troubles = BTreeMap::new();
        // What went away just when it was to be touched is seen by the next look; it is no news unless that goes on.
        let passing = |off: &&BackingOff| off.kind == FailureKind::NotFound && off.failures == 1;
        for one in backing_off.iter().filter(|off| !passing(off)) {
            let why = BackingOff { failures: 1, ..one.clone() }.to_string();
            troubles.insert((one.agent.clone(), Subject::Off(one.kind)), Problem { why, cause: one.cause.clone() });
        }
        for unready in self.unready.iter().filter(|unready| !unready.health.is_progressing()) {
            let Some(agent) = self.desired.agents.get(&unready.agent) else { continue };
            // How often is left out: it is one and the same trouble while it goes on.
            let why = match &unready.health {
                AgentHealth::CrashLoop(_) => format!("container `{}` is in a crash loop", agent.container.name),
                health => in_words(agent, health).1,
            };
            let key = (Some(unready.agent.clone()), Subject::Unready);
            troubles.entry(key).or_insert(Problem { cause: why.clone(), why });
        }
        for trouble in super::super::report::blocked(plan) {
            let hidden = self.told.podman_lost && trouble.is_unseen();
            if !hidden {
                let (why, cause) = (trouble.to_string(), trouble.cause());
                troubles.insert((trouble.agent().cloned(), Subject::Blocked), Problem { why, cause });
            }
        }
        // What cannot be seen now has not gone away, nor has what is being tried once more.
        let now = Instant::now();
        for (key, problem) in &self.told.troubles {
            let over = match &key.0 {
                _ if self.told.podman_lost => false,
                Some(agent) => status.agents.get(agent).is_none_or(|seen| {
                    (seen.ready || seen.desired.suspend) && !self.crashes.is_on_probation(agent, now)
                }),
                None => true,
            };
            if !over && !troubles.keys().any(|(agent, _)| *agent == key.0) {
                troubles.insert(key.clone(), problem.clone());
            }
        }
        let mut news = Vec::new();
        for (key, problem) in &troubles {
            if self.told.troubles.get(key) != Some(problem) {
                let Problem { why, cause } = problem.clone();
                news.push(News::Trouble { agent: key.0.clone(), why, cause });
            }
        }
        let had: BTreeSet<_> = self.told.troubles.keys().map(|(agent, _)| agent.clone()).collect();
        let has: BTreeSet<_> = troubles.keys().map(|(agent, _)| agent.clone()).collect();
        news.extend(had.difference(&has).map(|agent| News::Recovered { agent: agent.clone() }));
        self.told.troubles = troubles;
        for one in news {
            self.tell(one);
        }
    }

    fn tell_converged(&mut self, status: &Status) {
        if status.converged && !self.told.converged {
            self.tell(News::Converged { agents: status.agents.len() });
        }
        self.told.converged = status.converged;
    }
}

/// Whether an agent's container ended or fails its check, and so may have said why.
fn has_last_words(agent: &AgentStatus) -> bool {
    matches!(agent.health, HealthStatus::Degraded | HealthStatus::Failed) && agent.container.is_some()
}

/// A failure as the journal tells it.
fn in_the_journal(setback: &Setback) -> Failure {
    Failure {
        first: crate::time::rfc3339(setback.first),
        last: crate::time::rfc3339(setback.last),
        times: setback.failures,
        trigger: setback.trigger.clone(),
        step: setback.step.clone(),
        done: None,
        pull: setback.error.as_ref().and_then(|err| err.pull().cloned()),
        kind: Word::Known(setback.kind),
        message: setback.message.clone(),
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

/// The time on the wall at a moment of ours.
fn wall(at: Instant) -> SystemTime {
    let now = SystemTime::now();
    let left = at.saturating_duration_since(Instant::now());
    now.checked_add(left).unwrap_or(now)
}

/// The agent whose container has this name.
pub(super) fn agent_of<'d>(desired: &'d crate::model::Desired, name: &ContainerName) -> Option<&'d AgentName> {
    desired.agents.iter().find(|(_, agent)| agent.container.name == *name).map(|(agent, _)| agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_what_is_backed_off_stays_at_the_end() {
        let off = |cause: &str| BackingOff {
            agent: None,
            kind: FailureKind::RolledBack,
            cause: cause.to_owned(),
            failures: 1,
            retry_at: None,
            is_a_step: true,
            what: None,
        };
        assert_eq!(off("it failed").to_string(), "it failed; not tried again before what is wanted changes");
        assert_eq!(
            off("it failed; its last log lines:\n  | one").to_string(),
            "it failed; not tried again before what is wanted changes; its last log lines:\n  | one"
        );
    }
}
