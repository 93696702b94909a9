//! Stories of containers and what they hold: names, volumes, edits that are taken back, answers that are lost.

use steadfast::backend::fake::{Fault, FaultPoint};
use steadfast::backend::{EngineMachine, ImageFacts};
use steadfast::model::*;
use steadfast::reconcile::Problem;

use crate::worlds::*;

async fn plans(story: &Story, wanted: &[&str]) {
    assert_eq!(story.plan().await, wanted);
}

/// Converges, and takes exactly these steps.
async fn takes(story: &Story, wanted: &[&str]) {
    let report = story.converge().await;
    assert!(report.converged, "{:?} after {:?}", problems(&report), taken(&report));
    assert_eq!(taken(&report), wanted);
}

/// Converges, and is killed after so many changes. Yields whether it was.
async fn killed_after(story: &Story, changes: usize) -> bool {
    story.fake.kill_after(changes);
    let killed = tokio::select! { _ = story.converge() => false, () = story.fake.killed() => true };
    story.fake.restart();
    killed
}

fn rename(story: &Story, from: &str, to: &str) {
    story.fake.state().named_mut(from).unwrap().name = container_name(to);
}

fn words(story: &Story) -> Vec<&'static str> {
    story.fake.state().effects.iter().map(|effect| effect.call.word).collect()
}

