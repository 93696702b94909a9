//! `logs`, `exec`, `status` and `doctor`: what is asked of agents that run.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, id_of, nap, processes_with, until};

const TALKS: &str = "command: [sh, -c, \"trap 'exit 0' TERM; echo out 1; echo err 1 >&2; echo out 2; echo out 3; \
    while true; do sleep 0.1; done\"]";

#[test]
fn logs_keep_the_two_streams_apart() {
    let world = World::new();
    world.state(&[&world.agent("a", TALKS)]);
    world.applied();
    until("it has said everything", || world.run("logs a").stdout.contains("out 3"));
    let all = world.run("logs a").expect(0);
    assert_eq!((all.stdout.as_str(), all.stderr.as_str()), ("out 1\nout 2\nout 3\n", "err 1\n"));
    // Podman counts the lines of both streams together, in the order it got them.
    let tail = world.run("logs a --tail 1").expect(0);
    assert_eq!(tail.stdout.lines().count() + tail.stderr.lines().count(), 1, "{tail:?}");
    assert_eq!(world.run("logs a --tail 100").expect(0).stdout, all.stdout);
    world.run("logs nobody").expect(64).says("the state file does not have an agent `nobody`").says("there is `a`");
    world.run("logs a --tail -1").expect(64);
}

#[test]
fn a_followed_log_goes_on_and_ends_with_its_container() {
    let world = World::new();
    let line = "trap 'echo bye; exit 0' TERM; echo hello; while true; do sleep 0.1; done";
    world.state(&[&world.agent("a", &format!("command: [sh, -c, \"{line}\"]"))]);
    world.applied();
    let mut follow = world.spawn("logs a -f");
    follow.until("the first line", |log| log.stdout().contains("hello"));
    let mut interrupted = world.spawn("logs a --follow --tail 0");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!interrupted.has_ended() && !follow.has_ended(), "it goes on while the container runs");
    interrupted.signal(rustix::process::Signal::INT);
    let code = interrupted.end().code;
    assert!(code == 130 || code == 1002, "{code}");
    // Stopped, not removed: its log goes with a container, said or unsaid.
    let stop = format!("/v4.0.0/libpod/containers/{}/stop?timeout=10", world.name("a"));
    assert_eq!(crate::world::api("POST", &stop, b"").0, 204);
    let outcome = follow.end().expect(0);
    assert_eq!(outcome.stdout, "hello\nbye\n");
}

#[test]
fn exec_is_the_command_itself() {
    let world = World::new();
    world.state(&[
        &world.agent("a", "env: {FROM_SPEC: spec}"),
        &world.agent("off", "").replacen("{version", "{state: stopped, version", 1),
    ]);
    world.applied();
    let run = |words: &[&str]| {
        let mut command = world.sandbox.command("exec a");
        command.args(words);
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let said = |code, out: &str, err: &str| (code, out.to_owned(), err.to_owned());
    assert_eq!(run(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]), said(7, "out\n", "err\n"));
    assert_eq!(run(&["--", "true"]), said(0, "", ""));
    assert_eq!(run(&["-w", "/www", "--", "sh", "-c", "pwd"]), said(0, "/www\n", ""));
    assert_eq!(
        run(&["-e", "X=a b", "-e", "Y=", "--", "sh", "-c", "echo \"[$X][$Y][$FROM_SPEC]\""]),
        said(0, "[a b][][spec]\n", "")
    );
    assert_eq!(
        run(&["-e", "HOME", "--", "sh", "-c", "echo $HOME"]).1.trim(),
        world.sandbox.root().parent().unwrap().display().to_string()
    );
    // Without -i its standard input is empty, with it ours.
    assert_eq!(world.sandbox.feed("exec a -- cat", "ignored").expect(0).stdout, "");
    let big = "0123456789abcdef".repeat(20_000);
    assert_eq!(world.sandbox.feed("exec a -i -- cat", &big).expect(0).stdout, big);
    // Flags of the command are the command's.
    assert_eq!(run(&["--", "echo", "-e", "--help"]).0, 0);

    assert_eq!(run(&["-e", "NOT_SET_ANYWHERE", "--", "true"]).0, 125);
    let missing = world.run("exec a -- /no/such/program");
    assert!(matches!(missing.code, 125..=127), "{}", missing.code);
    world.run("exec off -- true").expect(125).says("`off` does not run");
    world.run("exec nobody -- true").expect(125).says("the state file does not have an agent `nobody`");
    world.remove("a");
    world.run("exec a -- true").expect(125).says("agent `a` has no container");
}

