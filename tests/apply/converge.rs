//! What `apply` is for: it converges, a second one does nothing, and each change touches what it is about and no more.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, http, id_of, inspect, kinds, port, until};

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn twice_takes_no_action_and_changes_no_id() {
    let world = World::new();
    let port = port();
    world.state(&[&world.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]")), &world.agent("b", "")]);
    let plan = world.run("plan --detailed-exitcode -o json").expect(2).json();
    assert_eq!(plan["summary"]["create"], 2, "{plan}");
    assert_eq!(world.ids().len(), 0, "a plan changes nothing");
    let first = world.applied();
    assert_eq!((&first["name"], &first["converged"]), (&json!(world.owner), &json!(true)));
    assert_eq!(kinds(&first), ["createContainer", "createContainer"]);
    for action in first["actions"].as_array().unwrap() {
        assert_eq!(action["result"], "done");
        assert!(action["durationMs"].is_u64() && action["reason"].is_string() && action["target"].is_string());
    }
    assert!(first["durationMs"].is_u64());
    until("the agent answers", || http(port, "/").is_some_and(|body| body == "hello from the agent\n"));

    let ids = world.ids();
    let second = world.applied();
    assert_eq!((&second["converged"], &second["actions"]), (&json!(true), &json!([])));
    assert_eq!(world.ids(), ids);
    let text = world.run("apply").expect(0);
    assert_eq!(text.stdout, format!("`{}`: nothing to do.\n", world.owner));
    assert_eq!(text.stderr, "");
    let plan = world.run("plan --detailed-exitcode").expect(0);
    assert_eq!(plan.stdout, format!("No changes. `{}` is as the state file says.\n", world.owner));
}

#[test]
fn what_was_killed_runs_again_as_it_was() {
    let world = World::new();
    world.state(&[&world.agent("a", "env: {X: \"1\"}"), &world.agent("b", "")]);
    world.applied();
    let (before, other) = (world.inspect("a"), world.inspect("b"));
    world.kill("a");
    let plan = world.run("plan --detailed-exitcode -o json").expect(2).json();
    assert_eq!(kinds(&plan), ["startContainer"]);
    assert_eq!(world.apply_kinds(), ["startContainer"]);
    let after = world.inspect("a");
    assert_eq!(after["State"]["Running"], true);
    assert_eq!(after["Id"], before["Id"]);
    assert_eq!(after["Config"]["Labels"], before["Config"]["Labels"]);
    assert_eq!(world.inspect("b")["State"]["StartedAt"], other["State"]["StartedAt"], "the other was left alone");

    world.remove("a");
    assert_eq!(world.apply_kinds(), ["createContainer"], "what is gone is made anew");
    assert_eq!(world.inspect("b")["Id"], other["Id"]);
}

#[test]
fn one_edited_value_replaces_exactly_that_container_and_the_plan_names_it() {
    let world = World::new();
    let port = port();
    let a =
        |value: &str| world.agent("a", &format!("env: {{MODE: {value}, KEEP: x}}, ports: [\"127.0.0.1:{port}:8080\"]"));
    world.state(&[&a("one"), &world.agent("b", "env: {MODE: one}")]);
    world.applied();
    let before = world.ids();
    world.state(&[&a("two"), &world.agent("b", "env: {MODE: one}")]);
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(kinds(&plan), ["replaceContainer"]);
    let step = &plan["actions"][0];
    assert_eq!(step["agent"], "a");
    assert_eq!(step["changes"], json!([{"field": "container.env.MODE", "from": "one", "to": "two"}]));
    let text = world.run("plan").expect(0).stdout;
    assert!(text.contains("container.env.MODE: one → two") && text.contains("forces the replacement"), "{text}");
    let markdown = world.run("plan -o markdown").expect(0).stdout;
    assert!(markdown.contains("`container.env.MODE`: one → two"), "{markdown}");

    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    let after = world.ids();
    assert_ne!(after[&world.name("a")], before[&world.name("a")]);
    assert_eq!(after[&world.name("b")], before[&world.name("b")]);
    assert_eq!(after.len(), 2, "{after:?}");
    let env = world.inspect("a")["Config"]["Env"].clone();
    assert!(env.as_array().unwrap().contains(&json!("MODE=two")), "{env}");
    until("it answers on the same port", || http(port, "/").is_some());
    assert_eq!(world.apply_kinds(), none());
}

#[test]
fn quiet_is_quiet_and_logs_may_be_json() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let quiet = world.run("apply -q").expect(0);
    assert_eq!(quiet.stderr, "");
    world.remove("a");
    let logged = world.run("apply -vv --log-format json").expect(0);
    let lines: Vec<_> = logged.stderr.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!lines.is_empty(), "{}", logged.stderr);
    for line in lines {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
        assert!(entry["level"].is_string() && entry["message"].is_string(), "{line}");
    }
    assert!(!logged.stderr.contains('\u{1b}'), "{}", logged.stderr);
}

