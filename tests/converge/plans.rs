//! Stories of the planner: a world, a wish, and the whole plan.

use steadfast::backend::fake::{FakeContainer, State};
use steadfast::model::*;

use crate::worlds::*;

async fn plans(story: &Story, wanted: &[&str]) {
    assert_eq!(story.plan().await, wanted);
}

#[tokio::test(start_paused = true)]
async fn an_empty_machine_fetches_first() {
    plans(
        &Story::new(&["a"]),
        &[
            "fetch `vm/images/a-1-x64.tar.gz`: not in the cache",
            "later syncManifest `vm/manifest.json`: the cache has no manifest, once `vm/images/a-1-x64.tar.gz` is fetched",
            "later loadImage `r.example/a:1`: the image is not there, once `vm/images/a-1-x64.tar.gz` is fetched",
            "later createContainer `demo-a`: it does not exist, once image `r.example/a:1` is there",
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_as_wanted_is_left_alone() {
    plans(&Story::running(&["a", "b"]).await, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_gone_is_created() {
    let story = Story::running(&["a", "b"]).await;
    let id = story.id("demo-a");
    story.fake.state().containers.remove(&id);
    plans(&story, &["create container `demo-a`: it does not exist"]).await;
}

#[tokio::test(start_paused = true)]
async fn every_phase_has_its_answer() {
    let story = Story::running(&["a"]).await;
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
            &["later startContainer `demo-a`: it is `odd`, unknown until it can be seen: Podman says it is `odd`"],
        ),
    ];
    for (phase, wanted) in rows {
        story.fake.state().named_mut("demo-a").unwrap().phase = phase;
        plans(&story, wanted).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_unhealthy_is_restarted_unless_it_is_a_one_shot() {
    for (restart, wanted) in [
        (RestartPolicy::UnlessStopped, &["restart container `demo-a`: it is unhealthy"][..]),
        (RestartPolicy::OnFailure, &["restart container `demo-a`: it is unhealthy"]),
        (RestartPolicy::No, &[]),
    ] {
        let mut story = Story::new(&["a"]);
        story.agent("a").container.healthcheck = Some(health_check());
        story.agent("a").container.restart = restart;
        let story = story.settled().await;
        story.fake.state().named_mut("demo-a").unwrap().checks = (2, false);
        plans(&story, &[]).await;
        story.fake.state().named_mut("demo-a").unwrap().checks = (3, false);
        plans(&story, wanted).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_ended_stays_as_its_restart_policy_says() {
    for (restart, code, stays) in [
        (RestartPolicy::No, 0, true),
        (RestartPolicy::No, 3, true),
        (RestartPolicy::OnFailure, 0, true),
        (RestartPolicy::OnFailure, 3, false),
        (RestartPolicy::Always, 0, false),
        (RestartPolicy::UnlessStopped, 0, false),
    ] {
        let mut story = Story::new(&["a"]);
        story.agent("a").container.restart = restart;
        let story = story.settled().await;
        story.fake.state().named_mut("demo-a").unwrap().phase = Phase::Exited { code };
        assert_eq!(story.plan().await.is_empty(), stays, "{restart} after {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn stopped_means_stopped_and_absent_means_absent() {
    let mut story = Story::running(&["a"]).await;
    story.agent("a").state = AgentState::Stopped;
    plans(&story, &["stop container `demo-a`: its desired state is stopped"]).await;
    story.agent("a").state = AgentState::Absent;
    plans(&story, &["remove container `demo-a`: its desired state is absent"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_agent_is_only_reported() {
    let mut story = Story::running(&["a"]).await;
    story.fake.state().kill("demo-a");
    story.set_env("a", "MODE", "two");
    story.agent("a").suspend = true;
    plans(
        &story,
        &["note: agent `a` is suspended; otherwise: replace container `demo-a` (container.env.MODE changed)"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_orphan_goes_when_pruning_is_on() {
    let mut story = Story::running(&["a", "b"]).await;
    story.desired.agents.remove("b");
    plans(&story, &["remove container `demo-b`: its agent is not in the state file any more"]).await;
    story.options.policy.prune = false;
    plans(&story, &["note: container `demo-b` belongs to no agent of the state file and is kept (--no-prune)"]).await;
}

#[tokio::test(start_paused = true)]
async fn only_these_agents_are_touched() {
    let mut story = Story::running(&["a", "b", "gone"]).await;
    story.desired.agents.remove("gone");
    story.fake.state().kill("demo-a");
    story.fake.state().kill("demo-b");
    story.options.policy.only = [agent_name("a")].into();
    plans(&story, &["start container `demo-a`: it exited with code 137"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_with_a_wanted_name_is_a_conflict_until_it_is_given_to_us() {
    let mut story = Story::running(&["a"]).await;
    let id = story.id("demo-a");
    story.fake.state().containers.remove(&id);
    story.fake.state().put(foreign("demo-a"));
    plans(
        &story,
        &[
            "later createContainer `demo-a`: it does not exist, container `demo-a` exists and does not belong to this state file",
        ],
    )
    .await;
    story.options.policy.adopt = true;
    plans(&story, &["replace container `demo-a`: it is taken over from its owner"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_lost_its_name_gets_it_back() {
    let story = Story::running(&["a"]).await;
    story.fake.state().images.clear();
    plans(&story, &["tag image `r.example/a:1`: the image has lost its tag"]).await;
    let other = ImageRef::new("r.example/other:1").unwrap();
    story.fake.state().images.insert(other, image_of("a", "1"));
    plans(&story, &["tag image `r.example/a:1`: the image has lost its tag"]).await;
    story.fake.state().images.clear();
    story.fake.state().image_store.clear();
    plans(&story, &["load image `r.example/a:1`: the image is not there"]).await;
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
        "the name `r.example/a:1` means another image (theirs) than the manifest's, and somebody else gave it";
    let tries: [&[&str]; 2] =
        [&["fetch `vm/images/a-1-x64.tar.gz`", "write manifest `vm/manifest.json`", "load image `r.example/a:1`"], &[]];
    for took in tries {
        let report = story.converge().await;
        assert_eq!(taken(&report), took);
        assert_eq!(troubles(&report), [conflict]);
        assert_eq!(story.fake.state().images[&reference_of("a", "1")], theirs);
    }
    story.options.policy.adopt = true;
    let report = story.converge().await;
    assert_eq!(taken(&report), ["tag image `r.example/a:1`", "create container `demo-a`"]);
    assert!(report.converged, "{:?}", troubles(&report));
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
    assert!(report.converged, "{:?}", troubles(&report));
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
    assert_eq!(troubles(&report), ["tarball `vm/images/a-1-x64.tar.gz` holds `r.example/b:1`, not `r.example/a:1`"]);
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
        assert!(report.converged, "{:?}", troubles(&report));
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
async fn a_lost_or_wrong_artifact_is_fetched_while_the_container_runs_on() {
    let story = Story::running(&["a"]).await;
    let file = story.fake.state().files.remove(&key_of("a", "1")).unwrap();
    plans(&story, &["fetch `vm/images/a-1-x64.tar.gz`: not in the cache"]).await;
    let wrong = steadfast::backend::fake::FakeFile { digest: digest("rot"), proved: false, ..file };
    story.fake.state().files.insert(key_of("a", "1"), wrong);
    plans(&story, &["fetch `vm/images/a-1-x64.tar.gz`: the cached file has other bytes than the manifest promises"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_replaces_one_container_and_names_the_field() {
    let mut story = Story::running(&["a", "b"]).await;
    story.set_env("a", "MODE", "two");
    plans(&story, &["replace container `demo-a`: container.env.MODE changed"]).await;
    story.agent("a").container.restart = RestartPolicy::Always;
    story.agent("a").container.ports.push(port(8001));
    plans(&story, &["replace container `demo-a`: container.env.MODE, container.ports, container.restart changed"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_version_is_brought_before_anything_is_replaced() {
    let mut story = Story::running(&["a"]).await;
    publish(&mut story.fake.state(), &[("a", "2")]);
    // Nobody wants anything of it yet, and the one that is there still offers what is wanted.
    plans(&story, &[]).await;
    story.agent("a").version = Version::Latest;
    plans(
        &story,
        &[
            "fetch `vm/images/a-2-x64.tar.gz`: not in the cache",
            "later syncManifest `vm/manifest.json`: the published manifest changed, once `vm/images/a-2-x64.tar.gz` is fetched",
            "later loadImage `r.example/a:2`: the image is not there, once `vm/images/a-2-x64.tar.gz` is fetched",
            "later replaceContainer `demo-a`: image changed, once image `r.example/a:2` is there",
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_version_survives_the_publisher_moving_on() {
    let mut story = Story::running(&["a", "b"]).await;
    publish(&mut story.fake.state(), &[("a", "2"), ("b", "2")]);
    plans(&story, &[]).await;
    story.agent("b").version = Version::Latest;
    let report = story.converge().await;
    assert!(report.converged, "{:?}", report.troubles);
    // Now neither manifest offers it; the index, and then the container's label, still know it.
    plans(&story, &[]).await;
    story.fake.state().files.get_mut(&key_of("a", "1")).unwrap().proved = false;
    plans(&story, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn rotten_bytes_are_not_believed_because_nobody_offers_better_ones() {
    let story = Story::running(&["a"]).await;
    publish(&mut story.fake.state(), &[("a", "2")]);
    {
        let mut state = story.fake.state();
        state.local = None;
        let file = state.files.get_mut(&key_of("a", "1")).unwrap();
        (file.digest, file.proved) = (digest("rot"), false);
    }
    plans(&story, &["fetch `vm/images/a-1-x64.tar.gz`: the cached file has other bytes than the manifest promises"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_that_does_not_match_is_refused() {
    let mut story = Story::new(&["a"]);
    story.agent("a").pins.insert(Arch::X64, digest("else"));
    let plan = story.plan().await;
    assert_eq!(plan.len(), 2, "{plan:?}");
    assert!(plan[0].starts_with("later fetchArtifact `a`") && plan[0].contains("the state file pins"), "{plan:?}");
    assert!(plan[1].starts_with("later createContainer `demo-a`"), "{plan:?}");
}

#[tokio::test(start_paused = true)]
async fn offline_the_last_good_manifest_serves() {
    let mut story = Story::running(&["a"]).await;
    story.agent("a").version = Version::Latest;
    story.fake.state().published = None;
    let gone = "manifest fetch failed: https://cdn.example/vm/manifest.json (404 Not Found)";
    plans(&story, &[&format!("note: going on with the last good manifest: {gone}")]).await;
    let story = Story::new(&["a"]);
    story.fake.state().published = None;
    plans(
        &story,
        &[
            &format!("later fetchArtifact `a`: not in the cache, once a manifest offers it: {gone}"),
            &format!("later createContainer `demo-a`: it does not exist, once a manifest offers it: {gone}"),
        ],
    )
    .await;
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

#[tokio::test(start_paused = true)]
async fn a_label_of_a_newer_build_is_waited_on_and_an_unreadable_one_replaced() {
    let story = Story::running(&["a"]).await;
    let label = |name: &str, value: &str| {
        story.fake.state().named_mut("demo-a").unwrap().labels.insert(name.into(), value.into());
    };
    label("steadfast.spec", "rubbish");
    plans(&story, &["replace container `demo-a`: its spec label cannot be read"]).await;
    label("steadfast.spec-version", "9");
    plans(
        &story,
        &[
            "later replaceContainer `demo-a`: its spec label cannot be read, unknown until it can be seen: a newer steadfast made it (spec version 9, this build knows 1)",
        ],
    )
    .await;
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
    plans(&story, &["replace container `demo-a`: it is taken over from its owner"]).await;
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
async fn a_local_image_is_waited_for_and_a_registry_one_pulled() {
    let mut story = Story::new(&["a", "b"]);
    story.agent("a").source = ImageSource::Local;
    story.agent("b").source = ImageSource::Registry;
    plans(
        &story,
        &[
            "pull image `r.example/b:1`: the image is not there",
            "later createContainer `demo-a`: it does not exist, once somebody brings image `r.example/a:1` (source: local)",
            "later createContainer `demo-b`: it does not exist, once image `r.example/b:1` is there",
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_seen_is_said() {
    let mut story = Story::running(&["a"]).await;
    story.fake.order(steadfast::backend::fake::Fault::lasting("look"));
    let blind = "unknown until it can be seen: ordered failure of look ";
    plans(&story, &[&format!("later observeContainer `demo-a`: it cannot be seen, {blind}")]).await;
    // With no agent left it is still not known that nothing is there.
    story.desired.agents.clear();
    assert_ne!(story.plan().await, Vec::<String>::new());
    assert!(!story.down().await.converged);
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

#[tokio::test(start_paused = true)]
async fn a_tag_that_came_to_mean_another_image_replaces_the_container() {
    let mut story = Story::new(&["a"]);
    story.agent("a").source = ImageSource::Local;
    story.fake.state().images.insert(reference_of("a", "1"), image_of("a", "1"));
    let story = story.settled().await;
    story.fake.state().images.insert(reference_of("a", "1"), image_of("a", "rebuilt"));
    plans(&story, &["replace container `demo-a`: image.id changed"]).await;
}

#[tokio::test(start_paused = true)]
async fn superseded_artifacts_go_unless_the_manifest_cannot_be_seen() {
    let mut story = Story::running(&["a"]).await;
    story.desired.cache.keep = 0;
    story.agent("a").version = Version::Latest;
    for version in ["2", "3"] {
        publish(&mut story.fake.state(), &[("a", version)]);
        story.options.policy.prune = false;
        assert!(story.converge().await.converged);
    }
    story.options.policy.prune = true;
    let mut plan = story.plan().await;
    plan.sort();
    let wanted = [
        "artifact `vm/images/a-1-x64.tar.gz`",
        "artifact `vm/images/a-2-x64.tar.gz`",
        "image `r.example/a:1`",
        "image `r.example/a:2`",
    ];
    assert_eq!(plan, wanted.map(|what| format!("prune {what}: newer versions are in use")));
    // What is to be fetched may lie in the newest of them in large part: that one stays for so long, whatever is kept.
    let newer = story.fake.fork();
    publish(&mut newer.state(), &[("a", "4")]);
    newer.state().files.retain(|key, _| !key.as_str().contains("a-3-"));
    let newer = Story {
        desired: story.desired.clone(),
        fake: newer,
        options: story.options.clone(),
        cancel: story.cancel.clone(),
    };
    let pruned: Vec<_> = newer.plan().await.into_iter().filter(|line| line.starts_with("prune artifact")).collect();
    assert_eq!(pruned, ["prune artifact `vm/images/a-1-x64.tar.gz`: newer versions are in use"]);
    // What somebody else named, or made a container from, is theirs.
    let kept = story.fake.fork();
    kept.state().images.insert(ImageRef::new("r.example/mine:1").unwrap(), image_of("a", "1"));
    kept.state().put(FakeContainer { image: image_of("a", "2"), ..foreign("theirs") });
    let beside = Story {
        desired: story.desired.clone(),
        fake: kept,
        options: story.options.clone(),
        cancel: story.cancel.clone(),
    };
    let mut plan = beside.plan().await;
    plan.sort();
    assert_eq!(
        plan,
        wanted[..2].iter().map(|what| format!("prune {what}: newer versions are in use")).collect::<Vec<_>>()
    );
    // And what was there before us.
    story.fake.state().loaded.remove(&image_of("a", "2"));
    assert!(!story.plan().await.iter().any(|line| line.contains("image `r.example/a:2`")));
    story.fake.state().published = None;
    let plan = story.plan().await;
    assert!(plan.len() == 1 && plan[0].starts_with("note: going on with the last good manifest"), "{plan:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_replaced_yet_is_kept_alive() {
    let mut story = Story::running(&["a"]).await;
    story.fake.state().kill("demo-a");
    story.agent("a").version = Version::Exact("9".into());
    let plan = story.plan().await;
    assert!(plan.iter().any(|line| line.starts_with("start container `demo-a`")), "{plan:?}");
    assert!(plan.iter().any(|line| line.starts_with("later replaceContainer `demo-a`")), "{plan:?}");
}

/// `demo-a` is a successor that has proved nothing yet, beside its predecessor `demo-a.prev`.
async fn unproved(checked: bool) -> Story {
    let mut story = Story::new(&["a"]);
    story.agent("a").container.healthcheck = checked.then(health_check);
    let mut story = story.settled().await;
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
    let mut story = unproved(false).await;
    let before = story.id("demo-a.prev");
    plans(&story, &["start container `demo-a`: an interrupted replacement has not proved it yet"]).await;
    story.set_env("a", "MODE", "three");
    plans(
        &story,
        &[
            "remove container `demo-a`: an interrupted replacement has not proved it yet",
            "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a` is removed, or releases its name or port",
        ],
    )
    .await;
    story.set_env("a", "CRASH", "7");
    let report = story.converge().await;
    assert!(troubles(&report)[0].contains("rolled back"), "{:?}", troubles(&report));
    assert_eq!(story.names(), ["demo-a"]);
    assert_eq!((story.id("demo-a"), story.phase("demo-a")), (before, Phase::Running));
}

#[tokio::test(start_paused = true)]
async fn an_unproved_successor_serves_until_the_next_ones_image_is_there() {
    let mut story = unproved(false).await;
    story.agent("a").version = Version::Exact("2".into());
    publish(&mut story.fake.state(), &[("a", "2")]);
    let plan = story.plan().await;
    assert!(!plan.iter().any(|line| line.starts_with("remove")), "{plan:?}");
    assert!(plan.iter().any(|line| line.starts_with("later replaceContainer `demo-a`: image changed")), "{plan:?}");
    story.fake.state().kill("demo-a");
    let plan = story.plan().await;
    assert!(plan.iter().any(|line| line.starts_with("start container `demo-a`")), "{plan:?}");
    let report = story.converge().await;
    assert!(report.converged, "{:?}", troubles(&report));
    assert_eq!(story.names(), ["demo-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_healthy_successor_has_proved_itself() {
    let mut story = unproved(true).await;
    story.fake.state().named_mut("demo-a").unwrap().checks = (0, true);
    story.set_env("a", "MODE", "three");
    plans(
        &story,
        &[
            "remove container `demo-a.prev`: an interrupted replacement left it",
            "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a.prev` is removed, or releases its name or port",
        ],
    )
    .await;
}
