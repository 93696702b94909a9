//! A published manifest: its copy says the same, no tarball lies outside of its directory or in another's place, and a plan can
//! be made from it.

#![no_main]

use std::path::{Component, Path};
use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use steadfast::model::{Arch, Artifact, ArtifactKey, Desired, Manifest, ManifestError, Seen};
use steadfast::plan::Policy;
use steadfast::snapshot::Snapshot;
use steadfast_fuzz::{bounded, check_message, check_page, desired, expand, mutate_json, nothing};

fn check(bytes: &[u8]) {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(err) => return check_message(&err.to_string()),
    };
    let mut copy = Vec::new();
    manifest.write_copy(&mut copy).unwrap();
    let again = Manifest::parse_copy(&copy).expect("a copy is a manifest");
    assert!(again == manifest && again.copy_sha256() == manifest.copy_sha256(), "a copy says the same");
    let mut twice = Vec::new();
    again.write_copy(&mut twice).unwrap();
    assert!(copy == twice, "a copy of a copy is the copy");
    check_artifacts(&manifest);
    check_message(&manifest.agent("nobody").map_or_else(|err| err.to_string(), |_| String::new()));

    static DESIRED: OnceLock<Desired> = OnceLock::new();
    let desired = DESIRED.get_or_init(desired);
    let mut observed = nothing();
    observed.published = Seen::Present(manifest);
    let snapshot = Snapshot::of(desired, observed, &Policy::default(), None);
    let said = steadfast::fuzzing::render::snapshot(desired, &snapshot);
    said.pages.iter().chain(&said.data).for_each(|page| check_page(page));
    snapshot.plan.waiting.iter().for_each(|waiting| check_message(&waiting.on.to_string()));
}

fn check_artifacts(manifest: &Manifest) {
    let mut accepted = Vec::new();
    for (agent, arch) in manifest.agents.keys().take(200).flat_map(|agent| Arch::ALL.map(|arch| (agent, arch))) {
        match manifest.artifact(agent, arch) {
            Ok(artifact) => accepted.push(artifact),
            // Its agent's name was chosen by who asks.
            Err(ManifestError::Artifact { why, .. }) => check_message(&why),
            Err(err @ ManifestError::NoArch { .. })
                if agent.len() < 64 && !agent.contains(steadfast::fuzzing::acts) =>
            {
                check_message(&err.to_string());
            }
            Err(_) => {}
        }
    }
    let cache = Path::new("/c");
    for artifact in &accepted {
        for key in [&artifact.key, &artifact.key_beside()] {
            let path = key.path_in(cache);
            let below = path.strip_prefix("/c/vm").unwrap_or_else(|_| panic!("{path:?} leads outside"));
            assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
            assert!(!path.to_string_lossy().contains(steadfast::fuzzing::acts), "{path:?}");
        }
        // A list lies where no tarball does, and is called what it is.
        if let Some(layers) = &artifact.layers {
            assert!(layers.key.as_str().starts_with("vm/") && !layers.key.as_str().contains(steadfast::fuzzing::acts));
            let place = |key: &ArtifactKey| format!("{key}/");
            let list = place(&layers.key);
            let clash = |other: &Artifact| {
                let other = place(&other.key);
                list.starts_with(&other) || other.starts_with(&list)
            };
            assert!(!accepted.iter().any(clash), "{} is a tarball's", layers.key);
        }
        for other in &accepted {
            let is_below =
                other.key.as_str().strip_prefix(artifact.key.as_str()).is_some_and(|rest| rest.starts_with('/'));
            assert!(!is_below, "{} lies below {}", other.key, artifact.key);
            assert!(artifact.key != other.key || artifact.sha256 == other.sha256, "{} is two files", artifact.key);
        }
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed, 0)
});

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data);
    bounded(|| check(&bytes));
});
