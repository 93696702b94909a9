//! The background loop on the fake world: what wakes it, what it repairs, and what it leaves alone.

use std::sync::Arc;
use std::time::Duration;

use steadfast::backend::fake::{Fake, Fault, FaultPoint};
use steadfast::model::*;
use steadfast::reconcile::Report;
use steadfast::reconcile::run::{Request, Revision, View};
use steadfast::status::{ConditionReason, HealthStatus, SyncStatus};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::runs::{Background, LONG};
use crate::worlds::*;

impl Background {
    pub fn start(story: Story) -> Self {
        let Story { desired, fake, options, cancel } = story;
        Self::with(desired, fake, options, cancel)
    }

    /// An edit that replaces `a` by what never becomes healthy.
    async fn edit_into_sickness(&mut self) {
        self.edit(|desired| {
            let container = &mut desired.agents.get_mut("a").unwrap().container;
            container.healthcheck = Some(health_check());
            container.env.insert("SICK".into(), Text::plain("1000000"));
        });
        quiet(5).await;
    }

    /// Waits until nothing is left to do, by an observation that is taken from now on. What ended a moment ago may still have to show
    /// that it stays up.
    pub async fn mended(&mut self) -> Duration {
        let passes = self.passes();
        self.until(|view| {
            let mut agents = view.status.agents.values();
            view.passes > passes && agents.all(|agent| agent.sync == SyncStatus::Synced) && view.backing_off.is_empty()
        })
        .await
    }

    pub async fn ask(&self, timeout: Duration) -> Report {
        self.ask_to(timeout, false).await
    }

    pub async fn ask_to(&self, timeout: Duration, retry_quarantined: bool) -> Report {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Reconcile { timeout, retry_quarantined, reply }).await.unwrap();
        answer.await.unwrap()
    }

    /// Asks how things are.
    pub async fn look(&self) -> Arc<View> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Look { reply }).await.unwrap();
        answer.await.unwrap();
        self.view.borrow().clone().unwrap()
    }

    fn phase(&self, container: &str) -> Option<Phase> {
        self.fake.state().named(container).map(|(_, one)| one.phase.clone())
    }

    fn count(&self, word: &str) -> usize {
        self.fake.state().count(word)
    }

    pub fn edit(&mut self, change: impl FnOnce(&mut Desired)) {
        change(&mut self.desired);
        self.revisions.send_replace(Revision { desired: Arc::new(self.desired.clone()), error: None });
    }
}

