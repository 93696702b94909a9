//! Images: what a tarball gives and what it does not, whose names are whose, and what goes when nobody needs it.

use std::path::Path;

use serde_json::{Value, json};

use crate::lossy::Lossy;
use crate::support::archive::{Compression, Image, docker_archive};
use crate::world::{World, api, kinds, listed, sha256, until};

/// Every image name in Podman that has this in it, with its image.
fn tags(part: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for image in listed("/v4.0.0/libpod/images/json") {
        for name in image["Names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if name.contains(part) {
                found.push((name.to_owned(), image["Id"].as_str().unwrap().to_owned()));
            }
        }
    }
    found.sort();
    found
}

fn has_image(id: &str) -> bool {
    api("GET", &format!("/v4.0.0/libpod/images/{id}/exists"), b"").0 == 204
}

/// A docker-archive of several images, as `docker save a b` writes it.
fn bundle(images: &[Image]) -> Vec<u8> {
    let mut lists = Vec::new();
    let mut whole = tar::Builder::new(Vec::new());
    for image in images {
        let bytes = image.clone().compress(Compression::None).build();
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if path == "manifest.json" {
                let list: Vec<Value> = serde_json::from_slice(&content).unwrap();
                lists.extend(list);
            } else {
                append(&mut whole, &path, &content);
            }
        }
    }
    append(&mut whole, "manifest.json", Value::from(lists).to_string().as_bytes());
    whole.into_inner().unwrap()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, content).unwrap();
}

/// Publishes bytes under a key of any ending, in a directory of the sandbox.
fn publish_at(world: &World, site: &str, agent: &str, image: &str, version: &str, ending: &str, bytes: &[u8]) {
    let tarball = |arch: &str| {
        let key = format!("vm/images/{agent}-{version}-{arch}{ending}");
        world.sandbox.write(&format!("{site}/{key}"), bytes);
        json!({"key": key, "sha256": sha256(bytes), "sizeBytes": bytes.len()})
    };
    let tarballs = json!({"arm64": tarball("arm64"), "x64": tarball("x64")});
    let agents = json!({agent: {"image": image, "version": version, "tarballs": tarballs}});
    let manifest = json!({"schemaVersion": 2, "updatedAt": "2026-04-24T00:00:00.000Z", "agents": agents});
    world.sandbox.write(&format!("{site}/vm/manifest.json"), manifest.to_string());
}

