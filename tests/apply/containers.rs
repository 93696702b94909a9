//! What happens to containers and to what they keep: volumes, names, edits that are taken back, containers that are half
//! made, images for other machines, and answers that are lost.

use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lossy::Lossy;
use crate::support;
use crate::world::{World, api, id_of, inspect, kinds, port, until};

/// Runs a shell line in an agent's container.
#[track_caller]
fn exec(world: &World, agent: &str, line: &str) -> String {
    world.run(["exec", agent, "--", "sh", "-c", line]).expect(0).stdout
}

fn rename(from: &str, to: &str) {
    let (status, said) = api("POST", &format!("/v4.0.0/libpod/containers/{from}/rename?name={to}"), b"");
    assert_eq!(status, 204, "{said}");
}

/// The names of a container's volumes.
fn volumes(name: &str) -> Vec<String> {
    let mounts = inspect(name).expect("a container")["Mounts"].as_array().cloned().unwrap_or_default();
    let volumes = mounts.iter().filter(|mount| mount["Type"] == "volume");
    volumes.map(|mount| mount["Name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn remove_volume(name: &str) {
    let _ = api("DELETE", &format!("/v4.0.0/libpod/volumes/{name}?force=true"), b"");
}

// ----------------------------------------------------------------------------------------------------------- volumes

#[test]
fn data_in_a_volume_that_an_image_declares_survives_every_replacement() {
    let world = World::bare();
    world.load(&world.image("1").volume("/data/"));
    let agent = |env: &str| world.agent("notes", &format!("env: {{{env}}}"));
    world.state(&[&agent("LEVEL: info")]);
    world.applied();
    let name = world.name("notes");
    let kept = volumes(&name);
    assert_eq!(kept.len(), 1, "{kept:?}");
    exec(&world, "notes", "echo precious >/data/memo");
    for level in ["debug", "trace"] {
        world.state(&[&agent(&format!("LEVEL: {level}"))]);
        assert_eq!(world.apply_kinds(), ["replaceContainer"]);
        assert_eq!(exec(&world, "notes", "cat /data/memo"), "precious\n");
        assert_eq!(volumes(&name), kept);
    }

    // A successor that fails leaves it to its predecessor.
    world.state(&[&world.agent("notes", "command: [sh, -c, \"exit 3\"]")]);
    world.run("apply").expect(4);
    assert_eq!(exec(&world, "notes", "cat /data/memo"), "precious\n");
    assert_eq!(volumes(&name), kept);

    // Killed at any moment, it goes on.
    world.state(&[&agent("LEVEL: last")]);
    let running = world.spawn("apply");
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::KILL);
    running.end();
    world.applied();
    assert_eq!(exec(&world, "notes", "cat /data/memo"), "precious\n");
    assert_eq!(volumes(&name), kept);

    // What is taken down leaves its data, as Compose does without `-v`.
    world.run("down").expect(0);
    let (status, _) = api("GET", &format!("/v4.0.0/libpod/volumes/{}/json", kept[0]), b"");
    assert_eq!(status, 200, "the volume is gone");
    remove_volume(&kept[0]);
}

#[test]
fn a_mount_of_the_state_file_takes_the_place_of_a_volume() {
    let world = World::bare();
    world.load(&world.image("1").volume("/data"));
    world.state(&[&world.agent("notes", "")]);
    world.applied();
    let kept = volumes(&world.name("notes"));
    world.sandbox.write("mine/memo", "of the host\n");
    let source = world.sandbox.path("mine");
    world.state(&[&world.agent("notes", &format!("mounts: [{{source: {}, target: /data}}]", source.display()))]);
    world.applied();
    assert_eq!(exec(&world, "notes", "cat /data/memo"), "of the host\n");
    assert_eq!(volumes(&world.name("notes")), Vec::<String>::new());
    let (status, _) = api("GET", &format!("/v4.0.0/libpod/volumes/{}/json", kept[0]), b"");
    assert_eq!(status, 200, "the volume is gone");
    remove_volume(&kept[0]);
}

// ------------------------------------------------------------------------------------------------------------- names

#[test]
fn what_somebody_renamed_is_renamed_back_while_it_runs() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let name = world.name("a");
    let before = world.inspect("a");
    let same = |now: &Value| (&now["Id"], &now["State"]["Pid"]) == (&before["Id"], &before["State"]["Pid"]);
    rename(&name, &format!("{name}_x"));
    let plan = world.run("plan").expect(0);
    assert!(plan.stdout.contains(&format!("rename container to `{name}`")), "{}", plan.stdout);
    assert!(!plan.stdout.contains("Interrupts"), "{}", plan.stdout);
    assert_eq!(world.apply_kinds(), ["renameContainer"]);
    assert!(same(&world.inspect("a")));

    // An edit of `container.name` is the same.
    world.state(&[&world.agent("a", &format!("name: {name}-web"))]);
    assert_eq!(world.apply_kinds(), ["renameContainer"]);
    assert!(same(&inspect(&format!("{name}-web")).expect("it has its new name")));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

#[test]
fn two_agents_swap_their_container_names() {
    let world = World::new();
    let (a, b) = (world.name("a"), world.name("b"));
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    world.applied();
    let ids = (id_of(&a), id_of(&b));
    world.state(&[&world.agent("a", &format!("name: {b}")), &world.agent("b", &format!("name: {a}"))]);
    assert_eq!(world.apply_kinds(), ["renameContainer"; 3]);
    assert_eq!((id_of(&b), id_of(&a)), ids);
}

#[test]
fn an_agent_that_is_renamed_takes_over_the_container_name() {
    let world = World::new();
    let name = world.name("keep");
    world.state(&[&world.agent("old", &format!("name: {name}"))]);
    world.applied();
    world.state(&[&world.agent("new", &format!("name: {name}"))]);
    let plan = world.run("plan --detailed-exitcode").expect(2);
    assert!(plan.stdout.contains(&format!("once container `{name}` is removed")), "{}", plan.stdout);
    let all = format!("{}{}", plan.stdout, plan.stderr);
    assert!(!all.contains("adopt") && !all.contains("does not belong"), "{all}");
    let json = world.run("plan -o json").expect(0).json();
    let detail = json["waiting"][0]["detail"].as_str().unwrap_or_default();
    assert!(json["waiting"][0]["on"] == "removal" && detail.contains("is removed"), "{json}");
    world.applied();
    assert!(inspect(&name).is_some_and(|seen| seen["Config"]["Labels"]["steadfast.agent"] == "new"));
}

#[test]
fn beside_a_foreign_container_under_its_name_the_own_one_is_shown_and_kept() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let (name, id) = (world.name("a"), id_of(&world.name("a")));
    rename(&name, &format!("{name}-mine"));
    world.foreign_container(&name);
    world.run("apply").expect(1).says(&format!("container `{name}` exists and does not belong to this state file"));
    let status = world.run("status -o json").json();
    let shown = &status["agents"]["a"]["container"];
    assert_eq!((&shown["name"], &shown["state"]), (&format!("{name}-mine").into(), &"running".into()), "{status}");
    api("DELETE", &format!("/v4.0.0/libpod/containers/{name}?force=true&timeout=0"), b"");
    assert_eq!(world.apply_kinds(), ["renameContainer"]);
    assert_eq!(id_of(&name), id);
}

