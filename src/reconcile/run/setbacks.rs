//! What went wrong, by agent and cause, and when it may be tried again. Pure: the clock is the caller's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::crashes::is_kill;
use crate::act::{ActError, Disposition, Ending};
use crate::backend::EngineErrorKind;
use crate::backoff::Backoff;
use crate::model::{AgentName, FailureKind, RestartPolicy};
use crate::plan::{StepKey, stays_ended};

/// For a step that may succeed by itself, e.g. when Podman answers again.
const PASSING: Backoff = Backoff { first: Duration::from_millis(500), longest: LONGEST };
/// For a step that will only succeed once somebody has changed something; and for a container that keeps ending.
pub(super) const LASTING: Backoff = Backoff { first: Duration::from_secs(10), longest: LONGEST };
const LONGEST: Duration = Duration::from_secs(300);

/// What keeps failing: one kind of step on one target, or one container that keeps ending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cause {
    pub agent: Option<AgentName>,
    pub what: What,
    /// Whether it is one of starting a container that is there: that it succeeds says nothing about replacing it.
    pub is_start: bool,
}

/// What of an agent keeps failing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Step(StepKey),
    /// Its health: it was restarted for want of it.
    Health,
}

/// Something that failed and has not succeeded since.
#[derive(Debug, Clone)]
pub(super) struct Setback {
    /// In a row.
    pub failures: u32,
    /// `None`: not before what is wanted changes.
    pub retry_at: Option<Instant>,
    pub kind: FailureKind,
    /// The failure in a sentence.
    pub message: String,
    /// The failure itself, where it is one of a step.
    pub error: Option<Arc<ActError>>,
    /// What was tried, so that something else is tried at once.
    pub tried: String,
    /// The step in words, where it is one, and what had woken us.
    pub step: Option<String>,
    pub trigger: String,
    /// When it failed first and last.
    pub first: SystemTime,
    pub last: SystemTime,
    /// It is tried because somebody asked: should it fail again, that does not put off our own next try.
    asked: bool,
}

/// What failed, in the words of a [`Setback`].
pub(super) struct Failure {
    pub kind: FailureKind,
    pub message: String,
    pub error: Option<Arc<ActError>>,
    pub step: Option<String>,
    pub trigger: String,
}

impl Failure {
    /// Something that an observation found.
    pub fn found(kind: FailureKind, message: String) -> Self {
        Self { kind, message, error: None, step: None, trigger: String::new() }
    }
}

/// How long to stay away from what failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schedule {
    /// It may succeed by itself.
    Passing,
    /// Somebody has to change something, perhaps outside of our sight.
    Lasting,
    /// Trying costs what runs: not before what is wanted changes.
    UntilChanged,
}

/// A successor that was disturbed while it proved itself is tried so often: each try interrupts what runs, and what looks
/// like a kill may be a want of memory.
const DISTURBED: u32 = 3;

/// How long to stay away from a step that failed so. `first_end` is the exit code its container ended with first,
/// `restart` what Podman does about that, `failures` how often it failed so before.
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

/// Whether somebody got in the way of a replacement, or removed, stopped or killed the successor while it proved itself:
/// that says nothing against it.
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

/// All that has failed and not succeeded since.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    all: BTreeMap<Cause, Setback>,
}

impl Setbacks {
    /// Whether a step may be taken now. `tried` tells it from an earlier one with the same cause: a step that is another
    /// now may be taken at once.
    pub fn may_try(&self, cause: &Cause, tried: &str, now: Instant) -> bool {
        self.all.get(cause).is_none_or(|setback| setback.tried != tried || setback.retry_at.is_some_and(|at| at <= now))
    }

    /// Notes a failure; yields when it may be tried again.
    pub fn failed(
        &mut self,
        cause: Cause,
        tried: String,
        failure: Failure,
        schedule: Schedule,
        now: Instant,
    ) -> Option<Instant> {
        let before = self.all.get(&cause).filter(|setback| setback.tried == tried);
        let asked = before.is_some_and(|setback| setback.asked);
        let failures = before.map_or(0, |setback| setback.failures).saturating_add(u32::from(!asked));
        let retry_at = match schedule {
            Schedule::Passing => Some(now + PASSING.delay(failures)),
            Schedule::Lasting => Some(now + LASTING.delay(failures)),
            Schedule::UntilChanged => None,
        };
        let Failure { kind, message, error, step, trigger } = failure;
        let last = SystemTime::now();
        let first = before.filter(|setback| setback.message == message).map_or(last, |setback| setback.first);
        let setback =
            Setback { failures, retry_at, kind, message, error, tried, step, trigger, first, last, asked: false };
        self.all.insert(cause, setback);
        retry_at
    }

