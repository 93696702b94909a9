use std::path::Path;

use super::*;

#[test]
fn keys_stay_below_vm() {
    for bad in [
        "",
        "/etc/passwd",
        "vm/../x",
        "vm/./x",
        "vm//x",
        "x/vm/y",
        "vm",
        "vm/",
        "vm/a\\b",
        "vm/a\nb",
        "vm/manifest.json",
        "vm/images/a.partial",
        "vm/images/a.partial.json",
        "vm/manifest.json/a",
        "vm/Manifest.JSON",
        "vm/manife\u{17f}t.json",
        "vm/images",
        "vm/images/a.partial/b",
        "vm/images/a.Partial.Json/b",
        "vm/.steadfast-tmp-manifest.json~",
        "vm/.STEADFAST-TMP-x/a",
    ] {
        assert!(ArtifactKey::new(bad).is_err(), "{bad:?} was accepted");
    }
    let key = ArtifactKey::new("vm/images/a-1-x64.tar.gz").unwrap();
    assert_eq!(key.path_in(Path::new("/c")), Path::new("/c/vm/images/a-1-x64.tar.gz"));
    assert_eq!(key.file_name(), "a-1-x64.tar.gz");
}

#[test]
fn no_key_and_no_word_turns_the_direction_of_writing() {
    assert!(ArtifactKey::new("vm/images/a-1-x64\u{202e}zg.rat").is_err());
    assert_eq!(found("a\u{202e}b\u{1b}"), "`a\u{fffd}b\u{fffd}`");
}

#[test]
fn a_key_tells_version_and_architecture_whatever_it_ends_in() {
    for (name, parts) in [
        ("a-1.0-x64.tar.gz", Some(("a-1.0", Arch::X64))),
        ("a-1.0-x64.tar.zst", Some(("a-1.0", Arch::X64))),
        ("a-1.0-arm64.tar", Some(("a-1.0", Arch::Arm64))),
        ("a-1.0-x64.tgz", Some(("a-1.0", Arch::X64))),
        ("a-1.0-x64", Some(("a-1.0", Arch::X64))),
        ("a-1-x64-2-arm64.tar", Some(("a-1-x64-2", Arch::Arm64))),
        ("a-1.0-x64.0123456789abcdef.tar.gz", Some(("a-1.0", Arch::X64))),
        ("a-1.0-sparc.tar.gz", None),
        ("a-1.0-x64b.tar.gz", None),
        ("x64.tar.gz", None),
        ("-x64.tar.gz", None),
    ] {
        assert_eq!(ArtifactKey::new(format!("vm/images/{name}")).unwrap().version_and_arch(), parts, "{name}");
    }
}

#[test]
fn a_key_beside_another_names_the_same_version() {
    let digest = Sha256Digest::from_bytes([0xab; 32]);
    let beside = |key: &str| ArtifactKey::new(key).unwrap().beside(&digest);
    assert_eq!(beside("vm/images/a-1.0-x64.tar.gz").as_str(), "vm/images/a-1.0-x64.abababababababab.tar.gz");
    assert_eq!(beside("vm/odd").as_str(), "vm/odd.abababababababab");
    let long = format!("vm/images/{}-x64.tar", "l".repeat(240));
    assert_eq!(beside(&long).as_str(), format!("vm/images/{digest}"));
}

#[test]
fn digests_are_64_hex_digits_and_nothing_else() {
    let text = "ab".repeat(32);
    assert_eq!(Sha256Digest::parse(&text).unwrap().to_string(), text);
    assert_eq!(Sha256Digest::parse(&text.to_uppercase()).unwrap().to_string(), text);
    for bad in ["", "unused", &"ab".repeat(31), &"+a".repeat(32), &"é".repeat(32), &"zz".repeat(32)] {
        assert!(Sha256Digest::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn machine_words_become_arches() {
    assert_eq!(Arch::from_machine("ia32").unwrap(), Arch::X64);
    assert_eq!(Arch::from_machine("aarch64").unwrap(), Arch::Arm64);
    assert_eq!(Arch::from_machine("arm").unwrap_err().to_string(), "unsupported host arch: arm");
}

#[test]
fn image_references_join_and_qualify() {
    let by_digest = ImageRef::join("r.example/a", &format!("sha256:{}", "0".repeat(64))).unwrap();
    assert!(by_digest.as_str().contains("@sha256:"));
    let qualified = |text: &str| ImageRef::new(text).unwrap().qualified().to_string();
    assert_eq!(qualified("agent:1"), "docker.io/library/agent:1");
    assert_eq!(qualified("acme/agent:1"), "docker.io/acme/agent:1");
    assert_eq!(qualified("localhost/agent:1"), "localhost/agent:1");
    assert_eq!(qualified("127.0.0.1:5000/agent:1"), "127.0.0.1:5000/agent:1");
}
