//! Over an air gap: what was exported on one side is imported on the other, and applied without a network.

use serde_json::json;

use crate::support::command::Outcome;
use crate::world::{World, sha256, until};

const HOST: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };

/// A dist directory with one agent for both architectures, and its manifest.
fn dist(world: &World) {
    let image = format!("localhost/{}/app", world.owner);
    world
        .sandbox
        .write("bundle.json", json!({"agents": [{"name": "app", "image": image, "version": "1"}]}).to_string());
    for (arch, go) in [("arm64", "arm64"), ("x64", "amd64")] {
        let bytes = world.tarball("app", "1").arch(go).build();
        let name = format!("app-1-{arch}.tar.gz");
        world.sandbox.write(&format!("dist/images/{name}.sha256"), format!("{}  {name}\n", sha256(&bytes)));
        world.sandbox.write(&format!("dist/images/{name}"), bytes);
    }
    world.run("publish manifest --bundle bundle.json --dist-dir dist --out dist/manifest.json").expect(0);
}

fn export(world: &World, out: &str) -> Outcome {
    world.run(format!("publish export --bundle bundle.json --dist-dir dist --out {out} -o json"))
}

#[test]
fn what_was_exported_is_imported_and_applied_without_a_network() {
    let world = World::bare();
    dist(&world);
    let exported = export(&world, "a.tar").expect(0).json();
    let bytes = std::fs::read(world.sandbox.path("a.tar")).unwrap();
    assert_eq!((&exported["sha256"], &exported["sizeBytes"]), (&json!(sha256(&bytes)), &json!(bytes.len())));
    assert_eq!((&exported["artifacts"], &exported["hasSignature"]), (&json!(2), &json!(false)));
    assert!(world.sandbox.shell("touch dist/images/* dist/manifest.json && mkdir -p deep").code == 0);
    export(&world, "deep/b.tar").expect(0);
    assert!(std::fs::read(world.sandbox.path("deep/b.tar")).unwrap() == bytes, "the same bytes, whenever and wherever");
    // Unpacked, it is what a web server would serve.
    let site = world.sandbox.shell(
        "mkdir site && tar -xf a.tar -C site && cd site/vm/images && for f in *.sha256; do sha256sum -c $f; done",
    );
    assert_eq!(site.code, 0, "{}", site.stderr);

    // The other side: nobody answers where the manifest is published.
    let state = format!(
        "apiVersion: steadfast/v1\nname: {}\nruntime: {{podman: {{}}}}\nmanifest: {{url: \"http://127.0.0.1:1/vm/manifest.json\"}}\n\
         agents:\n  app: {{version: latest}}\n",
        world.owner
    );
    world.sandbox.write("steadfast.yaml", state);
    world.run("apply --timeout 5s").expect(1);
    let imported = world.run("cache import a.tar -o json").expect(0).json();
    let key = format!("vm/images/app-1-{HOST}.tar.gz");
    assert_eq!((&imported["imported"], &imported["arches"]), (&json!([key]), &json!([HOST])));
    let planned = world.run("plan").expect(0);
    let all = planned.stdout + &planned.stderr;
    assert!(all.contains("going on with the last good manifest: manifest fetch failed"), "{all}");
    world.applied();
    let said = world.run(["exec", "app", "--", "cat", "/version"]).expect(0).stdout;
    assert_eq!(said, format!("{} app 1", world.owner));
    let again = world.run("cache import a.tar").expect(0).stdout;
    assert!(again.contains("1 of which the cache had already; 1 more in the archive"), "{again}");
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    // Packed again by tar itself, and damaged on its way.
    let again = world.sandbox.shell(
        "tar -cf again.tar -C site vm && \
                                     printf x | dd of=site/vm/images/app-1-x64.tar.gz bs=1 seek=40 conv=notrunc && \
                                     printf x | dd of=site/vm/images/app-1-arm64.tar.gz bs=1 seek=40 conv=notrunc && \
                                     tar -cf bad.tar -C site vm",
    );
    again.expect(0);
    world.run("cache import again.tar --root fresh").expect(0);
    let bad = world.run("cache import bad.tar --root other").expect(6).says("bad.tar`: expected");
    assert!(bad.stderr.contains("hint: it was damaged or changed on its way"), "{}", bad.stderr);
}

