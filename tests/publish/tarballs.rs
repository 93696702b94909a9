//! From a bundle to a dist directory, a manifest, and an agent that runs.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::server::{Reply, Server};
use crate::support;
use crate::support::registry::Registry;
use crate::world::{World, api, listed, sha256};

pub const HOST: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };

/// A context whose image runs an agent that answers over HTTP.
pub fn context(world: &World, dir: &str, version: &str) {
    std::fs::create_dir_all(world.sandbox.path(dir).join("bin")).unwrap();
    std::fs::copy(support::busybox(), world.sandbox.path(dir).join("bin/busybox")).unwrap();
    world.sandbox.write(&format!("{dir}/agent"), support::archive::AGENT);
    world.sandbox.write(&format!("{dir}/version"), version);
    world.sandbox.write(&format!("{dir}/www/index.html"), version);
    world.sandbox.write(
        &format!("{dir}/Containerfile"),
        "FROM scratch\nCOPY bin/busybox /bin/busybox\nCOPY bin/busybox /bin/sh\nCOPY bin/busybox /bin/httpd\n\
         COPY bin/busybox /bin/cat\nCOPY --chmod=755 agent version /\nCOPY www /www\nARG GREETING=none\nENV GREETING=$GREETING PATH=/bin\n\
         CMD [\"/bin/sh\", \"/agent\"]\n",
    );
}

fn names(world: &World) -> Vec<Value> {
    let images = listed("/v4.0.0/libpod/images/json");
    let ours = |image: &&Value| image["Names"].to_string().contains(&world.owner);
    images.iter().filter(ours).map(|image| image["Names"].clone()).collect()
}

fn has_image(id: &str) -> bool {
    api("GET", &format!("/v4.0.0/libpod/images/{id}/exists"), b"").0 == 204
}

