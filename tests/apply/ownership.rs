//! Whose a name and a container are: two files of one name, one name over two roots, copies of an agent's container.

use serde_json::{Value, json};

use crate::world::{World, api, id_of, inspect, kinds};

fn no_change(world: &World, file: &str) {
    let plan = world.run(format!("plan -f {file} -o json").as_str()).expect(0).json();
    assert_eq!(kinds(&plan), [""; 0], "{plan}");
}

/// Another state file of the same name, with this agent.
fn other_file(world: &World, path: &str, agent: &str) {
    let own = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    let (head, _) = own.split_once("agents:").unwrap();
    world.sandbox.write(path, format!("{head}agents:\n  {}\n", world.agent(agent, "")));
}

#[test]
fn another_file_of_the_same_name_is_refused_by_every_verb_and_changes_nothing() {
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("c", "")]);
    world.applied();
    let ids = world.ids();
    other_file(&world, "other/s.yaml", "b");
    let sentence = format!(
        "the name `{}` below `{}` belongs to `{}` (agents `a`, `c`), not to `{}`",
        world.owner,
        world.sandbox.root().display(),
        world.sandbox.path("steadfast.yaml").display(),
        world.sandbox.path("other/s.yaml").display(),
    );
    for verb in
        ["plan", "status", "apply", "down", "run", "why b", "logs b", "doctor", "plan -o json", "status -o json"]
    {
        let refused = world.run(format!("{verb} --file other/s.yaml").as_str()).expect(1);
        assert!(refused.stdout.contains(&sentence) || refused.stderr.contains(&sentence), "{verb}: {refused:?}");
        assert!(
            refused.stdout.contains("--take-over") || refused.stderr.contains("--take-over"),
            "{verb}: {refused:?}"
        );
    }
    world.run("exec b --file other/s.yaml -- true").expect(125).says(&sentence);
    world.run("validate -f other/s.yaml").expect(0);
    assert_eq!(world.ids(), ids);
    no_change(&world, "steadfast.yaml");

    // Asked to, it takes the other's place, and that one is refused from then on.
    let plan = world.run("plan --take-over -f other/s.yaml -o json").expect(0).json();
    let mut planned = kinds(&plan);
    planned.sort();
    assert_eq!(planned, ["createContainer", "removeContainer", "removeContainer"], "{plan}");
    world.run("apply --take-over -f other/s.yaml").expect(0);
    assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), [world.name("b")]);
    world.run("apply").expect(1).says("belongs to").says("agent `b`");
    world.run("apply -f other/s.yaml").expect(0);

    // What was taken down is free.
    world.run("down -f other/s.yaml").expect(0);
    assert_eq!(world.apply_kinds(), ["createContainer", "createContainer"]);
}

#[test]
fn down_of_another_file_can_be_insisted_on() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    other_file(&world, "other.yaml", "b");
    world.run("down -f other.yaml").expect(1);
    assert_eq!(world.ids().len(), 1);
    world.run("down -f other.yaml --take-over").expect(0);
    assert!(world.ids().is_empty());
}

#[test]
fn a_file_that_was_moved_is_the_same_unless_it_was_edited_on_the_way() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let ids = world.ids();
    let text = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    // A copy is another file, whatever it says.
    world.sandbox.write("copy.yaml", &text);
    world.run("apply -f copy.yaml").expect(1).says("belongs to");
    // By another way, it is the same file.
    std::os::unix::fs::symlink(world.sandbox.path("steadfast.yaml"), world.sandbox.path("link.yaml")).unwrap();
    world.run("apply -f link.yaml").expect(0);
    // Moved, with another comment.
    std::fs::remove_file(world.sandbox.path("steadfast.yaml")).unwrap();
    world.sandbox.write("moved.yaml", format!("# here now\n{text}"));
    no_change(&world, "moved.yaml");
    world.run("status -f moved.yaml").expect(0);
    world.run("apply -f moved.yaml").expect(0);
    assert_eq!(world.ids(), ids);
    // And edited: nobody can tell that it is no other.
    std::fs::remove_file(world.sandbox.path("moved.yaml")).unwrap();
    other_file_from(&world, &text, "edited.yaml");
    world.run("apply -f edited.yaml").expect(1).says("moved.yaml");
    world.run("apply --take-over -f edited.yaml").expect(0);
}

fn other_file_from(world: &World, text: &str, path: &str) {
    world.sandbox.write(path, text.replace("container: {}", "container: {env: {X: \"1\"}}"));
}

