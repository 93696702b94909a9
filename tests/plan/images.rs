//! Which image an agent runs, and whose its name is.

use steadfast::model::*;

use crate::scene::*;

const CONFLICT: &str =
    "the tag `r.example/a:1` points to a different image (theirs) than the manifest's, and somebody else set it";

#[test]
fn an_image_that_lost_its_name_gets_it_back_and_one_that_is_gone_is_loaded() {
    let untagged = |guest: &mut Guest| {
        guest.images.clear();
        guest.image_store.values_mut().for_each(|image| image.tags.clear());
    };
    let scene = steady(&["a"]).podman(untagged);
    scene.plans(&["tag image `r.example/a:1`: the image has lost its tag"]);
    let other = ImageRef::new("r.example/other:1").unwrap();
    let scene = scene.named(other, image_of("a", "1"));
    scene.plans(&["tag image `r.example/a:1`: the image has lost its tag"]);
    let scene = scene.podman(|guest| {
        guest.images.clear();
        guest.image_store.clear();
    });
    scene.plans(&["load image `r.example/a:1`: the image is not there"]);
}

#[test]
fn an_image_of_which_nobody_knows_what_it_holds_is_loaded_again() {
    let forgotten = |observed: &mut Observed| match &mut observed.artifacts {
        Seen::Present(files) => files.values_mut().for_each(|file| file.image = None),
        _ => unreachable!(),
    };
    // The container that was made from it tells.
    steady(&["a"]).seeing(forgotten).plans(&[]);
    steady(&["a"]).gone("demo-a").seeing(forgotten).plans(&[
        "load image `r.example/a:1`: it is not known yet which image the tarball holds",
        "later createContainer `demo-a`: it does not exist, once image `r.example/a:1` is there",
    ]);
}

#[test]
fn a_tag_that_points_to_a_different_image_is_left_to_whoever_moved_it() {
    let scene = steady(&["a"]).named(reference_of("a", "1"), "theirs".into());
    scene.plans(&[]);
    // Nothing of ours was made under it: what the file names would not be what runs.
    let scene = scene.gone("demo-a");
    scene.plans(&[&format!("later createContainer `demo-a`: it does not exist, {CONFLICT}")]);
    scene.clone().allowing(|policy| policy.adopt = true).plans(&[
        "tag image `r.example/a:1`: it is adopted from its owner",
        "later createContainer `demo-a`: it does not exist, once image `r.example/a:1` is there",
    ]);
    // Another state file gave it: it keeps the name, and ours is used by its id.
    let scene = scene.seeing(|observed| _ = observed.others.insert("theirs".into()));
    scene.plans(&["create container `demo-a`: it does not exist"]);
}

#[test]
fn a_tag_of_ours_moves_on_to_what_is_published_anew() {
    let anew = manifest_of(&[("a", "1", digest("anew"))]);
    let scene = steady(&["a"]).seeing(|observed| observed.published = Seen::Present(anew));
    scene.plans(&[
        "fetch `vm/images/a-1-x64.tar.gz`: the cached file has other bytes than the manifest promises",
        "later syncManifest `vm/manifest.json`: the published manifest changed, once `vm/images/a-1-x64.tar.gz` is fetched",
        "later loadImage `r.example/a:1`: it is not known yet which image the tarball holds, once `vm/images/a-1-x64.tar.gz` is fetched",
        "later replaceContainer `demo-a`: artifact.sha256 changed, once image `r.example/a:1` is there",
    ]);
}

#[test]
fn a_local_image_is_waited_for_and_a_registry_one_pulled() {
    let from = |source| move |agent: &mut Agent| agent.source = source;
    let scene = nothing(&["a", "b"]).wants("a", from(ImageSource::Local)).wants("b", from(ImageSource::Registry));
    scene.plans(&[
        "pull image `r.example/b:1`: the image is not there",
        "later createContainer `demo-a`: it does not exist, once somebody loads image `r.example/a:1` (source: local)",
        "later createContainer `demo-b`: it does not exist, once image `r.example/b:1` is there",
    ]);
    scene
        .named(reference_of("a", "1"), "any".into())
        .named(reference_of("b", "1"), "one".into())
        .plans(&["create container `demo-a`: it does not exist", "create container `demo-b`: it does not exist"]);
}

#[test]
fn a_local_tag_that_came_to_mean_another_image_replaces_the_container() {
    let local = |agent: &mut Agent| agent.source = ImageSource::Local;
    let scene = nothing(&["a"]).wants("a", local).named(reference_of("a", "1"), image_of("a", "1"));
    let one = scene.made("a");
    let scene = scene.with("demo-a", one);
    scene.plans(&[]);
    scene.named(reference_of("a", "1"), "rebuilt".into()).plans(&["replace container `demo-a`: image.id changed"]);
}

#[test]
fn two_agents_of_one_image_have_it_brought_once() {
    let shared = |agent: &mut Agent| {
        (agent.image, agent.source) = (Some("r.example/shared".into()), ImageSource::Registry);
    };
    nothing(&["a", "b"]).wants("a", shared).wants("b", shared).plans(&[
        "pull image `r.example/shared:1`: the image is not there",
        "later createContainer `demo-a`: it does not exist, once image `r.example/shared:1` is there",
        "later createContainer `demo-b`: it does not exist, once image `r.example/shared:1` is there",
    ]);
}
