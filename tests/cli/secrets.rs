//! Canaries in every place that may hold a secret, and a search of everything that is written or said.

use std::path::PathBuf;

use crate::sockets::{Fake, Manner};
use crate::support::command::Sandbox;

const CANARIES: [&str; 6] =
    ["canary-env", "canary-file", "canary-var", "canary-command", "canary-check", "canary-mount"];

fn state(socket: &str, more: &str) -> String {
    format!(
        r#"apiVersion: steadfast/v1
name: demo
runtime: {{podman: {{socket: {socket}}}}}
agents:
  hello:
    version: "1"
    image: docker.io/library/busybox
    source: local
    container:
      command: [sh, -c, "run --token ${{env:IN_COMMAND}}"]
      env: {{API_KEY: canary-env, PLAIN: "${{env:A_VAR}}"}}
      envFile: ./x.env
      mounts: [{{source: "/srv/${{env:IN_MOUNT}}", target: /data}}]
      healthcheck: {{test: [CMD, curl, "-H", "${{env:IN_CHECK}}"]}}
{more}"#
    )
}

fn planted() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.write("x.env", "FROM_FILE=canary-file\n");
    sandbox.set("A_VAR", "canary-var").set("IN_COMMAND", "canary-command");
    sandbox.set("IN_CHECK", "canary-check").set("IN_MOUNT", "canary-mount");
    sandbox
}

#[test]
fn no_verb_lets_a_secret_out() {
    let sandbox = planted();
    let podman = Fake::start(Manner::Podman);
    let broken = Fake::start(Manner::CloseMidway);
    for socket in [podman.path(), broken.path(), PathBuf::from("/nowhere/p.sock")] {
        sandbox.write("steadfast.yaml", state(&socket.display().to_string(), ""));
        for verb in [
            "validate",
            "plan",
            "apply",
            "status",
            "down",
            "doctor",
            "logs hello",
            "exec hello -- env",
            "cache gc",
            "history",
            "why hello",
            "service install --user --print",
        ] {
            for flags in ["-vv", "-vv --log-format json -o json"] {
                // Before the verb, so that they are not taken for the command of `exec`.
                sandbox.run(format!("{flags} {verb}")).keeps_quiet_about(&CANARIES);
            }
        }
        sandbox.run("plan -o markdown -vv").keeps_quiet_about(&CANARIES);
        sandbox.run("plan -o yaml -vv").keeps_quiet_about(&CANARIES);
    }
    assert_eq!(sandbox.files_with(&CANARIES), Vec::<PathBuf>::new());
}

/// The lines that an error quotes may be the very ones with secrets in them.
#[test]
fn excerpts_of_a_broken_file_mask_its_secrets() {
    let sandbox = planted();
    sandbox.write("canary-var", "not a variable\n");
    let broken = [
        ("    bogus: 1\n", "an unknown key"),
        ("      ports: [\"99999:80\"]\n", "a port"),
        ("      env: {API_KEY: canary-env}\n", "a duplicate key"),
        ("  other: {version: \"1\", container: {env: {TOKEN: [canary-env]}}}\n", "a wrong type at a secret"),
        (
            "  other: {version: \"1\", container: {env: {PASSWORD: canary-env, PASSWORD: canary-var}}}\n",
            "a duplicate secret",
        ),
        ("  other: {version: \"1\", container: {env: {\"BAD TOKEN\": canary-env}}}\n", "a bad variable name"),
        ("  other: {version: \"1\", container: {env: {TOKEN: \"canary-env${env:\"}}}\n", "an unfinished reference"),
        ("  other: {version: \"1\", container: {env: [TOKEN=canary-env, NOTHING]}}\n", "a list of variables"),
        ("  other: {version: \"${env:A_VAR}/x\"}\n", "a variable in a version"),
        ("  other: {version: \"1\", image: \"${env:A_VAR} X\"}\n", "a variable in an image"),
        ("  other: {version: \"1\", container: {name: \"${env:A_VAR} X\"}}\n", "a variable in a name"),
        ("  other: {version: \"1\", container: {ports: [\"${env:A_VAR}\"]}}\n", "a variable in a port"),
        ("  other: {version: \"1\", container: {envFile: \"${env:A_VAR}.env\"}}\n", "a variable in a path"),
        ("  other: {version: \"1\", container: {envFile: \"${env:A_VAR}\"}}\n", "a broken env file by a variable"),
        ("  other: {version: \"1\", container: {env: {TOKEN: \"canary-env}}}\n", "an unclosed quote"),
        ("  other:\n\tTOKEN: canary-env\n", "a tab"),
    ];
    for (more, what) in broken {
        sandbox.write("steadfast.yaml", state("/nowhere/p.sock", more));
        for flags in ["", "-o json", "-vv --color always"] {
            let outcome = sandbox.run(format!("validate {flags}"));
            assert_eq!(outcome.code, 65, "{what}: {}{}", outcome.stdout, outcome.stderr);
            let all = format!("{}{}", outcome.stdout, outcome.stderr);
            for canary in CANARIES {
                assert!(!all.contains(canary), "{what} shows `{canary}`:\n{all}");
            }
        }
    }
}