/// What is written differently and means the same changes nothing.
#[test]
fn another_way_of_writing_the_same_is_no_change() {
    let world = World::new();
    let port = port();
    world.state(&[&world.agent("a", &format!("env: {{A: \"1\", B: \"2\"}}, ports: [\"127.0.0.1:{port}:8080\"]"))]);
    world.applied();
    let ids = world.ids();
    let ports = format!("[{{hostIp: 127.0.0.1, hostPort: {port}, containerPort: 8080, protocol: tcp}}]");
    let name = world.name("a");
    let other = format!("restart: unless-stopped, ports: {ports}, env: {{B: \"2\", A: \"1\"}}, name: {name}");
    world.state(&[&world.agent("a", &other)]);
    assert_eq!(world.apply_kinds(), none());
    assert_eq!(world.ids(), ids);
}

#[test]
fn a_removed_agent_goes_and_a_foreign_container_beside_it_stays() {
    let world = World::new();
    let foreign_container = format!("{}-stranger", world.owner);
    let foreign_id = world.foreign_container(&foreign_container);
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    world.applied();
    world.state(&[&world.agent("a", "")]);
    let a = world.inspect("a")["Id"].clone();

    let kept = world.run("apply --no-prune -o json").expect(0).json();
    assert_eq!(kinds(&kept), none());
    assert!(world.runs("b"), "--no-prune keeps it");
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(kinds(&plan), ["removeContainer"]);
    assert_eq!(plan["actions"][0]["target"], world.name("b"));
    assert_eq!(world.apply_kinds(), ["removeContainer"]);
    assert_eq!(inspect(&world.name("b")), None);
    assert_eq!(world.inspect("a")["Id"], a);

    // A file without agents is more likely a mistake than a wish.
    world.state(&[]);
    world.run("apply").expect(1).says("--allow-empty");
    assert!(world.runs("a"));
    world.run("apply --no-prune").expect(0);
    assert!(world.runs("a"));
    world.run("apply --allow-empty").expect(0);
    assert_eq!(world.ids().len(), 0);

    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    world.applied();
    let down = world.run("down -o json").expect(0).json();
    assert_eq!(kinds(&down), ["removeContainer", "removeContainer"]);
    assert_eq!(world.ids().len(), 0);
    assert_eq!(world.run("down").expect(0).stdout, format!("`{}`: nothing to remove.\n", world.owner));
    let seen = inspect(&foreign_container).expect("the stranger");
    assert_eq!((seen["Id"].as_str(), &seen["State"]["Running"]), (Some(foreign_id.as_str()), &json!(true)));
}

#[test]
fn another_state_file_is_another_owner() {
    let (world, other) = (World::new(), World::new());
    world.state(&[&world.agent("a", "")]);
    other.state(&[&other.agent("a", "")]);
    world.applied();
    other.applied();
    let ids = other.ids();
    world.run("down").expect(0);
    assert_eq!(other.ids(), ids);
    assert!(other.runs("a"));
}

#[test]
fn stopped_absent_and_suspended() {
    let world = World::new();
    let agent = |state: &str| world.agent("a", "").replacen("{version", &format!("{{{state}, version"), 1);
    world.state(&[&agent("state: stopped")]);
    world.applied();
    assert!(!world.runs("a"));
    let id = world.inspect("a")["Id"].clone();
    assert_eq!(world.run("status -o json").expect(0).json()["converged"], true);

    world.state(&[&agent("state: running")]);
    assert_eq!(world.apply_kinds(), ["startContainer"]);
    assert!(world.runs("a"));
    world.state(&[&agent("state: stopped")]);
    assert_eq!(world.apply_kinds(), ["stopContainer"]);
    assert!(!world.runs("a"));
    assert_eq!(world.apply_kinds(), none(), "stopped it stays");
    assert_eq!(world.inspect("a")["Id"], id);

    world.state(&[&agent("state: running")]);
    world.applied();
    world.kill("a");
    world.state(&[&agent("suspend: true")]);
    assert_eq!(world.apply_kinds(), none(), "suspended: nothing is changed");
    assert!(!world.runs("a"));
    assert_eq!(world.inspect("a")["Id"], id);
    world.state(&[&agent("state: running")]);
    assert_eq!(world.apply_kinds(), ["startContainer"]);

    world.state(&[&agent("state: absent")]);
    assert_eq!(world.apply_kinds(), ["removeContainer"]);
    assert_eq!(world.ids().len(), 0);
    assert_eq!(world.apply_kinds(), none());
}