#[test]
fn an_interrupted_command_leaves_nothing_behind() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let signals = [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::TERM, 143),
        (rustix::process::Signal::HUP, 129),
    ];
    for (number, (signal, code)) in (0..).zip(signals) {
        let (nap, deaf) = (nap(2 * number), nap(2 * number + 1));
        // A child in the background, one that ignores TERM, and the command itself.
        let line = format!(
            "sleep {nap} & (trap '' TERM INT HUP; sleep {deaf}; sleep {deaf}) & echo begun; sleep {nap}; echo on"
        );
        let mut exec = world.spawn(["exec", "a", "--", "sh", "-c", &line]);
        exec.until("it has begun", |exec| exec.stdout().contains("begun"));
        until("all of it runs", || processes_with(&nap) == 2 && processes_with(&deaf) == 1);
        exec.signal(signal);
        exec.end().expect(code);
        assert_eq!((processes_with(&nap), processes_with(&deaf)), (0, 0), "{signal:?}");
    }
    assert!(world.runs("a"));
    // What a command that ended by itself left in the background is its own affair.
    let nap = nap(9);
    world.run(["exec", "a", "--", "sh", "-c", &format!("sleep {nap} >/dev/null 2>&1 &")]).expect(0);
    assert_eq!(processes_with(&nap), 1);
}

#[test]
fn what_could_not_be_started_is_said_as_what_it_is() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let container = world.name("a");
    let refused = world.run("exec a -w /nonexist -- true").expect(125);
    assert_eq!(
        refused.stderr,
        format!(
            "error: directory `/nonexist` (-w) does not exist in container `{container}`; the command was not run\n"
        )
    );
    let missing = world.run("exec a -- nonesuch").expect(127);
    assert_eq!(missing.stderr, format!("error: command `nonesuch` was not found in container `{container}`\n"));
    world.run("exec a ls").expect(64).says("the command comes after `--`");
}

#[test]
fn a_log_comes_as_one_object_per_line() {
    let world = World::new();
    world.state(&[&world.agent("a", TALKS)]);
    world.applied();
    until("it has said everything", || world.run("logs a").stdout.contains("out 3"));
    let mut follow = world.spawn("logs a -o json -f");
    follow.until("four lines", |log| log.stdout().lines().count() == 4);
    follow.signal(rustix::process::Signal::INT);
    for text in [world.run("logs a -o json").expect(0).stdout, follow.end().stdout] {
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut shown: Vec<_> =
            lines.iter().map(|line| format!("{} {} {}", line["agent"], line["stream"], line["text"])).collect();
        // Podman reads the two streams one after the other.
        shown.sort();
        assert_eq!(
            shown,
            [
                "\"a\" \"stderr\" \"err 1\"",
                "\"a\" \"stdout\" \"out 1\"",
                "\"a\" \"stdout\" \"out 2\"",
                "\"a\" \"stdout\" \"out 3\""
            ]
        );
        assert!(lines.iter().all(|line| humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok()), "{text}");
    }
    world.run("logs a -o yaml").expect(64).says("-o json");
}

/// Deaf to TERM, so that there is time during its stop.
fn speaker(word: &str) -> String {
    format!("env: {{WORD: {word}}}, command: [sh, -c, \"trap '' TERM; echo I am $WORD; while true; do sleep 1; done\"]")
}

#[test]
fn a_replacement_is_followed_and_its_predecessor_serves_meanwhile() {
    let world = World::new();
    world.state(&[&world.agent("a", &speaker("first"))]);
    world.applied();
    let mut follow = world.spawn("logs a -f");
    follow.until("the first word", |log| log.stdout().contains("I am first"));
    world.state(&[&world.agent("a", &speaker("second"))]);
    let mut apply = world.spawn("apply");
    until("the successor is made", || world.ids().contains_key(&format!("{}.next", world.name("a"))));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.run(["exec", "a", "--", "sh", "-c", "echo $WORD"]).expect(0).stdout, "first\n");
    assert_eq!(world.run("logs a").expect(0).stdout, "I am first\n");
    assert!(!apply.has_ended(), "the replacement was still under way");
    apply.end().expect(0);
    follow.until("the second word", |log| log.stdout().contains("I am second"));
    assert_eq!(world.run(["exec", "a", "--", "sh", "-c", "echo $WORD"]).expect(0).stdout, "second\n");
    assert!(!follow.has_ended());
    world.run("down").expect(0);
    assert_eq!(follow.end().expect(0).stdout, "I am first\nI am second\n");
}

