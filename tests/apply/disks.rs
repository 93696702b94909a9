//! A full disk, and a disk that may not be written to: said plainly, nothing that runs is touched, and what can go on does.

use crate::world::World;

#[test]
fn a_full_disk_is_said_and_the_old_one_runs_on() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "latest")]);
    world.applied();
    let ids = world.ids();
    let mut noise = vec![0; 12 << 20];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    let big = world.tarball("a", "2.0").file("noise", noise).build();
    world.publish_bytes(vec![("a", "2.0", big)]);
    let root = world.sandbox.root().display().to_string();
    // Its own root, of 4 MiB: too small from the start.
    let script = format!(
        "mkdir -p kept; cp -a {root}/. kept; mount -t tmpfs -o size=4m,mode=0700 tmpfs {root}; cp -a kept/state {root}; \
         code=0; $STEADFAST apply || code=$?; echo \"code $code\"; ls -R {root}/cache"
    );
    let Some(outcome) = world.sandbox.mounting(&script) else { return };
    assert!(outcome.stdout.contains("code 1"), "{outcome:?}");
    assert!(
        outcome.stderr.contains("not enough space in ") && outcome.stderr.contains("cache gc"),
        "{}",
        outcome.stderr
    );
    assert_eq!((world.ids(), world.runs("a")), (ids.clone(), true));

    // Full to the last byte: not even the lock's holder can be written. What is there is still converged.
    let script = format!(
        "mount -t tmpfs -o size=4m,mode=0700 tmpfs {root}; cp -a kept/state {root}; mkdir -p {root}/cache; \
         dd if=/dev/zero of={root}/fill bs=1k 2>/dev/null || true; \
         code=0; $STEADFAST apply || code=$?; echo \"code $code\"; $STEADFAST doctor || true"
    );
    let outcome = world.sandbox.mounting(&script).expect("as before");
    assert!(outcome.stdout.contains("code 1"), "{outcome:?}");
    assert!(outcome.stdout.contains("FAIL root directory  no space is left in"), "{outcome:?}");
    assert!(!outcome.stdout.contains("everything is well"), "{outcome:?}");
    // Full from the start: what would help is room.
    let script = format!(
        "mount -t tmpfs -o size=4m,mode=0700 tmpfs {root}; dd if=/dev/zero of={root}/fill bs=1k 2>/dev/null || true; \
         $STEADFAST apply || true; $STEADFAST doctor || true"
    );
    let outcome = world.sandbox.mounting(&script).expect("as before");
    assert!(
        outcome.stderr.contains("hint: there is no space left") && !outcome.stderr.contains("must be writable"),
        "{outcome:?}"
    );
    assert!(
        outcome.stdout.contains("cache gc") && !outcome.stdout.contains("`steadfast apply` does it"),
        "{outcome:?}"
    );
    assert_eq!((world.ids(), world.runs("a")), (ids, true));
    // With room again, it goes on.
    world.applied();
    assert_eq!(world.run("exec a -- cat /version").expect(0).stdout, format!("{} a 2.0", world.owner));
}

#[test]
fn a_read_only_root_still_plans_and_says_what_it_cannot_write() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "latest")]);
    world.applied();
    let ids = world.ids();
    let root = world.sandbox.root().display().to_string();
    let script = format!(
        "mount --bind {root} {root}; mount -o remount,bind,ro {root}; \
         for verb in plan status doctor 'cache list' 'cache verify' apply; do \
           code=0; $STEADFAST $verb >out 2>err || code=$?; echo \"$verb: code $code\"; [ $code = 0 ] || cat err; done"
    );
    let Some(outcome) = world.sandbox.mounting(&script) else { return };
    for verb in ["plan", "status", "cache list", "cache verify"] {
        assert!(outcome.stdout.contains(&format!("{verb}: code 0\n")), "{verb}: {}", outcome.stdout);
    }
    assert!(outcome.stdout.contains("apply: code 1\n"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("Read-only file system") && outcome.stdout.contains("must be writable"),
        "{}",
        outcome.stdout
    );
    assert_eq!((world.ids(), world.runs("a")), (ids, true));
}

#[test]
fn a_read_only_cache_alone_keeps_what_runs() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "latest")]);
    world.applied();
    let ids = world.ids();
    let root = world.sandbox.root().display().to_string();
    let old = std::fs::read(world.sandbox.path("published/vm/manifest.json")).unwrap();
    world.publish(&[("a", "2.0")]);
    let manifest = world.sandbox.path("published/vm/manifest.json");
    std::fs::rename(&manifest, world.sandbox.path("new.json")).unwrap();
    std::fs::write(&manifest, old).unwrap();
    let applied = "code=0; $STEADFAST apply >out 2>err || code=$?; echo \"code $code\"; cat err";
    let script = format!(
        "mount --bind {root}/cache {root}/cache; mount -o remount,bind,ro {root}/cache; {applied}; \
         cp new.json published/vm/manifest.json; {applied}"
    );
    let Some(outcome) = world.sandbox.mounting(&script) else { return };
    assert!(outcome.stdout.starts_with("code 0\n"), "nothing to do needs no writing: {}", outcome.stdout);
    assert!(
        outcome.stdout.contains("code 1\n") && outcome.stdout.contains("Read-only file system"),
        "{}",
        outcome.stdout
    );
    assert_eq!((world.ids(), world.runs("a")), (ids, true));
}
