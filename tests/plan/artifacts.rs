//! Which tarballs are fetched, and when the manifest is written.

use steadfast::model::*;

use crate::scene::*;

const FETCH_A: &str = "fetch `vm/images/a-1-x64.tar.gz`: not in the cache";

#[test]
fn an_empty_machine_fetches_first_and_all_else_waits() {
    nothing(&["a"]).plans(&[
        FETCH_A,
        "later syncManifest `vm/manifest.json`: the cache has no manifest, once `vm/images/a-1-x64.tar.gz` is fetched",
        "later loadImage `r.example/a:1`: the image is not there, once `vm/images/a-1-x64.tar.gz` is fetched",
        "later createContainer `demo-a`: it does not exist, once image `r.example/a:1` is there",
    ]);
    nothing(&["a"]).cached("a", "1").plans(&[
        "write manifest `vm/manifest.json`: the cache has no manifest",
        "load image `r.example/a:1`: the image is not there",
        "later createContainer `demo-a`: it does not exist, once image `r.example/a:1` is there",
    ]);
    nothing(&["a"]).cached("a", "1").image("a", "1").plans(&[
        "write manifest `vm/manifest.json`: the cache has no manifest",
        "create container `demo-a`: it does not exist",
    ]);
    steady(&["a", "b"]).plans(&[]);
    nothing(&[]).plans(&[]);
}

#[test]
fn a_lost_or_wrong_artifact_is_fetched_while_the_container_runs_on() {
    let lost = |observed: &mut Observed| observed.artifacts = Seen::Present(Default::default());
    steady(&["a"]).seeing(lost).plans(&[FETCH_A]);
    // An empty cache is a cache.
    steady(&["a"]).seeing(|observed| observed.artifacts = Seen::Absent).plans(&[FETCH_A]);
    let rotten = |observed: &mut Observed| match &mut observed.artifacts {
        Seen::Present(files) => files.get_mut(&key_of("a", "1")).unwrap().digest = Some(digest("rot")),
        _ => unreachable!(),
    };
    let wrong = "fetch `vm/images/a-1-x64.tar.gz`: the cached file has other bytes than the manifest promises";
    steady(&["a"]).seeing(rotten).plans(&[wrong]);
    // The container's label is believed before bytes that nobody vouches for.
    let scene = steady(&["a"]).published(&[("a", "2")]).seeing(|observed| observed.local = Seen::Absent);
    scene.seeing(rotten).plans(&[wrong]);
}

#[test]
fn a_new_version_is_brought_before_anything_is_replaced() {
    let scene = steady(&["a"]).published(&[("a", "2")]);
    scene.plans(&[]);
    let scene = scene.wants("a", |agent| agent.version = Version::Latest);
    scene.plans(&[
        "fetch `vm/images/a-2-x64.tar.gz`: not in the cache",
        "later syncManifest `vm/manifest.json`: the published manifest changed, once `vm/images/a-2-x64.tar.gz` is fetched",
        "later loadImage `r.example/a:2`: the image is not there, once `vm/images/a-2-x64.tar.gz` is fetched",
        "later replaceContainer `demo-a`: image changed, once image `r.example/a:2` is there",
    ]);
    // It dies meanwhile: it is what serves until then.
    let plan = lines(&scene.phase("demo-a", Phase::Exited { code: 137 }).plan());
    assert!(plan.contains(&"start container `demo-a`: it exited with code 137".to_owned()), "{plan:#?}");
}

#[test]
fn what_only_travels_in_part_is_fetched_for_that_price() {
    let scene = nothing(&["a"]).seeing(|observed| _ = observed.transfers.insert(key_of("a", "1"), 3));
    assert_eq!(scene.plan().summary().transfer_bytes, Some(3));
    assert_eq!(nothing(&["a"]).plan().summary().transfer_bytes, None);
}

#[test]
fn a_pinned_version_survives_the_publisher_moving_on() {
    let scene = steady(&["a", "b"]).published(&[("a", "2"), ("b", "2")]);
    scene.plans(&[]);
    // Neither manifest offers it: the cache's index, the state file's pin and the container's label still know it.
    let scene = scene.seeing(|observed| observed.local = observed.published.clone());
    scene.plans(&[]);
    let unproved = |observed: &mut Observed| match &mut observed.artifacts {
        Seen::Present(files) => files.values_mut().for_each(|file| file.digest = None),
        _ => unreachable!(),
    };
    let again = "the cached file has other bytes than the manifest promises";
    let fetches = ["a", "b"].map(|agent| format!("fetch `vm/images/{agent}-1-x64.tar.gz`: {again}"));
    scene.seeing(unproved).plans(&fetches.each_ref().map(String::as_str));
}

#[test]
fn a_pin_that_does_not_match_is_a_wait_for_another_manifest() {
    let pinned = |agent: &mut Agent| _ = agent.pins.insert(Arch::X64, digest("else"));
    let why = format!(
        "once a manifest offers it: the manifest's x64 tarball of `a` has sha256 {}, the state file pins {}",
        tarball_of("a", "1"),
        digest("else")
    );
    nothing(&["a"]).wants("a", pinned).plans(&[
        &format!("later fetchArtifact `a`: not in the cache, {why}"),
        &format!("later createContainer `demo-a`: it does not exist, {why}"),
    ]);
}

