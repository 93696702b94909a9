//! What failed, how often, and when it may be tried again.
//!
//! The one policy of failures, for a single convergence and for one that is kept up: what an error means for the next try
//! stands in [`schedule`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Now;
use super::crash_loop::is_kill;
use crate::act::{ActError, Disposition, Ending};
use crate::backend::EngineErrorKind;
use crate::backoff::Backoff;
use crate::broken::Broken;
use crate::model::{AgentName, FailureKind, RestartPolicy};
use crate::plan::{Action, ActionKind, Step, StepKey, stays_ended};

/// What may pass any moment.
const PASSING: Backoff = Backoff { first: Duration::from_millis(500), longest: LONGEST };
/// What only somebody else ends.
pub(super) const LASTING: Backoff = Backoff { first: Duration::from_secs(10), longest: LONGEST };
const LONGEST: Duration = Duration::from_secs(300);
/// A failure that somebody else may have caused is taken for the agent's own after so many.
const DISTURBED: u32 = 3;

/// What failures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::reconcile) struct Cause {
    /// Whose.
    pub agent: Option<AgentName>,
    /// Of what.
    pub what: What,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::reconcile) enum What {
    /// A step. One that starts a container is counted by itself: what made it anew says nothing about that.
    Step {
        /// Which.
        key: StepKey,
        /// Whether it starts what exists.
        starts: bool,
    },
    /// The health of a container that runs.
    Health,
}

impl Cause {
    /// What the failures of a step are counted by.
    pub(crate) fn of(step: &Step) -> Self {
        let starts = matches!(step.action, Action::StartContainer { .. });
        Self { agent: step.agent.clone(), what: What::Step { key: step.key(), starts } }
    }

    /// What restarts for want of health are counted by.
    pub(crate) fn health(agent: &AgentName) -> Self {
        Self { agent: Some(agent.clone()), what: What::Health }
    }

    /// The step, where it is one.
    pub(crate) fn key(&self) -> Option<&StepKey> {
        match &self.what {
            What::Step { key, .. } => Some(key),
            What::Health => None,
        }
    }
}

/// The values a step would bring about: another attempt of the same step is not held back by an earlier one's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    kind: Option<ActionKind>,
    values: String,
}

impl Attempt {
    /// None in particular.
    pub(super) fn any() -> Self {
        Self { kind: None, values: String::new() }
    }

    /// What this step would bring about. Sensitive values are in it as their keyed hash, by the label of the spec.
    pub(super) fn of(step: &Step) -> Self {
        let values = match &step.action {
            Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } => {
                // The same reference may come to mean another image.
                let image = step.reason.changes().iter().find(|change| change.field == "image.id");
                let image = image.and_then(|change| change.to.as_deref()).unwrap_or_default();
                format!("{} {image} {}", create.image, create.spec_label())
            }
            Action::FetchArtifact { artifact, .. } | Action::LoadImage { artifact, .. } => artifact.sha256.to_string(),
            // Made anew where it cannot start, it has another id each time.
            Action::StartContainer { how, remake: Some(create), .. } => format!("{how:?} {}", create.spec_label()),
            Action::StartContainer { id, how, .. } => format!("{how:?} {id}"),
            // In another container, or another life of it, it is another one.
            Action::StartSession { at, start } => format!("{} {:?} {}", at.container, start.life, start.declared),
            Action::PrepareWorkspace { at, spec, .. } => format!("{} {spec:?}", at.container),
            Action::StopSession { at, id, .. } => format!("{} {id}", at.container),
            Action::CreateVm { make } | Action::StartVm { make, .. } | Action::RecreateVm { make } => {
                let spec = &make.spec;
                format!("{} {:?} {:?} {:?}", spec.template.digest, spec.cpus, spec.memory, spec.disk)
            }
            _ => String::new(),
        };
        Self { kind: Some(step.action.kind()), values }
    }
}

/// A failure that stands.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    /// How often in a row.
    pub failures: u32,
    /// Not tried again before; `None`: not before what is wanted changes, or somebody asks.
    pub retry_at: Option<Instant>,
    /// What it was.
    pub failure: Failure,
    attempt: Attempt,
    /// When it first failed like that.
    pub first: SystemTime,
    /// When it last did.
    pub last: SystemTime,
    /// It is tried because somebody asked: should it fail again, that does not put off our own next try.
    asked: bool,
}

