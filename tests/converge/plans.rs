//! Stories of what a plan goes by beyond values: labels as they are written and read, other state files, and what comes of it.
//! The planner itself is tested in `tests/plan`.

use steadfast::backend::fake::{FakeContainer, State};
use steadfast::model::*;

use crate::worlds::*;

async fn plans(story: &Story, wanted: &[&str]) {
    assert_eq!(story.plan().await, wanted);
}

/// Whoever moved the tag keeps it: the agent's image is known by its id.
#[tokio::test(start_paused = true)]
async fn a_tag_that_points_to_a_different_image_is_left_alone() {
    let story = Story::running(&["a"]).await;
    let theirs = ImageId::from("theirs");
    story.fake.state().images.insert(reference_of("a", "1"), theirs.clone());
    plans(&story, &[]).await;
    // Also when the image has to come back, and a container is made from it, where it serves another state file.
    let id = story.id("demo-a");
    story.fake.state().containers.remove(&id);
    story.fake.state().image_store.clear();
    let mut other = FakeContainer { image: theirs.clone(), ..foreign("theirs") };
    other.labels.insert("steadfast.name".into(), "elses".into());
    story.fake.state().put(other);
    let report = story.converge().await;
    assert_eq!(taken(&report), ["load image `r.example/a:1`", "create container `demo-a`"]);
    let state = story.fake.state();
    assert_eq!(state.named("demo-a").unwrap().1.image, image_of("a", "1"));
    assert_eq!(state.images[&reference_of("a", "1")], theirs, "it was not given by us, and is not taken");
}

/// What the file names would not be what runs.
#[tokio::test(start_paused = true)]
async fn a_tag_of_somebodys_own_image_is_a_conflict_until_it_is_adopted() {
    let mut story = Story::new(&["a"]);
    let theirs = ImageId::from("theirs");
    story.fake.state().images.insert(reference_of("a", "1"), theirs.clone());
    story.fake.state().image_store.insert(theirs.clone());
    story.fake.state().put(FakeContainer { image: theirs.clone(), ..foreign("theirs") });
    let conflict =
        "the tag `r.example/a:1` points to a different image (theirs) than the manifest's, and somebody else set it";
    let tries: [&[&str]; 2] =
        [&["fetch `vm/images/a-1-x64.tar.gz`", "write manifest `vm/manifest.json`", "load image `r.example/a:1`"], &[]];
    for took in tries {
        let report = story.converge().await;
        assert_eq!(taken(&report), took);
        assert_eq!(problems(&report), [conflict]);
        assert_eq!(story.fake.state().images[&reference_of("a", "1")], theirs);
    }
    story.options.policy.adopt = true;
    let report = story.converge().await;
    assert_eq!(taken(&report), ["tag image `r.example/a:1`", "create container `demo-a`"]);
    assert!(report.converged, "{:?}", problems(&report));
    let state = story.fake.state();
    assert_eq!(state.images[&reference_of("a", "1")], image_of("a", "1"));
    assert!(state.image_store.contains(&theirs), "it stays");
}

/// The same version published anew: the tag follows, since it was given by us, and the old image goes.
#[tokio::test(start_paused = true)]
async fn a_tag_of_ours_moves_on_to_what_is_published_anew() {
    let mut story = Story::running(&["a"]).await;
    story.desired.cache.keep = 0;
    {
        let mut state = story.fake.state();
        let anew = manifest_of(&[("a", "1", digest("anew"))]);
        state.published = Some(anew);
        state.offered.insert(key_of("a", "1"), digest("anew"));
        state.tarballs.insert(digest("anew"), (ImageId::from("anew"), vec!["r.example/a:1".into()]));
    }
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    let state = story.fake.state();
    assert_eq!(state.images[&reference_of("a", "1")], ImageId::from("anew"));
    assert_eq!(state.named("demo-a").unwrap().1.image, ImageId::from("anew"));
    assert!(!state.image_store.contains(&image_of("a", "1")), "nothing needs it any more");
}

/// What a tarball carries beside the wanted image never comes about.
#[tokio::test(start_paused = true)]
async fn a_tarball_of_another_image_is_refused_and_leaves_nothing() {
    let story = Story::new(&["a"]);
    story.fake.state().tarballs.insert(tarball_of("a", "1"), (ImageId::from("b"), vec!["r.example/b:1".into()]));
    let report = story.converge().await;
    assert_eq!(problems(&report), ["tarball `vm/images/a-1-x64.tar.gz` holds `r.example/b:1`, not `r.example/a:1`"]);
    let state = story.fake.state();
    assert!(state.images.is_empty() && state.image_store.is_empty());
    assert_eq!(state.count("load"), 0);
}