#[test]
fn an_architecture_that_is_only_kept_is_a_note() {
    let both = |agent: &mut Agent| agent.arches = vec![Arch::X64, Arch::Arm64];
    let plan = lines(&steady(&["a"]).wants("a", both).plan());
    assert_eq!(plan.len(), 1);
    assert!(plan[0].starts_with("note: agent `a`: ") && plan[0].contains("arm64"), "{plan:?}");
}

#[test]
fn offline_the_last_good_manifest_serves() {
    let offline = |observed: &mut Observed| observed.published = unknown();
    let latest = |agent: &mut Agent| agent.version = Version::Latest;
    steady(&["a"])
        .wants("a", latest)
        .seeing(offline)
        .plans(&["note: going on with the last good manifest: the look failed"]);
    nothing(&["a"]).seeing(offline).plans(&[
        "later fetchArtifact `a`: not in the cache, once a manifest offers it: the look failed",
        "later createContainer `demo-a`: it does not exist, once a manifest offers it: the look failed",
    ]);
}

#[test]
fn a_cache_that_cannot_be_seen_is_neither_filled_nor_cleared() {
    steady(&["a"])
        .seeing(|observed| observed.artifacts = unknown())
        .plans(&["later fetchArtifact `a`: not in the cache, unknown until it can be observed: the look failed"]);
    // A last good manifest that cannot be read is not written over either.
    nothing(&["a"])
        .cached("a", "1")
        .image("a", "1")
        .seeing(|observed| observed.local = unknown())
        .plans(&["create container `demo-a`: it does not exist"]);
}

#[test]
fn the_manifest_waits_for_all_that_it_brings_and_for_nothing_else() {
    let wait =
        "later syncManifest `vm/manifest.json`: the cache has no manifest, once `vm/images/b-1-x64.tar.gz` is fetched";
    let scene = nothing(&["a", "b"]).cached("a", "1");
    assert!(lines(&scene.plan()).contains(&wait.to_owned()));
    let written = "write manifest `vm/manifest.json`: the cache has no manifest".to_owned();
    // One that wants another version, or is gone, holds up nobody.
    for how in [
        |agent: &mut Agent| agent.version = Version::Exact("7".into()),
        |agent: &mut Agent| agent.state = AgentState::Absent,
    ] {
        assert!(lines(&scene.clone().wants("b", how).plan()).contains(&written));
    }
    // One that is left alone this time does: what it needs may be offered by the old one alone.
    let only = scene.allowing(|policy| _ = policy.only.insert(agent_name("a")));
    assert!(!lines(&only.plan()).iter().any(|line| line.contains("manifest")));
}

/// `a`, and `b` that runs from the artifact of `a`.
fn sharing(from: Scene) -> Scene {
    from.file(|desired| {
        let b = Agent { image: None, artifact: Some(agent_name("a")), ..agent("b") };
        desired.agents.insert(agent_name("b"), b);
    })
}

#[test]
fn one_artifact_is_fetched_and_loaded_once_for_all_its_agents() {
    sharing(nothing(&["a"])).plans(&[
        FETCH_A,
        "later syncManifest `vm/manifest.json`: the cache has no manifest, once `vm/images/a-1-x64.tar.gz` is fetched",
        "later loadImage `r.example/a:1`: the image is not there, once `vm/images/a-1-x64.tar.gz` is fetched",
        "later createContainer `demo-a`: it does not exist, once image `r.example/a:1` is there",
        "later createContainer `demo-b`: it does not exist, once image `r.example/a:1` is there",
    ]);
    sharing(steady(&["a"])).plans(&["create container `demo-b`: it does not exist"]);
    let newer = sharing(steady(&["a"])).published(&[("a", "2")]);
    let newer = newer.wants("b", |agent| agent.version = Version::Latest);
    let plan = lines(&newer.plan());
    assert!(plan.contains(&"fetch `vm/images/a-2-x64.tar.gz`: not in the cache".to_owned()), "{plan:#?}");
    assert!(plan.iter().any(|line| line.starts_with("later loadImage `r.example/a:2`")), "{plan:#?}");
}

#[test]
fn what_a_manifest_lacks_is_named_as_it_would_be_there() {
    let scene = sharing(steady(&["a"])).wants("b", |agent| agent.artifact = Some(agent_name("c")));
    let why = "once a manifest offers it: the manifest has no agent `c`; it offers `a`";
    let plan = lines(&scene.plan());
    assert_eq!(plan[0], format!("later fetchArtifact `b`: not in the cache, {why}"), "{plan:#?}");
    let pin = |agent: &mut Agent| _ = agent.pins.insert(Arch::X64, digest("else"));
    let plan = lines(&sharing(steady(&["a"])).wants("b", pin).plan());
    assert!(plan[0].contains("the manifest's x64 tarball of `a` has sha256"), "{plan:#?}");
}

#[test]
fn the_container_of_another_artifact_tells_nothing_of_this_one() {
    let unproved = |observed: &mut Observed| match &mut observed.artifacts {
        Seen::Present(files) => files.get_mut(&key_of("c", "1")).unwrap().digest = None,
        _ => unreachable!(),
    };
    // It runs from its own, at the same version; what it is to run from now is no longer offered.
    let scene = steady(&["a", "b"]).cached("c", "1").seeing(unproved);
    let scene = scene.wants("b", |agent| agent.artifact = Some(agent_name("c")));
    let plan = lines(&scene.plan());
    let why = "once a manifest offers it: the manifest has no agent `c`; it offers `a`, `b`";
    assert_eq!(plan[0], format!("later fetchArtifact `b`: not in the cache, {why}"), "{plan:#?}");
}