async fn quiet(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn it_brings_everything_about_and_then_is_quiet() {
    let mut run = Background::start(Story::new(&["a", "b"]));
    run.converged().await;
    assert_eq!(run.told(), ["converged: 2 agents are as the state file says"]);
    assert!(run.fake.state().is_kept, "what is lost on the way in is to be brought back");
    quiet(2).await;
    let (looks, effects) = (run.count("look"), run.fake.state().effects.len());
    quiet(3600).await;
    let more = run.count("look") - looks;
    assert!((10..=14).contains(&more), "{more} looks in an hour, where only the resync wants any");
    assert_eq!(run.fake.state().effects.len(), effects);
    assert_eq!(run.told().len(), 1, "{:?}", run.told());
    assert!(run.stop().await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_a_container_is_repaired_at_once() {
    let mut run = Background::start(Story::new(&["a", "b"]));
    run.converged().await;
    let others = run.fake.state().named("demo-b").unwrap().0.clone();
    type Mishap = fn(&Fake);
    let mishaps: [(&str, Mishap); 5] = [
        ("killed", |fake| fake.state().kill("demo-a")),
        ("stopped", |fake| {
            let mut state = fake.state();
            state.named_mut("demo-a").unwrap().phase = Phase::Exited { code: 143 };
            state.tell("died", "demo-a", Some(143));
        }),
        ("paused", |fake| {
            let mut state = fake.state();
            state.named_mut("demo-a").unwrap().phase = Phase::Paused;
            state.tell("pause", "demo-a", None);
        }),
        ("removed", |fake| {
            let mut state = fake.state();
            state.containers.retain(|_, one| one.name.as_str() != "demo-a");
            state.tell("remove", "demo-a", None);
        }),
        ("its image untagged", |fake| {
            let mut state = fake.state();
            state.images.remove(&reference_of("a", "1"));
            state.tell("untag", "r.example/a:1", None);
        }),
    ];
    for (what, mishap) in mishaps {
        quiet(20).await;
        mishap(&run.fake);
        let took = run.mended().await;
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
        let took = run.until(|view| view.status.converged).await;
        assert!(took <= Duration::from_secs(10), "{what}: what ended is ready once it has stayed up: {took:?}");
        assert_eq!(run.phase("demo-a"), Some(Phase::Running), "{what}");
    }
    assert_eq!(*run.fake.state().named("demo-b").unwrap().0, others);
}

#[tokio::test(start_paused = true)]
async fn what_no_event_tells_of_is_repaired_by_the_resync() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(20).await;
    run.fake.state().files.clear();
    quiet(340).await;
    assert!(run.fake.state().files.contains_key(&key_of("a", "1")));
}

#[tokio::test(start_paused = true)]
async fn a_bad_edit_takes_nothing_down_and_the_next_good_one_is_taken() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    run.spoil("steadfast.yaml:3:1: unknown field `agnets`");
    run.until(|view| view.file_error.is_some()).await;
    run.fake.state().kill("demo-a");
    run.converged().await;
    assert_eq!(run.phase("demo-a"), Some(Phase::Running), "the last good state goes on being reconciled");
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.insert("MODE".into(), Text::plain("two"));
    });
    run.until(|view| view.file_error.is_none() && view.status.converged).await;
    let env = run.fake.state().named("demo-a").unwrap().1.spec.env.clone();
    assert!(env.contains_key("MODE"));
    let rejected = run.told().iter().filter(|told| told.contains("agnets")).count();
    assert_eq!(rejected, 1, "told once: {:?}", run.told());
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_and_costs_the_others_nothing() {
    let mut story = Story::new(&["a", "b"]);
    story.set_env("a", "CRASH", "3");
    story.agent("a").container.restart = RestartPolicy::OnFailure;
    // Podman's own retries are used up.
    story.fake.state().podman_gives_up = true;
    let mut run = Background::start(story);
    run.until(|view| !view.backing_off.is_empty() && view.status.agents["b"].ready).await;
    let view = run.view.borrow().clone().unwrap();
    assert_eq!(view.backing_off[0].cause, "container `demo-a` is in a crash loop (exit code 3)");
    assert_eq!(view.status.agents["a"].conditions[0].reason, ConditionReason::CrashLoop);
    run.fake.restart();
    quiet(3600).await;
    let starts = run.count("start");
    assert!((12..=20).contains(&starts), "{starts} starts in an hour: 10 s, 20 s, … 5 min");
    run.fake.state().kill("demo-b");
    let took = run.until(|view| view.status.agents["b"].container.as_ref().is_some_and(|b| b.state == "running")).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    run.until(|view| view.status.agents["b"].ready).await;

    // The next good edit is tried at once.
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.remove("CRASH");
    });
    let took = run.mended().await;
    assert!(took < Rollout::SETTLE + Duration::from_secs(2), "{took:?}");
    run.until(|view| view.status.converged).await;
    assert!(run.view.borrow().as_ref().unwrap().backing_off.is_empty());
    assert!(run.told().iter().any(|told| told == "agent `a`: recovered"), "{:?}", run.told());
}

#[tokio::test(start_paused = true)]
async fn a_podman_that_comes_and_goes_is_not_asked_for_what_fails_from_the_beginning_each_time() {
    let mut run = Background::start(Story::new(&["a", "b"]));
    run.converged().await;
    for (word, point) in [("create", FaultPoint::Before), ("ping", FaultPoint::Hang)] {
        run.fake.order(Fault { times: usize::MAX, ..Fault::transient(word, point, 1) });
    }
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.insert("MODE".into(), Text::plain("two"));
    });
    quiet(600).await;
    let (listened, creates) = (run.count("events"), run.count("create"));
    assert!(listened > 20 && creates <= listened + 12, "{creates} times created, {listened} times connected");
}

