//! What failed, how often, and when it may be tried again.
//!
//! The one policy of failures, for a single convergence and for one that is kept up: what an error means for the next try
//! stands in [`schedule`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Now;
use super::broken::Broken;
use super::crash_loop::is_kill;
use crate::act::{ActError, Disposition, Ending};
use crate::backend::EngineErrorKind;
use crate::backoff::Backoff;
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
        Ending::Exited(code) => {
            let is_stop = is_kill(*code) || *code == 0;
            is_stop && restart.is_some_and(|policy| !stays_ended(policy, *code)) && failures < DISTURBED
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

    /// Forgets what failed since Podman could not be reached, now that it can.
    pub(super) fn forget_unreachable(&mut self) {
        self.all.retain(|_, failed| {
            !matches!(failed.failure.kind(), FailureKind::TransportUnavailable | FailureKind::Timeout)
        });
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
mod tests {
    use super::*;
    use crate::backend::EngineError;

    fn cause(name: &str) -> Cause {
        let key = StepKey::new(ActionKind::StartContainer, name);
        Cause { agent: None, what: What::Step { key, starts: true } }
    }

    fn attempt(values: &str) -> Attempt {
        Attempt { kind: Some(ActionKind::StartContainer), values: values.to_owned() }
    }

    fn now() -> Now {
        Now { at: Instant::now(), wall: SystemTime::UNIX_EPOCH }
    }

    fn fail(backoff: &mut FailureBackoff, name: &str, values: &str, schedule: Schedule, now: Now) -> Option<Duration> {
        let failure = Failure::Unhealthy { container: "a".to_owned() };
        backoff.failed(cause(name), attempt(values), failure, schedule, now).map(|at| at - now.at)
    }

    #[test]
    fn what_keeps_failing_is_tried_ever_more_rarely_up_to_five_minutes() {
        let (mut backoff, now) = (FailureBackoff::default(), now());
        let delays: Vec<_> = (0..12).filter_map(|_| fail(&mut backoff, "a", "start", Schedule::Lasting, now)).collect();
        assert!((7..=13).contains(&delays[0].as_secs()), "{delays:?}");
        assert!(delays[1] > delays[0] && delays[3] > delays[2], "{delays:?}");
        assert!(delays.iter().all(|delay| delay.as_secs() <= 375), "{delays:?}");
        assert!(delays[11].as_secs() >= 225, "{delays:?}");
    }

    #[test]
    fn another_attempt_is_made_at_once_and_the_same_one_when_its_time_has_come() {
        let (mut backoff, now) = (FailureBackoff::default(), now());
        let delay = fail(&mut backoff, "a", "env 1", Schedule::Lasting, now).unwrap();
        assert!(!backoff.may_try(&cause("a"), &attempt("env 1"), now.at));
        assert!(backoff.may_try(&cause("a"), &attempt("env 2"), now.at), "the file was edited");
        assert!(backoff.may_try(&cause("b"), &attempt("env 1"), now.at), "it costs the others nothing");
        assert!(backoff.may_try(&cause("a"), &attempt("env 1"), now.at + delay));
        assert_eq!(backoff.next(now.at), Some(now.at + delay));
        let again = fail(&mut backoff, "a", "env 2", Schedule::Lasting, now).unwrap();
        assert!(again.as_secs() <= 13, "another attempt begins at the beginning: {again:?}");
    }

    #[test]
    fn a_try_that_somebody_asked_for_puts_off_none_of_ours() {
        let (mut backoff, now) = (FailureBackoff::default(), now());
        fail(&mut backoff, "a", "start", Schedule::Lasting, now);
        for _ in 0..10 {
            backoff.try_all_now(now.at);
            assert!(backoff.may_try(&cause("a"), &attempt("start"), now.at));
            let delay = fail(&mut backoff, "a", "start", Schedule::Lasting, now).unwrap();
            assert!(delay.as_secs() <= 12, "{delay:?}");
        }
        assert_eq!(backoff.failures(&cause("a"), &attempt("start")), 1);
        assert!(fail(&mut backoff, "a", "start", Schedule::Lasting, now).unwrap().as_secs() >= 15);
    }

    #[test]
    fn what_costs_a_running_container_waits_for_a_change_or_a_request() {
        let (mut backoff, now) = (FailureBackoff::default(), now());
        assert_eq!(fail(&mut backoff, "a", "env 1", Schedule::UntilChanged, now), None);
        let next_year = now.at + Duration::from_secs(365 * 86400);
        assert!(!backoff.may_try(&cause("a"), &attempt("env 1"), next_year));
        assert_eq!(backoff.next(now.at), None);
        backoff.try_all_now(now.at);
        assert!(backoff.may_try(&cause("a"), &attempt("env 1"), now.at));
    }

    #[test]
    fn a_successor_that_somebody_killed_is_tried_again_and_one_that_fails_by_itself_is_not() {
        let rolled_back = |how| {
            let cause = ActError::EndedAtOnce { container: "a".to_owned(), how, log: String::new() };
            ActError::RolledBack { container: "a".to_owned(), untried: false, cause: Box::new(cause) }
        };
        let of = |how, policy, first_end, failures| schedule(&rolled_back(how), Some(policy), first_end, failures);
        let always = RestartPolicy::UnlessStopped;
        assert_eq!(of(Ending::Gone, always, None, 9), Schedule::Lasting, "removed");
        assert_eq!(of(Ending::Exited(0), always, None, 2), Schedule::Lasting, "stopped: else Podman had restarted it");
        assert_eq!(of(Ending::Exited(0), always, None, 3), Schedule::UntilChanged, "nobody stops it again and again");
        assert_eq!(of(Ending::Exited(9), always, None, 0), Schedule::UntilChanged, "nobody stops with that");
        assert_eq!(of(Ending::Exited(1), RestartPolicy::No, None, 0), Schedule::UntilChanged, "ended by itself");
        assert_eq!(of(Ending::Exited(0), RestartPolicy::OnFailure, None, 0), Schedule::UntilChanged);
        assert_eq!(of(Ending::Restarts, always, Some(137), 2), Schedule::Lasting, "killed");
        assert_eq!(of(Ending::Restarts, always, Some(137), 3), Schedule::UntilChanged, "it may be for want of memory");
        assert_eq!(of(Ending::Restarts, always, Some(1), 0), Schedule::UntilChanged, "a crash loop");
        assert_eq!(of(Ending::Restarts, always, None, 0), Schedule::UntilChanged);
        let failed = |kind| Box::new(ActError::Engine(EngineError::new(kind, "no")));
        let refused = |kind, untried| ActError::RolledBack { container: "a".to_owned(), untried, cause: failed(kind) };
        let taken = refused(EngineErrorKind::Conflict, false);
        assert_eq!(schedule(&taken, Some(always), None, 0), Schedule::Lasting, "its name was taken");
        let of =
            |untried, failures| schedule(&refused(EngineErrorKind::ApiError, untried), Some(always), None, failures);
        assert_eq!(of(true, 2), Schedule::Lasting, "Podman did not stop its predecessor");
        assert_eq!(of(true, 3), Schedule::UntilChanged, "nor will it");
        assert_eq!(of(false, 0), Schedule::UntilChanged, "Podman refused to start it");
        let (container, why) = ("a".to_owned(), "gone".to_owned());
        let lost = ActError::RollBackFailed { container, why, cause: failed(EngineErrorKind::Conflict) };
        assert_eq!(schedule(&lost, Some(always), None, 9), Schedule::Lasting, "nothing runs that could be interrupted");
    }
}