#[test]
fn a_bundle_gives_nothing_but_the_image_that_its_entry_names() {
    let world = World::new();
    let (owner, mine) = (&world.owner, world.image("1").id());
    // The publisher's machine has another image under the name of ours, and one whose name is free here.
    let theirs = docker_archive().tag(format!("localhost/{owner}:1")).file("whose", format!("{owner} publisher"));
    let extra = docker_archive().tag(format!("localhost/{owner}/extra:1")).file("whose", format!("{owner} extra"));
    let pack = world.tarball("pack", "1");
    world.publish_bytes(vec![("pack", "1", bundle(&[theirs.clone(), pack.clone(), extra.clone()]))]);
    world.state(&[&world.agent("mine", "")]);
    world.applied();
    let ids = world.ids();
    world.state(&[&world.agent("mine", ""), &world.published("pack", "1")]);
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(plan["interrupts"], json!([]));
    let took = world.apply_kinds();
    assert!(!took.contains(&"replaceContainer".to_owned()), "{took:?}");
    assert_eq!(world.ids()[&world.name("mine")], ids[&world.name("mine")], "nobody was interrupted");
    let names = [format!("localhost/{owner}/pack:1"), format!("localhost/{owner}:1")];
    assert_eq!(tags(&format!("/{owner}")), [(names[0].clone(), pack.id()), (names[1].clone(), mine)]);
    assert!(!has_image(&theirs.id()) && !has_image(&extra.id()), "no other image came along");
    assert_eq!(world.inspect("pack")["ImageName"], json!(names[0]));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

/// What `docker save NAME` writes for an image of its hub, or of this machine.
#[test]
fn a_short_name_in_a_tarball_is_the_one_the_manifest_means() {
    for (image, full) in [("", "docker.io/library/"), ("who/", "docker.io/"), ("localhost/", "")] {
        let world = World::bare();
        let name = format!("{image}{}", world.owner);
        let short = name.trim_start_matches("localhost/");
        let tarball = docker_archive().tag(format!("{short}:7")).file("version", world.owner.clone());
        publish_at(
            &world,
            "published",
            "a",
            &name,
            "7",
            ".tar.gz",
            &tarball.clone().compress(Compression::Gzip).build(),
        );
        world.state(&[&world.published("a", "7")]);
        world.applied();
        let wanted = format!("{full}{name}:7");
        assert_eq!(tags(&world.owner), [(wanted.clone(), tarball.id())], "and no other tag stays");
        assert_eq!(world.inspect("a")["ImageName"], json!(wanted));
        assert_eq!(world.apply_kinds(), Vec::<String>::new());
        // Podman knows it by that name only, and `World` clears up by another.
        world.run("down").expect(0);
        let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{}?force=true", tarball.id()), b"");
    }
}

#[test]
fn a_refused_tarball_leaves_nothing_and_is_not_sent_again() {
    let world = World::bare();
    let other = docker_archive().tag(format!("localhost/{}/other:1", world.owner)).file("x", world.owner.clone());
    world.publish_bytes(vec![("a", "1", other.build())]);
    world.state(&[&world.published("a", "1")]);
    let says = format!("holds `localhost/{}/other:1`, not `localhost/{0}/a:1`", world.owner);
    world.run("apply").expect(1).says(&says).says("the publisher must build the tarball");
    assert_eq!((tags(&world.owner), has_image(&other.id())), (vec![], false));
    // From then on it is known. The file itself is not even read.
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let file = world.sandbox.root().join(format!("cache/vm/images/a-1-{arch}.tar.gz"));
    let read_at = |path: &Path| std::os::unix::fs::MetadataExt::atime_nsec(&std::fs::metadata(path).unwrap());
    let before = read_at(&file);
    world.run("apply").expect(1).says(&says);
    assert_eq!(read_at(&file), before);
    // One that was repaired is tried.
    let mended = world.tarball("a", "1");
    world.publish_bytes(vec![("a", "1", mended.build())]);
    world.applied();
    assert!(world.runs("a"));
}

/// As `docker save` writes an image since version 25: both lists in one archive.
#[test]
fn an_archive_with_both_lists_runs_under_the_wanted_name() {
    let world = World::bare();
    let (owner, image) = (&world.owner, world.tarball("a", "1"));
    let mut archive = tar::Builder::new(Vec::new());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", "0".repeat(64)), "size": 2,
        "annotations": {"io.containerd.image.name": format!("localhost/{owner}/elsewhere:1"), "org.opencontainers.image.ref.name": "1"},
    }]});
    append(&mut archive, "index.json", index.to_string().as_bytes());
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    let plain = image.clone().compress(Compression::None).build();
    let mut inner = tar::Archive::new(plain.as_slice());
    for entry in inner.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        append(&mut archive, &path, &content);
    }
    world.publish_bytes(vec![("a", "1", archive.into_inner().unwrap())]);
    world.state(&[&world.published("a", "1")]);
    world.applied();
    assert_eq!(tags(&format!("/{owner}")), [(format!("localhost/{owner}/a:1"), image.id())]);
}

