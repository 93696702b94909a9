//! What agents are made of, lost: images and the files of the cache come back without an agent being touched.

use std::path::PathBuf;

use crate::keeper::{Keeper, podman};
use crate::world::{World, sha256, until};

fn published() -> World {
    let world = World::new();
    world.publish(&[("p", "1.0")]);
    world.state(&[&world.published("p", "1.0"), &world.agent("a", "")]);
    world
}

fn reference(world: &World) -> String {
    format!("localhost/{}/p:1.0", world.owner)
}

fn has_image(world: &World) -> bool {
    crate::world::api("GET", &format!("/v4.0.0/libpod/images/{}/exists", reference(world)), b"").0 == 204
}

fn tarball(world: &World) -> PathBuf {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    world.sandbox.root().join(format!("cache/vm/images/p-1.0-{arch}.tar.gz"))
}

#[test]
fn an_image_that_lost_its_name_or_is_gone_is_loaded_again() {
    let world = published();
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    let (repository, tag) = (format!("localhost/{}/p", world.owner), "1.0");
    podman("POST", &format!("/images/{}/untag?repo={repository}&tag={tag}", reference(&world)));
    until("it has its name again", || has_image(&world));
    keeper.looked();
    assert_eq!(world.ids(), ids, "nobody was replaced for it");
    assert!(keeper.run.stderr().contains(&reference(&world)), "{}", keeper.run.stderr());

    // Removed by force, its container goes with it.
    podman("DELETE", &format!("/images/{}?force=true", reference(&world)));
    until("it is there and runs again", || has_image(&world) && world.runs("p"));
    keeper.looked();
    keeper.converged();
    let now = world.ids();
    assert_eq!(now[&world.name("a")], ids[&world.name("a")]);
    assert_ne!(now[&world.name("p")], ids[&world.name("p")]);
    assert_eq!(world.run("exec p -- cat /version").expect(0).stdout, format!("{} p 1.0", world.owner));
}

#[test]
fn a_file_of_the_cache_that_is_deleted_or_cut_short_is_fetched_again() {
    let world = published();
    let mut keeper = Keeper::start(&world, "--resync 1s");
    let ids = world.ids();
    let whole = sha256(&std::fs::read(tarball(&world)).unwrap());
    let is_whole = || std::fs::read(tarball(&world)).is_ok_and(|bytes| sha256(&bytes) == whole);
    assert!(is_whole());
    std::fs::remove_file(tarball(&world)).unwrap();
    until("it is there again", is_whole);
    let file = std::fs::File::options().write(true).open(tarball(&world)).unwrap();
    file.set_len(1000).unwrap();
    drop(file);
    until("it is whole again", is_whole);
    // Not even the manifest beside it is needed to go on.
    std::fs::remove_file(world.sandbox.root().join("cache/vm/manifest.json")).unwrap();
    until("it is there again", || world.sandbox.root().join("cache/vm/manifest.json").exists());
    keeper.converged();
    assert_eq!(world.ids(), ids, "no agent was touched: {}", keeper.run.stderr());
    assert_eq!(keeper.times_said("✓ fetched "), 3, "{}", keeper.run.stderr());
}
