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
    let of = |untried, failures| schedule(&refused(EngineErrorKind::ApiError, untried), Some(always), None, failures);
    assert_eq!(of(true, 2), Schedule::Lasting, "Podman did not stop its predecessor");
    assert_eq!(of(true, 3), Schedule::UntilChanged, "nor will it");
    assert_eq!(of(false, 0), Schedule::UntilChanged, "Podman refused to start it");
    let (container, why) = ("a".to_owned(), "gone".to_owned());
    let lost = ActError::RollBackFailed { container, why, cause: failed(EngineErrorKind::Conflict) };
    assert_eq!(schedule(&lost, Some(always), None, 9), Schedule::Lasting, "nothing runs that could be interrupted");
}
