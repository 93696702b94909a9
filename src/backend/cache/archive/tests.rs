//! What goes through the filter, and what does not.

use super::*;

fn wanted(text: &str) -> ImageRef {
    ImageRef::new(text).unwrap()
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn docker(images: &[&[&str]]) -> Vec<u8> {
    let image = |(at, tags): (usize, &&[&str])| serde_json::json!({"Config": format!("{at}.json"), "RepoTags": tags, "Layers": ["layer.tar"]});
    let list = Value::from(images.iter().enumerate().map(image).collect::<Vec<_>>()).to_string();
    let long = format!("{}/layer.tar", "d".repeat(150));
    archive(&[
        ("0.json", b"{}"),
        (&long, &[7; 1300]),
        ("manifest.json", list.as_bytes()),
        ("repositories", br#"{"x": {"1": "0"}}"#),
    ])
}

fn run(bytes: &[u8], wanted: &ImageRef, piece: usize) -> Result<Vec<u8>, Refusal> {
    let mut filter = Filter::new(wanted);
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        filter.push(Bytes::copy_from_slice(piece), &mut out)?;
    }
    filter.finish(&mut out)?;
    Ok(out.concat())
}

fn files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (path, content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn listed(bytes: &[u8], name: &str) -> Value {
    let files = files(bytes);
    let found: Vec<_> = files.iter().filter(|(path, _)| path == name).collect();
    assert_eq!(found.len(), 1, "{files:?}");
    serde_json::from_slice(&found[0].1).unwrap()
}

#[test]
fn only_the_wanted_image_goes_on_and_without_a_name() {
    let bytes = docker(&[&["docker.io/library/alpine:latest"], &["r.example/a:1", "r.example/a:latest"]]);
    for piece in [1, 7, 512, 1000, 1 << 20] {
        let through = run(&bytes, &wanted("r.example/a:1"), piece).unwrap();
        let list = listed(&through, "manifest.json");
        assert_eq!(list, serde_json::json!([{"Config": "1.json", "RepoTags": null, "Layers": ["layer.tar"]}]));
        let names: Vec<_> = files(&through).into_iter().map(|(name, content)| (name, content.len())).collect();
        assert_eq!(names[0], ("0.json".to_owned(), 2));
        assert_eq!(names[1], (format!("{}/layer.tar", "d".repeat(150)), 1300), "a long name comes along");
        assert_eq!(names.len(), 3, "no list in an older form: {names:?}");
    }
}

#[test]
fn a_short_name_is_the_hub_s_or_one_of_this_machine() {
    for (tag, reference, is) in [
        ("jukebox:7", "docker.io/library/jukebox:7", true),
        ("a/b:1", "docker.io/a/b:1", true),
        ("jukebox:7", "localhost/jukebox:7", true),
        ("localhost/jukebox:7", "localhost/jukebox:7", true),
        ("localhost/jukebox:7", "docker.io/library/jukebox:7", false),
        ("docker.io/library/jukebox:7", "localhost/jukebox:7", false),
        ("r.example/jukebox:7", "docker.io/library/jukebox:7", false),
        ("jukebox:8", "docker.io/library/jukebox:7", false),
    ] {
        let outcome = run(&docker(&[&[tag]]), &wanted(reference), 4096);
        assert_eq!(outcome.is_ok(), is, "{tag} as {reference}");
    }
    // Where both are there, the name that is written out counts.
    let both = docker(&[&["jukebox:7"], &["localhost/jukebox:7"]]);
    let through = run(&both, &wanted("localhost/jukebox:7"), 4096).unwrap();
    assert_eq!(listed(&through, "manifest.json")[0]["Config"], "1.json");
    let through = run(&both, &wanted("jukebox:7"), 4096).unwrap();
    assert_eq!(listed(&through, "manifest.json")[0]["Config"], "0.json");
}

#[test]
fn a_nameless_image_is_taken_when_it_is_the_only_one() {
    assert!(run(&docker(&[&[]]), &wanted("r.example/a:1"), 4096).is_ok());
    let refused = run(&docker(&[&[], &["r.example/b:1"]]), &wanted("r.example/a:1"), 4096).unwrap_err();
    assert_eq!(refused, Refusal::Other(vec!["r.example/b:1".to_owned()]));
    let refused = run(&docker(&[&["r.example/b:1", "c:2"]]), &wanted("r.example/a:1"), 4096).unwrap_err();
    assert_eq!(refused, Refusal::Other(vec!["r.example/b:1".to_owned(), "c:2".to_owned()]));
    assert_eq!(run(&docker(&[]), &wanted("r.example/a:1"), 4096), Err(Refusal::Other(Vec::new())));
}

#[test]
fn of_both_lists_docker_s_counts_and_an_index_alone_loses_its_names() {
    let index = |names: &[&str]| {
        let manifests: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"digest": name, "annotations": {"org.opencontainers.image.ref.name": name}}))
            .collect();
        serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string()
    };
    let list = serde_json::json!([{"Config": "c", "RepoTags": ["r.example/a:1"], "Layers": []}]).to_string();
    let two = index(&["r.example/b:1", "r.example/a:1"]);
    let both = archive(&[("index.json", two.as_bytes()), ("./manifest.json", list.as_bytes()), ("oci-layout", b"{}")]);
    let through = run(&both, &wanted("r.example/a:1"), 4096).unwrap();
    let names: Vec<_> = files(&through).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["manifest.json"]);

    let alone = archive(&[("index.json", two.as_bytes()), ("oci-layout", b"{}")]);
    let through = run(&alone, &wanted("r.example/a:1"), 4096).unwrap();
    let left = listed(&through, "index.json");
    assert_eq!(left["manifests"], serde_json::json!([{"digest": "r.example/a:1"}]));
    assert_eq!(listed(&through, "oci-layout"), serde_json::json!({}));
    let one = archive(&[("index.json", index(&["1.0"]).as_bytes())]);
    let through = run(&one, &wanted("r.example/a:1"), 4096).unwrap();
    assert_eq!(listed(&through, "index.json")["manifests"], serde_json::json!([{"digest": "1.0"}]));
}