// ------------------------------------------------------------------------------------------------------------- names

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_renamed_gets_its_name_back_and_runs_on() {
    for name in ["abc123_demo-a", "demo-a.prev", "demo-a.next", "demo-a.swap"] {
        let story = Story::running(&["a"]).await;
        let id = story.id("demo-a");
        rename(&story, "demo-a", name);
        plans(&story, &[&format!("rename container to `demo-a`: it is named `{name}`")]).await;
        takes(&story, &["rename container to `demo-a`"]).await;
        assert_eq!((story.id("demo-a"), words(&story)), (id, vec!["rename"]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_container_name_is_a_rename() {
    let mut story = Story::running(&["a"]).await;
    let id = story.id("demo-a");
    story.agent("a").container.name = container_name("web");
    takes(&story, &["rename container to `web`"]).await;
    assert_eq!((story.id("web"), words(&story)), (id, vec!["rename"]));
}

#[tokio::test(start_paused = true)]
async fn agents_that_swap_their_names_are_renamed_through_a_third() {
    let mut story = Story::running(&["a", "b"]).await;
    let (a, b) = (story.id("demo-a"), story.id("demo-b"));
    story.agent("a").container.name = container_name("demo-b");
    story.agent("b").container.name = container_name("demo-a");
    plans(
        &story,
        &[
            "rename container to `demo-a.swap`: another agent takes over its name `demo-b`",
            "later renameContainer `demo-b`: it is named `demo-a`, once container `demo-b` is removed, or releases its name or port",
            "later renameContainer `demo-a`: it is named `demo-b`, once container `demo-a` is removed, or releases its name or port",
        ],
    )
    .await;
    takes(
        &story,
        &["rename container to `demo-a.swap`", "rename container to `demo-b`", "rename container to `demo-a`"],
    )
    .await;
    assert_eq!((story.id("demo-b"), story.id("demo-a")), (a, b));
    assert_eq!(words(&story), ["rename"; 3]);
}

#[tokio::test(start_paused = true)]
async fn names_go_around_a_ring_of_three_with_an_edit_and_kills_on_the_way() {
    for kill in 1..14 {
        let mut story = Story::running(&["a", "b", "c"]).await;
        let (a, c) = (story.id("demo-a"), story.id("demo-c"));
        for (agent, name) in [("a", "demo-b"), ("b", "demo-c"), ("c", "demo-a")] {
            story.agent(agent).container.name = container_name(name);
        }
        story.set_env("b", "MODE", "two");
        killed_after(&story, kill).await;
        let report = story.converge().await;
        assert!(report.converged, "killed after {kill}: {:?} after {:?}", problems(&report), taken(&report));
        assert_eq!((story.id("demo-b"), story.id("demo-a")), (a, c), "killed after {kill}");
        assert_eq!(story.names(), ["demo-a", "demo-b", "demo-c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_handed_on_is_waited_for() {
    let mut story = Story::running(&["a", "b"]).await;
    let (a, b) = (story.id("demo-a"), story.id("demo-b"));
    story.agent("a").container.name = container_name("web");
    story.agent("b").container.name = container_name("demo-a");
    takes(&story, &["rename container to `web`", "rename container to `demo-a`"]).await;
    assert_eq!((story.id("web"), story.id("demo-a")), (a, b));
}

#[tokio::test(start_paused = true)]
async fn a_renamed_agent_waits_for_its_predecessors_container_to_go() {
    let mut story = Story::running(&["a"]).await;
    publish(&mut story.fake.state(), &[("a", "1"), ("heir", "1")]);
    let mut heir = agent("heir");
    heir.container.name = container_name("demo-a");
    heir.source = ImageSource::Registry;
    story.fake.state().registry.insert(reference_of("heir", "1"), image_of("heir", "1"));
    story.fake.state().images.insert(reference_of("heir", "1"), image_of("heir", "1"));
    story.fake.state().image_store.insert(image_of("heir", "1"));
    story.desired.agents = [(agent_name("heir"), heir)].into();
    story.options.policy.prune_cache = false;
    plans(
        &story,
        &[
            "remove container `demo-a`: its agent is not in the state file any more",
            "later createContainer `demo-a`: it does not exist, once container `demo-a` is removed, or releases its name or port",
        ],
    )
    .await;
    story.options.policy.prune = false;
    plans(
        &story,
        &[
            "later createContainer `demo-a`: it does not exist, container `demo-a` belongs to agent `a`, which is gone from the state file, and is kept",
            "note: container `demo-a` belongs to no agent of the state file and is kept (--no-prune)",
        ],
    )
    .await;
    story.options.policy.prune = true;
    assert!(story.converge().await.converged);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_a_suspended_agent_has_is_not_taken_from_it() {
    let mut story = Story::running(&["a", "b"]).await;
    story.agent("a").container.name = container_name("web");
    story.agent("a").suspend = true;
    story.agent("b").container.name = container_name("demo-a");
    let report = story.converge().await;
    assert_eq!(problems(&report), ["container `demo-a` belongs to agent `a`, which is left as it is"]);
    assert_eq!(story.names(), ["demo-a", "demo-b"]);
}

#[tokio::test(start_paused = true)]
async fn beside_a_foreign_container_under_its_name_the_own_one_is_kept_alive() {
    let story = Story::running(&["a"]).await;
    let id = story.id("demo-a");
    rename(&story, "demo-a", "mine");
    let foreign_container = story.fake.state().put(foreign("demo-a"));
    plans(
        &story,
        &["later renameContainer `demo-a`: it is named `mine`, container `demo-a` exists and does not belong to this state file"],
    )
    .await;
    story.fake.state().kill("mine");
    let report = story.converge().await;
    assert!(matches!(&report.problems[..], [Problem::Blocked { .. }]), "{:?}", problems(&report));
    assert_eq!((story.phase("mine"), taken(&report)), (Phase::Running, vec!["start container `mine`".to_owned()]));
    let (observed, plan) = story.observed_plan().await;
    let now = std::time::SystemTime::UNIX_EPOCH;
    let status = steadfast::status::status(&story.desired, &observed, &plan, now, std::time::Duration::from_secs(10));
    let shown = status.agents["a"].container.as_ref().map(|container| (container.name.as_str(), container.state));
    assert_eq!(shown, Some(("mine", "running")));
    story.fake.state().containers.remove(&foreign_container);
    takes(&story, &["rename container to `demo-a`"]).await;
    assert_eq!(story.id("demo-a"), id);
}

// -------------------------------------------------------------------------------------------------------- taken back

/// An edit of what runs, taken back after so many changes.
async fn taken_back(restart: RestartPolicy, kill: usize) -> (Story, ContainerId, bool) {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.restart = restart;
    story.agent("a").container.ports = vec![port(8001)];
    let mut story = story.settled().await;
    let id = story.id("demo-a");
    story.set_env("a", "MODE", "two");
    let killed = killed_after(&story, kill).await;
    story.agent("a").container.env.clear();
    (story, id, killed)
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_is_taken_back_gives_the_predecessor_its_name_and_starts_it() {
    let mut restored = 0;
    for restart in [RestartPolicy::UnlessStopped, RestartPolicy::No] {
        for kill in 1..6 {
            let (story, id, killed) = taken_back(restart, kill).await;
            assert!(killed, "{kill}");
            let report = story.converge().await;
            assert!(report.converged, "killed after {kill}: {:?} after {:?}", problems(&report), taken(&report));
            assert_eq!(story.id("demo-a"), id, "killed after {kill}: {:?}", taken(&report));
            assert_eq!((story.phase("demo-a"), story.names()), (Phase::Running, vec!["demo-a".to_owned()]), "{kill}");
            assert!(!words(&story).contains(&"create"), "{:?}", taken(&report));
            restored += usize::from(taken(&report).contains(&"rename container to `demo-a`".to_owned()));
        }
    }
    assert!(restored >= 6, "{restored}");
}

#[tokio::test(start_paused = true)]
async fn a_kill_while_it_is_taken_back_changes_only_the_time() {
    for kill in 1..6 {
        for again in 1..5 {
            let (story, id, _) = taken_back(RestartPolicy::No, kill).await;
            killed_after(&story, again).await;
            let report = story.converge().await;
            assert!(report.converged, "{kill}, {again}: {:?} after {:?}", problems(&report), taken(&report));
            assert_eq!((story.id("demo-a"), story.phase("demo-a")), (id, Phase::Running), "{kill}, {again}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_another_name_too_one_at_a_time_runs_whether_an_edit_is_taken_back_or_not() {
    for (kill, is_taken_back, is_swapped) in
        (1..7).flat_map(|kill| [(kill, true, true), (kill, true, false), (kill, false, true), (kill, false, false)])
    {
        let mut story = Story::new(&["a", "b"]);
        story.agent("a").container.ports = vec![port(8001)];
        let mut story = story.settled().await;
        story.set_env("a", "MODE", "two");
        assert!(killed_after(&story, kill).await);
        if is_taken_back {
            story.agent("a").container.env.clear();
        }
        story.agent("a").container.name = container_name(if is_swapped { "demo-b" } else { "web" });
        if is_swapped {
            story.agent("b").container.name = container_name("demo-a");
        }
        let case = format!("{kill}, taken back {is_taken_back}, swapped {is_swapped}");
        let report = story.converge().await;
        assert!(report.converged, "{case}: {:?} after {:?}", problems(&report), taken(&report));
        assert_eq!(story.names(), if is_swapped { ["demo-a", "demo-b"] } else { ["demo-b", "web"] }, "{case}");
        let state = story.fake.state();
        let twice = state.effects.iter().find(|effect| effect.running.windows(2).any(|two| two[0] == two[1]));
        assert!(twice.is_none(), "{case}: {twice:?} after {:?}", taken(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_edit_that_is_taken_back_plans_is_said() {
    // create, rename, stop, rename, start; killed before it has proved itself.
    let (story, ..) = taken_back(RestartPolicy::UnlessStopped, 5).await;
    plans(
        &story,
        &[
            "remove container `demo-a`: what it was to replace is as desired again",
            "later startContainer `demo-a.prev`: it exited with code 143, once container `demo-a` is removed, or releases its name or port",
            "later renameContainer `demo-a`: it is named `demo-a.prev`, once container `demo-a` is removed, or releases its name or port",
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_is_made_already_is_used() {
    for kill in 1..6 {
        let mut story = Story::running(&["a"]).await;
        story.set_env("a", "MODE", "two");
        assert!(killed_after(&story, kill).await);
        let made: Vec<_> = {
            let state = story.fake.state();
            let new = state.containers.iter().filter(|(_, one)| !one.spec.env.is_empty());
            new.map(|(id, _)| id.clone()).collect()
        };
        let report = story.converge().await;
        assert!(report.converged, "killed after {kill}: {:?}", problems(&report));
        assert_eq!(vec![story.id("demo-a")], made, "killed after {kill}: {:?}", taken(&report));
        assert_eq!(story.names(), ["demo-a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_that_had_ended_is_not_run_again_when_an_edit_is_taken_back() {
    for kill in 1..4 {
        let mut story = Story::new(&["a"]);
        story.agent("a").container.restart = RestartPolicy::No;
        story.set_env("a", "CRASH", "0");
        let mut story = story.settled().await;
        let id = story.id("demo-a");
        story.set_env("a", "MODE", "two");
        story.agent("a").state = AgentState::Stopped;
        assert!(killed_after(&story, kill).await, "{kill}");
        story.agent("a").container.env.remove("MODE");
        story.agent("a").state = AgentState::Running;
        assert!(story.converge().await.converged, "{kill}");
        assert_eq!((story.id("demo-a"), story.fake.state().count("start")), (id, 0), "{kill}");
    }
}

// ----------------------------------------------------------------------------------------------------------- volumes

fn declare(story: &Story, agent: &str, targets: &[&str]) {
    let volumes = targets.iter().map(|target| (*target).to_owned()).collect();
    story.fake.state().image_facts.insert(image_of(agent, "1"), ImageFacts { volumes, ..ImageFacts::default() });
}

/// Target and name of each volume of a container.
fn volumes(story: &Story, container: &str) -> Vec<(String, String)> {
    let state = story.fake.state();
    let volumes = &state.named(container).unwrap().1.volumes;
    let mut volumes: Vec<_> = volumes.iter().map(|one| (one.target.clone(), one.name.clone())).collect();
    volumes.sort();
    volumes
}

async fn with_volumes(targets: &[&str]) -> Story {
    let story = Story::new(&["a"]);
    declare(&story, "a", targets);
    story.settled().await
}

#[tokio::test(start_paused = true)]
async fn what_an_image_declares_as_a_volume_goes_from_successor_to_successor() {
    let mut story = with_volumes(&["/data", "/cache"]).await;
    let before = volumes(&story, "demo-a");
    assert_eq!(before.len(), 2);
    for mode in ["1", "2", "3"] {
        story.set_env("a", "MODE", mode);
        takes(&story, &["replace container `demo-a`"]).await;
        assert_eq!(volumes(&story, "demo-a"), before, "{mode}");
    }
    // One that fails leaves its predecessor all it had.
    story.set_env("a", "CRASH", "3");
    let id = story.id("demo-a");
    assert!(!story.converge().await.converged);
    assert_eq!((story.id("demo-a"), volumes(&story, "demo-a")), (id, before.clone()));
    // A mount of the file's takes the place of one.
    story.agent("a").container.env.clear();
    story.agent("a").container.mounts = vec![Mount::bind(Text::plain("/srv"), Text::plain("/data"), false)];
    takes(&story, &["replace container `demo-a`"]).await;
    assert_eq!(volumes(&story, "demo-a"), before[..1], "{before:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_moment_of_a_replacement_loses_no_volume() {
    for kill in 1..8 {
        let mut story = with_volumes(&["/data"]).await;
        let before = volumes(&story, "demo-a");
        story.set_env("a", "MODE", "two");
        killed_after(&story, kill).await;
        assert!(story.converge().await.converged, "{kill}");
        assert_eq!(volumes(&story, "demo-a"), before, "{kill}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_was_made_without_its_predecessors_volumes_is_made_anew() {
    let mut story = with_volumes(&["/data"]).await;
    let before = volumes(&story, "demo-a");
    story.set_env("a", "MODE", "two");
    assert!(killed_after(&story, 1).await);
    story.fake.state().named_mut("demo-a.next").unwrap().volumes.clear();
    assert!(story.converge().await.converged);
    assert_eq!((volumes(&story, "demo-a"), story.names()), (before, vec!["demo-a".to_owned()]));
}

// --------------------------------------------------------------------------------------------------------- half made

#[tokio::test(start_paused = true)]
async fn a_half_made_container_is_made_anew() {
    let mut story = Story::new(&["a"]);
    // Killed one change later each time, until it is made and not started.
    for changes in 1.. {
        assert!(killed_after(&story, changes).await, "it never was made and not started");
        if !story.names().is_empty() {
            break;
        }
        story = Story::new(&["a"]);
    }
    assert_eq!(story.phase("demo-a"), Phase::Created);
    story.fake.state().named_mut("demo-a").unwrap().is_half_made = true;
    takes(&story, &["start container `demo-a`"]).await;
    assert_eq!(story.phase("demo-a"), Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_half_made_successor_is_made_anew_with_its_volumes() {
    for kill in 1..5 {
        let mut story = with_volumes(&["/data"]).await;
        let before = volumes(&story, "demo-a");
        story.set_env("a", "MODE", "two");
        assert!(killed_after(&story, kill).await, "{kill}");
        let half: Vec<_> = {
            let mut state = story.fake.state();
            let new = state.containers.iter_mut().filter(|(_, one)| one.phase == Phase::Created);
            new.map(|(id, one)| {
                one.is_half_made = true;
                id.clone()
            })
            .collect()
        };
        assert_eq!(half.len(), 1, "{kill}");
        let report = story.converge().await;
        assert!(report.converged, "{kill}: {:?}", problems(&report));
        assert_eq!((volumes(&story, "demo-a"), story.phase("demo-a")), (before, Phase::Running), "{kill}");
        assert_ne!(story.id("demo-a"), half[0], "{kill}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_run_is_never_made_anew_for_a_start_that_fails() {
    let story = Story::running(&["a"]).await;
    let id = story.id("demo-a");
    {
        let mut state = story.fake.state();
        let one = state.named_mut("demo-a").unwrap();
        one.phase = Phase::Exited { code: 1 };
        one.is_half_made = true;
    }
    assert!(!story.converge().await.converged);
    assert_eq!(story.id("demo-a"), id);
}

// ------------------------------------------------------------------------------------------------------ lost answers

#[tokio::test(start_paused = true)]
async fn what_was_done_is_reported_as_done_when_its_answer_was_lost() {
    for word in ["create", "start", "stop", "rename", "remove", "unpause"] {
        for skip in 0..3 {
            let mut story = Story::running(&["a", "b"]).await;
            story.set_env("a", "MODE", "two");
            story.fake.state().named_mut("demo-a").unwrap().phase = Phase::Paused;
            story.fake.state().kill("demo-b");
            story.fake.order(Fault { skip, ..Fault::transient(word, FaultPoint::After, 1) });
            takes(&story, &["start container `demo-b`", "replace container `demo-a`"]).await;
            assert_eq!(story.names(), ["demo-a", "demo-b"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_answer_started_is_judged_as_if_the_answer_had_come() {
    let mut story = Story::new(&["a"]);
    story.set_env("a", "CRASH", "3");
    story.agent("a").container.restart = RestartPolicy::OnFailure;
    story.fake.order(Fault::transient("start", FaultPoint::After, 1));
    let report = story.converge().await;
    assert!(problems(&report).join("").contains("is in a crash loop"), "{:?}", problems(&report));
    // One that is run once is run once.
    let mut story = Story::new(&["a"]);
    story.set_env("a", "CRASH", "3");
    story.agent("a").container.restart = RestartPolicy::No;
    story.fake.order(Fault::transient("start", FaultPoint::After, 1));
    let report = story.converge().await;
    assert!(problems(&report).join("").contains("ended at once with exit code 3"), "{:?}", problems(&report));
    assert_eq!(story.fake.state().named("demo-a").unwrap().1.ends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_started_while_podman_went_away_is_judged_once_it_is_back() {
    let mut story = Story::new(&["a"]);
    story.set_env("a", "CRASH", "3");
    story.agent("a").container.restart = RestartPolicy::OnFailure;
    story.fake.order(Fault::transient("start", FaultPoint::After, 1));
    story.fake.order(Fault::transient("inspect", FaultPoint::Before, 40));
    let report = story.converge().await;
    assert!(!report.converged, "{:?}", taken(&report));
    assert!(problems(&report).join("").contains("is in a crash loop"), "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_done_is_not_reported_as_done() {
    for word in ["create", "start", "stop", "rename", "remove"] {
        let mut story = Story::running(&["a"]).await;
        story.set_env("a", "MODE", "two");
        story.fake.order(Fault::transient(word, FaultPoint::Before, usize::MAX));
        let report = story.converge().await;
        assert!(!report.converged, "{word}: {:?}", taken(&report));
    }
}

// ------------------------------------------------------------------------------------------------------ architecture

fn build_for(story: &Story, agent: &str, version: &str, arch: &str) {
    let facts = ImageFacts { os: "linux".into(), arch: arch.into(), ..ImageFacts::default() };
    story.fake.state().image_facts.insert(image_of(agent, version), facts);
}

fn machine(story: &Story, emulates: &[&str]) {
    let emulates = Some(emulates.iter().map(|arch| (*arch).to_owned()).collect());
    story.fake.state().machine = EngineMachine { os: "linux".into(), arch: "s390x".into(), emulates };
}

#[tokio::test(start_paused = true)]
async fn an_image_for_another_architecture_is_refused_before_anything_is_touched() {
    let mut story = Story::running(&["a"]).await;
    let id = story.id("demo-a");
    machine(&story, &[]);
    build_for(&story, "a", "2", "riscv64");
    publish(&mut story.fake.state(), &[("a", "2")]);
    story.agent("a").version = Version::Exact("2".into());
    let report = story.converge().await;
    assert_eq!(
        problems(&report),
        [
            "image `r.example/a:2` of container `demo-a` is built for linux/riscv64, and Podman's machine is linux/s390x and does not emulate it"
        ]
    );
    assert_eq!((story.id("demo-a"), story.phase("demo-a")), (id, Phase::Running));
    let touched: Vec<_> =
        words(&story).into_iter().filter(|word| ["create", "rename", "stop"].contains(word)).collect();
    assert!(touched.is_empty(), "{touched:?}");
    // Nor is one made where there is none.
    let story = Story::new(&["b"]);
    machine(&story, &[]);
    build_for(&story, "b", "1", "riscv64");
    assert!(!story.converge().await.converged);
    assert_eq!(story.names(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_architecture_that_is_emulated_or_runs_already_is_taken() {
    let story = Story::new(&["a"]);
    machine(&story, &["riscv64"]);
    build_for(&story, "a", "1", "riscv64");
    let mut story = story.settled().await;
    // Whatever the machine says of itself: it runs.
    machine(&story, &[]);
    story.set_env("a", "MODE", "two");
    takes(&story, &["replace container `demo-a`"]).await;
}