// -------------------------------------------------------------------------------------------------------- taken back

#[test]
fn an_edit_that_is_taken_back_brings_the_same_container_back_whenever_it_was_killed() {
    let world = World::new();
    let port = port();
    let agent = |value: &str| world.agent("a", &format!("env: {{X: {value}}}, ports: [\"127.0.0.1:{port}:8080\"]"));
    world.state(&[&agent("one")]);
    world.applied();
    let id = id_of(&world.name("a"));
    world.state(&[&agent("probe")]);
    let whole = world.run("apply").expect(0).took;
    world.state(&[&agent("one")]);
    world.applied();
    assert_ne!(id_of(&world.name("a")), id, "what was finished is finished");
    let mut restored = 0;
    const MOMENTS: u32 = 12;
    for moment in 0..MOMENTS {
        let id = id_of(&world.name("a"));
        world.state(&[&agent(&format!("x{moment}"))]);
        let running = world.spawn("apply");
        std::thread::sleep(whole * (moment + 1) / (MOMENTS + 1));
        running.signal(Signal::KILL);
        running.end();
        let was_there = world.ids().into_values().any(|there| there == id);
        restored += usize::from(world.ids().keys().any(|name| name.ends_with(".prev")));
        world.state(&[&agent("one")]);
        let report = world.applied();
        // What was asked for just before the kill, Podman may go on making.
        until("nothing is left", || {
            let is_clear = world.ids().into_keys().eq([world.name("a")]);
            is_clear || kinds(&world.applied()).is_empty() && world.ids().len() == 1
        });
        assert!(world.runs("a"), "moment {moment}: {report}");
        if was_there {
            assert_eq!(id_of(&world.name("a")), id, "moment {moment}: {report}");
            assert!(!kinds(&report).iter().any(|kind| kind == "replaceContainer"), "moment {moment}: {report}");
        }
    }
    assert!(restored > 0, "no kill came in the middle, so nothing was proved");
}

// --------------------------------------------------------------------------------------------------------- half made

#[test]
fn a_container_whose_storage_is_gone_is_made_anew() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let name = world.name("a");
    // Made, never started, and then its storage goes.
    let spec = {
        let seen = world.inspect("a");
        serde_json::json!({
            "name": name,
            "image": format!("localhost/{}:1", world.owner),
            "labels": seen["Config"]["Labels"],
            "restart_policy": "unless-stopped",
        })
    };
    world.remove("a");
    let (status, said) = api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes());
    assert_eq!(status, 201, "{said}");
    let half = id_of(&name);
    if !lose_storage(&half) {
        return;
    }
    assert!(inspect(&name).is_none(), "Podman still has all of it");
    let why = world.run("why a").expect(0);
    assert!(why.stdout.contains("`steadfast apply` does it now"), "{}", why.stdout);
    assert_eq!(world.apply_kinds(), ["startContainer"]);
    assert!(world.runs("a") && world.ids().into_values().all(|id| id != half));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

