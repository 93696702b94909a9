//! `why`, without a Podman and with one that is empty.

use crate::sockets::{Fake, Manner};
use crate::support::command::Sandbox;

fn state(socket: &str) -> String {
    format!(
        "apiVersion: steadfast/v1\nname: demo\nruntime: {{podman: {{socket: {socket}}}}}\nagents:\n  hello: {{version: \"1\", image: a/b, source: local}}\n"
    )
}

#[test]
fn it_tells_the_chain_and_the_way_out() {
    let (sandbox, podman) = (Sandbox::new(), Fake::start(Manner::Podman));
    sandbox.write("steadfast.yaml", state(&podman.path().display().to_string()));
    insta::assert_snapshot!("why_blocked", sandbox.run("why hello").expect(0).shown());
    let json = sandbox.run("why hello -o json").expect(0).json();
    assert_eq!((&json["place"]["line"], &json["ready"]), (&5.into(), &false.into()));
    assert_eq!((&json["waiting"][0]["on"], &json["waiting"][0]["blocked"]), (&"image".into(), &true.into()));
    assert!(json["hints"][0].as_str().unwrap().contains("podman load"), "{json}");
    // What an apply ran into is in the journal from now on.
    sandbox.run("apply");
    let json = sandbox.run("why hello -o json").expect(0).json();
    assert_eq!(
        (&json["failures"][0]["kind"], &json["failures"][0]["trigger"]),
        (&"imageMissing".into(), &"apply".into())
    );
}

#[test]
fn without_a_podman_the_rest_is_still_reported() {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", state("/nowhere/p.sock"));
    let outcome = sandbox.run("why hello").expect(1);
    assert!(outcome.stdout.starts_with("hello cannot be seen\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("steadfast.yaml:5:3: running, version 1"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("no Podman socket at `/nowhere/p.sock`"), "{}", outcome.stdout);
}

#[test]
fn an_agent_that_is_not_there_is_distinguished_from_one_that_left() {
    let (sandbox, podman) = (Sandbox::new(), Fake::start(Manner::Podman));
    sandbox.write("steadfast.yaml", state(&podman.path().display().to_string()));
    sandbox
        .run("why helo")
        .expect(64)
        .says("does not have an agent `helo`")
        .says("did you mean `hello`?")
        .says("there is `hello`");
    let dir = sandbox.root().join("state/demo");
    std::fs::create_dir_all(&dir).unwrap();
    let line = r#"{"time":"2026-04-24T00:00:01.000Z","trigger":"apply","event":"step","kind":"removeContainer","agent":"helo","target":"demo-helo","action":"remove container `demo-helo`","reason":"its agent is not in the state file any more","result":"done"}"#;
    std::fs::write(dir.join("journal.jsonl"), format!("{line}\n")).unwrap();
    let outcome = sandbox.run("why helo").expect(0);
    assert!(outcome.stdout.starts_with("helo is not in the state file any more\n"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("last change  2026-04-24T00:00:01Z (apply): removed container `demo-helo`"),
        "{}",
        outcome.stdout
    );
}
