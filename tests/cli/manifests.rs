//! Manifests that lie, and what each of them gets: the sentence, the exit code, and nothing in the cache.

use serde_json::{Value, json};

use crate::published::{KEY, TARBALL, agent, good, in_directory, manifest, sandbox, served, sha256};
use crate::server::{Reply, Server};
use crate::support::command::{Outcome, Sandbox};

/// Syncs from a directory with this manifest and one good tarball.
fn sync(sandbox: &Sandbox, manifest: &Value) -> Outcome {
    in_directory(sandbox, manifest, &[(KEY, TARBALL)]);
    sandbox.run("cache sync --manifest-url published/vm/manifest.json")
}

fn is_empty(sandbox: &Sandbox) -> bool {
    let images = sandbox.root().join("cache/vm/images");
    let kept = std::fs::read_dir(images).map_or(0, |entries| {
        entries
            .filter(|entry| entry.as_ref().is_ok_and(|entry| !entry.file_name().to_string_lossy().starts_with('.')))
            .count()
    });
    kept == 0 && !sandbox.root().join("cache/vm/manifest.json").exists()
}

/// One manifest for each way of lying. The snapshots are what a user reads.
#[test]
fn each_kind_of_bad_manifest() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut manifest = good();
        change(&mut manifest["agents"]["openclaw"]["tarballs"]["x64"]);
        manifest
    };
    let long = format!("vm/images/{}.tar.gz", "x".repeat(5000));
    let cases: [(&str, i32, Value); 17] = [
        ("manifest_not_an_object", 65, json!([1, 2])),
        ("manifest_without_schema_version", 65, json!({"agents": {}})),
        ("manifest_of_schema_version_3", 65, json!({"schemaVersion": 3, "updatedAt": "x", "agents": {}})),
        ("manifest_schema_version_as_text", 65, json!({"schemaVersion": "2", "updatedAt": "x", "agents": {}})),
        ("manifest_without_agents", 65, json!({"schemaVersion": 2, "updatedAt": "x"})),
        ("manifest_key_absolute", 65, with(&|tarball| tarball["key"] = json!("/etc/passwd"))),
        ("manifest_key_with_dots", 65, with(&|tarball| tarball["key"] = json!("vm/images/../../../evil"))),
        ("manifest_key_outside_vm", 65, with(&|tarball| tarball["key"] = json!("index.json"))),
        ("manifest_key_backslash", 65, with(&|tarball| tarball["key"] = json!("vm\\..\\evil"))),
        ("manifest_key_with_nul", 65, with(&|tarball| tarball["key"] = json!("vm/images/a\u{0}b"))),
        ("manifest_key_over_the_manifest", 65, with(&|tarball| tarball["key"] = json!("vm/manifest.json"))),
        ("manifest_key_too_long", 65, with(&|tarball| tarball["key"] = json!(long))),
        ("manifest_digest_not_hex", 65, with(&|tarball| tarball["sha256"] = json!("z".repeat(64)))),
        ("manifest_digest_short", 65, with(&|tarball| tarball["sha256"] = json!("abc"))),
        ("manifest_size_negative", 65, with(&|tarball| tarball["sizeBytes"] = json!(-1))),
        ("manifest_size_too_large_by_one", 6, with(&|tarball| tarball["sizeBytes"] = json!(TARBALL.len() + 1))),
        ("manifest_size_too_small_by_one", 6, with(&|tarball| tarball["sizeBytes"] = json!(TARBALL.len() - 1))),
    ];
    for (name, code, manifest) in cases {
        let sandbox = sandbox();
        let outcome = sync(&sandbox, &manifest);
        assert_eq!(outcome.code, code, "{name}: {}", outcome.stderr);
        assert!(is_empty(&sandbox), "{name} left something");
        assert!(!sandbox.root().join("cache/vm/evil").exists() && !sandbox.root().join("evil").exists());
        insta::assert_snapshot!(name, outcome.shown());
    }
}