/// Takes a container's layer away beside Podman, as a removal that was broken off does. `false` where the tests' Podman keeps
/// its storage out of reach.
fn lose_storage(id: &str) -> bool {
    let vars = support::podman_socket().parent().map(|dir| dir.join("local.env"));
    let Some(vars) = vars.and_then(|path| std::fs::read_to_string(path).ok()) else {
        support::command::skip("the Podman of these tests is none that scripts/podman-env.sh started on this machine");
        return false;
    };
    let vars =
        vars.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let vars: std::collections::BTreeMap<_, _> = vars.collect();
    let storage = std::fs::read_to_string(&vars["CONTAINERS_STORAGE_CONF"]).expect("its configuration");
    let root = storage.lines().find_map(|line| line.trim().strip_prefix("graphroot")).expect("a graphroot");
    let root = root.trim_start_matches([' ', '=']).trim().trim_matches('"');
    let list = std::path::Path::new(root).join("overlay-containers");
    if std::fs::remove_dir_all(list.join(id)).is_err() {
        support::command::skip("the storage of these tests' Podman is no overlay");
        return false;
    }
    // Under the lock that everybody takes who writes there; what it says tells them that something was written.
    let mut lock = std::fs::OpenOptions::new().write(true).open(list.join("containers.lock")).expect("the lock");
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the lock is free some time");
    let path = list.join("containers.json");
    let mut all: Value = serde_json::from_slice(&std::fs::read(&path).expect("the list")).expect("JSON");
    all.as_array_mut().expect("a list").retain(|one| one["id"] != id);
    std::fs::write(&path, all.to_string()).expect("the list is written");
    lock.write_all(support::unique("written").repeat(8).as_bytes()).expect("the lock is written");
    true
}

// ------------------------------------------------------------------------------------------------------ architecture

#[test]
fn an_image_for_another_machine_is_refused_while_the_old_one_runs_on() {
    // One that nobody emulates.
    let world = World::new();
    world.load(&world.image("2").arch("mips64le"));
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let id = id_of(&world.name("a"));
    let second = world.agent("a", "").replace("version: \"1\"", "version: \"2\"");
    world.state(&[&second]);
    let refused = world.run("apply").expect(1).says("is built for linux/mips64le, and Podman's machine is linux/");
    assert!(refused.stderr.contains("emulation"), "{}", refused.stderr);
    assert_eq!(id_of(&world.name("a")), id);
    assert!(world.runs("a"));
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

// ------------------------------------------------------------------------------------------------------ lost answers

#[test]
fn what_was_done_is_reported_as_done_when_the_answer_was_lost() {
    let mut world = World::new();
    let lossy = Lossy::start(&mut world);
    let agent = |value: usize| world.agent("a", &format!("env: {{X: \"{value}\"}}"));
    world.state(&[&agent(0)]);
    world.applied();
    let losses: [(&[&str], usize); 8] = [
        (&["POST", "/containers/create"], 0),
        (&["POST", "/rename"], 0),
        (&["POST", "/stop"], 0),
        (&["POST", "/rename"], 1),
        (&["POST", "/start"], 0),
        (&["DELETE", "/containers/"], 0),
        (&["POST", "/kill"], 0),
        (&["GET", "/json"], 2),
    ];
    for (at, (words, skip)) in losses.into_iter().enumerate() {
        world.state(&[&agent(at + 1)]);
        lossy.lose(words, skip);
        let report = world.applied();
        assert_eq!(kinds(&report), ["replaceContainer"], "{words:?}");
        assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), [world.name("a")], "{words:?}");
        let env = world.inspect("a")["Config"]["Env"].to_string();
        assert!(env.contains(&format!("\"X={}\"", at + 1)), "{words:?}: {env}");
        assert!(lossy.is_lost() || words[1] == "/kill", "{words:?} was never asked for");
    }
    // A first one, and one that was ended.
    world.remove("a");
    lossy.lose(&["POST", "/start"], 0);
    assert_eq!(world.apply_kinds(), ["createContainer"]);
    world.kill("a");
    lossy.lose(&["POST", "/start"], 0);
    assert_eq!(world.apply_kinds(), ["startContainer"]);
    assert!(lossy.is_lost());
    lossy.lose(&["DELETE", "/containers/"], 0);
    world.run("down").expect(0);
    until("it is gone", || world.ids().is_empty());
}

#[test]
fn what_a_lost_answer_started_is_judged_all_the_same() {
    let mut world = World::new();
    let lossy = Lossy::start(&mut world);
    world.state(&[&world.agent("bad", "command: [sh, -c, \"echo the reason; exit 3\"], restart: \"no\"")]);
    lossy.lose(&["POST", "/start"], 0);
    world.run("apply").expect(3).says("ended at once with exit code 3").says("the reason");
    assert!(lossy.is_lost());
}
