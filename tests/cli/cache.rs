//! `cache list`, `verify` and `gc`: their JSON, and what they find.

use serde_json::json;

use crate::published::{KEY, TARBALL, good, in_directory, sandbox, sha256};
use crate::support::command::Sandbox;

fn synced() -> Sandbox {
    let sandbox = sandbox();
    in_directory(&sandbox, &good(), &[(KEY, TARBALL)]);
    sandbox.run("cache sync --manifest-url published/vm/manifest.json").expect(0);
    sandbox
}

#[test]
fn an_empty_cache_is_no_error() {
    let sandbox = sandbox();
    assert_eq!(sandbox.run("cache list").expect(0).stdout, "the cache is empty\n");
    assert_eq!(sandbox.run("cache list -o json").expect(0).json()["artifacts"], json!([]));
    assert_eq!(sandbox.run("cache verify -o json").expect(0).json()["ok"], json!(true));
    assert_eq!(sandbox.run("cache gc -o json").expect(0).json()["removed"], json!([]));
}

#[test]
fn the_list_knows_size_and_digest() {
    let sandbox = synced();
    let list = sandbox.run("cache list -o json").expect(0).json();
    let artifact = &list["artifacts"][0];
    assert_eq!(artifact["key"], KEY);
    assert_eq!(artifact["bytes"], TARBALL.len());
    assert_eq!(artifact["sha256"], sha256(TARBALL));
    assert_eq!(artifact["imageId"], json!(null));
    assert!(list["manifestPath"].as_str().unwrap().ends_with("/cache/vm/manifest.json"));
    insta::assert_snapshot!("cache_list", sandbox.run("cache list").shown());

    // Derived: without it everything is found again, by hashing.
    std::fs::remove_file(sandbox.root().join("cache/index.json")).unwrap();
    insta::assert_snapshot!("cache_list_without_index", sandbox.run("cache list").shown());
    assert_eq!(
        sandbox.run("cache sync --manifest-url published/vm/manifest.json -o json").expect(0).json()["skipped"],
        true
    );
    let list = sandbox.run("cache list -o json").expect(0).json();
    assert_eq!(list["artifacts"][0]["sha256"], sha256(TARBALL));
}

#[test]
fn verify_finds_what_was_changed_and_sync_repairs_it() {
    let sandbox = synced();
    let file = sandbox.root().join("cache").join(KEY);
    assert_eq!(
        sandbox.run("cache verify -o json").expect(0).json(),
        json!({"ok": true, "hasManifest": true, "artifacts": [
            {"key": KEY, "bytes": TARBALL.len(), "sha256": sha256(TARBALL), "verdict": "good", "expected": null}]})
    );
    std::fs::write(&file, b"openclaw-TARBALL").unwrap();
    let bad = sandbox.run("cache verify -o json").expect(6).json();
    assert_eq!(bad["ok"], false);
    assert_eq!(bad["artifacts"][0]["verdict"], "bad");
    assert_eq!(bad["artifacts"][0]["expected"], sha256(TARBALL));
    insta::assert_snapshot!("cache_verify_bad", sandbox.run("cache verify --deep").shown());
    let mended = sandbox.run("cache sync --manifest-url published/vm/manifest.json -o json").expect(0).json();
    assert_eq!(mended["downloaded"], json!([KEY]));
    assert_eq!(std::fs::read(&file).unwrap(), TARBALL);
    sandbox.run("cache verify --deep").expect(0);
}

