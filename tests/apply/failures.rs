//! What cannot run: the sentence with the last log lines, the exit code, and that nothing that ran is lost.

use std::net::TcpListener;

use serde_json::json;

use crate::world::{World, api, http, kinds, port, until};

const EXITS: &str = "command: [sh, -c, \"echo one line; echo the reason >&2; exit 3\"]";

#[test]
fn a_container_that_exits_at_once_is_an_error_with_its_last_words() {
    let world = World::new();
    world.state(&[&world.agent("bad", &format!("{EXITS}, restart: on-failure")), &world.agent("good", "")]);
    let outcome = world.run("apply").expect(1).says("error: agent `bad`: container").says("the reason");
    assert!(outcome.stderr.contains("steadfast logs"), "{}", outcome.stderr);
    assert!(world.runs("good"), "the other agent is not held up");

    // The same as a one-shot: it ended by itself, and stays so.
    let world = World::new();
    world.state(&[&world.agent("job", &format!("{EXITS}, restart: \"no\""))]);
    world.run("apply").expect(1).says("ended at once with exit code 3").says("the reason");
    let status = world.run("status -o json").expect(0).json();
    assert_eq!(status["agents"]["job"]["health"], "Failed", "{status}");
}

#[test]
fn a_crash_loop_under_unless_stopped_is_not_taken_for_running() {
    let world = World::new();
    world.state(&[&world.agent("loop", "command: [sh, -c, \"echo again; sleep 0.1; exit 1\"]")]);
    let outcome = world.run("apply").expect(1).says("again");
    assert!(outcome.stderr.contains("keeps ending") || outcome.stderr.contains("ended at once"), "{}", outcome.stderr);
    assert!(outcome.took.as_secs() < 30, "{:?}", outcome.took);
}

#[test]
fn what_stays_unhealthy_is_not_converged() {
    let world = World::new();
    let check = "healthcheck: {test: [CMD, \"false\"], interval: 500ms, timeout: 2s, retries: 2}";
    world.state(&[&world.agent("sick", check), &world.agent("good", "")]);
    let outcome = world.run("apply -o json").expect(3);
    let report = outcome.json();
    assert_eq!(report["converged"], false);
    assert_eq!(
        (&report["problems"][0]["agent"], &report["problems"][0]["kind"]),
        (&json!("sick"), &json!("unhealthy"))
    );
    outcome.says("is not healthy: its health check failed as often as its retries allow").says("agent listens");
    let status = world.run("status -o json").expect(0).json();
    assert_eq!(status["agents"]["sick"]["health"], "Degraded", "{status}");
    assert!(world.runs("good"));
    // The time may be up before the check is.
    world.run("down").expect(0);
    world.state(&[&world.agent("sick", "healthcheck: {test: [CMD, \"false\"], interval: 1h}")]);
    world.run("apply --timeout 2s").expect(3).says("it did not become healthy in time");
}

#[test]
fn a_successor_that_fails_is_rolled_back_and_the_old_one_runs_again() {
    let world = World::new();
    let port = port();
    let agent = |more: &str| world.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]{more}"));
    world.state(&[&agent("")]);
    world.applied();
    let id = world.inspect("a")["Id"].clone();
    let failing = [
        format!(", {EXITS}"),
        ", command: [/no/such/program]".to_owned(),
        ", healthcheck: {test: [CMD, \"false\"], interval: 500ms, retries: 1}".to_owned(),
    ];
    for more in failing {
        world.state(&[&agent(&more)]);
        let outcome = world.run("apply -o json").expect(4);
        let report = outcome.json();
        assert_eq!(kinds(&report), ["replaceContainer"], "{more}");
        assert_eq!(report["actions"][0]["error"]["kind"], "rolledBack", "{more}: {report}");
        outcome.says("was rolled back: its successor failed");
        assert_eq!(world.inspect("a")["Id"], id, "{more}");
        until("the old one answers", || http(port, "/").is_some());
        assert_eq!(world.leftovers(), Vec::<String>::new(), "{more}");
    }
    world.state(&[&agent("")]);
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "the old file fits what runs");
}

#[test]
fn a_host_port_that_is_taken_is_named_before_anything_is_made() {
    let world = World::new();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    world.state(&[&world.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]")), &world.agent("b", "")]);
    let refused = world.run("apply").expect(1);
    refused
        .says(&format!("host port 127.0.0.1:{port}:8080/tcp that container `{}` publishes is taken", world.name("a")));
    assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), [world.name("b")], "nothing half-made is left");
    drop(held);
    assert_eq!(world.apply_kinds(), ["createContainer"]);

    // Held by a container of somebody else.
    let other = World::new();
    other.state(&[&other.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]"))]);
    other.run("apply").expect(1).says("is taken");
    assert!(world.runs("a"));
}

#[test]
fn a_missing_bind_source_is_refused_and_not_made() {
    let world = World::new();
    world.state(&[&world.agent("a", "mounts: [{source: ./none, target: /data}]")]);
    let refused = world.run("apply").expect(1);
    let path = world.sandbox.path("none");
    refused.says(&format!("mount source `{}` of container `{}` does not exist", path.display(), world.name("a")));
    assert!(!path.exists(), "Podman would have made a directory of root's");
    assert_eq!(world.ids().len(), 0);
    // On a replacement, what runs goes on running.
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let id = world.inspect("a")["Id"].clone();
    world.state(&[&world.agent("a", "mounts: [{source: ./none, target: /data}]")]);
    world.run("apply").expect(1);
    assert_eq!((&world.inspect("a")["Id"], world.runs("a")), (&id, true));
    world.sandbox.write("none/file", "there now");
    world.applied();
    let read = world.run("exec a -- cat /data/file").expect(0);
    assert_eq!(read.stdout, "there now");
}

#[test]
fn a_local_image_that_is_not_there_says_how_to_get_it() {
    let world = World::bare();
    world.state(&[&world.agent("a", "")]);
    let image = format!("localhost/{}:1", world.owner);
    world.run("apply").expect(1).says(&format!("image `{image}`")).says("podman load");
    world.load(&world.image("1"));
    assert_eq!(world.apply_kinds(), ["createContainer"]);
    // The tag moves to another image: that is a change.
    let id = world.inspect("a")["Id"].clone();
    let moved = crate::support::archive::docker_archive().tag(&image).file("moved", world.owner.clone());
    world.load(&moved);
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(plan["actions"][0]["changes"][0]["field"], "image.id", "{plan}");
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    assert_ne!(world.inspect("a")["Id"], id);
    // The first image has no name any more by which it would be cleared up.
    let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{}?force=true", world.image("1").id()), b"");
}