#[test]
fn what_is_piped_goes_on_from_what_was_piped_and_not_over_another_file() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let text = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    let edited = text.replace("container: {}", "container: {env: {X: \"1\"}}");
    world.sandbox.feed("apply -f -", &text).expect(0);
    world.run("apply").expect(0);
    world.sandbox.feed("apply -f -", &edited).expect(1).says("not to what comes through standard input");
    world.sandbox.feed("apply --take-over -f -", &edited).expect(0);
    world.run("apply").expect(1).says("belongs to what comes through standard input (agent `a`)");
    world.sandbox.feed("apply -f -", &text).expect(0);
    world.run("apply").expect(0);
}

#[test]
fn run_refuses_another_file_and_keeps_what_its_own_says() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let mut run = world.spawn("run");
    run.until("the container", |_| world.runs("a"));
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    run.until("the other container", |_| world.runs("b"));
    run.signal(rustix::process::Signal::TERM);
    run.end().expect(143);
    other_file(&world, "other.yaml", "c");
    let refused = world.run("run -f other.yaml").expect(1);
    assert!(refused.stderr.contains("(agents `a`, `b`)"), "{refused:?}");
    // What was edited while `run` kept it is what was last applied.
    let from = world.sandbox.path("steadfast.yaml");
    std::fs::rename(&from, world.sandbox.path("moved.yaml")).unwrap();
    no_change(&world, "moved.yaml");
}

#[test]
fn another_root_of_the_same_name_is_foreign_until_it_is_taken_over() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let (ids, root) = (world.ids(), world.sandbox.path("r2").display().to_string());
    let labels = world.inspect("a")["Config"]["Labels"].clone();
    let here = std::fs::read_to_string(world.sandbox.root().join("state/id")).unwrap();
    assert!(labels["steadfast.root"].as_str().unwrap().starts_with(here.trim()), "{labels}");
    assert_eq!(labels["steadfast.root-path"], world.sandbox.root().display().to_string());

    let sentence =
        format!("belongs to a state file of the same name below another root, `{}`", world.sandbox.root().display());
    for verb in ["plan", "apply", "apply"] {
        let refused = world.run(format!("{verb} --root {root}").as_str()).expect(1);
        let said = refused.stdout.clone() + &refused.stderr;
        assert!(said.contains(&sentence) && said.contains("--adopt"), "{verb}: {refused:?}");
    }
    world.run(format!("exec a --root {root} -- true").as_str()).expect(125).says("has no container");
    world.run(format!("down --root {root}").as_str()).expect(0);
    assert_eq!(world.ids(), ids, "nothing of the other root was touched");
    no_change(&world, "steadfast.yaml");

    world.run(format!("apply --adopt --root {root}").as_str()).expect(0);
    assert_ne!(world.ids(), ids);
    world.run("apply").expect(1).says("below another root, `").says("r2`");
    world.run(format!("down --root {root}").as_str()).expect(0);
    assert!(world.ids().is_empty());
}

/// Two roots used to fight for ever, each removing what the other had made.
#[test]
fn two_that_run_below_two_roots_leave_each_others_containers_alone() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let root = world.sandbox.path("r2").display().to_string();
    let mut first = world.spawn("run");
    first.until("the container", |_| world.runs("a"));
    let ids = world.ids();
    let mut second = world.spawn(format!("run --root {root}").as_str());
    second.until("it says whose the container is", |second| second.stderr().contains("below another root"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(world.ids(), ids);
    for run in [second, first] {
        run.signal(rustix::process::Signal::TERM);
        run.end().expect(143);
    }
}

/// What an older version would have made in the place of an agent's container.
fn made_by_an_older_version(world: &World) -> String {
    let name = world.name("a");
    let mut labels = world.inspect("a")["Config"]["Labels"].clone();
    for label in ["steadfast.id", "steadfast.root", "steadfast.root-path"] {
        assert!(labels.as_object_mut().unwrap().remove(label).is_some(), "{label}");
    }
    world.remove("a");
    let spec = json!({"name": name, "image": format!("localhost/{}:1", world.owner), "labels": labels,
        "restart_policy": "unless-stopped"});
    let (status, said) = api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes());
    assert_eq!(status, 201, "{said}");
    let (status, said) = api("POST", &format!("/v4.0.0/libpod/containers/{name}/start"), b"");
    assert_eq!(status, 204, "{said}");
    for file in ["id", &format!("{}/file.json", world.owner)] {
        std::fs::remove_file(world.sandbox.root().join("state").join(file)).unwrap();
    }
    id_of(&name)
}