/// Two state files whose publishers have other content under one name, each with a cache of its own.
#[tokio::test(start_paused = true)]
async fn two_state_files_with_other_content_under_one_name_leave_each_other_alone() {
    let mut one = Story::new(&["a"]);
    let mut two = Story::new(&["a"]);
    two.desired.name = Name::new("other").unwrap();
    two.agent("a").container.name = container_name("other-a");
    for (story, content) in [(&mut one, "one"), (&mut two, "two")] {
        let mut state = story.fake.state();
        state.published = Some(manifest_of(&[("a", "1", digest(content))]));
        state.offered.insert(key_of("a", "1"), digest(content));
        state.tarballs.insert(digest(content), (ImageId::from(content), vec!["r.example/a:1".into()]));
    }
    // One engine for both.
    let tarballs = two.fake.state().tarballs.clone();
    one.fake.state().tarballs.extend(tarballs);
    let engine = one.fake.clone();
    let world = |story: &Story| steadfast::backend::World {
        vm: engine.clone(),
        engine: engine.clone(),
        store: story.fake.clone(),
    };
    for story in [&one, &two] {
        let report = story.converge_in(&world(story)).await;
        assert!(report.converged, "{:?}", problems(&report));
    }
    for _ in 0..3 {
        for story in [&one, &two] {
            let report = story.converge_in(&world(story)).await;
            assert!(report.converged && report.taken.is_empty(), "{:?}", taken(&report));
        }
    }
    let state = engine.state();
    assert_eq!(state.named("demo-a").unwrap().1.image, ImageId::from("one"));
    assert_eq!(state.named("other-a").unwrap().1.image, ImageId::from("two"));
    assert_eq!(state.count("load"), 2, "each was loaded once");
}

#[tokio::test(start_paused = true)]
async fn another_container_name_takes_the_old_one_along() {
    let mut story = Story::running(&["a"]).await;
    story.agent("a").container.name = container_name("web");
    story.set_env("a", "MODE", "two");
    plans(&story, &["replace container `web`: container.name, container.env.MODE changed"]).await;
    assert!(story.converge().await.converged);
    assert_eq!(story.names(), ["web"]);
}

