//! No secret in anything that `run` says, answers or writes down.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::keeper::Keeper;
use crate::support::command::contains_any;
use crate::world::{World, inspect, until};

const CANARIES: [&str; 4] = ["canary-in-env-1", "canary-from-file-2", "canary-edited-3", "canary-substituted-4"];

#[test]
fn secrets_stay_in_their_containers() {
    let mut world = World::new();
    world.sandbox.set("FROM_OUTSIDE", "canary-substituted-4");
    world.sandbox.set("STEADFAST_LOG", "trace");
    world.sandbox.write("agent.env", "PLAIN=canary-from-file-2\n");
    let good = "env: {API_TOKEN: canary-in-env-1, Z: \"${env:FROM_OUTSIDE}\"}, envFile: ./agent.env";
    let failing = "env: {API_TOKEN: canary-in-env-1}, envFile: ./agent.env, command: [/nope, \"${env:FROM_OUTSIDE}\"]";
    world.state(&[&world.agent("a", good), &world.agent("y", failing)]);
    let mut keeper = Keeper::spawn(&world, "-vvv");
    keeper.until("one is up, the other is not", |status| {
        status["agents"]["a"]["ready"] == true && !status["run"]["backingOff"].as_array().unwrap().is_empty()
    });
    let mut events = UnixStream::connect(world.state_dir().join("control.sock")).unwrap();
    events.write_all(b"{\"op\":\"events\"}\n").unwrap();
    world.sandbox.write("agent.env", "PLAIN=canary-edited-3\n");
    until("it is replaced", || {
        let seen = inspect(&world.name("a"));
        seen.is_some_and(|seen| seen["Config"]["Env"].to_string().contains("PLAIN=canary-edited-3"))
    });
    // An edit that cannot be used, beside a secret.
    let path = world.sandbox.path("steadfast.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let bad = text.replace("API_TOKEN: canary-in-env-1,", "API_TOKEN: [canary-in-env-1],");
    std::fs::write(&path, bad).unwrap();
    keeper.until("it is told", |status| status["run"]["stateFileError"].is_object());
    std::fs::write(&path, text.replace("Z: ", "ZZ: ")).unwrap();
    keeper.until("it is well again", |status| status["run"]["stateFileError"].is_null());
    let answers = [
        world.run("status -o json"),
        world.run("status"),
        world.run("apply --wait -o json"),
        world.run("apply --wait"),
        world.run("plan -o json"),
    ];
    for answer in answers {
        answer.keeps_quiet_about(&CANARIES);
    }
    let mut status = UnixStream::connect(world.state_dir().join("control.sock")).unwrap();
    status.write_all(b"{\"op\":\"status\"}\n").unwrap();
    let mut line = String::new();
    BufReader::new(status).read_line(&mut line).unwrap();
    assert!(line.starts_with('{') && !contains_any(line.as_bytes(), &CANARIES), "{line}");
    let outcome = keeper.stop().keeps_quiet_about(&CANARIES);
    assert!(outcome.stderr.contains("/nope"), "{}", outcome.stderr);
    let received: Vec<_> = BufReader::new(events).lines().map_while(Result::ok).collect();
    assert!(received.iter().any(|line| line.contains("\"event\":\"step\"")), "{received:?}");
    assert!(!contains_any(received.join("\n").as_bytes(), &CANARIES), "{received:?}");
    let files = world.sandbox.files_with(&CANARIES);
    assert!(files.is_empty(), "{files:?}");
    // They are where they belong.
    let env = world.inspect("a")["Config"]["Env"].to_string();
    assert!(contains_any(env.as_bytes(), &["canary-in-env-1"]) && contains_any(env.as_bytes(), &["canary-edited-3"]));
}
