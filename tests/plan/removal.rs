//! What goes: orphans, all of a state file, what is superseded; and the file without agents, which removes nothing.

use steadfast::model::*;
use steadfast::plan::{Note, Policy};

use crate::scene::*;

const ORPHAN: &str = "remove container `demo-b`: its agent is not in the state file any more";

#[test]
fn an_orphan_goes_where_pruning_is_allowed() {
    let scene = steady(&["a", "b"]).without("b");
    scene.plans(&[ORPHAN]);
    scene
        .clone()
        .allowing(|policy| policy.prune = false)
        .plans(&["note: container `demo-b` belongs to no agent of the state file and is kept (--no-prune)"]);
    scene.clone().allowing(|policy| _ = policy.only.insert(agent_name("a"))).plans(&[]);
    // Of whichever agent, also where its label does not say of which.
    let nobodys = Owner::Ours { agent: None, spec: None, version: 0 };
    scene.container("demo-b", |one| one.owner = nobodys).plans(&[ORPHAN]);
    // Somebody else's is no orphan.
    steady(&["a"]).foreign("demo-b", Whose::Name("elses".into())).plans(&[]);
}

#[test]
fn a_file_without_agents_removes_nothing_unless_that_is_allowed() {
    let scene = steady(&["b"]).foreign("theirs", Whose::Somebody).without("b");
    scene.plans(&[
        &format!("refused {ORPHAN}"),
        "note: the state file has no agents: `apply` refuses to remove 1 container unless --allow-empty is given",
    ]);
    let plan = scene.plan();
    assert!(plan.ready.is_empty() && !plan.is_empty(), "it is neither done nor nothing");
    assert_eq!((plan.refused.as_ref().unwrap().count, plan.summary().remove), (1, 1));
    assert_eq!(plan.interrupts(scene.observed.guest.present()).len(), 1);
    scene.clone().allowing(|policy| policy.allow_empty = true).plans(&[ORPHAN]);
    scene
        .clone()
        .allowing(|policy| policy.prune = false)
        .plans(&["note: container `demo-b` belongs to no agent of the state file and is kept (--no-prune)"]);
    // Where there is nothing to remove, nothing is refused.
    scene.clone().gone("demo-b").seeing(|observed| observed.loaded.clear()).plans(&[]);
    // To take everything down is to mean it.
    scene.takes_down(false, &["remove container `demo-b`: the state file is taken down"]);
    // One agent that is left makes it a wish.
    let left = steady(&["a", "b"]).without("b").wants("a", |agent| agent.state = AgentState::Absent).plan();
    assert!(left.refused.is_none() && left.ready.len() >= 2);
}

#[test]
fn a_file_without_agents_still_has_a_machine() {
    let scene = steady(&["b"]).without("b").file(|desired| *desired = in_vm(desired.clone()));
    scene.seeing(|observed| observed.vm = Seen::Absent).plans(&[
        "create VM `agents`: there is no such VM",
        "later startVm `agents`: there is no such VM, once VM `agents` is made",
    ]);
}

#[test]
fn down_takes_what_is_ours_and_nothing_else() {
    let scene = steady(&["a", "b"]).without("b").foreign("beside", Whose::Somebody).phase("demo-a", Phase::Removing);
    scene.takes_down(
        false,
        &[
            "remove container `demo-b`: the state file is taken down",
            "later removeContainer `demo-a`: the state file is taken down, once Podman is done: it is being removed",
        ][..],
    );
    steady(&["a"]).seeing(|observed| observed.guest = Seen::Absent).takes_down(false, &[]);
    steady(&["a"]).seeing(|observed| observed.guest = unknown()).takes_down(
        false,
        &["later removeContainer `containers`: the state file is taken down, unknown until it can be observed: the look failed"],
    );
}

/// Versions 1 and 2 of `a` are cached and loaded beside version 3, which runs, and no older one is kept.
fn superseded() -> Scene {
    let scene = nothing(&["a"]).published(&[("a", "3")]).file(|desired| desired.cache.keep = 0);
    let scene = scene.wants("a", |agent| agent.version = Version::Exact("3".into()));
    let mut scene = scene.seeing(|observed| observed.local = observed.published.clone());
    for version in ["1", "2", "3"] {
        scene = scene.cached("a", version).image("a", version);
    }
    let one = scene.made("a");
    scene.with("demo-a", one)
}

