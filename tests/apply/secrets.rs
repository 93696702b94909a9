//! Canaries in every place that may hold a secret, and a search of everything that steadfast writes, says, or hands to
//! Podman as a label.

use std::path::PathBuf;

use crate::world::World;

const CANARIES: [&str; 5] = ["canary-env", "canary-file", "canary-var", "canary-command", "canary-check"];

fn planted() -> World {
    let mut world = World::new();
    world.sandbox.write("x.env", "FROM_FILE=canary-file\n");
    world.sandbox.set("A_VAR", "canary-var").set("IN_COMMAND", "canary-command").set("IN_CHECK", "canary-check");
    world
}

const CONTAINER: &str = "command: [sh, -c, \"trap 'exit 0' TERM; : ${env:IN_COMMAND}; while true; do sleep 0.1; done\"], \
    env: {API_KEY: canary-env, PLAIN: \"${env:A_VAR}\"}, envFile: x.env, \
    healthcheck: {test: [CMD, test, \"${env:IN_CHECK}\"], interval: 1s}";

#[test]
fn secrets_reach_the_container_and_nothing_else() {
    let world = planted();
    let container = CONTAINER.replace("CMD, test,", "CMD, echo,");
    world.state(&[&world.agent("a", &container)]);
    let verbs = ["plan", "apply", "status", "plan", "doctor", "apply"];
    for verb in verbs {
        for flags in ["-vv", "-vv --log-format json -o json"] {
            let outcome = world.run(format!("{verb} {flags}"));
            assert_eq!(outcome.code, 0, "{verb}: {}{}", outcome.stdout, outcome.stderr);
            outcome.keeps_quiet_about(&CANARIES);
        }
    }
    let env = world.inspect("a")["Config"]["Env"].to_string();
    for canary in ["API_KEY=canary-env", "PLAIN=canary-var", "FROM_FILE=canary-file"] {
        assert!(env.contains(canary), "{env}");
    }
    let labels = world.inspect("a")["Config"]["Labels"].to_string();
    assert!(labels.contains("steadfast.spec"), "{labels}");
    for canary in CANARIES {
        assert!(!labels.contains(canary), "{labels}");
    }
    assert_eq!(world.sandbox.files_with(&CANARIES), Vec::<PathBuf>::new());
    let all = crate::world::files_below(&world.sandbox.root());
    assert!(
        ["journal.jsonl", "handles.json", "key", "lock"].iter().all(|name| all.iter().any(|path| path.ends_with(name))),
        "{all:?}"
    );
}

#[test]
fn a_changed_secret_is_drift_and_is_named_without_its_value() {
    let mut world = planted();
    let container = CONTAINER.replace("CMD, test,", "CMD, echo,");
    world.state(&[&world.agent("a", &container), &world.agent("b", "")]);
    world.applied();
    let b = world.inspect("b")["Id"].clone();
    type Change = fn(&mut World);
    let cases: [(&str, Change); 4] = [
        ("container.env.FROM_FILE", |world| drop(world.sandbox.write("x.env", "FROM_FILE=canary-file-2\n"))),
        ("container.env.PLAIN", |world| _ = world.sandbox.set("A_VAR", "canary-var-2")),
        ("container.command", |world| _ = world.sandbox.set("IN_COMMAND", "canary-command-2")),
        ("container.healthcheck", |world| _ = world.sandbox.set("IN_CHECK", "canary-check-2")),
    ];
    for (field, change) in cases {
        change(&mut world);
        let plan = world.run("plan -o json").expect(0).keeps_quiet_about(&CANARIES);
        let step = &plan.json()["actions"][0];
        assert_eq!(
            (step["kind"].as_str(), step["agent"].as_str()),
            (Some("replaceContainer"), Some("a")),
            "{field}: {step}"
        );
        assert!(step["changes"][0]["field"].as_str().unwrap().starts_with(field), "{field}: {step}");
        assert!(step["changes"].as_array().unwrap().len() == 1, "{field} alone: {step}");
        world.run("plan -o markdown").expect(0).keeps_quiet_about(&CANARIES);
        let outcome = world.run("apply -o json -vv").expect(0).keeps_quiet_about(&CANARIES);
        assert_eq!(crate::world::kinds(&outcome.json()), ["replaceContainer"], "{field}");
        assert_eq!(world.apply_kinds(), Vec::<String>::new(), "{field}");
    }
    assert_eq!(world.inspect("b")["Id"], b);
    assert_eq!(world.sandbox.files_with(&CANARIES), Vec::<PathBuf>::new());
}