/// The agent's container, put there a second time under another name.
fn twin(story: &Story, name: &str, change: impl FnOnce(&mut FakeContainer, &mut State)) {
    let mut state = story.fake.state();
    let mut twin = state.named("demo-a").unwrap().1.clone();
    twin.name = container_name(name);
    change(&mut twin, &mut state);
    state.put(twin);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_an_agent_is_nobodys_leftover() {
    let mut story = Story::running(&["a"]).await;
    twin(&story, "committed", |copy, state| {
        copy.image = ImageId::from("c0ffee");
        state.image_labels.insert(copy.image.clone(), copy.labels.clone());
    });
    twin(&story, "cloned", |_, _| {});
    plans(&story, &[]).await;
    twin(&story, "elsewhere", |other, _| {
        other.labels.insert(labels::ID.into(), "another".into());
        other.labels.insert(labels::ROOT.into(), "b2".repeat(16));
    });
    plans(&story, &[]).await;
    assert!(story.down().await.converged);
    assert_eq!(story.names(), ["cloned", "committed", "elsewhere"]);
    story.agent("a").container.name = container_name("committed");
    plans(
        &story,
        &["later createContainer `committed`: it does not exist, container `committed` exists and is a copy of an agent's container (`podman commit`, `podman container clone`)"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_roots_container_is_a_conflict_that_names_the_root_and_can_be_taken_over() {
    let mut story = Story::running(&["a"]).await;
    {
        let mut state = story.fake.state();
        let labels = &mut state.named_mut("demo-a").unwrap().labels;
        labels.insert(labels::ROOT.into(), "b2".repeat(16));
        labels.insert(labels::ROOT_PATH.into(), "/elsewhere".into());
    }
    plans(
        &story,
        &["later createContainer `demo-a`: it does not exist, container `demo-a` exists and belongs to a state file of the same name below another root, `/elsewhere` (id b2b2b2b2…)"],
    )
    .await;
    story.desired.claim = RootClaim { id: RootId::parse(&"a1".repeat(16)), place: None, unlabelled: false };
    story.options.policy.adopt = true;
    plans(&story, &["replace container `demo-a`: it is adopted from its owner"]).await;
    assert!(story.converge().await.converged);
    plans(&story, &[]).await;
    let state = story.fake.state();
    let labels = &state.named("demo-a").unwrap().1.labels;
    assert_eq!(
        (labels[labels::ROOT].as_str(), labels[labels::ROOT_PATH].as_str()),
        ("a1".repeat(16).as_str(), "/nowhere")
    );
}

/// An upgrade gives containers labels that those of an older version lack. That is no reason to touch them.
#[tokio::test(start_paused = true)]
async fn labels_that_an_older_version_did_not_write_recreate_nothing() {
    let mut story = Story::running(&["a"]).await;
    story.fake.state().named_mut("demo-a").unwrap().labels.remove(labels::ID);
    story.desired.claim = RootClaim { id: RootId::parse(&"a1".repeat(16)), place: None, unlabelled: true };
    plans(&story, &[]).await;
    story.desired.claim.unlabelled = false;
    plans(&story, &[]).await; // its spec was hashed with this root's key
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_image_was_committed_from_an_agent_is_one() {
    let story = Story::running(&["a"]).await;
    {
        let mut state = story.fake.state();
        let (image, labels) = {
            let one = state.named("demo-a").unwrap().1;
            (one.image.clone(), one.labels.clone())
        };
        state.image_labels.insert(image, labels);
        let id = state.named("demo-a").unwrap().0.clone();
        state.containers.remove(&id);
    }
    assert!(story.converge().await.converged);
    plans(&story, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_host_key_recreates_nothing() {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.env.insert("TOKEN".into(), Text::sensitive("canary"));
    let mut story = story.settled().await;
    story.desired.key = HostKey::from_bytes([2; 32]);
    plans(&story, &[]).await;
    story.agent("a").container.env.insert("TOKEN".into(), Text::sensitive("canary two"));
    plans(&story, &["replace container `demo-a`: container.env.TOKEN changed"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_passes_from_a_removed_agent() {
    let mut story = Story::new(&["a", "b"]);
    story.agent("a").container.ports = vec![port(8001)];
    let mut story = story.settled().await;
    story.desired.agents.remove("a");
    story.agent("b").container.ports = vec![port(8001)];
    plans(
        &story,
        &[
            "remove container `demo-a`: its agent is not in the state file any more",
            "later replaceContainer `demo-b`: container.ports changed, once container `demo-a` is removed, or releases its name or port",
        ],
    )
    .await;
    assert!(story.converge().await.converged);
}

#[tokio::test(start_paused = true)]
async fn a_second_leftover_is_nobodys_predecessor() {
    let mut story = Story::running(&["a"]).await;
    let like = |name: &str, phase: Phase| {
        let mut state = story.fake.state();
        let mut left = state.containers.values().next().unwrap().clone();
        (left.name, left.phase) = (container_name(name), phase);
        left.labels.insert(labels::ID.into(), name.into());
        state.put(left);
    };
    like("demo-a.prev", Phase::Exited { code: 143 });
    like("demo-a.next", Phase::Created);
    like("web.next", Phase::Created);
    let id = story.id("demo-a");
    story.fake.state().containers.remove(&id);
    story.set_env("a", "MODE", "two");
    plans(
        &story,
        &[
            "remove container `demo-a.next`: an interrupted replacement left it",
            "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a.next` is removed, or releases its name or port",
        ],
    )
    .await;
    assert!(story.converge().await.converged);
    assert_eq!(story.names(), ["demo-a"]);
}

/// `demo-a` is a successor that has proved nothing yet, beside its predecessor `demo-a.prev`.
async fn unproved() -> Story {
    let mut story = Story::running(&["a"]).await;
    story.set_env("a", "MODE", "two");
    // create, rename, stop, rename, start.
    story.fake.kill_after(5);
    tokio::select! { _ = story.converge() => unreachable!(), () = story.fake.killed() => {} }
    story.fake.restart();
    assert_eq!(story.names(), ["demo-a", "demo-a.prev"]);
    story
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_stays_the_fallback_when_the_wish_changes_again() {
    let mut story = unproved().await;
    let before = story.id("demo-a.prev");
    plans(&story, &["start container `demo-a`: an interrupted replacement has not verified it yet"]).await;
    story.set_env("a", "MODE", "three");
    plans(
        &story,
        &[
            "remove container `demo-a`: an interrupted replacement has not verified it yet",
            "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a` is removed, or releases its name or port",
        ],
    )
    .await;
    story.set_env("a", "CRASH", "7");
    let report = story.converge().await;
    assert!(problems(&report)[0].contains("rolled back"), "{:?}", problems(&report));
    assert_eq!(story.names(), ["demo-a"]);
    assert_eq!((story.id("demo-a"), story.phase("demo-a")), (before, Phase::Running));
}

#[tokio::test(start_paused = true)]
async fn an_unproved_successor_serves_until_the_next_ones_image_is_there() {
    let mut story = unproved().await;
    story.agent("a").version = Version::Exact("2".into());
    publish(&mut story.fake.state(), &[("a", "2")]);
    let plan = story.plan().await;
    assert!(!plan.iter().any(|line| line.starts_with("remove")), "{plan:?}");
    assert!(plan.iter().any(|line| line.starts_with("later replaceContainer `demo-a`: image changed")), "{plan:?}");
    story.fake.state().kill("demo-a");
    let plan = story.plan().await;
    assert!(plan.iter().any(|line| line.starts_with("start container `demo-a`")), "{plan:?}");
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!(story.names(), ["demo-a"]);
}
