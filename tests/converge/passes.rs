//! Stories of the loop: what it does at once, what it waits for, and when it stops.

use std::time::Duration;

use steadfast::backend::fake::{Fault, FaultPoint};
use steadfast::model::*;
use steadfast::plan::ActionKind;
use steadfast::reconcile::{Problem, Refusal};
use tokio::time::Instant;

use crate::worlds::*;

#[tokio::test(start_paused = true)]
async fn from_nothing_to_running_and_then_nothing_to_do() {
    let story = Story::new(&["a", "b"]);
    let report = story.converge().await;
    assert!(report.converged, "{:?}", report.problems);
    assert_eq!(story.phase("demo-a"), Phase::Running);
    story.fake.restart();
    let report = story.converge().await;
    assert!(report.converged && report.taken.is_empty());
    let state = story.fake.state();
    assert_eq!((state.count("look"), state.count("list"), state.count("published")), (1, 1, 1));
    assert_eq!(state.calls.len(), 4, "{:?}", state.calls);
}

#[tokio::test(start_paused = true)]
async fn one_agents_long_fetch_holds_nobody_up() {
    // `slow` needs a fetch of 100 s; `quick` has all it needs, and its first create fails for a moment.
    let mut story = Story::running(&["quick"]).await;
    let id = story.id("demo-quick");
    story.fake.state().containers.remove(&id);
    story.desired.agents.insert(agent_name("slow"), agent("slow"));
    publish(&mut story.fake.state(), &[("quick", "1"), ("slow", "1")]);
    story.fake.state().latency.insert("fetch", Duration::from_secs(100));
    story.fake.order(Fault::transient("create", FaultPoint::Before, 1));
    let began = Instant::now();
    let report = story.converge().await;
    assert!(report.converged, "{:?}", report.problems);
    let state = story.fake.state();
    let started = |name: &str| {
        let hit = state.effects.iter().find(|effect| effect.call.word == "start" && effect.call.target == name);
        hit.unwrap().call.at - began
    };
    assert!(started("demo-quick") < Duration::from_secs(5), "{:?}", started("demo-quick"));
    assert!(started("demo-slow") >= Duration::from_secs(100));
}

#[tokio::test(start_paused = true)]
async fn no_more_is_done_at_once_than_allowed() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let mut story = Story::new(&names);
    story.options.parallel = 3;
    story.options.downloads = 2;
    for word in ["fetch", "load", "create", "start"] {
        story.fake.state().latency.insert(word, Duration::from_secs(1));
    }
    assert!(story.converge().await.converged);
    let state = story.fake.state();
    assert_eq!(state.most["fetch"], 2);
    assert!(state.most["create"] <= 3 && state.most["load"] <= 3 && state.most["start"] <= 3, "{:?}", state.most);
    assert!(state.most["create"].max(state.most["start"]) >= 2, "{:?}", state.most);
}