#[test]
fn what_an_older_version_made_stays_ours_and_is_not_made_anew() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let id = made_by_an_older_version(&world);
    no_change(&world, "steadfast.yaml");
    // Also where the key has been lost since.
    std::fs::remove_file(world.sandbox.root().join("state/key")).unwrap();
    for _ in 0..2 {
        assert_eq!(world.apply_kinds(), [""; 0]);
    }
    assert_eq!(id_of(&world.name("a")), id);
    // Below a root that knows nothing of it, it is another's.
    let root = world.sandbox.path("r2").display().to_string();
    for verb in ["plan", "apply", "apply"] {
        world.run(format!("{verb} --root {root}").as_str()).expect(1).says("and not here");
    }
    world.run("down").expect(0);
    assert!(world.ids().is_empty());
}

/// `podman commit` of an agent, as `localhost/OWNER:TAG`.
fn commit(world: &World, tag: &str) {
    let (name, owner) = (world.name("a"), &world.owner);
    let path = format!("/v4.0.0/libpod/commit?container={name}&repo=localhost/{owner}&tag={tag}");
    let (status, said) = api("POST", &path, b"");
    assert_eq!(status, 200, "{said}");
}

/// A running container of that image; its id.
fn copy(world: &World, name: &str, tag: &str) -> String {
    let spec =
        json!({"name": world.name(name), "image": format!("localhost/{}:{tag}", world.owner), "command": ["/agent"]});
    let (status, said) = api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes());
    assert_eq!(status, 201, "{said}");
    let (status, said) = api("POST", &format!("/v4.0.0/libpod/containers/{}/start", world.name(name)), b"");
    assert_eq!(status, 204, "{said}");
    id_of(&world.name(name))
}

fn running(id: &str) -> bool {
    inspect(id).is_some_and(|seen: Value| seen["State"]["Running"] == true)
}

#[test]
fn a_container_of_an_image_that_was_committed_from_an_agent_is_not_ours() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    commit(&world, "copy");
    let copy = copy(&world, "copy", "copy");
    let labels = inspect(&copy).unwrap()["Config"]["Labels"].clone();
    assert_eq!(labels["steadfast.name"], world.owner, "it has all the labels of the agent");
    no_change(&world, "steadfast.yaml");
    assert_eq!(world.apply_kinds(), [""; 0]);
    // An edit, which makes the agent anew, is none for the copy either.
    world.state(&[&world.agent("a", "env: {X: \"1\"}")]);
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    // The copy is no agent to look into.
    world.remove("a");
    world.run("exec a -- true").expect(125).says("has no container");
    world.run("logs a").expect(1).says("has no container");
    world.run("down").expect(0);
    assert!(running(&copy));
    // Under a wanted name it is in the way, and is told of as what it is.
    world.state(&[&world.agent("copy", "")]);
    world.run("apply").expect(1).says("is a copy of an agent's container");
    assert!(running(&copy));
}

#[test]
fn a_copy_whose_image_has_no_name_and_images_upon_it_is_not_ours_either() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    commit(&world, "one");
    let made = copy(&world, "one", "one");
    let (status, said) =
        api("POST", &format!("/v4.0.0/libpod/commit?container={made}&repo=localhost/{}&tag=two", world.owner), b"");
    assert_eq!(status, 200, "{said}");
    let path = format!("/v4.0.0/libpod/images/localhost%2F{0}:one/untag?repo=localhost/{0}&tag=one", world.owner);
    let (status, said) = api("POST", &path, b"");
    assert_eq!(status, 201, "{said}");
    assert_eq!(world.apply_kinds(), [""; 0]);
    world.run("down").expect(0);
    assert!(running(&made));
}

#[test]
fn an_agent_of_an_image_that_was_committed_from_an_agent_is_one() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    commit(&world, "2");
    let from_commit = world.agent("b", "").replace("version: \"1\"", "version: \"2\"");
    world.state(&[&world.agent("a", ""), &from_commit]);
    assert_eq!(world.apply_kinds(), ["createContainer"]);
    assert_eq!(world.apply_kinds(), [""; 0]);
    world.run("exec b -- true").expect(0);
    // Committed under its own tag, it is replaced once and is itself from then on.
    commit(&world, "1");
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    assert_eq!(world.apply_kinds(), [""; 0]);
    world.run("down").expect(0);
    assert!(world.ids().is_empty());
}
