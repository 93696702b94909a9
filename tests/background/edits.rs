//! Edits of the state file and of what belongs to it. A good one is done, a bad one takes nothing down.

use std::os::unix::fs::symlink;

use crate::keeper::{Keeper, id, kill, names, starts};
use crate::world::{World, inspect, until};

fn with_env(world: &World, value: &str) -> String {
    world.agent("a", &format!("env: {{X: \"{value}\"}}"))
}

/// Whether the agent's container has this in its environment, and runs.
fn runs_with(world: &World, agent: &str, variable: &str) -> bool {
    inspect(&world.name(agent)).is_some_and(|seen| {
        seen["State"]["Running"] == true && seen["Config"]["Env"].to_string().contains(&format!("\"{variable}\""))
    })
}

#[test]
fn a_bad_edit_takes_nothing_down_and_the_next_good_one_is_done() {
    let world = World::new();
    let b = world.agent("b", "");
    world.state(&[&with_env(&world, "1"), &b]);
    let mut keeper = Keeper::start(&world, "");
    let (first, other) = (id(&world, "a"), id(&world, "b"));

    world.state(&[&with_env(&world, "2"), &b]);
    until("it is replaced", || runs_with(&world, "a", "X=2"));
    keeper.converged();
    let second = id(&world, "a");
    assert_ne!(second, first);
    assert_eq!((world.ids().len(), id(&world, "b")), (2, other.clone()), "b is as it was");

    let good = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    world.sandbox.write("steadfast.yaml", good.replace("container: {env", "contaner: {env"));
    keeper.says("the state file cannot be used; the last good state goes on:");
    keeper.until("it shows so", |status| status["run"]["stateFileError"].is_object());
    let shown = keeper.status_outcome().expect(65).says("contaner");
    let status = shown.json();
    assert_eq!(status["converged"], true, "{status}");
    let error = &status["run"]["stateFileError"];
    assert!(error["message"].as_str().unwrap().contains("did you mean `container`?"), "{error}");
    assert!(world.run("status").expect(65).stdout.contains("contaner"));
    // The last good state is kept meanwhile.
    kill(&world, "b");
    until("it runs again", || world.runs("b"));
    let report = world.run("apply --wait").expect(65).says("the state file cannot be used");
    assert!(report.stderr.contains("contaner"), "{}", report.stderr);
    let handed = world.run("apply --no-wait").expect(65).says("contaner");
    assert!(!handed.stderr.contains("timed out") && handed.stdout.is_empty(), "{}", handed.shown());
    keeper.passes(0);
    assert_eq!(world.ids(), [("a", second), ("b", other)].map(|(name, id)| (world.name(name), id)).into());
    assert_eq!(keeper.times_said("the state file cannot be used"), 1, "{}", keeper.run.stderr());

    world.sandbox.write("steadfast.yaml", good.replace("X: \"2\"", "X: \"3\""));
    until("it is replaced", || runs_with(&world, "a", "X=3"));
    keeper.says("the state file can be used again");
    keeper.converged();
    keeper.status_outcome().expect(0);
    assert_eq!((starts(&id(&world, "a")), world.leftovers()), (1, Vec::new()));
}

/// Nothing is recreated that exists as wanted.
#[test]
fn an_edit_that_is_taken_back_interrupts_nobody() {
    let world = World::new();
    let deaf = |value: u8| {
        world.agent(
            "a",
            &format!("env: {{X: \"{value}\"}}, command: [sh, -c, \"trap '' TERM; while true; do sleep 0.2; done\"]"),
        )
    };
    world.state(&[&deaf(1)]);
    let mut keeper = Keeper::start(&world, "");
    let a = id(&world, "a");
    let state =
        |id: &str| inspect(id).map(|seen| (seen["State"]["StartedAt"].clone(), seen["State"]["Running"].clone()));
    let before = state(&a);
    world.state(&[&deaf(3)]);
    let next = format!("{}.next", world.name("a"));
    until("it is to stop", || inspect(&next).is_some());
    std::thread::sleep(std::time::Duration::from_secs(1));
    world.state(&[&deaf(1)]);
    keeper.converged();
    until("it has its name", || inspect(&world.name("a")).is_some_and(|seen| seen["Id"] == a.as_str()));
    keeper.converged();
    assert_eq!((state(&a), starts(&a)), (before, 1), "{}", keeper.run.stderr());
    assert_eq!(world.ids().len(), 1, "{:?}", world.ids());
    assert_eq!(keeper.times_said("replaced container"), 0, "{}", keeper.run.stderr());
}

