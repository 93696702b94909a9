//! The one container that an agent has: its phase, its health, its spec.

use std::time::Duration;

use steadfast::model::*;

use crate::scene::*;

#[test]
fn every_phase_of_one_that_is_to_run_has_its_answer() {
    let rows: [(Phase, &[&str]); 7] = [
        (Phase::Running, &[]),
        (Phase::Created, &["start container `demo-a`: it was never started"]),
        (Phase::Exited { code: 0 }, &["start container `demo-a`: it exited with code 0"]),
        (Phase::Paused, &["unpause container `demo-a`: it is paused"]),
        (Phase::Stopping, &["later startContainer `demo-a`: it is stopping, once Podman is done: it is stopping"]),
        (
            Phase::Removing,
            &["later startContainer `demo-a`: it is being removed, once Podman is done: it is being removed"],
        ),
        (
            Phase::Other("odd".into()),
            &[
                "later startContainer `demo-a`: it is `odd`, unknown until it can be observed: Podman reports it as `odd`",
            ],
        ),
    ];
    for (phase, wanted) in rows {
        steady(&["a"]).phase("demo-a", phase).plans(wanted);
    }
    steady(&["a", "b"]).gone("demo-a").plans(&["create container `demo-a`: it does not exist"]);
}

#[test]
fn every_phase_of_one_that_is_to_be_stopped_or_absent_has_its_answer() {
    let stop = "stop container `demo-a`: its desired state is stopped";
    let remove = "remove container `demo-a`: its desired state is absent";
    let rows: [(Phase, &[&str], &[&str]); 6] = [
        (Phase::Running, &[stop], &[remove]),
        (Phase::Paused, &[stop], &[remove]),
        (Phase::Created, &[], &[remove]),
        (Phase::Exited { code: 3 }, &[], &[remove]),
        (
            Phase::Stopping,
            &["later startContainer `demo-a`: it is stopping, once Podman is done: it is stopping"],
            &[remove],
        ),
        (
            Phase::Removing,
            &["later startContainer `demo-a`: it is being removed, once Podman is done: it is being removed"],
            &["later removeContainer `demo-a`: its desired state is absent, once Podman is done: it is being removed"],
        ),
    ];
    for (phase, stopped, absent) in rows {
        let scene = steady(&["a"]).phase("demo-a", phase);
        scene.clone().wants("a", |agent| agent.state = AgentState::Stopped).plans(stopped);
        scene.wants("a", |agent| agent.state = AgentState::Absent).plans(absent);
    }
    steady(&["a"]).gone("demo-a").wants("a", |agent| agent.state = AgentState::Absent).plans(&[]);
    steady(&["a"])
        .gone("demo-a")
        .wants("a", |agent| agent.state = AgentState::Stopped)
        .plans(&["create container `demo-a`: it does not exist"]);
}

#[test]
fn what_ended_stays_as_its_restart_policy_says() {
    for (restart, code, stays) in [
        (RestartPolicy::No, 0, true),
        (RestartPolicy::No, 3, true),
        (RestartPolicy::OnFailure, 0, true),
        (RestartPolicy::OnFailure, 3, false),
        (RestartPolicy::Always, 0, false),
        (RestartPolicy::UnlessStopped, 0, false),
        (RestartPolicy::UnlessStopped, 3, false),
    ] {
        let scene = nothing(&["a"]).wants("a", |agent| agent.container.restart = restart);
        let one = scene.made("a");
        let mut scene = steady(&["a"]).with("demo-a", one).phase("demo-a", Phase::Exited { code });
        scene = scene.wants("a", |agent| agent.container.restart = restart);
        let start = format!("start container `demo-a`: it exited with code {code}");
        let wanted: &[&str] = if stays { &[] } else { &[&start] };
        scene.plans(wanted);
        // Whatever it is to be, an edit of it is an edit.
        scene.edited("a", "MODE", "two").plans(&["replace container `demo-a`: container.env.MODE changed"]);
    }
}

#[test]
fn what_is_unhealthy_is_restarted_unless_it_is_a_one_shot() {
    for (restart, wanted) in [
        (RestartPolicy::UnlessStopped, &["restart container `demo-a`: it is unhealthy"][..]),
        (RestartPolicy::OnFailure, &["restart container `demo-a`: it is unhealthy"]),
        (RestartPolicy::No, &[]),
    ] {
        let checked = |agent: &mut Agent| {
            (agent.container.healthcheck, agent.container.restart) = (Some(health_check()), restart);
        };
        let scene = steady(&["a"]).wants("a", checked);
        let one = scene.made("a");
        let scene = scene.with("demo-a", one);
        scene.plans(&[]);
        for health in [Health::Starting, Health::Healthy, Health::Other("odd".into())] {
            scene.clone().container("demo-a", |one| one.health = Some(health)).plans(&[]);
        }
        scene.container("demo-a", |one| one.health = Some(Health::Unhealthy)).plans(wanted);
    }
}

#[test]
fn between_two_lives_of_a_crash_loop_there_is_nothing_to_do() {
    let ended = |count| {
        let exits = RecentExits { count, code: Some(1), last_life: Duration::from_secs(2) };
        steady(&["a"]).container("demo-a", |one| (one.phase, one.exits) = (Phase::Stopping, Some(exits)))
    };
    ended(2).plans(&[]);
    ended(1).plans(&["later startContainer `demo-a`: it is stopping, once Podman is done: it is stopping"]);
}

