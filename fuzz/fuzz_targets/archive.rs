//! An archive of images: whatever comes in, what goes on holds the wanted image alone and no name, as another reader of tar
//! archives sees it.

#![no_main]

use std::io::Read;
use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;
use steadfast::fuzzing::cache::{clean_path, filter, holds_only};
use steadfast::model::ImageRef;
use steadfast_fuzz::{bounded, check_message, expand, mutate_tar, pieces};

fn check(bytes: &[u8]) {
    static WANTED: OnceLock<ImageRef> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| ImageRef::new("r.example/a:1").unwrap());
    let whole = filter([bytes], wanted);
    assert!(filter(pieces(bytes), wanted) == whole, "it depends on where the bytes are cut");
    match whole {
        Ok(out) => check_passed(&out),
        // What it names is bounded where it is said.
        Err(why) if why.starts_with('[') => {}
        Err(why) => check_message(&why),
    }
    // What may go on as it is has no name but the wanted one.
    if holds_only(bytes, wanted) {
        // Whoever reads the archive takes the first.
        for (_, list) in lists(bytes).unwrap_or_default().into_iter().take(1) {
            let images = serde_json::from_slice::<Value>(&list).unwrap();
            let tags = images.pointer("/0/RepoTags").and_then(Value::as_array).cloned().unwrap_or_default();
            assert!(tags.iter().all(|tag| !tag.is_string() || tag == wanted.as_str()), "{images}");
        }
    }
}

fn check_passed(out: &[u8]) {
    let lists = lists(out).expect("what goes on is an archive");
    let named = |name: &str| lists.iter().filter(|(path, _)| path == name).collect::<Vec<_>>();
    let (docker, oci) = (named("manifest.json"), named("index.json"));
    assert!(named("repositories").is_empty(), "names in an older form");
    assert_eq!(docker.len() + oci.len(), 1, "lists of images");
    if let [(_, list)] = docker.as_slice() {
        let images: Vec<Value> = serde_json::from_slice(list).unwrap();
        assert_eq!(images.len(), 1, "images");
        assert_eq!(images[0]["RepoTags"], Value::Null);
    }
    if let [(_, list)] = oci.as_slice() {
        let index: Value = serde_json::from_slice(list).unwrap();
        let images = index["manifests"].as_array().unwrap();
        assert_eq!(images.len(), 1, "images");
        assert!(images[0].get("annotations").is_none(), "a name: {index}");
    }
}

/// The files of an archive that list images or names, as the `tar` crate finds them.
fn lists(bytes: &[u8]) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let path = clean_path(&entry.path_bytes());
        if matches!(path.as_str(), "manifest.json" | "index.json" | "repositories") {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            found.push((path, content));
        }
    }
    Ok(found)
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mutate_tar(data, size, max_size, seed) });

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data);
    bounded(|| check(&bytes));
});
