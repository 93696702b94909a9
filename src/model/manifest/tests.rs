use super::*;

const PUBLISHED: &str = r#"{"schemaVersion":2,"updatedAt":"2026-04-24T00:00:00.000Z","agents":{"openclaw":{"image":"ghcr.io/openclaw/openclaw","version":"2026.4.12","tarballs":{"arm64":{"key":"vm/images/openclaw-2026.4.12-arm64.tar.gz","sha256":"unused","sizeBytes":1},"x64":{"key":"vm/images/openclaw-2026.4.12-x64.tar.gz","sha256":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","sizeBytes":16}}}},"later":{"z":1,"a":2}}"#;

#[test]
fn only_the_wanted_entry_must_be_good() {
    let manifest = Manifest::parse(PUBLISHED.as_bytes()).unwrap();
    assert_eq!(manifest.artifact("openclaw", Arch::X64).unwrap().size_bytes, 16);
    let err = manifest.artifact("openclaw", Arch::Arm64).unwrap_err().to_string();
    assert_eq!(
        err,
        "the manifest's arm64 tarball of `openclaw` is not valid: `unused` is not a sha256: expected 64 hex digits"
    );
    let err = manifest.artifact("other", Arch::X64).unwrap_err().to_string();
    assert_eq!(err, "the manifest has no agent `other`; it offers `openclaw`");
}

#[test]
fn a_hostile_manifest_does_not_fill_the_screen() {
    let word = format!("\u{1b}[2J{}", "x".repeat(100_000));
    let agent = serde_json::json!({"image": "i", "version": "1", "tarballs": {}});
    let agents: serde_json::Map<_, _> = (0..30).map(|n| (format!("{n:02}{word}"), agent.clone())).collect();
    let document = serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": agents});
    let manifest = Manifest::parse(document.to_string().as_bytes()).unwrap();
    let first = manifest.agents.keys().next().unwrap().clone();
    let other = ManifestError::OtherVersion { agent: "a".into(), wanted: "1".into(), offered: word.clone() };
    let no_agent = manifest.agent("other").unwrap_err();
    assert!(no_agent.to_string().ends_with(" and 20 more"), "{no_agent}");
    let schema = Manifest::parse(serde_json::json!({"schemaVersion": word}).to_string().as_bytes()).unwrap_err();
    let no_arch = ManifestError::NoArch { agent: "a".into(), arch: Arch::X64, offered: vec![first] };
    for err in [other, no_agent, schema, no_arch] {
        let text = err.to_string();
        assert!(text.len() < 2000 && !text.contains(char::is_control), "{} bytes", text.len());
    }
}