    /// How often it failed in a row.
    pub fn failures(&self, cause: &Cause, tried: &str) -> u32 {
        self.all.get(cause).filter(|setback| setback.tried == tried).map_or(0, |setback| setback.failures)
    }

    /// Forgets what succeeded, or is not wanted any more.
    pub fn forget(&mut self, is_over: impl Fn(&Cause, &Setback) -> bool) {
        self.all.retain(|cause, setback| !is_over(cause, setback));
    }

    /// Everything may be tried at once: somebody asks for it. What keeps failing goes on being counted.
    pub fn try_all_now(&mut self, now: Instant) {
        for setback in self.all.values_mut() {
            setback.retry_at = Some(now);
            setback.asked = true;
        }
    }

    /// The step of an agent that failed last.
    pub fn newest_of(&self, agent: &AgentName) -> Option<&Setback> {
        let theirs =
            self.all.iter().filter(|(cause, setback)| cause.agent.as_ref() == Some(agent) && setback.error.is_some());
        theirs.map(|(_, setback)| setback).max_by_key(|setback| setback.last)
    }

    /// How it failed, where that was a step.
    pub fn error(&self, cause: &Cause) -> Option<&ActError> {
        self.all.get(cause)?.error.as_deref()
    }

    /// Whether it failed, and may be tried again by then.
    pub fn is_due_by(&self, cause: &Cause, then: Instant) -> bool {
        self.all.get(cause).and_then(|setback| setback.retry_at).is_some_and(|at| at <= then)
    }

    /// When the next one may be tried of those that could not be yet at `then`.
    pub fn next(&self, then: Instant) -> Option<Instant> {
        self.all.values().filter_map(|setback| setback.retry_at).filter(|at| *at > then).min()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Cause, &Setback)> {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::EngineError;
    use crate::plan::ActionKind;

    fn cause(what: &str) -> Cause {
        Cause { agent: None, what: What::Step(StepKey::new(ActionKind::StartContainer, what)), is_start: false }
    }

    fn fail(setbacks: &mut Setbacks, what: &str, tried: &str, schedule: Schedule, now: Instant) -> Option<Duration> {
        let words = Failure::found(FailureKind::ApiError, "no".to_owned());
        setbacks.failed(cause(what), tried.to_owned(), words, schedule, now).map(|at| at - now)
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_failing_is_tried_ever_more_rarely_up_to_five_minutes() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        let delays: Vec<_> =
            (0..12).filter_map(|_| fail(&mut setbacks, "container a", "start", Schedule::Lasting, now)).collect();
        assert!((7..=13).contains(&delays[0].as_secs()), "{delays:?}");
        assert!(delays[1] > delays[0] && delays[3] > delays[2], "{delays:?}");
        assert!(delays.iter().all(|delay| delay.as_secs() <= 375), "{delays:?}");
        assert!(delays[11].as_secs() >= 225, "{delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_step_is_tried_at_once_and_the_same_one_when_its_time_has_come() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        let delay = fail(&mut setbacks, "container a", "env 1", Schedule::Lasting, now).unwrap();
        assert!(!setbacks.may_try(&cause("container a"), "env 1", now));
        assert!(setbacks.may_try(&cause("container a"), "env 2", now), "the file was edited");
        assert!(setbacks.may_try(&cause("container b"), "env 1", now), "it costs the others nothing");
        assert!(setbacks.may_try(&cause("container a"), "env 1", now + delay));
        assert_eq!(setbacks.next(now), Some(now + delay));
        let again = fail(&mut setbacks, "container a", "env 2", Schedule::Lasting, now).unwrap();
        assert!(again.as_secs() <= 13, "another step begins at the beginning: {again:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_somebody_asked_for_puts_off_none_of_ours() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        fail(&mut setbacks, "container a", "start", Schedule::Lasting, now);
        for _ in 0..10 {
            setbacks.try_all_now(now);
            assert!(setbacks.may_try(&cause("container a"), "start", now));
            let delay = fail(&mut setbacks, "container a", "start", Schedule::Lasting, now).unwrap();
            assert!(delay.as_secs() <= 12, "{delay:?}");
        }
        assert_eq!(setbacks.failures(&cause("container a"), "start"), 1);
        assert!(fail(&mut setbacks, "container a", "start", Schedule::Lasting, now).unwrap().as_secs() >= 15);
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_a_running_container_waits_for_a_change_or_a_request() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        assert_eq!(fail(&mut setbacks, "container a", "env 1", Schedule::UntilChanged, now), None);
        let next_year = now + Duration::from_secs(365 * 86400);
        assert!(!setbacks.may_try(&cause("container a"), "env 1", next_year));
        assert_eq!(setbacks.next(now), None);
        setbacks.try_all_now(now);
        assert!(setbacks.may_try(&cause("container a"), "env 1", now));
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
