//! Two at once: one works, the other says who does.

use std::time::Duration;

use rustix::process::Signal;

use crate::world::World;

/// A world whose `apply` takes its time, for it waits for health.
fn slow() -> World {
    let world = World::new();
    let test = "healthcheck: {test: [CMD, cat, /tmp/ready], interval: 1s, retries: 100}";
    world.state(&[&world.agent("a", test)]);
    world
}

fn lock(world: &World) -> std::path::PathBuf {
    world.state_dir().join("lock")
}

#[test]
fn the_second_says_who_holds_the_lock_and_exits_with_5() {
    let world = slow();
    let mut first = world.spawn("apply");
    let path = lock(&world);
    first.until("the lock", |_| std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let refused = world.run("apply --lock-timeout 200ms").expect(5);
    refused.says(&format!("is held by `steadfast apply` (pid {}, since ", first.pid()));
    world.run("down --lock-timeout 0s").expect(5);
    // Those who only observe need no lock.
    world.run("plan").expect(0);
    world.run("status").expect(3);
    world.run("doctor");

    // One that waits long enough gets it.
    let mut patient = world.spawn("apply --lock-timeout 60s");
    patient.until("it says for whom it waits", |patient| patient.stderr().contains("waiting: the lock `"));
    first.until("the container", |_| world.runs("a"));
    world.run("exec a -- touch /tmp/ready").expect(0);
    first.end().expect(0);
    patient.end().expect(0);
    assert_eq!(world.ids().len(), 1);
}

#[test]
fn the_lock_ends_with_its_holder_however_that_one_ends() {
    let world = slow();
    let mut first = world.spawn("apply");
    let path = lock(&world);
    first.until("the lock", |_| std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    first.until("the container", |_| world.runs("a"));
    first.signal(Signal::KILL);
    assert_eq!(first.end().code, 1009);
    world.run("exec a -- touch /tmp/ready").expect(0);
    let next = world.run("apply --lock-timeout 0s").expect(0);
    assert!(next.took < Duration::from_secs(20), "{:?}", next.took);
}

#[test]
fn another_name_is_another_lock() {
    let world = slow();
    let mut first = world.spawn("apply");
    let path = lock(&world);
    first.until("the lock", |_| std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let text = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    let other = text
        .replace(&format!("name: {}\n", world.owner), &format!("name: {}-other\n", world.owner))
        .replace("a: {version", "b: {version");
    world.sandbox.write(
        "other.yaml",
        other.replace(", container: {healthcheck: {test: [CMD, cat, /tmp/ready], interval: 1s, retries: 100}}", ""),
    );
    world.run("apply -f other.yaml --lock-timeout 0s").expect(0);
    first.signal(Signal::INT);
    first.end().expect(130);
    world.run("down -f other.yaml").expect(0);
}

/// Many at once on the same file: each ends well, and the containers are made once.
#[test]
fn many_at_once_make_it_once() {
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    let running: Vec<_> = (0..4).map(|_| world.spawn("apply --lock-timeout 60s -o json")).collect();
    let made: usize = running.into_iter().map(|one| crate::world::kinds(&one.end().expect(0).json()).len()).sum();
    assert_eq!(made, 2);
    assert_eq!(world.ids().len(), 2);
}