/// The dist directory as a static web server would have it.
fn site(world: &World, dist: &str) {
    let images = world.sandbox.path("published/vm/images");
    std::fs::create_dir_all(&images).unwrap();
    for file in std::fs::read_dir(world.sandbox.path(dist).join("images")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), images.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_bundle_becomes_tarballs_a_manifest_and_an_agent_that_runs() {
    let world = World::bare();
    context(&world, "app", "1");
    let image = format!("localhost/{}/app", world.owner);
    let bundle = json!({"agents": [{"name": "app", "image": image, "version": "1", "context": "app", "buildArgs": {"GREETING": "hello"}}]});
    world.sandbox.write("bundle.json", bundle.to_string());
    let made = world.run("publish tarball --bundle bundle.json --out dist -o json").expect(0).json();
    assert_eq!(made.as_array().unwrap().len(), 2, "{made}");
    assert!(names(&world).is_empty(), "Podman is as it was: {:?}", names(&world));
    for made in made.as_array().unwrap() {
        let path = made["path"].as_str().unwrap();
        let bytes = std::fs::read(world.sandbox.work().join(path)).unwrap();
        assert_eq!((&made["sha256"], &made["sizeBytes"]), (&json!(sha256(&bytes)), &json!(bytes.len())));
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        assert_eq!(made["key"], json!(format!("vm/images/{name}")));
    }
    let dist = world.sandbox.path("dist/images");
    let check = "for sidecar in *.sha256; do sha256sum -c \"$sidecar\"; done; gzip -t *.tar.gz";
    assert!(Command::new("sh").args(["-ec", check]).current_dir(&dist).status().unwrap().success());
    let left: Vec<_> =
        std::fs::read_dir(&dist).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.len(), 6, "{left:?}");

    world.run("publish manifest --bundle bundle.json --dist-dir dist --out published/vm/manifest.json").expect(0);
    site(&world, "dist");
    world.state(&[&world.published("app", "latest")]);
    world.applied();
    assert_eq!(world.run("exec app -- cat /version").expect(0).stdout, "1");
    assert_eq!(world.run(["exec", "app", "--", "sh", "-c", "echo $GREETING"]).expect(0).stdout, "hello\n");
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

#[test]
fn the_same_image_is_the_same_tarball_wherever_and_whenever_it_is_made() {
    let world = World::new();
    let registry = Registry::open();
    let repository = format!("{}/{}", registry.address, world.owner);
    let push =
        format!("/v4.0.0/libpod/images/localhost/{}:1/push?destination={repository}:1&tlsVerify=false", world.owner);
    assert_eq!(api("POST", &push, b"").0, 200);
    let id = world.image("1").id();
    world.sandbox.write("bundle.yaml", format!("agents:\n- {{name: app, image: {repository}, version: '1'}}\n"));
    let make = |out: &str| {
        let words = format!("publish tarball --bundle bundle.yaml --arch {HOST} --out {out} -o json");
        world.run(words).expect(0).json()[0]["sha256"].clone()
    };
    let first = make("one");
    // The image was there under another name, which it keeps; the one it was pulled by is gone.
    assert_eq!(names(&world), [json!([format!("localhost/{}:1", world.owner)])]);
    assert_eq!(make("two/deeper"), first);
    assert_eq!(api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"").0, 200);
    assert_eq!(make("one"), first, "from the registry alone, over what lies there");
    assert!(!has_image(&id), "what was not there before is not there now");
    // A name that pointed to something else points there again.
    let other = world.image("2");
    world.load(&other);
    let tag = format!("/v4.0.0/libpod/images/{}/tag?repo={repository}&tag=1", other.id());
    assert_eq!(api("POST", &tag, b"").0, 201);
    assert_eq!(make("three"), first);
    let (status, named) = api("GET", &format!("/v4.0.0/libpod/images/{repository}:1/json"), b"");
    assert_eq!((status, &named["Id"]), (200, &json!(other.id())));
    // Podman itself loads it.
    let packed = std::fs::read(world.sandbox.path(&format!("one/images/app-1-{HOST}.tar.gz"))).unwrap();
    let plain = {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::bufread::MultiGzDecoder::new(packed.as_slice()), &mut plain).unwrap();
        plain
    };
    let (status, said) = api("POST", "/v4.0.0/libpod/images/load", &plain);
    assert_eq!(status, 200, "{said}");
    assert!(has_image(&id), "the same image: its id is that of its configuration");
}

#[test]
fn what_cannot_be_made_is_said_and_leaves_nothing() {
    let world = World::new();
    world.sandbox.write(
        "bundle.json",
        json!({"agents": [
            {"name": "gone", "image": "127.0.0.1:1/gone", "version": "1"},
            {"name": "nothing", "image": "localhost/nothing", "version": "1", "context": "none"},
            {"name": "bare", "image": "localhost/bare", "version": "1", "context": "."},
            {"name": "broken", "image": "localhost/broken", "version": "1", "context": "broken"},
        ]})
        .to_string(),
    );
    world.sandbox.write("broken/Containerfile", "FROM scratch\nCOPY missing /\n");
    let error = |agent: &str, code: i32| {
        let words = format!("publish tarball --bundle bundle.json --agent {agent} --arch {HOST} --out dist");
        world.run(words).expect(code).stderr
    };
    assert!(
        error("gone", 1).contains("error: failed to pull image `127.0.0.1:1/gone:1` for linux/"),
        "{}",
        error("gone", 1)
    );
    assert!(error("nothing", 1).contains("none`: it is not a directory"));
    assert!(error("bare", 1).contains("it has no Containerfile and no Dockerfile"));
    let broken = error("broken", 1);
    assert!(broken.contains("failed to build image `localhost/broken:1`") && broken.contains("missing"), "{broken}");
    assert!(error("other", 64).contains("the bundle has no agent `other`; it has `gone`, `nothing`"));
    let words = "publish tarball --bundle bundle.json --arch riscv --out dist";
    assert!(world.run(words).expect(64).stderr.contains("unsupported architecture: riscv"));
    let images = world.sandbox.path("dist/images");
    assert!(
        std::fs::read_dir(images).is_ok_and(|mut files| files.next().is_none())
            || !world.sandbox.path("dist/images").exists()
    );
}