#[test]
fn errors_and_rollbacks_keep_quiet_too() {
    let world = planted();
    let port = crate::world::port();
    world.state(&[&world.agent(
        "a",
        &format!("{}, ports: [\"127.0.0.1:{port}:8080\"]", CONTAINER.replace("CMD, test,", "CMD, echo,")),
    )]);
    world.applied();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().port();
    let failing = [
        ("a port that is taken", format!("env: {{API_KEY: canary-env, X: \"${{env:A_VAR}}\"}}, ports: [\"127.0.0.1:{taken}:8080\"]")),
        ("no such program", "env: {API_KEY: canary-env}, command: [\"/no/${env:IN_COMMAND}\", \"${env:A_VAR}\"]".to_owned()),
        ("a mount that is not there", "env: {API_KEY: canary-env}, mounts: [{source: \"/no/${env:A_VAR}\", target: /x}]".to_owned()),
        ("unhealthy", "env: {API_KEY: canary-env}, healthcheck: {test: [CMD, \"/no/${env:IN_CHECK}\"], interval: 300ms, retries: 1}".to_owned()),
    ];
    for (what, container) in failing {
        world.state(&[&world.agent("a", &container)]);
        for flags in ["-vv", "-vv --log-format json -o json"] {
            let outcome = world.run(format!("apply {flags}"));
            assert!(matches!(outcome.code, 1 | 3 | 4), "{what}: {} {}", outcome.code, outcome.stderr);
            let all = format!("{}{}", outcome.stdout, outcome.stderr);
            for canary in CANARIES {
                assert!(!all.contains(canary), "{what} shows `{canary}`:\n{all}");
            }
        }
        world.run("status -o json").keeps_quiet_about(&CANARIES);
        world.run("doctor").keeps_quiet_about(&CANARIES);
        assert!(world.runs("a"), "{what}: the old one runs");
    }
    assert_eq!(world.sandbox.files_with(&CANARIES), Vec::<PathBuf>::new());
}

#[test]
fn a_mounts_target_and_a_port_from_the_environment_are_hidden() {
    let mut world = planted();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().port().to_string();
    world.sandbox.set("IN_TARGET", "canary-target").set("IN_PORT", &taken);
    // With what stands before it, since a time of day may have the same digits.
    let (colon, blank) = (format!(":{taken}"), format!(" {taken}"));
    let canaries = ["canary-target", colon.as_str(), blank.as_str()];
    for (what, container) in [
        ("a target that cannot be", "mounts: [{source: /var/tmp, target: \"/proc/${env:IN_TARGET}/x\"}]"),
        ("a port that is taken", "ports: [\"127.0.0.1:${env:IN_PORT}:8080\"]"),
        ("in its long form", "ports: [{hostIp: 127.0.0.1, hostPort: \"${env:IN_PORT}\", containerPort: 8080}]"),
    ] {
        world.state(&[&world.agent("a", container)]);
        for verb in ["plan", "plan -o markdown", "plan -o json", "apply -vv", "apply -o json -vv --log-format json"] {
            let outcome = world.run(verb).keeps_quiet_about(&canaries);
            assert!(!verb.starts_with("apply") || outcome.code != 0, "{what}: {verb} cannot succeed");
        }
        for verb in ["why a", "history", "history -o json", "status -o json", "doctor"] {
            world.run(verb).keeps_quiet_about(&canaries);
        }
        assert_eq!(world.sandbox.files_with(&canaries[..1]), Vec::<PathBuf>::new(), "{what}");
    }
    let why = world.run("why a").stdout;
    assert!(why.contains("host port (sensitive) that container"), "{why}");
}

#[test]
fn what_becomes_sensitive_is_not_made_anew() {
    let mut world = planted();
    let port = crate::world::port().to_string();
    let container = |value: &str, target: &str, port: &str| {
        format!(
            "env: {{PLAIN: \"{value}\"}}, command: [sh, -c, \"sleep 1000 # {value}\"], mounts: [{{source: /var/tmp, target: \"{target}\"}}], \
             ports: [\"127.0.0.1:{port}:8080\"]"
        )
    };
    world.sandbox.set("VALUE", "some-value").set("IN_TARGET", "inside").set("IN_PORT", &port);
    let hidden = container("${env:VALUE}", "/srv/${env:IN_TARGET}", "${env:IN_PORT}");
    world.state(&[&world.agent("a", &container("some-value", "/srv/inside", &port))]);
    world.applied();
    let id = world.inspect("a")["Id"].clone();
    world.state(&[&world.agent("a", &hidden)]);
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "hidden from now on");
    world.sandbox.set("IN_TARGET", "elsewhere");
    let plan = world.run("plan -o json").expect(0).keeps_quiet_about(&["inside\"", "/srv/inside", "elsewhere"]).json();
    assert_eq!(plan["actions"][0]["changes"].as_array().unwrap().len(), 2, "one mount goes, one comes: {plan}");
    world.sandbox.set("IN_TARGET", "inside");
    world.state(&[&world.agent("a", &container("some-value", "/srv/inside", &port))]);
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "and back");
    assert_eq!(world.inspect("a")["Id"], id);
}
