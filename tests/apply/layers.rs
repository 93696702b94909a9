//! One artifact for several agents, copies of one entry, and state files that are merged.

use serde_json::json;

use crate::world::{World, inspect, kinds, until};

#[test]
fn agents_of_one_artifact_fetch_and_load_it_once() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&["one: {version: latest, artifact: a}", "two: {version: \"1.0\", artifact: a}"]);
    let took = world.apply_kinds();
    for (kind, times) in [("fetchArtifact", 1), ("loadImage", 1), ("createContainer", 2)] {
        assert_eq!(took.iter().filter(|taken| *taken == kind).count(), times, "{kind}: {took:?}");
    }
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    let status = world.run("status -o json").expect(0).json();
    let key = |agent: &str| status["agents"][agent]["artifact"]["key"].clone();
    assert_eq!(key("one"), key("two"));
    assert!(key("one").as_str().unwrap().contains("/a-1.0-"), "{status}");
    // A new version comes for the one that asks for the latest, and the other runs on.
    world.publish(&[("a", "2.0")]);
    let took = world.applied();
    let taken: Vec<_> = took["actions"].as_array().unwrap().iter().map(|one| (&one["kind"], &one["agent"])).collect();
    assert!(taken.contains(&(&json!("replaceContainer"), &json!("one"))), "{took}");
    assert!(!taken.iter().any(|(kind, agent)| **kind == "replaceContainer" && **agent == "two"), "{took}");
    assert_eq!(world.run("exec two -- cat /version").expect(0).stdout, format!("{} a 1.0", world.owner));
    let wanting = world.run("why one").expect(0).stdout;
    assert!(wanting.contains("/a:2.0"), "{wanting}");
    world.state(&["one: {version: latest, artifact: b}"]);
    world.run("apply --timeout 5s").expect(3).says("the manifest has no agent `b`; it offers `a`");
}

#[test]
fn copies_come_and_go_with_their_count_and_config_plans_nothing_new() {
    let world = World::new();
    let owner = &world.owner;
    let state = |count: u32| {
        format!(
            "apiVersion: steadfast/v1\nname: {owner}\nruntime: {{podman: {{}}}}\n\
             defaults: {{container: {{env: {{LOG: info}}, restart: always}}}}\n\
             templates: {{t: {{version: \"1\", image: localhost/{owner}, source: local, container: {{env: {{WHO: \"${{agent:name}}\"}}}}}}}}\n\
             agents: {{w: {{from: t, count: {count}, container: {{env: {{SHARD: \"${{agent:index}}\"}}}}}}}}\n"
        )
    };
    world.sandbox.write("steadfast.yaml", state(3));
    assert_eq!(world.apply_kinds(), ["createContainer"; 3]);
    let env = world.inspect("w-2")["Config"]["Env"].to_string();
    for variable in ["LOG=info", "WHO=w-2", "SHARD=2"] {
        assert!(env.contains(&format!("\"{variable}\"")), "{env}");
    }
    let config = world.run("config").expect(0).stdout;
    world.sandbox.write("elsewhere/config.yaml", config);
    let plan = world.run("plan --take-over -f elsewhere/config.yaml -o json").expect(0).json();
    assert_eq!((&plan["converged"], kinds(&plan)), (&json!(true), Vec::new()), "{plan}");
    let first = world.ids()[&world.name("w-1")].clone();
    world.sandbox.write("steadfast.yaml", state(1));
    assert_eq!(world.apply_kinds(), ["removeContainer"; 2]);
    assert_eq!(world.ids(), [(world.name("w-1"), first)].into());
}

#[test]
fn files_that_are_merged_are_one_state_file_for_whoever_works_with_it() {
    let world = World::new();
    world.state(&[&world.agent("a", "env: {X: \"1\"}")]);
    let over = |x: &str| format!("agents: {{a: {{container: {{env: {{X: \"{x}\"}}}}}}, {}}}\n", world.agent("b", ""));
    world.sandbox.write("prod/prod.yaml", over("2"));
    const BOTH: &str = "-f steadfast.yaml -f prod/prod.yaml";
    world.run(format!("apply {BOTH}")).expect(0);
    let runs_with = |x: &str| {
        inspect(&world.name("a")).is_some_and(|seen| {
            seen["State"]["Running"] == true && seen["Config"]["Env"].to_string().contains(&format!("\"X={x}\""))
        })
    };
    assert!(runs_with("2") && world.runs("b"));
    // Without the second file, `b` would be taken for an agent that left.
    world.run("apply").expect(1).says("belongs to `").says("name the same files with `-f`, in the same order");
    assert!(world.runs("b"));

    let mut run = world.spawn(format!("run {BOTH}"));
    run.until("it keeps them", |run| run.stderr().contains("converged"));
    until("it is its own view", || {
        let status = world.run(format!("status {BOTH} -o json")).json();
        status["run"]["layers"] == json!([world.sandbox.path("prod/prod.yaml").display().to_string()])
    });
    world.run("apply").expect(5).says("reconciles another state file of this name");
    world.sandbox.write("prod/prod.yaml", over("3"));
    until("the later file is watched", || runs_with("3"));
    world.state(&[&world.agent("a", "env: {Y: \"1\"}")]);
    until("and so is the first", || {
        inspect(&world.name("a")).is_some_and(|seen| seen["Config"]["Env"].to_string().contains("\"Y=1\""))
    });
    world.run(format!("apply --wait {BOTH}")).expect(0);
    drop(run);
    world.run(format!("down {BOTH}")).expect(0);
    assert!(world.ids().is_empty());
}
