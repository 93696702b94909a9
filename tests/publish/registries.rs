//! The tarballs of a dist directory, pushed to registries.

use serde_json::{Value, json};

use crate::smoke::{image, left, pack};
use crate::support::archive::Image;
use crate::support::registry::{self, Registry};
use crate::world::{World, api};

const ARCHES: [(&str, &str); 2] = [("arm64", "arm64"), ("x64", "amd64")];

/// A bundle and its tarballs for both architectures; what each has for an id.
fn dist(world: &World, agents: &[&str]) -> Vec<String> {
    let entries: Vec<_> = agents
        .iter()
        .map(|name| json!({"name": name, "image": format!("localhost/smoke/{name}"), "version": "1"}))
        .collect();
    world.sandbox.write("bundle.json", json!({"agents": entries}).to_string());
    let mut ids = Vec::new();
    for name in agents {
        for (arch, go) in ARCHES {
            let image = of(name).arch(go).file("who", format!("{} {name} {arch}", world.owner));
            pack(world, &format!("{name}-1-{arch}.tar.gz"), &image);
            ids.push(image.id());
        }
    }
    ids
}

fn of(name: &str) -> Image {
    match name {
        "app" => image(),
        name => crate::support::archive::docker_archive().tag(format!("localhost/smoke/{name}:1")),
    }
}

/// Pulls for a platform by Podman itself, and yields the image's id and architecture; nothing stays.
fn pulled(reference: &str, platform: &str) -> (String, String) {
    let (status, said) = api("POST", &format!("/v1.41/images/create?fromImage={reference}&platform={platform}"), b"");
    assert_eq!(status, 200, "{said}");
    let (status, seen) = api("GET", &format!("/v4.0.0/libpod/images/{reference}/json"), b"");
    assert_eq!(status, 200, "{seen}");
    let id = seen["Id"].as_str().unwrap().to_owned();
    let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
    (id, seen["Architecture"].as_str().unwrap().to_owned())
}

fn push(world: &World, more: &str) -> Value {
    let words = format!("publish push --bundle bundle.json --dist-dir dist --tls-verify=false -o json {more}");
    world.run(words).expect(0).json()
}

#[test]
fn the_same_images_are_pulled_for_each_platform_by_one_name() {
    let world = World::bare();
    let registry = Registry::open();
    let to = format!("{}/{}", registry.address, world.owner);
    let ids = dist(&world, &["app", "two"]);
    let pushed = push(&world, &format!("--registry {to}"));
    assert_eq!(pushed.as_array().unwrap().len(), 2, "{pushed}");
    for (at, name) in ["app", "two"].into_iter().enumerate() {
        assert_eq!(pushed[at]["reference"], json!(format!("{to}/{name}:1")));
        for (of, (arch, go)) in ARCHES.into_iter().enumerate() {
            let (id, of_arch) = (&ids[2 * at + of], format!("{to}/{name}:1-{arch}"));
            let platform = &pushed[at]["platforms"][of];
            assert_eq!((&platform["reference"], &platform["imageId"]), (&json!(of_arch), &json!(id)));
            assert_eq!(pulled(&format!("{to}/{name}:1"), &format!("linux/{go}")), (id.clone(), go.to_owned()));
            assert_eq!(pulled(&of_arch, &format!("linux/{go}")).0, *id);
            let by_digest = format!("{to}/{name}@{}", platform["digest"].as_str().unwrap());
            assert_eq!(pulled(&by_digest, &format!("linux/{go}")).0, *id);
        }
        let by_digest = format!("{to}/{name}@{}", pushed[at]["digest"].as_str().unwrap());
        assert_eq!(pulled(&by_digest, "linux/arm64").0, ids[2 * at]);
    }
    assert_eq!(push(&world, &format!("--registry {to}")), pushed, "a second push changes nothing");
    let text = world
        .run(format!(
            "publish push --bundle bundle.json --dist-dir dist --tls-verify=false --registry {to} --agent app"
        ))
        .expect(0);
    assert_eq!(text.stdout, format!("{to}/app:1@{}\n", pushed[0]["digest"].as_str().unwrap()));
    assert_eq!(left(&world), Vec::<std::path::PathBuf>::new());
}

#[test]
fn one_architecture_alone_is_no_list() {
    let world = World::bare();
    let registry = Registry::open();
    let to = format!("{}/{}", registry.address, world.owner);
    let ids = dist(&world, &["app"]);
    std::fs::remove_file(world.sandbox.path("dist/images/app-1-arm64.tar.gz")).unwrap();
    let words = format!("publish push --bundle bundle.json --dist-dir dist --tls-verify=false --registry {to}");
    let said = world.run(words.as_str()).expect(1).stderr;
    assert!(said.contains("missing tarball inputs for app/arm64"), "{said}");
    let pushed = push(&world, &format!("--registry {to} --arch x64"));
    assert_eq!(pushed[0]["digest"], pushed[0]["platforms"][0]["digest"]);
    assert_eq!(pulled(&format!("{to}/app:1"), "linux/amd64").0, ids[1]);
}

#[test]
fn a_login_is_used_and_never_reported_and_what_is_refused_says_so() {
    let mut world = World::bare();
    let mut registry = Registry::open();
    registry.wants_login();
    let to = format!("{}/{}", registry.address, world.owner);
    dist(&world, &["app"]);
    let words = format!("publish push --bundle bundle.json --dist-dir dist --tls-verify=false --registry {to}");
    let refused = world.run(words.as_str()).expect(1);
    assert!(
        refused.stderr.contains("failed to push `") && refused.stderr.contains("`podman login`"),
        "{}",
        refused.stderr
    );
    let auth = world.sandbox.write("auth.json", registry::login(&registry.address));
    world.sandbox.set("REGISTRY_AUTH_FILE", &auth);
    let pushed = world.run(words.as_str()).expect(0);
    for said in [&pushed.stdout, &pushed.stderr, &refused.stderr] {
        assert!(!said.contains(registry::PASSWORD) && !said.contains("c29tZWJvZHk6"), "{said}");
    }
    // Plain HTTP where TLS is wanted.
    let with_tls = words.replace("--tls-verify=false ", "");
    let said = world.run(with_tls).expect(1).stderr;
    assert!(said.contains("failed to push") && said.contains("--tls-verify=false"), "{said}");
    assert_eq!(left(&world), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_cannot_be_pushed_is_said_before_anything_is() {
    let world = World::bare();
    dist(&world, &["app"]);
    let fails = |more: &str, code: i32, part: &str| {
        let words = format!("publish push --bundle bundle.json --dist-dir dist {more}");
        let said = world.run(words).expect(code).stderr;
        assert!(said.contains(part), "{part}: {said}");
    };
    fails("--registry docker://ghcr.io/a", 64, "written without `docker://`");
    fails("--registry openclaw", 64, "begins with no host");
    fails("--registry 127.0.0.1:1/a --arch x64", 1, "connection refused");
    fails("--registry 127.0.0.1:1/a --agent other", 64, "the bundle has no agent `other`");
    pack(&world, "app-1-x64.tar.gz", &image().arch("arm64"));
    fails("--registry 127.0.0.1:1/a --arch x64", 1, "is built for linux/arm64, not for linux/amd64");
    world.sandbox.write("dist/images/app-1-x64.tar.gz.sha256", format!("{}  app-1-x64.tar.gz\n", "0".repeat(64)));
    fails("--registry 127.0.0.1:1/a", 6, "sha256 mismatch");
    assert_eq!(left(&world), Vec::<std::path::PathBuf>::new());
}
