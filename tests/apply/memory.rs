//! What steadfast writes down is never the truth: losing it, or filling it with lies, changes nothing.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::world::World;

fn handles(world: &World) -> PathBuf {
    world.state_dir().join("handles.json")
}

fn converged() -> World {
    let world = World::new();
    world.publish(&[("p", "1")]);
    let secret = world.agent("a", "env: {API_TOKEN: one, X: \"${env:FROM_ENV:-two}\"}");
    world.state(&[&secret, &world.published("p", "1")]);
    world.applied();
    world
}

/// Whatever happened, there is nothing to do, and every container is the one it was.
#[track_caller]
fn assert_nothing_to_do(world: &World, what: &str, containers: &std::collections::BTreeMap<String, String>) {
    let plan = world.run("plan --detailed-exitcode -o json");
    assert_eq!(plan.code, 0, "{what}: {} {}", plan.stdout, plan.stderr);
    let report = world.run("apply -o json").expect(0).json();
    let changed: Vec<_> =
        report["actions"].as_array().unwrap().iter().filter(|step| step["kind"] != "syncManifest").collect();
    assert!(changed.is_empty(), "{what}: {changed:?}");
    assert_eq!(&world.ids(), containers, "{what}");
    world.run("status -o json").expect(0);
}

#[test]
fn handles_that_are_lost_garbage_or_dead_change_nothing() {
    let world = converged();
    let ids = world.ids();
    let real: serde_json::Value = serde_json::from_slice(&std::fs::read(handles(&world)).unwrap()).unwrap();
    assert!(real["containers"][world.name("a")]["id"].is_string(), "{real}");
    std::fs::remove_file(handles(&world)).unwrap();
    assert_nothing_to_do(&world, "deleted", &ids);
    for garbage in ["", "garbage", "[]", "{\"schemaVersion\": 99}", "\u{0}\u{0}\u{0}"] {
        std::fs::write(handles(&world), garbage).unwrap();
        assert_nothing_to_do(&world, garbage, &ids);
    }
    let mut dead = real.clone();
    dead["containers"][world.name("a")]["id"] = json!("0".repeat(64));
    dead["containers"][world.name("a")]["pid"] = json!(1);
    dead["containers"]["ghost"] = json!({"id": "f".repeat(64), "agent": "ghost", "state": "running", "pid": 1});
    dead["engine"]["socket"] = json!("/nowhere/p.sock");
    std::fs::write(handles(&world), dead.to_string()).unwrap();
    assert_nothing_to_do(&world, "dead things", &ids);
    let rebuilt: serde_json::Value = serde_json::from_slice(&std::fs::read(handles(&world)).unwrap()).unwrap();
    assert_eq!(rebuilt["containers"], real["containers"], "rebuilt from what is there");
    std::fs::remove_file(handles(&world)).unwrap();
    std::fs::create_dir(handles(&world)).unwrap();
    assert_nothing_to_do(&world, "a directory in its place", &ids);
}

#[test]
fn a_lost_key_recreates_nothing_and_a_change_is_still_seen() {
    let world = converged();
    let ids = world.ids();
    let key = world.sandbox.root().join("state/key");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(&key).unwrap();
    assert_nothing_to_do(&world, "deleted", &ids);
    for garbage in ["", "garbage", "zz"] {
        std::fs::write(&key, garbage).unwrap();
        assert_nothing_to_do(&world, garbage, &ids);
    }
    std::fs::write(&key, "1".repeat(64) + "\n").unwrap();
    assert_nothing_to_do(&world, "another host's", &ids);
    // With the key lost, a secret that changed is seen all the same.
    world.state(&[
        &world.agent("a", "env: {API_TOKEN: other, X: \"${env:FROM_ENV:-two}\"}"),
        &world.published("p", "1"),
    ]);
    let plan = world.run("plan -o json").expect(0);
    let step = &plan.json()["actions"][0];
    assert_eq!(
        (&step["kind"], &step["changes"][0]["field"]),
        (&json!("replaceContainer"), &json!("container.env.API_TOKEN")),
        "{step}"
    );
    plan.keeps_quiet_about(&["other"]);
}

#[test]
fn a_lost_root_recreates_nothing() {
    let world = converged();
    let ids = world.ids();
    std::fs::remove_dir_all(world.sandbox.root()).unwrap();
    let report = world.run("apply -o json").expect(0).json();
    let kinds = crate::world::kinds(&report);
    assert!(
        kinds.iter().all(|kind| kind == "fetchArtifact" || kind == "syncManifest" || kind == "loadImage"),
        "{kinds:?}"
    );
    assert_eq!(world.ids(), ids);
    assert_nothing_to_do(&world, "afterwards", &ids);
}

#[test]
fn a_lost_or_lying_index_recreates_nothing() {
    let world = converged();
    let ids = world.ids();
    let index = world.sandbox.root().join("cache/index.json");
    let real = std::fs::read_to_string(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    let report = world.run("apply -o json").expect(0).json();
    let kinds = crate::world::kinds(&report);
    assert!(kinds.iter().all(|kind| kind == "syncManifest" || kind == "loadImage"), "{kinds:?}");
    assert_eq!(world.ids(), ids, "deleting the index recreates nothing");
    for garbage in ["", "garbage", "[]", "{\"schemaVersion\": 99}"] {
        std::fs::write(&index, garbage).unwrap();
        world.run("apply -o json").expect(0);
        assert_eq!(world.ids(), ids, "{garbage}");
    }
    std::fs::write(&index, real).unwrap();
    assert_nothing_to_do(&world, "the old one", &ids);
    let manifest = world.sandbox.root().join("cache/vm/manifest.json");
    std::fs::write(&manifest, "garbage").unwrap();
    world.run("apply -o json").expect(0);
    assert_eq!(world.ids(), ids);
    assert!(std::fs::read_to_string(&manifest).unwrap().starts_with("{\n"), "written anew");
}

/// The clock jumped: files are from the future, or from long ago.
#[test]
fn times_that_jumped_change_nothing() {
    let world = converged();
    let ids = world.ids();
    let year = Duration::from_secs(365 * 24 * 3600);
    for time in [SystemTime::now() + 10 * year, SystemTime::UNIX_EPOCH + Duration::from_secs(1)] {
        for path in crate::world::files_below(&world.sandbox.root()) {
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        world.run("apply -o json").expect(0);
        assert_eq!(world.ids(), ids);
    }
    let index = world.sandbox.root().join("cache/index.json");
    let mut jumped: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    jump(&mut jumped);
    std::fs::write(&index, jumped.to_string()).unwrap();
    world.run("apply -o json").expect(0);
    assert_eq!(world.ids(), ids);
    world.run("cache verify --deep").expect(0);
}

/// Every time in it becomes one of the year 2100.
fn jump(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if name.contains("time") && field.is_number() {
                    *field = json!(4_102_444_800_u64);
                }
                jump(field);
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(jump),
        _ => {}
    }
}

#[test]
fn the_journal_says_what_was_done_and_garbage_in_it_is_no_matter() {
    let world = converged();
    let journal = world.state_dir().join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line.to_string().contains("createContainer")), "{text}");
    let ids = world.ids();
    std::fs::write(&journal, "half a li").unwrap();
    assert_nothing_to_do(&world, "garbage", &ids);
    world.kill("a");
    world.applied();
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.starts_with("half a li") && text.contains("startContainer"), "append-only: {text}");
}