/// What a failure is.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// A step failed.
    Step {
        /// Which.
        step: Box<Step>,
        /// Why.
        error: Arc<ActError>,
        /// What woke the reconciler when it began.
        trigger: String,
    },
    /// A step succeeded again and again, and what it was to repair remains.
    NonConvergent {
        /// Which.
        step: Box<Step>,
    },
    /// A container was restarted since it is unhealthy.
    Unhealthy {
        /// Its name.
        container: String,
    },
}

impl Failure {
    /// The error, where a step failed.
    pub(super) fn error(&self) -> Option<&Arc<ActError>> {
        match self {
            Failure::Step { error, .. } => Some(error),
            Failure::NonConvergent { .. } | Failure::Unhealthy { .. } => None,
        }
    }

    /// The fixed word for it.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Failure::Step { error, .. } => error.kind(),
            Failure::NonConvergent { .. } => FailureKind::NonConvergent,
            Failure::Unhealthy { .. } => FailureKind::Unhealthy,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Step { error, .. } => write!(f, "{}", crate::error::Chain(&**error)),
            Failure::NonConvergent { step } => write!(f, "{} succeeded, but still: {}", step.action, step.reason),
            Failure::Unhealthy { container } => {
                write!(f, "container `{container}` was restarted since it is unhealthy")
            }
        }
    }
}

/// When a failure may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Soon: it may pass any moment.
    Passing,
    /// Later: somebody else has to do something, and does not tell.
    Lasting,
    /// Not before what is wanted changes.
    UntilChanged,
}

/// When a step that failed so may be tried again. `first_end` is what the successor ended with first, where Podman told.
pub(super) fn schedule(
    error: &ActError,
    restart: Option<RestartPolicy>,
    first_end: Option<i32>,
    failures: u32,
) -> Schedule {
    match (error, error.disposition()) {
        (_, Disposition::Retry) => Schedule::Passing,
        (ActError::RolledBack { cause, .. }, _) if was_disturbed(cause, restart, first_end, failures) => {
            Schedule::Lasting
        }
        (ActError::RolledBack { untried: true, .. }, _) if failures < DISTURBED => Schedule::Lasting,
        // Trying again would interrupt what runs again. (After a failed rollback nothing is left to interrupt.)
        (ActError::RolledBack { .. }, Disposition::NeedsUser) => Schedule::UntilChanged,
        (_, Disposition::NeedsUser) => Schedule::Lasting,
    }
}

/// Whether a successor failed by what it is made of: it would fail again.
pub(super) fn is_bad(error: &ActError, restart: Option<RestartPolicy>, first_end: Option<i32>, failures: u32) -> bool {
    match error {
        ActError::RolledBack { untried: false, cause, .. } | ActError::RollBackFailed { cause, .. } => {
            cause.speaks_against_it() && !was_disturbed(cause, restart, first_end, failures)
        }
        _ => false,
    }
}

/// Whether somebody else made a successor fail, and not what it is made of.
fn was_disturbed(cause: &ActError, restart: Option<RestartPolicy>, first_end: Option<i32>, failures: u32) -> bool {
    let how = match cause {
        ActError::EndedAtOnce { how, .. } => how,
        // A name or a port that was taken just then.
        ActError::Engine(err) => return err.kind == EngineErrorKind::Conflict && failures < DISTURBED,
        _ => return false,
    };
    match how {
        // By somebody, beyond doubt.
        Ending::Gone => true,
        // Podman restarts what ends by itself, and leaves down what somebody stopped or killed through it.
        Ending::Exited(code) | Ending::ExitedAfter(code, _) => {
            let is_stop = is_kill(*code) || *code == 0;
            is_stop && restart.is_some_and(|policy| !stays_ended(policy, None, *code)) && failures < DISTURBED
        }
        Ending::Restarts => first_end.is_some_and(is_kill) && failures < DISTURBED,
    }
}

/// All failures that stand.
#[derive(Debug, Default)]
pub(super) struct FailureBackoff {
    all: BTreeMap<Cause, Failed>,
}

