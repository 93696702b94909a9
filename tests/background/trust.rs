//! A manifest that is taken back to an older one, though genuine: refused, while the agent goes on.

use minisign::KeyPair;
use steadfast::trust::sign;

use crate::keeper::Keeper;
use crate::world::{World, remove, until};

#[test]
fn a_rollback_is_refused_and_the_agent_goes_on() {
    let world = World::new();
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
    let publish = |version: &str, serial: u64| {
        let manifest = world.publish(&[("p", version)]);
        let at = manifest["updatedAt"].as_str().unwrap();
        let signature = sign(manifest.to_string().as_bytes(), at, serial, None, &sk).unwrap();
        world.sandbox.write("published/vm/manifest.json.minisig", signature);
    };
    publish("1.0", 1);
    world.state(&[&world.published("p", "latest")]);
    let text = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    let keys = format!("vm/manifest.json, refresh: 1s, publicKeys: [{}]}}", pk.to_base64());
    world.sandbox.write("steadfast.yaml", text.replace("vm/manifest.json}", &keys));
    let mut keeper = Keeper::start(&world, "");
    let version = || world.run("exec p -- cat /version").stdout;
    let is = |version: &str| format!("{} p {version}", world.owner);
    assert_eq!(version(), is("1.0"));

    publish("1.1", 2);
    until("it is the newer one", || version() == is("1.1"));
    let status = keeper.until("the newer one is kept", |status| {
        status["converged"] == true && status["manifest"]["signed"]["serial"] == 2
    });
    assert!(status["manifest"].get("offline").is_none(), "{status}");
    let ids = world.ids();

    publish("1.0", 1);
    let why = "the manifest has serial 1, and one with serial 2 was seen before";
    let status = keeper.until("it is refused", |status| {
        status["manifest"]["offline"].as_str().is_some_and(|offline| offline.contains(why))
    });
    assert_eq!((&status["converged"], &status["manifest"]["signed"]["serial"]), (&true.into(), &2.into()), "{status}");
    world.run("apply").expect(6).says(why);
    assert_eq!((world.ids(), version()), (ids, is("1.1")));
    // What is lost meanwhile comes back as it was.
    remove(&world.name("p"));
    until("it is back", || world.runs("p") && version() == is("1.1"));
    keeper.converged();
    assert_eq!(keeper.run.stderr().matches("; nothing of it is used").count(), 1, "{}", keeper.run.stderr());
    let history = world.run("history -o json").json();
    let refused = history.as_array().unwrap().iter().find(|entry| entry["event"] == "manifestRefused").unwrap();
    assert!(refused["message"].as_str().unwrap().contains(why), "{refused}");

    publish("1.2", 3);
    // It is asked for again, ever more rarely; who asks `run` has it asked for now.
    world.run("apply").expect(0);
    until("it is the newest one", || version() == is("1.2"));
    assert!(keeper.run.stderr().contains("the published manifest is trusted again"), "{}", keeper.run.stderr());
}
