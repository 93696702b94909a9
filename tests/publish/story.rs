//! The whole way: bundle, tarball, smoke, a signed push to a real store, an agent that runs; a newer version that `run` picks up,
//! and an older manifest that it does not.

use serde_json::json;
use steadfast::model::Arch;

use crate::gateway::{BUCKET, Gateway};
use crate::tarballs::{HOST, context};
use crate::world::{World, until};

#[test]
fn what_is_published_runs_a_newer_one_is_picked_up_and_an_older_one_refused() {
    let gateway = Gateway::start();
    let mut world = World::bare();
    for (name, value) in gateway.vars() {
        world.sandbox.set(&name, value);
    }
    let image = format!("localhost/{}/app", world.owner);
    let bundle = |version: &str| {
        context(&world, "app", version);
        let smoke = json!({"command": ["/bin/cat", "/version"]});
        let agent = json!({"name": "app", "image": image, "version": version, "context": "app", "smoke": smoke});
        world.sandbox.write("bundle.json", json!({"agents": [agent]}).to_string());
        world.run("publish tarball --bundle bundle.json --out dist").expect(0);
    };
    let push = |more: &str| {
        world.run(format!(
            "publish push --bundle bundle.json --dist-dir dist --to s3://{BUCKET} --key publisher.key -o json {more}"
        ))
    };
    bundle("1.0");
    let tarball = format!("dist/images/app-1.0-{HOST}.tar.gz");
    world.run(format!("publish smoke --bundle bundle.json --agent app --arch {HOST} --tarball {tarball}")).expect(0);
    world.run("publish keygen --out publisher.key --no-password").expect(0);
    let pushed = push("").expect(0).json();
    assert_eq!(pushed["uploaded"].as_array().unwrap().len(), Arch::ALL.len(), "{pushed}");
    let manifest = gateway.path("vm/manifest.json");
    let old =
        [manifest.clone(), gateway.path("vm/manifest.json.minisig")].map(|path| (std::fs::read(&path).unwrap(), path));

    // What the gateway keeps is files, and the public reads them.
    let public = std::fs::read_to_string(world.sandbox.path("publisher.key.pub")).unwrap();
    let state = format!(
        "apiVersion: steadfast/v1\nname: {}\nruntime: {{podman: {{}}}}\nmanifest:\n  url: {}\n  refresh: 1s\n  publicKeys: [{}]\n\
         agents:\n  app: {{version: latest}}\n",
        world.owner,
        manifest.display(),
        public.lines().last().unwrap()
    );
    world.sandbox.write("steadfast.yaml", state);
    world.applied();
    let version = || world.run("exec app -- cat /version").stdout;
    assert_eq!(version(), "1.0");

    let mut run = world.spawn("run");
    run.until("it has converged", |run| run.stderr().contains("converged: "));
    bundle("1.1");
    let pushed = push("--slice agents:app").expect(0).json();
    assert_eq!(pushed["manifest"]["changed"], true, "{pushed}");
    until("the newer one runs", || version() == "1.1");

    for (bytes, path) in &old {
        std::fs::write(path, bytes).unwrap();
    }
    run.until("the older one is refused", |run| run.stderr().contains("was seen before"));
    world.run("apply").expect(6).says("was seen before");
    assert_eq!(version(), "1.1");
    // Publishing again repairs it: its number is above both.
    let again = push("").expect(0).json();
    assert!(again["manifest"]["serial"].as_u64() > pushed["manifest"]["serial"].as_u64(), "{again}");
    world.run("apply").expect(0);
    assert_eq!(version(), "1.1");
}