#[tokio::test(start_paused = true)]
async fn one_agent_that_fails_stops_no_other() {
    let story = Story::new(&["a", "b", "c"]);
    story.fake.order(Fault::lasting("create").on("demo-a"));
    story.fake.state().offered.remove(&key_of("b", "1"));
    let report = story.converge().await;
    assert!(!report.converged);
    assert_eq!(story.names(), ["demo-c"]);
    assert_eq!(report.problems.len(), 2, "{:?}", problems(&report));
    assert!(problems(&report).iter().any(|line| line == "ordered failure of create demo-a"), "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_for_some_seconds_and_then_given_up() {
    for (times, converges) in [(3, true), (4, false)] {
        let story = Story::running(&["a"]).await;
        story.fake.state().kill("demo-a");
        story.fake.order(Fault::transient("start", FaultPoint::Before, times));
        let report = story.converge().await;
        assert_eq!(report.converged, converges, "{:?}", report.problems);
        assert_eq!(report.taken.len(), 4, "{:?}", taken(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_costs_time_only() {
    for word in ["fetch", "load", "create", "start", "commit_manifest", "image"] {
        let story = Story::new(&["a"]);
        story.fake.order(Fault::transient(word, FaultPoint::After, 1));
        let began = Instant::now();
        let report = story.converge().await;
        assert!(report.converged, "{word}: {:?}", problems(&report));
        assert!(began.elapsed() < Duration::from_secs(30), "{word} took {:?}", began.elapsed());
        assert!(story.fake.state().count("look") < 20, "{word}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_within_a_replacement_costs_time_only() {
    for word in ["create", "stop", "rename", "start", "inspect", "remove"] {
        for point in [FaultPoint::Before, FaultPoint::After] {
            let mut story = Story::running(&["a"]).await;
            story.set_env("a", "MODE", "two");
            story.fake.order(Fault::transient(word, point, 1));
            let report = story.converge().await;
            assert!(report.converged, "{word} {point:?}: {:?}", problems(&report));
            assert_eq!(story.names(), ["demo-a"], "{word} {point:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_difference_that_comes_back_is_stalled_and_not_hammered() {
    let story = Story::running(&["a", "b"]).await;
    // The engine says it removed the orphan, and has not: as a model, somebody else creates it again at once.
    let mut desired = story.desired.clone();
    desired.agents.remove("b");
    let again = story.fake.state().named("demo-b").unwrap().1.clone();
    let story = Story { desired, ..story };
    let watcher = story.fake.clone();
    let respawn = async {
        loop {
            tokio::time::sleep(Duration::from_micros(1)).await;
            let mut state = watcher.state();
            if state.named("demo-b").is_none() {
                state.put(again.clone());
            }
        }
    };
    story.fake.state().latency.insert("look", Duration::from_millis(50));
    let report = tokio::select! {
        report = story.converge() => report,
        () = respawn => unreachable!(),
    };
    assert!(!report.converged);
    assert!(matches!(&report.problems[..], [Problem::NonConvergent { .. }]), "{:?}", problems(&report));
    assert_eq!(report.taken.len(), 2);
    assert!(story.fake.state().count("look") < 8);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_dies_at_once_is_an_error_with_its_last_words() {
    for restart in [RestartPolicy::No, RestartPolicy::UnlessStopped] {
        let mut story = Story::new(&["a"]);
        story.set_env("a", "CRASH", "7");
        story.agent("a").container.restart = restart;
        let report = story.converge().await;
        assert!(!report.converged);
        let said = problems(&report).join("\n");
        assert!(said.contains("ending with 7"), "{restart}: {said}");
        assert_eq!(
            report.taken.iter().filter(|taken| taken.step.action.kind() == ActionKind::CreateContainer).count(),
            1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_that_succeeds_is_no_error() {
    let mut story = Story::new(&["a"]);
    story.set_env("a", "CRASH", "0");
    story.agent("a").container.restart = RestartPolicy::OnFailure;
    let report = story.converge().await;
    assert!(report.converged, "{:?}", report.problems);
    assert_eq!(story.phase("demo-a"), Phase::Exited { code: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_fails_gives_way_to_its_predecessor() {
    for (variable, value, checked) in [("CRASH", "7", false), ("SICK", "100000", true)] {
        let mut story = Story::new(&["a"]);
        story.agent("a").container.healthcheck = checked.then(health_check);
        let mut story = story.settled().await;
        let id = story.id("demo-a");
        story.set_env("a", variable, value);
        let report = story.converge().await;
        let [said] = &problems(&report)[..] else { panic!("{:?}", problems(&report)) };
        assert!(said.starts_with("container `demo-a` was rolled back"), "{said}");
        assert_eq!((story.id("demo-a"), story.phase("demo-a")), (id, Phase::Running));
        assert_eq!(story.names(), ["demo-a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_fails_is_said() {
    let mut story = Story::running(&["a"]).await;
    story.set_env("a", "CRASH", "7");
    story.fake.order(Fault::lasting("remove"));
    let report = story.converge().await;
    let said = problems(&report).join("\n");
    assert!(said.contains("could not be rolled back") && said.contains("ordered failure of remove"), "{said}");
    assert_eq!(story.names(), ["demo-a", "demo-a.prev"], "the predecessor is kept");
}

#[tokio::test(start_paused = true)]
async fn health_is_waited_for_unless_reported_otherwise() {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = Some(health_check());
    story.set_env("a", "SICK", "8");
    let began = Instant::now();
    let report = story.converge().await;
    assert!(report.converged, "{:?}", report.problems);
    assert!((8..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = Some(health_check());
    story.set_env("a", "SICK", "100000");
    story.options.wait = false;
    let began = Instant::now();
    let report = story.converge().await;
    assert!(!report.converged && report.problems.is_empty(), "it is not called ready: {:?}", problems(&report));
    assert_eq!(report.not_waited_for.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(1));
    story.options.wait = true;
    let report = story.converge().await;
    assert_eq!(report.problems[0].kind().to_string(), "unhealthy", "{:?}", problems(&report));
    assert_eq!(taken(&report), ["restart container `demo-a`"], "once, and no more");
}

#[tokio::test(start_paused = true)]
async fn what_is_unhealthy_is_restarted_and_what_has_recovered_is_not() {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = Some(health_check());
    story.set_env("a", "SICK", "8");
    let story = story.settled().await;
    let before = story.id("demo-a");
    let starts = || story.fake.state().count("start");
    let first = starts();

    // An old verdict: by now it would pass.
    story.fake.state().named_mut("demo-a").unwrap().checks = (3, false);
    assert!(story.converge().await.converged);
    assert_eq!(starts(), first, "nobody is interrupted for an old verdict");

    // It is sick for real, and well again eight seconds after a start.
    {
        let mut state = story.fake.state();
        let one = state.named_mut("demo-a").unwrap();
        one.started = Some(Instant::now());
        one.checks = (3, false);
    }
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!((starts(), story.id("demo-a")), (first + 1, before));
    assert_eq!(taken(&report), ["restart container `demo-a`"]);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_replacement_waits_for_health_too() {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = Some(health_check());
    let mut story = story.settled().await;
    story.set_env("a", "SICK", "100000");
    // create, stop, rename, rename; killed before the start.
    story.fake.kill_after(4);
    tokio::select! { _ = story.converge() => unreachable!(), () = story.fake.killed() => {} }
    story.fake.restart();
    let report = story.converge().await;
    assert!(!report.converged, "{:?}", taken(&report));
}

#[tokio::test(start_paused = true)]
async fn time_runs_out() {
    let mut story = Story::new(&["a"]);
    story.options.timeout = Duration::from_secs(30);
    story.fake.order(Fault { point: FaultPoint::Hang, ..Fault::transient("fetch", FaultPoint::Hang, 1) });
    let began = Instant::now();
    let report = story.converge().await;
    assert!(report.timed_out && !report.converged);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_drops_transfers_and_finishes_containers() {
    let mut story = Story::running(&["a"]).await;
    story.set_env("a", "MODE", "two");
    story.desired.agents.insert(agent_name("slow"), agent("slow"));
    publish(&mut story.fake.state(), &[("a", "1"), ("slow", "1")]);
    story.fake.state().latency.insert("fetch", Duration::from_secs(100));
    story.fake.state().latency.insert("stop", Duration::from_secs(5));
    let (cancel, began) = (story.cancel.clone(), Instant::now());
    let (report, ()) = tokio::join!(story.converge(), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cancel.cancel();
    });
    assert!(report.interrupted && !report.converged);
    // Its stop, and that it stays up.
    assert!(began.elapsed() < Duration::from_secs(5 + 10 + 1), "{:?}", began.elapsed());
    assert_eq!(story.names(), ["demo-a"]);
    assert_eq!(story.phase("demo-a"), Phase::Running);
    assert!(!story.fake.state().files.contains_key(&key_of("slow", "1")));
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_removes_nothing_unasked() {
    let mut story = Story::running(&["a"]).await;
    story.desired.agents.clear();
    assert!(matches!(story.try_converge().await, Err(Refusal::Empty { count: 1, .. })));
    assert_eq!(story.names(), ["demo-a"]);
    story.options.policy.allow_empty = true;
    assert!(story.converge().await.converged);
    assert!(story.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn down_takes_what_is_ours_and_nothing_else() {
    let story = Story::running(&["a", "b"]).await;
    story.fake.state().put(foreign("beside"));
    assert!(story.down().await.converged);
    assert_eq!(story.names(), ["beside"]);
}

#[tokio::test(start_paused = true)]
async fn a_port_swap_stops_one_first() {
    let mut story = Story::new(&["a", "b"]);
    story.agent("a").container.ports = vec![port(8001)];
    story.agent("b").container.ports = vec![port(8002)];
    let mut story = story.settled().await;
    story.agent("a").container.ports = vec![port(8002)];
    story.agent("b").container.ports = vec![port(8001)];
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn a_port_is_waited_for_while_its_holder_waits_for_its_image() {
    let mut story = Story::new(&["a", "b"]);
    story.agent("b").container.ports = vec![port(8001)];
    let mut story = story.settled().await;
    story.agent("a").container.ports = vec![port(8001)];
    story.agent("b").container.ports = vec![];
    story.agent("b").version = Version::Exact("2".into());
    publish(&mut story.fake.state(), &[("a", "1"), ("b", "2")]);
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn a_paused_container_can_be_stopped() {
    let mut story = Story::running(&["a"]).await;
    story.fake.state().named_mut("demo-a").unwrap().phase = Phase::Paused;
    story.agent("a").state = AgentState::Stopped;
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn an_adopted_name_of_an_orphan_is_taken_once() {
    let mut story = Story::running(&["a"]).await;
    let mut heir = agent("heir");
    heir.container.name = container_name("demo-a");
    publish(&mut story.fake.state(), &[("a", "1"), ("heir", "1")]);
    story.desired.agents = [(agent_name("heir"), heir)].into();
    story.options.policy.adopt = true;
    let report = story.converge().await;
    assert!(report.converged, "{:?} after {:?}", problems(&report), taken(&report));
    assert_eq!(story.names(), ["demo-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_killed_replacement_is_taken_up_on_whatever_line() {
    for line in 1..=6 {
        let mut story = Story::running(&["a"]).await;
        story.set_env("a", "MODE", "two");
        story.fake.kill_after(line);
        tokio::select! { _ = story.converge() => assert_eq!(line, 7), () = story.fake.killed() => {} }
        assert!(!story.names().is_empty());
        story.fake.restart();
        let report = story.converge().await;
        assert!(report.converged, "killed after {line}: {:?}", problems(&report));
        assert_eq!(story.names(), ["demo-a"], "killed after {line}");
        assert_eq!(story.phase("demo-a"), Phase::Running);
    }
}

#[tokio::test(start_paused = true)]
async fn blindness_in_the_middle_is_waited_out() {
    let story = Story::new(&["a"]);
    story.fake.order(Fault { skip: 1, ..Fault::transient("look", FaultPoint::Before, 2) });
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn no_health_check_runs_in_a_foreign_container() {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = Some(health_check());
    story.fake.state().put(foreign("demo-a"));
    let began = Instant::now();
    let report = story.converge().await;
    assert!(matches!(&report.problems[..], [Problem::Blocked { .. }]), "{:?}", problems(&report));
    assert!(began.elapsed() < Duration::from_secs(1));
    let state = story.fake.state();
    assert_eq!((state.count("exec"), state.count("run_healthcheck")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_touches_a_replacement_under_way() {
    // `a` is replaced and stays sick for long; meanwhile `b` is fetched, loaded and created, with a look after each.
    let mut story = Story::running(&["a"]).await;
    let before = story.id("demo-a");
    story.set_env("a", "SICK", "100000");
    story.agent("a").container.healthcheck = Some(health_check());
    story.desired.agents.insert(agent_name("b"), agent("b"));
    publish(&mut story.fake.state(), &[("a", "1"), ("b", "1")]);
    for word in ["fetch", "load", "create"] {
        story.fake.state().latency.insert(word, Duration::from_secs(2));
    }
    let report = story.converge().await;
    let rolled_back =
        |problem: &Problem| matches!(problem, Problem::Failed { error, .. } if error.kind() == FailureKind::RolledBack);
    assert!(report.problems.iter().any(rolled_back), "{:?}", report.problems);
    assert_eq!(story.names(), ["demo-a", "demo-b"]);
    assert_eq!((story.id("demo-a"), story.phase("demo-a")), (before, Phase::Running));
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_goes_only_once_its_successor_is_healthy() {
    let mut story = Story::running(&["a"]).await;
    let before = story.id("demo-a");
    story.set_env("a", "SICK", "100000");
    story.agent("a").container.healthcheck = Some(health_check());
    let cancel = story.cancel.clone();
    let (report, ()) = tokio::join!(story.converge(), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cancel.cancel();
    });
    assert!(report.interrupted, "{:?}", report.problems);
    assert_eq!(story.names(), ["demo-a"]);
    assert_eq!((story.id("demo-a"), story.phase("demo-a")), (before.clone(), Phase::Running), "what served serves on");
    story.cancel = Default::default();
    // Killed, it cannot see to that.
    assert!(tokio::time::timeout(Duration::from_secs(2), story.converge()).await.is_err());
    assert_eq!(story.names(), ["demo-a", "demo-a.prev"], "nothing is thrown away");
    story.fake.restart();
    let report = story.converge().await;
    assert!(!report.converged);
    assert_eq!(story.names(), ["demo-a"]);
    assert_eq!((story.id("demo-a"), story.phase("demo-a")), (before, Phase::Running));
}

/// The end of an observation and the end of all time at the same moment.
#[tokio::test(start_paused = true)]
async fn its_time_is_up_whatever_else_happens_at_that_moment() {
    let mut story = Story::new(&["a", "b", "c"]);
    story.options.timeout = Duration::from_secs(60);
    story.fake.state().latency.insert("local", Duration::from_secs(30));
    story.fake.state().latency.insert("look", Duration::from_secs(30));
    let began = Instant::now();
    let report = story.converge().await;
    assert!(report.timed_out && !report.converged, "{:?}", report.problems);
    assert!(began.elapsed() <= Duration::from_secs(71), "{:?}", began.elapsed());
}
