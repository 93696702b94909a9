//! Whole manifests and slices, from dist directories that are complete and such that are not.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::Sha256Digest;
use crate::model::manifest::MAX_MANIFEST_BYTES;

fn bundle(agents: &[(&str, &str)]) -> Bundle {
    let agents: Vec<_> = agents
        .iter()
        .map(|(name, version)| json!({"name": name, "image": format!("r.example/{name}"), "version": version}))
        .collect();
    Bundle::parse(&json!({ "agents": agents }).to_string(), Path::new("/")).unwrap()
}

struct Dist(tempfile::TempDir);

impl Dist {
    fn of(bundle: &Bundle) -> Self {
        let dist = Self(tempfile::tempdir().unwrap());
        for agent in &bundle.agents {
            for arch in Arch::ALL {
                dist.put(agent, arch);
            }
        }
        dist
    }

    fn put(&self, agent: &BundleAgent, arch: Arch) -> Sha256Digest {
        let path = dist::tarball_path(self.0.path(), agent, arch, Packing::Gzip);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = [&[0x1f, 0x8b][..], agent.key(arch, Packing::Gzip).as_str().as_bytes()].concat();
        let sha256 = Sha256Digest::of(&bytes);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(dist::sidecar_path(&path), dist::sidecar(&sha256, &path)).unwrap();
        sha256
    }
}

fn day() -> SystemTime {
    written_at(Some("1777248000"), SystemTime::UNIX_EPOCH).unwrap()
}

fn made(bundle: &Bundle, dist: &Dist, slice: &str, baseline: Option<&str>) -> Result<String, String> {
    let baseline = baseline.map(|text| ("`b.json`", text.as_bytes()));
    let slice = slice.parse().map_err(|err: PublishError| err.to_string())?;
    let bytes =
        manifest(Arc::new(bundle.clone()), dist.0.path(), &slice, baseline, day()).map_err(|err| err.to_string())?;
    Ok(String::from_utf8(bytes).unwrap())
}

#[test]
fn a_whole_manifest_is_what_lies_there_in_the_bundle_s_order() {
    let bundle = bundle(&[("zeta", "2"), ("alpha", "1")]);
    let dist = Dist::of(&bundle);
    let text = made(&bundle, &dist, "full", None).unwrap();
    let start = "{\n  \"schemaVersion\": 2,\n  \"updatedAt\": \"2026-04-27T00:00:00.000Z\",\n  \"agents\": {\n    \"zeta\": {\n      \
                 \"image\": \"r.example/zeta\",\n      \"version\": \"2\",\n      \"tarballs\": {\n        \"arm64\": {\n          \
                 \"key\": \"vm/images/zeta-2-arm64.tar.gz\",\n";
    assert!(text.starts_with(start) && text.ends_with("  }\n}\n"), "{text}");
    let sha256 = dist.put(&bundle.agents[1], Arch::X64);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["agents"]["alpha"]["tarballs"]["x64"]["sha256"], json!(sha256.to_string()));
    assert_eq!(made(&bundle, &dist, "full", None).unwrap(), text, "the same in, the same out");
    // Where a copy of it is kept, it is the same bytes.
    let mut copy = Vec::new();
    Manifest::parse(text.as_bytes()).unwrap().write_copy(&mut copy).unwrap();
    assert_eq!(String::from_utf8(copy).unwrap(), text);
}

#[test]
fn the_errors_that_scripts_look_for() {
    let bundle = bundle(&[("openclaw", "2026.4.12")]);
    let dist = Dist::of(&bundle);
    let sidecar = dist::sidecar_path(&dist::tarball_path(dist.0.path(), &bundle.agents[0], Arch::X64, Packing::Gzip));
    std::fs::remove_file(sidecar).unwrap();
    assert_eq!(made(&bundle, &dist, "full", None).unwrap_err(), "missing tarball inputs for openclaw/x64");
    assert_eq!(
        made(&bundle, &dist, "agents:openclaw", None).unwrap_err(),
        "--slice agents:openclaw requires --merge-from"
    );
    for slice in ["vm", "agents:", "agents", "", "Full"] {
        assert_eq!(made(&bundle, &dist, slice, None).unwrap_err(), format!("unknown slice: {slice}"));
    }
    let err = made(&bundle, &dist, "agents:other", Some("{}")).unwrap_err();
    assert_eq!(err, "the bundle has no agent `other`; it has `openclaw`");
    assert_eq!(
        written_at(Some("soon"), SystemTime::UNIX_EPOCH).unwrap_err().to_string(),
        "$SOURCE_DATE_EPOCH is `soon`: expected seconds since 1970"
    );
}

#[test]
fn a_slice_changes_its_agent_and_nothing_else() {
    let old = bundle(&[("a", "1"), ("b", "1")]);
    let baseline = made(&old, &Dist::of(&old), "full", None).unwrap();
    let new = bundle(&[("b", "2"), ("c", "1"), ("a", "1")]);
    let dist = Dist::of(&new);
    let text = made(&new, &dist, "agents:b", Some(&baseline)).unwrap();
    let (before, after): (Value, Value) =
        (serde_json::from_str(&baseline).unwrap(), serde_json::from_str(&text).unwrap());
    assert_eq!(after["agents"]["a"], before["agents"]["a"]);
    assert_eq!(after["agents"]["b"]["version"], "2");
    assert_eq!(after["agents"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "a"]);
    let with_c = made(&new, &dist, "agents:c", Some(&text)).unwrap();
    assert_eq!(made(&new, &dist, "agents:a", Some(&with_c)).unwrap(), made(&new, &dist, "full", None).unwrap());
}