fn copy(manifest: &Manifest) -> String {
    let mut bytes = Vec::new();
    manifest.write_copy(&mut bytes).unwrap();
    assert_eq!(manifest.copy_sha256(), Sha256Digest::of(&bytes));
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_copy_keeps_order_and_unknown_fields() {
    let published = Manifest::parse(PUBLISHED.as_bytes()).unwrap();
    let pretty = copy(&published);
    assert!(pretty.starts_with("{\n  \"schemaVersion\": 2,\n  \"updatedAt\""), "{pretty}");
    assert!(pretty.ends_with("\"later\": {\n    \"z\": 1,\n    \"a\": 2\n  }\n}\n"), "{pretty}");
    let again = Manifest::parse_copy(pretty.as_bytes()).unwrap();
    assert_eq!(copy(&again), pretty);
    assert_eq!(again, published);
}

/// A manifest with the fields every one has, and one more.
fn with_field(field: &str) -> String {
    format!(r#"{{"schemaVersion":2,"updatedAt":"","agents":{{}},"more":{field}}}"#)
}

#[test]
fn numbers_and_empty_values_are_kept_as_they_are() {
    let field =
        r#"[0.1,1.0,-0.0,1e-7,123456789.12345679,4.35,18446744073709551615,-9223372036854775808,[],{},"",null]"#;
    let pretty = copy(&Manifest::parse(with_field(field).as_bytes()).unwrap());
    let kept: String = pretty.split_once("\"more\":").unwrap().1.split_whitespace().collect();
    assert_eq!(kept, format!("{field}}}"));
    assert_eq!(copy(&Manifest::parse_copy(pretty.as_bytes()).unwrap()), pretty);
}

#[test]
fn the_copy_of_a_large_manifest_can_be_read_again() {
    let entry = serde_json::json!({"key": "vm/images/a-1-x64.tar.gz", "sha256": "0".repeat(64), "sizeBytes": 1});
    let agents: serde_json::Map<_, _> = (0..13_000)
        .map(|n| {
            let agent = serde_json::json!({"image": "i", "version": "1", "tarballs": {"x64": entry, "arm64": entry}});
            (format!("agent-{n}"), agent)
        })
        .collect();
    let document = serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": agents}).to_string();
    assert!(document.len() > 3_000_000 && document.len() < MAX_MANIFEST_BYTES);
    let published = Manifest::parse(document.as_bytes()).unwrap();
    let pretty = copy(&published);
    assert!(pretty.len() > MAX_MANIFEST_BYTES);
    assert_eq!(Manifest::parse_copy(pretty.as_bytes()).unwrap(), published);
}

#[test]
fn what_only_nests_is_refused_before_it_is_written() {
    let zeros = vec!["0"; 16 * 1024].join(",");
    let nested = format!("{}[{zeros}]{}", "[".repeat(100), "]".repeat(100));
    let fits = Manifest::parse(with_field(&nested).as_bytes()).unwrap();
    assert!(copy(&fits).len() > 100 * zeros.len() / 2);
    let zeros = vec!["0"; 2_000_000].join(",");
    let nested = format!("{}[{zeros}]{}", "[".repeat(100), "]".repeat(100));
    let err = Manifest::parse(with_field(&nested).as_bytes()).unwrap_err();
    assert_eq!(err, ManifestError::CopyTooLarge);
    let too_deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let err = Manifest::parse(with_field(&too_deep).as_bytes()).unwrap_err().to_string();
    assert!(err.contains("recursion limit exceeded"), "{err}");
}

/// What is said of each agent's only tarball.
fn said_of(keys: &[(&str, u8)]) -> Vec<Option<String>> {
    let name = |at: usize| format!("a{at}");
    let agents = keys.iter().enumerate().map(|(at, (key, byte))| {
        let entry = serde_json::json!({"key": key, "sha256": Sha256Digest::from_bytes([*byte; 32]), "sizeBytes": 1});
        (name(at), serde_json::json!({"image": "i", "version": "1", "tarballs": {"x64": entry}}))
    });
    let agents: serde_json::Map<_, _> = agents.collect();
    let document = serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": agents});
    let manifest = Manifest::parse(document.to_string().as_bytes()).unwrap();
    (0..keys.len()).map(|at| manifest.artifact(&name(at), Arch::X64).err().map(|err| err.to_string())).collect()
}

#[test]
fn a_key_in_the_way_of_another_is_refused_and_the_others_are_not() {
    let said = said_of(&[("vm/a/b", 1), ("vm/a", 2), ("vm/a.b", 3), ("vm/a/c/d", 4), ("vm/ab", 5)]);
    let below = |agent: &str, key: &str| {
        Some(format!(
            "the manifest's x64 tarball of `{agent}` is not valid: artifact key `{key}` lies below `vm/a`, which is \
             another tarball's key"
        ))
    };
    assert_eq!(said, [below("a0", "vm/a/b"), None, None, below("a3", "vm/a/c/d"), None]);
    let said = said_of(&[("vm/a", 1), ("vm/a", 2), ("vm/b", 3), ("vm/b", 3)]);
    assert!(said[0].as_ref().unwrap().ends_with("`vm/a` is also the key of a tarball with another sha256"));
    assert!(said[1].is_some());
    assert_eq!(said[2..], [None, None], "the same bytes may be named twice");
}

/// What is read of the layers of the first of these tarballs, each with its key and its `layers`.
fn layers_of(entries: &[(&str, &str)]) -> Option<Layers> {
    let agents: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|(at, (key, layers))| {
            let sha256 = Sha256Digest::from_bytes([at as u8; 32]);
            format!(
                r#""a{at}":{{"image":"i","version":"1","tarballs":{{"x64":{{"key":"{key}","sha256":"{sha256}","sizeBytes":1{layers}}}}}}}"#
            )
        })
        .collect();
    let text = format!(r#"{{"schemaVersion":2,"updatedAt":"","agents":{{{}}}}}"#, agents.join(","));
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    (0..entries.len()).map(|at| manifest.artifact(&format!("a{at}"), Arch::X64).unwrap().layers).next().flatten()
}

#[test]
fn layers_are_read_and_broken_ones_cost_a_whole_download_and_no_artifact() {
    let digest = "ab".repeat(32);
    let listed = |key: &str| format!(r#","layers":{{"key":"{key}","sha256":"{digest}"}}"#);
    let good = listed("vm/a.layers.json");
    let layers = layers_of(&[("vm/a", &good)]).unwrap();
    assert_eq!((layers.key.as_str(), layers.sha256.to_string()), ("vm/a.layers.json", digest.clone()));
    assert_eq!(layers_of(&[("vm/a", "")]), None);
    let twice = format!("{good}{good}");
    let outside = listed("../a.layers.json");
    let short = good.replace(&digest, "ab");
    for bad in [r#","layers":7"#, r#","layers":null"#, r#","layers":{}"#, r#","layers":[]"#, &twice, &outside, &short] {
        assert_eq!(layers_of(&[("vm/a", bad)]), None, "{bad}");
    }
    // Keys that clash with others: with its own tarball, with another, below one, above one, with another list.
    for (layers, other, others) in [
        ("vm/a", "vm/b", ""),
        ("vm/b", "vm/b", ""),
        ("vm/b/l", "vm/b", ""),
        ("vm/l", "vm/l/b", ""),
        ("vm/l", "vm/b", &good.replace("vm/a.layers.json", "vm/l").replace("ab", "cd")),
    ] {
        assert_eq!(layers_of(&[("vm/a", &listed(layers)), (other, others)]), None, "{layers} {other}");
    }
    assert!(layers_of(&[("vm/a", &good), ("vm/b", &good)]).is_some(), "the same list may be named twice");
}

#[test]
fn ten_thousand_agents_are_looked_up_quickly() {
    let keys: Vec<_> = (0..10_000).map(|n| format!("vm/images/a/{n}/x64.tar.gz")).collect();
    let keys: Vec<_> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    let began = std::time::Instant::now();
    assert!(said_of(&keys).iter().all(Option::is_none));
    // A comparison of each with each takes minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_is_not_a_manifest_is_said_plainly() {
    let error = |text: &str| Manifest::parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(error(r#"{"schemaVersion":3}"#), "manifest has schemaVersion 3, this build reads 2");
    assert_eq!(error("{}"), "manifest is not valid: it has no schemaVersion");
    assert!(error("<html>").starts_with("manifest is not valid: expected value at line 1"));
    assert!(error(r#"{"schemaVersion":2,"updatedAt":"x"}"#).contains("missing field `agents`"));
    let huge = vec![b' '; MAX_MANIFEST_BYTES + 1];
    assert_eq!(Manifest::parse(&huge).unwrap_err(), ManifestError::TooLarge);
}