#[test]
fn only_touches_the_agents_it_names() {
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("b", ""), &world.agent("c", "")]);
    world.run("apply --only a --only c").expect(0);
    assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), [world.name("a"), world.name("c")]);
    world.applied();
    world.state(&[&world.agent("a", "env: {X: new}"), &world.agent("b", "env: {X: new}")]);
    let ids = world.ids();
    let report = world.run("apply --only a -o json").expect(0).json();
    assert_eq!(kinds(&report), ["replaceContainer"]);
    let now = world.ids();
    assert_eq!((&now[&world.name("b")], &now[&world.name("c")]), (&ids[&world.name("b")], &ids[&world.name("c")]));
    world.run("apply --only nobody").expect(64).says("nobody");
}

#[test]
fn a_foreign_container_with_a_wanted_name_is_a_conflict_until_it_is_adopted() {
    let world = World::new();
    let name = world.name("a");
    let id = world.foreign_container(&name);
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    let refused = world.run("apply").expect(1);
    refused.says(&format!("container `{name}` exists and does not belong to this state file")).says("--adopt");
    assert_eq!(id_of(&name), id, "it was not touched");
    assert!(world.runs("b"), "the other agent is not held up");
    let plan = world.run("plan -o json").expect(1).json();
    assert_eq!(plan["waiting"][0]["on"], "removal", "{plan}");

    let adopted = world.run("apply --adopt -o json").expect(0).json();
    assert_eq!(kinds(&adopted), ["replaceContainer"]);
    assert_ne!(id_of(&name), id);
    assert!(world.runs("a"));
    assert_eq!(world.apply_kinds(), none());
}

#[test]
fn a_health_check_becomes_healthy_without_systemd() {
    let world = World::new();
    let line = "trap 'exit 0' TERM; sleep 1; touch /tmp/ready; while true; do sleep 0.1; done";
    let test = "[CMD, cat, /tmp/ready]";
    let check = format!("healthcheck: {{test: {test}, interval: 1s, retries: 50}}, command: [sh, -c, \"{line}\"]");
    world.state(&[&world.agent("a", &check)]);
    world.applied();
    let status = world.run("status -o json").expect(0).json();
    assert_eq!((&status["agents"]["a"]["health"], &status["converged"]), (&json!("Healthy"), &json!(true)), "{status}");
    assert_eq!(world.apply_kinds(), none());
}

#[test]
fn a_one_shot_that_is_done_stays_done() {
    let world = World::new();
    world.state(&[
        &world.agent("job", "restart: \"no\", command: [sh, -c, \"echo done\"]"),
        &world.agent("try", "restart: on-failure, command: [\"true\"]"),
    ]);
    world.applied();
    let ids = world.ids();
    let status = world.run("status -o json").expect(0).json();
    assert_eq!(status["agents"]["job"]["health"], "Completed", "{status}");
    assert_eq!(world.apply_kinds(), none());
    assert_eq!(world.ids(), ids);
}

#[test]
fn ports_can_be_swapped_between_agents() {
    let world = World::new();
    let (one, two) = (port(), port());
    let agent = |name: &str, port: u16| world.agent(name, &format!("ports: [\"127.0.0.1:{port}:8080\"]"));
    world.state(&[&agent("a", one), &agent("b", two)]);
    world.applied();
    world.state(&[&agent("a", two), &agent("b", one)]);
    world.applied();
    until("both answer", || http(one, "/").is_some() && http(two, "/").is_some());
    assert_eq!(world.apply_kinds(), none());
    assert_eq!(world.leftovers(), none());
}

/// A stop is waiting, not work: it takes one grace, however many wait and however few steps may work at once.
#[test]
fn many_that_ignore_their_signal_are_replaced_and_removed_in_one_grace() {
    let world = World::new();
    let state = |word: &str| {
        let deaf = format!("env: {{WORD: \"{word}\"}}, command: [sleep, \"1000000\"]");
        let agents: Vec<_> = (10..22).map(|number| world.agent(&format!("a{number}"), &deaf)).collect();
        world.state(&agents.iter().map(String::as_str).collect::<Vec<_>>());
    };
    state("1");
    world.applied();
    let before = world.ids();
    state("2");
    // Two at a time would take six graces, Podman's own seven at a time two.
    let replaced = world.run("apply --parallel 2 -o json").expect(0);
    assert!(replaced.took < Duration::from_secs(45), "{:?}", replaced.took);
    assert_eq!(kinds(&replaced.json()), ["replaceContainer"; 12]);
    assert!(world.ids().values().all(|id| !before.values().any(|old| old == id)));
    let down = world.run("down").expect(0);
    assert!(down.took < Duration::from_secs(20), "{:?}", down.took);
    assert!(world.ids().is_empty());
}
