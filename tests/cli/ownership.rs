//! A name that belongs to another state file, as far as it can be told without Podman.

use crate::support::command::Sandbox;

const STATE: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere/p.sock}}\nagents: {}\n";

/// A sandbox whose name has this record.
fn recorded(record: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", STATE);
    let dir = sandbox.root().join("state/demo");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("file.json"), record).unwrap();
    sandbox
}

#[test]
fn a_record_that_cannot_be_read_stops_everything_but_a_take_over() {
    let sandbox = recorded("[");
    for verb in ["plan", "status", "apply", "down", "run", "why a", "logs a"] {
        sandbox.run(verb).expect(1).says("cannot tell which state file the name `demo` belongs to").says("--take-over");
    }
    sandbox.run("validate").expect(0);
    for verb in ["plan --take-over", "down --take-over"] {
        sandbox.run(verb).expect(1).says("no Podman socket at `/nowhere/p.sock`");
    }
}

#[test]
fn another_file_is_named_with_its_agents_before_podman_is_looked_for() {
    let record = |file: &str| {
        let meaning = "01".repeat(32);
        format!(
            r#"{{"heldBy": {{"file": {file}, "meaning": "{meaning}", "agents": ["a"], "more": 1}}, "unlabelled": false}}"#
        )
    };
    let gone = recorded(&record("\"/nowhere/s.yaml\""));
    for verb in ["plan", "apply", "down", "run", "status"] {
        gone.run(verb).expect(1).says("belongs to `/nowhere/s.yaml` (agent `a`), not to `");
    }
    gone.feed("apply -f -", STATE).expect(1).says("not to what comes through standard input");
    let piped = recorded(&record("null"));
    piped.run("plan").expect(1).says("belongs to what comes through standard input (agent `a`)");
    piped.feed("plan -f -", STATE).expect(1).says("no Podman socket");
}