fn prunes(what: &[&str]) -> Vec<String> {
    what.iter().map(|what| format!("prune {what}: newer versions are in use")).collect()
}

#[track_caller]
fn plans(scene: &Scene, wanted: &[&str]) {
    assert_eq!(lines(&scene.plan()), prunes(wanted));
}

const FILES: [&str; 2] = ["artifact `vm/images/a-2-x64.tar.gz`", "artifact `vm/images/a-1-x64.tar.gz`"];

#[test]
fn superseded_artifacts_go_with_the_images_that_were_loaded_from_them() {
    let plan = lines(&superseded().plan());
    assert_eq!(plan[..2], prunes(&FILES)[..]);
    let mut images = plan[2..].to_vec();
    images.sort();
    assert_eq!(images, prunes(&["image `r.example/a:1`", "image `r.example/a:2`"]));
    plans(&superseded().file(|desired| desired.cache.keep = 1), &[FILES[1], "image `r.example/a:1`"]);
    plans(&superseded().file(|desired| desired.cache.keep = 2), &[]);
    for how in [|policy: &mut Policy| policy.prune = false, |policy: &mut Policy| policy.prune_cache = false] {
        plans(&superseded().allowing(how), &[]);
    }
}

#[test]
fn what_somebody_needs_stays() {
    // Named by somebody else, used by somebody, there before us.
    let named = superseded().named(ImageRef::new("r.example/mine:1").unwrap(), image_of("a", "1"));
    let used = |guest: &mut Guest| guest.image_store.get_mut(&image_of("a", "2")).unwrap().containers = Some(1);
    plans(&named.podman(used), &FILES);
    let untold = |guest: &mut Guest| guest.image_store.values_mut().for_each(|image| image.containers = None);
    plans(&superseded().podman(untold), &FILES);
    plans(&superseded().seeing(|observed| observed.loaded.clear()), &FILES);
    // An unproved file may be what a container was made from, and an image's tarball.
    let unproved = |observed: &mut Observed| match &mut observed.artifacts {
        Seen::Present(files) => files.get_mut(&key_of("a", "1")).unwrap().digest = None,
        _ => unreachable!(),
    };
    plans(&superseded().seeing(unproved), &FILES[..1]);
    // What is to be fetched may lie in the newest older one in large part.
    let coming = superseded().published(&[("a", "4")]).wants("a", |agent| agent.version = Version::Latest);
    let pruned: Vec<_> = lines(&coming.plan()).into_iter().filter(|line| line.starts_with("prune artifact")).collect();
    assert_eq!(pruned, prunes(&FILES[1..]));
}

#[test]
fn versions_are_kept_by_what_the_manifest_calls_them() {
    let shared = |scene: Scene| {
        scene.file(|desired| {
            for name in ["b", "c"] {
                let mut one = desired.agents[&agent_name("a")].clone();
                one.artifact = Some(agent_name("a"));
                one.container.name = container_name(&format!("demo-{name}"));
                desired.agents.insert(agent_name(name), one);
            }
        })
    };
    let artifacts = |scene: Scene| -> Vec<_> {
        lines(&scene.plan()).into_iter().filter(|line| line.starts_with("prune artifact")).collect()
    };
    assert_eq!(artifacts(shared(superseded())), prunes(&FILES), "each once, however many agents run from it");
    // None of them is called so.
    assert_eq!(artifacts(shared(superseded()).without("a")), prunes(&FILES));
    assert_eq!(artifacts(shared(superseded()).file(|desired| desired.cache.keep = 1)), prunes(&FILES[1..]));
}

#[test]
fn nothing_is_superseded_that_cannot_be_reported() {
    for how in [
        |observed: &mut Observed| observed.published = unknown(),
        |observed: &mut Observed| observed.local = unknown(),
        |observed: &mut Observed| observed.artifacts = unknown(),
        |observed: &mut Observed| observed.guest = unknown(),
    ] {
        let plan = superseded().seeing(how).plan();
        assert!(!lines(&plan).iter().any(|line| line.starts_with("prune")), "{plan:?}");
    }
    let plan = superseded().seeing(|observed| observed.published = unknown()).plan();
    assert!(matches!(&plan.notes[..], [Note::Offline { .. }]) && plan.is_empty(), "{plan:?}");
}
