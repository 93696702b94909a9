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
    assert_eq!(refused(b""), "it is not a tar archive");
    assert_eq!(refused(&[0; 4096]), "it is not a tar archive");
    assert_eq!(refused(&[b'x'; 4096]), "it is not a tar archive");
    assert_eq!(refused(b"short"), "it is not a tar archive");
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

/// One entry as it stands in an archive.
fn raw(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header_of(name.as_bytes(), kind, link.as_bytes(), content.len() as u64).to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut records = String::new();
    for (key, value) in fields {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        records += &format!("{length}{rest}");
    }
    raw("PaxHeaders/x", b'x', "", records.as_bytes())
}

/// Other readers of tar might see `manifest.json` where we see something else, or the other way round.
#[test]
fn nothing_goes_on_that_another_reader_could_take_for_something_else() {
    let evil = br#"[{"Config": "evil", "RepoTags": ["docker.io/library/alpine:latest"], "Layers": []}]"#;
    let list = br#"[{"Config": "c", "RepoTags": ["docker.io/library/a:1"], "Layers": ["l"]}]"#;
    let long = |name: &str| raw("././@LongLink", b'L', "", format!("{name}\0").as_bytes());
    let mut star = raw("manifest.json", b'0', "", evil);
    star[257..265].copy_from_slice(b"ustar\x0000");
    star[345..476].fill(b'/');
    star[476..500].fill(b'1');
    star[508..512].copy_from_slice(b"tar\0");
    let sum = checksum(&star[..BLOCK]);
    star[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let tricks: [Vec<u8>; 8] = [
        // GNU's name and PAX's: which one counts depends on who reads.
        [long("manifest.json"), pax(&[("path", "x")]), raw("y", b'0', "", evil)].concat(),
        [pax(&[("path", "manifest.json")]), long("x"), raw("y", b'0', "", evil)].concat(),
        // The second record takes the first one's place for some, and adds to it for others.
        [pax(&[("path", "x")]), pax(&[("mtime", "1")]), raw("manifest.json", b'0', "", evil)].concat(),
        [pax(&[("path", "x")]), pax(&[("path", "")]), raw("manifest.json", b'0', "", evil)].concat(),
        [raw("g", b'g', "", &pax(&[("path", "manifest.json")])[BLOCK..]), raw("y", b'0', "", evil)].concat(),
        star,
        raw("manifest.json/", 0, "", b""),
        raw("some", b'?', "", evil),
    ];
    let honest = raw("manifest.json", b'0', "", list);
    let mut went_on = 0;
    for (at, trick) in tricks.into_iter().enumerate() {
        for both in [[honest.clone(), trick.clone()].concat(), [trick.clone(), honest.clone()].concat()] {
            let both = [both, vec![0; 2 * BLOCK]].concat();
            let mut filter = Filter::new(&wanted("a:1"));
            let is_refused = filter.push(both.clone().into(), &mut Vec::new()).is_err();
            assert!(is_refused || !filter.holds_only(), "{at} is not loaded as it is");
            // `listed` finds one list and no more.
            if let Ok(through) = run(&both, &wanted("a:1"), 4096) {
                went_on += 1;
                assert_eq!(
                    listed(&through, "manifest.json"),
                    serde_json::json!([{"Config": "c", "Layers": ["l"], "RepoTags": null}]),
                    "{at}"
                );
            }
        }
    }
    assert!(went_on > 4, "{went_on}");
}

/// Go, in which engines are written, takes `repotags` for `RepoTags`.
#[test]
fn of_an_image_only_what_is_known_goes_on() {
    let list = br#"[{"Config": "c", "RepoTags": ["a:1"], "Layers": ["l"], "repotags": ["alpine:latest"], "x": 1}]"#;
    let bytes = archive(&[("manifest.json", list)]);
    let through = run(&bytes, &wanted("a:1"), 4096).unwrap();
    assert_eq!(
        listed(&through, "manifest.json"),
        serde_json::json!([{"Config": "c", "Layers": ["l"], "RepoTags": null}])
    );
    let list = br#"[{"Config": "c", "RepoTags": ["r.example/a:1"], "Layers": ["l"], "repotags": ["alpine:latest"]}]"#;
    let mut filter = Filter::new(&wanted("r.example/a:1"));
    filter.push(archive(&[("manifest.json", list)]).into(), &mut Vec::new()).unwrap();
    assert!(!filter.holds_only());
    let index = br#"{"Manifests": [{"digest": "evil"}], "manifests": [{"digest": "d", "Annotations": {"org.opencontainers.image.ref.name": "alpine"}}]}"#;
    let through = run(&archive(&[("index.json", index)]), &wanted("a:1"), 4096).unwrap();
    assert_eq!(listed(&through, "index.json"), serde_json::json!({"manifests": [{"digest": "d"}]}));
}

#[test]
fn links_directories_and_long_names_arrive_and_devices_do_not() {
    let (long, target) = ("d".repeat(150), "t".repeat(220));
    let mut bytes = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    for (kind, name, link) in [
        (tar::EntryType::Directory, "dir/", ""),
        (tar::EntryType::Symlink, "link", target.as_str()),
        (tar::EntryType::Link, long.as_str(), "short"),
        (tar::EntryType::Symlink, "short", "../x/layer.tar"),
        (tar::EntryType::Fifo, "fifo", ""),
        (tar::EntryType::Char, "device", ""),
    ] {
        header.set_entry_type(kind);
        header.set_size(0);
        match link {
            "" => bytes.append_data(&mut header, name, &b""[..]).unwrap(),
            link => bytes.append_link(&mut header, name, link).unwrap(),
        }
    }
    let list = br#"[{"Config": "c", "RepoTags": ["a:1"], "Layers": ["l"]}]"#;
    let bytes =
        [bytes.into_inner().unwrap()[..].strip_suffix(&[0; 1024]).unwrap(), &archive(&[("manifest.json", list)])]
            .concat();
    let through = run(&bytes, &wanted("a:1"), 4096).unwrap();
    let mut archive = tar::Archive::new(through.as_slice());
    let found: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(&entry.path_bytes()), text(&entry.link_name_bytes().unwrap_or_default()))
        })
        .collect();
    let told = |name: &str, link: &str| (name.to_owned(), link.to_owned());
    assert_eq!(
        found,
        [
            told("dir/", ""),
            told("link", &target),
            told(&long, "short"),
            told("short", "../x/layer.tar"),
            told("manifest.json", "")
        ]
    );
}

#[test]
fn a_layer_of_more_than_eight_gibibytes_keeps_its_size() {
    for size in [0, 511, (1 << 33) - 1, 1 << 33, 1 << 40] {
        assert_eq!(number(&header_of(b"layer.tar", b'0', b"", size)[124..136]), Some(size));
    }
}
