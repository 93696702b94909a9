//! `cache sync` where nothing goes wrong: from where, what, for which architecture, and its JSON to the letter.

use serde_json::json;

use crate::published::{KEY, TARBALL, agent, good, in_directory, manifest, sandbox, served, sha256};
use crate::server::{Reply, Server};
use crate::support::command::Sandbox;

fn cached(sandbox: &Sandbox, key: &str) -> Option<Vec<u8>> {
    std::fs::read(sandbox.root().join("cache").join(key)).ok()
}

fn both() -> [(&'static str, &'static [u8]); 2] {
    [(KEY, TARBALL), ("vm/images/openclaw-2026.4.12-arm64.tar.gz", TARBALL)]
}

#[test]
fn the_json_is_as_promised_and_the_second_time_is_skipped() {
    let sandbox = sandbox();
    let path = in_directory(&sandbox, &good(), &both());
    let manifest_path = sandbox.root().join("cache/vm/manifest.json").display().to_string();
    let args = format!("cache sync --manifest-url {} -o json", path.display());
    let first = sandbox.run(args.clone()).expect(0);
    assert_eq!(first.json(), json!({"downloaded": [KEY], "manifestPath": manifest_path, "skipped": false}));
    assert_eq!(first.stderr, "", "nothing else on a pipe");
    assert_eq!(cached(&sandbox, KEY).unwrap(), TARBALL);
    let written = cached(&sandbox, "vm/manifest.json").unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), format!("{:#}\n", good()), "two spaces, and a final newline");
    let again = sandbox.run(args).expect(0).json();
    assert_eq!(again, json!({"downloaded": [], "manifestPath": manifest_path, "skipped": true}));
    insta::assert_snapshot!(
        "sync_again_text",
        sandbox.run(format!("cache sync --manifest-url {}", path.display())).shown()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_url_a_file_url_and_a_path() {
    let publisher = sandbox();
    let path = in_directory(&publisher, &good(), &both());
    let server = served(&good(), |request| Reply::good(request, TARBALL, "\"t\"")).await;
    let relative = {
        let sandbox = sandbox();
        in_directory(&sandbox, &good(), &both());
        sandbox.run("cache sync --manifest-url published/vm/manifest.json -o json").expect(0)
    };
    assert_eq!(relative.json()["downloaded"], json!([KEY]));
    let http = format!("{}/vm/manifest.json", server.url);
    for at in [path.display().to_string(), format!("file://{}", path.display()), http.clone(), format!("{http}?a=1#b")]
    {
        let sandbox = sandbox();
        let synced = sandbox.run(format!("cache sync --manifest-url {at} -o json")).expect(0).json();
        assert_eq!(synced["downloaded"], json!([KEY]), "{at}");
        assert_eq!(cached(&sandbox, KEY).unwrap(), TARBALL, "{at}");
    }
    let asked = server.requests(".tar.gz");
    assert!(asked.iter().all(|request| request.path == format!("/{KEY}")), "query and fragment dropped: {asked:?}");
}

#[test]
fn the_manifest_is_found_by_flag_then_environment() {
    let mut sandbox = sandbox();
    let path = in_directory(&sandbox, &good(), &both());
    insta::assert_snapshot!("sync_without_a_manifest", sandbox.run("cache sync").shown());
    sandbox.set("STEADFAST_MANIFEST_URL", path.display().to_string());
    assert_eq!(sandbox.run("cache sync -o json").expect(0).json()["skipped"], false);
    let other = sandbox.run("cache sync --manifest-url /nowhere/vm/manifest.json").expect(1);
    other.says("manifest fetch failed: /nowhere/vm/manifest.json (");
    insta::assert_snapshot!(
        "sync_from_nowhere",
        sandbox.run("cache sync --manifest-url file:///nowhere/vm/manifest.json").shown()
    );
    sandbox.run("cache sync --manifest-url gopher://x/vm/manifest.json").expect(64);
}

#[test]
fn the_architecture_is_the_hosts_or_the_one_asked_for() {
    let arm = "vm/images/openclaw-2026.4.12-arm64.tar.gz";
    let cases: [(&str, &str, &[&str]); 12] = [
        ("x86_64", "", &[KEY]),
        ("amd64", "", &[KEY]),
        ("x64", "", &[KEY]),
        ("ia32", "", &[KEY]),
        ("aarch64", "", &[arm]),
        ("arm64", "--arch host", &[arm]),
        ("arm64", "--arch x64", &[KEY]),
        ("arm64", "--arch amd64", &[KEY]),
        ("arm64", "--arch x86_64", &[KEY]),
        ("x64", "--arch aarch64", &[arm]),
        ("x64", "--arch arm64", &[arm]),
        ("x64", "--arch all", &[arm, KEY]),
    ];
    for (host, arch, expected) in cases {
        let mut sandbox = sandbox();
        in_directory(&sandbox, &good(), &both());
        sandbox.set("STEADFAST_HOST_ARCH", host);
        let synced =
            sandbox.run(format!("cache sync --manifest-url published/vm/manifest.json {arch} -o json")).expect(0);
        assert_eq!(synced.json()["downloaded"], json!(expected), "{host} {arch}");
    }
    let sandbox = sandbox();
    let refused = sandbox.run("cache sync --manifest-url published/vm/manifest.json --arch arm").expect(64);
    let (first, second) = refused.stderr.split_once('\n').unwrap();
    assert_eq!(first, "error: unsupported host arch: arm");
    assert_eq!(second, "hint: `--arch` takes host, arm64 (or aarch64), x64 (or amd64, x86_64), all\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_host_fetches_nothing() {
    let server = served(&good(), |request| Reply::good(request, TARBALL, "\"t\"")).await;
    let mut sandbox = sandbox();
    sandbox.set("STEADFAST_HOST_ARCH", "arm");
    let refused = sandbox.run(format!("cache sync --manifest-url {}/vm/manifest.json", server.url)).expect(1);
    insta::assert_snapshot!("an_unsupported_host", refused.shown());
    assert!(server.requests("").is_empty(), "nothing was asked for");
    assert!(!sandbox.root().join("cache").exists());
}

#[test]
fn a_state_file_narrows_it_to_its_agents() {
    let sandbox = sandbox();
    let all = manifest(json!({
        "openclaw": agent("openclaw", "2026.4.12", TARBALL),
        "hermes": agent("hermes", "1.0", b"hermes"),
    }));
    let hermes = "vm/images/hermes-1.0-x64.tar.gz";
    let path = in_directory(&sandbox, &all, &[(KEY, TARBALL), (hermes, b"hermes")]);
    let state = |agents: &str| {
        format!(
            "apiVersion: steadfast/v1\nname: demo\nmanifest: {{url: {}}}\nruntime: {{podman: {{}}}}\nagents: {{{agents}}}\n",
            path.display()
        )
    };
    sandbox.write("steadfast.yaml", state("hermes: {version: latest}"));
    assert_eq!(sandbox.run("cache sync -o json").expect(0).json()["downloaded"], json!([hermes]), "it is found here");
    assert!(cached(&sandbox, KEY).is_none());
    sandbox.write("two.yaml", state("hermes: {version: \"1.0\"}, openclaw: {version: \"2026.4.12\", state: stopped}"));
    assert_eq!(sandbox.run("cache sync -f two.yaml -o json").expect(0).json()["downloaded"], json!([KEY]));
    // An agent that is to be absent needs nothing.
    sandbox.write("gone.yaml", state("ghost: {version: \"9\", state: absent}"));
    assert_eq!(sandbox.run("cache sync -f gone.yaml -o json").expect(0).json()["skipped"], json!(true));
    sandbox.write(
        "named.yaml",
        state("one: {version: latest, artifact: hermes}, two: {version: \"1.0\", artifact: hermes}"),
    );
    assert_eq!(sandbox.run("cache sync -f named.yaml -o json").expect(0).json()["skipped"], json!(true));
    sandbox.write("lacking.yaml", state("hermes: {version: latest, artifact: herms}"));
    sandbox.run("cache sync -f lacking.yaml").expect(65).says("has no agent `herms`; it offers `hermes`, `openclaw`");
    sandbox.write("other.yaml", state("hermes: {version: \"2.0\"}"));
    insta::assert_snapshot!(
        "sync_of_a_version_not_offered",
        sandbox.run("cache sync -f other.yaml").expect(65).shown()
    );
    sandbox.write("pin.yaml", state(&format!("hermes: {{version: \"1.0\", sha256: {{x64: {}}}}}", "a".repeat(64))));
    let refused = sandbox.run("cache sync -f pin.yaml").expect(6).says("the state file pins");
    assert!(refused.stderr.contains(&"a".repeat(64)), "{}", refused.stderr);
    assert_eq!(cached(&sandbox, hermes).unwrap(), b"hermes", "nothing was moved aside");
    sandbox.run("cache sync -f missing.yaml").expect(65).says("there is no state file `missing.yaml`");
}

#[test]
fn another_root_is_another_cache() {
    let mut sandbox = sandbox();
    let path = in_directory(&sandbox, &good(), &both());
    let sync = |sandbox: &Sandbox, more: &str| {
        sandbox.run(format!("cache sync --manifest-url {} -o json {more}", path.display())).expect(0).json()
    };
    let at = |sandbox: &Sandbox, dir: &str| sandbox.path(dir).join("cache/vm/manifest.json").display().to_string();
    assert_eq!(sync(&sandbox, "--root by-flag")["manifestPath"], at(&sandbox, "by-flag"));
    sandbox.set("STEADFAST_ROOT", sandbox.path("by-env"));
    assert_eq!(sync(&sandbox, "")["manifestPath"], at(&sandbox, "by-env"));
    assert_eq!(sync(&sandbox, "--root by-flag")["skipped"], true);
    assert!(!sandbox.root().exists());
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(sandbox.path("by-flag")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "{mode:o}");
}

/// A new version of which most is in the cache: what came over the wire is told, and what was there.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_what_was_reused_is_reported() {
    let (shared, of_each) = (vec![7; 2 << 20], [vec![1; 40_000], vec![2; 50_000], vec![3; 60_000]]);
    let versions: Vec<_> = of_each
        .iter()
        .enumerate()
        .map(|(at, own)| {
            let bytes = [shared.as_slice(), own].concat();
            let member =
                |part: &[u8], offset: usize| json!({"sha256": sha256(part), "offset": offset, "length": part.len()});
            let list = json!([member(&shared, 0), member(own, shared.len())]).to_string();
            let mut agent = agent("openclaw", &at.to_string(), &bytes);
            let tarball = &mut agent["tarballs"]["x64"];
            let key = tarball["key"].as_str().unwrap().to_owned();
            tarball["layers"] = json!({"key": format!("{key}.layers.json"), "sha256": sha256(list.as_bytes())});
            (key, bytes, list, manifest(json!({"openclaw": agent})).to_string())
        })
        .collect();
    let lists: Vec<_> = versions.iter().map(|(_, _, list, _)| list.len()).collect();
    let server = Server::start(move |request| {
        let path = request.path.trim_start_matches('/');
        let found = versions.iter().enumerate().find_map(|(at, (key, bytes, list, manifest))| {
            if path == format!("{at}/vm/manifest.json") {
                return Some(manifest.as_bytes());
            }
            let rest = path.split_once('/')?.1.strip_prefix(key.as_str())?;
            Some(if rest.is_empty() { bytes.as_slice() } else { list.as_bytes() })
        });
        found.map_or_else(|| Reply::new(404, ""), |bytes| Reply::good(request, bytes, "\"1\""))
    })
    .await;
    let sandbox = sandbox();
    let sync = |version: usize, more: &str| {
        sandbox.run(format!("cache sync --manifest-url {}/{version}/vm/manifest.json {more}", server.url)).expect(0)
    };
    let first = sync(0, "-o json").json();
    assert_eq!((first.get("receivedBytes"), first.get("reusedBytes")), (None, None), "nothing was reused");
    let second = sync(1, "-o json").json();
    assert_eq!(second["receivedBytes"], json!(50_000 + lists[1]), "the list is counted");
    assert_eq!(second["reusedBytes"], json!(2 << 20));
    let third = sync(2, "");
    assert_eq!(third.stdout, "fetched vm/images/openclaw-2-x64.tar.gz (58.81 KiB received, 2.00 MiB reused)\n");
}
