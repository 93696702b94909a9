//! `source: manifest`: fetch, verify, load; versions come and go; tarballs that are not what they seem.

use serde_json::json;

use crate::lossy::Lossy;
use crate::support::archive::{Compression, docker_archive};
use crate::world::{World, kinds};

fn version_of(world: &World, agent: &str) -> String {
    world.run(format!("exec {agent} -- cat /version")).expect(0).stdout
}

#[test]
fn fetched_verified_loaded_and_started() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(kinds(&plan), ["fetchArtifact"]);
    assert_eq!(plan["summary"]["fetch"], 1);
    assert!(plan["summary"]["fetchBytes"].as_u64().unwrap() > 100_000, "{plan}");
    let waits: Vec<_> =
        plan["waiting"].as_array().unwrap().iter().map(|wait| (wait["kind"].clone(), wait["on"].clone())).collect();
    assert!(waits.contains(&(json!("createContainer"), json!("image"))), "{waits:?}");
    assert!(waits.contains(&(json!("syncManifest"), json!("artifact"))), "{waits:?}");
    let took = world.apply_kinds();
    for kind in ["fetchArtifact", "loadImage", "createContainer", "syncManifest"] {
        assert_eq!(took.iter().filter(|taken| *taken == kind).count(), 1, "{took:?}");
    }
    assert_eq!(version_of(&world, "a"), format!("{} a 1.0", world.owner));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    let kept = std::fs::read_to_string(world.sandbox.root().join("cache/vm/manifest.json")).unwrap();
    assert!(kept.starts_with("{\n  \"schemaVersion\": 2,") && kept.ends_with("}\n"), "{kept}");
}

#[test]
fn an_image_is_loaded_in_one_step_though_the_answer_was_lost() {
    let mut world = World::bare();
    let lossy = Lossy::start(&mut world);
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    lossy.lose(&["POST", "/images/load"], 0);
    let report = world.applied();
    assert!(lossy.is_lost());
    let taken: Vec<_> =
        report["actions"].as_array().unwrap().iter().map(|taken| (&taken["kind"], &taken["result"])).collect();
    let loads: Vec<_> = taken.iter().filter(|(kind, _)| *kind == "loadImage").collect();
    assert_eq!(loads, [&(&json!("loadImage"), &json!("done"))], "{report}");
    assert_eq!(version_of(&world, "a"), format!("{} a 1.0", world.owner));
    // What came that way is known to be ours, and goes when two later ones have come.
    let mut said = String::new();
    for version in ["2.0", "3.0"] {
        world.publish(&[("a", version)]);
        world.state(&[&world.published("a", "latest")]);
        said = world.run("apply").expect(0).stderr;
    }
    assert!(said.contains(&format!("pruned image `localhost/{}/a:1.0`", world.owner)), "{said}");
}

/// The plan of a new version and a new secret in one: every field that scripts may rely on.
#[test]
fn a_plan_has_the_shape_that_is_promised() {
    let world = World::bare();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let agent =
        |version: &str, token: &str| format!("a: {{version: \"{version}\", container: {{env: {{TOKEN: {token}}}}}}}");
    world.publish(&[("a", "1.0")]);
    world.state(&[&agent("1.0", "canary-one")]);
    world.applied();
    let manifest = world.publish(&[("a", "2.0")]);
    world.state(&[&agent("2.0", "canary-two")]);
    let outcome = world.run("plan -o json").expect(0).keeps_quiet_about(&["canary"]);
    let plan = outcome.json();
    let tarball = &manifest["agents"]["a"]["tarballs"][arch];
    let bytes = &tarball["sizeBytes"];
    assert_eq!((&plan["name"], &plan["converged"]), (&json!(world.owner), &json!(false)));
    assert_eq!(
        plan["summary"],
        json!({"create": 0, "replace": 1, "rename": 0, "start": 0, "stop": 0, "remove": 0, "fetch": 1, "fetchBytes": bytes, "unknown": 0, "blocked": 0})
    );
    let fetch = json!({"kind": "fetchArtifact", "agent": "a", "target": tarball["key"], "reason": "not in the cache", "bytes": bytes});
    assert_eq!(plan["actions"], json!([fetch]));
    let waiting = plan["waiting"].as_array().unwrap();
    let replace = waiting.iter().find(|waiting| waiting["kind"] == "replaceContainer").expect("a replacement");
    assert_eq!((&replace["agent"], &replace["target"]), (&json!("a"), &json!(world.name("a"))));
    assert_eq!(replace["on"], "image");
    let changes = replace["changes"].as_array().unwrap();
    let token = changes.iter().find(|change| change["field"] == "container.env.TOKEN").expect("the secret");
    let hidden = |value: &serde_json::Value| value.as_str().unwrap().starts_with("(sensitive) #");
    assert!(hidden(&token["from"]) && hidden(&token["to"]) && token["from"] != token["to"], "{token}");
    assert!(changes.iter().any(|change| change["field"] == "image"), "{changes:?}");
    assert_eq!(plan["interrupts"], json!(["a"]));
    // The same in YAML, and in a comment for a pull request.
    world.run("plan -o yaml").expect(0).keeps_quiet_about(&["canary"]);
    let markdown = world.run("plan -o markdown").expect(0).keeps_quiet_about(&["canary"]).stdout;
    assert!(markdown.contains("container.env.TOKEN") && markdown.contains("Interrupts: a"), "{markdown}");
}

