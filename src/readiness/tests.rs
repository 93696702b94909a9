//! Every way a container can be, and what is said of it.

use super::*;
use crate::model::{ContainerId, ContainerSpec, ImageSource, Owner, Place, RestartPolicy, Version};

const STEADY_AFTER: Duration = Duration::from_secs(10);

fn agent(restart: RestartPolicy, state: AgentState) -> Agent {
    Agent {
        place: Place { file: "steadfast.yaml".into(), line: 1, column: 1 },
        version: Version::Exact("1".into()),
        rolled_back: None,
        image: None,
        artifact: None,
        source: ImageSource::Local,
        arches: Vec::new(),
        pins: Default::default(),
        state,
        suspend: false,
        rollout: Default::default(),
        container: ContainerSpec { restart, ..ContainerSpec::new("demo-a".parse().unwrap()) },
        workspaces: Default::default(),
        sessions: Default::default(),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn ago(seconds: f64) -> Option<SystemTime> {
    Some(now() - Duration::from_secs_f64(seconds))
}

fn container(phase: Phase) -> ContainerState {
    ContainerState {
        started_at: ago(3600.0),
        ..ContainerState::bare(
            ContainerId::new("c".repeat(64)).unwrap(),
            Owner::Foreign(crate::model::Whose::Somebody),
            phase,
        )
    }
}

fn exits(count: u32, last_life: f64) -> Option<RecentExits> {
    Some(RecentExits { count, code: Some(3), last_life: Duration::from_secs_f64(last_life) })
}

/// What is said of a container that an agent with `unless-stopped` has.
fn said(container: &ContainerState) -> AgentHealth {
    health_of(&agent(RestartPolicy::UnlessStopped, AgentState::Running), container, Some(now()), STEADY_AFTER)
}

/// Started so long ago, after it had ended so often, having lived so long the last time.
fn restarted(up: f64, times: u32, last_life: f64) -> ContainerState {
    ContainerState {
        started_at: ago(up),
        ended_at: ago(up + 0.1),
        restarts: Some(times),
        exits: exits(times, last_life),
        ..container(Phase::Running)
    }
}

#[test]
fn one_restart_is_to_prove_itself_and_the_second_is_a_crash_loop() {
    assert_eq!(said(&container(Phase::Running)), AgentHealth::Running);
    assert_eq!(
        said(&restarted(2.0, 1, 3600.0)),
        AgentHealth::Restarted { code: Some(3), until: ago(2.0).unwrap() + STEADY_AFTER, steady: STEADY_AFTER }
    );
    assert_eq!(said(&restarted(10.5, 1, 3600.0)), AgentHealth::Running);
    assert!(matches!(said(&restarted(2.0, 2, 1.0)), AgentHealth::CrashLoop(_)));
    assert_eq!(said(&restarted(10.5, 2, 1.0)), AgentHealth::Running, "it has stayed up for long enough");
}

#[test]
fn a_crash_loop_is_one_whatever_its_period_and_at_every_moment_of_it() {
    for period in [0.1, 0.4, 2.5, 9.9, 12.0, 15.0, 45.0] {
        for part in [0.0, 0.3, 0.6, 0.99] {
            let said = said(&restarted(period * part, 2, period));
            assert!(
                matches!(said, AgentHealth::CrashLoop(_)),
                "dies after {period} s, {part} of it are over: {said:?}"
            );
        }
        let between = ContainerState { phase: Phase::Stopping, ..restarted(period, 2, period) };
        assert!(matches!(said(&between), AgentHealth::CrashLoop(_)), "{period}: between two lives");
    }
}

#[test]
fn what_was_restarted_over_months_is_in_no_crash_loop() {
    let container = ContainerState { restarts: Some(225), exits: exits(1, 120.0), ..restarted(3.0, 1, 120.0) };
    assert!(matches!(said(&container), AgentHealth::Restarted { .. }));
    let container = ContainerState { restarts: Some(225), ..container_up_for(3600.0) };
    assert_eq!(said(&container), AgentHealth::Running);
}

fn container_up_for(seconds: f64) -> ContainerState {
    ContainerState { started_at: ago(seconds), ended_at: ago(seconds + 1.0), ..container(Phase::Running) }
}

#[test]
fn a_longer_settle_time_is_waited_for_and_a_shorter_one_is_not_believed() {
    assert_eq!(steady_after(Duration::from_millis(500)), Duration::from_secs(10));
    assert_eq!(steady_after(Duration::from_secs(30)), Duration::from_secs(30));
    let agent = agent(RestartPolicy::Always, AgentState::Running);
    let said = health_of(&agent, &restarted(15.0, 1, 3600.0), Some(now()), Duration::from_secs(30));
    assert!(matches!(said, AgentHealth::Restarted { .. }), "{said:?}");
}

#[test]
fn a_start_by_hand_after_an_end_is_to_prove_itself_too() {
    let killed = ContainerState { restarts: Some(0), exits: exits(0, 3600.0), ..restarted(1.0, 0, 3600.0) };
    assert!(matches!(said(&killed), AgentHealth::Restarted { .. }));
}

#[test]
fn clocks_that_were_set_back_make_nothing_ready_too_early() {
    let future = ContainerState { started_at: Some(now() + Duration::from_secs(60)), ..restarted(0.0, 2, 1.0) };
    assert!(matches!(said(&future), AgentHealth::CrashLoop(_)));
}

#[test]
fn a_health_check_has_the_last_word_unless_it_is_a_crash_loop() {
    let with = |health| ContainerState { health: Some(health), ..container(Phase::Running) };
    assert_eq!(said(&with(Health::Healthy)), AgentHealth::Running);
    assert_eq!(said(&with(Health::Starting)), AgentHealth::Starting);
    assert_eq!(said(&with(Health::Unhealthy)), AgentHealth::Unhealthy(None));
    assert_eq!(said(&with(Health::Other("odd".into()))).status(), HealthStatus::Unknown);
    let both = ContainerState { health: Some(Health::Healthy), ..restarted(1.0, 5, 2.0) };
    assert!(matches!(said(&both), AgentHealth::CrashLoop(_)), "healthy between two crashes");
}

#[test]
fn who_is_to_end_may_end_and_only_success_is_well() {
    let of = |policy, state, phase| health_of(&agent(policy, state), &container(phase), Some(now()), STEADY_AFTER);
    let ended = |code| Phase::Exited { code };
    let (no, on_failure, always) = (RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::Always);
    assert_eq!(of(no, AgentState::Running, ended(0)), AgentHealth::Completed);
    assert_eq!(of(no, AgentState::Running, ended(3)), AgentHealth::Failed { code: 3 });
    assert_eq!(of(on_failure, AgentState::Running, ended(0)), AgentHealth::Completed);
    assert_eq!(of(on_failure, AgentState::Running, ended(3)), AgentHealth::Down(ended(3)));
    assert_eq!(of(always, AgentState::Running, ended(0)), AgentHealth::Down(ended(0)));
    assert_eq!(of(always, AgentState::Stopped, ended(137)), AgentHealth::Stopped);
    assert_eq!(of(always, AgentState::Running, Phase::Paused).status(), HealthStatus::Degraded);
    let ready = |health: AgentHealth| health.is_as_desired(AgentState::Running);
    assert!(ready(AgentHealth::Completed) && ready(AgentHealth::Running));
    assert!(!ready(AgentHealth::Failed { code: 1 }) && !ready(AgentHealth::Starting) && !ready(AgentHealth::Stopped));
    assert!(AgentHealth::Failed { code: 1 }.is_as_desired(AgentState::Stopped));
}

#[test]
fn nobody_checks_what_has_no_check() {
    let plain = container(Phase::Running);
    assert_eq!(checked_by(None, Some(&plain)), CheckedBy::None);
    let by_image = ContainerState { health: Some(Health::Starting), ..container(Phase::Running) };
    assert_eq!(checked_by(None, Some(&by_image)), CheckedBy::Image);
    assert_eq!(checked_by(None, None), CheckedBy::None);
}