/// An OCI archive, as buildah and skopeo write it. Made by Podman itself.
#[test]
fn an_oci_archive_is_loaded_and_named() {
    let world = World::new();
    let id = world.image("1").id();
    let mut archive = Vec::new();
    let path = format!("/v4.0.0/libpod/images/localhost%2F{}:1/get?format=oci-archive", world.owner);
    archive.extend(crate::world::download(&path));
    let (status, said) = api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
    assert_eq!(status, 200, "{said}");
    world.publish_bytes(vec![("a", "1", archive)]);
    world.state(&[&world.published("a", "1")]);
    world.applied();
    // Its config was rewritten, and so it has another id.
    let image = world.inspect("a")["Image"].as_str().unwrap().to_owned();
    assert_eq!(tags(&format!("/{}", world.owner)), [(format!("localhost/{}/a:1", world.owner), image)]);
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

#[test]
fn old_images_go_with_their_tarballs_whatever_these_are_called() {
    for (ending, compression) in
        [(".tar.gz", Compression::Gzip), (".tar.zst", Compression::Zstd), (".tar", Compression::None)]
    {
        let world = World::bare();
        let image = format!("localhost/{}/a", world.owner);
        let tarball = |version: &str| world.tarball("a", version).compress(compression);
        world.state(&[&world.published("a", "latest")]);
        let mut said = String::new();
        for version in ["1.0", "1.1", "1.2", "1.3"] {
            publish_at(&world, "published", "a", &image, version, ending, &tarball(version).build());
            said = world.run("apply").expect(0).stderr;
        }
        let left: Vec<_> = tags(&format!("/{}/", world.owner)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, [format!("{image}:1.2"), format!("{image}:1.3")], "keep: 1\n{said}");
        let files = std::fs::read_dir(world.sandbox.root().join("cache/vm/images")).unwrap().count();
        assert_eq!(files, 2, "{ending}");
        assert!(said.contains(&format!("pruned image `{image}:1.1`")), "{said}");
        assert_eq!(world.apply_kinds(), Vec::<String>::new());
    }
}

#[test]
fn an_image_that_somebody_else_named_used_or_brought_is_theirs() {
    let world = World::bare();
    let image = format!("localhost/{}/a", world.owner);
    for (at, version) in ["1", "2", "3", "4"].into_iter().enumerate() {
        if version == "3" {
            // It is there already, and by the same name.
            world.load(&world.tarball("a", version).compress(Compression::None));
        }
        world.publish(&[("a", version)]);
        world.state(&[&world.published("a", "latest")]);
        let file = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
        world.sandbox.write("steadfast.yaml", file.replace("agents:", "cache: {keep: 0}\nagents:"));
        world.run(if at < 3 { "apply --no-prune" } else { "plan" }).expect(0);
    }
    let (first, second) = (world.tarball("a", "1").id(), world.tarball("a", "2").id());
    let path = format!("/v4.0.0/libpod/images/{first}/tag?repo=localhost/{}/mine&tag=1", world.owner);
    assert_eq!(api("POST", &path, b"").0, 201);
    let spec = json!({"name": format!("{}-theirs", world.owner), "image": second, "command": ["/agent"]});
    assert_eq!(api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes()).0, 201);
    let took = world.apply_kinds();
    assert!(took.contains(&"pruneArtifact".to_owned()) && !took.contains(&"pruneImage".to_owned()), "{took:?}");
    for version in ["1", "2", "3"] {
        assert!(has_image(&world.tarball("a", version).id()), "{version}");
    }
    // Once nobody needs it, it goes, with its bytes in the plan.
    let (status, _) = api("DELETE", &format!("/v4.0.0/libpod/containers/{}-theirs?force=true", world.owner), b"");
    assert_eq!(status, 200);
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(kinds(&plan), ["pruneImage"], "{plan}");
    assert_eq!(plan["actions"][0]["target"], json!(format!("{image}:2")));
    assert!(plan["actions"][0]["bytes"].as_u64().unwrap() > 100_000, "{plan}");
    assert_eq!(plan["summary"]["fetchBytes"], json!(0));
    let text = world.run("plan").expect(0).stdout;
    assert!(text.contains(&format!("prune image `{image}:2` (")) && text.contains("MiB)"), "{text}");
    assert_eq!(world.apply_kinds(), ["pruneImage"]);
    assert!(!has_image(&second));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

/// Two state files whose publishers have other content under one reference and one key.
fn two_publishers(world: &World, roots: [&str; 2]) -> [String; 2] {
    let image = format!("localhost/{}/a", world.owner);
    std::array::from_fn(|at| {
        let (site, root) = (format!("site-{at}"), roots[at]);
        let tarball = docker_archive().tag(format!("{image}:1")).file("version", format!("{} of {at}", world.owner));
        publish_at(world, &site, "a", &image, "1", ".tar.gz", &tarball.compress(Compression::Gzip).build());
        let file = format!("{at}.yaml");
        let text = format!(
            "apiVersion: steadfast/v1\nname: {}-{at}\nroot: {}\nruntime: {{podman: {{}}}}\n\
             manifest: {{url: {site}/vm/manifest.json}}\nagents:\n  a: {{version: \"1\"}}\n",
            world.owner,
            world.sandbox.path(root).display(),
        );
        world.sandbox.write(&file, text);
        file
    })
}

#[test]
fn two_state_files_with_other_content_under_one_name_never_take_it_from_each_other() {
    for roots in [["root-one", "root-two"], ["root-one", "root-one"]] {
        let world = World::bare();
        let files = two_publishers(&world, roots);
        for file in &files {
            world.run(format!("apply -f {file} -o json")).expect(0);
        }
        for round in 0..2 {
            for file in &files {
                let took = kinds(&world.run(format!("apply -f {file} -o json")).expect(0).json());
                assert_eq!(took, Vec::<String>::new(), "{roots:?}, round {round}");
                world.run(format!("plan -f {file} --detailed-exitcode")).expect(0);
            }
        }
        for (at, file) in files.iter().enumerate() {
            let version = world.run(format!("exec -f {file} a -- cat /version")).expect(0).stdout;
            assert_eq!(version, format!("{} of {at}", world.owner));
        }
        // Two `run`s beside each other have nothing to do either.
        let runs: Vec<_> = files.iter().map(|file| world.spawn(format!("run -f {file} --resync 1s"))).collect();
        for run in &runs {
            until("it has converged", || run.stderr().contains("converged: "));
        }
        std::thread::sleep(std::time::Duration::from_secs(4));
        for run in runs {
            let said = run.stderr();
            run.signal(rustix::process::Signal::TERM);
            run.end().expect(143);
            for word in ["loaded image", "tagged image", "fetched", "replaced"] {
                assert!(!said.contains(word), "{roots:?}: {said}");
            }
        }
        for file in &files {
            world.run(format!("down -f {file}")).expect(0);
        }
    }
}

/// The same, begun by two `run`s at once from nothing.
#[test]
fn two_runs_that_begin_at_once_each_get_what_is_theirs() {
    let world = World::bare();
    let files = two_publishers(&world, ["root-one", "root-one"]);
    let runs: Vec<_> = files.iter().map(|file| world.spawn(format!("run -f {file} --resync 1s"))).collect();
    for (at, file) in files.iter().enumerate() {
        until("it serves what is its own", || {
            world.run(format!("exec -f {file} a -- cat /version")).stdout == format!("{} of {at}", world.owner)
        });
    }
    let loads = |said: &str| said.matches("✓ loaded image").count();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let before: Vec<_> = runs.iter().map(|run| loads(&run.stderr())).collect();
    std::thread::sleep(std::time::Duration::from_secs(4));
    for (run, before) in runs.into_iter().zip(before) {
        let said = run.stderr();
        assert_eq!(loads(&said), before, "{said}");
        assert!(before <= 2, "{said}");
        run.signal(rustix::process::Signal::TERM);
        run.end().expect(143);
    }
    for file in &files {
        world.run(format!("down -f {file}")).expect(0);
    }
}

/// Gives a name to an image of one's own, as somebody does by hand.
fn somebodys(world: &World, name: &str) -> String {
    let own = world.tarball("own", name).tag(format!("localhost/{}/own:{name}", world.owner));
    world.load(&own.clone().compress(Compression::None));
    let path = format!("/v4.0.0/libpod/images/{}/tag?repo=localhost/{}/{name}&tag=1", own.id(), world.owner);
    assert_eq!(api("POST", &path, b"").0, 201);
    own.id()
}

fn untag(world: &World, id: &str, name: &str) {
    let path = format!("/v4.0.0/libpod/images/{id}/untag?repo=localhost/{}/{name}&tag=1", world.owner);
    assert_eq!(api("POST", &path, b"").0, 201);
}

#[test]
fn a_name_that_somebody_gave_to_another_image_is_a_conflict_until_it_is_adopted_or_released() {
    let world = World::bare();
    world.publish(&[("a", "1"), ("b", "1"), ("c", "1")]);
    world.state(&[&world.published("a", "1"), &world.published("b", "1")]);
    let own = somebodys(&world, "a");
    let mine = format!("localhost/{}/a:1", world.owner);
    let named = |world: &World| tags(&format!("/{}/a:1", world.owner));
    // The first time the tarball is loaded, since only that tells which image it holds.
    for took in [true, false] {
        let outcome = world.run("apply").expect(1);
        assert!(
            outcome.stderr.contains(&format!("the tag `{mine}` points to a different image ({}", &own[..12])),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains(&format!("`podman untag {} {mine}`", &own[..12])), "{outcome:?}");
        assert!(outcome.stderr.contains("--adopt"), "{outcome:?}");
        assert_eq!(
            outcome.stderr.contains("loaded image") || outcome.stdout.contains("loaded image"),
            took,
            "{outcome:?}"
        );
        assert_eq!(named(&world), [(mine.clone(), own.clone())]);
        assert_eq!(outcome.stderr.matches("points to a different image").count(), 1, "{outcome:?}");
        assert!(!world.runs("a") && world.runs("b"), "the others go on");
    }
    let report = world.run("apply -o json").expect(1).json();
    assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["problems"][0]["kind"], json!("conflict"), "{report}");
    let plan = world.run("plan").expect(1).stdout;
    assert!(plan.contains(&format!("the tag `{mine}` points to a different image")), "{plan}");
    let why = world.run("why a");
    assert!(why.stdout.contains(&format!("the tag `{mine}` points to a different image")), "{why:?}");

    world.run("apply --adopt").expect(0);
    assert_eq!(named(&world), [(mine.clone(), world.tarball("a", "1").id())]);
    assert!(has_image(&own), "it stays");
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    // Moved again while the agent runs: no drift, and nobody's name is taken back.
    let path = format!("/v4.0.0/libpod/images/{own}/tag?repo=localhost/{}/a&tag=1", world.owner);
    assert_eq!(api("POST", &path, b"").0, 201);
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    assert_eq!(named(&world), [(mine, own)]);

    // `run` goes on by itself as soon as the name is released.
    let own = somebodys(&world, "c");
    world.state(&[&world.published("a", "1"), &world.published("b", "1"), &world.published("c", "1")]);
    let run = world.spawn("run --resync 1s");
    until("it says so", || run.stderr().contains("points to a different image"));
    untag(&world, &own, "c");
    until("it runs", || world.runs("c"));
    run.signal(rustix::process::Signal::TERM);
    run.end().expect(143);
}