#[test]
fn an_edit_replaces_one_container_and_names_each_field() {
    let scene = steady(&["a", "b"]).edited("a", "MODE", "two");
    scene.plans(&["replace container `demo-a`: container.env.MODE changed"]);
    let more = |agent: &mut Agent| {
        agent.container.restart = RestartPolicy::Always;
        agent.container.ports.push(port(8001));
    };
    scene
        .wants("a", more)
        .plans(&["replace container `demo-a`: container.env.MODE, container.ports, container.restart changed"]);
}

#[test]
fn what_somebody_did_to_its_ports_is_drift_whatever_its_label_says() {
    let scene = steady(&["a"]).container("demo-a", |one| one.ports = vec![port(9).into()]);
    scene.plans(&["replace container `demo-a`: container.ports changed"]);
    // That it shows none says nothing: on a host network Podman drops them.
    let published = nothing(&["a"]).wants("a", |agent| agent.container.ports = vec![port(9)]).made("a");
    let scene = steady(&["a"]).wants("a", |agent| agent.container.ports = vec![port(9)]).with("demo-a", published);
    scene.container("demo-a", |one| one.ports.clear()).plans(&[]);
}

#[test]
fn a_label_of_a_newer_build_is_waited_on_and_an_unreadable_one_replaced() {
    let unreadable = |version| {
        let owner = Owner::Ours { agent: Some(agent_name("a")), spec: None, version };
        steady(&["a"]).container("demo-a", |one| one.owner = owner)
    };
    unreadable(SPEC_VERSION).plans(&["replace container `demo-a`: its spec label cannot be read"]);
    unreadable(9).plans(&[
        "later replaceContainer `demo-a`: its spec label cannot be read, unknown until it can be observed: a newer steadfast made it (spec version 9, this build knows 2)",
    ]);
}

#[test]
fn a_lost_host_key_recreates_nothing() {
    let secret = |value: &'static str| {
        move |agent: &mut Agent| drop(agent.container.env.insert("TOKEN".into(), Text::sensitive(value)))
    };
    let scene = steady(&["a"]).wants("a", secret("canary"));
    let mut one = scene.made("a");
    let live = Live { env: [("TOKEN".to_owned(), "canary".to_owned())].into(), ..Live::default() };
    one.live = Some(live);
    let scene = scene.with("demo-a", one).file(|desired| desired.key = HostKey::from_bytes([2; 32]));
    scene.plans(&[]);
    scene.wants("a", secret("canary two")).plans(&["replace container `demo-a`: container.env.TOKEN changed"]);
}

#[test]
fn a_suspended_agent_is_only_reported_of() {
    let suspended = |agent: &mut Agent| agent.suspend = true;
    steady(&["a"]).wants("a", suspended).plans(&["note: agent `a` is suspended, and as it should be"]);
    let scene = steady(&["a", "b"]).phase("demo-a", Phase::Exited { code: 1 }).phase("demo-b", Phase::Created);
    scene.clone().wants("a", suspended).plans(&[
        "start container `demo-b`: it was never started",
        "note: agent `a` is suspended; otherwise: start container `demo-a` (it exited with code 1)",
    ]);
    // Not even its image is brought.
    nothing(&["a"]).wants("a", suspended).plans(&[
        "note: agent `a` is suspended; otherwise: fetch `vm/images/a-1-x64.tar.gz` (not in the cache), load image `r.example/a:1` (the image is not there), create container `demo-a` (it does not exist)",
    ]);
}

#[test]
fn only_these_agents_are_planned_for() {
    let dead = Phase::Exited { code: 137 };
    let scene = steady(&["a", "b"]).phase("demo-a", dead.clone()).phase("demo-b", dead);
    scene
        .allowing(|policy| _ = policy.only.insert(agent_name("a")))
        .plans(&["start container `demo-a`: it exited with code 137"]);
}

#[test]
fn what_podman_does_not_tell_is_not_guessed() {
    steady(&["a"]).seeing(|observed| observed.guest = unknown()).plans(&[
        "later observeContainer `demo-a`: it cannot be observed, unknown until it can be observed: the look failed",
    ]);
    steady(&["a"]).seeing(|observed| observed.guest = Seen::Absent).plans(&[
        "later observeContainer `demo-a`: it cannot be observed, unknown until it can be observed: Podman is not there",
    ]);
    // With no agent left it is still not known that nothing is there.
    steady(&["a"]).without("a").seeing(|observed| observed.guest = unknown()).plans(&[
        "later removeContainer `containers`: its agent is not in the state file any more, unknown until it can be observed: the look failed",
    ]);
}

#[test]
fn what_cannot_be_replaced_yet_is_kept_alive() {
    let scene = steady(&["a"]).wants("a", |agent| agent.version = Version::Exact("9".into()));
    let alive = |phase: Phase, wanted: &str| {
        let plan = lines(&scene.clone().phase("demo-a", phase).plan());
        assert!(plan.contains(&wanted.to_owned()), "{plan:#?}");
        assert!(plan.iter().any(|line| line.starts_with("later replaceContainer `demo-a`")), "{plan:#?}");
    };
    alive(Phase::Exited { code: 137 }, "start container `demo-a`: it exited with code 137");
    alive(Phase::Paused, "unpause container `demo-a`: it is paused");
    // So is one whose replacement failed, and is left alone for now.
    let backing_off = steady(&["a"]).edited("a", "MODE", "two").phase("demo-a", Phase::Exited { code: 1 });
    backing_off.allowing(|policy| _ = policy.backing_off.insert(agent_name("a"))).plans(&[
        "start container `demo-a`: it exited with code 1",
        "replace container `demo-a`: container.env.MODE changed",
    ]);
}