#[test]
fn a_new_version_is_followed_by_latest_and_not_by_a_pin() {
    let world = World::bare();
    world.publish(&[("a", "1.0"), ("b", "1.0")]);
    world.state(&[&world.published("a", "latest"), &world.published("b", "1.0")]);
    world.applied();
    let ids = world.ids();
    world.publish(&[("a", "2.0"), ("b", "2.0")]);
    let plan = world.run("plan").expect(0).stdout;
    assert!(plan.contains(":1.0") && plan.contains(":2.0"), "the plan names both: {plan}");
    let took = world.apply_kinds();
    assert_eq!(took.iter().filter(|kind| *kind == "replaceContainer").count(), 1, "{took:?}");
    let now = world.ids();
    assert_ne!(now[&world.name("a")], ids[&world.name("a")]);
    assert_eq!(now[&world.name("b")], ids[&world.name("b")], "pinned: it stays");
    assert_eq!(version_of(&world, "a"), format!("{} a 2.0", world.owner));
    assert_eq!(version_of(&world, "b"), format!("{} b 1.0", world.owner));
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "the publisher moved on; the pinned one survives it");

    // Also when its container and its image are gone, as long as its tarball is there.
    world.remove("b");
    world.applied();
    assert_eq!(version_of(&world, "b"), format!("{} b 1.0", world.owner));
    // And by hand to the new version.
    world.state(&[&world.published("a", "latest"), &world.published("b", "2.0")]);
    world.applied();
    assert_eq!(version_of(&world, "b"), format!("{} b 2.0", world.owner));
}

#[test]
fn offline_is_normal_once_everything_is_there() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "latest")]);
    world.applied();
    let ids = world.ids();
    std::fs::remove_dir_all(world.sandbox.path("published")).unwrap();
    let outcome = world.run("apply -o json").expect(0);
    assert_eq!(outcome.json()["actions"], json!([]));
    assert_eq!(world.ids(), ids);
    outcome.says("manifest");
    world.run("plan --detailed-exitcode").expect(0);
    world.run("status").expect(0);
    world.remove("a");
    assert_eq!(world.apply_kinds(), ["createContainer"], "and what broke meanwhile is repaired");
    world.run("cache sync").expect(1).says("manifest fetch failed");
}

#[test]
fn the_same_version_published_anew_is_a_change() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    world.applied();
    let id = world.ids();
    let anew = world.tarball("a", "1.0").file("anew", "yes").build();
    world.publish_bytes(vec![("a", "1.0", anew)]);
    world.applied();
    assert_ne!(world.ids(), id);
    assert_eq!(world.run("exec a -- cat /anew").expect(0).stdout, "yes");
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