#[test]
fn a_file_that_is_gone_or_empty_means_nothing_at_all() {
    let world = World::new();
    world.state(&[&with_env(&world, "1")]);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    let path = world.sandbox.path("steadfast.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    let no_agents = good.split("agents:").next().unwrap().to_owned() + "agents: {}\n";
    let gone = || std::fs::remove_file(&path).unwrap();
    let empty = || std::fs::write(&path, "").unwrap();
    let of_nobody = || std::fs::write(&path, &no_agents).unwrap();
    let bad: [(&str, &dyn Fn()); 3] = [("state file", &gone), ("empty", &empty), ("--allow-empty", &of_nobody)];
    for (round, (word, make_bad)) in bad.into_iter().enumerate() {
        make_bad();
        let status = keeper.until("it is told", |status| status["run"]["stateFileError"].is_object());
        let message = status["run"]["stateFileError"]["message"].as_str().unwrap();
        assert!(message.contains(word), "{message}");
        kill(&world, "a");
        until("it runs again", || world.runs("a"));
        assert_eq!(world.ids(), ids, "{word}");
        assert_eq!(keeper.times_said("the state file cannot be used"), round + 1, "{}", keeper.run.stderr());
        std::fs::write(&path, &good).unwrap();
        keeper.until("it is well again", |status| status["run"]["stateFileError"].is_null());
        keeper.converged();
        assert_eq!((world.ids(), starts(&id(&world, "a"))), (ids.clone(), round + 2));
    }
    let stopped = keeper.stop();
    assert_eq!(stopped.stderr.matches("removed container").count(), 0, "{}", stopped.stderr);
    assert_eq!(world.ids(), ids);

    // With leave, no agents are no agents.
    let keeper = Keeper::start(&world, "--allow-empty");
    std::fs::write(&path, &no_agents).unwrap();
    until("all are gone", || world.ids().is_empty());
    keeper.stop();
}

#[test]
fn an_env_file_and_a_link_that_is_turned_are_noticed() {
    let world = World::new();
    let agent = |value: u8| world.agent("a", &format!("env: {{X: \"{value}\"}}, envFile: ./agent.env"));
    world.sandbox.write("v1/agent.env", "Y=one\n");
    world.sandbox.write("v2/agent.env", "Y=three\n");
    for (version, value) in [("v1", 1), ("v2", 2)] {
        world.state(&[&agent(value)]);
        std::fs::rename(world.sandbox.path("steadfast.yaml"), world.sandbox.path(&format!("{version}/steadfast.yaml")))
            .unwrap();
    }
    // As the kubelet does it for a ConfigMap: file → ..data/file, ..data → version.
    symlink("v1", world.sandbox.path("..data")).unwrap();
    symlink("..data/steadfast.yaml", world.sandbox.path("steadfast.yaml")).unwrap();
    symlink("..data/agent.env", world.sandbox.path("agent.env")).unwrap();
    let mut keeper = Keeper::start(&world, "");
    assert!(runs_with(&world, "a", "X=1") && runs_with(&world, "a", "Y=one"));
    world.sandbox.write("v1/agent.env", "Y=two\n");
    until("it is replaced", || runs_with(&world, "a", "Y=two"));
    keeper.converged();
    symlink("v2", world.sandbox.path("..data.tmp")).unwrap();
    std::fs::rename(world.sandbox.path("..data.tmp"), world.sandbox.path("..data")).unwrap();
    until("it is replaced", || runs_with(&world, "a", "X=2") && runs_with(&world, "a", "Y=three"));
    keeper.converged();
    assert_eq!((world.ids().len(), keeper.times_said("the state file changed")), (1, 2), "{}", keeper.run.stderr());
    // Written anew as it was, it means nothing.
    let said = keeper.said().len();
    let a = id(&world, "a");
    world.sandbox.write("v2/agent.env", "Y=three\n");
    keeper.looked();
    assert_eq!((keeper.said().len(), id(&world, "a")), (said, a), "{}", keeper.run.stderr());
}

#[test]
fn another_name_or_root_is_refused_and_a_removed_agent_goes() {
    let world = World::new();
    let foreign_container = world.foreign_container(&format!("{}-stranger", world.owner));
    let began = inspect(&foreign_container).unwrap()["State"]["StartedAt"].clone();
    world.state(&[&with_env(&world, "1"), &world.agent("b", ""), &world.agent("c", "")]);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    let good = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    let (name, other) = (format!("name: {}\n", world.owner), format!("name: {}-other\n", world.owner));
    let root = format!("{name}root: ./elsewhere\n");
    for (what, to) in [("name", other), ("root", root)] {
        world.sandbox.write("steadfast.yaml", good.replace(&name, &to).replace("X: \"1\"", "X: \"2\""));
        keeper.says(&format!("the {what} changed from "));
        assert_eq!(world.ids(), ids, "{what}");
        world.sandbox.write("steadfast.yaml", &good);
        keeper.until("it is well again", |status| status["run"]["stateFileError"].is_null());
    }
    assert!(!world.sandbox.path("elsewhere").exists());

    world.state(&[&with_env(&world, "1"), &world.agent("c", "")]);
    until("b is gone", || names(&world.ids()) == [world.name("a"), world.name("c")]);
    keeper.converged();
    for agent in ["a", "c"] {
        assert_eq!(id(&world, agent), ids[&world.name(agent)]);
    }
    let seen = inspect(&foreign_container).expect("the stranger is still there");
    assert_eq!((&seen["State"]["StartedAt"], &seen["State"]["Running"]), (&began, &true.into()));

    // Nor is it when it holds a name that is wanted: that is said, and the others go on.
    world.state(&[&world.agent("a", ""), &world.agent("stranger", ""), &world.agent("c", "")]);
    keeper.says(&format!("{}-stranger", world.owner));
    let before = &ids[&world.name("a")];
    until("a is replaced", || {
        inspect(&world.name("a")).is_some_and(|seen| seen["State"]["Running"] == true && seen["Id"] != before.as_str())
    });
    let seen = inspect(&foreign_container).expect("the stranger is still there");
    assert_eq!((&seen["State"]["StartedAt"], &seen["State"]["Running"]), (&began, &true.into()));
}