#[test]
fn a_restart_is_followed_and_a_closed_pipe_ends_it() {
    let world = World::new();
    world.state(&[&world.agent("a", "command: [sh, -c, \"echo started; while true; do sleep 0.1; done\"]")]);
    world.applied();
    let mut follow = world.spawn("logs a -f");
    follow.until("it has started", |log| log.stdout().lines().count() == 1);
    // Moments are told in whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let mut tail = world.spawn("logs a -f --tail 0");
    std::thread::sleep(Duration::from_millis(1100));
    for starts in 2..4 {
        let pid = world.inspect("a")["State"]["Pid"].to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        follow.until("Podman has started it again", |log| log.stdout().lines().count() >= starts);
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(follow.stdout(), "started\n".repeat(3), "each line once");
    assert_eq!(tail.stdout(), "started\n".repeat(2));
    assert!(!follow.has_ended() && !tail.has_ended());
    for mut log in [follow, tail] {
        log.signal(rustix::process::Signal::INT);
        log.until("it ends", |_| true);
        log.end();
    }
    // Nothing more is written, and it ends all the same.
    let mut command = world.sandbox.command("logs a -f");
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    drop(child.stdout.take());
    until("it ends with its reader", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success());
}

#[test]
fn status_has_the_shape_that_is_promised() {
    let world = World::bare();
    let manifest = world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    let before = world.run("status -o json").expect(3).json();
    assert_eq!((&before["converged"], &before["agents"]["a"]["sync"]), (&json!(false), &json!("OutOfSync")));
    assert_eq!(before["agents"]["a"]["container"], json!(null));
    assert_eq!(before["agents"]["a"]["artifact"]["present"], false);
    world.applied();
    let status = world.run("status -o json").expect(0).json();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let tarball = &manifest["agents"]["a"]["tarballs"][arch];
    let agent = &status["agents"]["a"];
    assert_eq!(status["name"], world.owner);
    assert_eq!(status["converged"], true);
    assert!(humantime::parse_rfc3339(status["observedAt"].as_str().unwrap()).is_ok());
    assert_eq!(status["manifest"]["updatedAt"], "2026-04-24T00:00:00.000Z");
    assert!(status["manifest"]["url"].as_str().unwrap().ends_with("/published/vm/manifest.json"));
    assert_eq!((&status["vm"], &status["podman"]["reachable"]), (&json!(null), &json!(true)));
    assert!(status["podman"]["version"].is_string());
    assert_eq!(agent["desired"], json!({"state": "running", "version": "1.0"}));
    assert_eq!(
        (&agent["sync"], &agent["health"], &agent["ready"]),
        (&json!("Synced"), &json!("Healthy"), &json!(true))
    );
    let container = &agent["container"];
    assert_eq!(container["id"], id_of(&world.name("a")));
    assert_eq!((&container["name"], &container["state"]), (&json!(world.name("a")), &json!("running")));
    assert!(humantime::parse_rfc3339(container["startedAt"].as_str().unwrap()).is_ok());
    assert_eq!(container["restarts"], 0);
    assert_eq!(
        agent["image"],
        json!({"id": world.tarball("a", "1.0").id(), "reference": format!("localhost/{}/a:1.0", world.owner)})
    );
    assert_eq!(
        agent["artifact"],
        json!({"key": tarball["key"], "present": true, "sha256": tarball["sha256"], "bytes": tarball["sizeBytes"]})
    );
    let conditions: Vec<_> = agent["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["type"].clone(), one["status"].clone()))
        .collect();
    for wanted in [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")] {
        assert!(conditions.contains(&(json!(wanted.0), json!(wanted.1))), "{conditions:?}");
    }
    assert_eq!(agent["conditions"][0]["reason"], "Converged");
    let text = world.run("status").expect(0).stdout;
    assert!(text.contains("converged") && text.contains(&world.name("a")), "{text}");

    world.kill("a");
    let dead = world.run("status -o json").expect(3).json();
    assert_eq!((&dead["converged"], &dead["agents"]["a"]["container"]["state"]), (&json!(false), &json!("exited")));
    assert_eq!((&dead["agents"]["a"]["health"], &dead["agents"]["a"]["ready"]), (&json!("Degraded"), &json!(false)));
    world.state(&[]);
    assert_eq!(world.run("status -o json").expect(3).json()["orphans"], json!([world.name("a")]));
}

#[test]
fn a_watched_status_is_printed_again_when_something_changes() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let mut watch = world.spawn("status --watch");
    watch.until("the first status", |watch| watch.stdout().contains("running ("));
    world.kill("a");
    watch.until("the change", |watch| watch.stdout().contains("exited ("));
    watch.signal(rustix::process::Signal::TERM);
    watch.end();
}

#[test]
fn doctor_says_all_is_well_or_names_the_first_layer_that_is_not() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    world.applied();
    let well = world.run("doctor -o json").expect(0).json();
    assert_eq!((&well["ok"], &well["firstFailure"]), (&json!(true), &json!(null)));
    let layers: Vec<_> =
        well["checks"].as_array().unwrap().iter().map(|check| check["layer"].as_str().unwrap()).collect();
    assert_eq!(layers[0], "state file");
    assert_eq!(*layers.last().unwrap(), "agent");
    assert!(world.run("doctor").expect(0).stdout.contains("everything is well"));

    world.kill("a");
    let dead = world.run("doctor -o json").expect(1).json();
    assert_eq!(dead["firstFailure"], "agent", "{dead}");
    assert_eq!(world.apply_kinds(), ["startContainer"], "doctor itself changed nothing");

    world.sandbox.write("published/vm/manifest.json", "garbage");
    let broken = world.run("doctor -o json").expect(1).json();
    assert_eq!(broken["firstFailure"], "manifest", "{broken}");
    world.sandbox.write("steadfast.yaml", "name: [");
    let broken = world.run("doctor -o json").expect(1).json();
    assert_eq!(broken["firstFailure"], "state file");
    for check in broken["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false) {
        assert!(!check["fix"].as_str().unwrap().is_empty(), "{check}");
    }
}

