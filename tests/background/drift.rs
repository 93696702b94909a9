//! What others do to our containers is undone, once, and nothing else is touched.

use std::time::Duration;

use rustix::process::Signal;

use crate::keeper::{Keeper, id, kill, kill_process_of, phase, podman, starts};
use crate::proxy::Service;
use crate::world::{World, until};

#[test]
fn what_was_killed_stopped_paused_or_removed_comes_back_once() {
    let world = World::new();
    world.state(&["a", "b", "c", "d", "e"].map(|name| world.agent(name, "")).each_ref().map(String::as_str));
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    kill(&world, "a");
    podman("POST", &format!("/containers/{}/stop?timeout=5", world.name("b")));
    podman("POST", &format!("/containers/{}/pause", world.name("c")));
    world.remove("d");
    until("all run again", || ["a", "b", "c", "d", "e"].iter().all(|name| phase(&world, name) == "running"));
    let report = keeper.looked();
    assert_eq!((&report["converged"], report["actions"].as_array().map(Vec::len)), (&true.into(), Some(0)), "{report}");
    for (name, wanted) in [("a", 2), ("b", 2), ("c", 1), ("e", 1)] {
        assert_eq!(id(&world, name), ids[&world.name(name)], "{name} is the one it was");
        assert_eq!(starts(&id(&world, name)), wanted, "{name}: {}", keeper.run.stderr());
    }
    let new = id(&world, "d");
    assert_ne!(new, ids[&world.name("d")]);
    assert_eq!(starts(&new), 1);
    assert_eq!(world.ids().len(), 5);
    // Each step is said once, with its reason.
    let owner = &world.owner;
    for (name, step) in [("a", "started"), ("b", "started"), ("c", "unpaused")] {
        let line = format!("{step} container `{owner}-{name}`: ");
        assert_eq!(keeper.times_said(&line), 1, "{line}\n{}", keeper.run.stderr());
    }
    assert_eq!(keeper.times_said(&format!("created container `{owner}-d`: ")), 2, "{}", keeper.run.stderr());
    // And that is all: an observation that changes nothing says nothing.
    let said = keeper.said().len();
    keeper.looked();
    assert_eq!(keeper.said().len(), said, "{}", keeper.run.stderr());
    keeper.converged();
}

/// Podman restarts what died by itself, and is not raced: one start for each death, never two.
#[test]
fn what_podman_restarts_is_left_to_podman() {
    let world = World::new();
    let agents = [world.agent("a", ""), world.agent("f", "restart: on-failure"), world.agent("w", "restart: always")];
    world.state(&agents.each_ref().map(String::as_str));
    let keeper = Keeper::start(&world, "");
    let ids = world.ids();
    for death in 1..=4 {
        for agent in ["a", "f", "w"] {
            kill_process_of(&world, agent);
        }
        for agent in ["a", "f", "w"] {
            until("it runs again", || {
                world.inspect(agent)["RestartCount"].as_u64() == Some(death) && phase(&world, agent) == "running"
            });
        }
        keeper.looked();
        for agent in ["a", "f", "w"] {
            let starts = starts(&ids[&world.name(agent)]);
            assert_eq!(starts as u64, 1 + death, "{agent}: {}", keeper.run.stderr());
        }
    }
    assert_eq!(world.ids(), ids);
    assert_eq!(keeper.times_said("started container"), 0, "{}", keeper.run.stderr());
    // `podman kill` switches Podman's own restart off, under every policy.
    for agent in ["a", "f", "w"] {
        kill(&world, agent);
    }
    until("all run again", || ["a", "f", "w"].iter().all(|agent| world.runs(agent)));
    keeper.looked();
    for agent in ["a", "f", "w"] {
        assert_eq!(starts(&ids[&world.name(agent)]), 6, "{agent}: {}", keeper.run.stderr());
    }
    assert_eq!((world.ids(), keeper.times_said("started container")), (ids, 3), "{}", keeper.run.stderr());
}

#[test]
fn what_is_unhealthy_is_restarted_and_recovers() {
    let world = World::new();
    let check = "healthcheck: {test: [CMD, cat, /tmp/well], interval: 1s, timeout: 5s, retries: 2}";
    let command = "command: [sh, -c, \"touch /tmp/well; exec /agent\"]";
    world.state(&[&world.agent("a", &format!("{command}, {check}")), &world.agent("b", "")]);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    world.run("exec a -- busybox rm /tmp/well").expect(0);
    let restart = format!("restarted container `{}`: it was unhealthy", world.name("a"));
    keeper.says(&restart);
    until("it is healthy again", || world.inspect("a")["State"]["Health"]["Status"] == "healthy");
    let status = keeper.converged();
    assert_eq!(status["agents"]["a"]["health"], "Healthy", "{status}");
    assert_eq!((world.ids(), starts(&id(&world, "a")), starts(&id(&world, "b"))), (ids, 2, 1));
    assert_eq!(keeper.times_said(&restart), 1);
}