#[test]
fn an_archive_is_judged_by_its_signature_where_keys_are_set() {
    let world = World::bare();
    dist(&world);
    export(&world, "unsigned.tar").expect(0);
    for keys in ["ours", "theirs"] {
        world.run(format!("publish keygen --no-password --out {keys}")).expect(0);
    }
    let sign = |key: &str, serial: u32, out: &str| {
        world.run(format!("publish sign --file dist/manifest.json --key {key} --serial {serial}")).expect(0);
        export(&world, out).expect(0);
    };
    sign("theirs", 9, "theirs.tar");
    sign("ours", 5, "five.tar");
    sign("ours", 4, "four.tar");
    let public = std::fs::read_to_string(world.sandbox.path("ours.pub")).unwrap();
    let state = format!(
        "apiVersion: steadfast/v1\nname: {}\nruntime: {{podman: {{}}}}\nmanifest:\n  url: \"http://127.0.0.1:1/vm/manifest.json\"\n  \
         publicKeys: [{}]\nagents:\n  app: {{version: latest}}\n",
        world.owner,
        public.lines().last().unwrap()
    );
    world.sandbox.write("steadfast.yaml", state);
    world.run("cache import unsigned.tar").expect(6).says("is not signed");
    world.run("cache import theirs.tar").expect(6).says("is not among the trusted ones");
    world.run("apply --timeout 5s").expect(1);
    world.run("cache import five.tar").expect(0);
    world.applied();
    world.run("cache import four.tar").expect(6).says("has serial 4, and one with serial 5 was seen before");
    assert!(world.run("trust show").expect(0).stdout.contains("serial 5"));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

#[test]
fn an_archive_has_all_that_its_manifest_names_or_there_is_none() {
    let world = World::bare();
    dist(&world);
    let fails = |code: i32, part: &str| {
        let said = export(&world, "a.tar").expect(code).stderr;
        assert!(said.contains(part), "{part}: {said}");
        let left: Vec<_> =
            std::fs::read_dir(world.sandbox.work()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains("a.tar")), "{left:?}");
    };
    let path = |name: &str| world.sandbox.path(&format!("dist/images/app-1-{name}"));
    let whole = std::fs::read(path("x64.tar.gz")).unwrap();
    let mut other = whole.clone();
    other[1000] ^= 1;
    std::fs::write(path("x64.tar.gz"), &other).unwrap();
    fails(6, "sha256 mismatch for `dist/images/app-1-x64.tar.gz`");
    std::fs::write(path("x64.tar.gz"), &whole[..whole.len() - 1]).unwrap();
    fails(6, "sha256 mismatch for `dist/images/app-1-x64.tar.gz`");
    std::fs::write(path("x64.tar.gz"), &whole).unwrap();
    std::fs::remove_file(path("arm64.tar.gz")).unwrap();
    fails(1, "`dist/manifest.json` names `dist/images/app-1-arm64.tar.gz`, which is not there");
    dist(&world);
    std::fs::remove_file(path("x64.tar.gz.sha256")).unwrap();
    fails(1, "app-1-x64.tar.gz.sha256`, which is not there");
    dist(&world);
    world.sandbox.write("dist/images/app-1-x64.tar.gz.sha256", format!("{}  app-1-x64.tar.gz\n", "0".repeat(64)));
    fails(6, "app-1-x64.tar.gz.sha256` says 0000");
    dist(&world);
    let bundle = std::fs::read_to_string(world.sandbox.path("bundle.json")).unwrap();
    world.sandbox.write("bundle.json", bundle.replace("\"1\"", "\"2\""));
    fails(1, "the bundle has `");
    world.sandbox.write("dist/manifest.json", "{}");
    fails(65, "it has no schemaVersion");
    std::fs::remove_file(world.sandbox.path("dist/manifest.json")).unwrap();
    fails(1, "cannot read `dist/manifest.json`");
}

#[test]
fn a_kill_or_a_full_disk_in_the_middle_leaves_the_manifest_that_was_there() {
    let world = World::bare();
    let image = format!("localhost/{}/app", world.owner);
    world
        .sandbox
        .write("bundle.json", json!({"agents": [{"name": "app", "image": image, "version": "1"}]}).to_string());
    // Large enough to be caught in the middle of.
    let mut bytes = vec![0x1f, 0x8b];
    bytes.extend((0..400_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8));
    for arch in ["arm64", "x64"] {
        let name = format!("app-1-{arch}.tar.gz");
        world.sandbox.write(&format!("dist/images/{name}.sha256"), format!("{}  {name}\n", sha256(&bytes)));
        world.sandbox.write(&format!("dist/images/{name}"), &bytes);
    }
    world.run("publish manifest --bundle bundle.json --dist-dir dist --out dist/manifest.json").expect(0);
    let out = world.sandbox.path("a.tar");
    world.sandbox.write("a.tar", "what was there");
    let exporting = world.spawn("publish export --bundle bundle.json --dist-dir dist --out a.tar");
    until("it is written", || {
        world.sandbox.path(".steadfast-tmp-a.tar~").metadata().is_ok_and(|found| found.len() > 0)
    });
    exporting.signal(rustix::process::Signal::KILL);
    exporting.end();
    assert_eq!(std::fs::read(&out).unwrap(), b"what was there");
    export(&world, "a.tar").expect(0);
    let partial = world.sandbox.root().join(format!("cache/vm/images/app-1-{HOST}.tar.gz.partial"));
    let manifest = world.sandbox.root().join("cache/vm/manifest.json");
    let importing = world.spawn("cache import a.tar");
    until("some of it has come", || partial.metadata().is_ok_and(|found| found.len() > 0));
    importing.signal(rustix::process::Signal::KILL);
    importing.end();
    let there = partial.metadata().map(|found| found.len());
    assert!(there.is_ok_and(|there| there < bytes.len() as u64) && !manifest.exists(), "killed too late");
    world.run("cache import a.tar").expect(0);
    assert!(manifest.exists() && !partial.exists());
    assert!(world.run("cache verify --deep").expect(0).stdout.contains("1 artifact checked, 0 bad"));
    let script = "mkdir -p full && mount -t tmpfs -o size=8m tmpfs full && export HOME=$PWD/full\n\
                  $STEADFAST cache import a.tar && exit 1; find full -name 'manifest.json' | grep . && exit 2; exit 0";
    if let Some(full) = world.sandbox.mounting(script) {
        let full = full.expect(0);
        assert!(full.stderr.contains("not enough space in"), "{}", full.stderr);
    }
}