#[test]
fn what_is_not_json_is_no_manifest() {
    for (name, text) in [
        ("manifest_html", "<!doctype html><title>404</title>".to_owned()),
        ("manifest_empty", String::new()),
        ("manifest_cut_off", good().to_string()[..80].to_owned()),
        ("manifest_deep", "[".repeat(100_000)),
    ] {
        let sandbox = sandbox();
        sandbox.write("published/vm/manifest.json", text);
        let outcome = sandbox.run("cache sync --manifest-url published/vm/manifest.json").expect(65);
        insta::assert_snapshot!(name, outcome.shown());
        assert!(is_empty(&sandbox));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_not_read() {
    let sandbox = sandbox();
    let body = vec![b' '; 100 << 20];
    let server = Server::start(move |_| Reply::new(200, body.clone()).length(None)).await;
    let url = format!("{}/vm/manifest.json", server.url);
    let outcome = sandbox.run(format!("cache sync --manifest-url {url}")).expect(65);
    outcome.says("manifest is larger than 4 MiB");
    assert!(server.sent() < 40 << 20, "{} bytes were sent", server.sent());

    let file = std::fs::File::create(sandbox.path("huge.json")).unwrap();
    file.set_len(100 << 20).unwrap();
    sandbox.run("cache sync --manifest-url huge.json").expect(65).says("manifest is larger than 4 MiB");
}

#[test]
fn an_agent_or_an_architecture_that_is_not_offered() {
    let sandbox = sandbox();
    let mut published = good();
    published["agents"]["openclaw"]["tarballs"].as_object_mut().unwrap().remove("x64");
    let path = in_directory(&sandbox, &published, &[(KEY, TARBALL)]);
    let state = |agent: &str| {
        format!(
            "apiVersion: steadfast/v1\nname: demo\nmanifest: {{url: {}}}\nruntime: {{podman: {{}}}}\nagents: {{{agent}: {{version: latest}}}}\n",
            path.display()
        )
    };
    sandbox.write("agent.yaml", state("hermes"));
    insta::assert_snapshot!("a_wanted_agent_is_missing", sandbox.run("cache sync -f agent.yaml").expect(65).shown());
    sandbox.write("arch.yaml", state("openclaw"));
    insta::assert_snapshot!("a_wanted_arch_is_missing", sandbox.run("cache sync -f arch.yaml").expect(65).shown());
    insta::assert_snapshot!(
        "no_arch_at_all",
        sandbox.run(format!("cache sync --manifest-url {}", path.display())).expect(65).shown()
    );
    assert!(is_empty(&sandbox));
}

#[test]
fn nothing_is_written_through_a_symbolic_link() {
    let sandbox = sandbox();
    let outside = sandbox.path("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let vm = sandbox.root().join("cache/vm");
    std::fs::create_dir_all(&vm).unwrap();
    std::os::unix::fs::symlink(&outside, vm.join("images")).unwrap();
    let outcome = sync(&sandbox, &good()).expect(1);
    insta::assert_snapshot!("a_key_through_a_link", outcome.shown());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing arrived outside");

    // The file itself being a link: what it points to stays as it is.
    let sandbox = crate::published::sandbox();
    let precious = sandbox.write("precious", "mine");
    let images = sandbox.root().join("cache/vm/images");
    std::fs::create_dir_all(&images).unwrap();
    std::os::unix::fs::symlink(&precious, images.join("openclaw-2026.4.12-x64.tar.gz")).unwrap();
    sync(&sandbox, &good());
    assert_eq!(std::fs::read(&precious).unwrap(), b"mine");
}

#[test]
fn other_bytes_than_promised_exit_with_6() {
    let sandbox = sandbox();
    in_directory(&sandbox, &good(), &[(KEY, b"openclaw-TARBALL")]);
    let outcome = sandbox.run("cache sync --manifest-url published/vm/manifest.json").expect(6);
    let expected = format!("expected {}, got {}", sha256(TARBALL), sha256(b"openclaw-TARBALL"));
    assert!(
        outcome.stderr.contains("sha256 mismatch for ") && outcome.stderr.contains(&expected),
        "{}",
        outcome.stderr
    );
    assert!(is_empty(&sandbox));
    insta::assert_snapshot!("other_bytes", outcome.shown());
}

/// A broken artifact beside good ones: the good ones arrive, and the manifest is not written.
#[test]
fn one_bad_artifact_does_not_keep_the_others_out() {
    let sandbox = sandbox();
    let all = manifest(json!({
        "openclaw": agent("openclaw", "2026.4.12", TARBALL),
        "hermes": agent("hermes", "1.0", b"hermes"),
    }));
    in_directory(&sandbox, &all, &[(KEY, TARBALL), ("vm/images/hermes-1.0-x64.tar.gz", b"HERMES")]);
    sandbox.run("cache sync --manifest-url published/vm/manifest.json").expect(6);
    assert!(sandbox.root().join("cache").join(KEY).exists());
    assert!(!sandbox.root().join("cache/vm/manifest.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_and_apply_refuse_a_bad_manifest_with_65_too() {
    let server = served(&json!({"schemaVersion": 3, "updatedAt": "x", "agents": {}}), |_| Reply::new(404, "")).await;
    let sandbox = sandbox();
    let socket = crate::sockets::Fake::start(crate::sockets::Manner::Podman);
    let text = format!(
        "apiVersion: steadfast/v1\nname: demo\nmanifest: {{url: \"{}/vm/manifest.json\"}}\nruntime: {{podman: {{socket: {}}}}}\n\
         agents: {{openclaw: {{version: latest}}}}\n",
        server.url,
        socket.path().display()
    );
    sandbox.write("steadfast.yaml", text);
    for verb in ["plan", "apply"] {
        sandbox.run(verb).expect(65).says("schemaVersion 3");
    }
}