/// 300 MiB of zeros in 300 KiB: only its length as it grows tells.
#[test]
fn what_unpacks_to_more_than_there_is_room_for_is_broken_off() {
    let mut world = World::bare();
    let big = world.tarball("a", "1").file("zeros", vec![0; 300 << 20]);
    world.publish_bytes(vec![("a", "1", big.build())]);
    world.state(&[&world.published("a", "1")]);
    let proxy = Lossy::start(&mut world);
    let info = |room: u64| json!({"store": {"graphRootAllocated": 1000 + room, "graphRootUsed": 1000}}).to_string();
    proxy.say("/info ", &info(100 << 20));
    let outcome = world.run("apply").expect(1);
    assert!(outcome.stderr.contains("unpacks to more than 1"), "{outcome:?}");
    assert!(outcome.stderr.contains("MiB, and Podman has room for 100 MiB"), "{outcome:?}");
    assert!(outcome.stderr.contains("podman system df"), "{outcome:?}");
    assert!(!has_image(&big.id()));
    // With room enough, or where that is not told, it is loaded.
    proxy.say("/info ", &info(10 << 30));
    world.run("apply").expect(0);
    assert!(has_image(&big.id()) && world.runs("a"));
    world.run("down").expect(0);
    assert_eq!(api("DELETE", &format!("/v4.0.0/libpod/images/{}?force=true", big.id()), b"").0, 200);
    proxy.say("/info ", "{}");
    world.run("apply").expect(0);
    assert!(has_image(&big.id()) && world.runs("a"));
}