impl FailureBackoff {
    /// Whether the time for an attempt has come.
    pub(super) fn may_try(&self, cause: &Cause, attempt: &Attempt, now: Instant) -> bool {
        self.all
            .get(cause)
            .is_none_or(|failed| failed.attempt != *attempt || failed.retry_at.is_some_and(|at| at <= now))
    }

    /// An attempt failed. Yields when it may be tried again.
    pub(super) fn failed(
        &mut self,
        cause: Cause,
        attempt: Attempt,
        failure: Failure,
        schedule: Schedule,
        now: Now,
    ) -> Option<Instant> {
        let before = self.all.get(&cause).filter(|failed| failed.attempt == attempt);
        let asked = before.is_some_and(|failed| failed.asked);
        let failures = before.map_or(0, |failed| failed.failures).saturating_add(u32::from(!asked));
        let retry_at = match schedule {
            Schedule::Passing if Broken::RetryDropped.is_in() => None,
            Schedule::Passing => Some(now.at + PASSING.delay(failures)),
            Schedule::Lasting => Some(now.at + LASTING.delay(failures)),
            Schedule::UntilChanged => None,
        };
        let is_same = |failed: &&Failed| failed.failure.to_string() == failure.to_string();
        let first = before.filter(is_same).map_or(now.wall, |failed| failed.first);
        let failed = Failed { failures, retry_at, failure, attempt, first, last: now.wall, asked: false };
        self.all.insert(cause, failed);
        retry_at
    }

    /// How often this attempt has failed in a row.
    pub(super) fn failures(&self, cause: &Cause, attempt: &Attempt) -> u32 {
        self.all.get(cause).filter(|failed| failed.attempt == *attempt).map_or(0, |failed| failed.failures)
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, is_over: impl Fn(&Cause) -> bool) {
        self.all.retain(|cause, _| !is_over(cause));
    }

    /// Podman can be reached again: what failed since it could not may be tried now. It still counts, since a Podman that comes and
    /// goes is no reason to hammer it.
    pub(super) fn try_unreachable_now(&mut self, now: Instant) {
        let is_unreachable = |failed: &&mut Failed| {
            matches!(failed.failure.kind(), FailureKind::TransportUnavailable | FailureKind::Timeout)
        };
        self.all.values_mut().filter(is_unreachable).for_each(|failed| failed.retry_at = Some(now));
    }

    /// Somebody asks: everything may be tried now.
    pub(super) fn try_all_now(&mut self, now: Instant) {
        for failed in self.all.values_mut() {
            failed.retry_at = Some(now);
            failed.asked = true;
        }
    }

    /// Steps that failed for what can be seen without trying to be over: a host port that was taken, a mount source that was not
    /// there.
    pub(super) fn to_recheck(&self) -> Vec<(Cause, Action)> {
        let failed = self.all.iter().filter_map(|(cause, failed)| match &failed.failure {
            Failure::Step { step, error, .. }
                if matches!(**error, ActError::PortTaken { .. } | ActError::MountSource { .. }) =>
            {
                Some((cause.clone(), step.action.clone()))
            }
            _ => None,
        });
        failed.collect()
    }

    /// What it failed of is over: it may be tried now.
    pub(super) fn try_now(&mut self, cause: &Cause, now: Instant) {
        if let Some(failed) = self.all.get_mut(cause) {
            failed.retry_at = Some(now);
        }
    }

    /// The newest failure of an agent's steps.
    pub(super) fn newest_of(&self, agent: &AgentName) -> Option<&Failed> {
        let theirs = self
            .all
            .iter()
            .filter(|(cause, failed)| cause.agent.as_ref() == Some(agent) && failed.failure.error().is_some());
        theirs.map(|(_, failed)| failed).max_by_key(|failed| failed.last)
    }

    /// Whether it may be tried by then.
    pub(super) fn is_due_by(&self, cause: &Cause, then: Instant) -> bool {
        self.all.get(cause).and_then(|failed| failed.retry_at).is_some_and(|at| at <= then)
    }

    /// When the next one may be tried of those that could not be yet at `then`.
    pub(super) fn next(&self, then: Instant) -> Option<Instant> {
        self.all.values().filter_map(|failed| failed.retry_at).filter(|at| *at > then).min()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Cause, &Failed)> {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests;