/// While one of them is observed, a step of the other one ends: each observation is fresh for one of them alone.
#[tokio::test(start_paused = true)]
async fn two_that_somebody_pauses_again_and_again_are_not_fought_over() {
    let mut run = Background::start(Story::new(&["a", "b"]));
    run.converged().await;
    run.fake.state().latency.extend([("look", Duration::from_millis(5)), ("unpause", Duration::from_millis(1))]);
    let looks = run.count("look");
    // While the first one is unpaused, a second observation is under way already, and finds the other one paused.
    for name in ["demo-a", "demo-a", "demo-b"] {
        {
            let mut state = run.fake.state();
            state.frozen.insert(name.to_owned());
            state.named_mut(name).unwrap().phase = Phase::Paused;
            state.tell("pause", name, None);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    quiet(60).await;
    let (looks, unpauses) = (run.count("look") - looks, run.count("unpause"));
    assert!(unpauses <= 30 && looks <= 80, "{unpauses} times unpaused, {looks} observations in a minute");
    let view = run.view.borrow().clone().unwrap();
    assert_eq!(view.backing_off.len(), 2, "{:?}", view.backing_off);
}

#[tokio::test(start_paused = true)]
async fn what_podman_restarts_all_the_time_is_given_a_rest() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(60).await;
    for _ in 0..5 {
        run.fake.state().die("demo-a", 1);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    run.until(|view| !view.backing_off.is_empty() && !view.status.converged).await;
    assert!(matches!(run.phase("demo-a"), Some(Phase::Exited { .. })), "{:?}", run.phase("demo-a"));
    let took = run.mended().await;
    assert!((6..=14).contains(&took.as_secs()), "{took:?}");
    let took = run.converged().await;
    assert!((9..=11).contains(&took.as_secs()), "ready once it has stayed up: {took:?}");
    let told = "agent `a`: container `demo-a` is in a crash loop (exit code 1); retried later".to_owned();
    assert_eq!(run.told().iter().filter(|line| **line == told).count(), 1, "{:?}", run.told());
}

#[tokio::test(start_paused = true)]
async fn what_ended_stays_ended_where_the_policy_says_so() {
    for (restart, code) in [(RestartPolicy::No, 0), (RestartPolicy::No, 3), (RestartPolicy::OnFailure, 0)] {
        let mut story = Story::new(&["a"]);
        story.agent("a").container.restart = restart;
        let mut run = Background::start(story);
        run.converged().await;
        run.fake.restart();
        run.fake.state().die("demo-a", code);
        quiet(1000).await;
        assert_eq!((run.count("start"), run.phase("demo-a")), (0, Some(Phase::Exited { code })), "{restart} {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_podman_is_away_nothing_is_done_and_afterwards_everything() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(20).await;
    for word in ["look", "events", "ping", "start", "create"] {
        run.fake.order(Fault { times: usize::MAX, ..Fault::transient(word, FaultPoint::Before, 1) });
    }
    {
        let mut state = run.fake.state();
        state.cut_events();
        state.named_mut("demo-a").unwrap().phase = Phase::Exited { code: 137 };
    }
    run.until(|view| !view.status.podman.reachable).await;
    quiet(60).await;
    let lost: Vec<_> = run.told().into_iter().filter(|told| told.starts_with("Podman cannot")).collect();
    assert_eq!(lost.len(), 1, "{:?}", run.told());
    run.fake.restart();
    let took = run.converged().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(run.told().contains(&"Podman can be reached again".to_owned()), "{:?}", run.told());
}

#[tokio::test(start_paused = true)]
async fn a_podman_that_hangs_is_noticed() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    run.fake.order(Fault { times: 1, ..Fault::transient("ping", FaultPoint::Hang, 1) });
    run.fake.state().calls.clear();
    quiet(120).await;
    assert!(run.count("events") >= 1, "subscribed anew after its silence");
    run.fake.state().kill("demo-a");
    assert!(run.mended().await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_verdict_of_a_health_check_is_followed() {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = Some(health_check());
    let mut run = Background::start(story);
    run.converged().await;
    let id = run.fake.state().named("demo-a").unwrap().0.clone();
    quiet(60).await;
    assert!(run.count("run_healthcheck") >= 10, "nobody else runs the checks");
    // It hangs, and a restart would help; but it recovers by itself for the first time.
    run.fake.state().named_mut("demo-a").unwrap().spec.env.insert("SICK".into(), Text::plain("1000000"));
    run.until(|view| view.status.agents["a"].health != HealthStatus::Healthy).await;
    run.fake.state().calls.clear();
    quiet(120).await;
    let (stops, starts) = (run.count("stop"), run.count("start"));
    assert!((1..=5).contains(&starts), "restarted with a growing pause: {starts}");
    assert_eq!(stops, starts);
    run.fake.state().named_mut("demo-a").unwrap().spec.env.remove("SICK");
    run.until(|view| view.status.agents["a"].ready).await;
    assert_eq!(*run.fake.state().named("demo-a").unwrap().0, id, "never recreated");
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_edit_is_not_tried_again_and_again() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    let id = run.fake.state().named("demo-a").unwrap().0.clone();
    run.fake.restart();
    run.edit(|desired| {
        let container = &mut desired.agents.get_mut("a").unwrap().container;
        container.restart = RestartPolicy::OnFailure;
        container.env.insert("CRASH".into(), Text::plain("9"));
    });
    run.fake.state().podman_gives_up = true;
    run.until(|view| !view.backing_off.is_empty()).await;
    quiet(3600).await;
    assert_eq!(run.count("create"), 1, "each try would interrupt what runs");
    assert_eq!((run.phase("demo-a"), run.fake.state().named("demo-a").unwrap().0.clone()), (Some(Phase::Running), id));
    assert_eq!(
        run.view.borrow().as_ref().unwrap().status.agents["a"].conditions[0].reason,
        ConditionReason::RolledBack
    );
    let report = run.ask(LONG).await;
    assert!(!report.converged);
    assert_eq!(run.count("create"), 1, "it is known to fail, whoever asks");
    let view = run.look().await;
    let reason = |at: usize| view.status.agents["a"].conditions[at].reason;
    assert_eq!((reason(0), reason(2)), (ConditionReason::RolledBack, ConditionReason::QuarantinedDigest));
    let report = run.ask_to(LONG, true).await;
    assert!(!report.converged);
    assert_eq!(run.count("create"), 2, "somebody asked for it");
}

#[tokio::test(start_paused = true)]
async fn an_edit_is_not_kept_waiting_by_an_earlier_one() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    run.edit_into_sickness().await;
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.insert("SICK".into(), Text::plain("1"));
    });
    let took = run.converged().await;
    assert!(took < Duration::from_secs(30), "{took:?}");
}

/// Promised by issue 13: nothing is recreated that exists as wanted.
#[tokio::test(start_paused = true)]
async fn an_edit_that_is_taken_back_before_the_stop_interrupts_nobody() {
    for (slow, seconds) in [("create", 3), ("stop", 10)] {
        let mut run = Background::start(Story::new(&["a"]));
        run.converged().await;
        let one = |run: &Background| run.fake.state().named("demo-a").map(|(id, one)| (id.clone(), one.started));
        let before = one(&run);
        quiet(20).await;
        run.fake.restart();
        run.fake.state().latency.insert(slow, Duration::from_secs(seconds));
        run.edit(|desired| {
            desired.agents.get_mut("a").unwrap().container.env.insert("MODE".into(), Text::plain("two"));
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        run.edit(|desired| {
            desired.agents.get_mut("a").unwrap().container.env.remove("MODE");
        });
        let took = run.converged().await;
        assert!(took < Duration::from_secs(25), "{slow}: {took:?}");
        quiet(600).await;
        assert_eq!(one(&run), before, "{slow}: it served all the while");
        assert_eq!((run.count("create"), run.count("start")), (1, 0), "{slow}");
        assert_eq!(run.fake.state().containers.len(), 1, "{slow}");
        assert!(run.view.borrow().as_ref().unwrap().status.converged, "{slow}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_got_its_stop_signal_before_the_edit_was_taken_back_is_started_again() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    let id = run.fake.state().named("demo-a").unwrap().0.clone();
    quiet(20).await;
    run.fake.restart();
    run.fake.state().latency.insert("stop", Duration::from_secs(10));
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.insert("MODE".into(), Text::plain("two"));
    });
    quiet(2).await;
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.remove("MODE");
    });
    quiet(2).await;
    assert!(!run.view.borrow().as_ref().unwrap().status.converged, "it may be about to end");
    run.fake.state().named_mut("demo-a").unwrap().phase = Phase::Exited { code: 143 };
    run.converged().await;
    assert_eq!((run.phase("demo-a"), run.fake.state().named("demo-a").unwrap().0.clone()), (Some(Phase::Running), id));
    assert_eq!((run.count("create"), run.count("start")), (1, 1));
    assert_eq!(run.fake.state().containers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_edit_amid_a_replacement_interrupts_once() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(20).await;
    run.fake.restart();
    run.fake.state().latency.insert("stop", Duration::from_secs(10));
    for mode in ["two", "three"] {
        run.edit(|desired| {
            desired.agents.get_mut("a").unwrap().container.env.insert("MODE".into(), Text::plain(mode));
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    run.converged().await;
    let starts = run.count("start");
    assert_eq!((starts, run.fake.state().containers.len()), (1, 1), "what nobody wants any more is never started");
    let env = run.fake.state().named("demo-a").unwrap().1.spec.env.clone();
    assert_eq!(env["MODE"].expose(), "three");
}

#[tokio::test(start_paused = true)]
async fn one_whose_answers_are_lost_holds_up_nobody() {
    let mut story = Story::new(&["a", "b"]);
    story.options.parallel = 1;
    let mut run = Background::start(story);
    run.converged().await;
    quiet(20).await;
    run.fake.restart();
    run.fake.order(Fault::transient("start", FaultPoint::Before, 3).on("demo-a"));
    let edited = Instant::now();
    run.edit(|desired| {
        for agent in desired.agents.values_mut() {
            agent.container.env.insert("MODE".into(), Text::plain("two"));
        }
    });
    run.converged().await;
    let state = run.fake.state();
    let begun = state.calls.iter().find(|call| call.word == "create" && call.target == "demo-b.next").unwrap().at;
    assert!(begun - edited < Duration::from_millis(500), "{:?}", begun - edited);
}

#[tokio::test(start_paused = true)]
async fn what_is_judged_a_crash_loop_is_stopped_in_between_whatever_its_period() {
    for millis in [400, 2_500, 3_000, 12_000] {
        let mut run = Background::start(Story::new(&["a", "b"]));
        run.converged().await;
        quiet(200).await;
        run.fake.restart();
        let mut ends = 0;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(200) {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if run.phase("demo-a") == Some(Phase::Running) {
                run.fake.state().die("demo-a", 3);
                ends += 1;
            }
        }
        assert!((2..=16).contains(&ends), "{millis} ms: ended {ends} times in 200 s");
        assert!(run.count("stop") >= 2, "{millis} ms");
        let told = "agent `a`: container `demo-a` is in a crash loop (exit code 3); retried later".to_owned();
        assert!(run.told().contains(&told), "{millis} ms: {:?}", run.told());
        let before = run.view.borrow().as_ref().unwrap().backing_off.first().map_or(0, |off| off.failures);
        // Whenever it is asked for, it is tried at once, and is no success before it has stayed up.
        let asking = run.ask(Duration::from_secs(60));
        let dying = async {
            loop {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                if run.phase("demo-a") == Some(Phase::Running) {
                    run.fake.state().die("demo-a", 3);
                }
            }
        };
        let report = tokio::select! { report = asking => report, () = dying => unreachable!() };
        if millis < 10_000 {
            assert!(!report.converged && !report.timed_out, "{millis} ms: {report:#?}");
            assert_eq!(report.problems[0].kind(), FailureKind::CrashLoop, "{millis} ms: {:?}", problems(&report));
            let failures = run.view.borrow().as_ref().unwrap().backing_off[0].failures;
            assert!(failures <= before.max(1) + 1, "{millis} ms: asking puts nothing off");
        }
        assert_eq!(
            run.count("start") + 1,
            run.count("stop") + usize::from(run.phase("demo-a") == Some(Phase::Running))
        );
        // It has recovered: it is started once more, and stays up.
        run.until(|view| view.status.converged).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_how_things_are_is_reported_of_now() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(20).await;
    // Nobody tells of this one.
    run.fake.state().named_mut("demo-a").unwrap().phase = Phase::Paused;
    let before = run.passes();
    assert!(run.look().await.passes > before);
    run.until(|view| view.status.converged).await;
    assert_eq!((run.phase("demo-a"), run.count("unpause")), (Some(Phase::Running), 1), "and it is mended");
    let passes = run.look().await.passes;
    assert_eq!(run.look().await.passes, passes, "what was seen a moment ago is not looked at again");
}

#[tokio::test(start_paused = true)]
async fn a_podman_that_stops_answering_is_not_called_reachable_for_long() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(60).await;
    for word in ["ping", "look"] {
        run.fake.order(Fault { times: usize::MAX, ..Fault::transient(word, FaultPoint::Hang, 1) });
    }
    let took = run.until(|view| !view.status.podman.reachable && !view.status.converged).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    let view = run.view.borrow().clone().unwrap();
    assert_eq!((view.status.agents["a"].health, view.status.agents["a"].ready), (HealthStatus::Unknown, false));
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_free_again_is_seen_by_whoever_asks() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = listener.local_addr().unwrap().port();
    let mut story = Story::new(&["a"]);
    story.options.patience.local = true;
    story.agent("a").container.ports.push(port(number));
    let mut run = Background::start(story);
    run.until(|view| view.backing_off.iter().any(|off| off.cause.contains("is taken"))).await;
    let view = run.view.borrow().clone().unwrap();
    let agent = &view.status.agents["a"];
    assert!(agent.last_failure.as_ref().is_some_and(|last| last.message.contains("is taken")), "{agent:#?}");
    for _ in 0..5 {
        run.ask(Duration::from_secs(1)).await;
    }
    let view = run.look().await;
    assert_eq!(view.backing_off[0].failures, 1, "asking puts nothing off");
    drop(listener);
    quiet(3).await;
    let view = run.look().await;
    assert!(view.backing_off.is_empty(), "{:#?}", view.backing_off);
    let took = run.until(|view| view.status.converged).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_what_ended_are_shown() {
    let mut story = Story::new(&["a"]);
    story.set_env("a", "CRASH", "3");
    story.agent("a").container.restart = RestartPolicy::No;
    let mut run = Background::start(story);
    run.until(|view| view.status.agents["a"].last_log.as_ref().is_some_and(|log| log.contains("ending with 3"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_in_flight_is_reported_as_under_way() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    publish(&mut run.fake.state(), &[("a", "1"), ("big", "1")]);
    run.fake.state().latency.insert("fetch", Duration::from_secs(100));
    run.edit(|desired| {
        desired.agents.insert(agent_name("big"), agent("big"));
    });
    quiet(5).await;
    let view = run.look().await;
    let condition = &view.status.agents["big"].conditions[0];
    assert!(condition.message.starts_with("under way: fetch "), "{condition:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_work_comes_back_however_many_successors_fail() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    let id = run.fake.state().named("demo-a").unwrap().0.clone();
    run.edit_into_sickness().await;
    assert_eq!(run.phase("demo-a.prev"), Some(Phase::Exited { code: 143 }), "its successor has proved nothing yet");
    run.edit(|desired| {
        let container = &mut desired.agents.get_mut("a").unwrap().container;
        container.healthcheck = None;
        container.env = [("CRASH".into(), Text::plain("9"))].into();
    });
    run.until(|view| view.backing_off.iter().any(|off| off.kind == FailureKind::RolledBack)).await;
    quiet(3600).await;
    assert_eq!((run.phase("demo-a"), run.fake.state().named("demo-a").unwrap().0.clone()), (Some(Phase::Running), id));
    assert_eq!(run.fake.state().containers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_work_comes_back_when_its_next_successor_cannot_even_be_made() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    let id = run.fake.state().named("demo-a").unwrap().0.clone();
    run.edit_into_sickness().await;
    run.fake.order(Fault::lasting("create"));
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.insert("SICK".into(), Text::plain("1"));
    });
    run.until(|view| view.backing_off.iter().any(|off| off.kind == FailureKind::RolledBack)).await;
    assert_eq!((run.phase("demo-a"), run.fake.state().named("demo-a").unwrap().0.clone()), (Some(Phase::Running), id));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_empty_when_it_begins_removes_nothing() {
    let mut story = Story::running(&["a"]).await;
    story.desired.agents.clear();
    let mut run = Background::start(story);
    run.until(|view| view.file_error.is_some()).await;
    quiet(1000).await;
    assert_eq!(run.phase("demo-a"), Some(Phase::Running));
    assert_eq!(run.told().iter().filter(|told| told.contains("no agents")).count(), 1, "{:?}", run.told());
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_replacement_left_is_kept_alive() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    let id = run.fake.state().named("demo-a").unwrap().0.clone();
    run.fake.order(Fault::lasting("create"));
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().container.env.insert("MODE".into(), Text::plain("two"));
    });
    run.until(|view| !view.backing_off.is_empty()).await;
    run.fake.state().kill("demo-a");
    quiet(5).await;
    assert_eq!((run.phase("demo-a"), run.fake.state().named("demo-a").unwrap().0.clone()), (Some(Phase::Running), id));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_failed_is_taken_again_soon() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    quiet(20).await;
    run.fake.order(Fault { times: 3, ..Fault::transient("look", FaultPoint::Before, 3) });
    run.fake.state().kill("demo-a");
    let took = run.mended().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// As when the machine that Podman runs in goes down between a look and the subscription that follows.
#[tokio::test(start_paused = true)]
async fn what_was_seen_and_is_not_reported_is_looked_at_again() {
    let mut run = Background::start(Story::running(&["a"]).await);
    run.fake.order(Fault { times: usize::MAX, ..Fault::transient("events", FaultPoint::Before, 1) });
    run.until(|view| view.status.converged && !view.hears_podman).await;
    run.fake.state().named_mut("demo-a").unwrap().phase = Phase::Exited { code: 137 };
    let took = run.converged().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    quiet(60).await;
    run.fake.state().calls.clear();
    quiet(600).await;
    assert!(run.count("look") <= 25, "ever more rarely: {}", run.count("look"));
    run.fake.restart();
    run.until(|view| view.hears_podman).await;
    run.fake.state().calls.clear();
    quiet(200).await;
    assert!(run.count("look") <= 1, "what is heard needs no looks: {}", run.count("look"));
}

#[tokio::test(start_paused = true)]
async fn one_agents_long_download_holds_up_nobody() {
    let story = Story::running(&["a"]).await;
    let mut run = Background::start(story);
    run.converged().await;
    publish(&mut run.fake.state(), &[("a", "1"), ("big", "1")]);
    run.fake.state().latency.insert("fetch", Duration::from_secs(1000));
    run.edit(|desired| {
        desired.agents.insert(agent_name("big"), agent("big"));
    });
    quiet(5).await;
    run.fake.state().kill("demo-a");
    let took = run.until(|view| view.status.agents["a"].ready && view.status.agents.len() == 2).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    run.edit(|desired| {
        desired.agents.insert(agent_name("a-b"), {
            let mut one = agent("a-b");
            one.state = AgentState::Absent;
            one
        });
    });
    run.until(|view| view.status.agents.len() == 3).await;
    assert!(run.stop().await < Duration::from_secs(1), "a download is dropped where it is");
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_answered_once_it_is_settled() {
    let run = Background::start(Story::new(&["a"]));
    let report = run.ask(LONG).await;
    assert!(report.converged, "{:?}", problems(&report));
    // Nobody tells of this one.
    run.fake.state().named_mut("demo-a").unwrap().phase = Phase::Exited { code: 1 };
    let report = run.ask(LONG).await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!(taken(&report), ["start container `demo-a`"]);
    let report = run.ask(LONG).await;
    assert!(report.converged && report.taken.is_empty());
    run.fake.state().latency.insert("look", Duration::from_secs(100));
    let report = run.ask(Duration::from_secs(10)).await;
    assert!(!report.converged);
}

#[tokio::test(start_paused = true)]
async fn the_latest_is_asked_for_now_and_then() {
    let mut story = Story::new(&["a"]);
    story.agent("a").version = Version::Latest;
    story.desired.manifest_refresh = Duration::from_secs(600);
    let mut run = Background::start(story);
    run.converged().await;
    publish(&mut run.fake.state(), &[("a", "2")]);
    run.until(|view| view.status.agents["a"].image.as_ref().is_some_and(|image| image.reference.ends_with(":2"))).await;
    let asked = run.count("published");
    quiet(3600).await;
    assert!((4..=8).contains(&(run.count("published") - asked)), "{}", run.count("published") - asked);
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_before_it_is_published_comes_once_it_is() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    run.edit(|desired| desired.agents.get_mut("a").unwrap().version = Version::Exact("2".into()));
    run.until(|view| !view.status.converged).await;
    run.fake.state().calls.clear();
    quiet(3600).await;
    let asked = run.count("published");
    assert!((10..=24).contains(&asked), "{asked} times in an hour: after 5 s, 10 s, … 5 min");
    publish(&mut run.fake.state(), &[("a", "2")]);
    let took = run.converged().await;
    assert!(took < Duration::from_secs(400), "{took:?}");
    let asked = run.count("published");
    quiet(7200).await;
    assert_eq!(run.count("published"), asked, "nobody wants anything more of it");
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_go_within_ten_seconds() {
    let mut run = Background::start(Story::new(&["a"]));
    run.converged().await;
    run.fake.state().latency.insert("stop", Duration::from_secs(1000));
    run.edit(|desired| {
        desired.agents.get_mut("a").unwrap().state = AgentState::Stopped;
    });
    quiet(1).await;
    assert!(run.stop().await < Duration::from_secs(10));
}