/// While Podman's service is gone, its containers run on, and so do commands in them.
#[test]
fn a_command_whose_podman_goes_away_leaves_nothing_behind() {
    let mut world = World::new();
    let Some(mut service) = Service::start(&mut world) else { return };
    world.state(&[&world.agent("a", "")]);
    world.run("apply").expect(0);
    let nap = format!("{}", 5_000_000 + std::process::id());
    let line = format!("sleep {nap} & echo begun; sleep {nap}");
    let mut exec = world.spawn(["exec", "a", "--", "sh", "-c", &line]);
    exec.until("it has begun", |exec| exec.stdout().contains("begun"));
    let runs = || {
        let found = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("cmdline"));
        let mut words = found.filter_map(|path| std::fs::read(path).ok());
        words.any(|line| line.split(|byte| *byte == 0).any(|word| word == nap.as_bytes()))
    };
    until("it runs", runs);
    service.end(Signal::KILL);
    let ended = exec.end().expect(125);
    assert!(ended.stderr.contains("Podman"), "{}", ended.stderr);
    assert!(!runs(), "{}", ended.stderr);
    service.again();
}

#[test]
fn a_log_that_is_cut_off_goes_on_without_loss() {
    let mut world = World::new();
    let Some(mut service) = Service::start(&mut world) else { return };
    let line = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.05; done";
    world.state(&[&world.agent("a", &format!("command: [sh, -c, \"{line}\"]"))]);
    world.run("apply").expect(0);
    let mut follow = world.spawn("logs a -f");
    let wanted = |count: usize| (0..count).map(|number| format!("line {number}\n")).collect::<String>();
    for round in 1..4 {
        let before = follow.stdout().lines().count();
        follow.until("it goes on", |log| log.stdout().lines().count() > before + 10);
        service.end(if round == 2 { Signal::TERM } else { Signal::KILL });
        std::thread::sleep(Duration::from_millis(1500));
        service.again();
    }
    let before = follow.stdout().lines().count();
    follow.until("it goes on", |log| log.stdout().lines().count() > before + 30);
    assert!(!follow.has_ended());
    follow.signal(Signal::INT);
    let seen = follow.end().stdout;
    let whole = seen.rfind('\n').map_or("", |end| &seen[..=end]);
    assert_eq!(whole, wanted(whole.lines().count()), "each line once, in order");

    // When it does not come back, that is no end of the log.
    let follow = world.spawn("logs a -f");
    std::thread::sleep(Duration::from_millis(700));
    service.end(Signal::KILL);
    let lost = follow.end().expect(1);
    assert!(lost.stderr.contains("broke off") && lost.stderr.contains("error: "), "{}", lost.stderr);
    service.again();
}

/// The stream of its events stays open, and says nothing.
#[test]
fn a_podman_that_hangs_is_not_called_reachable() {
    let mut world = World::new();
    let Some(service) = Service::start(&mut world) else { return };
    world.state(&[&world.agent("a", "")]);
    let mut keeper = Keeper::start(&world, "");
    // Podmans of one storage share locks: one that hangs amid an answer would stop all of them.
    let between_answers = || std::thread::sleep(Duration::from_secs(1));
    between_answers();
    service.hang();
    kill(&world, "a");
    // What was seen so lately is told as it is.
    std::thread::sleep(Duration::from_secs(3));
    let status = world.run("status -o json").expect(1);
    assert!(status.took < Duration::from_secs(6), "{:?}", status.took);
    let status = status.json();
    assert_eq!((&status["run"]["pid"], &status["converged"]), (&keeper.run.pid().into(), &false.into()), "{status}");
    assert_eq!((&status["podman"]["reachable"], &status["agents"]["a"]["ready"]), (&false.into(), &false.into()));
    service.go_on();
    until("it runs again", || world.runs("a"));
    keeper.converged();

    // Whoever only follows hears of it too.
    let mut watching = world.spawn("status --watch -o json");
    watching.until("the first view", |watching| watching.stdout().contains("\"reachable\": true"));
    between_answers();
    service.hang();
    watching.until("it is unreachable", |watching| watching.stdout().contains("\"reachable\": false"));
    service.go_on();
    keeper.converged();
}