#[test]
fn what_is_no_archive_of_images_is_refused_in_words() {
    let refused = |bytes: &[u8]| match run(bytes, &wanted("a:1"), 4096) {
        Err(Refusal::Damaged(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b""), "it is no tar archive");
    assert_eq!(refused(&[0; 4096]), "it is no tar archive");
    assert_eq!(refused(&[b'x'; 4096]), "it is no tar archive");
    assert_eq!(refused(b"short"), "it is no tar archive");
    let whole = docker(&[&["a:1"]]);
    assert_eq!(refused(&whole[..700]), "it ends in the middle");
    assert_eq!(refused(&whole[..512]), "it ends in the middle");
    assert_eq!(refused(&archive(&[("x", b"y")])), "it has neither manifest.json nor index.json");
    assert!(refused(&archive(&[("manifest.json", b"[")])).starts_with("its manifest.json cannot be read"));
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, "./manifest.json", "elsewhere").unwrap();
    assert_eq!(refused(&link.into_inner().unwrap()), "its manifest.json is no file");
    let mut huge = archive(&[("manifest.json", b"")]);
    huge[124..136].copy_from_slice(b"77777777777\0");
    let sum = checksum(&huge[..512]);
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(refused(&huge), "its lists are larger than 8 MiB");
}

#[test]
fn an_archive_with_nothing_but_the_wanted_name_may_be_loaded_as_it_is() {
    let may = |bytes: &[u8], wanted: &ImageRef| {
        let mut filter = Filter::new(wanted);
        filter.push(Bytes::copy_from_slice(bytes), &mut Vec::new()).unwrap();
        filter.holds_only()
    };
    assert!(may(&docker(&[&["r.example/a:1"]]), &wanted("r.example/a:1")));
    assert!(may(&docker(&[&[]]), &wanted("r.example/a:1")));
    assert!(!may(&docker(&[&["r.example/a:1", "alpine:latest"]]), &wanted("r.example/a:1")));
    assert!(!may(&docker(&[&["r.example/a:1"], &["r.example/b:1"]]), &wanted("r.example/a:1")));
    assert!(!may(&docker(&[&["a:1"]]), &wanted("a:1")), "Podman 4.3 files a short name under localhost");
}
