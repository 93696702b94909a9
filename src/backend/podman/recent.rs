//! How containers ended lately without anybody's asking: what tells a crash loop from one restart.
//!
//! Podman's list tells when a process last ended, and nothing of how often. Its restart count is told by an inspection
//! alone (4.3), is kept over months and begins anew with each start by hand; its events tell each start and end with its
//! time. So those that ended lately, and only those, are looked up in both: what counts are ends that events tell of, at
//! most as many as Podman restarted the container since somebody last started it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::wire::Past;
use crate::model::{ContainerId, ContainerName, ContainerState, Owner, Phase, RecentExits};

/// Ours that ended lately and that may run again by themselves.
pub(super) fn ended_lately(containers: &BTreeMap<ContainerName, ContainerState>, now: SystemTime) -> Vec<ContainerId> {
    let ours = containers.values().filter(|container| matches!(container.owner, Owner::Ours { .. }));
    let lately = ours.filter(|container| is_candidate(container, now));
    lately.map(|container| container.id.clone()).collect()
}

/// Whether Podman is to be asked more about the container.
pub(super) fn is_candidate(container: &ContainerState, now: SystemTime) -> bool {
    let may_go_on = matches!(container.phase, Phase::Running | Phase::Stopping);
    may_go_on && container.ended_at.is_some_and(|ended| age(ended, now) < RecentExits::WITHIN)
}

/// How long ago. A moment in the future is one of a clock that was set back: it was just now.
fn age(then: SystemTime, now: SystemTime) -> std::time::Duration {
    now.duration_since(then).unwrap_or_default()
}

/// What is known of the container's recent exits, from its inspection and from `events`, which are in order. Without
/// events, as where Podman keeps none, its restart count has to do.
pub(super) fn recent_exits(container: &ContainerState, events: Option<&[Past]>) -> Option<RecentExits> {
    let restarts = container.restarts?;
    // Podman counts an end once it has restarted the container for it.
    let most = restarts.saturating_add(u32::from(container.phase == Phase::Stopping));
    let Some(events) = events else {
        return Some(RecentExits { count: most, code: None, last_life: std::time::Duration::ZERO });
    };
    let (mut count, mut code, mut last_life) = (0_u32, None, RecentExits::WITHIN);
    let mut started = None;
    for event in events.iter().filter(|event| event.id == container.id) {
        match event.ended {
            None => started = Some(event.at),
            Some(exit_code) => {
                count = count.saturating_add(1);
                code = exit_code;
                last_life = started.take().map_or(RecentExits::WITHIN, |began| age(began, event.at));
            }
        }
    }
    Some(RecentExits { count: count.min(most), code, last_life: last_life.min(RecentExits::WITHIN) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::backend::podman::wire;

    fn id() -> ContainerId {
        ContainerId::new("c".repeat(64)).unwrap()
    }

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_secs_f64(seconds)
    }

    fn container(status: &str, restarts: u32) -> ContainerState {
        let answer = json!({
            "Id": id().as_str(), "Name": "a", "RestartCount": restarts,
            "State": {"Status": status, "StartedAt": "2027-01-15T08:00:10Z", "FinishedAt": "2027-01-15T08:00:09Z"},
            "Config": {"Labels": {"steadfast.name": "demo"}},
        });
        wire::inspected(&answer).unwrap().1
    }

    fn event(seconds: f64, ended: Option<i32>) -> Past {
        Past { id: id(), at: at(seconds), ended: ended.map(Some) }
    }

    #[test]
    fn ends_are_counted_by_events_and_bounded_by_podmans_restart_count() {
        let events: Vec<_> =
            [event(0.0, None), event(2.5, Some(3)), event(2.6, None), event(5.1, Some(4)), event(5.2, None)].into();
        let exits = recent_exits(&container("running", 225), Some(&events)).unwrap();
        assert_eq!((exits.count, exits.code), (2, Some(4)), "225 in all, and two of them lately");
        assert_eq!(exits.last_life, Duration::from_millis(2500));
        let by_hand = recent_exits(&container("running", 0), Some(&events)).unwrap();
        assert_eq!(by_hand.count, 0, "somebody stopped and started it: Podman restarted nothing");
        let between = ContainerState { phase: Phase::Stopping, ..container("running", 0) };
        let once = recent_exits(&between, Some(&events[..2])).unwrap();
        assert_eq!(once.count, 1, "Podman is about to restart it for the first time");
        assert_eq!(recent_exits(&container("running", 3), None).unwrap().count, 3, "no events are kept");
    }

    #[test]
    fn one_that_lived_for_longer_than_is_looked_back_has_a_long_life() {
        let exits = recent_exits(&container("running", 1), Some(&[event(60.0, Some(1)), event(60.2, None)])).unwrap();
        assert_eq!((exits.count, exits.last_life), (1, RecentExits::WITHIN));
    }

    #[test]
    fn only_what_ended_lately_and_may_go_on_is_looked_up() {
        let running = container("running", 0);
        let ended = running.ended_at.unwrap();
        assert!(is_candidate(&running, ended + Duration::from_secs(119)));
        assert!(is_candidate(&running, ended - Duration::from_secs(5)), "a clock that was set back");
        assert!(!is_candidate(&running, ended + Duration::from_secs(121)));
        let mut fresh = running.clone();
        fresh.ended_at = None;
        assert!(!is_candidate(&fresh, ended), "it has never ended: an apply of a hundred new ones asks nothing more");
        let mut stopped = running;
        stopped.phase = Phase::Exited { code: 1 };
        assert!(!is_candidate(&stopped, ended));
    }

    #[test]
    fn events_are_read_as_the_api_and_the_command_line_tell_them() {
        let api = json!({"status": "died", "Type": "container", "Action": "died", "timeNano": 1_800_000_000_500_000_000_u64,
            "Actor": {"ID": id().as_str(), "Attributes": {"containerExitCode": "3", "steadfast.name": "x"}}});
        let read = wire::past(api.to_string().as_bytes()).unwrap();
        assert_eq!(read, event(0.5, Some(3)));
        let cli = json!({"ContainerExitCode": 3, "ID": id().as_str(), "Status": "died", "Type": "container",
            "Time": "2027-01-15T08:00:00.5Z"});
        assert_eq!(wire::past(cli.to_string().as_bytes()).unwrap(), event(0.5, Some(3)));
        let start =
            json!({"Action": "start", "timeNano": 1_800_000_000_000_000_000_u64, "Actor": {"ID": id().as_str()}});
        assert_eq!(wire::past(start.to_string().as_bytes()).unwrap(), event(0.0, None));
        assert_eq!(wire::past(br#"{"Action":"init","timeNano":1}"#), None);
        assert_eq!(wire::past(b"{"), None);
    }
}
