//! What takes the place of what runs has to prove itself first; what fails goes, what was there comes back, and what failed is not
//! tried again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{World, http, id_of, inspect, kinds, port, until};

/// The agent at a version, with these fields of `rollout` and of `container`.
fn agent(world: &World, version: &str, rollout: &str, container: &str) -> String {
    let owner = &world.owner;
    format!(
        "a: {{version: \"{version}\", image: localhost/{owner}, source: local, rollout: {{{rollout}}}, container: {{{container}}}}}"
    )
}

/// What is remembered to have failed.
fn quarantined(world: &World) -> Value {
    let text = std::fs::read_to_string(world.state_dir().join("rollouts.json")).unwrap_or_default();
    let record: Value = serde_json::from_str(&text).unwrap_or_default();
    record["agents"]["a"]["quarantined"].clone()
}

fn waits_on(plan: &Value) -> Vec<&str> {
    plan["waiting"].as_array().into_iter().flatten().filter_map(|waiting| waiting["on"].as_str()).collect()
}

#[test]
fn a_successor_that_does_not_prove_itself_goes_and_is_not_tried_again() {
    let world = World::new();
    let port = port();
    let served = format!("ports: [\"127.0.0.1:{port}:8080\"]");
    world.state(&[&agent(&world, "1", "settle: 3s", &served)]);
    world.applied();
    let id = id_of(&world.name("a"));
    let program = |line: &str| format!("command: [sh, -c, \"{line}\"]");
    let failing = [
        ("settle: 3s", program("echo one line; echo the reason; exit 3"), "the reason"),
        ("settle: 3s", program("echo one line; sleep 2; echo the reason; exit 3"), "Podman restarts it"),
        ("settle: 3s", program("sleep 2; echo the reason; exit 3") + ", restart: \"no\"", "with exit code 3 after"),
        (
            "settle: 0s, healthTimeout: 2s",
            "healthcheck: {test: [CMD, \"false\"], interval: 1h}".to_owned(),
            "it did not become healthy within 2s",
        ),
        (
            "settle: 4s",
            program("sleep 2; echo the reason; exit 3") + ", healthcheck: {test: [CMD, \"true\"], interval: 500ms}",
            "the reason",
        ),
    ];
    for (rollout, container, says) in failing {
        world.state(&[&agent(&world, "1", rollout, &format!("{served}, {container}"))]);
        let outcome = world.run("apply -o json").expect(4);
        let report = outcome.json();
        assert_eq!(kinds(&report), ["replaceContainer"], "{container}");
        assert_eq!(report["actions"][0]["error"]["kind"], "rolledBack", "{container}: {report}");
        outcome.says(says);
        assert_eq!((id_of(&world.name("a")), world.runs("a")), (id.clone(), true), "{container}");
        until("the old one answers", || http(port, "/").is_some());
        assert_eq!(world.leftovers(), Vec::<String>::new(), "{container}");
        assert!(world.run("history a").expect(0).stdout.contains(says.trim_end_matches(" restarts it")), "{container}");

        // Every verb says so, and nobody tries it again.
        let again = world.run("apply -o json").expect(4);
        assert_eq!(kinds(&again.json()), Vec::<String>::new(), "{container}");
        again.says("is quarantined, since it failed at").says("--retry-quarantined");
        let plan = world.run("plan -o json").expect(4).json();
        assert_eq!(waits_on(&plan), ["quarantine"], "{plan}");
        let status = world.run("status -o json").expect(3).json();
        let reasons: Vec<_> = status["agents"]["a"]["conditions"].as_array().unwrap().iter().collect();
        let reason = |kind: &str| reasons.iter().find(|one| one["type"] == kind).unwrap()["reason"].clone();
        assert_eq!((reason("Ready"), reason("Stalled")), (json!("RolledBack"), json!("QuarantinedDigest")), "{status}");
        assert!(!quarantined(&world).is_null());
        assert_eq!(id_of(&world.name("a")), id);
    }
    // What it lacked may be there now.
    let retried = world.run("apply -o json --retry-quarantined").expect(4).json();
    assert_eq!(kinds(&retried), ["replaceContainer"]);
    world.state(&[&agent(&world, "1", "settle: 1s", &format!("{served}, env: {{X: \"1\"}}"))]);
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    assert!(quarantined(&world).is_null(), "something else is desired");
}

#[test]
fn what_failed_is_left_alone_by_the_next_run_too() {
    let world = World::new();
    world.state(&[&agent(&world, "1", "settle: 300ms", "")]);
    world.applied();
    let id = id_of(&world.name("a"));
    world.state(&[&agent(&world, "1", "settle: 300ms", "command: [sh, -c, \"exit 3\"]")]);
    world.run("apply").expect(4);
    for _ in 0..2 {
        let mut run = world.spawn("run");
        run.until("it keeps the file", |_| world.run("status -o json").json()["run"]["passes"].as_u64() > Some(0));
        let asked = world.run("apply -o json").expect(4).json();
        assert_eq!(kinds(&asked), Vec::<String>::new());
        let status = world.run("status -o json").json();
        assert_eq!(status["agents"]["a"]["conditions"][0]["reason"], "RolledBack", "{status}");
        assert_eq!((id_of(&world.name("a")), world.runs("a")), (id.clone(), true));
        run.signal(Signal::TERM);
        run.end();
    }
}