#[test]
fn a_full_disk_is_named_and_keeps_nothing() {
    let world = World::bare();
    context(&world, "app", "1");
    let image = format!("localhost/{}/app", world.owner);
    let bundle = json!({"agents": [{"name": "app", "image": image, "version": "1", "context": "app"}]});
    world.sandbox.write("bundle.json", bundle.to_string());
    let make = format!("$STEADFAST -q publish tarball --bundle bundle.json --arch {HOST} --out full");
    let script = format!(
        "mkdir full && mount -t tmpfs -o size=256k tmpfs full\n{make} && exit 1\nfind full -type f | grep . && exit 2; exit 0"
    );
    if let Some(outcome) = world.sandbox.mounting(&script) {
        let said = outcome.expect(0).stderr;
        let error = format!("error: cannot write `full/images/app-1-{HOST}.tar.gz`: No space left on device");
        assert!(said.starts_with(&error), "quiet but for the error: {said}");
        assert!(said.contains("`--out` chooses another place"), "{said}");
    }
}

/// From two versions of a bundle, over a static host, to a cache: the layer that both have travels once.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_new_version_what_is_new_travels() {
    let world = World::bare();
    context(&world, "app", "1");
    let mut large = vec![0; 12 << 20];
    fastrand::Rng::with_seed(7).fill(&mut large);
    world.sandbox.write("app/large", &large);
    let file = std::fs::read_to_string(world.sandbox.path("app/Containerfile")).unwrap();
    world.sandbox.write("app/Containerfile", file.replace("FROM scratch\n", "FROM scratch\nCOPY large /\n"));
    let image = format!("localhost/{}/app", world.owner);
    let publish = |version: &str| {
        world.sandbox.write("app/version", version);
        let agent = json!({"name": "app", "image": image, "version": version, "context": "app"});
        world.sandbox.write("bundle.json", json!({"agents": [agent]}).to_string());
        world.run("publish tarball --bundle bundle.json --out dist").expect(0);
        world.run("publish manifest --bundle bundle.json --dist-dir dist --out published/vm/manifest.json").expect(0);
        site(&world, "dist");
    };
    let published = world.sandbox.path("published");
    let server =
        Server::start(move |request| match std::fs::read(published.join(request.path.trim_start_matches('/'))) {
            Ok(bytes) => Reply::good(request, &bytes, &format!("\"{}\"", sha256(&bytes))),
            Err(_) => Reply::new(404, ""),
        })
        .await;
    let sync = || {
        let words =
            format!("cache sync --manifest-url {}/vm/manifest.json --arch {HOST} --root root -o json", server.url);
        world.run(words).expect(0).json()
    };
    publish("1");
    assert_eq!(sync().get("reusedBytes"), None);
    publish("2");
    let before = server.sent();
    let synced = sync();
    assert_eq!(synced["downloaded"], json!([format!("vm/images/app-2-{HOST}.tar.gz")]));
    let (reused, received) = (synced["reusedBytes"].as_u64().unwrap(), synced["receivedBytes"].as_u64().unwrap());
    // The layers that make a directory carry the time at which they were built.
    assert!(reused > 12 << 20 && received < 6 << 20, "{synced}");
    let manifest = std::fs::metadata(world.sandbox.path("published/vm/manifest.json")).unwrap().len();
    assert_eq!(server.sent() - before, received + manifest, "nothing else came");
    let key = format!("vm/images/app-2-{HOST}.tar.gz");
    let kept = std::fs::read(world.sandbox.path("root/cache").join(&key)).unwrap();
    assert!(kept == std::fs::read(world.sandbox.path("published").join(&key)).unwrap());
}