#[test]
fn a_tarball_whose_digest_matches_and_whose_inside_is_broken() {
    let whole = World::bare().tarball("x", "1").build();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    for (what, bytes) in [
        ("cut off", whole[..whole.len() / 2].to_vec()),
        ("a flipped bit", flipped),
        ("no tarball", b"not a tarball at all".to_vec()),
        ("nothing", Vec::new()),
    ] {
        let world = World::new();
        let good = world.tarball("good", "1").build();
        world.publish_bytes(vec![("bad", "1", bytes), ("good", "1", good)]);
        world.state(&[&world.published("bad", "1"), &world.published("good", "1")]);
        let outcome = world.run("apply -o json");
        assert_eq!(outcome.code, 1, "{what}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("agent `bad`: "), "{what}: {}", outcome.stderr);
        assert!(world.runs("good"), "{what}: the other agent is not held up");
        assert_eq!(world.ids().len(), 1, "{what}");
    }
}

#[test]
fn a_broken_new_version_leaves_the_old_one_running() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "latest")]);
    world.applied();
    let ids = world.ids();
    let broken = world.tarball("a", "2.0").build();
    world.publish_bytes(vec![("a", "2.0", broken[..broken.len() / 2].to_vec())]);
    world.run("apply").expect(1);
    assert_eq!((world.ids(), world.runs("a")), (ids.clone(), true));
    // Other bytes than promised.
    world.publish(&[("a", "3.0")]);
    world.sandbox.write("published/vm/images/a-3.0-x64.tar.gz", b"other bytes");
    world.sandbox.write("published/vm/images/a-3.0-arm64.tar.gz", b"other bytes");
    world.run("apply").expect(6);
    assert_eq!((world.ids(), world.runs("a")), (ids, true));
}

#[test]
fn a_tarball_with_another_tag_is_refused_and_one_without_is_named() {
    let world = World::bare();
    let other = docker_archive()
        .tag(format!("localhost/{}/somebody-else:9", world.owner))
        .file("x", world.owner.clone())
        .compress(Compression::Gzip);
    let nameless = docker_archive().file("version", format!("{} nameless", world.owner)).compress(Compression::Zstd);
    world.publish_bytes(vec![("other", "1", other.build()), ("nameless", "1", nameless.build())]);
    world.state(&[&world.published("other", "1"), &world.published("nameless", "1")]);
    let refused = world.run("apply").expect(1);
    refused.says(&format!("holds `localhost/{}/somebody-else:9`, not `localhost/{0}/other:1`", world.owner));
    assert_eq!(version_of(&world, "nameless"), format!("{} nameless", world.owner));
    let image = world.inspect("nameless")["ImageName"].clone();
    assert_eq!(image, json!(format!("localhost/{}/nameless:1", world.owner)));
    let ids = world.ids();
    world.run("apply").expect(1);
    assert_eq!(world.ids(), ids);
}

#[test]
fn an_image_that_went_away_is_loaded_again_from_the_cache() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    world.applied();
    world.run("down").expect(0);
    let id = world.tarball("a", "1.0").id();
    let (status, _) = crate::world::api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
    assert_eq!(status, 200);
    std::fs::remove_dir_all(world.sandbox.path("published/vm/images")).unwrap();
    let took = world.apply_kinds();
    assert!(took.contains(&"loadImage".to_owned()) && !took.contains(&"fetchArtifact".to_owned()), "{took:?}");
    assert!(world.runs("a"));
}

/// The cache is shared, and its index may be lost: what runs is kept whoever asks, and however little is known.
#[test]
fn gc_keeps_what_containers_of_any_state_file_run_from() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    world.applied();
    let cache = world.sandbox.root().join("cache");
    let images = || std::fs::read_dir(cache.join("vm/images")).unwrap().count();
    let collect = || {
        for derived in ["index.json", "vm/manifest.json"] {
            let _ = std::fs::remove_file(cache.join(derived));
        }
        let _ = std::fs::remove_dir_all(cache.join("manifests"));
        world.run("cache gc --keep 0 -o json").expect(0).json()["kept"].clone()
    };
    let ours = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    std::fs::remove_file(world.sandbox.path("steadfast.yaml")).unwrap();
    assert_eq!((collect(), images()), (json!(1), 1), "without a state file");
    let other = "apiVersion: steadfast/v1\nname: other\nruntime: {podman: {}}\nagents: {}\n";
    world.sandbox.write("steadfast.yaml", other);
    assert_eq!((collect(), images()), (json!(1), 1), "with another state file");
    world.sandbox.write("steadfast.yaml", ours);
    world.run("down").expect(0);
    world.sandbox.write("steadfast.yaml", other);
    assert_eq!((collect(), images()), (json!(0), 0), "nothing runs from it any more");
}