#[test]
fn an_old_one_that_refuses_to_stop_has_its_name_until_it_has() {
    let world = World::new();
    let stubborn = "command: [sh, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]";
    world.state(&[&agent(&world, "1", "settle: 300ms", stubborn)]);
    world.applied();
    let id = id_of(&world.name("a"));
    world.state(&[&agent(&world, "1", "settle: 300ms", &format!("{stubborn}, env: {{X: \"1\"}}"))]);
    let mut running = world.spawn("apply");
    running.until("a successor is made", |_| inspect(&format!("{}.next", world.name("a"))).is_some());
    for _ in 0..10 {
        let seen = inspect(&world.name("a")).expect("it has its name");
        assert_eq!((&seen["Id"], &seen["State"]["Running"]), (&json!(id), &json!(true)));
        world.run("exec a -- true").expect(0);
        std::thread::sleep(Duration::from_millis(200));
    }
    running.end().expect(0);
    assert_ne!(id_of(&world.name("a")), id);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn where_both_are_bad_that_is_said_and_nothing_is_looped() {
    let world = World::new();
    world.sandbox.write("marks/good", "yes");
    let program = |good: &str| {
        format!(
            "mounts: [{{source: ./marks, target: /marks, readOnly: true}}], restart: on-failure, \
             command: [sh, -c, \"{good} || exit 3; trap 'exit 0' TERM; while true; do sleep 0.1; done\"]"
        )
    };
    world.state(&[&agent(&world, "1", "settle: 1s", &program("test -e /marks/good"))]);
    world.applied();
    std::fs::remove_file(world.sandbox.path("marks/good")).unwrap();
    world.state(&[&agent(&world, "1", "settle: 1s", &program("false"))]);
    let outcome = world.run("apply -o json").expect(1);
    assert_eq!(outcome.json()["actions"][0]["error"]["kind"], "rollBackFailed");
    outcome.says("could not be rolled back");
    assert_eq!(world.leftovers(), Vec::<String>::new());
    assert!(!quarantined(&world).is_null());
    let again = world.run("apply -o json").json();
    assert!(!kinds(&again).contains(&"replaceContainer".to_owned()), "{again}");
    // What the old one lacks is there again.
    world.sandbox.write("marks/good", "yes");
    world.run("apply").expect(4);
    until("the old one runs", || world.runs("a"));
}

#[test]
fn killed_while_a_successor_proves_itself_the_next_one_ends_it_rightly() {
    let world = World::new();
    world.state(&[&agent(&world, "1", "settle: 300ms", "")]);
    world.applied();
    let old = id_of(&world.name("a"));
    let prev = format!("{}.prev", world.name("a"));
    let kill = |container: &str| {
        world.state(&[&agent(&world, "1", "settle: 4s", container)]);
        let mut running = world.spawn("apply");
        running.until("it proves itself", |_| inspect(&prev).is_some() && world.runs("a"));
        running.signal(Signal::KILL);
        running.end();
    };
    // One that is bad: nobody was there to see it fail.
    kill("command: [sh, -c, \"sleep 3; exit 3\"]");
    world.run("apply").expect(4);
    assert_eq!((id_of(&world.name("a")), world.runs("a")), (old.clone(), true));
    assert!(!quarantined(&world).is_null());
    // One that is good.
    kill("env: {X: \"1\"}");
    let new = id_of(&world.name("a"));
    world.applied();
    assert_eq!((id_of(&world.name("a")) == new, new == old, world.runs("a")), (true, false, true));
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn without_rollback_the_new_one_stays_for_somebody_to_look_at() {
    let world = World::new();
    world.state(&[&agent(&world, "1", "settle: 300ms", "")]);
    world.applied();
    let old = id_of(&world.name("a"));
    let bad = "command: [sh, -c, \"exit 3\"], restart: on-failure";
    world.state(&[&agent(&world, "1", "settle: 300ms, rollback: false", bad)]);
    world.run("apply").expect(3).says("with exit code 3");
    assert_ne!(id_of(&world.name("a")), old);
    assert_eq!(world.leftovers(), Vec::<String>::new());
    assert!(quarantined(&world).is_null());
}

/// Where the container is that has the name now.
fn address(world: &World) -> Option<String> {
    let seen = inspect(&world.name("a"))?;
    let networks = seen["NetworkSettings"]["Networks"].as_object()?;
    let addresses = networks.values().filter_map(|network| network["IPAddress"].as_str());
    addresses.filter(|address| !address.is_empty()).map(str::to_owned).next()
}

/// A request to the container that has the name. As a client does, it keeps the address that it knows while the name has none, and
/// connects anew where a connection is refused.
fn request(world: &World, known: &mut Option<String>) -> bool {
    let mut once = || {
        *known = address(world).or(known.take());
        let mut stream = TcpStream::connect((known.as_deref()?, 8080)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("hello from the agent").then_some(())
    };
    once().or_else(once).is_some()
}

/// Says that it is over, whatever becomes of the test.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn with_overlap_no_request_fails() {
    let world = World::new();
    let version = |value: usize, more: &str| {
        agent(&world, "1", "strategy: overlap, settle: 2s", &format!("env: {{X: \"{value}\"}}{more}"))
    };
    world.state(&[&version(0, "")]);
    world.applied();
    let mut known = None;
    until("it answers", || request(&world, &mut known));
    let (over, failed, served) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let count = if request(&world, &mut known) { &served } else { &failed };
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _over = Over(&over);
        for value in 1..=2 {
            let old = id_of(&world.name("a"));
            world.state(&[&version(value, "")]);
            let mut running = world.spawn("apply");
            let next = format!("{}.next", world.name("a"));
            running.until("both run", |_| inspect(&next).is_some_and(|seen| seen["State"]["Running"] == true));
            assert_eq!((id_of(&world.name("a")), world.runs("a")), (old.clone(), true));
            running.end().expect(0);
            assert_ne!(id_of(&world.name("a")), old);
            assert_eq!(world.leftovers(), Vec::<String>::new());
        }
        // One that fails disturbs nobody.
        let old = id_of(&world.name("a"));
        world.state(&[&version(3, ", command: [sh, -c, \"sleep 1; exit 3\"]")]);
        world.run("apply").expect(4);
        assert_eq!((id_of(&world.name("a")), world.runs("a")), (old, true));
        assert_eq!(world.leftovers(), Vec::<String>::new());
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", served.load(Ordering::Relaxed));
    // Killed while both run, the next one goes on with the two.
    world.state(&[&version(4, "")]);
    let mut running = world.spawn("apply");
    let next = format!("{}.next", world.name("a"));
    running.until("both run", |_| inspect(&next).is_some_and(|seen| seen["State"]["Running"] == true));
    running.signal(Signal::KILL);
    running.end();
    let made = id_of(&next);
    world.applied();
    assert_eq!(id_of(&world.name("a")), made);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn rollback_goes_back_until_the_file_says_something_else() {
    let world = World::new();
    world.load(&world.image("2"));
    let version = |version: &str, more: &str| agent(&world, version, "settle: 300ms", more);
    let runs = || world.run("exec a -- cat /version").expect(0).stdout.trim().to_owned();
    world.state(&[&version("1", "")]);
    world.run("rollback a").expect(1).says("no version of agent `a` before 1 is known to have been good");
    world.applied();
    std::thread::sleep(Duration::from_millis(400));
    world.state(&[&version("2", "")]);
    world.applied();
    assert!(runs().ends_with(" 2"));

    let back = world.run("rollback a").expect(0);
    back.says("agent `a`: from version 2 to 1");
    assert!(runs().ends_with(" 1"));
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "it holds");
    let plan = world.run("plan").expect(0).stdout;
    assert!(plan.contains("agent `a` is kept at version 1 since"), "{plan}");
    let status = world.run("status -o json").expect(0).json();
    assert_eq!(status["agents"]["a"]["desired"]["rollback"]["stateFileVersion"], "2", "{status}");
    world.run("rollback a --to 9").expect(1).says("version 9 of agent `a` is not kept here: there are 1, 2");

    // Whatever else the file says of it ends it, and then what it said before does not bring it back.
    world.state(&[&version("2", "env: {X: \"1\"}")]);
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    assert!(runs().ends_with(" 2"));
    world.state(&[&version("2", "")]);
    world.applied();
    assert!(runs().ends_with(" 2"));

    // And so does going to what it says.
    world.run("rollback a --to 1").expect(0);
    assert!(runs().ends_with(" 1"));
    world.run("rollback a --to 2").expect(0);
    assert!(runs().ends_with(" 2"));
    assert!(!world.run("plan").expect(0).stdout.contains("is kept at version"));

    // `run` does the work where it keeps the file.
    let mut run = world.spawn("run");
    run.until("it keeps the file", |_| world.run("status -o json").json()["run"]["passes"].as_u64() > Some(0));
    world.run("rollback a --to 1").expect(0);
    assert!(runs().ends_with(" 1"));
    run.signal(Signal::TERM);
    run.end();
}

#[test]
fn rollback_takes_an_older_tarball_of_the_cache() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "latest")]);
    world.applied();
    std::thread::sleep(Duration::from_millis(400));
    world.publish(&[("a", "2.0")]);
    world.applied();
    let runs = || world.run("exec a -- cat /version").expect(0).stdout.trim().to_owned();
    assert!(runs().ends_with(" 2.0"));
    world.run("rollback a").expect(0).says("from version 2.0 to 1.0");
    assert!(runs().ends_with(" 1.0"));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    world.run("rollback a --to latest").expect(0);
    assert!(runs().ends_with(" 2.0"));
}