/// What a slice does not touch is not parsed and written again: numbers stay as they are, fields that nobody knows too.
#[test]
fn what_is_kept_is_kept_to_the_letter() {
    let bundle = bundle(&[("b", "1")]);
    let dist = Dist::of(&bundle);
    let odd = r#"{"image":"x","version":"1","tarballs":{"x64": 7 },"n":123456789012345678901234567890.10,"s":"\u00e4 \"]{","e":[ ],"o":{ }}"#;
    let baseline = format!(
        r#"{{"schemaVersion":1,"vmVersion":"3","vmDisk":{{"a":1}},"updatedAt":"x","later":[1.0,{{}}],"agents":{{"a":{{}},"a":{odd}}}}}"#
    );
    let text = made(&bundle, &dist, "agents:b", Some(&baseline)).unwrap();
    let kept: String = text.lines().map(str::trim_start).collect::<Vec<_>>().join("").replace("\": ", "\":");
    assert!(kept.contains(r#""n":123456789012345678901234567890.10,"s":"\u00e4 \"]{","e":[],"o":{}}"#), "{text}");
    assert!(
        text.contains("\"later\": [\n    1.0,\n    {}\n  ]") && !text.contains("vmVersion") && !text.contains("vmDisk")
    );
    assert!(text.starts_with("{\n  \"schemaVersion\": 2,\n"), "{text}");
}

#[test]
fn a_baseline_that_is_none_is_refused() {
    let bundle = bundle(&[("a", "1")]);
    let dist = Dist::of(&bundle);
    let large = format!("{}{{}}", " ".repeat(MAX_MANIFEST_BYTES));
    for (text, words) in [
        ("", "EOF"),
        ("<html>", "expected value"),
        ("[]", "expected an object"),
        ("{}", "it has no schemaVersion"),
        (r#"{"schemaVersion": 3, "agents": {}}"#, "it has schemaVersion 3; 1 and 2 are read"),
        (r#"{"schemaVersion": 2}"#, "it has no agents"),
        (r#"{"schemaVersion": 2, "agents": []}"#, "agents: "),
        (large.as_str(), "larger than 4 MiB"),
    ] {
        let err = made(&bundle, &dist, "agents:a", Some(text)).unwrap_err();
        assert!(err.starts_with("the baseline `b.json` is not a manifest: ") && err.contains(words), "{err}");
    }
    // What no fetcher could read, or what would hide what is made.
    let broken = r#"{"schemaVersion": 2, "agents": {"b": {"image": 7}}}"#;
    assert!(
        made(&bundle, &dist, "agents:a", Some(broken)).unwrap_err().starts_with("the manifest would be of no use: ")
    );
    let zeros = "0".repeat(64);
    let clash = format!(
        r#"{{"schemaVersion": 2, "agents": {{"b": {{"image": "x", "version": "1", "tarballs": {{"x64":
           {{"key": "vm/images/a-1-x64.tar.gz", "sha256": "{zeros}", "sizeBytes": 1}}}}}}}}}}"#
    );
    let err = made(&bundle, &dist, "agents:a", Some(&clash)).unwrap_err();
    assert!(err.contains("is also the key of a tarball with another sha256"), "{err}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any bundle, and any part of what it needs: the manifest names exactly what is there, or what is not.
    #[test]
    fn a_manifest_names_exactly_what_is_there_or_fails(
        versions in proptest::collection::vec("[a-z0-9][a-z0-9.]{0,5}", 1..5),
        there in proptest::collection::vec(any::<bool>(), 20),
        only in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let names: Vec<_> = (0..versions.len()).map(|n| format!("agent-{n}")).collect();
        let agents: Vec<_> = names.iter().zip(&versions).map(|(name, version)| (name.as_str(), version.as_str())).collect();
        let bundle = bundle(&agents);
        let dist = Dist(tempfile::tempdir().unwrap());
        let mut there = there.into_iter();
        let mut missing = Vec::new();
        let mut kept = Vec::new();
        for agent in &bundle.agents {
            for arch in Arch::ALL {
                let sha256 = dist.put(agent, arch);
                let path = dist::tarball_path(dist.0.path(), agent, arch, Packing::Gzip);
                let (file, sidecar) = (there.next().unwrap(), there.next().unwrap());
                if !file { std::fs::remove_file(&path).unwrap() }
                if !sidecar { std::fs::remove_file(dist::sidecar_path(&path)).unwrap() }
                if !(file && sidecar) { missing.push((agent.name.to_string(), arch)) }
                kept.push((agent.name.to_string(), arch, sha256));
            }
        }
        let only = only.map(|index| index.get(&names).clone());
        let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
        let slice = only.as_ref().map_or("full".to_owned(), |name| format!("agents:{name}"));
        let baseline = r#"{"schemaVersion": 2, "agents": {}}"#;
        match made(&bundle, &dist, &slice, Some(baseline)) {
            Ok(text) => {
                prop_assert!(!missing.iter().any(|(name, _)| wanted(name)));
                let manifest = Manifest::parse(text.as_bytes()).unwrap();
                prop_assert_eq!(manifest.agents.len(), names.iter().filter(|name| wanted(name)).count());
                for (name, arch, sha256) in kept.iter().filter(|(name, ..)| wanted(name)) {
                    prop_assert_eq!(manifest.artifact(name, *arch).unwrap().sha256, *sha256);
                }
            }
            Err(err) => {
                let (name, arch) = missing.iter().find(|(name, _)| wanted(name)).expect("something is missing");
                prop_assert_eq!(err, format!("missing tarball inputs for {name}/{arch}"));
            }
        }
    }
}