/// As a first user does: `init`, `apply`, and it is there and well.
#[test]
fn what_init_writes_applies_as_it_stands() {
    let world = World::bare();
    // What its registry would give.
    let busybox =
        crate::support::archive::docker_archive().tag("docker.io/library/busybox:1.36").file("whose", "of init");
    world.load(&busybox);
    let file = format!("{}/steadfast.yaml", world.owner);
    std::fs::create_dir(world.sandbox.path(&world.owner)).unwrap();
    world.run(format!("init -f {file}")).expect(0);
    world.run(format!("plan -f {file}")).expect(0);
    world.run(format!("apply -f {file}")).expect(0);
    let seen = world.inspect("hello");
    assert_eq!(seen["State"]["Running"], true, "{seen}");
    assert_eq!(seen["State"]["Health"]["Status"], "healthy", "{seen}");
    let answer = world.run(format!("exec -f {file} hello -- wget -q -O - http://127.0.0.1:8080/")).expect(0);
    assert_eq!(answer.stdout, "hello\n");
    let began = std::time::Instant::now();
    world.run(format!("down -f {file}")).expect(0);
    assert!(began.elapsed().as_secs() < 8, "it ends on TERM: {:?}", began.elapsed());
}

#[test]
fn control_characters_of_a_log_are_seen_in_errors_and_passed_through_by_logs() {
    let world = World::new();
    let line = "printf 'a\\\\033[2Jb\\\\007\\\\n'; exit 3";
    world.state(&[&world.agent("a", &format!("restart: \"no\", command: [sh, -c, \"{line}\"]"))]);
    for flags in ["", "--color always"] {
        let outcome = world.run(format!("apply {flags}"));
        assert_ne!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stderr.contains("a\\x1b[2Jb\\x07"), "{:?}", outcome.stderr);
        world.remove("a");
    }
    world.run("apply -q");
    assert_eq!(world.run("logs a").expect(0).stdout, "a\u{1b}[2Jb\u{7}\n");
    for verb in ["why a", "history", "history -o json", "status"] {
        let said = world.run(verb).stdout;
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{verb}: {said:?}");
    }
}