#[test]
fn gc_keeps_what_is_wanted_and_shows_before_it_does() {
    let sandbox = synced();
    let images = sandbox.root().join("cache/vm/images");
    for version in ["2026.1.1", "2026.2.1", "2026.3.1"] {
        std::fs::write(images.join(format!("openclaw-{version}-x64.tar.gz")), version).unwrap();
    }
    let dry = sandbox.run("cache gc --dry-run -o json").expect(0).json();
    assert_eq!(dry["dryRun"], true);
    assert_eq!(dry["removed"].as_array().unwrap().len(), 2, "{dry}");
    assert_eq!(
        std::fs::read_dir(&images)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "gz"))
            .count(),
        4
    );
    let done = sandbox.run("cache gc -o json").expect(0).json();
    assert_eq!(done["dryRun"], false);
    let mut removed: Vec<_> =
        done["removed"].as_array().unwrap().iter().map(|garbage| garbage["key"].as_str().unwrap().to_owned()).collect();
    removed.sort();
    assert_eq!(removed, ["vm/images/openclaw-2026.1.1-x64.tar.gz", "vm/images/openclaw-2026.2.1-x64.tar.gz"]);
    assert_eq!(done["freedBytes"], 16);
    assert!(images.join("openclaw-2026.3.1-x64.tar.gz").exists(), "one older version is kept");
    assert_eq!(std::fs::read(sandbox.root().join("cache").join(KEY)).unwrap(), TARBALL);
    let none = sandbox.run("cache gc --keep 0 -o json").expect(0).json();
    assert_eq!(none["removed"].as_array().unwrap().len(), 1, "{none}");
    sandbox.run("cache sync --manifest-url published/vm/manifest.json -o json").expect(0);
}

/// The cache is shared by all state files of a root, whether or not one is at hand.
#[test]
fn gc_asks_podman_where_any_state_file_was_applied() {
    let mut sandbox = synced();
    let old = sandbox.root().join("cache/vm/images/openclaw-2026.1.1-x64.tar.gz");
    std::fs::write(&old, "old").unwrap();
    std::fs::create_dir_all(sandbox.root().join("state/demo")).unwrap();
    std::fs::write(sandbox.root().join("state/key"), "").unwrap();
    sandbox.set("CONTAINER_HOST", "unix:///nowhere/p.sock");
    let refused = sandbox.run("cache gc --keep 0").expect(1).says("/nowhere/p.sock");
    refused.says("what runs for `demo`, so nothing was removed");
    assert!(old.exists());
    std::fs::remove_dir(sandbox.root().join("state/demo")).unwrap();
    sandbox.run("cache gc --keep 0").expect(0);
    assert!(!old.exists(), "there is nobody to ask for");
}

/// What cannot be seen is not taken to be unused.
#[test]
fn gc_with_a_state_file_needs_podman() {
    let sandbox = synced();
    sandbox.write(
        "steadfast.yaml",
        "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere/p.sock}}\nagents: {openclaw: {version: latest}}\n",
    );
    sandbox.run("cache gc").expect(1).says("/nowhere/p.sock");
    assert!(sandbox.root().join("cache").join(KEY).exists());
}

/// An index from the future, or garbage in it, costs a re-hash and nothing else.
#[test]
fn a_wrong_index_is_not_believed() {
    for text in ["", "garbage", "[]", "{\"schemaVersion\": 99, \"later\": true}", "null"] {
        let sandbox = synced();
        std::fs::write(sandbox.root().join("cache/index.json"), text).unwrap();
        let again = sandbox.run("cache sync --manifest-url published/vm/manifest.json -o json").expect(0).json();
        assert_eq!(again["skipped"], true, "{text}");
        assert_eq!(sandbox.run("cache list -o json").expect(0).json()["artifacts"][0]["sha256"], sha256(TARBALL));
    }
    // Files from the future are as good as any.
    let sandbox = synced();
    let file = std::fs::File::options().write(true).open(sandbox.root().join("cache").join(KEY)).unwrap();
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(10 * 365 * 24 * 3600);
    file.set_modified(future).unwrap();
    let again = sandbox.run("cache sync --manifest-url published/vm/manifest.json -o json").expect(0).json();
    assert_eq!(again["skipped"], true);
    sandbox.run("cache verify").expect(0);
}

#[test]
fn a_read_only_cache_says_so_and_keeps_working_for_readers() {
    if rustix::process::getuid().is_root() {
        // Root writes where it likes; the same is tested with a read-only mount in the suite with a real Podman.
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let sandbox = synced();
    let images = sandbox.root().join("cache/vm/images");
    std::fs::remove_file(sandbox.root().join("cache").join(KEY)).unwrap();
    std::fs::set_permissions(&images, std::fs::Permissions::from_mode(0o500)).unwrap();
    sandbox.run("cache sync --manifest-url published/vm/manifest.json").expect(1).says("Permission denied");
    sandbox.run("cache list").expect(0);
    std::fs::set_permissions(&images, std::fs::Permissions::from_mode(0o700)).unwrap();
}
